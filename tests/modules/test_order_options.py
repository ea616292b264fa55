"""Every option of learning an order does something, and wrong ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_mdm.callbacks.runs import selectors_hash, weights_hash
from lightning_mdm.modules import order_module
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.row_features import IIDOffset
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.objectives.order_elbo import OrderElbo, all_steps
from modules.orders import (
    CHAIN,
    FROM_CONFIDENCE,
    LAWS,
    MAX_NORMALISED,
    OF_SHARES,
    OTHER,
    PLAIN,
    RELATIVE,
    SHARES,
    SMALL,
    build,
    fit,
    same,
    state,
)
from modules.test_denoiser_module import NET, V


def test_the_weight_of_the_plain_objective_matters_only_jointly(tmp_path: Path, ckpt: str) -> None:
    for training in ("frozen", "joint"):
        after = []
        for weight in (0.0, 2.0):
            module = build(ckpt, denoiser=training, denoising_weight=weight)
            fit(module, tmp_path, steps=2)
            after.append(state(module))
        assert same(*after) == (training == "frozen")


@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_the_tokens_of_the_plain_objective_weigh_as_is_said(tmp_path: Path, ckpt: str, training: str) -> None:
    after = []
    for weighting in ("uniform", "bound"):
        module = build(ckpt, denoiser=training, denoising_weighting=weighting)
        fit(module, tmp_path, steps=2)
        after.append(state(module))
    assert same(*after) == (training == "frozen")


@pytest.mark.parametrize(("own", "expected"), [(None, 2e-3), (1e-4, 1e-4), (0.0, 0.0)])
def test_a_joint_denoiser_has_a_learning_rate_of_its_own(
    tmp_path: Path, ckpt: str, own: float | None, expected: float
) -> None:
    """The first update of Adam moves a weight by its rate, whatever the size of the gradient."""
    module = build(ckpt, denoiser="joint", learning_rate=2e-3, denoiser_learning_rate=own, warmup_steps=0)
    before = state(module)
    fit(module, tmp_path, steps=1)
    after = state(module)
    for part, rate in (("denoiser.", expected), ("selectors.", 2e-3), ("posteriors.", 2e-3)):
        moves = [(after[name] - before[name]).abs().max() for name in before if name.startswith(part)]
        torch.testing.assert_close(torch.stack(moves).max(), torch.tensor(rate), rtol=1e-2, atol=1e-8)


@pytest.fixture(scope="module")
def default(ckpt: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What four updates with the default options end with."""
    module = build(ckpt)
    fit(module, tmp_path_factory.mktemp("default"), steps=4)
    return state(module)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"estimator": "one_step"},
        {"posterior": MAX_NORMALISED},
        {"posterior": RELATIVE},
        {"finishing": True},
        {"selectors": "per_budget"},
        {"samples": 4},
        {"budgets": [2, 4]},
        {"prices": [1.5]},
        {"warm_start_steps": 2},
        {"learning_rate": 1e-3},
        {"warmup_steps": 3},
        {"final_learning_rate": 0.9},
        {"noise_seed": 5},
        {"selector": replace(SMALL, attends="all")},
        {"selector": replace(SMALL, logit_cap=0.5)},
        {"selector": replace(SMALL, positions=5)},
        {"selector": replace(SMALL, start="confidence")},
        {"selector": replace(SMALL, start="quota")},
        {"selector": replace(SMALL, start="entropy_bound", start_stake=0.5)},
        {"posterior": PosteriorConfig(net=replace(PLAIN, mlp_width=8))},
    ],
    ids=str,
)
def test_every_option_changes_what_is_learned(
    tmp_path: Path, ckpt: str, default: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """And nothing else does: without an option the weights are the same, to the bit."""
    module = build(ckpt, **options)
    fit(module, tmp_path, steps=4)
    assert same(default, state(module)) == (not options)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"warm_start_steps": 2}, {"warm_start_steps": 2, "warm_start_margin": 0.3}),
        ({"budgets": [2, 99]}, {"budgets": [2, 99], "budget_draw": "by_cost"}),
        ({"posterior": RELATIVE}, {"posterior": RELATIVE, "finishing": True}),
        ({"selector": FROM_CONFIDENCE}, {"selector": replace(FROM_CONFIDENCE, start_threshold=0.6)}),
        ({"selector": FROM_CONFIDENCE}, {"selector": replace(FROM_CONFIDENCE, start_slope=3.0)}),
        ({"selector": FROM_CONFIDENCE}, {"selector": replace(FROM_CONFIDENCE, start="quota")}),
        ({"selector": FROM_CONFIDENCE}, {"selector": replace(FROM_CONFIDENCE, start_cap=1.0)}),
        *(
            (LAWS["levelled"], {**LAWS["levelled"], "selector": replace(OF_SHARES, start_shares=shares)})
            for shares in ((1.0,), (0.7, 1.0, 3.0))
        ),
        (
            {"posterior": RELATIVE, "finishing": True},
            {"posterior": RELATIVE, "finishing": True, "selector": replace(SMALL, start_stake=0.5)},
        ),
    ],
    ids=[
        "warm_start_margin",
        "budget_draw",
        "finishing",
        "start_threshold",
        "start_slope",
        "start_quota",
        "start_cap",
        "one_share",
        "start_shares",
        "start_stake",
    ],
)
def test_an_option_that_goes_with_another_changes_what_is_learned(
    tmp_path: Path, ckpt: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    after = []
    for options in (first, second):
        module = build(ckpt, **options)
        fit(module, tmp_path, steps=4)
        after.append(state(module))
    assert not same(*after)


def test_the_order_temperature_changes_what_is_learned(tmp_path: Path, ckpt: str) -> None:
    """That of the options, also where the weights come from a training with another."""
    hot = replace(MAX_NORMALISED, order_temperature=0.8)
    build(ckpt, posterior=MAX_NORMALISED).save_order(tmp_path / "order.safetensors")
    after, weights = [], {"init_from": str(tmp_path / "order.safetensors")}
    for posterior, more in ((MAX_NORMALISED, {}), (hot, {}), (hot, weights)):
        module = build(ckpt, posterior=posterior, **more)
        fit(module, tmp_path, steps=4)
        after.append(state(module))
    assert not same(*after[:2])
    assert same(*after[1:])


@pytest.mark.parametrize(
    ("options", "n"), [({}, 2), ({"posterior": RELATIVE}, 1), ({"posterior": RELATIVE, "selector": FROM_CONFIDENCE}, 0)]
)
def test_what_starts_at_the_iid_schedule_is_pulled_to_it(
    tmp_path: Path, ckpt: str, options: dict[str, Any], n: int
) -> None:
    """The selector, and a state-aware posterior; training leaves that pull as it is."""
    module = build(ckpt, **options)
    fit(module, tmp_path, steps=2)
    assert [float(net.weight) for net in module.modules() if isinstance(net, IIDOffset)] == [1.0] * n


def test_selectors_per_budget_are_one_order(ckpt: str) -> None:
    """Rows of all its budgets are rows of one policy; those of another order are not."""
    shared, apart, other = (build(ckpt, selectors=kind) for kind in ("shared", "per_budget", "per_budget"))
    assert selectors_hash(shared) == weights_hash(shared.selector_for(2)) == weights_hash(shared.selector_for(3))
    assert selectors_hash(apart) not in {weights_hash(apart.selector_for(steps)) for steps in (2, 3)}
    assert selectors_hash(apart) == selectors_hash(other)
    with torch.no_grad():
        next(other.selector_for(3).parameters()).add_(1.0)
    assert selectors_hash(apart) != selectors_hash(other)


def test_other_shares_are_another_selector(ckpt: str) -> None:
    first, second = (
        build(ckpt, posterior=RELATIVE, selector=replace(OF_SHARES, start_shares=shares)) for shares in (SHARES, OTHER)
    )
    second.load_state_dict({**first.state_dict(), **{k: v for k, v in second.state_dict().items() if "shares" in k}})
    assert weights_hash(first.selector_for(3)) != weights_hash(second.selector_for(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": "thawed"}, r"model.denoiser='thawed': choose one of frozen, joint"),
        ({"selectors": "none"}, r"model.selectors='none': choose one of shared, per_budget"),
        ({"estimator": "exact"}, r"model.estimator='exact': choose one of all_steps, one_step"),
        ({"budgets": [1, 4]}, r"model.budgets=\[1, 4\]: give step budgets of at least 2"),
        ({"budgets": []}, r"model.budgets=\[\]"),
        ({"bound_budgets": [1]}, r"model.bound_budgets=\[1\]: give step budgets of at least 2"),
        (
            {"bound_budgets": [3], "selectors": "per_budget", "budgets": [2, 4]},
            r"model.bound_budgets=\[3\]: .* some of \[2, 4\], or \[\]",
        ),
        ({"prices": [-0.5]}, r"model.prices=\[-0.5\]"),
        ({"prices": []}, r"model.prices=\[\]"),
        ({"prices": [0.0, float("nan")]}, r"model.prices=\[0.0, nan\]"),
        ({"prices": [float("inf")]}, r"model.prices=\[inf\]"),
        ({"focus": float("inf")}, r"model.focus=inf"),
        ({"entropy_bonus": float("inf")}, r"model.entropy_bonus=inf"),
        ({"prices": [0.5, 0.1, 0.5]}, r"model.prices=\[0.5, 0.1, 0.5\]: give each price once"),
        ({"samples": 1}, r"model.samples=1"),
        ({"validation_samples": 0}, r"model.validation_samples=0"),
        ({"budget_draw": "often"}, r"model.budget_draw='often': choose one of uniform, by_cost, by_evaluations"),
        (
            {"budget_draw": "by_evaluations", "estimator": "one_step"},
            r"model.budget_draw='by_evaluations', model.estimator='one_step': choose by_cost or uniform",
        ),
        ({"focus": -0.1}, r"model.focus=-0.1, model.estimator='all_steps': give a finite number of at least 0"),
        ({"focus": 0.5, "estimator": "one_step"}, r"model.focus=0.5, model.estimator='one_step': .* 0 to one_step"),
        (
            {"denoiser_learning_rate": 1e-4},
            r"model.denoiser_learning_rate=0.0001, model.denoiser='frozen': give joint a finite number",
        ),
        (
            {"denoiser_learning_rate": float("nan"), "denoiser": "joint"},
            r"model.denoiser_learning_rate=nan, model.denoiser='joint'",
        ),
        ({"denoiser_ckpt": "missing.ckpt"}, r"model.denoiser_ckpt=missing.ckpt: no such file"),
        ({"vocab_size": V + 1}, r"model.denoiser_ckpt=.*: its embedding.weight has shape \(12, 16\), this net's \(13,"),
        ({"net": replace(NET, layers=2)}, r"model.net.layers=2, but model.denoiser_ckpt=.* was trained with 1: give"),
        (
            {"selector": OF_SHARES},
            r"model.selector.start_shares=\[0.7, 1.0, 1.4\], model.posterior.family='state_aware': choose relative or",
        ),
        (
            {"finishing": True, "posterior": MAX_NORMALISED},
            r"model.finishing=true, model.posterior.family='max_normalised': .*; choose state_aware, relative or",
        ),
        ({"fewest_first": -1}, r"model.fewest_first=-1: give a number of updates, at least 0"),
        ({"net": CHAIN, "denoiser_ckpt": None}, r"model.net: this HopChain has 4 tokens, the data 11"),
    ],
    ids=str,
)
def test_wrong_options_are_named(ckpt: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(options.pop("denoiser_ckpt", ckpt), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "exact"}, r"posterior.family='exact': choose one of state_aware, relative, max_normalised"),
        ({"order_temperature": 0.0}, r"posterior.order_temperature=0.0"),
    ],
)
def test_wrong_options_of_the_posterior_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PosteriorConfig(**options)


def test_the_default_net_is_a_transformer() -> None:
    module = OrderModule(V, selector=SMALL, posterior=PosteriorConfig(net=PLAIN))
    assert module.hparams["net"] == vars(TransformerConfig())


def test_the_first_updates_go_to_the_smallest_budget_without_bonus(
    tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the warm start, whose budgets are drawn; and then as without that option."""
    seen: list[tuple[int, float]] = []

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        seen.append((options["budget"], options["entropy_bonus"]))
        return all_steps(*arguments, **options)

    monkeypatch.setattr(order_module, "all_steps", watched)
    options: dict[str, Any] = {
        "budgets": [3, 6, 2, 5],
        "warm_start_steps": 2,
        "entropy_bonus": 1.0,
        "entropy_fades_by": 1.0,
    }
    fit(build(ckpt, fewest_first=4, **options), tmp_path / "first", steps=12)
    with_it, seen[:] = seen[:], []
    fit(build(ckpt, **options), tmp_path / "none", steps=12)
    assert len(seen) == len(with_it) == 10
    assert with_it[:4] == [(2, 0.0)] * 4
    assert with_it[4:] == seen[4:]
    assert seen[4][1] > 0.0
    assert len({budget for budget, _ in seen[:4]}) > 1
