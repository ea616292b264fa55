"""A long run in slices: stages one after another, each a call of the program, within a budget of wall-clock time.

What is complete is not repeated and what was stopped goes on, so that the same command is given until nothing is left.
Knows nothing of what the stages train.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal, NoReturn

import torch
from omegaconf import OmegaConf

from lightning_mdm.modules.order_checkpoint import keep_order, restore_order
from lightning_mdm.modules.weight_parts import TOKENIZER, found_parts, join_checkpoint, join_weights, split_checkpoint
from lightning_mdm.whole_files import whole_file

STANDING = "standing.json"
NOT_COMPLETE = 3  # exit status of a slice with something left to do
LAST_LINES = 12  # of the log of what has failed
LEAST_SECONDS = 5.0  # a stage with less is left to the next slice
COMPILING = 60.0  # and one whose nets are compiled first: their blocks take half a minute of a CPU core
# By what a command that was stopped while it wrote is told from one that is complete.
LAST_WRITTEN = {"sweep": "report.md", "analyse": "subproblems.svg"}
# Of a sweep with a learned order whose bounds are not in question.
NO_BOUNDS = ("--model.bound_budgets", "[]")


class FailedError(ValueError):
    """A stage has failed; the message holds the end of its log."""


class EndedError(FailedError):
    """A stage was told to end; what it has stored is kept."""


class Clock:
    """What is left of a slice.

    Args:
        minutes: its length; infinite for one without end.
        reserve: seconds that starting and stopping a training may take.

    Raises:
        ValueError: no time at all.
    """

    def __init__(self, minutes: float, reserve: float = 75.0) -> None:
        if not 60.0 * minutes > reserve:
            raise ValueError(f"--minutes {minutes}: a start alone may take {reserve:.0f} seconds; give more")
        self.seconds = 60.0 * minutes
        self.end = time.monotonic() + self.seconds
        self.reserve = reserve

    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()


@dataclass(frozen=True)
class Kept:
    """Where an order's checkpoint is kept without its frozen denoiser, to go on from where there is no other.

    Args:
        path: the file.
        denoiser: the denoiser's weights.
    """

    path: Path
    denoiser: Path

    def begin(self, last: Path) -> None:
        """Begin a training without a checkpoint from what is kept, if that goes with this denoiser."""
        if self.path.is_file() and not last.is_file() and not restore_order(self.path, self.denoiser, last):
            print(f"{self.path} is the order of another denoiser than {self.denoiser}: it is learned anew", flush=True)


@dataclass(frozen=True)
class Fit:
    """A training of ``steps`` updates in ``run_dir``.

    Args:
        run_dir: where it leaves everything.
        steps: updates until it is complete.
        options: of ``lightning fit``, without those that are said here.
        least_seconds: with less it is left to the next slice. A slice ends between two updates, and the first of a net
            that is compiled may take minutes.
        before: what has to be there for it, made when it is about to go on.
        kept: where its checkpoint is kept beside the run directory, if it is.
    """

    run_dir: Path
    steps: int
    options: tuple[str, ...]
    least_seconds: float = LEAST_SECONDS
    before: Callable[[], None] | None = None
    kept: Kept | None = None

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return last_of(self.run_dir)

    def run(self, clock: Clock) -> bool:
        """Train for as long as the slice lasts; whether it is complete.

        Raises:
            ValueError: no slice as long as this one can ever begin it, or the training failed.
        """
        if self.kept is None:
            return self.train(clock)
        self.kept.begin(self.last)
        before = standing(self.last)
        complete = self.train(clock)
        if self.last.is_file() and not standing(self.last) == before == standing(self.kept.path):
            keep_order(self.last, self.kept.path)
        return complete

    def train(self, clock: Clock) -> bool:
        """The same, with nothing kept."""
        done, seconds = standing(self.last)
        if done >= self.steps:
            return True
        left = clock.left() - clock.reserve
        if left < self.least_seconds:
            if clock.seconds < clock.reserve + self.least_seconds:
                least = (clock.reserve + self.least_seconds) / 60.0
                raise ValueError(
                    f"--minutes {clock.seconds / 60.0:g}: the training in {self.run_dir} needs {least:.2f} to begin; "
                    "give more"
                )
            return False
        if self.before is not None:
            self.before()
            left = clock.left() - clock.reserve
            if left < self.least_seconds:
                return False
        limit: tuple[str, ...] = ()
        if math.isfinite(left):
            # The trainer counts the time of earlier slices too.
            limit = ("--trainer.max_time", str_of(timedelta(seconds=int(seconds + left))))
        with contextlib.suppress(EndedError):  # what it has stored is there
            lightning(
                "fit", *self.options, "--run_dir", str(self.run_dir), "--trainer.max_steps", str(self.steps), *limit,
                "--ckpt_path", "last", log=self.run_dir / "fit.log",
            )  # fmt: skip
        return standing(self.last)[0] >= self.steps


@dataclass(frozen=True)
class Sweep:
    """A sweep in ``run_dir``; what was decoded is kept when it is stopped. Or an analysis, which begins anew.

    Args:
        run_dir: where it leaves everything.
        options: of ``lightning sweep``, without the run directory.
        command: ``sweep`` or ``analyse``.
    """

    run_dir: Path
    options: tuple[str, ...]
    command: Literal["sweep", "analyse"] = "sweep"

    def run(self, clock: Clock) -> bool:
        """Decode for as long as the slice lasts; whether it is complete."""
        if (self.run_dir / LAST_WRITTEN[self.command]).is_file():
            return True
        if clock.left() < LEAST_SECONDS:
            return False
        try:
            lightning(
                self.command, *self.options, "--run_dir", str(self.run_dir), log=self.run_dir / f"{self.command}.log",
                timeout=clock.left(),
            )  # fmt: skip
        except (subprocess.TimeoutExpired, EndedError):
            return False
        return True


@dataclass(frozen=True)
class Stored:
    """Weights of an unfinished or finished training that were stored as parts.

    Args:
        weights: a file of them, their tokenizer beside it if they have one.
        stage: the stage they were trained in.
        steps: the updates of that stage behind them.
        slots: the training rows of that stage behind them; 0 where they were not noted.
    """

    weights: Path
    stage: str
    steps: int
    slots: int

    @property
    def options(self) -> tuple[str, ...]:
        """Of a training that goes on with their stage."""
        tokenizer = self.weights.with_name(TOKENIZER)
        text = ("--data.tokenizer_path", str(tokenizer)) if tokenizer.is_file() else ()
        return (
            "--model.init_from", str(self.weights), "--model.first_update", str(self.steps),
            "--data.first_slot", str(self.slots), *text,
        )  # fmt: skip


def store(fit: Fit, stage: str, parts: Path, before: int = 0) -> None:
    """Store the newest weights of a training as parts, to go on from elsewhere.

    Args:
        fit: the training.
        stage: its name.
        parts: folder of the parts.
        before: updates of the stage that it started behind.
    """
    found = {"stage": stage, "steps": before + standing(fit.last)[0], "slots": slots(fit.last)}
    split_checkpoint(fit.last, parts, {STANDING: json.dumps(found)})


def stored(parts: Path, run_dir: Path) -> Stored | None:
    """The parts that a run began from, or can begin from; ``None`` where it has begun by itself, or there are none.

    Args:
        parts: folder of the parts.
        run_dir: of all stages; the joined weights are kept in it.
    """
    joined = run_dir / "stored"
    note = joined / STANDING  # written last: joining may have been stopped
    if not note.is_file():
        if any(run_dir.glob("*/checkpoints/last.ckpt")) or not found_parts(parts):
            return None
        join_checkpoint(parts, joined)
        with whole_file(note) as draft:
            draft.write_text(join_weights(parts)[1][STANDING], encoding="utf-8")
    found = json.loads(note.read_text(encoding="utf-8"))
    return Stored(joined / "denoiser.safetensors", found["stage"], found["steps"], found.get("slots", 0))


def trained(stage: str, fit: Fit, parts: Path | None, clock: Clock) -> Path | None:
    """Go on with a denoiser's only stage: from its checkpoint or else from stored weights, and store what it reaches.

    Args:
        stage: its name.
        fit: the whole training, in a folder of the run's directory.
        parts: folder of the stored weights; ``None`` to store none.
        clock: what is left of the slice.

    Returns:
        The weights, ``None`` while the training is not complete.
    """
    begun = None if parts is None else stored(parts, fit.run_dir.parent)
    before = 0
    if begun is not None:
        before = begun.steps
        if before >= fit.steps:
            return begun.weights
        fit = replace(fit, steps=fit.steps - before, options=(*fit.options, *begun.options))
    complete = said(fit.run_dir, stage, fit.run(clock))
    if parts is not None and fit.last.is_file():
        store(fit, stage, parts, before)
    return fit.last if complete else None


def lightning(*arguments: str, log: Path, timeout: float | None = None) -> None:
    """Run the program in a process of its own, its output in a log, without a progress bar if not asked for one.

    Args:
        arguments: a command that trains or decodes, and its options.
        log: the file to add its output to.
        timeout: seconds it may take.

    Raises:
        FailedError: it failed.
        EndedError: somebody told it to end.
        subprocess.TimeoutExpired: it was stopped after ``timeout`` seconds.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command, *options = arguments
    # A bar reads metrics from the device at every update, and fills the log. Of two options the later one counts.
    quiet = ("--trainer.enable_progress_bar", "false")
    with open(log, "a") as file:
        done = subprocess.run(
            [sys.executable, "-m", "lightning_mdm", command, *quiet, *options], check=False, stdout=file,
            stderr=subprocess.STDOUT, timeout=timeout,
        )  # fmt: skip
    if done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise EndedError(f"{command} was stopped by SIGTERM")
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise FailedError("\n".join([f"{command} failed with exit status {done.returncode}; {log} ends:", *end]))


