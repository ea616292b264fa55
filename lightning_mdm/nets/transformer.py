"""A transformer trunk, bidirectional or causal: RMSNorm, rotary positions and perhaps learned ones, SwiGLU, no biases.

Knows nothing of tokens, masks or diffusion: it maps embeddings and a padding mask to hidden states.
It holds no buffers, so distributed evaluation with uneven shards never waits for a buffer broadcast.

Shapes: B rows, L positions, D width, H heads, K = D / H dimensions per head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.compilation import for_shapes_that_vary


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the trunk.

    Args:
        layers: number of blocks.
        width: model width D.
        heads: attention heads; must divide ``width`` into even-sized heads.
        mlp_width: inner width of the SwiGLU layer.
        norm_eps: epsilon of every RMSNorm.
        rope_base: base of the rotary frequencies (rotate-half convention).
        positions: length of a learned position embedding, for canvases on which a position means the same in every
            row; 0 for none. Rotary positions are there in any case, but they are relative: among masked tokens alone
            they tell no position from another.
    """

    layers: int = 4
    width: int = 128
    heads: int = 4
    mlp_width: int = 384
    norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    positions: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a whole number of at least 1")
        if self.positions < 0:
            raise ValueError(f"positions={self.positions}: give the length of the canvas, or 0")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"width={self.width} with heads={self.heads}: rotary attention needs width / heads to be an even "
                f"whole number; choose heads so that it is"
            )


def at_positions(x_BLD: Tensor, position_BQ: Tensor) -> Tensor:
    """The vectors ``[B, Q, D]`` at some positions of each row.

    Not by ``take_along_dim``, for which ``torch.compile`` holds B and L fixed, whatever it is told of shapes that vary:
    every number of rows and every length would be compiled anew, and after eight of them nothing more.
    """
    return x_BLD.gather(1, position_BQ[:, :, None].expand(-1, -1, x_BLD.shape[-1]))


def rotary_angles(position_L: Tensor, head_width: int, base: float) -> Tensor:
    """Rotation angle of every position and frequency, float32 ``[..., L, head_width / 2]`` (radians)."""
    exponent = torch.arange(0, head_width, 2, device=position_L.device, dtype=torch.float32) / head_width
    return position_L[..., None].float() * base**-exponent


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the two halves of the last dimension of ``x [..., L, K]`` by angles given as ``[..., L, K / 2]``."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def reading(config: TransformerConfig, inputs: int, outputs: int) -> nn.Linear:
    """A matrix that reads the residual stream, Normal(0, 1/D) at the start."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=config.width**-0.5)
    return layer


def writing(config: TransformerConfig, inputs: int) -> nn.Linear:
    """A matrix that writes to the residual stream: smaller with depth, so that the stream's size does not grow."""
    layer = nn.Linear(inputs, config.width, bias=False)
    nn.init.normal_(layer.weight, std=(2 * config.layers * config.width) ** -0.5)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention over the positions allowed, with rotary queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = reading(config, config.width, 3 * config.width)
        self.out = writing(config, config.width)

    def forward(self, x_BLD: Tensor, attend_B1LL: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        qkv = self.qkv(x_BLD).view(B, L, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[:2], cos, sin).to(qkv.dtype)  # together: half the operations to start
        v = qkv[2]
        mixed_BHLK = F.scaled_dot_product_attention(q, k, v, attn_mask=attend_B1LL)
        return self.out(mixed_BHLK.transpose(1, 2).reshape(B, L, D))


class SwiGLU(nn.Module):
    """``down(silu(gate x) * up x)`` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate = reading(config, config.width, config.mlp_width)
        self.up = reading(config, config.width, config.mlp_width)
        self.down = writing(config, config.mlp_width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BLD)) * self.up(x_BLD))


class Block(nn.Module):
    """One pre-norm block: attention, then SwiGLU, each added to the residual stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x_BLD: Tensor, attend_B1LL: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), attend_B1LL, cos, sin)
        return x_BLD + self.mlp(self.mlp_norm(x_BLD))


def compile_blocks(net: nn.Module) -> None:
    """Run every block of a net through ``torch.compile``, in place, for shapes that vary.

    Blocks alike share one program, so that it takes as long for 18 of them as for one; names in the net's state stay.
    """
    for_shapes_that_vary()
    for module in net.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)


class Transformer(nn.Module):
    """A stack of blocks and a final norm: embeddings ``[B, L, D]`` to hidden states ``[B, L, D]``.

    Args:
        config: its shape.
        causal: whether a position attends to itself and those before it alone, or to all.
    """

    def __init__(self, config: TransformerConfig, causal: bool = False) -> None:
        super().__init__()
        self.config = config
        self.causal = causal
        self.places = nn.Parameter(0.5 * torch.randn(config.positions, config.width)) if config.positions else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)

    def forward(self, x_BLD: Tensor, valid_BL: Tensor | None, position_BL: Tensor | None = None) -> Tensor:
        """Hidden states of every position; positions outside ``valid_BL`` are never attended to, all are without it.

        ``position_BL`` says where each embedding stands; 0, 1, 2, ... where it is not given. A row with no valid
        position at all would have nothing to attend to: callers pass none.

        Raises:
            ValueError: a canvas longer than the position embedding.
        """
        position = torch.arange(x_BLD.shape[1], device=x_BLD.device) if position_BL is None else position_BL
        if self.places is not None:
            if x_BLD.shape[1] > len(self.places):
                raise ValueError(
                    f"positions={len(self.places)}: the canvas has {x_BLD.shape[1]} positions; give at least as many"
                )
            x_BLD = x_BLD + self.places[position]
        angles = rotary_angles(
            position if position.ndim == 1 else position[:, None],
            self.config.width // self.config.heads,
            self.config.rope_base,
        )
        cos, sin = angles.cos().to(x_BLD.dtype), angles.sin().to(x_BLD.dtype)
        # Of size 1 where all positions may attend to the same ones.
        attend_B1LL = None if valid_BL is None else valid_BL[:, None, None, :]
        if self.causal:
            before_LL = torch.ones(x_BLD.shape[1], x_BLD.shape[1], dtype=torch.bool, device=x_BLD.device).tril()
            attend_B1LL = before_LL if attend_B1LL is None else attend_B1LL & before_LL
        for block in self.blocks:
            x_BLD = block(x_BLD, attend_B1LL, cos, sin)
        return self.norm(x_BLD)
