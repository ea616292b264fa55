"""Where the operands of a problem's equations come from: its question, earlier results, or constants.

Knows nothing of which other numbers would make sense.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise, product
from typing import Literal

from lightning_mdm.data.answers import MARKER, parse_number
from lightning_mdm.data.equations import ANNOTATION, Equation, Number, parse_equation, read_number, whole
from lightning_mdm.data.question_numbers import Numeral, constants, fraction_values, numerals

MAX_READINGS = 64
# Numbers of this size may be counted by the reader rather than given: two brothers, three days.
SMALL, MOST_COUNTED = 10, 3
HUNDREDTHS = (1, 100, Fraction(1, 100))  # these nobody has to calculate
# Those with whom somebody counts himself, or without.
COMPANY = re.compile(
    r"\b(friends?|brothers?|sisters?|siblings?|cousins?|children|kids?|sons?|daughters?|classmates?|co-?workers?"
    r"|roommates?|teammates?|neighbors?|others|(him|her|my|your)self|themselves)\b",
    re.IGNORECASE,
)
REST = re.compile(r"\b(rest|remain\w*|others?|left)\b", re.IGNORECASE)

Derived = Literal["same", "hundredths", "left", "more", "left_hundredths", "more_hundredths"]
DERIVED: tuple[Derived, ...] = ("hundredths", "left", "more", "left_hundredths", "more_hundredths")


class UntraceableError(ValueError):
    """Why a problem gets no variants."""


@dataclass(frozen=True)
class Source:
    """Where an operand comes from.

    Args:
        kind: ``number`` of the question, ``result`` or ``constant``.
        place: of the number among the loose ones, or of the equation.
        value: of a constant.
        derived: what a percentage was turned into before it was used, such as 30 % off into 70 or 0.7.
    """

    kind: Literal["number", "result", "constant"]
    place: int = -1
    value: Number = 0
    derived: Derived = "same"


Reading = tuple[tuple[Source, ...], ...]  # by equation and operand


@dataclass(frozen=True)
class Trace:
    """A problem whose operands are traced.

    Args:
        found: the numerals of the question.
        equations: of its solution.
        results: their values.
        asked: the equation whose result is the answer.
        readings: where operands come from, in every way that makes sense.
        kept: the numbers of the question that may change, which sources of kind ``number`` count.
        fractions: neighbouring numerals that are the two numbers of a fraction.
    """

    found: tuple[Numeral, ...]
    equations: tuple[Equation, ...]
    results: tuple[Number, ...]
    asked: int
    readings: tuple[Reading, ...]
    kept: tuple[Number, ...]
    fractions: tuple[tuple[Numeral, Numeral], ...]


def trace(question: str, response: str, answer: str) -> Trace:
    """Trace the numbers of a problem.

    Args:
        question: in words.
        response: ``<<48/2=24>> <<48+24=72>> #### 72``.
        answer: ``72``.

    Raises:
        UntraceableError: its numbers must not change; the message says why, in one of a dozen ways.
    """
    equations, results = read_equations(response)
    asked = answer_place(results, answer)
    found = numerals(question)
    counted = Counter(n.value for n in found if not n.fixed)
    if not counted:
        raise UntraceableError("no number in the question that is a quantity")
    numbers = list(counted)
    fractions = [(a, b) for a, b in pairwise(found) if a.part == "above" and b.part == "below" and b.value]
    words = constants(question)
    said = words.said + Counter(n.value for n in found if n.fixed)
    for a, b in fractions:
        said.update(value for value in fraction_values(a.value, b.value) if value not in (*said, *counted, 1))
    spoken = {n.value for n in found if n.spoken}
    percents = {n.value for n in found if n.percent and not n.fixed}

    options: list[list[Source]] = []  # by operand, over all equations
    unexplained: dict[Number, int] = {}  # with the first equation that uses it
    presumed: dict[Number, int] = {}  # likewise, what a unit may have brought in, or somebody's head
    for place, equation in enumerate(equations):
        for operand in equation.operands:
            value = read_number(operand)
            if any(isinstance(r, Fraction) and value in (math.floor(r), math.ceil(r)) for r in results[:place]):
                raise UntraceableError("a result may have been rounded")
            sources = [Source("result", r) for r in range(place) if results[r] == value]
            if value in counted:
                sources.append(Source("number", numbers.index(value)))
            elif value in said:
                sources.append(Source("constant", value=value))
            elif value in words.possible:
                if not sources and value not in HUNDREDTHS:
                    presumed.setdefault(value, place)
                sources.append(Source("constant", value=value))  # beside an equal result: the readings have to agree
            elif not sources:
                derived = derivations(value, percents)
                if len(derived) == 1:
                    sources.append(Source("number", numbers.index(derived[0][0]), derived=derived[0][1]))
                else:
                    unexplained.setdefault(value, place)
                    sources.append(Source("constant", value=value))
            options.append(sources)
    readings = best_readings(options, equations, counted, numbers, asked)

    frozen = inseparable(found, question) | torn_fractions(fractions, equations, counted)
    check_unexplained(unexplained, counted, question)
    hundredths = {n.value for n in found if n.percent}
    frozen |= made_in_the_head({**unexplained, **presumed}, counted, results, readings, numbers, hundredths)
    frozen |= bordering(counted, readings, numbers)
    for place, value in enumerate(numbers):
        used = [count_of(place, reading) for reading in readings]
        constant_too = said[value] > 0 or (value in words.possible and max(used) > counted[value])
        # A small number that is used more often than it is said may also count what nobody says: two people on a date.
        counts_too = max(used) > counted[value] and (value <= MOST_COUNTED or value in spoken)
        if constant_too or counts_too or min(used) < counted[value]:
            frozen.add(value)
    for a, b in fractions:  # one of them alone would make another fraction
        if {a.value, b.value} & frozen:
            frozen |= {a.value, b.value}
    kept = [value for value in numbers if value not in frozen]
    if not kept:
        raise UntraceableError("no number of the question can be traced into the equations")
    return Trace(
        tuple(found), tuple(equations), tuple(results), asked,
        tuple(renamed(reading, numbers, kept) for reading in readings), tuple(kept), tuple(fractions),
    )  # fmt: skip


def read_equations(response: str) -> tuple[list[Equation], list[Number]]:
    """The equations of a response and their results, if all are understood and exact."""
    equations, results = list[Equation](), list[Number]()
    thought = response.rpartition(MARKER)[0]
    for left, right in ANNOTATION.findall(thought):
        equation = parse_equation(left, right)
        if equation is None:
            raise UntraceableError("an equation is no plain arithmetic")
        value = equation.value([read_number(operand) for operand in equation.operands])
        if len(equation.operands) == 1:  # <<40=40>>: calculated in the head
            raise UntraceableError("an equation calculates nothing")
        if value is None or value != result_of(equation):
            raise UntraceableError("an equation is not exact")
        equations.append(equation)
        results.append(value)
    if not equations:
        raise UntraceableError("no equations")
    if " ".join(e.text(e.operands, e.result) for e in equations) != thought.strip():
        raise UntraceableError("the thought is more than equations")
    return equations, results


def result_of(equation: Equation) -> Number:
    """The right side as a number."""
    value = read_number(equation.result.removeprefix("-"))
    return -value if equation.result.startswith("-") else value


def answer_place(results: Sequence[Number], answer: str) -> int:
    """The equation that gives the answer: the last one, or else the only one with that value."""
    if "/" in answer:
        raise UntraceableError("the answer is a fraction")
    number = parse_number(answer)
    places = [place for place, result in enumerate(results) if result == number]
    if places and places[-1] == len(results) - 1:
        return places[-1]
    if len(places) != 1:
        raise UntraceableError("the answer is not the result of one equation")
    return places[0]


def derivations(value: Number, percents: set[Number]) -> list[tuple[Number, Derived]]:
    """What percentages could have been turned into this value in the head."""
    found: list[tuple[Number, Derived]] = []
    for percent in sorted(percents):
        found += [(percent, kind) for kind in DERIVED if derive(percent, kind) == value]
    return found


def derive(value: Number, kind: Derived) -> Number:
    """A percentage as it is used."""
    if kind == "same":
        return value
    if kind == "left":
        return 100 - value
    if kind == "more":
        return 100 + value
    hundredths = Fraction(value) / 100
    if kind == "hundredths":
        return whole(hundredths)
    return whole(1 - hundredths if kind == "left_hundredths" else 1 + hundredths)


def inseparable(found: Sequence[Numeral], question: str) -> set[Number]:
    """Numbers that depend on one another without an equation: shares that make up a whole, parts and their sum."""
    frozen: set[Number] = set()
    loose = [n for n in found if not n.fixed]
    for size in (2, 3):
        for group in combinations([n for n in loose if n.percent], size):
            if sum(n.value for n in group) == 100:
                frozen |= {n.value for n in group}
    if REST.search(question):
        for a, b, c in product(loose, loose, loose):
            if a is not b and b is not c and a is not c and a.value + b.value == c.value and c.value > SMALL:
                frozen |= {a.value, b.value, c.value}
    return frozen


def torn_fractions(
    fractions: Sequence[tuple[Numeral, Numeral]], equations: Sequence[Equation], counted: Counter[Number]
) -> set[Number]:
    """The numbers of fractions that are no parts of a whole, or that are used otherwise than by their two numbers."""
    operands = {read_number(operand) for equation in equations for operand in equation.operands}
    torn: set[Number] = set()
    for a, b in fractions:
        improper = a.value >= b.value or b.fixed or (a.fixed and a.value != 1)
        otherwise = any(v in operands and v not in (*counted, 1) for v in fraction_values(a.value, b.value))
        if improper or otherwise:
            torn |= {a.value, b.value}
    return torn


def best_readings(
    options: Sequence[Sequence[Source]],
    equations: Sequence[Equation],
    counted: Counter[Number],
    numbers: Sequence[Number],
    asked: int,
) -> list[Reading]:
    """The ways to choose an origin for every operand that leave the fewest numbers and results unused."""
    if math.prod(len(sources) for sources in options) > MAX_READINGS:
        raise UntraceableError("too many ways to read the equations")
    scored = []
    for chosen in product(*options):
        used_results = {s.place for s in chosen if s.kind == "result"}
        used = Counter(s.place for s in chosen if s.kind == "number")
        unused = sum(place not in used_results for place in range(len(equations)) if place != asked)
        unused += sum(max(0, counted[value] - used[place]) for place, value in enumerate(numbers))
        scored.append((unused, chosen))
    least = min(unused for unused, _ in scored)
    readings: list[Reading] = []
    for unused, chosen in scored:
        if unused == least:
            sources = iter(chosen)
            readings.append(tuple(tuple(next(sources) for _ in equation.operands) for equation in equations))
    return readings


def check_unexplained(values: Iterable[Number], counted: Counter[Number], question: str) -> None:
    """Refuse values from nowhere but the smallest, and one more or one less than is said: five friends and he."""
    company = COMPANY.search(question)
    for value in values:
        near = company and value <= SMALL and (value - 1 in counted or value + 1 in counted)
        if isinstance(value, Fraction) or (value > MOST_COUNTED and not near):
            raise UntraceableError("a number of the equations comes from nowhere")


def made_in_the_head(
    values: Mapping[Number, int],
    counted: Counter[Number],
    results: Sequence[Number],
    readings: Sequence[Reading],
    numbers: Sequence[Number],
    percents: set[Number],
) -> set[Number]:
    """The numbers that a value without an origin may have been made of in the head: they must not change.

    Args:
        values: each with the first equation that uses it.
        counted: the loose numbers of the question.
        results: of all equations.
        readings: of all operands.
        numbers: of the question, by place.
        percents: those that count hundredths.
    """
    frozen: set[Number] = set()
    for value, first in values.items():
        known = [*counted, *results[:first]]
        makers = {a for a in known if value in (a + 1, a - 1, 2 * a) or a in (2 * value, 3 * value, 4 * value)}
        makers |= {a for a in known if any(100 * value == a * percent for percent in percents)}
        for a, b in combinations(known, 2):
            if value in (a + b, a - b, b - a, a * b) or a * value == b or b * value == a:
                makers |= {a, b}
        frozen |= {a for a in makers if a in counted}
        for place, result in enumerate(results[:first]):
            if result in makers:
                for reading in readings:
                    frozen |= {numbers[p] for p in ancestors(place, reading)}
    return frozen


def bordering(counted: Counter[Number], readings: Sequence[Reading], numbers: Sequence[Number]) -> set[Number]:
    """Numbers next to one that no equation uses: of 20 people who come, 19 others."""
    unused = {value for place, value in enumerate(numbers) if not max(count_of(place, r) for r in readings)}
    return {value for value in counted if value + 1 in unused or value - 1 in unused}


def ancestors(place: int, reading: Reading) -> set[int]:
    """The numbers of the question that an equation's result depends on."""
    found: set[int] = set()
    for source in reading[place]:
        if source.kind == "number":
            found.add(source.place)
        elif source.kind == "result":
            found |= ancestors(source.place, reading)
    return found


def count_of(place: int, reading: Reading) -> int:
    """How often a reading uses a number of the question."""
    return sum(source.kind == "number" and source.place == place for sources in reading for source in sources)


def renamed(reading: Reading, numbers: Sequence[Number], kept: Sequence[Number]) -> Reading:
    """A reading in which the numbers that stay are constants."""

    def one(source: Source) -> Source:
        if source.kind != "number":
            return source
        value = numbers[source.place]
        if value in kept:
            return Source("number", kept.index(value), derived=source.derived)
        return Source("constant", value=derive(value, source.derived))

    return tuple(tuple(one(source) for source in sources) for sources in reading)
