"""An order of generation: for every position, the step at which it is unmasked.

The one concept that training and decoding share. Ties mean "in parallel". Knows nothing of tokens or models.

Shapes: B rows, L positions, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """When each position is unmasked.

    Args:
        step_BL: int64; step >= 1 at which a position is unmasked, 0 where there is nothing to unmask
            (given tokens and padding).
        gaps: whether a step may be missing: all that it unmasked has been masked again, and unmasked later.

    Raises:
        ValueError: a negative step, or a row that skips a step without ``gaps`` (every step unmasks at least one
            position).
    """

    step_BL: Tensor
    gaps: bool = False

    def __post_init__(self) -> None:
        if self.step_BL.ndim != 2 or self.step_BL.dtype != torch.int64:
            raise ValueError(f"an order is int64 [B, L], not {self.step_BL.dtype} {list(self.step_BL.shape)}")
        if bool((self.step_BL < 0).any()):
            raise ValueError("an order has a negative step: use 0 for given positions and padding, 1.. for the others")
        if self.gaps:
            return
        last_B = self.n_steps_B
        steps = int(last_B.max()) if last_B.numel() else 0
        present_BT = torch.zeros(len(last_B), steps + 1, dtype=torch.bool, device=last_B.device)
        present_BT.scatter_(1, self.step_BL, True)
        wanted_BT = torch.arange(1, steps + 1, device=last_B.device) <= last_B[:, None]
        if bool((wanted_BT & ~present_BT[:, 1:]).any()):
            raise ValueError("an order skips a step: every step up to a row's last must unmask at least one position")

    @property
    def n_steps_B(self) -> Tensor:
        """Steps that each row takes, int64 ``[B]``."""
        return self.step_BL.amax(-1)

    def masked_before(self, step: int) -> Tensor:
        """Positions still masked when ``step`` (from 1) begins, bool ``[B, L]``."""
        if step < 1:
            raise ValueError(f"step={step}: steps count from 1")
        return self.step_BL >= step

    def unmasked_at(self, step: int) -> Tensor:
        """Positions unmasked by ``step`` (from 1), bool ``[B, L]``."""
        if step < 1:
            raise ValueError(f"step={step}: steps count from 1")
        return self.step_BL == step

    def sets(self) -> list[Tensor]:
        """The trajectory: the unmasked set of every step, bool ``[B, L]`` each."""
        steps = int(self.n_steps_B.max()) if self.step_BL.numel() else 0
        return [self.unmasked_at(step) for step in range(1, steps + 1)]

    @classmethod
    def from_sets(cls, sets: Sequence[Tensor]) -> Order:
        """The order whose step s unmasks ``sets[s - 1]`` (bool ``[B, L]``, disjoint).

        Raises:
            ValueError: no set at all, or a position unmasked twice.
        """
        if not sets:
            raise ValueError("an order needs at least one set")
        step_BL = torch.zeros_like(sets[0], dtype=torch.int64)
        for step, set_BL in enumerate(sets, start=1):
            if bool((set_BL & (step_BL > 0)).any()):
                raise ValueError(f"step {step} unmasks a position that an earlier step has unmasked")
            step_BL = step_BL.masked_fill(set_BL, step)
        return cls(step_BL)
