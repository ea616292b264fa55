"""The record of one decode run.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_mdm.orders.order import Order


@dataclass(frozen=True)
class Trace:
    """What was decoded, in which order, at what cost.

    Args:
        tokens_BL: int64, the filled canvas; given tokens and padding as they came.
        order: the step at which each position was unmasked, for the last time where it was masked again; a position
            closed by an end-of-sequence has the step of the end-of-sequence that closed it.
        nfe_B: int64, denoiser evaluations made for each row.
        forward_passes: denoiser calls made for the whole batch.
    """

    tokens_BL: Tensor
    order: Order
    nfe_B: Tensor
    forward_passes: int

    @classmethod
    def stacked(cls, traces: Sequence[Trace], tokens_BL: Tensor) -> Trace:
        """One trace of rows decoded apart, each cut to its own length; ``tokens_BL`` holds their padding."""
        tokens_BL, step_BL = tokens_BL.clone(), torch.zeros_like(tokens_BL)
        for row, trace in enumerate(traces):
            length = trace.tokens_BL.shape[1]
            tokens_BL[row, :length] = trace.tokens_BL[0]
            step_BL[row, :length] = trace.order.step_BL[0]
        nfe_B = torch.cat([trace.nfe_B for trace in traces])
        gaps = any(trace.order.gaps for trace in traces)
        return cls(tokens_BL, Order(step_BL, gaps), nfe_B, sum(trace.forward_passes for trace in traces))
