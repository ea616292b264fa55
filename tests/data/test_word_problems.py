"""Word problems: the arithmetic, the bounds, the story against the equations, splits disjoint by content."""

from __future__ import annotations

import random
import re
import zlib
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightning_mdm.data import word_problems
from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.stories import Story, begin
from lightning_mdm.data.word_problems import N_BUCKETS, WordProblems, content_of, generate
from lightning_mdm.data.wordings import DISTRACTORS, MEN, WOMEN
from lightning_mdm.outcomes import read_rows
from lightning_mdm.splits import hashed_split
from runs import REPOSITORY, WORD_PROBLEMS

HARD = Difficulty(3, 6, 60, 9, "+-*/", 0.5, 0.7, 0.4, 0.4, 0.5)
EQUATION = re.compile(r"<<([^=<>]+)=(\d+)>>")


@st.composite
def difficulties(draw: st.DrawFn) -> Difficulty:
    least = draw(st.integers(1, 6))
    chance = st.sampled_from([0.0, 0.5, 1.0])
    return Difficulty(
        min_steps=least,
        max_steps=draw(st.integers(least, 6)),
        max_value=draw(st.integers(60, 200)),
        max_operand=draw(st.integers(4, 12)),
        operations=draw(st.sampled_from(["+", "+-", "-+*", "+-*/", "*+/"])),
        comparisons=draw(chance),
        branches=draw(chance),
        doubles=draw(chance),
        sales=draw(chance),
        distractors=draw(chance),
    )


def equations(problem: Problem) -> list[tuple[list[int], str, int]]:
    found = []
    for left, result in EQUATION.findall(problem.response):
        operations = set(re.findall(r"[-+*/]", left))
        assert len(operations) == 1
        found.append(([int(x) for x in re.findall(r"\d+", left)], operations.pop(), int(result)))
    return found


def evaluate(operands: list[int], operation: str) -> Fraction:
    value = Fraction(operands[0])
    for x in operands[1:]:
        value = {"+": value + x, "-": value - x, "*": value * x, "/": value / x}[operation]
    return value


@settings(max_examples=150, deadline=None, derandomize=True)
@given(difficulties(), st.integers(0, 10**6), st.integers(0, 3), st.sampled_from(["train", "validation", "test"]))
def test_every_problem(difficulty: Difficulty, k: int, seed: int, split: str) -> None:
    problem = generate(split, k, difficulty, seed)
    assert problem == generate(split, k, difficulty, seed)
    assert problem.index == k
    steps = equations(problem)
    told = [int(x) for x in re.findall(r"\d+", problem.prompt)]
    assert problem.response == " ".join(re.findall(r"<<.*?>>", problem.response)) + f" #### {problem.answer}"
    assert difficulty.min_steps <= len(steps) <= difficulty.max_steps
    assert steps[-1][2] == int(problem.answer)
    assert hashed_split(content_of(problem.response).encode(), N_BUCKETS) == split

    unused: list[int] = []
    for operands, operation, result in steps:
        assert evaluate(operands, operation) == result
        assert all(1 <= x <= difficulty.max_value for x in (*operands, result))
        assert all(x in told or x in unused for x in operands), "a number comes from the story or from a step"
        for x in operands:
            if x in unused:
                unused.remove(x)
        unused.append(result)
    for x in told:
        assert 1 <= x <= max(difficulty.max_operand, min(difficulty.max_value, 2 * difficulty.max_operand))
    assert 1 <= (problem.depth or 0) <= len(steps)


def test_results_are_used_and_depth_is_the_longest_chain() -> None:
    """Where results differ from each other and from every number told, the equations alone give the dependencies."""
    identified = 0
    for k in range(3000):
        problem = generate("train", k, HARD)
        steps = equations(problem)
        told = {int(x) for x in re.findall(r"\d+", problem.prompt)}
        results = [result for *_, result in steps]
        if len(set(results)) < len(results) or told & set(results):
            continue
        identified += 1
        depth: dict[int, int] = {}
        for operands, _, result in steps:
            depth[result] = 1 + max((depth.get(x, 0) for x in operands), default=0)
        assert problem.depth == depth[results[-1]] == max(depth.values())
        used = {x for operands, *_ in steps for x in operands}
        assert set(results[:-1]) <= used
    assert identified > 300


