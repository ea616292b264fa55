"""The masked-diffusion bound against its enumeration over all masks and a quadrature over t that is exact."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from laws import assert_follows, assert_mean, assert_uniform
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.denoising import (
    Denoising,
    Weighting,
    denoising,
    fixed_t,
    mask_tokens,
    response_query,
    stratified_t,
)
from toys import Fixed, Tabular, random_rows

L, V = 3, 3
X = torch.tensor([2, 0, 1])
ALL = torch.ones(1, L, dtype=torch.bool)
MASKS = torch.tensor(list(itertools.product([False, True], repeat=L)))


def dependent() -> nn.Module:
    return Tabular(L, V, seed=11)


def independent() -> nn.Module:
    return Fixed(torch.randn(L, V, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def nll(denoiser: nn.Module, x: Tensor, masked: tuple[int, ...], position: int) -> Tensor:
    """-log p(x_i | x with ``masked`` replaced by masks), one number."""
    z = x.clone()
    z[list(masked)] = V
    logits = denoiser(z[None], ALL, torch.tensor([[position]])).logits_BQV[0, 0]
    return logits.logsumexp(-1) - logits[x[position]]


def any_order_nlls(denoiser: nn.Module, x: Tensor) -> Tensor:
    """-log p(x) of every order that unmasks one position per step."""
    totals = []
    for order in itertools.permutations(range(L)):
        steps = [nll(denoiser, x, order[done:], position) for done, position in enumerate(order)]
        totals.append(torch.stack(steps).sum())
    return torch.stack(totals)


def evaluate(denoiser: nn.Module, masked_BL: Tensor, t_B: Tensor, weighting: Weighting) -> Denoising:
    """The objective of X under given masks."""
    B = len(masked_BL)
    tokens_BL, response_BL = X.expand(B, -1), ALL.expand(B, -1)
    query_BQ = response_query(response_BL)
    logits_BQV = denoiser(tokens_BL.masked_fill(masked_BL, V), response_BL, query_BQ).logits_BQV
    return denoising(logits_BQV, query_BQ, tokens_BL, masked_BL, response_BL, t_B, weighting)


def quadrature() -> list[tuple[float, float]]:
    """Gauss-Legendre nodes and weights on (0, 1); exact here, where the integrand is a polynomial in t."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    return [((1 + float(node)) / 2, float(weight) / 2) for node, weight in zip(nodes, weights, strict=True)]


def mask_law(t: float) -> Tensor:
    """Probability of each of ``MASKS``."""
    n_masked = MASKS.sum(-1).double()
    return t**n_masked * (1 - t) ** (L - n_masked)


@pytest.mark.parametrize("build", [dependent, independent])
def test_the_expected_bound_is_the_mean_over_orders_and_above_the_likelihood(build: object) -> None:
    denoiser = build()
    expected = torch.zeros((), dtype=torch.float64)
    for t, weight in quadrature():
        out = evaluate(denoiser, MASKS, torch.full((len(MASKS),), t, dtype=torch.float64), "bound")
        expected += weight * (mask_law(t) * out.bound_nats_B).sum()
    nlls = any_order_nlls(denoiser, X).detach()
    torch.testing.assert_close(expected, nlls.mean(), rtol=1e-9, atol=0.0)
    likelihood = -(torch.logsumexp(-nlls, 0) - math.log(len(nlls)))
    if build is independent:
        torch.testing.assert_close(expected, likelihood, rtol=1e-9, atol=0.0)
    else:
        assert float(expected) > float(likelihood) + 1e-3


def test_for_independent_positions_every_order_has_the_same_likelihood() -> None:
    nlls = any_order_nlls(independent(), X)
    torch.testing.assert_close(nlls, nlls[:1].expand_as(nlls), rtol=1e-12, atol=0.0)
    nlls = any_order_nlls(dependent(), X).detach()
    assert float(nlls.std()) > 0.1


