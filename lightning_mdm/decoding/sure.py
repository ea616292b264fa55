"""How many tokens are sure enough to be unmasked together: the adaptive baselines beside a plain threshold.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream


@dataclass(frozen=True)
class ConfidenceFactor(UnmaskingPolicy):
    """The n most confident positions, for the largest n with (n + 1) (1 - c_n) < ``factor``, and always the best one.

    c_n is the n-th largest top probability: the more tokens are taken together, the surer the last of them has to be
    (the factor form of Fast-dLLM, Wu et al., arXiv 2505.22618). Adaptive.

    Args:
        factor: > 0.
    """

    factor: float = 1.0

    adaptive = True

    def __post_init__(self) -> None:
        if not self.factor > 0.0:
            raise ValueError(f"factor={self.factor}: the factor of the confidence rule is a number above 0")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        odds_BL = prediction.odds_against_best_BL.masked_fill(~state.masked_BL, torch.inf)
        ascending_BL = odds_BL.sort(dim=-1).values
        doubt_BL = torch.where(ascending_BL.isfinite(), ascending_BL / (1.0 + ascending_BL), 1.0)  # 1 - c_n
        n_L = torch.arange(1, odds_BL.shape[1] + 1, device=odds_BL.device)
        # The left side grows with n, so the n that satisfy it are the first ones; more than are masked are all of them.
        enough_BL = (n_L + 1) * doubt_BL < self.factor
        n_B = enough_BL.sum(-1).clamp(min=1)
        return top_n(-odds_BL, state.masked_BL, n_B, state.uniform_BL(Stream.TIE))


@dataclass(frozen=True)
class KLASS(UnmaskingPolicy):
    """All positions that are confident and whose prediction has stopped changing (Kim et al., arXiv 2511.05664).

    That is, at each of the last ``history`` steps its KL divergence from the prediction of the step before was below
    ``divergence``. Where no position qualifies, the quota's worth of most confident ones. Adaptive.

    Args:
        threshold: least top probability, exclusive, in [0, 1).
        divergence: nats, > 0.
        history: how many divergences in a row, >= 1; the first tokens can qualify at step ``history + 1``.
    """

    threshold: float = 0.6
    divergence: float = 0.015
    history: int = 2

    adaptive = True
    hurries = True  # where nothing qualifies, by the budget's quota

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"threshold={self.threshold}: a confidence to exceed lies in [0, 1)")
        if not self.divergence > 0.0:
            raise ValueError(f"divergence={self.divergence}: the bound on the divergence is a number of nats above 0")
        if self.history < 1:
            raise ValueError(f"history={self.history}: give a whole number of at least 1")

    @property
    def memory(self) -> int:
        return self.history

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        best_BL = top_n(-prediction.odds_against_best_BL, state.masked_BL, state.quota_B, state.uniform_BL(Stream.TIE))
        if len(state.earlier) < self.history:
            return best_BL
        ready_BL = (prediction.top_probability_BL > self.threshold) & state.masked_BL
        later = prediction
        for earlier in state.earlier[: self.history]:
            # What is masked now was masked at every earlier step too, so that each of their predictions covers it.
            ready_BL = ready_BL & (later.divergence_BL(earlier) < self.divergence)
            later = earlier
        return torch.where(ready_BL.any(-1, keepdim=True), ready_BL, best_BL)


@dataclass(frozen=True)
class Prophet(UnmaskingPolicy):
    """The quota's worth of most confident positions, until all that is left is sure enough to go at once.

    That is, until the mean logit gap, of the likeliest token to the second, reaches a bound: ``early`` in the first
    third of the steps (before 0.33 of T), ``middle`` up to 0.67 of T, ``late`` from there on (Li et al., arXiv
    2508.19982). They take the mean over five positions at which they expect the answer, filled or not; here it is over
    what is masked, since no place of an answer is known in advance. Adaptive.

    Args:
        early: nats, >= 0, likewise ``middle`` and ``late``. The defaults are theirs, for models of 8B parameters.
    """

    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5

    adaptive = True
    hurries = True  # by the budget's quota, until what is left is sure

    def __post_init__(self) -> None:
        for name in ("early", "middle", "late"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name}={getattr(self, name)}: the gap of logits to reach is at least 0 nats")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        best_BL = top_n(-prediction.odds_against_best_BL, state.masked_BL, state.quota_B, state.uniform_BL(Stream.TIE))
        gap_BL = prediction.top_log_ratio_BL.masked_fill(~state.masked_BL, 0.0)
        gap_B = gap_BL.sum(-1) / state.masked_BL.sum(-1)
        spent_B = (state.budget_B - state.steps_left_B + 1).double() / state.budget_B
        late_B = torch.where(spent_B < 0.67, gap_B >= self.middle, gap_B >= self.late)
        sure_B = torch.where(spent_B < 0.33, gap_B >= self.early, late_B)
        return torch.where(sure_B[:, None], state.masked_BL, best_BL)
