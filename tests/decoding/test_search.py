"""Looking back: the mode of the law along an order, what it costs, and that nothing else changes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.reference import label, standing
from decoding.test_likelihood import LENGTH, SPACE, VOCABULARY, every_sequence
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.loop import EndOfSequence, decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import (
    IID,
    KLASS,
    Blocks,
    ConfidenceThreshold,
    Dilated,
    Entropy,
    EntropyBounded,
    LeftToRight,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.search import OTHERS, Attempt, CostRecorder, RowSearch, search
from lightning_mdm.decoding.state import Begun, Denoiser, Rows
from lightning_mdm.decoding.tokens import TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Mixing, Recording, Tabular, random_rows, repeated, rows, subset

ENDED = TokenSpace(VOCABULARY, eos_id=1, pad_id=0)
TWELVE = TokenSpace(12, eos_id=None, pad_id=0, forbidden=(1,))
MIXED = TokenSpace(6, eos_id=None, pad_id=0, forbidden=(1,))
ENOUGH = 2000
"""Steps for every branch of these trees."""
SEARCHING = DecodingOptions(search=True)
FINISHING_EARLY: list[UnmaskingPolicy] = [
    ConfidenceThreshold(0.3), ConfidenceThreshold(0.5), EntropyBounded(0.9), Blocks(ConfidenceThreshold(0.4), 3),
]  # fmt: skip


class Unsure(Mixing):
    """``Mixing``, but flatter."""

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        logits_BQV, hidden_BLD = super().__call__(tokens_BL, valid_BL, query_BQ)
        return DenoiserOutput(0.2 * logits_BQV, hidden_BLD)


def blank() -> Rows:
    return repeated([None] * LENGTH, 1, pad=0)


def nats_along(denoiser: Denoiser, space: TokenSpace, canvas: Rows, trace: Trace) -> Tensor:
    """What the tokens of a trace cost along its order, by evaluating its states one after the other, ``[B]``."""
    nats_B = torch.zeros(len(trace.tokens_BL), dtype=torch.float64)
    every_BL = torch.arange(trace.tokens_BL.shape[1]).expand(trace.tokens_BL.shape)
    for step, set_BL in enumerate(trace.order.sets(), start=1):
        state_BL = trace.tokens_BL.masked_fill(trace.order.masked_before(step), space.mask_id)
        logits_BLV = denoiser(state_BL, canvas.valid_BL, every_BL).logits_BQV
        logits_BLV[..., list(space.forbidden)] = -torch.inf
        log_BL = logits_BLV.log_softmax(-1).gather(-1, trace.tokens_BL[:, :, None])[:, :, 0]
        nats_B -= log_BL.masked_fill(~set_BL, 0.0).sum(-1)
    return nats_B


@pytest.mark.parametrize("policy", [LeftToRight(), TopProbability(), TopMargin(), Entropy(), ConfidenceThreshold(1.0)])
def test_with_steps_enough_it_finds_the_mode_of_the_law_along_the_order(policy: UnmaskingPolicy) -> None:
    """One position per step: every sequence's likelihood along the order is known."""
    better = 0
    for seed in range(40):
        denoiser = Tabular(LENGTH, VOCABULARY, scale=0.5, seed=seed)
        nats_B, _ = true_token_nats(denoiser, policy, every_sequence(), SPACE, steps=ENOUGH)
        trace = SEARCHING.decode(denoiser, policy, blank(), SPACE, ENOUGH, 0)
        assert trace.tokens_BL.tolist() == every_sequence().tokens_BL[nats_B.argmin()][None].tolist()
        torch.testing.assert_close(nats_along(denoiser, SPACE, blank(), trace), nats_B.min()[None])
        greedy = decode(denoiser, policy, blank(), SPACE, steps=ENOUGH)
        better += not trace.tokens_BL.equal(greedy.tokens_BL)
        assert trace.nfe_B[0] >= greedy.nfe_B[0]
    assert better >= 4, "or there is nothing to find"


