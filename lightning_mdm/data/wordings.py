"""The sentences that built-in word problems are told in.

Slots: {S} the subject, a name or its pronoun, and {O} the same as an object; {s} the verb's ending; {has} "has" or
"have"; {c} and {d} numbers; {i} the items as many as {c}, {p} always in the plural, {item} in the singular. Where the
latest sentence told of the subject, {T} is "them" and {m} empty; elsewhere {T} is "the eggs" and {m} " eggs", so that
no pronoun reaches across a sentence about something else.
"""

from __future__ import annotations

WOMEN = ("Anna", "Bella", "Clara", "Dana", "Emma", "Fiona", "Grace", "Hana", "Iris", "Julia")
MEN = ("Adam", "Ben", "Carl", "David", "Eric", "Felix", "George", "Hugo", "Ivan", "Jack")
ITEMS = (
    "apple", "book", "candle", "coin", "egg", "flower", "hat", "kite",
    "lemon", "marble", "pencil", "rock", "shell", "stamp", "sticker", "toy",
)  # fmt: skip

# What happens to a quantity, by operation.
CHANGES: dict[str, tuple[str, ...]] = {
    "+": (
        "{S} buy{s} {c} more{m}.",
        "{S} find{s} {c} more {i}.",
        "A friend brings {O} {c} more {i}.",
        "{S} get{s} another {c}{m}.",
    ),
    "-": (
        "{S} give{s} away {c}{m}.",
        "{S} lose{s} {c} {i}.",
        "{S} sell{s} {c} of {T}.",
        "{S} leave{s} {c} {i} with a friend.",
    ),
    "*": (
        "{S} swap{s} each of {T} for {c} others.",
        "{S} end{s} up with {c} times as many{m}.",
        "After a good year {S} {has} {c} times as many {p}.",
    ),
    "/": (
        "{S} split{s} {T} into {c} equal piles and keep{s} one pile.",
        "{S} keep{s} only one of every {c}{m}.",
        "{S} put{s} {T} into {c} equal boxes and keep{s} one box.",
    ),
}
# Two changes told in one sentence and solved in one equation.
DOUBLE_CHANGES: dict[str, tuple[str, ...]] = {
    "+": ("{S} buy{s} {c} more{m} and find{s} {d} more.", "{S} get{s} {c}{m} from one friend and {d} from another."),
    "-": ("{S} give{s} away {c}{m} and lose{s} {d}.", "{S} sell{s} {c} {i} and throw{s} out {d}."),
}
# A second person's quantity, told by the first one's: {N} is the second person, {M} the first.
COMPARISONS: dict[str, tuple[str, ...]] = {
    "+": ("{N} has {c} more {i} than {M}.", "{N} has as many {p} as {M} and {c} extra."),
    "-": ("{N} has {c} fewer {i} than {M}.", "{N} has {c} {i} fewer than {M}."),
    "*": ("{N} has {c} times as many {p} as {M}.", "For each {item} that {M} has, {N} has {c}."),
    "/": ("For every {c} {p} that {M} has, {N} has one.", "{M} has {c} times as many {p} as {N}."),
}
STARTS = ("{N} has {c} {i}.", "{N} starts with {c} {i}.", "There are {c} {i} in a box that belongs to {N}.")
JOINS = ("{A} and {B} put their {p} together.", "{A} and {B} pool all of their {p}.")
SALES = ("{S} sell{s} all of {T} for {c} dollars each.", "{S} get{s} {c} dollars for each {item}.")
# Sentences that do not matter, each told at most once: {X} somebody who is not in the story yet, {k} at least 2.
DISTRACTORS = (
    "{X} is {k} years old.",
    "{X} has {k} {j}.",
    "The nearest shop is {k} miles away.",
    "The school is {k} blocks away.",
    "It has rained for {k} days.",
)
