"""Zebra puzzles as a task: clues as symbols in, the table of the solution out. Knows nothing of nets.

A prompt is the puzzle's text, one token per word, and ``?``; a response is the table house by house, one item per cell,
so that a cell's place says which house and attribute it belongs to. Or it is *moves*: pairs of a house and an item, in
an order that training teaches; read back, any order will do. Prompts may be padded in front, so that a cell stands at
the same place of every row. Puzzle ``k`` of a split is a pure function of ``(seed, law, split, k)``. Splits are
disjoint by content: the hash of a puzzle's clues, whatever names and order they are told in, decides its split.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from lightning_mdm.data.batch import Example
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.laws import TokenNames
from lightning_mdm.data.problem import Grade, Problem, SubproblemKind
from lightning_mdm.data.questions import Question, read_questions
from lightning_mdm.data.sources import GeneratorSource, Source
from lightning_mdm.puzzles.zebra import Zebra, draw_puzzle
from lightning_mdm.puzzles.zebra_clues import KINDS, Item, Puzzle, Table, item_of, parse_puzzle, parse_table, table_text
from lightning_mdm.puzzles.zebra_logic import rounds_of
from lightning_mdm.puzzles.zebra_solver import solutions
from lightning_mdm.splits import SPLITS, first_different, hashed_split
from lightning_mdm.vocabulary import TokenSpace

DEFAULT = Zebra()
ASK, PAD = "?", "_"
N_BUCKETS = 8  # of contents: one is validation, one is test, the rest is training
# Puzzles drawn for one problem, and problems in a row that an evaluation split has already, before giving up.
MAX_TRIES = 2_000
MAX_REPEATS = 200

LayoutName = Literal["table", "moves"]
MoveOrder = Literal["reading", "solver"]
SUBPROBLEMS = (
    SubproblemKind("one round of clues", ready=True),
    SubproblemKind("several rounds", ready=False),
    SubproblemKind("beyond single clues", ready=False),
)


def names_of(law: Zebra) -> TokenNames:
    """Items, house numbers and sizes, kinds of clues, ``?`` and ``_`` for padding; the items come first."""
    items = (str(Item(a, v)) for a in range(law.max_attributes) for v in range(law.max_houses))
    numbers = (str(n) for n in range(1, max(law.max_houses, law.max_attributes) + 1))
    return TokenNames((*items, *numbers, *KINDS, ASK, PAD))


def moves_text(puzzle: Puzzle, table: Table, order: MoveOrder) -> str:
    """The cells of a table as moves, house and item, in reading order or in that of ``zebra_logic``."""
    cells = [(house, attribute) for house in range(puzzle.houses) for attribute in range(puzzle.attributes)]
    if order == "solver":
        rounds = rounds_of(puzzle)
        last = 1 + max(rounds.values(), default=0)
        cells.sort(key=lambda cell: rounds.get(cell, last))
    return " ".join(f"{house + 1} {Item(attribute, table[house][attribute])}" for house, attribute in cells)


def generate(
    split: str, k: int, law: Zebra, seed: int = 0, layout: LayoutName = "table", move_order: MoveOrder = "reading"
) -> Problem:
    """Problem number ``k`` of ``split`` ("train", "validation" or "test").

    Args:
        split: decides which contents may occur; no two splits share any.
        k: number of the problem, from 0 without end. Two numbers may, rarely, give the same puzzle.
        law: how puzzles are drawn.
        seed: another seed is another stream of puzzles, over the same division into splits.
        layout: of the response.
        move_order: of moves.

    Raises:
        ValueError: an unknown split, or a law that has hardly any puzzle for it.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: the zebra puzzles have {', '.join(SPLITS)}")
    rng = random.Random(f"{law.seed}/{seed}/{split}/{k}")
    for _ in range(MAX_TRIES):
        drawn = draw_puzzle(law, rng)
        if hashed_split(drawn.content.encode(), N_BUCKETS) == split:
            answer = table_text(drawn.table)
            response = answer if layout == "table" else moves_text(drawn.puzzle, drawn.table, move_order)
            return Problem(k, drawn.puzzle.text, response, answer)
    raise ValueError(f"{law} has hardly any puzzle for the {split} split: allow more kinds of clues, or larger puzzles")


