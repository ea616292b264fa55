"""What the orders of runs cost in nats, and their bounds: read from all of them, every cell once.

Knows run directories and rows; knows nothing of how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_mdm.outcomes import ORDER_BOUNDS, ORDER_NATS, BoundRow, OrderRow, Row, read_bound_rows, read_order_rows
from lightning_mdm.report.together import AnyOrderRow, orders_together

# Another machine rounds otherwise, by which a draw may fall otherwise here and there; of the same problems and order
# that is no more than this share of the nats.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Orders:
    """The rows of several runs, every cell once.

    Args:
        costs: of ``order_nats.csv``, for the runs that have one.
        bounds: of ``order_bounds.csv``, likewise.
        notes: remarks for the reader.
    """

    costs: list[OrderRow]
    bounds: list[BoundRow]
    notes: list[str]

    def together(self, rows: Sequence[Row], names: Mapping[str, str]) -> Orders:
        """The same, as ``orders_together`` has it."""
        costs = orders_together(self.costs, rows, names)
        return replace(self, costs=costs, bounds=orders_together(self.bounds, rows, names))


def has_orders(directory: Path) -> bool:
    """Whether a run directory holds anything of what its orders cost."""
    return any((directory / name).is_file() for name in (ORDER_NATS, ORDER_BOUNDS))


def read_orders(run_dirs: Iterable[str | Path], rows: Iterable[Row]) -> Orders:
    """Reads what one or more run directories hold of their orders; nothing where they hold nothing.

    A cell that several runs hold counts once, that over the most problems. In a run with a frontier, rows of weights
    of which there is none are left out: they are of an earlier training.

    Args:
        run_dirs: run directories.
        rows: of their ``frontier.csv``.

    Raises:
        ValueError: a file that cannot be read, two runs that disagree on a cell over as many problems, or bounds of one
            checkpoint over different problems.
    """
    directories = list(dict.fromkeys(map(Path, run_dirs)))
    known = {row.checkpoint for row in rows}
    notes: list[str] = []

    def found(name: str, read: Callable[[Path], list[AnyOrderRow]]) -> list[tuple[AnyOrderRow, Path]]:
        result = []
        for directory in directories:
            here = read(directory / name) if (directory / name).is_file() else []
            decoded = (directory / "frontier.csv").is_file()
            kept = [row for row in here if not decoded or row.checkpoint in known]
            if len(kept) < len(here):
                notes.append(
                    f"{directory.resolve().name} has rows of other weights in {name} than in frontier.csv: they are "
                    "left out."
                )
            result += [(row, directory) for row in kept]
        return result

    costs, bounds = found(ORDER_NATS, read_order_rows), found(ORDER_BOUNDS, read_bound_rows)
    evaluated: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for row, directory in bounds:
        data, where = evaluated.setdefault((row.task, row.split, row.checkpoint), (row.data, directory))
        if data != row.data:
            raise ValueError(
                f"{where} and {directory} have bounds over different {row.split} problems of {row.task}, so nothing "
                "can be compared: report them apart"
            )
    return Orders(
        _once(costs, lambda row: (row.n,), lambda row: (row.nats, row.nfe_mean)),
        _once(bounds, lambda row: (row.n, row.samples), lambda row: (row.bound_nats, row.importance_weighted_nats)),
        notes,
    )


def _once(
    found: Iterable[tuple[AnyOrderRow, Path]],
    size: Callable[[AnyOrderRow], tuple[int, ...]],
    result: Callable[[AnyOrderRow], tuple[float, float]],
) -> list[AnyOrderRow]:
    """Every cell once, that of the largest size; those of one size have to agree on the result."""
    cells: dict[tuple[object, ...], tuple[AnyOrderRow, Path]] = {}
    for row, directory in found:
        cell = (row.task, row.split, row.checkpoint, row.policy, row.options, row.T, row.seed)
        known, where = cells.setdefault(cell, (row, directory))
        if size(row) > size(known):
            cells[cell] = row, directory
        elif size(row) == size(known) and not all(
            math.isclose(one, other, rel_tol=ROUNDING) for one, other in zip(result(known), result(row), strict=True)
        ):
            raise ValueError(
                f"{where} and {directory} disagree on what the order of {row.policy} {row.options} costs at T={row.T}, "
                f"seed {row.seed}, of {row.task}/{row.split}: {result(known)[0]:.2f} against {result(row)[0]:.2f} "
                f"nats over {row.n} problems. They evaluated different problems or code: report them apart"
            )
    return [row for row, _ in cells.values()]
