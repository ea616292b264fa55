"""Where GSM8K comes from: local files, or a hub data set read as a stream; both split the same way.

Validation is a file of its own where there is one, and its problems are taken out of training. Where there is none, it
is held out of training: the first 500 training problems, in the order of the data, of which the hash of the question
falls into one bucket of eight. Knows nothing of tokens or models.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_mdm.data.gsm8k_rows import Row, key, numbered, parse_record, read_rows
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import ListSource, Source, StreamSource, Vary, itself

N_HELD_OUT, HELD_OUT_BUCKETS = 500, 8
# In a directory, the first of these that is there.
FILES = {
    "train": ("train.jsonl", "icot_train.txt", "train.txt", "train.parquet"),
    "validation": ("icot_valid.txt", "valid.txt", "validation.jsonl", "valid.jsonl", "validation.parquet"),
    "test": ("test.jsonl", "icot_test.txt", "test.txt", "test.parquet"),
}

Numbered = tuple[int, Row]


def held_out(rows: Iterable[Numbered]) -> list[Numbered]:
    """The validation problems of training data that have no validation split."""
    chosen = (row for row in rows if zlib.crc32(key(row[1].question).encode()) % HELD_OUT_BUCKETS == 0)
    return list(islice(chosen, N_HELD_OUT))


def once(rows: list[Numbered], split: str) -> list[Numbered]:
    """The rows; whoever counts on them hears it where they hold a question several times."""
    repeated = len(rows) - len({key(row.question) for _, row in rows})
    if repeated:
        rank_zero_warn(
            f"gsm8k: {repeated} of {len(rows)} {split} problems ask what another one does: intervals and tests, which "
            "take problems to be independent, are too narrow"
        )
    return rows


class Origin(ABC):
    """Splits of rows; a problem's index is its line in its own file, or its row in its own split of the hub's."""

    @abstractmethod
    def rows(self, split: str) -> list[Numbered]:
        """The rows of ``validation`` or ``test``."""

    @abstractmethod
    def training(self, thoughts: str, seed: int, shuffle_buffer: int, vary: Vary = itself) -> Source:
        """The training problems without those of validation and test, each as ``vary`` has it in an epoch."""


class LocalOrigin(Origin):
    """Files by split, in any of the written forms.

    Args:
        path: a directory, or the files by split (``train``, ``test`` and perhaps ``validation``).
        on_bad_line: ``error`` or ``skip``.

    Raises:
        ValueError: no such directory or file.
    """

    def __init__(self, path: str | dict[str, str], on_bad_line: str) -> None:
        self.on_bad_line = on_bad_line
        if isinstance(path, dict):
            if not {"train", "test"} <= set(path) <= set(FILES):
                raise ValueError(f"data.path names files for {sorted(path)}: give train, test and perhaps validation")
            self.files = {split: Path(name) for split, name in path.items()}
        else:
            folder = Path(path)
            if folder.is_file():
                raise ValueError(f"data.path={path!r} is a file: give its directory, or data.path.train and .test")
            if not folder.is_dir():
                raise ValueError(f"data.path={path!r}: no such directory")
            self.files = {}
            for split, names in FILES.items():
                there = [folder / name for name in names if (folder / name).is_file()]
                if there:
                    self.files[split] = there[0]
            for split in ("train", "test"):
                if split not in self.files:
                    found = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
                    raise ValueError(
                        f"data.path={path!r} holds no {split} file, but {found}: need one of "
                        f"{', '.join(FILES[split])}, or give data.path.train and .test"
                    )
        for split, file in self.files.items():
            if not file.is_file():
                raise ValueError(f"data.path.{split}={str(file)!r}: no such file")

    def rows(self, split: str) -> list[Numbered]:
        return once(self.validation if split == "validation" else self.test, split)

    @cached_property
    def test(self) -> list[Numbered]:
        """The test rows."""
        return read_rows(self.files["test"], self.on_bad_line)

    @cached_property
    def train(self) -> list[Numbered]:
        """All rows of the training file, validation among them."""
        return read_rows(self.files["train"], self.on_bad_line)

    @cached_property
    def validation(self) -> list[Numbered]:
        """The validation rows; where training has them with natural solutions, as they are there."""
        if "validation" not in self.files:
            found = held_out(self.train)
            if not found:
                raise ValueError(f"{self.files['train']} is too small to hold out validation problems: give their file")
            rank_zero_info(f"gsm8k: no validation file, {len(found)} training problems are held out")
            return found
        rows = read_rows(self.files["validation"], self.on_bad_line)
        in_training = {key(row.question): row for _, row in self.train}
        missing = [number for number, row in rows if key(row.question) not in in_training]
        # GSM8K's own validation problems are part of its training file; other training files need not hold them.
        if missing and self.train[0][1].natural:
            rank_zero_warn(
                f"{len(missing)} of {len(rows)} problems of {self.files['validation']} "
                f"(the first is line {missing[0]}) are not in {self.files['train']}: are these files of the same data?"
            )
        return [(number, in_training.get(key(row.question), row)) for number, row in rows]

    def training(self, thoughts: str, seed: int, shuffle_buffer: int, vary: Vary = itself) -> Source:
        """All at hand: shuffled as a whole, so ``shuffle_buffer`` does not matter."""
        tests = {key(row.question) for _, row in self.test}
        excluded = {key(row.question) for _, row in self.validation} | tests
        kept = [row.problem(number, thoughts) for number, row in self.train if key(row.question) not in excluded]
        leaked = sum(key(row.question) in tests for _, row in self.train)
        if leaked:
            rank_zero_warn(
                f"{leaked} problems of {self.files['train']} are test problems: they are left out of training"
            )
        if not kept:
            raise ValueError(f"{self.files['train']}: no training problem is left beside those of validation and test")
        return ListSource(kept, seed, vary)


def stream_rows(dataset: str, config: str | None, split: str, on_bad_line: str) -> Iterator[Numbered]:
    """The rows of a split of a hub data set, in its order.

    Raises:
        ValueError: the data set cannot be opened, or a bad row.
    """
    # iter() gives the whole stream in a loader's worker too, where plain iteration would give one worker's files.
    records = (
        dict(zip(batch, values, strict=True))
        for batch in open_dataset(dataset, config)[split].iter(batch_size=256)
        for values in zip(*batch.values(), strict=True)
    )
    return numbered(records, parse_record, origin=f"{dataset} {split}", first=0, on_bad_line=on_bad_line)


def open_dataset(dataset: str, config: str | None) -> dict[str, Any]:
    """A data set's splits as streams, through ``datasets``; a directory of ``.jsonl`` files opens the same way."""
    import datasets  # takes a second to import, and only the hub needs it

    try:
        splits = datasets.load_dataset(dataset, config, streaming=True)
        return {str(name): stream for name, stream in splits.items()}
    except Exception as error:  # the library raises a dozen kinds
        raise ValueError(
            f"cannot open data.dataset={dataset!r} (data.config={config!r}): {error}. "
            "Is there a network? Local files are given by data.path"
        ) from error


