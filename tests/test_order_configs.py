"""The configurations that learn orders: how they parse, and that they train, sweep and start from trained denoisers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mdm.cli import main
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.build import net_from_plain
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import read_bound_rows, read_order_rows, read_rows
from runs import N_TEST, REPOSITORY, WORD_PROBLEMS, load_script, program, tiny, trainer

ORDERS = sorted((REPOSITORY / "configs" / "word_problems").glob("order*.yaml"))
LAWS: dict[str, Any] = {"hop_chain": HopChain(chain=10, free=6, given=16), "markov_chain": MarkovChain()}
CONFIGS = {task: REPOSITORY / "configs" / task / "order.yaml" for task in LAWS}
BUDGETS = [1, 2, 3, 4, 5, 6, 8, 10]
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.n_validation=3",
    "--data.n_test=5", "--data.batch_size=2", "--model.samples=2", "--model.validation_samples=1",
    "--order_heatmap.samples=2",
]  # fmt: skip
ORDER_MODEL = """
model:
  init_args: {budgets: [2, 4], samples: 2, validation_samples: 1, selector: {width: 8, heads: 2, mlp_width: 8}}
trainer: {max_steps: 2, val_check_interval: 2}
frontier: {policies: [Learned], budgets: [2], fit_policies: []}
order_heatmap: {samples: 2, problems: 1}
"""


def printed_config(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    """What a command would run with."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args), "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("task", LAWS)
def test_the_net_is_the_law_of_the_data(capsys: pytest.CaptureFixture[str], task: str) -> None:
    found = printed_config(capsys, "fit", "--config", CONFIGS[task])
    law = found["data"]["init_args"]["law"]
    assert found["model"]["init_args"]["net"] == law
    assert type(LAWS[task])(**law) == LAWS[task]
    length = LAWS[task].length
    assert found["model"]["init_args"]["selector"]["positions"] == length
    assert found["model"]["init_args"]["posterior"]["net"]["positions"] == length
    assert (found["frontier"]["budgets"], found["order_nats"]["budgets"]) == ([], BUDGETS)
    assert found["order_nats"]["policies"] is None
    # Options that several kinds of net have: whole laws are told apart, whatever is given.
    given = ["--data.law.seed=3", "--data.law.vocab_size=5"]
    found = printed_config(capsys, "fit", "--config", CONFIGS[task], *given)
    assert found["model"]["init_args"]["net"] == {**law, "seed": 3, "vocab_size": 5}


@pytest.mark.parametrize("task", LAWS)
def test_fit_and_sweep(tmp_path: Path, task: str) -> None:
    options = ["--config", CONFIGS[task], "--run_dir", tmp_path, *QUICK]
    program("fit", *options)
    assert not (tmp_path / "order_nats.csv").exists()
    assert not (tmp_path / "order_bounds.csv").exists()
    last = tmp_path / "checkpoints" / "last.ckpt"
    alone = OrderModule.load_from_checkpoint(last, map_location="cpu")
    assert net_from_plain(alone.hparams["net"]) == LAWS[task]
    torch.testing.assert_close(alone.state_dict(), torch.load(last, weights_only=True)["state_dict"], rtol=0, atol=0)
    printed = program("sweep", *options, "--ckpt_path", "last").splitlines()
    assert printed[-1] == str(tmp_path)
    assert any(line.split()[:1] == ["optimum"] for line in printed)
    assert not (tmp_path / "frontier.csv").exists()
    bounds = read_bound_rows(tmp_path / "order_bounds.csv")
    assert [(row.policy, row.n, row.optimum) for row in bounds if row.T == 2] == [
        (policy, 5, pytest.approx(LAWS[task].optimum_nats(2))) for policy in ("learned", "iid")
    ]
    rows = read_order_rows(tmp_path / "order_nats.csv")
    assert {row.T: row.optimum for row in rows} == {T: pytest.approx(LAWS[task].optimum_nats(T)) for T in BUDGETS}
    assert {(row.task, row.split, row.n) for row in rows} == {(task, "test", 5)}
    assert {"learned", "top_margin"} <= {row.policy for row in rows}
    if task == "hop_chain":  # there the optimum holds for every sequence
        assert all(row.optimum is not None and row.nats > row.optimum - 1e-4 for row in rows)


