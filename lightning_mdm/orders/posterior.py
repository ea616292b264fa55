"""The max-normalised approximate posterior over orders, q(order | x) (following Fox et al., arXiv 2602.23968).

It is a law of the next set given the positions still masked: one score per position decides everything, so that a
whole trajectory is drawn without looking at any state. The family that looks at states is in ``nets/posterior_net.py``.
Knows nothing of tokens or networks.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, log_not


def max_normalised(score_BL: Tensor, masked_BL: Tensor, order_temperature: float | Tensor) -> NonEmptyBernoulli:
    """The law with p_i = exp((score_i - best score among the masked) / order_temperature).

    The best-scored masked position is unmasked for certain, so no step is empty. Equal scores unmask everything at
    once: start from scores that are spread out.

    Args:
        score_BL: finite.
        masked_BL: M.
        order_temperature: > 0; as a tensor it is not checked, for which a GPU would be waited for.

    Raises:
        ValueError: a temperature that is not positive.
    """
    if not isinstance(order_temperature, Tensor) and not order_temperature > 0.0:
        raise ValueError(f"order_temperature={order_temperature}: give a number above 0")
    best_B1 = score_BL.masked_fill(~masked_BL, -torch.inf).amax(-1, keepdim=True)
    log_p_BL = ((score_BL - best_B1) / order_temperature).masked_fill(~masked_BL, -1.0)
    return NonEmptyBernoulli(log_p_BL, log_not(log_p_BL), masked_BL)
