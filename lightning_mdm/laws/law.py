"""What every toy law offers: problems by their number, and the least a generation order can cost.

Knows nothing of nets, tasks or text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Draw:
    """One problem of a law.

    Args:
        prompt: the tokens that are given; empty where the law has no prompt.
        response: the tokens to generate.
    """

    prompt: tuple[int, ...]
    response: tuple[int, ...]


class Law(Protocol):
    """A distribution over sequences on which the best order of generation is known."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens without the mask, whose id it is."""
        ...

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Tokens that occur in prompts alone, ascending."""
        ...

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """What every prompt holds, in some arrangement; ascending."""
        ...

    @property
    def length(self) -> int:
        """L, the number of response positions."""
        ...

    def draw(self, stream: str, k: int) -> Draw:
        """Problem ``k`` of a stream: a pure function of the law, ``stream`` and ``k``."""
        ...

    def optimum_nats(self, steps: int) -> float:
        """The least expected -log-likelihood of the response, in nats, over orders of at most ``steps`` steps."""
        ...


def check_least(**given: tuple[int, int]) -> None:
    """Compare whole numbers with the least they may be, ``name=(value, least)``.

    Raises:
        ValueError: one is smaller.
    """
    for name, (value, least) in given.items():
        if value < least:
            raise ValueError(f"{name}={value}: give a whole number of at least {least}")
