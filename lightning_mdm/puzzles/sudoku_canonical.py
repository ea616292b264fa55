"""One representative for all puzzles that symmetries turn into each other.

The solved grid takes its least form in reading order; of the symmetries that lead there (several where the grid has
symmetries of its own) the one that makes the pattern of clues least decides. Two puzzles are equivalent if and only if
their canonical forms agree.

Every choice of transposition, first row and order of columns makes the first row 1 2 3 .. by relabelling, and the order
of all other rows then follows: by their first digits, within bands and between them. Of a pair of rows only the
permutation that leads from one to the other matters, and its least form over all orders of columns is remembered. So a
handful of candidates is left of 2 * 6^8.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from lightning_mdm.puzzles.sudoku import Puzzle, board_of


def canonical_form(puzzle: Puzzle) -> bytes:
    """The clues of the representative of a puzzle's class.

    Args:
        puzzle: any puzzle of the class.
    """
    side = board_of(len(puzzle.grid)).side
    grid_SS, clues_SS = (np.frombuffer(digits, np.uint8).reshape(side, side) for digits in (puzzle.grid, puzzle.clues))
    turned = ((grid_SS, clues_SS), (grid_SS.T, clues_SS.T))
    return min(arranged(*turned[across], first, order) for across, first, order in least_starts(puzzle.grid))[1]


@lru_cache(maxsize=1)
def least_starts(grid: bytes) -> list[tuple[int, int, NDArray[np.int64]]]:
    """What makes the second row least: whether transposed, the first row, and the order of columns.

    Remembered for the last grid, as one grid is given many sets of clues in turn.

    Args:
        grid: a solved grid.
    """
    side, box = board_of(len(grid)).side, board_of(len(grid)).box
    grid_SS = np.frombuffer(grid, np.uint8).reshape(side, side)
    least: tuple[int, ...] | None = None
    starts: list[tuple[int, int, NDArray[np.int64]]] = []
    for across, across_SS in enumerate((grid_SS, grid_SS.T)):
        place_SS = across_SS.argsort(-1)  # the column of each digit, per row
        for first in range(side):
            for second in range(first // box * box, first // box * box + box):
                if second == first:
                    continue
                # From a column to the one whose digit in the first row equals this column's in the second.
                leads = place_SS[first][across_SS[second] - 1]
                form, orders = least_second_row(leads.tobytes(), side)
                if least is None or form < least:
                    least, starts = form, []
                if form == least:
                    starts += [(across, first, order) for order in orders]
    return starts


def arranged(
    grid_SS: NDArray[np.uint8], clues_SS: NDArray[np.uint8], first: int, columns: NDArray[np.int64]
) -> tuple[bytes, bytes]:
    """Grid and clues with this first row and these columns, relabelled, and rows in their least order."""
    side, box = len(grid_SS), board_of(grid_SS.size).box
    relabel = np.zeros(side + 1, np.uint8)
    relabel[grid_SS[first, columns]] = np.arange(1, side + 1)
    # The first row begins with 1 now, so that it comes first of itself.
    head = relabel[grid_SS[:, columns[0]]].tolist()
    bands = sorted(sorted(range(b * box, b * box + box), key=head.__getitem__) for b in range(box))
    bands.sort(key=lambda band: head[band[0]])
    rows = np.array(bands).reshape(-1)
    where = np.ix_(rows, columns)
    return relabel[grid_SS[where]].tobytes(), relabel[clues_SS[where]].tobytes()


@lru_cache(maxsize=50_000)
def least_second_row(leads: bytes, side: int) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """The least second row below 1 2 3 .. over all orders of columns, counted from 0, and the orders that make it.

    Args:
        leads: int64 ``[side]``, from a column to the one with this column's second digit in its first row.
        side: number of columns.
    """
    orders_NS, ranks_NS = column_orders(side)
    leads_S = np.frombuffer(leads, np.int64)
    left = np.arange(len(orders_NS))
    form: list[int] = []
    for place in range(side):
        value = ranks_NS[left, leads_S[orders_NS[left, place]]]
        form.append(int(value.min()))
        left = left[value == form[-1]]
    return tuple(form), orders_NS[left]


@cache
def column_orders(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All orders of columns ``[N, side]`` that keep stacks together, and the rank of each column in them."""
    box = {4: 2, 9: 3}[side]
    inner = list(permutations(range(box)))
    orders = [
        [stack * box + column for stack, within in zip(stacks, chosen, strict=True) for column in within]
        for stacks in inner
        for chosen in product(inner, repeat=box)
    ]
    orders_NS = np.array(orders)
    return orders_NS, orders_NS.argsort(-1)
