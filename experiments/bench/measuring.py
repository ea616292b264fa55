"""Devices, clocks and rows of the measurements. Knows nothing of denoisers."""

from __future__ import annotations

import csv
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from lightning_mdm.outcomes.commit import commit_hash, names_one_source

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peak:
    """What a device can do at most, by its maker's data sheet.

    Args:
        flops: bfloat16 matrix products without sparsity, floating-point operations per second.
        bytes: of its memory, per second.
    """

    flops: float
    bytes: float


# NVIDIA's data sheets; where they give a number "with sparsity", half of it.
PEAKS = {
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),  # SXM5
    "NVIDIA H100 PCIe": Peak(756e12, 2.0e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 1.935e12),
    "NVIDIA L40S": Peak(362e12, 0.864e12),
    "NVIDIA L4": Peak(121e12, 0.3e12),
}


def device_name(device: torch.device) -> str:
    """Maker's name of a GPU, or "cpu" with the processor's model and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = models[0] if models else model
    return f"cpu {model}, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Clock:
    """Seconds that some work takes.

    On a GPU by the wall, with everything before and after it done. On a CPU in processor time, which other processes on
    the same cores do not count in; with one thread the two are the same on an idle machine.
    """

    device: torch.device

    def seconds(self, work: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            start = time.process_time()
            work()
            return time.process_time() - start
        torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(self.device)
        return time.perf_counter() - start


@dataclass
class Bench:
    """One run of the measurements: where it runs, how long each may take, and the rows that are there already.

    Args:
        device: what is measured.
        out: file of the rows; a row is appended as soon as it is measured.
        patience: seconds for one comparison, beside its warm-up.
        commit: of the code that is measured.
        same_code: take rows of an unknown or modified commit for rows of this code, too.
    """

    device: torch.device
    out: Path
    patience: float
    commit: str = field(default_factory=lambda: commit_hash(REPOSITORY))
    same_code: bool = False

    def __post_init__(self) -> None:
        self.name = device_name(self.device)
        self.clock = Clock(self.device)
        self.rows = read_rows(self.out)
        # Such a commit may be that of other code, whose rows are measured again.
        ours = self.same_code or names_one_source(self.commit)
        self.measured = {row.name for row in self.rows if ours and self.here(row)}

    @property
    def peak(self) -> Peak | None:
        return PEAKS.get(self.name)

    def here(self, row: Row) -> bool:
        """Whether a row is of this device and commit."""
        return (row.device, row.commit) == (self.name, self.commit)

    def has(self, *names: str) -> bool:
        """Whether all of these are measured already, on this device and with this code."""
        return set(names) <= self.measured

    def row(
        self, name: str, value: float, unit: str, *, batch: int, canvas: int, steps: int = 0, target: str = ""
    ) -> None:
        """Keep a measurement, in place of one that may be of other code, and print it."""
        row = Row(name, self.name, batch, canvas, steps, float(f"{value:.4g}"), unit, target, self.commit)
        self.rows = [*(known for known in self.rows if not (self.here(known) and known.name == name)), row]
        self.measured.add(name)
        write_rows(self.out, self.rows)
        aim = f"   target {target}" if target else ""
        print(f"{name:58}{row.value:>12g} {unit:10} batch {batch}, canvas {canvas}, steps {steps}{aim}", flush=True)

    def paired(self, *works: Callable[[], object], least: int = 3, most: int = 25) -> list[list[float]]:
        """Seconds of each work, in rounds that alternate between them: one list per round, at least ``least`` of them.

        Every second round goes backwards. Each work is done twice beforehand.
        """
        for work in works:
            work()
            work()
        return self.repeated(self._alternating(works), least, most)

    def _alternating(self, works: Sequence[Callable[[], object]]) -> Callable[[], list[float]]:
        forwards = True

        def once() -> list[float]:
            nonlocal forwards
            forwards = not forwards
            turn = list(enumerate(works))
            seconds = {i: self.clock.seconds(work) for i, work in (turn if forwards else reversed(turn))}
            return [seconds[i] for i in range(len(works))]

        return once

    def repeated(self, once: Callable[[], list[float]], least: int = 3, most: int = 25) -> list[list[float]]:
        """A round of seconds again and again, until patience ends: between ``least`` and ``most`` times."""
        rounds: list[list[float]] = []
        until = time.monotonic() + self.patience
        while len(rounds) < least or (time.monotonic() < until and len(rounds) < most):
            rounds.append(once())
        return rounds

    def memory(self, work: Callable[[], object]) -> float | None:
        """Most bytes that a GPU held during some work; ``None`` on a CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        torch.cuda.synchronize(self.device)
        return float(torch.cuda.max_memory_allocated(self.device))


def median(rounds: list[list[float]], of: int) -> float:
    """The median seconds of one work."""
    return statistics.median(seconds[of] for seconds in rounds)


def ratio(rounds: list[list[float]], of: int, over: int) -> float:
    """The median over rounds of one work's seconds over those of another."""
    return statistics.median(seconds[of] / seconds[over] for seconds in rounds)


@dataclass(frozen=True)
class Row:
    """One measurement; ``target`` is empty where there is none."""

    name: str
    device: str
    batch: int
    canvas: int
    steps: int
    value: float
    unit: str
    target: str
    commit: str


COLUMNS = [column.name for column in fields(Row)]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Row(
                line["name"], line["device"], int(line["batch"]), int(line["canvas"]), int(line["steps"]),
                float(line["value"]), line["unit"], line["target"], line["commit"],
            )
            for line in csv.DictReader(file)
        ]  # fmt: skip


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write all rows, in one piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.csv")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**asdict(row), "value": f"{row.value:g}"} for row in rows)
    draft.replace(path)
