"""Zebra tables as moves, and what clues know of a table: orders and kinds of subproblems."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import pytest

from lightning_mdm.data.problem import Problem
from lightning_mdm.data.zebra import MoveOrder, ZebraPuzzles
from lightning_mdm.puzzles.zebra_clues import parse_puzzle
from lightning_mdm.puzzles.zebra_logic import rounds_of


def zebras(**options: Any) -> ZebraPuzzles:
    return ZebraPuzzles(**{"n_validation": 4, "n_test": 12, "batch_size": 4, **options})


def moves(problem: Problem) -> list[str]:
    words = problem.response.split()
    return [" ".join(pair) for pair in zip(words[::2], words[1::2], strict=True)]


@pytest.mark.parametrize("order", ["reading", "solver"])
def test_moves_are_the_table_in_an_order(order: MoveOrder) -> None:
    data, plain = zebras(layout="moves", move_order=order), zebras()
    encode = pickle.loads(pickle.dumps(data.encoder))
    assert data.fingerprint("test") != plain.fingerprint("test")
    shuffled = 0
    for problem, table in zip(data.problems("test"), plain.problems("test"), strict=True):
        assert (problem.prompt, problem.answer) == (table.prompt, table.answer)
        cells, rounds = data.cells(problem), rounds_of(parse_puzzle(problem.prompt))
        told = [f"{house + 1} {item}" for (house, _), item in zip(cells, table.answer.split(), strict=True)]
        assert sorted(moves(problem)) == sorted(told)
        found = [rounds.get(cells[told.index(move)], 99) for move in moves(problem)]
        assert order == "solver" or moves(problem) == told
        assert order == "reading" or found == sorted(found)
        shuffled += moves(problem) != told
        example = encode(problem)
        assert example is not None
        response = [t for t, given in zip(example.tokens, example.given, strict=True) if not given]
        assert data.decode(response) == problem.response
        assert not set(response) & set(data.token_space.forbidden)
        assert example.given == sorted(example.given, reverse=True), "given tokens come first"
    assert bool(shuffled) == (order == "solver")


def test_any_order_of_right_moves_is_right() -> None:
    data, rng = zebras(layout="moves"), random.Random(0)
    for problem in data.problems("test")[:4]:
        told = moves(problem)
        assert data.grade(problem, " ".join(rng.sample(told, len(told)))).correct
        for wrong in (
            told[:-1],
            [*told[:-1], told[0]],
            [*told[:-1], "a1 1"],
            [*told, told[0]],
            ["9 a1", *told[1:]],
            ["\u00b2 a1", *told[1:]],
        ):
            grade = data.grade(problem, " ".join(wrong))
            assert (grade.answer, grade.correct, grade.score) == (None, False, 0.0)
        swapped = [told[0].replace("1 ", "2 "), *told[1:]]
        assert not data.grade(problem, " ".join(swapped)).correct


def test_orders_and_kinds_are_those_of_the_clues() -> None:
    data, rng, seen = zebras(), random.Random(1), set()
    stuck = "a3 b1 c2 a2 b2 c3 a1 b3 c1"  # clue by clue only b1 is found
    clues = "3 3 justleft a3 b2 at b1 1 same b2 c3 beside b2 a1 notat c2 3"
    for problem in [*data.problems("test"), Problem(99, clues, stuck, stuck)]:
        puzzle, cells = parse_puzzle(problem.prompt), data.cells(problem)
        rounds = rounds_of(puzzle)
        order = data.order(problem)
        assert order is not None
        assert order == [rounds.get(cell, 1 + max(rounds.values(), default=0)) for cell in cells]
        tokens = data.names.tokens(problem.response)
        assert tokens is not None
        found = [token if rng.random() < 0.15 and problem.index < 99 else None for token in tokens]
        words = problem.response.split()
        known = {c: int(w[1]) - 1 for c, w, t in zip(cells, words, found, strict=True) if t is not None}
        later = rounds_of(puzzle, known)
        for cell, kind, token in zip(cells, data.subproblems(problem, found), found, strict=True):
            if token is None:
                expected = "beyond single clues" if cell not in later else "several rounds"
                expected = "one round of clues" if later.get(cell) == 1 else expected
                assert data.subproblem_kinds[kind].name == expected
                assert data.subproblem_kinds[kind].ready == (later.get(cell) == 1)
                seen.add(expected)
    assert len(seen) == 3
    assert data.one_answer


@pytest.mark.parametrize("order", ["reading", "solver"])
def test_a_users_own_puzzles_have_the_same_moves(tmp_path: Path, order: MoveOrder) -> None:
    file = tmp_path / "puzzles.txt"
    file.write_text("\n".join(problem.prompt for problem in zebras().problems("test")))
    data = zebras(layout="moves", move_order=order, predict_path=str(file))
    asked = [(problem.prompt, problem.response, problem.answer) for problem in data.problems("predict")]
    assert asked == [(problem.prompt, problem.response, problem.answer) for problem in data.problems("test")]


def test_moves_have_neither() -> None:
    data = zebras(layout="moves")
    assert data.order(data.problems("test")[0]) is None
    assert (data.subproblem_kinds, data.one_answer) == ((), False)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"data.layout='grid': choose one of table, moves"):
        zebras(layout="grid")
    with pytest.raises(ValueError, match=r"data.move_order='random': choose one of reading, solver"):
        zebras(layout="moves", move_order="random")
    with pytest.raises(ValueError, match=r"data.move_order='solver': a table has no order of moves"):
        zebras(move_order="solver")
