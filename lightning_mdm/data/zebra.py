"""Zebra puzzles as a task: clues as symbols in, the table of the solution out. Knows nothing of nets.

A prompt is the puzzle's text, one token per word, and ``?``; a response is the table house by house, one item per cell,
so that a cell's place says which house and attribute it belongs to. Puzzle ``k`` of a split is a pure function of
``(seed, law, split, k)``. Splits are disjoint by content: the hash of a puzzle's clues, whatever names and order they
are told in, decides the split it may occur in.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from lightning_mdm.data.batch import Example
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.laws import TokenNames
from lightning_mdm.data.problem import Grade, Problem
from lightning_mdm.data.sources import GeneratorSource, Source
from lightning_mdm.puzzles.zebra import Zebra, draw_puzzle
from lightning_mdm.puzzles.zebra_clues import KINDS, Item, parse_puzzle, parse_table, table_text
from lightning_mdm.puzzles.zebra_solver import solutions
from lightning_mdm.vocabulary import TokenSpace

DEFAULT = Zebra()
ASK, PAD = "?", "_"
# Of eight buckets of contents, one is validation, one is test, the rest is training.
N_BUCKETS = 8
BUCKETS = {"validation": range(0, 1), "test": range(1, 2), "train": range(2, N_BUCKETS)}
# Puzzles drawn for one problem, and problems in a row that an evaluation split has already, before giving up.
MAX_TRIES = 2_000
MAX_REPEATS = 200


def names_of(law: Zebra) -> TokenNames:
    """Items, house numbers and sizes, kinds of clues, ``?`` and ``_`` for padding; the items come first."""
    items = (str(Item(a, v)) for a in range(law.max_attributes) for v in range(law.max_houses))
    numbers = (str(n) for n in range(1, max(law.max_houses, law.max_attributes) + 1))
    return TokenNames((*items, *numbers, *KINDS, ASK, PAD))


def split_of(content: str) -> str:
    """The one split that may hold puzzles of this content."""
    bucket = zlib.crc32(content.encode()) % N_BUCKETS
    return next(split for split, buckets in BUCKETS.items() if bucket in buckets)


def generate(split: str, k: int, law: Zebra, seed: int = 0) -> Problem:
    """Problem number ``k`` of ``split`` ("train", "validation" or "test").

    Args:
        split: decides which contents may occur; no two splits share any.
        k: number of the problem, from 0 without end. Two numbers may, rarely, give the same puzzle.
        law: how puzzles are drawn.
        seed: another seed is another stream of puzzles, over the same division into splits.

    Raises:
        ValueError: an unknown split, or a law that has hardly any puzzle for it.
    """
    if split not in BUCKETS:
        raise ValueError(f"split {split!r}: the zebra puzzles have {', '.join(BUCKETS)}")
    rng = random.Random(f"{law.seed}/{seed}/{split}/{k}")
    for _ in range(MAX_TRIES):
        drawn = draw_puzzle(law, rng)
        if split_of(drawn.content) == split:
            answer = table_text(drawn.table)
            return Problem(k, drawn.puzzle.text, answer, answer)
    raise ValueError(f"{law} has hardly any puzzle for the {split} split: allow more kinds of clues, or larger puzzles")


@dataclass(frozen=True)
class ZebraEncoder:
    """Encodes puzzles; calling it gives ``None`` for a text that is no puzzle of these sizes.

    Args:
        names: tokens as text.
    """

    names: TokenNames

    def __call__(self, problem: Problem) -> Example | None:
        prompt = self.names.tokens(f"{problem.prompt} {ASK}")
        try:
            puzzle = parse_puzzle(problem.prompt)
        except ValueError:
            return None
        cells = puzzle.houses * puzzle.attributes
        response = self.names.tokens(problem.response) if problem.response else [0] * cells
        if prompt is None or response is None or len(response) != cells:
            return None
        return Example(prompt + response, [True] * len(prompt) + [False] * len(response), problem.index)


class ZebraPuzzles(ProblemDataModule):
    """Zebra puzzles with one solution each.

    Args:
        law: how puzzles are drawn.
        n_validation: number of validation puzzles.
        n_test: number of test puzzles.
        **options: see ``ProblemDataModule``. A file of ``predict_path`` holds puzzles as text.

    Raises:
        ValueError: an option out of its range.
    """

    task = "zebra"

    def __init__(self, law: Zebra = DEFAULT, n_validation: int = 500, n_test: int = 1000, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("n_validation", n_validation), ("n_test", n_test)):
            if value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        self.law = law
        self.names = names_of(law)
        self.sizes = {"validation": n_validation, "test": n_test}

    @property
    def vocab_size(self) -> int:
        return len(self.names.names)

    @property
    def token_space(self) -> TokenSpace:
        items = self.law.max_attributes * self.law.max_houses
        return TokenSpace(self.vocab_size, None, self.vocab_size - 1, tuple(range(items, self.vocab_size)))

    @property
    def encoder(self) -> ZebraEncoder:
        return ZebraEncoder(self.names)

    @property
    def encoding(self) -> str:
        return " ".join(self.names.names)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.names.text(tokens)

    def training(self) -> Source:
        return GeneratorSource(self.maker("train"))

    def maker(self, split: str) -> Callable[[int], Problem]:
        """Makes the problems of a split from their numbers; it travels to worker processes."""
        return partial(generate, split, law=self.law, seed=self.seed if split == "train" else 0)

    def load_problems(self, split: str) -> list[Problem]:
        """The first puzzles of a split that differ in content; they depend on the law, never on ``data.seed``.

        So runs with several seeds are compared on the same puzzles.
        """
        wanted, make = self.sizes[split], self.maker(split)
        found: dict[str, Problem] = {}
        k = repeats = 0
        while len(found) < wanted and repeats <= MAX_REPEATS:
            problem = make(k)
            k, repeats = k + 1, repeats + 1
            # The same clues in another order are the same puzzle, under the same names.
            told = " ".join(sorted(str(clue.normal) for clue in parse_puzzle(problem.prompt).clues))
            if found.setdefault(told, problem) is problem:
                repeats = 0
        if len(found) < wanted:
            raise ValueError(
                f"data.n_{split}={wanted}: this law has about {len(found)} different {split} puzzles; ask for fewer, "
                "or for larger puzzles"
            )
        return list(found.values())

    def problems(self, split: str) -> list[Problem]:
        """See ``ProblemDataModule``.

        Raises:
            ValueError: also for a user's puzzle that is malformed, too large, contradictory or ambiguous.
        """
        new = split not in self._problems
        found = super().problems(split)
        if split == "predict" and self.predict_path is not None and new:
            self._problems[split] = found = [self.solved(problem) for problem in found]
        return found

    def solved(self, problem: Problem) -> Problem:
        """A user's puzzle with its solution."""
        where = f"{self.predict_path}: puzzle {problem.index + 1}"
        try:
            puzzle = parse_puzzle(problem.prompt)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if puzzle.houses > self.law.max_houses or puzzle.attributes > self.law.max_attributes:
            raise ValueError(
                f"{where}: {puzzle.houses} houses and {puzzle.attributes} attributes are more than "
                f"data.law.max_houses={self.law.max_houses} and data.law.max_attributes={self.law.max_attributes}"
            )
        tables = solutions(puzzle, limit=2)
        if len(tables) != 1:
            why = "the clues contradict each other" if not tables else "the clues leave more than one solution"
            raise ValueError(f"{where}: {why}")
        answer = table_text(tables[0])
        return Problem(problem.index, problem.prompt, answer, answer)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where the whole table is the only one that makes every clue true; the score is the share of cells."""
        puzzle = parse_puzzle(problem.prompt)
        cells, right = text.split(), problem.answer.split()
        if len(cells) != len(right):
            return Grade(None, False, 0.0)
        table = parse_table(text, puzzle.houses, puzzle.attributes)
        share = sum(cell == wanted for cell, wanted in zip(cells, right, strict=True)) / len(right)
        return Grade(text, table is not None and puzzle.solved_by(table), share)
