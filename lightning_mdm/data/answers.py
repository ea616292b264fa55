"""The answer of a generated text, compared as a number, exactly.

An answer is the first line with something on it after the last ``####``. It is read as one number:

* a sign, ``-``, ``+`` or the Unicode minus, and a currency sign, in either order: ``-3``, ``+7``, ``-$5``, ``$-5``;
* digits, plain or grouped in threes by commas, with a decimal point anywhere: ``1,234.50``, ``72.``, ``.5``;
* or a fraction of two integers: ``1/2`` (but not the mixed ``1 1/2``);
* then perhaps ``%`` or a currency sign, and words after a space: ``50%`` is 50 (as GSM8K writes percentages),
  ``18 dollars`` is 18. Words that would change the number (``5 million``, ``2 dozen``) make it no number, and so do
  letters stuck to it (``5k``), further digits (``18 or 19``), calculations and anything in front of it.

Anything else is no number and equals nothing. Knows nothing of tokens or models.
"""

from __future__ import annotations

import re
from fractions import Fraction

from lightning_mdm.data.problem import Grade

MARKER = "####"
# Longer texts are no grade-school answer, and Python refuses to read digits from some length on.
MAX_LENGTH = 100
# Words that would change the number they follow.
SCALES = frozenset(
    f"{word}{plural}"
    for word in ("hundred", "thousand", "million", "billion", "trillion", "dozen", "third", "quarter", "tenth")
    for plural in ("", "s")
) | {"half", "halves"}
CURRENCY = "$€£¥"
NUMBER = re.compile(
    rf"""
    (?P<sign>[-+]?)\s*[{CURRENCY}]?\s*(?P<inner>[-+]?)\s*
    (?:(?P<top>[0-9]+)\s*/\s*(?P<bottom>[0-9]+)
      |(?P<whole>[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]*)(?P<decimals>\.[0-9]*)?)
    \s*[%{CURRENCY}]?
    (?P<unit>\s+[^\W\d_][^0-9]*)?
    [.!]?
    """,
    re.VERBOSE,
)


def final_answer(text: str) -> str | None:
    """The first line with something on it after the last ``####``, stripped; ``None`` where there is no such marker."""
    _, marker, rest = text.rpartition(MARKER)
    lines = rest.strip().splitlines()
    return lines[0].strip() if marker and lines else None


def parse_number(answer: str) -> Fraction | None:
    """The number an answer stands for, exactly; ``None`` where it stands for none. Never raises."""
    if len(answer) > MAX_LENGTH:
        return None
    match = NUMBER.fullmatch(answer.strip().replace("\u2212", "-"))
    if match is None or (match["sign"] and match["inner"]):
        return None
    if SCALES & set(re.findall(r"[a-z]+", (match["unit"] or "").lower())):
        return None
    if match["bottom"]:
        value = Fraction(int(match["top"]), int(match["bottom"])) if int(match["bottom"]) else None
    else:
        digits = match["whole"].replace(",", "") + (match["decimals"] or "")
        value = Fraction(digits) if digits.strip(".") else None
    return -value if value is not None and "-" in (match["sign"], match["inner"]) else value


def same_number(a: str, b: str) -> bool:
    """Whether two answers stand for the same number; what is no number equals nothing."""
    value = parse_number(a)
    return value is not None and value == parse_number(b)


def show_number(value: Fraction) -> str:
    """One way of writing every number: ``18``, ``-2.5``, or ``1/3`` where decimals would not end."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    places = 0
    while rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5
        places += 1
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def grade_number(reference: str, text: str) -> Grade:
    """Grade a generated text against the reference answer, both read as numbers.

    The grade carries the answer found, written in one way where it is a number and as it stands where it is none.
    """
    answer = final_answer(text)
    if answer is None:
        return Grade(None, False)
    value = parse_number(answer)
    return Grade(answer if value is None else show_number(value), same_number(reference, answer))