def test_an_end_of_sequence_is_searched_for_as_the_law_has_it() -> None:
    """From left to right, everything behind the first end-of-sequence being closed at no cost."""
    endings = 0
    for seed in range(25):
        denoiser = Tabular(LENGTH, VOCABULARY, seed=seed)
        options = DecodingOptions(search=True, end_of_sequence="close")
        trace = options.decode(denoiser, LeftToRight(), blank(), ENDED, ENOUGH, 0)

        def nats(tokens: tuple[int, ...], denoiser: Tabular = denoiser) -> float:
            total, state = 0.0, [ENDED.mask_id] * LENGTH
            for position, token in enumerate(tokens):
                row = denoiser.table[int(denoiser.state(torch.tensor([state])))].detach().log_softmax(-1)
                total -= float(row[position, token])
                state[position] = token
                if token == ENDED.eos_id:
                    break
            return total

        whole = [
            x for x in itertools.product(range(VOCABULARY), repeat=LENGTH)
            if ENDED.eos_id not in x or set(x[x.index(1) :]) == {1}
        ]  # fmt: skip
        best = min(whole, key=nats)
        assert trace.tokens_BL[0].tolist() == list(best)
        ended = 1 in best
        steps = best.index(1) + 1 if ended else LENGTH
        assert trace.order.step_BL[0].tolist() == [min(i + 1, steps) for i in range(LENGTH)]
        greedy = decode(denoiser, LeftToRight(), blank(), ENDED, steps=ENOUGH, end_of_sequence="close")
        endings += ended and greedy.tokens_BL[0].tolist() != list(best)
    assert endings >= 3


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 40])
@pytest.mark.parametrize("policy", standing(), ids=label)
def test_of_every_policy_it_finds_what_is_as_likely_or_likelier_within_the_budget(
    policy: UnmaskingPolicy, steps: int
) -> None:
    """Counted by the denoiser; and the order is one along which the sequence costs what was found."""
    canvas = random_rows(12, vocab_size=12, pad=0, longest=7, seed=steps, row_token=True)
    denoiser = Unsure(12, seed=3)
    counted = Recording(denoiser, TWELVE.mask_id)
    greedy = decode(denoiser, policy, canvas, TWELVE, steps=steps)
    trace = SEARCHING.decode(counted, policy, canvas, TWELVE, steps, 0)
    assert bool((trace.nfe_B >= greedy.nfe_B).all())
    assert bool((trace.nfe_B <= steps).all())
    assert bool((trace.order.n_steps_B <= trace.nfe_B).all())
    assert trace.forward_passes == len(counted.calls)
    assert [counted.evaluations(row) for row in range(12)] == trace.nfe_B.tolist()
    found_B, first_B = (nats_along(denoiser, TWELVE, canvas, t) for t in (trace, greedy))
    assert bool((found_B <= first_B + 1e-12).all())
    changed_B = (trace.tokens_BL != greedy.tokens_BL).any(-1)
    assert bool((found_B < first_B)[changed_B].all())
    assert trace.tokens_BL[canvas.prompt_BL].equal(canvas.tokens_BL[canvas.prompt_BL])
    assert not bool((trace.tokens_BL == TWELVE.mask_id).any())
    assert not bool((trace.tokens_BL[canvas.valid_BL & ~canvas.prompt_BL] == 1).any()), "may never be sampled"
    spent_B = greedy.nfe_B == steps
    assert trace.tokens_BL[spent_B].equal(greedy.tokens_BL[spent_B])
    assert trace.order.step_BL[spent_B].equal(greedy.order.step_BL[spent_B])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", [ConfidenceThreshold(0.5), ConfidenceThreshold(0.7), EntropyBounded(0.9)], ids=str)
def test_more_steps_find_no_less_likely_sequences(policy: UnmaskingPolicy, seed: int) -> None:
    """Of policies that ask for no budget: only the end of it, at which all is unmasked, makes a difference to them."""
    canvas = random_rows(40, vocab_size=6, pad=0, longest=6, seed=seed)
    denoiser, gained = Unsure(6, seed=seed), 0
    nats = [
        nats_along(denoiser, MIXED, canvas, SEARCHING.decode(denoiser, policy, canvas, MIXED, steps, 0))
        for steps in (6, 8, 12, 24, 400)  # no canvas takes more than six
    ]
    for fewer_B, more_B in itertools.pairwise(nats):
        assert bool((more_B <= fewer_B + 1e-12).all())
        gained += int((more_B < fewer_B - 1e-9).sum())
    assert gained > 0


def conditionals(law: dict[tuple[int, ...], float]) -> Tabular:
    """The exact ones of a law over bits."""
    length = len(next(iter(law)))
    denoiser = Tabular(length, 2)
    with torch.no_grad():
        for state in itertools.product(range(3), repeat=length):
            alike = {x: p for x, p in law.items() if all(t in (2, y) for t, y in zip(state, x, strict=True))}
            for position in range(length):
                p = [sum(p for x, p in alike.items() if x[position] == token) for token in range(2)]
                row = torch.tensor(p, dtype=torch.float64).clamp(min=1e-30).log()
                denoiser.table[int(denoiser.state(torch.tensor([state]))), position] = row
    return denoiser