def test_splits_share_no_content_and_no_text() -> None:
    contents = {
        split: {content_of(generate(split, k, Difficulty()).response) for k in range(n)}
        for split, n in (("train", 20_000), ("validation", 1000), ("test", 1000))
    }
    assert not contents["train"] & contents["validation"]
    assert not contents["train"] & contents["test"]
    assert not contents["validation"] & contents["test"]
    assert len(contents["train"]) > 10_000


def test_a_content_belongs_to_a_split_by_its_hash_alone() -> None:
    """Of twenty parts one is validation and one is test: always the same, whatever a problem was generated for."""
    evaluated = {0: "validation", 1: "test"}
    for k in range(400):
        content = f"+{k},2"
        assert hashed_split(content.encode(), N_BUCKETS) == evaluated.get(zlib.crc32(content.encode()) % 20, "train")


def test_content_ignores_the_order_of_commuting_operands() -> None:
    assert content_of("<<2+3=5>> <<5*4=20>> #### 20") == content_of("<<3+2=5>> <<4*5=20>> #### 20")
    assert content_of("<<3-2=1>> #### 1") != content_of("<<2-3=1>> #### 1")


def test_evaluation_splits_hold_no_duplicates_and_do_not_depend_on_the_seed() -> None:
    data = WordProblems(n_validation=300, n_test=200, seed=1)
    problems = data.problems("validation")
    assert len({content_of(p.response) for p in problems}) == len(problems) == 300
    assert len(data.problems("test")) == 200
    assert problems == WordProblems(n_validation=300, seed=2).problems("validation")


def test_the_problems_are_those_of_the_published_rows() -> None:
    options: Any = OmegaConf.to_container(OmegaConf.load(WORD_PROBLEMS))
    options = options["data"]["init_args"]
    data = WordProblems(Difficulty(**options["difficulty"]), n_test=options["n_test"])
    rows = read_rows(REPOSITORY / "experiments" / "word_problems" / "frontier.csv")
    assert {row.problems for row in rows if row.split == "test"} == {data.problems_hash("test")}


def test_what_repeats_now_and_then_is_no_end_of_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_problems, "MAX_REPEATS", 10)
    assert len(WordProblems(n_validation=60).problems("validation")) == 60


def test_seed_and_number_change_the_problem() -> None:
    drawn = [generate("train", k, Difficulty(), seed) for k in range(20) for seed in range(3)]
    assert len({p.prompt for p in drawn}) > 55


def mean_depth(difficulty: Difficulty) -> float:
    return sum(generate("train", k, difficulty).depth or 0 for k in range(400)) / 400


def test_more_steps_are_deeper_and_branches_are_shallower() -> None:
    depths = [mean_depth(Difficulty(steps, steps, 40, 9)) for steps in range(1, 7)]
    assert depths == [1, 2, 3, 4, 5, 6]
    assert mean_depth(Difficulty(5, 5, 60, 9, branches=1.0)) < 4.5


def prompts(difficulty: Difficulty) -> str:
    return " ".join(generate("train", k, difficulty).prompt for k in range(200))


@pytest.mark.parametrize(
    ("option", "pattern"),
    [
        ({"comparisons": 1.0}, r"\bthan\b|as many \w+ as|that \w+ has"),
        ({"branches": 1.0, "min_steps": 3}, r"together|pool|How many more"),
        ({"doubles": 1.0}, r"and (find|lose|throw)s?|from one friend"),
        ({"sales": 1.0}, r"How many dollars"),
        ({"distractors": 1.0}, r"nearest shop|years old|rained|school"),
        ({"operations": "/", "max_steps": 2, "min_steps": 1, "max_value": 90}, r"equal|every"),
    ],
)
def test_every_dial_has_its_effect(option: dict, pattern: str) -> None:
    assert re.search(pattern, prompts(Difficulty(**option)))
    off = {name: 0.0 for name in option if isinstance(option[name], float)}
    if off:
        assert not re.search(pattern, prompts(Difficulty(**{"comparisons": 0.0, **option, **off})))


