"""Which step budget an update is spent at. Knows nothing of what is learned there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_mdm.modules.earlier_batches import fade_in

BudgetDraw = Literal["uniform", "by_cost", "by_evaluations"]


class BudgetDraws(nn.Module):
    """Draws budgets, with equal probability or by what they cost.

    Args:
        budgets: T >= 1, each once.
        how: ``uniform``; ``by_cost``, in proportion to 1 / T; or ``by_evaluations``, in proportion to one over the
            denoiser evaluations per trajectory in earlier batches at that budget. One without any is taken to cost what
            the dearest of the others does, so that it is soon found out. These averages fade and are saved with the
            weights; where the largest budget is another one, they start anew.
    """

    evaluations: Tensor

    def __init__(self, budgets: Sequence[int], how: BudgetDraw) -> None:
        super().__init__()
        self.budgets = list(budgets)
        self.how = how
        self.latest: tuple[int, int] | None = None  # an update and its budget
        # By T: evaluations per trajectory, summed over batches and fading, and how many batches that were.
        self.register_buffer("evaluations", torch.zeros(max(budgets) + 1, 2), persistent=self.measures)

    @property
    def measures(self) -> bool:
        """Whether ``add`` has to be told of every batch."""
        return self.how == "by_evaluations"

    def draw(self, update: int, uniform: float) -> int:
        """The budget of an update, one for all its batches, from a uniform of (0, 1)."""
        if self.latest is None or self.latest[0] != update:
            reached = list(accumulate(self.weights()))
            found = next(b for b, up_to in zip(self.budgets, reached, strict=True) if uniform * reached[-1] < up_to)
            self.latest = update, found
        return self.latest[1]

    def weights(self) -> list[float]:
        """What the probability of each budget is in proportion to."""
        if self.how == "uniform":
            return [1.0] * len(self.budgets)
        if self.how == "by_cost":
            return [1.0 / budget for budget in self.budgets]
        cost = [total / batches if batches else 0.0 for total, batches in self.evaluations[self.budgets].tolist()]
        return [1.0 / (each or max(cost) or 1.0) for each in cost]

    def add(self, budget: int, evaluations: Tensor) -> None:
        """Remember a batch at a budget: its evaluations per trajectory, the same number on every process."""
        fade_in(self.evaluations[budget], evaluations)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        name = f"{prefix}evaluations"
        saved = state_dict.get(name)
        if not self.measures:
            state_dict.pop(name, None)
        elif saved is None or saved.shape != self.evaluations.shape:
            state_dict[name] = torch.zeros_like(self.evaluations)
        super()._load_from_state_dict(state_dict, prefix, *args)
