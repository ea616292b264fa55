"""Our logical solver against independent ones: do they agree on which Sudokus are easy?

pip install hodoku-py==0.2.1 dokusan==0.1.0   # for this comparison alone
python experiments/sudoku/independent.py [--n 300] [FILE ...]

HoDoKu is told to use our seven strategies and no other: singles, naked pairs and triples, locked candidates, XY-wings
and unique rectangles of type 1. Its order of strategies, its one step at a time and its code are its own. Then the same
with rectangles of the types 1 to 4, which our solver does not know. dokusan has strategies of the very names and order
that Kim et al. list. Puzzles are generated; files hold others, one a line, and are read whole.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from dokusan import boards, exceptions, solvers
from hodoku import SolutionType, Solver, SolverConfig
from hodoku.core.scoring import DEFAULT_STEPS

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.puzzles.sudoku import to_text
from lightning_mdm.puzzles.sudoku_files import read_puzzles
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, fresh
from lightning_mdm.puzzles.sudoku_logic import Strategy, solve_logically
from lightning_mdm.puzzles.sudoku_search import proven

OURS = {
    SolutionType.FULL_HOUSE, SolutionType.NAKED_SINGLE, SolutionType.HIDDEN_SINGLE, SolutionType.NAKED_PAIR,
    SolutionType.NAKED_TRIPLE, SolutionType.LOCKED_CANDIDATES_1, SolutionType.LOCKED_CANDIDATES_2,
    SolutionType.LOCKED_PAIR, SolutionType.LOCKED_TRIPLE,  # its names for naked ones within a box and a line
    SolutionType.XY_WING, SolutionType.UNIQUENESS_1,
}  # fmt: skip
MORE = {SolutionType.UNIQUENESS_2, SolutionType.UNIQUENESS_3, SolutionType.UNIQUENESS_4}


def solver(allowed: Iterable[SolutionType]) -> Solver:
    """HoDoKu with some of its strategies."""
    kept = set(allowed)
    return Solver(
        SolverConfig(step_overrides={s.solution_type: {"enabled": s.solution_type in kept} for s in DEFAULT_STEPS})
    )


def dokusan(clues: bytes) -> tuple[bool, bytes]:
    """Whether dokusan finishes a puzzle, and the digits that it finds, 0 for the others."""
    board = boards.Sudoku.from_string(to_text(clues).replace(".", "0"), box_size=boards.BoxSize(3, 3))
    found = bytearray(clues)
    try:
        for step in solvers.steps(board):
            for cell in step.changes:
                if cell.value:
                    found[cell.position.row * 9 + cell.position.column] = cell.value
    except (exceptions.Unsolvable, exceptions.InvalidSudoku, exceptions.NoCandidates):
        return False, bytes(found)
    return True, bytes(found)


def compare(name: str, puzzles: Sequence[bytes]) -> None:
    """Print how the verdicts on some puzzles agree."""
    seven, rectangles, none = solver(OURS), solver(OURS | MORE), solver(OURS - {SolutionType.UNIQUENESS_1})
    agree: Counter[tuple[bool, bool]] = Counter()
    others: Counter[tuple[bool, bool]] = Counter()
    more = wrong = unsound = fewer = fewer_theirs = 0
    start = time.process_time()
    for clues in puzzles:
        text, ours = to_text(clues), solve_logically(clues)
        theirs = seven.solve(text)
        agree[ours.finished, theirs.solved] += 1
        if ours.finished != theirs.solved:
            print(f"  {'only ours' if ours.finished else 'only HoDoKu'} finishes {text}")
        solution = proven(clues).grid
        wrong += any(solution[step.cell] != step.digit for step in ours.steps)
        wrong += theirs.solved and theirs.solution != to_text(solution)
        more += not ours.finished and rectangles.solve(text).solved
        fewer += ours.stays_finished
        fewer_theirs += none.solve(text).solved
        finished, found = dokusan(clues)
        right = all(digit in (0, own) for digit, own in zip(found, solution, strict=True))
        unsound += not right
        others[ours.finished, finished and right] += 1
    n, hard = len(puzzles), len(puzzles) - agree[True, True] - agree[True, False]
    low, high = wilson(hard, n)
    print(f"{name}: n = {n}, hard {hard} ({hard / n:.1%}, 95 % {low:.1%} to {high:.1%})")
    print(f"  both finish {agree[True, True]}, neither {agree[False, False]}, only ours {agree[True, False]}, "
          f"only HoDoKu {agree[False, True]}; wrong digits {wrong}")  # fmt: skip
    print(f"  hard ones that rectangles of types 2 to 4 would finish: {more} of {hard}")
    print(f"  without any rectangle ours finishes {fewer}, HoDoKu {fewer_theirs}")
    print(f"  dokusan: both finish {others[True, True]}, neither {others[False, False]}, "
          f"only ours {others[True, False]}, only dokusan {others[False, True]}; "
          f"wrong digits in {unsound} puzzles")  # fmt: skip
    print(f"  {time.process_time() - start:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="puzzles of 81 characters, one a line")
    parser.add_argument("--n", type=int, default=300, help="puzzles generated of each kind; 0 for files alone")
    options = parser.parse_args()
    print(", ".join(strategy.name.lower() for strategy in Strategy))
    for name, made in (("17 to 34 clues", SudokuOptions()), ("17 to 24 clues", SudokuOptions(max_clues=24))):
        if options.n:
            compare(name, [fresh(made, "independent", k).clues for k in range(options.n)])
    for path in options.files:
        compare(path, [puzzle.clues for puzzle in read_puzzles(path, 9)])


if __name__ == "__main__":
    main()
