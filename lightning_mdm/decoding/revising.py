"""Policies that mask again what they have unmasked: the remasking baselines.

A step of theirs says which positions of the canvas hold a token when it ends; what held one and is not among them is
masked again. As many more are unmasked, if so many are masked, so that these become fewer by the quota of an even
spread. A row is finished when nothing is masked: a budget beyond the length of its canvas is not spent.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.noisy import Certainty, certainty_BL
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream

Strategy = Literal["cap", "rescale"]
Ranking = Literal["random", Certainty]


class RevisingPolicy(UnmaskingPolicy):
    """A policy whose ``select`` names all positions of the canvas that hold a token after the step.

    What is filled and not named is masked again; some of what is masked has to be named. One that looks at the
    prediction at filled positions says so by ``weighs_filled``.
    """

    revises = True


@dataclass(frozen=True)
class P2(RevisingPolicy):
    """The most probable positions of the canvas, filled ones among them (path planning; Peng et al., arXiv 2502.03540).

    A masked position scores the log-probability of its likeliest token, a filled one ``eta`` times that of the token it
    holds, as the denoiser sees it there: their self-planning. (A denoiser that is trained on masked tokens alone was
    never asked about those that it can see.) Their score of a masked position is that of the token drawn for it; here
    no ranking sees that noise. Of equal scores those of filled positions win.

    Args:
        eta: weight of what is filled, > 0; the larger, the more is masked again.
    """

    eta: float = 1.0

    weighs_filled = True

    def __post_init__(self) -> None:
        if not 0.0 < self.eta < math.inf:
            raise ValueError(
                f"eta={self.eta}: the weight of filled positions is a finite number above 0; for 0 take TopProbability"
            )

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        filled_BL = state.filled_BL
        held_BL = prediction.log_prob_BL(state.tokens_BL, filled_BL).double()
        likeliest_BL = -torch.log1p(prediction.odds_against_best_BL)
        score_BL = torch.where(filled_BL, self.eta * held_BL, likeliest_BL)
        score_BL = score_BL.clamp(min=torch.finfo(score_BL.dtype).min)  # a token that has become impossible
        n_B = filled_BL.sum(-1) + state.quota_B
        kept_BL = top_n(score_BL, state.canvas_BL, n_B, state.uniform_BL(Stream.TIE) + filled_BL)
        return kept_BL & ~(score_BL.isnan() & state.canvas_BL).any(-1, keepdim=True)


@dataclass(frozen=True)
class ReMDM(RevisingPolicy):
    """Every filled position is masked again with some probability (Wang et al., arXiv 2503.00307).

    From time t to s that is sigma, at most min(1, (1 - alpha_s) / alpha_t) with alpha_t = 1 - t = steps done / T, so
    that nothing is masked by the last step. They toss coins for what is unmasked, too; here it is the even quota and
    one position for each that is masked again, as many as they unmask on average, or all there are. Those that have
    just been masked again wait for the next step. Their strategies by confidence, switch and loop are left out.

    Args:
        eta: in [0, 1]. ``cap``: sigma is ``eta``, or that bound where it is smaller; ``rescale``: ``eta`` times it.
        strategy: ``cap`` or ``rescale``.
        ranking: which masked positions are unmasked: any (``random``, theirs), or those of largest certainty, by
            ``margin``, ``probability``, ``log_probability`` or ``entropy`` as in ``Noisy``.
    """

    eta: float = 0.1
    strategy: Strategy = "cap"
    ranking: Ranking = "random"

    def __post_init__(self) -> None:
        for name, kinds in (("strategy", Strategy), ("ranking", Ranking)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(get_args(kinds))}")
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta={self.eta}: what masks again is a probability, or a share of one, in [0, 1]")

    @property
    def name(self) -> str:
        return "remdm"

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        filled_BL = state.filled_BL
        kept_BL = filled_BL & (state.uniform_BL(Stream.SELECT) >= self.sigma_B(state)[:, None])
        n_B = state.quota_B + filled_BL.sum(-1) - kept_BL.sum(-1)
        if self.ranking == "random":
            score_BL = torch.zeros(filled_BL.shape, dtype=torch.float64, device=filled_BL.device)
        else:
            score_BL = certainty_BL(prediction, self.ranking)
        best_BL = top_n(score_BL, state.masked_BL, n_B, state.uniform_BL(Stream.TIE))
        return (kept_BL | best_BL) & ~(score_BL.isnan() & state.masked_BL).any(-1, keepdim=True)

    def sigma_B(self, state: DecodingState) -> Tensor:
        """The probability of masking again, float64 ``[B]``."""
        left_B, done_B = state.steps_left_B - 1, state.budget_B - state.steps_left_B
        bound_B = (left_B.double() / done_B.clamp(min=1)).clamp(max=1.0)  # nothing is filled before a first step
        return bound_B.clamp(max=self.eta) if self.strategy == "cap" else self.eta * bound_B
