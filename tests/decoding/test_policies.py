"""Policies compared with each other: where they must differ, and what they must not see."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
import torch
from torch import Tensor

from decoding.reference import FACTS, instances, label
from laws import assert_follows
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import (
    IID,
    KLASS,
    POLICIES,
    Blocks,
    ConfidenceThreshold,
    Entropy,
    EntropyBounded,
    LeftToRight,
    PCSampler,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.tokens import token_sampler
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Mixing, ToySelector, random_rows, repeated, rows

TRIED = {Blocks: Blocks(TopMargin(), 3), KLASS: KLASS(0.2, 4.0, 1)}
FAMILY = [(TRIED.get(kind) or kind()).bound(ToySelector()).informed(FACTS) for kind in POLICIES]
SIX = TokenSpace(6, eos_id=None, pad_id=0)


def first_choice(policy: UnmaskingPolicy, p: list[list[float]]) -> list[int]:
    """Positions unmasked first when every position has fixed probabilities."""
    denoiser = Fixed(torch.tensor(p, dtype=torch.float64).log())
    trace = decode(denoiser, policy, rows([[None] * len(p)], pad=0), SIX, steps=len(p))
    return trace.order.unmasked_at(1)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("policy", "position"), [(LeftToRight(), 0), (TopProbability(), 1), (TopMargin(), 2), (Entropy(), 3)], ids=str
)
def test_the_scores_choose_four_different_positions(policy: UnmaskingPolicy, position: int) -> None:
    p = [
        [1 / 6] * 6,
        [0.60, 0.30, 0.10, 0.0, 0.0, 0.0],  # highest top probability; margin 0.30, 0.898 nats
        [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],  # highest margin 0.40; 1.498 nats
        [0.55, 0.45, 0.0, 0.0, 0.0, 0.0],  # lowest entropy, 0.688 nats; margin 0.10
    ]
    assert first_choice(policy, p) == [position]


@pytest.mark.parametrize(
    ("policy", "positions"),
    [
        (ConfidenceThreshold(0.8), [0, 2]),
        (ConfidenceThreshold(0.95), [2]),
        (ConfidenceThreshold(0.54), [0, 1, 2]),
        (EntropyBounded(0.0), [2]),
        (EntropyBounded(0.33), [0, 2]),  # H of positions 2, 0, 1, 3: 0.325, 0.423, 0.688, 0.692
        (EntropyBounded(0.75), [0, 1, 2]),
        (EntropyBounded(1.45), [0, 1, 2, 3]),
        (Blocks(TopProbability(), 2), [0]),
        (Blocks(ConfidenceThreshold(0.4), 2), [0, 1]),
    ],
    ids=str,
)
def test_adaptive_policies_take_what_their_threshold_says(policy: UnmaskingPolicy, positions: list[int]) -> None:
    p = [[best, 1.0 - best, 0.0, 0.0, 0.0, 0.0] for best in (0.85, 0.55, 0.90, 0.52)]
    assert first_choice(policy, p) == positions


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(FAMILY, 2)), ids=label)
def test_no_two_policies_generate_in_the_same_order(first: UnmaskingPolicy, second: UnmaskingPolicy) -> None:
    canvas = random_rows(30, vocab_size=6, pad=0, longest=10, seed=6, least=6)
    orders = [decode(Mixing(6), policy, canvas, SIX, steps=5).order.step_BL for policy in (first, second)]
    assert not orders[0].equal(orders[1])


@pytest.mark.parametrize("policy", instances(), ids=label)
def test_ranking_does_not_see_the_noise_of_the_tokens(policy: UnmaskingPolicy) -> None:
    canvas = random_rows(30, vocab_size=6, pad=0, longest=10, seed=7, least=4)
    sets: list[Tensor] = []
    first, *others = (
        decode(
            Mixing(6), policy, canvas, SIX, steps=4, token_sampler=token_sampler(token_temperature), seed=5,
            observers=[lambda state, prediction, chosen_BL: sets.append(chosen_BL) if state.step == 1 else None],
        )
        for token_temperature in (0.0, 0.5, 1.0, 10.0)
    )  # fmt: skip
    assert all(chosen_BL.equal(sets[0]) for chosen_BL in sets)
    for other in others:
        assert not first.tokens_BL.equal(other.tokens_BL)


@pytest.mark.parametrize("policy", [TopProbability(), TopMargin(), Entropy(), EntropyBounded(0.0), IID(),
    ConfidenceThreshold(0.9), Blocks(TopMargin(), 6), Learned().bound(ToySelector(place=0.0))], ids=label)  # fmt: skip
def test_equal_scores_are_ordered_at_random(policy: UnmaskingPolicy) -> None:
    n = 6000
    denoiser = Fixed(torch.tensor([[0.3, -0.2, 1.0, 0.0, 0.0, 0.0]], dtype=torch.float32).expand(6, -1))
    trace = decode(denoiser, policy, repeated([None] * 6, n, pad=0), SIX, steps=6, seed=3)
    first_BL = trace.order.unmasked_at(1)
    alone_BL = first_BL[first_BL.sum(-1) == 1]  # the sets of one; all sets, for all but IID
    assert len(alone_BL) == n or isinstance(policy, IID)
    counts = Counter(alone_BL.int().argmax(-1).tolist())
    assert_follows(counts, dict.fromkeys(range(6), 1 / 6))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ConfidenceThreshold(0.0), "threshold=0.0"),
        (lambda: ConfidenceThreshold(1.1), "threshold=1.1"),
        (lambda: ConfidenceThreshold(float("nan")), "threshold=nan"),
        (lambda: EntropyBounded(-0.1), "gamma=-0.1"),
        (lambda: EntropyBounded(float("nan")), "gamma=nan"),
        (lambda: Blocks(IID(), 0), "block_length=0"),
        (lambda: Learned("best"), "rule='best': choose one of greedy, sampled"),
        (lambda: Learned(beta=0.0), "beta=0.0"),
        (lambda: Learned(beta=float("inf")), "beta=inf"),
        (lambda: Learned(beta=float("nan")), "beta=nan"),
        (lambda: Learned(price=-0.1), "price=-0.1"),
        (lambda: Learned(price=float("nan")), "price=nan"),
        (lambda: Learned(price=float("inf")), "price=inf"),
        (lambda: Learned().bound(None), "this module has no selector"),
        (lambda: Blocks(Learned()).bound(None), "this module has no selector"),
    ],
)
def test_wrong_options_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_names_and_options_describe_a_policy() -> None:
    names = {kind: kind().name for kind in POLICIES}
    assert len(set(names.values())) == len(POLICIES)
    assert all(re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name) for name in names.values())
    some = (IID, TopProbability, PCSampler, KLASS, LeftToRight, Blocks)
    assert [names[kind] for kind in some] == [
        "iid", "top_probability", "pc_sampler", "klass", "left_to_right", "blocks",
    ]  # fmt: skip
    wrapped = Blocks(ConfidenceThreshold(0.7), 4)
    assert wrapped.options == {"policy": {"name": "confidence_threshold", "threshold": 0.7}, "block_length": 4}


def test_a_policy_without_options_is_the_one_that_its_rows_name() -> None:
    assert [kind().label for kind in POLICIES] == [
        "iid", "top_probability", "top_margin", "entropy", "noisy-margin-gumbel-0.5-False-linear",
        "pc_sampler-0.25-10.0", "left_to_right", "dilated-2", "confidence_threshold-0.9", "confidence_factor-1.0",
        "entropy_bounded-0.1", "klass-0.6-0.015-2", "prophet-7.5-5.0-2.5", "blocks-top_margin-8", "p2-1.0",
        "remdm-0.1-cap-random", "given_order", "oracle", "learned-greedy-1.0-0.0", "autoregressive",
    ]  # fmt: skip


def test_a_policy_is_bound_to_a_selector_without_changing_what_it_is() -> None:
    policy, selector = Learned("sampled", beta=0.5, price=2.0), ToySelector()
    bound = policy.bound(selector)
    assert bound.selector is selector
    assert policy.selector is None
    assert bound == policy
    assert (bound.label, bound.options) == ("learned-sampled-0.5-2.0", {"rule": "sampled", "beta": 0.5, "price": 2.0})
    assert bound.bound(ToySelector(place=0.0)).selector == ToySelector(place=0.0)
    wrapped = Blocks(policy, 4).bound(selector)
    assert isinstance(wrapped.policy, Learned)
    assert wrapped.policy.selector is selector
    assert wrapped.options["policy"] == {"name": "learned", **policy.options}
    assert [p.learned for p in (policy, Blocks(policy), Blocks(IID()), IID())] == [True, True, False, False]
    assert policy.adaptive
    assert TopMargin().bound(None) == TopMargin()


def test_a_denoiser_without_hidden_states_is_refused() -> None:
    mixing = Mixing(6)
    with pytest.raises(ValueError, match="reads the denoiser's hidden states, and this denoiser offers none"):
        decode(
            lambda *asked: mixing(*asked)._replace(hidden_BLD=None), Learned().bound(ToySelector()),
            rows([[None] * 3], pad=0), SIX, steps=2,
        )  # fmt: skip


def test_a_larger_factor_takes_fewer_steps_and_a_smaller_one_more() -> None:
    canvas = random_rows(60, vocab_size=6, pad=0, longest=12, seed=9, least=8)
    for rule in ("greedy", "sampled"):
        steps = [
            float(
                decode(Mixing(6), Learned(rule, beta).bound(ToySelector()), canvas, SIX, steps=8).nfe_B.double().mean()
            )
            for beta in (0.25, 1.0, 4.0)
        ]
        assert steps[0] > steps[1] > steps[2] > 1.0


def test_the_selector_is_told_price_steps_left_and_what_is_masked() -> None:
    seen: list[tuple[list[int], float, list[int]]] = []

    def selector(
        hidden_BLD: Tensor, confidence_BLF: Tensor, valid_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor,
        price: float, most: int | None = None,
    ) -> NonEmptyBernoulli:  # fmt: skip
        seen.append((steps_left_B.tolist(), price, masked_BL.sum(-1).tolist()))
        return NonEmptyBernoulli.from_logits(torch.full(masked_BL.shape, -9.0, dtype=torch.float64), masked_BL)

    canvas = rows([[None] * 4, [None] * 3 + [1]], pad=0)
    decode(Mixing(6), Learned(price=0.7).bound(selector), canvas, SIX, steps=3)
    assert seen == [([3, 3], 0.7, [4, 3]), ([2, 2], 0.7, [3, 2])], "at the last step there is nothing to select"
