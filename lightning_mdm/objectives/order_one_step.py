"""The bound over orders by one random step, weighted by T, and the same bound for IID orders.

``one_step`` costs one denoiser evaluation per trajectory where the posterior reads no states; what it is an estimate of
is in ``order_elbo.py``.

Shapes: B examples, K trajectories of each, N = B K, A trajectories at hand, S distinct states, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.objectives.order_elbo import Bound, OrderElbo, per_example
from lightning_mdm.objectives.order_model import Choose, OrderModel, R, States
from lightning_mdm.objectives.order_term import term
from lightning_mdm.objectives.variance import leave_one_out, score_variance


def one_step(
    model: OrderModel[R],
    response_BL: Tensor,
    step_B: Tensor,
    *,
    budget: int,
    samples: int,
    choose: Choose,
    price: float = 0.0,
    entropy_bonus: float = 0.0,
    compile: bool = False,
) -> OrderElbo:
    """The objective with one step evaluated, weighted by T; see ``all_steps``.

    A posterior that reads states costs one denoiser evaluation per state on the way as well.

    Args:
        model: denoiser and laws.
        response_BL: bool, the positions to generate; some in every row.
        step_B: int64, the step evaluated of each example, uniform over 1 .. T.
        budget: T.
        samples: K trajectories of each example.
        choose: draws the sets.
        price: nats per step taken.
        entropy_bonus: added to F_s per nat of q's entropy at the step; in the surrogate alone.
        compile: take the laws' share of F_s through ``torch.compile``.
    """
    B = len(response_BL)
    example_N = torch.arange(B, device=response_BL.device).repeat_interleave(samples)
    step_N = step_B.repeat_interleave(samples)
    masked_NL = response_BL[example_N]
    zero_N = torch.zeros(len(example_N), device=response_BL.device)
    log_q_N = zero_N
    direction_NL: Tensor | None = None
    evaluations = 0
    for step in range(1, int(step_B.max())):
        row_A = (masked_NL.any(-1) & (step_N > step)).nonzero()[:, 0]
        if not len(row_A):
            break
        left_A = torch.full_like(row_A, budget - step + 1)
        states, where_A = States.distinct(example_N[row_A], masked_NL[row_A], left_A)
        log_prob_SL = pi = None
        if model.posterior_reads_states:
            reading = model.read(states)
            pi = model.selector_law(states, reading)
            log_prob_SL = reading.log_prob_SL  # after the selector has asked: that makes it cheap
            evaluations += len(states.example_S)
        q_A = model.posterior_law(states, log_prob_SL, pi).rows(where_A)
        chosen_AL = choose(q_A, row_A, step)
        log_q_A = q_A.log_prob(chosen_AL)
        log_q_N = log_q_N.to(log_q_A.dtype).index_add(0, row_A, log_q_A)
        along_AL = q_A.score(chosen_AL)
        if direction_NL is None:
            direction_NL = along_AL.new_zeros(len(example_N), along_AL.shape[1])
        direction_NL = direction_NL.index_add(0, row_A, along_AL)
        masked_NL = masked_NL.index_copy(0, row_A, masked_NL[row_A] & ~chosen_AL)

    value_N = token_N = kl_N = zero_N
    for last in (False, True):
        row_A = (masked_NL.any(-1) & ((step_N == budget) == last)).nonzero()[:, 0]
        if not len(row_A):
            continue
        states, where_A = States.distinct(example_N[row_A], masked_NL[row_A], budget - step_N[row_A] + 1)
        out = term(model, states, last=last, compile=compile)
        evaluations += len(states.example_S)
        token_A, kl_A = out.token_S[where_A], out.kl_S[where_A]
        bonus_A = entropy_bonus * out.entropy_S[where_A] if entropy_bonus else torch.zeros_like(token_A)
        value_N = value_N.to(token_A.dtype).index_add(0, row_A, token_A - kl_A - price + bonus_A)
        token_N = token_N.to(token_A.dtype).index_add(0, row_A, token_A.detach())
        kl_N = kl_N.to(token_A.dtype).index_add(0, row_A, kl_A.detach())
    here_N = masked_NL.any(-1)
    price_N = price * here_N.to(token_N.dtype)
    reward_BK = value_N.detach().view(B, samples)
    advantage_N = (reward_BK - leave_one_out(reward_BK)).flatten()
    along = [direction_NL] if direction_NL is not None else []
    variance, plain_variance = (
        score_variance(budget * weight_N[None], along, B) for weight_N in (advantage_N, reward_BK.flatten())
    )
    return OrderElbo(
        bound_nats_B=budget * per_example(kl_N + price_N - token_N, B),
        token_nats_B=budget * per_example(-token_N, B),
        kl_nats_B=budget * per_example(kl_N, B),
        price_nats_B=budget * per_example(price_N, B),
        steps_BK=budget * here_N.double().view(B, samples),
        log_weight_BK=zero_N.new_zeros(B, 0),
        evaluations=evaluations,
        surrogate=-budget * (value_N + advantage_N * log_q_N).sum() / (samples * response_BL.sum()),
        score_variance=variance,
        score_variance_without_baseline=plain_variance,
        control_moments=zero_N.new_zeros(0, 2),
        log_success_BK=zero_N.new_zeros(B, 0),
    )


def iid_steps(
    model: OrderModel[R],
    response_BL: Tensor,
    step_NL: Tensor,
    *,
    budget: int,
    price: float = 0.0,
) -> Bound:
    """The bound for IID unmasking in T steps, every position at a step drawn uniformly.

    IID is its own posterior here, so the bound is the mean cost of the true tokens along its orders. A step at which
    nothing falls is no step.

    Args:
        model: denoiser and laws, of which only the denoiser is asked.
        response_BL: bool, the positions to generate; some in every row.
        step_NL: int64, the step at which each position of each trajectory falls, 1 .. T.
        budget: T.
        price: nats per step taken.
    """
    B = len(response_BL)
    example_N = torch.arange(B, device=response_BL.device).repeat_interleave(len(step_NL) // B)
    canvas_NL = response_BL[example_N]
    token_N = torch.zeros(len(example_N), device=response_BL.device)
    steps_N = price_N = token_N.double()
    evaluations = 0
    for step in range(1, budget + 1):
        masked_NL, left = canvas_NL & (step_NL >= step), budget - step + 1
        falls_NL = canvas_NL & (step_NL == step)
        row_A = masked_NL.any(-1).nonzero()[:, 0]
        if not len(row_A):
            break
        states, where_A = States.distinct(example_N[row_A], masked_NL[row_A], torch.full_like(row_A, left))
        log_prob_AL = model.read(states).log_prob_SL[where_A].detach()
        evaluations += len(states.example_S)
        here_A = log_prob_AL.where(falls_NL[row_A], 0.0).sum(-1)
        token_N = token_N.to(log_prob_AL.dtype).index_add(0, row_A, here_A)
        steps_N = steps_N + falls_NL.any(-1)
        price_N = price_N + price * falls_NL.any(-1).double()
    token_nats_B = per_example(-token_N, B)
    return Bound(
        bound_nats_B=per_example(price_N - token_N, B),
        token_nats_B=token_nats_B,
        kl_nats_B=torch.zeros_like(token_nats_B),
        price_nats_B=per_example(price_N, B),
        steps_BK=steps_N.view(B, -1),
        log_weight_BK=(token_N - price_N).view(B, -1),
        evaluations=evaluations,
    )
