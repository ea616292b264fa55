"""Train a Sudoku denoiser, learn its order and decode the easy and the hard test set, in slices of a few minutes.

python experiments/sudoku/run.py [--size SIZE] [--minutes M] [--seed 0] [--so_far]

Give the same command until it says that all is complete; its exit status is 3 until then. What is complete is not
repeated, and what a slice's end has stopped goes on from its last checkpoint, or from the last batch it has decoded.
``paper`` is the 6M net of Kim et al. 2025 for minutes of one GPU, and ``medium`` half of it for hours of a CPU core;
the weights of their denoisers so far are stored here in ``weights_6m/`` and ``weights_medium/``, from which a run
continues where its checkpoints are not at hand; their orders, too. They are also decoded as the paper decodes, with
noise on the ranking, and looking back. ``causal`` and ``causal_solver`` are the autoregressive baseline, moves in
reading order and in the solver's, and ``medium_causal`` and ``medium_causal_solver`` the same of ``medium``'s shape.
``small`` is the configuration of ``make sudoku``, minutes of CPU cores on easier puzzles; ``tiny`` rehearses ``paper``.
``--so_far`` runs nothing and reports on the problems that every policy has decoded, in the run directory alone.
A seed is one of weights, training puzzles and noise, and of the noise of decoding; the test puzzles are the same. Rows
of seed 0 are published by themselves, those of all seeds of a size that are complete in ``RUNS`` together. Weights and
orders of other seeds are stored in folders of their own, ``weights_6m/seed_1/``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from lightning_mdm.outcomes import OutcomeRow, OutcomeStore, Row, frontier_row, outcome_rows, write_outcomes, write_rows
from lightning_mdm.report import keep, keep_seeds, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import (
    COMPILING,
    LEAST_SECONDS,
    NO_BOUNDS,
    Clock,
    Fit,
    Kept,
    Sweep,
    complete_seeds,
    decoded_with,
    layers,
    not_complete,
    of_seed,
    reseeded,
    run_all,
    run_script,
    said,
    steps_of,
    trained,
)

HERE = Path(__file__).parent
CONFIGS = Path("configs/sudoku")
SPLITS = ("easy", "hard")


@dataclass(frozen=True)
class Size:
    """What is trained and decoded.

    Args:
        denoiser: configuration files of the denoiser, one over the other.
        order: likewise of the order; none of a causal net, which has no order to learn.
        options: of every stage, but for its seed.
        steps: updates of both trainings, where they are not those of the files.
        sweep: options of both sweeps.
        hard: of the sweep of hard puzzles.
        variants: whether the denoiser is also decoded as in the paper and, of sizes with an order, looking back.
        suffix: of the names of rows, figure, report and weights in this folder; none are kept of a rehearsal.
        stored: whether the denoiser's weights are stored.
        reserve: seconds that starting and stopping a training may take.
        pool_file: whether the base puzzles of trainings are made ahead, once for all slices and worker processes.
        seed: of weights, training puzzles and noise, in training and in decoding.
    """

    denoiser: tuple[str, ...]
    order: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    steps: int | None = None
    sweep: tuple[str, ...] = ()
    hard: tuple[str, ...] = ()
    variants: bool = True
    suffix: str | None = None
    stored: bool = True
    reserve: float = 75.0
    pool_file: bool = False
    seed: int = 0

    @property
    def everywhere(self) -> tuple[str, ...]:
        """The options of every stage."""
        return (*self.options, *reseeded(self.seed))

    @property
    def least(self) -> float:
        """Seconds with which a training may begin; denoisers are compiled first, but for ``small`` and ``tiny``."""
        return COMPILING if self.suffix else LEAST_SECONDS


SIZES = {
    "small": Size(
        ("denoiser", "small"), ("order", "order_small"),
        sweep=("--data.n_test", "1000", "--data.eval_batch_size", "250"),
        hard=("--data.min_clues", "26", "--data.max_clues", "34"), variants=False, suffix="",
        stored=False,
    ),
    "medium": Size(("denoiser", "medium"), ("order", "order_medium"), suffix="_medium"),
    "paper": Size(("denoiser",), ("order",), suffix="_6m", pool_file=True),
    "causal": Size(("autoregressive",), variants=False, suffix="_causal", stored=False, pool_file=True),
    "causal_solver": Size(
        ("autoregressive", "autoregressive_solver_order"), variants=False, suffix="_causal_solver", stored=False,
        pool_file=True,
    ),
    "medium_causal": Size(
        ("autoregressive", "medium", "autoregressive_medium"), variants=False, suffix="_medium_causal", stored=False,
    ),
    "medium_causal_solver": Size(
        ("autoregressive", "medium", "autoregressive_medium", "autoregressive_solver_order"), variants=False,
        suffix="_medium_causal_solver", stored=False,
    ),
    "tiny": Size(
        ("denoiser",), ("order",),
        options=(
            "--model.net.width", "48", "--model.net.mlp_width", "96", "--data.batch_size", "4", "--data.pool", "40",
            "--data.num_workers", "0", "--data.n_validation", "4", "--data.n_test", "4",
            "--trainer.val_check_interval", "40", "--trainer.callbacks.every_n_train_steps", "10",
            "--trainer.precision", "32-true", "--model.compile", "false",
        ),
        steps=40, sweep=("--frontier.budgets", "[1, 4]"), reserve=1.0,
    ),
}  # fmt: skip


def files(names: Sequence[str]) -> list[Path]:
    return [CONFIGS / f"{name}.yaml" for name in names]


def fit_of(size: Size, names: Sequence[str], run_dir: Path, options: Sequence[str]) -> Fit:
    """A training, whose base puzzles may come from a file beside its directory that is made before it goes on.

    Args:
        size: says whether there is such a file.
        names: of the training's configuration files.
        run_dir: of the training; those on the same puzzles share a file.
        options: beside what the files say.
    """
    made = (*layers(*files(names)), *size.everywhere, *options)
    steps = size.steps or steps_of(*files(names))
    if not size.pool_file:
        return Fit(run_dir, steps, made, size.least)
    data = OmegaConf.merge(*map(OmegaConf.load, files(names))).data.init_args
    kinds = ("side", "min_clues", "max_clues", "difficulty")
    path = run_dir.parent / f"pool_{'_'.join(str(data[kind]) for kind in kinds)}_{data.pool}.npz"
    return Fit(
        run_dir,
        steps,
        (*made, "--data.train_path", str(path)),
        size.least,
        partial(make_pool, data, path, kinds, size.seed),
    )


def make_pool(data: DictConfig, path: Path, kinds: Sequence[str], seed: int) -> None:
    """Make the base puzzles of some training data, unless they are there."""
    if not path.is_file():
        given = [*(f"--{kind}={data[kind]}" for kind in kinds), *([f"--seed={seed}"] if seed else [])]
        subprocess.run([sys.executable, str(HERE / "pool.py"), f"--n={data.pool}", f"--out={path}", *given], check=True)
    said(path, "pool", True)


def denoiser(size: Size, run_dir: Path, weights: Path, clock: Clock) -> Path | None:
    """The weights of the denoiser, ``None`` while its training is not complete."""
    fit = fit_of(size, size.denoiser, run_dir / "denoiser", ())
    return trained("denoiser", fit, weights if size.stored else None, clock)


def stages(size: Size, run_dir: Path, weights_dir: Path, found: Path) -> list[tuple[str, Fit | Sweep]]:
    """What follows the denoiser's training: its order and the sweeps of easy and hard puzzles.

    Args:
        size: see ``Size``.
        run_dir: of all stages.
        weights_dir: where weights are stored.
        found: the denoiser's weights.
    """
    alone = (*layers(*files(size.denoiser)), *size.everywhere)
    weights = ("--ckpt_path" if found.suffix == ".ckpt" else "--model.init_from", str(found))
    stages: list[tuple[str, Fit | Sweep]] = []
    decoded = {"": (*alone, *weights)}
    if size.order:
        frozen = ("--model.denoiser_ckpt", str(found))
        learned = (*layers(*files(size.order)), *size.everywhere, *frozen)
        order = fit_of(size, size.order, run_dir / "order", frozen)
        if size.stored:
            order = replace(order, kept=Kept(weights_dir / "order.ckpt", found))
        stages.append(("order", order))
        of_order = (*NO_BOUNDS, "--ckpt_path", str(order.last))
        decoded[""] = (*learned, *of_order)
        if size.variants:
            decoded["_search"] = (*layers(*files((*size.order, "search"))), *size.everywhere, *frozen, *of_order)
    if size.variants:
        decoded["_noisy"] = (*layers(*files((*size.denoiser, "kim_2025"))), *size.everywhere, *weights)
    for suffix, options in decoded.items():
        for split in SPLITS:
            hard = size.hard if split == "hard" else ()
            budgets = () if suffix == "_noisy" else size.sweep
            sweep = (*options, "--data.test_difficulty", split, *hard, *budgets, *decoded_with(size.seed))
            stages.append((split + suffix, Sweep(run_dir / (split + suffix), sweep)))
    return stages


def run(size: Size, run_dir: Path, weights: Path, clock: Clock) -> bool:
    """Go on with the denoiser, its order, the easy and the hard puzzles; whether all are complete."""
    found = denoiser(size, run_dir, weights, clock)
    return found is not None and run_all(stages(size, run_dir, weights, found), clock)


def sweeps(run_dir: Path) -> list[Path]:
    """The folders that sweeps may have left."""
    return [run_dir / (split + suffix) for suffix in ("", "_search", "_noisy") for split in SPLITS]


def so_far(run_dir: Path) -> Path:
    """A run directory of what the sweeps of ``run_dir`` have decoded: whole batches that every cell of a split has.

    Raises:
        ValueError: nothing has been decoded.
    """
    rows: dict[str, Row] = {}
    outcomes: list[OutcomeRow] = []
    for folder in sweeps(run_dir):
        store = OutcomeStore(folder / "cells")
        cells = store.cells()
        if not cells:
            continue
        common = set.intersection(*map(store.done, cells))
        left_out = int(OmegaConf.load(folder / "sweep.yaml").data.init_args.n_test) - len(common)
        for cell in cells:
            if common and cell.label not in rows:  # two sweeps of a split may have a cell in common
                kept = [r for r in store.records(cell) if common.issuperset(o.problem for o in r.outcomes)]
                rows[cell.label] = frontier_row(cell, kept, left_out)
                outcomes += outcome_rows(cell, kept)
    if not rows:
        raise ValueError(f"{run_dir} holds no decoded test problems: run the sweeps first")
    path = run_dir / "so_far"
    path.mkdir(exist_ok=True)
    write_rows(path / "frontier.csv", rows.values())
    write_outcomes(path / "outcomes.csv", outcomes)
    return path


def publish(run_dirs: Sequence[Path], out: Path, size: Size) -> None:
    """Table, figure and report of run directories in ``out``, and copies of seed 0's in this folder."""
    report([str(path) for path in run_dirs], str(out))
    if size.suffix is not None and not size.seed:
        keep(out, HERE, size.suffix)


