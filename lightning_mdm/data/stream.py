"""Endless training batches, dealt out over processes and workers, that resume exactly.

Batch ``b`` of process ``r`` of ``W`` holds the slots ``start + (b * W + r) * batch_size`` and following of the source;
worker ``w`` of ``n`` prepares the batches ``w, w + n, ...`` and the loader takes the workers in turn. So the batches
do not depend on the number of workers, and one number that is the same on every process, the count of slots consumed
by all of them together, says everything about where training stands. Knows nothing of where problems come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_mdm.data.batch import Batch, collate
from lightning_mdm.data.sources import Encode, Source


@dataclass
class Progress:
    """Where training stands.

    Args:
        slots: slots of the source consumed so far, by all processes together and before the weights they began from.
        left_out: problems this process passed over because they do not fit the canvas.
    """

    slots: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Replica:
    """This process among those that share the data."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world, "rank counts from 0"

    @staticmethod
    def current() -> Replica:
        """As ``torch.distributed`` says; alone where it was not started."""
        if distributed.is_available() and distributed.is_initialized():
            return Replica(distributed.get_rank(), distributed.get_world_size())
        return Replica()


class ProblemStream(IterableDataset[tuple[Batch, int]]):
    """The batches of one process from ``start`` on, each with the number of misfits passed over for it."""

    def __init__(
        self, source: Source, encode: Encode, *, batch_size: int, pad_id: int, start: int, replica: Replica
    ) -> None:
        self.source = source
        self.encode = encode
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.start = start
        self.replica = replica

    def __iter__(self) -> Iterator[tuple[Batch, int]]:
        examples = self.source.examples(self._slots(), self.encode)
        while True:
            taken = [next(examples) for _ in range(self.batch_size)]
            yield collate([example for example, _ in taken], self.pad_id), sum(misfits for _, misfits in taken)

    def _slots(self) -> Iterator[int]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for batch in count(worker, workers):
            first = self.start + (batch * self.replica.world + self.replica.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


class StreamLoader:
    """Iterates over training batches from ``progress.slots`` on, without end.

    The owner of ``progress`` counts a batch as consumed when it is used, not when it is fetched, since trainers and
    workers fetch ahead; every ``iter()`` then goes on where consumption stands, also after an epoch of
    ``limit_train_batches``.

    Args:
        source: of the problems.
        encode: problem to example, or ``None``.
        progress: where to start, and where misfits are counted.
        batch_size: rows per process.
        pad_id: pads the rows.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        replica: this process among all; asked from ``torch.distributed`` at iteration where ``None``.
    """

    def __init__(
        self,
        source: Source,
        encode: Encode,
        progress: Progress,
        *,
        batch_size: int,
        pad_id: int,
        num_workers: int = 0,
        replica: Replica | None = None,
    ) -> None:
        self.source = source
        self.encode = encode
        self.progress = progress
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.num_workers = num_workers
        self.replica = replica

    def state_dict(self) -> dict[str, int]:
        """Where training stands, the same on every process; Lightning saves it in its checkpoints."""
        return {"slots": self.progress.slots}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where ``state_dict()`` stood, with any number of workers."""
        self.progress.slots = state_dict["slots"]

    def __iter__(self) -> Iterator[Batch]:
        stream = ProblemStream(
            self.source,
            self.encode,
            batch_size=self.batch_size,
            pad_id=self.pad_id,
            start=self.progress.slots,
            replica=self.replica or Replica.current(),
        )
        loader: DataLoader[tuple[Batch, int]] = DataLoader(
            stream, batch_size=None, num_workers=self.num_workers, pin_memory=torch.cuda.is_available()
        )
        for batch, misfits in loader:
            self.progress.left_out += misfits
            yield batch
