"""Mistakes on the command line: each is one clear line and costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from shutil import copyfile
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from lightning_mdm.cli import main, stopped
from lightning_mdm.data.word_problems import WordProblems
from lightning_mdm.decoding.policies import POLICIES
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.parsing import plainly
from lightning_mdm.starting_point import check_model, check_objective, check_time, checkpoint_path
from runs import REPOSITORY, SHIPPED, last, program, refused, saved, tiny


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name files relative to it."""
    monkeypatch.chdir(REPOSITORY)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def after_refusal(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> dict[Path, bytes]:
    """What is in a run's directory after a sweep into it that is refused."""
    args = ["sweep", *tiny(tmp_path), "--run_dir", str(run_dir), "--ckpt_path", str(last(run_dir))]
    refused([*args, *(part.replace("{tmp}", str(tmp_path)) for part in extra)], message, capsys)
    return contents(run_dir)


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
    "budget alone": (["--frontier.budgets", "4"], '"frontier.budgets": 4 is no list; write [4]'),
    "budget of what may be left out": (
        ["--order_heatmap.budgets", "4"],
        '"order_heatmap.budgets": 4 is no list; write [4]',
    ),
    "policy alone": (
        ["--frontier.policies", "TopMargin"],
        '"frontier.policies": TopMargin is no list; write [TopMargin]',
    ),
    "value with a dash": (
        ["--data.difficulty.operations", "-*"],
        "expected one argument; one that begins with - is given as --option=-...",
    ),
    "policy twice": (["--frontier.policies+=TopMargin"], "frontier.policies: a policy occurs twice"),
    "configuration": (["--config", "missing.yaml"], "missing.yaml"),
    "checkpoint": (["--ckpt_path", "missing.ckpt"], "ckpt_path=missing.ckpt: no such file"),
    "no checkpoint": (["--ckpt_path", "null"], "last.ckpt, or weights by --model.init_from"),
    "no such last": (["--ckpt_path", "last", "--run_dir", "{tmp}/new"], "ckpt_path=last: no such file"),
    "not a checkpoint": (["--ckpt_path", "README.md"], "ckpt_path=README.md: this file is no checkpoint"),
    "weights": (["--ckpt_path", str(SHIPPED)], "this file holds weights and is no checkpoint; give it as model"),
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
    before = contents(run_dir)
    assert after_refusal(tmp_path, run_dir, capsys, *MISTAKES[mistake]) == before


LATE: dict[str, tuple[list[str], str]] = {
    "learned order of a denoiser": (["--frontier.policies", "[TopMargin, Learned]"], "policy Learned"),
    "order that the task does not know": (["--frontier.policies", "[TopMargin, GivenOrder]"], "policy GivenOrder"),
    "too few steps": (["--frontier.policies", "[Autoregressive]"], "policy Autoregressive takes one step per token"),
    "costs of a learned order": (
        ["--order_nats.budgets", "[2]", "--order_nats.policies", "[Learned]"],
        "policy Learned",
    ),
}


@pytest.mark.parametrize("mistake", LATE)
def test_what_model_or_data_refuse_is_refused_before_anything_is_decoded_or_replaced(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], mistake: str
) -> None:
    before = contents(run_dir)
    after = after_refusal(tmp_path, run_dir, capsys, *LATE[mistake])
    assert {path: after.pop(path) for path in before} == before
    assert not any(path.suffix in (".yaml", ".jsonl", ".csv") for path in after)


