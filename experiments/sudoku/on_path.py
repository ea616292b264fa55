"""Is a denoiser better for its order once it is trained on states that this order visits?

python experiments/sudoku/on_path.py [--size SIZE] [--minutes M]

From the stored denoiser and order of a size on: ``joint`` trains both together in the states that the order's
posterior visits (``on_path.yaml``), ``own_draws`` in those of the selector's own draws; ``control`` trains the denoiser
for about as many rows as ``joint`` on masks drawn alike (``on_path_control.yaml``), then the order for as many updates,
with that denoiser frozen; ``start`` is none of them. Margin and the learned order decode easy and hard puzzles with
each. Give the same command until it says that all is complete; its exit status is 3 until then. ``medium`` takes hours
of a CPU core, ``paper`` (the 6M net) minutes of a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.metrics.statistics import Paired, holm, mcnemar
from lightning_mdm.modules.weight_parts import join_checkpoint
from lightning_mdm.outcomes import Row, read_outcomes, read_rows, write_rows
from lightning_mdm.slices import (
    NO_BOUNDS,
    Clock,
    Fit,
    Sweep,
    last_of,
    layers,
    not_complete,
    run_all,
    run_script,
    steps_of,
)

HERE = Path(__file__).parent
CONFIGS = Path("configs/sudoku")
ARMS = ("start", "control", "joint", "own_draws")
JOINT = ("joint", "own_draws")
COMPARED = (("joint", "control"), ("own_draws", "control"), ("own_draws", "joint"))
OWN_DRAWS = ("--model.posterior.family", "selector")
BUDGETS = {"easy": (2, 4, 8), "hard": (4, 8, 16)}  # hardly any hard puzzle is solved with two steps
N_TEST = {"easy": 1000, "hard": 500}
POLICIES = {"top_margin": "top margin", "learned": "learned"}


@dataclass(frozen=True)
class Size:
    """Which denoiser and order to start from, and how they were trained.

    Args:
        suffix: of the stored weights' names.
        over: the configuration files that lie over those of the paper's size.
        options: of every stage.
    """

    suffix: str
    over: tuple[str, str] | tuple[()] = ()
    options: tuple[str, ...] = ()

    def denoiser(self, *more: str) -> tuple[str, ...]:
        """Options of a denoiser's training."""
        return (*of_files("denoiser", *self.over[:1], *more), *self.options)

    def order(self, *more: str) -> tuple[str, ...]:
        """Options of an order's training, or of decoding."""
        return (*of_files("order", *self.over[1:], *more), *self.options)


SIZES = {
    "medium": Size("medium", ("medium", "order_medium"), ("--trainer.precision", "32-true")),
    "paper": Size("6m"),
}


def of_files(*names: str) -> tuple[str, ...]:
    return layers(*(CONFIGS / f"{name}.yaml" for name in names))


def stages(size: Size, run_dir: Path) -> list[tuple[str, Fit | Sweep]]:
    """All trainings, then all sweeps.

    Args:
        size: see ``Size``.
        run_dir: of all stages; it holds the weights to start from.
    """
    weights = run_dir / "denoiser.safetensors"
    start = ("--model.init_from", str(HERE / f"order_{size.suffix}.safetensors"))
    steps = steps_of(CONFIGS / "on_path.yaml")
    frozen = ("--model.denoiser", "frozen", "--model.denoiser_learning_rate", "null")
    control = last_of(run_dir / "control")
    fits = {
        "joint": Fit(
            run_dir / "joint", steps, (*size.order("on_path"), *start, "--model.denoiser_ckpt", str(weights))
        ),
        "own_draws": Fit(
            run_dir / "own_draws", steps,
            (*size.order("on_path"), *start, *OWN_DRAWS, "--model.denoiser_ckpt", str(weights)),
        ),
        "control": Fit(
            run_dir / "control", steps_of(CONFIGS / "on_path_control.yaml"),
            (*size.denoiser("on_path_control"), "--model.init_from", str(weights)),
        ),
        "control_order": Fit(
            run_dir / "control_order", steps,
            (*size.order("on_path"), *start, *frozen, "--model.denoiser_ckpt", str(control)),
        ),
    }  # fmt: skip
    found = {
        "start": (*start, "--model.denoiser_ckpt", str(weights)),
        "control": ("--ckpt_path", str(fits["control_order"].last)),
        "joint": ("--ckpt_path", str(fits["joint"].last)),
        "own_draws": (*OWN_DRAWS, "--ckpt_path", str(fits["own_draws"].last)),
    }
    sweeps = {
        (arm, split): Sweep(
            run_dir / arm / split,
            (
                *size.order("on_path"), *(() if arm in JOINT else frozen), *found[arm], *NO_BOUNDS,
                "--data.test_difficulty", split, "--data.n_test", str(N_TEST[split]),
                "--frontier.budgets", str(list(BUDGETS[split])),
            ),
        )
        for arm in ARMS
        for split in BUDGETS
    }  # fmt: skip
    return [*fits.items(), *((f"{arm}, {split}", sweep) for (arm, split), sweep in sweeps.items())]


