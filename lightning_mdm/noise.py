"""Uniform noise as a pure function of (seed, problem, stream, step, position).

A counter-based generator (the SplitMix64 finaliser, Steele et al. 2014, applied to nested keys): no state, so the
noise of a row does not depend on the rows beside it, on padding, on the order of problems or on the device.
Knows nothing of tokens, policies or models.

Shapes: S steps, B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import torch
from torch import Tensor


def signed(word: int) -> int:
    """The two's complement int64 with the bits of an unsigned 64-bit ``word``."""
    return word - (1 << 64) if word >= 1 << 63 else word


GOLDEN = signed(0x9E3779B97F4A7C15)
MULTIPLIERS = (signed(0xBF58476D1CE4E5B9), signed(0x94D049BB133111EB))
STEPS_DRAWN_AHEAD = 16  # at most, where many steps follow one another


def shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 words (torch's ``>>`` carries the sign along)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """A bijection of 64-bit words in which every input bit moves about half of the output bits."""
    x = x + GOLDEN
    x = (x ^ shift_right(x, 30)) * MULTIPLIERS[0]
    x = (x ^ shift_right(x, 27)) * MULTIPLIERS[1]
    return x ^ shift_right(x, 31)


class Stream(IntEnum):
    """What a draw is for; draws of different streams are independent."""

    TIE = 0
    SELECT = 1
    TOKEN = 2
    MASK = 3


@dataclass(frozen=True)
class RowNoise:
    """The noise of a batch of rows, each keyed by its problem.

    Args:
        seed: seed of the run.
        index_B: int64 problem index of each row; equal indices mean equal noise.
        ahead: how many consecutive steps are drawn at once: one draw is dozens of small operations, which on a GPU take
            longer to start than to run. The values are the same for any number.

    Raises:
        ValueError: a seed beyond 64 bits.
    """

    seed: int
    index_B: Tensor
    ahead: int = 1
    _drawn: dict[tuple[Stream, int, int], Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not -(1 << 63) <= self.seed < 1 << 63:
            raise ValueError(f"seed={self.seed}: a seed is a signed whole number of at most 64 bits")

    def rows(self, chosen: Tensor) -> RowNoise:
        """The noise of some of the rows."""
        rows = RowNoise(self.seed, self.index_B[chosen], self.ahead)
        rows.__dict__["word_B"] = self.word_B[chosen]
        rows._drawn.update({key: uniform_SBL[:, chosen] for key, uniform_SBL in self._drawn.items()})
        return rows

    @cached_property
    def word_B(self) -> Tensor:
        """Seed and problem in one word."""
        return mix(mix(torch.full_like(self.index_B, self.seed)) ^ self.index_B)

    def uniform_BL(self, stream: Stream, step: int, length: int) -> Tensor:
        """Float64 uniforms strictly inside (0, 1), ``[B, length]``; position l's draw does not depend on ``length``."""
        key = (stream, step // self.ahead, length)
        if key not in self._drawn:
            for older in [known for known in self._drawn if known[0] == stream and known[2] == length]:
                del self._drawn[older]
            self._drawn[key] = self._uniform_SBL(*key)
        return self._drawn[key][step % self.ahead]

    def _uniform_SBL(self, stream: Stream, block: int, length: int) -> Tensor:
        """The uniforms of ``ahead`` steps."""
        device = self.index_B.device
        step_S1 = torch.arange(block * self.ahead, (block + 1) * self.ahead, device=device)[:, None]
        key_SB = mix(mix(self.word_B ^ int(stream)) ^ step_S1)
        return to_uniform(mix(key_SB[:, :, None] ^ torch.arange(length, device=device)))

    def uniform_B(self, stream: Stream, step: int) -> Tensor:
        """Float64 uniforms strictly inside (0, 1), one per row."""
        return self.uniform_BL(stream, step, 1)[:, 0]


def to_uniform(word: Tensor) -> Tensor:
    """The 52 high bits of a word as the centre of one of 2**52 equal cells of (0, 1), exactly representable."""
    return (shift_right(word, 12).double() + 0.5) * 2.0**-52