def stream_problems(
    dataset: str, config: str | None, on_bad_line: str, thoughts: str, excluded: frozenset[str]
) -> Iterator[Problem]:
    """The training problems of a hub data set without the excluded questions, in its order."""
    for number, row in stream_rows(dataset, config, "train", on_bad_line):
        if key(row.question) not in excluded:
            yield row.problem(number, thoughts)


class HubOrigin(Origin):
    """A data set of the hub, never downloaded as a whole.

    Args:
        dataset: its name, such as ``openai/gsm8k`` or ``zen-E/GSM8k-Aug``.
        config: its configuration, where it has several.
        on_bad_line: ``error`` or ``skip``.
    """

    def __init__(self, dataset: str, config: str | None, on_bad_line: str) -> None:
        self.dataset = dataset
        self.config = config
        self.on_bad_line = on_bad_line

    def rows(self, split: str) -> list[Numbered]:
        return once(self.validation if split == "validation" else list(self._read(split)), split)

    @cached_property
    def validation(self) -> list[Numbered]:
        """The data set's own validation split, or problems held out of training."""
        if "validation" in open_dataset(self.dataset, self.config):
            return list(self._read("validation"))
        return held_out(self._read("train"))

    def training(self, thoughts: str, seed: int, shuffle_buffer: int, vary: Vary = itself) -> Source:
        tests = self._read("test") if "test" in open_dataset(self.dataset, self.config) else ()
        excluded = frozenset(key(row.question) for _, row in (*self.validation, *tests))
        read = partial(stream_problems, self.dataset, self.config, self.on_bad_line, thoughts, excluded)
        return StreamSource(read, seed, shuffle_buffer, vary)

    def _read(self, split: str) -> Iterator[Numbered]:
        return stream_rows(self.dataset, self.config, split, self.on_bad_line)
