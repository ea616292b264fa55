"""What a run of a policy is, which runs a module can make of a split, and what each is called after in the rows.

Shared by the callbacks that run policies, the frontier, the costs of orders, the analysis of subproblems, predictions,
and by the bounds of orders.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import POLICIES, Blocks
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.selector import Selector
from lightning_mdm.report.naming import LOOP_OPTIONS

PACKAGES = ("lightning_mdm", "lightning", "torch")  # whose classes are no user's own


@dataclass(frozen=True)
class Run:
    """One decode of a problem: a policy, a budget and a seed."""

    policy: UnmaskingPolicy
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """As in metric keys: ``T=4/top_margin``, with the seed where it is not 0."""
        return f"T={self.steps}/{self.policy.label}" + (f"/seed={self.seed}" if self.seed else "")


def problems_of(trainer: L.Trainer) -> ProblemDataModule:
    """The task at hand.

    Raises:
        ValueError: the trainer runs without one of this project's datamodules.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ProblemDataModule):
        raise ValueError(
            f"data={type(data).__name__}: grading answers needs a ProblemDataModule; pass one as datamodule="
        )
    return data


def denoiser_of(module: L.LightningModule) -> nn.Module:
    """The denoiser that a module wraps."""
    denoiser = module.denoiser
    assert isinstance(denoiser, nn.Module)
    return denoiser


def selector_of(module: L.LightningModule, steps: int) -> Selector | None:
    """The selector that a module has learned for a budget, or ``None`` where it is a denoiser alone."""
    selector_for = cast(Callable[[int], Selector | None], module.selector_for)
    return selector_for(steps)


