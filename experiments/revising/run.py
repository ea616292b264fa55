"""Do policies help that mask again what they have unmasked? Their strengths are chosen on validation.

python experiments/revising/run.py [--tasks word_problems sudoku] [--runs DIR] [--seed 0]

Every strength of ``CANDIDATES`` decodes the validation problems, the best one of each policy the test problems, beside
policies that mask nothing again. What is decoded is not repeated. Rows, figures and reports of a task carry its name.
Another seed decodes the test problems with the denoiser and the order that ``experiments/sudoku/run.py --size medium``
has trained with it, and with noise of that seed, at the strengths chosen with seed 0, so that rows of all seeds that
are complete in ``RUNS`` are published together, too. Word problems have no other seed: their denoiser and order are the
files that ship, of one training, and with other noise alone most policies would decode the same again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_mdm.modules.order_checkpoint import restore_order
from lightning_mdm.modules.weight_parts import join_checkpoint
from lightning_mdm.outcomes import Row, read_rows, write_rows
from lightning_mdm.report import keep, keep_seeds, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import (
    NO_BOUNDS,
    Clock,
    Sweep,
    complete_seeds,
    decoded_with,
    layers,
    of_seed,
    run_script,
    standing,
    steps_of,
)

HERE = Path(__file__).parent
EXPERIMENTS = Path("experiments")
Policy = dict[str, Any]
CANDIDATES: dict[str, list[Policy]] = {
    "p2": [{"eta": eta} for eta in (0.25, 0.5, 1.0, 2.0)],
    "remdm": [
        {"eta": 0.1, "ranking": "random"},
        *({"eta": eta, "ranking": "margin"} for eta in (0.03, 0.1, 0.3)),
    ],
}
CLASSES = {"p2": "P2", "remdm": "ReMDM"}


@dataclass(frozen=True)
class Task:
    """A task whose denoiser and order are kept among the experiments.

    Args:
        configs: files that are laid over one another.
        weights: folder of the denoiser's parts, if it is kept in some; other seeds' are in it, each with its order.
        options: what seed 0's order wants to be decoded.
        validation: problems to choose by.
        test: problems to report.
        budgets: step budgets.
        learned: options of the learned order.
    """

    configs: tuple[str, ...]
    weights: Path | None
    options: tuple[str, ...]
    validation: int
    test: int
    budgets: tuple[int, ...]
    learned: Policy


TASKS = {
    "word_problems": Task(
        ("configs/word_problems/order.yaml",), None,
        ("--model.init_from", str(EXPERIMENTS / "word_problems" / "order.safetensors")),
        400, 500, (2, 4, 8, 16), {"price": 0.01},
    ),
    "sudoku": Task(
        ("configs/sudoku/order.yaml", "configs/sudoku/order_medium.yaml"), EXPERIMENTS / "sudoku" / "weights_medium",
        ("--model.init_from", str(EXPERIMENTS / "sudoku" / "order_medium.safetensors")),
        50, 200, (4, 16), {"price": 0.0},
    ),
}  # fmt: skip


def options_of(task: Task, run_dir: Path, seed: int = 0) -> tuple[str, ...]:
    """What says what is decoded, the denoiser's parts joined."""
    found = (
        *layers(*task.configs), *(() if seed else task.options), *NO_BOUNDS,
        "--frontier.budgets", str(list(task.budgets)), "--data.eval_batch_size", "100",
    )  # fmt: skip
    if task.weights is None:
        return found
    parts = of_seed(task.weights, seed)
    kept, joined, order = parts / "order.ckpt", run_dir / "denoiser.safetensors", run_dir / "order.ckpt"
    if seed and standing(kept)[0] < steps_of(*task.configs):
        raise ValueError(f"--seed {seed}: {kept} is no order that is complete; give its training that seed first")
    if not joined.is_file():
        join_checkpoint(parts, run_dir)
    found = (*found, "--model.denoiser_ckpt", str(joined))
    if not seed:
        return found
    if not order.is_file() and not restore_order(kept, joined, order):
        raise ValueError(f"{kept} is the order of another denoiser than {joined}: remove {run_dir} to begin anew")
    return (*found, "--ckpt_path", str(order), *decoded_with(seed))


def described(policy: str, parameters: Policy) -> Policy:
    """A policy as a configuration gives it."""
    return {"class_path": CLASSES[policy], "init_args": parameters}


def best_of(policy: str, rows: Sequence[Row]) -> Policy:
    """The candidate that solves most, every budget and split with the same weight; the first of equal ones."""

    def solved(parameters: Policy) -> float:
        own = [
            row.accuracy for row in rows
            if row.policy == policy and parameters.items() <= json.loads(row.options).items()
        ]  # fmt: skip
        return sum(own) / len(own)

    return max(CANDIDATES[policy], key=solved)


def choose(task: Task, run_dir: Path, options: Sequence[str]) -> list[Row]:
    """The rows of every strength on validation."""
    everything = [described(policy, parameters) for policy, tried in CANDIDATES.items() for parameters in tried]
    number = ("--data.n_validation", str(task.validation), "--split", "validation")
    chosen = Sweep(run_dir / "validation", (*options, *number, "--frontier.policies", json.dumps(everything)))
    chosen.run(Clock(float("inf")))
    return read_rows(run_dir / "validation" / "frontier.csv")


def run(name: str, runs: Path, seed: int = 0) -> None:
    """Choose and report for one task, or take what is there."""
    task, run_dir = TASKS[name], of_seed(runs / name, seed)
    options, validation = options_of(task, run_dir, seed), HERE / f"validation_{name}.csv"
    rows = read_rows(validation) if seed else choose(task, run_dir, options)
    plain: list[Any] = ["IID", "TopProbability", "TopMargin", {"class_path": "Learned", "init_args": task.learned}]
    found = [described(policy, best_of(policy, rows)) for policy in CANDIDATES]
    print(f"{name}: {json.dumps(found)}", flush=True)
    number = ("--data.n_test", str(task.test))
    test = Sweep(run_dir / "test", (*options, *number, "--frontier.policies", json.dumps([*plain, *found])))
    test.run(Clock(float("inf")))
    if not seed:
        keep(run_dir / "test", HERE, f"_{name}")
        write_rows(validation, rows)
    if found := complete_seeds(runs / name, ["test"]):
        joined = join_seeds({seed: [path / "test"] for seed, path in found.items()}, runs / name / "joined")
        report([str(joined)])
        keep_seeds(joined, HERE, f"_{name}_seeds")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/revising"), help="where runs are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    given = [name for name in options.tasks if TASKS[name].weights is None]
    if options.seed and given:
        seeded = " ".join(name for name, task in TASKS.items() if task.weights is not None)
        raise ValueError(
            f"--seed {options.seed}: {given[0]} has weights that ship and no others; give --tasks {seeded}"
        )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in options.tasks:
        run(name, options.runs, options.seed)


if __name__ == "__main__":
    run_script(main)
