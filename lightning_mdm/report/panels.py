"""What figures and tables of nats share: a panel per task, split and checkpoint, and the least of every budget.

Knows points, matplotlib's objects and rich; knows nothing of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from lightning_mdm.report.looks import Look, looks
from lightning_mdm.report.points import Named, by_panel, panel_titles
from lightning_mdm.report.style import legend_beside, panel_grid
from lightning_mdm.report.tables import policy_markdown, policy_table


class Costed(Named, Protocol):
    """A point of a policy whose orders cost nats."""

    @property
    def nats(self) -> float: ...
    @property
    def optimum(self) -> float | None: ...


P = TypeVar("P", bound=Costed)


def panels_figure(
    points: Sequence[P], draw: Callable[[Axes, Sequence[P], Mapping[str, Look]], None], legend: str
) -> Figure:
    """A panel of every task, split and checkpoint, drawn by ``draw``, the policies alike in all of them."""
    panels = by_panel(points)
    figure, axes = panel_grid(len(panels))
    styles, titles = looks((point.name, point.policy) for point in points), panel_titles(panels)
    for axis, (panel, members) in zip(axes, panels.items(), strict=True):
        draw(axis, members, styles)
        axis.set_title(titles[panel], fontsize=10, loc="left")
    legend_beside(figure, legend)
    return figure


def least_table(points: Sequence[P], cell: Callable[[P, bool], Text]) -> Table:
    """Policies by step budgets, the optimum last; ``cell`` is told which points are the least of their budget."""
    least = _least(points)
    return policy_table(points, lambda point: cell(point, point.nats == least[point.T]), optimum_curve(points))


def least_markdown(points: Sequence[P], cell: Callable[[P, bool], str]) -> list[str]:
    """The same as lines of Markdown."""
    least = _least(points)
    return policy_markdown(points, lambda point: cell(point, point.nats == least[point.T]), optimum_curve(points))


def optimum_curve(points: Iterable[Costed]) -> dict[int, float]:
    """The optimum at every step budget at which it is known, ascending."""
    known = {point.T: point.optimum for point in points if point.optimum is not None}
    return dict(sorted(known.items()))


def plus_minus(error: float, sign: str) -> str:
    """A standard error behind its mean; nothing where it is not known."""
    return "" if math.isnan(error) else f"{sign}{error:.2f}"


def _least(points: Sequence[Costed]) -> dict[int, float]:
    """The least nats at every step budget."""
    return {T: min(point.nats for point in points if point.T == T) for T in {point.T for point in points}}
