"""The frontier as a figure: accuracy against denoiser evaluations, counted.

Knows points and matplotlib's objects (no pyplot: nothing global, nothing that needs a screen).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import cycle

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from lightning_mdm.outcomes import Row
from lightning_mdm.report.points import Point, by_name, by_panel, is_adaptive, pool_seeds

# Okabe and Ito's palette, told apart by the colour-blind; grey in place of its yellow, which is illegible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7F7F7F")
_MARKERS = ("o", "s", "^", "v", "D", "<", ">", "h", "p")


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
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.6 * columns + 2.4, 4.3 * lines), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    for i, (panel, members) in enumerate(panels.items()):
        axis = axes[i // columns][i % columns]
        _draw(axis, members, styles)
        axis.set_title(panel.title, fontsize=10, loc="left")
    for i in range(len(panels), lines * columns):
        axes[i // columns][i % columns].set_axis_off()
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    legend = figure.legend(
        handles=handles.values(),
        labels=handles.keys(),
        loc="outside right upper",
        title="solid: the whole budget used\nhollow, dashed: adaptive",
        alignment="left",
        title_fontsize=8,
        fontsize=9,
        frameon=False,
    )
    legend.get_title().set_color("0.35")
    return figure


def _draw(axis: Axes, points: Sequence[Point], styles: dict[str, tuple[str, str]]) -> None:
    lowest, highest = 100.0, 0.0
    for name, curve in by_name(points).items():
        curve = sorted(curve, key=lambda point: (point.nfe_mean, point.T))
        colour, marker = styles[name]
        adaptive = is_adaptive(curve)
        accuracy = [100 * point.accuracy for point in curve]
        axis.errorbar(
            [max(point.nfe_mean, 1e-3) for point in curve],
            accuracy,
            # The interval of a pooled accuracy is rounded to whole problems and may miss it by a hair.
            yerr=[
                [max(0.0, y - 100 * point.low) for y, point in zip(accuracy, curve, strict=True)],
                [max(0.0, 100 * point.high - y) for y, point in zip(accuracy, curve, strict=True)],
            ],
            label=name,
            color=colour,
            marker=marker,
            markersize=6,
            markerfacecolor="white" if adaptive else colour,
            markeredgewidth=1.4,
            linestyle="--" if adaptive else "-",
            linewidth=1.5,
            elinewidth=0.9,
            alpha=0.95,
        )
        lowest = min(lowest, *(100 * point.low for point in curve))
        highest = max(highest, *(100 * point.high for point in curve))
    margin = 0.04 * max(highest - lowest, 5.0)
    axis.set_ylim(max(lowest - margin, -2.0), min(highest + margin, 102.0))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
    axis.set_xscale("log", base=2)
    ticks = [2.0**i for i in range(math.ceil(math.log2(max(point.T for point in points))) + 1)]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("denoiser evaluations per problem (mean NFE, counted)")
    axis.set_ylabel("accuracy (%), bars: Wilson 95 % interval")
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _styles(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    # Eight colours and nine markers: 72 combinations before two policies look the same.
    return dict(zip(by_name(points), zip(cycle(_COLOURS), cycle(_MARKERS)), strict=False))