def run_script(main: Callable[[], None]) -> None:
    """Run a script that goes on in slices; what went wrong is its last line, without a traceback."""
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def not_complete() -> NoReturn:
    """End a slice with something left to do: ``until python run.py; do [ $? = 3 ] || break; done`` does all of it."""
    print("not complete: give the same command again", flush=True)
    raise SystemExit(NOT_COMPLETE)


def last_of(run_dir: Path) -> Path:
    """The newest checkpoint of a training."""
    return run_dir / "checkpoints" / "last.ckpt"


def standing(checkpoint: Path) -> tuple[int, float]:
    """Updates and seconds of training behind a checkpoint; none where there is no file."""
    if not checkpoint.is_file():
        return 0, 0.0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    timers = [value for name, value in state["callbacks"].items() if name.startswith("Timer")]
    seconds = float(timers[0]["time_elapsed"]["train"]) if timers else 0.0
    return int(state["global_step"]), seconds


def slots(checkpoint: Path) -> int:
    """Training rows behind a checkpoint, those before the weights it began from among them."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["slots"])


def str_of(time: timedelta) -> str:
    """As the trainer reads it: days, hours, minutes and seconds."""
    minutes, seconds = divmod(time.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{time.days:02d}:{hours:02d}:{minutes:02d}:{seconds:02d}"


def seeded(seed: int) -> tuple[str, ...]:
    """The options that give weights, data and noise a seed."""
    return "--seed_everything", str(seed), "--data.seed", str(seed), "--model.noise_seed", str(seed)


def of_seed(path: Path, seed: int) -> Path:
    """Where what is of a seed is kept: of seed 0, the one that is published by itself, at the path, of others below."""
    return path / f"seed_{seed}" if seed else path


def reseeded(seed: int) -> tuple[str, ...]:
    """``seeded``, where the seed is not the 0 that configuration files say."""
    return seeded(seed) if seed else ()


def decoded_with(seed: int) -> tuple[str, ...]:
    """The option that gives the noise of a sweep a seed, likewise."""
    return ("--frontier.seeds", f"[{seed}]") if seed else ()


def complete_seeds(runs: Path, sweeps: Sequence[str]) -> dict[int, Path]:
    """By seed, the run directories in which all sweeps are complete, to be joined; none where only seed 0 has any.

    Args:
        runs: seed 0's, which holds the others'; see ``of_seed``.
        sweeps: names of their directories.
    """
    others = [path.name.removeprefix("seed_") for path in runs.glob("seed_*")]
    found = {seed: of_seed(runs, seed) for seed in sorted({0, *(int(name) for name in others if name.isdigit())})}
    last = LAST_WRITTEN["sweep"]
    found = {seed: path for seed, path in found.items() if all((path / name / last).is_file() for name in sweeps)}
    return found if found.keys() - {0} else {}


def layers(*files: str | Path) -> tuple[str, ...]:
    """The options that lay configuration files over one another."""
    return tuple(part for file in files for part in ("--config", str(file)))


def steps_of(*files: str | Path) -> int:
    """The updates that configuration files, laid over one another, ask for."""
    steps: int = OmegaConf.merge(*map(OmegaConf.load, files)).trainer.max_steps
    return steps


def said(run_dir: Path, stage: str, complete: bool) -> bool:
    """Print how a stage stands, and pass it on."""
    print(f"{stage} in {run_dir}: {'complete' if complete else 'to be continued by the same command'}", flush=True)
    return complete


def run_all(stages: Sequence[tuple[str, Fit | Sweep]], clock: Clock) -> bool:
    """Run stages in their order until one is not complete; whether all are."""
    return all(said(stage.run_dir, name, stage.run(clock)) for name, stage in stages)
