"""How a Sudoku is laid out as a sequence of digits, and how a grid is read from a generated one.

Two layouts. ``grid``: the board itself in reading order, clues given in place. ``moves``: the clues as triples (row,
column, digit), then a triple for every blank, in an order that training teaches; read back, any order will do. One
vocabulary serves both: token d - 1 is the number d, from 1 to the side. Knows nothing of how puzzles are made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_mdm.data.batch import Example
from lightning_mdm.data.problem import Problem
from lightning_mdm.puzzles.sudoku import Puzzle, board, from_text

LayoutName = Literal["grid", "moves"]
MoveOrder = Literal["reading", "solver", "random"]


@dataclass(frozen=True)
class Layout(ABC):
    """Encodes problems of one side; calling it gives ``None`` for a text that is no puzzle of it.

    A problem's prompt is the puzzle as text of one character a cell; a question without a response is encoded with
    token 0 in its place.

    Args:
        side: 4 or 9.
    """

    side: int

    def __call__(self, problem: Problem) -> Example | None:
        clues = self.clues(problem.prompt)
        if clues is None:
            return None
        blanks = clues.count(0)
        numbers = self.numbers(problem.response) if problem.response else [1] * (blanks * self.per_cell)
        if numbers is None or len(numbers) != blanks * self.per_cell:
            return None
        return self.example(clues, [number - 1 for number in numbers], problem.index)

    @property
    @abstractmethod
    def per_cell(self) -> int:
        """Tokens of the response per blank."""

    @abstractmethod
    def example(self, clues: bytes, response: list[int], index: int) -> Example:
        """The example of clues and the tokens of a response."""

    @abstractmethod
    def response(self, puzzle: Puzzle, order: Sequence[int]) -> str:
        """The response of a puzzle, its blanks in ``order`` where the layout has one."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens as text."""

    @abstractmethod
    def fill(self, clues: bytes, text: str) -> bytes | None:
        """The grid that a response makes of the clues, ``None`` where it does not fill each blank once."""

    def clues(self, text: str) -> bytes | None:
        """The puzzle of a prompt, ``None`` where it is none of this side."""
        try:
            found = from_text("".join(text.split()))
        except ValueError:
            return None
        return found if len(found) == board(self.side).cells else None

    def numbers(self, text: str) -> list[int] | None:
        """The numbers of a response, ``None`` where one is out of range; white space does not matter."""
        found = "".join(text.split())
        return [int(letter) for letter in found] if all("1" <= letter <= str(self.side) for letter in found) else None


@dataclass(frozen=True)
class GridLayout(Layout):
    """The board in reading order; the response is the digits of the blanks in reading order."""

    @property
    def per_cell(self) -> int:
        return 1

    def example(self, clues: bytes, response: list[int], index: int) -> Example:
        missing = iter(response)
        tokens = [digit - 1 if digit else next(missing) for digit in clues]
        return Example(tokens, [digit > 0 for digit in clues], index)

    def response(self, puzzle: Puzzle, order: Sequence[int]) -> str:
        return "".join(str(puzzle.grid[cell]) for cell in puzzle.blanks)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(str(int(token) + 1) for token in tokens)

    def fill(self, clues: bytes, text: str) -> bytes | None:
        numbers = self.numbers(text)
        if numbers is None or len(numbers) != clues.count(0):
            return None
        missing = iter(numbers)
        return bytes(digit or next(missing) for digit in clues)


@dataclass(frozen=True)
class MovesLayout(Layout):
    """Triples (row, column, digit) of the clues in reading order, then of the blanks in the order taught."""

    @property
    def per_cell(self) -> int:
        return 3

    def example(self, clues: bytes, response: list[int], index: int) -> Example:
        given = [cell for cell, digit in enumerate(clues) if digit]
        prompt = [number - 1 for cell in given for number in self.move(cell, clues[cell])]
        return Example.of(prompt, response, index)

    def response(self, puzzle: Puzzle, order: Sequence[int]) -> str:
        return " ".join("".join(map(str, self.move(cell, puzzle.grid[cell]))) for cell in order)

    def decode(self, tokens: Iterable[int]) -> str:
        text = "".join(str(int(token) + 1) for token in tokens)
        return " ".join(text[start : start + 3] for start in range(0, len(text), 3))

    def fill(self, clues: bytes, text: str) -> bytes | None:
        numbers = self.numbers(text)
        if numbers is None or len(numbers) != 3 * clues.count(0):
            return None
        grid = bytearray(clues)
        for row, column, digit in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            cell = (row - 1) * self.side + column - 1
            if grid[cell]:  # a clue, or filled before
                return None
            grid[cell] = digit
        return bytes(grid)

    def move(self, cell: int, digit: int) -> tuple[int, int, int]:
        """Row, column (both from 1) and digit."""
        return cell // self.side + 1, cell % self.side + 1, digit


LAYOUTS: dict[str, type[Layout]] = {"grid": GridLayout, "moves": MovesLayout}


def check_layout(layout: str, move_order: str) -> None:
    """Raise ``ValueError`` unless these are a layout and an order of moves."""
    for option, value, known in (
        ("layout", layout, get_args(LayoutName)),
        ("move_order", move_order, get_args(MoveOrder)),
    ):
        if value not in known:
            raise ValueError(f"data.{option}={value!r}: choose one of {', '.join(known)}")
    if layout == "grid" and move_order != "reading":
        raise ValueError(
            f"data.move_order={move_order!r}: the grid has no order of moves; give data.layout=moves, or leave it out"
        )
