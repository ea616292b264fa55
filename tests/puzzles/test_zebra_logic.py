"""Zebra puzzles clue by clue: an example by hand, soundness, and blindness to names and to the order of clues."""

from __future__ import annotations

import random
from dataclasses import replace

from lightning_mdm.puzzles.zebra import Drawn, Zebra, draw_puzzle
from lightning_mdm.puzzles.zebra_clues import Clue, Item, parse_puzzle
from lightning_mdm.puzzles.zebra_logic import narrowed, rounds_of

LAWS = [Zebra(), Zebra(4, 4, 3, 3), Zebra(3, 3, 3, 3, spare=3)]


def drawn(n: int = 8) -> list[Drawn]:
    return [draw_puzzle(law, random.Random(f"{number}/{k}")) for number, law in enumerate(LAWS) for k in range(n)]


def test_rounds_by_hand() -> None:
    """a1 stands in the first house, in the next round b1 with it, a2 behind it and a3 last; then b2 and b3."""
    puzzle = parse_puzzle("3 2 at a1 1 same a1 b1 left a2 a3 left b2 b3")
    assert rounds_of(puzzle) == {(0, 0): 1, (0, 1): 2, (1, 0): 2, (2, 0): 2, (1, 1): 3, (2, 1): 3}
    assert rounds_of(puzzle, {(0, 1): 0}) == {(0, 0): 1, (1, 1): 1, (2, 1): 2, (1, 0): 2, (2, 0): 2}
    assert rounds_of(parse_puzzle("3 2 left b2 b3")) == {}


def test_nothing_true_is_taken_away() -> None:
    for puzzle in drawn():
        E, A = puzzle.puzzle.houses, puzzle.puzzle.attributes
        true = {Item(a, puzzle.table[house][a]): house for house in range(E) for a in range(A)}
        possible = {item: frozenset(range(E)) for item in true}
        while (after := narrowed(puzzle.puzzle, possible)) != possible:
            assert all(after[item] <= possible[item] for item in true)
            possible = after
        assert all(house in possible[item] for item, house in true.items())
        found = {(house, item.attribute) for item, house in true.items() if possible[item] == {house}}
        assert set(rounds_of(puzzle.puzzle)) == found


def test_what_is_known_is_not_found_and_finds_more() -> None:
    rng, all_found = random.Random(0), 0
    for puzzle in drawn():
        cells = [(h, a) for h in range(puzzle.puzzle.houses) for a in range(puzzle.puzzle.attributes)]
        known = {cell: puzzle.table[cell[0]][cell[1]] for cell in rng.sample(cells, 3)}
        found, alone = rounds_of(puzzle.puzzle, known), rounds_of(puzzle.puzzle)
        assert not set(found) & set(known)
        assert set(alone) <= set(found) | set(known)
        assert all(found[cell] <= alone[cell] for cell in alone if cell not in known)
        all_found += len(alone) == len(cells)
    assert 0 < all_found < len(LAWS) * 8, "some puzzles are finished clue by clue, some are not"


def test_names_and_the_order_of_clues_do_not_matter() -> None:
    rng = random.Random(1)
    for puzzle in drawn(4):
        E, A = puzzle.puzzle.houses, puzzle.puzzle.attributes
        names = [rng.sample(range(E), E) for _ in range(A)]
        clues = [
            Clue(c.kind, tuple(Item(i.attribute, names[i.attribute][i.value]) for i in c.items), c.house)
            for c in puzzle.puzzle.clues
        ]
        rng.shuffle(clues)
        assert rounds_of(replace(puzzle.puzzle, clues=tuple(clues))) == rounds_of(puzzle.puzzle)
