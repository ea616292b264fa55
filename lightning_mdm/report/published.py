"""Rows of a paper beside our own: its learned order with ours at the same T, its heuristics at matched evaluations.

Knows points and csv; knows nothing of runs. What differs between the two (denoiser, decoding, problems) is for the
reader to judge: the table says of how many problems each accuracy is, and tests nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.outcomes import Row
from lightning_mdm.outcomes.table import read_table
from lightning_mdm.report.points import Point, by_name
from lightning_mdm.report.tables import markdown_table

MATCHED = ("", "@Avg", "@Max")


@dataclass(frozen=True)
class PublishedRow:
    """One published accuracy; the columns of a file of them.

    Args:
        source: where it is published.
        task: as in our rows.
        T: the step budget of the learned order that it is, or that it is compared with.
        policy: as in our rows; ``learned`` for the learned order.
        matched: empty for the learned order; ``@Avg`` or ``@Max`` for a policy given as many evaluations as that takes
            on average, rounded, or at most.
        nfe_mean: evaluations per problem; ``nfe_min`` and ``nfe_max`` over problems.
        n: problems.
        accuracy: a fraction.
    """

    source: str
    task: str
    T: int
    policy: str
    matched: str
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    n: int
    accuracy: float


def read_published(path: str | Path) -> list[PublishedRow]:
    """Reads a file of published rows.

    Raises:
        ValueError: a missing or malformed file, or a row that is neither a learned order nor matched with one.
    """
    rows = read_table(path, PublishedRow)
    for row in rows:
        if row.matched not in MATCHED or (row.matched == "") != (row.policy == "learned"):
            raise ValueError(
                f"{path}: {row.policy} at T={row.T} is matched {row.matched!r}: a learned order is matched with "
                "nothing, any other policy by @Avg or @Max"
            )
        if not 0.0 <= row.accuracy <= 1.0 or row.n < 1:
            raise ValueError(
                f"{path}: {row.policy} at T={row.T} has accuracy {row.accuracy} of {row.n}: a fraction is due"
            )
    return rows


def nothing_beside(rows: Iterable[Row], published: Iterable[PublishedRow], name: str) -> list[str]:
    """Notes on why nothing published is shown beside our rows, for every task of which nothing is.

    Args:
        rows: of our frontier.
        published: rows of any tasks.
        name: of their file.
    """
    ours: dict[str, set[str]] = {}
    for row in rows:
        ours.setdefault(row.task, set()).add(row.policy)
    if not ours:
        return [f"the runs have decoded nothing, beside which rows of {name} would be shown."]
    theirs = {row.task for row in published}
    notes = [f"no row of {name} is of {task}: nothing is shown beside ours." for task in ours if task not in theirs]
    lacking = [task for task, policies in ours.items() if task in theirs and "learned" not in policies]
    return notes + [
        f"the runs have no learned order of {task}, beside which rows of {name} would be shown." for task in lacking
    ]


@dataclass(frozen=True)
class Beside:
    """A published row and ours.

    Args:
        published: theirs.
        ours: the same policy of ours under the same conditions, where the sweep has it.
    """

    published: PublishedRow
    ours: Point | None


def beside(points: Sequence[Point], published: Iterable[PublishedRow]) -> dict[str, list[Beside]]:
    """For each of our learned orders, every published row of the task with ours beside it.

    Args:
        points: the points of one panel.
        published: rows of any tasks.
    """
    rows = [row for row in published if any(point.panel.task == row.task for point in points)]
    learned = {name: curve for name, curve in by_name(points).items() if curve[0].policy == "learned"}
    return {name: [Beside(row, _ours(row, curve, points)) for row in rows] for name, curve in learned.items() if rows}


def _ours(row: PublishedRow, learned: Sequence[Point], points: Sequence[Point]) -> Point | None:
    own = next((point for point in learned if point.T == row.T), None)
    if own is None or row.policy == "learned":
        return own
    wanted = round(own.nfe_mean) if row.matched == "@Avg" else own.nfe_max
    rivals = [point for point in points if point.policy == row.policy and wanted <= point.cost]
    return min(rivals, key=lambda point: (point.cost, point.T), default=None)


_HEADER = ("T", "policy", "theirs, %", "steps", "ours, %", "steps", "difference, points")
_TEXT = (
    "Accuracy in % [Wilson 95 % interval], @ mean evaluations (smallest to largest on any problem). Ours at @Avg and "
    "@Max are at the evaluations of our own learned order, or the next more that the sweep has. Denoiser, decoding and "
    "problems may differ: nothing is tested here."
)


def beside_markdown(points: Sequence[Point], published: Sequence[PublishedRow]) -> list[str]:
    """The comparison for the points of one panel, as lines of Markdown; none where there is nothing to compare."""
    lines: list[str] = []
    for name, pairs in beside(points, published).items():
        sources = "; ".join(dict.fromkeys(pair.published.source for pair in pairs))
        sizes = _sizes(pairs)
        lines += [f"With {name}, beside {sources} ({sizes}):", "", *markdown_table(_HEADER, map(_cells, pairs)), ""]
    return [_TEXT, "", *lines[:-1]] if lines else []


def beside_table(points: Sequence[Point], published: Sequence[PublishedRow]) -> Group | None:
    """The same for the terminal."""
    parts: list[Text | Table] = []
    for name, pairs in beside(points, published).items():
        sources = "; ".join(dict.fromkeys(pair.published.source for pair in pairs))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column in _HEADER:
            table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
        for pair in pairs:
            table.add_row(*_cells(pair))
        parts += [Text(f"{name}, beside {sources} ({_sizes(pairs)})", style="bold"), table]
    return Group(*parts) if parts else None


def _sizes(pairs: Sequence[Beside]) -> str:
    theirs = sorted({pair.published.n for pair in pairs})
    ours = sorted({pair.ours.n // len(pair.ours.seeds) for pair in pairs if pair.ours is not None})
    return f"n = {', '.join(map(str, theirs))}; ours {', '.join(map(str, ours)) or 'none'}"


def _cells(pair: Beside) -> list[str]:
    row, ours = pair.published, pair.ours
    interval = wilson(round(row.accuracy * row.n), row.n)
    theirs = f"{100 * row.accuracy:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    cells = [str(row.T), f"{row.policy.replace('_', ' ')} {row.matched}".strip(), theirs]
    cells.append(_steps(row.nfe_mean, row.nfe_min, row.nfe_max))
    if ours is None:
        return [*cells, "not in the sweep", "", ""]
    cells.append(f"{100 * ours.accuracy:.1f} [{100 * ours.low:.1f}, {100 * ours.high:.1f}]")
    cells.append(_steps(ours.nfe_mean, ours.nfe_min, ours.nfe_max))
    return [*cells, f"{100 * (ours.accuracy - row.accuracy):+.1f}"]


def _steps(mean: float, least: int, most: int) -> str:
    return f"@{mean:.2f} ({least} to {most})" if least < most else f"@{mean:.2f}"
