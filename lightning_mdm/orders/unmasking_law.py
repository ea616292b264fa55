"""What a law over the sets to unmask is, and the non-empty Bernoulli law.

The latter: one independent coin for each masked position, conditioned on not all of them failing,

    P(U) = prod_{i in U} p_i prod_{i in M \\ U} (1 - p_i) / Z,    Z = 1 - prod_{i in M} (1 - p_i),    {} != U in M

Selector and approximate posterior share one kind of law: this one, that of ``finishing_law.py``, or several of either
as the levels of ``levelled_law.py``. Everything is computed from log p and log(1 - p), so that p = 1 and p next to 0
are exact. Knows nothing of tokens or models.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.categorical import top_n


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x < 0, to full relative precision at both ends (Maechler 2012)."""
    near_BL = x > -math.log(2.0)
    # The branch not taken gets a harmless argument: otherwise its gradient would be 0 * inf.
    close_BL = (-x.masked_fill(~near_BL, -1.0).expm1()).log()
    far_BL = (-x.masked_fill(near_BL, -1.0).exp()).log1p()
    return torch.where(near_BL, close_BL, far_BL)


def log_not(log_p: Tensor) -> Tensor:
    """``log(1 - p)`` from ``log p``; minus infinity where p = 1, and without a gradient there."""
    certain = log_p == 0.0
    return log1mexp(log_p.masked_fill(certain, -1.0)).masked_fill(certain, -torch.inf)


