"""The configurations at the paper's scale: their sizes, their recipe, and the whole pipeline in small."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lightning_mdm.cli import main
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.smdm import to_published
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import read_rows
from llama import files
from runs import REPOSITORY, program, without_seed
from test_report import save, sweep

FOLDER = REPOSITORY / "configs" / "gsm8k_aug"
EXPERIMENT = REPOSITORY / "experiments" / "gsm8k_aug"
DENOISERS = {"denoiser_170m": [], "denoiser_1028m": ["denoiser_170m"], "control": ["denoiser_170m"]}
ORDERS = {"order": [], "order_1028m": ["order"], "fox_2026": ["order"]}
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=4", "--data.n_validation=2", "--data.n_test=2",
    "--data.batch_size=2", "--trainer.accumulate_grad_batches=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files relative to it."""
    monkeypatch.chdir(REPOSITORY)


def layers(name: str, *over: Path) -> list[str]:
    below = {**DENOISERS, **ORDERS}[name]
    found = [*(FOLDER / f"{part}.yaml" for part in (*below, name)), *over]
    return [part for file in found for part in ("--config", str(file))]


def printed_config(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *args, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def examples_per_update(config: dict[str, Any]) -> int:
    trainer = config["trainer"]
    return trainer["devices"] * trainer["accumulate_grad_batches"] * config["data"]["init_args"]["batch_size"]


def test_every_configuration_is_tested_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == set(DENOISERS) | set(ORDERS)
    for name, below in {**DENOISERS, **ORDERS}.items():
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith(f"# Over {below[0]}.yaml: " if below else "# ")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("denoiser_170m", 169_897_728),
        ("control", 169_897_728),
        ("order", 169_897_728),
        ("fox_2026", 169_897_728),
        ("denoiser_1028m", 1_027_677_952),  # with embedding and head 1,142,367,744, as others count the published file
        ("order_1028m", 1_027_677_952),
    ],
)
def test_parameters_without_embeddings(capsys: pytest.CaptureFixture[str], name: str, parameters: int) -> None:
    config = printed_config(capsys, *layers(name))
    net = TransformerConfig(**config["model"]["init_args"]["net"])
    vocab_size = config["data"]["init_args"]["vocab_size"]
    with torch.device("meta"):
        denoiser = TransformerDenoiser(vocab_size, net)
    assert sum(p.numel() for p in denoiser.trunk.parameters()) == parameters
    outer = denoiser.embedding.weight.numel() + denoiser.head.weight.numel()
    assert outer == (32_000 + 32_001) * net.width
    published = to_published(denoiser.state_dict(), net)
    assert sum(tensor.numel() for tensor in published.values()) == parameters + outer
    assert (net.norm_eps, net.rope_base, net.positions) == (1e-5, 1e4, 0)


