"""What an update of an order is made of: its draws, its states, its weights; and what validation reports of it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.data.batch import Batch
from lightning_mdm.modules import order_module
from lightning_mdm.modules.denoiser import training_t
from lightning_mdm.modules.imitation import IMITATED_LOGIT, imitation
from lightning_mdm.modules.order_batch import BatchModel, StateReading
from lightning_mdm.modules.order_draws import draw_sets
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.order_net import OrderReading
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.row_features import IIDOffset
from lightning_mdm.noise import RowNoise
from lightning_mdm.objectives.order_elbo import OrderElbo, all_steps
from lightning_mdm.objectives.order_model import States
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli
from lightning_mdm.vocabulary import TokenSpace
from modules.orders import FROM_CONFIDENCE, LAWS, MAX_NORMALISED, PLAIN, RELATIVE, build, fit, validate
from modules.test_denoiser_module import V, batch, trainer


def test_budget_and_price_of_an_update_are_drawn_apart(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a small budget would be learned at small prices alone; and another seed draws others."""
    updates: dict[int, list[tuple[int, float]]] = {0: [], 1: []}

    class DrawnError(Exception):
        """All that is asked is known."""

    for seed, seen in updates.items():
        module = build(ckpt, budgets=[2, 3], prices=[0.0, 0.5], noise_seed=seed)

        def noted(batch: Batch, budget: int, price: float, seen: list[tuple[int, float]] = seen) -> None:
            seen.append((budget, price))
            raise DrawnError

        monkeypatch.setattr(module, "batch_model", noted)
        for step in range(400):
            monkeypatch.setattr(OrderModule, "global_step", step)
            with pytest.raises(DrawnError):
                module.training_step(batch([1]), 0)
        assert_follows(Counter(seen), dict.fromkeys(itertools.product((2, 3), (0.0, 0.5)), 0.25))
    assert updates[0] != updates[1]


def test_every_update_problem_and_trajectory_draws_sets_of_its_own(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[bool, ...]] = []
    law = NonEmptyBernoulli.from_logits(torch.zeros(6, 50), torch.ones(6, 50, dtype=torch.bool))

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        for step in (1, 2):
            drawn.extend(map(tuple, options["choose"](law, torch.arange(6), step).tolist()))
        return all_steps(*arguments, **options)

    monkeypatch.setattr(order_module, "all_steps", watched)
    module = build(ckpt, samples=3)
    for update in (0, 1):
        model = module.batch_model(batch([7, 8]), 3, 0.0)
        module.objective(model, RowNoise(0, model.batch.index_B), update)
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 6


def test_the_seed_decides_the_sets_too(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def watched(self: OrderModule, model: BatchModel, noise: RowNoise, step: int) -> OrderElbo:
        seeds.append(noise.seed)
        return objective(self, model, noise, step)

    objective = OrderModule.objective
    monkeypatch.setattr(OrderModule, "objective", watched)
    with pytest.warns(UserWarning, match=r"self.log\(\)"):
        build(ckpt, noise_seed=5).training_step(batch([1, 2]), 0)
    assert seeds == [5]


def test_drawn_sets_follow_a_law_that_finishes() -> None:
    """Without a prompt, too: whether to finish and what is left out first are draws of their own."""
    n, places = 20_000, (0, 1, 2)
    one = FinishingBernoulli.from_logits(
        torch.tensor([[0.5, -0.4, 1.0]]), torch.tensor([-0.3]), torch.ones(1, 3, dtype=torch.bool)
    )
    law, each = one.rows(torch.zeros(n, dtype=torch.int64)), torch.arange(n)
    drawn_NL = draw_sets(RowNoise(0, each), 0, law, each, 1)
    expected = {
        chosen: float(one.log_prob(torch.tensor([[i in chosen for i in places]])).double().exp())
        for size in (1, 2, 3)
        for chosen in itertools.combinations(places, size)
    }
    total = sum(expected.values())
    found = Counter(tuple(i for i in places if row[i]) for row in drawn_NL.tolist())
    assert_follows(found, {chosen: p / total for chosen, p in expected.items()})


def imitated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[States, StateReading]]:
    """The states that a warm start reads from now on, and what it reads."""
    seen: list[tuple[States, StateReading]] = []
    read = BatchModel.read

    def watched(self: BatchModel, states: States) -> StateReading:
        seen.append((states, read(self, states)))
        return seen[-1][1]

    monkeypatch.setattr(BatchModel, "read", watched)
    return seen