def told(problem: Problem) -> str:
    """The clues of a puzzle under the names it has, in whatever order: two of the same are one puzzle."""
    return " ".join(sorted(str(clue.normal) for clue in parse_puzzle(problem.prompt).clues))


def table_of_moves(text: str, puzzle: Puzzle) -> str | None:
    """The table, as text, that moves make, in whatever order; ``None`` where they do not fill each cell once."""
    words, found = text.split(), dict[tuple[int, int], str]()
    for house, word in zip(words[::2], words[1::2], strict=False):
        item = item_of(word)
        if item is None or not (house.isascii() and house.isdigit()):
            return None
        found[int(house) - 1, item.attribute] = word
    cells = [(house, attribute) for house in range(puzzle.houses) for attribute in range(puzzle.attributes)]
    if len(words) != 2 * len(cells) or set(found) != set(cells):
        return None
    return " ".join(found[cell] for cell in cells)


@dataclass(frozen=True)
class ZebraEncoder:
    """Encodes puzzles; calling it gives ``None`` for a text that is no puzzle of these sizes.

    Args:
        names: tokens as text.
        per_cell: tokens of the response per cell of the table.
        prompt_words: see ``ZebraPuzzles``.
    """

    names: TokenNames
    per_cell: int
    prompt_words: int | None = None

    def __call__(self, problem: Problem) -> Example | None:
        words = [*problem.prompt.split(), ASK]
        if self.prompt_words is not None:
            words[:0] = [PAD] * (self.prompt_words - len(words))
            if len(words) > self.prompt_words:
                return None
        prompt = self.names.tokens(" ".join(words))
        try:
            puzzle = parse_puzzle(problem.prompt)
        except ValueError:
            return None
        cells = puzzle.houses * puzzle.attributes * self.per_cell
        response = self.names.tokens(problem.response) if problem.response else [0] * cells
        if prompt is None or response is None or len(response) != cells:
            return None
        return Example.of(prompt, response, problem.index)


