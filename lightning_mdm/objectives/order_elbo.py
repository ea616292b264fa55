"""The variational bound over generation orders and its gradient (following Fox et al., arXiv 2602.23968).

A trajectory unmasks the set U_s of the masked positions M_s at step s = 1 .. T. Selector pi and approximate posterior q
are laws over U_s; at s = T everything left is unmasked. With the expectation over U_s in closed form,

    -log p(x) <= bound_nats = -sum_s E_{M_s ~ q} F_s,
    F_s = sum_{i in M_s} q(i in U_s) log p(x_i | z_s) - KL(q || pi) - price - wait_price sum_{i in M_s} q(i not in U_s)
    F_T = sum_{i in M_T} log p(x_i | z_T) - price

The prices, in nats, are part of the generative model: before every denoiser call generation breaks off with probability
1 - exp(-price), and after it with probability 1 - exp(-wait_price) for every position that is still masked. This puts
geometric laws on the number of steps and on how long a position waits: where nothing is lost by it, positions go early
and few steps are used. What is bounded is then the probability of x without a break, itself a bound of p(x).

Its gradient is REINFORCE with a leave-one-out baseline over the K trajectories of an example: ``all_steps`` has
rewards to go and one denoiser evaluation per distinct state; ``order_one_step.py`` is the cheaper estimator. Bound and
surrogate are different numbers. Knows nothing of networks; a model of two laws and one evaluation is all it asks for.

From its rewards to go ``all_steps`` subtracts, besides the baseline, a control variate: c times what the positions left
masked would have cost in the state at hand, whose expectation c sum_i (1 - q(i in U_s)) log p(x_i | z_s) is known. A
token whose cost does not depend on when it is unmasked would otherwise be counted in full by the steps to come and in
part by this one, which cancels in the mean only. The best c depends on the law (1 where no token gains by waiting, 0
where waiting makes everything certain), so it is regressed on earlier batches, which keeps the estimator unbiased.

Shapes: B examples, K trajectories of each, N = B K, A trajectories at hand, S distinct states, L positions, X logits of
a law, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lightning_mdm.compilation import compiled
from lightning_mdm.orders.unmasking_law import UnmaskingLaw

HEAVIEST = 100.0
"""No example weighs more than so many usual ones."""


@dataclass(frozen=True)
class States:
    """Partly masked states of the examples, each once.

    Args:
        example_S: int64, the example a state belongs to.
        masked_SL: bool, what is masked in it; never nothing.
        steps_left_S: int64, steps left including the one at hand.
    """

    example_S: Tensor
    masked_SL: Tensor
    steps_left_S: Tensor

    @classmethod
    def distinct(cls, example_A: Tensor, masked_AL: Tensor, steps_left_A: Tensor) -> tuple[States, Tensor]:
        """The distinct ones of some states, and for each of those given where it is among them."""
        key_AC = torch.cat((example_A[:, None], steps_left_A[:, None], masked_AL.long()), dim=1)
        key_SC, where_A = key_AC.unique(dim=0, return_inverse=True)
        return cls(key_SC[:, 0], key_SC[:, 2:].bool(), key_SC[:, 1]), where_A


class Reading(Protocol):
    """What one evaluation of the denoiser says about some states."""

    @property
    def log_prob_SL(self) -> Tensor:
        """log p(x_i | z) of the true tokens; 0 where not masked."""
        ...


R = TypeVar("R", bound=Reading)


class OrderModel(Protocol[R]):
    """Denoiser, selector and approximate posterior on a batch of examples."""

    @property
    def posterior_reads_states(self) -> bool:
        """Whether the posterior looks at the true tokens' likelihood in the current state."""
        ...

    def read(self, states: States) -> R:
        """Evaluate the denoiser, once per state."""
        ...

    def selector_law(self, states: States, reading: R) -> UnmaskingLaw:
        """pi(U | z), with at least two steps left."""
        ...

    def posterior_law(self, states: States, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None) -> UnmaskingLaw:
        """q(U | M, x), with at least two steps left; ``None`` twice where the posterior reads no states."""
        ...


