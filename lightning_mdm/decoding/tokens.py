"""Token samplers: how a token is drawn from the logits of the positions being unmasked.

A sampler is told where it draws, so that one with a canvas of its own can fill that in; those here do not look.

Shapes: N positions of any rows, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from lightning_mdm.categorical import sample_categorical


class TokenSampler(ABC):
    """Draws one token for each position."""

    @abstractmethod
    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """Tokens ``[N]``, with the uniforms as the only randomness.

        Args:
            logits_NV: logits of the positions being unmasked, in any precision.
            uniform_N: one float64 uniform of (0, 1) per position.
            row_N: int64, the row of each in the canvas given to ``decode``, ascending.
            position_N: int64, its position in that row, ascending within a row.
        """


@dataclass(frozen=True)
class Argmax(TokenSampler):
    """The likeliest token; the lowest id among equals."""

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        return logits_NV.argmax(-1)


@dataclass(frozen=True)
class Temperature(TokenSampler):
    """A draw from ``softmax(logits / token_temperature)``, exact in float64.

    Args:
        token_temperature: > 0, finite.
    """

    token_temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.token_temperature < math.inf:
            raise ValueError(
                f"token_temperature={self.token_temperature}: give a finite number above 0; for 0 use argmax"
            )

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        return sample_categorical(logits_NV.double() / self.token_temperature, uniform_N)


def token_sampler(token_temperature: float) -> TokenSampler:
    """``Argmax`` for a temperature of 0, ``Temperature`` above it."""
    return Argmax() if token_temperature == 0.0 else Temperature(token_temperature)
