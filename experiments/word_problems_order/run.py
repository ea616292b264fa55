"""Learn the order of the default task for three denoisers and compare it with every heuristic, on 2,000 test problems.

python experiments/word_problems_order/run.py [--jobs N] [--seeds 0 1 2] [--split test]

Seed 0 is the denoiser and the order that ship. For each other one a denoiser is trained from nothing on problems of its
own, an hour or two on one core, and the order is learned for it. Then four groups of policies are swept. What is
complete is not repeated; what was stopped goes on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lightning_mdm.report import keep, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import NO_BOUNDS, Clock, Fit, Sweep, layers, run_all, run_script, seeded, steps_of

HERE = Path(__file__).parent
RUNS = Path("runs/word_problems_order_3")
SHIPPED = Path("experiments/word_problems")
CONFIGS = "configs/word_problems"
TOKENIZER = ("--data.tokenizer_path", str(SHIPPED / "tokenizer.json"))  # of all seeds
GROUPS = ("fixed", "adaptive", "learned", "patient")
# From nothing: updates of three of the five stages of `make train-default`, each from the weights of the one before.
STAGES = {"stage_1": 4000, "stage_2": 1000, "stage_5": 1600}


def trainings(run_dir: Path, seed: int) -> list[Fit]:
    """Those of a seed's denoiser, from nothing, one after the other."""
    fits: list[Fit] = []
    for stage, steps in STAGES.items():
        options = (
            *layers(f"{CONFIGS}/denoiser.yaml", f"{CONFIGS}/{stage}.yaml"), *seeded(seed), *TOKENIZER,
            "--trainer.precision", "bf16-mixed", "--trainer.val_check_interval", str(steps), "--model.compile", "true",
            *(("--model.init_from", str(fits[-1].last)) if fits else ()),
        )  # fmt: skip
        fits.append(Fit(run_dir / stage, steps, options))
    return fits


def run(seed: int, split: str, problems: int) -> None:
    """Train and evaluate one seed, or take what is there."""
    run_dir = RUNS / f"seed_{seed}"
    options = (*layers(f"{CONFIGS}/order.yaml"), *seeded(seed), *TOKENIZER)
    stages: list[tuple[str, Fit | Sweep]] = []
    if seed == 0:
        weights = ("--model.init_from", str(SHIPPED / "order.safetensors"))
    else:
        fits = trainings(run_dir, seed)
        options += ("--model.denoiser_ckpt", str(fits[-1].last))
        never = ("--trainer.val_check_interval", "100000")
        fits.append(Fit(run_dir / "order", steps_of(f"{CONFIGS}/order.yaml"), (*options, *never)))
        stages += [(f"seed {seed}, {fit.run_dir.name}", fit) for fit in fits]
        weights = ("--ckpt_path", str(fits[-1].last))
    for group in GROUPS:
        sweep = (
            *options, *weights, *layers(HERE / f"{group}.yaml"), "--split", split, f"--data.n_{split}", str(problems),
            "--data.eval_batch_size", "100",
            *NO_BOUNDS,
        )  # fmt: skip
        stages.append((f"seed {seed}, {group}, {split}", Sweep(swept(seed, group, split, problems), sweep)))
    run_all(stages, Clock(float("inf")))


def swept(seed: int, group: str, split: str, problems: int) -> Path:
    """Where a sweep leaves what it decodes."""
    return RUNS / f"seed_{seed}" / f"{group}_{split}_{problems}"


def joined(seeds: Sequence[int], split: str, problems: int) -> Path:
    """A run directory in which every denoiser is a seed, so that reports pool and pair over all of them."""
    parts = {seed: [swept(seed, group, split, problems) for group in GROUPS] for seed in seeds}
    return join_seeds(parts, RUNS / f"joined_{split}_{problems}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time, one thread each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--problems", type=int, default=2000)
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda seed: run(seed, options.split, options.problems), options.seeds))
    path = joined(options.seeds, options.split, options.problems)
    report([str(path)])
    if options.split == "test":
        keep(path, HERE)


if __name__ == "__main__":
    run_script(main)