@pytest.mark.parametrize("name", ["frontier.csv", "outcomes.csv", "order_nats.csv"])
def test_a_damaged_file_of_rows_is_named_before_anything_is_decoded(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    args = ["sweep", *tiny(tmp_path), "--order_nats.budgets", "[2]", "--order_nats.policies", "[IID]"]
    args = [*args, "--ckpt_path", str(last(run_dir)), "--run_dir", str(tmp_path / "run")]
    main(args)
    with open(tmp_path / "run" / name, "a") as file:
        file.write("half a li")
    before = contents(tmp_path / "run" / "cells")
    refused([*args, "--frontier.budgets", "[3]"], f"{name}, line", capsys)
    assert contents(tmp_path / "run" / "cells") == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "expected \"subcommand\" to be one of"),
        (["sweeep"], "no command 'sweeep'; there are fit, validate, test, predict, sweep, analyse, report, export"),
        (["report"], "runs"),
        (["report", "missing"], "run missing does not exist: give the directory that a sweep printed"),
        (["report", "configs"], "run configs has no frontier.csv"),
        (["fit"], "required: --config FILE, which says model and data"),
        (["sweep"], "required: --config FILE, which says model and data"),
        (["fit", "--config", "configs/gsm8k/denoiser.yaml", "--data.path", "/no"], "data.path='/no': no such"),
        (
            ["fit", "--config", "configs/hop_chain/order.yaml", "--trainer.max_steps", "-1", "--run_dir", "{tmp}"],
            "trainer.max_steps=-1: the learning rate falls until the end of training",
        ),
    ],
)  # fmt: skip
def test_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    refused([part.replace("{tmp}", str(tmp_path)) for part in args], message, capsys)


def test_a_metric_that_nobody_logs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/nope"]
    args = ["fit", *tiny(tmp_path), "--run_dir", str(tmp_path / "run"), *watch]
    refused(args, "metric `val/nope` which is not available", capsys)


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


def test_the_configuration_that_a_run_left_does_not_overwrite_it(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the run's own directory of checkpoints, whatever the run directory is then."""
    before, other = contents(run_dir), tmp_path / "other"
    args = ["fit", "--config", str(run_dir / "fit.yaml"), "--run_dir", str(other)]
    refused(args, f"dirpath={run_dir}/checkpoints is in another run's directory, and run_dir={other} would", capsys)
    assert contents(run_dir) == before
    one = f"{{class_path: ModelCheckpoint, init_args: {{dirpath: {run_dir / 'checkpoints'}}}}}"
    (tmp_path / "one.yaml").write_text(f"trainer: {{callbacks: {one}}}\n")
    alone = ["fit", *tiny(tmp_path), "--config", str(tmp_path / "one.yaml"), "--run_dir", str(other)]
    refused(alone, "is in another run's directory", capsys)
    places = ["--trainer.callbacks.dirpath", other / "checkpoints", "--trainer.logger.init_args.save_dir", other]
    program(*args, *places)
    assert last(other).is_file()
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
    check_model(options(), {}, Path("last.ckpt"))  # one that says nothing of what was trained
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


@pytest.mark.parametrize(
    ("given", "behind", "enough"),
    [(60, 59.5, True), (60, 60.0, False), (60, 60.5, False), (60, None, True), (None, 1e9, True)],
)
def test_time_is_left_where_less_than_all_is_spent(given: float | None, behind: float | None, enough: bool) -> None:
    timer = Timer(None if given is None else timedelta(seconds=given))
    checkpoint = {} if behind is None else {"callbacks": {timer.state_key: {"time_elapsed": {"train": behind}}}}
    refusal = pytest.raises(ValueError, match=r"trainer\.max_time: last\.ckpt has trained for 60 seconds, .* of 60 ")
    with nullcontext() if enough else refusal:
        check_time(SimpleNamespace(callbacks=[SimpleNamespace(), timer]), checkpoint, Path("last.ckpt"))


def test_nets_that_read_from_left_to_right_are_told_from_those_that_read_in_any_order() -> None:
    kinds = {
        "autoregressive.AutoregressiveModule": {"net": {}, "objective": "next_token"},
        "denoiser.Module": {"net": {}},
    }
    (causal, next_token), (masked, any_order) = kinds.items()
    for configured, trained in ((causal, next_token), (masked, any_order), (causal, {}), (masked, {})):
        check_objective(configured, trained, Path("last.ckpt"))
    for configured, trained, held in ((causal, any_order, "a masked denoiser"), (masked, next_token, "an autoreg")):
        with pytest.raises(ValueError, match=f"ckpt_path=last.ckpt holds {held}.*: give the configuration that it was"):
            check_objective(configured, trained, Path("last.ckpt"))


def test_checkpoints_that_are_no_files_are_left_to_lightning(tmp_path: Path) -> None:
    for given in ("best", "hpc", "s3://bucket/last.ckpt", "registry:model:version:2"):
        for fitting in (True, False):
            assert checkpoint_path(Namespace(ckpt_path=given, run_dir=str(tmp_path)), fitting=fitting) is None
    config = Namespace(ckpt_path="last", run_dir=str(tmp_path))
    assert checkpoint_path(config, fitting=True) is None, "of a training that is only beginning there is none"
    with pytest.raises(ValueError, match=f"ckpt_path=last: no such file as {tmp_path}/checkpoints/last.ckpt"):
        checkpoint_path(config, fitting=False)


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


@pytest.mark.filterwarnings("ignore:Encountered `nan` values")
def test_weights_that_are_no_numbers_are_said_in_a_line(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(last(run_dir), weights_only=True)
    checkpoint["state_dict"] = {k: v + torch.nan for k, v in checkpoint["state_dict"].items()}
    torch.save(checkpoint, tmp_path / "diverged.ckpt")
    args = [
        "sweep",
        *tiny(tmp_path),
        "--run_dir",
        str(tmp_path / "run"),
        "--ckpt_path",
        str(tmp_path / "diverged.ckpt"),
    ]
    refused(args, "the denoiser gave logits that are not finite numbers; has its training diverged?", capsys)


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


@pytest.mark.parametrize("where", ["training", "before"])
def test_an_interrupted_training_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    kind, name = (DenoiserModule, "training_step") if where == "training" else (WordProblems, "setup")
    monkeypatch.setattr(kind, name, interrupted)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["fit", *tiny(tmp_path), "--run_dir", str(tmp_path / "run")])
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    assert ended.value.code == 130, "what a shell says of a program that is interrupted"
    assert "stopped by SIGINT: --ckpt_path last goes on" in capsys.readouterr().err


def test_one_process_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, command, said in ((0, "fit", "--ckpt_path last goes on"), (0, "sweep", "give it again"), (1, "fit", "")):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        with pytest.raises(SystemExit) as ended:
            stopped([command], KeyboardInterrupt(), signal.SIGINT)
        assert ended.value.code == 130
        heard = capsys.readouterr().err
        assert (said in heard, bool(heard)) == (True, rank == 0)


def test_other_exits_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_: object) -> None:
        sys.exit(7)

    monkeypatch.setattr("lightning_mdm.cli.CLI", ended)
    with pytest.raises(SystemExit) as found:
        main(["fit"])
    assert found.value.code == 7


