"""The Sudoku board: cells, units, boxes, puzzles and their text.

A board of box size n has side n^2, n^4 cells numbered in reading order, and digits 1 .. n^2. Grids are ``bytes``, one
digit a cell, 0 for a blank: immutable, comparable, and an array to numpy. Sets of cells are whole numbers whose bit c
stands for cell c (*bitboards*). Knows nothing of how puzzles are solved, made or stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations

SIDES = (4, 9)
BLANKS = ".0"


@dataclass(frozen=True)
class Puzzle:
    """A puzzle with its one solution.

    Args:
        clues: a digit where it is given, 0 where it is to be found.
        grid: the solution, agreeing with the clues.
    """

    clues: bytes
    grid: bytes

    def __post_init__(self) -> None:
        assert len(self.clues) == len(self.grid), "one digit per cell"

    @property
    def n_clues(self) -> int:
        """Number of digits that are given."""
        return len(self.clues) - self.clues.count(0)

    @property
    def blanks(self) -> tuple[int, ...]:
        """The cells to find, in reading order."""
        return tuple(cell for cell, digit in enumerate(self.clues) if not digit)


@dataclass(frozen=True)
class Board:
    """Cells and units of a board; ``board(side)`` gives the one of a side.

    Args:
        box: n, the side of a box.
    """

    box: int

    @property
    def side(self) -> int:
        """Number of digits, and of cells in a row."""
        return self.box**2

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.side**2

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """A bitboard per row."""
        return tuple(bitboard(range(r * self.side, (r + 1) * self.side)) for r in range(self.side))

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """A bitboard per column."""
        return tuple(bitboard(range(c, self.cells, self.side)) for c in range(self.side))

    @cached_property
    def boxes(self) -> tuple[int, ...]:
        """A bitboard per box, in reading order."""
        of_box: list[list[int]] = [[] for _ in range(self.side)]
        for cell in range(self.cells):
            of_box[self.box_of(cell)].append(cell)
        return tuple(bitboard(cells) for cells in of_box)

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Rows, columns and boxes."""
        return self.rows + self.columns + self.boxes

    @cached_property
    def peers(self) -> tuple[int, ...]:
        """Per cell, the other cells that share a unit with it."""
        seen = [0] * self.cells
        for unit in self.units:
            for cell in members(unit):
                seen[cell] |= unit & ~(1 << cell)
        return tuple(seen)

    @cached_property
    def crossings(self) -> tuple[tuple[int, int], ...]:
        """All pairs of a box and a line (row or column) that meet, as bitboards."""
        return tuple((box, line) for box in self.boxes for line in self.rows + self.columns if box & line)

    @cached_property
    def rectangles(self) -> tuple[int, ...]:
        """All sets of four cells in two rows, two columns and two boxes."""
        found = []
        for top, bottom in combinations(range(self.side), 2):
            for left, right in combinations(range(self.side), 2):
                corners = [row * self.side + column for row in (top, bottom) for column in (left, right)]
                if len({self.box_of(cell) for cell in corners}) == 2:
                    found.append(bitboard(corners))
        return tuple(found)

    def box_of(self, cell: int) -> int:
        """The box of a cell."""
        row, column = divmod(cell, self.side)
        return row // self.box * self.box + column // self.box

    def name(self, cell: int) -> str:
        """A cell as people write it, counted from 1: ``r1c9``."""
        row, column = divmod(cell, self.side)
        return f"r{row + 1}c{column + 1}"

    def clash(self, grid: bytes) -> str | None:
        """Which digit stands twice in a unit, in words; ``None`` where no digit does."""
        for kind, units in (("row", self.rows), ("column", self.columns), ("box", self.boxes)):
            for number, unit in enumerate(units, start=1):
                digits = [grid[cell] for cell in members(unit) if grid[cell]]
                for digit in digits:
                    if digits.count(digit) > 1:
                        return f"two {digit}s in {kind} {number}"
        return None

    def solved(self, grid: bytes) -> bool:
        """Whether every unit holds every digit once."""
        return 0 not in grid and self.clash(grid) is None


@cache
def board(side: int) -> Board:
    """The board of a side.

    Raises:
        ValueError: a side that is not 4 or 9.
    """
    if side not in SIDES:
        raise ValueError(f"side={side}: a Sudoku here has side {' or '.join(map(str, SIDES))}")
    return Board({4: 2, 9: 3}[side])


@cache
def board_of(cells: int) -> Board:
    """The board with so many cells.

    Raises:
        ValueError: a number that is not 16 or 81.
    """
    side = next((side for side in SIDES if side**2 == cells), None)
    if side is None:
        raise ValueError(f"{cells} cells: a Sudoku here has {' or '.join(str(side**2) for side in SIDES)}")
    return board(side)


def bitboard(cells: range | list[int]) -> int:
    """The set of some cells."""
    return sum(1 << cell for cell in cells)


def members(cells: int) -> list[int]:
    """The cells of a set, ascending."""
    found = []
    while cells:
        lowest = cells & -cells
        found.append(lowest.bit_length() - 1)
        cells ^= lowest
    return found


def to_text(grid: bytes) -> str:
    """One character a cell, ``.`` for a blank."""
    return grid.translate(DIGITS).decode()


def from_text(text: str) -> bytes:
    """The grid of a text of one character a cell, ``.`` or ``0`` for a blank.

    Raises:
        ValueError: a wrong number of characters, or one that is no digit of the board.
    """
    side = board_of(len(text)).side
    for place, letter in enumerate(text):
        if letter not in BLANKS and not ("1" <= letter <= str(side)):
            raise ValueError(
                f"character {place + 1} is {letter!r}: a cell is a digit from 1 to {side}, or '.' or '0' for a blank"
            )
    return bytes(0 if letter in BLANKS else int(letter) for letter in text)


DIGITS = bytes(ord("." if value == 0 else chr(48 + value)) if value < 10 else 63 for value in range(256))
