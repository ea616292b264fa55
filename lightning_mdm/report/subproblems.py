"""How hard tokens of each kind are, which kinds policies unmask, and where they err: figure and table of an analysis.

Knows rows, matplotlib's objects and rich; knows nothing of decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.outcomes import CommitRow, SubproblemRow
from lightning_mdm.report.looks import looks
from lightning_mdm.report.naming import distinct_names
from lightning_mdm.report.points import Panel, panel_titles
from lightning_mdm.report.style import save_figure
from lightning_mdm.report.tables import numbers_table, print_table

_LEAST = 10  # tokens of a kind that a point stands for
_GREYS = ("0.65", "0.4", "0.8", "0.2")  # of kinds that are not ready
_CAPTION = (
    "up to each problem's first mistake: tokens unmasked, how many of them the task calls ready (in brackets: of first "
    "mistakes), wrong ones per token; problems without a mistake, Wilson 95 % interval"
)


@dataclass(frozen=True)
class Commits:
    """What one policy did at one budget, seeds pooled.

    Args:
        name: what it is called.
        rows: the rows it sums up.
    """

    name: str
    rows: tuple[CommitRow, ...]

    def total(self, value: Callable[[CommitRow], float], kind: str | None = None, masked: int | None = None) -> float:
        """The sum of a number over kinds and bins, or over those of one kind, or of a bin by its lowest number."""
        return math.fsum(
            value(row) for row in self.rows if kind in (None, row.kind) and masked in (None, row.fewest_masked)
        )

    @property
    def n(self) -> float:
        """Tokens unmasked."""
        return self.total(lambda row: row.n)

    @property
    def problems(self) -> int:
        """Problems decoded; a problem counts once per seed."""
        return sum({row.seed: row.problems for row in self.rows}.values())

    @property
    def size(self) -> tuple[int, int]:
        """Seeds, and problems of each."""
        return len({row.seed for row in self.rows}), max(row.problems for row in self.rows)

    @property
    def policy(self) -> str:
        """As in the rows."""
        return self.rows[0].policy

    @property
    def failed(self) -> int:
        """Those with a mistake."""
        return sum({row.seed: row.failed for row in self.rows}.values())


def subproblem_figure(losses: Sequence[SubproblemRow], commits: Sequence[CommitRow]) -> Figure:
    """Per task, split and checkpoint: the denoiser by kind of token; what every policy unmasks, and its first mistakes.

    Raises:
        ValueError: when there is no row.
    """
    if not losses:
        raise ValueError("there are no subproblems to draw: analyse at least one problem")
    panels = {panel: policies_of(panel, commits) for panel in dict.fromkeys(map(_panel, losses))}
    titles = panel_titles(panels)
    lines = [3 if policies else 1 for policies in panels.values()]
    most = max(map(len, panels.values()))
    height = max(3.4, 1.2 + 0.3 * most)
    figure = Figure(figsize=(14.5, height * sum(lines)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = iter(figure.subplots(sum(lines), 2, squeeze=False))
    colours = kind_colours([*losses, *commits])
    for panel, policies in panels.items():
        own = [row for row in losses if _panel(row) == panel]
        nats, wrong = next(grid)
        nats.set_title(titles[panel], fontsize=10, loc="left")
        _denoised(nats, own, colours, _nats)
        nats.set_ylabel("nats per masked token\n(bars: standard error)")
        _denoised(wrong, own, colours, _wrong)
        wrong.set_ylabel("masked tokens predicted wrongly (%)\n(bars: Wilson 95 % interval)")
        if policies:
            unmasked, first = next(grid)
            _bars(unmasked, policies, colours, lambda c, kind: 100 * c.total(lambda r: r.n, kind) / max(1.0, c.n))
            unmasked.set_xlabel("tokens unmasked, up to the first mistake, by kind (%)")
            _bars(first, policies, colours, lambda c, k: 100 * c.total(lambda r: r.first_mistakes, k) / c.problems)
            first.set_xlabel("problems by the kind of their first mistake (%); the rest has none")
            by_kind, by_masked = next(grid)
            _errors(by_kind, policies, list(colours))
            _progress(by_masked, policies)
    _legends(figure)
    return figure


def subproblem_table(losses: Sequence[SubproblemRow], commits: Sequence[CommitRow]) -> Table:
    """The kinds with the denoiser's loss, and the policies with what they unmask.

    Raises:
        ValueError: when there is no row.
    """
    if not losses:
        raise ValueError("there are no subproblems to show: analyse at least one problem")
    stack = Table.grid(padding=(0, 0, 1, 0))
    panels = {panel: policies_of(panel, commits) for panel in dict.fromkeys(map(_panel, losses))}
    titles = panel_titles(panels)
    for panel, policies in panels.items():
        kinds = numbers_table("kind", "ready", "tokens", "nats", "right %")
        for kind, rows in _by_kind([row for row in losses if _panel(row) == panel]).items():
            n = sum(row.n for row in rows)
            nats = math.fsum(row.nats * row.n for row in rows) / n
            right = math.fsum(row.accuracy * row.n for row in rows) / n
            kinds.add_row(kind, "yes" if rows[0].ready else "no", str(n), f"{nats:.3f}", f"{100 * right:.1f}")
        parts: list[Text | Table] = [Text(titles[panel], style="bold"), kinds]
        if policies:
            table = numbers_table("policy", "tokens", "ready %", "wrong %", "without mistake %")
            for c in policies:
                ready = 100 * c.total(lambda row: row.n * row.ready) / max(1.0, c.n)
                firsts = 100 * c.total(lambda row: row.first_mistakes * row.ready) / c.failed if c.failed else None
                _, n = c.size  # seeds repeat a problem: they do not narrow the interval
                low, high = wilson((1 - c.failed / c.problems) * n, n)
                table.add_row(
                    c.name,
                    f"{c.n:.0f}",
                    f"{ready:.1f}" + ("" if firsts is None else f" ({firsts:.0f})"),
                    f"{100 * c.total(lambda row: row.wrong) / max(1.0, c.n):.2f}",
                    f"{100 * (1 - c.failed / c.problems):.1f} ({100 * low:.1f}-{100 * high:.1f})",
                )
            parts.append(table)
        stack.add_row(Group(*parts))
    if commits:
        stack.add_row(Text(_CAPTION, style="dim"))
    return stack


def report_subproblems(losses: Sequence[SubproblemRow], commits: Sequence[CommitRow], out_dir: Path) -> None:
    """Print the table and write the figure, ``subproblems.png`` and ``subproblems.svg``."""
    save_figure(subproblem_figure(losses, commits), out_dir / "subproblems")
    print_table(subproblem_table(losses, commits))


def policies_of(panel: Panel, commits: Iterable[CommitRow]) -> list[Commits]:
    """The policies of a panel at their budgets, seeds pooled, in the order in which they come."""
    own = [row for row in commits if _panel(row) == panel]
    names = distinct_names((row.policy, row.options) for row in own)
    budgets = {row.T for row in own}
    found: dict[str, list[CommitRow]] = {}
    for row in own:
        name = names[row.policy, row.options] + (f", T={row.T}" if len(budgets) > 1 else "")
        found.setdefault(name, []).append(row)
    return [Commits(name, tuple(rows)) for name, rows in found.items()]


def kind_colours(rows: Iterable[SubproblemRow | CommitRow]) -> dict[str, str | tuple[float, ...]]:
    """A colour per kind: ready ones from dark to light as they come, others grey."""
    kinds = {row.kind: row.ready for row in rows}
    ready = [kind for kind, is_ready in kinds.items() if is_ready]
    viridis = matplotlib.colormaps["viridis"]
    colours: dict[str, str | tuple[float, ...]] = {
        kind: tuple(viridis(0.95 * place / max(1, len(ready) - 1))) for place, kind in enumerate(ready)
    }
    others = (kind for kind, is_ready in kinds.items() if not is_ready)
    return {**colours, **dict(zip(others, cycle(_GREYS), strict=False))}


def _panel(row: SubproblemRow | CommitRow) -> Panel:
    return Panel(row.task, row.split, row.checkpoint)


def _by_kind(rows: Iterable[SubproblemRow]) -> dict[str, list[SubproblemRow]]:
    found: dict[str, list[SubproblemRow]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(row)
    return found


def _denoised(
    axis: Axes,
    rows: Sequence[SubproblemRow],
    colours: dict[str, str | tuple[float, ...]],
    value: Callable[[SubproblemRow], tuple[float, float, float]],
) -> None:
    """A number, with what it may be too low and too high by, against the tokens masked; a line per kind.

    A kind appears even where all its points are left out for standing on too few tokens.
    """
    for kind, own in _by_kind(rows).items():
        shown = sorted((row for row in own if row.n >= _LEAST), key=lambda row: row.fewest_masked)
        middle, below, above = ([value(row)[part] for row in shown] for part in range(3))
        axis.errorbar(
            [(row.fewest_masked + row.most_masked) / 2 for row in shown],
            middle,
            yerr=[below, above],
            color=colours[kind],
            marker="o" if own[0].ready else "s",
            markersize=4,
            linewidth=1.5,
            linestyle="-" if own[0].ready else "--",
            label=kind,
        )
    axis.set_xlabel("tokens masked")
    _plain(axis)


def _nats(row: SubproblemRow) -> tuple[float, float, float]:
    return row.nats, row.nats_sem or 0.0, row.nats_sem or 0.0


def _wrong(row: SubproblemRow) -> tuple[float, float, float]:
    wrong = round((1.0 - row.accuracy) * row.n)
    low, high = wilson(wrong, row.n)
    share = wrong / row.n
    return 100 * share, 100 * max(0.0, share - low), 100 * max(0.0, high - share)


def _bars(
    axis: Axes,
    policies: Sequence[Commits],
    colours: dict[str, str | tuple[float, ...]],
    value: Callable[[Commits, str], float],
) -> None:
    """A stacked bar per policy, a part per kind."""
    names, left = [c.name for c in policies], [0.0] * len(policies)
    for kind, colour in colours.items():
        widths = [value(c, kind) for c in policies]
        axis.barh(names, widths, left=left, color=colour, height=0.75)
        left = [sum(pair) for pair in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    _plain(axis)


def _errors(axis: Axes, policies: Sequence[Commits], kinds: Sequence[str]) -> None:
    """Wrong tokens among those unmasked, policies by kinds."""
    shares = [
        [
            100 * c.total(lambda row: row.wrong, kind) / n if (n := c.total(lambda row: row.n, kind)) else math.nan
            for kind in kinds
        ]
        for c in policies
    ]
    highest = max((share for line in shares for share in line if not math.isnan(share)), default=1.0) or 1.0
    axis.imshow(shares, cmap="OrRd", vmin=0.0, vmax=highest, aspect="auto")
    for row, line in enumerate(shares):
        for column, share in enumerate(line):
            text = "" if math.isnan(share) else f"{share:.1f}"
            axis.text(
                column, row, text, ha="center", va="center", fontsize=7, color="w" if share > highest / 2 else "k"
            )
    axis.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", fontsize=7)
    axis.set_yticks(range(len(policies)), [c.name for c in policies], fontsize=8)
    axis.set_title("wrong among the tokens unmasked, up to the first mistake (%)", fontsize=9, loc="left")


def _progress(axis: Axes, policies: Sequence[Commits]) -> None:
    """How many problems have their first mistake when so many tokens were masked."""
    styles = looks((c.name, c.policy) for c in policies)
    for c in policies:
        look = styles[c.name]
        bins = sorted({(row.fewest_masked, row.most_masked) for row in c.rows})
        axis.plot(
            [(first + last) / 2 for first, last in bins],
            [100 * c.total(lambda row: row.first_mistakes, masked=first) / c.problems for first, _ in bins],
            color=look.colour,
            marker=look.marker,
            markersize=5 if look.strong else 4,
            linewidth=2.4 if look.strong else 1.3,
            zorder=2.5 if look.strong else 2.0,
            label=c.name,
        )
    axis.set_xlabel("tokens masked at the step of the first mistake")
    axis.set_ylabel("problems (%)")
    _plain(axis)


def _plain(axis: Axes) -> None:
    """The look of a panel."""
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _legends(figure: Figure) -> None:
    """Kinds above, policies below, on the right."""
    kinds: dict[str, Artist] = {}
    policies: dict[str, Artist] = {}
    for axis in figure.axes:
        found = policies if axis.get_xlabel().endswith("first mistake") else kinds
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    look: dict[str, Any] = {"alignment": "left", "title_fontsize": 8, "fontsize": 8, "frameon": False}
    figure.legend(kinds.values(), kinds.keys(), loc="outside right upper", title="kinds", **look)
    if policies:
        figure.legend(policies.values(), policies.keys(), loc="outside right lower", title="policies", **look)
