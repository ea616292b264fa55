"""How fast Sudokus are made, graded and brought to canonical form.

python experiments/sudoku/bench.py [--n 300]

Puzzles per second of CPU time, on one core; the first puzzles of everything, with nothing remembered, are left out.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence

from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.puzzles.sudoku import Puzzle
from lightning_mdm.puzzles.sudoku_canonical import canonical_form
from lightning_mdm.puzzles.sudoku_generator import Difficulty, SudokuOptions, fresh, image
from lightning_mdm.puzzles.sudoku_logic import solve_logically
from lightning_mdm.puzzles.sudoku_search import proven


def warming_up(n: int) -> int:
    """How many calls come before ``n`` that are measured."""
    return max(1, n // 10)


def rate(make: Callable[[int], object], n: int) -> float:
    """Calls per second of CPU time."""
    for k in range(n, n + warming_up(n)):
        make(k)
    start = time.process_time()
    for k in range(n):
        make(k)
    return n / (time.process_time() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=300)
    n = parser.parse_args(arguments).n
    minimal = SudokuOptions(min_clues=0, max_clues=40)
    wide: dict[Difficulty, SudokuOptions] = {d: SudokuOptions(difficulty=d) for d in ("any", "easy", "hard")}
    print("puzzles per second of CPU time")
    for name, options in wide.items():
        print(f"  fresh, 17 to 34 clues, {name:5}{rate(lambda k, o=options: fresh(o, 'bench', k), n):10.0f}")
    print(f"  fresh, for the test split   {rate(lambda k: fresh(wide['any'], 'bench', k, 'test'), n // 4):10.0f}")
    puzzles: list[Puzzle] = [fresh(minimal, "bench", k) for k in range(n + warming_up(n))]
    for name, work in {
        "symmetric images            ": lambda k: image(puzzles[0], "bench", k),
        "logical solver              ": lambda k: solve_logically(puzzles[k].clues),
        "canonical form              ": lambda k: canonical_form(puzzles[k]),
        "proof of uniqueness         ": lambda k: proven(puzzles[k].clues),
    }.items():
        print(f"  {name}{rate(work, n):10.0f}")
    training = SudokuProblems(pool=100, difficulty="any").training()
    training.sample(100)
    start = time.process_time()
    training.sample(2000)
    print(f"  training problems from a pool{2000 / (time.process_time() - start):9.0f}")
    # Of puzzles from which clues were taken away as long as they stayed unique, with as many again as the draw wants.
    for name, options in (("17 to 34 clues", wide["any"]), ("17 to 24 clues", SudokuOptions(max_clues=24))):
        solved = [solve_logically(fresh(options, "shares", k).clues) for k in range(n)]
        hardest = Counter(s.hardest.name.lower() if s.finished and s.hardest else "hard" for s in solved)
        shares = ", ".join(f"{kind} {count / n:.1%}" for kind, count in hardest.most_common())
        print(f"{n} fresh puzzles of {name} by the strategy that finishes them: {shares}")


if __name__ == "__main__":
    main()
