"""Zebra puzzles as a task: tokens, disjoint splits, exact resume, grades, a user's own puzzles."""

from __future__ import annotations

import json
import pickle
import random
import re
import zlib
from pathlib import Path

import pytest
import torch

from lightning_mdm.data.problem import Problem
from lightning_mdm.data.stream import Progress
from lightning_mdm.data.zebra import N_BUCKETS, ZebraPuzzles, generate
from lightning_mdm.puzzles.zebra import Zebra, draw_puzzle
from lightning_mdm.puzzles.zebra_clues import Puzzle, parse_puzzle, table_text
from lightning_mdm.puzzles.zebra_solver import solutions
from lightning_mdm.splits import hashed_split
from runs import REPOSITORY

MIXED = Zebra(max_houses=4, min_attributes=2, max_attributes=3)
CLUES = (
    "3 2 at a1 2 same a2 b1 left b1 b2 left b2 b3"  # b1 b2 b3 from the left, a2 in the first house, a1 in the second
)


def task(law: Zebra = MIXED, **options: object) -> ZebraPuzzles:
    return ZebraPuzzles(law, **{"n_validation": 12, "n_test": 15, "batch_size": 4, **options})  # type: ignore[arg-type]


def test_text_and_tokens() -> None:
    data = task()
    encode = pickle.loads(pickle.dumps(data.encoder))
    make = pickle.loads(pickle.dumps(data.maker("test")))
    for problem in data.problems("test"):
        assert make(problem.index) == problem == generate("test", problem.index, MIXED)
        puzzle = parse_puzzle(problem.prompt)
        (table,) = solutions(puzzle)
        assert problem.answer == problem.response == table_text(table)
        example = encode(problem)
        prompt = [token for token, given in zip(example.tokens, example.given, strict=True) if given]
        response = example.tokens[len(prompt) :]
        assert data.decode(prompt) == f"{problem.prompt} ?"
        assert data.decode(response) == problem.response
        assert len(response) == puzzle.houses * puzzle.attributes
        assert not set(response) & set(data.token_space.forbidden)
    space = data.token_space
    assert space.pad_id in space.forbidden
    assert data.decode(set(range(data.vocab_size)) - set(space.forbidden)).split() == [
        f"{letter}{value}" for letter in "abc" for value in range(1, 5)
    ]
    for prompt, response in (("3 2 at a1", ""), ("3 5 end a1", ""), (CLUES, "a2 b1"), (CLUES, "a2 b1 a1 b2 x b3")):
        assert encode(Problem(0, prompt, response, "")) is None
    assert encode(Problem(0, CLUES, "", "")) is not None


def test_padding_in_front_puts_cells_at_one_place() -> None:
    plain, padded = task().encoder, task(prompt_words=20).encoder
    problems = task().problems("test")
    fit = [problem for problem in problems if len(problem.prompt.split()) < 20]
    assert 0 < len(fit) < len(problems)
    for problem in problems:
        bare, example = plain(problem), padded(problem)
        assert bare is not None
        if problem not in fit:
            assert example is None
            continue
        assert example is not None
        front = 20 - sum(bare.given)
        pad = task().names.names.index("_")
        assert example.tokens == [pad] * front + bare.tokens
        assert example.given == [True] * front + bare.given
    assert task().encoding != task(prompt_words=20).encoding


def test_splits_share_no_puzzle() -> None:
    """Nor one that differs by names or order: the content decides."""
    law = Zebra(min_attributes=2, max_attributes=2)  # small, so that contents repeat
    seen: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for k in range(90):
            problem = generate(split, k, law)
            (table,) = solutions(parse_puzzle(problem.prompt))
            seen.setdefault(split, set()).add(content_by_solution(parse_puzzle(problem.prompt), table_text(table)))
    assert len(seen["train"]) < 90, "contents do repeat"
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    with pytest.raises(ValueError, match="split 'hard': the zebra puzzles have validation, test, train"):
        generate("hard", 0, law)


