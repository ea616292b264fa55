"""What does each part of learning an order bring? From the published way to the one of this project, part by part.

python experiments/order_parts/run.py [--recipes published prices ...] [--seeds 0 1 2] [--jobs N]

The denoiser of word problems that ships, frozen, and the recipes of ``RECIPES``, each of which has what the one above
it has and something more. The temperature of the published posterior is chosen on validation with the first seed. What
is complete is not repeated; what was stopped goes on; and all that is complete is reported. A seed is one of the order:
of its weights, data and noise.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from lightning_mdm.outcomes import Row, read_rows, write_rows
from lightning_mdm.report import keep, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import NO_BOUNDS, Clock, Fit, Sweep, layers, run_all, run_script, seeded, steps_of

HERE = Path(__file__).parent
RUNS = Path("runs/order_parts")
CONFIG = "configs/word_problems/order.yaml"
BUDGETS = (2, 3, 4, 6, 8, 16)  # at which the orders are learned
VALIDATION, TEST = 400, 500
SEEDS = (0, 1, 2)
TEMPERATURES = (0.1, 0.3)
HEURISTICS = (
    "[IID, TopProbability, TopMargin, {class_path: ConfidenceThreshold, init_args: {threshold: 0.9}}, "
    "{class_path: ConfidenceThreshold, init_args: {threshold: 0.97}}]"
)


PARTS: dict[str, dict[str, object]] = {
    "published": {
        "posterior.family": "max_normalised", "estimator": "one_step", "samples": 8, "selector.start": "iid",
        "finishing": "false", "prices": [0.0],
    },
    "all_steps": {"estimator": "all_steps", "samples": 4},
    "relative": {"posterior.family": "relative"},
    "confidence": {"selector.start": "confidence"},
    "finishing": {"finishing": "true"},
    "prices": {"prices": [0.01, 0.1, 0.5, 2.0]},
}  # fmt: skip
"""By recipe, the module's options that it changes in the one above it; the last has those of the configuration."""
RECIPES = tuple(PARTS)
# An update of one step takes fewer evaluations; with as many updates more the published way has the more of the two.
UPDATES = {"published": 2 * steps_of(CONFIG)}


def options_of(recipe: str, seed: int, temperature: float) -> tuple[str, ...]:
    """What says what is learned."""
    options: dict[str, object] = {"posterior.order_temperature": temperature}
    for name in RECIPES[: RECIPES.index(recipe) + 1]:
        options |= PARTS[name]
    changes = [part for name, value in options.items() for part in (f"--model.{name}", str(value))]
    return (*layers(CONFIG), *seeded(seed), *changes)


def run_of(recipe: str, seed: int, temperature: float) -> Path:
    told = f"_{temperature}" if recipe in ("published", "all_steps") else ""  # the others do not read it
    return RUNS / f"{recipe}{told}" / f"seed_{seed}"


def learn(recipe: str, seed: int, temperature: float, split: str) -> Path:
    """Learn an order and decode a split with it, or take what is there; where the rows are."""
    options, run_dir = options_of(recipe, seed, temperature), run_of(recipe, seed, temperature)
    never = ("--trainer.val_check_interval", "100000")
    fit = Fit(run_dir / "order", UPDATES.get(recipe, steps_of(CONFIG)), (*options, *never))
    price = 0.01 if recipe == "prices" else 0.0
    learned = f"[{{class_path: Learned, init_args: {{price: {price}}}}}]"
    sweep = Sweep(run_dir / split, (*options, "--ckpt_path", str(fit.last), *decoding(split, learned, (seed,))))
    run_all([(f"{run_dir}, order", fit), (f"{run_dir}, {split}", sweep)], Clock(float("inf")))
    return sweep.run_dir


def complete(recipe: str, temperature: float) -> dict[int, Path]:
    """The seeds of a recipe that have decoded the test problems, and where their rows are."""
    reports = run_of(recipe, 0, temperature).parent.glob("seed_*/test/report.md")
    return {int(path.parent.parent.name.removeprefix("seed_")): path.parent for path in sorted(reports)}


def decoding(split: str, policies: str, seeds: Sequence[int]) -> tuple[str, ...]:
    """What says what is decoded."""
    return (
        *NO_BOUNDS, "--split", split, f"--data.n_{split}", str(VALIDATION if split == "validation" else TEST),
        "--data.eval_batch_size", "100", "--frontier.budgets", str(list(BUDGETS)), "--frontier.policies", policies,
        "--frontier.seeds", str(list(seeds)),
    )  # fmt: skip


def solved(rows: Sequence[Row]) -> float:
    """The share of problems, every budget with the same weight."""
    return sum(row.accuracy for row in rows) / len(rows)


def chosen_temperature(seed: int, jobs: int) -> float:
    """The temperature of the published posterior that solves most validation problems."""
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda one: learn("published", seed, one, "validation"), TEMPERATURES)
    named = {
        temperature: join_seeds({seed: [swept]}, swept.with_name("named"), selector=f"published, {temperature}")
        for temperature, swept in zip(TEMPERATURES, found, strict=True)
    }
    rows = {temperature: read_rows(path / "frontier.csv") for temperature, path in named.items()}
    write_rows(HERE / "validation.csv", [row for of in rows.values() for row in of])
    return max(TEMPERATURES, key=lambda temperature: solved(rows[temperature]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    temperature = chosen_temperature(SEEDS[0], options.jobs)
    print(f"temperature of the published posterior: {temperature}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        pairs = product(options.seeds, options.recipes)
        list(pool.map(lambda pair: learn(pair[1], pair[0], temperature, "test"), pairs))
    plain = Sweep(RUNS / "heuristics", (*layers(CONFIG), *decoding("test", HEURISTICS, SEEDS)))
    run_all([("heuristics", plain)], Clock(float("inf")))
    found = {recipe: complete(recipe, temperature) for recipe in RECIPES}
    joined = [
        join_seeds({seed: [path] for seed, path in of.items()}, RUNS / "joined" / recipe, selector=recipe)
        for recipe, of in found.items()
        if of
    ]
    report([str(path) for path in (*joined, plain.run_dir)], str(RUNS / "report"))
    keep(RUNS / "report", HERE)


if __name__ == "__main__":
    run_script(main)
