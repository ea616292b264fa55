"""Grade-school word problems, generated without end: English stories with equation-only thoughts.

A problem is a small graph of exact integer steps (``<<16-3=13>> <<13*2=26>> #### 26``) told as a story. Problem ``k``
of a split is a pure function of ``(seed, difficulty, split, k)``, so a stream resumes at any point. Splits are disjoint
by content: the hash of the arithmetic, whatever the wording, decides the split it belongs to.
"""

from __future__ import annotations

import random
import re
from functools import partial
from typing import Any

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import GeneratorSource, Source
from lightning_mdm.data.stories import tell
from lightning_mdm.data.text import TextDataModule
from lightning_mdm.splits import first_different, hashed_split

N_BUCKETS = 20  # of contents: one is validation, one is test, the rest is training
SPLITS = ("train", "validation", "test")  # as messages name them
# Stories tried for one problem, and problems tried for one more of an evaluation split, before giving up.
MAX_TRIES = 20_000
MAX_REPEATS = 2_000
DEFAULT = Difficulty()
EQUATION = re.compile(r"<<(\d+)((?:[-+*/]\d+)+)=\d+>>")
OPERAND = re.compile(r"([-+*/])(\d+)")

__all__ = ["Difficulty", "WordProblems", "content_of", "generate"]


def content_of(response: str) -> str:
    """The arithmetic of a response, up to the order of commuting operands: what makes two problems the same."""
    steps: list[str] = []
    for first, rest in EQUATION.findall(response):
        operation, operands = rest[0], [first, *(operand for _, operand in OPERAND.findall(rest))]
        steps.append(operation + ",".join(sorted(operands) if operation in "+*" else operands))
    return " ".join(steps)


def generate(split: str, k: int, difficulty: Difficulty, seed: int = 0) -> Problem:
    """Problem number ``k`` of ``split`` ("train", "validation" or "test").

    Args:
        split: decides which arithmetic may occur; no two splits share any.
        k: number of the problem, from 0 without end. Two numbers may give the same problem.
        difficulty: the dial.
        seed: another seed is another stream of problems, over the same division into splits.

    Raises:
        ValueError: an unknown split, or a difficulty that has hardly any problem for it.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the word problems have {', '.join(SPLITS)}")
    rng = random.Random(f"{seed}/{split}/{k}")
    for _ in range(MAX_TRIES):
        told = tell(rng, difficulty)
        if told is None:
            continue
        story, asked = told
        equations = " ".join(story.equations)
        if hashed_split(content_of(equations).encode(), N_BUCKETS) == split:
            return Problem(
                index=k,
                prompt=" ".join(story.sentences),
                response=f"{equations} #### {asked.value}",
                answer=str(asked.value),
                depth=asked.depth,
            )
    raise ValueError(
        f"{difficulty} has hardly any problem for the {split} split: "
        "raise max_value or max_operand, allow more operations, or ask for fewer steps"
    )


class WordProblems(TextDataModule):
    """Built-in word problems: endless training, evaluation splits without duplicates, nothing to download.

    Args:
        difficulty: how hard the problems are.
        n_validation: number of validation problems.
        n_test: number of test problems.
        **options: see ``TextDataModule``.

    Raises:
        ValueError: an option out of its range.
    """

    task = "word_problems"

    def __init__(
        self, difficulty: Difficulty = DEFAULT, n_validation: int = 500, n_test: int = 400, **options: Any
    ) -> None:
        super().__init__(**options)
        for name, value in (("n_validation", n_validation), ("n_test", n_test)):
            if value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        self.difficulty = difficulty
        self.sizes = {"validation": n_validation, "test": n_test}

    def training(self) -> Source:
        return GeneratorSource(partial(generate, "train", difficulty=self.difficulty, seed=self.seed))

    def load_problems(self, split: str) -> list[Problem]:
        """The first problems of a split that differ in content; they depend on the difficulty, never on ``seed``.

        So runs with several seeds are compared on the same problems.
        """
        wanted, make = self.sizes[split], partial(generate, split, difficulty=self.difficulty)
        found = first_different(make, lambda problem: content_of(problem.response), wanted, MAX_REPEATS)
        if len(found) < wanted:
            raise ValueError(
                f"data.n_{split}={wanted}: this difficulty has about {len(found)} different {split} problems; "
                "ask for fewer, or raise data.difficulty"
            )
        return list(found.values())
