"""Accuracy, NFE and parallelism of many cells at once, counted per problem and exact on any number of processes.

Knows nothing of policies, files or the Trainer.

Shapes: B problems of one update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_mdm.metrics.cells import CellMetric


class CellSummary(NamedTuple):
    """What one cell amounts to. Accuracy is a fraction; NFE is denoiser evaluations per problem, as counted."""

    n: int
    correct: int
    accuracy: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    tokens_per_forward: float


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

    def update(self, cell: str, problem_B: Tensor, correct_B: Tensor, nfe_B: Tensor, tokens_B: Tensor) -> None:
        """Adds the outcomes of B problems.

        Args:
            cell: one of the names given at construction.
            problem_B: index of every problem; of an index seen before, the outcome seen first stays (of several
                processes: the lowest rank's).
            correct_B: True where the answer is right.
            nfe_B: denoiser evaluations made for the problem, as counted by the loop.
            tokens_B: generated answer tokens before end-of-sequence.
        """
        self.add(cell, problem_B, correct_B, nfe_B, tokens_B)

    def compute(self) -> dict[str, CellSummary]:
        """One summary per cell that has at least one outcome, in the order of ``cells``."""
        return {cell: _summary(outcomes) for cell, outcomes in self.by_cell().items()}


def _summary(outcomes: Sequence[tuple[int, ...]]) -> CellSummary:
    correct, nfe, tokens = (list(column) for column in zip(*outcomes, strict=True))
    evaluations = sum(nfe)
    return CellSummary(
        n=len(nfe),
        correct=sum(correct),
        accuracy=sum(correct) / len(nfe),
        nfe_mean=evaluations / len(nfe),
        nfe_min=min(nfe),
        nfe_max=max(nfe),
        # A canvas with nothing to generate costs no evaluation.
        tokens_per_forward=sum(tokens) / evaluations if evaluations else 0.0,
    )
