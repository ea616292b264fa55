"""The hop chain: a law on which the order is everything and the best order is known in closed form.

A *chain* y_1 .. y_N with y_i = (y_{i-1} + d_i) mod V and y_0 = 0, *free* tokens (uniform, independent) and *given-away*
tokens (constants), in an arrangement. The increments d_i are constants of the law. A denoiser for it is a formula that
models a network which can compute H hops and no more: it is sure of a given-away token and of a y_i at most H hops
behind the nearest visible chain token (or the start), and knows nothing of any other.
Knows nothing of nets, tasks or text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, get_args

from lightning_mdm.laws.law import Draw, check_least

Arrangement = Literal["fixed", "per_problem"]


@dataclass(frozen=True)
class HopChain:
    """A hop chain over ``chain + free + given`` response positions.

    Tokens 0 .. ``vocab_size - 1`` are digits. The *role* of a position is its index in the chain counted from 0,
    ``free_role`` or ``given_role``. Where every problem has its own arrangement, its prompt holds the role of each
    response position, as the token ``vocab_size + role``.

    Args:
        chain: N, the number of chain tokens.
        free: number of free tokens.
        given: number of given-away tokens.
        hops: H, how far the denoiser computes ahead of a visible chain token.
        certain: the probability it gives to a token that it can compute.
        vocab_size: V, the number of digits.
        arrangement: ``fixed``: one random arrangement and no prompt; ``per_problem``: another one in every problem,
            shown in its prompt, and one constant for all given-away tokens, so that the role alone says it.
        seed: decides increments, constants, the fixed arrangement and all problems.

    Raises:
        ValueError: an option out of its range.
    """

    chain: int = 10
    free: int = 6
    given: int = 16
    hops: int = 2
    certain: float = 0.98
    vocab_size: int = 10
    arrangement: Arrangement = "fixed"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(
            chain=(self.chain, 1), free=(self.free, 0), given=(self.given, 0), hops=(self.hops, 1),
            vocab_size=(self.vocab_size, 2),
        )  # fmt: skip
        if not 1.0 / self.vocab_size < self.certain < 1.0:
            raise ValueError(
                f"certain={self.certain}: give a probability above 1/{self.vocab_size}, that of a guess, and below 1"
            )
        if self.arrangement not in get_args(Arrangement):
            raise ValueError(f"arrangement={self.arrangement!r}: choose one of {', '.join(get_args(Arrangement))}")

    @property
    def length(self) -> int:
        """L, the number of response positions."""
        return self.chain + self.free + self.given

    @property
    def free_role(self) -> int:
        return self.chain

    @property
    def given_role(self) -> int:
        return self.chain + 1

    @property
    def n_tokens(self) -> int:
        """Number of tokens without the mask: digits, and roles where prompts show them."""
        return self.vocab_size + (self.chain + 2 if self.arrangement == "per_problem" else 0)

    @property
    def forbidden(self) -> tuple[int, ...]:
        """The role tokens, never to be generated."""
        return tuple(range(self.vocab_size, self.n_tokens))

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """The tokens of every prompt, ascending; none where the arrangement is fixed."""
        if self.arrangement == "fixed":
            return ()
        return tuple(self.vocab_size + role for role in self._ordered_roles)

    @cached_property
    def increments(self) -> tuple[int, ...]:
        """d_1 .. d_N, each in [1, V): no chain token equals the one before it."""
        rng = random.Random(f"{self.seed}/increments")
        return tuple(rng.randrange(1, self.vocab_size) for _ in range(self.chain))

    @property
    def chain_values(self) -> tuple[int, ...]:
        """y_1 .. y_N."""
        return tuple(total % self.vocab_size for total in accumulate(self.increments))

    @cached_property
    def given_values(self) -> tuple[int, ...]:
        """The given-away constants, in the order of their positions."""
        rng = random.Random(f"{self.seed}/given")
        if self.arrangement == "per_problem":
            return (rng.randrange(self.vocab_size),) * self.given
        return tuple(rng.randrange(self.vocab_size) for _ in range(self.given))

    @cached_property
    def fixed_roles(self) -> tuple[int, ...]:
        """The role of each position; nothing where every problem has its own arrangement."""
        return self._arranged(random.Random(f"{self.seed}/arrangement")) if self.arrangement == "fixed" else ()

    def truth(self, roles: Sequence[int]) -> tuple[int | None, ...]:
        """The right token of each position under an arrangement, ``None`` where it is free."""
        constants, values = iter(self.given_values), self.chain_values
        return tuple(
            next(constants) if role == self.given_role else None if role == self.free_role else values[role]
            for role in roles
        )

    def draw(self, stream: str, k: int) -> Draw:
        """Problem ``k`` of a stream: a pure function of the law, ``stream`` and ``k``; its arrangement included."""
        rng = random.Random(f"{self.seed}/{stream}/{k}")
        roles = self.fixed_roles or self._arranged(rng)
        response = tuple(rng.randrange(self.vocab_size) if token is None else token for token in self.truth(roles))
        return Draw(() if self.fixed_roles else tuple(self.vocab_size + role for role in roles), response)

    def least_guesses(self, steps: int) -> int:
        """The least number of chain tokens that an order of at most ``steps`` = T steps unmasks beyond reach.

        Every chain token that is no guess was computed from a visible one at most H before it, that one from another,
        and so back to a *root*: the start, visible before step 1, or a guess. A root unmasked at step s reaches
        H (T - s) tokens behind it, so g guesses at steps s_1 .. s_g account for at most H T + sum_j (1 + H (T - s_j))
        tokens. All guesses in the first step make the most of it, and placed where one reach ends and the next begins
        they attain it: the least g with H T + g (H T - (H - 1)) >= N. At T = 1 all beyond the first H are guesses.

        Raises:
            ValueError: a budget below 1.
        """
        check_least(steps=(steps, 1))
        beyond = max(0, self.chain - self.hops * steps)
        return -(-beyond // (1 + self.hops * (steps - 1)))

    def optimum_nats(self, steps: int) -> float:
        """The least -log-likelihood that the formula gives the true response, over all orders of ``steps`` steps.

        It is the same for every problem: what a step costs depends on which tokens are visible, never on their values,
        so that not even a policy which knew the response could do better.

        Raises:
            ValueError: a budget below 1.
        """
        guesses = self.least_guesses(steps)
        computed = self.chain - guesses + self.given
        return (self.free + guesses) * math.log(self.vocab_size) - computed * math.log(self.certain)

    def optimum_order(self, steps: int, roles: Sequence[int]) -> tuple[int, ...]:
        """The step (from 1) at which each position of an arrangement is unmasked in one of the best orders.

        Raises:
            ValueError: a budget below 1.
        """
        check_least(steps=(steps, 1))
        reach = self.hops * steps  # the first ``reach`` chain tokens belong to the start
        stretch = 1 + self.hops * (steps - 1)  # and then each guess has itself and what it reaches
        chain = [-(-i // self.hops) for i in range(1, reach + 1)]
        while len(chain) < self.chain:
            chain += [1 - (-offset // self.hops) for offset in range(stretch)]
        return tuple(chain[role] if role < self.chain else 1 for role in roles)

    @property
    def _ordered_roles(self) -> tuple[int, ...]:
        return (*range(self.chain), *(self.free_role,) * self.free, *(self.given_role,) * self.given)

    def _arranged(self, rng: random.Random) -> tuple[int, ...]:
        return tuple(rng.sample(self._ordered_roles, self.length))
