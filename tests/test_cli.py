"""The command line as a newcomer meets it: every configuration, every command, every mistake."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shutil
import signal
import sys
from importlib import metadata
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace

from lightning_mdm import categorical
from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.callbacks.order_nats import OrderNats
from lightning_mdm.callbacks.subproblems import Subproblems
from lightning_mdm.cli import main
from lightning_mdm.compilation import compiled_once
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.transformer import Block
from lightning_mdm.outcomes import read_rows
from lightning_mdm.parsing import LISTS, is_given, plainly
from lightning_mdm.starting_point import check_model
from runs import N_TEST, N_VALIDATION, REPOSITORY, TINY, WORD_PROBLEMS, program, tiny

CONFIGS = sorted((REPOSITORY / "configs").glob("*/*.yaml"))
# For the others see test_order_configs.py, test_autoregressive.py, test_puzzle_configs.py and test_sudoku_configs.py.
TEXT = [
    config
    for config in CONFIGS
    if config.parent.name in ("word_problems", "gsm8k")
    and not config.stem.startswith(("order", "autoregressive", "scratch_order"))
]
SHIPPED = REPOSITORY / "experiments" / "word_problems" / "denoiser.safetensors"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files relative to it."""
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after a fit of four updates and a sweep."""
    folder = tmp_path_factory.mktemp("trained")
    run = folder / "run"
    program("fit", *tiny(folder), "--run_dir", run)
    program("sweep", *tiny(folder), "--run_dir", run, "--ckpt_path", run / "checkpoints" / "last.ckpt")
    return run


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


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


# Configurations.


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


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--help"], ["fit", "validate", "test", "predict", "sweep", "analyse", "report"]),
        (["fit", "--help"], ["--run_dir", "--frontier.policies", "--frontier.budgets", "--predictions.steps"]),
        (["sweep", "--help"], ["--split {validation,test}", "--ckpt_path"]),
        (["report", "--help"], ["RUN", "--out"]),
    ],
)
def test_help_is_readable(capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in words)
    assert "usage: lightning" in text


def test_the_program_has_three_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scripts = {
        entry.name: entry.value
        for entry in metadata.distribution("lightning-mdm").entry_points
        if entry.group == "console_scripts"
    }
    assert scripts == {"lightning": "lightning_mdm.cli:main", "lightning-mdm": "lightning_mdm.cli:main"}
    monkeypatch.setattr(sys, "argv", ["lightning_mdm", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("lightning_mdm", run_name="__main__")
    assert ended.value.code == 0
    assert "sweep" in capsys.readouterr().out


# Commands.


def saved(run_dir: Path) -> tuple[int, dict[str, torch.Tensor]]:
    checkpoint = torch.load(last(run_dir), weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def test_fit_again_resumes_or_says_that_it_is_complete(tmp_path: Path, run_dir: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    options = ["fit", *tiny(tmp_path), "--run_dir", again, "--ckpt_path", "last"]
    assert "is at update 4 of 4: complete; nothing is trained again." in program(*options)
    step, weights = saved(again)
    assert step == 4
    assert all(torch.equal(value, saved(run_dir)[1][name]) for name, value in weights.items())
    assert "is at update 4 of 6: resuming there." in program(*options, "--trainer.max_steps", "6")
    step, weights = saved(again)
    assert step == 6
    assert [path.name for path in last(again).parent.glob("*.ckpt")] == ["last.ckpt"], "a copied directory"
    assert not all(torch.equal(value, saved(run_dir)[1][name]) for name, value in weights.items())


@pytest.mark.parametrize(("every", "n"), [(2, 4), (2, 3), (3, 2)])
def test_the_last_checkpoint_holds_the_last_update(tmp_path: Path, run_dir: Path, every: int, n: int) -> None:
    options = ["--trainer.max_steps", str(n), "--trainer.callbacks.every_n_train_steps", str(every)]
    program("fit", *tiny(tmp_path), "--run_dir", tmp_path / "run", *options)
    assert saved(tmp_path / "run")[0] == n
    # A longer run goes on from the raw weights, so these must not have been overwritten by their average.
    checkpoint = torch.load(last(tmp_path / "run"), weights_only=True)
    raw, average = checkpoint["current_model_state"], checkpoint["state_dict"]
    assert any(not torch.equal(value, raw[name]) for name, value in average.items())


def test_fit_from_the_last_checkpoint_starts_anew_where_there_is_none(tmp_path: Path) -> None:
    program("fit", *tiny(tmp_path), "--run_dir", tmp_path / "new", "--ckpt_path", "last", "--trainer.max_steps", "1")
    assert saved(tmp_path / "new")[0] == 1


def test_a_sweep_takes_the_whole_split_unless_told_on_the_command_line(tmp_path: Path, run_dir: Path) -> None:
    """What a configuration says of validation is meant for the one within a training."""
    (tmp_path / "limit.yaml").write_text("trainer: {limit_val_batches: 1}\n")
    options = [*tiny(tmp_path), "--config", tmp_path / "limit.yaml", "--ckpt_path", last(run_dir)]
    options += ["--split", "validation", "--frontier.budgets", "[1]", "--data.eval_batch_size", "2"]
    for name, given, n in (("whole", [], N_VALIDATION), ("part", ["--trainer.limit_val_batches=2"], 4)):
        program("sweep", *options, "--run_dir", tmp_path / name, *given)
        assert {row.n for row in read_rows(tmp_path / name / "frontier.csv")} == {n}
    assert is_given("limit_val_batches", ["sweep", "--trainer", '{"limit_val_batches": 2}'])


def test_sweep_needs_the_checkpoint_alone(tmp_path: Path, run_dir: Path) -> None:
    copy = tmp_path / "elsewhere.ckpt"
    shutil.copy(last(run_dir), copy)
    out = tmp_path / "out"
    lines = program("sweep", *tiny(tmp_path), "--run_dir", out, "--ckpt_path", copy).splitlines()
    assert lines[-1] == str(out)
    assert lines[-2] == str(out / "report.md")
    assert any("top margin" in line for line in lines), "no table"
    keys = [(r.policy, r.T, r.n, r.correct, r.checkpoint, r.nfe_mean) for r in read_rows(out / "frontier.csv")]
    assert keys == [
        (r.policy, r.T, r.n, r.correct, r.checkpoint, r.nfe_mean) for r in read_rows(run_dir / "frontier.csv")
    ]
    again = program("sweep", "--config", out / "sweep.yaml")
    assert f"Found {4 * N_TEST} decoded outcomes" in again, "the saved configuration repeats the run"


def test_validate_and_test_report_the_bound_and_their_cells(tmp_path: Path, run_dir: Path) -> None:
    own = tmp_path / "run"
    options = [*tiny(tmp_path), "--run_dir", own, "--ckpt_path", last(run_dir)]
    assert "val/bound_nats_per_token" in program("validate", *options)
    assert "test/bound_nats_per_token" in program("test", *options)
    assert [(r.split, r.n) for r in read_rows(own / "frontier.csv")] == [
        *[("test", N_TEST)] * 4,
        *[("validation", N_VALIDATION)] * 4,
    ]
    program("sweep", *options, "--split", "validation")
    assert len(read_rows(own / "frontier.csv")) == 8
    assert {file.name for file in own.glob("*.yaml")} >= {"validate.yaml", "test.yaml", "sweep.yaml"}


def test_weights_bring_their_tokenizer(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside them or in their checkpoint; the problems of another seed would give another one, of the same size."""
    own = json.loads(last(run_dir).with_name("tokenizer.json").read_text(encoding="utf-8"))
    alone = tmp_path / "alone" / "last.ckpt"
    alone.parent.mkdir()
    copyfile(last(run_dir), alone)
    options = [*tiny(tmp_path), "--data.seed", "1", "--trainer.max_steps", "1", "--frontier.fit_policies", "[]"]
    for name, weights in (("beside", last(run_dir)), ("alone", alone)):
        out = tmp_path / name / "run"
        found = weights.with_name("tokenizer.json") if name == "beside" else weights
        printed = program("fit", *options, "--run_dir", out, "--model.init_from", weights)
        assert f"The tokenizer is that of the denoiser: {found}" in printed
        assert json.loads(last(out).with_name("tokenizer.json").read_text(encoding="utf-8")) == own
    module = DenoiserModule.load_from_checkpoint(last(run_dir), map_location="cpu")
    module.save_weights(tmp_path / "denoiser.safetensors")
    args = [*options, "--run_dir", tmp_path / "none", "--model.init_from", tmp_path / "denoiser.safetensors"]
    refused(["fit", *map(str, args)], "these weights come without a tokenizer.json beside them", capsys)
    other = [*options, "--run_dir", tmp_path / "other", "--model.init_from", last(run_dir)]
    other += ["--data.tokenizer_path", SHIPPED.with_name("tokenizer.json"), "--data.vocab_size", "512"]
    refused(["fit", *map(str, other)], "tokenizer.json is not the tokenizer that model.init_from=", capsys)
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"none")
    refused(["fit", *map(str, args[:-1]), str(damaged)], f"model.init_from={damaged}: this file is no check", capsys)


