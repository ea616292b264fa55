"""The finishing law against enumeration: probabilities, divergence, gradients and samples.

The reference lists all subsets and multiplies coins, as the definition does; no closed form of the package is used.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.orders.finishing_law import FinishingBernoulli

EXACT = {"rtol": 1e-9, "atol": 1e-10}
SetLaw = dict[tuple[int, ...], Tensor]

# Logits of one row, None where the position is not masked, and the logit of finishing.
ROWS: dict[str, tuple[list[float | None], float]] = {
    "ordinary": ([0.3, -1.2, None, 2.0], -0.4),
    "all_masked": ([-0.7, 0.1, -0.4, 1.5], 0.8),
    "two": ([None, 0.4, None, -0.3], -1.0),
    "one": ([None, 0.4, None, None], -3.0),
    "none": ([None, None, None, None], 1.0),
    "unlikely": ([-30.0, -30.0, None, -29.0], -2.0),
    "likely": ([9.0, 12.0, 8.0, None], -1.0),
    "extremes": ([12.0, -12.0, 0.0, -12.0], 5.0),
    "never": ([0.5, 0.0, -0.5, 1.0], -30.0),
    "always": ([0.5, 0.0, -0.5, 1.0], 30.0),
}


def law_of(row: tuple[list[float | None], float], dtype: torch.dtype = torch.float64) -> FinishingBernoulli:
    logits, finish = row
    masked_1L = torch.tensor([[a is not None for a in logits]])
    logits_1L = torch.tensor([[99.0 if a is None else a for a in logits]], dtype=dtype)
    return FinishingBernoulli.from_logits(logits_1L, torch.tensor([finish], dtype=dtype), masked_1L)


def subsets(masked: list[int]) -> list[tuple[int, ...]]:
    found = [c for size in range(1, len(masked) + 1) for c in itertools.combinations(masked, size)]
    return found or [()]


def as_mask(chosen: tuple[int, ...]) -> Tensor:
    return torch.tensor([[i in chosen for i in range(4)]])


def of(law: FinishingBernoulli) -> SetLaw:
    """log P of every set by the definition: f for everything, the rest shared out by products of coins."""
    masked = law.masked_BL[0].nonzero()[:, 0].tolist()
    if len(masked) <= 1:
        return {tuple(masked): law.log_f_B.new_zeros(())}
    log_p, log_not_p = law.coins.log_p_BL[0], law.coins.log_not_p_BL[0]
    weight = {u: sum(log_p[i] if i in u else log_not_p[i] for i in masked) for u in subsets(masked)[:-1]}
    total = torch.stack(list(weight.values())).logsumexp(0)
    return {**{u: law.log_not_f_B[0] + w - total for u, w in weight.items()}, tuple(masked): law.log_f_B[0]}


def kl(q: SetLaw, p: SetLaw) -> Tensor:
    return torch.stack([q[u].exp() * (q[u] - p[u]) for u in q]).sum()


@pytest.mark.parametrize("name", ROWS)
def test_probabilities_marginals_and_entropy_are_the_enumerated_ones(name: str) -> None:
    law = law_of(ROWS[name])
    expected = of(law)
    for chosen, log_p in expected.items():
        torch.testing.assert_close(law.log_prob(as_mask(chosen)), log_p[None], **EXACT)
    assert sum(float(law.log_prob(as_mask(u)).exp()) for u in expected) == pytest.approx(1.0, abs=1e-12)
    marginal = [sum(float(a.exp()) for u, a in expected.items() if i in u) for i in range(4)]
    torch.testing.assert_close(law.marginal_BL, torch.tensor([marginal], dtype=torch.float64), **EXACT)
    entropy = -torch.stack([a.exp() * a for a in expected.values()]).sum()
    torch.testing.assert_close(law.entropy(), entropy[None], **EXACT)


def check_kl(q: tuple[list[float | None], float], p: tuple[list[float | None], float]) -> None:
    torch.testing.assert_close(law_of(q).kl(law_of(p)), kl(of(law_of(q)), of(law_of(p)))[None], **EXACT)


@pytest.mark.parametrize("name", ROWS)
def test_the_divergence_is_the_enumerated_one(name: str) -> None:
    logits, finish = ROWS[name]
    generator = torch.Generator().manual_seed(0)
    for scale in (0.5, 3.0):
        drawn = (scale * torch.randn(5, generator=generator, dtype=torch.float64)).tolist()
        other = ([None if a is None else b for a, b in zip(logits, drawn[:4], strict=True)], drawn[4])
        check_kl((logits, finish), other)
        check_kl(other, (logits, finish))
    assert law_of(ROWS[name]).kl(law_of(ROWS[name])).item() == pytest.approx(0.0, abs=1e-12)


QUANTITIES: dict[str, Callable[[FinishingBernoulli, FinishingBernoulli], Tensor]] = {
    "marginal": lambda law, other: (law.marginal_BL * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum(-1),
    "entropy": lambda law, other: law.entropy(),
    "kl": lambda law, other: law.kl(other),
    "log_prob": lambda law, other: law.log_prob(law.masked_BL & torch.tensor([[True, False, True, False]])),
    "log_prob_of_everything": lambda law, other: law.log_prob(law.masked_BL),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_gradients_are_those_of_finite_differences(quantity: str) -> None:
    masked_BL = torch.tensor([[True, True, False, True], [True] * 4, [True, False, True, False]])
    generator = torch.Generator().manual_seed(2)
    leaves = [torch.randn(3, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 1, 4, 1)]

    def value(first_BL: Tensor, first_B1: Tensor, second_BL: Tensor, second_B1: Tensor) -> Tensor:
        law = FinishingBernoulli.from_logits(first_BL, first_B1[:, 0], masked_BL)
        other = FinishingBernoulli.from_logits(second_BL, second_B1[:, 0], masked_BL)
        return QUANTITIES[quantity](law, other)

    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("name", ROWS)
def test_the_score_is_the_gradient_of_log_prob(name: str) -> None:
    logits, finish = ROWS[name]
    masked_1L = torch.tensor([[a is not None for a in logits]])
    for chosen in of(law_of(ROWS[name])):
        logits_1L = torch.tensor([[0.0 if a is None else a for a in logits]], dtype=torch.float64, requires_grad=True)
        finish_1 = torch.tensor([finish], dtype=torch.float64, requires_grad=True)
        law = FinishingBernoulli.from_logits(logits_1L, finish_1, masked_1L)
        found = torch.autograd.grad(law.log_prob(as_mask(chosen)).sum(), (logits_1L, finish_1), allow_unused=True)
        slopes = [torch.zeros(n) if g is None else g.view(n) for g, n in zip(found, (4, 1), strict=True)]
        expected_1L = torch.cat(slopes)[None]
        torch.testing.assert_close(law.score(as_mask(chosen)), expected_1L.double(), rtol=1e-7, atol=1e-9)


def uniforms(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, generator=generator, dtype=torch.float64).clamp(min=1e-300),
        torch.rand(n, 4, generator=generator, dtype=torch.float64),
    )


def check_samples(row: tuple[list[float | None], float], dtype: torch.dtype = torch.float64) -> None:
    n = 20_000
    drawn_NL = law_of(row, dtype).rows(torch.zeros(n, dtype=torch.int64)).sample(*uniforms(n, seed=3))
    counts = Counter(tuple(i for i in range(4) if taken[i]) for taken in drawn_NL.tolist())
    assert_follows(counts, {chosen: float(a.exp()) for chosen, a in of(law_of(row)).items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ROWS)
def test_samples_follow_the_enumerated_law(name: str, dtype: torch.dtype) -> None:
    check_samples(ROWS[name], dtype)


def test_the_extreme_uniforms_give_sets_of_the_law() -> None:
    edge = 2.0**-53
    for row in ROWS.values():
        law = law_of(row)
        for first, others in itertools.product((edge, 1.0 - edge), repeat=2):
            drawn_1L = law.sample(
                torch.tensor([first], dtype=torch.float64), torch.full((1, 4), others, dtype=torch.float64)
            )
            assert tuple(drawn_1L[0].nonzero()[:, 0].tolist()) in of(law)


def test_the_greedy_rule_finishes_above_one_half_and_else_leaves_the_least_likely() -> None:
    tie_1L = torch.rand(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def greedy(logits: list[float | None], finish: float) -> list[int]:
        return law_of((logits, finish)).likeliest(tie_1L)[0].nonzero()[:, 0].tolist()

    assert greedy([-3.0, -2.0, -1.0, None], 0.1) == [0, 1, 2]
    assert greedy([3.0, 0.5, -1.0, None], -0.1) == [0, 1]
    assert greedy([-3.0, -2.0, -1.0, None], -0.1) == [2]
    assert greedy([3.0, 2.0, 1.0, None], -0.1) == [0, 1]
    assert greedy([None, -2.0, None, None], -9.0) == [1]
    assert greedy([None, None, None, None], -9.0) == []


def test_equal_positions_are_left_out_in_turn() -> None:
    n = 9_000
    law = law_of(([1.0, None, 1.0, 1.0], -1.0)).rows(torch.zeros(n, dtype=torch.int64))
    left_NL = law.masked_BL & ~law.likeliest(uniforms(n, seed=4)[1])
    assert bool((left_NL.sum(-1) == 1).all())
    assert_follows(Counter(left_NL.int().argmax(-1).tolist()), {0: 1 / 3, 2: 1 / 3, 3: 1 / 3})


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 2.0, 1e3])
@pytest.mark.parametrize("name", ROWS)
def test_a_scaled_law_is_a_law_with_scaled_probabilities(name: str, factor: float) -> None:
    law = law_of(ROWS[name])
    scaled = law.scaled(factor)
    torch.testing.assert_close(scaled.log_f_B.exp(), (factor * law.log_f_B.exp()).clamp(max=1.0))
    torch.testing.assert_close(scaled.coins.log_p_BL, law.coins.scaled(factor).log_p_BL)
    log_p = [scaled.log_prob(as_mask(chosen)) for chosen in of(law)]
    assert sum(float(a.exp()) for a in log_p) == pytest.approx(1.0, abs=1e-12)
    drawn_NL = scaled.rows(torch.zeros(200, dtype=torch.int64)).sample(*uniforms(200, seed=5))
    assert bool((drawn_NL.any(-1) == law.masked_BL.any()).all())


@pytest.mark.parametrize(
    "logits",
    [[-0.4, 2.0, None, -0.6], [2.0, -0.4, -0.9, 1.5], [-0.4, -0.3, -0.6, 2.0], [2.0, 1.0, -0.5, None], [-1.0, 2.0] * 2],
)
def test_where_scaling_makes_positions_certain_samples_follow_the_enumerated_law(logits: list[float | None]) -> None:
    """They are never left out of a proper part."""
    law, n = law_of((logits, -2.0)).scaled(2.0), 20_000
    assert bool((law.coins.log_p_BL[law.masked_BL] == 0.0).any())
    drawn_NL = law.rows(torch.zeros(n, dtype=torch.int64)).sample(*uniforms(n, seed=6))
    counts = Counter(tuple(i for i in range(4) if taken[i]) for taken in drawn_NL.tolist())
    assert_follows(counts, {u: p for u, a in of(law).items() if (p := float(a.exp())) > 0.0})


@pytest.mark.parametrize("name", ROWS)
def test_a_moved_law_has_its_odds_multiplied(name: str) -> None:
    by_1L, by_1 = torch.tensor([[0.7, -1.3, 2.0, -0.2]], dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)
    law, everything = law_of(ROWS[name]), tuple(law_of(ROWS[name]).masked_BL[0].nonzero()[:, 0].tolist())
    for moved, factor in ((law.moved(by_1L, by_1), math.exp(0.9)), (law.moved(by_1L), 1.0)):
        parts = {
            u: float(a.exp()) * math.prod(math.exp(by_1L[0, i]) for i in u)
            for u, a in of(law).items()
            if u != everything
        }
        finish = float(law.log_f_B.exp())
        odds = factor * finish / float(law.log_not_f_B.exp())
        for chosen, w in parts.items():
            expected = w / sum(parts.values()) / (1.0 + odds)
            assert float(moved.log_prob(as_mask(chosen)).exp()) == pytest.approx(expected, rel=1e-9)
        expected = odds / (1.0 + odds) if parts else 1.0
        assert float(moved.log_prob(law.masked_BL).exp()) == pytest.approx(expected, rel=1e-9)


def test_coins_that_would_take_everything_finish() -> None:
    """Scaled far enough up there is no proper part left to take."""
    law = law_of(([0.5, 1.0, None, 2.0], -5.0)).scaled(100.0)
    assert law.finish_B.item() == 1.0
    assert law.marginal_BL[0].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert law.log_prob(law.masked_BL).item() == 0.0


@pytest.mark.parametrize("name", ROWS)
def test_in_float32_everything_is_finite_and_near(name: str) -> None:
    logits, finish = ROWS[name]
    masked_1L = torch.tensor([[a is not None for a in logits]])
    logits_1L = torch.tensor([[0.0 if a is None else a for a in logits]], requires_grad=True)
    law = FinishingBernoulli.from_logits(logits_1L, torch.tensor([finish]), masked_1L)
    other = FinishingBernoulli.from_logits(torch.full((1, 4), -1.5), torch.tensor([0.3]), masked_1L)
    double, other_double = law_of(ROWS[name]), law_of(([None if a is None else -1.5 for a in logits], 0.3))
    for got, expected in (
        (law.marginal_BL, double.marginal_BL),
        (law.entropy(), double.entropy()),
        (law.kl(other), double.kl(other_double)),
        (other.kl(law), other_double.kl(double)),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3)
    (law.entropy() + law.kl(other) + other.kl(law) + law.marginal_BL.sum(-1)).sum().backward()
    assert logits_1L.grad is not None
    assert bool(logits_1L.grad.isfinite().all())


# Tests of the tests: broken on purpose, each has to be noticed.


def test_coins_that_may_take_everything_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FinishingBernoulli, "log_z_B", property(lambda law: law.coins.log_z_B))
    with pytest.raises(AssertionError):
        check_kl(ROWS["all_masked"], ([0.5, -1.0, 0.2, 0.0], 0.1))


def test_draws_from_the_coins_alone_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def coins(law: FinishingBernoulli, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        return torch.where((uniform_B < law.finish_B)[:, None], law.masked_BL, law.coins.sample(uniform_B, uniform_BL))

    monkeypatch.setattr(FinishingBernoulli, "sample", coins)
    with pytest.raises(AssertionError):
        check_samples(ROWS["all_masked"])
    assert math.isfinite(float(law_of(ROWS["all_masked"]).log_z_B))
