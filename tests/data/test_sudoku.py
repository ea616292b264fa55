"""Sudoku as a task: layouts, grades, orders, splits that share nothing, files, and decoding with clues in place."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.data import sudoku
from lightning_mdm.data.batch import Example, collate
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import SPARE
from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import IID, TopMargin
from lightning_mdm.outcomes import read_outcomes, read_rows
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.puzzles.sudoku import Puzzle, from_text, to_text
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_files import Origin, write_compact
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, fresh, image, split_of
from lightning_mdm.puzzles.sudoku_logic import solve_logically
from lightning_mdm.puzzles.sudoku_search import proven
from runs import Answering, program, trainer


def sudokus(**options: Any) -> SudokuProblems:
    defaults: dict[str, Any] = {
        "side": 4, "min_clues": 4, "max_clues": 7, "difficulty": "any", "n_validation": 8, "n_test": 10, "pool": 12,
        "batch_size": 4, "eval_batch_size": 4,
    }  # fmt: skip
    return SudokuProblems(**{**defaults, **options})


def large(**options: Any) -> SudokuProblems:
    return sudokus(
        **{"side": 9, "min_clues": 17, "max_clues": 32, "n_validation": 3, "n_test": 3, "pool": 3, **options}
    )


def puzzle_of(problem: Problem) -> Puzzle:
    return Puzzle(from_text(problem.prompt), from_text(problem.answer))


def made(data: SudokuProblems, n: int) -> list[Problem]:
    return list(data.training().sample(n))


def form(problem: Problem) -> bytes:
    return canonical_form(puzzle_of(problem))


def test_the_grid_is_the_board_with_its_clues_in_place() -> None:
    data = sudokus()
    encode = pickle.loads(pickle.dumps(data.encoder))
    for problem in data.problems("test") + made(data, 5):
        example = encode(problem)
        assert [token + 1 for token in example.tokens] == list(from_text(problem.answer))
        assert example.given == [letter != "." for letter in problem.prompt]
        assert data.grade(problem, problem.response).correct
    space = data.token_space
    assert (data.vocab_size, space.vocab_size, space.eos_id, space.forbidden) == (4, 4, None, ())


def test_moves_are_triples_clues_first() -> None:
    data = large(layout="moves", move_order="random")
    for problem in data.problems("test") + made(data, 3):
        puzzle, example = puzzle_of(problem), data.encoder(problem)
        assert example is not None
        assert len(example.tokens) == 243
        triples = [tuple(example.tokens[i : i + 3]) for i in range(0, 243, 3)]
        cells = [9 * row + column for row, column, _ in triples]
        assert sorted(cells) == list(range(81))
        assert all(puzzle.grid[cell] == digit + 1 for cell, (_, _, digit) in zip(cells, triples, strict=True))
        assert cells[: puzzle.n_clues] == [cell for cell in range(81) if puzzle.clues[cell]]
        assert example.given == [True] * (3 * puzzle.n_clues) + [False] * (3 * len(puzzle.blanks))
        assert data.decode(example.tokens[3 * puzzle.n_clues :]) == problem.response


@pytest.mark.parametrize("layout", ["grid", "moves"])
def test_only_the_right_grid_is_right(layout: Any) -> None:
    data = sudokus(layout=layout)
    for problem in data.problems("test"):
        grade = data.grade(problem, problem.response)
        assert (grade.correct, grade.answer) == (True, problem.answer)
        digit = problem.response[-1]
        wrong = data.grade(problem, problem.response[:-1] + ("1" if digit != "1" else "2"))
        assert not wrong.correct
        assert wrong.answer not in (None, problem.answer)
        rest = problem.response[1:]
        for text in ("", problem.response[:-1], problem.response + "1", "x" + rest, "0" + rest, "9" * 100):
            assert data.grade(problem, text) == data.grade(problem, "")
            assert not data.grade(problem, text).correct


@pytest.mark.parametrize("layout", ["grid", "moves"])
def test_a_prompt_is_a_whole_board(layout: Any) -> None:
    data = sudokus(layout=layout)
    problem = replace(data.problems("test")[0], response="")
    assert data.encoder(problem) is not None
    for prompt in (problem.prompt[:-1], problem.prompt + ".", "x" + problem.prompt[1:], ""):
        assert data.encoder(replace(problem, prompt=prompt)) is None
    assert large(layout=layout).encoder(problem) is None, "a board of the other side"
    assert data.encoder(replace(problem, prompt="." * 81)) is None


def test_layouts_share_their_problems() -> None:
    """So that a causal net may stand beside a masked one."""
    solver = sudokus(layout="moves", move_order="solver")
    assert sudokus().problems_hash("test") == solver.problems_hash("test") != sudokus(n_test=9).problems_hash("test")


def test_moves_may_come_in_any_order_but_each_once_and_on_blanks() -> None:
    data = sudokus(layout="moves")
    for problem in data.problems("test"):
        moves = problem.response.split()
        random.Random(problem.index).shuffle(moves)
        assert data.grade(problem, " ".join(moves)).correct
        assert not data.grade(problem, " ".join([*moves[:-1], moves[0]])).correct
        clue = next(cell for cell, letter in enumerate(problem.prompt) if letter != ".")
        over = f"{clue // 4 + 1}{clue % 4 + 1}{problem.prompt[clue]}"
        assert not data.grade(problem, " ".join([*moves[:-1], over])).correct


def cells_of(problem: Problem, side: int = 9) -> list[int]:
    return [side * (int(move[0]) - 1) + int(move[1]) - 1 for move in problem.response.split()]


def test_orders_of_moves() -> None:
    orders = {}
    for order in ("reading", "solver", "random"):
        data = large(layout="moves", move_order=order)
        problems = data.problems("test") + made(data, 5)
        orders[order] = [cells_of(problem) for problem in problems]
        for problem, cells in zip(problems, orders[order], strict=True):
            assert sorted(cells) == list(puzzle_of(problem).blanks)
            if order == "reading":
                assert cells == sorted(cells)
            if order == "solver":  # of symmetric images too, whose rounds are carried over from their base
                steps = data.logic_of(problem).steps
                solved = [step.cell for step in steps]
                assert cells[: len(solved)] == solved
                assert cells[len(solved) :] == sorted(set(cells) - set(solved))
    assert orders["reading"] != orders["random"] != orders["solver"] != orders["reading"]


def test_what_logic_says_of_a_problem() -> None:
    data = large(test_difficulty="easy")
    for problem in data.problems("test"):
        solution = data.logic_of(problem)
        assert solution.finished
        assert problem.depth == solution.rounds
        assert {step.cell: str(step.digit) for step in solution.steps} == {
            cell: problem.answer[cell] for cell in puzzle_of(problem).blanks
        }


def test_splits_share_nothing_up_to_symmetry() -> None:
    data = sudokus(pool=60)
    forms = {split: {form(problem) for problem in data.problems(split)} for split in ("validation", "test")}
    assert {split: len(found) for split, found in forms.items()} == {"validation": 8, "test": 10}
    forms["train"] = {form(problem) for problem in made(data, 300)}
    assert len(forms["train"]) > 30
    assert not forms["train"] & forms["test"]
    assert not forms["train"] & forms["validation"]
    assert not forms["test"] & forms["validation"]


def test_training_is_a_function_of_seed_and_number() -> None:
    data = sudokus()
    make = pickle.loads(pickle.dumps(data.training().make))  # type: ignore[attr-defined]
    problems = made(data, 30)
    assert [make(k) for k in reversed(range(30))] == problems[::-1]
    assert make(SPARE).index == SPARE
    # A pass takes every base once, whatever it is turned into.
    first, second = [sorted(form(p) for p in part) for part in (problems[:12], problems[12:24])]
    assert first == second
    assert [p.prompt for p in problems[:12]] != [p.prompt for p in problems[12:24]]
    assert made(sudokus(seed=1), 30) != problems
    assert sudokus(seed=1).problems("test") == data.problems("test")
    plain = [p.prompt for p in made(sudokus(symmetries=False), 24)]
    assert sorted(plain[:12]) == sorted(plain[12:])
    assert plain[:12] != plain[12:], "each pass in an order of its own"


def test_random_orders_of_moves_are_drawn_for_every_problem() -> None:
    """Of one base puzzle again and again; and of evaluation puzzles, told by the places among their blanks."""
    options: dict[str, Any] = {"layout": "moves", "move_order": "random", "min_clues": 7, "max_clues": 7}
    again = made(sudokus(**options, symmetries=False, pool=1), 6)
    assert len({p.prompt for p in again}) == 1
    assert len({p.response for p in again}) == 6
    test = sudokus(**options).problems("test")
    places = [[puzzle_of(p).blanks.index(cell) for cell in cells_of(p, 4)] for p in test]
    assert len(set(map(tuple, places))) == len(test)


def test_difficulties_have_tests_of_their_own() -> None:
    easy, hard = (large(test_difficulty=difficulty) for difficulty in ("easy", "hard"))
    for data, finished in ((easy, True), (hard, False)):
        assert [data.logic_of(problem).finished for problem in data.problems("test")] == [finished] * 3
    assert (easy.split_name("test"), hard.split_name("test"), large().split_name("test")) == ("easy", "hard", "test")
    assert easy.split_name("validation") == "validation"
    assert easy.fingerprint("test") != hard.fingerprint("test")
    trained = large(difficulty="hard")
    assert not any(solve_logically(puzzle_of(problem).clues).finished for problem in made(trained, 6))


def test_files(tmp_path: Path) -> None:
    options = SudokuOptions(4, 4, 7)
    puzzles = [fresh(options, "file", k) for k in range(40)]
    lines = tmp_path / "test.txt"
    lines.write_text("\n".join(to_text(puzzle.clues) for puzzle in puzzles[:6]))
    write_compact(tmp_path / "train.npz", puzzles)
    data = sudokus(test_path=str(lines))
    assert [(p.index, p.prompt) for p in data.problems("test")] == [
        (k, to_text(puzzle.clues)) for k, puzzle in enumerate(puzzles[:6])
    ]
    tests = {canonical_form(puzzle) for puzzle in puzzles[:6]}
    assert not tests & {form(problem) for problem in made(data, 100)}, "generated training knows the file"
    both = sudokus(test_path=str(lines), train_path=str(tmp_path / "train.npz"))
    with pytest.warns(UserWarning, match=r"\d+ of 40 puzzles belong to validation or test, up to sym"):
        problems = made(both, 100)
    own = {canonical_form(puzzle) for puzzle in puzzles if split_of(puzzle) != "validation"} - tests
    assert {form(problem) for problem in problems} == own
    with pytest.raises(ValueError, match="holds no hard puzzle; give another difficulty"):
        sudokus(test_path=str(lines), test_difficulty="hard").problems("test")
    only = sudokus(test_path=str(lines), validation_path=str(lines), train_path=str(lines))
    with pytest.raises(
        ValueError, match=r"all of its \d+ puzzles belong to validation or test, up to symmetry; give others"
    ):
        only.training()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The clues of every puzzle of a text file that is proven."""
    found: list[bytes] = []
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_files.proven", lambda clues: found.append(clues) or proven(clues))
    return found


