"""What an order costs in nats: a law over sequences, equal to a slow walk, whatever the batch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from decoding.reference import FACTS, View, set_law
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import (
    IID,
    KLASS,
    P2,
    POLICIES,
    Autoregressive,
    Blocks,
    ConfidenceFactor,
    ConfidenceThreshold,
    Dilated,
    Entropy,
    EntropyBounded,
    LeftToRight,
    PCSampler,
    ReMDM,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Prediction, Rows
from lightning_mdm.decoding.tokens import Argmax, TokenSampler
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Mixing, Tabular, random_rows, subset

LENGTH, VOCABULARY = 4, 3
SPACE = TokenSpace(VOCABULARY, eos_id=None, pad_id=0)
MASK = SPACE.mask_id


def confident(
    hidden_BLD: Tensor,
    confidence_BLF: Tensor,
    valid_BL: Tensor,
    masked_BL: Tensor,
    left_B: Tensor,
    price: float,
    most: int | None = None,
) -> NonEmptyBernoulli:
    """A selector without weights: the surer the denoiser is, the sooner."""
    logits_BL = 8.0 * confidence_BLF[..., 0] - 5.0 - left_B[:, None].double().log()
    return NonEmptyBernoulli.from_logits(logits_BL, masked_BL)


class Seen(Tabular):
    """``Tabular`` with hidden states, which a learned order insists on."""

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        logits_BQV = super().forward(tokens_BL, valid_BL, query_BQ).logits_BQV
        return DenoiserOutput(logits_BQV, torch.zeros(*tokens_BL.shape, 1))


VARIANTS: dict[type[UnmaskingPolicy], list[UnmaskingPolicy]] = {
    KLASS: [KLASS(0.4, 0.6, 1)],
    ConfidenceThreshold: [ConfidenceThreshold(0.6)],
    EntropyBounded: [EntropyBounded(0.7)],
    Blocks: [Blocks(TopMargin(), 2), Blocks(Learned(), 2)],
    Learned: [Learned(), Learned("sampled"), Learned(beta=1.5)],
}
ALL = [
    policy.bound(confident).informed(FACTS)
    for kind in POLICIES for policy in VARIANTS.get(kind) or [kind()]
    if not policy.revises
]  # fmt: skip
DETERMINISTIC = [
    TopProbability(), TopMargin(), Entropy(), LeftToRight(), ConfidenceThreshold(0.6), EntropyBounded(0.7),
    Blocks(TopMargin(), 2), PCSampler(0.1).informed(FACTS), Dilated(), ConfidenceFactor(1.2), KLASS(0.4, 0.6, 1),
    KLASS(0.0, 1.0, 2), Autoregressive(),
]  # fmt: skip


def every_sequence(given: int | None = None) -> Rows:
    """All sequences as the rows of a canvas, of one problem; position 1 is given where it says so."""
    sequences = [x for x in itertools.product(range(VOCABULARY), repeat=LENGTH) if given in (None, x[1])]
    tokens_BL = torch.tensor(sequences)
    prompt_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
    prompt_BL[:, 1] = given is not None
    return Rows(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.zeros(len(sequences), dtype=torch.int64))


@pytest.mark.parametrize("policy", [P2(), ReMDM()], ids=str)
def test_a_policy_that_masks_tokens_again_gives_no_likelihood(policy: UnmaskingPolicy) -> None:
    with pytest.raises(ValueError, match=f"policy {type(policy).__name__}: it may mask tokens again"):
        true_token_nats(Seen(LENGTH, VOCABULARY, seed=0), policy, every_sequence(), SPACE, steps=2)


@pytest.mark.parametrize("given", [None, 2])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("policy", ALL, ids=str)
def test_likelihoods_sum_to_one(policy: UnmaskingPolicy, steps: int, given: int | None) -> None:
    # All rows are one problem, so that they share their noise: given the noise, every policy is deterministic.
    for seed in range(3):
        nats_B, _ = true_token_nats(
            Seen(LENGTH, VOCABULARY, seed=seed), policy, every_sequence(given), SPACE, steps=steps, seed=seed
        )
        assert nats_B.dtype == torch.float64
        assert float((-nats_B).exp().sum()) == pytest.approx(1.0, abs=1e-12)


def probabilities(denoiser: Tabular, state: tuple[int, ...]) -> list[list[float]]:
    rows = denoiser.table[int(denoiser.state(torch.tensor([state])))].exp().tolist()
    return [[value / sum(row) for value in row] for row in rows]


def walk(denoiser: Tabular, policy: UnmaskingPolicy, true: tuple[int, ...], steps: int) -> tuple[float, list[int]]:
    """nats and order of a deterministic policy, in plain Python, by the reference's definition of the policy."""
    state, order, nats, memory = [MASK] * LENGTH, [0] * LENGTH, 0.0, (0, -1)
    canvas, earlier = tuple(range(LENGTH)), ()
    for step in range(1, steps + 1):
        masked = tuple(i for i in canvas if state[i] == MASK)
        if not masked:
            break
        p = probabilities(denoiser, tuple(state))
        view = View(masked, canvas, {i: p[i] for i in masked}, step, steps, steps - step + 1, memory, earlier)
        earlier = (view.p, *earlier)
        (((chosen, memory), certainty),) = set_law(policy, view).items()
        assert certainty == pytest.approx(1.0)
        for i in chosen:
            state[i], order[i], nats = true[i], step, nats - math.log(p[i][true[i]])
    return nats, order


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("policy", DETERMINISTIC, ids=str)
def test_nats_and_order_are_those_of_a_slow_walk(policy: UnmaskingPolicy, steps: int) -> None:
    denoiser, canvas = Tabular(LENGTH, VOCABULARY, seed=5), every_sequence()
    nats_B, trace = true_token_nats(denoiser, policy, canvas, SPACE, steps=steps)
    assert trace.tokens_BL.equal(canvas.tokens_BL)
    for row, true in enumerate(canvas.tokens_BL.tolist()):
        nats, order = walk(denoiser, policy, true, steps)
        assert trace.order.step_BL[row].tolist() == order
        assert int(trace.nfe_B[row]) == max(order)
        assert float(nats_B[row]) == pytest.approx(nats, abs=1e-12)


