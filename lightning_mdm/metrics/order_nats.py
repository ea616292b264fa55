"""What orders cost in nats, many cells at once: means over problems with their standard errors, and NFE.

Knows nothing of policies, files or the Trainer.

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


class OrderCost(NamedTuple):
    """What one cell amounts to. ``nats_sem``: standard error of the mean, ``None`` of a single problem."""

    n: int
    nats: float
    nats_sem: float | None
    nats_per_token: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int


class OrderNatsMetric(CellMetric):
    """Accumulates the -log-likelihoods of problems, cell by cell.

    Args:
        cells: names of the cells; the same, in the same order, on every process.
    """

    higher_is_better = False
    columns = 3
    number_type = torch.float64  # indices and counts are exact in it up to 2^53

    def update(self, cell: str, problem_B: Tensor, nats_B: Tensor, tokens_B: Tensor, nfe_B: Tensor) -> None:
        """Adds B problems.

        Args:
            cell: one of the names given at construction.
            problem_B: index of every problem; of an index seen before, the numbers seen first stay.
            nats_B: -log-likelihood of the true response.
            tokens_B: response tokens.
            nfe_B: denoiser evaluations made for the problem.
        """
        self.add(cell, problem_B, nats_B, tokens_B, nfe_B)

    def compute(self) -> dict[str, OrderCost]:
        """One summary per cell that has at least one problem, in the order of ``cells``."""
        return {cell: _summary(numbers) for cell, numbers in self.by_cell().items()}


def _summary(numbers: Sequence[tuple[float, ...]]) -> OrderCost:
    nats, tokens, nfe = (list(column) for column in zip(*numbers, strict=True))
    n, (mean, error) = len(nats), mean_and_error(nats)
    return OrderCost(
        n=n,
        nats=mean,
        nats_sem=error,
        nats_per_token=math.fsum(nats) / max(1.0, math.fsum(tokens)),
        nfe_mean=math.fsum(nfe) / n,
        nfe_min=int(min(nfe)),
        nfe_max=int(max(nfe)),
    )
