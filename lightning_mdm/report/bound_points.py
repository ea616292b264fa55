"""Points of ``order_bounds.csv``: the bounds of an order at a budget, seeds pooled.

Knows rows; knows nothing of how they are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lightning_mdm.outcomes import BoundRow, Row, canonical_json
from lightning_mdm.report.points import Panel, by_cell, error_over, mean_over


@dataclass(frozen=True)
class BoundPoint:
    """The bounds of a policy at a step budget and a price, over all seeds.

    Args:
        panel: where it belongs.
        name: display name, unique within its panel.
        policy: as in the rows.
        T: step budget.
        n: problems.
        seeds: number of seeds pooled.
        nats: bound on -log p(x), mean per sequence.
        sem: its standard error; the seeds evaluate the same problems, so they do not narrow it. ``nan`` where unknown.
        importance_weighted_nats: the tighter bound, mean per sequence.
        optimum: the least expected nats in T steps, where the task knows it.
    """

    panel: Panel
    name: str
    policy: str
    T: int
    n: int
    seeds: int
    nats: float
    sem: float
    importance_weighted_nats: float
    optimum: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Seeds, and problems of each."""
        return self.seeds, self.n


def bound_points(rows: Iterable[BoundRow], beside: Iterable[Row] = ()) -> list[BoundPoint]:
    """Points of the rows, sorted by panel, then policies in the order of the rows, then budget.

    Args:
        rows: of any panels.
        beside: as for ``by_cell``; the rule by which a learned order decodes there tells none apart here, as bounds
            are those of its law.

    Raises:
        ValueError: no row, or one seed of a cell that occurs twice.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no rows of bounds: sweep with a learned order and model.bound_budgets")
    return [_pool(panel, name, seeds) for panel, name, seeds in by_cell(rows, map(_law, beside))]


def _law(row: Row) -> Row:
    """The row with a learned order's options as bounds have them."""
    if row.policy != "learned":
        return row
    return replace(row, options=canonical_json({**json.loads(row.options), "rule": "sampled"}))


def _pool(panel: Panel, name: str, rows: Sequence[BoundRow]) -> BoundPoint:
    return BoundPoint(
        panel=panel,
        name=name,
        policy=rows[0].policy,
        T=rows[0].T,
        n=max(row.n for row in rows),
        seeds=len(rows),
        nats=mean_over(rows, lambda row: row.bound_nats),
        sem=error_over(row.bound_nats_sem for row in rows),
        importance_weighted_nats=mean_over(rows, lambda row: row.importance_weighted_nats),
        optimum=rows[0].optimum,
    )