@pytest.mark.parametrize("policy", ALL, ids=str)
def test_nats_are_those_of_the_order_in_the_trace(policy: UnmaskingPolicy) -> None:
    denoiser, canvas = Seen(LENGTH, VOCABULARY, seed=6), every_sequence(given=1)
    nats_B, trace = true_token_nats(denoiser, policy, canvas, SPACE, steps=3, seed=4)
    for row, true in enumerate(canvas.tokens_BL.tolist()):
        order, nats = trace.order.step_BL[row].tolist(), 0.0
        for step in range(1, max(order) + 1):
            p = probabilities(denoiser, tuple(MASK if s >= step else t for s, t in zip(order, true, strict=True)))
            nats -= sum(math.log(p[i][true[i]]) for i in range(LENGTH) if order[i] == step)
        assert float(nats_B[row]) == pytest.approx(nats, abs=1e-12)


@pytest.mark.parametrize("policy", [TopMargin(), IID(), ConfidenceThreshold(0.5), Blocks(TopMargin(), 3)], ids=str)
def test_a_row_costs_alone_what_it_costs_in_any_batch(policy: UnmaskingPolicy) -> None:
    space, denoiser = TokenSpace(6, eos_id=2, pad_id=0, forbidden=(0,)), Mixing(6)
    drawn = random_rows(7, vocab_size=6, pad=0, longest=9, seed=3, least=2)
    tokens_BL = drawn.tokens_BL.masked_fill(drawn.valid_BL & ~drawn.prompt_BL, 3)
    tokens_BL[:, ::2] = tokens_BL[:, ::2].masked_fill((drawn.valid_BL & ~drawn.prompt_BL)[:, ::2], 2)
    canvas = Rows(tokens_BL, drawn.prompt_BL, drawn.valid_BL, drawn.index_B)
    whole_B, trace = true_token_nats(denoiser, policy, canvas, space, steps=3, seed=1)
    assert bool(whole_B.isfinite().all()), "an end of the sequence closes nothing here"
    assert trace.tokens_BL.equal(canvas.tokens_BL)
    for chosen, padding in ([[row] for row in range(7)], 0), ([[6, 2, 4], [5, 0, 3, 1]], 4):
        for part in chosen:
            some = subset(canvas, part, pad=0, padding=padding)
            part_B, part_trace = true_token_nats(denoiser, policy, some, space, steps=3, seed=1)
            torch.testing.assert_close(part_B, whole_B[part], rtol=0, atol=1e-12)
            assert part_trace.nfe_B.equal(trace.nfe_B[part])
            assert part_trace.tokens_BL.equal(some.tokens_BL)
            L = min(some.tokens_BL.shape[1], canvas.tokens_BL.shape[1])
            assert part_trace.order.step_BL[:, :L].equal(trace.order.step_BL[part][:, :L])


