"""Statistics of logits against their float64 definitions, and exact sampling of categoricals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laws import assert_follows
from lightning_mdm.categorical import (
    certainty,
    entropy,
    log_total,
    odds_against_best,
    positions_of,
    sample_categorical,
    token_losses,
    top_log_ratio,
    top_margin,
    top_n,
)
from lightning_mdm.noise import RowNoise, Stream

NEXT_TO_0, NEXT_TO_1 = 2.0**-53, 1.0 - 2.0**-53
INF = torch.inf


class Named(TorchDispatchMode):
    """Keeps the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("statistic", [certainty, odds_against_best, top_log_ratio, top_margin, entropy])
def test_statistics_can_be_compiled_without_writing_the_vocabulary(statistic: Callable[[Tensor], object]) -> None:
    """A compiler joins comparisons, exponentials and sums; what is written by index it has to write in full."""
    with Named() as named:
        statistic(torch.randn(3, 5))
    assert {"max", "eq", "masked_fill_"} <= named.names
    assert not any("scatter" in name or "index" in name for name in named.names)


def test_losses_of_tokens_can_be_compiled_without_writing_the_vocabulary() -> None:
    """Nor may their gradient write by index, or sum over the vocabulary."""
    logits = torch.randn(3, 5, requires_grad=True)
    with Named() as forward:
        nats, _ = token_losses(logits, torch.tensor([0, 4, 2]))
    with Named() as backward:
        nats.backward(torch.ones(3))
    assert {"eq", "where", "exp"} <= forward.names
    assert not any(part in name for name in forward.names | backward.names for part in ("scatter", "index", "gather"))
    assert not {"sum", "_log_softmax_backward_data"} & backward.names


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_of_tokens_are_cross_entropies(dtype: torch.dtype) -> None:
    logits = logits_with_holes(dtype)
    target = torch.arange(len(logits)) % 7
    wide = torch.promote_types(dtype, torch.float32)
    (nats, best), expected = token_losses(logits, target), _cross_entropy(logits.to(wide), target)
    torch.testing.assert_close(nats, expected)
    assert bool(nats.isinf().any()), "tokens that are impossible"
    assert best.equal(logits.argmax(-1) == target)
    possible = expected.isfinite()
    gradients = []
    for loss in (lambda x: token_losses(x, target)[0], lambda x: _cross_entropy(x.to(wide), target)):
        leaf = logits.clone().requires_grad_()
        loss(leaf)[possible].sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


def logits_with_holes(dtype: torch.dtype) -> Tensor:
    """Random logits, some of them minus infinity, some rows nearly certain, one certain, one uniform."""
    generator = torch.Generator().manual_seed(0)
    logits = 4.0 * torch.randn(200, 7, generator=generator, dtype=torch.float64)
    logits[torch.rand(200, 7, generator=generator) < 0.3] = -INF
    logits[:, 3] = 1.0
    logits[0] = torch.tensor([-INF] * 6 + [5.0])
    logits[1] = 0.25
    logits[2:40, 2] = 25.0
    logits[40] = torch.tensor([1e30, -1e30, 0, 0, 0, 0, 0])
    return logits.to(dtype)


