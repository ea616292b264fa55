"""How every figure of a report looks: curves, panels, the axis of denoiser evaluations, the legend, the files.

Knows matplotlib's objects (no pyplot: nothing global, nothing that needs a screen); knows nothing of what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lightning_mdm.report.looks import BLACK, Look
from lightning_mdm.whole_files import whole_file

OPTIMUM = "optimum"
# Inches of a legend: what lies above and below it, a line of its title and an entry.
AROUND, TITLE, ENTRY = 0.37, 0.13, 0.19


def panel_grid(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels, two beside each other, with room for a legend."""
    columns = min(2, n)
    lines = math.ceil(n / columns)
    figure = Figure(figsize=(5.6 * columns + 2.4, 4.3 * lines), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes[n:]:
        axis.set_axis_off()
    return figure, axes[:n]


def draw_curve(
    axis: Axes,
    nfe: Sequence[float],
    values: Sequence[float],
    bars: Any,
    name: str,
    look: Look,
    adaptive: bool,
) -> None:
    """One policy's values against mean NFE, ascending; hollow and dashed where the policy decides the steps."""
    axis.errorbar(
        [max(x, 1e-3) for x in nfe],
        values,
        yerr=bars,
        label=name,
        color=look.colour,
        marker=look.marker,
        markersize=7 if look.strong else 6,
        markerfacecolor="white" if adaptive else look.colour,
        markeredgewidth=1.8 if look.strong else 1.4,
        linestyle="--" if adaptive else "-",
        linewidth=2.2 if look.strong else 1.5,
        elinewidth=1.2 if look.strong else 0.9,
        alpha=0.95,
        zorder=2.5 if look.strong else 2.0,
    )


def draw_optimum(axis: Axes, best: Mapping[int, float]) -> None:
    """The optimum over the step budget, in black; nothing where it is not known."""
    if best:
        # With bars of its own, if only empty ones: legends list lines first.
        nats = list(best.values())
        axis.errorbar(list(best), nats, 0.0, label=OPTIMUM, color=BLACK, marker="*", linewidth=1.5, zorder=1.5)


def evaluations_axis(axis: Axes, most: int) -> None:
    """Denoiser evaluations along x, up to ``most``, and the look of a panel that is drawn already."""
    steps_axis(axis, most, "denoiser evaluations per problem (mean NFE, counted)")


def steps_axis(axis: Axes, most: int, label: str) -> None:
    """A number of steps along x, up to ``most``, and the look of a panel that is drawn already."""
    axis.set_xscale("log", base=2)
    ticks = [2.0**i for i in range(math.ceil(math.log2(most)) + 1)]
    low, high = axis.get_xlim()
    if sum(low <= tick <= high for tick in ticks) < 2:  # of a single budget, say: without numbers it is no axis
        axis.set_xlim(2.0 ** math.floor(math.log2(low)), 2.0 ** math.ceil(math.log2(high)))
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(label)
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def legend_beside(figure: Figure, title: str) -> None:
    """One legend for all panels, on the right; the figure grows with it."""
    handles: dict[str, Artist] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    needed = AROUND + TITLE * len(title.splitlines()) + ENTRY * len(handles)
    figure.set_figheight(max(figure.get_figheight(), needed))
    legend = figure.legend(
        handles=handles.values(),
        labels=handles.keys(),
        loc="outside right upper",
        title=title,
        alignment="left",
        title_fontsize=8,
        fontsize=9,
        frameon=False,
    )
    legend.get_title().set_color("0.35")


def save_figure(figure: Figure, stem: Path) -> None:
    """Write ``<stem>.png`` and ``<stem>.svg``, each in one piece."""
    _save(figure, stem.with_suffix(".png"), {})
    figure.set_layout_engine("none")  # everything stays where it is: the layout takes as long as the drawing
    # No date and no random ids: the same rows give the same file, so that a committed figure changes only with them.
    with matplotlib.rc_context({"svg.hashsalt": "lightning_mdm"}):
        _save(figure, stem.with_suffix(".svg"), {"Date": None})


def _save(figure: Figure, path: Path, metadata: dict[str, Any]) -> None:
    with whole_file(path) as draft:
        figure.savefig(draft, format=path.suffix.removeprefix("."), metadata=metadata)
