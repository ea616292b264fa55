"""Where an untrained selector begins: logits that make a heuristic of it. Knows nothing of tokens or nets.

Shapes: B rows, J levels of log-odds at which logits pass 0, L positions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.orders.budget import entropy_bounded, quota

Start = Literal["iid", "confidence", "quota", "entropy_bound"]
LEAST_ODDS = 1e-9  # the log-odds of a token next to certain end here
WIDEST = 4.0  # no gap of log-odds between what is due and what is not counts for more


class ConfidenceLogit(nn.Module, ABC):
    """A logit that grows with the log-odds of the likeliest token and passes 0 at a level; its slope is learned.

    There may be several levels, and so as many logits for each position.

    Args:
        slope: per unit of log-odds, to start from.
    """

    counts_last = True
    """Whether what finishing puts at stake is the entropy of all positions, or leaves out the largest."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, odds_BL: Tensor, entropy_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor) -> Tensor:
        """``[B, J, L]`` from the odds against the likeliest token and the entropy in nats, at masked positions."""
        sure_BL = -(odds_BL + LEAST_ODDS).log()
        level_BJ = self.levels(sure_BL, entropy_BL, masked_BL, steps_left_B)
        return self.slope * (sure_BL[:, None] - level_BJ[:, :, None])

    @abstractmethod
    def levels(self, sure_BL: Tensor, entropy_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor) -> Tensor:
        """The log-odds ``[B, J]`` at which the logits are 0."""


class AtThreshold(ConfidenceLogit):
    """Above 0 where the top probability is above a threshold, which is learned.

    Args:
        slope: see ``ConfidenceLogit``.
        threshold: to start from, in (0, 1).
    """

    def __init__(self, slope: float, threshold: float) -> None:
        super().__init__(slope)
        self.level = nn.Parameter(torch.tensor(math.log(threshold / (1.0 - threshold))))

    def levels(self, sure_BL: Tensor, entropy_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor) -> Tensor:
        return self.level.expand(len(sure_BL), 1)


class AtQuota(AtThreshold):
    """Above 0 there, and for the surest positions up to an even quota; a distance to that quota is learned too.

    Args:
        slope: see ``ConfidenceLogit``.
        threshold: to start from, in (0, 1).
        shares: a level for each, at so many times the even quota, rounded to whole positions: of small quotas some are
            alike.
    """

    shares: Tensor

    def __init__(self, slope: float, threshold: float, shares: Sequence[float] = (1.0,)) -> None:
        super().__init__(slope, threshold)
        self.beyond = nn.Parameter(torch.tensor(0.0))
        # Saved where they decide anything: with others, trained weights are another selector.
        self.register_buffer("shares", torch.tensor(shares), persistent=tuple(shares) != (1.0,))

    def levels(self, sure_BL: Tensor, entropy_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor) -> Tensor:
        count_B = masked_BL.sum(-1)
        even_B = quota(count_B, steps_left_B)
        due_BJ = torch.minimum((self.shares * even_B[:, None]).round().long(), count_B[:, None])
        return torch.minimum(self.level, level_below(sure_BL, masked_BL, due_BJ) + self.beyond)


class AtEntropyBound(ConfidenceLogit):
    """Above 0 for as many of the surest positions as the entropy bound allows; a distance to that is learned.

    Args:
        slope: see ``ConfidenceLogit``.
        stake: the bound in nats, above 0.
    """

    counts_last = False  # as the bound does not, so that one position may always go

    def __init__(self, slope: float, stake: float) -> None:
        super().__init__(slope)
        self.stake = stake
        self.beyond = nn.Parameter(torch.tensor(0.0))

    def levels(self, sure_BL: Tensor, entropy_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor) -> Tensor:
        allowed_B = entropy_bounded(entropy_BL, masked_BL, self.stake)
        return level_below(sure_BL, masked_BL, allowed_B[:, None]) + self.beyond


def confidence_logit(
    start: Start, slope: float, threshold: float, stake: float | None, shares: Sequence[float]
) -> ConfidenceLogit | None:
    """The logit of a start; ``None`` for ``iid``, which asks for no confidence. ``stake`` is that of the bound."""
    if start == "iid":
        return None
    if start == "entropy_bound":
        assert stake is not None, "checked by the configuration"
        return AtEntropyBound(slope, stake)
    return AtThreshold(slope, threshold) if start == "confidence" else AtQuota(slope, threshold, shares)


def level_below(sure_BL: Tensor, masked_BL: Tensor, n_BJ: Tensor) -> Tensor:
    """The levels ``[B, J]`` that the ``n`` surest masked positions of a row are above, if the next one is less sure.

    Halfway to that one, or half of ``WIDEST`` below the last of them, if that is nearer; 0 where nothing is masked.
    """
    n_BJ = n_BJ.clamp(min=1)
    ranked_BL = sure_BL.masked_fill(~masked_BL, -torch.inf).sort(dim=-1, descending=True).values
    last_BJ = ranked_BL.gather(1, n_BJ - 1)
    after_BJ = F.pad(ranked_BL, (0, 1), value=-torch.inf).gather(1, n_BJ)
    last_BJ = last_BJ.masked_fill(~masked_BL.any(-1, keepdim=True), 0.0)  # -inf less -inf is not a number
    return last_BJ - 0.5 * (last_BJ - after_BJ).clamp(max=WIDEST)
