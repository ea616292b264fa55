"""What the Sudoku tests share: boards and solvers written for clarity alone, by other means than the library's."""

from __future__ import annotations

from functools import cache

from lightning_mdm.puzzles.sudoku import Puzzle
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, fresh


def box_side(cells: int) -> int:
    return {16: 2, 81: 3}[cells]


@cache
def units(cells: int) -> list[list[int]]:
    box = box_side(cells)
    side = box * box
    rows = [[r * side + c for c in range(side)] for r in range(side)]
    columns = [[r * side + c for r in range(side)] for c in range(side)]
    boxes = [
        [(top + r) * side + left + c for r in range(box) for c in range(box)]
        for top in range(0, side, box)
        for left in range(0, side, box)
    ]
    return rows + columns + boxes


@cache
def sees(cells: int) -> list[set[int]]:
    return [{other for unit in units(cells) if cell in unit for other in unit} - {cell} for cell in range(cells)]


def solutions(clues: bytes, limit: int = 2) -> list[bytes]:
    """Up to ``limit`` solutions, by trying digits at the cell with the fewest that fit."""
    side = box_side(len(clues)) ** 2
    fits = {
        cell: set(range(1, side + 1)) - {clues[other] for other in sees(len(clues))[cell]}
        for cell, digit in enumerate(clues)
        if not digit
    }
    if not fits:
        return [clues]
    cell = min(fits, key=lambda cell: len(fits[cell]))
    found: list[bytes] = []
    for digit in sorted(fits[cell]):
        found += solutions(clues[:cell] + bytes([digit]) + clues[cell + 1 :], limit - len(found))
        if len(found) >= limit:
            break
    return found


@cache
def small_grids() -> list[bytes]:
    """All solved 4x4 grids."""
    return solutions(bytes(16), 1000)


@cache
def puzzles(n: int, difficulty: str = "any", side: int = 9) -> list[Puzzle]:
    options = SudokuOptions(side, 17 if side == 9 else 4, 28 if side == 9 else 7, difficulty)  # type: ignore[arg-type]
    return [fresh(options, "tests", k) for k in range(n)]
