"""Train a Sudoku denoiser, learn its order and decode the easy and the hard test set, in slices of a few minutes.

python experiments/sudoku/run.py [--size small|paper|tiny] [--minutes M] [--so_far]

Give the same command again until it prints "complete": what is complete is not repeated, and what a slice's end has
stopped goes on from its last checkpoint, or from the last batch it has decoded. ``paper`` is the 6M configuration of
Kim et al. 2025 for one GPU, ``small`` that of ``make sudoku``, which trains on CPU cores; ``tiny`` rehearses ``paper``.
``--so_far`` runs nothing and reports on the problems that every policy has decoded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from lightning_mdm.outcomes import OutcomeStore, frontier_row, outcome_rows, write_outcomes, write_rows
from lightning_mdm.report import report

HERE = Path(__file__).parent
CONFIGS = Path("configs/sudoku")
GRACE = 30.0  # seconds for a stage to end by itself when its time is over
NO_BOUNDS = ("--model.budgets", "[2]", "--model.prices", "[0.0]", "--model.validation_samples", "1")  # of the sweeps


@dataclass(frozen=True)
class Size:
    """What is trained and decoded.

    Args:
        denoiser: configuration files of the denoiser, one over the other.
        order: likewise of the order.
        options: of every stage.
        sweep: of both sweeps.
        hard: of the sweep of hard puzzles.
        suffix: of the names of rows, figure and report in this folder; none are kept of a rehearsal.
    """

    denoiser: tuple[str, ...]
    order: tuple[str, ...]
    options: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    suffix: str | None = None


SIZES = {
    "small": Size(
        ("denoiser", "small"), ("order", "order_small"),
        sweep=("--data.n_test", "1000", "--data.eval_batch_size", "250"),
        hard=("--data.min_clues", "26", "--data.max_clues", "34"), suffix="",
    ),
    "paper": Size(("denoiser",), ("order",), suffix="_6m"),
    "tiny": Size(
        ("denoiser",), ("order",),
        options=(
            "--model.net.width", "48", "--model.net.mlp_width", "96", "--data.batch_size", "4", "--data.pool", "40",
            "--data.num_workers", "0", "--data.n_validation", "4", "--data.n_test", "4", "--trainer.max_steps", "40",
            "--trainer.val_check_interval", "40", "--trainer.callbacks.every_n_train_steps", "10",
        ),
        sweep=("--frontier.budgets", "[1, 4]"),
    ),
}  # fmt: skip


class OutOfTimeError(Exception):
    """The slice is over."""


@dataclass(frozen=True)
class Slice:
    """The time of one call.

    Args:
        end: when it is over, in seconds of ``time.monotonic``; infinite where it has no end.
    """

    end: float

    def lightning(self, *arguments: str, log: Path) -> None:
        """Run the program in a process of its own, its output in a log.

        Raises:
            OutOfTimeError: it was stopped at the end of the slice.
            RuntimeError: it failed.
        """
        left = self.end - time.monotonic()
        if left <= GRACE:
            raise OutOfTimeError
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as file:
            command = [sys.executable, "-m", "lightning_mdm", *arguments]
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            try:
                code = process.wait(None if left == float("inf") else left - GRACE)
            except subprocess.TimeoutExpired:
                stop(process)
                raise OutOfTimeError from None
            except BaseException:
                stop(process)
                raise
        if code:
            raise RuntimeError(f"'lightning {arguments[0]}' failed; its output is in {log}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and end it where it does not."""
    process.terminate()
    try:
        process.wait(GRACE / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stages(size: Size, run_dir: Path, minutes: Slice) -> None:
    """Denoiser, order, easy and hard puzzles; each one in turn, or what is left of it.

    Raises:
        OutOfTimeError: the slice is over before all is done.
    """
    denoiser, order = run_dir / "denoiser", run_dir / "order"
    last = "checkpoints/last.ckpt"
    learned = (*configs(size.order), *size.options, "--model.denoiser_ckpt", str(denoiser / last))
    swept = ("--run_dir", str(order), *NO_BOUNDS, *size.sweep, "--ckpt_path", str(order / last))
    for name, arguments in (
        (
            "denoiser",
            ("fit", *configs(size.denoiser), *size.options, "--run_dir", str(denoiser), "--ckpt_path", "last"),
        ),
        ("order", ("fit", *learned, "--run_dir", str(order), "--ckpt_path", "last")),
        ("easy", ("sweep", *learned, *swept, "--data.test_difficulty", "easy")),
        ("hard", ("sweep", *learned, *swept, "--data.test_difficulty", "hard", *size.hard)),
    ):
        done = run_dir / f"{name}.done"
        if not done.exists():
            minutes.lightning(*arguments, log=run_dir / f"{name}.log")
            done.touch()
        print(f"{name} is complete", flush=True)


def so_far(run_dir: Path) -> Path:
    """A run directory of what the sweeps of ``run_dir`` have decoded: whole batches that every cell of a split has.

    Raises:
        ValueError: nothing has been decoded.
    """
    store = OutcomeStore(run_dir / "cells")
    rows, outcomes = [], []
    for split in ("easy", "hard"):
        cells = [cell for cell in store.cells() if cell.split == split]
        common = set.intersection(*map(store.done, cells)) if cells else set()
        for cell in cells:
            kept = [r for r in store.records(cell) if common.issuperset(o.problem for o in r.outcomes)]
            rows.append(frontier_row(cell, kept))
            outcomes += outcome_rows(cell, kept)
    if not rows:
        raise ValueError(f"{run_dir} holds no decoded test problems: run the sweeps first")
    path = run_dir / "so_far"
    path.mkdir(exist_ok=True)
    write_rows(path / "frontier.csv", rows)
    write_outcomes(path / "outcomes.csv", outcomes)
    return path


def publish(run_dir: Path, size: Size) -> None:
    """Table, figure and report of a run directory, and copies of them in this folder."""
    report([str(run_dir)])
    if size.suffix is None:
        return
    copyfile(run_dir / "frontier.csv", HERE / f"rows{size.suffix}.csv")
    for name in ("frontier.png", "frontier.svg", "report.md"):
        stem, kind = name.split(".")
        copyfile(run_dir / name, HERE / f"{stem}{size.suffix}.{kind}")


def configs(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/sudoku_sizes"), help="where runs are kept, by size")
    parser.add_argument("--so_far", action="store_true", help="report on what is decoded, and run nothing")
    options = parser.parse_args(arguments)
    size, run_dir = SIZES[options.size], options.runs / options.size
    if options.so_far:
        publish(so_far(run_dir / "order"), size)
        return
    try:
        stages(size, run_dir, Slice(time.monotonic() + 60.0 * options.minutes))
    except OutOfTimeError:
        print(f"The slice is over; the same command goes on in {run_dir}.")
        return
    publish(run_dir / "order", size)
    print("complete")


if __name__ == "__main__":
    main()
