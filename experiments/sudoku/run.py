"""Train a Sudoku denoiser, learn its order and decode the easy and the hard test set, in slices of a few minutes.

python experiments/sudoku/run.py [--size small|paper|tiny] [--minutes M]

Give the same command again until it prints "complete": what is complete is not repeated, and what a slice's end has
stopped goes on from its last checkpoint, or from the last batch it has decoded. ``paper`` is the 6M configuration of
Kim et al. 2025 for one GPU, ``small`` that of ``make sudoku``, which trains on CPU cores; ``tiny`` rehearses ``paper``.
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

from lightning_mdm.report import report

HERE = Path(__file__).parent
CONFIGS = Path("configs/sudoku")
GRACE = 30.0  # seconds for a stage to end by itself when its time is over


@dataclass(frozen=True)
class Size:
    """What is trained and decoded.

    Args:
        denoiser: configuration files of the denoiser, one over the other.
        order: likewise of the order.
        options: of every stage.
        sweep: of both sweeps.
        hard: of the sweep of hard puzzles.
        rows: file of the rows in this folder, and stem of the figures; none are kept of a rehearsal.
    """

    denoiser: tuple[str, ...]
    order: tuple[str, ...]
    options: tuple[str, ...] = ()
    sweep: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    rows: str | None = None


SIZES = {
    "small": Size(
        ("denoiser", "small"), ("order", "order_small"),
        sweep=("--data.n_test", "1000", "--data.eval_batch_size", "250"),
        hard=("--data.min_clues", "26", "--data.max_clues", "34"), rows="rows",
    ),
    "paper": Size(("denoiser",), ("order",), rows="rows_6m"),
    "tiny": Size(
        ("denoiser",), ("order",),
        options=(
            "--model.net.width", "48", "--model.net.mlp_width", "96", "--data.batch_size", "8", "--data.pool", "200",
            "--data.num_workers", "0", "--data.n_validation", "20", "--data.n_test", "10", "--trainer.max_steps", "300",
            "--trainer.val_check_interval", "300", "--trainer.callbacks.every_n_train_steps", "20",
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
    swept = ("--run_dir", str(order), *size.sweep, "--ckpt_path", str(order / last))
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


def configs(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml")))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/sudoku_sizes"), help="where runs are kept, by size")
    options = parser.parse_args(arguments)
    size, run_dir = SIZES[options.size], options.runs / options.size
    try:
        stages(size, run_dir, Slice(time.monotonic() + 60.0 * options.minutes))
    except OutOfTimeError:
        print(f"The slice is over; the same command goes on in {run_dir}.")
        return
    report([str(run_dir / "order")])
    if size.rows is not None:
        copyfile(run_dir / "order" / "frontier.csv", HERE / f"{size.rows}.csv")
        for name in ("frontier.png", "frontier.svg", "report.md", "paired.csv", "equal_nfe.csv"):
            if (run_dir / "order" / name).exists():
                copyfile(run_dir / "order" / name, HERE / name.replace("frontier", size.rows))
    print("complete")


if __name__ == "__main__":
    main()
