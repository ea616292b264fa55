"""Points: the rows of a sweep with their seeds pooled, arranged in panels; what tables and figures show.

Knows rows; knows nothing of how they are shown. A panel holds what may be compared: one task, split and checkpoint.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.outcomes import BoundRow, OrderRow, Row
from lightning_mdm.report.naming import competes, distinct_names


@dataclass(frozen=True)
class Panel:
    """Task, split and weights: within a panel everything decoded the same problems with the same denoiser."""

    task: str
    split: str
    checkpoint: str

    @property
    def place(self) -> str:
        """E.g. ``gsm8k, test``."""
        return f"{self.task}, {self.split}"

    @property
    def checkpoints(self) -> str:
        """The beginning of its hash; of several together, of all of them."""
        return " + ".join(checkpoint[:8] for checkpoint in self.checkpoint.split("+"))


class Counted(Protocol):
    """What was decoded so many times."""

    @property
    def size(self) -> tuple[int, int]:
        """Seeds, and problems of each."""
        ...


class Named(Counted, Protocol):
    """A point of any figure."""

    @property
    def panel(self) -> Panel: ...
    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def T(self) -> int: ...


class Paced(Protocol):
    """A point of a policy that spends its budget, or does not."""

    @property
    def adaptive(self) -> bool: ...


AnyPoint = TypeVar("AnyPoint", bound=Named)
AnyRow = TypeVar("AnyRow", Row, OrderRow, BoundRow)


@dataclass(frozen=True)
class Point:
    """A policy at a step budget, over all seeds.

    Args:
        panel: where it belongs.
        name: display name, unique within its panel.
        policy: as in the rows; ``options`` too.
        T: step budget.
        seeds: seeds pooled.
        n: decoded problems, summed over seeds; ``correct`` likewise.
        problems: different ones; seeds decode the same again.
        low: Wilson 95 % interval, a fraction; ``high`` likewise. Its n is the number of *different* problems: more
            seeds do not narrow what is known about problems in general.
        nfe_mean: denoiser evaluations per problem and seed, counted; ``nfe_min`` and ``nfe_max`` over all.
        tokens_per_forward: answer tokens over evaluations.
        adaptive: whether the number of steps depends on the row and not on the budget alone.
        score: mean share of an answer that is right, a fraction, where the task can tell.
        score_error: half of its 95 % interval (normal approximation), of as many problems as are different.
    """

    panel: Panel
    name: str
    policy: str
    options: str
    T: int
    seeds: tuple[int, ...]
    n: int
    correct: int
    problems: int
    low: float
    high: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    tokens_per_forward: float
    adaptive: bool
    score: float | None = None
    score_error: float = 0.0

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]."""
        return self.correct / self.n

    @property
    def size(self) -> tuple[int, int]:
        """Seeds, and problems of each."""
        return len(self.seeds), self.problems

    @property
    def competes(self) -> bool:
        """Whether it may be called best and is compared with others: not where it was told the response."""
        return competes(self.options)

    @property
    def cost(self) -> int:
        """What the budget of a policy that spends it is worth in evaluations, however short the responses are.

        T, or more where a step takes several (guidance) or each of two parts has T steps.
        """
        return max(self.T, self.nfe_max)


