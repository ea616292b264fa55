"""Accuracy, NFE and parallelism of many cells at once, counted per problem and exact on any number of processes.

Knows torchmetrics; knows nothing of policies, files or the Trainer. Every problem counts once, by its index, however
many processes (or repeated validation batches) hand it in: a mean of per-process means would be wrong for uneven
shards, and a padded distributed sampler would count some problems twice.

Shapes: B problems of one update, N problems seen so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

_COLUMNS = 5  # cell, problem, correct, nfe, tokens


class CellSummary(NamedTuple):
    """What one cell amounts to. Accuracy is a fraction; NFE is denoiser evaluations per problem, as counted."""

    n: int
    correct: int
    accuracy: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    tokens_per_forward: float


class FrontierMetric(Metric):
    """Accumulates the outcomes of decoded problems, cell by cell.

    Args:
        cells: names of the cells; the same, in the same order, on every process.

    Raises:
        ValueError: when a name occurs twice.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    outcomes: list[Tensor] | Tensor

    def __init__(self, cells: Sequence[str], **kwargs: Any) -> None:
        # A cached result would let one process skip a synchronisation that the others wait in.
        super().__init__(**{"compute_with_cache": False, **kwargs})
        if len(set(cells)) != len(cells):
            raise ValueError(f"cells must have different names, got {list(cells)}")
        self.cells = list(cells)
        self.add_state("outcomes", default=[], dist_reduce_fx="cat")

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
        assert cell in self.cells, f"unknown cell {cell!r}"
        assert isinstance(self.outcomes, list), "update inside a synchronised state"
        columns = (problem_B, correct_B, nfe_B, tokens_B)
        assert all(column.shape == problem_B.shape and column.dim() == 1 for column in columns), "one value per problem"
        cell_B = torch.full_like(problem_B, self.cells.index(cell), dtype=torch.int64)
        rows = torch.stack([cell_B, *(column.to(torch.int64) for column in columns)], dim=1)
        self.outcomes.append(rows.to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the outcomes of all processes; a process that decoded nothing contributes none."""
        # The framework's stand-in for an empty state is a float vector, which does not match the others' int64 rows.
        if isinstance(self.outcomes, list) and not self.outcomes:
            self.outcomes.append(torch.empty(0, _COLUMNS, dtype=torch.int64, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, CellSummary]:
        """One summary per cell that has at least one outcome, in the order of ``cells``."""
        parts = self.outcomes if isinstance(self.outcomes, list) else [self.outcomes]
        first: dict[tuple[int, int], tuple[int, int, int]] = {}
        for part in parts:
            for cell, problem, correct, nfe, tokens in part.tolist():
                first.setdefault((cell, problem), (correct, nfe, tokens))
        by_cell: dict[int, list[tuple[int, int, int]]] = {}
        for (cell, _), outcome in first.items():
            by_cell.setdefault(cell, []).append(outcome)
        return {name: _summary(by_cell[i]) for i, name in enumerate(self.cells) if i in by_cell}


def _summary(outcomes: list[tuple[int, int, int]]) -> CellSummary:
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
