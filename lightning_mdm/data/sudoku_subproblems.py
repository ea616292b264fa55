"""What finding a cell of a Sudoku takes, as things are: the easiest strategy, other cells first, or more than logic.

Knows boards and logic; knows nothing of tokens or models.
"""

from __future__ import annotations

from functools import lru_cache

from lightning_mdm.data.problem import SubproblemKind
from lightning_mdm.puzzles.sudoku_logic import Strategy, solvable_next, solve_logically

STRATEGIES = tuple(SubproblemKind(strategy.name.lower().replace("_", " "), ready=True) for strategy in Strategy)
KINDS = (
    *STRATEGIES,
    SubproblemKind("other cells first", ready=False),
    SubproblemKind("beyond the strategies", ready=False),
)
FIRST_OTHERS, BEYOND = len(STRATEGIES), len(STRATEGIES) + 1


@lru_cache(maxsize=1 << 16)
def kinds_of(clues: bytes) -> tuple[int, ...]:
    """Per cell the number of its kind in ``KINDS``; 0 for digits on the board.

    Args:
        clues: the digits on the board of a puzzle with one solution, all right, 0 for a blank, ``[C]``.
    """
    blanks = [cell for cell, digit in enumerate(clues) if not digit]
    strategies = solvable_next(clues)
    later: set[int] = set()
    if len(strategies) < len(blanks):
        later = {step.cell for step in solve_logically(clues).steps}
    kinds = [0] * len(clues)
    for cell in blanks:
        strategy = strategies.get(cell)
        if strategy is not None:
            kinds[cell] = list(Strategy).index(strategy)
        else:
            kinds[cell] = FIRST_OTHERS if cell in later else BEYOND
    return tuple(kinds)
