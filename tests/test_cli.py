"""The command line as a newcomer meets it: what every command does and says."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from importlib import metadata
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import Namespace
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_mdm import categorical
from lightning_mdm.callbacks.order_heatmap import OrderHeatmap
from lightning_mdm.cli import CLI, main
from lightning_mdm.compilation import compiled_once
from lightning_mdm.data import text as text_tasks
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import Block, TransformerConfig
from lightning_mdm.outcomes import read_rows
from lightning_mdm.parsing import is_given
from runs import (
    N_TEST,
    N_VALIDATION,
    REPOSITORY,
    SHIPPED,
    last,
    load_script,
    program,
    refused,
    saved,
    tiny,
    trainer,
    write_checkpoint,
)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files relative to it."""
    monkeypatch.chdir(REPOSITORY)


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


def test_fit_again_resumes_or_says_that_it_is_complete(tmp_path: Path, run_dir: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    options = ["fit", *tiny(tmp_path), "--run_dir", again, "--ckpt_path", "last"]
    assert "is at update 4 of 4: complete; nothing is trained again." in program(*options)
    step, weights = saved(again)
    assert step == 4
    assert all(torch.equal(value, saved(run_dir)[1][name]) for name, value in weights.items())
    start = ["--model.init_from", tmp_path / "gone.safetensors", "--model.first_update", "3"]  # the checkpoint says it
    assert "is at update 4 of 6: resuming there." in program(*options, *start, "--trainer.max_steps", "6")
    step, weights = saved(again)
    assert step == 6
    assert [path.name for path in last(again).parent.glob("*.ckpt")] == ["last.ckpt"], "a copied directory"
    assert not all(torch.equal(value, saved(run_dir)[1][name]) for name, value in weights.items())


def test_a_training_keeps_its_configuration_whether_it_begins_or_goes_on(tmp_path: Path, run_dir: Path) -> None:
    def rate() -> float:
        return float(yaml.safe_load((again / "fit.yaml").read_text())["model"]["init_args"]["learning_rate"])

    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    before = rate()
    options = ["fit", *tiny(tmp_path), "--run_dir", again, "--ckpt_path", "last", "--trainer.limit_val_batches", "0"]
    options += ["--model.learning_rate", "0.00777"]
    program(*options)
    assert rate() == before != 0.00777, "complete: these options have trained nothing"
    program(*options, "--trainer.max_steps", "5")
    assert rate() == 0.00777


def test_a_run_that_resumes_trains_no_tokenizer(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "run"
    shutil.copytree(run_dir, again)
    monkeypatch.setattr(text_tasks, "train_tokenizer", None)
    options = ["--run_dir", again, "--ckpt_path", "last", "--trainer.max_steps", "5"]
    program("fit", *tiny(tmp_path), *options)
    assert saved(again)[0] == 5


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


def test_a_sweep_of_nothing_says_so(tmp_path: Path, run_dir: Path) -> None:
    options = [*tiny(tmp_path), "--run_dir", tmp_path / "none", "--ckpt_path", last(run_dir), "--frontier.seeds", "[]"]
    assert "Nothing was decoded: frontier.policies, frontier.budgets or frontier.seeds" in program("sweep", *options)


def test_of_several_processes_one_says_where_the_rows_are(capsys: pytest.CaptureFixture[str]) -> None:
    other: Any = SimpleNamespace(trainer=SimpleNamespace(is_global_zero=False))
    CLI.after_sweep(other)
    CLI.after_analyse(other)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("steps", "complete"), [(3, True), (4, True), (5, False), (-1, False)])
def test_a_training_is_complete_with_its_last_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, complete: bool
) -> None:
    write_checkpoint(tmp_path / "last.ckpt", step=4)
    training: Any = SimpleNamespace(
        config={"fit": Namespace()}, subcommand="fit", ckpt=tmp_path / "last.ckpt",
        trainer=SimpleNamespace(max_steps=steps, callbacks=[]), datamodule=None,
    )  # fmt: skip
    CLI.before_fit(training)
    assert f"is at update 4 of {steps}: {'complete' if complete else 'resuming'}" in capsys.readouterr().out


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
    events = EventAccumulator(str(own))
    events.Reload()
    for name in ("val/bound_nats_per_token", "val/accuracy@T=1/iid", "test/bound_nats_per_token"):
        assert [event.step for event in events.Scalars(name)] == [4], "the update that the checkpoint is of"
    assert {event.step for event in events.Images("frontier")} == {4}
    program("sweep", *options, "--split", "validation")
    assert len(read_rows(own / "frontier.csv")) == 8
    assert {file.name for file in own.glob("*.yaml")} >= {"validate.yaml", "test.yaml", "sweep.yaml"}


