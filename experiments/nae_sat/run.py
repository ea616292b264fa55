"""Learn the order of L&O-NAE-SAT, for the exact posterior and for a trained denoiser, and collect rows and figures.

python experiments/nae_sat/run.py [--parts exact trained] [--seed 0]

The order is learned for two steps alone first, then for all budgets from there. What is complete is not repeated; what
was stopped goes on. The cost in nats of every policy goes to ``order_nats.csv``, whole sequences to ``rows.csv``, where
the rows of a part that is not run stay.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

from lightning_mdm.outcomes import Row, read_rows, write_rows
from lightning_mdm.outcomes.table import replace_rows
from lightning_mdm.slices import lightning

HERE = Path(__file__).parent
CONFIGS = Path("configs/nae_sat")
RUNS = Path("runs/nae_sat_learned")
LAST = Path("checkpoints") / "last.ckpt"
TWO_STEPS = ("--model.budgets", "[2]", "--trainer.max_steps", "600", "--trainer.val_check_interval", "600")
NO_BOUNDS = ("--model.budgets", "[2]", "--model.validation_samples", "1")  # of the sweep


def configs(*names: str) -> tuple[str, ...]:
    return tuple(part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml")))


def learned(run_dir: Path, order: Sequence[str]) -> None:
    """Learn the order, for two steps and then for all budgets, and decode the test problems with every policy."""
    first, both = run_dir / "two_steps", run_dir / "order"
    lightning("fit", *order, *TWO_STEPS, "--run_dir", str(first), "--ckpt_path", "last", log=run_dir / "two_steps.log")
    start = "last" if (both / LAST).exists() else str(first / LAST)
    lightning("fit", *order, "--run_dir", str(both), "--ckpt_path", start, log=run_dir / "order.log")
    lightning(
        "sweep", *order, *NO_BOUNDS, "--run_dir", str(both), "--ckpt_path", str(both / LAST), log=run_dir / "sweep.log"
    )


def tokens_of(row: Row) -> int:
    """The length of its sequences: 40 of the exact part's law and 32 of the trained one's, whatever the weights."""
    return round(row.tokens_per_forward * row.nfe_mean)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("exact", "trained"), default=["exact", "trained"])
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and training data")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seed = str(options.seed)
    seeded = ("--seed_everything", seed, "--model.noise_seed", seed, "--data.seed", seed)
    run_dir = RUNS / f"seed_{seed}"
    if "exact" in options.parts:
        there = run_dir / "exact"
        learned(there, (*configs("order"), *seeded))
        for name in ("order_nats.csv", "order_nats.png", "order_nats.svg"):
            copyfile(there / "order" / name, HERE / name)
    if "trained" in options.parts:
        there, denoiser = run_dir / "trained", run_dir / "denoiser"
        lightning(
            "fit", *configs("denoiser", "small"), *seeded, "--run_dir", str(denoiser), "--ckpt_path", "last",
            log=run_dir / "denoiser.log",
        )  # fmt: skip
        learned(there, (*configs("order", "order_small"), *seeded, "--model.denoiser_ckpt", str(denoiser / LAST)))
        copyfile(there / "order" / "report.md", HERE / "trained.md")
        for kind in ("png", "svg"):
            copyfile(there / "order" / f"frontier.{kind}", HERE / f"trained.{kind}")
    path = HERE / "rows.csv"
    made = [row for part in options.parts for row in read_rows(run_dir / part / "order" / "frontier.csv")]
    rows = replace_rows(read_rows(path) if path.exists() else [], made, tokens_of)
    write_rows(path, sorted(rows, key=tokens_of, reverse=True))


if __name__ == "__main__":
    main()
