"""Symmetries and the canonical form against the whole group, written out for 4x4."""

from __future__ import annotations

import random
from itertools import permutations, product

import numpy as np
import pytest

from lightning_mdm.puzzles.sudoku import Puzzle, board
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_symmetry import Symmetries
from sudokus import puzzles, small_grids, units

LINES = [
    [2 * band + row for band, flip in zip(bands, flips, strict=True) for row in ((0, 1), (1, 0))[flip]]
    for bands in permutations(range(2))
    for flips in product(range(2), repeat=2)
]
CELLS = [
    [(4 * column + row if turned else 4 * row + column) for row in rows for column in columns]
    for turned, rows, columns in product((False, True), LINES, LINES)
]
LABELS = [bytes([0, *digits]) for digits in permutations(range(1, 5))]
CYCLIC = bytes((r * 3 + r // 3 + c) % 9 + 1 for r in range(9) for c in range(9))


def orbit(puzzle: Puzzle) -> set[tuple[bytes, bytes]]:
    """All images of a 4x4 puzzle: grid and clues."""
    moved = [(bytes(puzzle.grid[c] for c in cells), bytes(puzzle.clues[c] for c in cells)) for cells in CELLS]
    return {
        (grid.translate(label + bytes(251)), clues.translate(label + bytes(251)))
        for grid, clues in moved
        for label in LABELS
    }


def test_the_group_is_whole() -> None:
    assert len(CELLS) * len(LABELS) == 3072
    classes = {min(orbit(Puzzle(grid, grid))) for grid in small_grids()}
    assert len(classes) == 2, "there are two essentially different 4x4 grids"
    assert {canonical_form(Puzzle(grid, grid)) for grid in small_grids()} == {grid for grid, _ in classes}


def test_the_canonical_form_is_the_least_of_the_orbit() -> None:
    rng = random.Random(0)
    forms = set()
    for _ in range(60):
        grid = rng.choice(small_grids())
        given = set(rng.sample(range(16), rng.randint(1, 9)))
        puzzle = Puzzle(bytes(d if c in given else 0 for c, d in enumerate(grid)), grid)
        assert canonical_form(puzzle) == min(orbit(puzzle))[1]
        forms.add(canonical_form(puzzle))
    assert len(forms) > 30


def test_draws_reach_the_whole_group() -> None:
    turns = Symmetries.draw(board(4), 40_000, np.random.default_rng(0))
    drawn = {
        (*source, *label) for source, label in zip(turns.source_NC.tolist(), turns.relabel_NS.tolist(), strict=True)
    }
    group = {(*cells, *label) for cells in CELLS for label in LABELS}
    assert drawn <= group
    assert len(drawn) > 3060  # each of 3,072 is missed with probability exp(-13)


@pytest.mark.parametrize("cells", [16, 81])
def test_images_of_the_board_keep_units(cells: int) -> None:
    turns = Symmetries.draw(board(round(cells**0.5)), 20, np.random.default_rng(1))
    known = {frozenset(unit) for unit in units(cells)}
    for source_C in turns.source_NC:
        assert {frozenset(int(source_C[cell]) for cell in unit) for unit in units(cells)} == known


def test_large_puzzles_keep_their_form_under_symmetry_and_no_others_share_it() -> None:
    rng = np.random.default_rng(2)
    clued = random.Random(3).sample(range(81), 30)
    # Of the cyclic grid many symmetries leave the grid as it is: there the clues decide.
    cyclic = Puzzle(bytes(d if c in clued else 0 for c, d in enumerate(CYCLIC)), CYCLIC)
    forms = []
    for puzzle in [cyclic, *puzzles(30)[:12]]:
        form = canonical_form(puzzle)
        assert all(canonical_form(turned) == form for turned in Symmetries.draw(board(9), 5, rng).images(puzzle))
        assert form.count(0) == puzzle.clues.count(0)
        forms.append(form)
        blank, given = puzzle.blanks[0], next(c for c, d in enumerate(puzzle.clues) if d)
        other = bytearray(puzzle.clues)
        other[blank], other[given] = puzzle.grid[blank], 0
        assert canonical_form(Puzzle(bytes(other), puzzle.grid)) != form
    assert len(set(forms)) == len(forms)
