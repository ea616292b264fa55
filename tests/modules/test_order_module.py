"""Learning an order under a Trainer: what trains, by how much, and what is logged."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lightning_mdm import compilation
from lightning_mdm.modules import order_module
from lightning_mdm.modules.budget_curves import BudgetCurves
from lightning_mdm.modules.imitation import imitation
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.transformer import Block
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives import order_term
from lightning_mdm.objectives.order_elbo import OrderElbo, all_steps
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli
from modules.orders import (
    LAWS,
    MAX_NORMALISED,
    NO_POSTERIOR,
    PLAIN,
    RELATIVE,
    build,
    fit,
    moved,
    same,
    state,
)
from modules.test_denoiser_module import batch, trainer


@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
@pytest.mark.parametrize(
    "posterior", [PosteriorConfig(net=PLAIN), RELATIVE, MAX_NORMALISED, NO_POSTERIOR], ids=lambda p: p.family
)
@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_what_is_to_train_trains_and_a_frozen_denoiser_stays(
    tmp_path: Path, ckpt: str, training: str, posterior: PosteriorConfig, estimator: str
) -> None:
    finishing = posterior.family == "relative"
    module = build(ckpt, denoiser=training, posterior=posterior, estimator=estimator, finishing=finishing)
    before = state(module)
    run = fit(module, tmp_path, steps=4)
    expected = {"selectors"} | ({"denoiser"} if training == "joint" else set())
    expected |= {"posteriors"} if posterior != NO_POSTERIOR else set()
    expected |= {"earlier"} if estimator == "all_steps" else set()
    assert moved(before, state(module)) == expected
    assert all(bool(value.isfinite().all()) for value in state(module).values())
    assert bool(run.callback_metrics["train/surrogate"].isfinite())
    assert ("train/denoising_surrogate" in run.callback_metrics) == (training == "joint")


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_16_bits_are_refused_wherever_a_bound_is_evaluated(
    tmp_path: Path, ckpt: str, precision: str
) -> None:
    refused = pytest.raises(ValueError, match=rf"trainer.precision={precision}, .*give bf16-mixed")
    with refused:
        fit(build(ckpt, bound_budgets=[]), tmp_path, steps=1, precision=precision)
    data: Any = torch.utils.data.DataLoader([batch([1, 2])], batch_size=None)  # type: ignore[arg-type]
    for loop in ("validate", "test"):
        with refused:
            getattr(trainer(tmp_path, precision=precision), loop)(build(ckpt), data, verbose=False)
        getattr(trainer(tmp_path, precision=precision), loop)(build(ckpt, bound_budgets=[]), data, verbose=False)


def test_the_step_that_is_evaluated_does_not_follow_from_a_mask(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of the same update train a joint denoiser."""
    module = build(ckpt, estimator="one_step", budgets=[64], posterior=MAX_NORMALISED)
    asked: list[Tensor] = []
    monkeypatch.setattr("lightning_mdm.modules.order_module.one_step", lambda *given, **_: asked.append(given[2]))
    model = module.batch_model(batch(list(range(40))), 64, 0.0)
    noise = RowNoise(0, model.batch.index_B)
    module.objective(model, noise, 0)
    (step_B,) = asked
    assert int(step_B.min()) >= 1
    assert int(step_B.max()) <= 64
    mask_B = noise.uniform_BL(Stream.MASK, 0, 1)[:, 0]
    assert torch.corrcoef(torch.stack((step_B.double(), mask_B)))[0, 1].abs() < 0.5


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("training", ["frozen", "joint"])
def test_every_parameter_that_trains_gets_a_gradient(tmp_path: Path, ckpt: str, training: str, law: str) -> None:
    """Of the bound itself: with joint training the denoiser's too, without its own objective."""
    module = build(ckpt, denoiser=training, denoising_weight=0.0, samples=4, **LAWS[law])
    torch.manual_seed(1)  # laws with parts that come into play in some states only
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


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch warns of parts of its own
@pytest.mark.parametrize(
    ("law", "options"),
    [
        ("relative_finishing", {}),
        ("state_aware", {"estimator": "one_step", "posterior": MAX_NORMALISED, "denoiser": "joint"}),
    ],
)  # fmt: skip
def test_what_is_compiled_learns_what_is_plain_does(
    ckpt: str, law: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # its graphs, run as they are
    plain, plain_block = compilation.compiled_once, Block.compile
    plain.cache_clear()
    found: dict[bool, list[Tensor]] = {}
    names: dict[bool, set[str]] = {}
    asked: dict[bool, set[object]] = {False: set(), True: set()}
    for compiled in (False, True):
        monkeypatch.setattr(compilation, "compiled_once", lambda f, c=compiled: asked[c].add(f) or plain(f))
        monkeypatch.setattr(
            Block, "compile", lambda self, c=compiled, **how: asked[c].add(Block) or plain_block(self, **how)
        )
        module = build(ckpt, compile=compiled, **LAWS[law], **options)
        module.setup("fit")
        for step, (budget, price) in enumerate([(3, 0.0), (2, 0.3)]):
            model = module.batch_model(batch([5, 61, 7]), budget, price)
            assert [isinstance(value, Tensor) for value in model.told] == [compiled, compiled], "a program for all"
            out = module.objective(model, RowNoise(0, model.batch.index_B), step)
            out.surrogate.backward()
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        found[compiled] = [out.surrogate.detach(), out.bound_nats_B, out.score_variance, *gradients]
        names[compiled] = set(module.state_dict())
    plain.cache_clear()
    assert not asked[False]
    assert {Block, order_term.expected} <= asked[True]
    assert (order_term.taken in asked[True]) == ("estimator" not in options)
    assert names[True] == names[False]
    for with_it, without in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-6)


