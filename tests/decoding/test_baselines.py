"""The published baselines by hand: quotas of a schedule, groups, calibrated scores, rest, orders a task gives."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from decoding.reference import dilated_groups
from laws import assert_follows
from lightning_mdm import categorical
from lightning_mdm.categorical import divergence
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.noisy import Quota
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.oracles import Ties
from lightning_mdm.decoding.policies import (
    KLASS,
    Autoregressive,
    Blocks,
    ConfidenceFactor,
    ConfidenceThreshold,
    Dilated,
    GivenOrder,
    Noisy,
    Oracle,
    PCSampler,
    Prophet,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction, Rows
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Mixing, ToyFacts, pick, random_rows, repeated, rows

SIX = TokenSpace(6, eos_id=None, pad_id=0)


def sizes(policy: UnmaskingPolicy, n: int, steps: int) -> list[int]:
    """How many of ``n`` positions are unmasked at each step."""
    trace = decode(Mixing(6, longest=n), policy, rows([[None] * n], pad=0), SIX, steps=steps)
    return [int(step_set.sum()) for step_set in trace.order.sets()]


def shares(left: Sequence[int]) -> list[int]:
    """What is unmasked between one number of masked positions and the next."""
    return [before - after for before, after in itertools.pairwise(left)]


def fixed(policy: UnmaskingPolicy, p: Sequence[Sequence[float]], steps: int, n: int = 1) -> Trace:
    """A run with fixed probabilities at every position."""
    denoiser = Fixed(torch.tensor(p, dtype=torch.float64).log())
    return decode(denoiser, policy, repeated([None] * len(p), n, pad=0), SIX, steps=steps)


@pytest.mark.parametrize(("n", "steps"), [(81, 50), (50, 50), (51, 50), (7, 5), (8, 3)])
def test_the_linear_schedule_leaves_its_share_masked(n: int, steps: int) -> None:
    left = [n * (steps - k) // steps for k in range(steps + 1)]
    assert sizes(Noisy(), n, steps) == shares(left)


def test_steps_of_the_schedule_at_which_nothing_happens_are_passed_over() -> None:
    assert sizes(Noisy(), 31, 50) == [1] * 31


def test_the_cosine_schedule_begins_slowly() -> None:
    n, steps = 40, 8
    left = [math.floor(n * math.cos(math.pi / 2 * k / steps)) for k in range(steps)] + [0]
    assert sizes(Noisy(quota="cosine"), n, steps) == shares(left)
    assert sizes(Noisy(quota="even"), 42, 8) == sizes(TopMargin(), 42, 8)


@pytest.mark.parametrize("quota", ["linear", "cosine", "even"])
@pytest.mark.parametrize("steps", [32, 64, 128])
def test_steps_that_a_block_leaves_put_the_next_one_in_no_hurry(quota: Quota, steps: int) -> None:
    assert sizes(Blocks(Noisy(quota=quota), 8), 32, steps) == [1] * 32


@pytest.mark.parametrize(
    ("options", "n", "steps", "shares"),
    [
        ({}, 10, 50, [left / 10 for left in range(9, -1, -1)]),  # 40 of the 50 steps are passed over
        ({}, 47, 50, [left / 47 for left in range(46, -1, -1)]),
        ({}, 10, 5, [0.8, 0.6, 0.4, 0.2]),  # with the last of the steps everything is taken, without a ranking
        ({}, 7, 5, [5 / 7, 4 / 7, 2 / 7, 1 / 7]),
        ({"quota": "cosine"}, 4, 8, [0.75, 0.5, 0.25, 0.0]),
        ({"quota": "even"}, 7, 3, [4 / 7, 2 / 7]),
    ],
)
def test_the_noise_fades_with_what_is_left_masked(
    options: dict[str, Any], n: int, steps: int, shares: list[float]
) -> None:
    class Noting(Noisy):
        """Notes the factor on the noise of every step that ranks."""

        def scale_B(self, state: DecodingState, quota_B: Tensor) -> Tensor:
            scale_B = super().scale_B(state, quota_B)
            factors[self.fading] += scale_B.tolist()
            return scale_B

    factors: dict[bool, list[float]] = {True: [], False: []}
    for fading in factors:
        sizes(Noting(coefficient=0.5, fading=fading, **options), n, steps)
    assert factors[True] == pytest.approx([0.5 * share for share in shares])
    assert factors[False] == [0.5] * len(shares)


def test_without_noise_and_with_even_quotas_it_is_the_plain_ranking() -> None:
    canvas = random_rows(30, vocab_size=6, pad=0, longest=12, seed=6, least=6)
    for certainty, plain in {"margin": TopMargin(), "probability": TopProbability()}.items():
        first, second, third = (
            decode(Mixing(6), policy, canvas, SIX, steps=5).order.step_BL
            for policy in (Noisy(certainty, coefficient=0.0, quota="even"), plain, Noisy(certainty, quota="even"))  # type: ignore[arg-type]
        )
        assert first.equal(second)
        assert not first.equal(third)


def test_gumbel_noise_on_log_probabilities_draws_positions_by_their_powers() -> None:
    p = [[0.9, 0.1, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0]]
    trace = fixed(Noisy("log_probability", coefficient=0.5), p, steps=3, n=20_000)
    first = Counter(trace.order.unmasked_at(1).int().argmax(-1).tolist())
    weight = [0.9**2, 0.6**2, 0.5**2]
    assert_follows(first, {i: w / sum(weight) for i, w in enumerate(weight)})


@pytest.mark.parametrize(
    ("factor", "taken"), [(0.1, 1), (0.25, 1), (0.31, 2), (0.41, 3), (3.49, 3), (3.51, 4), (9.0, 4)]
)
def test_the_more_tokens_the_surer_the_last_has_to_be(factor: float, taken: int) -> None:
    # (n + 1)(1 - c_n) for n = 1 .. 4: 0.1, 0.3, 0.4, 3.5
    p = [[c, 1 - c, 0, 0, 0, 0] for c in (0.9, 0.95, 0.9, 0.7)]
    p[3] = [0.3, 0.2, 0.2, 0.1, 0.1, 0.1]
    chosen = fixed(ConfidenceFactor(factor), p, steps=4).order.unmasked_at(1)[0]
    assert int(chosen.sum()) == taken
    assert bool(chosen[1])


def test_groups_stand_apart_from_coarse_to_fine() -> None:
    trace = decode(Mixing(6), Dilated(), rows([[None] * 8, [1, *[None] * 8]], pad=0), SIX, steps=9)
    assert trace.order.step_BL.tolist() == [[1, 3, 2, 3, 1, 3, 2, 3, 0], [0, 1, 3, 2, 3, 1, 3, 2, 3]]
    seven = decode(Mixing(6), Dilated(3), rows([[None] * 9, [None] * 7], pad=0), SIX, steps=9).order.step_BL.tolist()
    assert seven == [[1, 2, 2] * 3, [1] * 7 + [0] * 2], "a smaller last group joins the one before"
    for base in (2, 3, 4):
        canvas = rows([[None] * n for n in range(1, 41)], pad=0)
        order = decode(Mixing(6, longest=40), Dilated(base), canvas, SIX, steps=40).order.step_BL
        for n, row in enumerate(order.tolist(), start=1):
            for step, group in enumerate(dilated_groups(n, base), start=1):
                assert {k for k in range(n) if row[k] == step} == group


def test_blocks_of_groups_are_groups_of_each_block() -> None:
    order = decode(Mixing(6), Blocks(Dilated(), 4), rows([[None] * 8], pad=0), SIX, steps=8).order.step_BL
    assert order.tolist() == [[1, 2, 1, 2, 3, 4, 3, 4]]


def test_frequent_tokens_and_late_positions_wait() -> None:
    class Facts(ToyFacts):
        def token_frequency(self) -> Tensor:
            return torch.tensor([0.9, 0.05, 0.01, 0.02, 0.01, 0.01], dtype=torch.float64)

    p = [[0.9, 0.1, 0, 0, 0, 0], [0.1, 0.9, 0, 0, 0, 0], [0.0, 0.1, 0.9, 0, 0, 0]]
    # -p log f: 0.09, 2.70, 4.14; in order of places times 1, e^-decay, e^-2 decay
    for policy, order in {
        PCSampler(decay=0.0): [3, 2, 1],
        PCSampler(decay=0.6): [3, 1, 2],
        PCSampler(decay=8.0): [1, 2, 3],
        PCSampler(decay=0.01, clip=2.0): [3, 1, 2],
    }.items():
        assert fixed(policy.informed(Facts()), p, steps=3).order.step_BL.tolist() == [order]
    # Places are those of the canvas: when the middle is gone, the last position is no nearer.
    p = [[0.2, 0.4, 0.1, 0.1, 0.1, 0.1], [0.0, 0.01, 0.99, 0, 0, 0], [0.0, 0.1, 0.9, 0, 0, 0]]
    assert fixed(PCSampler(decay=0.8).informed(Facts()), p, steps=3).order.step_BL.tolist() == [[2, 1, 3]]
    # Nor is it farther for what is given in between.
    apart = rows([[None, 1, 1, None]], pad=0)
    p = [[0.1, 0.9, 0, 0, 0, 0], *[[1.0, 0, 0, 0, 0, 0]] * 2, [0.0, 0.1, 0.9, 0, 0, 0]]  # 2.70; 4.14 e^-0.3 = 3.07
    given = decode(Fixed(torch.tensor(p).double().log()), PCSampler(decay=0.3).informed(Facts()), apart, SIX, steps=2)
    assert given.order.step_BL.tolist() == [[2, 0, 0, 1]]
    p = [[0.0, 0.01, 0.99, 0, 0, 0]] * 2
    # Far from the beginning too: of equally calibrated positions the first comes first.
    far = fixed(PCSampler().informed(Facts()), [p[1]] * 600, steps=600)
    assert far.order.step_BL.tolist() == [list(range(1, 601))]


class Scripted:
    """Probabilities of the two tokens by step: ``script[step][position]`` is the probability of token 0."""

    def __init__(self, script: Sequence[Sequence[float]]) -> None:
        self.script, self.calls = script, 0

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        p_L = torch.tensor(self.script[self.calls], dtype=torch.float64)
        self.calls += 1
        logits_LV = torch.stack((p_L, 1.0 - p_L), dim=-1).log()
        return pick(logits_LV.expand(len(tokens_BL), -1, -1), query_BQ, tokens_BL)


def test_what_is_confident_and_at_rest_is_taken_together() -> None:
    two = TokenSpace(2, eos_id=None, pad_id=0)
    script = [
        [0.80, 0.90, 0.70, 0.52, 0.52],
        [0.81, 0.60, 0.71, 0.52, 0.52],  # no history yet: the surest one by one, position 1, then 0
        [0.81, 0.60, 0.72, 0.52, 0.70],  # at rest and above 0.6: position 2 alone
        [0.81, 0.60, 0.72, 0.99, 0.70],  # 3 has just moved, 4 at the step before: none is at rest, so the surest, 3
        [0.81, 0.60, 0.72, 0.99, 0.70],
    ]
    order = decode(Scripted(script), KLASS(0.6, 0.01, 2), rows([[None] * 5], pad=0), two, steps=9).order
    assert order.step_BL.tolist() == [[2, 1, 3, 4, 5]]
    calm = [[0.90, 0.80, 0.70, 0.65, 0.59, 0.55]] * 5
    order = decode(Scripted(calm), KLASS(0.6, 0.01, 2), rows([[None] * 6], pad=0), two, steps=9).order
    assert order.step_BL.tolist() == [[1, 2, 3, 3, 4, 5]], "all that qualify at once, then one by one"


def with_gaps(gap: Sequence[float]) -> list[list[float]]:
    """Probabilities of which the likeliest token's logit is so much above the second's."""
    return [[1.0 / (1.0 + math.exp(-g)), 1.0 / (1.0 + math.exp(g)), 0, 0, 0, 0] for g in gap]


@pytest.mark.parametrize(
    ("bounds", "taken"),
    [
        ((1.74, 9.0, 9.0), [8]),
        ((1.76, 1.16, 9.0), [2, 6]),
        ((1.76, 1.17, 0.74), [2, 2, 4]),
        ((1.76, 1.17, 0.76), [2, 2, 2, 2]),
    ],
)
def test_what_is_left_goes_together_once_it_is_sure_on_average(
    bounds: tuple[float, float, float], taken: list[int]
) -> None:
    p = with_gaps([4.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5])  # means of what is left: 1.75, 1.17, 0.75, 0.5
    assert fixed_sizes(Prophet(*bounds), p, steps=4) == taken


def test_how_sure_it_has_to_be_changes_at_0_33_and_0_67_of_the_steps() -> None:
    p = with_gaps([1.0] * 100)
    assert fixed_sizes(Prophet(1.1, 0.9, 1.1), p, steps=100) == [*[1] * 32, 68]
    assert fixed_sizes(Prophet(1.1, 1.1, 0.9), p, steps=100) == [*[1] * 66, 34]


def test_one_possible_token_is_sure_beyond_every_bound() -> None:
    p = [[1.0, 0, 0, 0, 0, 0], *with_gaps([0.1] * 5)]
    assert fixed_sizes(Prophet(1e300, 1e300, 1e300), p, steps=6) == [6]


def test_the_divergence_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 50, 7, generator=generator, dtype=torch.float64).softmax(-1)
    wanted = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(divergence(p.log() + 3.0, q.log()), wanted, rtol=1e-9, atol=1e-12)
    one, half = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergence(one, half).tolist() == pytest.approx([math.log(2)])
    assert divergence(half, one).tolist() == [math.inf]
    assert divergence(one, one).tolist() == [0.0]
    many = torch.randn(1000, 7, generator=generator, dtype=torch.float64)
    assert bool((divergence(many, many + torch.rand(1000, 1, generator=generator)) >= 0.0).all()), "for all rounding"


def test_divergences_are_taken_some_rows_after_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers with fewer copies at a time, of any shape."""
    generator = torch.Generator().manual_seed(0)
    p_BQV, q_BQV = torch.randn(2, 3, 5, 7, generator=generator).bfloat16()
    whole_BQ = divergence(p_BQV, q_BQV)
    assert whole_BQ.shape == (3, 5)
    seen: list[int] = []
    part = categorical._divergence
    monkeypatch.setattr(categorical, "_divergence", lambda p, q: seen.append(p.numel()) or part(p, q))
    for cells, most in ((29, 28), (1, 7)):
        monkeypatch.setattr(categorical, "CELLS_AT_ONCE", cells)
        seen.clear()
        assert torch.equal(divergence(p_BQV, q_BQV), whole_BQ)
        assert max(seen) == most
    assert divergence(p_BQV[:0], q_BQV[:0]).shape == (0, 5)


