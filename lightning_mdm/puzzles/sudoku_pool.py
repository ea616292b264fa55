"""The base puzzles of training, made ahead by several processes: the very ones that training makes as it needs them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from functools import partial

from lightning_mdm.puzzles.sudoku import Puzzle
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, fresh

# Puzzles that a process makes at a time.
CHUNK = 50


def training_stream(seed: int) -> str:
    """The random stream of the training puzzles of a seed."""
    return f"train/{seed}"


def base_puzzles(options: SudokuOptions, seed: int, n: int, jobs: int = 1) -> Iterator[Puzzle]:
    """Base puzzles 0 to ``n - 1`` of a seed's training, all of them of the training split.

    Args:
        options: which puzzles.
        seed: of the training data.
        n: how many.
        jobs: processes that make them; what they make does not depend on their number.

    Raises:
        ValueError: hardly any puzzle meets the options.
    """
    make = partial(fresh, options, training_stream(seed), split="train")
    if jobs == 1:
        yield from map(make, range(n))
        return
    # Forked processes would inherit the threads of numerical libraries in whatever state they are.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(make, range(n), chunksize=CHUNK)
