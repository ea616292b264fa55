"""What the orders of runs cost in nats, and their bounds: read from all of them, every cell once.

Knows run directories and rows; knows nothing of how they are shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_mdm.outcomes import ORDER_BOUNDS, ORDER_NATS, BoundRow, OrderRow, Row, read_bound_rows, read_order_rows
from lightning_mdm.report.together import AnyOrderRow, orders_together

# Another machine rounds otherwise, by which a draw may fall otherwise here and there; of the same problems and order
# that is no more than this share of the nats, or than so many.
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

    A cell that several runs hold counts once, that over the most problems. In a run with a frontier, rows of a denoiser
    or of a selector that it does not name are left out: they are of an earlier training. So are bounds of a denoiser
    over other problems, or over another encoding of them, than those found first.

    Args:
        run_dirs: run directories.
        rows: of their ``frontier.csv``.

    Raises:
        ValueError: a file that cannot be read, or two runs that disagree on a cell over as many problems.
    """
    directories = list(dict.fromkeys(map(Path, run_dirs)))
    selectors: dict[str, set[str | None]] = {}
    for decoded in rows:
        selectors.setdefault(decoded.checkpoint, set()).add(_selector(decoded.options))
    notes: list[str] = []

    def found(name: str, read: Callable[[Path], list[AnyOrderRow]]) -> list[tuple[AnyOrderRow, Path]]:
        result = []
        for directory in directories:
            here = read(directory / name) if (directory / name).is_file() else []
            alone = not (directory / "frontier.csv").is_file()
            kept = [row for row in here if alone or _of_these(row, selectors)]
            if len(kept) < len(here):
                notes.append(
                    f"{directory.resolve().name} has rows of other weights in {name} than in frontier.csv: they are "
                    "left out."
                )
            result += [(row, directory) for row in kept]
        return result

    costs, bounds = found(ORDER_NATS, read_order_rows), found(ORDER_BOUNDS, read_bound_rows)
    evaluated: dict[tuple[str, str, str], tuple[str, Path]] = {}
    comparable = []
    for row, directory in bounds:
        data, where = evaluated.setdefault((row.task, row.split, row.checkpoint), (row.data, directory))
        if data == row.data:
            comparable.append((row, directory))
        else:
            notes.append(
                f"{directory.resolve().name} has bounds over other {row.split} problems of {row.task} than "
                f"{where.resolve().name}, or over another encoding of them: they are left out."
            )
    return Orders(
        _once(costs, lambda row: (row.n,), lambda row: (row.nats,)),
        _once(comparable, lambda row: (row.n, row.samples), lambda row: (row.bound_nats, row.importance_weighted_nats)),
        list(dict.fromkeys(notes)),
    )


def _selector(options: str) -> str | None:
    """Content hash of the selector that options name, if any."""
    selector: str | None = json.loads(options).get("selector")
    return selector


def _of_these(row: OrderRow | BoundRow, selectors: Mapping[str, set[str | None]]) -> bool:
    """Whether a row is of a denoiser of the frontier and, where that names selectors of it, of one of these."""
    named = selectors.get(row.checkpoint, set()) - {None}
    return row.checkpoint in selectors and (not named or _selector(row.options) in {None, *named})


def _agree(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING) or (math.isnan(one) and math.isnan(other))


def _once(
    found: Iterable[tuple[AnyOrderRow, Path]],
    size: Callable[[AnyOrderRow], tuple[int, ...]],
    result: Callable[[AnyOrderRow], tuple[float, ...]],
) -> list[AnyOrderRow]:
    """Every cell once, that of the largest size; those of one size have to agree on the result."""
    cells: dict[tuple[object, ...], tuple[AnyOrderRow, Path]] = {}
    for row, directory in found:
        cell = (row.task, row.split, row.checkpoint, row.policy, row.options, row.T, row.seed)
        known, where = cells.setdefault(cell, (row, directory))
        if size(row) > size(known):
            cells[cell] = row, directory
        elif size(row) == size(known) and not all(map(_agree, result(known), result(row))):
            raise ValueError(
                f"{where} and {directory} disagree on what the order of {row.policy} {row.options} costs at T={row.T}, "
                f"seed {row.seed}, of {row.task}/{row.split}: {result(known)[0]:.2f} against {result(row)[0]:.2f} "
                f"nats over {row.n} problems. They evaluated different problems or code: report them apart"
            )
    return [row for row, _ in cells.values()]
