"""What a selector is told of positions and rows, beside the denoiser's hidden states. Knows nothing of tokens or nets.

Shapes: B rows, J shares of them, L positions, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.nets.row_features import LEAST_NATS, STEP_FEATURES, step_features
from lightning_mdm.nets.selector_start import LEAST_ODDS

CONFIDENCE = 4
"""Confidence features per position: top probability, margin, entropy and log-odds."""
CONTEXT = STEP_FEATURES + 2
"""Features of the row: those of the steps left, the logarithm of the masked positions per step left, the price."""
SHARE_STAKES = 5
"""Features of a share of a row: what taking it would put at stake and leave, in two kinds of nats; its size."""


def confidence_features(confidence_BLF: Tensor) -> Tensor:
    """Top probability, margin, entropy and odds against the best token, the odds as a logarithm of size one."""
    log_odds_BL1 = (confidence_BLF[..., 3:] + LEAST_ODDS).log() / 10.0
    return torch.cat((confidence_BLF[..., :3], log_odds_BL1), dim=-1)


def row_context(masked_BL: Tensor, steps_left_B: Tensor, price: float | Tensor) -> Tensor:
    """What a row has left, and the price, ``[B, CONTEXT]``."""
    share_B = (masked_BL.sum(-1).clamp(min=1) / steps_left_B).log()
    own_B2 = torch.stack((share_B / 3.0, (torch.zeros_like(share_B) + price) ** 0.5), dim=-1)
    return torch.cat((step_features(steps_left_B), own_B2), dim=-1)


def share_stakes(taken_BJL: Tensor, cost_BL2: Tensor, masked_BL: Tensor, context_BC: Tensor) -> Tensor:
    """What each of the shares of a row that may be taken at once puts at stake, ``[B, J, SHARE_STAKES + CONTEXT]``.

    Args:
        taken_BJL: what a share takes, read where masked.
        cost_BL2: nats expected of each position, 0 where not masked.
        masked_BL: the positions to choose from.
        context_BC: what the row has left.
    """
    # Sums of either part: a matrix product, or a difference, would lose the few nats that are left in bfloat16.
    cost_BJL2 = cost_BL2[:, None].expand(-1, taken_BJL.shape[1], -1, -1)
    nats_BJ4 = torch.cat([cost_BJL2.masked_fill(~of[..., None], 0.0).sum(2) for of in (taken_BJL, ~taken_BJL)], -1)
    taken_BJ1 = (taken_BJL & masked_BL[:, None]).sum(-1, keepdim=True)
    part_BJ1 = taken_BJ1 / masked_BL.sum(-1).clamp(min=1)[:, None, None]
    context_BJC = context_BC[:, None].expand(-1, taken_BJL.shape[1], -1)
    return torch.cat(((nats_BJ4 + LEAST_NATS).log(), part_BJ1, context_BJC), dim=-1)
