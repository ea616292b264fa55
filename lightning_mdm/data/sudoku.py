"""Sudoku as a task: puzzles generated without end or read from files, graded as exact grids.

Test problems are easy (the seven strategies of ``puzzles.sudoku_logic`` finish them) or hard, and rows of results name
their split so. Training, validation and test are disjoint up to symmetry: the hash of a generated puzzle's canonical
form decides its split, and the puzzles of an evaluation file are kept out of training and out of what is generated for
the other evaluation split. Files are evaluated as they are, so two of them may share puzzles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.problem import Grade, Problem, SubproblemKind
from lightning_mdm.data.questions import read_questions
from lightning_mdm.data.sources import GeneratorSource, Source
from lightning_mdm.data.sudoku_layouts import LAYOUTS, Layout, LayoutName, MoveOrder, check_layout
from lightning_mdm.data.sudoku_subproblems import KINDS, kinds_of
from lightning_mdm.puzzles.sudoku import Puzzle, from_text, to_text
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_files import PuzzleFile, checked, read_list, read_puzzles
from lightning_mdm.puzzles.sudoku_generator import (
    Difficulty,
    SudokuOptions,
    base,
    check_difficulty,
    fresh,
    image,
    is_of,
    split_of,
)
from lightning_mdm.puzzles.sudoku_logic import LogicalSolution, solve_logically
from lightning_mdm.puzzles.sudoku_pool import training_stream
from lightning_mdm.splits import first_different
from lightning_mdm.vocabulary import TokenSpace

# Base puzzles in place of excluded ones start here; no pool is that large.
SPARE = 1 << 40
# Generated puzzles in a row that are known already, before an evaluation split is called exhausted.
MAX_REPEATS = 500


@lru_cache(maxsize=1 << 16)
def rounds_of(clues: bytes) -> NDArray[np.int64]:
    """Per cell, the round in which logic solves it, ``[C]``; one past the last for what it does not, 0 for clues."""
    solution = solve_logically(clues)
    rounds_C = np.where(np.frombuffer(clues, np.uint8) > 0, 0, solution.rounds + 1)
    for step in solution.steps:
        rounds_C[step.cell] = step.round
    return rounds_C


def blanks_in(order: MoveOrder, puzzle: Puzzle, rounds: Callable[[], NDArray[np.int64]], seed: str) -> list[int]:
    """The blanks of a puzzle in an order: reading; the solver's rounds, each in reading order; or random."""
    blanks = list(puzzle.blanks)
    if order == "solver":
        rounds_C = rounds()
        blanks.sort(key=lambda cell: rounds_C[cell])
    elif order == "random":
        random.Random(seed).shuffle(blanks)
    return blanks


def problem_of(index: int, puzzle: Puzzle, layout: Layout, cells: Sequence[int], depth: int | None = None) -> Problem:
    """A puzzle in words, its blanks in the order ``cells``."""
    return Problem(index, to_text(puzzle.clues), layout.response(puzzle, cells), to_text(puzzle.grid), depth)


@dataclass(frozen=True)
class Bases:
    """The base puzzles of training, by number.

    Args:
        options: which puzzles are generated.
        stream: their random stream.
        excluded: canonical forms that may not occur.
    """

    options: SudokuOptions
    stream: str
    excluded: frozenset[bytes] = frozenset()

    def __call__(self, number: int) -> Puzzle:
        while True:
            puzzle = base(self.options, self.stream, number, "train")
            if not self.excluded or canonical_form(puzzle) not in self.excluded:
                return puzzle
            number += SPARE