def test_a_policy_sees_the_predictions_that_it_remembers() -> None:
    class Noting(KLASS):
        """Checks that every earlier prediction is the one of that step, for the rows that are left."""

        def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
            assert len(state.earlier) == min(2, state.step - 1)
            for back, earlier in enumerate(state.earlier, start=1):
                seen = torch.stack([told[state.step - back][int(problem)] for problem in state.noise.index_B])
                assert earlier.entropy_BL.equal(seen)
            told[state.step] = dict(zip(state.noise.index_B.tolist(), prediction.entropy_BL, strict=True))
            nonlocal shrank
            shrank = shrank or (bool(state.earlier) and len(told[state.step]) < len(told[state.step - 1]))
            return super().select(state, prediction)

    told: dict[int, dict[int, Tensor]] = {}
    shrank = False
    canvas = random_rows(20, vocab_size=6, pad=0, longest=10, seed=3)
    decode(Mixing(6), Noting(0.3, 1.0, 2), canvas, SIX, steps=8)
    assert shrank, "no row has left the batch: this test shows nothing"


class ByProblem(ToyFacts):
    """Problem k begins with position k."""

    def order(self, problem: int) -> Sequence[int]:
        return [(place - problem) % 4 for place in range(4)]


def test_every_problem_has_its_own_order() -> None:
    given = rows([[None] * 4, [1, None, None, 5, None, None], [None] * 4], pad=0, index=[2, 1, 3])
    policy = GivenOrder().informed(ByProblem())
    order = decode(Mixing(6), policy, given, SIX, steps=4).order.step_BL
    assert order.tolist() == [[3, 4, 1, 2, 0, 0], [0, 4, 1, 0, 2, 3], [2, 3, 4, 1, 0, 0]]
    flipped = Rows(*(part.flip(0) for part in (given.tokens_BL, given.prompt_BL, given.valid_BL, given.index_B)))
    assert decode(Mixing(6), policy, flipped, SIX, steps=4).order.step_BL.flip(0).equal(order)


