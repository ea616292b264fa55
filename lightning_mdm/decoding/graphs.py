"""A denoiser whose work on a GPU is recorded once per shape and replayed.

For few rows, starting a pass's hundreds of kernels takes longer than running them; a CUDA graph starts them as one. A
graph has fixed shapes: rows are padded to a power of two, queries to a multiple of 32 but no more than there are
positions, and what was padded is cut off again. A row's logits are those of a plain call, up to the rounding of matrix
products of another shape.

Shapes: B rows, L positions, Q queried positions per row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_mdm.decoding.state import Denoiser
from lightning_mdm.output import DenoiserOutput

QUERIES = 32
MOST_ROWS = 32  # with more a GPU has enough to do
MOST_GRAPHS = 64
Recorded = tuple[Callable[[], object], DenoiserOutput]
"""What runs the recorded work again, and the tensors that hold its results afterwards."""


@dataclass
class Recorder:
    """Records passes on one stream, with one pool of memory for their intermediate results.

    Args:
        stream: where passes are recorded; made at the first one.
        pool: the memory; likewise.
    """

    stream: Any = None
    pool: Any = None

    def __call__(self, denoiser: Denoiser, inputs: tuple[Tensor, ...]) -> Recorded:
        """Record a pass on the tensors ``inputs``, which are read anew at every replay."""
        device = inputs[0].device
        # What autocast keeps of a weight lives as long as its context; a graph would read it when it is gone.
        cast = torch.autocast(
            device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type),
            cache_enabled=False,
        )  # fmt: skip
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), cast:
            if self.stream is None:
                self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):  # first calls choose kernels and allocate, which no graph may hold
                for _ in range(3):
                    denoiser(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            # Another thread may be page-locking a batch meanwhile; by default that would end the recording.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                out = denoiser(*inputs)

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay, out


@dataclass
class Graphed:
    """A denoiser by graphs, for ``decode``. A graph keeps its own results on the device.

    Args:
        denoiser: on a GPU; no gradients.
        record: how a pass is recorded.
        most_rows: with more rows than this the denoiser is called plainly.
        most_graphs: how many graphs are kept; the oldest makes room for one more.
    """

    denoiser: Denoiser
    record: Callable[[Denoiser, tuple[Tensor, ...]], Recorded] = field(default_factory=Recorder)
    most_rows: int = MOST_ROWS
    most_graphs: int = MOST_GRAPHS
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
            if len(self.graphs) >= self.most_graphs:
                del self.graphs[next(iter(self.graphs))]
            # What inference mode made could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad():
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
    """The graphs of a net, and what they depend on: autocast's precision and the addresses of the weights."""

    graphed: Graphed
    where: tuple[object, ...]


_kept: WeakKeyDictionary[nn.Module, Kept] = WeakKeyDictionary()


def called(net: ReferenceType[nn.Module], *inputs: Tensor) -> DenoiserOutput:
    """The output of a net by a weak reference: the graphs kept of a net must not keep it alive."""
    found = net()
    assert found is not None, "whoever decodes holds it"
    out: DenoiserOutput = found(*inputs)
    return out


def graphed(net: nn.Module) -> Graphed:
    """A net by graphs, those of earlier calls among them.

    They read its weights where they lie in memory, whatever their values are by now.

    Raises:
        ValueError: a net without weights on a GPU.
    """
    weights = list(net.parameters())
    if not weights or not all(weight.is_cuda for weight in weights):
        raise ValueError("cuda_graphs=True: the denoiser has no weights on a GPU; leave it out")
    cast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    where = (cast, *(weight.data_ptr() for weight in weights))
    if net not in _kept or _kept[net].where != where:
        _kept[net] = Kept(Graphed(partial(called, ref(net))), where)
    return _kept[net].graphed
