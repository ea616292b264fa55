"""Zebra puzzles: the meaning of clues, one solution by brute force, irreducible clues, contents, refusals."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from laws import assert_follows
from lightning_mdm.puzzles.zebra import Drawn, Zebra, draw_puzzle, true_clue
from lightning_mdm.puzzles.zebra_clues import (
    KINDS,
    Clue,
    Item,
    Puzzle,
    Table,
    canonical_content,
    parse_puzzle,
    parse_table,
    table_text,
)
from lightning_mdm.puzzles.zebra_solver import Uniqueness, solutions

LAWS = [
    Zebra(),
    Zebra(max_houses=4, min_attributes=2, max_attributes=2),
    Zebra(spare=3, seed=2),
    Zebra(kinds=("left", "same", "between")),
]


def every_table(houses: int, attributes: int) -> Iterator[Table]:
    """All tables there are, as ``table[house][attribute]``."""
    orders = list(itertools.permutations(range(houses)))
    for columns in itertools.product(orders, repeat=attributes):
        yield tuple(zip(*columns, strict=True))


def means(clue: Clue, table: Table) -> bool:
    """What a clue says, by looking at the houses from left to right and not at numbers."""
    row = [{Item(a, value) for a, value in enumerate(house)} for house in table]
    x, rest = clue.items[0], clue.items[1:]
    before = [house for i, house in enumerate(row) if any(x in later for later in row[i + 1 :])]
    after = [house for i, house in enumerate(row) if any(x in earlier for earlier in row[:i])]
    pairs = list(itertools.pairwise(row))
    match clue.kind:
        case "at" | "notat":
            assert clue.house is not None
            return (x in row[clue.house]) == (clue.kind == "at")
        case "end":
            return not before or not after
        case "same" | "apart":
            return any({x, rest[0]} <= house for house in row) == (clue.kind == "same")
        case "left":
            return any(rest[0] in house for house in after)
        case "justleft":
            return any(x in a and rest[0] in b for a, b in pairs)
        case "beside":
            return any((x in a and rest[0] in b) or (x in b and rest[0] in a) for a, b in pairs)
        case _:
            return any(
                any(y in house for house in before) and any(z in house for house in after)
                for y, z in (rest, rest[::-1])
            )


def by_brute_force(puzzle: Puzzle) -> list[Table]:
    return [
        table
        for table in every_table(puzzle.houses, puzzle.attributes)
        if all(means(clue, table) for clue in puzzle.clues)
    ]


def any_clue(rng: random.Random, houses: int, attributes: int) -> Clue:
    """Any clue at all, true or not."""
    kind = rng.choice(list(KINDS))
    n, with_house = KINDS[kind]
    items = rng.sample([Item(a, v) for a in range(attributes) for v in range(houses)], n)
    return Clue(kind, tuple(items), rng.randrange(houses) if with_house else None)


def drawn_puzzles(law: Zebra, n: int) -> list[Drawn]:
    return [draw_puzzle(law, random.Random(f"test {k}")) for k in range(n)]


@pytest.mark.parametrize(("houses", "attributes"), [(3, 2), (3, 3), (4, 2)])
def test_solver_and_meaning_against_brute_force(houses: int, attributes: int) -> None:
    """Random clue sets, most with several solutions, some with one or none."""
    rng = random.Random(0)
    counts = Counter[int]()
    for _ in range(60):
        clues = tuple(any_clue(rng, houses, attributes) for _ in range(rng.randrange(1, 6)))
        puzzle = Puzzle(houses, attributes, clues)
        assert parse_puzzle(puzzle.text) == puzzle
        wanted = by_brute_force(puzzle)
        found = solutions(puzzle, limit=1000)
        assert len(found) == len(set(found)) == len(wanted)
        assert set(found) == set(wanted) == {t for t in every_table(houses, attributes) if puzzle.solved_by(t)}
        assert len(solutions(puzzle, limit=2)) == min(2, len(wanted))
        assert replace(puzzle, clues=tuple(clue.normal for clue in clues)).solved_by(found[0]) if found else True
        counts[min(2, len(wanted))] += 1
    assert counts[0] > 3
    assert counts[2] > 3


def test_every_kind_is_met_in_brute_force() -> None:
    for kind, (n, with_house) in KINDS.items():
        items = (Item(0, 0), Item(1, 1), Item(2, 2))[:n]
        puzzle = Puzzle(3, 3, (Clue(kind, items, 1 if with_house else None),))
        assert set(solutions(puzzle, limit=1000)) == set(by_brute_force(puzzle)), kind
        assert 0 < len(by_brute_force(puzzle)) < 216, kind


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
def test_puzzles_have_one_solution_and_no_clue_to_spare(law: Zebra) -> None:
    for drawn in drawn_puzzles(law, 15):
        puzzle = drawn.puzzle
        assert by_brute_force(puzzle) == [drawn.table]
        assert solutions(puzzle) == [drawn.table]
        assert {clue.kind for clue in puzzle.clues} <= set(law.kinds)
        assert len({clue.normal for clue in puzzle.clues}) == len(puzzle.clues)
        fewer = [replace(puzzle, clues=puzzle.clues[:i] + puzzle.clues[i + 1 :]) for i in range(len(puzzle.clues))]
        needed = [len(by_brute_force(part)) > 1 for part in fewer]
        assert all(needed) or law.spare
    sizes = {(drawn.puzzle.houses, drawn.puzzle.attributes) for drawn in drawn_puzzles(law, 25)}
    assert sizes == {
        (E, A)
        for E in range(law.min_houses, law.max_houses + 1)
        for A in range(law.min_attributes, law.max_attributes + 1)
    }


def test_spare_clues_are_true_and_more() -> None:
    few, more = (drawn_puzzles(Zebra(spare=spare), 40) for spare in (0, 2))
    told = [sum(len(drawn.puzzle.clues) for drawn in puzzles) for puzzles in (few, more)]
    assert told[1] == told[0] + 80


def test_clues_are_told_in_any_order() -> None:
    """The one that can be spared is the last one now and then, not always."""
    can_be_spared = Counter[bool]()
    for drawn in drawn_puzzles(Zebra(spare=1), 40):
        fewer = replace(drawn.puzzle, clues=drawn.puzzle.clues[:-1])
        can_be_spared[len(solutions(fewer)) == 1] += 1
    assert min(can_be_spared[True], can_be_spared[False]) > 3


def test_operands_that_may_be_exchanged_tell_nothing_by_their_order() -> None:
    ascending: dict[str, Counter[bool]] = {}
    for drawn in drawn_puzzles(Zebra(kinds=("left", "same", "apart", "beside", "between")), 300):
        for clue in drawn.puzzle.clues:
            first, second = clue.items[-2:]
            house = [next(h for h, row in enumerate(drawn.table) if row[i.attribute] == i.value) for i in clue.items]
            if clue.kind in ("same", "apart"):
                ascending.setdefault(clue.kind, Counter())[first.attribute < second.attribute] += 1
            elif clue.kind in ("beside", "between"):
                ascending.setdefault(clue.kind, Counter())[house[-2] < house[-1]] += 1
    assert len(ascending) == 4
    for counts in ascending.values():
        assert_follows(counts, {True: 0.5, False: 0.5})


def test_a_puzzle_depends_on_nothing_but_its_number() -> None:
    """Not on what the solver has been asked before: that is learned, never read."""
    law = Zebra(min_houses=4, max_houses=4)
    alone = draw_puzzle(law, random.Random("7"))
    for k in range(30):
        draw_puzzle(law, random.Random(f"other {k}"))
    assert draw_puzzle(law, random.Random("7")) == alone


def test_uniqueness_agrees_with_brute_force() -> None:
    rng, proof = random.Random(1), Uniqueness(3, 3)
    answers = Counter[bool]()
    for _ in range(80):
        clues = tuple(true_clue(tuple(KINDS), 3, 3, rng) for _ in range(rng.randrange(2, 9)))
        puzzle = Puzzle(3, 3, clues)
        identity = tuple((h, h, h) for h in range(3))
        assert puzzle.solved_by(identity)
        assert proof.proved(clues) == (by_brute_force(puzzle) == [identity])
        answers[proof.proved(clues)] += 1
    assert min(answers.values()) > 5


def test_solutions_and_kinds_are_uniform() -> None:
    tables = Counter(
        draw_puzzle(Zebra(min_attributes=2, max_attributes=2), random.Random(k)).table for k in range(1000)
    )
    assert_follows(tables, dict.fromkeys(every_table(3, 2), 1 / 36))
    rng = random.Random(0)
    kinds = Counter(true_clue(tuple(KINDS), 4, 3, rng).kind for _ in range(2000))
    assert_follows(kinds, dict.fromkeys(KINDS, 1 / len(KINDS)))


@pytest.mark.parametrize(("houses", "attributes"), [(3, 3), (4, 2)])
def test_every_true_clue_is_drawn_and_no_other(houses: int, attributes: int) -> None:
    """Against an enumeration of all clues; that two values of one attribute are apart says nothing."""
    every_item = [Item(a, v) for a in range(attributes) for v in range(houses)]
    identity = tuple((h,) * attributes for h in range(houses))
    expected = set()
    for kind, (n, with_house) in KINDS.items():
        for items in itertools.permutations(every_item, n):
            for house in range(houses) if with_house else [None]:
                clue = Clue(kind, items, house)
                trivial = kind == "apart" and items[0].attribute == items[1].attribute
                if means(clue, identity) and not trivial:
                    expected.add(clue.normal)
    rng = random.Random(0)
    assert {true_clue(tuple(KINDS), houses, attributes, rng) for _ in range(12_000)} == expected


def renamed(drawn: Drawn, rng: random.Random) -> tuple[int, list[Clue]]:
    """The clues of a puzzle as they would be told by somebody else, values named by their houses."""
    E, A = drawn.puzzle.houses, drawn.puzzle.attributes
    house = [{row[a]: h for h, row in enumerate(drawn.table)} for a in range(A)]
    attribute, mirrored = rng.sample(range(A), A), rng.random() < 0.5
    clues = []
    for clue in rng.sample(drawn.puzzle.clues, len(drawn.puzzle.clues)):
        places = [house[item.attribute][item.value] for item in clue.items]
        places = [E - 1 - place for place in places] if mirrored else places
        items = [Item(attribute[item.attribute], place) for item, place in zip(clue.items, places, strict=True)]
        at = clue.house if clue.house is None or not mirrored else E - 1 - clue.house
        if mirrored and clue.kind in ("left", "justleft"):
            items.reverse()
        if clue.kind in ("same", "apart", "beside"):
            rng.shuffle(items)
        if clue.kind == "between":
            items = [items[0], *rng.sample(items[1:], 2)]
        clues.append(Clue(clue.kind, tuple(items), at))
    return E, clues


@pytest.mark.parametrize("spare", [0, 2])
def test_contents(spare: int) -> None:
    rng = random.Random(0)
    puzzles = drawn_puzzles(Zebra(min_houses=4, max_houses=4, spare=spare), 60)
    for drawn in puzzles:
        assert canonical_content(*renamed(drawn, rng)) == drawn.content
        E, clues = renamed(drawn, rng)
        other = true_clue(tuple(KINDS), E, 3, rng)
        if other.normal not in {clue.normal for clue in clues}:
            assert canonical_content(E, [*clues, other]) != drawn.content
    assert len({drawn.content for drawn in puzzles}) == 60


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "word 1, '': the number of houses comes here, from 2 to 9"),
        ("3", "word 2, '': the number of attributes"),
        ("3 12 at a1 1", "word 2, '12': the number of attributes"),
        ("3 ² at a1 1", "word 2, '²'"),
        ("1 3 at a1 1", "word 1, '1': the number of houses comes here, from 2 to 9"),
        ("3 3 near a1 b1", "word 3, 'near': a clue begins with one of at, notat"),
        ("3 3 same a1 b1 c1", "word 6, 'c1': a clue begins with"),
        ("3 3 same a1", "clue 1, 'same a1': same needs 2 item"),
        ("3 3 at a1", "clue 1, 'at a1': at needs 1 item.* and a house"),
        ("3 3 same a1 d1", "clue 1, 'same a1 d1': 'd1' is no item of this puzzle; they are a1 to c3"),
        ("3 3 end a1 same a4 b1", "clue 2, 'same a4 b1': 'a4' is no item"),
        ("3 3 at a1 4", "clue 1, 'at a1 4': '4' is no house; they are 1 to 3"),
        ("3 3 at a1 b1", "'b1' is no house"),
        ("3 3 at a1 0", "clue 1, 'at a1 0': '0' is no house; they are 1 to 3"),
        ("3 3 at a0 1", "clue 1, 'at a0 1': 'a0' is no item of this puzzle; they are a1 to c3"),
        ("3 3 left a1 a1", "clue 1, 'left a1 a1': an item occurs twice"),
    ],
)
def test_malformed_text(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_puzzle(text)


def test_tables_as_text() -> None:
    table = ((0, 2), (1, 1), (2, 0))
    assert table_text(table) == "a1 b3 a2 b2 a3 b1"
    assert parse_table(table_text(table), 3, 2) == table
    for text in ("", "a1 b3 a2 b2 a3", "a1 b3 a2 b2 b1 a3", "a1 b3 a2 b2 a4 b1", "a1 b3 a2 b2 a3 x"):
        assert parse_table(text, 3, 2) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"min_houses": 2}, "min_houses=2, max_houses=3: need 3 <= min_houses"),
        ({"min_houses": 4}, "min_houses=4, max_houses=3"),
        ({"max_attributes": 10}, "max_attributes=10: need 2 <="),
        ({"kinds": ()}, r"kinds=\[\]: give some of at"),
        ({"kinds": ("at", "near")}, "give some of at, notat"),
        ({"kinds": ("at", "at")}, "each once"),
        ({"spare": -1}, "spare=-1"),
    ],
)
def test_wrong_options(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Zebra(**options)  # type: ignore[arg-type]


def test_clues_that_never_suffice() -> None:
    with pytest.raises(ValueError, match=r"kinds=\['same', 'beside'\]: such clues leave more than one solution"):
        draw_puzzle(Zebra(kinds=("same", "beside")), random.Random(0))