class UnmaskingLaw(Protocol):
    """A law over non-empty subsets of each row's masked positions."""

    @property
    def masked_BL(self) -> Tensor:
        """M, bool."""
        ...

    @property
    def logit_BL(self) -> Tensor:
        """The logit of each position's coin."""
        ...

    @property
    def marginal_BL(self) -> Tensor:
        """P(i in U); 0 where not masked."""
        ...

    @property
    def broken_B(self) -> Tensor:
        """Rows with a logit that is no number: they have no law, and what would be made of one is chance."""
        ...

    def rows(self, index_N: Tensor) -> Self:
        """The law of some of the rows, or of rows repeated."""
        ...

    def moved(self, by_BL: Tensor, by_B: Tensor | None = None) -> Self:
        """The law with something added to the logits of its coins, and to that of finishing where there is one."""
        ...

    def scaled(self, factor: float) -> Self:
        """The law with min(1, factor * p) for every coin, and finishing with min(1, factor * f); ``factor`` > 0."""
        ...

    def log_prob(self, chosen_BL: Tensor) -> Tensor:
        """log P(U) of non-empty subsets of the masked positions, ``[B]``."""
        ...

    def score(self, chosen_BL: Tensor) -> Tensor:
        """The gradient of log P(U) with respect to the law's logits, detached: ``[B, number of logits]``."""
        ...

    def kl(self, other: Self) -> Tensor:
        """KL(self || other) in nats, ``[B]``, for a law over the same positions."""
        ...

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[B]``."""
        ...

    def sample(self, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        """One set per row, bool ``[B, L]``, from float64 uniforms of (0, 1)."""
        ...

    def likeliest(self, uniform_BL: Tensor) -> Tensor:
        """The set of the greedy rule, bool ``[B, L]``; float64 uniforms order equal positions."""
        ...


@dataclass(frozen=True)
class NonEmptyBernoulli:
    """A law over non-empty subsets of each row's masked positions; a row without any holds the empty set for certain.

    Args:
        log_p_BL: log p_i; read at masked positions only.
        log_not_p_BL: log(1 - p_i), minus infinity where p_i = 1.
        masked_BL: bool, M.
    """

    log_p_BL: Tensor
    log_not_p_BL: Tensor
    masked_BL: Tensor

    @classmethod
    def from_logits(cls, logits_BL: Tensor, masked_BL: Tensor) -> NonEmptyBernoulli:
        """The law with p = sigmoid(logits)."""
        return cls(F.logsigmoid(logits_BL), F.logsigmoid(-logits_BL), masked_BL)

    @property
    def logit_BL(self) -> Tensor:
        """log p_i / (1 - p_i)."""
        return self.log_p_BL - self.log_not_p_BL

    @property
    def broken_B(self) -> Tensor:
        """Rows with a masked position whose logit is no number."""
        return (self.logit_BL.isnan() & self.masked_BL).any(-1)

    def rows(self, index_N: Tensor) -> NonEmptyBernoulli:
        """The law of some of the rows, or of rows repeated."""
        return NonEmptyBernoulli(self.log_p_BL[index_N], self.log_not_p_BL[index_N], self.masked_BL[index_N])

    def moved(self, by_BL: Tensor, by_B: Tensor | None = None) -> NonEmptyBernoulli:
        """The law with something added to its logits, p being below 1; it has no other logit to add ``by_B`` to."""
        return NonEmptyBernoulli.from_logits(self.logit_BL + by_BL, self.masked_BL)

    def scaled(self, factor: float) -> NonEmptyBernoulli:
        """The law with min(1, factor * p) in place of p, ``factor`` > 0."""
        if factor == 1.0:
            return self
        log_p_BL = (self.log_p_BL + math.log(factor)).clamp(max=0.0)
        return NonEmptyBernoulli(log_p_BL, log_not(log_p_BL), self.masked_BL)

    @cached_property
    def log_z_B(self) -> Tensor:
        """log Z, the log-probability that not all coins fail; 0 in a row without masked positions."""
        none_B = self.log_not_p_BL.masked_fill(~self.masked_BL, 0.0).sum(-1)
        return log1mexp(none_B.masked_fill(~self.masked_BL.any(-1), -torch.inf))

    @cached_property
    def marginal_BL(self) -> Tensor:
        """P(i in U) = p_i / Z; 0 where not masked."""
        return (self.log_p_BL - self.log_z_B[:, None]).exp().masked_fill(~self.masked_BL, 0.0)

    def log_prob(self, chosen_BL: Tensor) -> Tensor:
        """log P(U) of non-empty subsets of the masked positions, ``[B]``; 0 in a row without masked positions."""
        log_BL = torch.where(chosen_BL, self.log_p_BL, self.log_not_p_BL)
        return log_BL.masked_fill(~self.masked_BL, 0.0).sum(-1) - self.log_z_B

    def score(self, chosen_BL: Tensor) -> Tensor:
        """The gradient of log P(U) with respect to the logits, detached, ``[B, L]``."""
        return (chosen_BL.to(self.log_p_BL.dtype) - self.marginal_BL).detach()

    def kl(self, other: NonEmptyBernoulli) -> Tensor:
        """KL(self || other) in nats, ``[B]``, for a law over the same positions."""
        # Where p = 1 the position is never left out, and what leaving it out would cost has weight 0.
        certain_BL = self.log_not_p_BL.isneginf() | ~self.masked_BL
        gain_BL = (self.log_p_BL - other.log_p_BL).masked_fill(~self.masked_BL, 0.0)
        loss_BL = (self.log_not_p_BL - other.log_not_p_BL).masked_fill(certain_BL, 0.0)
        taken_BL = self.marginal_BL
        return (taken_BL * gain_BL + (1.0 - taken_BL) * loss_BL).sum(-1) - self.log_z_B + other.log_z_B

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[B]``."""
        certain_BL = self.log_not_p_BL.isneginf() | ~self.masked_BL
        taken_BL = self.marginal_BL
        in_BL = taken_BL * self.log_p_BL.masked_fill(~self.masked_BL, 0.0)
        out_BL = (1.0 - taken_BL) * self.log_not_p_BL.masked_fill(certain_BL, 0.0)
        return self.log_z_B - (in_BL + out_BL).sum(-1)

    @torch.no_grad()
    def sample(self, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        """One set per row, bool ``[B, L]``; exact, without rejection.

        The first position taken is drawn from its own law; the coins after it are independent again.

        Args:
            uniform_B: float64 uniforms of (0, 1) that draw the first position taken.
            uniform_BL: float64 uniforms that draw the others.
        """
        log_not_p_BL = self.log_not_p_BL.double().masked_fill(~self.masked_BL, 0.0)
        # P(the first one taken is here or before), by logarithms: 1 - p would round a small p away.
        reached_BL = -log_not_p_BL.cumsum(-1).expm1()
        first_B1 = (reached_BL < uniform_B[:, None] * reached_BL[:, -1:]).sum(-1, keepdim=True)
        position_L = torch.arange(log_not_p_BL.shape[-1], device=log_not_p_BL.device)
        coin_BL = uniform_BL < self.log_p_BL.double().exp()
        return ((position_L == first_B1) | ((position_L > first_B1) & coin_BL)) & self.masked_BL

    def likeliest(self, uniform_BL: Tensor) -> Tensor:
        """The likeliest set, bool ``[B, L]``: all with p > 1/2, or else the one with the largest p, ties at random.

        Args:
            uniform_BL: float64 uniforms that order equal positions.
        """
        odds_BL = self.logit_BL
        one_B = torch.ones_like(self.masked_BL[:, 0], dtype=torch.int64)
        best_BL = top_n(odds_BL.clamp(max=torch.finfo(odds_BL.dtype).max), self.masked_BL, one_B, uniform_BL)
        return (self.masked_BL & (odds_BL > 0.0)) | best_BL