class ZebraPuzzles(ProblemDataModule):
    """Zebra puzzles with one solution each.

    Args:
        law: how puzzles are drawn.
        n_validation: number of validation puzzles.
        n_test: number of test puzzles.
        layout: ``table``, house by house, or ``moves``, pairs of a house and an item.
        move_order: order of the cells in ``moves``: ``reading``, or ``solver`` (the rounds in which clues find them;
            what they do not find comes last).
        prompt_words: prompts are padded in front to so many tokens, the ``?`` among them, and puzzles with longer ones
            are left out; ``None`` pads nothing. With ``net.positions`` a cell then has an embedding of its own.
        **options: see ``ProblemDataModule``. A file of ``predict_path`` holds puzzles as text.

    Raises:
        ValueError: an option out of its range.
    """

    task = "zebra"
    canvas_hint = "raise data.prompt_words, or leave it out, so that prompts may have any length"

    def __init__(
        self,
        law: Zebra = DEFAULT,
        n_validation: int = 500,
        n_test: int = 1000,
        layout: LayoutName = "table",
        move_order: MoveOrder = "reading",
        prompt_words: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, choice, known in (
            ("layout", layout, get_args(LayoutName)),
            ("move_order", move_order, get_args(MoveOrder)),
        ):
            if choice not in known:
                raise ValueError(f"data.{name}={choice!r}: choose one of {', '.join(known)}")
        if layout == "table" and move_order != "reading":
            raise ValueError(
                f"data.move_order={move_order!r}: a table has no order of moves; give data.layout=moves, or leave it "
                "out"
            )
        for name, value in (("n_validation", n_validation), ("n_test", n_test), ("prompt_words", prompt_words)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        self.law = law
        self.names = names_of(law)
        self.sizes = {"validation": n_validation, "test": n_test}
        self.layout: LayoutName = layout
        self.move_order: MoveOrder = move_order
        self.prompt_words = prompt_words

    @property
    def vocab_size(self) -> int:
        return len(self.names.names)

    @property
    def token_space(self) -> TokenSpace:
        allowed = self.law.max_attributes * self.law.max_houses
        if self.layout == "moves":
            allowed += max(self.law.max_houses, self.law.max_attributes)  # numbers follow the items
        return TokenSpace(self.vocab_size, None, self.vocab_size - 1, tuple(range(allowed, self.vocab_size)))

    @property
    def encoder(self) -> ZebraEncoder:
        return ZebraEncoder(self.names, {"table": 1, "moves": 2}[self.layout], self.prompt_words)

    @property
    def encoding(self) -> str:
        padding = [] if self.prompt_words is None else [f"prompt_words={self.prompt_words}"]
        return " ".join([*self.names.names, *([] if self.layout == "table" else [self.layout]), *padding])

    def decode(self, tokens: Iterable[int]) -> str:
        return self.names.text(tokens)

    def training(self) -> Source:
        return GeneratorSource(self.maker("train"))

    def maker(self, split: str) -> Callable[[int], Problem]:
        """Makes the problems of a split from their numbers; it travels to worker processes."""
        seed = self.seed if split == "train" else 0
        return partial(generate, split, law=self.law, seed=seed, layout=self.layout, move_order=self.move_order)

    def load_problems(self, split: str) -> list[Problem]:
        """The first puzzles of a split that are told differently; they depend on the law, never on ``data.seed``.

        So runs with several seeds are compared on the same puzzles.
        """
        wanted = self.sizes[split]
        found = first_different(self.maker(split), told, wanted, MAX_REPEATS)
        if len(found) < wanted:
            raise ValueError(
                f"data.n_{split}={wanted}: this law has about {len(found)} different {split} puzzles; ask for fewer, "
                "or for larger puzzles"
            )
        return list(found.values())

    def questions(self, path: str) -> list[Problem]:
        """See ``ProblemDataModule``.

        Raises:
            ValueError: also for a puzzle that is malformed, too large, contradictory or ambiguous, or whose given
                answer is not its solution.
        """
        return [self.solved(index, question) for index, question in enumerate(read_questions(path))]

    def solved(self, index: int, question: Question) -> Problem:
        """A user's puzzle with its solution."""
        where = question.where
        try:
            puzzle = parse_puzzle(question.text)
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
        if question.answer and question.answer.split() != answer.split():
            raise ValueError(f"{where}: contradictory: the answer given is not the puzzle's, which is {answer}")
        response = answer if self.layout == "table" else moves_text(puzzle, tables[0], self.move_order)
        return Problem(index, question.text, response, answer)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where the whole table is the only one that makes every clue true; the score is the share of cells."""
        puzzle = parse_puzzle(problem.prompt)
        if self.layout == "moves":
            moved = table_of_moves(text, puzzle)
            if moved is None:
                return Grade(None, False, 0.0)
            text = moved
        cells, right = text.split(), problem.answer.split()
        if len(cells) != len(right):
            return Grade(None, False, 0.0)
        table = parse_table(text, puzzle.houses, puzzle.attributes)
        share = sum(cell == wanted for cell, wanted in zip(cells, right, strict=True)) / len(right)
        return Grade(text, table is not None and puzzle.solved_by(table), share)

    def order(self, problem: Problem) -> Sequence[int] | None:
        """The round in which clues find each cell of the table; cells that they do not find come last."""
        if self.layout != "table":
            return None
        rounds, cells = rounds_of(parse_puzzle(problem.prompt)), self.cells(problem)
        return [rounds.get(cell, 1 + max(rounds.values(), default=0)) for cell in cells]

    @property
    def subproblem_kinds(self) -> tuple[SubproblemKind, ...]:
        """What clues say at once, what they say in several rounds, and the rest. None for moves."""
        return SUBPROBLEMS if self.layout == "table" else ()

    def subproblems(self, problem: Problem, tokens: Sequence[int | None]) -> Sequence[int]:
        cells, known = self.cells(problem), dict[tuple[int, int], int]()
        for cell, token in zip(cells, tokens, strict=True):
            item = None if token is None else item_of(self.names.names[token])
            if item is not None:
                known[cell] = item.value
        rounds = rounds_of(parse_puzzle(problem.prompt), known)
        return [2 if cell not in rounds else int(rounds[cell] > 1) for cell in cells]

    @property
    def one_answer(self) -> bool:
        """Of a table: moves may come in any order."""
        return self.layout == "table"

    @staticmethod
    def cells(problem: Problem) -> list[tuple[int, int]]:
        """House and attribute of every cell of a problem's table, in its order."""
        puzzle = parse_puzzle(problem.prompt)
        return [(house, attribute) for house in range(puzzle.houses) for attribute in range(puzzle.attributes)]
