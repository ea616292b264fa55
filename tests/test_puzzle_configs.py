"""The configurations of the logic tasks: they parse, fit and sweep; and the calibration against the exact posterior."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_mdm.cli import main
from lightning_mdm.data.zebra import ZebraPuzzles
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.build import build_denoiser, net_from_plain
from lightning_mdm.nets.laws import NaeSatDenoiser
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import read_commits, read_order_rows, read_outcomes, read_rows
from lightning_mdm.puzzles.zebra import Zebra
from runs import REPOSITORY, load_script, program

CONFIGS = REPOSITORY / "configs"
TASKS = ("nae_sat", "zebra")
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.n_validation=3",
    "--data.n_test=5", "--data.batch_size=2", "--data.num_workers=0",
]  # fmt: skip
QUICK_ORDER = [
    "--model.samples=2",
    "--model.validation_samples=1",
    "--model.bound_budgets=[2]",
    "--order_heatmap.samples=2",
]
FEW = ["--frontier.policies=[IID,TopMargin]", "--frontier.budgets=[1,4]", "--frontier.fit_policies=[]"]


def layers(task: str, *names: str) -> list[str | Path]:
    return [part for name in names for part in ("--config", CONFIGS / task / f"{name}.yaml")]


def printed_config(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, args), "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_every_configuration_is_tested_here() -> None:
    found = {str(path.relative_to(CONFIGS)) for task in TASKS for path in (CONFIGS / task).glob("*.yaml")}
    named = {
        f"{task}/{name}.yaml" for task in TASKS for name in ("denoiser", "small", "order", "order_large", "kim_2025")
    }
    taught = {f"zebra/autoregressive{part}.yaml" for part in ("", "_small", "_solver_order")}
    assert found == named | taught | {"nae_sat/order_small.yaml"}


@pytest.mark.parametrize(
    ("task", "file", "vocab_size"),
    [("nae_sat", "denoiser", 2), ("zebra", "denoiser", 36 + 6 + 9 + 2), ("zebra", "autoregressive", 36 + 6 + 9 + 2)],
)
def test_the_papers_size(capsys: pytest.CaptureFixture[str], task: str, file: str, vocab_size: int) -> None:
    config = printed_config(capsys, *layers(task, file))
    net = TransformerConfig(**config["model"]["init_args"]["net"])
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_denoiser(net, vocab_size).parameters())
    assert 18.5e6 < parameters < 19.5e6
    if task == "nae_sat":
        law = NaeSat(**config["data"]["init_args"]["law"])
        assert (law.latents, law.observations, net.positions) == (25, 275, law.length)


TABLES = [["denoiser"], ["denoiser", "small"], ["order"], ["order", "order_large"]]
CAUSAL = [["autoregressive"], ["autoregressive", "small", "autoregressive_small"]]


@pytest.mark.parametrize(
    "names", [*TABLES, *CAUSAL, *([*c, "autoregressive_solver_order"] for c in CAUSAL)], ids="+".join
)
def test_the_tables_of_zebra_stand_at_one_place(capsys: pytest.CaptureFixture[str], names: list[str]) -> None:
    config = printed_config(capsys, *layers("zebra", *names))
    data = config["data"]["init_args"]
    largest = data["law"]["max_houses"] * data["law"]["max_attributes"]
    per_cell = 2 if "autoregressive" in names else 1  # a causal net has places for moves, whatever it writes
    assert config["model"]["init_args"]["net"]["positions"] == data["prompt_words"] + per_cell * largest
    problems = ZebraPuzzles(
        Zebra(**data["law"]), n_test=20, prompt_words=data["prompt_words"],
        layout=data["layout"], move_order=data["move_order"],
    )  # fmt: skip
    assert all(problems.encoder(problem) for problem in problems.problems("test")), "prompts are no longer than that"


@pytest.mark.parametrize(
    ("denoiser", "order"),
    [
        (["denoiser"], ["order", "order_large"]),
        (["denoiser", "small"], ["order"]),
    ],
    ids=["large", "small"],
)
@pytest.mark.parametrize("task", TASKS)
def test_an_order_is_that_of_a_denoiser(
    capsys: pytest.CaptureFixture[str], task: str, denoiser: list[str], order: list[str]
) -> None:
    """Net, checkpoint and problems are those of the denoiser's file."""
    if task == "nae_sat" and order == ["order"]:
        order = ["order", "order_small"]
    first, second = (printed_config(capsys, *layers(task, *names)) for names in (denoiser, order))
    net, base = second["model"]["init_args"]["net"], second["model"]["init_args"]["denoiser_ckpt"]
    net = net.get("init_args", net)
    assert TransformerConfig(**net) == TransformerConfig(**first["model"]["init_args"]["net"])
    assert base == f"{first['run_dir']}/checkpoints/last.ckpt"
    parts = ["law", *(["prompt_words", "layout"] if task == "zebra" else [])]
    for part in parts:
        assert second["data"]["init_args"][part] == first["data"]["init_args"][part]
    for part in (second["model"]["init_args"]["selector"], second["model"]["init_args"]["posterior"]["net"]):
        assert part["positions"] == net["positions"]
    budgets = second["model"]["init_args"]["budgets"]
    longest = first["frontier"]["budgets"][-1]
    assert max(budgets) <= longest
    assert second["frontier"]["budgets"][-1] == longest


