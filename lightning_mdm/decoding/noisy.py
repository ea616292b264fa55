"""Ranking by certainty plus noise, with the quota of a noise schedule: the decoding of Kim et al., arXiv 2502.06768.

What their paper says (4.1, D.1.2, D.2): unmask the K positions of largest certainty (top probability or margin, not
their logarithms) plus 0.5 times Gumbel noise on puzzles, plus Gaussian noise on text, in 50 steps, with
K = masks x (alpha_s - alpha_t) / (1 - alpha_t) from time t to s. What it does not say is the rounding of K and whether
the noise fades. It names the code of Ye et al. (arXiv 2410.14157) as its base, whose decoding leaves
floor(n x (1 - alpha_s)) of the n positions masked, ranks by the log probability and lets the noise fade with
1 - alpha_s: the rounding here is that one, and both others are options. That code may also mask tokens again, which
is left to the policies of ``decoding/revising.py``.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream

Certainty = Literal["margin", "probability", "log_probability", "entropy"]
Family = Literal["gumbel", "gaussian"]
Quota = Literal["linear", "cosine", "even"]


def certainty_BL(prediction: Prediction, certainty: Certainty) -> Tensor:
    """The certainty of every masked position, float64."""
    if certainty == "margin":
        return prediction.top_margin_BL
    if certainty == "entropy":
        return -prediction.entropy_BL
    # log p from the odds: where p itself would round to 1 it still ranks.
    log_p_BL = -torch.log1p(prediction.odds_against_best_BL)
    return log_p_BL if certainty == "log_probability" else log_p_BL.exp()


@dataclass(frozen=True)
class Noisy(UnmaskingPolicy):
    """The positions of largest certainty plus noise; the defaults are those of Kim et al. on puzzles, at T = 50.

    Args:
        certainty: ``margin`` of the two likeliest tokens, ``probability`` or ``log_probability`` of the likeliest one,
            or minus the ``entropy`` in nats.
        noise: standard ``gumbel`` or standard normal (``gaussian``) noise, independent per position and step.
        coefficient: factor on the noise, >= 0.
        fading: whether the noise is further multiplied by the share of the canvas that is still masked after the step:
            1 - alpha_s, but for the rounding of K and the steps that are passed over.
        quota: how many positions: so many that the schedule's share of the canvas is still masked after the step, with
            1 - alpha_t = t (``linear``) or cos(pi (1 - t) / 2) (``cosine``), and at least one; ``even`` spreads what is
            masked now evenly over the steps left, the larger parts first.
    """

    certainty: Certainty = "margin"
    noise: Family = "gumbel"
    coefficient: float = 0.5
    fading: bool = False
    quota: Quota = "linear"

    def __post_init__(self) -> None:
        for name, kinds in (("certainty", Certainty), ("noise", Family), ("quota", Quota)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(get_args(kinds))}")
        if not 0.0 <= self.coefficient < math.inf:
            raise ValueError(f"coefficient={self.coefficient}: the factor on the noise is a finite number, at least 0")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        uniform_BL = state.uniform_BL(Stream.SELECT)
        noise_BL = -torch.log(-torch.log(uniform_BL)) if self.noise == "gumbel" else torch.special.ndtri(uniform_BL)
        quota_B = self.quota_B(state)
        score_BL = certainty_BL(prediction, self.certainty) + self.scale_B(state, quota_B)[:, None] * noise_BL
        return top_n(score_BL, state.masked_BL, quota_B, state.uniform_BL(Stream.TIE))

    def scale_B(self, state: DecodingState, quota_B: Tensor) -> Tensor:
        """The factor on the noise, float64."""
        n_B = state.canvas_BL.sum(-1).double()
        left_B = state.masked_BL.sum(-1) - quota_B
        return self.coefficient * (left_B / n_B if self.fading else torch.ones_like(n_B))

    def quota_B(self, state: DecodingState) -> Tensor:
        """Positions to unmask at this step, int64. A step at which the schedule unmasks none is passed over."""
        if self.quota == "even":
            return state.quota_B
        # Within a block more steps may be left than it was given: those that earlier blocks have not needed.
        left_B = ((state.steps_left_B - 1).double() / state.budget_B).clamp(max=1.0)
        share_B = torch.cos(0.5 * math.pi * (1.0 - left_B)) if self.quota == "cosine" else left_B  # 1 - alpha_s
        # Whole numbers that rounding has put a little below themselves stay whole.
        remaining_B = (state.canvas_BL.sum(-1) * share_B + 1e-9).long()
        return (state.masked_BL.sum(-1) - remaining_B).clamp(min=1)
