"""Learning an order under a Trainer: that every option does something, what is logged, resumed and refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from laws import assert_mean
from lightning_mdm import categorical
from lightning_mdm.callbacks.frontier import weights_hash
from lightning_mdm.compilation import compiled as compiled_function
from lightning_mdm.data.batch import Batch
from lightning_mdm.decoding import state as decoding_state
from lightning_mdm.decoding.learned import Learned, Rule, selector_law
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules import order_module
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_batch import BatchModel
from lightning_mdm.modules.order_module import OrderModule, PosteriorConfig, draw_sets, trajectories
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.posterior_net import MaxNormalised
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.selector_start import IIDOffset
from lightning_mdm.nets.transformer import Block, TransformerConfig
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.order_elbo import OrderElbo, States, all_steps
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw
from lightning_mdm.vocabulary import TokenSpace
from modules.test_denoiser_module import NET, SaveAt, V, batch, loader, trainer

SMALL = SelectorConfig(layers=1, width=16, heads=2, mlp_width=16)
PLAIN = OrderNetConfig(layers=1, width=16, heads=2, mlp_width=16)
MAX_NORMALISED = PosteriorConfig("max_normalised", PLAIN)
RELATIVE = PosteriorConfig("relative", PLAIN)
FROM_CONFIDENCE = replace(SMALL, start="confidence", start_threshold=0.3)
SHARES, OTHER = (0.7, 1.0, 1.4), (0.5, 1.0, 2.0)
OF_SHARES = replace(SMALL, start="quota", start_threshold=0.2, start_shares=SHARES)
CHAIN = HopChain(chain=3, free=1, given=2, hops=1, vocab_size=4)


@cache
def denoiser_file(folder: Path, kind: str = "ckpt") -> str:
    """A briefly trained denoiser, as a checkpoint or as a file of weights."""
    torch.manual_seed(0)
    module = DenoiserModule(V, NET, warmup_steps=1)
    run = trainer(folder, max_steps=2)
    run.fit(module, loader())
    path = folder / f"denoiser.{kind}"
    if kind == "ckpt":
        run.save_checkpoint(path)
    else:
        module.save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> str:
    return denoiser_file(tmp_path_factory.mktemp("denoiser"))


def build(ckpt: str | None, **options: Any) -> OrderModule:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {
        "net": NET, "denoiser_ckpt": ckpt, "selector": SMALL, "posterior": PosteriorConfig(net=PLAIN),
        "budgets": [2, 3], "samples": 2, "validation_samples": 2, "warmup_steps": 1, "learning_rate": 1e-2,
    }  # fmt: skip
    return OrderModule(options.pop("vocab_size", V), **{**defaults, **options})


def fit(module: OrderModule, folder: Path, steps: int = 3, start: int = 0, **options: Any) -> L.Trainer:
    run = trainer(folder, max_steps=steps, **options)
    run.fit(module, loader(start))
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which of the module's parts have changed."""
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def validate(module: OrderModule, batches: Sequence[Batch], folder: Path) -> dict[str, float]:
    data = torch.utils.data.DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]
    return dict(trainer(folder).validate(module, data, verbose=False)[0])


# What trains.


@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
@pytest.mark.parametrize("posterior", [PosteriorConfig(net=PLAIN), RELATIVE, MAX_NORMALISED], ids=lambda p: p.family)
@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_what_is_to_train_trains_and_a_frozen_denoiser_stays(
    tmp_path: Path, ckpt: str, training: str, posterior: PosteriorConfig, estimator: str
) -> None:
    finishing = posterior.family == "relative"
    module = build(ckpt, denoiser=training, posterior=posterior, estimator=estimator, finishing=finishing)
    before = state(module)
    run = fit(module, tmp_path, steps=4)
    expected = {"selectors", "posteriors"} | ({"denoiser"} if training == "joint" else set())
    expected |= {"earlier"} if estimator == "all_steps" else set()
    assert moved(before, state(module)) == expected
    assert all(bool(value.isfinite().all()) for value in state(module).values())
    assert bool(run.callback_metrics["train/surrogate"].isfinite())
    assert ("train/denoising_surrogate" in run.callback_metrics) == (training == "joint")


