"""The symmetries of Sudoku: turned into each other, two puzzles are the same puzzle.

The group of a board of box size n: transposition, the order of bands and of the rows in each, the same for stacks and
columns, and a relabelling of the digits; on 81 cells 2 * 6^8 * 9! elements. Knows nothing of how puzzles are solved.

Shapes: N symmetries, C cells, S side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_mdm.puzzles.sudoku import Board, Puzzle


@dataclass(frozen=True)
class Symmetries:
    """N symmetries of one board.

    Args:
        source_NC: the cell that each cell's digit comes from.
        relabel_NS: what each digit becomes; index 0 is the blank, which stays 0.
    """

    source_NC: NDArray[np.int64]
    relabel_NS: NDArray[np.uint8]

    @staticmethod
    def draw(board: Board, n: int, rng: np.random.Generator) -> Symmetries:
        """Uniform draws from the group."""
        rows_NS, columns_NS = lines(board, n, rng), lines(board, n, rng)
        # Transposed, a row's cells come from a column.
        across_N11 = rng.integers(2, size=(n, 1, 1))
        row_N, column_N = rows_NS[:, :, None], columns_NS[:, None, :]
        straight, turned = row_N * board.side + column_N, column_N * board.side + row_N
        source_NC = np.where(across_N11 == 1, turned, straight).reshape(n, board.cells)
        relabel_NS = np.zeros((n, board.side + 1), np.uint8)
        relabel_NS[:, 1:] = rng.random((n, board.side)).argsort(-1) + 1
        return Symmetries(source_NC, relabel_NS)

    def apply(self, grid: bytes) -> NDArray[np.uint8]:
        """The images ``[N, C]`` of one grid."""
        moved_NC = np.frombuffer(grid, np.uint8)[self.source_NC]
        return self.relabel_NS[np.arange(len(moved_NC))[:, None], moved_NC]

    def images(self, puzzle: Puzzle) -> list[Puzzle]:
        """The N images of one puzzle."""
        pairs = zip(self.apply(puzzle.clues), self.apply(puzzle.grid), strict=True)
        return [Puzzle(clues.tobytes(), grid.tobytes()) for clues, grid in pairs]


def lines(board: Board, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Orders of rows (or columns) ``[N, S]`` that keep bands (or stacks) together."""
    band_N = rng.random((n, board.box)).argsort(-1)[:, :, None]
    within_N = rng.random((n, board.box, board.box)).argsort(-1)
    return (band_N * board.box + within_N).reshape(n, board.side)