def content_by_solution(puzzle: Puzzle, table: str) -> str:
    """Clues with every value named by its house, sorted: equal for puzzles that differ by names of values alone."""
    house = {item: str(place // puzzle.attributes) for place, item in enumerate(table.split())}
    told = []
    for clue in puzzle.clues:
        words = [f"{word[0]}{house[word]}" if word in house else word for word in str(clue).split()]
        if clue.kind in ("same", "apart", "beside"):
            words[1:] = sorted(words[1:])
        elif clue.kind == "between":
            words[2:] = sorted(words[2:])
        told.append(" ".join(words))
    return ",".join(sorted(told))


def test_all_splits_occur() -> None:
    """Validation and test have an eighth of the contents each, whatever else changes: always the same eighth."""
    contents = {draw_puzzle(Zebra(), random.Random(k)).content for k in range(400)}
    found = {content: hashed_split(content.encode(), N_BUCKETS) for content in contents}
    shares = {split: list(found.values()).count(split) / len(contents) for split in ("train", "test")}
    assert 0.65 < shares["train"] < 0.85
    assert 0.06 < shares["test"] < 0.2
    evaluated = {0: "validation", 1: "test"}
    assert all(split == evaluated.get(zlib.crc32(c.encode()) % 8, "train") for c, split in found.items())


def test_evaluation_problems_are_different_puzzles_and_not_one_told_in_several_orders() -> None:
    law = Zebra(min_attributes=2, max_attributes=2, kinds=("at",))  # two clues for each attribute
    first = [generate("test", k, law) for k in range(60)]
    assert len({clues_of(p) for p in first}) < len({p.prompt for p in first}), "some are told in two orders"
    problems = task(law, n_test=20).problems("test")
    assert len({clues_of(p) for p in problems}) == len(problems) == 20
    assert problems == [p for k, p in enumerate(first) if clues_of(p) not in map(clues_of, first[:k])][:20]


def clues_of(problem: Problem) -> frozenset[str]:
    """The clues, whatever their order; those of the kind ``at`` have no operands to exchange."""
    return frozenset(map(str, parse_puzzle(problem.prompt).clues))


def test_streams() -> None:
    one, two = task(), task(seed=1)
    for split, n in (("validation", 12), ("test", 15)):
        assert one.problems(split) == two.problems(split)
        assert one.fingerprint(split) == two.fingerprint(split)
        assert len({problem.prompt for problem in one.problems(split)}) == n
    assert one.training().sample(5) != two.training().sample(5)
    assert one.fingerprint("test") != task(Zebra(seed=1)).fingerprint("test")


def test_training_resumes_exactly() -> None:
    def batches(slots: int, n: int) -> list[torch.Tensor]:
        data = task()
        data.progress = Progress(slots)
        walk = iter(data.train_dataloader())
        return [next(walk).tokens_BL for _ in range(n)]

    for batch, again in zip(batches(0, 4)[2:], batches(8, 2), strict=True):
        assert torch.equal(batch, again)


def test_grades() -> None:
    data = task()
    problem = Problem(0, CLUES, "a2 b1 a1 b2 a3 b3", "a2 b1 a1 b2 a3 b3")
    grade = data.grade(problem, problem.response)
    assert (grade.answer, grade.correct, grade.score) == (problem.response, True, 1.0)
    for text, score in (
        ("a3 b1 a1 b2 a2 b3", 4 / 6),  # a table that breaks a clue
        ("a2 b1 a1 b2 a2 b3", 5 / 6),  # no table: a2 stands twice
        ("a2 b1 a1 b2 b3 a3", 4 / 6),  # values in columns of other attributes
        ("a2 b1 a1 b2 a3", 0.0),
        ("", 0.0),
    ):
        grade = data.grade(problem, text)
        assert (grade.correct, grade.score) == (False, pytest.approx(score))


def test_a_users_own_puzzles(tmp_path: Path) -> None:
    file = tmp_path / "puzzles.txt"
    file.write_text(f"{CLUES}\n")
    data = task(predict_path=str(file))
    (problem,) = data.problems("predict")
    assert problem.answer == "a2 b1 a1 b2 a3 b3"
    assert data.problems("predict") == [problem]
    (batch,) = data.predict_dataloader()
    assert int(batch.response_BL.sum()) == 6
    for text, reason in (
        ("3 2 at a1", "puzzles.txt, line 3: clue 1, 'at a1': at needs 1 item"),
        ("3 2 at a1 1", "puzzles.txt, line 3: the clues leave more than one solution"),
        ("3 2 at a1 1 notat a1 1", "puzzles.txt, line 3: the clues contradict each other"),
        ("5 2 at a1 1", "puzzles.txt, line 3: 5 houses and 2 attributes are more than data.law.max_houses=4"),
    ):
        file.write_text(f"{CLUES}\n\n{text}\n")
        with pytest.raises(ValueError, match=reason):
            task(predict_path=str(file)).problems("predict")
    own = tmp_path / "puzzles.jsonl"
    for answer, right in (("a2 b1 a1 b2 a3 b3", True), ("a1 b1 a2 b2 a3 b3", False)):
        own.write_text(json.dumps({"question": CLUES, "answer": answer}))
        if right:
            assert task(predict_path=str(own)).problems("predict") == [problem]
        else:
            with pytest.raises(ValueError, match=r"puzzles.jsonl, line 1: contradictory: the answer given is not"):
                task(predict_path=str(own)).problems("predict")


def test_puzzles_too_long_for_their_padding(tmp_path: Path) -> None:
    """The option that the task has is named, for a user's puzzles as for generated ones."""
    file = tmp_path / "puzzles.txt"
    file.write_text(f"2 2 at a1 1 at b1 1\n{CLUES}\n")
    data = task(predict_path=str(file), prompt_words=9)
    hint = "do not fit the canvas and are left out: raise data.prompt_words"
    with pytest.warns(UserWarning, match=rf"zebra: 1 predict problem\(s\) {hint}"):
        (batch,) = data.predict_dataloader()
    assert batch.index_B.tolist() == [0]
    with pytest.raises(ValueError, match=r"1000 generated problems in a row .*: raise data\.prompt_words"):
        next(iter(task(prompt_words=3).train_dataloader()))


def test_laws_with_few_puzzles() -> None:
    law = Zebra(min_attributes=2, max_attributes=2, kinds=("at",))
    with pytest.raises(ValueError, match=r"data.n_test=5000: this law has about \d+ different test puzzles"):
        task(law, n_test=5000).problems("test")


@pytest.mark.parametrize("option", ["n_validation", "n_test", "batch_size", "prompt_words"])
def test_wrong_options(option: str) -> None:
    with pytest.raises(ValueError, match=f"data.{option}=0"):
        task(**{option: 0})


def test_the_puzzle_that_the_documentation_shows_has_one_solution() -> None:
    (shown,) = re.findall(r"`(\d \d at .*?)`", (REPOSITORY / "configs" / "README.md").read_text(encoding="utf-8"))
    assert len(solutions(parse_puzzle(shown), limit=2)) == 1