LAWS = {
    "state_aware": {},
    "finishing": {"finishing": True},
    "relative": {"posterior": RELATIVE, "selector": FROM_CONFIDENCE},
    "relative_finishing": {"posterior": RELATIVE, "finishing": True},
    "levelled": {"posterior": RELATIVE, "selector": OF_SHARES},
    "levelled_finishing": {"posterior": RELATIVE, "selector": OF_SHARES, "finishing": True},
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_every_parameter_that_trains_gets_a_gradient(tmp_path: Path, ckpt: str, training: str, law: str) -> None:
    """Of the bound itself: with joint training the denoiser's too, without its own objective."""
    module = build(ckpt, denoiser=training, denoising_weight=0.0, samples=4, **LAWS[law])
    with torch.no_grad():
        for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
            p.add_(0.1 * torch.randn_like(p))  # the last layers start from nothing
    model = module.batch_model(batch([3, 14, 15]), 3, 0.0)
    module.objective(model, RowNoise(0, model.batch.index_B), 0).surrogate.backward()
    for name, p in module.named_parameters():
        wanted = p.requires_grad
        assert wanted == (training == "joint" or not name.startswith("denoiser."))
        got = p.grad is not None and bool((p.grad != 0.0).any())
        assert got == wanted, name
        assert p.grad is None or bool(p.grad.isfinite().all())


@pytest.mark.filterwarnings("ignore")  # torch warns of parts of its own
@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_a_compiled_net_and_compiled_statistics_learn_what_plain_ones_do(
    tmp_path: Path, ckpt: str, training: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    surrogates: dict[bool, list[float]] = {False: [], True: []}
    names: dict[bool, set[str]] = {}
    asked: list[object] = []
    monkeypatch.setattr(decoding_state, "compiled", lambda f: asked.append(f) or compiled_function(f))
    plain = Block.compile
    monkeypatch.setattr(Block, "compile", lambda self, **how: asked.append(Block) or plain(self, **how))
    for compiled, losses in surrogates.items():
        module = build(ckpt, denoiser=training, compile=compiled)
        module.setup("fit")
        model = module.batch_model(batch([5, 61, 7]), 2, 0.0)
        out = module.objective(model, RowNoise(0, model.batch.index_B), 0)
        out.surrogate.backward()
        gradients = [p.grad.norm() for p in module.parameters() if p.requires_grad and p.grad is not None]
        losses += [float(out.surrogate.detach()), float(out.bound_nats_B.sum()), float(torch.stack(gradients).norm())]
        names[compiled] = set(module.state_dict())
        assert (categorical.certainty in asked) == (Block in asked) == compiled
    assert names[True] == names[False]
    assert surrogates[True] == pytest.approx(surrogates[False], rel=1e-4, abs=1e-6)


def test_tokens_that_are_never_generated_leave_finite_gradients(ckpt: str) -> None:
    """Their logits are minus infinity, and the selector reads confidence through them."""
    module = build(ckpt, denoiser="joint")
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.5)
    model = replace(module.batch_model(batch([3, 14, 15]), 3, 0.0), forbidden=(7, 8, 9))
    out = module.objective(model, RowNoise(0, model.batch.index_B), 0)
    (1e3 * out.surrogate).backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


def test_the_weight_of_the_plain_objective_matters_only_jointly(tmp_path: Path, ckpt: str) -> None:
    for training in ("frozen", "joint"):
        after = []
        for weight in (0.0, 2.0):
            module = build(ckpt, denoiser=training, denoising_weight=weight)
            fit(module, tmp_path, steps=2)
            after.append(state(module))
        assert same(*after) == (training == "frozen")


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
        {"offset_fades_by": 0.5},
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


def test_untrained_a_relative_posterior_pays_nothing_for_the_order(tmp_path: Path, ckpt: str) -> None:
    """It is the selector then, in every state, so that its bound is the mean cost of the selector's own draws."""
    for finishing in (False, True):
        module = build(ckpt, posterior=RELATIVE, selector=FROM_CONFIDENCE, finishing=finishing)
        found = validate(module, [batch([1, 2, 3])], tmp_path)
        for budget in (2, 3):
            assert found[f"val/order_kl_nats@T={budget}/learned"] == pytest.approx(0.0, abs=1e-5)
            assert found[f"val/token_nats@T={budget}/learned"] > 0.0
        fit(module, tmp_path, steps=2)
        assert validate(module, [batch([1, 2, 3])], tmp_path)["val/order_kl_nats@T=3/learned"] > 1e-5


@pytest.mark.parametrize("name", ["order_temperature", "final_order_temperature"])
def test_the_order_temperature_changes_what_is_learned(tmp_path: Path, ckpt: str, name: str) -> None:
    after = []
    for value in (0.3, 0.8):
        module = build(ckpt, posterior=replace(MAX_NORMALISED, **{name: value}))
        fit(module, tmp_path, steps=4)
        after.append(state(module))
    assert not same(*after)


class Watch(L.Callback):
    """Notes a buffer's value after each update."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.seen: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.seen.append(float(self.buffer))


def test_the_pull_of_the_iid_schedule_fades(tmp_path: Path, ckpt: str) -> None:
    for fades_by, expected in ((0.5, [1.0, 1 / 3, 0.0, 0.0]), (1.0, [1.0, 2 / 3, 1 / 3, 0.0]), (None, [1.0] * 4)):
        module = build(ckpt, offset_fades_by=fades_by)
        offsets = [net for net in module.modules() if isinstance(net, IIDOffset)]
        assert len(offsets) == 2, "of the selector and of the state-aware posterior"
        watches = [Watch(net.weight) for net in offsets]
        fit(module, tmp_path, steps=4, callbacks=watches)
        assert [watch.seen for watch in watches] == [pytest.approx(expected)] * 2
    for options, n in (({"posterior": RELATIVE}, 1), ({"posterior": RELATIVE, "selector": FROM_CONFIDENCE}, 0)):
        found = [net for net in build(ckpt, **options).modules() if isinstance(net, IIDOffset)]
        assert len(found) == n, "what starts elsewhere is not pulled"


def test_the_order_temperature_is_lowered_linearly_from_its_start(tmp_path: Path, ckpt: str) -> None:
    config = PosteriorConfig("max_normalised", PLAIN, order_temperature=0.8, final_order_temperature=0.4)
    module = build(ckpt, posterior=config)
    posterior = module.posterior_for(2)
    assert isinstance(posterior, MaxNormalised)
    assert float(posterior.order_temperature) == pytest.approx(0.8), "before the first update as well"
    watch = Watch(posterior.order_temperature)
    fit(module, tmp_path, steps=4, callbacks=[watch])
    assert watch.seen == pytest.approx([0.8, 2 / 3, 1.6 / 3, 0.4])


@pytest.mark.parametrize("posterior", [PosteriorConfig(net=PLAIN), RELATIVE, MAX_NORMALISED], ids=lambda p: p.family)
def test_the_warm_start_imitates_the_margin_of_the_true_token(
    tmp_path: Path, ckpt: str, posterior: PosteriorConfig
) -> None:
    module = build(ckpt, posterior=posterior, warm_start_steps=60, warmup_steps=5)
    before = state(module)

    seen: list[float] = []

    class Imitation(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            seen.append(float(trainer.callback_metrics["train/imitation"]))

    run = fit(module, tmp_path, steps=60, callbacks=[Imitation()])
    assert sum(seen[-10:]) < 0.6 * sum(seen[:10])
    assert "train/bound_nats_per_token" not in run.callback_metrics, "the bound's turn comes afterwards"
    expected = {"selectors"} if posterior.family == "relative" else {"selectors", "posteriors"}
    assert moved(before, state(module)) == expected, "a relative posterior starts as the selector"


def test_what_is_imitated_is_the_margin_from_its_threshold_on(ckpt: str) -> None:
    """An untrained selector has the logits of the IID schedule alone, and a relative posterior is not imitated."""
    error = []
    for threshold in (0.0, 0.5, 1.0):
        module = build(ckpt, posterior=RELATIVE, warm_start_steps=1, warm_start_margin=threshold)
        model = module.batch_model(batch(range(8)), 3, 0.0)
        error.append(float(module.imitation(model, RowNoise(0, model.batch.index_B), 0).detach()))
    # 144 (margin - threshold)^2 in the mean, margins between -1 and 1.
    assert error[0] - 2.0 * error[1] + error[2] == pytest.approx(72.0, rel=1e-5)
    assert error[0] < 144.0
    assert error[0] != error[2]


def test_training_lowers_the_bound_of_a_law_below_that_of_iid(tmp_path: Path) -> None:
    """A law as the denoiser, which needs no file; in the hop chain the order is everything."""
    module = build(
        None, vocab_size=CHAIN.n_tokens, net=CHAIN, budgets=[3], samples=8, validation_samples=8, learning_rate=1e-2,
        selector=replace(SMALL, positions=CHAIN.length, attends="all"),
        posterior=PosteriorConfig(net=replace(PLAIN, positions=CHAIN.length)), warmup_steps=5,
    )  # fmt: skip
    rows = [chain_batch(range(16 * k, 16 * k + 16)) for k in range(40)]
    before = validate(module, rows[:4], tmp_path)
    frozen = state(module.denoiser)
    trainer(tmp_path, max_steps=40).fit(module, torch.utils.data.DataLoader(rows, batch_size=None))  # type: ignore[arg-type]
    after = validate(module, rows[:4], tmp_path)
    assert after["val/bound_nats@T=3/learned"] < 0.8 * before["val/bound_nats@T=3/learned"]
    assert after["val/bound_nats@T=3/learned"] < 0.8 * after["val/bound_nats@T=3/iid"]
    assert after["val/bound_nats@T=3/iid"] == before["val/bound_nats@T=3/iid"]
    assert after["val/bound_nats@T=3/learned"] > CHAIN.optimum_nats(3)
    assert same(frozen, state(module.denoiser))


def chain_batch(index: Sequence[int]) -> Batch:
    tokens_BL = torch.tensor([CHAIN.draw("train", k).response for k in index])
    prompt_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
    return Batch(tokens_BL, prompt_BL, ~prompt_BL, torch.tensor(list(index)))


# What is reported.


@pytest.mark.parametrize("stage", ["val", "test"])
def test_the_bounds_of_every_budget_and_of_every_price_are_logged(tmp_path: Path, ckpt: str, stage: str) -> None:
    """Of every budget at the first price, and of the learned order at the largest budget with the others."""
    module = build(ckpt, prices=[0.0, 0.5])
    data = torch.utils.data.DataLoader([batch([1, 2, 3])], batch_size=None)  # type: ignore[arg-type]
    run = trainer(tmp_path)
    found = (run.validate if stage == "val" else run.test)(module, data, verbose=False)[0]
    parts = ("bound_nats", "bound_nats_per_token", "importance_weighted_nats", "token_nats", "order_kl_nats")
    cells = ("@T=2/learned", "@T=2/iid", "@T=3/learned", "@T=3/iid", "@T=3/learned/price=0.5")
    assert set(found) == {f"{stage}/{part}{cell}" for part in (*parts, "price_nats", "steps_of_q") for cell in cells}
    for budget in (2, 3):
        for name in ("learned", "iid"):
            where = f"@T={budget}/{name}"
            bound = found[f"{stage}/bound_nats{where}"]
            assert bound == pytest.approx(3.0 * found[f"{stage}/bound_nats_per_token{where}"], rel=1e-5)
            parts_sum = found[f"{stage}/token_nats{where}"] + found[f"{stage}/order_kl_nats{where}"]
            assert bound == pytest.approx(parts_sum, rel=1e-5)
            assert 1.0 <= found[f"{stage}/steps_of_q{where}"] <= budget
            assert found[f"{stage}/price_nats{where}"] == 0.0
    where = "@T=3/learned/price=0.5"
    paid = found[f"{stage}/bound_nats{where}"]
    assert found[f"{stage}/price_nats{where}"] == pytest.approx(0.5 * found[f"{stage}/steps_of_q{where}"], rel=1e-5)
    parts_sum = sum(found[f"{stage}/{part}{where}"] for part in ("token_nats", "order_kl_nats", "price_nats"))
    assert paid == pytest.approx(parts_sum, rel=1e-5)


def test_training_logs_the_bound_and_what_q_does(tmp_path: Path, ckpt: str) -> None:
    run = fit(build(ckpt, budgets=[3]), tmp_path)
    found = {name: float(value) for name, value in run.callback_metrics.items()}
    assert set(found) == {
        "train/surrogate", "train/bound_nats_per_token", "train/token_nats_per_token",
        "train/order_kl_nats_per_token", "train/price_nats_per_token", "train/bound_nats@T=3", "train/steps_of_q@T=3",
        "train/fewest_steps_of_q@T=3", "train/most_steps_of_q@T=3", "train/score_variance",
        "train/score_variance_without_baseline", "train/denoiser_evaluations",
    }  # fmt: skip
    parts = found["train/token_nats_per_token"] + found["train/order_kl_nats_per_token"]
    assert found["train/bound_nats_per_token"] == pytest.approx(parts, rel=1e-5)
    assert 1 <= found["train/fewest_steps_of_q@T=3"] <= found["train/steps_of_q@T=3"]
    assert found["train/steps_of_q@T=3"] <= found["train/most_steps_of_q@T=3"] <= 3


def test_the_validation_bounds_are_the_same_for_any_batch_size_and_order(tmp_path: Path, ckpt: str) -> None:
    module = build(ckpt, prices=[0.2])
    found = [
        validate(module, [batch(part) for part in parts], tmp_path)
        for parts in ([list(range(8))], [[7, 6, 5], [4, 3, 2, 1, 0]], [[k] for k in range(8)])
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def padded(rows: Batch, by: int) -> Batch:
    def pad(x_BL: Tensor, value: int) -> Tensor:
        return nn.functional.pad(x_BL, (0, by), value=value)

    return Batch(pad(rows.tokens_BL, 0), pad(rows.prompt_BL, 0), pad(rows.valid_BL, 0), rows.index_B)


@pytest.mark.parametrize("attends", ["masked", "all"])
@pytest.mark.parametrize("posterior", [PosteriorConfig(net=PLAIN), MAX_NORMALISED], ids=lambda p: p.family)
def test_a_padded_row_has_the_bound_it_has_alone(ckpt: str, posterior: PosteriorConfig, attends: str) -> None:
    module = build(ckpt, posterior=posterior, selector=replace(SMALL, attends=attends)).double()
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        nn.init.normal_(p, std=0.4)
    rows, longer = batch([5]), batch([70])
    longer = Batch(
        longer.tokens_BL.repeat(1, 2), longer.prompt_BL.repeat(1, 2), longer.valid_BL.repeat(1, 2), longer.index_B
    )
    both = padded(rows, 5)
    both = Batch(
        *(
            torch.cat((getattr(both, name), getattr(longer, name)))
            for name in ("tokens_BL", "prompt_BL", "valid_BL", "index_B")
        )
    )
    found = []
    for one in (rows, padded(rows, 3), both, longer):
        model = module.batch_model(one, 3, 0.1)
        noise = trajectories(RowNoise(0, one.index_B), 4)
        out = all_steps(
            model, one.response_BL, budget=3, samples=4, price=0.1, choose=partial(draw_sets, noise, 0)
        )  # fmt: skip
        found.append((out.bound_nats_B.detach(), out.steps_BK))
    alone, wider, batched, other = found
    exact = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(wider, alone, **exact)
    torch.testing.assert_close((batched[0][:1], batched[1][:1]), alone, **exact)
    torch.testing.assert_close((batched[0][1:], batched[1][1:]), other, **exact)


def at(module: OrderModule, rows: Batch, masked: tuple[int, ...], budget: int, left: int) -> tuple[BatchModel, States]:
    masked_1L = torch.tensor([[i in masked for i in range(rows.tokens_BL.shape[1])]])
    return module.batch_model(rows, budget, 0.3), States(torch.zeros(1).long(), masked_1L, torch.tensor([left]))


@pytest.mark.parametrize("law", ["state_aware", "relative_finishing"])
def test_the_validation_bound_is_the_enumerated_one(tmp_path: Path, ckpt: str, law: str) -> None:
    """One row under many problem numbers: its mean bound is the sum over all sets of the first of two steps."""
    module = build(ckpt, budgets=[2], prices=[0.3], validation_samples=1, **LAWS[law]).double()
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        nn.init.normal_(p, std=0.4)
    one, exact = batch([37]), 0.0
    with torch.no_grad():
        model, start = at(module, one, (2, 3, 4), 2, 2)
        reading = model.read(start)
        pi = model.selector_law(start, reading)
        q = model.posterior_law(start, reading.log_prob_SL, pi)
        for size in (1, 2, 3):
            for chosen in itertools.combinations((2, 3, 4), size):
                chosen_1L = torch.tensor([[i in chosen for i in range(5)]])
                cost = 0.3 - float(reading.log_prob_SL[chosen_1L].sum())
                cost += float(q.log_prob(chosen_1L) - pi.log_prob(chosen_1L))
                rest = tuple(i for i in (2, 3, 4) if i not in chosen)
                if rest:
                    model, then = at(module, one, rest, 2, 1)
                    cost += 0.3 - float(model.read(then).log_prob_SL.sum())
                exact += float(q.log_prob(chosen_1L).exp()) * cost
        n = 4000
        many = Batch(
            one.tokens_BL.expand(n, -1), one.prompt_BL.expand(n, -1), one.valid_BL.expand(n, -1), torch.arange(n)
        )
        out = all_steps(
            module.batch_model(many, 2, 0.3), many.response_BL, budget=2, samples=1, price=0.3,
            choose=partial(draw_sets, trajectories(RowNoise(0, many.index_B), 1), 0),
        )  # fmt: skip
        assert_mean(out.bound_nats_B, exact)
        logged = validate(module.float(), [many], tmp_path)
    assert logged["val/bound_nats@T=2/learned/price=0.3"] == pytest.approx(float(out.bound_nats_B.mean()), rel=1e-4)


def test_the_true_tokens_likelihood_is_that_of_the_denoiser(ckpt: str) -> None:
    """Also where some tokens are never generated, and where rows query different numbers of positions."""
    module = build(ckpt).double()
    rows = batch([5, 61])
    rows.tokens_BL[:, 2:] = torch.tensor([[3, 4, 5], [5, 3, 4]])
    masked_SL = torch.tensor([[False, False, True, False, True], [False] * 3 + [True, False], [False] * 2 + [True] * 3])
    states = States(torch.tensor([0, 1, 1]), masked_SL, torch.tensor([3, 3, 2]))
    model = replace(module.batch_model(rows, 3, 0.0), forbidden=(0, 9))
    with torch.no_grad():
        reading = model.read(states)
        for s, row in enumerate(states.example_S.tolist()):
            z_1L = rows.tokens_BL[row].masked_fill(masked_SL[s], V)[None]
            logits_LV = module.denoiser(z_1L, rows.valid_BL[row : row + 1]).logits_BQV[0]
            logits_LV[:, [0, 9]] = -torch.inf
            p_LV = logits_LV.softmax(-1)
            for i in range(5):
                token = int(rows.tokens_BL[row, i])
                others = [float(p) for v, p in enumerate(p_LV[i]) if v != token]
                expected = (float(p_LV[i, token].log()), float(p_LV[i, token]) - max(others))
                got = (float(reading.log_prob_SL[s, i]), float(reading.margin_SL[s, i]))
                assert got == (pytest.approx(expected, abs=1e-10) if masked_SL[s, i] else (0.0, 0.0))


# Training and decoding ask one and the same selector.


def laws(*found: UnmaskingLaw) -> list[tuple[Tensor, ...]]:
    """The numbers of several laws side by side."""
    return [
        tuple(law.logit_BL[law.masked_BL] for law in found),
        *([tuple(law.log_f_B for law in found)] if all(isinstance(law, FinishingBernoulli) for law in found) else []),
    ]


@pytest.mark.parametrize("finishing", [False, True])
@pytest.mark.parametrize("attends", ["masked", "all"])
def test_the_selectors_law_in_training_is_that_in_decoding(ckpt: str, attends: str, finishing: bool) -> None:
    selector_config = replace(SMALL, attends=attends)
    module = build(ckpt, selector=selector_config, prices=[0.4], finishing=finishing).double().eval()
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.3)
    nn.init.constant_(module.selector_for(3).net.last.bias, -0.5)  # more than one step
    rows, space = batch(list(range(20, 32))), TokenSpace(V, eos_id=None, pad_id=0, forbidden=(10,))
    selector, seen = module.selector_for(3), []

    def observe(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        law = selector_law(selector, prediction, state.masked_BL, state.valid_BL, state.steps_left_B, 0.4)
        seen.append((state, law, chosen_AL))

    trace = decode(module.denoiser, Learned(price=0.4).bound(selector), rows, space, steps=3, observers=[observe])
    # The decoded rows as if they were data: the states on the way are then states of training.
    decoded = Batch(trace.tokens_BL, rows.prompt_BL, rows.valid_BL, rows.index_B)
    model = replace(module.batch_model(decoded, 3, 0.4), forbidden=space.forbidden)
    compared = 0
    for now, law, chosen_AL in seen:
        if now.is_last:
            continue
        states = States(now.noise.index_B - 20, now.masked_BL, now.steps_left_B)
        with torch.no_grad():
            trained_law = model.selector_law(states, model.read(states))
        for got, expected in laws(trained_law, law):
            torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)
        best_BL = (trained_law.logit_BL > 0.0) & now.masked_BL
        several_B = best_BL.any(-1)
        if isinstance(trained_law, FinishingBernoulli):
            finishes_B = (trained_law.log_f_B > trained_law.log_not_f_B) | (now.masked_BL.sum(-1) == 1)
            assert chosen_AL.eq(now.masked_BL).all(-1).equal(finishes_B), "greedy decoding finishes above one half"
            several_B = several_B & ~finishes_B & (best_BL != now.masked_BL).any(-1)
        assert chosen_AL[several_B].equal(best_BL[several_B]), "and takes the mode of the trained law"
        compared += len(chosen_AL)
    assert compared > 12


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
def test_decoding_takes_what_the_law_of_several_shares_says(ckpt: str, rule: Rule) -> None:
    """Of a selector that goes through a checkpoint's plain options and weights."""
    module = build(ckpt, **LAWS["levelled_finishing"])
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.5)
    selector = module.selector_for(3)
    assert selector.share is not None
    assert selector.finish is not None
    nn.init.constant_(selector.finish.last.bias, -9.0)  # more than one step
    nn.init.normal_(selector.share.read_stakes.weight, std=3.0)
    options = yaml.safe_load(json.dumps({name: module.hparams[name] for name in ("selector", "posterior")}))
    again = build(ckpt, finishing=True, **options)
    again.load_state_dict(module.state_dict())
    rows, space = batch(list(range(20, 40))), TokenSpace(V, eos_id=None, pad_id=0, forbidden=())
    taken: list[tuple[Tensor, Tensor]] = []
    levels: set[int] = set()

    def observe(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        law = selector_law(selector, prediction, state.masked_BL, state.valid_BL, state.steps_left_B, 0.0)
        assert isinstance(law, Levelled)
        levels.update(law.log_w_BJ.argmax(-1).tolist())
        if state.is_last:
            taken.append((chosen_AL, state.masked_BL))
        elif rule == "greedy":
            taken.append((chosen_AL, law.likeliest(state.uniform_BL(Stream.TIE))))
        else:
            first_B = state.noise.uniform_B(Stream.SELECT, -state.step)
            taken.append((chosen_AL, law.sample(first_B, state.uniform_BL(Stream.SELECT))))

    policy = Learned(rule=rule).bound(again.selector_for(3))
    decode(again.denoiser, policy, rows, space, steps=3, observers=[observe])
    assert levels != {1}, "as of an untrained selector"
    assert len(taken) > 1
    assert all(torch.equal(chosen_AL, expected_AL) for chosen_AL, expected_AL in taken)


def test_other_shares_are_another_selector(ckpt: str) -> None:
    first, second = (
        build(ckpt, posterior=RELATIVE, selector=replace(OF_SHARES, start_shares=shares)) for shares in (SHARES, OTHER)
    )
    second.load_state_dict({**first.state_dict(), **{k: v for k, v in second.state_dict().items() if "shares" in k}})
    assert weights_hash(first.selector_for(3)) != weights_hash(second.selector_for(3))


# Selectors and budgets.


def test_with_selectors_per_budget_one_is_updated_at_a_time(tmp_path: Path, ckpt: str) -> None:
    module = build(ckpt, selectors="per_budget", budgets=[2, 4])
    assert list(module.selectors) == list(module.posteriors) == ["T2", "T4"]
    assert module.selector_for(2) is not module.selector_for(4)
    assert module.selector_for(1) is module.selector_for(2)
    before = state(module)
    seen: set[str] = set()

    class Budgets(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            seen.update(name.partition("@")[2] for name in trainer.callback_metrics if "bound_nats@" in name)

    fit(module, tmp_path, steps=1, callbacks=[Budgets()])
    after = state(module)
    nets = [name for name in before if name.startswith(("selectors.", "posteriors."))]
    changed = {name.split(".")[1] for name in nets if not torch.equal(before[name], after[name])}
    assert changed == {name.replace("=", "") for name in seen}
    with pytest.raises(ValueError, match=r"no selector for T=3: this module has one each for T=\[2, 4\]"):
        module.selector_for(3)
    shared = build(ckpt)
    assert shared.selector_for(7) is shared.selector_for(2)


# Checkpoints.


def order_checkpoint(module: OrderModule, folder: Path) -> Path:
    run = fit(module, folder, steps=2)
    run.save_checkpoint(folder / "order.ckpt")
    return folder / "order.ckpt"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selectors": "per_budget", "posterior": MAX_NORMALISED, "denoiser": "joint", "offset_fades_by": 0.7},
        {"budgets": (2, 3), "prices": (0.0, 1.0), "selector": replace(SMALL, positions=6)},
        {"finishing": True, "posterior": RELATIVE, "selector": FROM_CONFIDENCE, "warm_start_margin": 0.5},
        {"finishing": True, "posterior": RELATIVE, "selector": OF_SHARES, "warm_start_margin": 0.5},
    ],
    ids=["default", "per_budget", "prices", "finishing", "shares"],
)
def test_a_checkpoint_needs_no_other_file(tmp_path: Path, options: dict[str, Any]) -> None:
    source = denoiser_file(tmp_path, "safetensors")
    module = build(source, **options)
    path = order_checkpoint(module, tmp_path)
    Path(source).unlink()
    plain = torch.load(path, weights_only=True)["hyper_parameters"]
    assert "denoiser_ckpt" not in plain
    assert set(plain["net"]) == set(vars(TransformerConfig()))
    loaded = OrderModule.load_from_checkpoint(path)
    assert same(state(module), state(loaded))
    assert (loaded.budgets, loaded.prices, loaded.joint) == (module.budgets, module.prices, module.joint)
    assert loaded.posterior_config == module.posterior_config
    assert loaded.hparams == module.hparams
    assert loaded.selector_for(2).net.config == module.selector_for(2).net.config
    assert loaded.warm_start_margin == module.warm_start_margin
    fit(loaded, tmp_path, steps=1)  # its denoiser is a trained one


