"""The variational bound over generation orders and its gradient (following Fox et al., arXiv 2602.23968).

A trajectory unmasks the set U_s of the masked positions M_s at step s = 1 .. T. Selector pi and approximate posterior q
are laws over U_s; at s = T everything left is unmasked. With the expectation over U_s in closed form,

    -log p(x) <= bound_nats = -sum_s E_{M_s ~ q} F_s,
    F_s = sum_{i in M_s} q(i in U_s) log p(x_i | z_s) - KL(q || pi) - price
    F_T = sum_{i in M_T} log p(x_i | z_T) - price

The price, in nats, is part of the generative model: before every denoiser call generation breaks off with probability
1 - exp(-price). This puts a geometric law on the number of steps: where nothing is lost by it, few are used. What is
bounded is then the probability of x without a break, itself a bound of p(x).

What is differentiated has these expectations. What is reported has the log-likelihood of the tokens that the drawn sets
unmask in their place: its mean is the same, and every token counts once, where a sum of expectations over the steps of
a trajectory counts in part, at each of them, a token that waits.

Its gradient is REINFORCE over the K trajectories of an example, made less noisy as ``variance.py`` says: ``all_steps``
has rewards to go and one denoiser evaluation per distinct state; ``order_one_step.py`` is the cheaper estimator. Bound
and surrogate are different numbers. Knows nothing of networks: ``order_model.py`` is all it asks for.

Shapes: B examples, K trajectories of each, N = B K, T steps, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from lightning_mdm.objectives.order_model import Choose, OrderModel, R
from lightning_mdm.objectives.trajectories import Step, follow
from lightning_mdm.objectives.variance import (
    HEAVIEST,
    advantages,
    control_moments,
    log_success,
    score_variance,
    to_go,
)


@dataclass(frozen=True)
class Bound:
    """An estimate of the bound on -log p(x), detached.

    Args:
        bound_nats_B: nats per sequence, the sum of the next three.
        token_nats_B: its part from the tokens; of trajectories followed to their ends, from those that each unmasks.
        kl_nats_B: its part from the order, KL(q || pi).
        price_nats_B: its part from the price.
        steps_BK: steps each trajectory took under q; of one random step T if there was anything left to do, else 0,
            whose mean is the same.
        log_weight_BK: log of p(x, trajectory) / q(trajectory); empty if trajectories were not followed to their ends.
        evaluations: denoiser evaluations made, one per state.
    """

    bound_nats_B: Tensor
    token_nats_B: Tensor
    kl_nats_B: Tensor
    price_nats_B: Tensor
    steps_BK: Tensor
    log_weight_BK: Tensor
    evaluations: int


@dataclass(frozen=True)
class OrderElbo(Bound):
    """One evaluation of the objective: the bound, and what trains by it.

    Args:
        surrogate: scalar to differentiate: the mean over trajectories, weighed if there is a focus, in nats per
            response token.
        score_variance: variance over trajectories of the score-function gradient with respect to the logits of q.
        score_variance_without_baseline: what it would be with nothing taken off the rewards.
        control_moments: per step, what c is regressed on: covariance and variance; of ``all_steps`` only, else empty.
        log_success_BK: logarithm of what examples weigh, see the function; of ``all_steps`` only, else empty.
    """

    surrogate: Tensor
    score_variance: Tensor
    score_variance_without_baseline: Tensor
    control_moments: Tensor
    log_success_BK: Tensor


def all_steps(
    model: OrderModel[R],
    response_BL: Tensor,
    *,
    budget: int,
    samples: int,
    choose: Choose,
    price: float = 0.0,
    entropy_bonus: float = 0.0,
    focus: float = 0.0,
    usual_log_success: float = 0.0,
    control: Sequence[float] = (),
    compile: bool = False,
) -> OrderElbo:
    """The objective with every step evaluated: rewards to go, and a leave-one-out baseline per step.

    The bound that it reports has the tokens of the sets drawn, and the divergence of the laws they are drawn from.

    Args:
        model: denoiser and laws.
        response_BL: bool, the positions to generate; some in every row.
        budget: T.
        samples: K trajectories of each example.
        choose: draws the sets.
        price: nats per step taken.
        entropy_bonus: added to F_s per nat of q's entropy at the step, for exploration; in the surrogate alone, the
            bound is what it is.
        focus: weighs examples in the surrogate by their chance to come out right, see ``log_success``.
        usual_log_success: what is taken off the logarithm of these weights; independent of this batch.
        control: c by step, from 1; independent of this batch. 0 where not given.
        compile: take the laws and what is computed from them through ``torch.compile``: hundreds of small operations a
            step, which on a GPU take longer to start than to run.
    """
    B = len(response_BL)
    steps = follow(
        model, response_BL, budget=budget, samples=samples, choose=choose, price=price, entropy_bonus=entropy_bonus,
        compile=compile,
    )  # fmt: skip
    token_N, kl_N = total(step.token_N for step in steps), total(step.kl_N for step in steps)
    expected_token_N = total(step.expected_token_N for step in steps)
    price_N = total(step.price_N for step in steps)
    log_success_BK = log_success((kl_N - expected_token_N).view(B, samples), focus)
    weight_N = (log_success_BK - usual_log_success).exp().clamp(max=HEAVIEST).reshape(-1)

    draws = [step.draw for step in steps if step.draw is not None]
    after_TN = to_go(torch.stack([step.reward_N for step in steps]))[: len(draws)]
    left_TN = torch.stack([draw.left_N for draw in draws]) if draws else after_TN
    control_T = after_TN.new_tensor([*control, *[0.0] * len(draws)][: len(draws)])
    advantage_TN = advantages(after_TN, left_TN, control_T, samples)
    variance, plain_variance = (
        score_variance(weight_N * reward_TN, [draw.direction_NX for draw in draws], B)
        for reward_TN in (advantage_TN, after_TN)
    )
    surrogate = surrogate_of(steps, weight_N, advantage_TN, control_T)
    return OrderElbo(
        bound_nats_B=per_example(kl_N + price_N - token_N, B),
        token_nats_B=per_example(-token_N, B),
        kl_nats_B=per_example(kl_N, B),
        price_nats_B=per_example(price_N, B),
        steps_BK=total(step.going_N.double() for step in steps).view(B, samples),
        log_weight_BK=total(step.log_weight_N for step in steps).view(B, samples),
        evaluations=sum(step.evaluations for step in steps),
        surrogate=surrogate / (samples * response_BL.sum()),
        score_variance=variance,
        score_variance_without_baseline=plain_variance,
        control_moments=control_moments(after_TN.view(-1, B, samples), left_TN.view(-1, B, samples)),
        log_success_BK=log_success_BK,
    )


def surrogate_of(steps: Sequence[Step], weight_N: Tensor, advantage_TN: Tensor, control_T: Tensor) -> Tensor:
    """What falls as the bound does: over trajectories and steps minus the sum of F_s and of advantage x log q(U_s).

    And of what the advantages' control variates come to in the mean, which depends on q as well.
    """
    draws = [step.draw for step in steps if step.draw is not None]
    values = [weight_N * step.value_N for step in steps]
    scores = [weight_N * advantage_N * draw.log_q_N for advantage_N, draw in zip(advantage_TN, draws, strict=True)]
    controls = [c * (weight_N * draw.expected_left_N).sum() for c, draw in zip(control_T, draws, strict=True)]
    return -(torch.stack([*values, *scores]).sum() + sum(controls))


def total(values: Iterable[Tensor]) -> Tensor:
    """Their sum, one after another."""
    return reduce(torch.add, values)


def per_example(value_N: Tensor, B: int) -> Tensor:
    """The mean over the trajectories of each example, ``[B]``."""
    return value_N.view(B, -1).mean(-1)


def importance_weighted_nats(log_weight_BK: Tensor) -> Tensor:
    """The bound -log (1/K) sum_k w_k in nats, ``[B]``: tighter with more (Burda et al., 2016)."""
    return math.log(log_weight_BK.shape[1]) - log_weight_BK.logsumexp(-1)
