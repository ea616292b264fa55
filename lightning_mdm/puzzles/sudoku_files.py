"""Sudokus in files: the common text format, one puzzle a line, and a compact one of our own.

Text: a line holds a puzzle, one character a cell in reading order, ``.`` or ``0`` for a blank. Fields are parted by a
comma, semicolon, bar or white space; before the puzzle may stand ids or ratings, after it its solution, and then
anything else. The puzzle's column is the first of the first line that looks like one, and the same in all lines. Empty
lines, lines that begin with ``#`` and what follows a ``#`` are comments. The first line may be a header that names the
columns (``puzzle``, ``quiz``, ``sudoku``, ``board`` or ``question``; ``solution``, ``solved`` or ``answer``), in which
case these may stand anywhere. Each puzzle must have a blank and exactly one solution, and it is computed; one that is
given must agree.

Compact: ``.npz`` with the patterns of clues (bits) and the solved grids (half a byte per cell), 52 bytes a puzzle of 81
cells before compression. It may say of which split and difficulty its puzzles are (``Origin``).
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_mdm.puzzles.sudoku import BLANKS, Puzzle, board, board_of, from_text
from lightning_mdm.puzzles.sudoku_search import proven
from lightning_mdm.text_lines import numbered_lines
from lightning_mdm.whole_files import whole_file

PUZZLE_NAMES = ("puzzle", "puzzles", "quiz", "quizzes", "sudoku", "board", "question")
SOLUTION_NAMES = ("solution", "solutions", "solved", "answer")
DELIMITER = re.compile(r"\s*([,;|])\s*")
SEPARATOR = re.compile(r"\s*[,;|]\s*|\s+")
FORMAT = 1


def read_text(path: str | Path, side: int = 9) -> list[Puzzle]:
    """The puzzles of a text file, in order.

    Args:
        path: the file, UTF-8.
        side: 4 or 9.

    Raises:
        ValueError: no such file or no puzzle in it; or a puzzle that is malformed, contradictory, ambiguous or solved,
            or whose solution is another one, with file, line number and reason.
    """
    return list(each_of_text(path, side))


def each_of_text(path: str | Path, side: int) -> Iterator[Puzzle]:
    """The puzzles of ``read_text`` one by one: no line is looked at before its puzzle is asked for."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give a text file of Sudokus, one a line")
    columns: Columns | None = None
    separator, empty = SEPARATOR, True
    for number, line in numbered_lines(path):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        fields = split(content, separator)
        try:
            if columns is None:
                columns = header(fields, side)
                if columns.named:
                    sign = DELIMITER.search(content)
                    if sign:  # alone parts fields, names too, which may hold what else would
                        separator = re.compile(rf"\s*{re.escape(sign[1])}\s*")
                        columns = header(split(content, separator), side)
                    continue
            puzzle = read_line(fields, columns, side)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        empty = False
        yield puzzle
    if empty:
        raise ValueError(f"{path}: no puzzle in it")


def split(content: str, separator: re.Pattern[str]) -> list[str]:
    """The fields of a line, without quotation marks."""
    return [field.strip("\"'") for field in separator.split(content)]


@dataclass(frozen=True)
class Columns:
    """Where a line has what.

    Args:
        puzzle: the column of the puzzle.
        solution: that of its solution, if there is one.
        named: whether a header says so; otherwise any field behind the puzzle that looks like a solution is one.
    """

    puzzle: int
    solution: int | None = None
    named: bool = False

    def solutions(self, fields: Sequence[str], cells: int) -> list[str]:
        """The fields that state a solution."""
        if self.named:
            return [fields[self.solution]] if self.solution is not None and self.solution < len(fields) else []
        # Lists also have ratings and names there; so many digits are a solution that is cut short.
        long = re.compile(rf"[0-9.]{{{cells // 4 + 5},}}")
        behind = fields[self.puzzle + 1 :]
        return [field for field in behind if len(field) == cells or long.fullmatch(field)]


def header(fields: Sequence[str], side: int) -> Columns:
    """The columns that a first line names; those of a list without names where it is no header.

    Raises:
        ValueError: it names no puzzle and holds none either.
    """
    names = [field.lower() for field in fields]
    puzzle = next((place for place, name in enumerate(names) if name in PUZZLE_NAMES), None)
    if puzzle is not None:
        solution = next((place for place, name in enumerate(names) if name in SOLUTION_NAMES), None)
        return Columns(puzzle, solution, named=True)
    cells = board(side).cells
    whole = [place for place, field in enumerate(fields) if len(field) == cells]
    if not whole:
        raise ValueError(
            f"malformed: the puzzle has {len(fields[0])} characters instead of {cells}; if this is a header, call its "
            f"column of puzzles one of {', '.join(PUZZLE_NAMES)}"
        )
    grid = re.compile(rf"[{re.escape(BLANKS)}1-{side}]*")
    # Where none has a grid's characters alone, a field of its length is refused by the character that is wrong.
    return Columns(next((place for place in whole if grid.fullmatch(fields[place])), whole[0]))