def test_the_checkpoint_of_a_law_says_which_law(tmp_path: Path) -> None:
    module = build(None, vocab_size=CHAIN.n_tokens, net=CHAIN)
    run = trainer(tmp_path, max_steps=2)
    data = torch.utils.data.DataLoader([chain_batch(range(4))] * 2, batch_size=None)  # type: ignore[arg-type]
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "law.ckpt")
    loaded = OrderModule.load_from_checkpoint(tmp_path / "law.ckpt")
    assert same(state(module), state(loaded))
    found, expected = (validate(m, [chain_batch(range(50, 54))], tmp_path) for m in (loaded, module))
    assert found == expected


@pytest.mark.parametrize(
    "options",
    [
        {"denoiser": "joint", "offset_fades_by": 0.9, "prices": (0.0, 1.0), "focus": 0.4},
        {"posterior": replace(MAX_NORMALISED, final_order_temperature=0.1), "estimator": "one_step"},
        {"selectors": "per_budget", "warm_start_steps": 4},
        {"finishing": True, "posterior": RELATIVE, "selector": FROM_CONFIDENCE, "warm_start_steps": 2},
        {"selectors": "per_budget", "posterior": RELATIVE, "selector": OF_SHARES, "warm_start_steps": 2},
        {"budget_draw": "by_evaluations", "budgets": [2, 6]},
    ],
    ids=["joint", "max_normalised", "per_budget", "relative", "shares", "by_evaluations"],
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, ckpt: str, options: dict[str, Any]
) -> None:
    class Save(SaveAt):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
            if trainer.global_step == self.step:
                trainer.save_checkpoint(self.path)

    whole, half = build(ckpt, **options), Save(3, tmp_path / "half.ckpt")
    fit(whole, tmp_path, steps=6, callbacks=[half])
    resumed = build(None, **options)  # as the same command without the denoiser's file, which may be gone
    trainer(tmp_path, max_steps=6).fit(resumed, loader(start=3), ckpt_path=str(tmp_path / "half.ckpt"))
    assert same(state(whole), state(resumed))
    assert not same(state(whole), torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"])


def test_a_denoiser_comes_from_either_kind_of_file(tmp_path: Path) -> None:
    found = [build(denoiser_file(tmp_path, kind)) for kind in ("ckpt", "safetensors")]
    assert same(state(found[0].denoiser), state(found[1].denoiser))
    assert not same(state(found[0].denoiser), state(build(None).denoiser))
    order = order_checkpoint(found[0], tmp_path)
    assert same(state(build(str(order)).denoiser), state(found[0].denoiser)), "of an OrderModule's checkpoint as well"


def test_mixed_precision_keeps_float32_weights_and_laws(
    tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    kl = NonEmptyBernoulli.kl

    def watched(law: NonEmptyBernoulli, other: NonEmptyBernoulli) -> Tensor:
        seen.update((law.log_p_BL.dtype, other.log_p_BL.dtype))
        return kl(law, other)

    monkeypatch.setattr(NonEmptyBernoulli, "kl", watched)
    for posterior in (PosteriorConfig(net=PLAIN), MAX_NORMALISED):
        for training in ("frozen", "joint"):
            module = build(ckpt, posterior=posterior, denoiser=training)
            run = fit(module, tmp_path, steps=2, precision="bf16-mixed")
            assert {value.dtype for value in state(module).values()} == {torch.float32}
            assert bool(run.callback_metrics["train/surrogate"].isfinite())
    assert seen == {torch.float32}


# Mistakes.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denoiser": "thawed"}, r"model.denoiser='thawed': choose one of frozen, joint"),
        ({"selectors": "none"}, r"model.selectors='none': choose one of shared, per_budget"),
        ({"estimator": "exact"}, r"model.estimator='exact': choose one of all_steps, one_step"),
        ({"budgets": [1, 4]}, r"model.budgets=\[1, 4\]: give step budgets of at least 2"),
        ({"budgets": []}, r"model.budgets=\[\]"),
        ({"prices": [-0.5]}, r"model.prices=\[-0.5\]"),
        ({"prices": []}, r"model.prices=\[\]"),
        ({"samples": 1}, r"model.samples=1"),
        ({"validation_samples": 0}, r"model.validation_samples=0"),
        ({"budget_draw": "often"}, r"model.budget_draw='often': choose one of uniform, by_cost, by_evaluations"),
        (
            {"budget_draw": "by_evaluations", "estimator": "one_step"},
            r"model.budget_draw='by_evaluations', model.estimator='one_step': choose by_cost or uniform",
        ),
        ({"focus": -0.1}, r"model.focus=-0.1, model.estimator='all_steps': give a number of at least 0"),
        ({"focus": 0.5, "estimator": "one_step"}, r"model.focus=0.5, model.estimator='one_step': .* 0 to one_step"),
        ({"offset_fades_by": 0.0}, r"model.offset_fades_by=0.0"),
        ({"offset_fades_by": 1.5}, r"model.offset_fades_by=1.5"),
        ({"denoiser_ckpt": "missing.ckpt"}, r"model.denoiser_ckpt=missing.ckpt: no such file"),
        ({"vocab_size": V + 1}, r"model.denoiser_ckpt=.*: its embedding.weight has shape \(12, 16\), this net's \(13,"),
        ({"net": replace(NET, layers=2)}, r"model.denoiser_ckpt=.*: its trunk.blocks.1.* has shape None, this net's"),
        (
            {"selector": OF_SHARES},
            r"model.selector.start_shares=\[0.7, 1.0, 1.4\], model.posterior.family='state_aware': choose relative",
        ),
        (
            {"finishing": True, "posterior": MAX_NORMALISED},
            r"model.finishing=true, model.posterior.family='max_normalised': .*; choose state_aware or relative",
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
        ({"final_order_temperature": -1.0}, r"posterior.final_order_temperature=-1.0"),
    ],
)
def test_wrong_options_of_the_posterior_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PosteriorConfig(**options)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("nothing")
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt=.*a.ckpt: this file is no checkpoint, or a damaged one"):
        build(str(tmp_path / "a.ckpt"))
    torch.save({"state_dict": {"other.weight": torch.zeros(1)}}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt=.*b.ckpt: this checkpoint holds no denoiser"):
        build(str(tmp_path / "b.ckpt"))


def test_a_frozen_denoiser_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.denoiser_ckpt is missing"):
        fit(build(None), tmp_path)
    fit(build(None, denoiser="joint"), tmp_path, steps=1)
    validate(build(None), [batch([1])], tmp_path)


def test_the_default_net_is_a_transformer() -> None:
    module = OrderModule(V, selector=SMALL, posterior=PosteriorConfig(net=PLAIN))
    assert module.hparams["net"] == vars(TransformerConfig())


def test_batches_say_how_many_evaluations_their_budget_takes(
    tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the mean over processes, here one too many; the batches of an update have the same budget."""
    seen: list[tuple[int, float]] = []

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        out = all_steps(*arguments, **options)
        seen.append((options["budget"], out.evaluations / out.steps_BK.numel()))
        return out

    def reduced(strategy: SingleDeviceStrategy, tensor: Tensor, *_: object, reduce_op: str = "sum") -> Tensor:
        assert reduce_op == "mean"
        return tensor + 1.0

    monkeypatch.setattr(order_module, "all_steps", watched)
    monkeypatch.setattr(SingleDeviceStrategy, "reduce", reduced)
    module = build(ckpt, budgets=[2, 6], budget_draw="by_evaluations", warm_start_steps=2)
    fit(module, tmp_path, steps=12, accumulate_grad_batches=2, enable_checkpointing=True)
    assert len(seen) == 20
    assert [budget for budget, _ in seen[::2]] == [budget for budget, _ in seen[1::2]]
    for budget, weight in zip((2, 6), module.budget_draws.weights(), strict=True):
        total = share = 0.0
        for evaluations in [evaluations for at, evaluations in seen if at == budget]:
            assert 0.0 < evaluations <= budget
            total, share = 0.95 * total + 0.05 * (evaluations + 1.0), 0.95 * share + 0.05
        assert share / total == pytest.approx(weight, rel=1e-5)
    path = next(tmp_path.rglob("*.ckpt"))
    assert OrderModule.load_from_checkpoint(path).budget_draws.weights() == module.budget_draws.weights()
    by_cost = OrderModule.load_from_checkpoint(path, budget_draw="by_cost")
    assert by_cost.budget_draws.weights() == [1 / 2, 1 / 6]
    fit(by_cost, tmp_path / "by_cost", steps=1, enable_checkpointing=True)
    path = next((tmp_path / "by_cost").rglob("*.ckpt"))
    anew = OrderModule.load_from_checkpoint(path, budget_draw="by_evaluations", warm_start_steps=0)
    assert anew.budget_draws.weights() == [1.0, 1.0]
    with pytest.warns(UserWarning, match=r"self.log\(\)"):
        anew.training_step(batch([1, 2]), 0)  # a loop of one's own, without a Trainer
    assert anew.budget_draws.weights() != [1.0, 1.0]


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


def test_examples_weigh_by_what_is_usual_at_their_budget(
    tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean logarithm of that budget's earlier batches, the latest counting most; 0 before the first."""
    seen: list[tuple[int, float, float]] = []

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        out = all_steps(*arguments, **options)
        mean = float(out.log_success_BK.double().exp().mean().log())
        seen.append((options["budget"], options["usual_log_success"], mean))
        assert options["focus"] == 0.3
        return out

    monkeypatch.setattr(order_module, "all_steps", watched)
    module = build(ckpt, focus=0.3, budgets=[2, 3])
    run = fit(module, tmp_path, steps=12)
    assert 0.0 < float(run.callback_metrics["train/effective_share_of_examples"]) <= 1.0
    plain = build(ckpt, budgets=[2, 3])
    monkeypatch.undo()
    run = fit(plain, tmp_path, steps=12)
    assert "train/effective_share_of_examples" not in run.callback_metrics, "all count alike"
    assert not same(state(module.order_nets), state(plain.order_nets))
    for budget in (2, 3):
        known = [(usual, mean) for at, usual, mean in seen if at == budget]
        assert len(known) > 2
        total = share = 0.0
        for usual, mean in known:
            assert mean < 0.0
            assert usual == pytest.approx(total / share if share else 0.0, rel=1e-4)
            total, share = 0.95 * total + 0.05 * mean, 0.95 * share + 0.05


def test_a_checkpoint_of_other_budgets_or_focus_starts_what_was_seen_anew(tmp_path: Path, ckpt: str) -> None:
    """As one that has them elsewhere, or knows nothing of a focus, does."""
    fit(build(ckpt, focus=0.3), tmp_path, steps=4, enable_checkpointing=True)
    path = next(tmp_path.rglob("*.ckpt"))
    saved = torch.load(path, weights_only=False)
    assert saved["state_dict"]["earlier.usual_success"][:, 1].any()
    assert OrderModule.load_from_checkpoint(path).earlier.usual_success.equal(
        saved["state_dict"]["earlier.usual_success"]
    )
    for other in ({"budgets": [2, 9]}, {"focus": 0.1}, {"focus": 0.0}):
        again = OrderModule.load_from_checkpoint(path, **other)
        assert not again.earlier.usual_success.any()
        assert again.earlier.control_moments.any() == ("focus" in other)
    for name in [name for name in saved["state_dict"] if name.startswith("earlier.")]:
        saved["state_dict"][name.removeprefix("earlier.")] = saved["state_dict"].pop(name)
    del saved["state_dict"]["focus"]
    torch.save(saved, tmp_path / "without.ckpt")
    assert not OrderModule.load_from_checkpoint(tmp_path / "without.ckpt").earlier.usual_success.any()
