"""What a selector is told of positions and rows, beside the denoiser's hidden states. Knows nothing of tokens or nets.

Shapes: B rows, L positions, F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_mdm.nets.selector_start import LEAST_ODDS

CONFIDENCE = 4
"""Confidence features per position: top probability, margin, entropy and log-odds."""
WAVES = 4
CONTEXT = 2 + 2 * WAVES + 2
"""Features of the row: those of the steps left, the logarithm of the masked positions per step left, the price."""
LEAST_NATS = 1e-3  # logarithms of sums of nats end here


def confidence_features(confidence_BLF: Tensor) -> Tensor:
    """Top probability, margin, entropy and odds against the best token, the odds as a logarithm of size one."""
    log_odds_BL1 = (confidence_BLF[..., 3:] + LEAST_ODDS).log() / 10.0
    return torch.cat((confidence_BLF[..., :3], log_odds_BL1), dim=-1)


def step_features(steps_B: Tensor) -> Tensor:
    """Features ``[B, 2 + 2 WAVES]`` in which neighbouring numbers of steps differ clearly, as their best orders may."""
    octaves_B = steps_B.double().log2()
    wave_BW = octaves_B[:, None] * (math.pi / 2.0 * torch.arange(1, WAVES + 1, device=steps_B.device))
    return torch.cat((octaves_B[:, None], 1.0 / steps_B.double()[:, None], wave_BW.cos(), wave_BW.sin()), dim=-1)


def row_context(masked_BL: Tensor, steps_left_B: Tensor, price: float) -> Tensor:
    """What a row has left, ``[B, CONTEXT]``."""
    share_B = (masked_BL.sum(-1).clamp(min=1) / steps_left_B).log()
    own_B2 = torch.stack((share_B / 3.0, torch.full_like(share_B, price) ** 0.5), dim=-1)
    return torch.cat((step_features(steps_left_B), own_B2), dim=-1)
