"""``experiments/sudoku/on_path.py``: its stages parse, and its table pairs the arms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lightning_mdm import slices
from lightning_mdm.cli import main
from lightning_mdm.metrics.statistics import mcnemar
from lightning_mdm.outcomes import Row, read_rows
from runs import REPOSITORY, load_script, write_checkpoint


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(REPOSITORY)
    return load_script("sudoku", "on_path")


@pytest.mark.parametrize("size", ["medium", "paper"])
def test_the_stages_parse(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    def parse(*arguments: str, log: Path, timeout: float | None = None) -> None:
        name, given = log.parent.relative_to(tmp_path).as_posix(), list(arguments)
        # Files that are not there are refused.
        for option in ("--ckpt_path", "--model.denoiser_ckpt", "--model.init_from"):
            while option in given:
                at = given.index(option)
                starts.setdefault(name, {})[option] = given[at + 1]
                del given[at : at + 2]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*given, "--print_config"])
        assert ended.value.code == 0
        found = yaml.safe_load(capsys.readouterr().out)
        configs[name] = found
        if arguments[0] == "fit":
            write_checkpoint(log.parent / "checkpoints" / "last.ckpt", found["trainer"]["max_steps"])

    starts: dict[str, dict[str, str]] = {}
    configs: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    monkeypatch.setattr(slices, "lightning", parse)
    assert slices.run_all(script.stages(script.SIZES[size], tmp_path), slices.Clock(float("inf")))
    arms, together = ("start", "control", "joint", "own_draws"), ("joint", "own_draws")
    sweeps = [f"{arm}/{split}" for arm in arms for split in ("easy", "hard")]
    assert sorted(configs) == sorted([*together, "control", "control_order", *sweeps])
    model = {name: found["model"]["init_args"] for name, found in configs.items()}
    assert {name: options.get("denoiser") for name, options in model.items()} == {
        "joint": "joint", "own_draws": "joint", "control": None, "control_order": "frozen",
        **{f"{arm}/{split}": "joint" if arm in together else "frozen" for arm in arms for split in ("easy", "hard")},
    }  # fmt: skip
    families = {name: options["posterior"]["family"] for name, options in model.items() if "posterior" in options}  # type: ignore[index]
    assert {name for name, family in families.items() if family == "selector"} == {
        "own_draws", "own_draws/easy", "own_draws/hard"
    }  # fmt: skip
    changed = {"denoiser_ckpt", "init_from", "posterior"}
    joint, own = ({k: v for k, v in model[name].items() if k not in changed} for name in together)
    assert joint == own
    rates = {name: (model[name]["learning_rate"], model[name]["warmup_steps"]) for name in ("joint", "control")}
    assert len({*rates.values(), (model["joint"]["denoiser_learning_rate"], 20)}) == 1
    assert configs["joint"]["trainer"]["max_steps"] == configs["control_order"]["trainer"]["max_steps"]
    assert len({found["data"]["init_args"]["difficulty"] for found in configs.values()}) == 1, "the same puzzles"
    assert starts["control_order"]["--model.denoiser_ckpt"] == str(tmp_path / "control" / "checkpoints" / "last.ckpt")
    assert starts["control/easy"]["--ckpt_path"] == str(tmp_path / "control_order" / "checkpoints" / "last.ckpt")
    assert starts["start/hard"]["--model.denoiser_ckpt"] == str(tmp_path / "denoiser.safetensors")
    for name in ("easy", "hard"):
        data = {f"{arm}/{name}": configs[f"{arm}/{name}"]["data"]["init_args"] for arm in arms}
        assert {options["test_difficulty"] for options in data.values()} == {name}
        assert len({str(options) for options in data.values()}) == 1


def test_the_table_pairs_the_arms_puzzle_by_puzzle(script: ModuleType) -> None:
    row = read_rows(REPOSITORY / "experiments" / "sudoku" / "rows_medium.csv")[0]
    right = {"start": [0, 0, 0, 0], "control": [1, 0, 0, 0], "joint": [0, 1, 1, 1], "own_draws": [1, 1, 0, 1]}
    rows: dict[str, list[Row]] = {}
    solved: dict[str, dict[tuple[str, str, int, int], bool]] = {}
    for arm, each in right.items():
        rows[arm] = [
            replace(
                row, split="easy", policy=policy, T=4, n=4, correct=sum(each), accuracy=sum(each) / 4,
                accuracy_low=0.125, accuracy_high=0.875, nfe_mean=3.5, checkpoint=arm, commit="abc1234",
            )
            for policy in ("top_margin", "learned")
        ]  # fmt: skip
        solved[arm] = {
            ("easy", policy, 4, problem): bool(value)
            for policy in ("top_margin", "learned")
            for problem, value in enumerate(each)
        }
    lines = script.table(rows, solved).splitlines()
    span = "[12.5, 87.5] @3.5"
    assert f"| easy (n = 4) | learned | 4 | 0.0 {span} | 25.0 {span} | 75.0 {span} | 75.0 {span} |" in lines
    for one, other, alone, theirs in (("joint", "control", 3, 1), ("own_draws", "control", 2, 0)):
        p = mcnemar(dict(enumerate(map(bool, right[one]))), dict(enumerate(map(bool, right[other])))).p_value
        compared = f"{one.replace('_', ' ')}, {other}"
        assert f"| {compared} | easy (n = 4) | learned | 4 | {alone} | {theirs} | {p:.2g} | 1 |" in lines
    assert sum("easy" in line for line in lines) == 2 * (1 + len(script.COMPARED))
    weights = "start `start`, control `control`, joint `joint`, own draws `own_draws`"
    assert lines[-1] == f"Weights: {weights}. Commit: `abc1234`."
