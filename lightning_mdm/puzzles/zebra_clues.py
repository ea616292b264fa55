"""The language of zebra (Einstein) puzzles: items, clues and their text. Knows nothing of solving.

Houses stand in a row. Every attribute (nationality, drink, ..) has one value per house, each in another house. An
*item* is a value of an attribute, written by the attribute's letter and the value's number: ``a1``, ``b3``. A puzzle's
text is the number of houses, the number of attributes and the clues, separated by spaces:

    3 3 at a1 2 same a1 b2 left b3 c1 between c2 b1 a3

Kinds of clues: those of the classical puzzles and of Shah et al. (arXiv 2409.10502), in symbols of our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LETTERS = "abcdefghi"
MOST = 9  # houses or attributes: one digit, one letter
# How many items a clue of a kind names, and whether a house follows them.
KINDS: dict[str, tuple[int, bool]] = {
    "at": (1, True),  # in that house
    "notat": (1, True),  # not in that house
    "end": (1, False),  # in the first or the last house
    "same": (2, False),  # in one house
    "apart": (2, False),  # not in one house
    "left": (2, False),  # the first somewhere to the left of the second
    "justleft": (2, False),  # the first directly to the left of the second
    "beside": (2, False),  # in neighbouring houses
    "between": (3, False),  # the first somewhere between the two others
}


@dataclass(frozen=True, order=True)
class Item:
    """A value of an attribute, both counted from 0."""

    attribute: int
    value: int

    def __str__(self) -> str:
        return f"{LETTERS[self.attribute]}{self.value + 1}"


@dataclass(frozen=True, order=True)
class Clue:
    """One clue.

    Args:
        kind: one of ``KINDS``.
        items: what it is about.
        house: counted from 0; ``None`` for kinds that name none.
    """

    kind: str
    items: tuple[Item, ...]
    house: int | None = None

    def __str__(self) -> str:
        return " ".join([self.kind, *map(str, self.items), *([] if self.house is None else [str(self.house + 1)])])

    @property
    def normal(self) -> Clue:
        """The same clue with operands that may be exchanged in ascending order."""
        if self.kind in ("same", "apart", "beside"):
            return Clue(self.kind, tuple(sorted(self.items)))
        if self.kind == "between":
            return Clue(self.kind, (self.items[0], *sorted(self.items[1:])))
        return self

    def holds(self, at: Sequence[int], houses: int) -> bool:
        """Whether it is true where its items stand in the houses ``at``, in their order, counted from 0."""
        match self.kind:
            case "at":
                return at[0] == self.house
            case "notat":
                return at[0] != self.house
            case "end":
                return at[0] in (0, houses - 1)
            case "same":
                return at[0] == at[1]
            case "apart":
                return at[0] != at[1]
            case "left":
                return at[0] < at[1]
            case "justleft":
                return at[0] + 1 == at[1]
            case "beside":
                return abs(at[0] - at[1]) == 1
            case _:
                return at[1] < at[0] < at[2] or at[2] < at[0] < at[1]


# A solution: the value, from 0, of every attribute in every house, ``table[house][attribute]``.
Table = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Puzzle:
    """Clues about a row of houses.

    Args:
        houses: E, how many there are; also the number of values of each attribute.
        attributes: A.
        clues: in the order in which they are told.
    """

    houses: int
    attributes: int
    clues: tuple[Clue, ...]

    @property
    def text(self) -> str:
        return " ".join([str(self.houses), str(self.attributes), *map(str, self.clues)])

    def solved_by(self, table: Table) -> bool:
        """Whether a table has every value once per attribute, and makes every clue true."""
        columns = [[row[a] for row in table] for a in range(self.attributes)]
        if any(sorted(column) != list(range(self.houses)) for column in columns):
            return False
        return all(
            clue.holds([columns[item.attribute].index(item.value) for item in clue.items], self.houses)
            for clue in self.clues
        )


def parse_puzzle(text: str) -> Puzzle:
    """The puzzle of a text.

    Raises:
        ValueError: the text is malformed; the message says where and why.
    """
    words = text.split()
    houses, attributes = (_size(words, place, what) for place, what in enumerate(("houses", "attributes")))
    clues: list[Clue] = []
    place = 2
    while place < len(words):
        kind = words[place]
        if kind not in KINDS:
            raise ValueError(f"word {place + 1}, {kind!r}: a clue begins with one of {', '.join(KINDS)}")
        n, with_house = KINDS[kind]
        operands = words[place + 1 : place + 1 + n + with_house]
        where = f"clue {len(clues) + 1}, {' '.join([kind, *operands])!r}"
        if len(operands) < n + with_house:
            raise ValueError(f"{where}: {kind} needs {n} item(s)" + (" and a house" if with_house else ""))
        items = tuple(_item(word, houses, attributes, where) for word in operands[:n])
        if len(set(items)) < n:
            raise ValueError(f"{where}: an item occurs twice")
        house = _house(operands[n], houses, where) if with_house else None
        clues.append(Clue(kind, items, house))
        place += 1 + n + with_house
    return Puzzle(houses, attributes, tuple(clues))


def item_of(word: str) -> Item | None:
    """The item that a word names, ``None`` where it names none."""
    if len(word) == 2 and word[0] in LETTERS and word[1] in "123456789":
        return Item(LETTERS.index(word[0]), int(word[1]) - 1)
    return None


def table_text(table: Table) -> str:
    """A table house by house: ``a2 b1 a1 b2`` has a2 and b1 in the first house."""
    return " ".join(str(Item(a, value)) for row in table for a, value in enumerate(row))


def parse_table(text: str, houses: int, attributes: int) -> Table | None:
    """The table of a text, ``None`` where it is of another size or has a value in another attribute's column."""
    items = [item_of(word) for word in text.split()]
    if len(items) != houses * attributes:
        return None
    for place, item in enumerate(items):
        if item is None or item.attribute != place % attributes or item.value >= houses:
            return None
    values = [item.value for item in items if item is not None]
    return tuple(tuple(values[h * attributes : (h + 1) * attributes]) for h in range(houses))


