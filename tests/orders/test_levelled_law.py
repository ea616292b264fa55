"""The levelled law against enumeration: probabilities, divergence, gradients and samples.

The reference adds up the levels' probabilities of every set, which the tests of the levels' own laws check.
"""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

EXACT = {"rtol": 1e-9, "atol": 1e-10}
MASKED_BL = torch.tensor([[True, True, False, True], [True] * 4, [False, True, False, False], [False] * 4])
LEVELS = 3
KINDS = ("coins", "finishing")


def levelled(kind: str, logits_BJL: Tensor, finish_BJ: Tensor, level_BJ: Tensor) -> Levelled:
    masked_NL = MASKED_BL.repeat_interleave(LEVELS, 0)
    laws: UnmaskingLaw = NonEmptyBernoulli.from_logits(logits_BJL.flatten(0, 1), masked_NL)
    if kind == "finishing":
        laws = FinishingBernoulli.from_logits(logits_BJL.flatten(0, 1), finish_BJ.flatten(), masked_NL)
    return Levelled.from_logits(level_BJ, laws)


def numbers(seed: int, scale: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((4, LEVELS, 4), (4, LEVELS), (4, LEVELS))
    logits_BJL, finish_BJ, level_BJ = (
        scale * torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return logits_BJL, finish_BJ, level_BJ


def law_of(kind: str, seed: int = 0, scale: float = 1.5) -> Levelled:
    return levelled(kind, *numbers(seed, scale))


def sets(row: int) -> list[tuple[int, ...]]:
    masked = MASKED_BL[row].nonzero()[:, 0].tolist()
    return [c for n in range(1, len(masked) + 1) for c in itertools.combinations(masked, n)] or [()]


def as_mask(chosen: tuple[int, ...], n: int = 1) -> Tensor:
    return torch.tensor([[i in chosen for i in range(4)]]).expand(n, -1)


def joint(law: Levelled, row: int) -> dict[tuple[int, tuple[int, ...]], Tensor]:
    """log of the probability of every level and set, from the levels' own laws."""
    return {
        (j, u): law.log_w_BJ[row, j] + law.laws.rows(torch.tensor([row * LEVELS + j])).log_prob(as_mask(u))[0]
        for j in range(LEVELS)
        for u in sets(row)
    }


def of(law: Levelled, row: int) -> dict[tuple[int, ...], float]:
    each = joint(law, row)
    return {u: sum(float(each[j, u].exp()) for j in range(LEVELS)) for u in sets(row)}


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_and_marginals_are_the_enumerated_ones(kind: str, row: int) -> None:
    law = law_of(kind)
    expected = of(law, row)
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-12)
    alone = law.rows(torch.tensor([row]))
    assert torch.equal(alone.masked_BL, MASKED_BL[row : row + 1])
    for chosen, p in expected.items():
        assert float(alone.log_prob(as_mask(chosen)).exp()) == pytest.approx(p, rel=1e-9)
    marginal = [sum(p for u, p in expected.items() if i in u) for i in range(4)]
    torch.testing.assert_close(law.marginal_BL[row], torch.tensor(marginal, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_divergence_and_entropy_are_those_of_level_and_set(kind: str, row: int) -> None:
    q, p = law_of(kind), law_of(kind, seed=1)
    first, second = joint(q, row), joint(p, row)
    expected = sum(float(a.exp() * (a - second[at])) for at, a in first.items())
    assert float(q.kl(p)[row]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert float(q.kl(q)[row]) == pytest.approx(0.0, abs=1e-12)
    assert float(q.entropy()[row]) == pytest.approx(
        -sum(float(a.exp() * a) for a in first.values()), rel=1e-9, abs=1e-12
    )
    of_sets = sum(a * torch.tensor(a / of(p, row)[u]).log().item() for u, a in of(q, row).items())
    assert float(q.kl(p)[row]) >= of_sets - 1e-12, "or the bound would be none"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantity", ["marginal", "log_prob", "entropy", "kl"])
def test_gradients_are_those_of_finite_differences(kind: str, quantity: str) -> None:
    def value(*parts: Tensor) -> Tensor:
        law, other = levelled(kind, *parts[:3]), levelled(kind, *parts[3:])
        return {
            "marginal": lambda: (law.marginal_BL * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum(-1),
            "log_prob": lambda: law.log_prob(MASKED_BL & torch.tensor([[True, False, True, False]]) | as_mask((1,))),
            "entropy": law.entropy,
            "kl": lambda: law.kl(other),
        }[quantity]()

    leaves = [part.requires_grad_() for part in (*numbers(2), *numbers(3))]
    assert torch.autograd.gradcheck(value, leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_the_gradient_of_log_prob(kind: str) -> None:
    leaves = [part.requires_grad_() for part in numbers(0)]
    law = levelled(kind, *leaves)
    for chosen in ((0,), (0, 3), (1,), (0, 1, 3)):
        taken_BL = as_mask(chosen, 4) & MASKED_BL
        taken_BL = torch.where(taken_BL.any(-1, keepdim=True), taken_BL, MASKED_BL)
        slopes = torch.autograd.grad(law.log_prob(taken_BL).sum(), leaves, retain_graph=True, allow_unused=True)
        logit_slope, finish_slope, level_slope = slopes
        within = [logit_slope] if kind == "coins" else [logit_slope, finish_slope[:, :, None]]
        expected_BX = torch.cat((torch.cat(within, dim=-1).flatten(1), level_slope), dim=-1)
        torch.testing.assert_close(law.score(taken_BL), expected_BX, rtol=1e-7, atol=1e-9)


def uniforms(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, generator=generator, dtype=torch.float64).clamp(min=1e-300),
        torch.rand(n, 4, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_the_enumerated_law(kind: str, row: int) -> None:
    n = 20_000
    law = law_of(kind)
    drawn_NL = law.rows(torch.full((n,), row)).sample(*uniforms(n, seed=3))
    counts = Counter(tuple(i for i in range(4) if taken[i]) for taken in drawn_NL.tolist())
    assert_follows(counts, of(law, row))


@pytest.mark.parametrize("kind", KINDS)
def test_the_extreme_uniforms_give_sets_of_the_law(kind: str) -> None:
    law, edge = law_of(kind, scale=6.0), 2.0**-53
    for first, others in itertools.product((edge, 1.0 - edge), repeat=2):
        drawn_BL = law.sample(torch.full((4,), first).double(), torch.full((4, 4), others).double())
        for row in range(4):
            assert tuple(drawn_BL[row].nonzero()[:, 0].tolist()) in of(law, row)


def test_a_moved_and_a_scaled_law_move_and_scale_every_level() -> None:
    law = law_of("finishing")
    by_BL, by_B = (torch.randn(4, *shape, generator=torch.Generator().manual_seed(5)).double() for shape in ((4,), ()))
    for found, laws in (
        (law.moved(by_BL, by_B), law.laws.moved(by_BL.repeat_interleave(3, 0), by_B.repeat_interleave(3))),
        (law.moved(by_BL), law.laws.moved(by_BL.repeat_interleave(3, 0))),
        (law.scaled(0.6), law.laws.scaled(0.6)),
    ):
        torch.testing.assert_close(found.log_w_BJ, law.log_w_BJ, rtol=0.0, atol=0.0)
        torch.testing.assert_close(found.laws.marginal_BL, laws.marginal_BL, rtol=0.0, atol=0.0)


def test_one_level_is_the_law_itself() -> None:
    laws = NonEmptyBernoulli.from_logits(numbers(0)[0][:, 0], MASKED_BL)
    law = Levelled.from_logits(torch.zeros(4, 1, dtype=torch.float64), laws)
    torch.testing.assert_close(law.marginal_BL, laws.marginal_BL)
    torch.testing.assert_close(law.logit_BL, laws.logit_BL)
    torch.testing.assert_close(law.entropy(), laws.entropy())
    assert torch.equal(law.sample(*uniforms(4, seed=1)), laws.sample(*uniforms(4, seed=1)))


def test_the_mean_logit_is_that_of_the_levels_and_leaves_them_alone() -> None:
    leaves = [part.requires_grad_() for part in numbers(0)]
    law = levelled("coins", *leaves)
    expected_BL = (law.log_w_BJ.exp()[:, :, None] * leaves[0]).sum(1)
    torch.testing.assert_close(law.logit_BL, expected_BL)
    assert torch.autograd.grad(law.logit_BL.sum(), leaves[2], allow_unused=True) == (None,)


def test_the_greedy_rule_is_that_of_the_likeliest_level() -> None:
    law, tie_BL = law_of("finishing", seed=5), uniforms(4, seed=0)[1]
    level_B = law.log_w_BJ.argmax(-1)
    at_BJL = law.laws.likeliest(tie_BL.repeat_interleave(LEVELS, 0)).unflatten(0, (4, LEVELS))
    several_B = (at_BJL != at_BJL[:, :1]).any(-1).any(-1)
    assert torch.equal(law.likeliest(tie_BL), at_BJL[torch.arange(4), level_B])
    assert int(several_B.sum()) > 1
