"""A denoiser whose work on a GPU is recorded once per shape and replayed.

At small batches starting a pass's hundreds of kernels takes longer than running them; a CUDA graph starts them as one.
A graph has fixed shapes: rows are padded to a power of two and queries to a multiple of 32, or the canvas, and what was
padded is cut off again. What a row gets is what it gets without, but for the rounding of products of another shape.

Shapes: B rows, L positions, Q queried positions per row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.output import DenoiserOutput

QUERIES = 32
Denoise = Callable[..., DenoiserOutput]
Recorded = tuple[Callable[[], object], DenoiserOutput]
"""Runs the recorded work again; and where its results lie then."""


def record(denoiser: Denoise, inputs: tuple[Tensor, ...]) -> Recorded:
    """Record a pass on the tensors ``inputs``, which are read anew at every replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # first calls choose kernels and allocate, which no graph may hold
        for _ in range(3):
            denoiser(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = denoiser(*inputs)
    return graph.replay, out


@dataclass
class Graphed:
    """A denoiser by graphs, for ``decode``.

    Args:
        denoiser: on a GPU; no gradients.
        record: how a pass is recorded.
    """

    denoiser: Denoise
    record: Callable[[Denoise, tuple[Tensor, ...]], Recorded] = record
    graphs: dict[tuple[int, int, int], tuple[tuple[Tensor, ...], Recorded]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        (B, L), Q = tokens_BL.shape, query_BQ.shape[1]
        rows, queries = 1 << (B - 1).bit_length(), min(L, -(-Q // QUERIES) * QUERIES)
        # Rows of padding are the last row once more, queries of padding ask for position 0.
        more = rows - B
        padded = (
            torch.cat((tokens_BL, tokens_BL[-1:].expand(more, -1))),
            torch.cat((valid_BL, valid_BL[-1:].expand(more, -1))),
            F.pad(torch.cat((query_BQ, query_BQ[-1:].expand(more, -1))), (0, queries - Q)),
        )
        if (rows, L, queries) not in self.graphs:
            inputs = tuple(value.clone() for value in padded)
            self.graphs[rows, L, queries] = inputs, self.record(self.denoiser, inputs)
        inputs, (replay, out) = self.graphs[rows, L, queries]
        for held, value in zip(inputs, padded, strict=True):
            held.copy_(value)
        replay()
        assert out.hidden_BLD is not None
        # Copies: the next replay writes to the same place.
        return DenoiserOutput(out.logits_BQV[:B, :Q].clone(), out.hidden_BLD[:B].clone())