def canonical_content(houses: int, clues: Iterable[Clue]) -> str:
    """What stays of clues whose values are named by their houses, whatever they are called and whoever reads them.

    Args:
        houses: E.
        clues: true where every value stands in the house of its own number; renaming values so is what makes the
            result the same for all names.

    Puzzles that differ by names of values, by the order or names of attributes, by the order of clues or of operands,
    or by being read from right to left have equal contents. Others may, rarely: attributes are told apart by the clues
    that each occurs in, not by a full search for an isomorphism. Two contents that differ are never one puzzle.
    """
    told = list(clues)
    return min(_content(told), _content([_mirrored(clue, houses) for clue in told]))


def _content(clues: Sequence[Clue]) -> str:
    normal = [clue.normal for clue in clues]
    views = []
    for attribute in sorted({item.attribute for clue in normal for item in clue.items}):
        seen = []
        for clue in normal:
            if any(item.attribute == attribute for item in clue.items):
                marks = [f"{'*' if item.attribute == attribute else ''}{item.value}" for item in clue.items]
                if clue.kind in ("same", "apart", "beside"):
                    marks.sort()
                elif clue.kind == "between":
                    marks[1:] = sorted(marks[1:])
                seen.append(" ".join([clue.kind, *marks, str(clue.house)]))
        views.append(",".join(sorted(seen)))
    return ";".join(sorted(views))


def _mirrored(clue: Clue, houses: int) -> Clue:
    items = tuple(Item(item.attribute, houses - 1 - item.value) for item in clue.items)
    if clue.kind in ("left", "justleft"):
        items = items[::-1]
    return Clue(clue.kind, items, None if clue.house is None else houses - 1 - clue.house)


def _size(words: Sequence[str], place: int, what: str) -> int:
    word = words[place] if place < len(words) else ""
    if not (word.isascii() and word.isdigit() and 2 <= int(word) <= MOST):
        raise ValueError(f"word {place + 1}, {word!r}: the number of {what} comes here, from 2 to {MOST}")
    return int(word)


def _item(word: str, houses: int, attributes: int, where: str) -> Item:
    item = item_of(word)
    if item is None or item.attribute >= attributes or item.value >= houses:
        last = Item(attributes - 1, houses - 1)
        raise ValueError(f"{where}: {word!r} is no item of this puzzle; they are a1 to {last}")
    return item


def _house(word: str, houses: int, where: str) -> int:
    if not (word.isascii() and word.isdigit() and 1 <= int(word) <= houses):
        raise ValueError(f"{where}: {word!r} is no house; they are 1 to {houses}")
    return int(word) - 1