def test_states_to_imitate_are_those_of_the_iid_schedule(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something is masked in each, the more, the more steps are left."""
    seen = imitated(monkeypatch)
    module = build(ckpt, posterior=RELATIVE, budgets=[64])
    model = module.batch_model(batch(list(range(400))), 64, 0.0)
    noise = RowNoise(0, model.batch.index_B)
    for update in (0, 1):
        assert bool(imitation(model, noise, update, 0.8).isfinite())
    (states, _), (other, _) = seen
    assert states.steps_left_S.tolist() == [max(2, math.ceil(64 * t)) for t in training_t(noise, 0, 1e-3).tolist()]
    for own, another in ((states.masked_SL, other.masked_SL), (states.steps_left_S, other.steps_left_S)):
        assert not torch.equal(own, another), "every update has states of its own"
    masked_S = states.masked_SL.sum(-1)
    assert sorted(set(masked_S.tolist())) == [1, 2, 3]
    assert 2 <= int(states.steps_left_S.min()) <= int(states.steps_left_S.max()) <= 64
    assert float(torch.corrcoef(torch.stack((masked_S, states.steps_left_S)).double())[0, 1]) > 0.5


@pytest.mark.parametrize(
    "options", [{"posterior": RELATIVE}, {}, {"selector": FROM_CONFIDENCE}], ids=["selector", "both", "posterior"]
)
def test_the_pull_of_the_iid_schedule_is_not_imitated(ckpt: str, options: dict[str, Any]) -> None:
    """It has no part in the distance: an untrained selector has nothing else in its logits."""
    error = []
    for weight in (0.0, 1.0):
        module = build(ckpt, budgets=[64], **options)
        for net in module.modules():
            if isinstance(net, IIDOffset):
                net.weight.fill_(weight)
        model = module.batch_model(batch(list(range(8))), 64, 0.0)
        error.append(float(imitation(model, RowNoise(0, model.batch.index_B), 0, 0.8).detach()))
    assert error[0] == pytest.approx(error[1], rel=1e-5)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.8])
def test_logits_imitate_the_margin_less_its_threshold(
    ckpt: str, monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    """Those of an untrained selector are 0 but for the pull of the IID schedule, which is not imitated."""
    seen = imitated(monkeypatch)
    model = build(ckpt, posterior=RELATIVE).batch_model(batch(list(range(8))), 3, 0.0)
    error = float(imitation(model, RowNoise(0, model.batch.index_B), 0, threshold).detach())
    ((states, reading),) = seen
    distance_SL = IMITATED_LOGIT * (reading.margin_SL - threshold)
    assert error == pytest.approx(float(distance_SL[states.masked_SL].square().mean()), rel=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no Trainer
@pytest.mark.parametrize("posterior", [PosteriorConfig(net=PLAIN), RELATIVE, MAX_NORMALISED], ids=lambda p: p.family)
def test_what_is_imitated_is_not_trained(posterior: PosteriorConfig) -> None:
    """The denoiser; a joint one has its own objective beside it."""
    module = build(None, denoiser="joint", posterior=posterior, warm_start_steps=1)
    for weight in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        torch.nn.init.normal_(weight, std=0.2)
    model = module.batch_model(batch(list(range(8))), 3, 0.0)
    imitation(model, RowNoise(0, model.batch.index_B), 0, 0.8).backward()
    assert any(bool(p.grad.any()) for p in module.selectors.parameters() if p.grad is not None)
    assert all(p.grad is None for p in module.denoiser.parameters())
    found = []
    for weight in (0.0, 1.0):
        module.zero_grad()
        module.denoising_weight = weight
        module.training_step(model.batch, 0).backward()
        found.append(sum(float(p.grad.square().sum()) for p in module.denoiser.parameters() if p.grad is not None))
    assert found[0] == 0.0
    assert found[1] > 0.0


def test_scores_imitate_the_margin_itself(ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = imitated(monkeypatch)
    module = build(ckpt, posterior=MAX_NORMALISED)

    def error(scores: OrderReading | None = None) -> float:
        if scores is not None:
            monkeypatch.setattr(BatchModel, "scores", scores)
        model = module.batch_model(batch(list(range(8))), 3, 0.0)
        return float(imitation(model, RowNoise(0, model.batch.index_B), 0, 0.8).detach())

    error()
    margin_SL, none_BD = seen[0][1].margin_SL, torch.zeros(8, 1)
    right, wrong = (error(OrderReading(sign * margin_SL, none_BD)) for sign in (1.0, -1.0))
    masked_SL = seen[0][0].masked_SL
    assert wrong - right == pytest.approx(4.0 * float(margin_SL[masked_SL].square().mean()), rel=1e-3)


@pytest.mark.parametrize("padded", [False, True])
def test_the_denoiser_is_given_a_mask_where_something_is_padding(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one attention has faster kernels."""
    module = build(None)
    rows = batch(list(range(4)))
    if padded:
        valid_BL = rows.valid_BL.clone()
        valid_BL[0, -1] = False
        rows = Batch(rows.tokens_BL, rows.prompt_BL, valid_BL, rows.index_B)
    given: list[Tensor | None] = []
    forward = module.denoiser.forward
    monkeypatch.setattr(
        module.denoiser, "forward", lambda z, valid, query: given.append(valid) or forward(z, valid, query)
    )
    model = module.batch_model(rows, 3, 0.0)
    module.objective(model, RowNoise(0, rows.index_B), 0)
    assert len(given) >= 2
    assert all((valid_SL is not None) == padded for valid_SL in given)
    assert not padded or any(not bool(valid_SL.all()) for valid_SL in given if valid_SL is not None)


def test_the_entropy_bonus_fades_linearly(tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        seen.append(options["entropy_bonus"])
        return all_steps(*arguments, **options)

    monkeypatch.setattr(order_module, "all_steps", watched)
    fit(build(ckpt, entropy_bonus=0.4, entropy_fades_by=0.5), tmp_path, steps=5)
    assert seen == pytest.approx([0.4, 0.2, 0.0, 0.0, 0.0])


def test_what_is_never_generated_costs_no_bound_its_probability(tmp_path: Path, ckpt: str) -> None:
    """Under a datamodule that says so, as decoding has it."""

    class Data(L.LightningDataModule):
        def __init__(self, forbidden: tuple[int, ...]) -> None:
            super().__init__()
            self.token_space = TokenSpace(V, eos_id=None, pad_id=0, forbidden=forbidden)

        def val_dataloader(self) -> Any:
            return torch.utils.data.DataLoader([batch([1, 2, 3])], batch_size=None)  # type: ignore[arg-type]

    module = build(ckpt)
    some, fewer = (
        trainer(tmp_path).validate(module, datamodule=Data(forbidden), verbose=False)[0]
        for forbidden in ((), (7, 8, 9))
    )
    for name in ("learned", "iid"):
        assert fewer[f"val/token_nats@T=3/{name}"] < 0.95 * some[f"val/token_nats@T=3/{name}"]


def test_iid_positions_fall_apart(tmp_path: Path, ckpt: str) -> None:
    """Each at a step of its own drawing: three of them in three steps take 3 (1 - (2/3)^3) on average."""
    found = validate(build(ckpt, validation_samples=8), [batch(list(range(200)))], tmp_path)
    assert found["val/steps_of_q@T=3/iid"] == pytest.approx(3.0 * (1.0 - (2 / 3) ** 3), abs=0.1)


def test_the_control_variate_is_regressed_on_earlier_batches(
    tmp_path: Path, ckpt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Covariance over variance of that budget's batches, the latest counting most."""
    seen: list[tuple[int, list[float], Tensor]] = []

    def watched(*arguments: Any, **options: Any) -> OrderElbo:
        out = all_steps(*arguments, **options)
        seen.append((options["budget"], options["control"], out.control_moments.double()))
        return out

    monkeypatch.setattr(order_module, "all_steps", watched)
    fit(build(ckpt, budgets=[2, 3], samples=4), tmp_path, steps=10)
    for budget in (2, 3):
        moments_T2 = torch.zeros(budget - 1, 2, dtype=torch.float64)
        for control, new_T2 in [(control, new_T2) for at, control, new_T2 in seen if at == budget]:
            expected = (moments_T2[:, 0] / moments_T2[:, 1].clamp(min=1e-6)).tolist()
            assert control[: budget - 1] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            moments_T2[: len(new_T2)] = moments_T2[: len(new_T2)].lerp(new_T2, 0.05)
        assert bool(moments_T2.any())


@pytest.mark.parametrize("law", ["finishing", "relative_finishing", "levelled_finishing"])
def test_bounds_that_finish_are_the_same_for_any_batch_size(tmp_path: Path, ckpt: str, law: str) -> None:
    module = build(ckpt, prices=[0.2], **LAWS[law])
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        torch.nn.init.normal_(p, std=0.4)
    found = [validate(module, [batch(part) for part in parts], tmp_path) for parts in ([[0, 37, 90]], [[90], [37, 0]])]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