def mixed(tmp_path: Path) -> tuple[Path, list[Puzzle]]:
    """A list of puzzles of 81 cells: hard, easy, hard, easy and so on, six of each."""
    kinds = [[fresh(SudokuOptions(9, 17, 28, kind), "mixed", k) for k in range(6)] for kind in ("hard", "easy")]  # type: ignore[arg-type]
    puzzles = [puzzle for pair in zip(*kinds, strict=True) for puzzle in pair]
    path = tmp_path / "mixed.txt"
    path.write_text("\n".join(to_text(puzzle.clues) for puzzle in puzzles))
    return path, puzzles


def test_what_a_list_has_beyond_is_said_and_not_read(tmp_path: Path, asked: list[bytes]) -> None:
    path = mixed(tmp_path)[0]
    with pytest.warns(UserWarning, match=r"data\.test_path=.*mixed\.txt': ") as said:
        few = large(test_path=str(path), n_test=2, test_difficulty="easy").problems("test")
    assert [problem.index for problem in few] == [1, 3]
    assert len(asked) == 5, "one more, to know whether there is any"
    assert [str(warning.message).partition(": ")[2] for warning in said] == [
        "2 of 4 puzzles are not easy: left out",
        "reading stopped after 4 puzzles, at data.n_test=2: the rest is left out",
    ]
    with pytest.warns(UserWarning, match=r"data\.validation_path=.*mixed\.txt': 6 of 12 puzzles are not hard") as said:
        hard = large(validation_path=str(path), n_validation=7, difficulty="hard").problems("validation")
    assert ([problem.index for problem in hard], len(said)) == ([0, 2, 4, 6, 8, 10], 1)
    assert len(large(test_path=str(path), n_test=12).problems("test")) == 12, "nothing to say"