@pytest.mark.parametrize(
    ("subject", "told", "expected"),
    [
        ("Anna", "Anna", "Give them to her, and 3 more."),
        ("Ben", "Ben", "Give them to him, and 3 more."),
        ("Anna and Ben", "Anna and Ben", "Give them to them, and 3 more."),
        ("Anna", "Dana", "Give the eggs to Anna, and 3 more eggs."),
        ("Anna", "", "Give the eggs to Anna, and 3 more eggs."),
    ],
)
def test_pronouns_mean_what_the_sentence_before_told_of(subject: str, told: str, expected: str) -> None:
    story = Story(random.Random(0), "egg", [], mentioned=told)
    story.add("Give {T} to {O}, and {c} more{m}.", subject=subject, c=3)
    assert story.sentences == [expected]
    assert story.mentioned == "", "whoever gives them could be meant as well"
    story.add("{S} sell{s} {c}.", subject=subject, c=3)
    assert story.mentioned == subject


def test_what_does_not_matter_is_about_other_things() -> None:
    told: set[str] = set()
    for seed in range(40):
        story = Story(random.Random(seed), "egg", ["Ben"])
        for _ in DISTRACTORS:
            story.distract(Difficulty(distractors=1.0))
        assert len(story.sentences) == len(DISTRACTORS)
        told.update(word for sentence in story.sentences for word in re.findall(r"\w+s\b", sentence))
    assert {"apples", "books"} < told
    assert "eggs" not in told


def test_people_start_with_at_most_twice_what_is_given_later() -> None:
    dial = Difficulty(max_value=60, max_operand=9)
    assert {begin(Story(random.Random(k), "egg", ["Ben"]), dial).value for k in range(400)} == set(range(2, 19))


def test_english() -> None:
    """Singular after 1, no pronoun after a sentence about somebody else, no distractor told twice."""
    for k in range(3000):
        prompt = generate("train", k, HARD).prompt
        sentences = re.findall(r"[^.?]+[.?]", prompt)
        assert not re.search(r"\b1 (more |fewer )?(?!more\b|fewer\b|loses?\b|from\b|and\b|of\b)\w+s\b", prompt), prompt
        assert not re.search(r"(?<![\d])([2-9]|\d\d+) (more )?(apple|book|coin|egg|toy|stamp|flower)\b", prompt), prompt
        for before, sentence in pairwise(sentences):
            pronoun = re.match(r"\s*(She|He|They)\b", sentence)
            if not pronoun:
                continue
            names = [name for name in (*WOMEN, *MEN) if re.search(rf"\b{name}\b", before)]
            own = {"She": WOMEN, "He": MEN, "They": (*WOMEN, *MEN)}[pronoun[1]]
            assert len([name for name in names if name in own]) <= (2 if pronoun[1] == "They" else 1), prompt
            assert not re.search(r"years old|nearest shop|rained|school", before), prompt
        for phrase in ("years old", "nearest shop", "rained", "school"):
            assert prompt.count(phrase) <= 1
    assert len(DISTRACTORS) == len(set(DISTRACTORS))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"min_steps": 0}, "min_steps=0"),
        ({"max_steps": 7}, "max_steps=7"),
        ({"min_steps": 3, "max_steps": 2}, "min_steps <= max_steps"),
        ({"operations": ""}, "operations=''"),
        ({"operations": "+^"}, r"operations='\+\^'"),
        ({"operations": "++"}, "each operation once"),
        ({"max_value": 3}, "max_value=3"),
        ({"max_operand": 1}, "max_operand=1"),
        ({"sales": 1.5}, "sales=1.5"),
        ({"branches": float("nan")}, "branches=nan"),
    ],
)
def test_wrong_dials(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Difficulty(**option)


def test_too_few_problems_is_an_error_not_a_hang() -> None:
    tiny = Difficulty(1, 1, 4, 2, "*", comparisons=0.0)
    with pytest.raises(ValueError, match="hardly any problem"):
        [generate(split, 0, tiny) for split in ("train", "validation", "test")]
    with pytest.raises(ValueError, match="n_validation=500: this difficulty has about"):
        WordProblems(Difficulty(1, 1, 20, 9)).problems("validation")
    with pytest.raises(ValueError, match="split 'dev'"):
        generate("dev", 0, Difficulty())
