"""The numbers of an English question: which of them are quantities, and which constants its words bring along.

A numeral is *fixed* where it is no quantity that could as well be another: times and ratios (7:30, 2:1), mixed numbers
(``1 1/2``), ordinals and labels (``3rd``, ``grade 5``), dates, and 0 and 1, which words agree with. Number words are
quantities where they measure (``three times``, ``six days``); what they count may be told one by one (``two friends, Jo
and Mel``), so otherwise they are constants. Knows nothing of equations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from lightning_mdm.data.equations import Number, read_number, whole, write_number

NUMERAL = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?![\d]|,\d|\.\d)")
UNITS = r"(?:kgs?|g|mg|ml|l|L|cm|mm|m|km|ft|in|oz|lbs?|mph|MPH|GB|MB|hrs?|mins?)\b"
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
LABELS = (
    r"grade|number|no|chapter|page|day|week|month|year|level|route|room|step|size|class|phase|stage|round|set|version"
    r"|interstate|highway|flight|gate|type|group|team|box|train|game|part|section|floor|age|season|pile|option|unit"
)
# What stands before or behind a numeral that is no quantity of its own.
FIXED_BEFORE = re.compile(
    rf"(?:[\d.:^]|\d\s|[^\d\s]/|/\d*/|\d\s\d+/|['#]|\d\s(?:to|x|by)\s|\b(?i:{MONTHS})\s|\b(?i:{LABELS})\s#?)$"
)
FIXED_BEHIND = re.compile(
    rf"\s?[:^]\s?\d|/(?!\d)|/\d+(?:/|(?!(?i:{UNITS}))[A-Za-z])|(?!(?i:{UNITS}))[A-Za-z]|'s?\b|\s(?:\d|(?i:[ap]\.?m)\b"
    rf"|o'clock|(?:of\s)?(?:{MONTHS})\b|million|billion|thousand|hundred|trillion|and a half|halves|thirds?\b|fourths"
    r"|quarters of|fifths|sixths|eighths|tenths|x\s\d|by\s\d|-?to\s?-?\d)"
)
AROUND = re.compile(
    rf"(?:\s?{UNITS}|[\s-]*([a-z]+))?[\s,]*(?:(?:a|an|per|each|every|in a|of the)\s+([a-z]+))?", re.IGNORECASE
)
# Behind these, a small number counts what is told one by one: these 3 scores, all 4 subjects.
TOLD = re.compile(r"\b(?:these|those|all|the|other)\s$", re.IGNORECASE)
MOST_TOLD = 10
YEARS = range(1900, 2100)
MOST_PARTS = 12  # of a fraction

SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
COUNTS = {word: k for k, word in enumerate(SMALL)} | {word: 10 * k for k, word in enumerate(TENS, start=2)}
PARTS = {"half": 2, "halves": 2, "halved": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6}
PARTS |= {"seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}
MULTIPLES = {"twice": 2, "double": 2, "doubled": 2, "doubles": 2, "doubling": 2, "thrice": 3, "triple": 3, "tripled": 3}
MULTIPLES |= {"triples": 3, "tripling": 3, "quadruple": 4, "quadrupled": 4, "quadruples": 4, "dozen": 12, "couple": 2}
MULTIPLES |= {"pair": 2, "twins": 2, "triplets": 3, "both": 2, "hundred": 100, "thousand": 1000, "score": 20}
MULTIPLES |= {"quintuple": 5, "sextuple": 6, "half-dozen": 6, "million": 10**6}
# What a unit may bring into a calculation.
CONVERSIONS: dict[str, tuple[int | str, ...]] = {
    "second": (60, 3600), "minute": (60,), "hour": (60, 24, 3600), "hourly": (60, 24),
    "day": (24, 7, 365, 30, 31, 28), "daily": (7, 365, 30), "week": (7, 52, 4), "weekly": (7, 52, 4), "weekday": (5,),
    "weekend": (2,), "workday": (5,), "month": (12, 30, 4, 31, 28, 29), "monthly": (12, 30),
    "year": (12, 52, 365, 366), "yearly": (12, 52, 365), "annual": (12, 52), "annually": (12, 52), "decade": (10,),
    "century": (100,), "centuries": (100,), "fortnight": (14, 2), "foot": (12, 3), "feet": (12, 3), "inch": (12,),
    "inches": (12,), "yard": (3, 36), "mile": (5280,), "pound": (16, 2000), "ounce": (16, 8), "ton": (2000, 1000),
    "gallon": (4, 8, 16, 128), "quart": (4, 2), "pint": (2, 8), "cup": (2, 4, 8, 16), "tablespoon": (3, 16),
    "dollar": (100,), "cent": (100, ".01"), "penny": (100, ".01"), "pennies": (100, ".01"), "nickel": (5, ".05", 20),
    "dime": (10, ".1", ".10"), "quarter": (25, ".25"), "kilo": (1000,), "kilogram": (1000,), "kg": (1000,),
    "gram": (1000,), "g": (1000,), "kilometer": (1000,), "km": (1000,), "meter": (100, 1000), "m": (100, 1000),
    "centimeter": (100, 10), "cm": (100, 10), "liter": (1000,), "milliliter": (1000,), "ml": (1000,),
    "percent": (100, ".01"), "percentage": (100, ".01"), "egg": (12,), "square": (4,), "triangle": (3,),
    "rectangle": (2,), "rectangular": (2,), "perimeter": (2, 4), "cube": (6, 12), "dog": (4,), "cow": (4,),
    "horse": (4,), "spider": (8,), "leg": (2, 4), "bike": (2,), "bicycle": (2,), "tricycle": (3,), "car": (4,),
    "february": (28, 29), "april": (30,), "june": (30,), "september": (30,), "november": (30,), "january": (31,),
    "march": (31,), "may": (31,), "july": (31,), "august": (31,), "october": (31,), "december": (31,),
}  # fmt: skip
MEASURES = (
    "times|days?|weeks?|months?|years?|hours?|minutes?|seconds?|dollars?|cents|miles?|kilometers?|meters?|feet|inches|yards?"
    "|pounds?|ounces?|gallons?|liters?|quarts|pints|cups|pages|boxes|bags|packs?|dozen|slices|pieces|points|percent|more"
    "|fewer|less"
)
SPOKEN = {word: value for word, value in COUNTS.items() if 2 <= value <= 12 or value >= 20}
WORD_NUMERAL = re.compile(rf"(?<![-\w])({'|'.join(SPOKEN)})(?=[\s-](?:{MEASURES})\b)", re.IGNORECASE)
WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*|%|\$")


@dataclass(frozen=True)
class Numeral:
    """A number of the question.

    Args:
        start: where it begins in the question.
        end: where it ends.
        text: as written.
        value: what it stands for.
        fixed: whether it is no quantity of its own (see above).
        percent: whether it counts hundredths.
        price: whether a currency sign stands before it.
        unit: the word behind it, in lower case, or nothing.
        per: the unit it is counted by (``5 days a week``), or nothing.
        spoken: whether it is a word.
        part: ``above`` or ``below`` in a fraction such as ``3/4``, whose other half is its neighbour; or nothing.
    """

    start: int
    end: int
    text: str
    value: Number
    fixed: bool
    percent: bool
    price: bool
    unit: str
    per: str
    spoken: bool
    part: str

    def written(self, value: Number) -> str | None:
        """Another number in its place, in its style; ``None`` where it cannot be written so."""
        if not self.spoken:
            return write_number(value, self.text, fixed=self.price)
        word = next((word for word, spoken in SPOKEN.items() if spoken == value), None)
        return word.capitalize() if word and self.text[0].isupper() else word


@dataclass(frozen=True)
class Constants:
    """Numbers that the words of a question may bring into its solution.

    Args:
        said: how often each is said outright: number words, ``twice``, ``half`` (2 and 1/2).
        possible: those that a unit may need, such as 60 for minutes.
    """

    said: Counter[Number]
    possible: frozenset[Number]


def numerals(question: str) -> list[Numeral]:
    """All numbers in digits, and number words that measure, from the left."""
    matches = [*NUMERAL.finditer(question), *WORD_NUMERAL.finditer(question)]
    return [numeral(question, match) for match in sorted(matches, key=lambda match: match.start())]


def numeral(question: str, match: re.Match[str]) -> Numeral:
    """What there is to know about a number at its place."""
    before, behind, text = question[: match.start()], question[match.end() :], match[0]
    spoken = text[0].isalpha()
    value = SPOKEN[text.lower()] if spoken else read_number(text)
    price = before.endswith("$")
    part = "above" if re.match(r"/\d", behind) else "below" if re.search(r"\d/$", before) else ""
    words = AROUND.match(behind)
    assert words is not None, "everything in it is optional"
    fixed = value in (0, 1) or (not spoken and not price and value in YEARS and "," not in text)
    fixed = fixed or bool(not spoken and (FIXED_BEFORE.search(before) or FIXED_BEHIND.match(behind)))
    if TOLD.search(before) and value <= MOST_TOLD and not price:
        fixed = True
    if part and (isinstance(value, Fraction) or value > MOST_PARTS):
        fixed = True
    return Numeral(
        match.start(), match.end(), text, value, fixed, bool(re.match(r"\s?%|[ -]percent\b", behind)), price,
        (words[1] or "").lower(), (words[2] or "").lower(), spoken, part,
    )  # fmt: skip


def constants(question: str) -> Constants:
    """The constants that the words of a question bring along."""
    said: Counter[Number] = Counter()
    possible: set[Number] = {1}
    measuring = {match.start() for match in WORD_NUMERAL.finditer(question)}
    for match in WORD.finditer(question):
        if match.start() in measuring:
            continue
        whole_word = match[0].lower()
        for word in dict.fromkeys((whole_word, *whole_word.split("-"))):
            stem = word[:-1] if word.endswith("s") else word
            if word in COUNTS:
                said[COUNTS[word]] += 1
            for name in dict.fromkeys((word, stem)):
                if name in MULTIPLES:
                    said[MULTIPLES[name]] += 1
                if name in PARTS:
                    said.update(part_values(PARTS[name]))
                if name in CONVERSIONS:
                    possible.update(read_number(str(value)) for value in CONVERSIONS[name])
            if word == "%":
                possible.update((100, Fraction(1, 100)))
        first, _, second = whole_word.partition("-")
        if first in TENS and second in SMALL:
            said[COUNTS[first] + COUNTS[second]] += 1
    return Constants(said, frozenset(possible))


def part_values(parts: int) -> list[Number]:
    """What a word like ``third`` may come to in a calculation: 3, 1/3 and what is left, 2/3, with their numerators."""
    return list(dict.fromkeys([parts, parts - 1, Fraction(1, parts), whole(Fraction(parts - 1, parts))]))


def fraction_values(top: Number, bottom: Number) -> list[Number]:
    """What a fraction may come to beside its two numbers: ``3/4`` gives 3/4, 1/4 and 1."""
    share = Fraction(top) / Fraction(bottom)
    return list(dict.fromkeys([whole(share), whole(1 - share), bottom - top]))


def rewritten(question: str, replaced: Iterable[tuple[Numeral, str]]) -> str:
    """The question with numerals replaced, and ``a`` or ``an`` before them as they are spoken."""
    pieces, place = [], 0
    for numeral, text in replaced:
        before = question[place : numeral.start]
        article = re.search(r"\b([Aa])n?(\s\$?)$", before)
        if article and text != numeral.text:
            before = before[: article.start()] + article[1] + ("n" if spoken_with_vowel(text) else "") + article[2]
        pieces += [before, text]
        place = numeral.end
    return "".join(pieces) + question[place:]


def spoken_with_vowel(text: str) -> bool:
    """Whether a number's name begins with a vowel: eight, eleven, eighteen, eighty-five, 8,000, 11.5."""
    digits = text.partition(".")[0].replace(",", "")
    return digits.startswith("8") or (digits[:2] in ("11", "18") and len(digits) % 3 == 2)
