"""Pools of base puzzles: what they hold, whoever makes them, and the command that writes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_mdm.puzzles.sudoku_files import Origin, read_list
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, base, is_of, split_of
from lightning_mdm.puzzles.sudoku_pool import CHUNK, base_puzzles, training_stream
from runs import load_script

LITTLE = SudokuOptions(4, 4, 7, "easy")


def test_a_pool_does_not_depend_on_the_number_of_processes() -> None:
    n = CHUNK + 5  # for both processes to make some
    alone = list(base_puzzles(LITTLE, 1, n))
    assert list(base_puzzles(LITTLE, 1, n, jobs=2)) == alone
    assert alone == [base(LITTLE, training_stream(1), k, "train") for k in range(n)]
    assert alone != list(base_puzzles(LITTLE, 2, n))


def test_the_command_writes_training_puzzles_of_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("sudoku", "pool")
    monkeypatch.setattr(script, "SAID", 2)
    path = tmp_path / "new" / "pool.npz"
    options = ["--n=5", "--difficulty=hard", "--min_clues=20", "--max_clues=30", "--seed=3", "--jobs=1"]
    script.main([*options, "--out", str(path)])
    puzzles, origin = read_list(path, 9)
    assert origin == Origin("train", "hard")
    assert puzzles == list(base_puzzles(SudokuOptions(9, 20, 30, "hard"), 3, 5))
    assert all(split_of(puzzle) == "train" and is_of("hard", puzzle.clues) for puzzle in puzzles)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2].partition(",")[0] for line in said] == [f"{n} of 5 puzzles" for n in (2, 4, 5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n=0"], "argument --n: 0: give at least 1"),
        (["--jobs=0"], "argument --jobs: 0: give at least 1"),
        (["--seed=-1"], "argument --seed: -1: give at least 0"),
        (["--out=pool.txt"], "--out pool.txt: give a path that ends in .npz"),
        (["--min_clues=40"], "min_clues=40, max_clues=34: give 0 <= min_clues <= max_clues < 81"),
    ],
)
def test_impossible_pools_are_refused_at_once(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_script("sudoku", "pool").main(["--out=pool.npz", *options])
    assert message in capsys.readouterr().err
