"""The decoding loop: budgets, what is given, what may be sampled, and the counting of denoiser evaluations."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.reference import instances, label, with_ends
from laws import assert_follows
from lightning_mdm.decoding.learned import Learned, Rule
from lightning_mdm.decoding.loop import DecodingError, decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import (
    IID,
    Autoregressive,
    Blocks,
    ConfidenceThreshold,
    Entropy,
    LeftToRight,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import RankedPolicy, UnmaskingPolicy
from lightning_mdm.decoding.state import Begun, DecodingState, Prediction, Rows
from lightning_mdm.decoding.tokens import Argmax, Temperature, TokenSampler, token_sampler
from lightning_mdm.orders.budget import StepBudget
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Mixing, Recording, random_rows, repeated, rows, subset

SPACE = TokenSpace(40, eos_id=3, pad_id=0, forbidden=(0, 7, 8))
BUDGETS = [1, 2, 3, 5, 8, 30]
ON_QUOTA = [TopProbability(), TopMargin(), Entropy(), LeftToRight()]


@pytest.mark.parametrize("steps", BUDGETS)
@pytest.mark.parametrize(("policy", "end_of_sequence"), with_ends(instances()), ids=label)
def test_every_policy_finishes_in_its_budget_and_touches_only_the_canvas(
    policy: UnmaskingPolicy, steps: int, end_of_sequence: str
) -> None:
    canvas = random_rows(12, vocab_size=40, pad=0, longest=11, seed=steps, row_token=True, least=0)
    given_before = canvas.tokens_BL.clone()
    to_fill_BL = canvas.valid_BL & ~canvas.prompt_BL
    widest = int(to_fill_BL.sum(-1).max()) if policy.weighs_filled else None
    recording = Recording(Mixing(40), SPACE.mask_id, widest)
    trace = decode(
        recording, policy, canvas, SPACE, steps=steps, token_sampler=Temperature(2.0), end_of_sequence=end_of_sequence
    )
    assert canvas.tokens_BL.equal(given_before), "the canvas itself was written to"
    assert trace.tokens_BL[~to_fill_BL].equal(given_before[~to_fill_BL])
    assert not bool(torch.isin(trace.tokens_BL[to_fill_BL], torch.tensor([*SPACE.forbidden, SPACE.mask_id])).any())
    assert (trace.order.step_BL > 0).equal(to_fill_BL)
    assert trace.nfe_B.equal(trace.order.n_steps_B), "a row is evaluated once per step it takes"
    assert int(trace.nfe_B.max()) <= steps
    assert trace.nfe_B.tolist() == [recording.evaluations(row) for row in range(12)]
    assert trace.forward_passes == len(recording.calls) == int(trace.nfe_B.max())


@pytest.mark.parametrize("steps", BUDGETS)
@pytest.mark.parametrize("policy", ON_QUOTA, ids=label)
def test_ranked_policies_meet_the_quotas_exactly(policy: UnmaskingPolicy, steps: int) -> None:
    canvas = random_rows(16, vocab_size=40, pad=0, longest=13, seed=50 + steps)
    order = decode(Mixing(40), policy, canvas, SPACE, steps=steps, token_sampler=Temperature(1.0)).order
    sizes_BT = torch.stack([step_set.sum(-1) for step_set in order.sets()], dim=1)
    n_B = (canvas.valid_BL & ~canvas.prompt_BL).sum(-1)
    for n, sizes in zip(n_B.tolist(), sizes_BT.tolist(), strict=True):
        assert [size for size in sizes if size] == StepBudget(steps).quotas(n)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 20])
@pytest.mark.parametrize("length", [1, 3, 4])
def test_blocks_finish_one_after_the_other(steps: int, length: int) -> None:
    canvas = random_rows(16, vocab_size=40, pad=0, longest=13, seed=steps)
    order = decode(Mixing(40), Blocks(TopMargin(), length), canvas, SPACE, steps=steps).order
    for row in order.step_BL.tolist():
        steps_of_canvas = [step for step in row if step]
        n = len(steps_of_canvas)
        size = max(length, -(-n // steps))
        parts = [steps_of_canvas[start : start + size] for start in range(0, n, size)]
        for earlier, later in itertools.pairwise(parts):
            assert max(earlier) < min(later)


@pytest.mark.parametrize("sampler", [Argmax(), Temperature(1.0)])
def test_in_one_step_all_policies_agree(sampler: Argmax | Temperature) -> None:
    canvas = random_rows(10, vocab_size=40, pad=0, longest=9, seed=1)
    traces = [decode(Mixing(40), policy, canvas, SPACE, steps=1, token_sampler=sampler) for policy in instances()]
    for trace in traces:
        assert trace.tokens_BL.equal(traces[0].tokens_BL)
        assert trace.order.step_BL.equal(traces[0].order.step_BL)
        assert trace.nfe_B.tolist() == [1] * 10


@pytest.mark.parametrize("isolate_rows", [False, True])
def test_rows_without_anything_to_decode_cost_nothing(isolate_rows: bool) -> None:
    canvas = rows([[1, 2, 5], [1, None]], pad=0)
    options = DecodingOptions(isolate_rows=isolate_rows)
    trace = options.decode(Mixing(40), IID(), canvas, SPACE, steps=3, seed=0)
    assert trace.nfe_B.tolist() == [0, 1]
    assert trace.order.step_BL.tolist() == [[0, 0, 0], [0, 1, 0]]
    none = subset(canvas, [0], pad=0)
    assert options.decode(Mixing(40), IID(), none, SPACE, steps=3, seed=0).forward_passes == 0


@pytest.mark.parametrize("isolate_rows", [False, True])
def test_an_empty_batch_gives_an_empty_trace(isolate_rows: bool) -> None:
    options, none = DecodingOptions(isolate_rows=isolate_rows), repeated([None, None], 0, pad=0)
    trace = options.decode(Mixing(40), IID(), none, SPACE, steps=3, seed=0)
    assert list(trace.tokens_BL.shape) == [0, 2]
    assert trace.forward_passes == 0


def test_rows_decoded_apart_leave_the_canvas_as_it_was() -> None:
    canvas = random_rows(4, vocab_size=40, pad=0, longest=9, seed=1)
    before_BL = canvas.tokens_BL.clone()
    trace = DecodingOptions(isolate_rows=True).decode(Mixing(40), TopMargin(), canvas, SPACE, steps=3, seed=0)
    assert canvas.tokens_BL.equal(before_BL)
    assert not trace.tokens_BL.equal(before_BL)


def test_only_given_tokens_of_the_canvas_are_read() -> None:
    canvas = random_rows(8, vocab_size=40, pad=0, longest=8, seed=2)
    to_fill_BL = canvas.valid_BL & ~canvas.prompt_BL
    other = random_rows(8, vocab_size=40, pad=0, longest=8, seed=2)
    other.tokens_BL[to_fill_BL] = 5
    for policy in (IID(), TopMargin()):
        first, second = (
            decode(Mixing(40), policy, c, SPACE, steps=3, token_sampler=Temperature()) for c in (canvas, other)
        )
        assert first.tokens_BL.equal(second.tokens_BL)


def test_observers_see_every_step_and_only_active_rows() -> None:
    canvas = random_rows(10, vocab_size=40, pad=0, longest=9, seed=4)
    seen: dict[int, list[Tensor]] = {}

    def watch(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        assert state.step <= 4
        assert state.budget_B.tolist() == [4] * len(chosen_AL)
        assert state.is_last == (state.step == 4)
        assert not bool((chosen_AL & ~state.masked_BL).any())
        assert not bool((state.masked_BL & ~state.canvas_BL).any())
        assert bool((state.tokens_BL[state.masked_BL] == SPACE.mask_id).all())
        for index, chosen_L in zip(state.noise.index_B.tolist(), chosen_AL, strict=True):
            seen.setdefault(index, []).append(chosen_L)

    trace = decode(Mixing(40), ConfidenceThreshold(0.5), canvas, SPACE, steps=4, observers=[watch])
    bare = decode(Mixing(40), ConfidenceThreshold(0.5), canvas, SPACE, steps=4)
    assert bare.tokens_BL.equal(trace.tokens_BL)
    for row, index in enumerate(canvas.index_B.tolist()):
        assert len(seen[index]) == int(trace.nfe_B[row])
        for step, chosen_L in enumerate(seen[index], start=1):
            assert chosen_L.equal(trace.order.unmasked_at(step)[row])


@dataclass(frozen=True)
class Wrong(UnmaskingPolicy):
    """A policy that breaks its contract."""

    how: str

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        if self.how == "nothing":
            return torch.zeros_like(state.masked_BL)
        return torch.ones_like(state.masked_BL)


@dataclass(frozen=True)
class NoNumber(RankedPolicy):
    """A policy whose score is the logarithm of a negative number at one position of the second row."""

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        score_BL = torch.arange(state.masked_BL.numel(), dtype=torch.float64).reshape(state.masked_BL.shape)
        return score_BL.masked_fill(score_BL == state.masked_BL.shape[1] + 1, -1.0).log()


@pytest.mark.parametrize("policy", [NoNumber(), Blocks(NoNumber(), 4)], ids=["alone", "in_blocks"])
def test_scores_that_are_no_numbers_rank_nothing(policy: UnmaskingPolicy) -> None:
    with pytest.raises(RuntimeError, match=f"policy {policy.name} chose .*are its scores numbers"):
        decode(Mixing(40), policy, rows([[1, None, None], [1, None, None, 2]], pad=0), SPACE, steps=2)
    given = rows([[1, None, None], [1, 2, None, None]], pad=0)  # no number of a position that is not masked is no harm
    assert decode(Mixing(40), policy, given, SPACE, steps=2).nfe_B.tolist() == [2, 2]


NO_LAW = ("coins", "finishing", "coins of finishing", "levels", "coins of levels", "finishing of levels")


@dataclass(frozen=True)
class Broken:
    """A selector with a logit that is no number in every row that begins with token 1.

    Args:
        where: which logit, and so which kind of law; nothing is broken without it.
        kind: a part of that name, for a law of that kind.
        at: the position of that logit, where it is a coin's.
    """

    where: str | None
    kind: str
    at: int = 2

    def __call__(
        self, hidden_BLD: Tensor, confidence_BLF: Tensor, valid_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor,
        price: float | Tensor, most: int | None = None,
    ) -> UnmaskingLaw:  # fmt: skip
        broken_B = hidden_BLD[:, 0, 1] > 0.5
        levels = 2 if "levels" in self.kind else 1
        logits_BL, finish_B = torch.zeros_like(confidence_BLF[..., 0]), torch.zeros_like(hidden_BLD[:, 0, 0])
        level_BJ = finish_B[:, None].repeat(1, levels)
        if self.where is not None and self.where.startswith("coins"):
            logits_BL[broken_B, self.at] = torch.nan
        elif self.where == "levels":
            level_BJ[broken_B, 1] = torch.nan
        elif self.where is not None:
            finish_B[broken_B] = torch.nan
        logits_NL, finish_N, masked_NL = (v.repeat_interleave(levels, 0) for v in (logits_BL, finish_B, masked_BL))
        law: UnmaskingLaw = NonEmptyBernoulli.from_logits(logits_NL, masked_NL)
        if "finishing" in self.kind:
            law = FinishingBernoulli.from_logits(logits_NL, finish_N, masked_NL)
        return law if levels == 1 else Levelled.from_logits(level_BJ, law)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rule", ["greedy", "sampled"])
@pytest.mark.parametrize("where", NO_LAW)
def test_a_selector_without_numbers_decodes_nothing(where: str, rule: Rule, beta: float) -> None:
    """Of one row among others, whatever kind of law its logits are of; what is not masked has none."""
    canvas = rows([[2, None, None, None], [1, None, None, None]], pad=0)

    def nfe(selector: Broken, canvas: Rows = canvas) -> list[int]:
        policy = Learned(rule, beta).bound(selector)
        return decode(Mixing(40), policy, canvas, SPACE, steps=3, seed=1).nfe_B.tolist()

    assert all(n >= 1 for n in nfe(Broken(None, where)))
    with pytest.raises(DecodingError, match=r"policy learned chose no position at step 1: .*are its scores numbers"):
        nfe(Broken(where, where))
    if where.startswith("coins"):
        assert nfe(Broken(where, where, at=0)) == nfe(Broken(None, where)), "of a given position nothing is read"


def test_a_policy_says_what_its_options_are() -> None:
    class Plain(UnmaskingPolicy):
        def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
            return state.masked_BL

    with pytest.raises(ValueError, match="policy Plain is no dataclass: put @dataclass"):
        _ = Plain().options


@pytest.mark.parametrize(("how", "message"), [("nothing", "chose no position at step 1"), ("too much", "not masked")])
@pytest.mark.parametrize("sampler", [Argmax(), Temperature(1.0)])
def test_a_policy_that_breaks_its_contract_is_named(how: str, message: str, sampler: Argmax | Temperature) -> None:
    canvas = rows([[1, None, None, None], [None, 2]], pad=0)
    with pytest.raises(RuntimeError, match=f"policy wrong .*{message}"):
        decode(Mixing(40), Wrong(how), canvas, SPACE, steps=3, token_sampler=sampler)


@pytest.mark.parametrize("wrong", ["all positions", "a column for the mask"])
def test_logits_of_another_shape_are_refused(wrong: str) -> None:
    """They would be read at other positions, or as tokens that are none."""

    def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        net = Mixing(40 if wrong == "all positions" else 41)
        place_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL)
        return net(tokens_BL, valid_BL, place_BL if wrong == "all positions" else query_BQ)

    given = rows([[1, 2, None, None], [3, 4, 5, None]], pad=0)
    with pytest.raises(RuntimeError, match=r"shape \(2, \d, 4[01]\) where \(2, 2, 40\) are due"):
        decode(denoiser, TopMargin(), given, SPACE, steps=2)


@pytest.mark.parametrize("n", [1, 2])
def test_a_tensor_is_no_output(n: int) -> None:
    """Of two rows it would come apart into logits and hidden states."""

    def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> Tensor:
        return Mixing(40)(tokens_BL, valid_BL, query_BQ).logits_BQV

    with pytest.raises(DecodingError, match=r"the denoiser gave a tensor: give DenoiserOutput\(logits\)"):
        decode(denoiser, TopMargin(), rows([[1, None]] * n, pad=0), SPACE, steps=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": 0}, "steps=0"), ({"end_of_sequence": "ignore"}, "as_tokens, close")],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(Mixing(40), IID(), rows([[None]], pad=0), SPACE, **{"steps": 1, **options})


@pytest.mark.parametrize("token_temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_is_positive_and_finite(token_temperature: float) -> None:
    with pytest.raises(ValueError, match="token_temperature"):
        Temperature(token_temperature)
    if token_temperature:  # 0 is argmax there
        with pytest.raises(ValueError, match="token_temperature"):
            DecodingOptions(token_temperature=token_temperature)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("sampler", [Argmax(), Temperature(1.0)], ids=["argmax", "drawn"])
@pytest.mark.parametrize(
    "policy",
    [IID(), Entropy(), Blocks(Entropy(), 1), Blocks(Entropy(), 2)],
    ids=["iid", "ranked", "in_blocks", "in_one"],
)
def test_logits_that_say_nothing_are_refused(value: float, sampler: TokenSampler, policy: UnmaskingPolicy) -> None:
    """Not a number, infinitely likely, or nothing possible: of none of these could a token be drawn."""

    def broken(*asked: Tensor) -> DenoiserOutput:
        out = Mixing(40)(*asked)
        wrong = slice(None) if value == float("-inf") else slice(9, 10)
        out.logits_BQV[..., wrong] = value
        return out

    with pytest.raises(RuntimeError, match="logits that are not finite numbers"):
        decode(broken, policy, rows([[None, 5, None]], pad=0), SPACE, steps=2, token_sampler=sampler)


def test_low_precision_logits_rank_as_their_float32_values() -> None:
    canvas = random_rows(60, vocab_size=40, pad=0, longest=14, seed=9, least=5)
    mixing = Mixing(40)
    low, high = (
        decode(
            lambda z, valid, query, dtype=dtype: DenoiserOutput(
                (0.1 * mixing(z, valid, query).logits_BQV).bfloat16().to(dtype)
            ),
            Entropy(),
            canvas,
            SPACE,
            steps=14,
        )
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert low.order.step_BL.equal(high.order.step_BL)


@pytest.mark.parametrize("guidance", [0.1, 1.5])
def test_guidance_moves_logits_away_from_those_without_what_is_given(guidance: float) -> None:
    canvas = random_rows(6, vocab_size=40, pad=0, longest=9, seed=3, row_token=True)
    seen = differing = calls = 0

    def counted(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        nonlocal calls
        calls += 1
        return Mixing(40)(tokens_BL, valid_BL, query_BQ)

    def compare(state: DecodingState, prediction: Prediction, chosen_BL: Tensor) -> None:
        nonlocal seen, differing
        given_BL = state.valid_BL & ~state.canvas_BL
        alone_BL = state.tokens_BL.masked_fill(given_BL, SPACE.mask_id)
        query_BQ = prediction.query_BQ
        (told, hidden_BLD), (untold, _) = (
            Mixing(40)(tokens_BL, state.valid_BL, query_BQ) for tokens_BL in (state.tokens_BL, alone_BL)
        )
        assert prediction.hidden_BLD is not None
        assert hidden_BLD is not None
        assert prediction.hidden_BLD.equal(hidden_BLD), "a selector reads what everything given says"
        expected = told + guidance * (told - untold)
        allowed = torch.tensor([token for token in range(40) if token not in SPACE.forbidden])
        torch.testing.assert_close(prediction.logits_BQV[..., allowed], expected[..., allowed])
        differing += int((told != untold).flatten(1).any(-1).sum())
        seen += len(chosen_BL)

    trace = decode(counted, TopMargin(), canvas, SPACE, steps=3, observers=[compare], guidance=guidance)
    assert seen == int(trace.order.n_steps_B.sum())
    assert differing == seen, "in every row something is given"
    assert trace.nfe_B.equal(2 * trace.order.n_steps_B), "both evaluations count"
    assert trace.forward_passes == calls


def test_guidance_leaves_what_either_evaluation_excludes_as_the_prompt_has_it() -> None:
    canvas = random_rows(6, vocab_size=40, pad=0, longest=9, seed=3, row_token=True)
    free = [token for token in range(40) if token not in SPACE.forbidden]

    def sharp(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        given_B1 = ((tokens_BL != SPACE.mask_id) & valid_BL).any(-1, keepdim=True)
        logits_BQV = Mixing(40)(tokens_BL, valid_BL, query_BQ).logits_BQV
        excluded_BQV = torch.zeros_like(logits_BQV, dtype=torch.bool)
        excluded_BQV[..., free[0]] = True
        excluded_BQV[..., free[1]] = given_B1
        excluded_BQV[..., free[2]] = ~given_B1
        return DenoiserOutput(logits_BQV.masked_fill(excluded_BQV, -torch.inf), None)

    def compare(state: DecodingState, prediction: Prediction, chosen_BL: Tensor) -> None:
        if state.step > 1:
            return  # what is given by then stays where the prompt is masked
        told = sharp(state.tokens_BL, state.valid_BL, prediction.query_BQ).logits_BQV
        assert prediction.logits_BQV[..., free[:3]].equal(told[..., free[:3]])
        assert prediction.logits_BQV[..., free[3:]].isfinite().all()
        assert not prediction.logits_BQV[..., free[3:]].equal(told[..., free[3:]])

    decode(sharp, TopMargin(), canvas, SPACE, steps=3, observers=[compare], guidance=0.5)


def test_guidance_of_zero_is_none() -> None:
    canvas = random_rows(6, vocab_size=40, pad=0, longest=9, seed=3)
    traces = [decode(Mixing(40), TopMargin(), canvas, SPACE, steps=3, **kind) for kind in ({}, {"guidance": 0.0})]
    assert traces[0].tokens_BL.equal(traces[1].tokens_BL)
    assert traces[0].nfe_B.equal(traces[1].nfe_B)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="guidance="):
            decode(Mixing(40), TopMargin(), canvas, SPACE, steps=3, guidance=wrong)
        with pytest.raises(ValueError, match="guidance="):
            DecodingOptions(guidance=wrong)
    with pytest.raises(ValueError, match=r"guidance=0.1: a causal net"):
        decode(Mixing(40), Autoregressive(), canvas, SPACE, steps=9, guidance=0.1)
    assert DecodingOptions(guidance=0.5).describe(TopMargin())["guidance"] == 0.5
    assert "guidance" not in DecodingOptions().describe(TopMargin())


def test_tokens_are_drawn_at_their_temperature() -> None:
    n, p = 20_000, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    uniform_N = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none_N = torch.zeros(n, dtype=torch.int64)
    for temperature in (0.5, 2.0):
        drawn_N = Temperature(temperature).draw(p.log().expand(n, -1), uniform_N, none_N, none_N)
        weight = p ** (1.0 / temperature)
        assert_follows(Counter(drawn_N.tolist()), dict(enumerate((weight / weight.sum()).tolist())))


def test_float32_logits_are_divided_by_the_temperature_in_float64() -> None:
    logits_NV = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    first_N = (logits_NV.double() / 0.7).softmax(-1)[:, 0]
    none_N = torch.zeros(200, dtype=torch.int64)
    for off, token in ((-1e-12, 0), (1e-12, 1)):
        assert Temperature(0.7).draw(logits_NV, first_N + off, none_N, none_N).tolist() == [token] * 200


def test_a_temperature_of_zero_is_the_likeliest_token_and_any_other_its_own() -> None:
    assert [token_sampler(t) for t in (0.0, 0.5, 2.0)] == [Argmax(), Temperature(0.5), Temperature(2.0)]


def test_the_last_step_is_that_of_the_largest_budget_of_the_rows() -> None:
    """And the steps of a row end with its own."""
    seen: list[tuple[int, bool, list[int], list[int]]] = []

    def watch(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        seen.append((state.step, state.is_last, state.budget_B.tolist(), state.steps_left_B.tolist()))

    canvas = repeated([None] * 4, 2, pad=0)
    begun = Begun(torch.zeros_like(canvas.prompt_BL), torch.tensor([1, 3]))
    decode(Mixing(40), TopMargin(), canvas, SPACE, steps=5, begun=begun, observers=[watch])
    assert seen == [(1, False, [1, 3], [1, 3]), (2, False, [3], [2]), (3, True, [3], [1])]


def test_a_row_without_numbers_is_the_denoisers_fault_and_not_the_policys() -> None:
    """It takes nothing, so that its logits are not among those that tokens are drawn from."""

    def broken(*asked: Tensor) -> DenoiserOutput:
        out = Mixing(40)(*asked)
        out.logits_BQV[0, 0, 9] = torch.nan
        return out

    with pytest.raises(RuntimeError, match="logits that are not finite numbers"):
        decode(broken, Entropy(), repeated([None] * 3, 2, pad=0), SPACE, steps=9)


@pytest.mark.parametrize("isolate_rows", [False, True])
def test_statistics_are_compiled_where_that_is_asked_for(isolate_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        asked.append(function.__name__)
        return function

    monkeypatch.setattr("lightning_mdm.decoding.state.compiled", compiled)
    canvas = repeated([None, None], 1, pad=0)
    for compile_statistics, names in ((False, []), (True, ["top_margin"])):
        options = DecodingOptions(compile_statistics=compile_statistics, isolate_rows=isolate_rows)
        options.decode(Mixing(40), TopMargin(), canvas, SPACE, 2, 0)
        assert asked == names
        plain = DecodingOptions(isolate_rows=isolate_rows)
        assert options.describe(TopMargin()) == plain.describe(TopMargin()), "how fast, not what"
    assert DecodingOptions(cuda_graphs=True).describe(TopMargin()) == DecodingOptions().describe(TopMargin())