def publish_seeds(runs: Path, names: Sequence[str], size: Size) -> None:
    """The same of all seeds that are complete, with ``_seeds`` in the names of the files.

    Args:
        runs: of seed 0, which holds those of others.
        names: of the sweeps.
        size: see ``Size``.
    """
    if found := complete_seeds(runs, names):
        parts = {seed: [path / name for name in names] for seed, path in found.items()}
        joined = join_seeds(parts, runs / "joined")
        report([str(joined)])
        if size.suffix is not None:
            keep_seeds(joined, HERE, f"{size.suffix or '_small'}_seeds")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/sudoku_sizes"), help="where runs are kept, by size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--so_far",
        action="store_true",
        help="report on what is decoded, in so_far of the run directory, and run nothing",
    )
    options = parser.parse_args(arguments)
    size, runs = replace(SIZES[options.size], seed=options.seed), options.runs / options.size
    run_dir = of_seed(runs, size.seed)
    if options.so_far:
        path = so_far(run_dir)
        report([str(path)])  # there alone: what this folder keeps is of complete runs
        return
    weights = of_seed((runs if size.suffix is None else HERE) / f"weights{size.suffix or ''}", size.seed)
    if not run(size, run_dir, weights, Clock(options.minutes, size.reserve)):
        not_complete()
    path = run_dir / "report"
    decoded = [folder for folder in sweeps(run_dir) if (folder / "frontier.csv").is_file()]
    publish(decoded, path, size)
    publish_seeds(runs, [folder.name for folder in decoded], size)
    print(f"all is complete: {path}")


if __name__ == "__main__":
    run_script(main)
