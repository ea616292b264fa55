"""The frontier as a figure: accuracy against denoiser evaluations, counted.

Knows points and matplotlib's objects (no pyplot: nothing global, nothing that needs a screen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_mdm.outcomes import Row
from lightning_mdm.report.looks import Look, looks
from lightning_mdm.report.points import Point, by_name, by_panel, is_adaptive, panel_titles, pool_seeds
from lightning_mdm.report.style import draw_curve, evaluations_axis, legend_beside, panel_grid


def frontier_figure(rows: Iterable[Row]) -> Figure:
    """Accuracy (%) against mean NFE, one line per policy and its options, one panel per task, split and checkpoint.

    Bars are Wilson 95 % intervals; seeds are pooled. A panel of scores follows where the task has any. Filled markers
    and solid lines: policies that use their whole budget. Hollow markers and dashed lines: adaptive ones, whose
    evaluations are their own choice below the budget.

    Raises:
        ValueError: when there is no row.
    """
    points = pool_seeds(rows)
    panels = by_panel(points)
    styles = looks((point.name, point.policy) for point in points)
    titles = panel_titles(panels)
    drawn: list[tuple[str, list[Point], Value, str]] = []
    for panel, members in panels.items():
        drawn.append((titles[panel], members, _accuracy, "accuracy (%), bars: Wilson 95 % interval"))
        scored = [point for point in members if point.score is not None]
        if scored:
            drawn.append((titles[panel], scored, _score, "score (%), bars: 95 % interval of the mean"))
    figure, axes = panel_grid(len(drawn))
    for axis, (title, members, value, label) in zip(axes, drawn, strict=True):
        _draw(axis, members, styles, value)
        axis.set_ylabel(label)
        axis.set_title(title, fontsize=10, loc="left")
    legend_beside(figure, "solid: the whole budget used\nhollow, dashed: adaptive")
    return figure


Value: TypeAlias = Callable[[Point], tuple[float, float, float]]  # a number and its interval, as fractions


def _accuracy(point: Point) -> tuple[float, float, float]:
    return point.accuracy, point.low, point.high


def _score(point: Point) -> tuple[float, float, float]:
    assert point.score is not None
    return point.score, max(0.0, point.score - point.score_error), min(1.0, point.score + point.score_error)


def _draw(axis: Axes, points: Sequence[Point], styles: dict[str, Look], value: Value) -> None:
    lowest, highest = 100.0, 0.0
    for name, curve in by_name(points).items():
        curve = sorted(curve, key=lambda point: (point.nfe_mean, point.T))
        middle, low, high = (
            [100 * part for part in parts] for parts in zip(*(value(point) for point in curve), strict=True)
        )
        bars = [
            [y - least for y, least in zip(middle, low, strict=True)],
            [most - y for y, most in zip(middle, high, strict=True)],
        ]
        draw_curve(axis, [point.nfe_mean for point in curve], middle, bars, name, styles[name], is_adaptive(curve))
        lowest, highest = min(lowest, *low), max(highest, *high)
    margin = 0.04 * max(highest - lowest, 5.0)
    axis.set_ylim(max(lowest - margin, -2.0), min(highest + margin, 102.0))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    evaluations_axis(axis, max(point.T for point in points))
