"""Every unmasking policy's outcomes follow its enumerated law (chi-square, false alarm 1e-6 each)."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from decoding.reference import SET_LAWS, decode_law, instances, label, standing, table_probabilities
from laws import assert_follows
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.tokens import token_sampler
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Tabular, ToySelector, repeated, with_ties

N = 20_000


@dataclass(frozen=True)
class Toy:
    """One problem to enumerate: a tabular denoiser, the row to decode, and its ids."""

    denoiser: Tabular
    pattern: tuple[int | None, ...]
    space: TokenSpace
    padding: int = 0

    @property
    def start(self) -> tuple[int, ...]:
        given = tuple(self.space.mask_id if token is None else token for token in self.pattern)
        return given + (self.space.pad_id,) * self.padding


TOYS = {
    "three_of_three": Toy(Tabular(3, 3, seed=1), (None, None, None), TokenSpace(3, eos_id=2, pad_id=2)),
    "ties": Toy(with_ties(Tabular(4, 2, seed=2)), (None, None, None, None), TokenSpace(2, eos_id=1, pad_id=1)),
    "given": Toy(
        Tabular(6, 3, seed=3), (None, 1, None, None, None), TokenSpace(3, eos_id=2, pad_id=0, forbidden=(0,)), padding=1
    ),
}


def outcomes(toy: Toy, policy: UnmaskingPolicy, steps: int, token_temperature: float, close: bool) -> Counter[object]:
    trace = decode(
        toy.denoiser,
        policy,
        repeated(toy.pattern, N, pad=toy.space.pad_id, padding=toy.padding),
        toy.space,
        steps=steps,
        token_sampler=token_sampler(token_temperature),
        end_of_sequence="close" if close else "as_tokens",
        seed=7,
    )
    # One number per outcome, for a fast count: digits are token ids, then steps.
    digits = torch.cat((trace.tokens_BL, trace.order.step_BL), dim=1)
    codes, counts = (digits * 8 ** torch.arange(digits.shape[1])).sum(-1).unique(return_counts=True)
    half = digits.shape[1] // 2
    found: Counter[object] = Counter()
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        row = tuple(code >> 3 * place & 7 for place in range(2 * half))
        found[row[:half], row[half:]] = count
    return found


def check(toy: Toy, policy: UnmaskingPolicy, steps: int, token_temperature: float, close: bool = False) -> None:
    probabilities = table_probabilities(toy.denoiser.table.detach(), toy.denoiser.state, toy.space)
    law = decode_law(
        probabilities, policy, toy.start, toy.space, steps=steps, token_temperature=token_temperature, close=close,
        padding=toy.padding,
    )  # fmt: skip
    assert_follows(outcomes(toy, policy, steps, token_temperature, close), law)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("three_of_three", 1), ("three_of_three", 2), ("three_of_three", 4), ("ties", 2), ("ties", 4), ("given", 3)],
)
@pytest.mark.parametrize("policy", instances(), ids=label)
def test_drawn_tokens_and_order_follow_the_enumerated_law(policy: UnmaskingPolicy, name: str, steps: int) -> None:
    check(TOYS[name], policy, steps, token_temperature=1.0)


@pytest.mark.parametrize("policy", instances(), ids=label)
def test_likeliest_tokens_and_order_follow_the_enumerated_law(policy: UnmaskingPolicy) -> None:
    check(TOYS["ties"], policy, steps=3, token_temperature=0.0)


@pytest.mark.parametrize("policy", standing(), ids=label)
def test_closing_at_the_end_of_sequence_follows_the_enumerated_law(policy: UnmaskingPolicy) -> None:
    check(TOYS["given"], policy, steps=4, token_temperature=1.0, close=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("policy", [p for p in instances() if not p.weighs_filled], ids=label)
def test_for_independent_positions_every_policy_draws_the_same_law(policy: UnmaskingPolicy, steps: int) -> None:
    """Of those that mask again, too, where they do so whatever the token."""
    p_LV = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.6, 0.0, 0.4]], dtype=torch.float64)
    space = TokenSpace(3, eos_id=None, pad_id=0)
    trace = decode(
        Fixed(p_LV.log()),
        policy,
        repeated([None] * 3, N, pad=0),
        space,
        steps=steps,
        token_sampler=token_sampler(1.0),
        seed=1,
    )
    law = {
        tokens: math.prod(float(p_LV[i, token]) for i, token in enumerate(tokens))
        for tokens in itertools.product(range(3), repeat=3)
    }
    assert_follows(Counter(map(tuple, trace.tokens_BL.tolist())), law)


def test_every_policy_has_a_reference_law() -> None:
    missing = [kind.__name__ for kind in POLICIES if kind not in SET_LAWS]
    assert not missing, f"write the one-step law of {missing} into tests/decoding/reference.py"


def test_a_fallback_in_place_of_the_conditioned_law_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coins, and the likeliest position where all fail: a test of the test."""

    def fallback(law: NonEmptyBernoulli, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        coin_BL = (uniform_BL < law.log_p_BL.exp()) & law.masked_BL
        return torch.where(coin_BL.any(-1, keepdim=True), coin_BL, law.likeliest(uniform_BL))

    monkeypatch.setattr(NonEmptyBernoulli, "sample", fallback)
    with pytest.raises(AssertionError, match="chi-square"):
        check(TOYS["three_of_three"], Learned("sampled").bound(ToySelector()), steps=3, token_temperature=1.0)