def read_line(fields: Sequence[str], columns: Columns, side: int) -> Puzzle:
    """The puzzle of a line that is split into fields.

    Raises:
        ValueError: it is malformed, contradictory, ambiguous or solved, or its solution is another one.
    """
    cells = board(side).cells
    if columns.puzzle >= len(fields):
        raise ValueError(f"malformed: {len(fields)} columns, and the puzzle should be in column {columns.puzzle + 1}")
    return checked(fields[columns.puzzle], columns.solutions(fields, cells), side)


def checked(puzzle: str, solutions: Iterable[str], side: int) -> Puzzle:
    """The puzzle of a text.

    Args:
        puzzle: one character a cell.
        solutions: what is said to be its solution; an empty text says nothing.
        side: 4 or 9.

    Raises:
        ValueError: it is malformed, contradictory, ambiguous or solved, or its solution is another one.
    """
    cells = board(side).cells
    found = proven(grid_of(puzzle, cells, "puzzle"))
    for solution in filter(None, solutions):
        if grid_of(solution, cells, "solution") != found.grid:
            raise ValueError("contradictory: the solution given is not that of the puzzle")
    refuse_solved(found.clues)
    return found


def refuse_solved(clues: bytes) -> None:
    """Raise ``ValueError`` where there is nothing to find."""
    if 0 not in clues:
        raise ValueError("solved: no cell is blank, so there is nothing to find")


def grid_of(text: str, cells: int, name: str) -> bytes:
    """The grid of a field."""
    if len(text) != cells:
        raise ValueError(f"malformed: the {name} has {len(text)} characters instead of {cells}")
    try:
        return from_text(text)
    except ValueError as error:
        raise ValueError(f"malformed: the {name}'s {error}") from None


@dataclass(frozen=True)
class Origin:
    """What the generator knows of all puzzles of a file that it made, their uniqueness apart, which it has proven too.

    Args:
        split: the split of the generator that may hold them.
        difficulty: ``easy``, ``hard`` or ``any``.
    """

    split: str
    difficulty: str


def write_compact(path: str | Path, puzzles: Iterable[Puzzle], origin: Origin | None = None) -> None:
    """Write puzzles of one side to an ``.npz`` file, which is there as a whole or not at all.

    Args:
        path: the file.
        puzzles: what it shall hold.
        origin: of puzzles that the generator has just made, and of no others: it is believed when they are read.

    Raises:
        ValueError: none, or of several sides, or a path that does not end in ``.npz``.
    """
    rows = list(puzzles)
    sizes = {len(puzzle.grid) for puzzle in rows}
    if len(sizes) != 1:
        raise ValueError(f"{path}: the compact format takes puzzles of one side, at least one; got {len(rows)}")
    if Path(path).suffix != ".npz":
        raise ValueError(f"{path}: give a path that ends in .npz")
    grids_NC = np.frombuffer(b"".join(puzzle.grid for puzzle in rows), np.uint8).reshape(len(rows), -1) - 1
    given_NC = np.frombuffer(b"".join(puzzle.clues for puzzle in rows), np.uint8).reshape(len(rows), -1) > 0
    halves_NC = np.pad(grids_NC, ((0, 0), (0, grids_NC.shape[1] % 2)))
    parts: dict[str, Any] = {
        "format": np.array([FORMAT, *sizes]),
        "grids": halves_NC[:, ::2] << 4 | halves_NC[:, 1::2],
        "given": np.packbits(given_NC, axis=1),
    }
    if origin is not None:
        parts["origin"] = np.array([origin.split, origin.difficulty])
        parts["digest"] = digest(parts)
    with whole_file(path) as draft, open(draft, "wb") as file:
        np.savez_compressed(file, **parts)


