"""Experiments that are repeated with other seeds: beside seed 0, which stays what it was, and joined with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from lightning_mdm import slices
from lightning_mdm.modules.order_checkpoint import keep_order
from lightning_mdm.outcomes import read_rows
from lightning_mdm.report.runs import REPORT
from lightning_mdm.slices import Fit, complete_seeds, decoded_with, of_seed, reseeded, seeded, store
from runs import REPOSITORY, load_script, without_seed, write_checkpoint
from test_report import save, sweep

ONE = {"--seed_everything": "1", "--data.seed": "1", "--model.noise_seed": "1"}


class Program:
    """Stands for the program: notes what it is called with, and leaves what it would leave."""

    def __init__(self, script: ModuleType) -> None:
        self.script = script
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str, log: Path, timeout: float | None = None) -> None:
        self.calls.append(arguments)
        run_dir = Path(arguments[arguments.index("--run_dir") + 1])
        if arguments[0] == "fit":
            steps = int(arguments[arguments.index("--trainer.max_steps") + 1])
            write_checkpoint(run_dir / "checkpoints" / "last.ckpt", steps)
            (run_dir / "checkpoints" / "tokenizer.json").write_text("{}")
        elif arguments[0] == "analyse":
            run_dir.mkdir(parents=True)
            for name in self.script.ANALYSIS:
                (run_dir / name).write_text("")
        else:
            self.decode(run_dir, json.loads(without_seed(arguments)[1].get("--frontier.seeds", "[0]")))

    def decode(self, run_dir: Path, seeds: list[int]) -> None:
        nets = {"house_by_house": "h", "solvers_order": "s"}  # of zebras
        checkpoint, split = f"{nets.get(run_dir.name, 'd')}{seeds}", run_dir.name.split("_")[0]
        rows, outcomes = sweep(tuple(seeds), checkpoint=checkpoint, split="hard" if split == "hard" else "test")
        if split == "validation":
            tried = self.script.CANDIDATES.items()
            rows = [replace(rows[0], policy=p, options=json.dumps(o)) for p, options in tried for o in options]
        save(run_dir, [row for row in rows if row.T < 4], [outcome for outcome in outcomes if outcome.T < 4])
        for name in set(REPORT) - {"frontier.csv"}:
            (run_dir / name).touch()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A place of its own with the repository's files; scripts publish in ``here``."""
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "here").mkdir()
    return tmp_path