@pytest.mark.parametrize("ties", ["random", "margin"])
def test_the_margin_decides_among_equal_ranks_and_never_between_them(ties: Ties) -> None:
    class Facts(ToyFacts):
        def order(self, problem: int) -> Sequence[int]:
            return [1, 0, 1, 0, 1, 0]

    # The margins of ranks 1 are all larger than those of ranks 0; two of them are equal, and two are within 1e-15.
    p = [[0.99, 0.01, 0, 0, 0, 0], [0.6, 0.4, 0, 0, 0, 0], [0.98, 0.02, 0, 0, 0, 0]]
    p += [[0.6 + 1e-15, 0.4 - 1e-15, 0, 0, 0, 0], [0.98, 0.02, 0, 0, 0, 0], [0.7, 0.3, 0, 0, 0, 0]]
    step_BL = fixed(GivenOrder(ties).informed(Facts()), p, steps=6, n=1000).order.step_BL
    found = set(map(tuple, step_BL.tolist()))
    early, late = itertools.permutations([1, 2, 3]), list(itertools.permutations([4, 5, 6]))
    mixed = {(d, a, e, b, f, c) for a, b, c in early for d, e, f in late}
    assert found == ({(4, 3, 5, 2, 6, 1), (4, 3, 6, 2, 5, 1)} if ties == "margin" else mixed)


