"""How many positions to unmask at a step: so that all are done in time, or so that little is lost.

Knows nothing of tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", int, Tensor)
"""Of one row, or int64 ``[B]``."""


@dataclass(frozen=True)
class StepBudget:
    """At most ``steps`` passes of the decoding loop.

    Args:
        steps: T >= 1.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: a step budget is a whole number of at least 1")

    def quotas(self, n: int) -> list[int]:
        """The whole plan for ``n`` positions: as even as possible, larger parts first, no empty step.

        Its length is ``min(n, steps)`` and its sum ``n``.
        """
        base, extra = divmod(n, self.steps)
        return [base + (step < extra) for step in range(min(n, self.steps))]


def quota(n_masked: Number, steps_left: Number) -> Number:
    """Positions to unmask now, of a row or of each of several: the smallest number that keeps the budget reachable.

    Following it from the start gives exactly ``StepBudget.quotas``; it needs no memory of earlier steps, so a row
    whose positions were closed for free, or whose policy ran ahead, is spread evenly over the steps it still has.
    """
    return -(-n_masked // steps_left)


def entropy_bounded(entropy_BL: Tensor, masked_BL: Tensor, gamma: float) -> Tensor:
    """Length ``[B]`` of the longest run of masked positions, in order of entropy H, with sum H - max H <= ``gamma``.

    The left side bounds the nats that unmasking them together can lose (Ben-Hamu et al., arXiv 2505.24857); the first
    position of a run always qualifies.
    """
    # In ascending order the largest entropy of a run is its last, so sum - max is the sum of those before it.
    ascending_BL = entropy_BL.clamp(min=0.0).masked_fill(~masked_BL, torch.inf).sort(dim=-1).values
    before_BL = ascending_BL.cumsum(-1) - ascending_BL
    return ((before_BL <= gamma) & ascending_BL.isfinite()).sum(-1)
