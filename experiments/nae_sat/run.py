"""Learn the order of L&O-NAE-SAT, for the exact posterior and for trained denoisers, and collect rows and figures.

python experiments/nae_sat/run.py [--parts exact trained longer] [--seeds 0 1 2] [--jobs N]

The order is learned for two steps alone first, several times, and from the one with the fewest nats on validation for
all budgets. What is complete is not repeated; what was stopped goes on. A seed is one of weights, noise and training
data, and of the noise of decoding. What every search has found goes to ``searches.csv``, the cost in nats of every
policy to ``order_nats.csv``, whole sequences to ``rows.csv``, where the rows of a part that is not run stay, and those
of the denoiser that trains for longer to ``longer.csv``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from shutil import copyfile

from lightning_mdm.outcomes import ORDER_NATS, Row, read_order_rows, read_rows, write_rows
from lightning_mdm.outcomes.table import read_table, replace_rows, write_table
from lightning_mdm.report import report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import NO_BOUNDS, last_of, layers, lightning, run_script, seeded

HERE = Path(__file__).parent
CONFIGS = Path("configs/nae_sat")
RUNS = Path("runs/nae_sat_learned")
LONGER = ("--trainer.max_steps", "12000", "--trainer.val_check_interval", "2000")  # of its denoiser
TWO_STEPS = "2000"  # updates of a search
SEARCHES = 3  # not every one finds the way (../LOG.md)
PARTS = ("exact", "trained", "longer")


@dataclass(frozen=True)
class Search:
    """What a search for the order of two steps has found.

    Args:
        part: of ``PARTS``.
        seed: of the part.
        search: its number, from 0.
        nats: -log p of a validation sequence along the order with two steps, mean.
        nats_sem: standard error of that mean.
    """

    part: str
    seed: int
    search: int
    nats: float
    nats_sem: float


def configs(*names: str) -> tuple[str, ...]:
    return layers(*(CONFIGS / f"{name}.yaml" for name in names))


def denoiser_of(part: str, seed: int) -> Path:
    return RUNS / f"seed_{seed}" / ("denoiser" if part == "trained" else f"denoiser_{part}")


def search_of(part: str, seed: int, search: int) -> Path:
    return RUNS / f"seed_{seed}" / part / f"search_{search}"


def options_of(part: str, seed: int) -> tuple[str, ...]:
    """What says what the order is learned for."""
    if part == "exact":
        return configs("order")
    return (*configs("order", "order_small"), "--model.denoiser_ckpt", str(last_of(denoiser_of(part, seed))))


def denoise(part: str, seed: int) -> None:
    """Train the denoiser of a part, if it is one that is trained."""
    if part != "exact":
        run_dir = denoiser_of(part, seed)
        lightning(
            "fit", *configs("denoiser", "small"), *(LONGER if part == "longer" else ()), *seeded(seed),
            "--run_dir", str(run_dir), "--ckpt_path", "last", log=run_dir.with_suffix(".log"),
        )  # fmt: skip


def find(part: str, seed: int, search: int) -> None:
    """Search for the order of two steps and see what it costs on validation."""
    run_dir, log = search_of(part, seed, search), search_of(part, seed, search).with_suffix(".log")
    options = (*options_of(part, seed), *seeded(seed + 100 * search), "--run_dir", str(run_dir))
    alone = ("--model.budgets", "[2]", "--trainer.max_steps", TWO_STEPS)
    lightning("fit", *options, *alone, "--ckpt_path", "last", log=log)
    if not (run_dir / ORDER_NATS).exists():
        only = ("--order_nats.budgets", "[2]", "--order_nats.policies", "[Learned]", "--frontier.fit_policies", "[]")
        lightning("validate", *options, *only, *NO_BOUNDS, "--ckpt_path", str(last_of(run_dir)), log=log)


def searches_of(part: str, seed: int) -> list[Search]:
    """What the searches of a part and seed have found."""
    found = []
    for search in range(SEARCHES):
        (row,) = read_order_rows(search_of(part, seed, search) / ORDER_NATS)
        found.append(Search(part, seed, search, row.nats, row.nats_sem))
    return found


def learn(part: str, seed: int) -> None:
    """Go on for all budgets from what the best search has found, and decode the test problems with every policy."""
    run_dir, log = RUNS / f"seed_{seed}" / part / "order", RUNS / f"seed_{seed}" / part / "order.log"
    best = min(searches_of(part, seed), key=lambda search: search.nats)
    print(f"{part}, seed {seed}: search {best.search} of {SEARCHES}, {best.nats:.2f} nats on validation", flush=True)
    options = (*options_of(part, seed), *seeded(seed), "--run_dir", str(run_dir))
    start = "last" if last_of(run_dir).exists() else str(last_of(search_of(part, seed, best.search)))
    lightning("fit", *options, "--ckpt_path", start, log=log)
    noise = ("--frontier.seeds", f"[{seed}]", "--order_nats.seeds", f"[{seed}]")
    lightning("sweep", *options, *NO_BOUNDS, *noise, "--ckpt_path", str(last_of(run_dir)), log=log)
    print(f"{part}, seed {seed}: complete", flush=True)


def publish(part: str, seeds: Sequence[int]) -> list[Row]:
    """The rows of a part, all seeds; its figures and reports go into this folder."""
    path = join_seeds({seed: [RUNS / f"seed_{seed}" / part / "order"] for seed in seeds}, RUNS / f"joined_{part}")
    report([str(path)])
    if part == "exact":
        for name in (ORDER_NATS, "order_nats.png", "order_nats.svg"):
            copyfile(path / name, HERE / name)
    else:
        copyfile(path / ORDER_NATS, HERE / f"{part}_order_nats.csv")
        text = (path / "report.md").read_text(encoding="utf-8")
        for stem, kept in (("frontier", part), ("order_nats", f"{part}_order_nats")):
            text = text.replace(f"({stem}.png)", f"({kept}.png)")
            for kind in ("png", "svg"):
                copyfile(path / f"{stem}.{kind}", HERE / f"{kept}.{kind}")
        (HERE / f"{part}.md").write_text(text, encoding="utf-8")
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
    pairs = list(product(options.parts, options.seeds))
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda pair: denoise(*pair), pairs))
        list(pool.map(lambda one: find(*one[0], one[1]), product(pairs, range(SEARCHES))))
        list(pool.map(lambda pair: learn(*pair), pairs))
    path = HERE / "searches.csv"
    found = [search for pair in pairs for search in searches_of(*pair)]
    earlier = read_table(path, Search) if path.exists() else []
    searches = replace_rows(earlier, found, lambda one: (one.part, one.seed))
    write_table(path, Search, sorted(searches, key=lambda one: (PARTS.index(one.part), one.seed, one.search)))
    made = {part: publish(part, options.seeds) for part in options.parts}
    if "longer" in made:
        write_rows(HERE / "longer.csv", made.pop("longer"))
    if made:
        path = HERE / "rows.csv"
        rows = replace_rows(read_rows(path) if path.exists() else [], chain.from_iterable(made.values()), tokens_of)
        write_rows(path, sorted(rows, key=tokens_of, reverse=True))


if __name__ == "__main__":
    run_script(main)
