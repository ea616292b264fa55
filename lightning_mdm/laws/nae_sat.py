"""Latents and observations: L&O-NAE-SAT (Kim et al. 2025, arXiv 2502.06768, Definition 3.1 and Section 3.3).

*Latent* tokens are independent fair bits. Each *observation* belongs to a triple of latents, drawn once as part of the
law, and is 1 where the three are not all equal, else 0. Observations are easy given the latents, latents are hard given
the observations: that is a planted constraint satisfaction problem. In order (all latents at once, then all
observations) two steps are enough for a perfect sequence.

Known from the paper: the observations, "randomly chosen (prefixed) triples", latents first, sequences padded with a
further token 2 to 512 positions, and (N, P) = (25, 275), (30, 270), (40, 260), (50, 250), (100, 200). Our reading: the
three indices of a triple differ (only then does guessing 1 give the paper's 75 %), triples are drawn independently of
each other, so that one may occur twice, and the padding is given, never generated. It stands in front here, as prompts
do; to rotary positions the side is all the same.

Knows nothing of nets, tasks or text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from lightning_mdm.laws.law import Draw, check_least

Placing = Literal["latents_first", "shuffled"]
PADDING = 2  # the token that pads; 0 and 1 are bits


@dataclass(frozen=True)
class NaeSat:
    """Sequences of ``latents + observations`` bits.

    Args:
        latents: N, the number of latent tokens, at least 3.
        observations: P, the number of observation tokens.
        padding: number of given padding tokens in front. Without any, a net that knows relative positions alone cannot
            tell one masked token from another.
        placing: ``latents_first``, as in the paper's experiments, or ``shuffled`` by one permutation that is part of
            the law.
        seed: decides triples, permutation and all problems.

    Raises:
        ValueError: an option out of its range.
    """

    latents: int = 10
    observations: int = 30
    padding: int = 0
    placing: Placing = "latents_first"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(latents=(self.latents, 3), observations=(self.observations, 0), padding=(self.padding, 0))
        if self.placing not in get_args(Placing):
            raise ValueError(f"placing={self.placing!r}: choose one of {', '.join(get_args(Placing))}")

    @property
    def length(self) -> int:
        """L, the number of response positions."""
        return self.latents + self.observations

    @property
    def n_tokens(self) -> int:
        """Number of tokens without the mask: two bits, and the padding token where there is padding."""
        return 3 if self.padding else 2

    @property
    def forbidden(self) -> tuple[int, ...]:
        """The padding token, never to be generated."""
        return (PADDING,) if self.padding else ()

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        """The tokens of every prompt: padding."""
        return (PADDING,) * self.padding

    @cached_property
    def triples(self) -> tuple[tuple[int, int, int], ...]:
        """The three different latents, counted from 0, of each observation."""
        rng = random.Random(f"{self.seed}/triples")
        return tuple((a, b, c) for a, b, c in (rng.sample(range(self.latents), 3) for _ in range(self.observations)))

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where the latents, then the observations stand in the response."""
        if self.placing == "latents_first":
            return tuple(range(self.length))
        return tuple(random.Random(f"{self.seed}/places").sample(range(self.length), self.length))

    def response(self, latents: Sequence[int]) -> tuple[int, ...]:
        """The whole sequence of some latents, one bit each."""
        assert len(latents) == self.latents, "one bit per latent"
        bits = [*latents, *(nae(*(latents[i] for i in triple)) for triple in self.triples)]
        placed = [0] * self.length
        for place, bit in zip(self.places, bits, strict=True):
            placed[place] = bit
        return tuple(placed)

    def agreeing(self, response: Sequence[int]) -> int:
        """How many observations of a sequence are what its own latents make them."""
        right = self.response([response[place] for place in self.places[: self.latents]])
        return sum(response[place] == right[place] for place in self.places[self.latents :])

    def draw(self, stream: str, k: int) -> Draw:
        """Problem ``k`` of a stream: a pure function of the law, ``stream`` and ``k``."""
        bits = random.Random(f"{self.seed}/{stream}/{k}").getrandbits(self.latents)
        return Draw(self.prompt_tokens, self.response([bits >> i & 1 for i in range(self.latents)]))

    def optimum_nats(self, steps: int) -> float:
        """The least expected -log-likelihood of the response in nats, for the exact posterior as denoiser.

        No order can do better than the law's entropy, N log 2, and from two steps on latents first attain it; they do
        for every problem. In one step every token costs the entropy of its marginal: an observation is 1 in 3 of 4
        cases.

        Raises:
            ValueError: a budget below 1.
        """
        check_least(steps=(steps, 1))
        alone = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
        return self.latents * math.log(2.0) + (self.observations * alone if steps == 1 else 0.0)


def nae(a: int, b: int, c: int) -> int:
    """1 where the three are not all equal, else 0."""
    return 0 if a == b == c else 1