def test_a_list_is_read_once(tmp_path: Path, asked: list[bytes]) -> None:
    path, puzzles = mixed(tmp_path)
    data = large(test_path=str(path), validation_path=str(path), n_test=12, n_validation=12, difficulty="any")
    assert len(data.problems("test")) == len(data.problems("validation")) == len(data.excluded) == 12
    assert data.excluded == {canonical_form(puzzle) for puzzle in puzzles}
    data.training()
    assert asked == [puzzle.clues for puzzle in puzzles]


def test_generated_evaluation_avoids_the_other_splits_file(tmp_path: Path) -> None:
    """A file is evaluated whole, so what is generated makes room, up to symmetry."""
    plain = sudokus()
    for split, other in (("validation", "test"), ("test", "validation")):
        path = tmp_path / f"{other}.txt"
        turned = [image(puzzle_of(problem), "turned", k)[0] for k, problem in enumerate(plain.problems(split)[:4])]
        path.write_text("\n".join(to_text(puzzle.clues) for puzzle in turned))
        data = sudokus(**{f"{other}_path": str(path)})
        assert [problem.prompt for problem in data.problems(other)] == path.read_text().split()
        forms = [form(problem) for problem in data.problems(split)]
        assert len(set(forms)) == len(plain.problems(split))
        assert forms[: len(forms) - 4] == [form(problem) for problem in plain.problems(split)[4:]]
        assert not set(forms) & {canonical_form(puzzle) for puzzle in turned}


