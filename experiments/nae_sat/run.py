"""Learn the order of L&O-NAE-SAT, for the exact posterior and for trained denoisers, and collect rows and figures.

python experiments/nae_sat/run.py [--parts exact trained longer] [--seeds 0 1 2] [--jobs N]

The order is learned for two steps alone first, then for all budgets from there. What is complete is not repeated; what
was stopped goes on. A seed is one of weights, noise and training data, and of the noise of decoding. The cost in nats
of every policy goes to ``order_nats.csv``, whole sequences to ``rows.csv``, where the rows of a part that is not run
stay, and those of the denoiser that trains for longer to ``longer.csv``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from shutil import copyfile

from lightning_mdm.outcomes import ORDER_NATS, Row, read_order_rows, read_rows, write_rows
from lightning_mdm.outcomes.table import replace_rows
from lightning_mdm.report import report, report_order_nats
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import NO_BOUNDS, last_of, layers, lightning, run_script, seeded

HERE = Path(__file__).parent
CONFIGS = Path("configs/nae_sat")
RUNS = Path("runs/nae_sat_learned")
LONGER = ("--trainer.max_steps", "12000", "--trainer.val_check_interval", "2000")  # of its denoiser
TWO_STEPS = {"exact": 600, "trained": 2000, "longer": 2000}  # updates; a trained denoiser's order is harder to find
PARTS = tuple(TWO_STEPS)


def configs(*names: str) -> tuple[str, ...]:
    return layers(*(CONFIGS / f"{name}.yaml" for name in names))


def learned(part: str, run_dir: Path, order: Sequence[str], seed: int) -> None:
    """Learn the order, for two steps and then for all budgets, and decode the test problems with every policy."""
    first, both, steps = run_dir / "two_steps", run_dir / "order", str(TWO_STEPS[part])
    alone = ("--model.budgets", "[2]", "--trainer.max_steps", steps, "--trainer.val_check_interval", steps)
    lightning("fit", *order, *alone, "--run_dir", str(first), "--ckpt_path", "last", log=run_dir / "two_steps.log")
    start = "last" if last_of(both).exists() else str(last_of(first))
    lightning("fit", *order, "--run_dir", str(both), "--ckpt_path", start, log=run_dir / "order.log")
    noise = ("--frontier.seeds", f"[{seed}]", "--order_nats.seeds", f"[{seed}]")
    lightning(
        "sweep", *order, *NO_BOUNDS, *noise, "--run_dir", str(both), "--ckpt_path", str(last_of(both)),
        log=run_dir / "sweep.log",
    )  # fmt: skip


def run(part: str, seed: int) -> None:
    """Train and evaluate one seed of a part, or take what is there."""
    run_dir = RUNS / f"seed_{seed}"
    if part == "exact":
        learned(part, run_dir / part, (*configs("order"), *seeded(seed)), seed)
    else:
        denoiser = run_dir / ("denoiser" if part == "trained" else f"denoiser_{part}")
        lightning(
            "fit", *configs("denoiser", "small"), *(LONGER if part == "longer" else ()), *seeded(seed),
            "--run_dir", str(denoiser), "--ckpt_path", "last", log=denoiser.with_suffix(".log"),
        )  # fmt: skip
        order = (*configs("order", "order_small"), *seeded(seed), "--model.denoiser_ckpt", str(last_of(denoiser)))
        learned(part, run_dir / part, order, seed)
    print(f"{part}, seed {seed}: complete", flush=True)


def publish(part: str, seeds: Sequence[int]) -> list[Row]:
    """The rows of a part, all seeds; its figures and reports go into this folder."""
    path = join_seeds({seed: [RUNS / f"seed_{seed}" / part / "order"] for seed in seeds}, RUNS / f"joined_{part}")
    report([str(path)])
    report_order_nats(read_order_rows(path / ORDER_NATS), path)
    if part == "exact":
        for name in (ORDER_NATS, "order_nats.png", "order_nats.svg"):
            copyfile(path / name, HERE / name)
    else:
        copyfile(path / ORDER_NATS, HERE / f"{part}_order_nats.csv")
        copyfile(path / "report.md", HERE / f"{part}.md")
        for kind in ("png", "svg"):
            copyfile(path / f"frontier.{kind}", HERE / f"{part}.{kind}")
    return read_rows(path / "frontier.csv")


def tokens_of(row: Row) -> int:
    """The length of its sequences: 40 of the exact part's law and 32 of the trained one's, whatever the weights."""
    return round(row.tokens_per_forward * row.nfe_mean)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pairs = [(part, seed) for part in options.parts for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: run(*pair), pairs))
    made = {part: publish(part, options.seeds) for part in options.parts}
    if "longer" in made:
        write_rows(HERE / "longer.csv", made.pop("longer"))
    if made:
        path = HERE / "rows.csv"
        rows = replace_rows(read_rows(path) if path.exists() else [], chain.from_iterable(made.values()), tokens_of)
        write_rows(path, sorted(rows, key=tokens_of, reverse=True))


if __name__ == "__main__":
    run_script(main)