def test_the_expected_gradient_of_the_bound_is_that_of_the_enumerated_bound() -> None:
    denoiser = dependent()
    (wanted,) = torch.autograd.grad(any_order_nlls(denoiser, X).mean() / L, list(denoiser.parameters()))
    got = torch.zeros_like(wanted)
    for t, weight in quadrature():
        for mask, p in zip(MASKS, mask_law(t).tolist(), strict=True):
            surrogate = evaluate(denoiser, mask[None], torch.tensor([t], dtype=torch.float64), "bound").surrogate
            got += weight * p * torch.autograd.grad(surrogate, list(denoiser.parameters()))[0]
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighting", ["bound", "uniform"])
def test_the_surrogate_of_a_batch_and_its_gradient_match_their_definition(weighting: Weighting) -> None:
    denoiser = dependent()
    t_B = torch.linspace(0.2, 0.9, len(MASKS), dtype=torch.float64)
    out = evaluate(denoiser, MASKS, t_B, weighting)
    rows = []
    for mask in MASKS.tolist():
        masked = tuple(i for i in range(L) if mask[i])
        rows.append(sum((nll(denoiser, X, masked, i) for i in masked), torch.zeros((), dtype=torch.float64)))
    nll_B = torch.stack(rows)
    definition = (nll_B / t_B).sum() / (L * len(MASKS)) if weighting == "bound" else nll_B.sum() / int(MASKS.sum())
    torch.testing.assert_close(out.surrogate, definition, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(out.bound_nats_B, (nll_B / t_B).detach(), rtol=1e-12, atol=0.0)
    assert not out.bound_nats_B.requires_grad
    got, wanted = (torch.autograd.grad(scalar, denoiser.table)[0] for scalar in (out.surrogate, definition))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def test_drawn_masks_and_times_give_the_enumerated_bound() -> None:
    n = 24_000
    denoiser = dependent()
    noise = RowNoise(4, torch.arange(n))
    offsets = noise.uniform_B(Stream.SELECT, 0)[: n // 8]
    t_B = torch.cat([stratified_t(offset, 8, least=1e-9) for offset in offsets])
    z_BL = mask_tokens(X.expand(n, -1), ALL.expand(n, -1), t_B, noise.uniform_BL(Stream.MASK, 0, L), V)
    with torch.no_grad():
        out = evaluate(denoiser, z_BL == V, t_B, "bound")
    # Rows of a batch share their offset: batches are the independent samples.
    assert_mean(out.bound_nats_B.view(-1, 8).mean(-1), float(any_order_nlls(denoiser, X).detach().mean()))


@pytest.mark.parametrize("t", [0.15, 0.5, 1.0])
def test_response_tokens_are_masked_independently_with_probability_t(t: float) -> None:
    n = 20_000
    response_BL = torch.tensor([True, False, True, True]).expand(n, -1)
    tokens_BL = torch.tensor([0, 1, 2, 1]).expand(n, -1)
    uniform_BL = RowNoise(0, torch.arange(n)).uniform_BL(Stream.MASK, 1, 4)
    z_BL = mask_tokens(tokens_BL, response_BL, torch.full((n,), t, dtype=torch.float64), uniform_BL, V)
    masked_BL = z_BL == V
    law = {}
    for a, b, c in itertools.product([False, True], repeat=3):
        law[a, False, b, c] = math.prod(t if flag else 1 - t for flag in (a, b, c))
    assert_follows(Counter(map(tuple, masked_BL.tolist())), law)
    assert z_BL[~masked_BL].equal(tokens_BL[~masked_BL])


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("least", [1e-3, 0.2])
def test_stratified_times_are_uniform_with_one_in_every_stratum(n: int, least: float) -> None:
    uniform = RowNoise(0, torch.arange(9000)).uniform_B(Stream.SELECT, 0)
    drawn = torch.stack([stratified_t(u, n, least) for u in uniform[: 9000 // n + 50]])
    unit = (drawn - least) / (1 - least)
    assert bool(((drawn > least) & (drawn <= 1.0)).all())
    assert (unit * n).floor().clamp(max=n - 1).equal(torch.arange(n).expand(len(drawn), -1).double())
    for slot in {0, n - 1}:
        assert_uniform((unit[:, slot] * n - slot).clamp(0.0, 1.0), cells=8)


@pytest.mark.parametrize("least", [1e-3, 0.2])
@pytest.mark.parametrize(("first", "n"), [(0, 1), (0, 16), (5, 16), (0, 500), (7473, 500), (10**9, 500)])
def test_fixed_times_are_spread_evenly_over_any_window(first: int, n: int, least: float) -> None:
    index_B = torch.arange(first, first + n)
    t_B = fixed_t(index_B, least)
    assert bool(((t_B > least) & (t_B <= 1.0)).all())
    assert t_B.flip(0).equal(fixed_t(index_B.flip(0), least)), "a function of the index alone"
    ranked = ((t_B - least) / (1 - least)).sort().values
    grid = torch.arange(n, dtype=torch.float64)
    discrepancy = torch.maximum((grid + 1) / n - ranked, ranked - grid / n).max()
    assert float(discrepancy) * n <= 1.5 + 0.25 * math.log2(n)


def test_prompt_and_padding_contribute_nothing() -> None:
    canvas = random_rows(6, vocab_size=5, pad=0, longest=9, seed=3)
    response_BL = canvas.valid_BL & ~canvas.prompt_BL
    generator = torch.Generator().manual_seed(0)
    logits_BLV = torch.randn(6, canvas.tokens_BL.shape[1], 5, generator=generator, dtype=torch.float64)
    logits_BLV.requires_grad_()
    t_B = torch.linspace(0.3, 1.0, 6, dtype=torch.float64)
    masked_BL = response_BL & (torch.rand(response_BL.shape, generator=generator) < 0.6)
    query_BQ = response_query(response_BL)
    n_B = response_BL.sum(-1)

    def objective(tokens_BL: Tensor, weighting: Weighting) -> Denoising:
        logits_BQV = torch.take_along_dim(logits_BLV, query_BQ[:, :, None], dim=1)
        return denoising(logits_BQV, query_BQ, tokens_BL, masked_BL, response_BL, t_B, weighting)

    for weighting in ("bound", "uniform"):
        out = objective(canvas.tokens_BL, weighting)
        other = objective(canvas.tokens_BL.masked_fill(~response_BL, 4), weighting)
        assert out.surrogate.equal(other.surrogate)
        assert out.bound_nats_B.equal(other.bound_nats_B)
        (gradient,) = torch.autograd.grad(out.surrogate, logits_BLV)
        assert (gradient.abs().sum(-1) > 0).equal(masked_BL)
    assert out.n_tokens_B.equal(n_B)
    assert int(out.n_masked) == int(masked_BL.sum())
    assert int(out.n_right) == int(((logits_BLV.argmax(-1) == canvas.tokens_BL) & masked_BL).sum())


def test_impossible_tokens_outside_the_masked_ones_do_no_harm() -> None:
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    logits[0, 0, 0] = -torch.inf
    logits.requires_grad_()
    out = denoising(
        logits, torch.tensor([[0, 1]]), torch.tensor([[0, 0]]), torch.tensor([[False, True]]),
        torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.5]), "bound",
    )  # fmt: skip
    out.surrogate.backward()
    assert float(out.bound_nats_B) == pytest.approx(2 * math.log(2))
    assert bool(logits.grad.isfinite().all())


def test_queries_list_the_response_first() -> None:
    response_BL = torch.tensor([[False, True, False, True], [True, True, False, True], [False] * 4])
    query_BQ = response_query(response_BL)
    assert query_BQ.shape == (3, 3)
    assert query_BQ[0].tolist()[:2] == [1, 3]
    assert query_BQ[1].tolist() == [0, 1, 3]
    assert all(len(set(row)) == 3 for row in query_BQ.tolist())


def test_a_batch_without_masked_tokens_has_a_finite_surrogate() -> None:
    out = evaluate(dependent(), MASKS[:1], torch.tensor([0.01], dtype=torch.float64), "uniform")
    assert float(out.surrogate.detach()) == 0.0
