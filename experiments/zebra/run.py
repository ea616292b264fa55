"""Train a denoiser of zebra puzzles, its order and two causal nets, and decode the test puzzles with every policy.

python experiments/zebra/run.py [--minutes M] [--runs DIR]

Hours of one CPU core; give the same command until it says that all is complete. What is complete is not
repeated, and what was stopped goes on. The causal nets have the denoiser's shape and as many updates: one writes the
table house by house, the other is taught the order in which clues find the cells.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

from lightning_mdm.report import keep, report
from lightning_mdm.slices import (
    COMPILING,
    NO_BOUNDS,
    Clock,
    Fit,
    Sweep,
    layers,
    not_complete,
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
ANALYSIS = ("subproblems.csv", "commits.csv", "subproblems.png", "subproblems.svg")
MOVES = 18  # tokens of a table as moves
COMPILED = ("--model.compile", "true")


def files(names: Sequence[str]) -> list[Path]:
    return [CONFIGS / f"{name}.yaml" for name in names]


def stages(runs: Path, options: Sequence[str] = (), steps: int | None = None) -> list[tuple[str, Fit | Sweep]]:
    """All trainings and sweeps, in their order.

    Args:
        runs: folder of the run directories.
        options: of every stage.
        steps: updates of every training, where they are not those of the files.
    """
    small, order = files(["denoiser", "small"]), files(["order"])
    denoiser = Fit(runs / "denoiser", steps or steps_of(*small), (*layers(*small), *COMPILED, *options), COMPILING)
    learned = (*layers(*order), *options, "--model.denoiser_ckpt", str(denoiser.last))
    fit = Fit(runs / "order", steps or steps_of(*order), learned)
    analysed = (*NO_BOUNDS, "--model.prices", "[0.0]")  # an analysis shows the order at every price of the module
    found: list[tuple[str, Fit | Sweep]] = [
        ("denoiser", denoiser),
        ("order", fit),
        ("masked", Sweep(runs / "masked", (*learned, *NO_BOUNDS, "--ckpt_path", str(fit.last)))),
        ("analysis", Sweep(runs / "analysis", (*learned, *analysed, "--ckpt_path", str(fit.last)), "analyse")),
    ]
    for name, layered in CAUSAL.items():
        causal = (*layers(*files(layered)), *options)
        fit = Fit(runs / f"{name}_net", steps or steps_of(*files(layered)), (*causal, *COMPILED), COMPILING)
        budget = ("--frontier.budgets", f"[{MOVES}]") if name == "solvers_order" else ()
        sweep = (*causal, *budget, "--ckpt_path", str(fit.last))
        found += [(f"{name}, training", fit), (name, Sweep(runs / name, sweep))]
    return found


def publish(runs: Path) -> Path:
    """Table, figure and report of all sweeps in one panel; the files go into this folder, the analysis among them."""
    out = runs / "report"
    report([str(runs / name) for name in ("masked", *CAUSAL)], str(out), one_panel=True)
    keep(out, HERE)
    (HERE / "analysis").mkdir(exist_ok=True)
    for name in ANALYSIS:
        copyfile(runs / "analysis" / name, HERE / "analysis" / name)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/zebra_orders"), help="where runs are kept")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not run_all(stages(options.runs), Clock(options.minutes)):
        not_complete()
    print(f"all is complete: {publish(options.runs)}")


if __name__ == "__main__":
    run_script(main)
