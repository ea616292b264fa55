"""What orders cost in nats, as a figure, a table and a section of the report, with the optimum where it is known.

Knows points, matplotlib's objects and rich; knows nothing of decoding.
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

from lightning_mdm.outcomes import OrderRow, Row
from lightning_mdm.report.looks import Look
from lightning_mdm.report.markdown import orders_markdown
from lightning_mdm.report.order_points import OrderPoint, order_points
from lightning_mdm.report.panels import least_markdown, least_table, optimum_curve, panels_figure, plus_minus
from lightning_mdm.report.points import by_name, is_adaptive
from lightning_mdm.report.style import (
    draw_curve,
    draw_optimum,
    evaluations_axis,
    save_figure,
)
from lightning_mdm.report.tables import bold, panels_table, print_table

_LEGEND = "solid: the whole budget used\nhollow, dashed: adaptive\noptimum: over the budget T"
_CAPTION = "nats per sequence: -log-likelihood of the true tokens along the order; @ mean NFE; bold: least at this T"

_TEXT = (
    "-log-likelihood of the true tokens along the order, in nats per sequence, ± standard error, @ mean NFE: denoiser "
    "evaluations per problem, counted. Bold: least at this T. Seeds are pooled; since they evaluate the same problems "
    "again, they do not narrow the error."
)


def order_nats_figure(rows: Iterable[OrderRow], beside: Iterable[Row] = ()) -> Figure:
    """Nats per sequence against mean NFE, one line per policy; the optimum over T in black; a panel as in the frontier.

    Bars are standard errors; seeds are pooled. Points of infinitely many nats are left out. ``beside`` is that of
    ``order_points``.

    Raises:
        ValueError: when there is no row.
    """
    return panels_figure(order_points(rows, beside), _draw, _LEGEND)


def order_nats_table(rows: Iterable[OrderRow], beside: Iterable[Row] = ()) -> Table:
    """Policies by step budgets, the optimum last; one table per task, split and checkpoint, stacked.

    Raises:
        ValueError: when there is no row.
    """
    return panels_table(order_points(rows, beside), partial(least_table, cell=_cell), _CAPTION)


def report_order_nats(rows: Sequence[OrderRow], out_dir: Path, beside: Sequence[Row] = ()) -> None:
    """Print the table and write the figure, ``order_nats.png`` and ``order_nats.svg``."""
    save_figure(order_nats_figure(rows, beside), out_dir / "order_nats")
    print_table(order_nats_table(rows, beside))


def order_nats_markdown(rows: Sequence[OrderRow], beside: Iterable[Row] = ()) -> list[str]:
    """The section of the report, as lines; none without rows."""
    if not rows:
        return []
    figure = "![nats against mean NFE](order_nats.png)"
    table = partial(least_markdown, cell=_markdown)
    return orders_markdown("What orders cost in nats", figure, _TEXT, order_points(rows, beside), rows, table)


def _draw(axis: Axes, points: Sequence[OrderPoint], styles: Mapping[str, Look]) -> None:
    for name, curve in by_name(points).items():
        shown = sorted(
            (point for point in curve if math.isfinite(point.nats)), key=lambda point: (point.nfe_mean, point.T)
        )
        nfe, nats, bars = ([getattr(point, field) for point in shown] for field in ("nfe_mean", "nats", "sem"))
        draw_curve(axis, nfe, nats, bars, name, styles[name], is_adaptive(curve))
    draw_optimum(axis, optimum_curve(points))
    evaluations_axis(axis, max(point.T for point in points))
    axis.set_ylabel("nats per sequence, bars: standard error")


def _cell(point: OrderPoint, least: bool) -> Text:
    return Text.assemble((f"{point.nats:.2f}", "bold" if least else ""), (f"\n@{point.nfe_mean:.2f}", "dim"))


def _markdown(point: OrderPoint, least: bool) -> str:
    return f"{bold(f'{point.nats:.2f}', least)}{plus_minus(point.sem, ' ± ')} @{point.nfe_mean:.2f}"
