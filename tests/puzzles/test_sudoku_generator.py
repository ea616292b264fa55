"""Streams of puzzles: pure, within their options, disjoint between splits."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest

from lightning_mdm.puzzles.sudoku import board, members
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_generator import (
    Difficulty,
    SudokuOptions,
    fewest_candidates,
    fresh,
    image,
    random_grid,
    split_of,
)
from lightning_mdm.puzzles.sudoku_logic import LogicalSolution, Position, solve_logically
from sudokus import small_grids, solutions

SMALL = SudokuOptions(side=4, min_clues=4, max_clues=7)
LARGE = SudokuOptions(side=9, min_clues=26, max_clues=34)


@pytest.mark.parametrize("options", [SMALL, LARGE])
def test_a_puzzle_is_a_function_of_stream_and_number(options: SudokuOptions) -> None:
    found = [fresh(options, "one", k) for k in range(6)]
    assert [fresh(options, "one", k) for k in reversed(range(6))] == found[::-1]
    assert len(set(found)) == 6
    assert fresh(options, "two", 0) != found[0]
    turned = [image(found[0], "one", k)[0] for k in range(4)]
    assert [image(found[0], "one", k)[0] for k in reversed(range(4))] == turned[::-1]
    assert len(set(turned)) == 4


def test_options_are_obeyed() -> None:
    counts = set()
    for k in range(60):
        puzzle = fresh(SMALL, "s", k)
        assert board(4).solved(puzzle.grid)
        assert solutions(puzzle.clues) == [puzzle.grid]
        counts.add(puzzle.n_clues)
    assert counts == {4, 5, 6, 7}
    for difficulty in ("easy", "hard"):
        for k in range(4):
            puzzle = fresh(replace(LARGE, min_clues=22, difficulty=difficulty), "s", k)
            assert 22 <= puzzle.n_clues <= 34
            assert solve_logically(puzzle.clues).finished == (difficulty == "easy")


def test_images_stay_in_their_split() -> None:
    found: dict[str, set[bytes]] = {}
    for split in ("train", "validation", "test"):
        for k in range(12):
            puzzle = fresh(SMALL, split, k, split)
            turned, source_C = image(puzzle, split, k)
            assert split_of(puzzle) == split_of(turned) == split
            assert [digit > 0 for digit in turned.clues] == [puzzle.clues[cell] > 0 for cell in source_C]
            found.setdefault(split, set()).add(canonical_form(turned))
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_a_class_belongs_to_a_split_by_its_hash_alone() -> None:
    """Files of puzzles say of which split they are: it must be the same one for whoever reads them."""
    evaluated = {0: "validation", 1: "test"}
    found = [fresh(LARGE, "any", k) for k in range(40)]
    buckets = [zlib.crc32(canonical_form(puzzle)) % 8 for puzzle in found]
    assert set(buckets) == set(range(8))
    assert [split_of(puzzle) for puzzle in found] == [evaluated.get(bucket, "train") for bucket in buckets]


def test_every_small_grid_can_occur() -> None:
    assert {random_grid(board(4), random.Random(k)) for k in range(4000)} == set(small_grids())


@pytest.mark.parametrize("side", [4, 9])
def test_the_cells_with_fewest_candidates_are_found_by_counting(side: int) -> None:
    where, rng = board(side), random.Random(0)
    for k in range(60):
        position, grid = Position(where), random_grid(where, random.Random(k))
        for cell in rng.sample(range(where.cells), rng.randrange(where.cells)) if k else []:
            position.fill(cell, grid[cell] - 1)
        left = {cell: sum(cells >> cell & 1 for cells in position.candidates) for cell in members(position.blank)}
        fewest = min(left.values())
        assert members(fewest_candidates(position)) == [cell for cell, n in left.items() if n == fewest]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 5}, "side=5: a Sudoku here has side 4 or 9"),
        ({"min_clues": 30, "max_clues": 20}, "min_clues=30, max_clues=20: give 0 <= min_clues <= max_clues < 81"),
        ({"max_clues": 81}, "max_clues=81"),
        ({"difficulty": "medium"}, "difficulty='medium': choose one of easy, hard, any"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SudokuOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (SudokuOptions(4, 0, 3), "raise max_clues$"),  # no 4x4 puzzle has three clues
        (SudokuOptions(4, 0, 3, "easy"), "raise max_clues, or ask for another difficulty$"),
        (SudokuOptions(9, 0, 16, "hard"), "raise max_clues, or ask for another difficulty$"),
        (SudokuOptions(9, 60, 80, "hard"), "hard puzzles have few clues: lower min_clues and max_clues, or ask for"),
        (SudokuOptions(4, 15, 15), "lower min_clues$"),
        (SudokuOptions(4, 4, 15, "hard"), "there are no hard puzzles of side 4: ask for another difficulty$"),
    ],
)
def test_what_there_is_not_is_said(monkeypatch: pytest.MonkeyPatch, options: SudokuOptions, advice: str) -> None:
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_generator.MAX_GRIDS", 20)
    with pytest.raises(ValueError, match=rf"of 20 random grids none has such a puzzle in the test split; {advice}"):
        fresh(options, "s", 0, "test")


def test_splits_are_known() -> None:
    with pytest.raises(ValueError, match="split 'exam': Sudokus have validation, test, train"):
        fresh(SMALL, "s", 0, "exam")


@pytest.mark.parametrize(("difficulty", "split"), [("hard", None), ("easy", None), ("hard", "test")])
def test_what_is_known_of_a_grid_changes_no_puzzle(
    monkeypatch: pytest.MonkeyPatch, difficulty: Difficulty, split: str | None
) -> None:
    """Grading every single puzzle, and asking the solver every question, gives the same ones."""
    options = replace(LARGE, min_clues=22, difficulty=difficulty)
    found = [fresh(options, "same", k, split) for k in range(4)]
    monkeypatch.setattr(LogicalSolution, "stays_finished", False)
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_search.swaps", lambda *_: [])
    assert [fresh(options, "same", k, split) for k in range(4)] == found
