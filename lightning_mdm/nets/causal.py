"""A causal denoiser: p(x_i | x_1 .. x_i-1) at every queried position, behind the interface of all denoisers.

Position i reads the token before it, so that its hidden state has seen exactly what stands to its left. Masked tokens
to the right of the first masked one are never seen there; beyond that position the prefix has a hole, which a net that
was trained on whole prefixes has never met: its logits mean nothing, and ``Autoregressive`` never uses them.

There is no cache of keys and values: each step of the decoding loop evaluates the whole row, as for any denoiser, so
that evaluations cost alike whatever the net.

Shapes: B rows, L positions, Q queried positions per row, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.nets.transformer import Transformer, TransformerConfig, at_positions
from lightning_mdm.output import DenoiserOutput


class CausalDenoiser(ReadableDenoiser):
    """Embedding, causal trunk and an untied head.

    Args:
        vocab_size: V, the number of tokens. The mask token has id V, and says nothing: its embedding is zero.
        config: shape of the trunk.
    """

    def __init__(self, vocab_size: int, config: TransformerConfig) -> None:
        super().__init__(vocab_size, config.width)
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.start = nn.Parameter(torch.empty(config.width))  # stands before the first token
        self.trunk = Transformer(config, causal=True)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=1.0)
        nn.init.normal_(self.start, std=1.0)
        nn.init.normal_(self.head.weight, std=config.width**-0.5)

    def embed(self, tokens_BL: Tensor) -> Tensor:
        known_BL = tokens_BL < self.vocab_size
        return self.embedding(tokens_BL.where(known_BL, 0)) * known_BL[:, :, None]

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """See ``ReadableDenoiser``; of tokens that are all known the logits are those of the whole chain rule."""
        before_BLD = torch.cat((self.start.expand(len(tokens_BL), 1, -1), self.embed(tokens_BL[:, :-1])), dim=1)
        hidden_BLD = self.trunk(before_BLD, valid_BL)
        queried_BQD = hidden_BLD
        if query_BQ is not None:
            queried_BQD = at_positions(hidden_BLD, query_BQ)
        return DenoiserOutput(self.head(queried_BQD), hidden_BLD)
