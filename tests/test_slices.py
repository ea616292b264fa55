"""Long runs in slices: what a slice may take, where it goes on, and four experiments walked through in miniature."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from torch import Tensor

from lightning_mdm import slices
from lightning_mdm.cli import main
from lightning_mdm.data.batch import Batch
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_checkpoint import keep_order
from lightning_mdm.noise import RowNoise
from lightning_mdm.outcomes import read_commits, read_rows
from lightning_mdm.slices import (
    Clock,
    EndedError,
    FailedError,
    Fit,
    Kept,
    Sweep,
    lightning,
    not_complete,
    run_script,
    seeded,
    standing,
    steps_of,
    store,
    stored,
    str_of,
    trained,
)
from runs import REPOSITORY, TINY, load_script, program, tiny, write_checkpoint


def checkpoint(path: Path, step: int, seconds: float) -> None:
    """One of a task of texts."""
    write_checkpoint(path, step, seconds)
    path.with_name("tokenizer.json").write_text("{}")


class Program:
    """Stands for the program: notes what it is called with, and trains as far as it is told."""

    def __init__(self, steps: int = 0, fails: type[Exception] | None = None) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.steps = steps
        self.fails = fails

    def __call__(self, *arguments: str, log: Path, timeout: float | None = None) -> None:
        self.calls.append(arguments)
        if self.fails is subprocess.TimeoutExpired:
            raise subprocess.TimeoutExpired("lightning", timeout or 0.0)
        run_dir = Path(arguments[arguments.index("--run_dir") + 1])
        if arguments[0] == "fit":
            checkpoint(run_dir / "checkpoints" / "last.ckpt", self.steps, 30.0)


def test_a_training_goes_on_until_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Fit(tmp_path, 100, ("--config", "c.yaml"))
    half, whole = Program(steps=50), Program(steps=100)
    monkeypatch.setattr(slices, "lightning", half)
    assert not fit.run(Clock(2.0, 60.0))
    monkeypatch.setattr(slices, "lightning", whole)
    assert fit.run(Clock(2.0, 60.0))
    assert fit.run(Clock(2.0, 60.0))
    assert len(whole.calls) == 1, "what is complete is not repeated"
    first, second = half.calls[0], whole.calls[0]
    assert first[:5] == ("fit", "--config", "c.yaml", "--run_dir", str(tmp_path))
    assert first[first.index("--ckpt_path") + 1] == "last"
    assert first[first.index("--trainer.max_steps") + 1] == "100"
    # The trainer's clock counts the 30 seconds of the first slice.
    limits = [call[call.index("--trainer.max_time") + 1] for call in (first, second)]
    assert limits == ["00:00:00:59", "00:00:01:29"]


def test_an_order_is_kept_and_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the denoiser that it was learned for, and with no other."""
    fake, clock = Program(steps=50), Clock(2.0, 60.0)
    monkeypatch.setattr(slices, "lightning", fake)
    checkpoint(tmp_path / "denoiser.ckpt", 9, 1.0)  # holds the same weights as what stands for an order
    kept = Kept(tmp_path / "kept" / "order.ckpt", tmp_path / "denoiser.ckpt")
    here, there = (Fit(tmp_path / name, 100, (), kept=kept) for name in ("here", "there"))
    assert not here.run(clock)
    assert standing(kept.path)[0] == 50
    fake.steps = 100
    assert there.run(clock)
    assert fake.calls[-1][fake.calls[-1].index("--trainer.max_time") + 1] == "00:00:01:29", "30 seconds are behind it"
    assert standing(kept.path)[0] == 100
    calls = len(fake.calls)
    keep_order(here.last, kept.path)  # an earlier one, as where a slice was killed before a later one was written
    assert there.run(clock)
    assert standing(there.last)[0] == standing(kept.path)[0] == 100
    kept.path.unlink()  # the same before the first
    assert there.run(clock)
    assert standing(kept.path)[0] == 100
    assert Fit(tmp_path / "last", 100, (), kept=kept).run(clock)
    assert len(fake.calls) == calls, "nothing is trained again"
    other = torch.load(kept.denoiser, weights_only=True)
    other["state_dict"]["denoiser.a"] += 1.0
    torch.save(other, kept.denoiser)
    assert Fit(tmp_path / "other", 100, (), kept=kept).run(clock)
    assert len(fake.calls) == calls + 1
    assert "is the order of another denoiser" in capsys.readouterr().out


