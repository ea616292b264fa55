"""Numbers per problem and cell of a comparison, gathered from any number of processes, every problem counted once.

Knows torchmetrics; knows nothing of what the numbers mean. A problem counts by its index, however many processes (or
repeated validation batches) hand it in: a mean of per-process means would be wrong for uneven shards, and a padded
distributed sampler would count some problems twice.

Shapes: B problems of one update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric


class CellMetric(Metric):
    """Accumulates a few numbers per problem, cell by cell.

    Args:
        cells: names of the cells; the same, in the same order, on every process.

    Raises:
        ValueError: when a name occurs twice.
    """

    full_state_update = False
    is_differentiable = False
    columns: ClassVar[int]
    number_type: ClassVar[torch.dtype]
    outcomes: list[Tensor] | Tensor

    def __init__(self, cells: Sequence[str], **kwargs: Any) -> None:
        # A cached result would let one process skip a synchronisation that the others wait in.
        super().__init__(**{"compute_with_cache": False, **kwargs})
        if len(set(cells)) != len(cells):
            raise ValueError(f"cells must have different names, got {list(cells)}")
        self.cells = list(cells)
        self.add_state("outcomes", default=[], dist_reduce_fx="cat")

    def add(self, cell: str, problem_B: Tensor, *column_B: Tensor) -> None:
        """Adds B problems.

        Args:
            cell: one of the names given at construction.
            problem_B: index of every problem; of an index seen before, the numbers seen first stay (of several
                processes: the lowest rank's).
            *column_B: the numbers.
        """
        assert cell in self.cells, f"unknown cell {cell!r}"
        assert isinstance(self.outcomes, list), "update inside a synchronised state"
        assert len(column_B) == self.columns, "all columns"
        assert problem_B.dim() == 1, "one value per problem"
        assert all(column.shape == problem_B.shape for column in column_B), "one value per problem"
        cell_B = torch.full_like(problem_B, self.cells.index(cell))
        rows = torch.stack([column.to(self.number_type) for column in (cell_B, problem_B, *column_B)], dim=1)
        self.outcomes.append(rows.to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gathers the numbers of all processes; a process that has none contributes none."""
        # The framework's stand-in for an empty state is a float vector, which does not match the others' rows.
        if isinstance(self.outcomes, list) and not self.outcomes:
            self.outcomes.append(torch.empty(0, 2 + self.columns, dtype=self.number_type, device=self.device))
        super().sync(*args, **kwargs)

    def by_cell(self) -> dict[str, list[tuple[Any, ...]]]:
        """The numbers of every problem, of the cells that have any, in the order of ``cells``."""
        parts = self.outcomes if isinstance(self.outcomes, list) else [self.outcomes]
        first: dict[tuple[int, int], tuple[Any, ...]] = {}
        for part in parts:
            for cell, problem, *numbers in part.tolist():
                first.setdefault((int(cell), int(problem)), tuple(numbers))
        found: dict[int, list[tuple[Any, ...]]] = {}
        for (cell, _), numbers in first.items():
            found.setdefault(cell, []).append(numbers)
        return {name: found[i] for i, name in enumerate(self.cells) if i in found}
