"""The Sudoku configurations: they parse, and a tiny run goes from denoiser to sweep to order."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from lightning_mdm import slices
from lightning_mdm.callbacks.runs import weights_hash
from lightning_mdm.cli import main
from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.decoding.noisy import Noisy
from lightning_mdm.modules.order_bounds import BoundEvaluation
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.outcomes import read_commits, read_outcomes, read_rows
from runs import REPOSITORY, load_script, program, write_checkpoint

FOLDER = REPOSITORY / "configs" / "sudoku"
SMALL = ["--config", FOLDER / "denoiser.yaml", "--config", FOLDER / "small.yaml"]
QUICK = [
    "--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--data.n_validation=4",
    "--data.n_test=5", "--data.batch_size=2", "--data.pool=4",
]  # fmt: skip
FEW = ["--frontier.policies=[TopMargin]", "--frontier.budgets=[2]"]


AUTOREGRESSIVE = [
    ["autoregressive"], ["autoregressive", "small", "autoregressive_small"],
    ["autoregressive", "medium", "autoregressive_medium"],
]  # fmt: skip


def files(layers: list[str]) -> list[Path | str]:
    return [part for name in layers for part in ("--config", FOLDER / f"{name}.yaml")]


@pytest.mark.parametrize(
    "layers",
    [
        ["denoiser"], ["denoiser", "small"], ["denoiser", "medium"], ["order"], ["order", "order_small"],
        ["order", "order_medium"], ["order", "search"],
        ["order", "order_medium", "search"], ["order", "on_path"], ["order", "order_medium", "on_path"],
        ["denoiser", "on_path_control"], ["denoiser", "medium", "on_path_control"], ["denoiser", "progressive"],
        *AUTOREGRESSIVE,
    ],
    ids="+".join,
)  # fmt: skip
def test_every_file_parses(capsys: pytest.CaptureFixture[str], layers: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", *map(str, files(layers)), "--print_config"])
    assert ended.value.code == 0
    found = yaml.safe_load(capsys.readouterr().out)
    data, net = found["data"]["init_args"], found["model"]["init_args"]["net"]
    per_cell = {"grid": 1, "moves": 3}[data["layout"]]
    assert net["positions"] == per_cell * data["side"] ** 2
    most = per_cell * (data["side"] ** 2 - data["min_clues"])
    assert max(found["frontier"]["budgets"]) >= most, "the last budget is one token per step"


@pytest.mark.parametrize("name", ["order_small", "order_medium", "search", "on_path"])
def test_policies_take_no_options_from_the_file_below(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A list of policies is read as it stands in its file, whatever stands in that place of ``order.yaml``."""
    with pytest.raises(SystemExit):
        main(["fit", *map(str, files(["order", name])), "--print_config"])
    found = yaml.safe_load(capsys.readouterr().out)["frontier"]["policies"]
    said = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["frontier"]["policies"]
    defaults = {"Learned": {"beta": 1.0}, "EntropyBounded": {"gamma": 0.1}}
    for policy, own in zip(found, said, strict=True):
        options = {**defaults.get(own["class_path"], {}), **own.get("init_args", {})}
        assert {name: policy["init_args"][name] for name in options} == options


@pytest.mark.parametrize("layers", [["denoiser"], ["denoiser", "small"], ["denoiser", "medium"]], ids="+".join)
def test_the_papers_decoding(capsys: pytest.CaptureFixture[str], layers: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *map(str, files([*layers, "kim_2025"])), "--print_config"])
    frontier = yaml.safe_load(capsys.readouterr().out)["frontier"]
    assert frontier["budgets"] == [50]
    noisy = [Noisy(**policy["init_args"]) for policy in frontier["policies"] if policy["class_path"].endswith("Noisy")]
    assert {(policy.certainty, policy.coefficient) for policy in noisy} == {
        ("probability", 0.5), ("probability", 0.25), ("margin", 0.5),
    }  # fmt: skip
    assert {(policy.noise, policy.quota, policy.fading) for policy in noisy} == {("gumbel", "linear", False)}


def test_the_baselines_net_is_of_the_papers_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *map(str, files(["autoregressive"])), "--print_config"])
    net = TransformerConfig(**yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["net"])
    with torch.device("meta"):
        parameters = sum(p.numel() for p in CausalDenoiser(9, net).parameters())
    assert 41.5e6 < parameters < 43.5e6


