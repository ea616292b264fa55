"""What is made of a row's numbers for selector and posterior alike: features of steps, and the logit of IID.

Knows nothing of tokens, positions or other nets.

Shapes: B rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST_NATS = 1e-3  # logarithms of sums of nats end here
WAVES = 4
STEP_FEATURES = 2 + 2 * WAVES


def step_features(steps_B: Tensor) -> Tensor:
    """Features ``[B, STEP_FEATURES]`` in which neighbouring numbers differ clearly, as their best orders may."""
    octaves_B = steps_B.double().log2()
    wave_BW = octaves_B[:, None] * (math.pi / 2.0 * torch.arange(1, WAVES + 1, device=steps_B.device))
    return torch.cat((octaves_B[:, None], 1.0 / steps_B.double()[:, None], wave_BW.cos(), wave_BW.sin()), dim=-1)


class IIDOffset(nn.Module):
    """The logit of the IID schedule, probability 1 / steps left, times a weight of 1.

    The weight is not learned, but saved: files of weights have it, and results name a selector by all that is saved of
    it. Loaded from a file, it is what that says.
    """

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, steps_left_B: Tensor) -> Tensor:
        """``[B]``, 0 with two steps left or fewer."""
        return -self.weight * (steps_left_B - 1).clamp(min=1).log()
