"""Solving a zebra puzzle clue by clue, without guessing: in which order can its cells be found?

In rounds, every clue by itself, and the rule that values and houses of an attribute belong together one to one, take
away what they exclude, all judged by one and the same state. So the outcome depends neither on the order of the clues
nor on names. Knows nothing of how puzzles are drawn, tokens or models.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from lightning_mdm.puzzles.zebra_clues import Clue, Item, Puzzle

Cell = tuple[int, int]  # house and attribute, from 0
Possible = dict[Item, frozenset[int]]  # the houses where an item may still stand


def rounds_of(puzzle: Puzzle, known: Mapping[Cell, int] | None = None) -> dict[Cell, int]:
    """The round, from 1, in which each cell is found; those that are known or never found are left out.

    Args:
        puzzle: clues.
        known: the values, all right, of cells that are known.
    """
    E, given = puzzle.houses, dict(known or {})
    possible: Possible = {Item(a, v): frozenset(range(E)) for a in range(puzzle.attributes) for v in range(E)}
    for (house, attribute), value in given.items():
        possible[Item(attribute, value)] = frozenset([house])
    found: dict[Cell, int] = {}
    number = 0
    while True:
        number += 1
        after = narrowed(puzzle, possible)
        if after == possible:
            return found
        possible = after
        for item, houses in possible.items():
            if len(houses) == 1:
                cell = (next(iter(houses)), item.attribute)
                if cell not in given:
                    found.setdefault(cell, number)


def narrowed(puzzle: Puzzle, possible: Possible) -> Possible:
    """What is left after one round."""
    left = dict(possible)
    for clue in puzzle.clues:
        for item, houses in zip(clue.items, supported(clue, puzzle.houses, possible), strict=True):
            left[item] &= houses
    for attribute in range(puzzle.attributes):
        items = [Item(attribute, value) for value in range(puzzle.houses)]
        for item in items:
            if len(possible[item]) == 1:
                for other in items:
                    if other != item:
                        left[other] -= possible[item]
        for house in range(puzzle.houses):
            here = [item for item in items if house in possible[item]]
            if len(here) == 1:
                left[here[0]] &= {house}
    return left


def supported(clue: Clue, houses: int, possible: Possible) -> list[set[int]]:
    """Per item of a clue, the houses in which it may stand with the others of the clue somewhere possible."""
    found: list[set[int]] = [set() for _ in clue.items]
    for at in product(*(possible[item] for item in clue.items)):
        taken = {(item.attribute, house) for item, house in zip(clue.items, at, strict=True)}
        if len(taken) == len(at) and clue.holds(at, houses):
            for seen, house in zip(found, at, strict=True):
                seen.add(house)
    return found
