"""Calculator annotations, ``<<48/2=24>>``, as arithmetic on numbers that may be put in anew, and exact.

Knows nothing of questions or tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

Number: TypeAlias = int | Fraction  # whole numbers are always int: that is several times faster

ANNOTATION = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
PLAIN = re.compile(r"\d+(?:\.\d*)?|\.\d+")
TOKEN = re.compile(rf"(?P<number>{PLAIN.pattern})|(?P<sign>[-+*/()])")
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "negative": 3}


def whole(value: Fraction) -> Number:
    """The same number, as an ``int`` where it is one."""
    return value.numerator if value.denominator == 1 else value


def read_number(text: str) -> Number:
    """The number that plain digits, perhaps with thousands' commas and decimals, stand for."""
    return whole(Fraction(text.replace(",", "")))


def write_number(value: Number, like: str, *, fixed: bool = False) -> str | None:
    """A number written as another one is: with its thousands' commas, zero before the point and trailing zeros.

    Args:
        value: what to write, not negative.
        like: the number whose style is taken.
        fixed: keep the number of decimals, as prices do.

    Returns:
        The text, or ``None`` where the decimals would not end after two, or after as many as ``like`` has.
    """
    _, _, decimals = like.partition(".")
    places = len(decimals)
    scaled = value * 10 ** max(2, places)
    if isinstance(scaled, Fraction):
        scaled = whole(scaled)
        if isinstance(scaled, Fraction):
            return None
    digits = f"{scaled:0{max(2, places) + 1}d}"
    before, after = digits[: -max(2, places)], digits[-max(2, places) :]
    least = places if fixed or decimals.endswith("0") else 0
    after = after[:least] + after[least:].rstrip("0")
    if "," in like:
        before = f"{int(before):,}"
    if like.startswith(".") and before == "0" and after:
        before = ""
    return f"{before}.{after}" if after else before


@dataclass(frozen=True)
class Equation:
    """One annotation taken apart.

    Args:
        between: the text before, between and behind the operands.
        operands: the numbers on its left side as written.
        program: the left side in postfix order: numbers of operands, and signs.
        result: the right side as written.
    """

    between: tuple[str, ...]
    operands: tuple[str, ...]
    program: tuple[int | str, ...]
    result: str

    def value(self, operands: Sequence[Number]) -> Number | None:
        """The left side with these operands; ``None`` where it divides by zero."""
        stack: list[Number] = []
        for item in self.program:
            if isinstance(item, int):
                stack.append(operands[item])
                continue
            b = stack.pop()
            if item == "negative":
                stack.append(-b)
                continue
            a = stack.pop()
            if item == "+":
                c: Number = a + b
            elif item == "-":
                c = a - b
            elif item == "*":
                c = a * b
            elif b == 0:
                return None
            else:
                c = Fraction(a) / b
            stack.append(whole(c) if isinstance(c, Fraction) else c)
        return stack.pop()

    def text(self, operands: Sequence[str], result: str) -> str:
        """The annotation with other numbers."""
        inside = "".join(a + b for a, b in zip(self.between, (*operands, ""), strict=True))
        return f"<<{inside}={result}>>"


@lru_cache(maxsize=1 << 16)
def parse_equation(left: str, right: str) -> Equation | None:
    """An annotation's two sides taken apart; ``None`` where they are not plain arithmetic and a number."""
    if not PLAIN.fullmatch(right.removeprefix("-")):
        return None
    between, operands, output, waiting = [""], list[str](), list[int | str](), list[str]()
    wants_operand, place = True, 0
    while place < len(left):
        match = TOKEN.match(left, place)
        if match is None:
            return None
        place = match.end()
        if number := match["number"]:
            if not wants_operand:
                return None
            output.append(len(operands))
            operands.append(number)
            between.append("")
            wants_operand = False
            continue
        sign = match["sign"]
        between[-1] += sign
        if sign == "(":
            if not wants_operand:
                return None
            waiting.append(sign)
        elif sign == ")":
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if wants_operand or not waiting:
                return None
            waiting.pop()
        elif wants_operand:
            if sign not in "+-":
                return None
            if sign == "-":
                waiting.append("negative")
        else:
            while waiting and waiting[-1] != "(" and BINDS[waiting[-1]] >= BINDS[sign]:
                output.append(waiting.pop())
            waiting.append(sign)
            wants_operand = True
    if wants_operand or "(" in waiting:
        return None
    return Equation(tuple(between), tuple(operands), (*output, *reversed(waiting)), right)
