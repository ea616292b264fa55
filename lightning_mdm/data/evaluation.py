"""Evaluation on exactly the given problems, each once, on any number of processes.

torch's ``DistributedSampler`` repeats problems until all processes have equally many (5 problems on 4 processes become
8). Lightning leaves a sampler alone that is a ``DistributedSampler`` already, so this one is, and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_mdm.data.batch import Example, collate
from lightning_mdm.data.stream import Replica


class ExactShard(DistributedSampler[Any]):
    """Every ``world``-th problem, unshuffled, without padding.

    Raises:
        ValueError: fewer problems than processes; Lightning skips a loop that has no batch, and the others would wait.
    """

    def __init__(self, examples: Sequence[Example], replica: Replica) -> None:
        if len(examples) < replica.world:
            raise ValueError(
                f"{len(examples)} problems cannot be shared by {replica.world} processes: "
                "use fewer devices or evaluate more problems"
            )
        dataset: Any = examples
        super().__init__(dataset, num_replicas=replica.world, rank=replica.rank, shuffle=False)
        self.places = range(replica.rank, len(examples), replica.world)
        self.num_samples = len(self.places)
        self.total_size = len(examples)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.places)

    def __len__(self) -> int:
        return self.num_samples


def even_batch_size(n: int, world: int, batch_size: int) -> int:
    """The largest batch size up to ``batch_size`` with which all processes make equally many batches.

    A process that has one batch more than the others would wait for them for ever wherever a model synchronises in its
    forward pass (``DistributedDataParallel`` does so for buffers). If no size up to ``batch_size`` will do, as may be
    where that is very small, it is the smallest one above that does.
    """
    least, most = n // world, -(-n // world)
    sizes = (*range(batch_size, 0, -1), *range(batch_size + 1, most + 1))
    return next(size for size in sizes if -(-least // size) == -(-most // size))


def problems_in(n: int, world: int, batch_size: int, batches: float) -> int:
    """How many of ``n`` problems are in the first ``batches`` of every process: the first ones.

    Args:
        n: problems that are shared.
        world: processes.
        batch_size: as ``evaluation_loader`` is told.
        batches: of each process.
    """
    size = even_batch_size(n, world, batch_size)
    return int(min(n, batches * size * world))


def evaluation_loader(
    examples: Sequence[Example], *, batch_size: int, pad_id: int, replica: Replica
) -> DataLoader[Example]:
    """Batches of this process's share of ``examples``, in order. They are encoded already: no workers needed."""
    dataset: Any = examples
    sampler = ExactShard(examples, replica)  # first: it refuses what cannot be shared
    return DataLoader(
        dataset,
        batch_size=even_batch_size(len(examples), replica.world, batch_size),
        sampler=sampler,
        collate_fn=partial(collate, pad_id=pad_id),
        pin_memory=torch.cuda.is_available(),
    )
