"""Zebra puzzles with one solution, drawn by number.

Clues true of a solution are drawn until it is the only one, and then left out one by one as long as it stays so: what
remains is irreducible. Values are named by a random permutation at the end, so all work is done on one solution per
size. Knows nothing of tokens or tasks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_mdm.puzzles.zebra_clues import KINDS, MOST, Clue, Item, Puzzle, Table, canonical_content
from lightning_mdm.puzzles.zebra_solver import uniqueness

MAX_CLUES = 4000  # drawn for one puzzle before giving up


@dataclass(frozen=True)
class Zebra:
    """How puzzles are drawn.

    Args:
        min_houses: fewest houses (3 to 9), which is also the number of values of each attribute.
        max_houses: most houses; a puzzle's number is uniform between the two.
        min_attributes: fewest attributes (2 to 9).
        max_attributes: most attributes.
        kinds: kinds of clues to draw from, equally often; all of them where not given.
        spare: true clues told beside the irreducible ones, as far as there are any: the more, the easier.
        seed: decides all puzzles.

    Raises:
        ValueError: an option out of its range.
    """

    min_houses: int = 3
    max_houses: int = 3
    min_attributes: int = 3
    max_attributes: int = 3
    kinds: tuple[str, ...] = tuple(KINDS)
    spare: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for what, least in (("houses", 3), ("attributes", 2)):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if not least <= low <= high <= MOST:
                raise ValueError(
                    f"min_{what}={low}, max_{what}={high}: need {least} <= min_{what} <= max_{what} <= {MOST}"
                )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds={list(self.kinds)}: give some of {', '.join(KINDS)}, each once")
        if self.spare < 0:
            raise ValueError(f"spare={self.spare}: give 0 or more clues")


@dataclass(frozen=True)
class Drawn:
    """A puzzle with its one solution.

    Args:
        puzzle: the clues.
        table: the solution.
        content: see ``canonical_content``.
    """

    puzzle: Puzzle
    table: Table
    content: str


def draw_puzzle(options: Zebra, rng: random.Random) -> Drawn:
    """A puzzle with exactly one solution, a pure function of the options and the state of ``rng``.

    Raises:
        ValueError: clues of these kinds hardly ever leave one solution.
    """
    E = rng.randint(options.min_houses, options.max_houses)
    A = rng.randint(options.min_attributes, options.max_attributes)
    needed, spare = sufficient(options, E, A, rng)
    clues = needed + rng.sample(spare, min(options.spare, len(spare)))
    content = canonical_content(E, clues)
    names = [rng.sample(range(E), E) for _ in range(A)]
    told = [_told(clue, names, rng) for clue in rng.sample(clues, len(clues))]
    table = tuple(tuple(names[a][h] for a in range(A)) for h in range(E))
    return Drawn(Puzzle(E, A, tuple(told)), table, content)


def sufficient(options: Zebra, houses: int, attributes: int, rng: random.Random) -> tuple[list[Clue], list[Clue]]:
    """An irreducible set of clues that leaves no solution but "every value in its own house", and more true clues."""
    unique = uniqueness(houses, attributes).proved
    drawn: dict[Clue, None] = {}
    wanted = tried = 0
    while True:
        wanted += houses * attributes
        while len(drawn) < wanted and tried < MAX_CLUES:
            drawn[true_clue(options.kinds, houses, attributes, rng)] = None
            tried += 1
        clues = list(drawn)
        if unique(clues):
            break
        if tried >= MAX_CLUES:
            raise ValueError(
                f"kinds={list(options.kinds)}: such clues leave more than one solution of {houses} houses and "
                f"{attributes} attributes; allow more kinds, e.g. at or left, which tell left from right"
            )
    # The shortest beginning that is enough: more clues never bring a solution back.
    low, high = 0, len(clues)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if unique(clues[:middle]) else (middle + 1, high)
    needed = clues[:high]
    for clue in needed[:-1]:  # without the last one, the beginning was not enough
        rest = [other for other in needed if other != clue]
        needed = rest if unique(rest) else needed
    kept = set(needed)
    return needed, [clue for clue in clues if clue not in kept]


def true_clue(kinds: Sequence[str], houses: int, attributes: int, rng: random.Random) -> Clue:
    """A clue, in normal form, that is true where every value is in its own house; all kinds equally often."""
    kind = rng.choice(kinds)
    n, with_house = KINDS[kind]
    any_of = [rng.randrange(attributes) for _ in range(n)]
    if kind == "at":
        house = rng.randrange(houses)
        return Clue(kind, (Item(any_of[0], house),), house)
    if with_house:
        value, house = rng.sample(range(houses), 2)
        return Clue(kind, (Item(any_of[0], value),), house)
    if kind == "end":
        return Clue(kind, (Item(any_of[0], rng.choice((0, houses - 1))),))
    if kind in ("same", "apart"):
        any_of = rng.sample(range(attributes), 2)
    if kind == "same":
        values = [rng.randrange(houses)] * 2
    elif kind in ("justleft", "beside"):
        first = rng.randrange(houses - 1)
        values = [first, first + 1]
    else:
        values = sorted(rng.sample(range(houses), n))
    items = tuple(Item(a, value) for a, value in zip(any_of, values, strict=True))
    if kind == "between":
        items = (items[1], items[0], items[2])
    return Clue(kind, items).normal


def _told(clue: Clue, names: Sequence[Sequence[int]], rng: random.Random) -> Clue:
    """The clue with the names of values, and operands that may be exchanged in random order."""
    items = [Item(item.attribute, names[item.attribute][item.value]) for item in clue.items]
    if clue.kind in ("same", "apart", "beside", "between"):
        exchanged = items[-2:]
        rng.shuffle(exchanged)
        items[-2:] = exchanged
    return Clue(clue.kind, tuple(items), clue.house)
