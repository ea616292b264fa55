"""What one step adds to the bound over orders, the expectation over its set in closed form, and what drawn sets are.

F_s is written out in ``order_elbo.py``; here it has no price. ``expected`` and ``taken`` are compiled where asked for:
hundreds of small operations each.

Shapes: A trajectories at hand, S distinct states, L positions, X logits of a law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor

from lightning_mdm.compilation import compiled
from lightning_mdm.objectives.order_model import OrderModel, R, States
from lightning_mdm.orders.unmasking_law import UnmaskingLaw


@dataclass(frozen=True)
class Term(Generic[R]):
    """F_s at distinct states without the price, in its parts, and the laws behind it (none at the last step)."""

    reading: R
    token_S: Tensor
    kl_S: Tensor
    q: UnmaskingLaw | None
    pi: UnmaskingLaw | None

    @property
    def entropy_S(self) -> Tensor:
        """That of q, in nats."""
        return torch.zeros_like(self.token_S) if self.q is None else self.q.entropy()


def term(model: OrderModel[R], states: States, *, last: bool, compile: bool = False) -> Term[R]:
    """F_s without the price, its expectation over U_s in closed form."""
    reading = model.read(states)
    if last:
        token_S = reading.log_prob_SL.sum(-1)
        return Term(reading, token_S, torch.zeros_like(token_S), None, None)
    return (compiled(expected) if compile else expected)(model, states, reading)


def expected(model: OrderModel[R], states: States, reading: R) -> Term[R]:
    """F_s without the price, from what the denoiser says, where it is not the last step."""
    pi = model.selector_law(states, reading)
    log_prob_SL = reading.log_prob_SL  # after the selector has asked: that makes it cheap
    seen = (log_prob_SL, pi) if model.posterior_reads_states else (None, None)
    q = model.posterior_law(states, *seen)
    return Term(reading, (q.marginal_BL * log_prob_SL).sum(-1), q.kl(pi), q, pi)


@dataclass(frozen=True)
class Taken:
    """What is said of drawn sets.

    Args:
        log_q_A: their log-probability under q.
        direction_AX: its gradient with respect to the logits of q, detached.
        log_pi_A: their log-probability under pi, detached.
    """

    log_q_A: Tensor
    direction_AX: Tensor
    log_pi_A: Tensor


def taken(q_A: UnmaskingLaw, pi_S: UnmaskingLaw, where_A: Tensor, chosen_AL: Tensor) -> Taken:
    """See ``Taken``; ``where_A`` says which law of the selector belongs to a set."""
    with torch.no_grad():
        log_pi_A = pi_S.rows(where_A).log_prob(chosen_AL)
    return Taken(q_A.log_prob(chosen_AL), q_A.score(chosen_AL), log_pi_A)


def expected_left(q: UnmaskingLaw, value_SL: Tensor) -> Tensor:
    """The expected sum of a value over the positions that a step leaves masked, ``[S]``."""
    return ((1.0 - q.marginal_BL) * value_SL.masked_fill(~q.masked_BL, 0.0)).sum(-1)
