"""Files of Sudokus: what is read, what is refused and why, and that nothing is lost."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_mdm.puzzles.sudoku import Puzzle, to_text
from lightning_mdm.puzzles.sudoku_files import (
    Origin,
    PuzzleFile,
    read_compact,
    read_list,
    read_puzzles,
    read_text,
    write_compact,
)
from lightning_mdm.puzzles.sudoku_search import proven
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
        f"id;source;puzzle\n1;my book, 3rd;{CLUES}\n",
        f"clue count,puzzle\n30,{CLUES}\n",
        f"source,question,answer,rating\na list,{CLUES},{SOLVED},0\n",
        f"puzzle,solution\n{CLUES},\n",
        f"puzzle,solution\n{CLUES}\n",
        f"id|my source|puzzle\n1|my book|{CLUES}\n",
        f"puzzle,note,solution\n{CLUES},{SOLVED[1:]}5,{SOLVED}\n",
        f"id,puzzle,clues,solution,difficulty\n17,{CLUES},30,{SOLVED},0.0\n",
        f'"{CLUES}","{SOLVED}"\n',
        f"{CLUES}\t{SOLVED}\n",
        f"{CLUES};Easter Monster;1.7\n",
        f"{CLUES} 12 3.5\n",
        f"0000183b305c {CLUES} 1.2\n",
        f"1,{CLUES}\n",
        f"0.5 {CLUES}\n",
        f"17,{CLUES},{SOLVED},0.5\n",
        f"{'x' * 81},{CLUES}\n",
        f"{'1' * 40},{CLUES}\n",
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
        (SOLVED, "line 2: solved: no cell is blank, so there is nothing to find"),
        (f"{CLUES},{SOLVED[:-1]}", "line 2: malformed: the solution has 80 characters instead of 81"),
        (f"{CLUES},{SOLVED[:30]}", "line 2: malformed: the solution has 30 characters instead of 81"),
        (f"{CLUES},{SOLVED[:-1]}x", "line 2: malformed: the solution's character 81 is 'x'"),
        (f"{CLUES},{SOLVED[1:]}5", "line 2: contradictory: the solution given is not that of the puzzle"),
        (f"{CLUES},17,{SOLVED[1:]}5", "line 2: contradictory: the solution given is not that of the puzzle"),
        ("puzzle,solution", "line 2: malformed: the puzzle has 6 characters instead of 81"),
        (CLUES[:16], "line 2: malformed: the puzzle has 16 characters instead of 81"),
    ],
)
def test_bad_lines_are_refused_by_number_and_reason(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, {message}"):
        read_text(written(tmp_path, f"{CLUES}\n{line}\n{CLUES}\n"))


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("abc", "malformed: the solution has 3 characters instead of 81"),
        ("123", "malformed: the solution has 3 characters instead of 81"),
        (CLUES, "contradictory: the solution given is not that of the puzzle"),
    ],
)
def test_a_named_solution_is_a_whole_grid(tmp_path: Path, stated: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, line 2: {message}"):
        read_text(written(tmp_path, f"puzzle,solution\n{CLUES},{stated}\n"))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("x" * 81, "malformed: the puzzle's character 1 is 'x'"),
        ("x" * 80, "malformed: the puzzle has 80 characters instead of 81; if this is a header, call its column"),
        ("puzzle1,solution1", "malformed: the puzzle has 7 characters .* call its column of puzzles one of puzzle"),
        ("id,solution", "malformed: the puzzle has 2 characters .* call its column of puzzles one of puzzle"),
        (f"17,{CLUES[:-1]}", "malformed: the puzzle has 2 characters .* call its column of puzzles one of puzzle"),
        (f"17,{CLUES[:-1]}x", "malformed: the puzzle's character 81 is 'x'"),
    ],
)
def test_a_first_line_is_a_header_by_its_names_alone(tmp_path: Path, first: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, line 1: {message}"):
        read_text(written(tmp_path, f"{first}\n{CLUES}\n"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CLUES, "malformed: 1 columns, and the puzzle should be in column 2"),
        (f"{CLUES},17", "malformed: the puzzle has 2 characters instead of 81"),
        (f"17,{CLUES[:-1]}", "malformed: the puzzle has 80 characters instead of 81"),
        (f"17,{CLUES},{SOLVED[1:]}5", "contradictory: the solution given is not that of the puzzle"),
        (f"17,{SOLVED},{CLUES}", "contradictory: the solution given is not that of the puzzle"),
    ],
)
def test_the_first_line_says_where_puzzles_stand(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"list.txt, line 2: {message}"):
        read_text(written(tmp_path, f"1,{CLUES}\n{line}\n"))


def test_ids_of_small_boards_are_no_puzzles(tmp_path: Path) -> None:
    """An id may be as long as a board of 16 cells; it has digits that the board has not."""
    (small,) = puzzles(1, "any", 4)
    assert read_text(written(tmp_path, f"2009080706050403 {to_text(small.clues)}\n"), 4) == [small]


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    """A line feed ends them and no other control character; bytes that are no UTF-8 are found in theirs."""
    path = tmp_path / "list.txt"
    for bad, message in (
        (b"caf\xe9", "line 4, byte 4: no UTF-8"),
        (CLUES[1:].encode(), "line 4: malformed: the puzzle has 80 characters"),
    ):
        path.write_bytes(f"# a page\x0c and a\x1c field\r\n\x0c\n{CLUES}\r\n".encode() + bad + b"\n")
        with pytest.raises(ValueError, match=f"list.txt, {message}"):
            read_text(path)


def test_files_whose_lines_cannot_be_told_apart_are_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "list.txt.gz"
    path.write_bytes(gzip.compress(f"{CLUES}\n".encode()))
    with pytest.raises(ValueError, match=r"list\.txt\.gz is packed by gzip: unpack it first"):
        read_text(path)
    path = tmp_path / "old.txt"
    path.write_bytes(f"puzzle\r{CLUES}\r".encode())
    with pytest.raises(ValueError, match=r"old\.txt: its lines end with carriage returns alone"):
        read_text(path)
    for one_line in (f"{CLUES}", f"{CLUES}\r"):
        path.write_bytes(one_line.encode())
        assert read_text(path) == [PUZZLE]


def test_a_file_is_read_as_far_as_asked_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setattr("lightning_mdm.puzzles.sudoku_files.proven", lambda clues: asked.append(clues) or proven(clues))
    path = written(tmp_path, f"{CLUES}\n" * 3 + "no puzzle\n")
    puzzles = PuzzleFile(path, 9)
    assert list(islice(puzzles, 2)) == list(islice(puzzles, 2)) == [PUZZLE] * 2
    assert len(asked) == 2
    for _ in range(2):
        with pytest.raises(ValueError, match=r"list\.txt, line 4"):
            list(islice(puzzles, 4))
    written(tmp_path, f"{CLUES}\n" * 3)
    asked.clear()
    puzzles = PuzzleFile(path, 9)
    assert list(puzzles) == list(puzzles) == [PUZZLE] * 3
    assert len(asked) == 3


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_text(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="no puzzle in it"):
        read_text(written(tmp_path, "# nothing\n"))
    with pytest.raises(ValueError, match="line 2: malformed: 1 columns, and the puzzle should be in column 2"):
        read_text(written(tmp_path, f"id,puzzle\n{CLUES}\n"))


@pytest.mark.parametrize("side", [4, 9])
def test_the_compact_format_gives_back_what_it_took(tmp_path: Path, side: int) -> None:
    path = tmp_path / "a folder" / "of lists" / "puzzles.npz"
    for origin in (None, Origin("train", "any")):
        write_compact(path, puzzles(30, "any", side), origin)
        assert read_compact(path) == read_list(path, side) == (puzzles(30, "any", side), origin)
        assert read_puzzles(path, side) == list(PuzzleFile(path, side)) == puzzles(30, "any", side)
        assert path.stat().st_size < 30 * 60 + 2000
        with pytest.raises(ValueError, match="those of side"):
            read_puzzles(path, 13 - side)
    assert list(path.parent.iterdir()) == [path]


def test_bad_compact_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "puzzles.npz"
    with pytest.raises(ValueError, match="no such file"):
        read_compact(path)
    with pytest.raises(ValueError, match="puzzles of one side, at least one; got 0"):
        write_compact(path, [])
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        write_compact(tmp_path / "puzzles.txt", [PUZZLE])
    write_compact(path, [PUZZLE])
    whole = path.read_bytes()
    for content in (b"no archive", b"", whole[: len(whole) // 2], damaged(whole)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no file of Sudokus in the compact format"):
            read_compact(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="no file of Sudokus in the compact format"):
        read_compact(path)


def damaged(archive: bytes) -> bytes:
    """An archive with its first compressed bytes inverted."""
    start = 30 + int.from_bytes(archive[26:28], "little") + int.from_bytes(archive[28:30], "little")
    return archive[:start] + bytes(255 - byte for byte in archive[start : start + 40]) + archive[start + 40 :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": np.array([2, 81])}, "format 2 with 81 cells; this program reads format 1"),
        ({"format": np.array([1, 80])}, "format 1 with 80 cells"),
        ({"format": np.array([1.0, 81.0])}, "its format is no pair of integers"),
        ({"format": np.array(1)}, "its format is no pair of integers"),
        ({"format": np.array([1, 16])}, r"grids is uint8 of shape \(1, 41\) instead of uint8 of shape \(1, 8\)"),
        ({"grids": np.zeros((1, 41))}, r"grids is float64 of shape \(1, 41\) instead of uint8"),
        ({"given": np.zeros((1, 11))}, r"given is float64 of shape \(1, 11\) instead of uint8"),
        ({"given": np.zeros((2, 11), np.uint8)}, r"given is uint8 of shape \(2, 11\) instead of .* \(1, 11\)"),
        ({"given": None}, "it has no given"),
        ({"grids": np.zeros((0, 41), np.uint8), "given": np.zeros((0, 11), np.uint8)}, "no puzzle in it"),
        ({"grids": np.zeros((1, 41), np.uint8)}, "puzzle 1 has no valid solution; the file is damaged"),
        ({"given": np.zeros((1, 11), np.uint8)}, "puzzles.npz, puzzle 1: ambiguous: more than one solution"),
        ({"given": np.full((1, 11), 255, np.uint8)}, "puzzles.npz, puzzle 1: solved: no cell is blank"),
    ],
)
def test_compact_files_of_others_are_checked(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "puzzles.npz"
    write_compact(path, [PUZZLE])
    parts = {**np.load(path), **changes}
    np.savez(path, **{name: array for name, array in parts.items() if array is not None})
    with pytest.raises(ValueError, match=message):
        read_compact(path)


@pytest.mark.parametrize("name", ["grids", "given", "origin", "digest"])
def test_an_origin_is_believed_of_its_own_puzzles_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / "puzzles.npz"
    write_compact(path, [PUZZLE], Origin("train", "easy"))
    parts = dict(np.load(path))
    others = {
        "grids": parts["grids"][:, ::-1], "given": parts["given"] * 0, "origin": np.array(["test", "easy"]),
        "digest": np.zeros(3),
    }  # fmt: skip
    np.savez(path, **{**parts, name: others[name]})
    with pytest.raises(ValueError, match="its puzzles are not those that its origin was written for; make it again"):
        read_compact(path)
    np.savez(path, **{key: array for key, array in parts.items() if key != "digest"})
    with pytest.raises(ValueError, match="its puzzles are not those that its origin was written for; make it again"):
        read_compact(path)


def test_text_of_a_puzzle() -> None:
    assert to_text(PUZZLE.clues) == CLUES
    assert to_text(PUZZLE.grid) == SOLVED
