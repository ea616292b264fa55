"""Train three independent denoisers of the default task from nothing, learn their orders, sweep: in slices on one GPU.

python experiments/word_problems_gpu/run.py [--minutes 9] [--seeds 0 1 2] [--split test] [--workers 12] [--tiny]

Give the same command until it says that all is complete. What is complete is not repeated, what was stopped goes on,
and the weights so far, the denoiser's and the order's, are stored in ``weights/``, from which a run continues where its
checkpoints are not at hand. Seeds may run side by side, each by a command of its own; the command for all then joins
them. ``--tiny`` walks the whole chain on a CPU, with nets and numbers that mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from lightning_mdm.report import keep, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import (
    NO_BOUNDS,
    Clock,
    Fit,
    Kept,
    Sweep,
    layers,
    not_complete,
    run_all,
    run_script,
    said,
    seeded,
    store,
    stored,
)

HERE = Path("experiments/word_problems_gpu")
CONFIGS = Path("configs/word_problems")
SWEEPS = Path("experiments/word_problems_order")
# As in the files of the stages, of which batches are four times as large here.
STAGES = {"stage_1": 4000, "stage_2": 2500, "stage_3": 1500, "stage_4": 600, "stage_5": 1400}
ORDER_STEPS = 600
SEEDS = (0, 1, 2)  # what is published is of all of them
# By folder of their report, the groups of policies in it.
REPORTS = {".": ("fixed", "adaptive", "learned", "patient"), "quick": ("quick",), "slow": ("slow",)}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Args:
        runs: where runs are.
        weights: where weights are stored.
        layer: of the denoisers' configuration.
        order_layer: of the orders'.
        most_steps: updates at most of every training.
        reserve: seconds that starting and stopping may take.
        workers: processes that make a training's problems.
    """

    runs: Path
    weights: Path
    layer: Path
    order_layer: Path
    most_steps: int
    reserve: float
    workers: int


GPU = Scale(Path("runs/word_problems_gpu"), HERE / "weights", HERE / "gpu.yaml", HERE / "order.yaml", 10**9, 45.0, 12)
TINY = Scale(
    Path("runs/word_problems_gpu_tiny"), Path("runs/word_problems_gpu_tiny/weights"), HERE / "tiny.yaml",
    HERE / "tiny_order.yaml", 2, 1.0, 0,
)  # fmt: skip


def common(seed: int, scale: Scale) -> tuple[str, ...]:
    """The options that a seed's denoiser and order share."""
    return *seeded(seed), "--data.num_workers", str(scale.workers)


def denoiser(seed: int, scale: Scale, clock: Clock) -> Path | None:
    """The weights of a seed's denoiser, ``None`` while its training is not complete."""
    run_dir, parts = scale.runs / f"seed_{seed}", scale.weights / f"seed_{seed}"
    begun = stored(parts, run_dir)
    weights = None if begun is None else begun.weights
    names = list(STAGES)
    for name in names if begun is None else names[names.index(begun.stage) :]:
        unfinished = begun if begun is not None and name == begun.stage else None
        before = 0 if unfinished is None else unfinished.steps
        steps = min(STAGES[name], scale.most_steps) - before
        if steps <= 0:
            continue
        options = [*layers(CONFIGS / "denoiser.yaml", CONFIGS / f"{name}.yaml", scale.layer), *common(seed, scale)]
        if unfinished is not None:
            options += unfinished.options
        elif weights is not None:
            options += ["--model.init_from", str(weights)]
            options += ["--data.tokenizer_path", str(weights.with_name("tokenizer.json"))]
        fit = Fit(run_dir / name, steps, tuple(options))
        complete = said(fit.run_dir, f"seed {seed}, {name}", fit.run(clock))
        if fit.last.is_file():
            store(fit, name, parts, before)
        if not complete:
            return None
        weights = fit.last
    return weights


def run(seed: int, split: str, scale: Scale, clock: Clock) -> bool:
    """Go on with a seed; whether it is complete."""
    weights = denoiser(seed, scale, clock)
    if weights is None:
        return False
    run_dir = scale.runs / f"seed_{seed}"
    options = (
        *layers(CONFIGS / "order.yaml", scale.order_layer), *common(seed, scale), "--model.denoiser_ckpt", str(weights),
        "--data.tokenizer_path", str(weights.with_name("tokenizer.json")),
    )  # fmt: skip
    kept = Kept(scale.weights / f"seed_{seed}" / "order.ckpt", weights)
    fit = Fit(run_dir / "order", min(ORDER_STEPS, scale.most_steps), options, kept=kept)
    stages: list[tuple[str, Fit | Sweep]] = [(f"seed {seed}, order", fit)]
    for group in chain(*REPORTS.values()):
        sweep = (
            *layers(CONFIGS / "order.yaml", SWEEPS / f"{group}.yaml", scale.order_layer), *options[4:],
            "--split", split, "--ckpt_path", str(fit.last),
            *NO_BOUNDS,
        )  # fmt: skip
        stages.append((f"seed {seed}, {group}, {split}", Sweep(run_dir / f"{group}_{split}", sweep)))
    return run_all(stages, clock)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="wall-clock time of this slice")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--workers", type=int, help="processes that make the problems; 12 on a GPU")
    parser.add_argument("--tiny", action="store_true", help="the whole chain on a CPU, with numbers that mean nothing")
    options = parser.parse_args(arguments)
    scale = TINY if options.tiny else GPU
    if options.workers is not None:
        scale = replace(scale, workers=options.workers)
    clock = Clock(options.minutes, scale.reserve)
    if not all(run(seed, options.split, scale, clock) for seed in options.seeds):
        not_complete()
    joined = scale.runs / "_".join(["joined", options.split, *map(str, options.seeds)])
    for folder, groups in REPORTS.items():
        parts = {
            seed: [scale.runs / f"seed_{seed}" / f"{group}_{options.split}" for group in groups]
            for seed in options.seeds
        }
        report([str(join_seeds(parts, joined / folder))])
        if options.split == "test" and tuple(options.seeds) == SEEDS and not options.tiny:
            (HERE / folder).mkdir(exist_ok=True)
            keep(joined / folder, HERE / folder)
    print(f"all is complete: {joined}")


if __name__ == "__main__":
    run_script(main)
