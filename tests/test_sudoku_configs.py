"""The Sudoku configurations: they parse, and a tiny run goes from denoiser to sweep to order."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lightning_mdm.cli import main
from lightning_mdm.outcomes import read_rows
from runs import REPOSITORY, program

FOLDER = REPOSITORY / "configs" / "sudoku"
SMALL = ["--config", FOLDER / "denoiser.yaml", "--config", FOLDER / "small.yaml"]
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.n_validation=4",
    "--data.n_test=5", "--data.batch_size=2", "--data.pool=4",
]  # fmt: skip
FEW = ["--frontier.policies=[TopMargin]", "--frontier.budgets=[2]"]


@pytest.mark.parametrize(
    "layers", [["denoiser"], ["denoiser", "small"], ["order"], ["order", "order_small"]], ids="+".join
)
def test_every_file_parses(capsys: pytest.CaptureFixture[str], layers: list[str]) -> None:
    files = [str(part) for name in layers for part in ("--config", FOLDER / f"{name}.yaml")]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *files, "--print_config"])
    assert ended.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    data, net = found["data"]["init_args"], found["model"]["init_args"]["net"]
    assert net["positions"] == data["side"] ** 2
    most = data["side"] ** 2 - data["min_clues"]
    assert max(found["frontier"]["budgets"]) >= most, "the last budget is one cell per step"


def test_every_file_is_tried() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == ["denoiser", "order", "order_small", "small"]


def test_denoiser_sweep_and_order(tmp_path: Path) -> None:
    base = tmp_path / "denoiser"
    program("fit", *SMALL, *QUICK, "--run_dir", base)
    last = base / "checkpoints" / "last.ckpt"
    printed = program("sweep", *SMALL, *QUICK, *FEW, "--run_dir", base, "--ckpt_path", last)
    assert printed.splitlines()[-1] == str(base)
    (row,) = read_rows(base / "frontier.csv")
    assert (row.task, row.split, row.policy, row.T, row.n) == ("sudoku", "easy", "top_margin", 2, 5)
    order = [
        "--config",
        FOLDER / "order.yaml",
        "--config",
        FOLDER / "order_small.yaml",
        *QUICK,
        "--model.samples=2",
        "--model.validation_samples=1",
    ]
    program("fit", *order, "--run_dir", tmp_path / "order", "--model.denoiser_ckpt", last, "--order_heatmap.samples=2")
    assert (tmp_path / "order" / "checkpoints" / "last.ckpt").is_file()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``experiments/sudoku/run.py``, from the repository's root."""
    monkeypatch.chdir(REPOSITORY)
    spec = importlib.util.spec_from_file_location("sudoku_run", REPOSITORY / "experiments" / "sudoku" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", ["paper", "small", "tiny"])
def test_the_stages_of_the_runner_parse(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str
) -> None:
    class Parsing:
        def lightning(self, *arguments: str, log: Path) -> None:
            kept = [part for part in arguments if not part.endswith(".ckpt")]
            kept = [part for part in kept if part not in ("--ckpt_path", "last", "--model.denoiser_ckpt")]
            capsys.readouterr()
            with pytest.raises(SystemExit) as ended:
                main([*kept, "--print_config"])
            assert ended.value.code == 0
            found = yaml.safe_load(capsys.readouterr().out)
            parsed.append((log.stem, arguments[0], found["data"]["init_args"]["test_difficulty"]))

    parsed: list[tuple[str, str, str]] = []
    runner.stages(runner.SIZES[size], tmp_path, Parsing())
    names = [
        ("denoiser", "fit", "easy"),
        ("order", "fit", "easy"),
        ("easy", "sweep", "easy"),
        ("hard", "sweep", "hard"),
    ]
    assert parsed == names
    runner.stages(runner.SIZES[size], tmp_path, Parsing())
    assert parsed == names, "what is complete is not repeated"


def test_a_slice_ends_in_time_and_keeps_what_is_not_complete(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE", 1.0)
    runner.main(["--size", "tiny", "--minutes", "0.05", "--runs", str(tmp_path)])
    assert "goes on" in capsys.readouterr().out
    assert (tmp_path / "tiny" / "denoiser.log").exists()
    assert not (tmp_path / "tiny" / "denoiser.done").exists()
    with pytest.raises(runner.OutOfTimeError):
        runner.Slice(time.monotonic()).lightning("fit", log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="'lightning nothing' failed"):
        runner.Slice(float("inf")).lightning("nothing", log=tmp_path / "log")
