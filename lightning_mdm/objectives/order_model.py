"""What the bound over orders asks of a model: one evaluation of partly masked states, and two laws over sets in them.

Knows nothing of networks, nor of what is made of the answers.

Shapes: A trajectories at hand, S distinct states of the examples, L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lightning_mdm.orders.unmasking_law import UnmaskingLaw


@dataclass(frozen=True)
class States:
    """Partly masked states of the examples, each once.

    Args:
        example_S: int64, the example a state belongs to.
        masked_SL: bool, what is masked in it; never nothing.
        steps_left_S: int64, steps left including the one at hand.
    """

    example_S: Tensor
    masked_SL: Tensor
    steps_left_S: Tensor

    @classmethod
    def distinct(cls, example_A: Tensor, masked_AL: Tensor, steps_left_A: Tensor) -> tuple[States, Tensor]:
        """The distinct ones of some states, and for each of those given where it is among them."""
        key_AC = torch.cat((example_A[:, None], steps_left_A[:, None], masked_AL.long()), dim=1)
        key_SC, where_A = key_AC.unique(dim=0, return_inverse=True)
        return cls(key_SC[:, 0], key_SC[:, 2:].bool(), key_SC[:, 1]), where_A


class Reading(Protocol):
    """What one evaluation of the denoiser says about some states."""

    @property
    def log_prob_SL(self) -> Tensor:
        """log p(x_i | z) of the true tokens; 0 where not masked."""
        ...


R = TypeVar("R", bound=Reading)


class OrderModel(Protocol[R]):
    """Denoiser, selector and approximate posterior on a batch of examples."""

    @property
    def posterior_reads_states(self) -> bool:
        """Whether the posterior looks at the true tokens' likelihood in the current state."""
        ...

    def read(self, states: States) -> R:
        """Evaluate the denoiser, once per state."""
        ...

    def selector_law(self, states: States, reading: R) -> UnmaskingLaw:
        """pi(U | z), with at least two steps left."""
        ...

    def posterior_law(self, states: States, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None) -> UnmaskingLaw:
        """q(U | M, x), with at least two steps left; ``None`` twice where the posterior reads no states."""
        ...


Choose = Callable[[UnmaskingLaw, Tensor, int], Tensor]
"""Draws sets ``[A, L]`` from laws, for the trajectories with the numbers ``[A]``, at a step."""
