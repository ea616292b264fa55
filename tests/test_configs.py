"""Every configuration: it parses, trains and sweeps, and options lie over it as one would expect."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.subproblems import Subproblems
from lightning_mdm.cli import main
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.outcomes import read_rows
from lightning_mdm.parsing import LISTS
from runs import REPOSITORY, SHIPPED, TINY, WORD_PROBLEMS, last, program, saved

CONFIGS = sorted((REPOSITORY / "configs").glob("*/*.yaml"))
# For the others see test_order_configs.py, test_autoregressive.py, test_puzzle_configs.py and test_sudoku_configs.py.
TEXT = [
    config
    for config in CONFIGS
    if config.parent.name in ("word_problems", "gsm8k")
    and not config.stem.startswith(("order", "autoregressive", "scratch_order"))
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files relative to it."""
    monkeypatch.chdir(REPOSITORY)


def layers(config: Path) -> list[str]:
    """The configuration, over the one that its first line names."""
    first = config.read_text(encoding="utf-8").splitlines()[0]
    named = re.match(r"# Over (\w+\.yaml)", first)
    below = [config.parent / named[1]] if named else []
    return [part for file in (*below, config) for part in ("--config", str(file))]


def printed_config(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    """What a command would run with."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args), "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_configuration_parses(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    found = printed_config(capsys, "fit", *layers(config))
    files = [Path(part).read_text(encoding="utf-8") for part in layers(config) if part.endswith(".yaml")]
    named = any("policies:" in text.replace("fit_policies", "") for text in files)
    assert (found["frontier"]["policies"] is not None) == named, "without policies all there are"
    own = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert found["run_dir"] == own["run_dir"]
    trainer = own.get("trainer", {})
    assert {key: found["trainer"][key] for key in ("max_steps", "precision") if key in trainer} == {
        key: trainer[key] for key in ("max_steps", "precision") if key in trainer
    }
    net = own.get("model", {"init_args": {}})["init_args"].get("net", {})
    net = found["data"]["init_args"]["law"] if net == "${data.init_args.law}" else net
    built = found["model"]["init_args"]["net"]
    net, built = net.get("init_args", net), built.get("init_args", built)
    assert {key: built[key] for key in net} == net
    # What refers to the run directory follows the last file that names it.
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == own["run_dir"]
    checkpoints = [c["init_args"].get("dirpath") for c in found["trainer"]["callbacks"]]
    assert f"{own['run_dir']}/checkpoints" in checkpoints


def test_a_list_of_policies_replaces_an_earlier_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of as many policies, too, where the parser would lay one over the other."""
    earlier = (
        "[{class_path: Learned, init_args: {beta: 6}}, {class_path: ConfidenceThreshold, init_args: {threshold: 0.7}}]"
    )
    later = "[{class_path: Learned, init_args: {price: 0.01}}, ConfidenceThreshold]"
    for name, value in (("earlier", earlier), ("later", later)):
        options = "".join(f"{part}:\n  policies: {value}\n" for part in ("frontier", "order_nats", "subproblems"))
        (tmp_path / f"{name}.yaml").write_text(options)
    order = ["fit", "--config", "configs/word_problems/order.yaml"]
    given = {
        "files": ["--config", tmp_path / "earlier.yaml", "--config", tmp_path / "later.yaml"],
        "joined": [f"--config={tmp_path / 'earlier.yaml'}", f"-c={tmp_path / 'later.yaml'}"],
        "option": ["--config", tmp_path / "earlier.yaml", "--frontier.policies", later],
        "options": [f"--frontier.policies={earlier}", f"--frontier.policies={later}"],
    }
    for way, args in given.items():
        found = printed_config(capsys, *order, *args)
        learned, threshold = (policy["init_args"] for policy in found["frontier"]["policies"])
        assert (learned["beta"], learned["price"], threshold["threshold"]) == (1.0, 0.01, 0.9), way
        if way in ("files", "joined"):
            assert found["order_nats"]["policies"] == found["subproblems"]["policies"] == found["frontier"]["policies"]
    found = printed_config(capsys, *order, "--config", tmp_path / "earlier.yaml", "--frontier.policies+=TopMargin")
    assert [policy["class_path"].split(".")[-1] for policy in found["frontier"]["policies"]] == [
        "Learned", "ConfidenceThreshold", "TopMargin",
    ]  # fmt: skip
    assert found["frontier"]["policies"][0]["init_args"]["beta"] == 6.0
    assert found["frontier"]["fit_policies"] == printed_config(capsys, *order)["frontier"]["fit_policies"]


def test_all_lists_of_policies_are_known() -> None:
    lists = {
        f"{key}.{name}"
        for key, kind in (("frontier", Frontier), ("order_nats", OrderNats), ("subproblems", Subproblems))
        for name, option in inspect.signature(kind).parameters.items()
        if "Sequence[UnmaskingPolicy]" in str(option.annotation)
    }
    assert lists == set(LISTS)


def gsm8k(folder: Path) -> Path:
    """Files in the form of GSM8K."""
    folder.mkdir()
    for split, n in (("train", 30), ("test", 3)):
        rows = [
            {
                "question": f"Ann has {k} eggs and buys {k + 1} more. How many eggs does she have in the {split} set?",
                "answer": f"She has <<{k}+{k + 1}={2 * k + 1}>>{2 * k + 1} eggs.\n#### {2 * k + 1}",
            }
            for k in range(n)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize("config", TEXT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_configuration_trains_and_sweeps(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    task = "data: {init_args: {n_validation: 2, n_test: 2}}\n"
    task += "frontier: {policies: [TopMargin], budgets: [2], fit_policies: [TopMargin], fit_budgets: [1]}\n"
    for name, content in (("tiny.yaml", TINY), ("task.yaml", task)):
        (tmp_path / name).write_text(content)
    out = tmp_path / "run"
    options = [
        *layers(config),
        "--config",
        tmp_path / "tiny.yaml",
        "--config",
        tmp_path / "task.yaml",
        "--run_dir",
        out,
    ]
    options += ["--trainer.max_steps", "2"]
    if config.parent.name == "gsm8k":
        options += ["--data.path", gsm8k(tmp_path / "gsm8k")]
    if config.stem.startswith("scratch"):
        options += ["--model.compile", "false", "--data.num_workers", "0"]
    starts_from_weights = "init_from" in config.read_text(encoding="utf-8")
    if starts_from_weights:
        module = DenoiserModule.load_from_checkpoint(last(run_dir), map_location="cpu")
        module.save_weights(tmp_path / "denoiser.safetensors")
        options += ["--model.init_from", tmp_path / "denoiser.safetensors"]
        options += ["--data.tokenizer_path", last(run_dir).with_name("tokenizer.json")]
    printed = program("fit", *options, "--ckpt_path", "last")
    assert ("The denoiser starts from the weights in" in printed) == starts_from_weights
    assert saved(out)[0] == 2
    assert last(out).with_name("tokenizer.json").is_file()
    if starts_from_weights:
        printed = program("fit", *options, "--ckpt_path", "last")
        assert "complete; nothing is trained again" in printed
        assert "The denoiser starts from" not in printed
    printed = program("sweep", *options, "--ckpt_path", last(out))
    assert printed.splitlines()[-1] == str(out)
    assert [(row.n, row.T, row.task) for row in read_rows(out / "frontier.csv")] == [(2, 2, config.parent.name)]


def test_the_weights_that_ship_fit_their_configuration(tmp_path: Path) -> None:
    quick = ["--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--trainer.limit_val_batches", "1"]
    quick += [
        "--data.batch_size",
        "2",
        "--data.n_validation",
        "4",
        "--data.n_test",
        "4",
        "--frontier.fit_policies",
        "[]",
    ]
    quick += ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    config = layers(WORD_PROBLEMS.with_name("from_shipped.yaml"))
    assert f"starts from the weights in {SHIPPED.relative_to(REPOSITORY)}" in program(
        "fit", *config, "--run_dir", tmp_path, *quick
    )
    assert SHIPPED.stat().st_size <= 4_000_000


def test_options_override_files_and_later_files_override_earlier_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "later.yaml").write_text("run_dir: runs/later\ndata: {init_args: {difficulty: {max_steps: 5}}}\n")
    given = ["--config", WORD_PROBLEMS, "--config", tmp_path / "later.yaml"]
    found = printed_config(capsys, "fit", *given)
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == "runs/later"
    assert found["data"]["init_args"]["difficulty"]["max_steps"] == 5
    below = yaml.safe_load(WORD_PROBLEMS.read_text(encoding="utf-8"))["data"]["init_args"]["difficulty"]
    assert found["data"]["init_args"]["difficulty"]["max_value"] == below["max_value"], "the rest stays"
    found = printed_config(
        capsys, "fit", *given, "--run_dir", "runs/mine", "--model.net.width", "32", "--data.difficulty.max_steps", "4",
        "--frontier.policies+=IID", "--frontier.budgets", "[3]", "--trainer.callbacks.every_n_train_steps", "7",
    )  # fmt: skip
    assert found["run_dir"] == "runs/mine"
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == "runs/mine"
    assert found["trainer"]["callbacks"][1]["init_args"]["dirpath"] == "runs/mine/checkpoints"
    assert found["trainer"]["callbacks"][1]["init_args"]["every_n_train_steps"] == 7, "the last of a list is meant"
    assert found["model"]["init_args"]["net"] | {"width": 32, "layers": 4} == found["model"]["init_args"]["net"]
    assert found["data"]["init_args"]["difficulty"]["max_steps"] == 4
    names = [policy["class_path"].rpartition(".")[2] for policy in found["frontier"]["policies"]]
    assert names == ["IID"], "a list in place of all there are"
    assert found["frontier"]["budgets"] == [3]
    found = printed_config(capsys, "sweep", "--config", WORD_PROBLEMS, "--frontier.policies", "[LeftToRight]")
    assert [policy["class_path"].rpartition(".")[2] for policy in found["frontier"]["policies"]] == ["LeftToRight"]


def test_a_frontier_without_policies_compares_all_there_are() -> None:
    assert [type(run.policy) for run in Frontier(budgets=[4]).runs] == list(POLICIES)
