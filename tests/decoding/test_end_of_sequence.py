"""Closing at an end-of-sequence: what is closed, what is not, and at what cost."""

from __future__ import annotations

import pytest
import torch

from decoding.reference import label, standing
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import LeftToRight, TopProbability
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.vocabulary import TokenSpace
from toys import Fixed, Mixing, random_rows, rows

EOS = 1
SPACE = TokenSpace(4, eos_id=EOS, pad_id=0)


def certain(tokens: list[int], confidence: list[float]) -> Fixed:
    """A denoiser that prefers these tokens, more or less strongly."""
    logits = torch.zeros(len(tokens), 4, dtype=torch.float64)
    logits[torch.arange(len(tokens)), torch.tensor(tokens)] = torch.tensor(confidence, dtype=torch.float64)
    return Fixed(logits)


def test_an_end_of_sequence_closes_what_follows_and_nothing_before() -> None:
    denoiser = certain([2, 3, EOS, 2, 2, 3], [2.0, 3.0, 9.0, 1.0, 1.0, 1.0])
    canvas = rows([[None] * 6], pad=0)
    closed = decode(denoiser, TopProbability(), canvas, SPACE, steps=6, end_of_sequence="close")
    assert closed.tokens_BL.tolist() == [[2, 3, EOS, EOS, EOS, EOS]]
    assert closed.order.step_BL.tolist() == [[3, 2, 1, 1, 1, 1]]
    assert closed.nfe_B.tolist() == [3]
    filled = decode(denoiser, TopProbability(), canvas, SPACE, steps=6, end_of_sequence="as_tokens")
    assert filled.tokens_BL.tolist() == [[2, 3, EOS, 2, 2, 3]]
    assert filled.nfe_B.tolist() == [6]


def test_what_was_committed_before_stays() -> None:
    denoiser = certain([2, EOS, 3, 2], [1.0, 5.0, 2.0, 9.0])
    closed = decode(denoiser, TopProbability(), rows([[None] * 4], pad=0), SPACE, steps=4, end_of_sequence="close")
    assert closed.tokens_BL.tolist() == [[2, EOS, EOS, 2]]
    assert closed.order.step_BL.tolist() == [[3, 2, 2, 1]]


def test_an_end_of_sequence_that_is_given_closes_nothing() -> None:
    denoiser = certain([2, 2, 3, 2], [1.0, 2.0, 3.0, 4.0])
    canvas = rows([[EOS, None, None, None], [None, EOS, None, None]], pad=0)
    closed = decode(denoiser, LeftToRight(), canvas, SPACE, steps=3, end_of_sequence="close")
    assert closed.tokens_BL.tolist() == [[EOS, 2, 3, 2], [2, EOS, 3, 2]]
    assert closed.nfe_B.tolist() == [3, 3]


def test_given_tokens_behind_an_end_of_sequence_stay() -> None:
    denoiser = certain([EOS, 2, 2, 2], [5.0, 1.0, 1.0, 1.0])
    canvas = rows([[None, 3, None, 2], [None, None]], pad=0)
    closed = decode(denoiser, LeftToRight(), canvas, SPACE, steps=3, end_of_sequence="close")
    assert closed.tokens_BL.tolist() == [[EOS, 3, EOS, 2], [EOS, EOS, 0, 0]]
    assert closed.nfe_B.tolist() == [1, 1]


@pytest.mark.parametrize("policy", standing(), ids=label)
def test_nothing_behind_an_end_of_sequence_is_decoded_later(policy: UnmaskingPolicy) -> None:
    canvas = random_rows(60, vocab_size=4, pad=0, longest=9, seed=3)
    trace = decode(
        Mixing(4), policy, canvas, SPACE, steps=5, token_sampler=Temperature(1.0), end_of_sequence="close", seed=2
    )
    to_fill_BL = canvas.valid_BL & ~canvas.prompt_BL
    n_closed = 0
    for tokens, step, fill in zip(
        trace.tokens_BL.tolist(), trace.order.step_BL.tolist(), to_fill_BL.tolist(), strict=True
    ):
        ends = [i for i in range(len(tokens)) if fill[i] and tokens[i] == EOS]
        for i in range(ends[0] + 1 if ends else len(tokens), len(tokens)):
            assert not fill[i] or step[i] <= step[ends[0]]
            n_closed += fill[i] and tokens[i] == EOS
    assert n_closed > 5, "the case is not tested"


def test_closing_needs_an_end_of_sequence() -> None:
    space = TokenSpace(4, eos_id=None, pad_id=0)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        decode(Mixing(4), LeftToRight(), rows([[None]], pad=0), space, steps=1, end_of_sequence="close")
