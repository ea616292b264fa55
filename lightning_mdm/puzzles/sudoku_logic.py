"""Solving a Sudoku as people do, by seven strategies and without guessing: in which order can its cells be solved?

The strategies are those of Shah et al. 2024 (arXiv 2409.10502) and Kim et al. 2025 (arXiv 2502.06768), in the order in
which the latter lists them; a *candidate* is a digit that a cell may still hold. In rounds, the first strategy that
achieves anything is applied **everywhere at once**, judged by one and the same state of the board. So the outcome does
not depend on the order in which cells are looked at, and a puzzle turned, permuted or relabelled is solved in the very
same rounds: ``easy`` (these strategies finish) and ``hard`` (they do not) are properties of a puzzle's class. The last
strategy argues from uniqueness: all this is for puzzles with exactly one solution. Knows nothing of how they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import combinations

from lightning_mdm.puzzles.sudoku import Board, board_of, members


class Strategy(IntEnum):
    """What a placement needs; the order is that of difficulty."""

    LONE_SINGLE = 1
    """A cell with one candidate left holds it."""
    HIDDEN_SINGLE = 2
    """A digit with one cell left in a unit stands there."""
    NAKED_PAIR = 3
    """Two cells of a unit with the same two candidates: the unit's other cells hold neither."""
    NAKED_TRIPLET = 4
    """Three cells of a unit with candidates among three digits: the unit's other cells hold none of them."""
    LOCKED_CANDIDATE = 5
    """All of a box's cells for a digit lie in one line, or a line's in one box: no other cell of either holds it."""
    XY_WING = 6
    """Cells {x, z} and {y, z} that see a cell {x, y}: what sees both of them does not hold z."""
    UNIQUE_RECTANGLE = 7
    """Three corners {a, b} of a blank rectangle in two boxes: the fourth holds neither, or a and b could be swapped."""


@dataclass(frozen=True)
class Step:
    """A cell solved.

    Args:
        cell: which one.
        digit: what it holds.
        strategy: the hardest strategy needed since the placements before this one.
        round: number of the placements at once that it belongs to, from 1: cells of a round can be solved together.
    """

    cell: int
    digit: int
    strategy: Strategy
    round: int


@dataclass(frozen=True)
class LogicalSolution:
    """How far logic gets.

    Args:
        steps: the cells solved, in an order in which that is possible; those of a round in reading order.
        finished: whether these are all.
    """

    steps: tuple[Step, ...]
    finished: bool

    @property
    def rounds(self) -> int:
        """Number of rounds of placements."""
        return self.steps[-1].round if self.steps else 0

    @property
    def hardest(self) -> Strategy | None:
        """The hardest strategy that was needed, ``None`` where nothing was solved."""
        return max((step.strategy for step in self.steps), default=None)

    @property
    def stays_finished(self) -> bool:
        """Whether logic is known to finish with any further digits of the solution as clues, too.

        Six strategies conclude from a board what they, or singles, conclude from one with more on it. A rectangle says
        something only as long as its corners are blank.
        """
        return self.finished and self.hardest != Strategy.UNIQUE_RECTANGLE


def solve_logically(clues: bytes) -> LogicalSolution:
    """Solve a puzzle with exactly one solution as far as the seven strategies go.

    Args:
        clues: digits, 0 for a blank, ``[cells]``.

    Raises:
        ValueError: the clues contradict each other (not every contradiction is found, and nothing is promised for
            puzzles with several solutions).
    """
    position = Position.of(clues)
    steps: list[Step] = []
    needed, rounds = Strategy.LONE_SINGLE, 0
    while position.blank:
        placements = position.lone_singles()
        single = Strategy.LONE_SINGLE
        if not placements:
            placements, single = position.hidden_singles(), Strategy.HIDDEN_SINGLE
        if placements:
            rounds += 1
            strategy = max(needed, single)
            position.place(placements)
            steps += [Step(cell, index + 1, strategy, rounds) for cell, index in sorted(placements.items())]
            needed = Strategy.LONE_SINGLE
            continue
        applied = position.apply_easiest()
        if applied is None:
            break
        needed = max(needed, applied)
    return LogicalSolution(tuple(steps), not position.blank)


