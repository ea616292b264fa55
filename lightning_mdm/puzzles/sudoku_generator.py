"""Sudokus with one solution, without end: puzzle k of a stream is a pure function of options, stream and k.

*Fresh* puzzles: a random grid, and of its digits as few or as many as wanted, uniqueness proven. *Images*: a fresh
base puzzle turned by a random symmetry, far faster; difficulty is the same for a whole class. Which *split* may hold a
puzzle is decided by the hash of its canonical form: an endless training stream, images included, never holds a puzzle
of a test split, nor a symmetric one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lightning_mdm.puzzles.sudoku import Board, Puzzle, board, board_of, members
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_logic import Position, solve_logically
from lightning_mdm.puzzles.sudoku_search import search
from lightning_mdm.puzzles.sudoku_symmetry import Symmetries
from lightning_mdm.splits import SPLITS, hashed_split

Difficulty = Literal["easy", "hard", "any"]

N_BUCKETS = 8  # of classes: one is validation, one is test, the rest is training
# Grids tried for one puzzle before giving up, and ways of adding clues to each of them.
MAX_GRIDS = 2_000
ADDITIONS = 8
# Base puzzles that a process remembers.
REMEMBERED = 1 << 18


@dataclass(frozen=True)
class SudokuOptions:
    """Which puzzles to make.

    Args:
        side: 4 or 9.
        min_clues: fewest digits given. A puzzle has no fewer than its solution needs.
        max_clues: most digits given; at least one cell stays blank.
        difficulty: ``easy`` is what the seven strategies of ``sudoku_logic`` finish, ``hard`` what they do not.

    Raises:
        ValueError: an option out of its range.
    """

    side: int = 9
    min_clues: int = 17
    max_clues: int = 34
    difficulty: Difficulty = "any"

    def __post_init__(self) -> None:
        cells = board(self.side).cells
        if not 0 <= self.min_clues <= self.max_clues < cells:
            raise ValueError(
                f"min_clues={self.min_clues}, max_clues={self.max_clues}: give 0 <= min_clues <= max_clues < {cells}"
            )
        check_difficulty("difficulty", self.difficulty)


def check_difficulty(option: str, value: str) -> None:
    """Raise ``ValueError`` unless the value of an option is a difficulty."""
    if value not in get_args(Difficulty):
        raise ValueError(f"{option}={value!r}: choose one of {', '.join(get_args(Difficulty))}")


def is_of(difficulty: Difficulty, clues: bytes) -> bool:
    """Whether a puzzle with one solution is of a difficulty."""
    return difficulty == "any" or solve_logically(clues).finished == (difficulty == "easy")


def split_of(puzzle: Puzzle) -> str:
    """The one split that may hold a puzzle and all that symmetries make of it."""
    return hashed_split(canonical_form(puzzle), N_BUCKETS)


def fresh(options: SudokuOptions, stream: str, k: int, split: str | None = None) -> Puzzle:
    """Puzzle ``k`` of a stream, made from a grid of its own.

    The number of clues is drawn uniformly from the range, and is larger where the random minimal set of clues that the
    puzzle starts from has more.

    Args:
        options: which puzzles.
        stream: name of the stream.
        k: number of the puzzle.
        split: ``train``, ``validation`` or ``test`` for puzzles of that split only.

    Raises:
        ValueError: an unknown split, or options that hardly any puzzle meets.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r}: Sudokus have {', '.join(SPLITS)}")
    where = board(options.side)
    rng = random.Random(f"{stream}/{k}")
    few = False  # whether a grid had a puzzle of so few clues
    for _ in range(MAX_GRIDS):
        grid = random_grid(where, rng)
        order = rng.sample(range(where.cells), where.cells)
        needed = search(where).fewest(grid, order)
        others = sorted(set(order) - set(needed))
        # Far faster than to grade every puzzle: with more clues it gets no harder.
        minimal = bytes(digit if cell in needed else 0 for cell, digit in enumerate(grid))
        surely_easy = options.difficulty != "any" and solve_logically(minimal).stays_finished
        tried: set[bytes] = set()
        for _ in range(ADDITIONS):
            wanted = max(len(needed), rng.randint(options.min_clues, options.max_clues))
            if wanted > options.max_clues:
                break
            few = True
            kept = {*needed, *rng.sample(others, wanted - len(needed))}
            clues = bytes(digit if cell in kept else 0 for cell, digit in enumerate(grid))
            if clues in tried:
                continue
            tried.add(clues)
            puzzle = Puzzle(clues, grid)
            fits = options.difficulty == "easy" if surely_easy else is_of(options.difficulty, clues)
            if fits and (split is None or split == split_of(puzzle)):
                return puzzle
    raise ValueError(
        f"{options}: of {MAX_GRIDS} random grids none has such a puzzle"
        + (f" in the {split} split" if split else "")
        + f"; {way_out(options, few)}"
    )