def test_every_file_is_tried() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == [
        "autoregressive", "autoregressive_medium", "autoregressive_small", "autoregressive_solver_order",
        "denoiser", "kim_2025", "medium", "on_path", "on_path_control", "order", "order_medium", "order_small",
        "progressive", "search", "small",
    ]  # fmt: skip


@pytest.mark.long
def test_the_baseline_joins_the_frontier(tmp_path: Path) -> None:
    """Plain and taught the solver's order, beside a masked denoiser: one policy more each, an evaluation per token."""
    runs = [tmp_path / name for name in ("denoiser", "plain", "taught")]
    small = ["autoregressive", "small", "autoregressive_small"]
    for run, layers in zip(runs, (["denoiser", "small"], small, [*small, "autoregressive_solver_order"]), strict=True):
        policies = FEW if run.name == "denoiser" else []
        options = [*files(layers), *QUICK, *policies, "--run_dir", run]
        program("fit", *options)
        program("sweep", *options, "--ckpt_path", "last")
        trained = yaml.safe_load((run / "fit.yaml").read_text())["data"]["init_args"]
        assert trained["move_order"] == ("solver" if run.name == "taught" else "reading")
    program("report", *runs, "--one_panel", "true", "--out", tmp_path / "report")
    rows = read_rows(tmp_path / "report" / "frontier.csv")
    assert [(row.task, row.split, row.policy, row.n) for row in rows] == [
        ("sudoku", "easy", policy, 5) for policy in ("top_margin", "autoregressive", "autoregressive")
    ]
    blanks = sum(o.tokens for o in read_outcomes(runs[0] / "outcomes.csv"))
    assert [row.nfe_mean for row in rows[1:]] == [3 * blanks / 5] * 2, "three tokens per blank"
    assert len({row.checkpoint for row in rows}) == 3