def planned(
    options: str, policies: Sequence[UnmaskingPolicy] | None, budgets: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """Every policy at every budget with every seed.

    Args:
        options: what the names of these options begin with, such as ``frontier.fit_``.
        policies: all there are, with their default options, where not given.
        budgets: step budgets T.
        seeds: of the noise.

    Raises:
        ValueError: a budget below 1, a budget, a seed or a policy given twice.
    """
    if any(steps < 1 for steps in budgets):
        raise ValueError(f"{options}budgets={list(budgets)}: a step budget is at least 1")
    for name, values in {"budgets": budgets, "seeds": seeds}.items():
        if len(set(values)) < len(values):
            raise ValueError(f"{options}{name}={list(values)}: give each once")
    policies = [kind() for kind in POLICIES] if policies is None else policies
    runs = [Run(policy, steps, seed) for policy in policies for steps in budgets for seed in seeds]
    if len({run.name for run in runs}) < len(runs):
        raise ValueError(f"{options}policies: a policy occurs twice with the same options")
    return runs


def ready(run: Run, module: L.LightningModule, facts: SplitFacts) -> UnmaskingPolicy:
    """The policy of a run, with the selector and the facts that it may ask for."""
    return run.policy.bound(selector_of(module, run.steps)).informed(facts)


def runs_of(
    runs: Sequence[Run],
    all_policies: bool,
    module: L.LightningModule,
    facts: SplitFacts,
    searching: bool = False,
    unmasked_stays: bool = False,
) -> list[Run]:
    """The runs to make: the one answer to which policies a module can run on the problems of a split.

    Of all policies those are run that are learned only where the module has a selector, and then at every price it was
    trained with, those that follow an order only where the task knows one, those that read the answer not by
    themselves, and a sequential one only with a causal net, which in turn runs nothing else. A sequential policy takes
    one step per token: it is run once, with the smallest budget that is enough for every problem, unless what is left
    of larger ones is used for ``searching``. Where ``unmasked_stays`` no policy is run that may mask it again.

    Raises:
        ValueError: a policy asked for that a causal net cannot run, or that asks for a selector or an order where there
            is none; no budget that is enough for a sequential one, or one too small for all parts of a response or for
            which no order was learned.
    """
    for run in runs:
        facts.data.budgets(run.steps)
    causal = isinstance(denoiser_of(module), CausalDenoiser)
    if all_policies:
        runs = [
            run for run in runs
            if run.policy.sequential == causal
            and not (run.policy.learned and selector_of(module, run.steps) is None)
            and not (run.policy.revises and unmasked_stays)
            and not ("order" in run.policy.reads and not facts.ordered)
            and "response" not in run.policy.reads
        ]  # fmt: skip
        runs = [priced for run in runs for priced in at_every_price(run, module)]
    else:
        for run in runs:
            run.policy.bound(selector_of(module, run.steps))  # which refuses a module that has learned no order
            if "order" in run.policy.reads and not facts.ordered:
                raise ValueError(
                    f"policy {type(run.policy).__name__}: the task knows no order of its {facts.split} problems; "
                    "choose another policy or another task"
                )
        warn_of_prices(runs, module)
    sequential = [run for run in runs if run.policy.sequential]
    if causal and len(sequential) < len(runs):
        other = next(run.policy for run in runs if not run.policy.sequential)
        raise ValueError(
            f"policy {type(other).__name__}: a causal net knows nothing to the right of the first masked token, so it "
            "runs no policy but Autoregressive; choose that, or a masked denoiser"
        )
    if not sequential:
        return list(runs)
    enough = [run.steps for run in sequential if min(facts.data.budgets(run.steps)) >= facts.longest_response]
    if not enough:
        parts = len(facts.data.budgets(sequential[0].steps))
        each = ", and that to each part of it (data.answer_steps=null)" if parts > 1 else ""
        raise ValueError(
            f"policy {type(sequential[0].policy).__name__} takes one step per token, and the longest response of the "
            f"{facts.split} problems has {facts.longest_response}: give a budget of at least that{each}"
        )
    wanted = enough if searching else [min(enough)]
    return [run for run in runs if not run.policy.sequential or run.steps in wanted]


def warn_of_prices(runs: Sequence[Run], module: L.LightningModule) -> None:
    """Say it where the learned order is asked for at a price beyond the configured ones."""
    policies = [run.policy for run in runs if selector_of(module, run.steps) is not None]
    policies = [policy.policy if isinstance(policy, Blocks) else policy for policy in policies]
    asked = {policy.price for policy in policies if isinstance(policy, Learned)}
    prices = cast(list[float], module.prices) if asked else []
    beyond = sorted(price for price in asked if not min(prices) <= price <= max(prices))
    if beyond:
        rank_zero_warn(
            f"policy Learned, price={', '.join(map(str, beyond))}: beyond model.prices={prices}, and what a selector "
            "says at a price that it was not trained with is a guess"
        )


def at_every_price(run: Run, module: L.LightningModule) -> list[Run]:
    """A run of the learned order at each of the module's prices; another run as it is."""
    if not isinstance(run.policy, Learned):
        return [run]
    return [replace(run, policy=replace(run.policy, price=price)) for price in cast(list[float], module.prices)]


def decoding_options(
    trainer: L.Trainer, module: L.LightningModule, run: Run, decoding: DecodingOptions, facts: SplitFacts
) -> dict[str, Any]:
    """All that decides what a run decodes beside denoiser, problems, budget and seed.

    Raises:
        ValueError: an option of the policy is called like one of decoding or of the task.
    """
    own = policy_options(trainer, module, run, facts)
    return {**own, **decoding.describe(run.policy), **problems_of(trainer).decoding_options}


def policy_options(trainer: L.Trainer, module: L.LightningModule, run: Run, facts: SplitFacts) -> dict[str, Any]:
    """What decides which positions a policy takes: its own options, and what it is told or decided with.

    Raises:
        ValueError: an option of the policy is called like one of decoding or of the task.
    """
    options = {**run.policy.options, "precision": str(trainer.precision)}
    if "token_frequency" in run.policy.reads:
        options["token_frequency"] = facts.frequency_hash
    if "response" in run.policy.reads:
        options["told"] = "response"
    source = own_source(type(run.policy), type(problems_of(trainer)), *(type(p) for p in wrapped_in(run.policy)))
    if source is not None:
        options["source"] = source
    selector = selectors_hash(module) if run.policy.learned else None
    if selector is not None:
        options["selector"] = selector
    taken = sorted(run.policy.options.keys() & LOOP_OPTIONS)
    if taken:
        raise ValueError(
            f"policy {type(run.policy).__name__}: rows of results call something else {', '.join(taken)}; give its "
            "option another name"
        )
    return options


def place_of(policy: str, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a policy comes in tables and legends: a key to sort by.

    As in ``POLICIES``, others behind by their names; then by its own options and then by those of the loop and of the
    task, as they are called, and numbers by size.

    Args:
        policy: its name.
        options: those that rows name.
    """
    names = [kind().name for kind in POLICIES]
    own = {name: value for name, value in options.items() if name not in LOOP_OPTIONS}
    place = names.index(policy) if policy in names else len(names)
    return place, policy, _sortable(own), _sortable({name: options[name] for name in options.keys() - own.keys()})


def _sortable(value: Any) -> tuple[Any, ...]:
    """A JSON value as what can be compared with any other: nothing, number, text, object, list, part by part."""
    if value is None:
        return (0,)
    if isinstance(value, int | float):
        return 1, value
    if isinstance(value, str):
        return 2, value
    if isinstance(value, Mapping):
        return 3, *((name, _sortable(value[name])) for name in sorted(value))
    return 4, *map(_sortable, value)


def wrapped_in(policy: UnmaskingPolicy) -> list[UnmaskingPolicy]:
    """The policies among a policy's options, and among theirs."""
    inner = [value for value in vars(policy).values() if isinstance(value, UnmaskingPolicy)]
    return [found for value in inner for found in (value, *wrapped_in(value))]


def own_source(*kinds: type) -> str | None:
    """12 hexadecimal digits of the files of code that a user has added in these classes; ``None`` where there is none.

    The commit of a row is that of the package: of a policy or a task of one's own it says nothing, and what an earlier
    version of it has decoded is not to be taken for the work of this one.
    """
    modules = {base.__module__ for kind in kinds for base in kind.__mro__}
    own = sorted(name for name in modules if name.partition(".")[0] not in (*sys.stdlib_module_names, *PACKAGES))
    return hashlib.sha256("".join(map(file_hash, own)).encode()).hexdigest()[:12] if own else None


@cache
def file_hash(module: str) -> str:
    """sha256, in hex, of the file of a loaded module as it is at the first question; ``""`` where there is no file."""
    path = getattr(sys.modules[module], "__file__", None)
    return "" if path is None else hashlib.sha256(Path(path).read_bytes()).hexdigest()


def selectors_hash(module: L.LightningModule) -> str | None:
    """The hash of a module's selector; of one per budget that of all: they are one order, and one curve.

    ``None`` where the module is a denoiser alone.
    """
    return nets_hash(module, "selectors")


def posteriors_hash(module: L.LightningModule) -> str | None:
    """Likewise that of its approximate posterior."""
    return nets_hash(module, "posteriors")


def nets_hash(module: L.LightningModule, kind: str) -> str | None:
    """The hash of a module's nets of a kind, ``None`` of none."""
    nets = cast(Mapping[str, nn.Module], getattr(module, kind, {}))
    hashes = [weights_hash(net) for net in nets.values()]
    if not hashes:
        return None
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]


def weights_hash(net: nn.Module) -> str:
    """12 hexadecimal digits of the sha256 of names, types and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        tensor = cast(Tensor, value).detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


@cache
def software() -> str:
    """Versions that may decide what is computed: ``torch 2.13.0+cpu, lightning 2.6.6, python 3.12.3``."""
    return f"torch {torch.__version__}, lightning {L.__version__}, python {platform.python_version()}"


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