Choose = Callable[[UnmaskingLaw, Tensor, int], Tensor]
"""Draws sets ``[A, L]`` from laws, for the trajectories with the numbers ``[A]``, at a step."""


@dataclass(frozen=True)
class OrderElbo:
    """One evaluation of the objective.

    Args:
        surrogate: scalar to differentiate: the mean over trajectories, weighed if there is a focus, in nats per
            response token.
        bound_nats_B: estimate of the bound on -log p(x), nats per sequence, detached; the sum of the next three.
        token_nats_B: its part from the tokens.
        kl_nats_B: its part from the order, KL(q || pi).
        price_nats_B: its part from the prices.
        steps_BK: steps each trajectory took under q, as far as it was followed.
        log_weight_BK: log of p(x, trajectory) / q(trajectory); only of ``all_steps``, else empty.
        evaluations: denoiser evaluations made, one per state.
        score_variance: variance over trajectories of the score-function gradient with respect to the logits of q.
        score_variance_without_baseline: what it would be with nothing taken off the rewards.
        control_moments: per step, what c is regressed on: covariance and variance; of ``all_steps`` only, else empty.
        log_success_BK: logarithm of what examples weigh, see the function; of ``all_steps`` only, else empty.
    """

    surrogate: Tensor
    bound_nats_B: Tensor
    token_nats_B: Tensor
    kl_nats_B: Tensor
    price_nats_B: Tensor
    steps_BK: Tensor
    log_weight_BK: Tensor
    evaluations: int
    score_variance: Tensor
    score_variance_without_baseline: Tensor
    control_moments: Tensor
    log_success_BK: Tensor


@dataclass(frozen=True)
class Term(Generic[R]):
    """F_s at distinct states, in its parts, and the laws behind it (none at the last step)."""

    reading: R
    token_S: Tensor
    kl_S: Tensor
    q: UnmaskingLaw | None
    pi: UnmaskingLaw | None


def term(model: OrderModel[R], states: States, *, last: bool, compile: bool = False) -> Term[R]:
    """F_s without prices, its expectation over U_s in closed form."""
    reading = model.read(states)
    if last:
        token_S = reading.log_prob_SL.sum(-1)
        return Term(reading, token_S, torch.zeros_like(token_S), None, None)
    return (compiled(expected) if compile else expected)(model, states, reading)


def expected(model: OrderModel[R], states: States, reading: R) -> Term[R]:
    """F_s without prices, from what the denoiser says, where it is not the last step."""
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


def leave_one_out(value_BK: Tensor) -> Tensor:
    """For each trajectory the mean of the other K - 1 of its example; 0 where there is no other."""
    others = value_BK.shape[1] - 1
    return (value_BK.sum(-1, keepdim=True) - value_BK) / others if others else torch.zeros_like(value_BK)


def importance_weighted_nats(log_weight_BK: Tensor) -> Tensor:
    """The bound -log (1/K) sum_k w_k in nats, ``[B]``: tighter with more (Burda et al., 2016)."""
    return math.log(log_weight_BK.shape[1]) - log_weight_BK.logsumexp(-1)


