"""Other numbers for a word problem: replaced in its question and its equations together, and calculated anew, exactly.

Every operand of an equation is traced to where it comes from: a number of the question, the result of an earlier
equation, or a constant. Where several origins are possible, all readings that use up what the question gives are kept,
and a variant counts only where they agree. Numbers of equal value vary together, so that it does not matter which one
is meant. What cannot be traced stays as it is, and results have to stay plausible: of the same sign, whole where they
were whole, and of similar size; where a question compares sizes, also in the same order.

Knows nothing of files, tokens or models. What is refused on real problems, and how often, is in
``experiments/gsm8k_scratch/README.md``.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from lightning_mdm.data.answers import MARKER
from lightning_mdm.data.equations import Equation, Number, write_number
from lightning_mdm.data.number_ranges import Bounds, choices, result_bounds
from lightning_mdm.data.number_tracing import Reading, Source, UntraceableError, derive, trace
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.question_numbers import Numeral, rewritten

MAX_TRIES = 60
# Words after which a problem depends on which of two numbers is larger.
ORDERED = re.compile(
    r"\b(at least|at most|up to|exceed\w*|minimum|maximum|limit\w*|only if|(over|under|first|more than|less than|fewer"
    r" than|between|from|after|above|below|within|until|every|reach\w*|needs?|goal|budget|capacity|hold|fit)\s\$?\d)"
    r"|\w\sof\s(them|these|those)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Loose:
    """A number of the question that may change.

    Args:
        value: what it is in the original.
        choices: what it may become, in lists to draw from by chance; multiples of the original's divisors among them.
    """

    value: Number
    choices: tuple[tuple[Number, ...], ...]


@dataclass(frozen=True)
class Template:
    """A problem with its numbers loose.

    Args:
        question: of the original.
        mentions: the numerals that may change, from the left, each with the place of its number in ``loose``.
        equations: of the original.
        readings: where operands come from, in every way that makes sense; the first one is written out.
        loose: the numbers that may change.
        bounds: of every equation's result.
        answer: the equation whose result is the answer, and the answer as written.
        ordered: pairs of loose numbers of which the first must stay the smaller one.
        parts: pairs that are a fraction, which must stay below 1 and in its lowest terms.
    """

    question: str
    mentions: tuple[tuple[Numeral, int], ...]
    equations: tuple[Equation, ...]
    readings: tuple[Reading, ...]
    loose: tuple[Loose, ...]
    bounds: tuple[Bounds, ...]
    answer: tuple[int, str]
    ordered: tuple[tuple[int, int], ...]
    parts: tuple[tuple[int, int], ...]


def substitute(problem: Problem, seed: int, k: int) -> Problem | None:
    """Variant number ``k`` of a problem with equation-only thoughts; two numbers may give the same variant.

    Args:
        problem: of the training split.
        seed: another seed is another series of variants.
        k: number of the variant, from 0 without end.

    Returns:
        The variant, with the index of the original, or ``None`` where there is none.
    """
    template = template_or_none(problem.prompt, problem.response, problem.answer)
    if template is None:
        return None
    rng = random.Random(f"{seed}/{problem.index}/{k}")
    for attempt in range(MAX_TRIES):
        values = drawn(template, rng, 1.0 - 0.75 * attempt / MAX_TRIES)
        results = plausible(template, values)
        if results is not None and (written := write(template, values, results, problem)) is not None:
            return written
    return None


@lru_cache(maxsize=1 << 14)
def template_or_none(question: str, response: str, answer: str) -> Template | None:
    """The template of a problem, ``None`` where it is refused; remembered, as every epoch asks again."""
    try:
        return template_of(question, response, answer)
    except UntraceableError:
        return None


def template_of(question: str, response: str, answer: str) -> Template:
    """Trace the numbers of a problem and find what they may become.

    Args:
        question: in words.
        response: ``<<48/2=24>> <<48+24=72>> #### 72``.
        answer: ``72``.

    Raises:
        UntraceableError: the problem cannot have variants; the message says why.
    """
    traced = trace(question, response, answer)
    kept = traced.kept
    mentions = [(n, kept.index(n.value)) for n in traced.found if n.value in kept and not n.fixed]
    # Only where sizes are compared does it matter on which side of a number the others are.
    compares = bool(ORDERED.search(question))
    stay = [n.value for n in traced.found if n.value not in kept and not n.fixed] if compares else []
    return Template(
        question=question,
        mentions=tuple(mentions),
        equations=traced.equations,
        readings=traced.readings,
        loose=tuple(
            Loose(value, choices([n for n, p in mentions if p == place], stay, question))
            for place, value in enumerate(kept)
        ),
        bounds=tuple(result_bounds(result, stay) for result in traced.results),
        answer=(traced.asked, answer),
        ordered=tuple((kept.index(a), kept.index(b)) for a, b in combinations(sorted(kept), 2)) if compares else (),
        parts=tuple(
            (kept.index(a.value), kept.index(b.value))
            for a, b in traced.fractions
            if a.value in kept and b.value in kept
        ),
    )


def drawn(template: Template, rng: random.Random, share: float) -> list[Number]:
    """Values for the loose numbers, about this share of them other ones, and at least one."""
    values: list[Number] = [number.value for number in template.loose]
    sure = rng.randrange(len(values))
    for place, number in enumerate(template.loose):
        if place == sure or rng.random() < share:
            values[place] = rng.choice(rng.choice(number.choices))
    return values


def plausible(template: Template, values: Sequence[Number]) -> list[Number] | None:
    """The results with these values, ``None`` where one is out of bounds or two readings disagree."""
    if all(value == number.value for value, number in zip(values, template.loose, strict=True)):
        return None
    if any(not values[a] < values[b] for a, b in template.ordered):
        return None
    for a, b in template.parts:
        if not values[a] < values[b] or math.gcd(int(values[a]), int(values[b])) > 1:
            return None
    first: list[Number] | None = None
    for reading in template.readings:
        results: list[Number] = []
        for equation, sources, bounds in zip(template.equations, reading, template.bounds, strict=True):
            value = equation.value([taken(source, values, results) for source in sources])
            if value is None or not bounds.hold(value):
                return None
            results.append(value)
        if first is not None and results != first:
            return None
        first = results
    return first


def taken(source: Source, values: Sequence[Number], results: Sequence[Number]) -> Number:
    """The value of an operand."""
    if source.kind == "constant":
        return source.value
    if source.kind == "result":
        return results[source.place]
    return values[source.place] if source.derived == "same" else derive(values[source.place], source.derived)


def write(template: Template, values: Sequence[Number], results: Sequence[Number], original: Problem) -> Problem | None:
    """The variant as text; ``None`` where a number cannot be written as the original was."""
    replaced = []
    for numeral, place in template.mentions:
        text = numeral.written(values[place])
        if text is None:
            return None
        replaced.append((numeral, text))
    parts = []
    for equation, sources, result in zip(template.equations, template.readings[0], results, strict=True):
        operands = [taken(source, values, results) for source in sources]
        texts = [write_number(o, like) for o, like in zip(operands, equation.operands, strict=True)]
        size = write_number(max(result, -result), equation.result.removeprefix("-"))
        if size is None or any(text is None for text in texts):
            return None
        parts.append(equation.text([text for text in texts if text is not None], "-" * (result < 0) + size))
    place, like = template.answer
    number = re.search(r"[\d,.]*\d", like)
    assert number is not None, "the answer was read as a number"
    size = write_number(max(results[place], -results[place]), number[0])
    if size is None:
        return None
    answer = like[: number.start()] + size + like[number.end() :]
    prompt = rewritten(template.question, replaced)
    return Problem(original.index, prompt, f"{' '.join(parts)} {MARKER} {answer}", answer, original.depth)