def forbidding() -> tuple[Tabular, dict[tuple[int, ...], float]]:
    """Exact conditionals of a law over five bits: 1 at position 0 wants one other 1, 0 leaves the rest nearly uniform.

    In parallel 0.4 x 0.75^4 looks likelier than any sequence is, and is impossible.
    """
    others = list(itertools.product(range(2), repeat=4))
    law = {(0, *x): 0.6 * (1.0 + 0.01 * (8 - k)) for k, x in enumerate(others)}
    total = sum(law.values())
    law = {x: 0.6 * p / total for x, p in law.items()}
    law |= {(1, *(int(k == one) for k in range(4))): 0.1 for one in range(4)}
    return conditionals(law), law


@pytest.mark.parametrize("steps", [5, 6, 7, 8, 9, 10, 40])
@pytest.mark.parametrize("policy", [LeftToRight(), TopProbability(), ConfidenceThreshold(0.9)], ids=str)
def test_haste_finds_nothing(policy: UnmaskingPolicy, steps: int) -> None:
    """One position per step is what the first attempt takes, and what every later one has to."""
    denoiser, law = forbidding()
    space = TokenSpace(2, eos_id=None, pad_id=0)
    canvas = repeated([None] * 5, 1, pad=0)
    greedy = decode(denoiser, policy, canvas, space, steps=5)
    trace = SEARCHING.decode(denoiser, policy, canvas, space, steps, 0)
    first, found = (law.get(tuple(t.tokens_BL[0].tolist()), 0.0) for t in (greedy, trace))
    assert 0.0 < first <= found
    assert sorted(trace.order.step_BL[0].tolist()) == [1, 2, 3, 4, 5]
    if steps == 40:
        assert found == max(law.values())
        assert found > first or not isinstance(policy, LeftToRight)


