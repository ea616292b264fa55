"""Zebra puzzles as propositional formulas: all solutions of a puzzle, and proofs that clues leave only one.

x[item, house] is one variable. Knows python-sat; knows nothing of how puzzles are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import combinations

from pysat.solvers import Minisat22

from lightning_mdm.puzzles.zebra_clues import Clue, Item, Puzzle, Table

Clause = list[int]


def solutions(puzzle: Puzzle, limit: int = 2) -> list[Table]:
    """All solutions of a puzzle, at most ``limit``; the first ones that are found."""
    E, A = puzzle.houses, puzzle.attributes
    found: list[Table] = []
    with Minisat22(bootstrap_with=list(permutations_of(E, A))) as solver:
        for clue in puzzle.clues:
            solver.append_formula(clauses_of(clue, E))
        while len(found) < limit and solver.solve():
            true = {v for v in solver.get_model() if v > 0}
            table = tuple(
                tuple(next(v for v in range(E) if variable(Item(a, v), h, E) in true) for a in range(A))
                for h in range(E)
            )
            found.append(table)
            solver.add_clause(
                [-variable(Item(a, value), h, E) for h, row in enumerate(table) for a, value in enumerate(row)]
            )
    return found


class Uniqueness:
    """Whether clues leave one solution, for puzzles of one size whose solution is "every value in its own house".

    One solver for all questions: a clue's clauses are switched on by an assumption. Nothing but the answers is read,
    never a model or a core, so that what the solver has learned before can change the time alone.

    Args:
        houses: E.
        attributes: A.
    """

    def __init__(self, houses: int, attributes: int) -> None:
        self.houses = houses
        self.solver = Minisat22(bootstrap_with=list(permutations_of(houses, attributes)))
        # Another solution has some value elsewhere.
        self.solver.add_clause([-variable(Item(a, v), v, houses) for a in range(attributes) for v in range(houses)])
        self.next = houses * houses * attributes
        self.switch: dict[Clue, int] = {}

    def proved(self, clues: Iterable[Clue]) -> bool:
        """Whether no other table makes all of ``clues`` true."""
        return not self.solver.solve(assumptions=[self._switch(clue) for clue in clues])

    def _switch(self, clue: Clue) -> int:
        if clue not in self.switch:
            self.next += 1
            self.switch[clue] = self.next
            for clause in clauses_of(clue, self.houses):
                self.solver.add_clause([-self.next, *clause])
        return self.switch[clue]


@lru_cache(maxsize=32)
def uniqueness(houses: int, attributes: int) -> Uniqueness:
    """The solver of a size, one per process."""
    return Uniqueness(houses, attributes)


def variable(item: Item, house: int, houses: int) -> int:
    """The variable that says that an item is in a house."""
    return 1 + (item.attribute * houses + item.value) * houses + house


def permutations_of(houses: int, attributes: int) -> Iterator[Clause]:
    """Every value in one house and every house with one value, for each attribute."""
    for a in range(attributes):
        for i in range(houses):
            value = [variable(Item(a, i), h, houses) for h in range(houses)]
            house = [variable(Item(a, v), i, houses) for v in range(houses)]
            for one in (value, house):
                yield one
                yield from ([-x, -y] for x, y in combinations(one, 2))


def clauses_of(clue: Clue, houses: int) -> list[Clause]:
    """What a clue says, given that every item is in exactly one house."""

    def within(item: Item, first: int, last: int) -> Clause:
        return [variable(item, h, houses) for h in range(max(first, 0), min(last, houses - 1) + 1)]

    x, rest, all_houses = clue.items[0], clue.items[1:], range(houses)
    if clue.house is not None:
        return [[variable(x, clue.house, houses) * (1 if clue.kind == "at" else -1)]]
    if clue.kind == "end":
        return [[variable(x, 0, houses), variable(x, houses - 1, houses)]]
    if clue.kind == "between":
        y, z = rest
        return [
            [-variable(x, h, houses), *within(y, *side), *within(z, *side)]
            for h in all_houses
            for side in ((0, h - 1), (h + 1, houses - 1))
        ]
    (y,) = rest
    if clue.kind == "apart":
        return [[-variable(x, h, houses), -variable(y, h, houses)] for h in all_houses]
    allowed = {
        "same": lambda h: within(y, h, h),
        "left": lambda h: within(y, h + 1, houses - 1),
        "justleft": lambda h: within(y, h + 1, h + 1),
        "beside": lambda h: within(y, h - 1, h - 1) + within(y, h + 1, h + 1),
    }[clue.kind]
    return [[-variable(x, h, houses), *allowed(h)] for h in all_houses]
