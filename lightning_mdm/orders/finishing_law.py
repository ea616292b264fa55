"""The finishing law over sets: unmask everything with a probability of its own, or else a proper part of it.

    P(M) = f,    P(U) = (1 - f) prod_{i in U} p_i prod_{i in M \\ U} (1 - p_i) / Z,    {} != U != M,
    Z = 1 - prod_{i in M} (1 - p_i) - prod_{i in M} p_i

Under independent coins the last step of a sequence is a coincidence: with fifty positions left, all fifty coins have to
fall the same way, and under the greedy rule a single p of at most 1/2 costs another denoiser call. Here whether to
finish is one decision. Knows nothing of tokens or models.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.categorical import top_n
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, log1mexp, log_not


@dataclass(frozen=True)
class FinishingBernoulli:
    """A law over non-empty subsets of each row's masked positions.

    Where one position is masked there is one set, and it has probability 1. A row without any holds the empty set for
    certain.

    Args:
        coins: p_i and M.
        log_f_B: log f, the probability of taking all of M.
        log_not_f_B: log(1 - f).
    """

    coins: NonEmptyBernoulli
    log_f_B: Tensor
    log_not_f_B: Tensor

    @classmethod
    def from_logits(cls, logits_BL: Tensor, finish_B: Tensor, masked_BL: Tensor) -> FinishingBernoulli:
        """The law with p = sigmoid(logits) and f = sigmoid(finish)."""
        return cls(NonEmptyBernoulli.from_logits(logits_BL, masked_BL), F.logsigmoid(finish_B), F.logsigmoid(-finish_B))

    @property
    def masked_BL(self) -> Tensor:
        """M, bool."""
        return self.coins.masked_BL

    @property
    def logit_BL(self) -> Tensor:
        """The logits of the coins."""
        return self.coins.logit_BL

    @property
    def broken_B(self) -> Tensor:
        """Rows in which the logit of finishing, or that of a masked position, is no number."""
        return self.log_f_B.isnan() | self.coins.broken_B

    def rows(self, index_N: Tensor) -> FinishingBernoulli:
        """The law of some of the rows, or of rows repeated."""
        return FinishingBernoulli(self.coins.rows(index_N), self.log_f_B[index_N], self.log_not_f_B[index_N])

    def moved(self, by_BL: Tensor, by_B: Tensor | None = None) -> FinishingBernoulli:
        """The law with something added to the logits of its coins, and to that of f, all of them finite."""
        finish_B = self.log_f_B - self.log_not_f_B
        return FinishingBernoulli.from_logits(
            self.logit_BL + by_BL, finish_B if by_B is None else finish_B + by_B, self.masked_BL
        )

    def scaled(self, factor: float) -> FinishingBernoulli:
        """The law with min(1, factor * p) and min(1, factor * f) in place of p and f, ``factor`` > 0."""
        if factor == 1.0:
            return self
        log_f_B = (self.log_f_B + math.log(factor)).clamp(max=0.0)
        return FinishingBernoulli(self.coins.scaled(factor), log_f_B, log_not(log_f_B))

    @cached_property
    def log_all_B(self) -> Tensor:
        """log prod p_i: the coins take everything."""
        return self.coins.log_p_BL.masked_fill(~self.masked_BL, 0.0).sum(-1)

    @cached_property
    def whole_B(self) -> Tensor:
        """Rows whose only set is all of M: one position, or none, or coins that can do nothing else."""
        return (self.masked_BL.sum(-1) <= 1) | (self.log_all_B == 0.0)

    @cached_property
    def log_z_B(self) -> Tensor:
        """log Z, as a sum over the first position taken: no small difference of large numbers; 0 where no part is."""
        log_BL = self._log_first_BL.masked_fill(self.whole_B[:, None], 0.0)
        return log_BL.logsumexp(-1).masked_fill(self.whole_B, 0.0)

    @cached_property
    def _log_first_BL(self) -> Tensor:
        """log of Z P(the first position taken is this one), minus infinity where not masked."""
        masked_BL = self.masked_BL
        log_not_p_BL = self.coins.log_not_p_BL.masked_fill(~masked_BL, 0.0)
        before_BL = F.pad(log_not_p_BL.cumsum(-1)[:, :-1], (1, 0))
        # If it is the first of all, not all behind it are taken.
        first_BL = masked_BL & (masked_BL.cumsum(-1) == 1)
        later_B1 = self.coins.log_p_BL.masked_fill(~masked_BL | first_BL, 0.0).sum(-1, keepdim=True)
        later_B1 = log1mexp(later_B1.masked_fill(self.whole_B[:, None], -torch.inf))
        log_BL = before_BL + self.coins.log_p_BL + torch.where(first_BL, later_B1, 0.0)
        return log_BL.masked_fill(~masked_BL, -torch.inf)

    @cached_property
    def finish_B(self) -> Tensor:
        """P(U = M)."""
        return self.log_f_B.exp().masked_fill(self.whole_B, 1.0)

    @cached_property
    def _part_BL(self) -> Tensor:
        """P(i in U) given a proper part."""
        others_BL = (self.log_all_B[:, None] - self.coins.log_p_BL).masked_fill(self._idle_BL, -1.0).clamp(max=0.0)
        log_BL = (self.coins.log_p_BL - self.log_z_B[:, None]).masked_fill(self._idle_BL, 0.0)
        return (log_BL.exp() * -others_BL.expm1()).masked_fill(self._idle_BL, 0.0)

    @property
    def _idle_BL(self) -> Tensor:
        """Positions that no proper part is drawn from."""
        return ~self.masked_BL | self.whole_B[:, None]

    @cached_property
    def marginal_BL(self) -> Tensor:
        """P(i in U); 0 where not masked."""
        finish_B1 = self.finish_B[:, None]
        return (finish_B1 + (1.0 - finish_B1) * self._part_BL).masked_fill(~self.masked_BL, 0.0)

    def log_prob(self, chosen_BL: Tensor) -> Tensor:
        """log P(U) of non-empty subsets of the masked positions, ``[B]``; 0 for the one set that there may be."""
        log_BL = torch.where(chosen_BL, self.coins.log_p_BL, self.coins.log_not_p_BL).masked_fill(self._idle_BL, 0.0)
        part_B = (self.log_not_f_B + log_BL.sum(-1) - self.log_z_B).masked_fill(self.whole_B, -torch.inf)
        everything_B = self._everything(chosen_BL)
        return torch.where(everything_B, self.log_f_B.masked_fill(self.whole_B, 0.0), part_B)

    def score(self, chosen_BL: Tensor) -> Tensor:
        """The gradient of log P(U) with respect to the logits, detached, ``[B, L + 1]``: the last one is f's."""
        everything_B1 = self._everything(chosen_BL)[:, None]
        coin_BL = (chosen_BL.to(self._part_BL.dtype) - self._part_BL).masked_fill(self._idle_BL | everything_B1, 0.0)
        finish_B1 = (everything_B1.to(coin_BL.dtype) - self.finish_B[:, None]).masked_fill(self.whole_B[:, None], 0.0)
        return torch.cat((coin_BL, finish_B1), dim=-1).detach()

    def _everything(self, chosen_BL: Tensor) -> Tensor:
        return (chosen_BL | ~self.masked_BL).all(-1)

    def kl(self, other: FinishingBernoulli) -> Tensor:
        """KL(self || other) in nats, ``[B]``, for a law over the same positions."""
        f_B, certain_BL = self.finish_B, self.coins.log_not_p_BL.isneginf() | self._idle_BL
        gain_BL = (self.coins.log_p_BL - other.coins.log_p_BL).masked_fill(self._idle_BL, 0.0)
        loss_BL = (self.coins.log_not_p_BL - other.coins.log_not_p_BL).masked_fill(certain_BL, 0.0)
        part_B = (self._part_BL * gain_BL + (1.0 - self._part_BL) * loss_BL).sum(-1) - self.log_z_B + other.log_z_B
        stop_B = (self.log_f_B - other.log_f_B).masked_fill(f_B == 0.0, 0.0)
        go_B = (self.log_not_f_B - other.log_not_f_B + part_B).masked_fill(f_B == 1.0, 0.0)
        return (f_B * stop_B + (1.0 - f_B) * go_B).masked_fill(self.whole_B, 0.0)

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[B]``."""
        f_B, certain_BL = self.finish_B, self.coins.log_not_p_BL.isneginf() | self._idle_BL
        in_BL = self._part_BL * self.coins.log_p_BL.masked_fill(self._idle_BL, 0.0)
        out_BL = (1.0 - self._part_BL) * self.coins.log_not_p_BL.masked_fill(certain_BL, 0.0)
        part_B = self.log_z_B - (in_BL + out_BL).sum(-1)
        stop_B = -self.log_f_B.masked_fill(f_B == 0.0, 0.0)
        go_B = (part_B - self.log_not_f_B).masked_fill(f_B == 1.0, 0.0)
        return (f_B * stop_B + (1.0 - f_B) * go_B).masked_fill(self.whole_B, 0.0)

    @torch.no_grad()
    def sample(self, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        """One set per row, bool ``[B, L]``; exact, without rejection.

        The first position taken is drawn from its own law. Where it is the first of all, so is the first position left
        out. The coins after that are independent again.

        Args:
            uniform_B: float64 uniforms of (0, 1) that draw whether to finish, and the first position taken.
            uniform_BL: float64 uniforms that draw the others.
        """
        masked_BL = self.masked_BL
        coins = NonEmptyBernoulli(self.coins.log_p_BL.double(), self.coins.log_not_p_BL.double(), masked_BL)
        law = FinishingBernoulli(coins, self.log_f_B.double(), self.log_not_f_B.double())
        f_B, first_BL = law.finish_B, masked_BL & (masked_BL.cumsum(-1) == 1)
        part_B = ((uniform_B - f_B) / (1.0 - f_B)).clamp(0.0, 1.0)
        start_B1 = draw(law._log_first_BL.exp(), part_B)
        # Left out first, if everything up to it is taken.
        log_p_BL = coins.log_p_BL.masked_fill(~masked_BL, 0.0)
        log_after_BL = F.pad(log_p_BL.masked_fill(first_BL, 0.0).cumsum(-1)[:, :-1], (1, 0))
        left_BL = (log_after_BL + coins.log_not_p_BL).exp().masked_fill(~masked_BL | first_BL, 0.0)
        stop_B1 = draw(left_BL, uniform_BL.masked_fill(~first_BL, 0.0).sum(-1))
        position_L = torch.arange(masked_BL.shape[-1], device=masked_BL.device)
        coin_BL = uniform_BL < log_p_BL.exp()
        from_first_BL = torch.where(position_L < stop_B1, True, (position_L > stop_B1) & coin_BL)
        from_later_BL = (position_L == start_B1) | ((position_L > start_B1) & coin_BL)
        starts_B1 = first_BL.gather(1, start_B1)
        part_BL = torch.where(starts_B1, from_first_BL, from_later_BL)
        return torch.where((uniform_B < f_B)[:, None], True, part_BL) & masked_BL

    def likeliest(self, uniform_BL: Tensor) -> Tensor:
        """Everything where f > 1/2, or else the likeliest proper part, bool ``[B, L]``, ties at random.

        That part is every position with p > 1/2 but the least probable of all, and at least the most probable one.

        Args:
            uniform_BL: float64 uniforms that order equal positions.
        """
        masked_BL = self.masked_BL
        odds_BL = self.logit_BL
        ranked_BL = odds_BL.clamp(min=-torch.finfo(odds_BL.dtype).max, max=torch.finfo(odds_BL.dtype).max)
        n_B = (masked_BL & (odds_BL > 0.0)).sum(-1).clamp(min=1)
        n_B = torch.minimum(n_B, (masked_BL.sum(-1) - 1).clamp(min=1))
        finishes_B = self.whole_B | (self.log_f_B > self.log_not_f_B)
        return torch.where(finishes_B[:, None], masked_BL, top_n(ranked_BL, masked_BL, n_B, uniform_BL))


def draw(weight_BL: Tensor, uniform_B: Tensor) -> Tensor:
    """A position of each row with probability proportional to its weight, ``[B, 1]``; the last one if all are 0."""
    cumulative_BL = weight_BL.cumsum(-1)
    drawn_B1 = (cumulative_BL < uniform_B[:, None] * cumulative_BL[:, -1:]).sum(-1, keepdim=True)
    return drawn_B1.clamp(max=weight_BL.shape[-1] - 1)
