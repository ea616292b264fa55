"""Outcomes on disk, safe against being killed: what makes a stopped sweep go on where it was.

Knows files; knows nothing of decoding. One directory per cell:

    <root>/<cell.label>/cell.json             which cell this is, written in one piece
                        outcomes.rank0.jsonl  one line per decoded batch, flushed to the disk before going on
                        outcomes.rank1.jsonl  every process writes a file of its own

A process killed while writing leaves at most one line without its end. Such a line counts as not written: reading
skips it, the next append removes it. A complete line that cannot be read is damage, and an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import BinaryIO

from lightning_mdm.outcomes.records import BatchRecord, Cell
from lightning_mdm.whole_files import whole_file

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

_RANK_FILE = re.compile(r"outcomes\.rank(\d+)\.jsonl")


class OutcomeStore:
    """The outcomes of the cells of a sweep, below one directory.

    Args:
        root: the directory; made at the first append.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def append(self, cell: Cell, record: BatchRecord, rank: int = 0) -> None:
        """Adds a decoded batch; once this returns, the batch survives a kill -9.

        Args:
            cell: the cell that was decoded.
            record: the batch.
            rank: number of the writing process. Two sweeps at once may have the same: they decode problems twice, and
                lose none.

        Raises:
            ValueError: when the cell's directory holds another cell.
        """
        assert rank >= 0, f"rank {rank}"
        directory = self._claim(cell)
        with open(directory / f"outcomes.rank{rank}.jsonl", "a+b") as file:
            _lock(file)
            _drop_torn_line(file)
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self, cell: Cell) -> list[BatchRecord]:
        """All batches of a cell, from all processes, every problem once (its first outcome, lowest rank first).

        A batch of which nothing is left (all its problems came before) is dropped, with its time and passes.

        Raises:
            ValueError: for a damaged line, naming file and line, and when the directory holds another cell.
        """
        directory = self.root / cell.label
        if not (directory / "cell.json").exists():
            return []
        self._check(directory, cell)
        seen: set[int] = set()
        records = []
        for record in _read(directory):
            kept = []
            for outcome in record.outcomes:
                if outcome.problem not in seen:
                    seen.add(outcome.problem)
                    kept.append(outcome)
            if kept:
                records.append(replace(record, outcomes=tuple(kept)))
        return records

    def done(self, cell: Cell) -> set[int]:
        """Indices of the problems of a cell that need no decoding any more."""
        return {outcome.problem for record in self.records(cell) for outcome in record.outcomes}

    def cells(self) -> list[Cell]:
        """Every cell found below the root, in the order of their directory names."""
        return [_read_cell(path) for path in sorted(self.root.glob("*/cell.json"))]

    def _claim(self, cell: Cell) -> Path:
        directory = self.root / cell.label
        path = directory / "cell.json"
        if path.exists():
            self._check(directory, cell)
            return directory
        with whole_file(path) as draft:  # a half-written cell.json would block the cell for ever
            draft.write_text(json.dumps(asdict(cell), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return directory

    @staticmethod
    def _check(directory: Path, cell: Cell) -> None:
        found = _read_cell(directory / "cell.json")
        if found.key != cell.key:
            raise ValueError(
                f"{directory} holds the outcomes of another cell ({found}), wanted {cell}:"
                " remove the directory, or give the sweep another one"
            )


def _read_cell(path: Path) -> Cell:
    try:
        return Cell(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a cell ({error}): remove its directory to decode it again"
        ) from error


def _read(directory: Path) -> Iterator[BatchRecord]:
    ranks = {int(match[1]): path for path in directory.iterdir() if (match := _RANK_FILE.fullmatch(path.name))}
    for _, path in sorted(ranks.items()):
        # What follows the last line end was never finished.
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                yield BatchRecord.from_json(line.decode())
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: {error}: remove the line to decode its problems again"
                ) from error


def _lock(file: BinaryIO) -> None:
    """Until the file is closed, no other process writes: a line that it has not finished would count as torn."""
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)


def _drop_torn_line(file: BinaryIO) -> None:
    size = end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        file.truncate(end)
