"""What selector and posterior share: a small net over positions, and a head for what is decided for a row as a whole.

Knows nothing of tokens, orders or laws.

Shapes: B rows, L positions, Q attended positions per row, D width of the hidden states, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.categorical import positions_of
from lightning_mdm.nets.row_features import LEAST_NATS
from lightning_mdm.nets.transformer import Transformer, TransformerConfig, at_positions

STEP_TABLES = 17
"""Every number of steps has a table of positions (from 16 on they share one): the best orders have other pivots."""
FIRST_FINISH = -2.0  # the logit of finishing before training: an eighth of the draws try it
MOST_LOGIT = 80.0  # beyond some 87 the probability of a coin is 0 in float32, and its law none


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
        logit_cap: logits stay below this in size, smoothly; at most 80.
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
        if not 0.0 < self.logit_cap <= MOST_LOGIT:
            raise ValueError(f"logit_cap={self.logit_cap}: give a number in (0, {MOST_LOGIT:g}]")
        _ = self.transformer  # checks the rest

    @property
    def transformer(self) -> TransformerConfig:
        return TransformerConfig(self.layers, self.width, self.heads, self.mlp_width)


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
        slot_BQ = positions_of(attended_BL, most)
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
