"""Files of Sudokus: what is read, what is refused and why, and that nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lightning_mdm.puzzles.sudoku import Puzzle, to_text
from lightning_mdm.puzzles.sudoku_files import read_compact, read_puzzles, read_text, write_compact
from sudokus import puzzles

# A puzzle of newspapers and its solution.
CLUES = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
PUZZLE = Puzzle(bytes(0 if c == "." else int(c) for c in CLUES), bytes(map(int, SOLVED)))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        CLUES,
        CLUES.replace(".", "0") + "\n",
        "\ufeff" + CLUES + "\r\n",
        f"# a list\n\n{CLUES}  # the first\n",
        f"quizzes,solutions\n{CLUES.replace('.', '0')},{SOLVED}\n",
        f"puzzle;solution\n{CLUES};{SOLVED}\n",
        f"name\n{CLUES}\n",
        f"id,puzzle,clues,solution,difficulty\n17,{CLUES},30,{SOLVED},0.0\n",
        f'"{CLUES}","{SOLVED}"\n',
        f"{CLUES}\t{SOLVED}\n",
        f"{CLUES};Easter Monster;1.7\n",
        f"{CLUES} 12 3.5\n",
    ],
)
def test_common_formats(tmp_path: Path, text: str) -> None:
    assert read_text(written(tmp_path, text)) == [PUZZLE]
    assert read_puzzles(tmp_path / "list.txt", 9) == [PUZZLE]


EMPTY_PAIR = CLUES[:9] + "." * 72


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CLUES[:-1], "line 2: malformed: the puzzle has 80 characters instead of 81"),
        (CLUES[:-1] + "x", "line 2: malformed: the puzzle's character 81 is 'x'"),
        ("55" + CLUES[2:], "line 2: contradictory: two 5s in row 1"),
        ("537" + CLUES[3:], "line 2: contradictory: two 7s in row 1"),
        (CLUES[:2] + "1" + CLUES[3:], "line 2: contradictory: no solution"),
        (EMPTY_PAIR, "line 2: ambiguous: more than one solution"),
        (f"{CLUES},{SOLVED[:-1]}", "line 2: malformed: the solution has 80 characters instead of 81"),
        (f"{CLUES},{SOLVED[1:]}5", "line 2: contradictory: the solution given is not that of the puzzle"),
        ("puzzle,solution", "line 2: malformed: the puzzle has 6 characters instead of 81"),
        (CLUES[:16], "line 2: malformed: the puzzle has 16 characters instead of 81"),
    ],
)
def test_bad_lines_are_refused_by_number_and_reason(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, {message}"):
        read_text(written(tmp_path, f"{CLUES}\n{line}\n{CLUES}\n"))


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no puzzle in it"):
        read_text(written(tmp_path, "# nothing\n"))
    with pytest.raises(ValueError, match="line 1: a header of 3 columns, none of them called puzzle"):
        read_text(written(tmp_path, f"a,b,c\n{CLUES},x,y\n"))
    with pytest.raises(ValueError, match="line 2: malformed: 1 columns, and the puzzle should be in column 2"):
        read_text(written(tmp_path, f"id,puzzle\n{CLUES}\n"))


@pytest.mark.parametrize("side", [4, 9])
def test_the_compact_format_gives_back_what_it_took(tmp_path: Path, side: int) -> None:
    path = tmp_path / "puzzles.npz"
    write_compact(path, puzzles(30, "any", side))
    assert read_compact(path) == puzzles(30, "any", side)
    assert read_puzzles(path, side) == puzzles(30, "any", side)
    assert path.stat().st_size < 30 * 60 + 1500
    with pytest.raises(ValueError, match="those of side"):
        read_puzzles(path, 13 - side)


def test_bad_compact_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.npz"
    with pytest.raises(ValueError, match="no such file"):
        read_compact(path)
    with pytest.raises(ValueError, match="puzzles of one side, at least one; got 0"):
        write_compact(path, [])
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        write_compact(tmp_path / "puzzles.txt", [PUZZLE])
    path.write_text("no archive")
    with pytest.raises(ValueError, match="no file of Sudokus in the compact format"):
        read_compact(path)
    write_compact(path, [PUZZLE])
    parts = dict(np.load(path))
    np.savez(path, **{**parts, "format": np.array([2, 81])})
    with pytest.raises(ValueError, match="format 2 with 81 cells; this program reads format 1"):
        read_compact(path)
    np.savez(path, **{**parts, "grids": parts["grids"] * 0})
    with pytest.raises(ValueError, match="puzzle 1 has no valid solution; the file is damaged"):
        read_compact(path)


def test_text_of_a_puzzle() -> None:
    assert to_text(PUZZLE.clues) == CLUES
    assert to_text(PUZZLE.grid) == SOLVED