def hurrying(seed: int) -> dict[tuple[int, ...], float]:
    """A law over four bits: for seed 0 the likeliest sequence is not the one that looks likeliest at once."""
    if seed:
        p = torch.rand(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** 4
        return dict(zip(itertools.product(range(2), repeat=4), (p / p.sum()).tolist(), strict=True))
    law = {(1, *x): 0.4 / 3 * (sum(x) == 1) for x in itertools.product(range(2), repeat=3)}
    law |= {(0, *x): 0.1 if x[0] else 0.0375 for x in itertools.product(range(2), repeat=3)}
    return law | {(0, 1, 0, 0): 0.15}


@pytest.mark.parametrize("policy", [KLASS(), Blocks(TopMargin(), 3), Blocks(ConfidenceThreshold(1.0), 3)], ids=str)
def test_haste_that_the_budget_causes_finds_nothing(policy: UnmaskingPolicy) -> None:
    """One position per step is exact, whatever the budget makes a policy do that decides for itself or by blocks."""
    space, slow = TokenSpace(2, eos_id=None, pad_id=0), 0
    for seed in range(8):
        law = hurrying(seed)
        denoiser = conditionals(law)
        for steps in (5, 6, 7, 8):
            first = decode(denoiser, policy, repeated([None] * 4, 1, pad=0), space, steps=steps)
            if int(first.order.n_steps_B[0]) < 4:
                continue
            slow += 1
            found = SEARCHING.decode(denoiser, policy, repeated([None] * 4, 1, pad=0), space, steps, 0)
            before, after = (law[tuple(trace.tokens_BL[0].tolist())] for trace in (first, found))
            assert after >= before - 1e-12, (seed, steps)
    assert slow > 10


def test_no_evaluation_is_spent_on_what_cannot_count() -> None:
    """With one step left over and several positions masked again."""
    canvas = repeated([None] * 5, 1, pad=0)
    policy, went_on = ConfidenceThreshold(0.01), 0  # everything at once
    for seed in range(20):
        nfe = [
            int(SEARCHING.decode(Unsure(6, seed=seed), policy, canvas, MIXED, steps, 0).nfe_B) for steps in (1, 2, 3)
        ]
        assert nfe[:2] == [1, 1]
        went_on += nfe[2] > 1
    assert went_on > 0, "with two steps left it may"


def test_it_stops_where_no_branch_can_be_likelier() -> None:
    """By hand: a branch is at most as likely as its other token and what stands before it."""
    law = Fixed(torch.tensor([[0.89, 0.1, 0.01], [0.8, 0.15, 0.05], [0.5, 0.3, 0.2]], dtype=torch.float64).log())
    sure = rows([[None, None, 0]], pad=0)
    trace = SEARCHING.decode(law, ConfidenceThreshold(0.7), sure, SPACE, 50, 0)
    assert trace.nfe_B.tolist() == [1], "0.712 in one step; 0.1 and 0.15 at most otherwise"
    # All at once 0.356; 0.3 at most with another token at the last position.
    trace = SEARCHING.decode(law, ConfidenceThreshold(0.4), rows([[None] * 3], pad=0), SPACE, 50, 0)
    assert trace.tokens_BL.tolist() == [[0, 0, 0]]
    assert trace.nfe_B.tolist() == [1]
    # One after the other it is 0.356 again.
    trace = SEARCHING.decode(law, ConfidenceThreshold(0.85), rows([[None] * 3], pad=0), SPACE, 50, 0)
    assert trace.tokens_BL.tolist() == [[0, 0, 0]]
    assert trace.nfe_B.tolist() == [3], "0.89; 0.8; 0.5: others cost 0.1, 0.89 x 0.15 and 0.712 x 0.3"


def test_a_contradiction_is_found_and_undone() -> None:
    """Position 0 looks like token 0, which leaves nothing sensible for position 1; token 1 leaves a sure thing."""
    denoiser = Tabular(2, 3)
    with torch.no_grad():
        denoiser.table.zero_()

        def says(tokens: list[int], position: int, p: list[float]) -> None:
            denoiser.table[int(denoiser.state(torch.tensor([tokens]))), position] = torch.tensor(p).double().log()

        says([3, 3], 0, [0.6, 0.39, 0.01])
        says([3, 3], 1, [0.34, 0.33, 0.33])
        says([0, 3], 1, [0.34, 0.33, 0.33])
        says([1, 3], 1, [0.01, 0.01, 0.98])
    canvas = repeated([None, None], 1, pad=0)
    assert decode(denoiser, TopMargin(), canvas, SPACE, steps=9).tokens_BL.tolist() == [[0, 0]]
    trace = SEARCHING.decode(denoiser, TopMargin(), canvas, SPACE, 9, 0)
    assert trace.tokens_BL.tolist() == [[1, 2]]
    assert trace.order.step_BL.tolist() == [[1, 2]]
    assert trace.nfe_B.tolist() == [3], "two steps, and one from the branch"
    assert SEARCHING.decode(denoiser, TopMargin(), canvas, SPACE, 2, 0).tokens_BL.tolist() == [[0, 0]]


@pytest.mark.parametrize("isolate_rows", [False, True])
@pytest.mark.parametrize("policy", [*FINISHING_EARLY, IID(), TopMargin()], ids=str)
def test_a_row_alone_gives_what_it_gives_in_a_batch(policy: UnmaskingPolicy, isolate_rows: bool) -> None:
    canvas = random_rows(9, vocab_size=6, pad=0, longest=7, seed=4)
    options = DecodingOptions(search=True, isolate_rows=isolate_rows)
    whole = options.decode(Unsure(6), policy, canvas, MIXED, 30, 5)
    assert bool((whole.nfe_B > decode(Unsure(6), policy, canvas, MIXED, steps=30, seed=5).nfe_B).any())
    for batch, padding in (([4, 0, 8], 3), ([1, 2, 3, 5, 6, 7], 0), ([8], 2)):
        part = SEARCHING.decode(Unsure(6), policy, subset(canvas, batch, pad=0, padding=padding), MIXED, 30, 5)
        for row, of in enumerate(batch):
            length = int(canvas.valid_BL[of].sum())
            assert part.tokens_BL[row, :length].equal(whole.tokens_BL[of, :length])
            assert part.order.step_BL[row, :length].equal(whole.order.step_BL[of, :length])
            assert part.nfe_B[row] == whole.nfe_B[of]


def test_with_guidance_the_guided_law_is_searched_and_every_step_counts_twice() -> None:
    canvas = random_rows(9, vocab_size=6, pad=0, longest=7, seed=4)
    plain, policy = Unsure(6), ConfidenceThreshold(0.4)

    def by_hand(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        rows_A = [int((canvas.index_B == index).nonzero()) for index in asked]
        given_BL = canvas.prompt_BL[rows_A][:, : tokens_BL.shape[1]]
        alone_BL = tokens_BL.masked_fill(given_BL, MIXED.mask_id)
        with_BQV, hidden_BLD = plain(tokens_BL, valid_BL, query_BQ)
        return DenoiserOutput(1.7 * with_BQV - 0.7 * plain(alone_BL, valid_BL, query_BQ).logits_BQV, hidden_BLD)

    for row in range(9):
        one = subset(canvas, [row], pad=0)
        asked = one.index_B.tolist()
        guided = DecodingOptions(search=True, guidance=0.7).decode(plain, policy, one, MIXED, 12, 0)
        expected = SEARCHING.decode(by_hand, policy, one, MIXED, 12, 0)
        assert guided.tokens_BL.equal(expected.tokens_BL)
        assert guided.order.step_BL.equal(expected.order.step_BL)
        assert guided.nfe_B.equal(2 * expected.nfe_B)


@pytest.mark.parametrize(
    "policy",
    [TopProbability(), Entropy(), ConfidenceThreshold(0.4), EntropyBounded(0.8), LeftToRight(), Dilated()],
    ids=str,
)
def test_a_run_that_is_begun_goes_on_as_if_it_had_not_stopped(policy: UnmaskingPolicy) -> None:
    canvas = random_rows(12, vocab_size=6, pad=0, longest=8, seed=6)
    for steps in (3, 5, 8):
        whole = decode(Unsure(6), policy, canvas, MIXED, steps=steps)
        for at in range(1, steps):
            filled_BL = (whole.order.step_BL > 0) & (whole.order.step_BL <= at)
            begun_tokens_BL = torch.where(filled_BL | canvas.prompt_BL, whole.tokens_BL, canvas.tokens_BL)
            part = Rows(begun_tokens_BL, canvas.prompt_BL, canvas.valid_BL, canvas.index_B)
            begun = Begun(filled_BL, torch.full_like(canvas.index_B, steps - at))
            rest = decode(Unsure(6), policy, part, MIXED, steps=steps, begun=begun)
            assert rest.tokens_BL.equal(whole.tokens_BL)
            assert rest.order.step_BL.equal((whole.order.step_BL - at).clamp(min=0))
            assert rest.nfe_B.equal((whole.nfe_B - at).clamp(min=0))


def test_an_empty_canvas_and_rows_with_nothing_to_fill() -> None:
    none = Rows(torch.zeros(0, 3, dtype=torch.int64), *[torch.zeros(0, 3, dtype=torch.bool)] * 2, torch.zeros(0).long())
    assert SEARCHING.decode(Unsure(6), TopMargin(), none, MIXED, 5, 0).tokens_BL.shape == (0, 3)
    given = rows([[2, 3], [4, None]], pad=0)
    trace = SEARCHING.decode(Unsure(6), ConfidenceThreshold(0.1), given, MIXED, 5, 0)
    assert trace.nfe_B.tolist() == [0, 1]
    assert trace.order.step_BL.tolist() == [[0, 0], [0, 1]]


def test_of_a_large_vocabulary_the_next_likelier_tokens_are_tried() -> None:
    """Nine at a position: whichever of them leads to a sure thing is found, and no other is looked at."""
    law_V = torch.linspace(1.0, 0.5, 12).double().log()  # all of them nearly alike, the lower the id the likelier
    for good in range(12):

        def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor, good: int = good) -> DenoiserOutput:
            sure_V = torch.full((12,), -40.0, dtype=torch.float64).index_fill(0, torch.tensor([7]), 0.0)
            known_B11 = (tokens_BL[:, :1] == good)[:, :, None]
            first_BQ1 = (query_BQ == 0)[:, :, None]
            logits_BQV = torch.where(~first_BQ1 & known_B11, sure_V, torch.where(first_BQ1, law_V, torch.zeros(12)))
            return DenoiserOutput(logits_BQV, None)

        space = TokenSpace(12, eos_id=None, pad_id=0)
        trace = SEARCHING.decode(denoiser, LeftToRight(), repeated([None] * 2, 1, pad=0), space, 200, 0)
        assert trace.tokens_BL[0].tolist() == ([good, 7] if good <= OTHERS else [0, 0])


def test_no_state_is_gone_on_from_twice() -> None:
    """The same two tokens may be exchanged in either order."""
    again = 0
    for seed in range(30):
        states: list[bytes] = []

        def run(*, canvas: Rows, token_sampler: TokenSampler, begun: Begun, seed: int = seed) -> Trace:
            known_BL = begun.filled_BL | canvas.prompt_BL
            states.extend(row.numpy().tobytes() for row in canvas.tokens_BL.masked_fill(~known_BL, -1))  # noqa: B023
            return decode(
                Unsure(6, seed=seed), ConfidenceThreshold(0.3), canvas, MIXED, steps=100, token_sampler=token_sampler,
                begun=begun,
            )  # fmt: skip

        search(run, random_rows(1, vocab_size=6, pad=0, longest=7, seed=seed), 100, adaptive=True, hurries=False)
        assert len(set(states)) == len(states)
        again += len(states) > 10
    assert again >= 5


class Told(TokenSampler):
    """The likeliest tokens of one row, and the others with what they cost, the cheapest first."""

    def __init__(self) -> None:
        self.priced: dict[int, list[tuple[float, int]]] = {}

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        for position, logits in zip(position_N.tolist(), logits_NV.log_softmax(-1).tolist(), strict=True):
            self.priced[position] = sorted((-log, token) for token, log in enumerate(logits))
        return logits_NV.argmax(-1)


@dataclass
class Leaf:
    """A filled row: token, step and cost of what was unmasked, what else could have been drawn, and in how many steps.

    Args:
        steps: those of its own run, after the branch.
        drawn: the steps of what its own run drew, what was closed left out.
    """

    tokens: list[int]
    step: dict[int, int]
    nats: dict[int, float]
    others: dict[int, list[tuple[float, int]]]
    steps: int
    drawn: list[int]


def looked_back(
    denoiser: Denoiser, policy: UnmaskingPolicy, canvas: Rows, space: TokenSpace, steps: int, end: EndOfSequence
) -> tuple[list[int], list[int], int]:
    """Tokens, steps and evaluations of looking back on one row, by a list of all branches and the definitions."""
    length = canvas.tokens_BL.shape[1]

    def run(known: dict[int, int], left: int) -> Leaf:
        filled_BL = torch.tensor([[i in known for i in range(length)]])
        tokens_BL = torch.tensor([[known.get(i, int(canvas.tokens_BL[0, i])) for i in range(length)]])
        told = Told()
        trace = decode(
            denoiser, policy, Rows(tokens_BL, canvas.prompt_BL, canvas.valid_BL, canvas.index_B), space, steps=steps,
            token_sampler=told, begun=Begun(filled_BL, torch.tensor([left])), end_of_sequence=end,
        )  # fmt: skip
        step = {i: at for i, at in enumerate(trace.order.step_BL[0].tolist()) if at}
        nats = {i: priced[0][0] for i, priced in told.priced.items()}
        others = {i: [pair for pair in priced[1:] if pair[0] < math.inf] for i, priced in told.priced.items()}
        return Leaf(trace.tokens_BL[0].tolist(), step, nats, others, int(trace.nfe_B), [step[i] for i in told.priced])

    def cost(leaf: Leaf) -> float:
        return sum(leaf.nats.values())

    def branches(leaf: Leaf) -> list[tuple[float, Leaf, int, int]]:
        return [
            (sum(n for i, n in leaf.nats.items() if leaf.step[i] < leaf.step[position]) + nats, leaf, position, token)
            for position, others in leaf.others.items()
            for nats, token in others[:OTHERS]
        ]

    best = run({}, steps)
    left, opened, begun = steps - best.steps, branches(best), []
    while left and (cheaper := [branch for branch in opened if branch[0] < cost(best)]):
        branch = min(cheaper, key=lambda branch: branch[0])
        opened.remove(branch)
        nats, leaf, position, token = branch
        at = leaf.step[position]
        known = {i: leaf.tokens[i] for i in leaf.step if leaf.step[i] < at} | {position: token}
        masked, at_once = len(leaf.step) - len(known), leaf.drawn.count(at)
        if known in begun:
            continue
        if policy.adaptive and left == 1 and masked > 1:
            break
        if policy.hurries and masked > left * at_once:
            continue
        begun.append(known)
        rest = run(known, left)
        hurried = policy.hurries and any(rest.drawn.count(step) > at_once for step in rest.drawn)
        cut_short = rest.steps == left and sum(step == left for step in rest.step.values()) > 1
        if not (hurried or cut_short):
            step = {i: at + rest.step[i] if i in rest.step else min(leaf.step[i], at) for i in leaf.step}
            kept = {i: n for i, n in leaf.nats.items() if i in known} | {position: 0.0}
            kept[position] = nats - sum(kept.values())
            whole = Leaf(
                rest.tokens, step, kept | rest.nats, rest.others, rest.steps, [at + step for step in rest.drawn]
            )
            opened += branches(whole)
            if cost(whole) < cost(best):
                best = whole
        left -= rest.steps
    return best.tokens, [best.step.get(i, 0) for i in range(length)], steps - left


class HalfKnown(Unsure):
    """``Unsure``, but at every other position one token alone is possible."""

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        logits_BQV, hidden_BLD = super().__call__(tokens_BL, valid_BL, query_BQ)
        known_BQ1 = (query_BQ % 2 == 1)[:, :, None]
        other_BQV = torch.arange(logits_BQV.shape[-1]) != 2 + query_BQ[:, :, None] % 3
        return DenoiserOutput(logits_BQV.masked_fill(known_BQ1 & other_BQV, -torch.inf), hidden_BLD)


@pytest.mark.parametrize("policy", [IID(), Blocks(ConfidenceThreshold(0.3), 3), KLASS(0.4, 0.6, 1)], ids=str)
def test_a_position_with_one_possible_token_is_unmasked_like_any_other(policy: UnmaskingPolicy) -> None:
    space, went_on = TokenSpace(6, eos_id=None, pad_id=0), 0
    for seed in range(20):
        denoiser, canvas = HalfKnown(6, seed=seed), rows([[None] * 6], pad=0, index=[seed])
        for steps in (6, 7, 9):
            trace = SEARCHING.decode(denoiser, policy, canvas, space, steps, 0)
            tokens, order, nfe = looked_back(denoiser, policy, canvas, space, steps, "as_tokens")
            assert (trace.tokens_BL[0].tolist(), trace.order.step_BL[0].tolist()) == (tokens, order), (seed, steps)
            assert int(trace.nfe_B) == nfe, (seed, steps)
            went_on += nfe > max(order)
    assert went_on > 5


@pytest.mark.parametrize("end", ["as_tokens", "close"])
@pytest.mark.parametrize(
    "policy",
    [*FINISHING_EARLY, TopProbability(), IID(), KLASS(0.4, 0.6, 1), Blocks(TopMargin(), 3)],
    ids=str,
)
def test_it_is_a_best_first_search_by_the_definitions(policy: UnmaskingPolicy, end: EndOfSequence) -> None:
    space = TokenSpace(6, eos_id=1, pad_id=0)
    canvas, denoiser, went_on = random_rows(10, vocab_size=6, pad=0, longest=6, seed=5, least=2), Unsure(6, seed=5), 0
    for steps in (3, 5, 6, 7, 9):
        trace = DecodingOptions(search=True, end_of_sequence=end).decode(denoiser, policy, canvas, space, steps, 0)
        for row in range(10):
            one = Rows.alone(canvas, row)
            length = one.tokens_BL.shape[1]
            tokens, order, nfe = looked_back(denoiser, policy, one, space, steps, end)
            assert trace.tokens_BL[row, :length].tolist() == tokens, (row, steps)
            assert trace.order.step_BL[row, :length].tolist() == order, (row, steps)
            assert int(trace.nfe_B[row]) == nfe, (row, steps)
            went_on += nfe > max(order)
    assert went_on > 5


@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_costs_are_exact_whatever_the_precision_of_the_logits(precision: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NV = (4.0 * torch.randn(50, 6, generator=generator, dtype=torch.float64)).to(precision)
    nats_NV = -logits_NV.double().log_softmax(-1)
    costs = CostRecorder(torch.zeros(1, 50, dtype=torch.int64))
    drawn_N = costs.draw(logits_NV, torch.zeros(50), torch.zeros(50, dtype=torch.int64), torch.arange(50))
    close = {"rtol": 1e-12, "atol": 1e-14} if precision == torch.float64 else {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(costs.nats_BL[0], nats_NV.gather(-1, drawn_N[:, None])[:, 0], **close)
    torch.testing.assert_close(costs.nats_BL[0], nats_NV.amin(-1), **close)
    torch.testing.assert_close(costs.other_nats_BLK[0, :, :5], nats_NV.gather(-1, costs.other_BLK[0, :, :5]), **close)
    torch.testing.assert_close(costs.other_nats_BLK[0, :, :5], nats_NV.sort(-1).values[:, 1:], **close)
    assert bool(costs.other_nats_BLK[0, :, 5:].isinf().all()), "there are six tokens"


def test_of_equally_likely_sequences_the_first_is_kept() -> None:
    """1/2 x 1/4 and then 1/4 x 1/2; and no branch is followed that begins with the cost of what is found."""
    bits = torch.arange(4, dtype=torch.float64).clamp(max=3.0) * -math.log(2.0)
    halves_V, even_V = bits.masked_fill(torch.arange(4) == 3, -2.0 * math.log(2.0)), torch.zeros(4).double()
    denoiser = Tabular(2, 4)
    with torch.no_grad():
        denoiser.table[:] = even_V
        for state, position, row_V in (([4, 4], 0, halves_V), ([1, 4], 1, halves_V)):
            denoiser.table[int(denoiser.state(torch.tensor([state]))), position] = row_V
    space = TokenSpace(4, eos_id=None, pad_id=0)
    trace = SEARCHING.decode(denoiser, LeftToRight(), repeated([None] * 2, 1, pad=0), space, 50, 0)
    assert trace.tokens_BL.tolist() == [[0, 0]]
    assert trace.nfe_B.tolist() == [3], "token 1 at position 0 alone: tokens 2 and 3 cost what is found"


def attempt_of(step: list[int], others: list[tuple[int, float]], positions: int = 1) -> Attempt:
    """Tokens 0, which cost 1 each, with other ones, and what they cost, at the first positions; dear ones elsewhere."""
    length, others_LK = len(step), torch.zeros(len(step), OTHERS, dtype=torch.int64)
    nats_LK = torch.full((length, OTHERS), torch.inf, dtype=torch.float64)
    nats_LK[:, 0] = 99.0
    for rank, (token, nats) in enumerate(others):
        others_LK[:positions, rank], nats_LK[:positions, rank] = token, nats
    ones_L = torch.ones(length, dtype=torch.float64)
    zeros_L = torch.zeros(length, dtype=torch.int64)
    return Attempt(zeros_L, torch.tensor(step), ones_L, others_LK, nats_LK, ones_L.bool())


def test_of_equally_cheap_branches_the_first_is_followed_first() -> None:
    row = RowSearch(attempt_of([1] * 6, [(1, 1.5)], positions=6), left=9, adaptive=False, hurries=False)
    popped = [row.pop() for _ in range(7)]
    assert [branch and branch.position for branch in popped] == [0, 1, 2, 3, 4, 5, None]


def test_behind_a_state_that_was_gone_on_from_the_next_token_is_tried() -> None:
    row = RowSearch(attempt_of([1, 2], [(1, 1.5), (2, 1.7)]), left=9, adaptive=False, hurries=False)
    row.grow(attempt_of([1, 2], [(1, 1.6), (3, 1.8)]))
    popped = [row.pop() for _ in range(4)]
    assert [branch and int(branch.token_L[0]) for branch in popped] == [1, 2, 3, None]


def test_a_state_that_one_branch_has_no_steps_for_is_open_to_another() -> None:
    """With one step left, two positions masked again may go together only where they did before."""
    row = RowSearch(attempt_of([1, 2, 3], [(1, 1.5)]), left=1, adaptive=False, hurries=True)
    row.grow(attempt_of([1, 1, 2], [(1, 1.6)]))
    branch = row.pop()
    assert branch is not None
    assert (branch.nats, branch.at_once, branch.masked) == (1.6, 2, 2)
    assert row.pop() is None


def test_a_row_that_has_stopped_goes_on_no_more_however_often_its_batch_asks() -> None:
    """With one step left; the second branch, which it would be enough for, is dearer."""
    row = RowSearch(attempt_of([1, 2, 3], [(1, 1.1)], positions=3), left=1, adaptive=True, hurries=False)
    assert [row.pop() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("budget", [0, 6])
def test_a_row_without_steps_left_is_not_gone_on_with(budget: int) -> None:
    canvas = random_rows(3, vocab_size=6, pad=0, longest=4, seed=0)
    begun = Begun(torch.zeros_like(canvas.prompt_BL), torch.tensor([1, budget, 2]))
    with pytest.raises(
        ValueError, match=f"budgets of begun rows from {min(budget, 1)} to {max(budget, 2)}: give 1 to steps=5"
    ):
        decode(Unsure(6), TopMargin(), canvas, MIXED, steps=5, begun=begun)


def test_what_is_drawn_is_not_searched_for() -> None:
    with pytest.raises(ValueError, match=r"search=True, token_temperature=0.7: .*give a temperature of 0"):
        DecodingOptions(search=True, token_temperature=0.7)
    assert "search" not in DecodingOptions().describe(TopMargin()), "rows without it are what they were"
    assert SEARCHING.describe(TopMargin())["search"] is True


def test_how_many_steps_are_taken_depends_on_the_row_where_what_is_left_is_searched_with() -> None:
    policies = (TopMargin(), ConfidenceThreshold())
    assert [DecodingOptions().adaptive(policy) for policy in policies] == [False, True]
    assert [SEARCHING.adaptive(policy) for policy in policies] == [True, True]