def test_training_files_say_what_they_leave_out(tmp_path: Path) -> None:
    path, puzzles = mixed(tmp_path)
    data = large(train_path=str(path), validation_path=str(path), test_path=str(path), difficulty="hard")
    with pytest.raises(
        ValueError, match=r"all of its \d+ hard puzzles belong to validation or test, up to symmetry; give others"
    ):
        data.training()
    spare = tmp_path / "spare.txt"
    spare.write_text(to_text(fresh(SudokuOptions(9, 17, 28), "spare", 0).clues))
    data = large(train_path=str(path), validation_path=str(spare), test_path=str(spare), difficulty="hard")
    with pytest.warns(UserWarning, match=r"data\.train_path=.*: 6 of 12 puzzles are not hard: left out"):
        assert {form(problem) for problem in made(data, 6)} == {canonical_form(puzzle) for puzzle in puzzles[::2]}


def test_an_origin_is_taken_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puzzles of the generator are neither graded nor brought to canonical form; without their origin they are."""
    puzzles = [fresh(SudokuOptions(4, 4, 7, "easy"), "train/0", k, "train") for k in range(12)]
    path = tmp_path / "pool.npz"
    write_compact(path, puzzles, Origin("train", "easy"))
    generated = made(sudokus(difficulty="easy"), 30)
    calls: list[str] = []
    for name in ("is_of", "canonical_form", "split_of"):
        monkeypatch.setattr(f"lightning_mdm.data.sudoku.{name}", partial(noted, calls, name, getattr(sudoku, name)))
    assert made(sudokus(difficulty="easy", train_path=str(path)), 30) == generated, "the same pool, the same images"
    assert calls == []
    with pytest.raises(ValueError, match="holds no hard puzzle; give another"):
        sudokus(difficulty="hard", train_path=str(path)).training()
    assert calls == ["is_of"] * 12
    calls.clear()
    write_compact(path, puzzles)
    assert made(sudokus(difficulty="easy", train_path=str(path)), 30) == generated
    assert calls == ["is_of"] * 12 + ["split_of"] * 12
    write_compact(path, puzzles, Origin("test", "easy"))
    with pytest.raises(ValueError, match="all of its 12 easy puzzles belong to validation or test"):
        sudokus(difficulty="easy", train_path=str(path)).training()


def noted(calls: list[str], name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    calls.append(name)
    return function(*arguments)


ROWS = "{0}\n{1}\n{2}\n{3}"


@pytest.mark.parametrize("layout", ["grid", "moves"])
def test_questions_are_puzzles(tmp_path: Path, layout: Any) -> None:
    known = sudokus(layout=layout).problems("test")[:2]
    zeros = [problem.prompt.replace(".", "0") for problem in known]
    files = {
        "list.txt": f"# mine\npuzzle,solution\n{known[0].prompt},{known[0].answer}\n{zeros[1]},\n",
        "rows.jsonl": "\n".join(
            json.dumps({"question": ROWS.format(*(text[k : k + 4] for k in range(0, 16, 4))), "answer": answer})
            for text, answer in zip(zeros, (known[0].answer, None), strict=True)
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        data = sudokus(predict_path=str(tmp_path / name), layout=layout)
        found = data.problems("predict")
        assert [replace(problem, index=0) for problem in found] == [replace(problem, index=0) for problem in known]
        assert [problem.index for problem in found] == [0, 1]
        (batch,) = data.predict_dataloader()
        assert batch.index_B.tolist() == [0, 1]
        assert data.order(found[0]) == sudokus(layout=layout).order(known[0])
    write_compact(tmp_path / "some.npz", map(puzzle_of, known))
    data = sudokus(predict_path=str(tmp_path / "some.npz"), layout=layout, move_order="reading")
    assert [problem.response for problem in data.problems("predict")] == [problem.response for problem in known]


@pytest.mark.parametrize(
    ("line", "row", "reason"),
    [
        ("no puzzle", None, "malformed: the puzzle has 2 characters instead of 16"),
        ("1.........", {"question": "1........."}, "malformed: the puzzle has 10 characters instead of 16"),
        ("9" * 16, {"question": "9" * 16}, "malformed: the puzzle's character 1 is '9'"),
        ("11" + "." * 14, {"question": "11" + "." * 14}, "contradictory: two 1s in row 1"),
        ("." * 16, {"question": "." * 16}, "ambiguous: more than one solution"),
        (None, {"question": "KNOWN", "answer": "1234"}, "malformed: the solution has 4 characters instead of 16"),
        (None, {"question": "KNOWN", "answer": "1234" * 4}, "contradictory: the solution given is not that"),
    ],
)
def test_questions_that_are_no_puzzles_are_refused(
    tmp_path: Path, line: str | None, row: dict[str, str] | None, reason: str
) -> None:
    known = sudokus().problems("test")[0].prompt
    files = {
        "own.txt": line and f"{known}\n{line}",
        "own.jsonl": row and f"\n{json.dumps(row)}".replace("KNOWN", known),
    }
    for name, text in files.items():
        if text is None:
            continue
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"{name}, line 2: {reason}"):
            sudokus(predict_path=str(path)).problems("predict")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 0}, "data.pool=0: give at least 1"),
        ({"n_test": 0}, "data.n_test=0: give at least 1"),
        ({"test_difficulty": "evil"}, "test_difficulty='evil': choose one of easy, hard, any"),
        ({"layout": "spiral"}, "data.layout='spiral': choose one of grid, moves"),
        ({"layout": "moves", "move_order": "best"}, "data.move_order='best': choose one of reading, solver, random"),
        ({"move_order": "solver"}, "data.move_order='solver': the grid has no order of moves"),
        ({"side": 16}, "side=16: a Sudoku here has side 4 or 9"),
        ({"train_path": "a.jsonl"}, "data.train_path='a.jsonl': a .jsonl is for data.predict_path; give puzzles"),
        (
            {"validation_path": "a.jsonl"},
            "data.validation_path='a.jsonl': a .jsonl is for data.predict_path; give puzzles",
        ),
        ({"test_path": "a.jsonl"}, "data.test_path='a.jsonl': a .jsonl is for data.predict_path; give puzzles"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sudokus(**options)


def test_too_small_a_world_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_mdm.data.sudoku.MAX_REPEATS", 15)
    with pytest.raises(ValueError, match=r"data\.n_test=200: there are about \d+ different test puzzles"):
        sudokus(max_clues=5, n_test=200).problems("test")


def consistent(tokens: list[int], example: Example) -> bool:
    """Whether these are the clues of an example, and of the rest right digits or masks."""
    cells = zip(tokens, example.tokens, example.given, strict=True)
    return all(token == right or (token == 4 and not given) for token, right, given in cells)


class Solver(torch.nn.Module):
    """Knows the solution of every test grid from its clues, and refuses to see them changed."""

    def __init__(self, data: SudokuProblems) -> None:
        super().__init__()
        self.examples = [example for p in data.problems("test") if (example := data.encode(p)) is not None]
        self.skill = torch.nn.Parameter(torch.ones(1))

    def forward(self, tokens_BL: torch.Tensor, valid_BL: torch.Tensor, query_BQ: torch.Tensor) -> DenoiserOutput:
        rows = []
        for tokens in tokens_BL.tolist():
            (found,) = [example for example in self.examples if consistent(tokens, example)]
            rows.append(found.tokens)
        target_BQ = torch.tensor(rows).gather(1, query_BQ)
        return DenoiserOutput(9.0 * self.skill * torch.nn.functional.one_hot(target_BQ, 4).float())


def test_decoding_leaves_clues_where_they_are() -> None:
    data = sudokus()
    batch = collate([example for p in data.problems("test") if (example := data.encode(p)) is not None], 0)
    for policy in (IID(), TopMargin()):
        trace = DecodingOptions().decode(Solver(data), policy, batch, data.token_space, 3, 0)
        assert torch.equal(trace.tokens_BL, batch.tokens_BL)
        assert torch.equal(trace.order.step_BL > 0, batch.response_BL)


def test_rows_name_the_difficulty(tmp_path: Path) -> None:
    for difficulty in ("easy", "any"):
        data = sudokus(test_difficulty=difficulty)
        trainer(tmp_path, Frontier([TopMargin()], [2])).sweep(Answering(Solver(data)), data)
    rows = read_rows(tmp_path / "frontier.csv")
    assert {(row.task, row.split, row.n, row.correct) for row in rows} == {
        ("sudoku", "easy", 10, 10), ("sudoku", "test", 10, 10),
    }  # fmt: skip
    assert {row.split for row in read_outcomes(tmp_path / "outcomes.csv")} == {"easy", "test"}
    assert "easy" in program("report", tmp_path)


def test_the_task_knows_the_order_of_its_solver() -> None:
    """One round per blank in reading order: that of the logical solver, found again step by step."""
    data = large(n_test=3)
    for problem in data.problems("test"):
        ranks = data.order(problem)
        assert ranks is not None
        blanks = [cell for cell, character in enumerate(problem.prompt) if character in ".0"]
        rounds = {step.cell: step.round for step in data.logic_of(problem).steps}
        assert ranks == [rounds.get(cell, max(ranks)) for cell in blanks]
        assert len(set(ranks)) > 1
    assert large(layout="moves").order(problem) is None
