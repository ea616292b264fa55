"""How the sets of trajectories are drawn: by numbers that belong to (problem, trajectory, update, step)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.compilation import compiled
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.orders.unmasking_law import UnmaskingLaw

STEPS_PER_UPDATE = 1 << 16  # numbers of draws set aside for one update


def trajectories(noise: RowNoise, samples: int, ahead: int = 1) -> RowNoise:
    """The noise of every trajectory: a problem's K trajectories are keyed like K problems."""
    index_BK = noise.index_B[:, None] * samples + torch.arange(samples, device=noise.index_B.device)
    return RowNoise(noise.seed, index_BK.flatten(), ahead)


def draw_sets(
    noise: RowNoise, first: int, law: UnmaskingLaw, row_A: Tensor, step: int, compile: bool = False
) -> Tensor:
    """Sets of some trajectories at a step, from draws that belong to (problem, trajectory, update, step)."""
    # Of all trajectories, as steps are drawn ahead. The first position taken has a stream of its own.
    uniform_A = noise.uniform_B(Stream.TIE, first + step)[row_A]
    uniform_AL = noise.uniform_BL(Stream.SELECT, first + step, law.masked_BL.shape[1])[row_A]
    return (compiled(sample) if compile else sample)(law, uniform_A, uniform_AL)


def sample(law: UnmaskingLaw, uniform_A: Tensor, uniform_AL: Tensor) -> Tensor:
    """A set from every law: a function, so that one is compiled for all laws of a kind."""
    return law.sample(uniform_A, uniform_AL)