def solvable_next(clues: bytes) -> dict[int, Strategy]:
    """The blanks that can be solved without solving another one first, each with what that takes.

    The first strategy that takes any candidate away is applied everywhere at once, again and again; a cell's strategy
    is the hardest one applied before it turned into a lone or a hidden single.

    Args:
        clues: digits of a puzzle with exactly one solution, 0 for a blank, ``[cells]``.

    Raises:
        ValueError: as ``solve_logically``.
    """
    position = Position.of(clues)
    found: dict[int, Strategy] = {}
    needed: Strategy | None = Strategy.LONE_SINGLE
    while needed is not None:
        for single, cells in (
            (Strategy.LONE_SINGLE, position.lone_singles()),
            (Strategy.HIDDEN_SINGLE, position.hidden_singles()),
        ):
            for cell in cells:
                found.setdefault(cell, max(needed, single))
        applied = position.apply_easiest()
        needed = None if applied is None else max(needed, applied)
    return found


class Position:
    """What is known in the middle of solving.

    Attributes:
        candidates: per digit, counted from 0, the bitboard of cells that may hold it or are known to.
        blank: bitboard of the cells not solved yet.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.blank = (1 << board.cells) - 1
        self.candidates = [self.blank] * board.side

    @classmethod
    def of(cls, clues: bytes) -> Position:
        """What the clues say."""
        position = cls(board_of(len(clues)))
        position.place({cell: digit - 1 for cell, digit in enumerate(clues) if digit})
        return position

    def place(self, placements: Mapping[int, int]) -> None:
        """Cells hold digits, counted from 0: no other digit, and no cell that they see does."""
        if not placements:
            return
        side, peers = self.board.side, self.board.peers
        filled, held, seen = 0, [0] * side, [0] * side
        for cell, index in placements.items():
            bit = 1 << cell
            filled |= bit
            held[index] |= bit
            seen[index] |= peers[cell]
        candidates = []
        for cells, own, others in zip(self.candidates, held, seen, strict=True):
            wrong = own & (others | ~cells)
            if wrong:
                cell = members(wrong)[-1]
                raise ValueError(f"contradictory clues: {self.board.name(cell)} cannot be {placements[cell] + 1}")
            candidates.append(cells & ~(filled | others) | own)
        self.candidates = candidates
        self.blank &= ~filled

    def fill(self, cell: int, index: int) -> None:
        """``place`` of a digit that is known to be a candidate, in a single cell: the quick way."""
        bit = 1 << cell
        self.candidates = [cells & ~bit for cells in self.candidates]
        self.candidates[index] = self.candidates[index] & ~self.board.peers[cell] | bit
        self.blank &= ~bit

    def eliminate(self, found: Sequence[tuple[int, int]]) -> bool:
        """Take digits off cells, all at once; whether that changed anything."""
        changed = 0
        for index, cells in found:
            changed |= self.candidates[index] & cells
            self.candidates[index] &= ~cells
        return changed != 0

    def apply_easiest(self) -> Strategy | None:
        """Eliminate by the first strategy that achieves anything; ``None`` where none does."""
        return next((strategy for strategy, find in ELIMINATIONS.items() if self.eliminate(find(self))), None)

    def counted(self) -> tuple[int, int, int]:
        """Bitboards of the blank cells with exactly one, two and three candidates.

        Raises:
            ValueError: a cell has none.
        """
        one = two = three = four = 0  # at least so many
        for cells in self.candidates:
            four |= three & cells
            three |= two & cells
            two |= one & cells
            one |= cells
        if self.blank & ~one:
            raise ValueError(f"contradictory clues: no digit fits {self.board.name(members(self.blank & ~one)[0])}")
        return one & ~two & self.blank, two & ~three, three & ~four  # a cell that is not blank has one

    def lone_singles(self) -> dict[int, int]:
        """Digits, counted from 0, of cells with one candidate."""
        single = self.counted()[0]
        if not single:
            return {}
        return {cell: index for index, cells in enumerate(self.candidates) for cell in members(cells & single)}

    def hidden_singles(self) -> dict[int, int]:
        """Digits, counted from 0, of the cells where alone a unit's digit can stand."""
        found: dict[int, int] = {}
        for index, cells in enumerate(self.candidates):
            cells &= self.blank
            for unit in self.board.units if cells else ():
                there = cells & unit
                if there and not there & (there - 1):
                    found[there.bit_length() - 1] = index
        return found

    def pairs(self) -> dict[int, tuple[int, int]]:
        """The two candidates of each cell that has two."""
        two = self.counted()[1]
        held: dict[int, list[int]] = {cell: [] for cell in members(two)}
        for index, cells in enumerate(self.candidates):
            for cell in members(cells & two):
                held[cell].append(index)
        return {cell: (first, second) for cell, (first, second) in held.items()}