def test_an_export_brings_its_tokenizer(tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, weights = last(run_dir).with_name("tokenizer.json"), tmp_path / "out" / "weights.safetensors"
    for _ in ("made", "made again"):
        program("export", last(run_dir), weights)
        beside = weights.with_name("tokenizer.json")
        assert json.loads(beside.read_text(encoding="utf-8")) == json.loads(own.read_text(encoding="utf-8"))
    start = ["--model.init_from", weights, "--run_dir", tmp_path / "more", "--trainer.max_steps", "1"]
    assert f"The tokenizer is that of the denoiser: {beside}" in program("fit", *tiny(tmp_path), *start)
    copyfile(SHIPPED.with_name("tokenizer.json"), tmp_path / "tokenizer.json")
    another = tmp_path / "weights.safetensors"
    refused(
        ["export", str(last(run_dir)), str(another)], "is another tokenizer than the checkpoint's; export to", capsys
    )
    assert not another.exists()


def test_what_ships_is_taken_out_of_a_run(tmp_path: Path, run_dir: Path) -> None:
    """By the script behind ``make train-default``."""
    ship = load_script("word_problems", "ship_weights").main
    (tmp_path / "out").mkdir()
    ship([str(run_dir), str(tmp_path / "out")])
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"denoiser.safetensors", "tokenizer.json"}
    trained = torch.load(last(run_dir), weights_only=True)["state_dict"]
    assert all(
        trained[f"denoiser.{k}"].equal(v) for k, v in load_file(tmp_path / "out" / "denoiser.safetensors").items()
    )
    module = OrderModule(11, TransformerConfig(1, 16, 2, 24), selector=SelectorConfig(1, 8, 2, 8))
    run = trainer(tmp_path)
    run.strategy.connect(module)
    run.save_checkpoint(tmp_path / "order" / "checkpoints" / "last.ckpt")
    ship([str(tmp_path / "order"), str(tmp_path / "out")])
    kept = load_file(tmp_path / "out" / "order.safetensors")
    assert {name: kept[name].shape for name in kept} == {
        name: value.shape for name, value in module.order_nets.state_dict().items()
    }
    assert all(value.equal(kept[name]) for name, value in module.order_nets.state_dict().items())


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
    refused(["fit", *map(str, args[:-1]), "hf://a/b/c.safetensors"], "no tokenizer was looked for on the hub", capsys)
    checkpoint = torch.load(alone, weights_only=True)
    untold = {name: part for name, part in checkpoint.items() if not (isinstance(part, dict) and "tokenizer" in part)}
    torch.save(untold, tmp_path / "cells.ckpt")
    refused(["fit", *map(str, args[:-1]), str(tmp_path / "cells.ckpt")], "this checkpoint holds no tokenizer", capsys)
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


def test_the_configuration_that_a_run_left_serves_every_command(tmp_path: Path, run_dir: Path) -> None:
    left = ["--config", run_dir / "fit.yaml", "--run_dir", tmp_path, "--ckpt_path", last(run_dir)]
    few = ["--frontier.policies", "[TopMargin]", "--frontier.budgets", "[2]"]
    for command in ("sweep", "validate", "test"):
        program(command, *left, *few)
    assert {row.split for row in read_rows(tmp_path / "frontier.csv")} == {"test", "validation"}
    assert "Predictions are in" in program("predict", *left)


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


def test_heat_maps_are_of_orders_as_the_frontier_decodes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DecodingOptions] = []
    monkeypatch.setattr(OrderHeatmap, "begin", lambda self, *_: asked.append(self.decoding))
    options = ["--frontier.decoding.end_of_sequence", "close", "--frontier.decoding.token_temperature", "0.5"]
    program("fit", *tiny(tmp_path), "--run_dir", tmp_path / "run", *options, "--frontier.fit_policies", "[]")
    assert set(asked) == {DecodingOptions(end_of_sequence="close", token_temperature=0.5)}


def test_tasks_of_ones_own_are_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the program is a script, Python itself does not look there."""
    (tmp_path / "of_my_own.py").write_text(
        "from lightning_mdm.data.word_problems import WordProblems\n\n\nclass Mine(WordProblems):\n    pass\n"
    )
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, tiny(tmp_path)), "--data", "of_my_own.Mine", "--print_config"])
    assert ended.value.code == 0
    assert "class_path: of_my_own.Mine" in capsys.readouterr().out
    assert sys.path[-1] == str(tmp_path), "what is there hides nothing"
