"""What does each part of learning an order bring? From the published way to the one of this project, part by part.

python experiments/order_parts/run.py [--recipes published prices ...] [--seeds 0 1 2] [--jobs N]

The denoiser of word problems that ships, frozen, and the recipes of ``PARTS``, each of which has what the one above it
has and something more; the last does without a posterior what the one above it does with one. Temperature and learning
rate of the published posterior are chosen on validation with the first seed. What is complete is not repeated, what was
stopped goes on, and all that is complete is reported. A seed is one of the order: of its weights, data and noise.
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
# Heuristics do not read an order, but a sweep wants the weights of one.
SHIPPED = ("--model.init_from", "experiments/word_problems/order.safetensors")
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
    "relative": {"posterior.family": "relative", "learning_rate": 1.5e-3},
    "confidence": {"selector.start": "confidence"},
    "finishing": {"finishing": "true"},
    "prices": {"prices": [0.01, 0.1, 0.5, 2.0]},
    "no_posterior": {"posterior.family": "selector"},
}  # fmt: skip
"""By recipe, the module's options that it changes in the one above it; ``prices`` has those of the configuration."""
RECIPES = tuple(PARTS)
PRICED = ("prices", "no_posterior")
CANDIDATES: tuple[dict[str, object], ...] = tuple(
    {"posterior.order_temperature": temperature, "learning_rate": rate}
    for rate, temperature in product((1.5e-3, 3e-4), (0.1, 0.3))
)
"""Options of the published posterior to choose among; the others have a rate of their own and no temperature."""
# An update of one step takes fewer evaluations.
UPDATES = {"published": 2 * steps_of(CONFIG)}


def options_of(recipe: str, seed: int, candidate: dict[str, object]) -> tuple[str, ...]:
    """What says what is learned."""
    options = dict(candidate)
    for name in RECIPES[: RECIPES.index(recipe) + 1]:
        options |= PARTS[name]
    changes = [part for name, value in options.items() for part in (f"--model.{name}", str(value))]
    return (*layers(CONFIG), *seeded(seed), *changes)


def named(candidate: dict[str, object]) -> str:
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in candidate.items())


def run_of(recipe: str, seed: int, candidate: dict[str, object]) -> Path:
    told = "".join(f"_{value}" for value in candidate.values()) if recipe in ("published", "all_steps") else ""
    return RUNS / f"{recipe}{told}" / f"seed_{seed}"


def learn(recipe: str, seed: int, candidate: dict[str, object], split: str) -> Path:
    """Learn an order and decode a split with it, or take what is there; where the rows are."""
    options, run_dir = options_of(recipe, seed, candidate), run_of(recipe, seed, candidate)
    never = ("--trainer.val_check_interval", "100000")
    fit = Fit(run_dir / "order", UPDATES.get(recipe, steps_of(CONFIG)), (*options, *never))
    price = 0.01 if recipe in PRICED else 0.0
    learned = f"[{{class_path: Learned, init_args: {{price: {price}}}}}]"
    sweep = Sweep(run_dir / split, (*options, "--ckpt_path", str(fit.last), *decoding(split, learned, (seed,))))
    run_all([(f"{run_dir}, order", fit), (f"{run_dir}, {split}", sweep)], Clock(float("inf")))
    return sweep.run_dir


def complete(recipe: str, candidate: dict[str, object]) -> dict[int, Path]:
    """The seeds of a recipe that have decoded the test problems, and where their rows are."""
    reports = run_of(recipe, 0, candidate).parent.glob("seed_*/test/report.md")
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


def chosen(seed: int, jobs: int) -> dict[str, object]:
    """The options of the published posterior that solve most validation problems."""
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda one: learn("published", seed, one, "validation"), CANDIDATES))
    rows = [
        read_rows(join_seeds({seed: [path]}, path.with_name("named"), selector=named(candidate)) / "frontier.csv")
        for candidate, path in zip(CANDIDATES, found, strict=True)
    ]
    write_rows(HERE / "validation.csv", [row for of in rows for row in of])
    return max(zip(CANDIDATES, rows, strict=True), key=lambda pair: solved(pair[1]))[0]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    candidate = chosen(SEEDS[0], options.jobs)
    print(f"the published posterior: {named(candidate)}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        pairs = product(options.seeds, options.recipes)
        list(pool.map(lambda pair: learn(pair[1], pair[0], candidate, "test"), pairs))
    plain = Sweep(RUNS / "heuristics", (*layers(CONFIG), *SHIPPED, *decoding("test", HEURISTICS, SEEDS[:1])))
    run_all([("heuristics", plain)], Clock(float("inf")))
    found = {recipe: complete(recipe, candidate) for recipe in RECIPES}
    joined = [
        join_seeds({seed: [path] for seed, path in of.items()}, RUNS / "joined" / recipe, selector=recipe)
        for recipe, of in found.items()
        if of
    ]
    report([str(path) for path in (*joined, plain.run_dir)], str(RUNS / "report"))
    keep(RUNS / "report", HERE)


if __name__ == "__main__":
    run_script(main)
