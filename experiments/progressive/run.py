"""What does a denoiser learn from the masks that a policy leaves, in place of random ones?

python experiments/progressive/run.py [--parts scratch further] [--seeds 0 1 2] [--jobs N]

L&O-NAE-SAT with 8 latents and 24 observations. From nothing (``scratch``), denoisers are trained on random masks and on
those that chains of top margin and of left to right leave. Then an order is learned for that of random masks, which
goes on (``further``) on random masks (``more``) or on those that this order leaves (``along``); that order decodes with
all three. All updates hold about 64 rows. What is complete is not repeated, what was stopped goes on, and all that is
complete is published.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lightning_mdm.metrics.statistics import holm, sign_by_problem
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.outcomes import Row, read_outcomes, read_rows, write_rows
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import NO_BOUNDS, Clock, Fit, Sweep, last_of, layers, run_all, run_script, seeded

HERE = Path(__file__).parent
RUNS = Path("runs/progressive")
DENOISER = layers("configs/nae_sat/denoiser.yaml", "configs/nae_sat/small.yaml")
ORDER = layers("configs/nae_sat/order.yaml", "configs/nae_sat/order_small.yaml")
UPDATES, TWO_STEPS, ALL_BUDGETS = 3000, 1000, 2000  # of a denoiser; of an order for two steps, and from there for all
BUDGETS, TEST = (2, 4, 8, 32), 500
HEURISTICS = "[IID, TopMargin, LeftToRight]"


@dataclass(frozen=True)
class Masks:
    """What a denoiser is trained on.

    Args:
        policy: that of the chains; ``None``: masks are random.
        budgets: of the chains.
        arrivals: rows that begin with every update, so that some 64 are under way.
        start: the denoiser to go on from; ``None``: from nothing.
    """

    policy: str | None = None
    budgets: tuple[int, ...] = ()
    arrivals: int = 64
    start: str | None = None


ARMS = {
    "random": Masks(),
    "top_margin": Masks("TopMargin", (4, 8, 16), 7),
    "left_to_right": Masks("LeftToRight", (4, 8, 16), 7),
    "more": Masks(start="random"),
    "along": Masks("Learned", (2, 4, 8), 14, start="random"),
}
KINDS = ("heuristics", "learned")
ORDERED = ("random", "more", "along")  # what the order of the first decodes with
PARTS = {"scratch": ("random", "top_margin", "left_to_right"), "further": ("more", "along")}
COMPARED = (("top_margin", "random"), ("left_to_right", "random"), ("along", "more"))


def run_of(arm: str, seed: int) -> Path:
    return RUNS / arm / f"seed_{seed}"


def order_of(seed: int) -> Path:
    """The order that was learned for the denoiser of random masks."""
    return run_of("random", seed) / "order.safetensors"


def denoise(arm: str, seed: int) -> Path:
    """Train a denoiser; its checkpoint."""
    masks, run_dir = ARMS[arm], run_of(arm, seed) / "denoiser"
    options = [*DENOISER, *seeded(seed), "--data.batch_size", str(masks.arrivals)]
    options += ["--trainer.val_check_interval", str(UPDATES)]
    if masks.policy is not None:
        options += ["--model.progressive.policy", masks.policy, "--model.progressive.budgets", str(list(masks.budgets))]
    if masks.start is not None:
        # Other problems than it began with, and half its rate.
        first = UPDATES * ARMS[masks.start].arrivals
        options += ["--model.init_from", str(last_of(run_of(masks.start, seed) / "denoiser"))]
        options += ["--model.learning_rate", "2.5e-3", "--data.first_slot", str(first)]
    if masks.policy == "Learned":
        options += ["--model.progressive.order_ckpt", str(order_of(seed))]
    fit = Fit(run_dir, UPDATES, tuple(options))
    run_all([(f"{arm}, seed {seed}, denoiser", fit)], Clock(float("inf")))
    return fit.last


def learn(arm: str, seed: int) -> None:
    """Learn the order of a denoiser, for two steps alone and then for more, and store it without the denoiser."""
    run_dir = run_of(arm, seed)
    options = (
        *ORDER, *seeded(seed), "--model.denoiser_ckpt", str(last_of(run_dir / "denoiser")), "--model.budgets",
        "[2, 4, 8]", "--trainer.val_check_interval", str(ALL_BUDGETS), "--frontier.fit_policies", "[]",
    )  # fmt: skip
    alone = Fit(run_dir / "two_steps", TWO_STEPS, (*options, "--model.budgets", "[2]", *NO_BOUNDS))
    if not run_all([(f"{arm}, seed {seed}, order of two steps", alone)], Clock(float("inf"))):
        raise ValueError(f"{run_dir}: the order of two steps is not complete; give the same command again")
    order = last_of(run_dir / "order")
    if not order.exists():  # it goes on from the other's checkpoint, in a directory of its own
        order.parent.mkdir(parents=True, exist_ok=True)
        order.write_bytes(alone.last.read_bytes())
    fit = Fit(order.parents[1], ALL_BUDGETS, (*options, *NO_BOUNDS))
    run_all([(f"{arm}, seed {seed}, order", fit)], Clock(float("inf")))
    if not order_of(seed).exists():
        OrderModule.load_from_checkpoint(order, map_location="cpu").save_order(order_of(seed))


def decode(arm: str, seed: int) -> None:
    """Decode the test problems with the heuristics, and, where there is one, with the order of the first denoiser."""
    run_dir = run_of(arm, seed)
    noise = (
        "--frontier.seeds", f"[{seed}]", "--frontier.budgets", str(list(BUDGETS)), "--data.n_test", str(TEST),
        "--data.eval_batch_size", "250",
    )  # fmt: skip
    denoiser = str(last_of(run_dir / "denoiser"))
    heuristics = (*DENOISER, "--frontier.policies", HEURISTICS, "--ckpt_path", denoiser)
    sweeps = [Sweep(run_dir / "heuristics", (*heuristics, *noise))]
    if arm in ORDERED and order_of(seed).exists():
        learned = (
            *ORDER, *NO_BOUNDS, "--order_nats.budgets", "[]", "--frontier.policies", "[Learned]",
            "--model.denoiser_ckpt", denoiser, "--model.init_from", str(order_of(seed)),
        )  # fmt: skip
        sweeps.append(Sweep(run_dir / "learned", (*learned, *noise)))
    run_all([(f"{arm}, seed {seed}, {sweep.run_dir.name}", sweep) for sweep in sweeps], Clock(float("inf")))


def complete(arm: str) -> dict[int, list[Path]]:
    """The seeds that have decoded with a denoiser, and the run directories of their rows."""
    found = {int(path.name.removeprefix("seed_")): path for path in sorted((RUNS / arm).glob("seed_*"))}
    each = {
        seed: [path / kind for kind in KINDS if (path / kind / "report.md").is_file()] for seed, path in found.items()
    }
    return {seed: runs for seed, runs in each.items() if runs}


def publish() -> None:
    """Rows and the table of this folder."""
    rows: dict[str, list[Row]] = {}
    solved: dict[str, dict[tuple[str, int, tuple[int, int]], bool]] = {}
    for arm in ARMS:
        if not (parts := complete(arm)):
            continue
        path = join_seeds(parts, RUNS / "joined" / arm, selector=arm)
        rows[arm] = read_rows(path / "frontier.csv")
        solved[arm] = {
            (one.policy, one.T, (one.seed, one.problem)): one.correct for one in read_outcomes(path / "outcomes.csv")
        }
    write_rows(HERE / "rows.csv", [row for of in rows.values() for row in of])
    (HERE / "table.md").write_text(table(rows, solved), encoding="utf-8")


def table(rows: dict[str, list[Row]], solved: dict[str, dict[tuple[str, int, tuple[int, int]], bool]]) -> str:
    """Sequences without any disagreement by arm, policy and budget, and the paired tests of those compared."""
    lines = ["Sequences without any disagreement, %, mean and each seed.", ""]
    lines += [f"| masks | policy | {' | '.join(f'T = {T}' for T in BUDGETS)} |", f"|---|---|{'---|' * len(BUDGETS)}"]
    for arm, of in rows.items():
        for policy in dict.fromkeys(row.policy for row in of):
            cells = []
            for T in BUDGETS:
                each = [100 * row.accuracy for row in of if (row.policy, row.T) == (policy, T)]
                cells.append(f"{sum(each) / len(each):.1f} ({', '.join(f'{one:.1f}' for one in each)})")
            lines.append(f"| {arm.replace('_', ' ')} | {policy.replace('_', ' ')} | {' | '.join(cells)} |")
    lines += [
        "",
        "Sequences that one of two gets right with more seeds, exact sign test, Holm-corrected over all lines.",
        "",
    ]
    lines += [
        "| compared | policy | T | the first | the second | p, corrected |",
        "|---|---|---|---|---|---|",
    ]
    pairs = {}
    for one, other in (pair for pair in COMPARED if rows.keys() >= set(pair)):
        for policy, T in dict.fromkeys((policy, T) for policy, T, _ in solved[one]):
            first, second = (
                {problem: right for (p, t, problem), right in solved[arm].items() if (p, t) == (policy, T)}
                for arm in (one, other)
            )
            if first and second:
                pairs[f"{one}, {other}".replace("_", " "), policy.replace("_", " "), T] = sign_by_problem(first, second)
    corrected = holm([pair.p_value for pair in pairs.values()])
    for ((compared, policy, T), pair), p in zip(pairs.items(), corrected, strict=True):
        lines.append(f"| {compared} | {policy} | {T} | {pair.only_a} | {pair.only_b} | {p:.2g} |")
    commits = ", ".join(sorted({f"`{row.commit}`" for of in rows.values() for row in of}))
    return "\n".join([*lines, "", f"Commit: {commits}.", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(options.jobs) as pool:

        def each(task: Callable[[str, int], object], arms: Sequence[str]) -> None:
            list(pool.map(lambda one: task(one[1], one[0]), product(options.seeds, arms)))

        if "scratch" in options.parts:
            each(denoise, PARTS["scratch"])
            each(decode, PARTS["scratch"])
        if "further" in options.parts:
            each(learn, ("random",))
            each(denoise, PARTS["further"])
            each(decode, ORDERED)
    publish()


if __name__ == "__main__":
    run_script(main)
