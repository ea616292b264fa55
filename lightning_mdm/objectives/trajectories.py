"""Trajectories drawn from the approximate posterior, to their ends: what every step gives to each of them.

Where trajectories of an example are in the same state, the denoiser is asked once. What is made of the numbers is in
``order_elbo.py``, which says what F_s and the price are.

Shapes: N trajectories, K of each example, A of them at hand, S distinct states, L positions, X logits of a law.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lightning_mdm.compilation import compiled
from lightning_mdm.objectives.order_model import Choose, OrderModel, R, States
from lightning_mdm.objectives.order_term import expected_left, taken, term


@dataclass(frozen=True)
class Draw:
    """What is said of the sets that a step drew; of every trajectory, 0 of those that were finished before.

    Args:
        token_N: log p(x_i | z_s) of the tokens that were unmasked, summed, detached.
        log_q_N: log q(U_s).
        direction_NX: its gradient with respect to the logits of q, detached.
        reward_N: F_s with the tokens that were unmasked in place of their expectation, detached.
        log_weight_N: log of p(x, U_s) / q(U_s), detached.
        left_N: what the positions left masked would have cost at this step, detached.
        expected_left_N: the expectation of that under q.
    """

    token_N: Tensor
    log_q_N: Tensor
    direction_NX: Tensor
    reward_N: Tensor
    log_weight_N: Tensor
    left_N: Tensor
    expected_left_N: Tensor


@dataclass(frozen=True)
class Step:
    """What a step gave to every trajectory, 0 to those that were finished before.

    Args:
        going_N: bool, those that were not.
        value_N: F_s and the entropy bonus.
        expected_token_N: the part of F_s from the tokens, an expectation over U_s, detached.
        kl_N: KL(q || pi), detached.
        price_N: what the step costs.
        evaluations: of the denoiser.
        draw: the sets; ``None`` at s = T, where nothing is drawn.
    """

    going_N: Tensor
    value_N: Tensor
    expected_token_N: Tensor
    kl_N: Tensor
    price_N: Tensor
    evaluations: int
    draw: Draw | None

    @property
    def token_N(self) -> Tensor:
        """See ``Draw``; where everything is unmasked nothing is left to expect."""
        return self.expected_token_N if self.draw is None else self.draw.token_N

    @property
    def reward_N(self) -> Tensor:
        """See ``Draw``."""
        return self.value_N.detach() if self.draw is None else self.draw.reward_N

    @property
    def log_weight_N(self) -> Tensor:
        """See ``Draw``."""
        return self.value_N.detach() if self.draw is None else self.draw.log_weight_N


def follow(
    model: OrderModel[R],
    response_BL: Tensor,
    *,
    budget: int,
    samples: int,
    choose: Choose,
    price: float,
    entropy_bonus: float,
    compile: bool,
) -> list[Step]:
    """Draw the trajectories, all to their ends; see ``all_steps`` for what is given."""
    example_N = torch.arange(len(response_BL), device=response_BL.device).repeat_interleave(samples)
    masked_NL = response_BL[example_N]
    steps: list[Step] = []
    for step in range(1, budget + 1):
        going_N = masked_NL.any(-1)
        row_A = going_N.nonzero()[:, 0]
        if not len(row_A):
            break
        left_A = torch.full_like(row_A, budget - step + 1)
        states, where_A = States.distinct(example_N[row_A], masked_NL[row_A], left_A)
        out = term(model, states, last=step == budget, compile=compile)
        bonus_S = entropy_bonus * out.entropy_S if entropy_bonus else torch.zeros_like(out.token_S)
        value_S = out.token_S - out.kl_S - price + bonus_S
        spread = partial(at_rows, row_A, len(example_N))
        parts = (value_S, out.token_S.detach(), out.kl_S.detach())
        value_N, token_N, kl_N = (spread(part_S[where_A]) for part_S in parts)
        draw = None
        if out.q is not None and out.pi is not None:
            q_A = out.q.rows(where_A)
            chosen_AL = choose(q_A, row_A, step)
            said = (compiled(taken) if compile else taken)(q_A, out.pi, where_A, chosen_AL)
            log_prob_SL = out.reading.log_prob_SL.detach()
            token_A = log_prob_SL[where_A].where(chosen_AL, 0.0).sum(-1)
            draw = Draw(
                token_N=spread(token_A),
                log_q_N=spread(said.log_q_A),
                direction_NX=spread(said.direction_AX),
                reward_N=spread(token_A + (bonus_S - out.kl_S).detach()[where_A] - price),
                log_weight_N=spread((token_A + said.log_pi_A - said.log_q_A - price).detach()),
                left_N=spread(log_prob_SL.sum(-1)[where_A] - token_A),
                expected_left_N=spread(expected_left(out.q, log_prob_SL)[where_A]),
            )
            masked_NL = masked_NL.index_copy(0, row_A, masked_NL[row_A] & ~chosen_AL)
        price_N = price * going_N.to(token_N.dtype)
        steps.append(Step(going_N, value_N, token_N, kl_N, price_N, len(states.example_S), draw))
    return steps


def at_rows(row_A: Tensor, N: int, value_A: Tensor) -> Tensor:
    """Values of some of N trajectories in their places, 0 at the others."""
    return value_A.new_zeros(N, *value_A.shape[1:]).index_copy(0, row_A, value_A)
