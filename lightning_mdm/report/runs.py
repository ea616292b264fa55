"""Reads the rows of runs and writes the report beside them: what ``lightning report RUN...`` does.

Knows run directories; knows no model, no GPU and not the Trainer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os.path import commonpath
from pathlib import Path
from shutil import copyfile
from typing import Any

from rich.console import Console

from lightning_mdm.outcomes import (
    ORDER_BOUNDS,
    ORDER_NATS,
    OutcomeRow,
    Row,
    read_outcomes,
    read_rows,
    write_bound_rows,
    write_order_rows,
    write_rows,
)
from lightning_mdm.outcomes.table import write_table
from lightning_mdm.report.figure import frontier_figure
from lightning_mdm.report.markdown import report_markdown
from lightning_mdm.report.order_bounds import order_bounds_markdown, report_order_bounds
from lightning_mdm.report.order_nats import order_nats_markdown, report_order_nats
from lightning_mdm.report.orders import has_orders, read_orders
from lightning_mdm.report.paired import EqualNfeRow, PairRow, at_equal_evaluations, every_pair, solved_pairs
from lightning_mdm.report.points import by_panel, competitors, pool_seeds
from lightning_mdm.report.published import PublishedRow, beside_table, nothing_beside, read_published
from lightning_mdm.report.style import save_figure
from lightning_mdm.report.tables import frontier_table, print_table
from lightning_mdm.report.together import together

REPORT = ("frontier.csv", "paired.csv", "equal_nfe.csv", "frontier.png", "frontier.svg", "report.md")
ORDERS = tuple(f"{Path(name).stem}{kind}" for name in (ORDER_NATS, ORDER_BOUNDS) for kind in (".csv", ".png", ".svg"))
"""What a report on runs that know what their orders cost has beside that."""


@dataclass(frozen=True)
class Runs:
    """The rows of several runs, every cell once.

    Args:
        rows: of ``frontier.csv``.
        outcomes: of ``outcomes.csv``, for the runs that have one.
        notes: remarks for the reader.
        names: by checkpoint, the end of the directory that holds all it was read from, as far as it tells denoisers
            apart; not of several that share one.
    """

    rows: list[Row]
    outcomes: list[OutcomeRow]
    notes: list[str]
    names: dict[str, str]


def read_runs(run_dirs: Iterable[str | Path]) -> Runs:
    """Reads one or more run directories.

    A cell that several runs hold counts once, if they agree on it.

    Raises:
        ValueError: no run, a directory that is missing or a file, has no ``frontier.csv`` or no rows, a file that
            cannot be read, or two runs of one checkpoint that decoded different problems or disagree on a cell.
    """
    directories = list(dict.fromkeys(Path(run) for run in run_dirs))
    if not directories:
        raise ValueError("name at least one run directory: lightning report RUN...")
    rows: dict[tuple[Any, ...], tuple[Row, Path]] = {}
    outcomes: list[OutcomeRow] = []
    notes = []
    read: dict[str, list[Path]] = {}
    decoded: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for directory in directories:
        here = _rows(directory)
        for row in here:
            panel = (row.task, row.split, row.checkpoint)
            problems, where = decoded.setdefault(panel, (row.problems, directory)) if row.problems else ("", directory)
            if problems != row.problems:
                raise ValueError(
                    f"{where} and {directory} decoded different {row.split} problems of {row.task}, so nothing can be "
                    "compared: report them apart"
                )
            read.setdefault(row.checkpoint, []).append(directory.resolve())
            known, where = rows.setdefault(_cell(row), (row, directory))
            if _result(known) != _result(row):
                raise ValueError(
                    f"{where} and {directory} disagree on {row.policy} {row.options} at T={row.T}, seed {row.seed}, of "
                    f"{row.task}/{row.split}: {known.correct} of {known.n} against {row.correct} of {row.n} correct. "
                    "They decoded different problems or code: report them apart"
                )
        if not (directory / "outcomes.csv").exists():
            notes.append(f"{directory.resolve().name} has no outcomes.csv: its rows are missing from the paired tests.")
            continue
        own = read_outcomes(directory / "outcomes.csv")
        outcomes += own
        decided = Counter(map(_cell, own))
        lacking = sum(decided[_cell(row)] < row.n for row in here)
        if lacking:
            notes.append(
                f"{directory.resolve().name} has not all outcomes of {lacking} of its {len(here)} rows: what is "
                "missing in outcomes.csv is missing from the paired tests."
            )
    found = {checkpoint: Path(commonpath(folders)) for checkpoint, folders in read.items()}
    counted = Counter(found.values())
    ends = _ends(list(counted))
    names = {checkpoint: ends[folder] for checkpoint, folder in found.items() if counted[folder] == 1}
    return Runs([row for row, _ in rows.values()], outcomes, notes, names)


def _ends(folders: Sequence[Path]) -> dict[Path, str]:
    """The last parts of different paths, as many as tell them apart."""
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return {folder: "/".join(folder.parts[-depth:]) for folder in folders}


def write_report(run_dirs: Sequence[str | Path], out_dir: str | Path) -> Path:
    """Writes the report into ``out_dir``.

    These are ``frontier.csv`` (all runs), ``paired.csv``, ``equal_nfe.csv``, the figure (png, svg) and ``report.md``.
    They are of the frontier alone: a sweep evaluates what orders cost on its own account, and draws it itself.

    Returns:
        The path of ``report.md``.

    Raises:
        ValueError: as :func:`read_runs`.
    """
    return _write(read_runs(run_dirs), Path(out_dir))


def report(run_dirs: list[str], out: str | None = None, one_panel: bool = False, published: str | None = None) -> None:
    """Prints the frontier of one or more runs as a table, writes the report and prints its path.

    Likewise what their orders cost in nats and their bounds, where the runs have them; a run may have these alone.

    Args:
        run_dirs: run directories, each with a frontier.csv, an order_nats.csv or an order_bounds.csv.
        out: where to write. Default: the run's own directory; of several runs, ``report`` beside the first.
        one_panel: show all denoisers of a task and split together, rather than each in a panel of its own; see
            ``together``. The rows written stay what they are.
        published: a file of a paper's rows to show ours beside; see ``published.py``.

    Raises:
        ValueError: ``out`` is one of several runs, or another run; as :func:`read_runs`, ``read_orders``, ``together``
            or ``read_published``.
    """
    run_dirs = list(dict.fromkeys(run_dirs))
    first, runs_of = Path(run_dirs[0]), {Path(run).resolve() for run in run_dirs}
    default = first if len(runs_of) == 1 else first.parent / "report"
    target = Path(out) if out is not None else default
    if len(runs_of) > 1 and target.resolve() in runs_of:
        raise ValueError(f"out={target} is one of the runs, whose own rows those of all would replace; give another")
    if target.resolve() not in runs_of and (swept := _left_by_a_run(target)):
        raise ValueError(
            f"out={target} holds {swept}, as a run leaves it, whose own rows the report would replace; give another"
        )
    theirs = [] if published is None else read_published(published)
    decoded = [run for run in run_dirs if (Path(run) / "frontier.csv").is_file() or not has_orders(Path(run))]
    apart = read_runs(decoded) if decoded else Runs([], [], [], {})
    orders_apart = read_orders(run_dirs, apart.rows)
    if not (apart.rows or orders_apart.costs or orders_apart.bounds):
        which = f"run {first} has" if len(run_dirs) == 1 else f"runs {', '.join(map(str, run_dirs))} have"
        raise ValueError(f"{which} no rows: finish {'its sweep' if len(run_dirs) == 1 else 'their sweeps'} first")
    notes = [
        f"{Path(run).resolve().name} has no frontier.csv: it adds what orders cost alone."
        for run in run_dirs
        if decoded and run not in decoded
    ]
    if published is not None:
        notes += nothing_beside(apart.rows, theirs, Path(published).name)
    runs, orders = replace(apart, notes=[*apart.notes, *notes, *orders_apart.notes]), orders_apart
    if one_panel:
        rows, outcomes = together(apart.rows, apart.outcomes, apart.names)
        runs, orders = replace(runs, rows=rows, outcomes=outcomes), orders.together(apart.rows, apart.names)
    _show(runs, theirs)
    sections = [*order_nats_markdown(orders.costs, runs.rows), *order_bounds_markdown(orders.bounds, runs.rows)]
    path = _write(runs, target, theirs, sections)
    if runs.rows:
        write_rows(path.with_name("frontier.csv"), apart.rows)
    if orders.costs:
        report_order_nats(orders.costs, target, runs.rows)
    if orders.bounds:
        report_order_bounds(orders.bounds, target, runs.rows)
    if target.resolve() not in runs_of:  # a run keeps its own rows, be they of an earlier training
        if orders.costs:
            write_order_rows(target / ORDER_NATS, orders_apart.costs)
        if orders.bounds:
            write_bound_rows(target / ORDER_BOUNDS, orders_apart.bounds)
        # No run has written there: what an earlier report has left is not of these.
        said = {"frontier": runs.rows, "order_nats": orders.costs, "order_bounds": orders.bounds}
        stale = [stem for stem, shown in said.items() if not shown]
        for name in (*REPORT, *ORDERS):
            if Path(name).stem in stale or (not runs.rows and name in ("paired.csv", "equal_nfe.csv")):
                (target / name).unlink(missing_ok=True)
    print(path)


def show_report(run_dir: str | Path) -> None:
    """Prints a run's frontier as a table and the path of its report, which ``write_report`` has written.

    Raises:
        ValueError: as :func:`read_runs`.
    """
    _show(read_runs([run_dir]))
    print(Path(run_dir) / REPORT[-1])


def keep(report_dir: Path, folder: Path, suffix: str = "") -> None:
    """Copies the files of a report to ``folder``, the rows as ``rows.csv``, each with ``suffix`` after its stem.

    What orders cost is among them where the report has it.
    """
    text = (report_dir / "report.md").read_text(encoding="utf-8")
    decoded = REPORT if (report_dir / "frontier.csv").is_file() else ("report.md",)
    for name in (*decoded, *(name for name in ORDERS if f"({Path(name).stem}.png)" in text)):
        kept = Path("rows.csv" if name == "frontier.csv" else name)
        path = folder / f"{kept.stem}{suffix}{kept.suffix}"
        if kept.suffix == ".md":  # shows the figures that lie beside it
            path.write_text(re.sub(r"\((\w+)\.png\)", rf"(\g<1>{suffix}.png)", text), encoding="utf-8")
        else:
            copyfile(report_dir / name, path)


def keep_seeds(report_dir: Path, folder: Path, suffix: str) -> None:
    """Keeps the report on several seeds of a training as ``keep`` does; what is there of more seeds stays."""
    kept = folder / f"rows{suffix}.csv"
    before = {row.seed for row in read_rows(kept)} if kept.is_file() else set()
    missing = sorted(before - {row.seed for row in read_rows(report_dir / "frontier.csv")})
    if missing:
        print(f"{kept} stays: it is of seed {', '.join(map(str, missing))}, too, whose run is not here")
        return
    keep(report_dir, folder, suffix)


def _left_by_a_run(directory: Path) -> str | None:
    """The name of something that runs, or joined seeds, leave in their directory and reports do not; if any."""
    found = [path for name in ("outcomes.csv", "cells", "*.yaml") for path in sorted(directory.glob(name))]
    return found[0].name if found else None


def _rows(directory: Path) -> list[Row]:
    if directory.is_file():
        raise ValueError(f"run {directory} is a file: give the directory that it is in, {directory.parent}")
    if not directory.is_dir():
        raise ValueError(f"run {directory} does not exist: give the directory that a sweep printed as its last line")
    if not (directory / "frontier.csv").is_file():
        raise ValueError(f"run {directory} has no frontier.csv: finish its sweep first, or give another directory")
    rows = read_rows(directory / "frontier.csv")
    if not rows:
        raise ValueError(f"run {directory} has no rows in frontier.csv: finish its sweep first")
    return rows


def _cell(row: Row | OutcomeRow) -> tuple[Any, ...]:
    return row.task, row.split, row.checkpoint, row.policy, row.options, row.T, row.seed


def _result(row: Row) -> tuple[Any, ...]:
    # Time, device and commit may differ between two runs of one cell; what was decoded may not.
    return row.n, row.correct, round(row.nfe_mean, 9), row.nfe_min, row.nfe_max, round(row.tokens_per_forward, 9)


def _show(runs: Runs, published: Sequence[PublishedRow] = ()) -> None:
    console = print_table(frontier_table(runs.rows)) if runs.rows else Console()
    for points in by_panel(pool_seeds(runs.rows) if runs.rows else []).values():
        comparison = beside_table(points, published)
        if comparison is not None:
            console.print(comparison)
    for note in runs.notes:
        console.print(f"note: {note}", style="yellow", markup=False)


def _write(runs: Runs, out_dir: Path, published: Sequence[PublishedRow] = (), orders: Sequence[str] = ()) -> Path:
    out_dir.mkdir(parents=True, exist_ok=True)
    solved = solved_pairs(runs.outcomes)
    if runs.rows:
        figure = frontier_figure(runs.rows)
        panels = by_panel(competitors(pool_seeds(runs.rows))).values()
        write_table(out_dir / "paired.csv", PairRow, [row for points in panels for row in every_pair(points, solved)])
        equal = [row for points in panels for row in at_equal_evaluations(points, solved)]
        write_table(out_dir / "equal_nfe.csv", EqualNfeRow, equal)
        write_rows(out_dir / "frontier.csv", runs.rows)
        save_figure(figure, out_dir / "frontier")
    path = out_dir / "report.md"
    path.write_text(report_markdown(runs.rows, solved, runs.notes, published, orders), encoding="utf-8")
    return path