def way_out(options: SudokuOptions, few: bool) -> str:
    """What to change where hardly any puzzle meets the options.

    Args:
        options: which puzzles were looked for.
        few: whether any of them, of whatever difficulty, had ``max_clues`` clues or fewer.
    """
    if options.difficulty == "hard" and options.side == 4:
        return "there are no hard puzzles of side 4: ask for another difficulty"
    if options.difficulty == "hard" and few:
        return "hard puzzles have few clues: lower min_clues and max_clues, or ask for another difficulty"
    way = "lower min_clues" if options.max_clues == board(options.side).cells - 1 else "raise max_clues"
    return way if options.difficulty == "any" else f"{way}, or ask for another difficulty"


@lru_cache(maxsize=REMEMBERED)
def base(options: SudokuOptions, stream: str, k: int, split: str | None) -> Puzzle:
    """``fresh``, remembered."""
    return fresh(options, stream, k, split)


def image(puzzle: Puzzle, stream: str, k: int) -> tuple[Puzzle, NDArray[np.int64]]:
    """A symmetric image of a base puzzle as puzzle ``k`` of a stream: a pure function of all three.

    Returns:
        The image, and per cell the base's cell that it comes from.
    """
    key = blake2b(f"{stream}/{k}/image".encode(), digest_size=16).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(key, "little")))
    turn = Symmetries.draw(board_of(len(puzzle.grid)), 1, rng)
    return turn.images(puzzle)[0], turn.source_NC[0]


def random_grid(where: Board, rng: random.Random) -> bytes:
    """A solved grid; every one can occur, some more often than others.

    The boxes on the diagonal first, which do not see each other; then cell by cell, always one of those with fewest
    candidates, by a random candidate. Begun anew where that leads nowhere.
    """
    while True:
        position, grid = Position(where), bytearray(where.cells)
        for box in where.boxes[:: where.box + 1]:
            drawn = dict(zip(members(box), rng.sample(range(where.side), where.side), strict=True))
            position.place(drawn)
            for cell, index in drawn.items():
                grid[cell] = index + 1
        while position.blank:
            cell = rng.choice(members(fewest_candidates(position)))
            held = [index for index, cells in enumerate(position.candidates) if cells >> cell & 1]
            if not held:
                break
            index = rng.choice(held)
            position.fill(cell, index)
            grid[cell] = index + 1
        else:
            return bytes(grid)


def fewest_candidates(position: Position) -> int:
    """Bitboard of the blank cells with the fewest candidates, be it none."""
    # Nearly always some cell has at most two: no need to count further then.
    blank, one, two, three = position.blank, 0, 0, 0  # blank cells with so many candidates, or more
    for cells in position.candidates:
        three |= two & cells
        two |= one & cells
        one |= blank & cells
    few = blank & ~one or one & ~two or two & ~three
    if few:
        return few
    at_least = [position.blank]  # by the number of candidates
    for cells in position.candidates:
        at_least.append(0)
        for count in range(len(at_least) - 1, 0, -1):
            at_least[count] |= at_least[count - 1] & cells
    at_least.append(0)
    return next(exactly for more, less in pairwise(at_least) if (exactly := more & ~less))