@pytest.mark.parametrize("task", TASKS)
def test_small_fits_and_sweeps(tmp_path: Path, task: str) -> None:
    options = [*layers(task, "denoiser", "small"), "--run_dir", tmp_path, *QUICK, *FEW]
    program("fit", *options)
    printed = program("sweep", *options, "--ckpt_path", "last")
    assert "score" in printed
    rows = read_rows(tmp_path / "frontier.csv")
    assert {(row.task, row.policy, row.T, row.n) for row in rows} == {
        (task, policy, T, 5) for policy in ("iid", "top_margin") for T in (1, 4)
    }
    outcomes = read_outcomes(tmp_path / "outcomes.csv")
    for row in rows:
        scores = [o.score for o in outcomes if (o.policy, o.T) == (row.policy, row.T)]
        assert row.score == pytest.approx(math.fsum(s for s in scores if s is not None) / 5)
    assert "### Score" in (tmp_path / "report.md").read_text()


def test_the_papers_decoding_is_that_of_sudokus(capsys: pytest.CaptureFixture[str]) -> None:
    """Zebras and sequences are decoded as in the paper, its tokens drawn or the likeliest as the task has them."""
    sudoku, *others = (
        printed_config(capsys, *layers(task, "denoiser", *small, "kim_2025"))["frontier"]
        for task in ("sudoku", *TASKS)
        for small in ([], ["small"])
        if task in TASKS or not small
    )
    assert len(others) == 2 * len(TASKS)
    for found in others:
        assert all(policy in sudoku["policies"] for policy in found["policies"])
        assert len(found["policies"]) == len(sudoku["policies"]) - 1, "half the noise is tried on Sudokus alone"
        assert found["budgets"] == sudoku["budgets"] == [50]
    temperatures = [found["decoding"]["token_temperature"] for found in others]
    assert temperatures == [1.0 if task == "nae_sat" else 0.0 for task in TASKS for _ in range(2)]


@pytest.mark.parametrize(("taught", "T", "tokens"), [(False, 9, 9), (True, 72, 18)])
def test_the_autoregressive_baseline_of_zebra(tmp_path: Path, taught: bool, T: int, tokens: int) -> None:
    """A table of nine items; or nine moves of a house and an item, in the order in which clues find them."""
    names = ["autoregressive", "small", "autoregressive_small", *(["autoregressive_solver_order"] if taught else [])]
    options = [*layers("zebra", *names), "--run_dir", tmp_path, *QUICK]
    program("fit", *options)
    program("sweep", *options, "--ckpt_path", "last")
    (row,) = read_rows(tmp_path / "frontier.csv")
    assert (row.task, row.policy, row.T, row.nfe_mean, row.n) == ("zebra", "autoregressive", T, tokens, 5)
    trained = yaml.safe_load((tmp_path / "fit.yaml").read_text())["data"]["init_args"]
    assert trained["move_order"] == ("solver" if taught else "reading")


def test_zebra_analysed(tmp_path: Path) -> None:
    options = [*layers("zebra", "denoiser", "small"), "--run_dir", tmp_path, *QUICK, *FEW]
    program("fit", *options)
    program("analyse", *options, "--ckpt_path", "last", "--subproblems.policies=[TopMargin,GivenOrder]")
    rows = read_commits(tmp_path / "commits.csv")
    assert {(row.policy, row.T, row.problems) for row in rows} == {("top_margin", 9, 5), ("given_order", 9, 5)}
    assert not (tmp_path / "frontier.csv").exists(), "that is for a sweep"


def test_the_order_of_nae_sat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed_config(capsys, *layers("nae_sat", "order"))
    law = found["data"]["init_args"]["law"]
    assert net_from_plain(found["model"]["init_args"]["net"]) == NaeSat(**law)
    options = [
        *layers("nae_sat", "order"), "--run_dir", tmp_path, *QUICK, *QUICK_ORDER,
        "--frontier.policies=[Learned]", "--frontier.budgets=[2]",
    ]  # fmt: skip
    program("fit", *options)
    alone = OrderModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt", map_location="cpu")
    assert isinstance(alone.denoiser, NaeSatDenoiser)
    assert net_from_plain(alone.hparams["net"]) == NaeSat(**law)
    program("sweep", *options, "--ckpt_path", "last")
    rows = read_order_rows(tmp_path / "order_nats.csv")
    optimum = {row.T: row.optimum for row in rows}
    assert set(optimum) == {1, 2, 3, 4, 6, 8}
    assert optimum == {T: pytest.approx(NaeSat(**law).optimum_nats(T)) for T in optimum}
    assert all(row.nats > NaeSat(**law).optimum_nats(2) - 1e-6 for row in rows)
    given = {row.T: row.nats for row in rows if row.policy == "given_order"}
    assert [given[T] for T in (4, 8)] == [pytest.approx(optimum[T], rel=1e-5) for T in (4, 8)]
    assert [(row.policy, row.n) for row in read_rows(tmp_path / "frontier.csv")] == [("learned", 5)]


