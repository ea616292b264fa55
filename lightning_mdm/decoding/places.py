"""Policies that go by where a position stands before they ask the denoiser.

Shapes: B rows, L positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from lightning_mdm.decoding.policy import RankedPolicy, TaskFacts, UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction

FAR = torch.iinfo(torch.int64).max


def place_BL(state: DecodingState) -> Tensor:
    """0, 1, 2, ... for the positions of each row's canvas in their order, int64; elsewhere it means nothing."""
    return state.canvas_BL.cumsum(-1) - 1


@dataclass(frozen=True)
class Autoregressive(UnmaskingPolicy):
    """The leftmost position, one per step, as an autoregressive model generates: as many evaluations as tokens.

    The only policy for a causal net, which knows nothing to the right of the first masked position. The budget has to
    allow a step per token; with the last step of a smaller one, everything left is unmasked at once.
    """

    sequential = True

    def takes(self, left: Sequence[int], steps_left: Sequence[int]) -> list[int]:
        return [n if steps == 1 else 1 for n, steps in zip(left, steps_left, strict=True)]

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        return state.masked_BL & (state.masked_BL.cumsum(-1) == 1)


@dataclass(frozen=True)
class Dilated(UnmaskingPolicy):
    """Groups of positions that stand apart, coarse to fine, whatever the denoiser says (Luxembourg et al., DUS,
    arXiv 2506.19037).

    Of n positions, group t = 1 .. R with R = ceil(log n / log base) holds those whose place is a multiple of
    max(1, floor(n / base^t)) and that no group before it holds; a last group smaller than the one before joins it.
    (Their code groups likewise where n is a power of the base, and merges more elsewhere.) The number of steps follows
    from n, not from the budget: adaptive in that sense. Their semi-autoregressive form is ``Blocks`` of this one; their
    optional second masking of unsure tokens is left out.

    Args:
        base: >= 2.
    """

    base: int = 2

    adaptive = True

    def __post_init__(self) -> None:
        if self.base < 2:
            raise ValueError(f"base={self.base}: the dilation shrinks by a whole factor of at least 2")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        n_B1 = state.canvas_BL.sum(-1, keepdim=True)
        group_BL = self.group_BL(place_BL(state), n_B1, state.canvas_BL)
        ahead_BL = group_BL.masked_fill(~state.masked_BL, FAR)
        return state.masked_BL & (ahead_BL == ahead_BL.amin(-1, keepdim=True))

    def group_BL(self, place_BL: Tensor, n_B1: Tensor, canvas_BL: Tensor) -> Tensor:
        """Number of the group of every canvas position, int64, from 1."""
        group_BL, rounds_B1 = torch.zeros_like(place_BL), torch.ones_like(n_B1)
        t, reach = 1, self.base
        while True:  # until the reach of the last round covers any canvas of this length
            apart_B1 = (n_B1 // reach).clamp(min=1)
            group_BL = group_BL.masked_fill((place_BL % apart_B1 == 0) & (group_BL == 0), t)
            if reach >= canvas_BL.shape[1]:
                break
            rounds_B1 = torch.where(reach < n_B1, t + 1, rounds_B1)
            t, reach = t + 1, reach * self.base
        last_BL, before_BL = ((group_BL == which_B1) & canvas_BL for which_B1 in (rounds_B1, rounds_B1 - 1))
        joins_B1 = last_BL.sum(-1, keepdim=True) < before_BL.sum(-1, keepdim=True)
        return torch.where(last_BL & joins_B1, rounds_B1 - 1, group_BL)


@dataclass(frozen=True)
class PCSampler(RankedPolicy):
    """The positions of the best informative token near the beginning (PC-Sampler, Huang et al., arXiv 2508.13021).

    The score is exp(-``decay`` i) min(-p log f, ``clip``), with i the place in the canvas, p the probability of the
    likeliest token and f the frequency of that token in the task's responses: frequent tokens say little and wait.
    (Their algorithm prints p log f; their code and their text mean -p log f.)

    Args:
        decay: per position, >= 0; theirs is 0 for puzzles, 0.25 for most tasks.
        clip: largest value of the calibrated confidence, nats, > 0.
    """

    decay: float = 0.25
    clip: float = 10.0
    surprise_V: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    reads = frozenset({"token_frequency"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < math.inf:
            raise ValueError(f"decay={self.decay}: the decay per position is a finite number, at least 0")
        if not self.clip > 0.0:
            raise ValueError(f"clip={self.clip}: the calibrated confidence is cut at a number of nats above 0")

    def informed(self, facts: TaskFacts) -> Self:
        informed = replace(self)
        object.__setattr__(informed, "surprise_V", -facts.token_frequency().log())  # a frozen record, filled once
        return informed

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        assert self.surprise_V is not None, "inform the policy of the task's token frequencies first"
        if self.surprise_V.device != state.tokens_BL.device:  # moved once: a copy from the host makes a GPU wait
            object.__setattr__(self, "surprise_V", self.surprise_V.to(state.tokens_BL.device))
        surprise_BL = self.surprise_V[prediction.best_token_BL]
        calibrated_BL = (prediction.top_probability_BL * surprise_BL).clamp(max=self.clip)
        # The logarithm of the product, which would be 0 far from the beginning; in float64, as the confidence is.
        tiny = torch.finfo(calibrated_BL.dtype).tiny
        return calibrated_BL.clamp(min=tiny).log() - self.decay * place_BL(state).double()