def probabilities(logits: Tensor) -> list[list[float]]:
    return [[math.exp(a - max(row)) / sum(math.exp(b - max(row)) for b in row) for a in row] for row in logits.tolist()]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_statistics_match_their_definitions(dtype: torch.dtype, tolerance: float) -> None:
    logits = logits_with_holes(dtype)
    p = probabilities(logits)
    ranked = [sorted(row, reverse=True) for row in p]
    expected = {
        odds_against_best: [(1.0 - row[0]) / row[0] for row in ranked],
        top_log_ratio: [first - second for first, second, *_ in (sorted(row, reverse=True) for row in logits.tolist())],
        top_margin: [row[0] - row[1] for row in ranked],
        entropy: [-sum(q * math.log(q) for q in row if q > 0.0) for row in p],
    }
    for statistic, values in expected.items():
        got = statistic(logits)
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, torch.tensor(values, dtype=torch.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_all_statistics_at_once_are_those_one_by_one(dtype: torch.dtype) -> None:
    logits = logits_with_holes(dtype)
    together = certainty(logits)
    assert together.odds.equal(odds_against_best(logits))
    assert together.margin.equal(top_margin(logits))
    assert together.entropy.equal(entropy(logits))
    wide = logits.to(torch.promote_types(dtype, torch.float32))
    assert together.best.equal(wide.amax(-1))
    total = together.best + together.odds.log1p().to(wide.dtype)
    torch.testing.assert_close(total, log_total(logits), rtol=1e-6, atol=1e-6)
    assert log_total(logits).equal(wide.logsumexp(-1))


def test_statistics_of_low_precision_logits_are_those_of_their_float32_values() -> None:
    logits = logits_with_holes(torch.bfloat16)
    for statistic in (odds_against_best, top_log_ratio, top_margin, entropy):
        assert statistic(logits).equal(statistic(logits.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_certain_tokens_keep_their_rank(dtype: torch.dtype) -> None:
    gap = torch.arange(5.0, 80.0, 0.5, dtype=dtype)
    logits = torch.stack((gap, torch.zeros_like(gap), torch.full_like(gap, -INF)), dim=-1)
    odds = odds_against_best(logits)
    torch.testing.assert_close(odds, (-gap).exp().double(), rtol=1e-6, atol=0.0)
    assert bool((odds.diff() < 0).all())
    assert bool((entropy(logits).diff() < 0).all())
    if dtype == torch.float32:
        assert int(logits.softmax(-1)[:, 0].unique().numel()) < len(gap) / 2  # where float32 no longer tells them apart


def test_statistics_of_nearly_certain_tokens_keep_relative_precision() -> None:
    gap = torch.tensor([20.0, 30.0, 34.0])
    logits = torch.stack((gap, torch.zeros(3)), dim=-1)
    odds = [math.exp(-g) for g in gap.tolist()]
    expected = [math.log1p(o) + o * g / (1 + o) for o, g in zip(odds, gap.tolist(), strict=True)]
    torch.testing.assert_close(entropy(logits).tolist(), expected, rtol=1e-5, atol=0.0)
    doubt = (1.0 - top_margin(logits)).tolist()
    torch.testing.assert_close(doubt, [2 * o / (1 + o) for o in odds], rtol=1e-1, atol=0.0)


@pytest.mark.parametrize(
    "p", [[0.2, 0.0, 0.5, 0.3], [0.0, 1.0], [0.25] * 4, [0.0, 0.0, 1e-3, 0.999, 0.0], [0.6, 0.4, 0.0]]
)
def test_sampled_tokens_follow_the_law(p: list[float]) -> None:
    n = 40_000
    uniform = RowNoise(1, torch.arange(n)).uniform_B(Stream.TOKEN, 1)
    logits = torch.tensor(p, dtype=torch.float64).log() + 3.0
    drawn = sample_categorical(logits.expand(n, -1), uniform)
    assert_follows(Counter(drawn.tolist()), dict(enumerate(p)))


@pytest.mark.parametrize("uniform", [NEXT_TO_0, 5e-324, 0.5, NEXT_TO_1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_tokens_are_never_drawn(uniform: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 5.0 * torch.randn(3000, 41, generator=generator, dtype=dtype)
    logits[torch.rand(3000, 41, generator=generator) < 0.5] = -INF
    logits[:, 5] = 0.0
    logits[:200] = torch.tensor([-INF] * 4 + [0.0, 40.0, -40.0] + [-INF] * 34, dtype=dtype)
    drawn = sample_categorical(logits, torch.full((3000,), uniform, dtype=torch.float64))
    assert bool(((drawn >= 0) & (drawn < 41)).all())
    assert bool(logits.gather(1, drawn[:, None]).isfinite().all())


def test_best_n_matches_brute_force() -> None:
    generator = torch.Generator().manual_seed(4)
    n, length = 400, 6
    score = torch.randint(-2, 3, (n, length), generator=generator).double()
    among = torch.rand(n, length, generator=generator) < 0.7
    tie = torch.rand(n, length, generator=generator, dtype=torch.float64)
    count = torch.randint(0, length + 2, (n,), generator=generator)
    got = top_n(score, among, count, tie)
    for row in range(n):
        candidates = [i for i in range(length) if among[row, i]]
        ranked = sorted(candidates, key=lambda i: (-float(score[row, i]), -float(tie[row, i])))
        assert got[row].nonzero().flatten().tolist() == sorted(ranked[: int(count[row])])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_positions_are_listed_in_order_and_the_others_behind_them(share: float) -> None:
    length = 40  # a sort that is not stable keeps the order of a few
    among_BL = torch.rand(50, length, generator=torch.Generator().manual_seed(5)) < share
    for most in (0, 1, int(among_BL.sum(-1).max()), length):
        got = positions_of(among_BL, most).tolist()
        for row, held in zip(got, among_BL.tolist(), strict=True):
            assert row == sorted(range(length), key=lambda i: (not held[i], i))[:most]


def test_float32_logits_are_sampled_in_float64() -> None:
    logits = torch.tensor([[0.0, -20.0]])  # the second token has 2.06e-9, below the spacing of float32 next to 1
    uniform = torch.tensor([1.0 - 3e-9, 1.0 - 1e-9], dtype=torch.float64)
    assert sample_categorical(logits.expand(2, -1), uniform).tolist() == [0, 1]


@pytest.mark.parametrize("statistic", [odds_against_best, top_log_ratio, top_margin, entropy])
def test_statistics_have_the_gradients_of_their_definitions(statistic: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(statistic, (logits_NV,))


@pytest.mark.parametrize("statistic", [odds_against_best, top_log_ratio, top_margin, entropy])
def test_tokens_of_probability_zero_have_no_gradient_and_spoil_none(statistic: Callable[[Tensor], Tensor]) -> None:
    logits_NV = torch.tensor([[0.5, -torch.inf, 0.2, -1.0], [80.0, -torch.inf, 0.0, -300.0]], requires_grad=True)
    (1e3 * statistic(logits_NV).sum()).backward()
    assert logits_NV.grad is not None
    assert bool(logits_NV.grad.isfinite().all())
    assert logits_NV.grad[:, 1].tolist() == [0.0, 0.0]
    assert bool((logits_NV.grad[0, [0, 2, 3]] != 0.0).any())