@pytest.fixture
def started(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a script that runs a program of no meaning."""

    def load(name: str) -> tuple[ModuleType, Program]:
        script = load_script(name)
        program = Program(script)
        monkeypatch.setattr(script, "HERE", place / "here")
        monkeypatch.setattr(slices, "lightning", program)
        return script, program

    return load


def published(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_seed_0_is_that_of_the_files_and_has_the_plain_paths(tmp_path: Path) -> None:
    assert (of_seed(tmp_path, 0), of_seed(tmp_path, 2)) == (tmp_path, tmp_path / "seed_2")
    assert (reseeded(0), decoded_with(0)) == ((), ())
    assert (reseeded(2), decoded_with(2)) == (seeded(2), ("--frontier.seeds", "[2]"))


def test_a_seed_is_complete_with_all_of_its_sweeps(tmp_path: Path) -> None:
    def leave(*names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "report.md").touch()

    leave("easy", "hard", "seed_10/easy")
    assert complete_seeds(tmp_path, ["easy", "hard"]) == {}, "seed 0 alone has nothing to be joined with"
    leave("seed_10/hard", "seed_2/easy", "seed_2/hard", "seed_2_before/easy", "seed_2_before/hard")
    everything = {0: tmp_path, 2: tmp_path / "seed_2", 10: tmp_path / "seed_10"}
    found = complete_seeds(tmp_path, ["easy", "hard"])
    assert list(found.items()) == list(everything.items())
    (tmp_path / "hard" / "report.md").unlink()
    assert complete_seeds(tmp_path, ["easy", "hard"]).keys() == {2, 10}


@pytest.mark.parametrize(
    ("name", "options", "suffix"),
    [
        ("zebra", [], ""),
        ("sudoku", ["--size", "paper"], "_6m"),
        ("sudoku", ["--size", "causal"], "_causal"),
    ],
)
def test_another_seed_runs_beside_seed_0(
    started: Any, place: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: list[str], suffix: str
) -> None:
    script, program = started(name)
    pools: list[list[str]] = []

    def make_pool(command: list[str], check: bool) -> None:
        pools.append(command[2:])
        out = next(Path(part.removeprefix("--out=")) for part in command if part.startswith("--out="))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()

    if name == "sudoku":
        monkeypatch.setattr(script.subprocess, "run", make_pool)
    options = [*options, "--runs", "all"]
    script.main(options)
    first, before = program.calls, published(place / "here")
    assert all(without_seed(call) == (list(call), {}) for call in first), "of seed 0 nothing is said"
    assert not [name for name in before if "seed" in name]
    n_pools, program.calls = len(pools), []
    first = [call for call in first if call[0] != "analyse"]  # an analysis is shown of seed 0 alone
    script.main([*options, "--seed", "1"])
    assert [without_seed(call)[0] for call in program.calls] == [list(call) for call in first], "all else is the same"
    for call in program.calls:
        said = without_seed(call)[1]
        noise = {"--frontier.seeds": "[1]"} if call[0] == "sweep" else {}
        assert said == {**ONE, **noise}
    run_dirs = [{call[call.index("--run_dir") + 1] for call in calls} for calls in (first, program.calls)]
    assert len(run_dirs[0]) == len(run_dirs[1])
    assert not run_dirs[0] & run_dirs[1]
    assert all("/seed_1/" in run_dir for run_dir in run_dirs[1])
    assert [[part.replace("/seed_1", "") for part in pool] for pool in pools[n_pools:]] == [
        [*pool, "--seed=1"] for pool in pools[:n_pools]
    ], "puzzles of its own"
    after = published(place / "here")
    assert {name: after[name] for name in before} == before, "what is published of seed 0 stays"
    weights = {name.removeprefix(f"weights{suffix}/") for name in after.keys() - before.keys() if "weights" in name}
    stored = {"seed_1/part_1_of_1.safetensors", "seed_1/order.ckpt"}
    assert weights == (stored if suffix == "_6m" else set())
    rows = read_rows(place / "here" / f"rows{suffix}_seeds.csv")
    one = read_rows(place / "here" / f"rows{suffix}.csv")
    assert {row.seed for row in one} == {0}
    assert sorted((row.split, row.policy, row.T, row.seed, row.correct) for row in rows if row.seed == 0) == sorted(
        (row.split, row.policy, row.T, row.seed, row.correct) for row in one
    )
    assert [row.seed for row in rows].count(1) == len(one)
    assert len({row.checkpoint for row in rows}) == (3 if name == "zebra" else 1), "seeds are one denoiser"
    assert "2 seeds" in (place / "here" / f"report{suffix}_seeds.md").read_text()


def test_a_seed_alone_is_published_under_the_name_of_seeds(started: Any, place: Path) -> None:
    script, _ = started("zebra")
    script.main(["--runs", "all", "--seed", "3"])
    found = published(place / "here")
    assert found
    assert all("_seeds." in name for name in found)
    assert {row.seed for row in read_rows(place / "here" / "rows_seeds.csv")} == {3}


def test_what_is_published_of_more_seeds_stays(started: Any, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, _ = started("zebra")
    for seed in ("1", "2"):
        script.main(["--runs", "all", "--seed", seed])
    before = published(place / "here")
    script.main(["--runs", "elsewhere", "--seed", "2"])
    assert published(place / "here") == before
    assert "rows_seeds.csv stays: it is of seed 1, too" in capsys.readouterr().out
    script.main(["--runs", "all", "--seed", "3"])
    assert {row.seed for row in read_rows(place / "here" / "rows_seeds.csv")} == {1, 2, 3}


def test_another_seeds_weights_go_on_where_nothing_else_is(
    started: Any, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, program = started("sudoku")
    monkeypatch.setattr(script, "report", lambda *_: None)
    monkeypatch.setattr(script, "keep", lambda *_: None)
    monkeypatch.setattr(script, "keep_seeds", lambda *_: None)
    for seed in ("0", "1"):
        script.main(["--size", "medium", "--runs", "here_first", "--seed", seed])
    program.calls = []
    script.main(["--size", "medium", "--runs", "elsewhere", "--seed", "1"])
    assert {call[0] for call in program.calls} == {"sweep"}, "both trainings are complete"
    learned = [call for call in program.calls if "--model.denoiser_ckpt" in call]
    found = {call[call.index("--model.denoiser_ckpt") + 1] for call in learned}
    assert found == {"elsewhere/medium/seed_1/stored/denoiser.safetensors"}


def test_seeds_of_gsm8k_from_nothing_are_reported_together(started: Any, place: Path) -> None:
    script, program = started("gsm8k_scratch")
    script.main(["--minutes", "9", "--path", "data"])
    first, before = program.calls, published(place / "here")
    assert not [name for name in before if "seeds" in name]
    assert all("--frontier.seeds" not in call for call in first)
    program.calls = []
    script.main(["--minutes", "9", "--path", "data", "--seed", "1"])
    assert [without_seed(call)[1].get("--frontier.seeds") for call in program.calls] == [None, None, "[1]"]
    script.main(["--minutes", "9", "--path", "data", "--seed", "1", "--size", "85m"])
    after = published(place / "here")
    assert {name: after[name] for name in before} == before
    assert {row.seed for row in read_rows(place / "here" / "rows_25m_seed_1.csv")} == {1}
    rows = read_rows(place / "here" / "rows_25m_seeds.csv")
    assert sorted({(row.seed, row.checkpoint) for row in rows}) == [(0, "d[0]+d[1]"), (1, "d[0]+d[1]")]
    assert "rows_85m_seeds.csv" not in after, "one seed alone is joined with none"
    script.main(["--minutes", "9", "--path", "data", "--split", "validation"])
    script.main(["--minutes", "9", "--path", "data", "--split", "validation", "--seed", "1"])
    assert published(place / "here").keys() == after.keys()
    joined = read_rows(place / "runs" / "gsm8k_scratch" / "25m_joined_validation" / "frontier.csv")
    assert {row.seed for row in joined} == {0, 1}


@pytest.fixture
def revising(started: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Program]:
    """The script, with weights of seed 0 and 1 for its Sudokus, and an order of seed 1 that is not complete."""
    script, program = started("revising")
    weights = place / "weights"
    monkeypatch.setitem(script.TASKS, "sudoku", replace(script.TASKS["sudoku"], weights=weights))
    fit = Fit(place / "trained", 9, ())
    write_checkpoint(fit.last, 9)
    for seed in (0, 1):
        store(fit, "denoiser", of_seed(weights, seed))
    write_checkpoint(place / "order.ckpt", 3599)
    keep_order(place / "order.ckpt", weights / "seed_1" / "order.ckpt")
    return script, program


def test_revising_takes_the_denoiser_and_the_order_of_the_seed(
    revising: tuple[ModuleType, Program], place: Path
) -> None:
    """The strengths are those of seed 0."""
    script, program = revising
    write_checkpoint(place / "order.ckpt", 3600)
    keep_order(place / "order.ckpt", place / "weights" / "seed_1" / "order.ckpt")
    script.main(["--tasks", "sudoku", "--runs", "all"])
    first, before = program.calls, published(place / "here")
    assert [Path(call[call.index("--run_dir") + 1]).name for call in first] == ["validation", "test"]
    assert not [name for name in before if "seeds" in name]
    program.calls = []
    script.main(["--tasks", "sudoku", "--runs", "all", "--seed", "1"])
    (call,) = program.calls
    said = dict(zip(call[1::2], call[2::2], strict=True))
    of_first = dict(zip(first[1][1::2], first[1][2::2], strict=True))
    changed = {
        "--model.denoiser_ckpt": "all/sudoku/seed_1/denoiser.safetensors",
        "--ckpt_path": "all/sudoku/seed_1/order.ckpt", "--frontier.seeds": "[1]", "--run_dir": "all/sudoku/seed_1/test",
    }  # fmt: skip
    order = of_first.pop("--model.init_from")
    assert order.endswith("sudoku/order_medium.safetensors")
    assert said == {**of_first, **changed}, "the same policies, and no other order"
    assert torch.load("all/sudoku/seed_1/order.ckpt", weights_only=True)["global_step"] == 3600
    after = published(place / "here")
    assert {name: after[name] for name in before} == before
    assert {row.seed for row in read_rows(place / "here" / "rows_sudoku_seeds.csv")} == {0, 1}
    assert {row.seed for row in read_rows(place / "here" / "rows_sudoku.csv")} == {0}


def test_revising_refuses_a_seed_without_weights(revising: tuple[ModuleType, Program], place: Path) -> None:
    script, program = revising
    with pytest.raises(ValueError, match=r"--seed 1: word_problems has weights that ship .* give --tasks sudoku"):
        script.main(["--runs", "all", "--seed", "1"])
    for seed in ("1", "2"):
        with pytest.raises(ValueError, match=rf"seed_{seed}/order.ckpt is no order that is complete"):
            script.main(["--tasks", "sudoku", "--runs", "all", "--seed", seed])
    write_checkpoint(place / "order.ckpt", 3600)
    other = torch.load(place / "order.ckpt", weights_only=True)
    other["state_dict"]["denoiser.a"] += 1.0
    torch.save(other, place / "order.ckpt")
    keep_order(place / "order.ckpt", place / "weights" / "seed_1" / "order.ckpt")
    with pytest.raises(ValueError, match="is the order of another denoiser than"):
        script.main(["--tasks", "sudoku", "--runs", "all", "--seed", "1"])
    assert program.calls == []