def test_a_file_is_no_run_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("")
    refused(["fit", *tiny(tmp_path), "--run_dir", str(tmp_path / "run")], "run is a file: give a directory", capsys)


def test_workers_that_sigterm_ends_first_are_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a job whose processes all get it at once."""

    def killed(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")

    def waiting(*_: object) -> None:
        try:
            killed()
        except RuntimeError as error:
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from error

    for program_of in (killed, waiting):
        monkeypatch.setattr("lightning_mdm.cli.CLI", program_of)
        with pytest.raises(SystemExit) as ended:
            main(["fit"])
        assert ended.value.code == 143
        assert "--ckpt_path last goes on" in capsys.readouterr().err


def test_averaged_weights_are_not_trained_on_by_mistake(
    tmp_path: Path, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run_dir, own)
    before = contents(own)
    (tmp_path / "plain.yaml").write_text(f"""
trainer:
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {{dirpath: "{own}/checkpoints", save_last: true, save_top_k: 0, enable_version_counter: false}}
""")
    args = ["fit", *tiny(tmp_path), "--config", str(tmp_path / "plain.yaml"), "--trainer.max_steps", "6"]
    args += ["--run_dir", str(own), "--ckpt_path", "last"]
    refused(args, "was trained with averaged weights, from which training would go on without their callback", capsys)
    after = {path: content for path, content in contents(own).items() if path in before and path.suffix == ".ckpt"}
    assert after == {path: content for path, content in before.items() if path.suffix == ".ckpt"}


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