def test_tokens_that_are_never_generated_leave_finite_gradients(ckpt: str) -> None:
    """Their logits are minus infinity, and the selector reads confidence through them."""
    module = build(ckpt, denoiser="joint")
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.5)
    model = replace(module.batch_model(batch([3, 14, 15]), 3, 0.0), forbidden=(7, 8, 9))
    out = module.objective(model, RowNoise(0, model.batch.index_B), 0)
    (1e3 * out.surrogate).backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)


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
        model = build(ckpt, posterior=RELATIVE).batch_model(batch(range(8)), 3, 0.0)
        error.append(float(imitation(model, RowNoise(0, model.batch.index_B), 0, threshold).detach()))
    # 144 (margin - threshold)^2 in the mean, margins between -1 and 1.
    assert error[0] - 2.0 * error[1] + error[2] == pytest.approx(72.0, rel=1e-5)
    assert error[0] < 144.0
    assert error[0] != error[2]


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


def test_of_one_random_step_only_the_mean_number_of_steps_is_known(tmp_path: Path, ckpt: str) -> None:
    module = build(ckpt, budgets=[3], estimator="one_step", posterior=MAX_NORMALISED)
    found = fit(module, tmp_path).callback_metrics
    assert float(found["train/steps_of_q@T=3"]) > 0.0
    assert not any("fewest" in name or "most" in name for name in found)


def test_a_budget_has_a_point_where_it_was_drawn_and_nowhere_else(tmp_path: Path, ckpt: str) -> None:
    module, drawn, costs = build(ckpt, budgets=[2, 3, 4], noise_seed=3), [], []

    class Drawn(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            drawn.append(module.budget_drawn)
            costs.append(float(trainer.callback_metrics[f"train/bound_nats@T={drawn[-1]}"]))

    logger = CSVLogger(tmp_path, name="", version="")
    fit(module, tmp_path, steps=9, callbacks=[Drawn()], logger=logger, log_every_n_steps=3)
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for budget in (2, 3, 4):
        found = {int(row["step"]): float(value) for row in rows if (value := row.get(f"train/bound_nats@T={budget}"))}
        parts = {end: [costs[k] for k in range(end - 2, end + 1) if drawn[k] == budget] for end in (2, 5, 8)}
        wanted = {end: sum(part) / len(part) for end, part in parts.items() if part}
        assert found == pytest.approx(wanted, rel=1e-5)
    assert len({tuple(drawn[k : k + 3].count(T) for T in (2, 3, 4)) for k in (0, 3, 6)}) > 1, "nothing to tell apart"
    assert any(drawn[k : k + 3].count(T) == 0 for T in (2, 3, 4) for k in (0, 3, 6)), "no budget is missing anywhere"


def test_a_point_has_the_extremes_of_the_updates_that_it_sums_up() -> None:
    """The fewest steps and the most of any trajectory, the mean of all; the next point begins anew."""
    curves, written = BudgetCurves(), []
    module = SimpleNamespace(log=lambda *_, **__: None)
    logger = SimpleNamespace(log_metrics=lambda metrics, step: written.append((step, metrics)))
    trainer = SimpleNamespace(log_every_n_steps=2, loggers=[logger])
    for update, steps in enumerate(([[1, 4]], [[2, 3]], [[2, 2]], [[3, 3]])):
        elbo = SimpleNamespace(bound_nats_B=torch.tensor([1.0 + update]), steps_BK=torch.tensor(steps).double())
        curves.add(module, elbo, budget=4, trajectories=True)  # type: ignore[arg-type]
        curves.write(trainer, update)  # type: ignore[arg-type]
    names = ("bound_nats", "steps_of_q", "fewest_steps_of_q", "most_steps_of_q")
    assert [(step, [metrics[f"train/{name}@T=4"] for name in names]) for step, metrics in written] == [
        (1, [1.5, 2.5, 1.0, 4.0]), (3, [3.5, 2.5, 2.0, 3.0]),
    ]  # fmt: skip


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


def test_a_net_rests_while_another_budget_is_drawn(tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Adam's momentum from an earlier update, zeros in place of no gradient would move it."""
    module = build(ckpt, selectors="per_budget", budgets=[2, 4])
    drawn = (2, 4, 4, 2)
    monkeypatch.setattr(module.budget_draws, "draw", lambda step, uniform: drawn[step])
    moved: list[set[str]] = []

    class Moved(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
            self.before = state(module)

        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            after = state(module)
            nets = [name for name in after if name.startswith(("selectors.", "posteriors."))]
            moved.append({name.split(".")[1] for name in nets if not torch.equal(self.before[name], after[name])})

    fit(module, tmp_path, steps=len(drawn), callbacks=[Moved()])
    assert moved == [{f"T{budget}"} for budget in drawn]


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
