"""The denoiser: p(x_i | z) at every queried position, from a partly masked sequence z.

No time input: the number of mask tokens in z says how far the sequence is. The embedding has one row more
than the head: the mask token can be read but never predicted.

Shapes: B rows, L positions, Q queried positions per row, D width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lightning_mdm.nets.transformer import Transformer, TransformerConfig, at_positions
from lightning_mdm.output import DenoiserOutput


class ReadableDenoiser(nn.Module, ABC):
    """A denoiser whose hidden states a selector can read.

    Args:
        vocab_size: V, the number of tokens that can be predicted. The mask token has id V.
        width: D, width of embeddings and hidden states.
    """

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.width = width

    @abstractmethod
    def embed(self, tokens_BL: Tensor) -> Tensor:
        """What is known of each token by itself, ``[B, L, D]``: a lookup, no evaluation."""

    @abstractmethod
    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """Logits ``[B, Q, V]`` at the positions ``query_BQ``, or ``[B, L, V]`` at all of them, and hidden states.

        The logits are the caller's, who may write to them: no part of the net's own state, and no view of one.

        Args:
            tokens_BL: token ids in [0, V], V being the mask token.
            valid_BL: True where a position is not padding; ``None`` where none is. Padding changes no valid position's
                logits.
            query_BQ: positions in [0, L) whose logits are wanted.
        """


class TransformerDenoiser(ReadableDenoiser):
    """Embedding, transformer trunk and an untied head.

    Args:
        vocab_size: V, the number of tokens that can be predicted. The mask token has id V.
        config: shape of the trunk.
    """

    def __init__(self, vocab_size: int, config: TransformerConfig) -> None:
        super().__init__(vocab_size, config.width)
        self.embedding = nn.Embedding(vocab_size + 1, config.width)
        self.trunk = Transformer(config)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.head.weight, std=config.width**-0.5)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        return self.embedding(tokens_BL)

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """See ``ReadableDenoiser``; the head runs on the queried positions alone, and reads the hidden states."""
        hidden_BLD = self.trunk(self.embedding(tokens_BL), valid_BL)
        queried_BQD = hidden_BLD
        if query_BQ is not None:
            queried_BQD = at_positions(hidden_BLD, query_BQ)
        return DenoiserOutput(self.head(queried_BQD), hidden_BLD)
