"""Flat dataclasses as csv files: fields are columns, and a wrong value is reported with file, line and column.

Knows csv; knows nothing of what the columns mean. Types: text, int, float, bool (written 1 or 0), text or nothing,
float or nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Hashable, Iterable
from dataclasses import MISSING, astuple, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_mdm.whole_files import whole_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Record = TypeVar("Record", bound=DataclassInstance)
else:
    Record = TypeVar("Record")

AnyRow = TypeVar("AnyRow")

_PARSERS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"1": True, "0": False}[text],
    "str | None": lambda text: text or None,
    "float | None": lambda text: float(text) if text else None,
}


def write_table(path: str | Path, record_type: type[Record], records: Iterable[Record]) -> None:
    """Writes a header and one line per record; the file appears in one piece, its folder is made if missing."""
    with whole_file(path) as draft, open(draft, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(record_type))
        for record in records:
            writer.writerow(int(value) if isinstance(value, bool) else value for value in astuple(record))


def read_table(path: str | Path, record_type: type[Record]) -> list[Record]:
    """Reads what :func:`write_table` wrote; last columns that have a default may be missing, as in older files.

    Raises:
        ValueError: a missing file, another header, a line of another length or a value of another type; the message
            names file, line and column.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    # Annotations are text here, since every module of this package postpones their evaluation.
    parsers = [(field.name, str(field.type)) for field in fields(record_type)]
    names = [name for name, _ in parsers]
    least = sum(field.default is MISSING for field in fields(record_type))
    records = []
    with open(path, encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have saved it
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if header != names[: max(len(header), least)]:
                raise ValueError(f"{path}, line 1: the columns must be {','.join(names)}, got {','.join(header)}")
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if len(values) != len(header):
                    raise ValueError(f"{where}: {len(header)} values expected, got {len(values)}")
                parsed = {}
                for (name, kind), text in zip(parsers, values, strict=False):
                    try:
                        parsed[name] = _PARSERS[kind](text)
                    except (KeyError, ValueError):
                        raise ValueError(f"{where}: column {name} must be {kind}, got {text!r}") from None
                records.append(record_type(**parsed))
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return records


def replace_rows(earlier: Iterable[AnyRow], later: Iterable[AnyRow], key: Callable[[AnyRow], Hashable]) -> list[AnyRow]:
    """The earlier rows, without those of a key that a later row has, and then the later ones.

    Args:
        earlier: such as those of a file.
        later: what was made again, or for the first time.
        key: what it was made of; several rows may have the same.
    """
    later = list(later)
    made = {key(row) for row in later}
    return [row for row in earlier if key(row) not in made] + later