@pytest.mark.parametrize("name", DENOISERS)
def test_the_recipe_of_denoisers(capsys: pytest.CaptureFixture[str], name: str) -> None:
    config = printed_config(capsys, *layers(name))
    model, steps = config["model"]["init_args"], 15_000 if name == "control" else 45_000
    assert examples_per_update(config) == 256
    assert config["trainer"]["max_steps"] == steps
    assert (model["weighting"], model["least_masked"]) == ("bound", 1e-3)
    assert (model["betas"], model["weight_decay"], model["warmup_steps"]) == ([0.9, 0.95], 0.1, steps // 100)
    first, last = (2e-5, 2e-5) if name == "control" else (2e-4, 2e-5)
    assert model["learning_rate"] == first
    assert model["learning_rate"] * model["final_learning_rate"] == pytest.approx(last)
    assert config["data"]["init_args"]["canvas_tokens"] == 256
    assert config["frontier"]["budgets"] == [5, 10, 15]
    if name != "control":
        assert model["init_from"].startswith("hf://nieshen/SMDM/mdm_safetensors/mdm-")


@pytest.mark.parametrize("name", ORDERS)
def test_the_recipe_of_orders(capsys: pytest.CaptureFixture[str], name: str) -> None:
    config = printed_config(capsys, *layers(name))
    model = config["model"]["init_args"]
    assert config["trainer"]["max_steps"] == 15_000
    assert (examples_per_update(config), model["samples"]) == (32, 8)
    data = printed_config(capsys, *layers("denoiser_170m"))["data"]["init_args"]
    same = (
        "dataset",
        "on_bad_line",
        "tokenizer_path",
        "vocab_size",
        "start_token",
        "canvas_tokens",
        "stages",
        "answer_steps",
    )
    assert {option: config["data"]["init_args"][option] for option in same} == {option: data[option] for option in same}
    assert model["budgets"] == [T - data["answer_steps"] for T in config["frontier"]["budgets"]]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Weights in the published layout, and options that read local files alone."""
    folder = files(tmp_path_factory.mktemp("aug"))
    weights = folder / "weights.safetensors"
    sys.path.insert(0, str(EXPERIMENT))
    try:
        importlib.import_module("rehearsal").write_weights(weights, EXPERIMENT / "tiny.yaml")
    finally:
        sys.path.remove(str(EXPERIMENT))
    return weights, [f"--data.path={folder}", f"--data.tokenizer_path={folder / 'tokenizer.json'}"]


# For control and order see the rehearsal.
@pytest.mark.parametrize("name", ["denoiser_170m", "denoiser_1028m"])
def test_denoisers_fit_and_sweep(tmp_path: Path, local: tuple[Path, list[str]], name: str) -> None:
    weights, data = local
    options = [*layers(name, EXPERIMENT / "tiny.yaml"), *data, *QUICK, "--run_dir", str(tmp_path)]
    options += ["--model.init_from", str(weights), "--frontier.budgets=[3]", "--frontier.fit_policies=[]"]
    assert f"The denoiser starts from the weights in {weights}" in program("fit", *options)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    (loader,) = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader["slots"] == 8  # 2 updates x 2 x 2
    program("sweep", *options, "--ckpt_path", "last")
    found = {(row.policy, row.T, row.n) for row in read_rows(tmp_path / "frontier.csv")}
    assert found == {(policy, 3, 2) for policy in ("iid", "top_probability", "top_margin")}


@pytest.mark.parametrize("name", ["order_1028m", "fox_2026"])
def test_orders_fit_and_sweep(tmp_path: Path, local: tuple[Path, list[str]], name: str) -> None:
    weights, data = local
    options = [*layers(name, EXPERIMENT / "tiny_order.yaml"), *data, *QUICK, "--run_dir", str(tmp_path)]
    options += ["--model.denoiser_ckpt", str(weights), "--frontier.budgets=[3]", "--frontier.fit_policies=[]"]
    options += ["--order_heatmap.samples=2", "--model.budgets=[2]"]
    program("fit", *options)
    program("sweep", *options, "--ckpt_path", "last")
    assert {(row.policy, row.T, row.n) for row in read_rows(tmp_path / "frontier.csv")} == {("learned", 3, 2)}


def test_the_published_recipe_has_the_temperature_that_its_authors_found_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fox = printed_config(capsys, *layers("fox_2026"))["model"]["init_args"]
    assert 0.05 <= fox["posterior"]["order_temperature"] <= 0.1
    ours, control = (printed_config(capsys, *layers(name))["model"]["init_args"] for name in ("order", "denoiser_170m"))
    assert fox["denoising_weighting"] == control["weighting"], "joint and control are trained alike"
    assert ours["denoiser"] == "frozen"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """``run.py``, which imports ``rehearsal.py`` by its name; other experiments have modules of these names, too."""
    monkeypatch.syspath_prepend(str(EXPERIMENT))
    yield importlib.import_module("run")
    for name in ("run", "rehearsal"):
        sys.modules.pop(name, None)


@pytest.mark.long
def test_the_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: ModuleType) -> None:
    """All stages, a few updates each: what is exported is loaded again, and the heuristics get what the order takes."""
    commands: list[list[str]] = []

    def lightning(*arguments: str) -> None:
        commands.append(list(arguments))
        few = [*QUICK, "--frontier.fit_policies=[]"] if arguments[0] == "fit" else []
        few += ["--data.n_validation=5", "--data.eval_batch_size=5"] if arguments[0] == "sweep" else []
        few += ["--order_heatmap.samples=2"] if "order.yaml" in " ".join(arguments) else []
        program(*arguments, *few)

    monkeypatch.setattr(script, "lightning", lightning)
    script.main(["rehearse", "--runs", str(tmp_path)])
    assert [command[0] for command in commands] == ["fit", "export", "fit", "fit", "sweep", "sweep", "sweep", "report"]
    exported = tmp_path / "denoiser" / "denoiser.safetensors"
    assert "transformer.h.1.attn.attn.weight" in load_file(exported)
    for command in commands[2:7]:
        assert str(exported) in command
    learned = read_rows(tmp_path / "learned_validation" / "frontier.csv")
    heuristics = read_rows(tmp_path / "heuristics_validation" / "frontier.csv")
    adaptive = read_rows(tmp_path / "adaptive_validation" / "frontier.csv")
    assert {row.n for row in (*learned, *heuristics, *adaptive)} == {5}, (
        "the same problems, more than a training validates on"
    )
    assert {row.T for row in learned} == {5, 10, 15}
    assert {row.T for row in heuristics} == set(script.matched_budgets(learned))
    assert {(row.policy, row.T, row.checkpoint) for row in adaptive} == {
        (policy, T, heuristics[0].checkpoint)
        for policy in ("confidence_threshold", "entropy_bounded")
        for T in (5, 10, 15)
    }
    text = (tmp_path / "report_validation" / "report.md").read_text(encoding="utf-8")
    assert "### Beside published figures" in text
    assert "learned price=0.01, T=5" in text
    assert "threshold 0.97" in text
    before = (tmp_path / "order" / "checkpoints" / "last.ckpt").read_bytes()
    monkeypatch.setattr(script, "STAGES", ("denoiser", "order"))
    script.main(["rehearse", "--runs", str(tmp_path)])
    assert (tmp_path / "order" / "checkpoints" / "last.ckpt").read_bytes() == before, "nothing is done twice"


@pytest.mark.parametrize(
    ("options", "budgets"),
    [
        ({"stages": "two", "answer_steps": 1}, [2, 4, 5, 10]),
        ({"stages": "two", "answer_steps": 4}, [5, 10]),
        ({"stages": "one"}, [2, 4, 5, 10]),
        ({"stages": "two", "answer_steps": None}, [2, 3, 5]),  # T steps for each part
        ({"stages": "one", "guidance": 0.1}, [2, 3, 5]),  # two evaluations a step
        ({"stages": "two", "answer_steps": None, "guidance": 0.1}, [2, 3]),
    ],
)
def test_matched_budgets(script: ModuleType, options: dict[str, Any], budgets: list[int]) -> None:
    """What a heuristic spends at these budgets is what the learned order takes, or hardly more."""

    def row(adaptive: bool, mean: float, most: int) -> Any:
        said = json.dumps(options)
        return type("Row", (), {"adaptive": adaptive, "nfe_mean": mean, "nfe_max": most, "options": said})

    rows = [row(True, 4.01, 5), row(True, 9.57, 10), row(True, 1.2, 1), row(False, 30.0, 30)]
    assert script.matched_budgets(rows) == budgets


def test_stages_on_the_real_thing(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is run at the paper's scale: the configurations, and where given, other files and devices."""
    commands: list[list[str]] = []
    monkeypatch.setattr(script, "lightning", lambda *arguments: commands.append(list(arguments)))
    script.main(["denoiser"])
    fit, export = commands
    assert fit == [
        "fit", "--config", "configs/gsm8k_aug/denoiser_170m.yaml", "--run_dir", "runs/gsm8k_aug/denoiser",
        "--ckpt_path", "last",
    ]  # fmt: skip
    assert export[0] == "export"
    commands.clear()
    given = [
        "--data",
        "d",
        "--tokenizer",
        "t.json",
        "--devices",
        "4",
        "--order_config",
        "configs/gsm8k_aug/fox_2026.yaml",
    ]
    script.main(["order", *given])
    assert commands[0][1:5] == [
        "--config",
        "configs/gsm8k_aug/order.yaml",
        "--config",
        "configs/gsm8k_aug/fox_2026.yaml",
    ]
    assert {"--data.path=d", "--data.tokenizer_path=t.json"} < set(commands[0])
    commands.clear()
    monkeypatch.setattr(script, "read_rows", lambda _: [])
    written = []
    for over in ([], ["--order_config", "configs/gsm8k_aug/fox_2026.yaml"]):
        script.main(["order", *over])
        script.main(["sweep", *over])
        script.main(["report", *over])
        written.append([c[c.index("--out" if "--out" in c else "--run_dir") + 1] for c in commands])
        assert f"{written[-1][0]}/checkpoints/last.ckpt" in commands[1], "what is swept is what was trained"
        assert commands[4][1:4] == written[-1][1:4], "and what is reported what was swept"
        commands.clear()
    default, theirs = written
    assert default == [
        f"runs/gsm8k_aug/{name}"
        for name in (
            "order",
            "learned_validation",
            "heuristics_validation",
            "adaptive_validation",
            "report_validation",
        )
    ]
    assert not set(default) & set(theirs)
    assert all("_fox_2026" in name for name in theirs)
    script.main(["order", *given])
    place = commands[0].index("--trainer.accumulate_grad_batches")
    assert commands[0][place + 1] == "1"
    with pytest.raises(SystemExit, match=r"an update is 4 batches; give one of \[1, 2, 4\]"):
        script.main(["order", "--devices", "3"])
    commands.clear()
    everywhere = ["--data.answer_steps", "null", "--frontier.decoding.guidance=0.1"]
    for stage in ("denoiser", "order", "control", "sweep"):
        script.main([stage, *everywhere])
    for command in commands:
        assert command[0] == "export" or any(command[k : k + 3] == everywhere for k in range(len(command)))
    for other in (["--model.learning_rate", "1"], ["stray"], ["--data.stages", "one", "--trainer.max_steps=1"]):
        with pytest.raises(SystemExit):
            script.main(["order", *other])


def test_another_seed_runs_beside_seed_0(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heuristics get what its own order takes, and what that of seed 0 does; both seeds are reported together."""
    commands: list[list[str]] = []
    nfe = {0: 4, 1: 7}

    def lightning(*arguments: str) -> None:
        commands.append(list(arguments))
        if arguments[0] == "sweep":
            run_dir = Path(arguments[arguments.index("--run_dir") + 1])
            seed = int("--frontier.seeds" in arguments)
            policy = "learned" if "learned" in run_dir.name else "top_margin"
            rows, outcomes = sweep((seed,), checkpoint=f"{policy}{seed}")
            rows = [replace(row, policy=policy, nfe_mean=nfe[seed], nfe_max=nfe[seed]) for row in rows if row.adaptive]
            save(run_dir, rows, [replace(row, policy=policy) for row in outcomes if row.policy == "threshold"])
            (run_dir / "report.md").touch()

    monkeypatch.setattr(script, "lightning", lightning)
    script.main(["all", "--split", "test", "--runs", str(tmp_path)])
    first, commands[:] = [*commands], []
    assert all(without_seed(command) == (command, {}) for command in first), "of seed 0 nothing is said"
    assert [command[0] for command in first] == [
        "fit", "export", "fit", "fit", "sweep", "sweep", "sweep", "report"
    ]  # fmt: skip
    script.main(["all", "--split", "test", "--runs", str(tmp_path), "--seed", "1"])
    *own, together = commands
    budgets = [command.index("--frontier.budgets") + 1 for command in (first[5], own[5])]
    assert [command.pop(place) for command, place in zip((first[5], own[5]), budgets, strict=True)] == ["[4]", "[4, 7]"]
    assert [without_seed(command)[0] for command in own] == first, "all else is the same"
    seeds = {"--seed_everything": "1", "--data.seed": "1", "--model.noise_seed": "1"}
    another, noise = {"--data.seed": "101"}, {"--frontier.seeds": "[1]"}
    assert [without_seed(command)[1] for command in own] == [
        seeds, {}, seeds, {**seeds, **another}, {**seeds, **noise}, {**seeds, **another, **noise},
        {**seeds, **another, **noise}, {},
    ]  # fmt: skip
    assert not {path for c in first for path in c if path.startswith(str(tmp_path))} & {p for c in own for p in c}
    joined = [tmp_path / "joined" / f"{name}_test" for name in ("learned", "heuristics", "adaptive", "report")]
    assert together[:4] == ["report", *map(str, joined[:3])]
    assert together[-2:] == ["--out", str(joined[3])]
    rows = [row for path in joined[:3] for row in read_rows(path / "frontier.csv")]
    assert {(row.seed, row.checkpoint) for row in rows} == {
        (seed, f"{policy}0+{policy}1") for seed in (0, 1) for policy in ("learned", "top_margin")
    }


def test_stages_of_the_larger_denoiser(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its own configurations lie over the smaller one's, and what they accumulate is what is shared among GPUs."""
    commands: list[list[str]] = []
    monkeypatch.setattr(script, "lightning", lambda *arguments: commands.append(list(arguments)))
    for stage in ("denoiser", "order", "control"):
        script.main([stage, "--size", "1028m", "--order_config", "configs/gsm8k_aug/fox_2026.yaml"])
    fits = [command for command in commands if command[0] == "fit"]
    configs = [[Path(v).stem for k, v in pairwise(fit) if k == "--config"] for fit in fits]
    assert configs == [
        ["denoiser_170m", "denoiser_1028m"],
        ["order", "order_1028m", "fox_2026"],
        ["denoiser_170m", "denoiser_1028m", "control"],
    ]
    for fit, examples in zip(fits, (256, 32, 256), strict=True):
        assert fit[fit.index("--run_dir") + 1].startswith("runs/gsm8k_aug_1028m/")
        config = printed_config(capsys, *fit[1 : fit.index("--ckpt_path")])
        assert config["model"]["init_args"]["net"]["width"] == 1792
        assert examples_per_update(config) == examples
        trainer = config["trainer"]
        assert (trainer["accumulate_grad_batches"], trainer["val_check_interval"]) == script.BATCHES["1028m"]
    commands.clear()
    script.main(["control", "--size", "1028m", "--devices", "8"])
    shared = printed_config(capsys, *commands[0][1 : commands[0].index("--ckpt_path")])["trainer"]
    assert [int(shared[name]) for name in ("devices", "accumulate_grad_batches", "val_check_interval")] == [8, 2, 5000]
    with pytest.raises(SystemExit, match="an update is 16 batches"):
        script.main(["order", "--size", "1028m", "--devices", "3"])