def test_the_order_that_ships_fits_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files of `make sweep-steps`, one update long."""
    monkeypatch.chdir(REPOSITORY)
    layers = [part for file in ORDERS for part in ("--config", file)]
    assert [file.stem for file in ORDERS] == ["order", "order_from_shipped"]
    options = [
        *layers, "--run_dir", tmp_path, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1",
        "--trainer.limit_val_batches", "0", "--data.batch_size", "2", "--data.n_validation", "2", "--data.n_test", "2",
        "--model.samples", "2", "--trainer.enable_progress_bar", "false",
    ]  # fmt: skip
    denoiser = REPOSITORY / "experiments" / "word_problems" / "denoiser.safetensors"
    program("fit", *options, "--model.denoiser_ckpt", denoiser)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


def test_orders_of_texts_are_learned_with_the_tokenizer_of_their_denoiser() -> None:
    """A file that named one would lay it under every other denoiser that is given on the command line."""
    for path in (REPOSITORY / "configs").glob("*/*.yaml"):
        model, data = (
            yaml.safe_load(path.read_text()).get(part, {}).get("init_args", {}) for part in ("model", "data")
        )
        if "denoiser_ckpt" in model and not data.get("tokenizer_path", "").startswith("hf://"):
            assert "tokenizer_path" not in data, path


def refused(message: str, capsys: pytest.CaptureFixture[str], *args: str | Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_order_on_a_trained_denoiser(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, run = tmp_path / "denoiser", tmp_path / "order"
    options: list[str | Path] = [*tiny(tmp_path), "--run_dir", base]
    program("fit", *options, "--trainer.max_steps", "1", "--frontier.fit_policies", "[]")
    weights = base / "checkpoints" / "last.ckpt"
    text = WORD_PROBLEMS.read_text(encoding="utf-8").replace("denoiser.DenoiserModule", "order_module.OrderModule")
    for name, content in (("base.yaml", text), ("order.yaml", ORDER_MODEL)):
        (tmp_path / name).write_text(content)
    first, *rest = [part for part in tiny(tmp_path) if part != "--config"]
    files = [tmp_path / "base.yaml", *rest, tmp_path / "order.yaml"]
    assert first == str(WORD_PROBLEMS)
    order = [*(part for file in files for part in ("--config", file)), "--run_dir", run]
    start = ["--model.denoiser_ckpt", weights]

    printed = program("fit", *order, *start)
    beside = weights.with_name("tokenizer.json")
    assert f"The tokenizer is that of the denoiser: {beside}" in printed
    assert f"The denoiser starts from the weights in {weights}." in printed
    assert yaml.safe_load((run / "fit.yaml").read_text())["data"]["init_args"]["tokenizer_path"] == str(beside)
    last = run / "checkpoints" / "last.ckpt"
    assert last.with_name("tokenizer.json").read_text() == beside.read_text()
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (weights, last)]
    for name in (name for name in states[0] if name.startswith("denoiser.")):
        torch.testing.assert_close(states[1][name], states[0][name], rtol=0, atol=1e-6)  # averaging rounds

    refused("holds a trained model already: go on with it by --ckpt_path last", capsys, "fit", *order, *start)
    other = ["--ckpt_path", "last", "--model.selector.logit_cap", "3"]
    refused("model.selector.logit_cap=3.0, but", capsys, "sweep", *order, *start, *other)
    printed = program("fit", *order, *start, "--ckpt_path", "last")
    assert "is at update 2 of 2: complete; nothing is trained again." in printed
    assert "The denoiser starts" not in printed
    assert "The tokenizer is" not in printed, "the checkpoint has its own"

    gone = [part for name in ("denoiser_ckpt", "init_from") for part in (f"--model.{name}", tmp_path / "gone.ckpt")]
    printed = program("sweep", *order, *gone, "--ckpt_path", last)  # the checkpoint alone is enough
    assert printed.splitlines()[-1] == str(run)
    assert [(row.policy, row.n) for row in read_rows(run / "frontier.csv")] == [("learned", N_TEST)]
    program("sweep", *order, *gone, "--ckpt_path", last, "--frontier.policies", "[TopMargin]")
    assert {row.policy for row in read_rows(run / "frontier.csv")} == {"learned", "top_margin"}, "it is still its order"

    config, bounds = (run / "sweep.yaml").read_text(), run / "order_bounds.csv"
    rows = bounds.read_text()
    bounds.write_text(rows + "half a li")
    again = ["sweep", *order, *gone, "--ckpt_path", last, "--frontier.budgets", "[3]"]
    refused("order_bounds.csv, line", capsys, *again)
    assert (run / "sweep.yaml").read_text() == config, "what is refused leaves that of an earlier run in its place"
    bounds.write_text(rows)

    dear = "[Learned, {class_path: Blocks, init_args: {policy: {class_path: Learned, init_args: {price: 1}}}}]"
    with pytest.warns(UserWarning, match=r"price=1\.0: beyond model.prices=\[0\.0\], .*a guess"):
        program("sweep", *order, "--run_dir", tmp_path / "dear", "--ckpt_path", last, "--frontier.policies", dear)

    alone = OrderModule.load_from_checkpoint(last, map_location="cpu")
    alone.save_order(tmp_path / "order.safetensors")
    again = program(
        "fit", *order, *start, "--run_dir", tmp_path / "more", "--model.init_from", tmp_path / "order.safetensors"
    )
    assert "order.safetensors" in again

    wrong = ["--model.net.width", "32"]
    refused("model.net.width=32, but", capsys, "sweep", *order, *wrong, "--ckpt_path", last)
    refused("give it as model.denoiser_ckpt to learn an order", capsys, "sweep", *order, "--ckpt_path", weights)
    refused("holds a selector too", capsys, "sweep", *options, "--ckpt_path", last)


def test_where_a_text_ends_is_noted_of_a_wide_canvas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("padding")
    monkeypatch.setattr(script, "TRACED", 3)
    monkeypatch.setattr(script, "BUDGETS", (1, 2))
    monkeypatch.chdir(REPOSITORY)
    torch.manual_seed(0)
    run = trainer(tmp_path)
    run.strategy.connect(DenoiserModule(512, TransformerConfig(1, 16, 2, 24)))
    run.save_checkpoint(tmp_path / "last.ckpt")
    script.note_ends(tmp_path / "last.ckpt", tmp_path / "ends.csv")
    with open(tmp_path / "ends.csv", newline="") as file:
        rows = {(row["policy"], row["T"]): row for row in csv.DictReader(file)}
    assert {row["last_step"] for (_, T), row in rows.items() if T == "1"} == {"1.0"}, "everything at once"
    assert len(rows) == 6
    assert 0.0 < float(rows["iid", "2"]["last_step"]) < 1.0
    assert {row["misplaced"] for row in rows.values()} == {"1.0"}, "an untrained net knows no end"