def test_a_slice_may_have_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Program(steps=100)
    monkeypatch.setattr(slices, "lightning", fake)
    clock = Clock(float("inf"))
    assert Fit(tmp_path / "fit", 100, ()).run(clock)
    assert Sweep(tmp_path / "sweep", ()).run(clock)
    assert [call[0] for call in fake.calls] == ["fit", "sweep"]
    assert "--trainer.max_time" not in fake.calls[0]


def left_on(clock: Clock, left: float) -> Clock:
    """The clock, with so many seconds left."""
    clock.end = time.monotonic() + left
    return clock


def test_nothing_begins_without_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Program(fails=subprocess.TimeoutExpired)
    monkeypatch.setattr(slices, "lightning", fake)
    clock = Clock(2.0, 20.0)
    assert not Fit(tmp_path, 1, ()).run(left_on(clock, 24.0))
    assert not Fit(tmp_path, 1, (), least_seconds=60.0).run(left_on(clock, 79.0))
    with pytest.raises(ValueError, match=r"--minutes 2: the training in .* needs 2.35 to begin; give more"):
        Fit(tmp_path, 1, (), least_seconds=121.0).run(Clock(2.0, 20.0))
    left_on(clock, 1.0)
    assert not Sweep(tmp_path, ()).run(clock)
    assert fake.calls == []
    assert not Sweep(tmp_path, ()).run(Clock(2.0, 1.0)), "a sweep that is stopped is not complete"
    assert len(fake.calls) == 1
    (tmp_path / "report.md").write_text("")
    assert Sweep(tmp_path, ()).run(clock)
    with pytest.raises(ValueError, match=r"--minutes 1: a start alone may take 75 seconds; give more"):
        Clock(1)


def test_stages_stop_at_the_first_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Program(steps=3)
    monkeypatch.setattr(slices, "lightning", fake)
    stages = [(f"s{k}", Fit(tmp_path / str(k), steps, ())) for k, steps in enumerate((3, 4, 3))]
    assert not slices.run_all(stages, Clock(1.0, 1.0))
    assert len(fake.calls) == 2
    assert "s1 in" in capsys.readouterr().out.splitlines()[-1]
    assert slices.run_all(stages[:1], Clock(1.0, 1.0))


def test_where_a_checkpoint_stands(tmp_path: Path) -> None:
    assert standing(tmp_path / "none.ckpt") == (0, 0.0)
    checkpoint(tmp_path / "last.ckpt", 7, 12.5)
    assert standing(tmp_path / "last.ckpt") == (7, 12.5)
    assert str_of(timedelta(days=1, hours=2, minutes=3, seconds=4)) == "01:02:03:04"


def test_a_run_begins_from_stored_weights_where_it_has_none(tmp_path: Path) -> None:
    elsewhere = Fit(tmp_path / "elsewhere" / "stage", 9, ())
    checkpoint(elsewhere.last, 5, 1.0)
    parts, run_dir = tmp_path / "parts", tmp_path / "run"
    assert stored(parts, run_dir) is None
    store(elsewhere, "stage_2", parts, before=4)
    assert stored(parts, tmp_path / "elsewhere") is None, "it has begun by itself"
    found = stored(parts, run_dir)
    assert found is not None
    assert (found.stage, found.steps, found.slots) == ("stage_2", 9, 20)
    assert found.weights.with_name("tokenizer.json").is_file()
    checkpoint(run_dir / "stage_2" / "checkpoints" / "last.ckpt", 1, 1.0)
    store(Fit(run_dir / "stage_2", 9, ()), "stage_2", parts, before=9)
    assert stored(parts, run_dir) == found, "where it began stays the same while it goes on"


def test_joining_stored_weights_that_was_stopped_is_done_again(tmp_path: Path) -> None:
    elsewhere = Fit(tmp_path / "elsewhere" / "stage", 9, ())
    checkpoint(elsewhere.last, 5, 1.0)
    store(elsewhere, "stage_2", tmp_path / "parts")
    (tmp_path / "run" / "stored").mkdir(parents=True)
    found = stored(tmp_path / "parts", tmp_path / "run")
    assert found is not None
    assert found.steps == 5
    assert found.weights.is_file()