@pytest.mark.parametrize("known", [None, [0, 1, 2]])
@pytest.mark.parametrize(("policy", "fact"), [(GivenOrder(), "order"), (Oracle(), "response")])
def test_a_problem_of_which_too_little_is_known_is_named(
    policy: UnmaskingPolicy, fact: str, known: list[int] | None
) -> None:
    class Facts(ToyFacts):
        def order(self, problem: int) -> list[int] | None:  # type: ignore[override]
            return known

        response = order  # type: ignore[assignment]

    message = f"policy {type(policy).__name__}: the task has no {fact} for the 4 tokens of problem 7"
    with pytest.raises(ValueError, match=message):
        decode(Mixing(6), policy.informed(Facts()), rows([[None] * 4], pad=0, index=[7]), SIX, steps=4)


class Responses(ToyFacts):
    """Problem k's own response is k, k + 1, ... modulo 6."""

    def response(self, problem: int) -> list[int]:
        return [(problem + place) % 6 for place in range(4)]


def test_the_oracle_takes_what_is_right_at_once_and_else_the_surest() -> None:
    weight_LV = torch.full((4, 6), 0.1, dtype=torch.float64)
    for place, (token, weight) in enumerate([(2, 0.4), (0, 0.9), (4, 0.3), (1, 0.5)]):  # margins 1/3, 4/7, 1/4, 2/5
        weight_LV[place, token] = weight
    by_problem = {
        2: [1, 2, 1, 3],  # its own response is 2, 3, 4, 5: two are right, of the others place 1 is the surer one
        0: [3, 1, 4, 2],  # 0, 1, 2, 3: nothing is ever right, so one by one, by margin
        5: [2, 1, 3, 1],  # 5, 0, 1, 1
    }

    class Facts(Responses):
        def response(self, problem: int) -> list[int]:
            return [5, 0, 1, 1] if problem == 5 else super().response(problem)

    policy = Oracle().informed(Facts())
    canvas = rows([[None] * 4] * 3, pad=0, index=list(by_problem))
    trace = decode(Fixed(weight_LV.log()), policy, canvas, SIX, steps=4)
    assert trace.order.step_BL.tolist() == list(by_problem.values())
    assert trace.nfe_B.tolist() == [3, 4, 3]
    shifted, apart = (
        rows([[3, None, 1, None, None, None]], pad=0, index=[2]),
        Fixed(weight_LV[[0, 0, 0, 1, 2, 3]].log()),
    )
    trace = decode(apart, policy, shifted, SIX, steps=9)
    assert trace.order.step_BL.tolist() == [[0, 1, 0, 2, 1, 3]], "places are those of what is generated"
    assert (policy.adaptive, policy.reads, policy.label, policy.options) == (True, {"response"}, "oracle", {})


