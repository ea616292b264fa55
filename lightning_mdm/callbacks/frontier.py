"""Decodes problems at several budgets with several policies, inside the validation and test loops.

Decoding happens batch by batch while the loop runs: averaged weights (``EMAWeightAveraging``) are in place then,
whatever the order of callbacks, and the loop's shards give each process its own problems. While fitting, a few cells
are decoded and logged. In ``validate``, ``test`` and ``sweep`` every cell is decoded, its outcomes stored batch by
batch as they come, so that a stopped run goes on where it was, and the rows written at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.frontier_log import DecodedExample, log_cells, log_examples, log_frontier
from lightning_mdm.callbacks.generation import generate
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.problem import Problem
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.metrics.frontier import FrontierMetric
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.selector import Selector
from lightning_mdm.outcomes import (
    BatchRecord,
    Cell,
    Outcome,
    OutcomeRow,
    OutcomeStore,
    Row,
    commit_hash,
    frontier_row,
    outcome_rows,
    read_outcomes,
    read_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report import write_report


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


class Frontier(EvaluationCallback):
    """The accuracy-vs-steps frontier.

    Args:
        policies: unmasking policies to compare; all that the module and the task can run, with their default options,
            where not given (see ``runs_of``).
        budgets: step budgets T.
        seeds: seeds of the decoding noise; one cell each.
        decoding: how policies are decoded: end-of-sequence handling, token sampling, guidance, looking back.
        fit_policies: policies decoded at every validation while fitting; none by default.
        fit_budgets: their budgets.
        fit_problems: how many validation problems they decode, the first ones.
        examples: how many decoded problems, the first ones, are shown in TensorBoard, with the step at which each token
            was unmasked.
    """

    def __init__(
        self,
        policies: Sequence[UnmaskingPolicy] | None = None,
        budgets: Sequence[int] = (1, 2, 4, 8, 16, 32),
        seeds: Sequence[int] = (0,),
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008 (frozen)
        fit_policies: Sequence[UnmaskingPolicy] = (),
        fit_budgets: Sequence[int] = (1, 4, 32),
        fit_problems: int = 64,
        examples: int = 3,
    ) -> None:
        for name, values in {"budgets": budgets, "fit_budgets": fit_budgets}.items():
            if any(steps < 1 for steps in values):
                raise ValueError(f"frontier.{name}={list(values)}: a step budget is at least 1")
        self.all_policies = policies is None
        if policies is None:
            policies = [kind() for kind in POLICIES]
        self.runs = [Run(policy, steps, seed) for policy in policies for steps in budgets for seed in seeds]
        self.fit_runs = [Run(policy, steps, 0) for policy in fit_policies for steps in fit_budgets]
        for name, runs in {"policies": self.runs, "fit_policies": self.fit_runs}.items():
            if len({run.name for run in runs}) < len(runs):
                raise ValueError(f"frontier.{name}: a policy occurs twice with the same options, budget and seed")
        self.decoding = decoding
        self.fit_problems = fit_problems
        self.n_examples = examples
        self.active: list[Run] = []
        self.cells: dict[str, Cell] = {}
        self.done: dict[str, set[int]] = {}
        self.problems: dict[int, Problem] = {}
        self.wanted: set[int] = set()
        self.shown: set[int] = set()
        self.examples: list[DecodedExample] = []

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        """Find out what there is to decode, and what is decoded already."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        runs, all_policies = (self.fit_runs, False) if fitting else (self.runs, self.all_policies)
        self.active = []
        if runs:
            self.facts = SplitFacts(problems_of(trainer), split)
            self.active = runs_of(runs, all_policies, module, self.facts, self.decoding.search)
        self.metric = FrontierMetric([run.name for run in self.active]).to(module.device)
        self.cells, self.done, self.examples = {}, {run.name: set() for run in self.active}, []
        if trainer.sanity_checking or not self.active:
            return
        data = problems_of(trainer)
        self.problems = {problem.index: problem for problem in data.problems(split)}
        indices = list(self.problems)  # of some tasks they are line numbers: a range would not do
        self.wanted = set(indices[: self.fit_problems] if fitting else indices)
        self.shown = set(indices[: self.n_examples])
        if fitting:
            return
        self.store = OutcomeStore(Path(trainer.default_root_dir) / "cells")
        checkpoint, fingerprint = weights_hash(denoiser_of(module)), data.fingerprint(split)
        self.problems_hash = data.problems_hash(split)
        for run in self.active:
            cell = Cell(
                task=data.task,
                split=data.split_name(split),
                checkpoint=checkpoint,
                data=fingerprint,
                policy=run.policy.name,
                options=self.options(trainer, module, run),
                adaptive=self.decoding.adaptive(run.policy),
                steps=run.steps,
                seed=run.seed,
            )
            self.cells[run.name] = cell
            for record in self.store.records(cell):
                self.record(trainer, run.name, record.outcomes)
        stored = sum(map(len, self.done.values()))
        if stored and trainer.is_global_zero:
            print(f"Found {stored} decoded outcomes in {self.store.root}; only what is missing will be decoded.")
        # No process may append before every process has read.
        trainer.strategy.barrier("frontier_read")

    def options(self, trainer: L.Trainer, module: L.LightningModule, run: Run) -> dict[str, Any]:
        """See ``decoding_options``."""
        return decoding_options(trainer, module, run, self.decoding, self.facts)

    def record(self, trainer: L.Trainer, name: str, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes and note their problems as done."""
        self.done[name].update(outcome.problem for outcome in outcomes)
        columns = [(o.problem, int(o.correct), o.nfe, o.tokens) for o in outcomes]
        scores = [math.nan if o.score is None else o.score for o in outcomes]
        problem_B, correct_B, nfe_B, tokens_B = torch.tensor(columns, device=self.metric.device).unbind(1)
        score_B = torch.tensor(scores, dtype=torch.float64)
        self.metric.update(name, problem_B, correct_B, nfe_B, tokens_B, score_B)

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Decode the problems of a batch in every cell that lacks them."""
        if trainer.sanity_checking or not self.active:
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        index = batch.index_B.tolist()
        for run in self.active:
            missing = self.wanted - self.done[run.name]
            wanted = [row for row, problem in enumerate(index) if problem in missing]
            if not wanted:
                continue
            if trainer.received_sigterm:  # the loop itself looks only between batches, which take minutes here
                raise SIGTERMException
            record = self.decode_rows(trainer, module, batch, wanted, run)
            self.record(trainer, run.name, record.outcomes)
            if not fitting:
                self.store.append(self.cells[run.name], record, trainer.global_rank)

    def decode_rows(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, wanted: Sequence[int], run: Run
    ) -> BatchRecord:
        """Decode some rows of a batch and judge their answers."""
        data = problems_of(trainer)
        denoiser = denoiser_of(module)
        chosen = torch.tensor(wanted, device=batch.index_B.device)
        rows = Rows(batch.tokens_BL[chosen], batch.prompt_BL[chosen], batch.valid_BL[chosen], batch.index_B[chosen])
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            policy = run.policy.bound(selector_of(module, run.steps)).informed(self.facts)
            generated, forward_passes = generate(
                denoiser, policy, rows, self.problems, data, self.decoding, steps=run.steps, seed=run.seed
            )
        seconds = time.perf_counter() - start
        outcomes = []
        for problem, found in zip(rows.index_B.tolist(), generated, strict=True):
            grade = data.grade(self.problems[problem], found.text)
            outcomes.append(Outcome(problem, grade.correct, found.nfe, found.length, grade.answer, grade.score))
            if trainer.is_global_zero and problem in self.shown:
                texts = [data.decode([token]) or "·" for token in found.tokens]
                self.examples.append(DecodedExample(run.name, problem, texts, found.steps, grade.correct))
        return BatchRecord(tuple(outcomes), forward_passes, seconds, device_name(module.device), commit_hash())

    @staticmethod
    def split(trainer: L.Trainer) -> str:
        """The split that the running loop evaluates."""
        return "test" if trainer.state.fn == TrainerFn.TESTING else "validation"

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        """Log every cell; outside of fitting also write rows, figure and report."""
        if trainer.sanity_checking or not self.active:
            return
        summaries = self.metric.compute()  # gathers from all processes, and is the same on each
        for name, cell in summaries.items():
            # A mean of equal values: it changes nothing, and all processes may monitor it.
            module.log(f"{prefix}/accuracy@{name}", cell.accuracy, sync_dist=True)
            module.log(f"{prefix}/nfe@{name}", cell.nfe_mean, sync_dist=True)
            if cell.score is not None:
                module.log(f"{prefix}/score@{name}", cell.score, sync_dist=True)
        trainer.strategy.barrier("frontier_written")
        if not trainer.is_global_zero:
            return
        log_examples(trainer.loggers, self.examples, trainer.global_step)
        if trainer.state.fn != TrainerFn.FITTING:
            self.publish(trainer)

    def publish(self, trainer: L.Trainer) -> None:
        """Write rows and outcomes of these problems and weights, and the report, into the run directory."""
        run_dir = Path(trainer.default_root_dir)
        cells = [cell for cell in self.published() if self.store.done(cell)]
        rows = [
            frontier_row(cell, self.store.records(cell), len(self.wanted - self.store.done(cell)), self.problems_hash)
            for cell in cells
        ]
        outcomes = [row for cell in cells for row in outcome_rows(cell, self.store.records(cell))]
        # Another split of the same checkpoint stays; what belongs to other weights is history.
        own = {(cell.task, cell.checkpoint, cell.split) for cell in cells}
        kept = {(task, checkpoint) for task, checkpoint, _ in own}
        selectors = {cell.options.get("selector") for cell in cells} | {None}

        def stays(row: Row | OutcomeRow) -> bool:
            return (
                (row.task, row.checkpoint) in kept
                and (row.task, row.checkpoint, row.split) not in own
                and json.loads(row.options).get("selector") in selectors
            )

        if (run_dir / "frontier.csv").exists() and (run_dir / "outcomes.csv").exists():
            before = read_rows(run_dir / "frontier.csv")
            gone = [row for row in before if (row.task, row.checkpoint, row.split) in own and row.problems]
            if any(row.problems != self.problems_hash for row in gone):
                rank_zero_warn(
                    f"{run_dir} had rows of other {gone[0].split} problems of {gone[0].task}, which give way to these; "
                    "to have both, give each sweep a --run_dir of its own"
                )
            rows += filter(stays, before)
            outcomes += filter(stays, read_outcomes(run_dir / "outcomes.csv"))
        write_rows(run_dir / "frontier.csv", rows)
        write_outcomes(run_dir / "outcomes.csv", outcomes)
        write_report([run_dir], run_dir)
        log_frontier(trainer.loggers, rows, trainer.global_step)
        log_cells({self.store.root / cell.label: row for cell, row in zip(cells, rows, strict=False)})

    def published(self) -> list[Cell]:
        """This run's cells, and complete ones of earlier sweeps over the same problems with the same weights.

        Cells of a selector that this module no longer has are history.
        """
        own = list(self.cells.values())
        where = {(cell.task, cell.split, cell.checkpoint, cell.data) for cell in own}
        selectors = {cell.options.get("selector") for cell in own} | {None}
        complete = set[int]().union(*(self.store.done(cell) for cell in own))
        earlier = [
            cell for cell in self.store.cells()
            if (cell.task, cell.split, cell.checkpoint, cell.data) in where
            and cell.options.get("selector") in selectors and cell not in own and self.store.done(cell) >= complete
        ]  # fmt: skip
        return own + earlier


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


def runs_of(
    runs: Sequence[Run], all_policies: bool, module: L.LightningModule, facts: SplitFacts, searching: bool = False
) -> list[Run]:
    """The runs to make: the one answer to which policies a module can run on the problems of a split.

    Of all policies those are run that are learned only where the module has a selector, and then at every price it was
    trained with, those that follow an order only where the task knows one, those that read the answer not by
    themselves, and a sequential one only with a causal net, which in turn runs nothing else. A sequential policy takes
    one step per token: it is run once, with the smallest budget that is enough for every problem, unless what is left
    of larger ones is used for ``searching``.

    Raises:
        ValueError: a policy asked for that a causal net cannot run, no budget that is enough for a sequential one, or
            one too small for all parts of a response.
    """
    for run in runs:
        facts.data.budgets(run.steps)
    if not all_policies:
        warn_of_prices(runs, module)
    causal = isinstance(denoiser_of(module), CausalDenoiser)
    if all_policies:
        runs = [
            run for run in runs
            if run.policy.sequential == causal
            and not (run.policy.learned and selector_of(module, run.steps) is None)
            and not ("order" in run.policy.reads and not facts.ordered)
            and "response" not in run.policy.reads
        ]  # fmt: skip
        runs = [priced for run in runs for priced in at_every_price(run, module)]
    sequential = [run for run in runs if run.policy.sequential]
    if causal and len(sequential) < len(runs):
        other = next(run.policy for run in runs if not run.policy.sequential)
        raise ValueError(
            f"policy {type(other).__name__}: a causal net knows nothing to the right of the first masked token, so it "
            "runs no policy but Autoregressive; choose that, or a masked denoiser"
        )
    if not sequential:
        return list(runs)
    enough = [run.steps for run in sequential if run.steps >= facts.longest_response]
    if not enough:
        raise ValueError(
            f"policy {type(sequential[0].policy).__name__} takes one step per token, and the longest response of the "
            f"{facts.split} problems has {facts.longest_response}: give a budget of at least that"
        )
    wanted = enough if searching else [min(enough)]
    return [run for run in runs if not run.policy.sequential or run.steps in wanted]


def warn_of_prices(runs: Sequence[Run], module: L.LightningModule) -> None:
    """Say it where the learned order is asked for at a price beyond those that the configuration trains with."""
    priced = [run for run in runs if isinstance(run.policy, Learned) and selector_of(module, run.steps) is not None]
    asked = {cast(Learned, run.policy).price for run in priced}
    trained = cast(list[float], module.prices) if priced else []
    beyond = sorted(price for price in asked if not min(trained) <= price <= max(trained))
    if beyond:
        rank_zero_warn(
            f"policy Learned: the selector is trained with prices from {min(trained)} to {max(trained)}, and what it "
            f"says at {', '.join(map(str, beyond))} is a guess: give one of model.prices"
        )


def at_every_price(run: Run, module: L.LightningModule) -> list[Run]:
    """A run of the learned order at each of the module's prices; another run as it is."""
    if not isinstance(run.policy, Learned):
        return [run]
    return [replace(run, policy=replace(run.policy, price=price)) for price in cast(list[float], module.prices)]


def decoding_options(
    trainer: L.Trainer, module: L.LightningModule, run: Run, decoding: DecodingOptions, facts: SplitFacts
) -> dict[str, Any]:
    """All that decides what a run decodes beside denoiser, problems, budget and seed."""
    options = {**decoding.describe(run.policy), "precision": str(trainer.precision)}
    options.update(problems_of(trainer).decoding_options)
    if "token_frequency" in run.policy.reads:
        options["token_frequency"] = facts.frequency_hash
    if "response" in run.policy.reads:
        options["told"] = "response"
    selector = selectors_hash(module) if run.policy.learned else None
    return options if selector is None else {**options, "selector": selector}


def selectors_hash(module: L.LightningModule) -> str | None:
    """The hash of a module's selector; of one per budget that of all: they are one order, and one curve.

    ``None`` where the module is a denoiser alone.
    """
    hashes = [weights_hash(net) for net in cast(Mapping[str, nn.Module], getattr(module, "selectors", {})).values()]
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


def device_name(device: torch.device) -> str:
    """Name of the accelerator, or ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
