"""What orders show in TensorBoard: cost and bounds as curves and figure, heat maps of when each position is
unmasked, and the kinds of subproblems met on the way.

Knows rows, panels and loggers; nothing of decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning.pytorch.loggers import Logger
from torch.utils.tensorboard.writer import SummaryWriter

from lightning_mdm.callbacks.frontier_log import writers
from lightning_mdm.outcomes import BoundRow, CommitRow, OrderRow, SubproblemRow
from lightning_mdm.report import (
    HeatmapPanel,
    display_name,
    heatmap_figure,
    order_bounds_figure,
    order_nats_figure,
    subproblem_figure,
)


def log_order_nats(loggers: Iterable[Logger], rows: Sequence[OrderRow], step: int) -> None:
    """The figure, and nats and NFE of every policy as curves over the budget T, with the optimum."""
    for writer in writers(loggers):
        writer.add_figure("order_nats", order_nats_figure(rows), step, close=False)
        for row in rows:
            where = f"{row.split}/{display_name(row.policy, row.options)}" + (f"/seed={row.seed}" if row.seed else "")
            writer.add_scalar(f"order_nats_over_T/{where}", row.nats, row.T)
            writer.add_scalar(f"order_nfe_over_T/{where}", row.nfe_mean, row.T)
        log_optimum(writer, "order_nats_over_T", rows)
        writer.flush()


def log_order_bounds(loggers: Iterable[Logger], rows: Sequence[BoundRow], step: int) -> None:
    """The figure, and both bounds and the steps of q as curves over the budget T, with the optimum."""
    for writer in writers(loggers):
        writer.add_figure("order_bounds", order_bounds_figure(rows), step, close=False)
        for row in sorted(rows, key=lambda row: row.T):
            where = f"{row.split}/{display_name(row.policy, row.options)}"
            writer.add_scalar(f"bound_nats_over_T/{where}", row.bound_nats, row.T)
            writer.add_scalar(f"importance_weighted_nats_over_T/{where}", row.importance_weighted_nats, row.T)
            writer.add_scalar(f"steps_of_q_over_T/{where}", row.steps_of_q, row.T)
        log_optimum(writer, "bound_nats_over_T", rows)
        writer.flush()


def log_optimum(writer: SummaryWriter, curves: str, rows: Sequence[OrderRow] | Sequence[BoundRow]) -> None:
    """The optimum beside the curves of a name."""
    optimum = {(row.split, row.T): row.optimum for row in rows if row.optimum is not None}
    for (split, steps), nats in sorted(optimum.items()):
        writer.add_scalar(f"{curves}/{split}/optimum", nats, steps)


def log_heatmap(loggers: Iterable[Logger], panels: Sequence[HeatmapPanel], budget: int, step: int) -> None:
    """One figure per budget."""
    for writer in writers(loggers):
        writer.add_figure(f"order_heatmap/T={budget}", heatmap_figure(panels, budget), step, close=False)
        writer.flush()


def log_subproblems(
    loggers: Iterable[Logger], losses: Sequence[SubproblemRow], commits: Sequence[CommitRow], step: int
) -> None:
    """The figure."""
    for writer in writers(loggers):
        writer.add_figure("subproblems", subproblem_figure(losses, commits), step, close=False)
        writer.flush()
