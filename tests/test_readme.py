"""The READMEs do what they say: every command, every option, every target, every link, every piece of Python."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from lightning_mdm.callbacks.frontier import Frontier
from lightning_mdm.cli import SUBCOMMANDS, main
from lightning_mdm.decoding.policies import POLICIES, TopMargin
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.nets.transformer import TransformerConfig
from runs import REPOSITORY, SHIPPED, Answering, Omniscient, few_problems, program, trainer

pytestmark = pytest.mark.draws

FIRST = [REPOSITORY / "README.md", REPOSITORY / "configs" / "README.md"]
PAGES = [*FIRST, *sorted(REPOSITORY.glob("experiments/*/README.md"))]
README = FIRST[0].read_text(encoding="utf-8")
LOOPED = {"seed": "0", "group": "quick", "part": "quick", "split": "easy"}  # what variables of the commands may hold


def blocks(page: Path) -> list[str]:
    """The commands of a page, by block, one command a line."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return re.findall(r"```sh\n(.*?)```", text, re.DOTALL)


BLOCKS = [block for page in PAGES for block in blocks(page)]
LINES = [line.strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [
    shlex.split(re.sub(r"\$(\w+)", lambda name: LOOPED[name[1]], line))[1:]
    for line in dict.fromkeys(LINES)
    if line.startswith("lightning ")
]
SCRIPTS = [line.split()[1:] for line in LINES if re.match(r"python (?!-c)", line)]
POLICY, FROM_CHECKPOINT = map(
    textwrap.dedent, re.findall(r"^ *```python\n(.*?)^ *```$", README, re.DOTALL | re.MULTILINE)
)
TARGETS = re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] in SUBCOMMANDS], ids=" ".join)
def test_every_command_parses(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--print_config"])
    assert ended.value.code == 0
    assert "run_dir: runs/" in capsys.readouterr().out


def test_the_report_command_runs(tmp_path: Path) -> None:
    data = few_problems()
    for command in [c for c in COMMANDS if c[0] == "report"]:
        runs = [tmp_path / Path(arg).name for arg in command[1:] if arg.startswith("runs/")]
        options = [arg for arg in command[1:] if not arg.startswith("runs/")]
        for number, run in enumerate(runs):
            trainer(run, Frontier([TopMargin()], [1], seeds=[number])).sweep(Answering(Omniscient(data)), data)
        assert program("report", *runs, *options).splitlines()[-1] == str(tmp_path / "report" / "report.md")


def test_the_export_command_runs(tmp_path: Path) -> None:
    (command,) = [c for c in COMMANDS if c[0] == "export"]
    checkpoint, file = (tmp_path / Path(arg).name for arg in command[1:])
    module = DenoiserModule(5, TransformerConfig(layers=1, width=8, heads=2, mlp_width=8))
    run = trainer(tmp_path, max_steps=0)
    run.strategy.connect(module)
    run.save_checkpoint(checkpoint)
    assert program("export", checkpoint, file).startswith(str(file))


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a checkpoint as `make sweep-steps` leaves it, one update after the weights that ship."""
    folder = REPOSITORY / "configs" / "word_problems"
    layers = [part for name in ("order", "order_from_shipped") for part in ("--config", folder / f"{name}.yaml")]
    program(
        "fit", *layers, "--run_dir", tmp_path / "runs" / "word_problems", "--model.denoiser_ckpt", SHIPPED,
        "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.batch_size=2", "--model.samples=2",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(FROM_CHECKPOINT, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20, "two lines for each of five problems and two policies"
    answers = [line.split(maxsplit=3) for line in lines[::2]]
    assert [name for name, *_ in answers] == ["learned"] * 5 + ["top_margin"] * 5
    assert [nfe for name, nfe, *_ in answers if name == "top_margin"] == ["8"] * 5
    assert sum(correct == "True" for name, _, correct, _ in answers if name == "learned") >= 3
    assert all("####" in text for *_, text in answers)
    for (_, nfe, *_), steps in zip(answers, lines[1::2], strict=True):
        assert max(json.loads(steps)) <= int(nfe)


def test_a_policy_of_ones_own_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's file in the working directory, by the README's option, with the weights that ship."""
    (tmp_path / "mine.py").write_text(POLICY)
    (policies,) = re.findall(r"--frontier\.policies '(\[.*\])'", README)
    folder = REPOSITORY / "configs" / "word_problems"
    monkeypatch.setattr(sys, "path", [*sys.path])  # which the program adds the working directory to
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.chdir(tmp_path)
    program(
        "sweep", "--config", folder / "denoiser.yaml", "--model.init_from", SHIPPED, "--run_dir", tmp_path / "run",
        "--data.tokenizer_path", SHIPPED.parent / "tokenizer.json", "--data.n_test", "4", "--frontier.budgets", "[16]",
        "--frontier.policies", policies,
    )  # fmt: skip
    monkeypatch.delitem(sys.modules, "mine")
    with (tmp_path / "run" / "frontier.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["policy"], float(row["nfe_mean"])) == ("early_margin", 16.0)
    assert json.loads(row["options"])["slope"] == 0.02


def test_commands_can_be_pasted_into_zsh_too() -> None:
    """There a comment behind a command is a word of it, and brackets without quotes are a pattern."""
    for block in BLOCKS:
        assert not set("#[]*?") & set(re.sub(r"\"[^\"]*\"|'[^']*'", "", block)), block


def test_every_subcommand_is_shown() -> None:
    assert {command[0] for command in COMMANDS} == {*SUBCOMMANDS, "report", "export"}


def test_every_line_is_of_a_known_program() -> None:
    lines = "".join(block for page in FIRST for block in blocks(page)).splitlines()
    assert {line.split()[0] for line in lines} == {"lightning", "make", "tensorboard"}


@pytest.mark.parametrize("script", sorted({" ".join(script) for script in SCRIPTS}))
def test_every_script_knows_its_options(script: str) -> None:
    file, *given = script.split()
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    for option in given:
        assert not option.startswith("--") or f'"{option}"' in source, option


def test_every_make_target_exists() -> None:
    for page in PAGES:
        named = re.findall(r"^make ([a-z0-9-]+)|`make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert {target for pair in named for target in pair if target} <= set(TARGETS)
    assert {"make sweep-steps", "make test"} <= set(LINES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("given", re.findall(r"`(--[\w.]+ \w+)`", README))
def test_every_option_in_the_text_exists(capsys: pytest.CaptureFixture[str], given: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", "configs/word_problems/denoiser.yaml", *given.split(), "--print_config"])
    assert ended.value.code == 0


def test_the_table_lists_every_policy() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(policy.__name__ for policy in POLICIES)


def test_every_folder_of_the_layout_exists() -> None:
    layout = README.split("## Layout")[1].split("```")[1]
    for name in re.findall(r"\b([a-z]+)/", layout):
        assert (REPOSITORY / name).is_dir() or (REPOSITORY / "lightning_mdm" / name).is_dir(), name
    for name in re.findall(r"\b(\w+\.py)\b", layout):
        assert (REPOSITORY / "lightning_mdm" / name).is_file(), name