def test_what_one_task_knows_does_not_stay_with_a_policy_that_another_informs() -> None:
    ranked, frequent = GivenOrder(), PCSampler()
    first = ranked.informed(Responses())
    assert isinstance(first.facts, Responses)
    assert frequent.informed(Responses()).surprise_V is not None
    assert ranked.facts is frequent.surprise_V is None
    assert type(first.informed(ByProblem()).facts) is ByProblem
    assert isinstance(first.facts, Responses)


def test_the_oracle_is_refused_where_tokens_are_drawn() -> None:
    canvas, policy = rows([[None] * 4], pad=0), Oracle().informed(Responses())
    DecodingOptions().decode(Mixing(6), policy, canvas, SIX, 2, 0)
    with pytest.raises(ValueError, match=r"policy Oracle, token_temperature=0\.5: it trusts the likeliest tokens"):
        DecodingOptions(token_temperature=0.5).decode(Mixing(6), policy, canvas, SIX, 2, 0)


def test_one_token_per_step_from_the_left_whatever_the_budget() -> None:
    canvas = rows([[None, 2, None, None], [None] * 3], pad=0)
    for steps in (3, 4, 50):
        order = decode(Mixing(6), Autoregressive(), canvas, SIX, steps=steps)
        assert order.order.step_BL.tolist() == [[1, 0, 2, 3], [1, 2, 3, 0]]
        assert order.nfe_B.tolist() == [3, 3]