@pytest.mark.parametrize(
    ("command", "files"),
    [("sweep", ["frontier.csv", "report.md"]), ("analyse", ["commits.csv", "subproblems.svg"])],
)
def test_a_sweep_stopped_while_it_writes_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Literal["sweep", "analyse"], files: list[str]
) -> None:
    fake = Program()
    monkeypatch.setattr(slices, "lightning", fake)
    for calls, name in enumerate(files, start=1):
        assert Sweep(tmp_path, (), command).run(Clock(1.0, 1.0))
        assert len(fake.calls) == calls
        (tmp_path / name).write_text("")
    assert Sweep(tmp_path, (), command).run(Clock(1.0, 1.0))
    assert len(fake.calls) == 2, "complete with the last file"


def test_a_denoiser_goes_on_from_stored_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Program(steps=40)
    monkeypatch.setattr(slices, "lightning", fake)
    parts, clock = tmp_path / "parts", Clock(1.0, 1.0)
    fit = Fit(tmp_path / "here" / "denoiser", 100, ("--config", "c.yaml"))
    assert trained("denoiser", fit, None, clock) is None
    assert stored(parts, tmp_path / "none") is None, "nothing is stored where no folder is given"
    assert trained("denoiser", fit, parts, clock) is None
    assert "--model.init_from" not in fake.calls[-1], "it has a checkpoint of its own"
    there = Fit(tmp_path / "there" / "denoiser", 100, ("--config", "c.yaml"))
    fake.steps = 60
    assert trained("denoiser", there, parts, clock) == there.last
    call = fake.calls[-1]
    joined = tmp_path / "there" / "stored"
    assert call[call.index("--model.init_from") + 1] == str(joined / "denoiser.safetensors")
    assert call[call.index("--data.tokenizer_path") + 1] == str(joined / "tokenizer.json")
    assert call[call.index("--trainer.max_steps") + 1] == "60", "40 of 100 are behind it"
    assert call[call.index("--model.first_update") + 1] == "40"
    assert call[call.index("--data.first_slot") + 1] == "160"
    elsewhere = Fit(tmp_path / "elsewhere" / "denoiser", 100, ())
    made = len(fake.calls)
    assert trained("denoiser", elsewhere, parts, clock) == tmp_path / "elsewhere" / "stored" / "denoiser.safetensors"
    assert len(fake.calls) == made, "the stored weights are those of the whole training"


@dataclass(frozen=True)
class Update:
    """What an update saw: its learning rate, its problems and what of them was masked."""

    rate: float
    problems: list[int]
    masked: list[list[int]]


class StoppedError(RuntimeError):
    """Ends a training in the middle."""


class Watch:
    """In the place of ``DenoiserModule.objective``: notes all updates, and stops a training before one that it is told.

    Args:
        plain: what it stands for.
    """

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain = plain
        self.seen: list[Update] = []
        self.most: int | None = None

    def __call__(self, module: DenoiserModule, batch: Batch, t_B: Tensor, noise: RowNoise, step: int) -> Any:
        if len(self.seen) == self.most:
            raise StoppedError
        masked: list[list[int]] = []
        hook = module.denoiser.register_forward_pre_hook(lambda net, inputs: masked.extend(inputs[0].tolist()))
        out = self.plain(module, batch, t_B, noise, step)
        hook.remove()
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        self.seen.append(Update(rate, batch.index_B.tolist(), masked))
        return out

    def updates(self, call: Callable[[], object], most: int | None = None) -> list[Update]:
        """Those of a call, ``most`` at most."""
        self.seen, self.most = [], most
        if most is None:
            call()
        else:
            with pytest.raises(StoppedError):
                call()
        return self.seen


