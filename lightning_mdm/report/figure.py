"""The frontier as a figure: accuracy against denoiser evaluations, counted.

Knows points and matplotlib's objects (no pyplot: nothing global, nothing that needs a screen).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_mdm.outcomes import Row
from lightning_mdm.report.points import Point, by_name, by_panel, is_adaptive, pool_seeds
from lightning_mdm.report.style import COLOURS, MARKERS, draw_curve, evaluations_axis, legend_beside, panel_grid


def frontier_figure(rows: Iterable[Row]) -> Figure:
    """Accuracy (%) against mean NFE, one line per policy and its options, one panel per task, split and checkpoint.

    Bars are Wilson 95 % intervals; seeds are pooled. Filled markers and solid lines: policies that use their whole
    budget. Hollow markers and dashed lines: adaptive ones, whose evaluations are their own choice below the budget.

    Raises:
        ValueError: when there is no row.
    """
    points = pool_seeds(rows)
    panels = by_panel(points)
    styles = _styles(points)
    figure, axes = panel_grid(len(panels))
    for axis, (panel, members) in zip(axes, panels.items(), strict=True):
        _draw(axis, members, styles)
        axis.set_title(panel.title, fontsize=10, loc="left")
    legend_beside(figure, "solid: the whole budget used\nhollow, dashed: adaptive")
    return figure


def _draw(axis: Axes, points: Sequence[Point], styles: dict[str, tuple[str, str]]) -> None:
    lowest, highest = 100.0, 0.0
    for name, curve in by_name(points).items():
        curve = sorted(curve, key=lambda point: (point.nfe_mean, point.T))
        accuracy = [100 * point.accuracy for point in curve]
        # The interval of a pooled accuracy is rounded to whole problems and may miss it by a hair.
        bars = [
            [max(0.0, y - 100 * point.low) for y, point in zip(accuracy, curve, strict=True)],
            [max(0.0, 100 * point.high - y) for y, point in zip(accuracy, curve, strict=True)],
        ]
        draw_curve(axis, [point.nfe_mean for point in curve], accuracy, bars, name, styles[name], is_adaptive(curve))
        lowest = min(lowest, *(100 * point.low for point in curve))
        highest = max(highest, *(100 * point.high for point in curve))
    margin = 0.04 * max(highest - lowest, 5.0)
    axis.set_ylim(max(lowest - margin, -2.0), min(highest + margin, 102.0))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    evaluations_axis(axis, max(point.T for point in points))
    axis.set_ylabel("accuracy (%), bars: Wilson 95 % interval")


def _styles(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    return dict(zip(by_name(points), zip(cycle(COLOURS), cycle(MARKERS)), strict=False))
