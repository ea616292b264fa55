"""The max-normalised law: one position for certain, the others by their distance from it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lightning_mdm.orders.posterior import max_normalised

ALL = torch.ones(1, 4, dtype=torch.bool)


def scores(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize("order_temperature", [0.05, 0.3, 1.0, 7.0])
def test_probabilities_fall_exponentially_with_the_distance_from_the_best(order_temperature: float) -> None:
    score_1L = scores(0.2, 1.0, -0.5, 0.9)
    law = max_normalised(score_1L, ALL, order_temperature)
    expected = [math.exp((score - 1.0) / order_temperature) for score in score_1L[0].tolist()]
    assert law.log_p_BL.exp()[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert law.log_not_p_BL.exp()[0].tolist() == pytest.approx([1.0 - p for p in expected], rel=1e-9)
    assert law.log_not_p_BL[0, 1].item() == -math.inf
    assert law.log_z_B.item() == 0.0
    torch.testing.assert_close(law.marginal_BL, law.log_p_BL.exp())


def test_only_masked_positions_compete() -> None:
    masked_1L = torch.tensor([[True, False, True, True]])
    law = max_normalised(scores(0.2, 9.0, -0.5, 0.9), masked_1L, 0.5)
    other = max_normalised(scores(0.2, -7.0, -0.5, 0.9), masked_1L, 0.5)
    assert law.log_p_BL.equal(other.log_p_BL)
    assert law.log_p_BL[0, 3].item() == 0.0
    assert law.marginal_BL[0, 1].item() == 0.0
    assert law.log_p_BL[0, 0].item() == pytest.approx((0.2 - 0.9) / 0.5)


def test_a_step_later_the_best_of_the_rest_is_certain() -> None:
    score_1L, masked_1L = scores(0.3, 0.1, 0.4, -2.0), ALL.clone()
    for best in (2, 0, 1, 3):
        law = max_normalised(score_1L, masked_1L, 0.1)
        assert law.log_p_BL[0, best].item() == 0.0
        masked_1L[0, best] = False


def test_all_that_tie_for_the_best_are_certain() -> None:
    law = max_normalised(scores(0.5, 0.5, -1.0, 0.5), ALL, 0.2)
    assert (law.marginal_BL == 1.0).tolist() == [[True, True, False, True]]
    equal = max_normalised(scores(0.5, 0.5, 0.5, 0.5), ALL, 0.2)
    assert equal.log_prob(ALL).item() == 0.0, "equal scores unmask everything at once"
    assert equal.entropy().item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_no_set_is_empty(spread: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 500
    score_NL = spread * torch.randn(n, 4, generator=generator, dtype=dtype)
    masked_NL = torch.rand(n, 4, generator=generator) < 0.5
    law = max_normalised(score_NL, masked_NL, 0.05)
    drawn_NL = law.sample(
        torch.rand(n, generator=generator, dtype=torch.float64),
        torch.rand(n, 4, generator=generator, dtype=torch.float64),
    )
    assert drawn_NL.any(-1).equal(masked_NL.any(-1))
    assert not bool((drawn_NL & ~masked_NL).any())
    best_N1 = score_NL.masked_fill(~masked_NL, -torch.inf).argmax(-1, keepdim=True)
    assert drawn_NL.gather(1, best_N1)[:, 0].equal(masked_NL.any(-1))


def test_a_row_without_masked_positions_has_no_gradient() -> None:
    score_BL = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    masked_BL = torch.tensor([[False] * 4, [True] * 4])
    law = max_normalised(score_BL + torch.arange(4.0), masked_BL, 0.5)
    (law.log_prob(masked_BL) + law.entropy()).sum().backward()
    assert score_BL.grad is not None
    assert bool(score_BL.grad.isfinite().all())
    assert score_BL.grad[0].tolist() == [0.0] * 4


def test_gradients_are_those_of_the_enumerated_law() -> None:
    """The weighted log-probabilities of all sets; the best position's share is 1 by definition, not by a network."""
    masked = [0, 1, 3]
    masked_1L = torch.tensor([[True, True, False, True]])
    sets = [c for size in range(1, 4) for c in itertools.combinations(masked, size) if 1 in c]
    weight = torch.randn(len(sets), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = [0.2, 0.7, 5.0, -0.4]

    first_1L = scores(*start).requires_grad_()
    law = max_normalised(first_1L, masked_1L, 0.6)
    chosen_NL = torch.tensor([[i in c for i in range(4)] for c in sets])
    got = (weight * law.rows(torch.zeros(len(sets), dtype=torch.int64)).log_prob(chosen_NL)).sum() + law.entropy().sum()

    second_L = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    rho = {i: ((second_L[i] - second_L[1]) / 0.6).exp() for i in (0, 3)}
    log_p = torch.stack(
        [torch.stack([rho[i].log() if i in c else (1.0 - rho[i]).log() for i in (0, 3)]).sum() for c in sets]
    )
    expected = (weight * log_p).sum() - (log_p.exp() * log_p).sum()
    assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-12)

    torch.testing.assert_close(got, expected)
    (found,) = torch.autograd.grad(got, first_1L)
    (true,) = torch.autograd.grad(expected, second_L)
    torch.testing.assert_close(found[0], true)
    assert found[0, 2].item() == 0.0


@pytest.mark.parametrize("order_temperature", [0.0, -0.1, math.nan])
def test_a_temperature_that_is_not_positive_is_named(order_temperature: float) -> None:
    with pytest.raises(ValueError, match=f"order_temperature={order_temperature}"):
        max_normalised(scores(0.0, 1.0, 2.0, 3.0), ALL, order_temperature)