def test_make_sudoku_trains_sweeps_and_analyses(capsys: pytest.CaptureFixture[str]) -> None:
    """What the target would run, and that each of its commands is one that the program understands."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    said = subprocess.run(["make", "-n", "sudoku"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    commands = [shlex.split(line)[1:] for line in said.splitlines() if line.split()[0].endswith("/lightning")]
    assert [command[0] for command in commands] == ["fit", "fit", "sweep", "sweep", "analyse"]
    runs = []
    for command in commands:
        parts = [str(REPOSITORY / part) if part.startswith("configs/") else part for part in command]
        with pytest.raises(SystemExit) as ended:
            main([*parts, "--print_config"])
        assert ended.value.code == 0
        runs.append(yaml.safe_load(capsys.readouterr().out))
    denoiser, *rest = runs
    assert {run["run_dir"] for run in rest} == {"runs/sudoku_order_small"}
    trained = f"{denoiser['run_dir']}/checkpoints/last.ckpt"
    assert rest[0]["model"]["init_args"]["denoiser_ckpt"] == trained, "the order is learned for this denoiser"


@pytest.mark.long
def test_denoiser_sweep_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    few = tmp_path / "few.yaml"
    few.write_text("model: {init_args: {samples: 2, validation_samples: 1, bound_budgets: [2]}}")
    order = [*files(["order", "order_small"]), "--config", few, *QUICK]
    order += ["--model.denoiser_ckpt", last, "--model.selector.start=quota", "--model.selector.start_shares=[0.8, 1.0]"]
    program("fit", *order, "--run_dir", tmp_path / "order", "--order_heatmap.samples=2")
    monkeypatch.delattr(BoundEvaluation, "bound")  # an analysis evaluates none
    program(
        "analyse", *order, "--run_dir", tmp_path / "order", "--ckpt_path", "last", "--subproblems.masks=1",
        "--subproblems.policies=[{class_path: Learned, init_args: {price: 0.01}}]",
    )  # fmt: skip
    rows = read_commits(tmp_path / "order" / "commits.csv")
    assert {(row.split, row.policy, row.problems) for row in rows} == {("easy", "learned", 5)}
    assert all("selector" in row.options for row in rows)


Asked = tuple[str, str, str, int]  # of each stage: its folder, the command, the test problems and the updates


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``experiments/sudoku/run.py``, from the repository's root."""
    monkeypatch.chdir(REPOSITORY)
    return load_script("sudoku")


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        ("paper", (6400, 500)), ("medium", (6000, 3600)),
        ("small", (2000, 300)),
        ("causal", (200_000,)), ("causal_solver", (200_000,)), ("medium_causal", (3000,)),
        ("medium_causal_solver", (3000,)),
    ],
)  # fmt: skip
def test_the_stages_of_the_runner_parse(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, size: str,
    steps: tuple[int, ...],
) -> None:  # fmt: skip
    """Of every size but ``tiny``, whose stages test_slices.py runs."""

    def parse(*arguments: str, log: Path, timeout: float | None = None) -> None:
        kept = [part for part in arguments if not part.endswith(".ckpt")]
        kept = [part for part in kept if part not in ("--ckpt_path", "last", "--model.denoiser_ckpt")]
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*kept, "--print_config"])
        assert ended.value.code == 0
        found = yaml.safe_load(capsys.readouterr().out)
        run_dir = Path(found["run_dir"])
        pools.append((arguments[0], found["data"]["init_args"]["train_path"]))
        updates = found["trainer"]["max_steps"]
        parsed.append((run_dir.name, arguments[0], found["data"]["init_args"]["test_difficulty"], updates))
        if arguments[0] == "sweep":
            run_dir.mkdir()
            (run_dir / "report.md").touch()
            policies = found["frontier"]["policies"] or []
            kinds[run_dir.name] = {policy["class_path"].split(".")[-1] for policy in policies}
        else:
            write_checkpoint(run_dir / "checkpoints" / "last.ckpt", updates)

    def make_pool(command: list[str], check: bool) -> None:
        commands.append(command)
        out = next(Path(part.removeprefix("--out=")) for part in command if part.startswith("--out="))
        out.parent.mkdir(exist_ok=True)
        out.touch()

    parsed: list[Asked] = []
    kinds: dict[str, set[str]] = {}
    pools: list[tuple[str, str | None]] = []
    commands: list[list[str]] = []
    monkeypatch.setattr(slices, "lightning", parse)
    monkeypatch.setattr(runner.subprocess, "run", make_pool)
    run = partial(runner.run, runner.SIZES[size], tmp_path / "run", tmp_path / "weights", slices.Clock(float("inf")))
    assert run()
    names = [(folder, command, difficulty) for folder, command, difficulty, _ in parsed]
    causal, noisy = "causal" in size, size in ("paper", "medium")
    sweeps = [("easy", "sweep", "easy"), ("hard", "sweep", "hard")]
    assert names == [
        ("denoiser", "fit", "easy"),
        *([] if causal else [("order", "fit", "easy")]),
        *sweeps,
        *([(f"{folder}_search", command, difficulty) for folder, command, difficulty in sweeps] if noisy else []),
        *([(f"{folder}_noisy", command, difficulty) for folder, command, difficulty in sweeps] if noisy else []),
    ]
    assert [("Learned" in kinds[split], "Noisy" in kinds[split]) for split in ("easy", "hard")] == [
        (not causal, False)
    ] * 2
    assert all("Noisy" in kinds[f"{split}_noisy"] for split in ("easy", "hard") if noisy), "the paper's decoding"
    assert all("Learned" in kinds[f"{split}_search"] for split in ("easy", "hard") if noisy)
    assert tuple(updates for _, command, _, updates in parsed if command == "fit") == steps
    assert (tmp_path / "weights").exists() == noisy
    made = len(parsed)
    assert run()
    assert len(parsed) == made, "what is complete is not repeated"
    of_file = {"paper": ["easy", "any"], "causal": ["easy"], "causal_solver": ["easy"]}.get(size, [])
    made_at = [str(tmp_path / "run" / f"pool_9_17_34_{difficulty}_100000.npz") for difficulty in of_file]
    assert [pool for command, pool in pools if command == "fit"] == (made_at or [None] * len(steps))
    assert {pool for command, pool in pools if command == "sweep"} == {None}, "their puzzles are their own"
    assert [command[2:] for command in commands] == [
        ["--n=100000", f"--out={pool}", "--side=9", "--min_clues=17", "--max_clues=34", f"--difficulty={difficulty}"]
        for difficulty, pool in zip(of_file, made_at, strict=True)
    ]


