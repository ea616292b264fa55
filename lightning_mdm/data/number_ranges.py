"""Which other numbers would make sense in the place of a number: of similar size and roundness, within its unit.

Knows nothing of equations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from lightning_mdm.data.equations import Number, whole
from lightning_mdm.data.question_numbers import MOST_PARTS, SPOKEN, Numeral

# A number of the question may become this many times larger or smaller, a result this many times.
SPREAD, RESULT_SPREAD = 4, 6
AGES = re.compile(r"\b(ages?|old|older|younger|birthday)\b", re.IGNORECASE)
# Most that a unit may count, where it did not count more before.
MOST = {
    "minute": 59, "minutes": 59, "seconds": 59, "hours": 24, "hour": 24, "days": 31, "day": 31, "weeks": 52,
    "months": 12, "month": 12, "inches": 96, "degrees": 120, "workdays": 5, "weekdays": 5,
}  # fmt: skip
MOST_PER = {
    ("days", "week"): 7, ("hours", "day"): 16, ("days", "month"): 28, ("weeks", "month"): 4, ("hours", "week"): 80,
}  # fmt: skip
# Most that is plausible where the question speaks of weeks or months.
MOST_IN = {"week": {"days": 7, "hours": 80}, "month": {"weeks": 5}}


@dataclass(frozen=True)
class Bounds:
    """What a result may become: bounds, and whether it has to be whole."""

    low: Number
    high: Number
    whole: bool

    def hold(self, value: Number) -> bool:
        return self.low <= value <= self.high and not (self.whole and isinstance(value, Fraction))


def choices(mentions: Sequence[Numeral], stay: Sequence[Number], question: str) -> tuple[tuple[Number, ...], ...]:
    """What a number may become: of similar size and roundness, within what its unit allows."""
    value = mentions[0].value
    step, offset = roundness(value, any(n.percent for n in mentions))
    low, high = Fraction(value) / SPREAD, Fraction(value) * SPREAD
    if isinstance(value, int):
        low = max(low, Fraction(2))
        high = max(high, Fraction(value + 6))
    if AGES.search(question) and value < 100:
        low, high = value * Fraction(2, 3), min(value * Fraction(3, 2) + 2, Fraction(99))
    for n in mentions:
        if n.percent and value < 100:
            high = min(high, Fraction(99))
        if n.part:
            low, high = Fraction(2), Fraction(MOST_PARTS)
        limits = [MOST_PER.get((n.unit, n.per), MOST.get(n.unit))]
        limits += [units.get(n.unit) for period, units in MOST_IN.items() if period in question.lower()]
        for most in limits:
            if most is not None and value <= most:
                high = min(high, Fraction(most))
    side = same_side(value, stay)
    first, last = math.ceil((low - offset) / step), math.floor((high - offset) / step)
    every = max(1, (last - first) // 400)
    may = [v for m in range(first, last + 1, every) if side.hold(v := exact(m * step + offset)) and v > 0 and v != 1]
    if any(n.spoken for n in mentions):
        may = [v for v in may if v in SPOKEN.values()]
    lists = [tuple(may)]
    if isinstance(value, int):
        for divisor in range(2, min(value, 60) + 1):
            if value % divisor == 0:
                lists.append(tuple(v for v in may if v % divisor == 0))
    return tuple(dict.fromkeys(kept for kept in lists if any(v != value for v in kept))) or ((value,),)


def roundness(value: Number, percent: bool) -> tuple[Number, Number]:
    """Step and offset of numbers as round as this one: 2,000 goes by hundreds, 12.99 by ones and ends in .99."""
    if isinstance(value, Fraction):
        for part in (Fraction(1, 2), Fraction(1, 4)):
            if (value / part).denominator == 1:
                return part, 0
        cents = value * 100
        if cents.denominator == 1 and cents.numerator % 100 in (99, 95, 98):
            return 1, value - math.floor(value)
        places = 1
        while (value * 10**places).denominator != 1:
            places += 1
        return Fraction(1, 10**places), 0
    if percent and value % 5 == 0:
        return 5, 0
    step = 1
    while value % (step * 10) == 0:
        step *= 10
    return (step if value >= 10 * step else max(1, step // 10)), 0


def exact(value: Number) -> Number:
    """The same number, as an ``int`` where it is one."""
    return whole(value) if isinstance(value, Fraction) else value


def same_side(value: Number, stay: Sequence[Number]) -> Bounds:
    """On the same side of all numbers that stay."""
    below = [s for s in stay if s < value]
    above = [s for s in stay if s > value]
    tiny = Fraction(1, 100)
    return Bounds(max(below) + tiny if below else -(10**18), min(above) - tiny if above else 10**18, False)


def result_bounds(result: Number, stay: Sequence[Number]) -> Bounds:
    """What a result may become: of the same sign, whole where it was whole, of similar size, on the same side."""
    if result == 0:
        return Bounds(0, 0, True)
    size = max(result, -result)
    low, high = Fraction(size, RESULT_SPREAD), Fraction(size * RESULT_SPREAD)
    if isinstance(result, int):
        low, high = max(low, Fraction(1 if size < 4 else 2)), max(high, Fraction(12))
    low, high = (low, high) if result > 0 else (-high, -low)
    side = same_side(result, stay)
    return Bounds(max(low, side.low), min(high, side.high), isinstance(result, int))
