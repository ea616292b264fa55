"""Points of ``order_nats.csv``: what the order of a policy costs at a budget, seeds pooled.

Knows rows; knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_mdm.outcomes import OrderRow, Row
from lightning_mdm.report.points import Panel, by_cell, error_over, mean_over


@dataclass(frozen=True)
class OrderPoint:
    """A policy at a step budget, over all seeds.

    Args:
        panel: where it belongs.
        name: display name, unique within its panel.
        policy: as in the rows.
        T: step budget.
        n: problems.
        seeds: number of seeds pooled.
        nats: mean per sequence.
        sem: its standard error; the seeds evaluate the same problems, so they do not narrow it. ``nan`` where unknown.
        nfe_mean: denoiser evaluations per problem and seed, counted.
        optimum: the least expected nats in T steps, where the task knows it.
        adaptive: whether the policy decides the number of steps.
    """

    panel: Panel
    name: str
    policy: str
    T: int
    n: int
    seeds: int
    nats: float
    sem: float
    nfe_mean: float
    optimum: float | None
    adaptive: bool

    @property
    def size(self) -> tuple[int, int]:
        """Seeds, and problems of each."""
        return self.seeds, self.n


def order_points(rows: Iterable[OrderRow], beside: Iterable[Row] = ()) -> list[OrderPoint]:
    """Points of the rows, sorted by panel, then policies in the order of the rows, then budget.

    Args:
        rows: of any panels.
        beside: as for ``by_cell``.

    Raises:
        ValueError: no row, or one seed of a cell that occurs twice.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no rows of what orders cost: give order_nats.budgets, then sweep")
    return [_pool(panel, name, seeds) for panel, name, seeds in by_cell(rows, beside)]


def _pool(panel: Panel, name: str, rows: Sequence[OrderRow]) -> OrderPoint:
    return OrderPoint(
        panel=panel,
        name=name,
        policy=rows[0].policy,
        T=rows[0].T,
        n=max(row.n for row in rows),
        seeds=len(rows),
        nats=mean_over(rows, lambda row: row.nats),
        sem=error_over(row.nats_sem for row in rows),
        nfe_mean=mean_over(rows, lambda row: row.nfe_mean),
        optimum=rows[0].optimum,
        adaptive=rows[0].adaptive,
    )
