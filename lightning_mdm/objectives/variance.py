"""What makes the gradient of the bound over orders less noisy without a bias, and what turns it to some examples.

*Baseline*: what a trajectory is compared to is the mean of the example's others, on whose draws its own do not depend.

*Control variate*: c times what the positions left masked would have cost in the state at hand is subtracted from the
rewards to go as well; its expectation c sum_i (1 - q(i in U_s)) log p(x_i | z_s) is known. A token whose cost does not
depend on when it is unmasked would otherwise be counted in full by the steps to come and in part by this one, which
cancels in the mean only. The best c depends on the law (1 where no token gains by waiting, 0 where waiting makes
everything certain), so it is regressed on earlier batches.

*Focus*: an example weighs what its other trajectories say of its chance to come out right.

Knows numbers of trajectories; nothing of models or laws.

Shapes: B examples, K trajectories of each, N = B K, T steps, X logits of a law.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HEAVIEST = 100.0
"""No example weighs more than so many usual ones."""


def leave_one_out(value_BK: Tensor) -> Tensor:
    """For each trajectory the mean of the other K - 1 of its example; 0 where there is no other."""
    others = value_BK.shape[1] - 1
    return (value_BK.sum(-1, keepdim=True) - value_BK) / others if others else torch.zeros_like(value_BK)


def to_go(reward_TN: Tensor) -> Tensor:
    """At each step the rewards of the steps to come: its own set has no part in F_s, whose expectation is taken."""
    return reward_TN.flip(0).cumsum(0).flip(0) - reward_TN


def advantages(after_TN: Tensor, left_TN: Tensor, control_T: Tensor, samples: int) -> Tensor:
    """Rewards to go less control variate and baseline."""
    gain_TN = after_TN - control_T[:, None] * left_TN
    return gain_TN - leave_one_out(gain_TN.reshape(-1, samples)).reshape(gain_TN.shape)


def control_moments(after_TBK: Tensor, left_TBK: Tensor) -> Tensor:
    """Covariance of rewards to go and control variate within examples, and the latter's variance: ``[T, 2]``."""
    after_TBK = after_TBK - after_TBK.mean(-1, keepdim=True)
    left_TBK = left_TBK - left_TBK.mean(-1, keepdim=True)
    return torch.stack(((after_TBK * left_TBK).mean((1, 2)), left_TBK.square().mean((1, 2))), dim=-1)


def log_success(nats_BK: Tensor, focus: float) -> Tensor:
    """-focus x nats of each trajectory's example, ``[B, K]``: the logarithm of what the example weighs.

    In the mean that is a little more than exp(-focus x bound), the less the more trajectories, so that with ``focus`` 1
    examples count about as in the gradient of E_x exp(-bound), a lower bound of the share that is generated exactly;
    with 0 they count alike, and the bound's nats, most of which fall on examples that fail anyhow, decide. The nats,
    prices left out, are the mean over the example's other trajectories, 0 where there is none: a weight that knew its
    own would not leave the score-function gradient unbiased.
    """
    return -focus * leave_one_out(nats_BK)


def score_variance(weight_TN: Tensor, direction_NX: Sequence[Tensor], B: int) -> Tensor:
    """Variance of sum_s weight_s direction_s over an example's trajectories: over logits the sum, then the mean.

    0 where nothing was drawn.
    """
    if not direction_NX:
        return weight_TN.new_zeros(())
    pairs = zip(weight_TN, direction_NX, strict=True)
    gradient_NX = sum((weight_N[:, None] * d_NX for weight_N, d_NX in pairs), torch.zeros_like(direction_NX[0]))
    by_example_BKX = gradient_NX.view(B, -1, gradient_NX.shape[-1])
    return by_example_BKX.var(dim=1, correction=0).sum(-1).mean()
