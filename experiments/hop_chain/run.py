"""Learn the hop chain's order with several posteriors, estimators and seeds, and collect the rows behind the claim.

python experiments/hop_chain/run.py [--jobs N] [--seeds 0 1 2] [--recipes relative ...]

A run that is complete is not repeated; one that stopped goes on where it was. Each run is one ``lightning fit`` and one
``lightning sweep`` of ``configs/hop_chain/order.yaml``.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_mdm.outcomes.table import replace_rows
from lightning_mdm.slices import last_of, lightning, seeded

HERE = Path(__file__).parent
CONFIG = "configs/hop_chain/order.yaml"
RUNS = Path("runs/hop_chain")
COLUMNS = ("policy", "T", "seed", "nats", "nats_sem", "nfe_mean", "optimum")

# What each recipe changes in the configuration, whose own recipe is relative.
PUBLISHED = (
    "--model.posterior.family",
    "max_normalised",
    "--model.entropy_bonus",
    "0",
    "--model.budget_draw",
    "uniform",
)
# Arranged anew, no position means anything: roles are read at a fixed distance, by rotary positions, one way for all
# budgets. A table of positions for every number of steps would have to learn to read in each of them.
READING = (
    "--data.law.arrangement", "per_problem",
    "--model.selector.attends", "all", "--model.selector.positions", "0",
    "--model.posterior.net.attends", "all", "--model.posterior.net.positions", "0",
)  # fmt: skip
NO_POSTERIOR = ("--model.posterior.family", "selector")
ARRANGED_ANEW = (
    *READING, "--model.fewest_first", "150", "--model.entropy_bonus", "0", "--trainer.max_steps", "600",
    "--model.selector.step_readouts", "true", "--model.posterior.net.step_readouts", "true",
)  # fmt: skip
RECIPES: dict[str, tuple[str, ...]] = {
    "relative": (),
    "state_aware": ("--model.posterior.family", "state_aware"),
    "no_posterior": NO_POSTERIOR,
    "max_normalised": PUBLISHED,
    "max_normalised_one_step": (*PUBLISHED, "--model.estimator", "one_step", "--trainer.max_steps", "2400"),
    "more_hops": ("--data.law.hops", "3"),
    "longer_chain": (
        "--data.law.chain", "14", "--data.law.given", "12",
    ),
    "arranged_anew": ARRANGED_ANEW,
    "arranged_anew_at_once": READING,
    "arranged_anew_no_posterior": (*ARRANGED_ANEW, *NO_POSTERIOR),
}  # fmt: skip


OTHER_LAWS = {"more_hops", "longer_chain", "arranged_anew"}


def with_heuristics(recipe: str, seed: int, seeds: Sequence[int]) -> bool:
    """Whether a run is the one of its law that evaluates the heuristics."""
    return seed == seeds[0] and recipe in OTHER_LAWS | {"relative"}


def run(recipe: str, seed: int, heuristics: bool) -> Path:
    """Train and evaluate one recipe with one seed, or take what is there.

    Args:
        recipe: of ``RECIPES``.
        seed: of weights, data and noise.
        heuristics: whether to evaluate the policies that learn nothing too; once for each law is enough.
    """
    run_dir = RUNS / recipe / f"seed_{seed}"
    run_dir.mkdir(parents=True, exist_ok=True)
    options = ["--config", CONFIG, *RECIPES[recipe], "--run_dir", str(run_dir), *seeded(seed)]
    lightning("fit", *options, "--ckpt_path", "last", log=run_dir / "fit.log")
    if not (run_dir / "order_nats.csv").exists():
        last = str(last_of(run_dir))
        policies = [] if heuristics else ["--order_nats.policies", "[Learned]"]
        lightning("sweep", *options, *policies, "--ckpt_path", last, log=run_dir / "sweep.log")
    print(f"{run_dir} is complete", flush=True)
    return run_dir / "order_nats.csv"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=["relative"], choices=RECIPES)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    pairs = [(recipe, seed) for recipe in options.recipes for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        files = list(pool.map(lambda pair: run(*pair, heuristics=with_heuristics(*pair, options.seeds)), pairs))
    path = HERE / "rows.csv"
    made: list[dict[str, str]] = []
    for (recipe, seed), source in zip(pairs, files, strict=True):
        for row in read(source):
            if row["policy"] == "learned":
                made.append({**row, "policy": f"learned, {recipe}", "seed": str(seed)})
            elif with_heuristics(recipe, seed, options.seeds):
                law = f", {recipe}" if recipe in OTHER_LAWS else ""
                made.append({**row, "policy": row["policy"] + law})
    rows = replace_rows(read(path) if path.exists() else [], made, lambda row: (row["policy"], row["seed"]))
    rows.sort(key=lambda row: (row["policy"], int(row["seed"]), int(row["T"])))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    print(path)


if __name__ == "__main__":
    main()
