"""Accuracy and NFE of many cells at once, counted per problem and exact on any number of processes.

Knows nothing of policies, files or the Trainer.

Shapes: B problems of one update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_mdm.metrics.cells import CellMetric

BILLION = 1_000_000_000  # scores are kept in billionths: not every accelerator has float64
NO_SCORE = -1


class CellSummary(NamedTuple):
    """What one cell amounts to. Accuracy is a fraction; NFE is denoiser evaluations per problem, as counted.

    The score is the mean share of an answer that is right, ``None`` where some problem has none.
    """

    accuracy: float
    nfe_mean: float
    score: float | None = None


class FrontierMetric(CellMetric):
    """Accumulates the outcomes of decoded problems, cell by cell.

    Args:
        cells: names of the cells; the same, in the same order, on every process.

    Raises:
        ValueError: when a name occurs twice.
    """

    higher_is_better = True
    columns = 3
    number_type = torch.int64

    def update(
        self, cell: str, problem_B: Tensor, correct_B: Tensor, nfe_B: Tensor, score_B: Tensor | None = None
    ) -> None:
        """Adds the outcomes of B problems.

        Args:
            cell: one of the names given at construction.
            problem_B: index of every problem; of an index seen before, the outcome seen first stays (of several
                processes: the lowest rank's).
            correct_B: True where the answer is right.
            nfe_B: denoiser evaluations made for the problem, as counted by the loop.
            score_B: share of each answer that is right, in [0, 1]; NaN, or none at all, where nobody can tell.
        """
        billionths_B = torch.full_like(problem_B, NO_SCORE)
        if score_B is not None:
            whole_B = (score_B.nan_to_num(nan=NO_SCORE / BILLION) * BILLION).round().long()
            billionths_B = whole_B.to(problem_B.device)
        self.add(cell, problem_B, correct_B, nfe_B, billionths_B)

    def compute(self) -> dict[str, CellSummary]:
        """One summary per cell that has at least one outcome, in the order of ``cells``."""
        return {cell: _summary(outcomes) for cell, outcomes in self.by_cell().items()}


def _summary(outcomes: Sequence[tuple[int, ...]]) -> CellSummary:
    correct, nfe, scores = (list(column) for column in zip(*outcomes, strict=True))
    return CellSummary(
        accuracy=sum(correct) / len(nfe),
        nfe_mean=sum(nfe) / len(nfe),
        score=None if NO_SCORE in scores else sum(scores) / len(scores) / BILLION,
    )
