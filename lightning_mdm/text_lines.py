"""The lines of a text file, numbered as editors number them, so that an error can name one."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

GZIP = b"\x1f\x8b"


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """The lines of a file one by one, with their numbers from 1.

    A line ends at a line feed and nowhere else. A carriage return before it and a byte order mark at the beginning of
    the file belong to no line.

    Args:
        path: the file, UTF-8.

    Raises:
        ValueError: a line that is not UTF-8, with file and number; a file that is packed, or whose lines end with
            carriage returns alone.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                if line.startswith(GZIP):
                    raise ValueError(f"{path} is packed by gzip: unpack it first")
                if b"\n" not in line and b"\r" in line.rstrip(b"\r"):
                    raise ValueError(f"{path}: its lines end with carriage returns alone; end them with line feeds")
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                where = f"{path}, line {number}, byte {error.start + 1}"
                raise ValueError(f"{where}: no UTF-8 ({error.reason}); save the file as UTF-8") from None
