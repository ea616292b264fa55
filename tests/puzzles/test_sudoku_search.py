"""Proven uniqueness against plain counting of solutions."""

from __future__ import annotations

import random

import pytest

from lightning_mdm.puzzles.sudoku import board, members
from lightning_mdm.puzzles.sudoku_search import Search, proven, search, swaps
from sudokus import puzzles, small_grids, solutions


def test_all_small_grids_are_there() -> None:
    assert len(small_grids()) == 288


def test_verdicts_agree_with_counting() -> None:
    rng = random.Random(0)
    verdicts = {"unique": 0, "ambiguous": 0, "contradictory": 0}
    for _ in range(300):
        grid = bytearray(rng.choice(small_grids()))
        for cell in rng.sample(range(16), rng.randint(8, 13)):
            grid[cell] = 0
        if rng.random() < 0.4:
            grid[rng.randrange(16)] = rng.randint(1, 4)
        clues = bytes(grid)
        matching = [g for g in small_grids() if all(c in (0, d) for c, d in zip(clues, g, strict=True))]
        word = {0: "contradictory", 1: "unique"}.get(len(matching), "ambiguous")
        verdicts[word] += 1
        if word == "unique":
            assert proven(clues).grid == matching[0]
        else:
            with pytest.raises(ValueError, match=word):
                proven(clues)
    assert min(verdicts.values()) > 20


def test_large_puzzles_have_one_solution() -> None:
    for puzzle in puzzles(30)[:5] + puzzles(20, "hard")[:3]:
        assert solutions(puzzle.clues) == [puzzle.grid]
        assert proven(puzzle.clues) == puzzle


def test_the_fewest_clues_can_spare_none_and_depend_on_no_history() -> None:
    rng = random.Random(1)
    asked = [(grid, rng.sample(range(16), 16)) for grid in rng.sample(small_grids(), 40)]
    found = [search(board(4)).fewest(grid, order) for grid, order in asked]
    other = Search(board(4))
    assert [other.fewest(grid, order) for grid, order in reversed(asked)] == found[::-1]
    for (grid, _), cells in zip(asked, found, strict=True):
        clues = bytes(digit if cell in cells else 0 for cell, digit in enumerate(grid))
        assert solutions(clues) == [grid]
        for cell in cells:
            assert len(solutions(clues[:cell] + b"\0" + clues[cell + 1 :])) == 2


def test_solvers_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_search.GRIDS_PER_SOLVER", 3)
    one, order = Search(board(4)), list(range(16))
    expected = [search(board(4)).fewest(grid, order) for grid in small_grids()[:10]]
    assert [one.fewest(grid, order) for grid in small_grids()[:10]] == expected


@pytest.mark.parametrize("grids", [1, 2, 3])
def test_a_solver_that_is_replaced_between_two_questions_says_the_same(
    monkeypatch: pytest.MonkeyPatch, grids: int
) -> None:
    """Both are about one puzzle, and the second one only means something to the solver that knows its grid."""
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_search.GRIDS_PER_SOLVER", grids)
    one, grid = Search(board(4)), small_grids()[0]
    for blanks in (16, 12, 1, 14, 0):
        clues = bytes(blanks) + grid[blanks:]
        found = solutions(clues)
        for _ in range(3):
            if len(found) == 1:
                assert one.solution(clues) == grid
            else:
                with pytest.raises(ValueError, match="more than one solution"):
                    one.solution(clues)


def test_swaps_have_another_solution() -> None:
    """Blank exactly these cells of a solved grid, and there are two solutions."""
    for grid in [*small_grids()[::29], *(puzzle.grid for puzzle in puzzles(30)[:2])]:
        found = [members(swap) for swap in swaps(board({16: 4, 81: 9}[len(grid)]), grid)]
        assert len(found) >= (4 if len(grid) == 16 else 18), "each pair of lines has at least one"
        for cells in found:
            clues = bytes(0 if cell in cells else digit for cell, digit in enumerate(grid))
            assert len(solutions(clues)) == 2
