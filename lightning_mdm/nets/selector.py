"""The selector: which positions to unmask, from what the denoiser has computed already.

It reads hidden states and confidence at the masked positions and costs no denoiser evaluation. Its logits start at the
IID schedule, probability 1 / steps left, so that an untrained selector explores. Knows nothing of tokens or orders.

Shapes: B rows, L positions, Q masked positions per row, D width of the hidden states, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_mdm.nets.transformer import Transformer, TransformerConfig

CONFIDENCE = 4
"""Confidence features per position: top probability, margin, entropy and log-odds."""
CONTEXT = 3
"""Features of the row: 1 / steps left, the logarithm of the masked positions per step left, the price."""
LEAST_ODDS = 1e-9  # the log-odds of a token next to certain end here


@dataclass(frozen=True)
class OrderNetConfig:
    """Shape of a selector or of a posterior's net.

    Args:
        layers: transformer blocks.
        width: their width.
        heads: attention heads.
        mlp_width: inner width of the SwiGLU layers.
        positions: length of a learned position embedding, for canvases on which a position means the same in every
            row; 0 for none. Rotary positions are there in any case.
        attends: ``masked`` sees the positions to choose from, whose hidden states know the rest; ``all`` sees every
            position, for denoisers whose hidden states hold nothing but their own token.
        logit_cap: logits stay below this in size, smoothly.
    """

    layers: int = 1
    width: int = 64
    heads: int = 4
    mlp_width: int = 128
    positions: int = 0
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

    def forward(self, slot_BQ: Tensor, table: int, length: int) -> Tensor:
        """Vectors ``[B, Q, width]`` of the positions ``slot_BQ`` of a canvas of ``length``, from one of the tables.

        Raises:
            ValueError: a canvas longer than the table.
        """
        tables, positions, _ = self.weight.shape
        if length > positions:
            raise ValueError(f"positions={positions}: the canvas has {length} positions; give at least as many")
        return self.weight[min(table, tables - 1)][slot_BQ]


class OrderNet(nn.Module):
    """Features per position to one number per position, by a small transformer.

    Args:
        hidden_width: D.
        features: F, besides the hidden states.
        config: shape.
        last_scale: scale of the last layer's initial weights; 0 starts from nothing.
        tables: tables of the position embedding, where there is one.
    """

    def __init__(
        self, hidden_width: int, features: int, config: OrderNetConfig, last_scale: float, tables: int = 1
    ) -> None:
        super().__init__()
        self.config = config
        self.read_hidden = nn.Linear(hidden_width, config.width)
        self.read_features = nn.Linear(features, config.width, bias=False)
        self.places = Places(tables, config.positions, config.width) if config.positions else None
        self.trunk = Transformer(config.transformer)
        self.last = nn.Linear(config.width, 1)
        with torch.no_grad():
            self.last.weight.mul_(last_scale)
            self.last.bias.zero_()

    def forward(
        self, hidden_BLD: Tensor, feature_BLF: Tensor, valid_BL: Tensor, masked_BL: Tensor, table: int = 0
    ) -> Tensor:
        """One number per masked position, ``[B, L]``, 0 elsewhere.

        Args:
            hidden_BLD: hidden states or embeddings.
            feature_BLF: features; read where attended.
            valid_BL: True where a position is not padding.
            masked_BL: the positions asked about; some in every row.
            table: of the position embedding; beyond the last one, the last one.
        """
        attended_BL = masked_BL if self.config.attends == "masked" else valid_BL
        most = int(attended_BL.sum(-1).max())
        slot_BQ = attended_BL.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
        x_BQD = self.read_hidden(torch.take_along_dim(hidden_BLD, slot_BQ[:, :, None], dim=1))
        x_BQD = x_BQD + self.read_features(torch.take_along_dim(feature_BLF, slot_BQ[:, :, None], dim=1))
        if self.places is not None:
            x_BQD = x_BQD + self.places(slot_BQ, table, masked_BL.shape[1])
        x_BQD = x_BQD.to(self.last.weight.dtype)  # under autocast the residual stream keeps float32, as the denoiser's
        x_BQD = self.trunk(x_BQD, attended_BL.gather(1, slot_BQ), slot_BQ)
        value_BQ = self.last(x_BQD).squeeze(-1)
        value_BQ = value_BQ.to(torch.promote_types(value_BQ.dtype, torch.float32))  # bfloat16 would spoil the laws
        value_BQ = self.config.logit_cap * torch.tanh(value_BQ / self.config.logit_cap)
        return value_BQ.new_zeros(masked_BL.shape).scatter(1, slot_BQ, value_BQ).masked_fill(~masked_BL, 0.0)


class Selector(nn.Module):
    """Logits of unmasking each masked position now.

    Args:
        hidden_width: D, width of the denoiser's hidden states.
        config: shape.
    """

    def __init__(self, hidden_width: int, config: OrderNetConfig) -> None:
        super().__init__()
        self.net = OrderNet(hidden_width, CONFIDENCE + CONTEXT + 1, config, last_scale=0.0)
        self.offset = IIDOffset()

    def forward(
        self,
        hidden_BLD: Tensor,
        confidence_BLF: Tensor,
        valid_BL: Tensor,
        masked_BL: Tensor,
        steps_left_B: Tensor,
        price: float,
    ) -> Tensor:
        """Logits ``[B, L]``; only those of masked positions mean anything.

        Args:
            hidden_BLD: the denoiser's hidden states.
            confidence_BLF: top probability, margin, entropy in nats and odds against the best token, at masked
                positions.
            valid_BL: True where a position is not padding.
            masked_BL: the positions to choose from; some in every row.
            steps_left_B: steps left including this one.
            price: nats per step.
        """
        top_BL, margin_BL, entropy_BL, odds_BL = confidence_BLF.to(hidden_BLD.dtype).unbind(-1)
        log_odds_BL = (odds_BL + LEAST_ODDS).log() / 10.0
        shown_BL4 = torch.stack((top_BL, margin_BL, entropy_BL, log_odds_BL), dim=-1)
        feature_BLF = torch.cat(
            (
                shown_BL4.masked_fill(~masked_BL[:, :, None], 0.0),
                row_context(masked_BL, steps_left_B, price).to(hidden_BLD.dtype),
                masked_BL[:, :, None].to(hidden_BLD.dtype),
            ),
            dim=-1,
        )
        return self.net(hidden_BLD, feature_BLF, valid_BL, masked_BL) + self.offset(steps_left_B)[:, None]


class IIDOffset(nn.Module):
    """The logit of the IID schedule, probability 1 / steps left, times a weight that training may fade out."""

    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(()))

    def forward(self, steps_left_B: Tensor) -> Tensor:
        """``[B]``, 0 with two steps left or fewer."""
        return -self.weight * (steps_left_B - 1).clamp(min=1).log()


def row_context(masked_BL: Tensor, steps_left_B: Tensor, price: float) -> Tensor:
    """What a row has left, the same at all of its positions: ``[B, L, CONTEXT]``."""
    left_B = steps_left_B.float()
    share_B = (masked_BL.sum(-1).clamp(min=1) / left_B).log()
    context_B3 = torch.stack((1.0 / left_B, share_B / 3.0, torch.full_like(left_B, price) ** 0.5), dim=-1)
    return context_B3[:, None].expand(-1, masked_BL.shape[1], -1)
