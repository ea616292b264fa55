"""The figure of the measurements: how cost grows, and the roofline beside it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from measuring import PEAKS, Row
from sizes import SIZES, Size

from lightning_mdm.report.looks import BLUE, VERMILLION
from lightning_mdm.report.style import panel_grid, save_figure

AXES = {
    "pass@batch": "rows of a batch",
    "pass@canvas": "canvas (tokens)",
    "decoding@steps": "steps T of decoding",
    "order_update@K": "trajectories K of an order update",
}


def draw(rows: Iterable[Row], name: str, device: str, stem: Path) -> None:
    """Write ``<stem>.png`` and ``.svg``: cost of one size on one device, the latest row of each name.

    What has not been measured there has no panel.

    Raises:
        ValueError: passes by batch, which the roofline needs, are not among the rows.
    """
    latest = {row.name: row for row in rows if row.device == device}
    found = {
        kind: sorted(
            (float(row_name.rsplit("=", 1)[1]), row)
            for row_name, row in latest.items()
            if row_name.startswith(f"{name}/cost/{kind}=")
        )
        for kind in AXES
    }
    found = {kind: points for kind, points in found.items() if points}
    if "pass@batch" not in found:
        raise ValueError(f"no rows of cost of {name!r} on {device!r}: run with --only cost first")
    figure, axes = panel_grid(len(found) + 1)
    figure.suptitle(f"size {name} on {device}", fontsize=10, x=0.01, ha="left")
    for axis, (kind, points) in zip(axes, found.items(), strict=False):
        grow(axis, points, AXES[kind], kind)
    roofline(axes[-1], found["pass@batch"], SIZES[name], latest, device)
    save_figure(figure, stem)


def grow(axis: Axes, points: Sequence[tuple[float, Row]], label: str, kind: str) -> None:
    """Milliseconds against one quantity, and where they would be if they grew in proportion to it."""
    x, y = [x for x, _ in points], [1e3 * row.value for _, row in points]
    axis.plot(x, y, "o-", color=BLUE, label="measured")
    axis.plot(x, [y[-1] * each / x[-1] for each in x], "--", color="0.6", linewidth=1, label="in proportion")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    number(axis, x)
    first = points[0][1]
    held = [] if "batch" in kind else [f"{first.batch} rows"]
    held += [] if "canvas" in kind else [f"canvas {first.canvas}"]
    held += [] if kind != "order_update@K" else [f"T = {first.steps}"]
    axis.set_title(f"{kind.split('@')[0].replace('_', ' ')}: {', '.join(held)}", fontsize=10, loc="left")
    axis.set_xlabel(label)
    axis.set_ylabel("milliseconds")
    axis.legend(fontsize=8, frameon=False)


def number(axis: Axes, ticks: Sequence[float]) -> None:
    """Plain numbers at the measured places, and the look of a panel."""
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))  # every number would be written over the next
    for written in (axis.xaxis.set_major_formatter, axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        written(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def roofline(axis: Axes, points: Sequence[tuple[float, Row]], size: Size, latest: dict[str, Row], device: str) -> None:
    """Operations per second of a forward pass against operations per byte moved, under the device's ceilings."""
    queries = size.canvas - size.prompt
    flops = [size.forward_flops(row.batch, queries) for _, row in points]
    intensity = [f / size.forward_bytes(row.batch, queries) for f, (_, row) in zip(flops, points, strict=True)]
    reached = [f / row.value for f, (_, row) in zip(flops, points, strict=True)]
    limits = [(latest["ceiling/matmul"].value, latest["ceiling/copy"].value, "measured ceilings", "-")]
    if device in PEAKS:
        limits.append((PEAKS[device].flops, PEAKS[device].bytes, "data sheet", "--"))
    low, high = min(*intensity, *(top / slope for top, slope, *_ in limits)) / 4, max(intensity) * 4
    for flops_limit, bytes_limit, label, line in limits:
        knee = flops_limit / bytes_limit
        x = sorted({low, min(max(knee, low), high), max(high, knee)})
        axis.plot(
            x, [min(flops_limit, bytes_limit * each) for each in x], line, color="0.4", linewidth=1.2, label=label
        )
    axis.plot(intensity, reached, "o", color=VERMILLION, label="forward pass, by rows")
    for i in {0, len(points) - 1}:
        axis.annotate(f"{points[i][0]:g}", (intensity[i], reached[i]), (4, -10), textcoords="offset points", fontsize=8)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("operations per byte (by arithmetic)")
    axis.set_ylabel("operations per second")
    axis.set_title(f"roofline: canvas {size.canvas}", fontsize=10, loc="left")
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
