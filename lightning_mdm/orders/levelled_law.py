"""The levelled law over sets: first how much is taken, then which.

    P(U) = sum_j w_j P_j(U)

A level j is drawn, and then a set from the law of that level. With independent coins alone the number of positions
taken varies by one or two, and what one more or fewer is worth is lost in what it matters which ones they are; here how
many to take at once is a decision of its own. The level is a latent variable, on which nothing but the set depends.
What is said of sets (probabilities, marginals, samples) is exact; the divergence is that of level and set together,
which is no less than that of sets, so that a bound with it stays a bound. Knows nothing of tokens or models.

Shapes: B rows, J levels, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_mdm.orders.unmasking_law import UnmaskingLaw


@dataclass(frozen=True)
class Levelled:
    """A law over non-empty subsets of each row's masked positions.

    Args:
        log_w_BJ: logarithms of the levels' probabilities, all of them above 0.
        laws: of B J rows, the levels of a row one after another, all over the same positions.
    """

    log_w_BJ: Tensor
    laws: UnmaskingLaw

    @classmethod
    def from_logits(cls, logit_BJ: Tensor, laws: UnmaskingLaw) -> Levelled:
        """The law with w = softmax(logits)."""
        return cls(logit_BJ.log_softmax(-1), laws)

    @property
    def levels(self) -> int:
        """J."""
        return self.log_w_BJ.shape[1]

    @property
    def masked_BL(self) -> Tensor:
        """M, bool."""
        return self.laws.masked_BL[:: self.levels]

    @property
    def logit_BL(self) -> Tensor:
        """The logits of the coins, in the mean over the levels; the levels' probabilities get no gradient by it."""
        return self._mean(self.laws.logit_BL, self.log_w_BJ.detach())

    @property
    def broken_B(self) -> Tensor:
        """Rows with a level that has no number for its logit, or no law."""
        return (self.log_w_BJ.isnan() | self.laws.broken_B.view_as(self.log_w_BJ)).any(-1)

    @cached_property
    def marginal_BL(self) -> Tensor:
        """P(i in U); 0 where not masked."""
        return self._mean(self.laws.marginal_BL, self.log_w_BJ)

    def _mean(self, value_NX: Tensor, log_w_BJ: Tensor) -> Tensor:
        return (log_w_BJ.exp()[:, :, None] * value_NX.unflatten(0, log_w_BJ.shape)).sum(1)

    def _each(self, value_BX: Tensor) -> Tensor:
        return value_BX.repeat_interleave(self.levels, dim=0)

    def rows(self, index_N: Tensor) -> Levelled:
        """The law of some of the rows, or of rows repeated."""
        level_J = torch.arange(self.levels, device=index_N.device)
        return Levelled(self.log_w_BJ[index_N], self.laws.rows((index_N[:, None] * self.levels + level_J).flatten()))

    def moved(self, by_BL: Tensor, by_B: Tensor | None = None) -> Levelled:
        """The law with something added to the logits of the coins of all levels, and to those of finishing.

        The levels keep their probabilities.
        """
        return Levelled(self.log_w_BJ, self.laws.moved(self._each(by_BL), None if by_B is None else self._each(by_B)))

    def scaled(self, factor: float) -> Levelled:
        """The law with min(1, factor * p) in place of every probability but the levels', ``factor`` > 0."""
        return Levelled(self.log_w_BJ, self.laws.scaled(factor))

    def _log_joint(self, chosen_BL: Tensor) -> Tensor:
        """log w_j P_j(U), ``[B, J]``."""
        return self.log_w_BJ + self.laws.log_prob(self._each(chosen_BL)).view_as(self.log_w_BJ)

    def log_prob(self, chosen_BL: Tensor) -> Tensor:
        """log P(U) of non-empty subsets of the masked positions, ``[B]``."""
        return self._log_joint(chosen_BL).logsumexp(-1)

    def score(self, chosen_BL: Tensor) -> Tensor:
        """The gradient of log P(U) with respect to the logits, detached: of the coins of all levels, then of w."""
        share_BJ = self._log_joint(chosen_BL).softmax(-1).detach()  # P(j | U)
        within_BJX = self.laws.score(self._each(chosen_BL)).unflatten(0, share_BJ.shape)
        return torch.cat(((share_BJ[:, :, None] * within_BJX).flatten(1), share_BJ - self.log_w_BJ.detach().exp()), -1)

    def kl(self, other: Levelled) -> Tensor:
        """KL(self || other) of level and set in nats, ``[B]``, for as many levels over the same positions."""
        within_BJ = self.laws.kl(other.laws).view_as(self.log_w_BJ)
        return (self.log_w_BJ.exp() * (self.log_w_BJ - other.log_w_BJ + within_BJ)).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy of level and set in nats, ``[B]``; levels that are alike count, too."""
        return (self.log_w_BJ.exp() * (self.laws.entropy().view_as(self.log_w_BJ) - self.log_w_BJ)).sum(-1)

    @torch.no_grad()
    def sample(self, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        """One set per row, bool ``[B, L]``.

        Args:
            uniform_B: float64 uniforms of (0, 1) that draw the level, and what is left of them what the level's law
                draws with one.
            uniform_BL: float64 uniforms that draw the rest.
        """
        w_BJ = self.log_w_BJ.double().exp()
        upto_BJ = w_BJ.cumsum(-1)
        at_B = uniform_B * upto_BJ[:, -1]
        level_B1 = (upto_BJ <= at_B[:, None]).sum(-1, keepdim=True).clamp(max=self.levels - 1)
        w_B = w_BJ.gather(1, level_B1)[:, 0]
        left_B = (at_B - (upto_BJ.gather(1, level_B1)[:, 0] - w_B)) / w_B
        least = torch.finfo(left_B.dtype).eps  # a uniform of (0, 1) again, whatever rounding did
        return self._at(level_B1[:, 0]).sample(left_B.clamp(least, 1.0 - least), uniform_BL)

    def likeliest(self, uniform_BL: Tensor) -> Tensor:
        """The set of the greedy rule at the likeliest level, bool ``[B, L]``."""
        return self._at(self.log_w_BJ.argmax(-1)).likeliest(uniform_BL)

    def _at(self, level_B: Tensor) -> UnmaskingLaw:
        """The law of each row's level."""
        return self.laws.rows(torch.arange(len(level_B), device=level_B.device) * self.levels + level_B)
