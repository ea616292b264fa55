"""What an unmasking policy sees: the state of the rows and the denoiser's prediction for them.

Shapes: B rows, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lightning_mdm import categorical
from lightning_mdm.categorical import Certainty, at_least_float32
from lightning_mdm.compilation import compiled
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.orders.budget import quota
from lightning_mdm.output import DenoiserOutput


class Denoiser(Protocol):
    """Anything that gives p(x_i | z) at queried positions; ten lines suffice for a test."""

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        """Logits ``[B, Q, V]`` at positions ``query_BQ`` of partly masked ``tokens_BL``; the loop may write to them."""
        ...


class Canvas(Protocol):
    """Rows to decode: what is given, what is not padding (which comes last), and which problem each row is."""

    @property
    def tokens_BL(self) -> Tensor: ...
    @property
    def prompt_BL(self) -> Tensor: ...
    @property
    def valid_BL(self) -> Tensor: ...
    @property
    def index_B(self) -> Tensor: ...


@dataclass(frozen=True)
class Rows:
    """A plain ``Canvas``."""

    tokens_BL: Tensor
    prompt_BL: Tensor
    valid_BL: Tensor
    index_B: Tensor

    @classmethod
    def of(cls, canvas: Canvas, rows: Sequence[int]) -> Rows:
        """Some rows of a canvas."""
        chosen = torch.tensor(rows, device=canvas.index_B.device)
        return cls(canvas.tokens_BL[chosen], canvas.prompt_BL[chosen], canvas.valid_BL[chosen], canvas.index_B[chosen])

    @classmethod
    def alone(cls, canvas: Canvas, row: int) -> Rows:
        """One row of a canvas, cut to its own length."""
        length = int(canvas.valid_BL[row].sum())
        one = slice(row, row + 1)
        return cls(
            canvas.tokens_BL[one, :length],
            canvas.prompt_BL[one, :length],
            canvas.valid_BL[one, :length],
            canvas.index_B[one],
        )


@dataclass(frozen=True)
class Begun:
    """How far earlier runs have brought the rows of a canvas, and what they have left.

    Args:
        filled_BL: bool, positions of the canvas that hold their tokens already, though they were not given.
        budget_B: int64, the steps that each row has left, at least 1.
    """

    filled_BL: Tensor
    budget_B: Tensor

    @classmethod
    def nothing(cls, canvas: Canvas, steps: int) -> Begun:
        """The beginning, with ``steps`` ahead."""
        return cls(torch.zeros_like(canvas.prompt_BL), torch.full_like(canvas.index_B, steps))


@dataclass(frozen=True)
class DecodingState:
    """Some rows in the middle of being decoded.

    Args:
        tokens_BL: int64, the mask token at every position of ``masked_BL`` and perhaps at others not shown here.
        masked_BL: bool, the positions a policy may choose from.
        canvas_BL: bool, the positions that were masked when decoding of the part at hand began, in the first run.
        valid_BL: bool, the positions that are not padding.
        step: number of this pass of the loop, from 1.
        is_last: whether it is the last one of all rows; everything masked is unmasked then.
        budget_B: int64, T: the steps allowed in all for the positions at hand, in this run.
        steps_left_B: int64, steps left including this one; where it is 1, everything masked is unmasked.
        noise: random numbers of these rows.
        earlier: the predictions of the steps before, the latest first, for policies with a ``memory``.
    """

    tokens_BL: Tensor
    masked_BL: Tensor
    canvas_BL: Tensor
    valid_BL: Tensor
    step: int
    is_last: bool
    budget_B: Tensor
    steps_left_B: Tensor
    noise: RowNoise
    earlier: tuple[Prediction, ...] = ()

    @property
    def filled_BL(self) -> Tensor:
        """The positions of the canvas that hold a token."""
        return self.canvas_BL & ~self.masked_BL

    @property
    def quota_B(self) -> Tensor:
        """Positions to unmask at this step under the budget, int64 ``[B]``."""
        return quota(self.masked_BL.sum(-1), self.steps_left_B)

    def uniform_BL(self, stream: Stream) -> Tensor:
        """Float64 uniforms of this step, ``[B, L]``."""
        return self.noise.uniform_BL(stream, self.step, self.masked_BL.shape[1])

    def within(self, subset_BL: Tensor, budget_B: Tensor, steps_left_B: Tensor) -> DecodingState:
        """The same rows with fewer positions to choose from and their own number of steps for them."""
        return replace(
            self,
            masked_BL=self.masked_BL & subset_BL,
            canvas_BL=self.canvas_BL & subset_BL,
            budget_B=budget_B,
            steps_left_B=steps_left_B,
        )


Out = TypeVar("Out")


class Prediction:
    """The denoiser's distributions at the masked positions, and statistics of them computed when asked for.

    Statistics are spread over ``[B, L]``; only their values at masked positions mean anything, and at filled ones for a
    policy that ``weighs_filled``.

    Args:
        logits_BQV: logits in any precision; what may never be sampled is already minus infinity.
        query_BQ: the position of every queried slot, distinct within a row; a row with fewer masked positions than Q
            fills up with others, whose statistics mean nothing.
        length: L.
        hidden_BLD: what the denoiser computed on the way, where it offers that.
        compile: take statistics of the logits through ``torch.compile``.
    """

    def __init__(
        self,
        logits_BQV: Tensor,
        query_BQ: Tensor,
        length: int,
        hidden_BLD: Tensor | None = None,
        compile: bool = False,
    ) -> None:
        self.logits_BQV = logits_BQV
        self.query_BQ = query_BQ
        self.length = length
        self.hidden_BLD = hidden_BLD
        self.compile = compile
        self._certainty: Certainty | None = None

    def rows(self, chosen: Tensor) -> Prediction:
        """The predictions for some of the rows."""
        hidden_BLD = None if self.hidden_BLD is None else self.hidden_BLD[chosen]
        return Prediction(self.logits_BQV[chosen], self.query_BQ[chosen], self.length, hidden_BLD, self.compile)

    def spread(self, value_BQ: Tensor) -> Tensor:
        """Values per slot, placed at their positions: ``[B, L]``, 0 elsewhere."""
        return value_BQ.new_zeros(len(value_BQ), self.length).scatter_(1, self.query_BQ, value_BQ)

    def function(self, of_logits: Callable[[Tensor], Out]) -> Callable[[Tensor], Out]:
        """A function of logits, compiled where that is asked for."""
        return compiled(of_logits) if self.compile else of_logits

    def statistic(self, of_logits: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of logits ``[N, V] -> [N]`` at every masked position, spread over ``[B, L]``."""
        return self.spread(self.function(of_logits)(self.logits_BQV))

    @property
    def confidence_BLF(self) -> Tensor:
        """Top probability, margin, entropy and odds against the likeliest token, float64 ``[B, L, 4]``, in one go."""
        if self._certainty is None:
            self._certainty = self.function(categorical.certainty)(self.logits_BQV)
        sure = self._certainty
        value_BQF = torch.stack((1.0 / (1.0 + sure.odds), sure.margin, sure.entropy, sure.odds), dim=-1)
        index_BQF = self.query_BQ[:, :, None].expand(value_BQF.shape)
        return value_BQF.new_zeros(len(value_BQF), self.length, 4).scatter_(1, index_BQF, value_BQF)

    def log_prob_BL(self, token_BL: Tensor, asked_BL: Tensor) -> Tensor:
        """Log-probability of a token at every position asked for, at least float32 ``[B, L]``; 0 elsewhere."""
        asked_BQ = asked_BL.gather(1, self.query_BQ)
        # Slots that ask for nothing may hold a token that is never generated, or none; their likelihood is not used.
        token_BQ1 = token_BL.gather(1, self.query_BQ).masked_fill(~asked_BQ, 0)[:, :, None]
        logit_BQ = at_least_float32(self.logits_BQV.gather(-1, token_BQ1)).squeeze(-1).masked_fill(~asked_BQ, 0.0)
        return self.spread(logit_BQ - self.log_total_BQ.masked_fill(~asked_BQ, 0.0))

    @property
    def log_total_BQ(self) -> Tensor:
        """Logarithm of the sum of the exponentials of the logits, at least float32; cheap once confidence is known."""
        if self._certainty is None:
            return self.function(categorical.log_total)(self.logits_BQV)
        best_BQ = self._certainty.best
        return best_BQ + self._certainty.odds.log1p().to(best_BQ.dtype)

    @cached_property
    def top_probability_BL(self) -> Tensor:
        """Probability of the likeliest token, float64."""
        return 1.0 / (1.0 + self.odds_against_best_BL)

    @cached_property
    def odds_against_best_BL(self) -> Tensor:
        """Odds against the likeliest token, float64: ranks even certain positions."""
        return self.statistic(categorical.odds_against_best)

    @cached_property
    def top_margin_BL(self) -> Tensor:
        """Probability of the likeliest token minus that of the second, float64."""
        return self.statistic(categorical.top_margin)

    @cached_property
    def top_log_ratio_BL(self) -> Tensor:
        """Logit of the likeliest token minus that of the second, nats, float64."""
        return self.statistic(categorical.top_log_ratio)

    @cached_property
    def best_token_BL(self) -> Tensor:
        """The likeliest token, int64; the lowest id among equals."""
        return self.spread(self.logits_BQV.argmax(-1))

    def divergence_BL(self, earlier: Prediction) -> Tensor:
        """KL divergence of these distributions from those of an earlier step of the same rows, nats, float64."""
        slot_BQ = torch.arange(earlier.query_BQ.shape[1], device=self.query_BQ.device).expand(earlier.query_BQ.shape)
        # Masked positions were masked before too, where what is unmasked stays; of slots that are none, whose values
        # mean nothing, any will do.
        place_BQ = earlier.spread(slot_BQ).gather(1, self.query_BQ)
        before_BQV = torch.take_along_dim(earlier.logits_BQV, place_BQ[:, :, None], dim=1)
        return self.spread(categorical.divergence(self.logits_BQV, before_BQV))

    @cached_property
    def entropy_BL(self) -> Tensor:
        """Entropy in nats, float64."""
        return self.statistic(categorical.entropy)