def test_a_pool_is_made_once_and_trained_from(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The problems are those of the pool that training makes of itself."""
    options = {"side": 4, "min_clues": 4, "max_clues": 7, "difficulty": "easy", "pool": 15}
    little = {"trainer": {"max_steps": 3}, "data": {"init_args": options}}
    (tmp_path / "little.yaml").write_text(yaml.safe_dump(little))
    monkeypatch.setattr(runner, "CONFIGS", tmp_path)
    size = runner.Size(("little",), ("little",), pool_file=True)
    path = tmp_path / "run" / "pool_4_4_7_easy_15.npz"
    for asked in ((), ("--model.compile", "false")):
        fit = runner.fit_of(size, ("little",), tmp_path / "run" / "order", asked)
        assert fit.options[2:] == (*asked, "--data.train_path", str(path))
        assert path.is_file() == bool(asked), "made when training is about to go on, not before"
        fit.before()
        monkeypatch.setattr(runner.subprocess, "run", None)  # it is there
    made = SudokuProblems(**options, train_path=str(path)).training().sample(40)
    assert made == SudokuProblems(**options).training().sample(40)


def test_denoiser_and_causal_nets_of_the_papers_size_share_their_puzzles() -> None:
    found = [
        yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["data"]["init_args"]
        for name in ("denoiser", "autoregressive")
    ]
    names = ("side", "min_clues", "max_clues", "difficulty", "pool", "seed")
    assert len({tuple(options.get(name) for name in names) for options in found}) == 1


def test_a_slice_ends_in_time_and_keeps_what_is_not_complete(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lightning(*arguments: str, log: Path, timeout: float | None = None) -> None:
        """Trains for at most 30 updates, and never comes to the end of a sweep."""
        folder = Path(arguments[arguments.index("--run_dir") + 1])
        calls.append(folder.name)
        if arguments[0] == "sweep":
            assert timeout is not None
            assert 0.0 < timeout <= 60.0
            raise subprocess.TimeoutExpired("lightning", timeout)
        limit = arguments[arguments.index("--trainer.max_time") + 1]
        assert "00:00:00:00" < limit <= "00:00:00:59", "a minute less a second to start and stop"
        last = folder / "checkpoints" / "last.ckpt"
        write_checkpoint(last, min(40, slices.standing(last)[0] + 30))

    calls: list[str] = []
    monkeypatch.setattr(slices, "lightning", lightning)
    slice_of_a_minute = ["--size", "tiny", "--minutes", "1", "--runs", str(tmp_path)]
    for expected in (["denoiser"], ["denoiser", "order"], ["order", "easy"], ["easy"]):
        calls.clear()
        with pytest.raises(SystemExit) as end:
            runner.main(slice_of_a_minute)
        assert (calls, end.value.code) == (expected, slices.NOT_COMPLETE)
        assert capsys.readouterr().out.splitlines()[-1] == "not complete: give the same command again"
    assert not (tmp_path / "tiny" / "report").exists()
    with pytest.raises(ValueError, match="holds no decoded test problems: run the sweeps first"):
        runner.main(["--size", "tiny", "--runs", str(tmp_path), "--so_far"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "tiny", "--so_far"], r"tiny holds no decoded test problems: run the sweeps first"),
        (["--size", "paper", "--minutes", "1"], "--minutes 1.0: a start alone may take 75 seconds; give more"),
        (["--size", "paper", "--minutes", "2"], "needs 2.25 to begin; give more"),
    ],
)
def test_what_the_runner_refuses_is_said_without_a_traceback(
    runner: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(runner, "HERE", tmp_path)  # no stored weights are there
    with pytest.raises(SystemExit) as ended:
        slices.run_script(lambda: runner.main([*options, "--runs", str(tmp_path / "runs")]))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_order_that_is_kept_is_that_of_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *map(str, files(["order", "order_medium"])), "--print_config"])
    options = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    kept = REPOSITORY / "experiments" / "sudoku" / "order_medium.safetensors"
    module = OrderModule(
        9, TransformerConfig(**options["net"].get("init_args", options["net"])),
        selector=SelectorConfig(**options["selector"]), finishing=options["finishing"],
        posterior=PosteriorConfig(options["posterior"]["family"], OrderNetConfig(**options["posterior"]["net"])),
        budgets=options["budgets"], init_from=str(kept),
    )  # fmt: skip
    rows = read_rows(kept.with_name("rows_medium.csv"))
    hashes = {json.loads(row.options)["selector"] for row in rows if row.policy == "learned"}
    assert hashes == {weights_hash(module.selector_for(2))}


@pytest.mark.long
def test_the_bench_of_puzzles_runs(capsys: pytest.CaptureFixture[str]) -> None:
    load_script("sudoku", "bench").main(["--n", "4"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "puzzles per second of CPU time"
    assert all(float(line.split()[-1]) > 0.0 for line in said[1:10])
    assert said[10].startswith("4 fresh puzzles of 17 to 34 clues")