def naked(position: Position, size: int) -> list[tuple[int, int]]:
    """``size`` cells of a unit whose candidates are among as many digits: nothing else of the unit holds these."""
    _, two, three = position.counted()
    few = two | three if size == 3 else two
    if few.bit_count() < size:
        return []
    found = []
    candidates, units = position.candidates, position.board.units
    for digits, others in subsets(position.board.side, size):
        within = few
        for index in others:
            within &= ~candidates[index]
            if not within:
                break
        if within.bit_count() < size:
            continue
        for unit in units:
            if (within & unit).bit_count() == size:
                found += [(index, unit & ~within & position.blank) for index in digits]
    return found


@cache
def subsets(side: int, size: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All sets of ``size`` digits, counted from 0, each with the digits that are not in it."""
    return [
        (digits, tuple(index for index in range(side) if index not in digits))
        for digits in combinations(range(side), size)
    ]


def naked_pair(position: Position) -> list[tuple[int, int]]:
    """See ``Strategy.NAKED_PAIR``."""
    return naked(position, 2)


def naked_triplet(position: Position) -> list[tuple[int, int]]:
    """See ``Strategy.NAKED_TRIPLET``."""
    return naked(position, 3)


def locked_candidate(position: Position) -> list[tuple[int, int]]:
    """See ``Strategy.LOCKED_CANDIDATE``."""
    found = []
    for index, cells in enumerate(position.candidates):
        for box, line in position.board.crossings:
            if cells & box & line:
                in_box, in_line = cells & box & ~line, cells & line & ~box
                if in_box and not in_line:
                    found.append((index, in_box))
                elif in_line and not in_box:
                    found.append((index, in_line))
    return found


def xy_wing(position: Position) -> list[tuple[int, int]]:
    """See ``Strategy.XY_WING``."""
    pairs, peers = position.pairs(), position.board.peers
    found = []
    for pivot, (x, y) in pairs.items():
        wings: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for wing, pair in pairs.items():
            if peers[pivot] >> wing & 1 and (x in pair) != (y in pair):
                shared = x if x in pair else y
                wings[shared == x].append((wing, pair[0] if pair[1] == shared else pair[1]))
        for first, z in wings[True]:
            for second, other in wings[False]:
                if other == z:
                    found.append((z, peers[first] & peers[second] & position.blank))
    return found


def unique_rectangle(position: Position) -> list[tuple[int, int]]:
    """See ``Strategy.UNIQUE_RECTANGLE``."""
    alike: dict[tuple[int, int], int] = {}
    for cell, pair in position.pairs().items():
        alike[pair] = alike.get(pair, 0) | 1 << cell
    found = []
    for pair, cells in alike.items():
        if cells.bit_count() < 3:
            continue
        for corners in position.board.rectangles:
            fourth = corners & ~cells
            if not fourth & (fourth - 1) and fourth & position.blank:
                found += [(index, fourth) for index in pair]
    return found


ELIMINATIONS: dict[Strategy, Callable[[Position], list[tuple[int, int]]]] = {
    Strategy.NAKED_PAIR: naked_pair,
    Strategy.NAKED_TRIPLET: naked_triplet,
    Strategy.LOCKED_CANDIDATE: locked_candidate,
    Strategy.XY_WING: xy_wing,
    Strategy.UNIQUE_RECTANGLE: unique_rectangle,
}