@pytest.mark.parametrize(("task", "order"), [("zebra", ("order",)), ("nae_sat", ("order", "order_small"))])
def test_the_order_of_a_trained_denoiser(tmp_path: Path, task: str, order: tuple[str, ...]) -> None:
    """Learned for the denoiser that small.yaml trains."""
    base = [*layers(task, "denoiser", "small"), "--run_dir", tmp_path / "denoiser", *QUICK, *FEW]
    program("fit", *base)
    denoiser = tmp_path / "denoiser" / "checkpoints" / "last.ckpt"
    options = [
        *layers(task, *order), "--run_dir", tmp_path / "order", *QUICK, *QUICK_ORDER,
        "--frontier.policies=[Learned]", "--frontier.budgets=[2]", "--model.denoiser_ckpt", denoiser,
    ]  # fmt: skip
    program("fit", *options)
    program("sweep", *options, "--ckpt_path", "last")
    assert [(row.policy, row.n) for row in read_rows(tmp_path / "order" / "frontier.csv")] == [("learned", 5)]


def test_the_experiment_with_the_exact_posterior_parses(capsys: pytest.CaptureFixture[str]) -> None:
    layer = REPOSITORY / "experiments" / "nae_sat" / "exact.yaml"
    config = printed_config(capsys, *layers("nae_sat", "order"), "--config", layer)
    assert config["trainer"]["max_steps"] == 1
    model = config["model"]["init_args"]
    assert net_from_plain(model["net"]) == NaeSat(**config["data"]["init_args"]["law"]) == NaeSat(10, 30, padding=1)
    assert model["selector"]["positions"] == model["posterior"]["net"]["positions"] == 41


def test_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = load_script("nae_sat", "calibration")
    law = NaeSat(6, 10, padding=2)
    exact = script.compare(NaeSatDenoiser(law), law, 60)
    assert len(exact.exact_N) > 200
    assert float(exact.kl_N.abs().max()) < 1e-12
    assert 0.2 < float(exact.latent_N.double().mean()) < 0.5
    assert script.report(exact, 5)[-1] == "mean gap, weighted by tokens: 0.0000"

    known = script.rule_learned(NaeSatDenoiser(law), law, 60)
    assert known.startswith(
        "observations with all latents given: 0.0000 nats, 100.0 % right; always the commoner bit: 7"
    )

    class Guess(NaeSatDenoiser):
        def forward(self, *args: Any) -> Any:
            out = super().forward(*args)
            return out._replace(logits_BQV=torch.zeros_like(out.logits_BQV))

    guess = script.compare(Guess(law), law, 60)
    entropy_N = -torch.xlogy(exact.exact_N, exact.exact_N) - torch.xlogy(1 - exact.exact_N, 1 - exact.exact_N)
    torch.testing.assert_close(guess.kl_N, math.log(2.0) - entropy_N)
    assert "given: 0.6931 nats" in script.rule_learned(Guess(law), law, 60)

    small = ["--data.law.latents=6", "--data.law.observations=10", "--model.net.positions=16"]
    program("fit", *layers("nae_sat", "denoiser", "small"), "--run_dir", tmp_path, *QUICK, *FEW, *small)
    last = tmp_path / "checkpoints" / "last.ckpt"
    script.main([str(last), "--problems", "30"])
    printed = capsys.readouterr().out
    assert "KL(exact || denoiser), nats per token: 0." in printed
    assert printed.count(" to ") >= 1
    assert printed.splitlines()[-1].startswith("observations with all latents given: ")
    shutil.copyfile(last, tmp_path / "alone.ckpt")
    script.main([str(tmp_path / "alone.ckpt"), "--law", "latents=6", "observations=10", "--problems", "30"])
    assert capsys.readouterr().out == printed, "the law is that of the run"

    def refused(checkpoint: str, *settings: str) -> str:
        with pytest.raises(SystemExit) as ended:
            script.main([str(tmp_path / checkpoint), "--problems", "30", *(["--law", *settings] if settings else [])])
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "no fit.yaml in the checkpoint's run directory: say its law" in refused("alone.ckpt")
    assert "40 tokens of 2 kinds, where the denoiser has 16 positions and 2" in refused("alone.ckpt", "latents=10")
    assert "16 tokens of 3 kinds" in refused("alone.ckpt", "latents=6", "observations=9", "padding=1")
    assert "--law: 14 tokens, where the training had 16" in refused("checkpoints/last.ckpt", "latents=4")
    assert "--law shape=3: give option=value" in refused("checkpoints/last.ckpt", "shape=3")
    assert "--law latents=six: give option=value" in refused("checkpoints/last.ckpt", "latents=six")
    assert "none.ckpt: no such file; give a checkpoint" in refused("none.ckpt")
    made = yaml.safe_load((tmp_path / "fit.yaml").read_text())
    made["data"]["class_path"] = "lightning_mdm.data.zebra.ZebraPuzzles"
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(made))
    assert "fit.yaml is of lightning_mdm.data.zebra.ZebraPuzzles: give" in refused("checkpoints/last.ckpt")
