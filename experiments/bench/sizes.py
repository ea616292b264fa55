"""The shapes that are measured, and what a forward pass of each costs by arithmetic.

Shapes: B rows, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from lightning_mdm.data.batch import Batch
from lightning_mdm.decoding.state import Rows
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.vocabulary import TokenSpace


@cache
def random_denoiser(
    net: TransformerConfig, vocabulary: int, device: torch.device, dtype: torch.dtype
) -> TransformerDenoiser:
    """See ``Size.denoiser``; made once."""
    torch.manual_seed(0)
    with device:
        denoiser = TransformerDenoiser(vocabulary, net).eval().requires_grad_(False)
    denoiser.head.weight.mul_(3.0)
    return denoiser.to(dtype)


@dataclass(frozen=True)
class Size:
    """A denoiser and what it is used on.

    Args:
        net: shape of the denoiser.
        order_net: shape of the selector's and the posterior's net.
        vocabulary: V.
        prompt: given positions of a row.
        canvas: L.
        train_batch: rows of a training batch.
        order_batch: examples of an order-learning batch.
        batches: rows that are decoded at a time.
        steps: T of decoding.
        canvases: lengths of the cost figure.
        half: whether the net runs in bfloat16.
    """

    net: TransformerConfig
    order_net: OrderNetConfig
    vocabulary: int
    prompt: int
    canvas: int
    train_batch: int
    order_batch: int
    batches: tuple[int, ...]
    steps: int
    canvases: tuple[int, ...]
    half: bool = False

    @property
    def space(self) -> TokenSpace:
        return TokenSpace(self.vocabulary, eos_id=1, pad_id=0, forbidden=(0,))

    def with_canvas(self, canvas: int) -> Size:
        """The same with other rows, the prompt in proportion."""
        return replace(self, canvas=canvas, prompt=canvas * self.prompt // self.canvas)

    def denoiser(self, device: torch.device, dtype: torch.dtype | None = None) -> TransformerDenoiser:
        """A net with random weights; its head is sharpened, so that positions differ in how sure they are."""
        return random_denoiser(
            self.net, self.vocabulary, device, dtype or (torch.bfloat16 if self.half else torch.float32)
        )

    def batch(self, rows: int, device: torch.device) -> Batch:
        """Random rows without padding."""
        generator = torch.Generator().manual_seed(1)
        tokens_BL = torch.randint(2, self.vocabulary, (rows, self.canvas), generator=generator)
        prompt_BL = (torch.arange(self.canvas) < self.prompt).expand(rows, self.canvas).contiguous()
        return Batch(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.arange(rows)).to(device)

    def rows(self, rows: int, device: torch.device) -> Rows:
        """The same as rows to decode."""
        batch = self.batch(rows, device)
        return Rows(batch.tokens_BL, batch.prompt_BL, batch.valid_BL, batch.index_B)

    def masked(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens with every response position masked, what is valid, and the response positions as queries."""
        batch = self.batch(rows, device)
        query_BQ = torch.arange(self.prompt, self.canvas, device=device).expand(rows, -1)
        return batch.tokens_BL.masked_fill(~batch.prompt_BL, self.vocabulary), batch.valid_BL, query_BQ

    # By arithmetic.

    @property
    def block_weights(self) -> int:
        """Entries of the matrices of all blocks."""
        return self.net.layers * (4 * self.net.width**2 + 3 * self.net.width * self.net.mlp_width)

    @property
    def head_weights(self) -> int:
        return self.net.width * self.vocabulary

    def forward_flops(self, rows: int, queries: int) -> float:
        """Floating-point operations of a forward pass's matrix products, attention among them."""
        attention = self.net.layers * 4 * self.canvas * self.net.width
        per_position = 2 * self.block_weights + attention
        return float(rows * (self.canvas * per_position + queries * 2 * self.head_weights))

    def forward_bytes(self, rows: int, queries: int) -> float:
        """Bytes that a forward pass moves at least: weights once, what each matrix product reads and writes, logits."""
        D, M, number = self.net.width, self.net.mlp_width, 2 if self.half else 4
        activations = self.net.layers * (D + 3 * D + D + D + D + M + D + M + M + D)  # in and out of five products
        entries = self.block_weights + self.head_weights + rows * self.canvas * activations
        return float(number * (entries + rows * queries * (D + self.vocabulary)))


SIZES = {
    # SMDM's 170M shape on a GSM8K canvas (Nie et al., arXiv 2410.18514).
    "170m": Size(
        TransformerConfig(layers=18, width=768, heads=12, mlp_width=3072), OrderNetConfig(width=256, mlp_width=512),
        vocabulary=32_000, prompt=64, canvas=256, train_batch=256, order_batch=32, batches=(1, 16, 256), steps=16,
        canvases=(64, 128, 256, 512, 1024), half=True,
    ),
    # configs/word_problems/denoiser.yaml
    "default": Size(
        TransformerConfig(layers=4, width=128, heads=2, mlp_width=384), OrderNetConfig(),
        vocabulary=512, prompt=78, canvas=134, train_batch=16, order_batch=8, batches=(1, 4, 16), steps=8,
        canvases=(34, 67, 134, 268, 536),
    ),
    # Large enough that a selector is small beside it, small enough for a CPU.
    "wide": Size(
        TransformerConfig(layers=8, width=512, heads=8, mlp_width=1536), OrderNetConfig(),
        vocabulary=512, prompt=39, canvas=67, train_batch=2, order_batch=1, batches=(1, 4), steps=4, canvases=(34, 67),
    ),
    # The default net with the vocabulary of a language: what the logits cost.
    "vocabulary": Size(
        TransformerConfig(layers=4, width=128, heads=2, mlp_width=384), OrderNetConfig(),
        vocabulary=16_384, prompt=78, canvas=134, train_batch=4, order_batch=2, batches=(1, 4, 8), steps=8,
        canvases=(67, 134),
    ),
    "tiny": Size(
        TransformerConfig(layers=1, width=32, heads=2, mlp_width=48), OrderNetConfig(width=16, heads=2, mlp_width=16),
        vocabulary=40, prompt=4, canvas=12, train_batch=2, order_batch=2, batches=(1, 3), steps=3, canvases=(6, 12),
    ),
}  # fmt: skip
