"""The denoiser: p(x_i | z) at every queried position, from a partly masked sequence z.

No time input: the number of mask tokens in z says how far the sequence is. The embedding has one row more
than the head: the mask token can be read but never predicted.

Shapes: B rows, L positions, Q queried positions per row, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_mdm.nets.transformer import Transformer, TransformerConfig


class TransformerDenoiser(nn.Module):
    """Embedding, transformer trunk and an untied head.

    Args:
        vocab_size: V, the number of tokens that can be predicted. The mask token has id V.
        config: shape of the trunk.
    """

    def __init__(self, vocab_size: int, config: TransformerConfig) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size + 1, config.width)
        self.trunk = Transformer(config)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=config.width**-0.5)

    def hidden(self, tokens_BL: Tensor, valid_BL: Tensor) -> Tensor:
        """Normalised hidden states ``[B, L, D]``, the input of the head."""
        return self.trunk(self.embedding(tokens_BL), valid_BL)

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor | None = None) -> Tensor:
        """Logits ``[B, Q, V]`` at the positions ``query_BQ``, or ``[B, L, V]`` at all of them.

        Args:
            tokens_BL: token ids in [0, V], V being the mask token.
            valid_BL: True where a position is not padding. Padding changes no valid position's logits.
            query_BQ: positions in [0, L) whose logits are wanted; the head runs on these alone.
        """
        hidden_BLD = self.hidden(tokens_BL, valid_BL)
        if query_BQ is not None:
            hidden_BLD = torch.take_along_dim(hidden_BLD, query_BQ[:, :, None], dim=1)
        return self.head(hidden_BLD)