def all_steps(
    model: OrderModel[R],
    response_BL: Tensor,
    *,
    budget: int,
    samples: int,
    choose: Choose,
    price: float = 0.0,
    wait_price: float = 0.0,
    entropy_bonus: float = 0.0,
    focus: float = 0.0,
    usual_log_success: float = 0.0,
    control: Sequence[float] = (),
    compile: bool = False,
) -> OrderElbo:
    """The objective with every step evaluated: rewards to go, and a leave-one-out baseline per step.

    Args:
        model: denoiser and laws.
        response_BL: bool, the positions to generate; some in every row.
        budget: T.
        samples: K trajectories of each example.
        choose: draws the sets.
        price: nats per step taken.
        wait_price: nats per step and position left masked at it.
        entropy_bonus: added to F_s per nat of q's entropy at the step, for exploration; in the surrogate alone, the
            bound is what it is.
        focus: weighs examples in the surrogate by their chance to come out right, see ``log_success``.
        usual_log_success: what is taken off the logarithm of these weights; independent of this batch.
        control: c by step, from 1; independent of this batch. 0 where not given.
        compile: take the laws and what is computed from them through ``torch.compile``: hundreds of small operations a
            step, which on a GPU take longer to start than to run.
    """
    B = len(response_BL)
    example_N = torch.arange(B, device=response_BL.device).repeat_interleave(samples)
    masked_NL = response_BL[example_N]
    value_N: list[Tensor] = []  # F_s
    reward_N: list[Tensor] = []  # F_s with the tokens that were unmasked in place of their expectation
    left_N: list[Tensor] = []  # what the positions left masked would have cost at this step
    expected_left_N: list[Tensor] = []
    log_q_N: list[Tensor] = []
    direction_NL: list[Tensor] = []  # gradient of log q(U_s) with respect to the logits
    token_N = kl_N = price_N = log_weight_N = torch.zeros(len(example_N), device=response_BL.device)
    steps_N = token_N.double()
    evaluations = 0
    for step in range(1, budget + 1):
        row_A = masked_NL.any(-1).nonzero()[:, 0]
        if not len(row_A):
            break
        last = step == budget
        left_A = torch.full_like(row_A, budget - step + 1)
        states, where_A = States.distinct(example_N[row_A], masked_NL[row_A], left_A)
        out = term(model, states, last=last, compile=compile)
        evaluations += len(states.example_S)

        def spread(value_S: Tensor, where_A: Tensor = where_A, row_A: Tensor = row_A) -> Tensor:
            """Values of states at their trajectories; 0 at those that are finished."""
            zero_N = value_S.new_zeros(len(example_N), *value_S.shape[1:])
            return zero_N.index_copy(0, row_A, value_S[where_A])

        bonus_S = waiting_S = torch.zeros_like(out.token_S)
        if out.q is not None:
            waiting_S = expected_left(out.q, torch.ones_like(out.reading.log_prob_SL))
            bonus_S = entropy_bonus * out.q.entropy() if entropy_bonus else bonus_S
        value_N.append(spread(out.token_S - out.kl_S - price - wait_price * waiting_S + bonus_S))
        price_N = price_N + spread(price + wait_price * waiting_S.detach())
        token_N, kl_N = token_N + spread(out.token_S.detach()), kl_N + spread(out.kl_S.detach())
        steps_N = steps_N + masked_NL.any(-1)
        if out.q is None or out.pi is None:
            reward_N.append(value_N[-1].detach())
            log_weight_N = log_weight_N + reward_N[-1]
            break
        q_A = out.q.rows(where_A)
        chosen_AL = choose(q_A, row_A, step)
        said = (compiled(taken) if compile else taken)(q_A, out.pi, where_A, chosen_AL)
        each_A = torch.arange(len(row_A), device=row_A.device)
        log_q_N.append(spread(said.log_q_A, each_A))
        direction_NL.append(spread(said.direction_AX, each_A))
        log_prob_SL = out.reading.log_prob_SL.detach()
        token_A = (log_prob_SL[where_A] * chosen_AL).sum(-1)
        paid_A = price + wait_price * (masked_NL[row_A] & ~chosen_AL).sum(-1).to(log_prob_SL.dtype)
        reward_N.append(spread(token_A + (bonus_S - out.kl_S).detach()[where_A] - paid_A, each_A))
        left_N.append(spread(log_prob_SL.sum(-1)[where_A] - token_A, each_A))
        expected_left_N.append(spread(expected_left(out.q, log_prob_SL)))
        log_weight_N = log_weight_N + spread((token_A + said.log_pi_A - said.log_q_A - paid_A).detach(), each_A)
        masked_NL = masked_NL.index_copy(0, row_A, masked_NL[row_A] & ~chosen_AL)

    reward_TN = torch.stack(reward_N)
    # U_s has no part in F_s, whose expectation over it is taken already.
    after_TN = (reward_TN.flip(0).cumsum(0).flip(0) - reward_TN)[: len(log_q_N)]
    left_TN = torch.stack(left_N) if left_N else after_TN
    control_T1 = after_TN.new_tensor([*control, *[0.0] * len(after_TN)][: len(after_TN)])[:, None]
    gain_TN = after_TN - control_T1 * left_TN
    advantage_TN = gain_TN - leave_one_out(gain_TN.reshape(-1, samples)).reshape(gain_TN.shape)
    log_success_BK = log_success((kl_N - token_N).view(B, samples), focus)
    weight_N = (log_success_BK - usual_log_success).exp().clamp(max=HEAVIEST).reshape(-1)
    values = [weight_N * value for value in value_N]
    scores = [weight_N * advantage_N * log_N for advantage_N, log_N in zip(advantage_TN, log_q_N, strict=True)]
    controls = [c * (weight_N * left).sum() for c, left in zip(control_T1[:, 0], expected_left_N, strict=True)]
    variance, plain_variance = (
        score_variance(weight_N * reward_TN, direction_NL, B) for reward_TN in (advantage_TN, after_TN)
    )
    return OrderElbo(
        surrogate=-(torch.stack([*values, *scores]).sum() + sum(controls)) / (samples * response_BL.sum()),
        bound_nats_B=per_example(kl_N + price_N - token_N, B),
        token_nats_B=per_example(-token_N, B),
        kl_nats_B=per_example(kl_N, B),
        price_nats_B=per_example(price_N, B),
        steps_BK=steps_N.view(B, samples),
        log_weight_BK=log_weight_N.view(B, samples),
        evaluations=evaluations,
        score_variance=variance,
        score_variance_without_baseline=plain_variance,
        control_moments=control_moments(after_TN.view(-1, B, samples), left_TN.view(-1, B, samples)),
        log_success_BK=log_success_BK,
    )


