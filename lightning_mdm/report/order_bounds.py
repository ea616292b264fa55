"""The bounds of orders on -log p(x) in nats, as a figure, a table and a section of the report, with the optimum.

Knows points, matplotlib's objects and rich; knows nothing of estimators.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from lightning_mdm.outcomes import BoundRow, Row
from lightning_mdm.report.bound_points import BoundPoint, bound_points
from lightning_mdm.report.looks import Look
from lightning_mdm.report.markdown import orders_markdown
from lightning_mdm.report.panels import least_markdown, least_table, optimum_curve, panels_figure, plus_minus
from lightning_mdm.report.points import by_name
from lightning_mdm.report.style import draw_curve, draw_optimum, save_figure, steps_axis
from lightning_mdm.report.tables import bold, panels_table, print_table

_LEGEND = "solid: bound\ndashed: importance-weighted"
_CAPTION = (
    "nats per sequence: bound on -log p(x) ± its standard error; iw: importance-weighted bound; bold: least at this T"
)

_TEXT = (
    "Bound on -log p(x), in nats per sequence, ± standard error; iw: the importance-weighted bound, of {samples} "
    "trajectories of each problem. Bold: least at this T. Seeds are pooled; since they evaluate the same problems "
    "again, they do not narrow the error."
)


def order_bounds_figure(rows: Iterable[BoundRow], beside: Iterable[Row] = ()) -> Figure:
    """Nats per sequence against the budget T, a line per policy and price; a panel as in the frontier.

    The bound with its standard errors, the importance-weighted one lighter and dashed, the optimum in black. Seeds are
    pooled. Points of infinitely many nats are left out. ``beside`` is that of ``bound_points``.

    Raises:
        ValueError: when there is no row.
    """
    return panels_figure(bound_points(rows, beside), _draw, _LEGEND)


def order_bounds_table(rows: Iterable[BoundRow], beside: Iterable[Row] = ()) -> Table:
    """Policies by step budgets, the optimum last; one table per task, split and checkpoint, stacked.

    Raises:
        ValueError: when there is no row.
    """
    return panels_table(bound_points(rows, beside), partial(least_table, cell=_cell), _CAPTION)


def report_order_bounds(rows: Sequence[BoundRow], out_dir: Path, beside: Sequence[Row] = ()) -> None:
    """Print the table and write the figure, ``order_bounds.png`` and ``order_bounds.svg``."""
    save_figure(order_bounds_figure(rows, beside), out_dir / "order_bounds")
    print_table(order_bounds_table(rows, beside))


def order_bounds_markdown(rows: Sequence[BoundRow], beside: Iterable[Row] = ()) -> list[str]:
    """The section of the report, as lines; none without rows."""
    if not rows:
        return []
    figure = "![bounds against the step budget](order_bounds.png)"
    text = _TEXT.format(samples=" or ".join(map(str, sorted({row.samples for row in rows}))))
    table = partial(least_markdown, cell=_markdown)
    return orders_markdown("Bounds of orders", figure, text, bound_points(rows, beside), rows, table)


def _draw(axis: Axes, points: Sequence[BoundPoint], styles: Mapping[str, Look]) -> None:
    for name, curve in by_name(points).items():
        shown = [point for point in curve if math.isfinite(point.nats)]
        budgets, nats, bars = ([getattr(point, field) for point in shown] for field in ("T", "nats", "sem"))
        draw_curve(axis, budgets, nats, bars, name, styles[name], adaptive=False)
        tighter = [point for point in curve if math.isfinite(point.importance_weighted_nats)]
        axis.plot(
            [point.T for point in tighter],
            [point.importance_weighted_nats for point in tighter],
            color=styles[name].colour,
            linestyle="--",
            linewidth=1.2,
            marker=".",
            alpha=0.5,
            zorder=1.8,
        )
    draw_optimum(axis, optimum_curve(points))
    steps_axis(axis, max(point.T for point in points), "step budget T")
    axis.set_ylabel("nats per sequence, bars: standard error")


def _cell(point: BoundPoint, least: bool) -> Text:
    rest = f"{plus_minus(point.sem, '±')}\niw {point.importance_weighted_nats:.2f}"
    return Text.assemble((f"{point.nats:.2f}", "bold" if least else ""), (rest, "dim"))


def _markdown(point: BoundPoint, least: bool) -> str:
    bound = f"{bold(f'{point.nats:.2f}', least)}{plus_minus(point.sem, ' ± ')}"
    return f"{bound}, iw {point.importance_weighted_nats:.2f}"
