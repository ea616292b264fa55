"""Variational bounds of orders, many cells at once: means over problems with their standard errors.

Knows nothing of estimators, policies or files.

Shapes: B problems of one update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_mdm.metrics.cells import CellMetric
from lightning_mdm.metrics.statistics import mean_and_error


class BoundSummary(NamedTuple):
    """What one cell amounts to: means over problems, in nats per sequence.

    The bound is the sum of ``token_nats``, ``order_kl_nats`` and ``price_nats``. ``..._sem``: standard error over
    problems, ``None`` of a single one. ``bound_nats_per_token``: the bounds, summed, over response tokens.
    ``steps_of_q``: steps of a trajectory of the approximate posterior.
    """

    n: int
    bound_nats: float
    bound_nats_sem: float | None
    importance_weighted_nats: float
    importance_weighted_nats_sem: float | None
    token_nats: float
    order_kl_nats: float
    price_nats: float
    bound_nats_per_token: float
    steps_of_q: float


class OrderBoundsMetric(CellMetric):
    """Accumulates the bounds of problems, cell by cell.

    Args:
        cells: names of the cells; the same, in the same order, on every process.

    Raises:
        ValueError: when a name occurs twice.
    """

    higher_is_better = False
    columns = 7
    number_type = torch.float64  # indices and counts are exact in it up to 2^53

    def update(
        self,
        cell: str,
        problem_B: Tensor,
        *,
        bound_nats_B: Tensor,
        importance_weighted_nats_B: Tensor,
        token_nats_B: Tensor,
        order_kl_nats_B: Tensor,
        price_nats_B: Tensor,
        steps_of_q_B: Tensor,
        tokens_B: Tensor,
    ) -> None:
        """Adds B problems.

        Args:
            cell: one of the names given at construction.
            problem_B: index of every problem; of an index seen before, the numbers seen first stay.
            bound_nats_B: bound on -log p(x).
            importance_weighted_nats_B: its importance-weighted tightening.
            token_nats_B: the bound's part from the tokens.
            order_kl_nats_B: that from the order.
            price_nats_B: that from the price of steps.
            steps_of_q_B: mean steps of the problem's trajectories.
            tokens_B: response tokens.
        """
        self.add(
            cell, problem_B, bound_nats_B, importance_weighted_nats_B, token_nats_B, order_kl_nats_B, price_nats_B,
            steps_of_q_B, tokens_B,
        )  # fmt: skip

    def compute(self) -> dict[str, BoundSummary]:
        """One summary per cell that has at least one problem, in the order of ``cells``."""
        return {cell: _summary(numbers) for cell, numbers in self.by_cell().items()}


def _summary(numbers: Sequence[tuple[float, ...]]) -> BoundSummary:
    bound, weighted, token, kl, price, steps, tokens = (list(column) for column in zip(*numbers, strict=True))
    (bound_nats, bound_sem), (weighted_nats, weighted_sem) = mean_and_error(bound), mean_and_error(weighted)
    token_nats, kl_nats, price_nats, steps_of_q = (mean_and_error(column)[0] for column in (token, kl, price, steps))
    return BoundSummary(
        n=len(numbers),
        bound_nats=bound_nats,
        bound_nats_sem=bound_sem,
        importance_weighted_nats=weighted_nats,
        importance_weighted_nats_sem=weighted_sem,
        token_nats=token_nats,
        order_kl_nats=kl_nats,
        price_nats=price_nats,
        bound_nats_per_token=math.fsum(bound) / max(1.0, math.fsum(tokens)),
        steps_of_q=steps_of_q,
    )