@dataclass(frozen=True)
class Training:
    """Makes training problem ``k``: a base puzzle, each once in a pass over all of them, turned by a symmetry.

    Args:
        bases: base puzzle by number.
        n: how many there are.
        symmetries: whether they are turned.
        layout: of the problems.
        order: of the moves.
        stream: random stream of symmetries and orders.
    """

    bases: Callable[[int], Puzzle]
    n: int
    symmetries: bool
    layout: Layout
    order: MoveOrder
    stream: str

    def __call__(self, k: int) -> Problem:
        number = int(shuffled(self.n, f"{self.stream}/{k // self.n}")[k % self.n])
        puzzle = origin = self.bases(number)
        source_C = np.arange(len(puzzle.grid))
        if self.symmetries:
            puzzle, source_C = image(origin, self.stream, k)
        cells = blanks_in(self.order, puzzle, lambda: rounds_of(origin.clues)[source_C], f"{self.stream}/{k}/order")
        return problem_of(k, puzzle, self.layout, cells)


@lru_cache(maxsize=4)
def shuffled(n: int, stream: str) -> NDArray[np.int64]:
    """The numbers below ``n`` in an order drawn from a stream."""
    return np.random.default_rng(random.Random(stream).getrandbits(64)).permutation(n)


class SudokuProblems(ProblemDataModule):
    """Sudokus.

    Args:
        side: 4 or 9.
        min_clues: fewest digits given in generated puzzles.
        max_clues: most digits given in generated puzzles.
        difficulty: ``easy``, ``hard`` or ``any``, of training and validation.
        test_difficulty: likewise, of the test problems; rows of results name their split ``easy`` or ``hard`` then.
        n_validation: number of validation problems; of a file, at most so many, the first ones.
        n_test: number of test problems, likewise.
        pool: number of base puzzles that generated training puzzles are symmetric images of; they are made as they are
            needed.
        symmetries: whether training puzzles are turned by random symmetries.
        train_path: file of base puzzles for training, text or ``.npz``, instead of generated ones; one that
            ``experiments/sudoku/pool.py`` made is neither proven nor graded again.
        validation_path: file of validation puzzles.
        test_path: file of test puzzles.
        layout: ``grid``, the board with its clues in place, or ``moves``, triples of row, column and digit.
        move_order: order of the blanks in ``moves``: ``reading``, ``solver`` (the order in which logic solves them;
            what it does not solve comes last) or ``random``.
        **options: see ``ProblemDataModule``. A file of ``predict_path`` that is no ``.jsonl`` is any file of puzzles.

    Raises:
        ValueError: an option out of its range.
    """

    task = "sudoku"

    def __init__(
        self,
        side: int = 9,
        min_clues: int = 17,
        max_clues: int = 34,
        difficulty: Difficulty = "easy",
        test_difficulty: Difficulty = "any",
        n_validation: int = 200,
        n_test: int = 400,
        pool: int = 20_000,
        symmetries: bool = True,
        train_path: str | None = None,
        validation_path: str | None = None,
        test_path: str | None = None,
        layout: LayoutName = "grid",
        move_order: MoveOrder = "reading",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, value in (("n_validation", n_validation), ("n_test", n_test), ("pool", pool)):
            if value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        check_difficulty("test_difficulty", test_difficulty)
        check_layout(layout, move_order)
        self.options = SudokuOptions(side, min_clues, max_clues, difficulty)
        self.difficulties: dict[str, Difficulty] = {"validation": difficulty, "test": test_difficulty}
        self.sizes = {"validation": n_validation, "test": n_test}
        self.paths = {"train": train_path, "validation": validation_path, "test": test_path}
        for split, path in self.paths.items():
            if path is not None and path.endswith(".jsonl"):
                raise ValueError(
                    f"data.{split}_path={path!r}: a .jsonl is for data.predict_path; give puzzles one a line as text, "
                    "or an .npz"
                )
        self.files = {path: PuzzleFile(path, side) for path in (validation_path, test_path) if path is not None}
        self.pool = pool
        self.symmetries = symmetries
        self.layout = layout
        self.move_order: MoveOrder = move_order

    @property
    def vocab_size(self) -> int:
        return self.options.side

    @property
    def token_space(self) -> TokenSpace:
        return TokenSpace(self.vocab_size, eos_id=None, pad_id=0)

    @property
    def encoder(self) -> Layout:
        return LAYOUTS[self.layout](self.options.side)

    @property
    def encoding(self) -> str:
        return f"{self.layout} of side {self.options.side}"

    def split_name(self, split: str) -> str:
        """Easy and hard test problems are splits of their own."""
        difficulty = self.difficulties.get(split, "any")
        return difficulty if split == "test" and difficulty != "any" else split

    def decode(self, tokens: Iterable[int]) -> str:
        return self.encoder.decode(tokens)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where the grid is, in whatever order it was filled."""
        clues = self.encoder.clues(problem.prompt)
        grid = None if clues is None else self.encoder.fill(clues, text)
        answer = None if grid is None else to_text(grid)
        return Grade(answer, answer is not None and answer == problem.answer)

    def logic_of(self, problem: Problem) -> LogicalSolution:
        """The cells that logic solves, in order, with the round and the strategy of each."""
        return solve_logically(from_text(problem.prompt))

    def order(self, problem: Problem) -> Sequence[int] | None:
        """The round in which logic solves each blank of the grid; those beyond it come last. ``None`` for moves."""
        if self.layout != "grid":
            return None
        clues = from_text(problem.prompt)
        rounds_C = rounds_of(clues)
        return [int(rounds_C[cell]) for cell, digit in enumerate(clues) if digit == 0]

    @property
    def subproblem_kinds(self) -> tuple[SubproblemKind, ...]:
        """The seven strategies, and two kinds of cells that none of them solves next. None for moves."""
        return KINDS if self.layout == "grid" else ()

    def subproblems(self, problem: Problem, tokens: Sequence[int | None]) -> Sequence[int]:
        clues = from_text(problem.prompt)
        blanks = [cell for cell, digit in enumerate(clues) if not digit]
        board = bytearray(clues)
        for cell, token in zip(blanks, tokens, strict=True):
            board[cell] = 0 if token is None else token + 1
        kinds_C = kinds_of(bytes(board))
        return [kinds_C[cell] for cell in blanks]

    @property
    def one_answer(self) -> bool:
        """Of a grid: moves may come in any order."""
        return self.layout == "grid"

    def training(self) -> Source:
        stream = training_stream(self.seed)
        bases: Callable[[int], Puzzle] = Bases(self.options, stream, self.excluded)
        n = self.pool
        if self.paths["train"] is not None:
            kept = self.training_file(self.paths["train"])
            bases, n = partial(kept.__getitem__), len(kept)
        return GeneratorSource(Training(bases, n, self.symmetries, self.encoder, self.move_order, stream))

    @cached_property
    def excluded(self) -> frozenset[bytes]:
        """Canonical forms of all evaluation puzzles that come from files, whatever their difficulty."""
        for path in self.files:  # minutes, of a list of millions
            rank_zero_info(f"{path} is read and proven as a whole, so that no training puzzle is one of its own")
        return frozenset(canonical_form(puzzle) for file in self.files.values() for puzzle in file)

    def training_file(self, path: str) -> list[Puzzle]:
        """The puzzles of a file that are of the difficulty, and of no evaluation split up to symmetry.

        Raises:
            ValueError: none is left.
        """
        puzzles, origin = read_list(path, self.options.side)
        difficulty = self.options.difficulty
        graded = origin is not None and difficulty in ("any", origin.difficulty)
        alike = puzzles if graded else [p for p in puzzles if is_of(difficulty, p.clues)]
        generated = [split for split in ("validation", "test") if self.paths[split] is None]
        kept = [
            p
            for p in alike
            if not (self.excluded and canonical_form(p) in self.excluded)
            and not (generated and (split_of(p) if origin is None else origin.split) in generated)
        ]
        if not alike:
            raise ValueError(f"data.train_path={path!r} holds no {difficulty} puzzle; give another data.difficulty")
        if not kept:
            kind = "puzzles" if difficulty == "any" else f"{difficulty} puzzles"
            raise ValueError(
                f"data.train_path={path!r}: all of its {len(alike)} {kind} belong to validation or test, "
                "up to symmetry; give others" + (", or files for validation and test too" if generated else "")
            )
        if len(alike) < len(puzzles):
            self.say("train", f"{len(puzzles) - len(alike)} of {len(puzzles)} puzzles are not {difficulty}: left out")
        if len(kept) < len(alike):
            n = len(alike) - len(kept)
            self.say("train", f"{n} of {len(alike)} puzzles belong to validation or test, up to symmetry: left out")
        return kept

    def say(self, split: str, what: str) -> None:
        """Never leave a puzzle of a file out in silence."""
        rank_zero_warn(f"data.{split}_path={self.paths[split]!r}: {what}")

    def problem(self, split: str, index: int, puzzle: Puzzle) -> Problem:
        """A puzzle of an evaluation split in words."""
        logic = solve_logically(puzzle.clues)
        cells = blanks_in(self.move_order, puzzle, partial(rounds_of, puzzle.clues), f"{split}/{index}/order")
        return problem_of(index, puzzle, self.encoder, cells, logic.rounds if logic.finished else None)

    def questions(self, path: str) -> list[Problem]:
        """See ``ProblemDataModule``.

        Raises:
            ValueError: also for a puzzle that is malformed, contradictory, ambiguous or solved, or whose given answer
                is not its solution.
        """
        puzzles: list[Puzzle] = []
        if path.endswith(".jsonl"):
            for question in read_questions(path):
                # A board may be drawn in several lines.
                text, answer = ("".join(part.split()) for part in (question.text, question.answer))
                try:
                    puzzles.append(checked(text, [answer], self.options.side))
                except ValueError as error:
                    raise ValueError(f"{question.where}: {error}") from error
        else:
            puzzles = read_puzzles(path, self.options.side)
        return [self.problem("predict", index, puzzle) for index, puzzle in enumerate(puzzles)]

    def load_problems(self, split: str) -> list[Problem]:
        """Validation or test problems; those generated depend on the puzzle options and on what is excluded alone.

        So ``seed`` does not matter. Of a file no more is read than is needed.
        """
        path, difficulty, wanted = self.paths[split], self.difficulties[split], self.sizes[split]
        if path is None:
            return [self.problem(split, index, puzzle) for index, puzzle in self.generated(split).items()]
        problems: list[Problem] = []
        others, stopped = 0, False
        for index, puzzle in enumerate(self.files[path]):
            stopped = len(problems) == wanted
            if stopped:
                break
            problem = self.problem(split, index, puzzle)
            if difficulty == "any" or (problem.depth is not None) == (difficulty == "easy"):
                problems.append(problem)
            else:
                others += 1
        if not problems:
            raise ValueError(f"data.{split}_path={path!r} holds no {difficulty} puzzle; give another difficulty")
        read = len(problems) + others
        if others:
            self.say(split, f"{others} of {read} puzzles are not {difficulty}: left out")
        if stopped:
            self.say(split, f"reading stopped after {read} puzzles, at data.n_{split}={wanted}: the rest is left out")
        return problems

    def generated(self, split: str) -> dict[int, Puzzle]:
        """The first generated puzzles of a split that are images neither of each other nor of a file's, by number.

        Raises:
            ValueError: there are not so many.
        """
        options, wanted = replace(self.options, difficulty=self.difficulties[split]), self.sizes[split]
        make = partial(fresh, options, split, split=split)
        found = first_different(make, canonical_form, wanted, MAX_REPEATS, self.excluded)  # of the other split's file
        if len(found) < wanted:
            raise ValueError(
                f"data.n_{split}={wanted}: there are about {len(found)} different {split} puzzles with "
                f"{options.min_clues} to {options.max_clues} clues; ask for fewer, or widen the range"
            )
        return found
