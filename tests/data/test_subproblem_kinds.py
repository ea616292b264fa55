"""Kinds of subproblems: of Sudoku against the logical solver, of latents and observations by enumeration."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from lightning_mdm.data.nae_sat import NaeSatProblems
from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.data.sudoku_subproblems import BEYOND, FIRST_OTHERS, KINDS, kinds_of
from lightning_mdm.laws.nae_sat import NaeSat, Placing
from lightning_mdm.puzzles.sudoku import from_text
from lightning_mdm.puzzles.sudoku_logic import Strategy, solvable_next, solve_logically
from runs import few_problems
from sudokus import puzzles


def sudokus(**options: Any) -> SudokuProblems:
    return SudokuProblems(**{"side": 4, "min_clues": 4, "max_clues": 7, "n_test": 5, "n_validation": 5, **options})


def test_a_cell_is_solved_next_or_later_or_never() -> None:
    seen = dict.fromkeys(range(len(KINDS)), 0)
    for puzzle in puzzles(20, "hard") + puzzles(30):
        kinds = kinds_of(puzzle.clues)
        by_logic = {step.cell for step in solve_logically(puzzle.clues).steps}
        strategies = solvable_next(puzzle.clues)
        for cell in puzzle.blanks:
            seen[kinds[cell]] += 1
            assert KINDS[kinds[cell]].ready == (cell in strategies)
            if cell in strategies:
                assert KINDS[kinds[cell]].name == strategies[cell].name.lower().replace("_", " ")
                assert cell in by_logic or not by_logic
            else:
                assert kinds[cell] == (FIRST_OTHERS if cell in by_logic else BEYOND)
        assert all(kinds[cell] == 0 for cell, digit in enumerate(puzzle.clues) if digit)
    assert all(seen[kind] for kind in (0, 1, FIRST_OTHERS, BEYOND))
    assert [kind.ready for kind in KINDS] == [True] * len(Strategy) + [False] * 2


def test_tokens_found_are_on_the_board() -> None:
    data, rng = sudokus(), random.Random(0)
    for problem in data.problems("test"):
        clues = from_text(problem.prompt)
        blanks = [cell for cell, digit in enumerate(clues) if not digit]
        found = [digit - 1 if rng.random() < 0.5 else None for digit in map(int, problem.response)]
        board = bytearray(clues)
        for cell, token in zip(blanks, found, strict=True):
            if token is not None:
                board[cell] = token + 1
        kinds = kinds_of(bytes(board))
        assert list(data.subproblems(problem, found)) == [kinds[cell] for cell in blanks]
    assert data.one_answer


def test_moves_and_texts_have_no_kinds() -> None:
    data = sudokus(layout="moves")
    assert (data.subproblem_kinds, data.one_answer) == ((), False)
    text = few_problems()
    assert text.subproblem_kinds == ()
    with pytest.raises(NotImplementedError, match="word_problems tells no kinds of subproblems apart"):
        text.subproblems(text.problems("test")[0], [])


@pytest.mark.parametrize("placing", ["latents_first", "shuffled"])
def test_observations_that_known_latents_decide(placing: Placing) -> None:
    law = NaeSat(4, 6, placing=placing)
    data, rng, seen = NaeSatProblems(law, n_test=8), random.Random(1), set()
    latent_places, observation_places = set(law.places[:4]), law.places[4:]
    for problem in data.problems("test"):
        true = [int(bit) for bit in problem.response.split()]
        found = [token if rng.random() < 0.6 else None for token in true]
        known = [found[place] for place in law.places[:4]]
        bits = ((0, 1) if bit is None else (bit,) for bit in known)
        possible = [law.response(latents) for latents in itertools.product(*bits)]
        for place, kind in enumerate(data.subproblems(problem, found)):
            name = data.subproblem_kinds[kind].name
            assert (name == "latent") == (place in latent_places)
            if place in observation_places:
                assert data.subproblem_kinds[kind].ready == (len({row[place] for row in possible}) == 1)
            seen.add(name)
    assert len(seen) == 3
    assert not data.one_answer