def publish(run_dir: Path, suffix: str) -> None:
    """Rows and the table of this folder."""
    rows = {
        arm: [row for split in BUDGETS for row in read_rows(run_dir / arm / split / "frontier.csv")] for arm in ARMS
    }
    solved = {
        arm: {
            (row.split, row.policy, row.T, row.problem): row.correct
            for split in BUDGETS
            for row in read_outcomes(run_dir / arm / split / "outcomes.csv")
        }
        for arm in ARMS
    }
    write_rows(HERE / f"rows_on_path_{suffix}.csv", [row for arm in ARMS for row in rows[arm]])
    (HERE / f"on_path_{suffix}.md").write_text(table(rows, solved), encoding="utf-8")


Solved = dict[tuple[str, str, int, int], bool]


def table(rows: dict[str, list[Row]], solved: dict[str, Solved]) -> str:
    """Puzzles solved by every arm, and the paired tests of those that are compared.

    Args:
        rows: by arm.
        solved: by arm: whether (split, policy, T, problem) is.
    """
    cells = {arm: {(row.split, row.policy, row.T): row for row in rows[arm]} for arm in ARMS}
    lines = [
        "Puzzles solved, % [Wilson 95 %] and mean NFE.",
        "",
        f"| puzzles | policy | T | {' | '.join(map(named, ARMS))} |",
        f"|---|---|---|{'---|' * len(ARMS)}",
    ]
    for split, policy, budget in sorted(cells[ARMS[0]]):
        each = [cells[arm][split, policy, budget] for arm in ARMS]
        where = f"{split} (n = {each[0].n}) | {POLICIES[policy]} | {budget}"
        lines.append(f"| {where} | {' | '.join(map(said_of, each))} |")
    lines += [
        "",
        "Puzzles that only one of two solves, exact McNemar test, and that p Holm-corrected over all lines of the two.",
        "",
        "| compared | puzzles | policy | T | only the first | only the second | p | corrected |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one, other in COMPARED:
        pairs = {cell: of_cell(solved[one], solved[other], cell) for cell in sorted(cells[one])}
        corrected = holm([pair.p_value for pair in pairs.values()])
        for ((split, policy, budget), pair), p in zip(pairs.items(), corrected, strict=True):
            lines.append(
                f"| {named(one)}, {named(other)} | {split} (n = {pair.n}) | {POLICIES[policy]} | {budget} | "
                f"{pair.only_a} | {pair.only_b} | {pair.p_value:.2g} | {p:.2g} |"
            )
    weights = ", ".join(f"{named(arm)} `{rows[arm][0].checkpoint}`" for arm in ARMS)
    commits = ", ".join(sorted({f"`{row.commit}`" for arm in ARMS for row in rows[arm]}))
    return "\n".join([*lines, "", f"Weights: {weights}. Commit: {commits}.", ""])


def named(arm: str) -> str:
    return arm.replace("_", " ")


def of_cell(first: Solved, second: Solved, cell: tuple[str, str, int]) -> Paired:
    """The paired test of a cell's problems."""
    one, other = ({key[3]: right for key, right in arm.items() if key[:3] == cell} for arm in (first, second))
    return mcnemar(one, other)


def said_of(row: Row) -> str:
    return f"{100 * row.accuracy:.1f} [{100 * row.accuracy_low:.1f}, {100 * row.accuracy_high:.1f}] @{row.nfe_mean:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="paper")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of this slice; without end if not given")
    parser.add_argument("--runs", type=Path, default=Path("runs/sudoku_on_path"), help="where runs are kept, by size")
    options = parser.parse_args(arguments)
    size, run_dir = SIZES[options.size], options.runs / options.size
    if not (run_dir / "denoiser.safetensors").is_file():
        join_checkpoint(HERE / f"weights_{size.suffix}", run_dir)
    if not run_all(stages(size, run_dir), Clock(options.minutes)):
        not_complete()
    publish(run_dir, size.suffix)
    print("all is complete")


if __name__ == "__main__":
    run_script(main)