@pytest.mark.usefixtures("in_process")
def test_stored_weights_go_on_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning rates, masks and problems are those of a training that was never stopped."""
    watch = Watch(DenoiserModule.objective)
    monkeypatch.setattr(DenoiserModule, "objective", lambda *arguments: watch(*arguments))
    options = (
        *tiny(tmp_path), "--trainer.limit_val_batches", "0", "--trainer.callbacks.every_n_train_steps", "1",
        "--model.warmup_steps", "2",
    )  # fmt: skip
    parts, clock = tmp_path / "parts", Clock(float("inf"))

    def train(name: str) -> Callable[[], object]:
        return partial(trained, "denoiser", Fit(Path(name) / "denoiser", 9, options), parts, clock)

    whole = watch.updates(partial(Fit(Path("whole"), 9, options).run, clock))
    here = watch.updates(train("here"), 3)
    store(Fit(Path("here/denoiser"), 9, ()), "denoiser", parts)
    there = watch.updates(train("there"), 2) + watch.updates(train("there"), 1)  # stopped, and resumed
    store(Fit(Path("there/denoiser"), 9, ()), "denoiser", parts, before=3)
    last = watch.updates(train("last"))
    found = [*here, *there, *last]
    assert len(found) == len(whole) == 9
    assert [update.problems for update in found] == [update.problems for update in whole]
    assert [update.masked for update in found] == [update.masked for update in whole]
    ramps = [0.5 if k in (3, 6) else 1.0 for k in range(9)]  # where weights were stored
    assert [update.rate for update in found] == [r * update.rate for r, update in zip(ramps, whole, strict=True)]
    assert len({update.rate for update in whole[2:]}) == 7, "no two are alike once the cosine falls"


@pytest.mark.usefixtures("in_process")
def test_a_stage_of_word_problems_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("word_problems_gpu")
    monkeypatch.setattr(script, "STAGES", {"stage_1": 2, "stage_2": 4, "stage_3": 1})
    fake = Program(steps=3)
    monkeypatch.setattr(slices, "lightning", fake)
    scale = replace(script.TINY, weights=tmp_path / "weights", most_steps=9)
    elsewhere = Fit(tmp_path / "elsewhere", 9, ())
    checkpoint(elsewhere.last, 1, 1.0)
    store(elsewhere, "stage_2", scale.weights / "seed_0")
    script.denoiser(0, scale, Clock(1.0, 1.0))
    assert [Path(call[call.index("--run_dir") + 1]).name for call in fake.calls] == ["stage_2", "stage_3"]
    on, next_stage = fake.calls
    assert on[on.index("--model.first_update") + 1] == "1"
    assert on[on.index("--data.first_slot") + 1] == "4"
    assert on[on.index("--trainer.max_steps") + 1] == "3"
    assert "--model.init_from" in next_stage
    assert "--model.first_update" not in next_stage, "a stage has a schedule of its own"


def test_the_updates_are_those_of_the_last_file_that_says_so(tmp_path: Path) -> None:
    for name, text in (("a", "trainer: {max_steps: 5}"), ("b", "{trainer: {max_steps: 3}, run_dir: b}"), ("c", "x: 1")):
        (tmp_path / f"{name}.yaml").write_text(text)
    assert steps_of(tmp_path / "a.yaml") == 5
    assert steps_of(*(tmp_path / f"{name}.yaml" for name in "abc")) == 3


def test_the_program_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho called with $@\n[ $3 = fit ] || sleep 60\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    log = tmp_path / "deep" / "log"
    with pytest.raises(FailedError, match=r"fit failed with exit status 3; .*log ends:\ncalled with -m .* fit"):
        lightning("fit", "--a", "1", log=log)
    with pytest.raises(subprocess.TimeoutExpired):
        lightning("sweep", log=log, timeout=0.5)
    quiet = "--trainer.enable_progress_bar false"
    assert log.read_text().splitlines() == [
        f"called with -m lightning_mdm fit {quiet} --a 1", f"called with -m lightning_mdm sweep {quiet}",
    ]  # fmt: skip


def test_what_sigterm_ends_is_not_complete_and_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    for told in ("exit 143", "kill -TERM $$"):
        python.write_text(f"#!/bin/sh\n{told}\n")
        python.chmod(0o755)
        assert not Sweep(tmp_path / "sweep", ()).run(Clock(math.inf))
        assert not Fit(tmp_path / "fit", 3, ()).run(Clock(math.inf))
        with pytest.raises(EndedError, match="export was stopped by SIGTERM"):
            lightning("export", log=tmp_path / "log")


def test_how_a_script_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """By its exit status it can be given until it is complete; what went wrong is said without a traceback."""
    run_script(lambda: None)
    for script, status in ((not_complete, 3), (partial(Clock, float("nan")), 2), (partial(Clock, 1.0), 2)):
        with pytest.raises(SystemExit) as end:
            run_script(script)
        assert end.value.code == status
    out, err = capsys.readouterr()
    assert out == "not complete: give the same command again\n"
    assert err.startswith("error: --minutes nan: a start alone may take 75 seconds; give more\nerror: --minutes 1")


def test_an_option_of_the_callers_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bar(*options: str) -> bool:
        with pytest.raises(SystemExit):
            lightning("fit", *tiny(tmp_path), *options, "--print_config", log=tmp_path / "log")
        shown: bool = yaml.safe_load(capsys.readouterr().out)["trainer"]["enable_progress_bar"]
        return shown

    plain = subprocess.run  # which imports on the way may call, too

    def run(command: list[str], **options: Any) -> object:
        return main(command[3:]) if command[1:3] == ["-m", "lightning_mdm"] else plain(command, **options)

    monkeypatch.setattr(slices.subprocess, "run", run)
    monkeypatch.setattr("runs.TINY", TINY.replace("  enable_progress_bar: false\n", ""))
    assert not bar()
    assert bar("--trainer.enable_progress_bar", "true")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program runs in this process, in a place of its own with the repository's files."""
    for name in ("configs", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, log: Path, timeout: float | None = None) -> None:
        learns = arguments[0] == "fit" and any(Path(given).name.startswith("order") for given in arguments)
        # Bounds of every cell and maps of many draws take longer than these trainings.
        program(*arguments, *(["--model.bound_budgets=[2]", "--order_heatmap.samples=2"] if learns else []))

    monkeypatch.setattr(slices, "lightning", run)


