"""TokenSpace refuses what could never work."""

from __future__ import annotations

import pytest

from lightning_mdm.vocabulary import TokenSpace


def test_mask_is_one_past_the_last_token() -> None:
    assert TokenSpace(5, 1, 0, (0,)).mask_id == 5
    assert TokenSpace(5, None, 0).eos_id is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, None, 0), "vocab_size=0"),
        ((5, 5, 0), "eos_id"),
        ((5, 1, -1), "pad_id"),
        ((5, 1, 0, (7,)), "forbidden"),
        ((5, 1, 0, (3, 2)), "ascending"),
        ((5, 1, 0, (2, 2)), "ascending"),
        ((5, 1, 0, (0, 1)), "could ever end"),
        ((2, None, 0, (0, 1)), "nothing could be sampled"),
    ],
)
def test_refusals(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenSpace(*arguments)