def log_success(nats_BK: Tensor, focus: float) -> Tensor:
    """-focus x nats of each trajectory's example, ``[B, K]``: the logarithm of what the example weighs.

    In the mean that is a little more than exp(-focus x bound), the less the more trajectories, so that with ``focus`` 1
    examples count about as in the gradient of E_x exp(-bound), a lower bound of the share that is generated exactly;
    with 0 they count alike, and the bound's nats, most of which fall on examples that fail anyhow, decide. The nats,
    prices left out, are the mean over the example's other trajectories, 0 where there is none: a weight that knew its
    own would not leave the score-function gradient unbiased.
    """
    return -focus * leave_one_out(nats_BK)


def control_moments(after_TBK: Tensor, left_TBK: Tensor) -> Tensor:
    """Covariance of rewards to go and control variate within examples, and the latter's variance: ``[T - 1, 2]``."""
    after_TBK = after_TBK - after_TBK.mean(-1, keepdim=True)
    left_TBK = left_TBK - left_TBK.mean(-1, keepdim=True)
    return torch.stack(((after_TBK * left_TBK).mean((1, 2)), left_TBK.square().mean((1, 2))), dim=-1)


def expected_left(q: UnmaskingLaw, value_SL: Tensor) -> Tensor:
    """The expected sum of a value over the positions that a step leaves masked, ``[S]``."""
    return ((1.0 - q.marginal_BL) * value_SL.masked_fill(~q.masked_BL, 0.0)).sum(-1)


def per_example(value_N: Tensor, B: int) -> Tensor:
    """The mean over the trajectories of each example, ``[B]``."""
    return value_N.view(B, -1).mean(-1)


def score_variance(weight_TN: Tensor, direction_NL: list[Tensor], B: int) -> Tensor:
    """Variance of sum_s weight_s direction_s over an example's trajectories: over logits the sum, then the mean.

    0 where nothing was drawn.
    """
    if not direction_NL:
        return weight_TN.new_zeros(())
    pairs = zip(weight_TN, direction_NL, strict=False)
    gradient_NL = sum((weight_N[:, None] * d_NL for weight_N, d_NL in pairs), torch.zeros_like(direction_NL[0]))
    by_example_BKL = gradient_NL.view(B, -1, gradient_NL.shape[-1])
    return by_example_BKL.var(dim=1, correction=0).sum(-1).mean()