def test_a_token_that_may_never_be_generated_has_no_likelihood() -> None:
    space = TokenSpace(VOCABULARY, eos_id=None, pad_id=0, forbidden=(0,))
    canvas = every_sequence()
    nats_B, _ = true_token_nats(Tabular(LENGTH, VOCABULARY), LeftToRight(), canvas, space, steps=2)
    assert nats_B.isinf().equal((canvas.tokens_BL == 0).any(-1))
    assert float((-nats_B).exp().sum()) == pytest.approx(1.0)


def test_no_row_costs_nothing() -> None:
    empty = subset(every_sequence(), [0], pad=0)
    empty = Rows(empty.tokens_BL[:0], empty.prompt_BL[:0], empty.valid_BL[:0], empty.index_B[:0])
    nats_B, trace = true_token_nats(Tabular(LENGTH, VOCABULARY), TopMargin(), empty, SPACE, steps=2)
    assert (nats_B.shape, trace.forward_passes) == ((0,), 0)


def test_the_loop_says_where_it_draws() -> None:
    class Noting(TokenSampler):
        def __init__(self) -> None:
            self.drawn: dict[tuple[int, int], int] = {}

        def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
            assert row_N.dtype == position_N.dtype == torch.int64
            drawn_N = Argmax().draw(logits_NV, uniform_N, row_N, position_N)
            places = list(zip(row_N.tolist(), position_N.tolist(), strict=True))
            assert places == sorted(places)
            assert not self.drawn.keys() & set(places), "drawn twice"
            self.drawn |= dict(zip(places, drawn_N.tolist(), strict=True))
            return drawn_N

    canvas = random_rows(6, vocab_size=6, pad=0, longest=9, seed=2, least=2)
    noting = Noting()
    trace = decode(
        Mixing(6), ConfidenceThreshold(0.4), canvas, TokenSpace(6, eos_id=None, pad_id=0), steps=4, token_sampler=noting
    )
    assert sorted(noting.drawn) == [tuple(place) for place in (trace.order.step_BL > 0).nonzero().tolist()]
    assert all(int(trace.tokens_BL[place]) == token for place, token in noting.drawn.items())


def test_nats_of_float32_logits_are_summed_in_float64() -> None:
    def low(*asked: Tensor) -> DenoiserOutput:
        return DenoiserOutput(Mixing(6)(*asked).logits_BQV.float())

    def high(*asked: Tensor) -> DenoiserOutput:
        return DenoiserOutput(low(*asked).logits_BQV.double())

    canvas, space = random_rows(7, vocab_size=6, pad=0, longest=9, seed=3), TokenSpace(6, eos_id=None, pad_id=0)
    (low_B, _), (high_B, _) = (true_token_nats(f, LeftToRight(), canvas, space, steps=3) for f in (low, high))
    assert low_B.dtype == torch.float64
    assert low_B.equal(high_B)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_log_probabilities_of_a_prediction_are_those_of_its_masked_positions(precision: torch.dtype) -> None:
    """Also from what confidence leaves, if that was asked for before."""
    generator = torch.Generator().manual_seed(0)
    logits_BQV = (4.0 * torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)).to(precision)
    logits_BQV[:, :, 5] = -torch.inf
    masked_BL = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 1, 0, 0]]).bool()
    query_BQ, token_BL = torch.tensor([[1, 3, 4], [2, 0, 1]]), torch.tensor([[5, 2, 5, 0, 4], [5, 5, 3, 5, 5]])
    expected = [[0.0] * 5 for _ in range(2)]
    for row, slot in ((0, 0), (0, 1), (0, 2), (1, 0)):
        position = int(query_BQ[row, slot])
        log_V = logits_BQV[row, slot].double().log_softmax(-1)
        expected[row][position] = float(log_V[token_BL[row, position]])
    prediction = Prediction(logits_BQV, query_BQ, 5)
    first_BL = prediction.log_prob_BL(token_BL, masked_BL)
    assert prediction.confidence_BLF[masked_BL][:, 0].tolist() == prediction.top_probability_BL[masked_BL].tolist()
    for log_BL in (first_BL, prediction.log_prob_BL(token_BL, masked_BL)):
        assert log_BL.dtype == torch.promote_types(precision, torch.float32)
        assert log_BL.tolist() == [pytest.approx(row, rel=1e-5, abs=1e-6) for row in expected]
