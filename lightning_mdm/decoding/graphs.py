"""A denoiser whose work on a GPU is recorded once per shape and replayed.

For few rows, starting a pass's hundreds of kernels takes longer than running them; a CUDA graph starts them as one. A
graph has fixed shapes: rows are padded to a power of two and queries to a multiple of 32, or the canvas, and what was
padded is cut off again. What a row gets is what it gets without, but for the rounding of products of another shape.

Shapes: B rows, L positions, Q queried positions per row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.decoding.state import Denoiser
from lightning_mdm.output import DenoiserOutput

QUERIES = 32
MOST_ROWS = 32  # with more a GPU has enough to do
Recorded = tuple[Callable[[], object], DenoiserOutput]
"""Runs the recorded work again; and where its results lie then."""


def record(denoiser: Denoiser, inputs: tuple[Tensor, ...]) -> Recorded:
    """Record a pass on the tensors ``inputs``, which are read anew at every replay."""
    kind = inputs[0].device.type
    # What autocast keeps of a weight lives as long as its context; a graph would read it when it is gone.
    cast = torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with cast:
        with torch.cuda.stream(side):  # first calls choose kernels and allocate, which no graph may hold
            for _ in range(3):
                denoiser(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            out = denoiser(*inputs)
    return graph.replay, out


@dataclass
class Graphed:
    """A denoiser by graphs, for ``decode``. A graph keeps its own logits and activations on the device.

    Args:
        denoiser: on a GPU; no gradients.
        record: how a pass is recorded.
        most_rows: rows up to which it is; with more the denoiser is called plainly.
    """

    denoiser: Denoiser
    record: Callable[[Denoiser, tuple[Tensor, ...]], Recorded] = record
    most_rows: int = MOST_ROWS
    graphs: dict[tuple[int, int, int], tuple[tuple[Tensor, ...], Recorded]] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        (B, L), Q = tokens_BL.shape, query_BQ.shape[1]
        if self.most_rows < B:
            return self.denoiser(tokens_BL, valid_BL, query_BQ)
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
        # Copies: the next replay writes to the same place.
        hidden_BLD = None if out.hidden_BLD is None else out.hidden_BLD[:B].clone()
        return DenoiserOutput(out.logits_BQV[:B, :Q].clone(), hidden_BLD)


@dataclass(frozen=True)
class Kept:
    """The graphs of a net, and where its weights lay and what their products were cast to when they were recorded."""

    graphed: Graphed
    where: tuple[object, ...]


_kept: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()


def called(net: ReferenceType[nn.Module], *inputs: Tensor) -> DenoiserOutput:
    """A net's output; what is kept of a net must not keep it."""
    found = net()
    assert found is not None, "whoever decodes holds it"
    out: DenoiserOutput = found(*inputs)
    return out


def graphed(net: nn.Module) -> Graphed:
    """A net by graphs, those of earlier calls among them: they read its weights where they lie, whatever they are now.

    Raises:
        ValueError: a net that is not on a GPU.
    """
    weights = list(net.parameters())
    if not weights or not all(weight.is_cuda for weight in weights):
        raise ValueError("cuda_graphs=True: the denoiser is not on a GPU; leave it out")
    cast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    where = (cast, *(weight.data_ptr() for weight in weights))
    if net not in _kept or _kept[net].where != where:
        _kept[net] = Kept(Graphed(partial(called, ref(net))), where)
    return _kept[net].graphed