def test_a_dry_run_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    options = [*tiny(tmp_path), "--run_dir", tmp_path / "run"]
    program("fit", *options, "--trainer.fast_dev_run", "true")
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    program("fit", *options, "--trainer.max_steps", "1", "--frontier.fit_policies", "[]")
    assert saved(tmp_path / "run")[0] == 1


def test_predict_writes_lines(tmp_path: Path, run_dir: Path) -> None:
    options = [*tiny(tmp_path), "--run_dir", tmp_path, "--ckpt_path", last(run_dir), "--predictions.steps", "4"]
    assert f"Predictions are in {tmp_path / 'predictions.rank0.jsonl'}" in program("predict", *options)
    lines = (tmp_path / "predictions.rank0.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == N_TEST
    assert all(json.loads(line)["nfe"] == max(json.loads(line)["steps"]) == 4 for line in lines)
    questions = tmp_path / "questions.txt"
    questions.write_text("Ann has 3 eggs. She buys 2 more. How many eggs does Ann have now?\n", encoding="utf-8")
    program("predict", *options, "--data.predict_path", questions)
    assert len((tmp_path / "predictions.rank0.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_report_joins_runs(tmp_path: Path, run_dir: Path) -> None:
    lines = program("report", run_dir, run_dir, "--out", tmp_path / "joined").splitlines()
    assert lines[-1] == str(tmp_path / "joined" / "report.md")
    for name in ("frontier.csv", "frontier.png", "frontier.svg", "report.md"):
        assert (tmp_path / "joined" / name).stat().st_size > 0


# Mistakes.


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


NAMES = ", ".join(policy.__name__ for policy in POLICIES)
THRESHOLD = "[{class_path: ConfidenceThreshold, init_args: {%s}}]"
MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown policy": (["--frontier.policies", "[TopMagrin]"], f"no policy TopMagrin; there are {NAMES}"),
    "unknown policy added": (["--frontier.policies+=TopMagrin"], f"no policy TopMagrin; there are {NAMES}"),
    "unknown policy inside": (
        ["--frontier.policies", "[{class_path: Blocks, init_args: {policy: TopMagrin}}]"],
        f"no policy TopMagrin; there are {NAMES}",
    ),
    "threshold": (["--frontier.policies", THRESHOLD % "threshold: 8"], "threshold=8.0: a confidence threshold lies in"),
    "option of a policy": (["--frontier.policies", THRESHOLD % "treshold: 0.8"], "'treshold' is not accepted"),
    "budget": (["--frontier.budgets", "[0, 4]"], "frontier.budgets=[0, 4]: a step budget is at least 1"),
    "policy twice": (["--frontier.policies+=TopMargin"], "frontier.policies: a policy occurs twice"),
    "configuration": (["--config", "missing.yaml"], "missing.yaml"),
    "checkpoint": (["--ckpt_path", "missing.ckpt"], "ckpt_path=missing.ckpt: no such file"),
    "no checkpoint": (["--ckpt_path", "null"], "ckpt_path is missing, and the weights would be random"),
    "no such last": (["--ckpt_path", "last", "--run_dir", "{tmp}/new"], "ckpt_path=last: no such file"),
    "not a checkpoint": (["--ckpt_path", "README.md"], "ckpt_path=README.md: this file is no checkpoint"),
    "split": (["--split", "tset"], "split"),
    "option": (["--frontier.budgts", "[3]"], "--frontier.budgts"),
    "option of the net": (["--model.net.widht", "32"], "--net.widht=32"),
    "option of the data": (["--data.n_tset", "3"], "'n_tset' is not accepted"),
    "type": (["--frontier.seeds", "[one]"], "frontier.seeds"),
    "end of sequence": (["--frontier.decoding.end_of_sequence", "closed"], "'as_tokens', 'close'"),
    "vocabulary": (["--data.vocab_size", "300"], "data.vocab_size=300, but the checkpoint was trained with 280"),
    "width": (["--model.net.width", "32"], "model.net.width=32, but"),
    "heads": (["--model.net.heads", "1"], "model.net.heads=1, but"),
    "difficulty": (["--data.difficulty.max_steps", "9"], "max_steps=9: need 1 <= min_steps <= max_steps <= 6"),
    "tokenizer": (["--data.tokenizer_path", "missing.json"], "tokenizer_path='missing.json': no such file"),
    "device": (["--trainer.accelerator", "no_such"], "no_such"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line_and_costs_nothing(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    extra, message = MISTAKES[mistake]
    before = contents(run_dir)
    args = ["sweep", *tiny(tmp_path), "--run_dir", str(run_dir), "--ckpt_path", str(last(run_dir))]
    refused([*args, *(part.replace("{tmp}", str(tmp_path)) for part in extra)], message, capsys)
    assert contents(run_dir) == before


def refused(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The program ends with status 2, and its last two lines say why and how to see more."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    error, hint = said.splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("(")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "expected \"subcommand\" to be one of"),
        (["sweeep"], "invalid choice: 'sweeep'"),
        (["report"], "runs"),
        (["report", "missing"], "run missing does not exist: give the directory that a sweep printed"),
        (["report", "configs"], "run configs has no frontier.csv"),
        (["fit"], "model"),
        (["fit", "--config", "configs/gsm8k/denoiser.yaml", "--data.path", "/no"], "data.path='/no': no such"),
        (
            ["fit", "--config", "configs/hop_chain/order.yaml", "--trainer.max_steps", "-1", "--run_dir", "{tmp}"],
            "trainer.max_steps=-1: the learning rate falls until the end of training",
        ),
    ],
)  # fmt: skip
def test_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    refused([part.replace("{tmp}", str(tmp_path)) for part in args], message, capsys)


def test_wrong_questions_are_refused(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["predict", *tiny(tmp_path), "--run_dir", str(tmp_path), "--ckpt_path", str(last(run_dir))]
    refused([*args, "--data.predict_path", "missing.txt"], "predict_path='missing.txt': no such file", capsys)
    refused([*args, "--predictions.steps", "0"], "predictions.steps=0: a step budget is at least 1", capsys)
    refused([*args, "--predictions.policy", "Best"], f"no policy Best; there are {NAMES}", capsys)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--ckpt_path", "last", "--model.net.heads", "1"], "was trained with 2"),
        (["--ckpt_path", "last", "--data.vocab_size", "300"], "was trained with 280"),
        ([], "holds a trained model already: go on with it by --ckpt_path last"),
    ],
)
def test_fit_neither_mixes_nets_nor_overwrites_one(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    before = contents(run_dir)
    refused(["fit", *tiny(tmp_path), "--run_dir", str(run_dir), *option], message, capsys)
    assert contents(run_dir) == before


def test_fit_goes_on_with_another_checkpoint_elsewhere_only(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    shutil.copytree(run_dir, own)
    before = contents(own)
    fit = ["fit", *tiny(tmp_path), "--trainer.max_steps", "5", "--ckpt_path"]
    message = f"holds a trained model already, and ckpt_path={last(run_dir)} is another's: go on with its own by"
    refused([*fit, str(last(run_dir)), "--run_dir", str(own)], message, capsys)
    refused([*fit, "missing.ckpt", "--run_dir", str(own)], "ckpt_path=missing.ckpt: no such file", capsys)
    assert contents(own) == before
    program(*fit, last(run_dir), "--run_dir", other)
    inner = last(own).parent / "best" / "epoch.ckpt"
    inner.parent.mkdir()
    copyfile(last(own), inner)
    assert "epoch.ckpt is at update 4 of 5: resuming there" in program(*fit, inner, "--run_dir", own)  # its own, too
    assert saved(other)[0] == saved(own)[0] == 5


def test_the_home_directory_is_one_place(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell expands ``~`` at the beginning of a word only, not in ``--run_dir=~/run``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / "run"
    shutil.copytree(run_dir, own)
    before = contents(own)
    refused(["fit", *tiny(tmp_path), "--run_dir=~/run", "--data.seed", "3"], "holds a trained model already", capsys)
    assert contents(own) == before
    printed = program("fit", *tiny(tmp_path), "--run_dir=~/run", "--trainer.max_steps", "5", "--ckpt_path", "last")
    assert "is at update 4 of 5: resuming there" in printed
    assert program("sweep", *tiny(tmp_path), "--run_dir=~/run", "--ckpt_path=~/run/checkpoints/last.ckpt").splitlines()[
        -1
    ] == str(own)
    assert saved(own)[0] == 5


def test_the_nets_of_a_checkpoint_are_compared_however_they_are_written() -> None:
    nets = {"net": {"heads": 2}, "selector": {"start_shares": (0.5, 1.0)}}
    trained = {**nets, "posterior": {"family": "relative", "net": {"heads": 4}, "order_temperature": 0.3}}

    def namespace(options: dict[str, Any]) -> Namespace:
        return Namespace(**{k: namespace(value) if isinstance(value, dict) else value for k, value in options.items()})

    def options(**changes: Any) -> Namespace:
        parts = {"net": {"heads": 2}, "family": "relative", "posterior_net": {"heads": 4}, **changes}
        posterior = {"family": parts["family"], "net": parts["posterior_net"], "order_temperature": 0.1}
        return namespace({"net": parts["net"], "selector": {"start_shares": [0.5, 1.0]}, "posterior": posterior})

    of_class = {"class_path": "lightning_mdm.nets.transformer.TransformerConfig", "init_args": {"heads": 2}}
    for net in ({"heads": 2}, of_class):
        check_model(options(net=net), trained, Path("last.ckpt"))
    of_class["init_args"] = {"heads": 1}
    for changes, message in (
        ({"net": {"heads": 1}}, "model.net.heads=1, but ckpt_path=last.ckpt was trained with 2"),
        ({"net": of_class}, "model.net.heads=1, but ckpt_path=last.ckpt was trained with 2"),
        ({"family": "state_aware"}, "model.posterior.family=state_aware, but ckpt_path=last.ckpt was trained with rel"),
        ({"posterior_net": {"heads": 2}}, "model.posterior.net.heads=2, but ckpt_path=last.ckpt was trained with 4"),
    ):
        with pytest.raises(ValueError, match=message):
            check_model(options(**changes), trained, Path("last.ckpt"))


def test_a_training_asks_for_time_to_go_on_with(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning counts the seconds of all sessions: with as many again it would train nothing, in silence."""
    own = tmp_path / "run"
    shutil.copytree(run_dir, own)
    fit = ["fit", *tiny(tmp_path), "--run_dir", str(own), "--ckpt_path", "last", "--trainer.max_steps", "100000"]
    limited = [*fit, "--trainer.max_time", "00:00:00:02"]
    program(*limited)
    stopped = saved(own)[0]
    assert 4 < stopped < 100_000
    before = contents(own)
    for ckpt in ("last", str(last(own))):
        message = "last.ckpt has trained for 2 seconds, which count, of 2 that are given: give the time of all"
        refused([ckpt if part == "last" else part for part in limited], message, capsys)
        assert contents(own) == before
    program(*fit, "--trainer.max_time", "00:00:00:03")
    assert saved(own)[0] > stopped


@pytest.mark.parametrize("command", ["sweep", "fit"])
def test_a_checkpoint_of_other_weights_is_one_clear_line(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """As of an order learned with other options, which only its weights show."""
    own = tmp_path / "run"
    shutil.copytree(run_dir, own)
    checkpoint = torch.load(last(own), weights_only=True)
    for part in ("state_dict", "current_model_state"):
        state = checkpoint[part]
        checkpoint[part] = {f"{name}_more": value for name, value in state.items()}
    torch.save(checkpoint, last(own))
    message = "weights do not fit DenoiserModule as configured (Missing key(s)"
    refused([command, *tiny(tmp_path), "--run_dir", str(own), "--ckpt_path", "last"], message, capsys)


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("lightning_mdm.cli.report_command", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["report"])


def test_a_training_that_sigterm_ends_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = DenoiserModule.training_step

    def once(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return trained(*args)

    monkeypatch.setattr(DenoiserModule, "training_step", once)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *tiny(tmp_path), "--run_dir", str(tmp_path / "run")])
    assert ended.value.code == 143, "what a shell says of a program that SIGTERM ends"
    assert "SIGTERM" in capsys.readouterr().err
    assert not last(tmp_path / "run").exists(), "the first of four updates was the last"


def test_a_damaged_outcome_is_named(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "run"
    shutil.copytree(run_dir, own)
    file = next((own / "cells").glob("*/outcomes.rank0.jsonl"))
    file.write_text("{}\n" + file.read_text())
    before = contents(own / "cells")
    args = ["sweep", *tiny(tmp_path), "--run_dir", str(own), "--ckpt_path", str(last(own))]
    refused(args, f"{file}, line 1", capsys)
    assert contents(own / "cells") == before


def test_the_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_MDM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="run missing does not exist"):
        main(["report", "missing"])


def test_a_plain_message_stays_as_it_is() -> None:
    assert plainly("data.seed=-1: give at least 0") == "data.seed=-1: give at least 0"
    assert plainly("Errors:\n  - first\n  - Expected a <class 'NoneType'>\nGiven value: 3") == "first"


def test_attention_needs_no_plan_for_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    program("fit", *tiny(tmp_path), "--run_dir", tmp_path / "run")
    assert asked == [False]


def test_net_and_losses_are_compiled_while_fitting_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def compile(function: object, dynamic: bool) -> object:
        assert dynamic, "shapes vary"
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(Block, "compile", lambda self, dynamic: asked.append(type(self)))
    compiled_once.cache_clear()
    options = [*tiny(tmp_path), "--run_dir", tmp_path / "run", "--model.compile", "true"]
    program("fit", *options)
    assert asked == [Block, categorical.token_losses]
    compiled_once.cache_clear()
    program("validate", *options, "--ckpt_path", "last")
    assert asked == [Block, categorical.token_losses]
