"""The selector: which positions to unmask, from what the denoiser has computed already.

It reads hidden states and confidence at the masked positions and costs no denoiser evaluation. Untrained it is a
heuristic (``SelectorConfig.start``). Knows nothing of tokens or orders.

Shapes: B rows, J shares of them, N = B J, L positions, D width of the hidden states, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from lightning_mdm.nets.order_net import FIRST_FINISH, MOST_LOGIT, OrderNet, OrderNetConfig, RowHead
from lightning_mdm.nets.row_features import LEAST_NATS, IIDOffset
from lightning_mdm.nets.selector_features import (
    CONFIDENCE,
    CONTEXT,
    SHARE_STAKES,
    confidence_features,
    row_context,
    share_stakes,
)
from lightning_mdm.nets.selector_start import Start, confidence_logit
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

FIRST_SLOPE = 2.0  # per unit of log-odds: steep enough to be a threshold, flat enough to explore
FIRST_SHARE = -1.0  # that of any other share than the one to begin with: each is tried a third as often


@dataclass(frozen=True)
class SelectorConfig(OrderNetConfig):
    """Shape of a selector, and where it starts.

    Args:
        start: where an untrained selector begins. ``iid``: probability 1 / steps left for every position, to explore;
            ``confidence``: above 1/2 where the top probability is above ``start_threshold``, to improve on that policy;
            ``quota``: above 1/2 there, and for the surest positions up to an even quota of what is masked: top
            probability where the budget binds, the threshold where it does not; ``entropy_bound``: above 1/2 for as
            many of the surest as the entropy bound allows. Ties with the next position are left. Begin with the
            heuristic that is best for the denoiser.
        start_threshold: of ``confidence`` and ``quota``, in (0, 1).
        start_slope: of all but ``iid``: what the logit gains per unit of log-odds of the likeliest token, above 0. The
            steeper, the less an untrained selector explores.
        start_cap: bound of that logit's size, smoothly, to which the net's number is added, so that no logit is beyond
            the sum of both caps, at most 80: what is far from the level is drawn now and then, and the net can move it
            (in float32 all that is some nine caps over the slope away ties). ``None``: ``logit_cap`` bounds the sum of
            both.
        start_stake: nats that may be lost at once: by ``entropy_bound``, and, where finishing is a decision of its own,
            by everything left for it to be as likely as not; ``None`` tries it in an eighth of the draws whatever it
            costs.
        start_shares: of ``quota``: multiples of the even quota, above 0. With several, each is a level of its own
            (``orders/levelled_law.py``): how much to take at once is one decision, learned for every row from what it
            would put at stake and what would be left; at first that next to 1 is the likeliest. Only with a relative
            posterior, which draws shares as the selector does, or with none.
    """

    start: Start = "iid"
    start_threshold: float = 0.95
    start_slope: float = FIRST_SLOPE
    start_cap: float | None = None
    start_stake: float | None = None
    start_shares: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in get_args(Start):
            raise ValueError(f"start={self.start!r}: choose one of {', '.join(get_args(Start))}")
        if not 0.0 < self.start_threshold < 1.0:
            raise ValueError(f"start_threshold={self.start_threshold}: give a probability above 0 and below 1")
        if not self.start_slope > 0.0:
            raise ValueError(f"start_slope={self.start_slope}: give a number above 0")
        if self.start_cap is not None and (not self.start_cap > 0.0 or self.start == "iid"):
            raise ValueError(
                f"start_cap={self.start_cap} with start={self.start!r}: give a number above 0, or null; iid has none"
            )
        if self.start_cap is not None and self.start_cap + self.logit_cap > MOST_LOGIT:
            raise ValueError(
                f"start_cap={self.start_cap} with logit_cap={self.logit_cap}: logits may reach the sum of both; give "
                f"at most {MOST_LOGIT:g} in all, or null"
            )
        if self.start_stake is not None and not self.start_stake > 0.0:
            raise ValueError(f"start_stake={self.start_stake}: give a number of nats above 0, or null")
        if self.start == "entropy_bound" and self.start_stake is None:
            raise ValueError("start='entropy_bound': give start_stake, the bound in nats, e.g. 0.1")
        shares = self.start_shares
        if not shares or len(set(shares)) < len(shares) or not all(0.0 < share < math.inf for share in shares):
            raise ValueError(
                f"start_shares={list(shares)}: give multiples of the quota, finite numbers above 0, each once"
            )
        if tuple(self.start_shares) != (1.0,) and self.start != "quota":
            raise ValueError(
                f"start_shares={list(self.start_shares)} with start={self.start!r}: only quota has them; leave them out"
            )


class Selector(nn.Module):
    """The law of the set to unmask now.

    Args:
        hidden_width: D, width of the denoiser's hidden states.
        config: shape.
        finishes: whether unmasking everything is a decision of its own (``FinishingBernoulli``).
    """

    def __init__(self, hidden_width: int, config: SelectorConfig, finishes: bool = False) -> None:
        super().__init__()
        self.net = OrderNet(hidden_width, CONFIDENCE + CONTEXT + 1, config, last_scale=0.0)
        self.offset = IIDOffset() if config.start == "iid" else None
        self.confidence = confidence_logit(
            config.start, config.start_slope, config.start_threshold, config.start_stake, config.start_shares
        )
        self.start_cap, self.logit_cap = config.start_cap, config.logit_cap
        self.finish: RowHead | None = None
        if finishes:
            self.finish = RowHead(
                config.width, 2 + CONTEXT, config.logit_cap, first=FIRST_FINISH, stake=config.start_stake
            )
        self.share: RowHead | None = None
        if len(config.start_shares) > 1:
            self.share = RowHead(config.width, SHARE_STAKES + CONTEXT, config.logit_cap)
            near = min(config.start_shares, key=lambda share: abs(math.log(share)))
            first = [0.0 if share == near else FIRST_SHARE for share in config.start_shares]
            self.share_bias = nn.Parameter(torch.tensor(first))

    def forward(
        self,
        hidden_BLD: Tensor,
        confidence_BLF: Tensor,
        valid_BL: Tensor,
        masked_BL: Tensor,
        steps_left_B: Tensor,
        price: float | Tensor,
        most: int | None = None,
    ) -> UnmaskingLaw:
        """pi(U | z).

        Args:
            hidden_BLD: the denoiser's hidden states.
            confidence_BLF: top probability, margin, entropy in nats and odds against the best token, at masked
                positions.
            valid_BL: True where a position is not padding.
            masked_BL: the positions to choose from; some in every row.
            steps_left_B: steps left including this one.
            price: nats per step; as a tensor without dimensions, one compiled selector serves all prices.
            most: what no row's number of masked positions exceeds, for callers who know that.
        """
        # In 16 bits the odds of a certain token would be 0, or those of a hopeless one infinite.
        dtype = torch.promote_types(hidden_BLD.dtype, torch.float32)
        confidence_BLF = confidence_BLF.to(dtype)
        entropy_BL, odds_BL = confidence_BLF[..., 2], confidence_BLF[..., 3]
        context_BC = row_context(masked_BL, steps_left_B, price).to(dtype)
        feature_BLF = torch.cat(
            (
                confidence_features(confidence_BLF).masked_fill(~masked_BL[:, :, None], 0.0),
                context_BC[:, None].expand(-1, masked_BL.shape[1], -1),
                masked_BL[:, :, None].to(dtype),
            ),
            dim=-1,
        ).to(hidden_BLD.dtype)
        read = self.net(hidden_BLD, feature_BLF, valid_BL, masked_BL, steps_left_B, most)
        logits_BL = read.value_BL
        if self.offset is not None:
            logits_BL = logits_BL + self.offset(steps_left_B)[:, None]
        # What each position is expected to cost now, in sampled and in likeliest tokens.
        cost_BL2 = torch.stack((entropy_BL, odds_BL.log1p()), dim=-1).masked_fill(~masked_BL[:, :, None], 0.0)
        share_BJ, levels = None, 1
        logits_NL, masked_NL = logits_BL, masked_BL
        if self.confidence is not None:
            start_BJL = self.confidence(odds_BL, entropy_BL, masked_BL, steps_left_B)
            start_NL, levels = start_BJL.flatten(0, 1), start_BJL.shape[1]
            if self.share is not None:
                stakes_BJF = share_stakes(start_BJL > 0.0, cost_BL2, masked_BL, context_BC)
                share_N = self.share(read.mean_BD.repeat_interleave(levels, 0), stakes_BJF.flatten(0, 1))
                share_BJ = share_N.view(-1, levels) + self.share_bias
            logits_NL, masked_NL = (value.repeat_interleave(levels, 0) for value in (logits_BL, masked_BL))
            if self.start_cap is None:
                logits_NL = self.logit_cap * torch.tanh((logits_NL + start_NL) / self.logit_cap)
            else:
                logits_NL = logits_NL + self.start_cap * torch.tanh(start_NL / self.start_cap)
        law: UnmaskingLaw = NonEmptyBernoulli.from_logits(logits_NL, masked_NL)
        if self.finish is not None:
            stakes_BF = torch.cat(((cost_BL2.sum(1) + LEAST_NATS).log(), context_BC), dim=-1)
            at_stake_B = cost_BL2[:, :, 0].sum(1)
            if self.confidence is not None and not self.confidence.counts_last:
                at_stake_B = at_stake_B - cost_BL2[:, :, 0].amax(1)
            finish_B = self.finish(read.mean_BD, stakes_BF, at_stake_B)
            law = FinishingBernoulli.from_logits(logits_NL, finish_B.repeat_interleave(levels, 0), masked_NL)
        return law if share_BJ is None else Levelled.from_logits(share_BJ, law)
