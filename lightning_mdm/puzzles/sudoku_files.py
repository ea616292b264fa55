"""Sudokus in files: the common text format, one puzzle a line, and a compact one of our own.

Text: a line begins with the puzzle, one character a cell in reading order, ``.`` or ``0`` for a blank. After a comma,
semicolon, bar or white space may follow its solution, and then anything else. Empty lines, lines that begin with ``#``
and what follows a ``#`` are comments. A first line without a digit is a header; it may name the columns (``puzzle``,
``quiz``, ``sudoku`` or ``board``; ``solution`` or ``solved``), in which case these may stand anywhere. Each puzzle must
have exactly one solution, and it is computed; one that is given must agree.

Compact: ``.npz`` with the patterns of clues (bits) and the solved grids (half a byte per cell), 52 bytes a puzzle of 81
cells before compression.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lightning_mdm.puzzles.sudoku import Puzzle, board, from_text
from lightning_mdm.puzzles.sudoku_search import proven

PUZZLE_NAMES = ("puzzle", "puzzles", "quiz", "quizzes", "sudoku", "board")
SOLUTION_NAMES = ("solution", "solutions", "solved")
SEPARATOR = re.compile(r"\s*[,;|]\s*|\s+")
FORMAT = 1


def read_text(path: str | Path, side: int = 9) -> list[Puzzle]:
    """The puzzles of a text file, in order.

    Args:
        path: the file, UTF-8.
        side: 4 or 9.

    Raises:
        ValueError: no such file or no puzzle in it; or a puzzle that is malformed, contradictory or ambiguous, or
            whose solution is another one, with file, line number and reason.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give a text file of Sudokus, one a line")
    puzzles: list[Puzzle] = []
    places: tuple[int, int | None] | None = None  # columns of puzzle and solution
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        fields = [field.strip("\"'") for field in SEPARATOR.split(content)]
        try:
            if places is None:
                names = [name.lower() for name in fields]
                if not re.search(r"[0-9.]", content):
                    places = header(names)
                    continue
                places = (0, 1)
            puzzles.append(read_line(fields, *places, side))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not puzzles:
        raise ValueError(f"{path}: no puzzle in it")
    return puzzles


def header(names: Sequence[str]) -> tuple[int, int | None]:
    """The columns of puzzle and solution that a header names; the first two where it names no puzzle."""
    puzzle = next((place for place, name in enumerate(names) if name in PUZZLE_NAMES), None)
    if puzzle is None:
        if len(names) > 2:
            raise ValueError(f"a header of {len(names)} columns, none of them called {', '.join(PUZZLE_NAMES)}")
        return 0, 1
    return puzzle, next((place for place, name in enumerate(names) if name in SOLUTION_NAMES), None)


def read_line(fields: Sequence[str], puzzle: int, solution: int | None, side: int) -> Puzzle:
    """The puzzle of a line that is split into fields.

    Raises:
        ValueError: it is malformed, contradictory or ambiguous, or its solution is another one.
    """
    cells = board(side).cells
    if puzzle >= len(fields):
        raise ValueError(f"malformed: {len(fields)} columns, and the puzzle should be in column {puzzle + 1}")
    found = proven(grid_of(fields[puzzle], cells, "puzzle"))
    given = fields[solution] if solution is not None and solution < len(fields) else ""
    # A second field is a solution if it looks like one; lists also have ratings and names there.
    if re.fullmatch(r"[0-9.]*", given) and len(given) > cells // 2:
        stated = grid_of(given, cells, "solution")
        if stated != found.grid:
            raise ValueError("contradictory: the solution given is not that of the puzzle")
    return found


def grid_of(text: str, cells: int, name: str) -> bytes:
    """The grid of a field."""
    if len(text) != cells:
        raise ValueError(f"malformed: the {name} has {len(text)} characters instead of {cells}")
    try:
        return from_text(text)
    except ValueError as error:
        raise ValueError(f"malformed: the {name}'s {error}") from None


def write_compact(path: str | Path, puzzles: Iterable[Puzzle]) -> None:
    """Write puzzles of one side to an ``.npz`` file.

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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        format=np.array([FORMAT, *sizes]),
        grids=halves_NC[:, ::2] << 4 | halves_NC[:, 1::2],
        given=np.packbits(given_NC, axis=1),
    )


def read_compact(path: str | Path) -> list[Puzzle]:
    """The puzzles of an ``.npz`` file, exactly as they were written; their uniqueness is not proven again.

    Raises:
        ValueError: no such file, or not one that ``write_compact`` wrote.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give an .npz file of Sudokus")
    try:
        with np.load(path, allow_pickle=False) as file:
            (version, cells), packed, given = file["format"].tolist(), file["grids"], file["given"]
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no file of Sudokus in the compact format ({error})") from error
    if version != FORMAT or cells not in (16, 81):
        raise ValueError(f"{path}: format {version} with {cells} cells; this program reads format {FORMAT}")
    grids_NC = np.stack((packed >> 4, packed & 15), axis=-1).reshape(len(packed), -1)[:, :cells] + 1
    clues_NC = grids_NC * np.unpackbits(given, axis=1)[:, :cells]
    side = round(cells**0.5)
    for number, grid in enumerate(grids_NC, start=1):
        if not board(side).solved(grid.tobytes()):
            raise ValueError(f"{path}: puzzle {number} has no valid solution; the file is damaged")
    pairs = zip(clues_NC, grids_NC, strict=True)
    return [Puzzle(clues.tobytes(), grid.tobytes()) for clues, grid in pairs]


def read_puzzles(path: str | Path, side: int) -> list[Puzzle]:
    """The puzzles of a file of either format.

    Raises:
        ValueError: as the readers do, or puzzles of another side.
    """
    if Path(path).suffix != ".npz":
        return read_text(path, side)
    puzzles = read_compact(path)
    if puzzles and len(puzzles[0].grid) != side**2:
        raise ValueError(f"{path}: its puzzles have {len(puzzles[0].grid)} cells, those of side {side} {side**2}")
    return puzzles
