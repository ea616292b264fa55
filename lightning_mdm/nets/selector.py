"""The selector: which positions to unmask, from what the denoiser has computed already.

It reads hidden states and confidence at the masked positions and costs no denoiser evaluation. Untrained it is a
heuristic (``SelectorConfig.start``). Knows nothing of tokens or orders.

Shapes: B rows, J shares of them, N = B J, L positions, Q masked positions per row, D width of the hidden states, F
features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.nets.selector_features import (
    CONFIDENCE,
    CONTEXT,
    LEAST_NATS,
    confidence_features,
    row_context,
)
from lightning_mdm.nets.selector_start import IIDOffset, Start, confidence_logit
from lightning_mdm.nets.transformer import Transformer, TransformerConfig, at_positions
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

STEP_TABLES = 17
"""Every number of steps has a table of positions (from 16 on they share one): the best orders have other pivots."""
FIRST_SLOPE = 2.0  # per unit of log-odds: steep enough to be a threshold, flat enough to explore
FIRST_FINISH = -2.0  # the logit of finishing before training: an eighth of the draws try it
FIRST_SHARE = -1.0  # that of any other share than the one to begin with: each is tried a third as often
SHARE_STAKES = 5
"""Features of a share of a row: what taking it would put at stake and leave, in two kinds of nats; its size."""


@dataclass(frozen=True)
class OrderNetConfig:
    """Shape of the net of a selector or a posterior.

    Args:
        layers: transformer blocks.
        width: their width.
        heads: attention heads.
        mlp_width: inner width of the SwiGLU layers.
        positions: length of a learned position embedding, for canvases on which a position means the same in every
            row; 0 for none. Rotary positions are there in any case.
        step_readouts: a last layer for each number of steps, as ``positions`` has a table for each: for canvases on
            which the best orders of neighbouring budgets have other pivots, and where those stand has to be read.
        attends: ``masked`` sees the positions to choose from, whose hidden states know the rest; ``all`` sees every
            position, for denoisers whose hidden states hold nothing but their own token.
        logit_cap: logits stay below this in size, smoothly.
    """

    layers: int = 1
    width: int = 64
    heads: int = 4
    mlp_width: int = 128
    positions: int = 0
    step_readouts: bool = False
    attends: Literal["masked", "all"] = "masked"
    logit_cap: float = 12.0

    def __post_init__(self) -> None:
        if self.positions < 0:
            raise ValueError(f"positions={self.positions}: give the length of the canvas, or 0")
        if self.attends not in ("masked", "all"):
            raise ValueError(f"attends={self.attends!r}: choose masked or all")
        if not self.logit_cap > 0.0:
            raise ValueError(f"logit_cap={self.logit_cap}: give a number above 0")
        _ = self.transformer  # checks the rest

    @property
    def transformer(self) -> TransformerConfig:
        return TransformerConfig(self.layers, self.width, self.heads, self.mlp_width)


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
            the sum of both caps: what is far from the level is drawn now and then, and the net can move it (in float32
            all that is some nine caps over the slope away ties). ``None``: ``logit_cap`` bounds the sum of both.
        start_stake: nats that may be lost at once: by ``entropy_bound``, and, where finishing is a decision of its own,
            by everything left for it to be as likely as not; ``None`` tries it in an eighth of the draws whatever it
            costs.
        start_shares: of ``quota``: multiples of the even quota, above 0. With several, each is a level of its own
            (``orders/levelled_law.py``): how much to take at once is one decision, learned for every row from what it
            would put at stake and what would be left; at first that next to 1 is the likeliest. Only with a relative
            posterior, which draws shares as the selector does.
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


class Places(nn.Module):
    """Tables of learned vectors, one per position of a canvas.

    Args:
        tables: number of tables.
        positions: longest canvas.
        width: of the vectors.
    """

    def __init__(self, tables: int, positions: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(tables, positions, width))

    def forward(self, slot_BQ: Tensor, table_B: Tensor, length: int) -> Tensor:
        """Vectors ``[B, Q, width]`` of the positions ``slot_BQ`` of a canvas of ``length``, from each row's table.

        Raises:
            ValueError: a canvas longer than the table.
        """
        tables, positions, _ = self.weight.shape
        if length > positions:
            raise ValueError(f"positions={positions}: the canvas has {length} positions; give at least as many")
        return self.weight[table_B.clamp(max=tables - 1)[:, None], slot_BQ]


@dataclass(frozen=True)
class OrderReading:
    """What an ``OrderNet`` makes of a row.

    Args:
        value_BL: one number per masked position, 0 elsewhere.
        mean_BD: the mean of what it computed at the masked positions.
    """

    value_BL: Tensor
    mean_BD: Tensor


class OrderNet(nn.Module):
    """Features per position to one number per position, by a small transformer.

    Args:
        hidden_width: D.
        features: F, besides the hidden states.
        config: shape.
        last_scale: scale of the last layer's initial weights; 0 starts from nothing.
    """

    def __init__(self, hidden_width: int, features: int, config: OrderNetConfig, last_scale: float) -> None:
        super().__init__()
        self.config = config
        self.read_hidden = nn.Linear(hidden_width, config.width)
        self.read_features = nn.Linear(features, config.width, bias=False)
        self.places = Places(STEP_TABLES, config.positions, config.width) if config.positions else None
        self.trunk = Transformer(config.transformer)
        self.last = nn.Linear(config.width, STEP_TABLES if config.step_readouts else 1)
        with torch.no_grad():
            self.last.weight.mul_(last_scale)
            self.last.bias.zero_()

    def forward(
        self,
        hidden_BLD: Tensor,
        feature_BLF: Tensor,
        valid_BL: Tensor,
        masked_BL: Tensor,
        steps_B: Tensor,
        most: int | None = None,
    ) -> OrderReading:
        """One number per masked position, and what there is to say of the row.

        Args:
            hidden_BLD: hidden states or embeddings.
            feature_BLF: features; read where attended.
            valid_BL: True where a position is not padding.
            masked_BL: the positions asked about; some in every row.
            steps_B: number of steps, which chooses the table of positions and the last layer.
            most: what no row's number of masked positions exceeds, for callers who know that: asking the masks makes a
                GPU wait.
        """
        attended_BL = masked_BL if self.config.attends == "masked" else valid_BL
        if most is None or self.config.attends == "all":
            most = int(attended_BL.sum(-1).max())
        slot_BQ = attended_BL.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
        x_BQD = self.read_hidden(at_positions(hidden_BLD, slot_BQ))
        x_BQD = x_BQD + self.read_features(at_positions(feature_BLF, slot_BQ))
        if self.places is not None:
            x_BQD = x_BQD + self.places(slot_BQ, steps_B, masked_BL.shape[1])
        x_BQD = x_BQD.to(self.last.weight.dtype)  # under autocast the residual stream keeps float32, as the denoiser's
        x_BQD = self.trunk(x_BQD, attended_BL.gather(1, slot_BQ), slot_BQ)
        value_BQK = self.last(x_BQD)
        which_B = steps_B.clamp(max=value_BQK.shape[-1] - 1)
        value_BQ = value_BQK.gather(-1, which_B[:, None, None].expand(-1, value_BQK.shape[1], 1)).squeeze(-1)
        value_BQ = value_BQ.to(torch.promote_types(value_BQ.dtype, torch.float32))  # bfloat16 would spoil the laws
        value_BQ = self.config.logit_cap * torch.tanh(value_BQ / self.config.logit_cap)
        value_BL = value_BQ.new_zeros(masked_BL.shape).scatter(1, slot_BQ, value_BQ).masked_fill(~masked_BL, 0.0)
        asked_BQ1 = masked_BL.gather(1, slot_BQ)[:, :, None]
        mean_BD = x_BQD.masked_fill(~asked_BQ1, 0.0).sum(1) / asked_BQ1.sum(1)
        return OrderReading(value_BL, mean_BD)


class RowHead(nn.Module):
    """The logit of something that is decided for a row as a whole, such as unmasking everything now, ``[B]``.

    Args:
        width: D, of the order net's mean.
        stakes: numbers about what it would cost.
        logit_cap: the logit stays below this in size, smoothly.
        first: the logit before training.
        stake: nats; with it the logit before training is 0 where so many are at stake, and falls by two for each unit
            of their logarithm.
        inner_width: of the one hidden layer.
    """

    def __init__(
        self,
        width: int,
        stakes: int,
        logit_cap: float,
        first: float = 0.0,
        stake: float | None = None,
        inner_width: int = 32,
    ) -> None:
        super().__init__()
        self.read_mean = nn.Linear(width, inner_width)
        self.read_stakes = nn.Linear(stakes, inner_width, bias=False)
        self.last = nn.Linear(inner_width, 1)
        self.logit_cap = logit_cap
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, first if stake is None else 2.0 * math.log(stake + LEAST_NATS))
        self.slope = nn.Parameter(torch.tensor(2.0)) if stake is not None else None

    def forward(self, mean_BD: Tensor, stakes_BF: Tensor, at_stake_B: Tensor | None = None) -> Tensor:
        """From the order net's mean, the stakes and, for a head with a stake to start from, the nats at stake."""
        inner_BF = self.read_mean(mean_BD) + self.read_stakes(stakes_BF.to(mean_BD.dtype))
        logit_B = self.last(F.gelu(inner_BF)).squeeze(-1)
        if self.slope is not None:
            assert at_stake_B is not None, "what the stake is compared to"
            logit_B = logit_B - self.slope * (at_stake_B + LEAST_NATS).log()
        logit_B = logit_B.to(torch.promote_types(logit_B.dtype, torch.float32))
        return self.logit_cap * torch.tanh(logit_B / self.logit_cap)


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
        price: float,
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
            price: nats per step.
            most: what no row's number of masked positions exceeds, for callers who know that.
        """
        confidence_BLF = confidence_BLF.to(hidden_BLD.dtype)
        entropy_BL, odds_BL = confidence_BLF[..., 2], confidence_BLF[..., 3]
        context_BC = row_context(masked_BL, steps_left_B, price).to(hidden_BLD.dtype)
        feature_BLF = torch.cat(
            (
                confidence_features(confidence_BLF).masked_fill(~masked_BL[:, :, None], 0.0),
                context_BC[:, None].expand(-1, masked_BL.shape[1], -1),
                masked_BL[:, :, None].to(hidden_BLD.dtype),
            ),
            dim=-1,
        )
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
            if self.share is not None:
                share_BJ = self.share_logits(start_BJL > 0.0, cost_BL2, masked_BL, context_BC, read.mean_BD)
            start_NL, levels = start_BJL.flatten(0, 1), start_BJL.shape[1]
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

    def share_logits(
        self, taken_BJL: Tensor, cost_BL2: Tensor, masked_BL: Tensor, context_BC: Tensor, mean_BD: Tensor
    ) -> Tensor:
        """The logits ``[B, J]`` of the shares of a row that may be taken at once.

        Args:
            taken_BJL: what each of them takes by the start's logits, read where masked.
            cost_BL2: nats expected of each position, 0 where not masked.
            masked_BL: the positions to choose from.
            context_BC: what the row has left.
            mean_BD: the order net's mean.
        """
        assert self.share is not None, "asked of a selector with several shares"
        # Sums of either part: a matrix product, or a difference, would lose the few nats that are left in bfloat16.
        cost_BJL2 = cost_BL2[:, None].expand(-1, taken_BJL.shape[1], -1, -1)
        nats_BJ4 = torch.cat([cost_BJL2.masked_fill(~of[..., None], 0.0).sum(2) for of in (taken_BJL, ~taken_BJL)], -1)
        taken_BJ1 = (taken_BJL & masked_BL[:, None]).sum(-1, keepdim=True)
        part_BJ1 = taken_BJ1 / masked_BL.sum(-1).clamp(min=1)[:, None, None]
        levels = taken_BJL.shape[1]
        context_BJC = context_BC[:, None].expand(-1, levels, -1)
        stakes_BJF = torch.cat(((nats_BJ4 + LEAST_NATS).log(), part_BJ1, context_BJC), dim=-1)
        logit_N = self.share(mean_BD.repeat_interleave(levels, 0), stakes_BJF.flatten(0, 1))
        return logit_N.view(-1, levels) + self.share_bias
