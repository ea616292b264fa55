"""The step budget: how many positions to unmask at each step so that all are done in time.

Knows nothing of tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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


def quota(n_masked_B: Tensor, steps_left_B: Tensor) -> Tensor:
    """Positions to unmask now, int64 ``[B]``: the smallest number that keeps the budget reachable.

    Following it from the start gives exactly ``StepBudget.quotas``; it needs no memory of earlier steps, so a row
    whose positions were closed for free, or whose policy ran ahead, is spread evenly over the steps it still has.
    """
    return -(-n_masked_B // steps_left_B)
