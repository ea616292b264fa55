"""Exact conditional marginals of a stationary Markov chain, from tables of its transitions over every distance.

Given the nearest visible tokens before and after it, a token depends on nothing else. Knows nothing of how the chain
was made.

Shapes: B rows, L positions, P = L + 2 places, D distances 1 .. L, V tokens, S tokens and then "none".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def log_marginals(tokens_BL: Tensor, log_before_DSV: Tensor, log_after_DSV: Tensor) -> Tensor:
    """log p(x_i | visible tokens) of every masked position, ``[B, L, V]``.

    Args:
        tokens_BL: int64, whole sequences; V, the mask, where a token is not visible.
        log_before_DSV: log p(x_i = v | x_{i-d} = s) at ``[d - 1, s, v]``; log p(x_i = v) where s is "none".
        log_after_DSV: log p(x_{i+d} = s | x_i = v) at ``[d - 1, s, v]``; 0 where s is "none".
    """
    L, V = tokens_BL.shape[1], log_before_DSV.shape[-1]
    # A place on either side of the sequence stands for "none": its state is V, like that of a masked position.
    state_BP = F.pad(tokens_BL, (1, 1), value=V)
    place_P = torch.arange(L + 2, device=tokens_BL.device)
    visible_BP = state_BP < V
    before_BL = torch.where(visible_BP, place_P, 0).cummax(-1).values[:, :L]
    after_BL = torch.where(visible_BP, place_P, L + 1).flip(-1).cummin(-1).values.flip(-1)[:, 2:]
    here_L = place_P[1:-1]
    log_BLV = log_before_DSV[here_L - before_BL - 1, state_BP.gather(1, before_BL)]
    return (log_BLV + log_after_DSV[after_BL - here_L - 1, state_BP.gather(1, after_BL)]).log_softmax(-1)
