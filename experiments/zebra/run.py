"""Train a denoiser of zebra puzzles, its order and two causal nets, and decode the test puzzles with every policy.

python experiments/zebra/run.py [--minutes M] [--runs DIR] [--seed 0]

Hours of one CPU core; give the same command until it says that all is complete. What is complete is not
repeated, and what was stopped goes on. The causal nets have the denoiser's shape and as many updates: one writes the
table house by house, the other is taught the order in which clues find the cells.
A seed is one of weights, training puzzles and noise, and of the noise of decoding; the test puzzles are the same. Rows
of seed 0 and its analysis are published by themselves, those of all seeds that are complete in ``RUNS`` together.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

from lightning_mdm.report import keep, keep_seeds, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import (
    COMPILING,
    NO_BOUNDS,
    Clock,
    Fit,
    Sweep,
    complete_seeds,
    decoded_with,
    layers,
    not_complete,
    of_seed,
    reseeded,
    run_all,
    run_script,
    steps_of,
)

HERE = Path(__file__).parent
CONFIGS = Path("configs/zebra")
CAUSAL: dict[str, tuple[str, ...]] = {
    "house_by_house": ("autoregressive", "small", "autoregressive_small"),
    "solvers_order": ("autoregressive", "small", "autoregressive_small", "autoregressive_solver_order"),
}
SWEEPS = ("masked", *CAUSAL)
ANALYSIS = ("subproblems.csv", "commits.csv", "subproblems.png", "subproblems.svg")
MOVES = 18  # tokens of a table as moves
COMPILED = ("--model.compile", "true")


def files(names: Sequence[str]) -> list[Path]:
    return [CONFIGS / f"{name}.yaml" for name in names]


def stages(
    runs: Path, options: Sequence[str] = (), steps: int | None = None, seed: int = 0
) -> list[tuple[str, Fit | Sweep]]:
    """All trainings and sweeps, in their order.

    Args:
        runs: folder of the run directories.
        options: of every stage.
        steps: updates of every training, where they are not those of the files.
        seed: of weights, training puzzles and noise, in training and in decoding.
    """
    options, noise = (*reseeded(seed), *options), decoded_with(seed)
    small, order = files(["denoiser", "small"]), files(["order"])
    denoiser = Fit(runs / "denoiser", steps or steps_of(*small), (*layers(*small), *COMPILED, *options), COMPILING)
    learned = (*layers(*order), *options, "--model.denoiser_ckpt", str(denoiser.last))
    fit = Fit(runs / "order", steps or steps_of(*order), learned)
    analysed = (*NO_BOUNDS, "--model.prices", "[0.0]")  # an analysis shows the order at every price of the module
    found: list[tuple[str, Fit | Sweep]] = [
        ("denoiser", denoiser),
        ("order", fit),
        ("masked", Sweep(runs / "masked", (*learned, *NO_BOUNDS, *noise, "--ckpt_path", str(fit.last)))),
    ]
    if not seed:  # the others would be shown nowhere
        analysis = Sweep(runs / "analysis", (*learned, *analysed, "--ckpt_path", str(fit.last)), "analyse")
        found.append(("analysis", analysis))
    for name, layered in CAUSAL.items():
        causal = (*layers(*files(layered)), *options)
        fit = Fit(runs / f"{name}_net", steps or steps_of(*files(layered)), (*causal, *COMPILED), COMPILING)
        budget = ("--frontier.budgets", f"[{MOVES}]") if name == "solvers_order" else ()
        sweep = (*causal, *budget, *noise, "--ckpt_path", str(fit.last))
        found += [(f"{name}, training", fit), (name, Sweep(runs / name, sweep))]
    return found


def publish_seeds(runs: Path) -> None:
    """Table, figure and report of all complete seeds in one panel, with ``_seeds`` in the names of the files."""
    if found := complete_seeds(runs, SWEEPS):
        joined = runs / "joined"
        parts = [join_seeds({seed: [path / name] for seed, path in found.items()}, joined / name) for name in SWEEPS]
        report([str(path) for path in parts], str(joined / "report"), one_panel=True)
        keep_seeds(joined / "report", HERE, "_seeds")


def publish(runs: Path, seed: int = 0) -> Path:
    """Table, figure and report of all sweeps in one panel; seed 0's go into this folder, its analysis among them."""
    out = runs / "report"
    report([str(runs / name) for name in SWEEPS], str(out), one_panel=True)
    if seed:
        return out
    keep(out, HERE)
    (HERE / "analysis").mkdir(exist_ok=True)
    for name in ANALYSIS:
        copyfile(runs / "analysis" / name, HERE / "analysis" / name)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/zebra_orders"), help="where runs are kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_dir = of_seed(options.runs, options.seed)
    if not run_all(stages(run_dir, seed=options.seed), Clock(options.minutes)):
        not_complete()
    out = publish(run_dir, options.seed)
    publish_seeds(options.runs)
    print(f"all is complete: {out}")


if __name__ == "__main__":
    run_script(main)