def digest(parts: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """sha256 of puzzles and origin: an origin is believed of the very puzzles that it was written with."""
    content = b"".join(parts[name].tobytes() for name in ("format", "origin", "grids", "given"))
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def read_compact(path: str | Path) -> tuple[list[Puzzle], Origin | None]:
    """The puzzles of an ``.npz`` file, exactly as they were written, and their origin where the file has one.

    Without an origin each is proven to have one solution, as in a text file.

    Raises:
        ValueError: no such file, not one that ``write_compact`` wrote, or a puzzle that is contradictory, ambiguous
            or solved.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give an .npz file of Sudokus")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            parts = dict(file)
    except (TypeError, ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no file of Sudokus in the compact format ({error})") from error
    cells = checked_parts(path, parts)
    packed, given = parts["grids"], parts["given"]
    grids_NC = np.stack((packed >> 4, packed & 15), axis=-1).reshape(len(packed), -1)[:, :cells] + 1
    clues_NC = grids_NC * np.unpackbits(given, axis=1)[:, :cells]
    pairs = zip(clues_NC, grids_NC, strict=True)
    puzzles = [Puzzle(clues.tobytes(), grid.tobytes()) for clues, grid in pairs]
    if "origin" in parts:
        if not np.array_equal(parts.get("digest", 0), digest(parts)):
            raise ValueError(f"{path}: its puzzles are not those that its origin was written for; make it again")
        return puzzles, Origin(*map(str, parts["origin"]))
    where = board_of(cells)
    for number, puzzle in enumerate(puzzles, start=1):
        if not where.solved(puzzle.grid):
            raise ValueError(f"{path}: puzzle {number} has no valid solution; the file is damaged")
        try:
            proven(puzzle.clues)
            refuse_solved(puzzle.clues)
        except ValueError as error:
            raise ValueError(f"{path}, puzzle {number}: {error}") from None
    return puzzles, None


def checked_parts(path: str | Path, parts: Mapping[str, NDArray[Any]]) -> int:
    """The number of cells of a compact file whose arrays are what they should be.

    Raises:
        ValueError: they are not.
    """
    missing = [name for name in ("format", "grids", "given") if name not in parts]
    if missing:
        raise ValueError(f"{path}: no file of Sudokus in the compact format (it has no {' and no '.join(missing)})")
    version = parts["format"]
    if version.shape != (2,) or version.dtype.kind not in "iu":
        raise ValueError(f"{path}: no file of Sudokus in the compact format (its format is no pair of integers)")
    number, cells = map(int, version)
    if number != FORMAT or cells not in (16, 81):
        raise ValueError(f"{path}: format {number} with {cells} cells; this program reads format {FORMAT}")
    n = len(parts["grids"]) if parts["grids"].ndim else 0
    if not n:
        raise ValueError(f"{path}: no puzzle in it")
    for name, shape in (("grids", (n, (cells + 1) // 2)), ("given", (n, (cells + 7) // 8))):
        found = parts[name]
        if found.dtype != np.uint8 or found.shape != shape:
            raise ValueError(
                f"{path}: {name} is {found.dtype} of shape {found.shape} instead of uint8 of shape {shape}; write the "
                "file with write_compact"
            )
    return cells


def read_list(path: str | Path, side: int) -> tuple[list[Puzzle], Origin | None]:
    """The puzzles of a file of either format, and their origin where the file has one.

    Raises:
        ValueError: as the readers do, or puzzles of another side.
    """
    if Path(path).suffix != ".npz":
        return read_text(path, side), None
    puzzles, origin = read_compact(path)
    if len(puzzles[0].grid) != side**2:
        raise ValueError(f"{path}: its puzzles have {len(puzzles[0].grid)} cells, those of side {side} {side**2}")
    return puzzles, origin


def read_puzzles(path: str | Path, side: int) -> list[Puzzle]:
    """The puzzles of a file of either format.

    Raises:
        ValueError: as the readers do, or puzzles of another side.
    """
    return read_list(path, side)[0]


class PuzzleFile:
    """The puzzles of a file in order: read as far as somebody asks for them, and each once.

    Iterating over it raises the reader's ``ValueError`` at the puzzle that is refused, whenever one comes to it.

    Args:
        path: text or ``.npz``, which is read as a whole.
        side: 4 or 9.
    """

    def __init__(self, path: str | Path, side: int) -> None:
        self.path = path
        self.side = side
        self._known: list[Puzzle] = []
        self._rest: Iterator[Puzzle] | None = None

    def __iter__(self) -> Iterator[Puzzle]:
        for place in count():
            if place == len(self._known) and not self._more():
                return
            yield self._known[place]

    def _more(self) -> bool:
        """Read one more puzzle; whether there is one."""
        if self._rest is None:
            compact = Path(self.path).suffix == ".npz"
            self._rest = iter(read_puzzles(self.path, self.side)) if compact else each_of_text(self.path, self.side)
        try:
            found = next(self._rest, None)
        except ValueError:
            # An iterator that has failed would seem to be at its end.
            self._known, self._rest = [], None
            raise
        if found is None:
            return False
        self._known.append(found)
        return True