def test_what_a_policy_needs_and_whether_it_adapts() -> None:
    needs = {policy: policy.reads for policy in (PCSampler(), GivenOrder(), Blocks(PCSampler()), Noisy(), KLASS())}
    assert [set(fact) for fact in needs.values()] == [
        {"token_frequency"}, {"order"}, {"token_frequency"}, set(), set(),
    ]  # fmt: skip
    assert [p.adaptive for p in (ConfidenceFactor(), KLASS(), Prophet(), Dilated(), Blocks(KLASS()))] == [True] * 5
    assert [p.adaptive for p in (Noisy(), PCSampler(), GivenOrder(), Autoregressive())] == [False] * 4
    assert [p.memory for p in (KLASS(), KLASS(history=3), Blocks(KLASS()), TopMargin())] == [2, 3, 2, 0]
    assert [p.sequential for p in (Autoregressive(), Noisy(), Blocks(Noisy()))] == [True, False, False]
    assert PCSampler().informed(ToyFacts()) == PCSampler()
    assert PCSampler(0.5).informed(ToyFacts()).label == "pc_sampler-0.5-10.0"
    assert TopMargin().informed(ToyFacts()) == TopMargin()
    by_margin = GivenOrder("margin").informed(ToyFacts())
    assert (by_margin.label, by_margin.options) == ("given_order-margin", {"ties": "margin"})
    assert (GivenOrder().label, GivenOrder().options) == ("given_order", {})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Noisy("confidence"), "certainty='confidence': choose one of margin, probability"),  # type: ignore[arg-type]
        (lambda: Noisy(noise="uniform"), "noise='uniform': choose one of gumbel, gaussian"),  # type: ignore[arg-type]
        (lambda: Noisy(quota="all"), "quota='all': choose one of linear, cosine, even"),  # type: ignore[arg-type]
        (lambda: Noisy(coefficient=-0.1), "coefficient=-0.1"),
        (lambda: Noisy(coefficient=math.inf), "coefficient=inf"),
        (lambda: ConfidenceFactor(0.0), "factor=0.0"),
        (lambda: ConfidenceFactor(math.nan), "factor=nan"),
        (lambda: KLASS(1.0), "threshold=1.0"),
        (lambda: KLASS(divergence=0.0), "divergence=0.0"),
        (lambda: KLASS(history=0), "history=0"),
        (lambda: Prophet(early=-0.1), "early=-0.1: the gap of logits to reach is at least 0 nats"),
        (lambda: Prophet(middle=math.nan), "middle=nan"),
        (lambda: Prophet(late=-1.0), "late=-1.0"),
        (lambda: Dilated(1), "base=1"),
        (lambda: PCSampler(-1.0), "decay=-1.0"),
        (lambda: PCSampler(clip=0.0), "clip=0.0"),
        (lambda: GivenOrder("first"), "ties='first': choose one of random, margin"),  # type: ignore[arg-type]
        (lambda: Blocks(GivenOrder()), "policy=GivenOrder: what it knows is of the whole canvas"),
        (lambda: Blocks(Autoregressive()), "policy=Autoregressive: it takes one token per step, in blocks or not"),
        (lambda: Blocks(Oracle()), "policy=Oracle: what it knows is of the whole canvas"),
        (lambda: Blocks(Blocks()), "policy=Blocks: blocks of blocks divide the budget twice; give one block_length"),
    ],
)
def test_wrong_options_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


