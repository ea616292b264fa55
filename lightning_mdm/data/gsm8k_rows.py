"""GSM8K in its three written forms, read into one row, and what each form calls wrong.

* ``{"question", "answer"}`` as in ``openai/gsm8k``: a natural solution with ``<<48/2=24>>`` in it, then ``#### 72``;
* ``{"question", "cot", "answer"}`` as in ``zen-E/GSM8k-Aug``: equations and the answer apart;
* ``question||<<48/2=24>> <<48+24=72>> #### 72``, a line of da03/Internalize_CoT_Step_by_Step ("iCoT").

A text file's first line tells which form it has; a ``.parquet`` file holds one of the first two. Knows nothing of
tokens, splits or models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_mdm.data.answers import MARKER, parse_number
from lightning_mdm.data.problem import Problem
from lightning_mdm.text_lines import numbered_lines

EQUATION = re.compile(r"<<.*?>>")


@dataclass(frozen=True)
class Row:
    """One problem as written: its solution without the answer, and whether that solution is more than equations."""

    question: str
    solution: str
    answer: str
    natural: bool

    def problem(self, index: int, thoughts: str) -> Problem:
        """The problem with thoughts as asked.

        A natural solution's equations are its ``<<...>>``, joined by spaces; that is character for character what the
        iCoT files hold (all 500 and 1,319 problems). A solution without any equation gives an empty thought.

        Raises:
            ValueError: natural thoughts are asked for and the row has equations only.
        """
        if thoughts == "natural" and not self.natural:
            raise ValueError('thoughts="natural", but this problem has equations only; ask for thoughts="equations"')
        natural = thoughts == "natural"
        thought = self.solution if natural else " ".join(EQUATION.findall(self.solution))
        between = "\n" if natural else " "
        return Problem(index, self.question, f"{thought}{between}{MARKER} {self.answer}".strip(), self.answer)


def key(question: str) -> str:
    """A question up to white space, by which the same problem is found in another file."""
    return " ".join(question.split())


def parse_record(record: Mapping[str, Any]) -> Row:
    """A row from the fields of a JSON line or of a hub data set.

    Raises:
        ValueError: a field is missing or no text, or there is no answer that is a number.
    """
    names = ("question", "cot", "answer") if "cot" in record else ("question", "answer")
    for name in names:
        if not isinstance(record.get(name), str):
            raise ValueError(f"no text in field {name!r}; the fields are {', '.join(record) or 'none'}")
    if "cot" in record:
        return _checked(record["question"], record["cot"], record["answer"].replace(MARKER, ""), natural=False)
    solution, marker, answer = record["answer"].rpartition(MARKER)
    if not marker:
        raise ValueError(f"no {MARKER} before an answer")
    return _checked(record["question"], solution, answer, natural=True)


def parse_line(line: str) -> Row:
    """A row from a line of either file form.

    Raises:
        ValueError: the line is malformed, or there is no answer that is a number.
    """
    if not line.strip():
        raise ValueError("the line is empty")
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON: {error}") from error
        return parse_record(record)
    question, bars, rest = line.partition("||")
    solution, marker, answer = rest.rpartition(MARKER)
    if not bars or not marker:
        raise ValueError(f"neither a JSON object nor 'question||thought {MARKER} answer'")
    return _checked(question, solution, answer, natural=False)


def _checked(question: str, solution: str, answer: str, *, natural: bool) -> Row:
    if not question.strip():
        raise ValueError("the question is empty")
    if parse_number(answer) is None:
        raise ValueError(f"the answer {answer.strip()!r} is no number")
    return Row(question.strip(), solution.strip(), answer.strip(), natural)


def numbered(
    items: Iterable[Any], parse: Any, *, origin: str, first: int, on_bad_line: str
) -> Iterator[tuple[int, Row]]:
    """Number and parse items; a bad one is an error naming ``origin`` and its number, or is skipped and counted.

    Args:
        items: lines or records.
        parse: what makes a row of one.
        origin: the file or data set, for messages.
        first: number of the first item, 1 for lines.
        on_bad_line: ``error`` or ``skip``; skipped ones are reported by a warning once all are read.

    Raises:
        ValueError: a bad item, where ``on_bad_line`` is ``error``.
    """
    skipped: list[str] = []
    for number, item in enumerate(items, start=first):
        try:
            row = parse(item)
        except ValueError as error:
            message = f"{origin}:{number}: {error}"
            if on_bad_line == "error":
                raise ValueError(f'{message}; mend it, or leave such lines out by data.on_bad_line="skip"') from error
            skipped.append(message)
            continue
        yield number, row
    if skipped:
        rank_zero_warn(f"{origin}: {len(skipped)} bad line(s) skipped, the first: {skipped[0]}")


def parquet_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of a ``.parquet`` file, in its order.

    Raises:
        ValueError: the file is none.
    """
    import datasets  # takes a second to import, and few files need it

    try:
        yield from datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except Exception as error:  # the library raises a dozen kinds
        raise ValueError(f"{path}: no parquet file: {error}") from error


def read_rows(path: Path, on_bad_line: str) -> list[tuple[int, Row]]:
    """All rows of a file with their numbers: lines count from 1, rows of a ``.parquet`` from 0.

    Blank lines at the end of a text file are none.

    Raises:
        ValueError: a missing file, one without problems, or a bad line (see ``numbered`` and ``numbered_lines``).
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if path.suffix == ".parquet":
        rows = list(numbered(parquet_records(path), parse_record, origin=str(path), first=0, on_bad_line=on_bad_line))
        if not rows:
            raise ValueError(f"{path}: no problem in it")
        return rows
    lines = [line for _, line in numbered_lines(path)]
    while lines and not lines[-1].strip():
        lines.pop()
    rows = list(numbered(lines, parse_line, origin=str(path), first=1, on_bad_line=on_bad_line))
    if not rows:
        raise ValueError(f"{path}: no problem in it")
    return rows
