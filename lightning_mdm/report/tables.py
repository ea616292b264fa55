"""The frontier as a table, on the terminal and in Markdown: policies by step budgets; and what other tables share.

Knows points; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from lightning_mdm.outcomes import Row
from lightning_mdm.report.points import AnyPoint, Point, by_name, by_panel, competitors, panel_titles, pool_seeds
from lightning_mdm.report.style import OPTIMUM

_CAPTION = (
    "accuracy %, Wilson 95 % interval, mean denoiser evaluations per problem (NFE, counted); bold: best at this T"
)
_SCORE = "; score: mean share of an answer that is right, %, with half its 95 % interval"

_ANY_WIDTH = 10_000  # a console measures no more than fits on it


def frontier_table(rows: Iterable[Row]) -> Table:
    """Policies by step budgets, seeds pooled; one table per task, split and checkpoint, stacked.

    Raises:
        ValueError: when there is no row.
    """
    pooled = pool_seeds(rows)
    scored = any(point.score is not None for point in pooled)
    return panels_table(pooled, _panel_table, _CAPTION + (_SCORE if scored else ""))


def panels_table(points: Sequence[AnyPoint], table: Callable[[Sequence[AnyPoint]], Table], caption: str) -> Table:
    """A table of every task, split and checkpoint, stacked, and a caption for all of them."""
    stack = Table.grid(padding=(0, 0, 1, 0))
    panels = by_panel(points)
    titles = panel_titles(panels)
    for panel, members in panels.items():
        # Not as the table's own title, which would be folded to the table's width.
        stack.add_row(Group(Text(titles[panel], style="bold"), table(members)))
    stack.add_row(Text(caption, style="dim"))
    return stack


def numbers_table(first: str, *others: str, min_width: int | None = None) -> Table:
    """A table without lines yet: names in its first column, folded where they are too long, numbers in the others."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, min_width=min_width, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def policy_table(
    points: Sequence[AnyPoint], cell: Callable[[AnyPoint], Text], optimum: Mapping[int, float] | None = None
) -> Table:
    """A line per policy, a column per step budget; ``cell`` says what is shown of a point.

    The optimum at every budget at which it is known is the last line, if there is any.
    """
    budgets = sorted({point.T for point in points})
    table = numbers_table("policy", *(f"T={T}" for T in budgets), min_width=10)
    for name, curve in by_name(points).items():
        cells = {point.T: cell(point) for point in curve}
        table.add_row(Text(name), *(cells.get(T, Text()) for T in budgets))
    if optimum:
        table.add_row(
            Text(OPTIMUM), *(Text(f"{optimum[T]:.2f}" if T in optimum else "") for T in budgets), style="bold"
        )
    return table


def print_table(table: Table) -> Console:
    """Print a table, on a terminal folded to it; returns where it went, for what belongs below it."""
    console = Console()
    if console.is_terminal:
        console.line()  # a progress bar may stand on this one
    else:
        # A file has no width to keep to, and folded cells are hard to search.
        console = Console(width=max(console.width, Console(width=_ANY_WIDTH).measure(table).maximum))
    console.print(table)
    return console


def frontier_markdown(points: Sequence[Point]) -> list[str]:
    """The same for the points of one panel, as lines of a Markdown table."""
    best = best_at(points)

    def cell(point: Point) -> str:
        percent = bold(f"{100 * point.accuracy:.1f}", point.competes and point.accuracy == best[point.T])
        return f"{percent} [{100 * point.low:.1f}, {100 * point.high:.1f}] @{point.nfe_mean:.2f}"

    return policy_markdown(points, cell)


def score_markdown(points: Sequence[Point]) -> list[str]:
    """The scores of the points of one panel, as lines of a Markdown table; no line where there are none."""
    budgets = sorted({point.T for point in points})
    scored = [point for point in points if point.score is not None]
    rivals = competitors(scored)
    best = {T: max((p.score for p in rivals if p.T == T and p.score is not None), default=0.0) for T in budgets}

    def cell(point: Point) -> str:
        assert point.score is not None
        percent = bold(f"{100 * point.score:.1f}", point.competes and point.score == best[point.T])
        return f"{percent} ± {100 * point.score_error:.1f} @{point.nfe_mean:.2f}"

    return policy_markdown(scored, cell, budgets=budgets) if scored else []


def policy_markdown(
    points: Sequence[AnyPoint],
    cell: Callable[[AnyPoint], str],
    optimum: Mapping[int, float] | None = None,
    budgets: Sequence[int] | None = None,
) -> list[str]:
    """``policy_table`` as lines of Markdown; its columns are the budgets of the points unless others are given."""
    budgets = sorted({point.T for point in points}) if budgets is None else budgets
    body = []
    for name, curve in by_name(points).items():
        cells = {point.T: cell(point) for point in curve}
        body.append([name, *(cells.get(T, "") for T in budgets)])
    if optimum:
        body.append([OPTIMUM, *(f"{optimum[T]:.2f}" if T in optimum else "" for T in budgets)])
    return markdown_table(["policy", *(f"T={T}" for T in budgets)], body)


def bold(text: str, wanted: bool) -> str:
    """Markdown of it."""
    return f"**{text}**" if wanted else text


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table: first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in body]


def best_at(points: Iterable[Point]) -> dict[int, float]:
    """The best accuracy at every step budget, of what competes."""
    best: dict[int, float] = {}
    for point in competitors(points):
        best[point.T] = max(point.accuracy, best.get(point.T, 0.0))
    return best


def _panel_table(points: Sequence[Point]) -> Table:
    best = best_at(points)
    return policy_table(points, lambda point: _cell(point, point.competes and point.accuracy == best[point.T]))


def _cell(point: Point, best: bool) -> Text:
    percent = (f"{100 * point.accuracy:.1f}", "bold" if best else "")
    rest = f"\n{100 * point.low:.1f}–{100 * point.high:.1f}\nNFE {point.nfe_mean:.2f}"
    if point.score is not None:
        rest += f"\nscore {100 * point.score:.1f} ±{100 * point.score_error:.1f}"
    return Text.assemble(percent, (rest, "dim"))