Main = Callable[[list[str]], None]


def complete(main: Main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Path:
    """Walk through, then once more, which must change nothing."""
    main(arguments)
    first = capsys.readouterr().out.splitlines()[-1]
    main(arguments)
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert first.startswith("all is complete: ")
    return Path(first.removeprefix("all is complete: "))


@pytest.mark.usefixtures("in_process")
def test_gsm8k_from_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script: Any = load_script("gsm8k_scratch")
    path = complete(script.main, ["--tiny", "--minutes", "30"], capsys)
    rows = read_rows(path / "frontier.csv")
    assert {(row.policy, row.T, row.n) for row in rows} == {
        (policy, T, 4) for policy in ("top_margin", "learned") for T in (2, 3)
    }
    # Elsewhere, where only the stored weights are at hand, their training is complete.
    fit = Fit(Path("there/denoiser"), script.TINY_STEPS, ())
    there = trained("denoiser", fit, path.parent / "weights" / path.parent.name, Clock(1.0, 1.0))
    assert there == Path("there/stored/denoiser.safetensors")
    assert there.is_file()
    # And so is that of the order: what is left is to decode.
    for name in ("denoiser", "order", path.name):
        shutil.rmtree(path.parent / name)
    trained_again: list[tuple[str, ...]] = []
    decode = slices.lightning

    def noted(*arguments: str, **options: Any) -> None:
        trained_again.extend([arguments] if arguments[0] == "fit" else [])
        decode(*arguments, **options)

    monkeypatch.setattr(slices, "lightning", noted)
    complete(script.main, ["--tiny", "--minutes", "30"], capsys)
    assert not trained_again
    assert [(r.policy, r.T, r.n) for r in read_rows(path / "frontier.csv")] == [(r.policy, r.T, r.n) for r in rows]


@pytest.mark.long
@pytest.mark.usefixtures("in_process")
def test_word_problems_from_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("word_problems_gpu")
    monkeypatch.setattr(script, "STAGES", {"stage_1": 2, "stage_2": 1})
    monkeypatch.setattr(script, "REPORTS", {".": ("learned",), "slow": ("slow",)})
    path = complete(script.main, ["--tiny", "--minutes", "30", "--seeds", "1"], capsys)
    rows = read_rows(path / "frontier.csv")
    assert {(row.seed, row.policy) for row in rows} == {(1, "learned")}
    assert len({row.checkpoint for row in rows}) == 1
    assert len({row.options for row in rows if row.policy == "learned"}) == 2, "prices, whatever the selector"
    assert (path / "report.md").is_file()
    others = {row.policy for row in read_rows(path / "slow" / "frontier.csv")}
    assert others == {"learned", "confidence_threshold", "entropy_bounded"}


@pytest.mark.long
@pytest.mark.usefixtures("in_process")
def test_sudoku_from_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script: Any = load_script("sudoku")
    tiny = replace(
        script.SIZES["tiny"], steps=2, sweep=("--frontier.policies", "[TopMargin,Learned]", "--frontier.budgets", "[2]")
    )
    monkeypatch.setitem(script.SIZES, "tiny", tiny)
    path = complete(script.main, ["--size", "tiny", "--runs", "runs"], capsys)
    rows = read_rows(path / "frontier.csv")
    ours = [row for row in rows if row.T == 2]
    assert [(row.split, row.policy, row.n) for row in ours] == [
        (split, policy, 4) for _ in ("as it is", "looking back") for split in ("easy", "hard")
        for policy in ("top_margin", "learned")
    ]  # fmt: skip
    assert ["search" in row.options for row in ours] == [False] * 4 + [True] * 4
    as_published = [(row.split, row.T) for row in rows if row.policy == "noisy"]
    assert as_published == [("easy", 50)] * 3 + [("hard", 50)] * 3
    assert len({row.checkpoint for row in rows}) == 1
    assert (path / "frontier.png").is_file()
    (kept := Path("kept")).mkdir()
    monkeypatch.setattr(script, "HERE", kept)
    monkeypatch.setitem(script.SIZES, "tiny", replace(tiny, suffix="_tiny"))
    script.main(["--size", "tiny", "--runs", "runs", "--so_far"])
    assert not list(kept.iterdir()), "what is published is of complete runs"
    assert Path("runs/tiny/so_far/report.md").is_file()
    found = read_rows(Path("runs/tiny/so_far/frontier.csv"))
    assert all(row.problems for row in rows)
    unnamed = [replace(row, problems="") for row in rows]  # nothing but what is decoded is looked at
    assert sorted(found, key=str) == sorted(unnamed, key=str), "all is decoded"
    # Elsewhere, where only the stored weights are at hand, their training goes on.
    there = script.denoiser(replace(tiny, steps=3), Path("there"), Path("runs/tiny/weights"), Clock(30.0))
    assert there == Path("there/denoiser/checkpoints/last.ckpt")
    assert standing(there)[0] == 1


@pytest.mark.long
@pytest.mark.usefixtures("in_process")
def test_zebra_from_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A denoiser, its order and two causal nets, in one panel."""
    script = load_script("zebra")
    monkeypatch.setattr(script, "COMPILED", ())
    monkeypatch.setattr(script, "HERE", tmp_path)
    few = (
        "--data.batch_size", "2", "--data.n_validation", "2", "--data.n_test", "4", "--data.num_workers", "0",
        "--trainer.val_check_interval", "2", "--frontier.budgets", "[2, 9]",
        "--subproblems.policies", "[TopMargin, Learned]",
    )  # fmt: skip
    assert slices.run_all(script.stages(Path("runs"), few, steps=2), Clock(float("inf")))
    script.publish(Path("runs"))
    rows = read_rows(tmp_path / "rows.csv")
    causal = [row for row in rows if row.policy == "autoregressive"]
    assert [(row.T, row.nfe_mean) for row in causal] == [(9, 9.0), (18, 18.0)]
    masked = [row for row in rows if row not in causal]
    assert {"iid", "top_margin", "learned"} < {row.policy for row in masked}
    assert len({row.checkpoint for row in masked}) == 1
    assert {row.n for row in rows} == {4}
    assert (tmp_path / "report.md").read_text().count("\n## ") == 1, "one panel"
    assert {row.problems for row in read_commits(tmp_path / "analysis" / "commits.csv")} == {4}
    found = {name: (Path("runs") / "analysis" / name).read_bytes() for name in ("commits.csv", "subproblems.svg")}
    for name in found:
        (tmp_path / "analysis" / name).unlink()
        (Path("runs") / "analysis" / name).unlink()
    again: list[str] = []

    def made(command: str, *options: str, log: Path, timeout: float | None = None) -> None:
        again.append(command)
        for name, content in found.items():
            (Path("runs") / "analysis" / name).write_bytes(content)

    monkeypatch.setattr(slices, "lightning", made)
    assert slices.run_all(script.stages(Path("runs"), few, steps=2), Clock(float("inf")))
    assert again == ["analyse"], "the analysis alone, again"
    script.publish(Path("runs"))
    assert (tmp_path / "analysis" / "commits.csv").is_file()
    assert (tmp_path / "frontier.png").is_file()


def test_zebra_refuses_a_slice_that_is_too_short(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--minutes 1.0: a start alone may take 75 seconds"):
        load_script("zebra").main(["--minutes", "1", "--runs", str(tmp_path)])


def test_independent_denoisers_and_the_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script("word_problems_order")

    def fake(*arguments: str, log: Path, timeout: float | None = None) -> None:
        run_dir = Path(arguments[arguments.index("--run_dir") + 1])
        said = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        calls.append((run_dir.name, said))
        if arguments[0] == "fit":
            write_checkpoint(run_dir / "checkpoints" / "last.ckpt", int(said["--trainer.max_steps"]))
        else:
            run_dir.mkdir(parents=True)
            (run_dir / "report.md").touch()

    calls: list[tuple[str, dict[str, str]]] = []
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(slices, "lightning", fake)
    monkeypatch.setattr(script, "RUNS", tmp_path)
    sweeps = [f"{group}_test_9" for group in ("fixed", "adaptive", "learned", "patient")]
    script.run(0, "test", 9)
    assert [name for name, _ in calls] == sweeps, "nothing is trained for what ships"
    assert {said["--model.init_from"] for _, said in calls} == {"experiments/word_problems/order.safetensors"}
    calls.clear()
    script.run(2, "test", 9)
    assert [name for name, _ in calls] == ["stage_1", "stage_2", "stage_5", "order", *sweeps]
    fits, swept = [said for _, said in calls[:4]], [said for _, said in calls[4:]]
    last = [str(tmp_path / "seed_2" / name / "checkpoints" / "last.ckpt") for name, _ in calls[:4]]
    assert [fit.get("--model.init_from") for fit in fits] == [None, *last[:2], None], (
        "from nothing, one after the other"
    )
    assert {said["--model.denoiser_ckpt"] for said in (fits[3], *swept)} == {last[2]}
    assert {said["--ckpt_path"] for said in swept} == {last[3]}
    assert {said["--data.seed"] for _, said in calls} == {"2"}
    script.run(2, "test", 9)
    assert len(calls) == 8, "what is complete is not repeated"
    script.run(2, "test", 10)
    assert len(calls) == 12, "more problems are other sweeps"


@pytest.mark.parametrize("size", ["25m", "85m", "170m"])
def test_the_sizes_are_what_they_are_called(size: str) -> None:
    from lightning_mdm.nets.denoiser import TransformerDenoiser
    from lightning_mdm.nets.transformer import TransformerConfig

    script = load_script("gsm8k_scratch")
    options = script.net_of(REPOSITORY / "configs" / "gsm8k" / f"scratch_{size}.yaml")
    shape = {name.removeprefix("--model.net."): int(value) for name, value in zip(*[iter(options)] * 2, strict=True)}
    with torch.device("meta"):
        net = TransformerDenoiser(2048, TransformerConfig(**shape))
    weights = sum(p.numel() for p in net.parameters())
    assert weights == pytest.approx(int(size[:-1]) * 1e6, rel=0.12)
    assert size != "25m" or weights < 32e6
    assert seeded(3) == ("--seed_everything", "3", "--data.seed", "3", "--model.noise_seed", "3")


def test_variants_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = load_script("gsm8k_scratch").rehearsal_files(tmp_path)
    script = load_script("gsm8k_scratch", "variants")
    script.main(["--path", str(folder), "--problems", "20", "--show", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("20 problems in")
    table = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert sum(int(row[1]) for row in table) == 20
    assert table[0][0] == "| 50 variants or more"
    assert int(table[0][1]) > 5
    assert sum(line.startswith("    <<") for line in lines) == 2


def test_what_a_training_needs_is_made_when_it_is_about_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for one that is complete, and a slice that it has used up ends before the training."""
    monkeypatch.setattr(slices, "lightning", lambda *arguments, log: calls.append("fit"))
    calls: list[str] = []
    fit = slices.Fit(tmp_path, 10, (), 5.0, lambda: calls.append("before"))
    assert not fit.run(slices.Clock(float("inf")))
    assert calls == ["before", "fit"]
    clock = slices.Clock(1.0, reserve=1.0)
    calls.clear()
    slow = slices.Fit(tmp_path, 10, (), 5.0, lambda: setattr(clock, "end", clock.end - 55.0))
    assert not slow.run(clock)
    write_checkpoint(fit.last, 10)
    assert fit.run(slices.Clock(float("inf")))
    assert calls == []
