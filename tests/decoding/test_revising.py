"""Policies that mask tokens again: what is masked follows the quotas all the same, and a mistake can be mended."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor

from decoding.reference import label
from laws import assert_follows
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import IID, P2, Blocks, Entropy, ReMDM, TopMargin, TopProbability
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.orders.budget import StepBudget
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Mixing, random_rows, repeated, rows

SPACE = TokenSpace(40, eos_id=3, pad_id=0, forbidden=(0, 7, 8))
TWO = TokenSpace(2, eos_id=None, pad_id=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 30])
@pytest.mark.parametrize(
    ("idle", "plain"),
    [
        (ReMDM(0.0, ranking="margin"), TopMargin()), (ReMDM(0.0, "rescale", "probability"), TopProbability()),
        (ReMDM(0.0, ranking="entropy"), Entropy()),
    ],
    ids=label,
)  # fmt: skip
def test_without_weight_nothing_is_masked_again(idle: UnmaskingPolicy, plain: UnmaskingPolicy, steps: int) -> None:
    canvas = random_rows(16, vocab_size=40, pad=0, longest=13, seed=steps)
    found, expected = (
        decode(Mixing(40), policy, canvas, SPACE, steps=steps, token_sampler=Temperature()) for policy in (idle, plain)
    )
    assert found.tokens_BL.equal(expected.tokens_BL)
    assert found.order.step_BL.equal(expected.order.step_BL)
    assert found.nfe_B.equal(expected.nfe_B)


@pytest.mark.parametrize("policy", [P2(), P2(4.0), ReMDM(0.3), ReMDM(1.0, "rescale")], ids=label)
def test_what_is_masked_falls_by_the_quota_if_enough_is_masked(policy: UnmaskingPolicy) -> None:
    """Whatever is masked again, each row by itself."""
    steps, n = 6, 24
    left: list[list[int]] = []
    unmasked: list[list[int]] = []

    def look(state: DecodingState, prediction: Prediction, chosen_BL: Tensor) -> None:
        left.append(state.masked_BL.sum(-1).tolist())
        unmasked.append(chosen_BL.sum(-1).tolist())

    trace = decode(
        Mixing(40), policy, repeated([None] * n, 30, pad=0), SPACE, steps=steps, token_sampler=Temperature(),
        observers=[look],
    )  # fmt: skip
    quotas = StepBudget(steps).quotas(n)
    assert trace.nfe_B.tolist() == [steps] * 30
    short = 0
    for row in range(30):
        for step in range(steps - 1):
            before, after = left[step][row], left[step + 1][row]
            again = unmasked[step][row] - (before - after)
            assert again >= 0
            quota = -(-before // (steps - step))
            assert unmasked[step][row] == min(before, quota + again)
            short += unmasked[step][row] < quota + again
    assert bool(short) == isinstance(policy, ReMDM), "coins may mask more again than are masked"
    if isinstance(policy, P2):
        assert [n - sum(quotas[:step]) for step in range(steps)] == [counts[0] for counts in left]
    assert sum(map(sum, unmasked)) > 30 * n, "nothing was masked again: the case is not tested"
    assert trace.order.gaps


class Turning:
    """Position 0 is a 0 until position 2 is known to be a 1, and a 1 from then on."""

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        p_BL = torch.tensor([0.1, 0.6, 0.8, 0.7], dtype=torch.float64).repeat(len(tokens_BL), 1)  # of a 1
        p_BL[tokens_BL[:, 2] == 1, 0] = 0.95
        logits_BLV = torch.stack((1.0 - p_BL, p_BL), dim=-1).log()
        return DenoiserOutput(torch.take_along_dim(logits_BLV, query_BQ[:, :, None], dim=1))


def test_a_token_that_has_become_unlikely_is_replaced() -> None:
    canvas = rows([[None] * 4], pad=0)
    plain = decode(Turning(), TopProbability(), canvas, TWO, steps=4)
    assert plain.tokens_BL.tolist() == [[0, 1, 1, 1]]
    sets: list[list[int]] = []
    revised = decode(
        Turning(), P2(), canvas, TWO, steps=4,
        observers=[lambda state, prediction, chosen_BL: sets.append(chosen_BL[0].nonzero().flatten().tolist())],
    )  # fmt: skip
    assert revised.tokens_BL.tolist() == [[1, 1, 1, 1]]
    assert sets == [[0], [2], [1, 3], [0]]
    assert revised.order.step_BL.tolist() == [[4, 3, 2, 3]]
    assert revised.nfe_B.tolist() == [4]


def test_weighing_what_is_filled_favours_likely_tokens() -> None:
    """Positions that say nothing of each other: their law is not kept, unlike that of coins for all."""
    p_LV = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.55, 0.45]], dtype=torch.float64)
    law = {x: math.prod(float(p_LV[i, token]) for i, token in enumerate(x)) for x in product(range(2), repeat=3)}
    found = {}
    for policy in (ReMDM(1.0), P2()):
        canvas = repeated([None] * 3, 20_000, pad=0)
        trace = decode(Fixed(p_LV.log()), policy, canvas, TWO, steps=3, token_sampler=Temperature())
        found[policy.name] = Counter(map(tuple, trace.tokens_BL.tolist()))
    assert_follows(found["remdm"], law)
    with pytest.raises(AssertionError, match="chi-square"):
        assert_follows(found["p2"], law)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: P2(-0.1), "eta=-0.1: the weight of filled positions"),
        (lambda: P2(0.0), "eta=0.0: .* for 0 take TopProbability"),
        (lambda: P2(float("inf")), "eta=inf"),
        (lambda: P2(float("nan")), "eta=nan"),
        (lambda: ReMDM(1.1), "eta=1.1: what masks again is a probability"),
        (lambda: ReMDM(-0.1), "eta=-0.1"),
        (lambda: ReMDM(float("nan")), "eta=nan"),
        (lambda: ReMDM(strategy="conf"), "strategy='conf': choose one of cap, rescale"),
        (
            lambda: ReMDM(ranking="best"),
            "ranking='best': choose one of random, margin, probability, log_",
        ),
        (lambda: Blocks(P2()), "policy=P2: what it masks again is of the whole canvas"),
        (lambda: Blocks(ReMDM()), "policy=ReMDM"),
    ],
)
def test_wrong_options_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("policy", [P2(), ReMDM()], ids=label)
def test_looking_back_wants_tokens_that_stay(policy: UnmaskingPolicy) -> None:
    with pytest.raises(ValueError, match=f"policy {type(policy).__name__}, search=True"):
        DecodingOptions(search=True).decode(Mixing(40), policy, rows([[None]], pad=0), SPACE, 4, 0)


@pytest.mark.parametrize("policy", [P2(), ReMDM()], ids=label)
def test_closing_wants_ends_that_stay(policy: UnmaskingPolicy) -> None:
    canvas = rows([[None, None]], pad=0)
    message = f"policy {type(policy).__name__}, end_of_sequence='close': what an end closes"
    with pytest.raises(ValueError, match=message):
        decode(Mixing(40), policy, canvas, SPACE, steps=2, end_of_sequence="close")
    with pytest.raises(ValueError, match=message):
        DecodingOptions("close").check(policy)


def test_certain_tokens_stay_whatever_else_is_certain() -> None:
    """All equally certain, beyond what a probability can tell: none is masked again for another."""
    certain = torch.tensor([[0.0, 200.0]] * 6)
    trace = decode(Fixed(certain), P2(), repeated([None] * 6, 50, pad=0), TWO, steps=4)
    assert trace.order.step_BL.sort(dim=-1).values.tolist() == [[1, 1, 2, 2, 3, 4]] * 50


def test_a_token_that_has_become_impossible_is_the_first_to_go() -> None:
    def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        out = Turning()(tokens_BL, valid_BL, query_BQ)
        out.logits_BQV[(query_BQ == 0) & (tokens_BL[:, 2:3] == 1)] = torch.tensor(
            [-torch.inf, 0.0], dtype=torch.float64
        )
        return out

    for eta in (1.0, 3.0):
        trace = decode(denoiser, P2(eta), rows([[None] * 4], pad=0), TWO, steps=4)
        assert trace.tokens_BL.tolist() == [[1, 1, 1, 1]]


def test_what_is_no_number_at_a_filled_position_is_refused() -> None:
    def broken(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        out = Mixing(40)(tokens_BL, valid_BL, query_BQ)
        filled_BQ = tokens_BL.gather(1, query_BQ) != SPACE.mask_id
        out.logits_BQV[filled_BQ] = torch.nan
        return out

    canvas = rows([[None] * 4], pad=0)
    with pytest.raises(RuntimeError, match="logits that are not finite numbers"):
        decode(broken, P2(), canvas, SPACE, steps=3)
    decode(broken, ReMDM(ranking="margin"), canvas, SPACE, steps=3)  # looks at what is masked alone


@pytest.mark.parametrize("policy", [P2(), ReMDM(ranking="margin"), ReMDM(ranking="entropy")], ids=label)
def test_scores_that_are_no_numbers_are_refused(policy: UnmaskingPolicy) -> None:
    def broken(*asked: Tensor) -> DenoiserOutput:
        out = Mixing(40)(*asked)
        out.logits_BQV[..., 9] = torch.nan
        return out

    with pytest.raises(RuntimeError, match="logits that are not finite numbers"):
        decode(broken, policy, rows([[None, 5, None, None]], pad=0), SPACE, steps=3)


def test_a_policy_that_names_what_is_no_part_of_the_canvas_is_refused() -> None:
    class Wrong(P2):
        def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
            return state.valid_BL

    with pytest.raises(RuntimeError, match="positions outside of the canvas"):
        decode(Mixing(40), Wrong(), rows([[None, 5, None, None]], pad=0), SPACE, steps=3)


def test_what_stays_is_what_the_plain_policies_say() -> None:
    assert not any(policy.revises or policy.weighs_filled for policy in (IID(), TopMargin(), Blocks()))
    assert P2().revises
    assert P2().weighs_filled
    assert ReMDM().revises
    assert not ReMDM().weighs_filled