def test_at_rest_is_from_step_to_step() -> None:
    two = TokenSpace(2, eos_id=None, pad_id=0)
    drift = [[0.97, 0.96, at, 0.65] for at in (0.70, 0.76, 0.81, 0.81)]  # 0.009, 0.007 nats; 0.031 over both
    order = decode(Scripted(drift), KLASS(0.6, 0.01, 2), rows([[None] * 4], pad=0), two, steps=9).order
    assert order.step_BL.tolist() == [[1, 2, 3, 3]]


def test_a_probability_of_just_the_threshold_is_enough() -> None:
    p = [[0.5, 0.5, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [0.4, 0.4, 0.2, 0, 0, 0]]
    assert fixed(ConfidenceThreshold(0.5), p, steps=3).order.step_BL.tolist() == [[1, 1, 2]]


def fixed_sizes(policy: UnmaskingPolicy, p: Sequence[Sequence[float]], steps: int) -> list[int]:
    """How many positions with fixed probabilities are unmasked at each step."""
    return [int(step_set.sum()) for step_set in fixed(policy, p, steps).order.sets()]


def test_a_doubt_of_just_the_factor_is_too_much() -> None:
    even = [[0.5, 0.5, 0, 0, 0, 0]] * 3  # (n + 1) (1 - c): 1, 1.5, 2
    assert [fixed_sizes(ConfidenceFactor(factor), even, 4)[0] for factor in (1.5, 1.51, 2.0, 2.01)] == [1, 2, 2, 3]


def test_a_probability_or_a_divergence_of_just_the_bound_is_not_at_rest() -> None:
    even = [[0.5, 0.5, 0, 0, 0, 0]] * 3
    assert fixed_sizes(KLASS(0.5, 0.01, 1), even, 5) == [1, 1, 1]
    assert fixed_sizes(KLASS(0.49, 0.01, 1), even, 5) == [1, 2]
    two = TokenSpace(2, eos_id=None, pad_id=0)
    for divergence_bound, order in ((math.log(2.0), [1, 2, 3]), (math.log(2.0) + 1e-9, [1, 2, 2])):
        script = [[0.9, 0.5, 0.5], [0.9, 1.0, 1.0], [0.9, 1.0, 1.0]]  # log 2 nats at the second step
        trace = decode(Scripted(script), KLASS(0.6, divergence_bound, 1), rows([[None] * 3], pad=0), two, steps=5)
        assert sorted(trace.order.step_BL[0].tolist()) == order


def test_log_probabilities_rank_what_is_certain_to_the_last_digit() -> None:
    gap_L = torch.tensor([50.0, 60.0, 55.0], dtype=torch.float64)
    logits_LV = torch.zeros(3, 6, dtype=torch.float64).index_fill(-1, torch.tensor([2, 3, 4, 5]), -torch.inf)
    logits_LV[:, 0] = gap_L
    assert logits_LV.softmax(-1)[:, 0].tolist() == [1.0] * 3
    policy = Noisy("log_probability", coefficient=0.0, quota="even")
    order = decode(Fixed(logits_LV), policy, rows([[None] * 3], pad=0), SIX, steps=3).order
    assert order.step_BL.tolist() == [[3, 1, 2]]
