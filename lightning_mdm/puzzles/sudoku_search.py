"""Whether a Sudoku has one solution, several or none, proven by a SAT solver.

One incremental solver per board and process keeps the clauses that it learns. Only answers are taken from it that are
facts about the puzzle (yes or no, and a solution where there is but one), never a choice that depends on what it was
asked before: what is built on them stays a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations

from pysat.solvers import Solver

from lightning_mdm.puzzles.sudoku import Board, Puzzle, bitboard, board_of, members

SOLVER = "cadical153"
# A solver is replaced after so many grids: what it was told of each can be revoked, but not forgotten.
GRIDS_PER_SOLVER = 2000


class Search:
    """The rules of one board, and questions about it.

    Args:
        board: the board.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.rules = rules(board)
        self.grids = GRIDS_PER_SOLVER

    def literal(self, cell: int, digit: int) -> int:
        """The variable that says: this cell holds this digit."""
        return cell * self.board.side + digit

    def literals(self, grid: bytes) -> list[int]:
        """The variables of all digits of a grid, blanks left out."""
        return [self.literal(cell, digit) for cell, digit in enumerate(grid) if digit]

    def other_than(self, grid: bytes) -> int:
        """A variable that, assumed, asks for solutions other than ``grid``; it holds until the next call."""
        if self.grids >= GRIDS_PER_SOLVER:
            self.solver = Solver(name=SOLVER, bootstrap_with=self.rules)
            self.grids = 0
        elif self.grids:
            self.solver.add_clause([-(self.board.cells * self.board.side + self.grids)])
        self.grids += 1
        another = self.board.cells * self.board.side + self.grids
        self.solver.add_clause([-another, *(-literal for literal in self.literals(grid))])
        return another

    def solution(self, clues: bytes) -> bytes:
        """The one solution of a puzzle.

        Raises:
            ValueError: there is none, or another one.
        """
        nothing = self.other_than(bytes(self.board.cells))  # an empty clause: this only makes sure of a solver
        assert nothing
        given = self.literals(clues)
        if not self.solver.solve(assumptions=given):
            raise ValueError("no solution")
        true = [variable for variable in self.solver.get_model()[: self.board.cells * self.board.side] if variable > 0]
        grid = bytes((variable - 1) % self.board.side + 1 for variable in true)
        another = self.other_than(grid)  # before the solver is named: this may replace it
        if self.solver.solve(assumptions=[another, *given]):
            raise ValueError("more than one solution")
        return grid

    def fewest(self, grid: bytes, order: Sequence[int]) -> list[int]:
        """Cells whose digits have no other solution than ``grid``, none of which can be spared.

        A function of both arguments: from all cells in ``order``, the shortest beginning that is enough, and of that
        what is left when, from its first cell on, each is taken away that can be.

        Args:
            grid: a solved grid.
            order: all cells, each once.
        """
        another, swappable = self.other_than(grid), swaps(self.board, grid)
        literals = [self.literal(cell, grid[cell]) for cell in order]

        def enough(cells: int, given: list[int]) -> bool:
            for swap in swappable:  # spares a fifth of all calls of the solver
                if not cells & swap:
                    return False
            return not self.solver.solve(assumptions=[another, *given])

        few, many = -1, len(order)
        while many - few > 1:
            middle = (few + many) // 2
            beginning = bitboard(list(order[:middle]))
            few, many = (few, middle) if enough(beginning, literals[:middle]) else (middle, many)
        cells, given = bitboard(list(order[:many])), literals[:many]
        for cell, literal in zip(order[: many - 1], literals, strict=False):  # without its last cell it was not enough
            rest = [other for other in given if other != literal]
            if enough(cells & ~(1 << cell), rest):
                cells, given = cells & ~(1 << cell), rest
        return [cell for cell in order if cells >> cell & 1]


@cache
def search(board: Board) -> Search:
    """This process's search on a board."""
    return Search(board)


def swaps(board: Board, grid: bytes) -> list[int]:
    """Sets of cells, as bitboards, without a clue in which a puzzle of this grid has another solution: obvious ones.

    Two rows of a band hold the same digits in some columns, if perhaps in all: there they can be exchanged. Likewise
    two columns of a stack.
    """
    found = []
    for across, down in ((board.side, 1), (1, board.side)):
        for start in range(0, board.side, board.box):
            for first, second in combinations(range(start, start + board.box), 2):
                ahead = [first * across + along * down for along in range(board.side)]
                shift = (second - first) * across
                below = {grid[cell]: grid[cell + shift] for cell in ahead}
                place = {grid[cell]: 1 << cell | 1 << cell + shift for cell in ahead}
                while below:
                    digit, cells = next(iter(below)), 0
                    while digit in below:
                        cells |= place[digit]
                        digit = below.pop(digit)
                    found.append(cells)
    return found


def rules(board: Board) -> list[list[int]]:
    """One digit per cell and one cell per digit of a unit, as clauses over the variables of ``Search.literal``."""
    digits = range(1, board.side + 1)
    groups = [[cell * board.side + digit for digit in digits] for cell in range(board.cells)]
    groups += [[cell * board.side + digit for cell in members(unit)] for unit in board.units for digit in digits]
    # Two cells that share a row and a box say the same twice.
    apart = dict.fromkeys(pair for group in groups for pair in combinations(group, 2))
    return groups + [[-first, -second] for first, second in apart]


def proven(clues: bytes) -> Puzzle:
    """A puzzle and its solution.

    Args:
        clues: digits, 0 for a blank, ``[cells]``.

    Raises:
        ValueError: a digit stands twice in a unit, or there is no solution, or more than one.
    """
    board = board_of(len(clues))
    clash = board.clash(clues)
    if clash is not None:
        raise ValueError(f"contradictory: {clash}")
    try:
        return Puzzle(clues, search(board).solution(clues))
    except ValueError as error:
        word = "contradictory" if str(error).startswith("no") else "ambiguous"
        raise ValueError(f"{word}: {error}") from None
