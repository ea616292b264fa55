"""Endless training batches, dealt out over processes and workers, that resume exactly.

Batch ``b`` of process ``r`` of ``W`` holds the slots ``start + (b * W + r) * batch_size`` and following of the source;
worker ``w`` of ``n`` prepares the batches ``w, w + n, ...`` and the loader takes the workers in turn. So the batches
do not depend on the number of workers, and one number that is the same on every process, the count of slots consumed
by all of them together, says everything about where training stands. Knows nothing of where problems come from.

To pad less, rows may be sorted by length, those of one window at a time. A window is ``window`` successive batches of a
process, counted from slot 0: their rows are sorted and cut into batches, which are shuffled, seeded by the window's
number. Workers then take the windows in turn. After a resume the same number of processes and the same batch size find
the same windows; others, which would not, are refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lightning_mdm.data.batch import Batch, Example, collate
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


class ProblemStream(IterableDataset[tuple[list[Batch], int]]):
    """The batches of one process from ``start`` on, by windows, each with the misfits passed over for it."""

    def __init__(
        self, source: Source, encode: Encode, *, batch_size: int, pad_id: int, start: int, replica: Replica, window: int
    ) -> None:
        self.source = source
        self.encode = encode
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.start = start
        self.replica = replica
        self.window = window

    def __iter__(self) -> Iterator[tuple[list[Batch], int]]:
        done, offset = divmod(self.start, self.batch_size * self.replica.world)
        first, used = divmod(done, self.window)  # the window to go on with, and its batches that were consumed
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        slots = (slot for window in count(first + worker, workers) for slot in self._slots(window, offset))
        examples = self.source.examples(slots, self.encode)
        for window in count(first + worker, workers):
            taken = [next(examples) for _ in range(self.batch_size * self.window)]
            batches = self._batches(window, [example for example, _ in taken])
            yield batches[used if window == first else 0 :], sum(misfits for _, misfits in taken)

    def _slots(self, window: int, offset: int) -> Iterator[int]:
        for batch in range(window * self.window, (window + 1) * self.window):
            first = offset + (batch * self.replica.world + self.replica.rank) * self.batch_size
            yield from range(first, first + self.batch_size)

    def _batches(self, window: int, rows: list[Example]) -> list[Batch]:
        numbers = list(range(self.window))
        if self.window > 1:
            rows = sorted(rows, key=lambda example: len(example.tokens))
            random.Random(window).shuffle(numbers)  # on all processes alike: their batches are then equally long
        return [collate(rows[k * self.batch_size : (k + 1) * self.batch_size], self.pad_id) for k in numbers]


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
        window: batches among which rows are sorted by length; 1 leaves them in the order of the source.
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
        window: int = 1,
    ) -> None:
        self.source = source
        self.encode = encode
        self.progress = progress
        self.batch_size = batch_size
        self.pad_id = pad_id
        self.num_workers = num_workers
        self.replica = replica
        self.window = window

    def state_dict(self) -> dict[str, int]:
        """Where training stands, the same on every process; Lightning saves it in its checkpoints."""
        return {"slots": self.progress.slots, **self.windows}

    @property
    def windows(self) -> dict[str, int]:
        """What decides which rows are sorted together."""
        replica = self.replica or Replica.current()
        return {"window": self.window, "batch_size": self.batch_size, "processes": replica.world}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where ``state_dict()`` stood, with any number of workers.

        Raises:
            ValueError: rows are sorted, and other windows of them would hold some again and others never.
        """
        now = self.windows
        before = {name: state_dict.get(name, value) for name, value in now.items()}
        if before != now and max(before["window"], now["window"]) > 1:
            raise ValueError(
                "data.sort_batches={window}, data.batch_size={batch_size} on {processes} process(es)".format(**now)
                + ", but this training sorted {window} batches of {batch_size} on {processes}".format(**before)
                + " and stopped among them: some problems would come twice and others never; go on as it began"
            )
        self.progress.slots = state_dict["slots"]

    def __iter__(self) -> Iterator[Batch]:
        stream = ProblemStream(
            self.source,
            self.encode,
            batch_size=self.batch_size,
            pad_id=self.pad_id,
            start=self.progress.slots,
            replica=self.replica or Replica.current(),
            window=self.window,
        )
        loader: DataLoader[tuple[list[Batch], int]] = DataLoader(
            stream, batch_size=None, num_workers=self.num_workers, pin_memory=torch.cuda.is_available()
        )
        for batches, misfits in loader:
            self.progress.left_out += misfits
            yield from batches
