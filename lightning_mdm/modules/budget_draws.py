"""Which step budget an update is spent at. Knows nothing of what is learned there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

BudgetDraw = Literal["uniform", "by_cost", "by_evaluations"]
MEMORY = 0.95  # per update at the same budget


class BudgetDraws(nn.Module):
    """Draws budgets, with equal probability or by what they cost.

    Args:
        budgets: T >= 1, each once.
        how: ``uniform``; ``by_cost``, in proportion to 1 / T; or ``by_evaluations``, in proportion to one over the
            denoiser evaluations that a trajectory took in earlier updates at that budget, T before the first. These
            averages fade, and are saved with the weights; loaded
            with those of another largest budget they start anew.
    """

    evaluations: Tensor

    def __init__(self, budgets: Sequence[int], how: BudgetDraw) -> None:
        super().__init__()
        self.budgets = list(budgets)
        self.how = how
        # By T: evaluations of a trajectory, summed over updates and fading, and how many updates that were.
        self.register_buffer("evaluations", torch.zeros(max(budgets) + 1, 2), persistent=self.measures)

    @property
    def measures(self) -> bool:
        """Whether ``add`` has to be told of every update."""
        return self.how == "by_evaluations"

    def draw(self, uniform: float) -> int:
        """The budget of an update, from a uniform of (0, 1)."""
        reached = list(accumulate(self.weights()))
        return next(b for b, up_to in zip(self.budgets, reached, strict=True) if uniform * reached[-1] < up_to)

    def weights(self) -> list[float]:
        """What the probability of each budget is in proportion to."""
        if self.how == "uniform":
            return [1.0] * len(self.budgets)
        cost = [float(budget) for budget in self.budgets]
        if self.measures:
            seen = self.evaluations[self.budgets].tolist()
            cost = [total / updates if updates else most for (total, updates), most in zip(seen, cost, strict=True)]
        return [1.0 / each for each in cost]

    def add(self, budget: int, evaluations: Tensor) -> None:
        """Remember an update, and the evaluations of a trajectory in its mean, the same on every process."""
        own_2 = self.evaluations[budget]
        own_2.lerp_(torch.stack((evaluations, torch.ones_like(evaluations))).to(own_2), 1.0 - MEMORY)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        name = f"{prefix}evaluations"
        saved = state_dict.get(name)
        if not self.measures:
            state_dict.pop(name, None)
        elif saved is None or saved.shape != self.evaluations.shape:
            state_dict[name] = torch.zeros_like(self.evaluations)
        super()._load_from_state_dict(state_dict, prefix, *args)
