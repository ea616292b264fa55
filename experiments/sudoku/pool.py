"""Make the base puzzles of a training once, for all its processes and slices.

python experiments/sudoku/pool.py --n 100000 --out runs/pool.npz [--difficulty easy] [--jobs 8]

Puzzles of the training split, one solution proven, written with their origin: ``--data.train_path runs/pool.npz`` takes
them without proving or grading them again. They are those that training makes of itself with ``--data.pool`` of this
size, with these options and this ``--data.seed``, so that it trains on the same problems.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lightning_mdm.puzzles.sudoku import SIDES, Puzzle
from lightning_mdm.puzzles.sudoku_files import Origin, write_compact
from lightning_mdm.puzzles.sudoku_generator import Difficulty, SudokuOptions
from lightning_mdm.puzzles.sudoku_pool import base_puzzles

SAID = 5000  # puzzles from one line of progress to the next


def at_least(least: int, text: str) -> int:
    """The number of an option.

    Raises:
        argparse.ArgumentTypeError: less.
    """
    if int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: give at least {least}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=lambda text: at_least(1, text), default=100_000, help="number of puzzles")
    parser.add_argument("--out", type=Path, required=True, help="the file, ending in .npz")
    parser.add_argument("--side", type=int, choices=SIDES, default=9)
    parser.add_argument("--min_clues", type=int, default=17)
    parser.add_argument("--max_clues", type=int, default=34)
    parser.add_argument("--difficulty", choices=get_args(Difficulty), default="easy")
    parser.add_argument("--seed", type=lambda text: at_least(0, text), default=0, help="that of the training data")
    parser.add_argument("--jobs", type=lambda text: at_least(1, text), default=os.cpu_count() or 1, help="processes")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".npz":
        parser.error(f"--out {given.out}: give a path that ends in .npz")
    try:
        options = SudokuOptions(given.side, given.min_clues, given.max_clues, given.difficulty)
    except ValueError as error:
        parser.error(str(error))
    start = time.monotonic()
    puzzles: list[Puzzle] = []
    for puzzle in base_puzzles(options, given.seed, given.n, given.jobs):
        puzzles.append(puzzle)
        if len(puzzles) % SAID == 0 or len(puzzles) == given.n:
            seconds = time.monotonic() - start
            print(f"{given.out}: {len(puzzles):,} of {given.n:,} puzzles, {seconds:.0f} s", flush=True)
    write_compact(given.out, puzzles, Origin("train", options.difficulty))


if __name__ == "__main__":
    main()