def pool_seeds(rows: Iterable[Row]) -> list[Point]:
    """Points of the rows, sorted by panel, then policies in the order of the rows, then budget.

    Raises:
        ValueError: when there is no row, or when one seed of a cell occurs twice.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no rows to report: run a sweep first")
    return [_pool(panel, name, seeds) for panel, name, seeds in by_cell(rows)]


def by_cell(rows: Sequence[AnyRow], beside: Iterable[Row] = ()) -> list[tuple[Panel, str, list[AnyRow]]]:
    """Panel, name of the policy and rows of every cell, those of its seeds, sorted as points are.

    Args:
        rows: of any panels.
        beside: rows shown elsewhere, from which the names tell these apart, too.

    Raises:
        ValueError: one seed of a cell occurs twice.
    """
    shown: list[Row | OrderRow | BoundRow] = [*rows, *beside]
    cells: dict[Panel, list[tuple[str, str]]] = {}
    for one in shown:
        cells.setdefault(Panel(one.task, one.split, one.checkpoint), []).append((one.policy, one.options))
    names = distinct_names(*cells.values())
    groups: dict[tuple[Panel, tuple[str, str], int], list[AnyRow]] = {}
    for row in rows:
        panel = Panel(row.task, row.split, row.checkpoint)
        groups.setdefault((panel, (row.policy, row.options), row.T), []).append(row)
    panels = list(dict.fromkeys(panel for panel, _, _ in groups))
    place = {cell: i for i, cell in enumerate(dict.fromkeys(cell for _, cell, _ in groups))}
    ordered = sorted(groups, key=lambda group: (panels.index(group[0]), place[group[1]], group[2]))
    for panel, cell, T in ordered:
        seeds = [row.seed for row in groups[panel, cell, T]]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{panel.place}: {names[cell]} at T={T} occurs twice with one seed (seeds {seeds})")
    return [(panel, names[cell], groups[panel, cell, T]) for panel, cell, T in ordered]


def mean_over(rows: Sequence[AnyRow], value: Callable[[AnyRow], float]) -> float:
    """The mean of a value over the problems and seeds of a cell."""
    return sum(value(row) * row.n for row in rows) / sum(row.n for row in rows)


def error_over(errors: Iterable[float | None]) -> float:
    """The standard error of a mean over seeds: they evaluate the same problems, and do not narrow it.

    ``nan`` where none is known.
    """
    known = [error for error in errors if error is not None]
    return sum(known) / len(known) if known else math.nan


def competitors(points: Iterable[Point]) -> list[Point]:
    """Those of the points that may be compared, see ``Point.competes``."""
    return [point for point in points if point.competes]


def by_panel(points: Iterable[AnyPoint]) -> dict[Panel, list[AnyPoint]]:
    """The points of every panel, in the order given."""
    panels: dict[Panel, list[AnyPoint]] = {}
    for point in points:
        panels.setdefault(point.panel, []).append(point)
    return panels


def panel_titles(panels: Mapping[Panel, Iterable[Counted]]) -> dict[Panel, str]:
    """What the panels of a figure or of a report are called.

    ``gsm8k, test: n = 1,319``, of several seeds ``gsm8k, test: n = 3 seeds x 1,319``; the checkpoint,
    ``gsm8k, test, checkpoint 1f0c9a3e: n = 1,319``, only where several are shown of the task and split.

    Args:
        panels: every panel, with what is shown in it; without a number where that is nothing.
    """
    shown = Counter(panel.place for panel in panels)
    return {
        panel: panel.place + (f", checkpoint {panel.checkpoints}" if shown[panel.place] > 1 else "") + _count(members)
        for panel, members in panels.items()
    }


def _count(members: Iterable[Counted]) -> str:
    sizes = [member.size for member in members]
    if not sizes:
        return ""
    seeds, problems = max(seeds for seeds, _ in sizes), sorted({problems for _, problems in sizes})
    span = f"{problems[0]:,}" + (f" to {problems[-1]:,}" if len(problems) > 1 else "")
    return f": n = {seeds} seeds x {span}" if seeds > 1 else f": n = {span}"


def by_name(points: Iterable[AnyPoint]) -> dict[str, list[AnyPoint]]:
    """The points of every policy, in the order given."""
    names: dict[str, list[AnyPoint]] = {}
    for point in points:
        names.setdefault(point.name, []).append(point)
    return names


def is_adaptive(curve: Iterable[Paced]) -> bool:
    """Whether the number of steps depends on the row."""
    return any(point.adaptive for point in curve)


def _pool(panel: Panel, name: str, rows: list[Row]) -> Point:
    n, correct = sum(row.n for row in rows), sum(row.correct for row in rows)
    problems = max(row.n for row in rows)
    interval = wilson(correct / n * problems, problems)
    evaluations = sum(row.nfe_mean * row.n for row in rows)
    tokens = sum(row.tokens_per_forward * row.nfe_mean * row.n for row in rows)
    scores = [row.score * row.n for row in rows if row.score is not None]
    errors = [1.96 * (row.score_sem or 0.0) * row.n for row in rows]
    return Point(
        panel=panel,
        name=name,
        policy=rows[0].policy,
        options=rows[0].options,
        T=rows[0].T,
        seeds=tuple(sorted(row.seed for row in rows)),
        n=n,
        correct=correct,
        problems=problems,
        low=interval.low,
        high=interval.high,
        nfe_mean=evaluations / n,
        nfe_min=min(row.nfe_min for row in rows),
        nfe_max=max(row.nfe_max for row in rows),
        tokens_per_forward=tokens / evaluations if evaluations else 0.0,
        adaptive=rows[0].adaptive,
        score=sum(scores) / n if len(scores) == len(rows) else None,
        score_error=sum(errors) / n,
    )
