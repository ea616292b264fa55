"""The Sudoku configurations: they parse, and a tiny run goes from denoiser to sweep to order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_mdm.cli import main
from lightning_mdm.outcomes import read_commits, read_rows
from runs import REPOSITORY, program

FOLDER = REPOSITORY / "configs" / "sudoku"
SMALL = ["--config", FOLDER / "denoiser.yaml", "--config", FOLDER / "small.yaml"]
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.n_validation=4",
    "--data.n_test=5", "--data.batch_size=2", "--data.pool=4",
]  # fmt: skip
FEW = ["--frontier.policies=[TopMargin]", "--frontier.budgets=[2]"]


@pytest.mark.parametrize("layers", [["denoiser"], ["denoiser", "small"], ["order"]], ids="+".join)
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
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == ["denoiser", "order", "small"]


def test_denoiser_sweep_and_order(tmp_path: Path) -> None:
    base = tmp_path / "denoiser"
    program("fit", *SMALL, *QUICK, "--run_dir", base)
    last = base / "checkpoints" / "last.ckpt"
    printed = program("sweep", *SMALL, *QUICK, *FEW, "--run_dir", base, "--ckpt_path", last)
    assert printed.splitlines()[-1] == str(base)
    (row,) = read_rows(base / "frontier.csv")
    assert (row.task, row.split, row.policy, row.T, row.n) == ("sudoku", "easy", "top_margin", 2, 5)
    printed = program(
        "analyse", *SMALL, *QUICK, "--run_dir", base, "--ckpt_path", last, "--subproblems.policies=[TopMargin,IID]",
        "--subproblems.masks=2", "--split", "validation",
    )  # fmt: skip
    assert printed.splitlines()[-1] == str(base)
    assert {(row.split, row.policy, row.problems) for row in read_commits(base / "commits.csv")} == {
        ("validation", "top_margin", 4), ("validation", "iid", 4),
    }  # fmt: skip
    assert read_rows(base / "frontier.csv") == [row], "an analysis decodes nothing for the frontier"
    order = ["--config", FOLDER / "order.yaml", *QUICK, "--model.samples=2", "--model.validation_samples=1"]
    program("fit", *order, "--run_dir", tmp_path / "order", "--model.denoiser_ckpt", last, "--order_heatmap.samples=2")
    assert (tmp_path / "order" / "checkpoints" / "last.ckpt").is_file()
