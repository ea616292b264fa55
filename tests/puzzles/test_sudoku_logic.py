"""The seven strategies against their definitions over sets, their soundness, and their blindness to symmetry."""

from __future__ import annotations

import random
from itertools import combinations, pairwise
from typing import TypeAlias

import numpy as np
import pytest

from lightning_mdm.puzzles import sudoku_logic
from lightning_mdm.puzzles.sudoku import board, from_text, members
from lightning_mdm.puzzles.sudoku_generator import is_of
from lightning_mdm.puzzles.sudoku_logic import ELIMINATIONS, Position, Strategy, solvable_next, solve_logically
from lightning_mdm.puzzles.sudoku_search import proven
from lightning_mdm.puzzles.sudoku_symmetry import Symmetries
from sudokus import puzzles, sees, solutions, units

Candidates: TypeAlias = dict[int, set[int]]


def candidates_of(position: Position) -> Candidates:
    return {
        cell: {index for index, cells in enumerate(position.candidates) if cells >> cell & 1}
        for cell in members(position.blank)
    }


def naked_by_sets(held: Candidates, size: int, least: int) -> set[tuple[int, int]]:
    out = set()
    for unit in units(81):
        blank = [cell for cell in unit if cell in held and least <= len(held[cell]) <= size]
        for chosen in combinations(blank, size):
            union = set.union(*(held[cell] for cell in chosen))
            if len(union) == size:
                out |= {(cell, d) for cell in unit if cell in held and cell not in chosen for d in union & held[cell]}
    return out


def locked_by_sets(held: Candidates) -> set[tuple[int, int]]:
    out = set()
    for one, other in ((a, b) for a in units(81) for b in units(81) if a != b and len(set(a) & set(b)) == 3):
        for digit in range(9):
            places = {cell for cell in one if digit in held.get(cell, ())}
            if places and places <= set(other):
                out |= {(cell, digit) for cell in set(other) - places if digit in held.get(cell, ())}
    return out


def wings_by_sets(held: Candidates) -> set[tuple[int, int]]:
    out = set()
    for pivot, first, second in ((p, a, b) for p in held for a in sees(81)[p] for b in sees(81)[p] if a < b):
        trio = [held.get(cell, set()) for cell in (pivot, first, second)]
        if [len(pair) for pair in trio] == [2, 2, 2] and len(set.union(*trio)) == 3 and not set.intersection(*trio):
            (z,) = trio[1] & trio[2]
            out |= {(cell, z) for cell in sees(81)[first] & sees(81)[second] if z in held.get(cell, ())} - {(pivot, z)}
    return out


def rectangles_by_sets(held: Candidates) -> set[tuple[int, int]]:
    out = set()
    for top, bottom in combinations(range(9), 2):
        for left, right in combinations(range(9), 2):
            corners = [9 * r + c for r in (top, bottom) for c in (left, right)]
            boxes = {(cell // 27, cell % 9 // 3) for cell in corners}
            if len(boxes) != 2 or any(cell not in held for cell in corners):
                continue
            for cell in corners:
                others = [held[other] for other in corners if other != cell]
                if others[0] == others[1] == others[2] and len(others[0]) == 2:
                    out |= {(cell, digit) for digit in others[0] & held[cell]}
    return out


BY_SETS = {
    Strategy.NAKED_PAIR: lambda held: naked_by_sets(held, 2, 2),
    Strategy.NAKED_TRIPLET: lambda held: naked_by_sets(held, 3, 2),
    Strategy.LOCKED_CANDIDATE: locked_by_sets,
    Strategy.XY_WING: wings_by_sets,
    Strategy.UNIQUE_RECTANGLE: rectangles_by_sets,
}


def states(clues: bytes) -> list[Position]:
    """Where logic gets stuck on single cells, time after time; ever other eliminations are tried to go on."""
    position, found = Position.of(clues), []
    while position.blank:
        singles = position.lone_singles() or position.hidden_singles()
        position.place(singles)
        if not singles:
            found.append(position)
            copy = Position(board(9))
            copy.blank, copy.candidates = position.blank, list(position.candidates)
            position = copy
            if not any([position.eliminate(find(position)) for find in ELIMINATIONS.values()]):
                break
    return found


def test_every_strategy_is_its_definition_over_sets() -> None:
    effective = dict.fromkeys(ELIMINATIONS, 0)
    stuck = [position for puzzle in puzzles(20, "hard")[:12] + puzzles(30)[:12] for position in states(puzzle.clues)]
    for position in stuck:
        held = candidates_of(position)
        for strategy, find in ELIMINATIONS.items():
            found = {(cell, index) for index, cells in find(position) for cell in members(cells)}
            found = {(cell, index) for cell, index in found if index in held.get(cell, ())}
            assert found == BY_SETS[strategy](held), strategy
            effective[strategy] += bool(found)
    assert min(effective.values()) >= 2, "each strategy has to occur"


def test_nothing_true_is_ever_eliminated(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = b""
    plain = Position.eliminate

    def watched(position: Position, found: list[tuple[int, int]]) -> bool:
        for index, cells in found:
            assert all(truth[cell] != index + 1 for cell in members(cells & position.blank))
        return plain(position, found)

    monkeypatch.setattr(sudoku_logic.Position, "eliminate", watched)
    for puzzle in puzzles(20, "hard") + puzzles(30):
        truth = puzzle.grid
        solution = solve_logically(puzzle.clues)
        assert all(truth[step.cell] == step.digit for step in solution.steps)
        cells = [step.cell for step in solution.steps]
        assert len(set(cells)) == len(cells)
        assert set(cells) <= set(puzzle.blanks)
        assert solution.finished == (set(cells) == set(puzzle.blanks))
        assert [(s.round, s.cell) for s in solution.steps] == sorted((s.round, s.cell) for s in solution.steps)


@pytest.mark.parametrize("k", range(12))
def test_symmetric_puzzles_are_solved_in_the_same_rounds(k: int) -> None:
    puzzle = puzzles(30)[k]
    turns = Symmetries.draw(board(9), 4, np.random.default_rng(k))
    own = solve_logically(puzzle.clues)
    for turned, source_C, relabel_S in zip(turns.images(puzzle), turns.source_NC, turns.relabel_NS, strict=True):
        solution = solve_logically(turned.clues)
        assert solution.finished == own.finished
        moved = {(int(source_C[s.cell]), s.digit, s.strategy, s.round) for s in solution.steps}
        assert moved == {(s.cell, int(relabel_S[s.digit]), s.strategy, s.round) for s in own.steps}


def test_singles_are_what_their_names_say() -> None:
    """A step by a lone or hidden single can be read off the digits placed before its round."""
    seen = set()
    for puzzle in puzzles(30)[:20]:
        known = bytearray(puzzle.clues)
        for number in range(1, solve_logically(puzzle.clues).rounds + 1):
            steps = [step for step in solve_logically(puzzle.clues).steps if step.round == number]
            fits = {
                cell: set(range(1, 10)) - {known[other] for other in sees(81)[cell]}
                for cell in range(81)
                if not known[cell]
            }
            for step in steps:
                alone = len(fits[step.cell]) == 1
                hidden = any(
                    [cell for cell in unit if step.digit in fits.get(cell, ())] == [step.cell] for unit in units(81)
                )
                seen.add(step.strategy)
                if step.strategy == Strategy.LONE_SINGLE:
                    assert alone
                elif step.strategy == Strategy.HIDDEN_SINGLE:
                    assert hidden
            if any(step.strategy > Strategy.HIDDEN_SINGLE for step in steps):
                break  # from here on candidates are fewer than the digits say
            for step in steps:
                known[step.cell] = step.digit
    assert {Strategy.LONE_SINGLE, Strategy.HIDDEN_SINGLE} <= seen


def test_a_finish_without_rectangles_proves_uniqueness() -> None:
    """Logic that does not argue from uniqueness, and finishes, shows that there is no other solution."""
    for puzzle in puzzles(30)[:5]:
        solution = solve_logically(puzzle.clues)
        if solution.finished and solution.hardest != Strategy.UNIQUE_RECTANGLE:
            assert solutions(puzzle.clues) == [puzzle.grid]


def test_a_finish_without_rectangles_is_a_finish_with_more_clues_too() -> None:
    rng, finishes = random.Random(3), 0
    for puzzle in puzzles(30) + puzzles(20, "hard"):
        if not solve_logically(puzzle.clues).stays_finished:
            continue
        for _ in range(3):
            more = set(rng.sample(puzzle.blanks, rng.randint(1, 12)))
            clues = bytes(puzzle.grid[cell] if cell in more else digit for cell, digit in enumerate(puzzle.clues))
            assert solve_logically(clues).stays_finished
            finishes += 1
    assert finishes > 30


def visited(n: int) -> list[tuple[bytes, bytes]]:
    """States on the way to solutions of easy and hard puzzles, with the solutions."""
    rng, found = random.Random(4), []
    for puzzle in puzzles(20, "hard")[:n] + puzzles(30)[:n]:
        for _ in range(2):
            more = set(rng.sample(puzzle.blanks, rng.randint(0, 25)))
            clues = bytes(puzzle.grid[cell] if cell in more else digit for cell, digit in enumerate(puzzle.clues))
            found.append((clues, puzzle.grid))
    return found


def test_what_can_be_solved_next() -> None:
    """The definition over sets: ever the easiest strategy that takes anything away, until none does."""
    seen = dict.fromkeys(Strategy, 0)
    for clues, grid in visited(12):
        found = solvable_next(clues)
        held = candidates_of(Position.of(clues))
        expected: dict[int, Strategy] = {}
        level: Strategy | None = Strategy.HIDDEN_SINGLE
        while level is not None:
            for cell, digits in held.items():
                digit = grid[cell] - 1
                alone = any(
                    [c for c in unit if digit in held.get(c, ())] == [cell] for unit in units(81) if cell in unit
                )
                if digits == {digit} or alone:
                    easiest = Strategy.LONE_SINGLE if digits == {digit} else Strategy.HIDDEN_SINGLE
                    expected.setdefault(cell, easiest if level == Strategy.HIDDEN_SINGLE else level)
            useful = {
                strategy: gone
                for strategy, by_sets in BY_SETS.items()
                if (gone := {(cell, index) for cell, index in by_sets(held) if index in held[cell]})
            }
            for cell, index in next(iter(useful.values()), ()):
                held[cell].discard(index)
            level = max(level, next(iter(useful))) if useful else None
        assert found == expected
        first = [step for step in solve_logically(clues).steps if step.round == 1]
        assert all(found[step.cell] == step.strategy for step in first)
        for strategy in found.values():
            seen[strategy] += 1
    assert min(seen.values()) >= 1, "each strategy has to occur"


def solved_by_sets(clues: bytes) -> tuple[list[tuple[int, int, Strategy, int]], bool]:
    """Cell, digit, strategy and round of everything solved, and whether that is all."""
    held, steps, needed, rounds = candidates_of(Position.of(clues)), [], Strategy.LONE_SINGLE, 0
    while held:
        lone = {cell: next(iter(digits)) for cell, digits in held.items() if len(digits) == 1}
        hidden = {
            places[0]: digit
            for unit in units(81) for digit in range(9)
            if len(places := [cell for cell in unit if digit in held.get(cell, ())]) == 1
        }  # fmt: skip
        if lone or hidden:
            rounds += 1
            strategy = max(needed, Strategy.LONE_SINGLE if lone else Strategy.HIDDEN_SINGLE)
            for cell, digit in sorted((lone or hidden).items()):
                steps.append((cell, digit + 1, strategy, rounds))
                del held[cell]
                for other in sees(81)[cell]:
                    held.get(other, set()).discard(digit)
            needed = Strategy.LONE_SINGLE
            continue
        useful = ((strategy, by_sets(held)) for strategy, by_sets in BY_SETS.items())
        strategy, gone = next(((strategy, gone) for strategy, gone in useful if gone), (None, set()))
        if strategy is None:
            break
        for cell, index in gone:
            held[cell].discard(index)
        needed = max(needed, strategy)
    return steps, not held


def test_solving_is_its_definition_over_sets() -> None:
    """A placement needs the hardest strategy since those before it, not of all time."""
    falls, stuck = 0, 0
    for puzzle in puzzles(20, "hard")[:6] + puzzles(30)[:12]:
        solution, (steps, finished) = solve_logically(puzzle.clues), solved_by_sets(puzzle.clues)
        assert [(s.cell, s.digit, s.strategy, s.round) for s in solution.steps] == steps
        assert solution.finished == finished
        assert solution.rounds == steps[-1][3]
        assert solution.hardest == max(strategy for _, _, strategy, _ in steps)
        assert solution.stays_finished == (finished and solution.hardest != Strategy.UNIQUE_RECTANGLE)
        falls += any(then[2] < now[2] >= Strategy.NAKED_PAIR for now, then in pairwise(steps))
        stuck += not finished and solution.hardest != Strategy.UNIQUE_RECTANGLE
    assert falls >= 2
    assert stuck >= 1


def test_where_nothing_is_left_to_solve_nothing_was_needed() -> None:
    for clues, finished in ((puzzles(30)[0].grid, True), (bytes(81), False)):
        solution = solve_logically(clues)
        assert (solution.steps, solution.finished, solution.rounds, solution.hardest) == ((), finished, 0, None)


def test_a_cell_filled_is_a_candidate_for_its_digit_alone() -> None:
    """Placed with others or filled in alone, which is the same; what is no candidate cannot be placed."""
    for puzzle in puzzles(30)[:3]:
        placed, filled = Position.of(puzzle.clues), Position.of(puzzle.clues)
        for cell, digit in enumerate(puzzle.clues):
            if digit:
                assert [index for index, cells in enumerate(placed.candidates) if cells >> cell & 1] == [digit - 1]
        for cell in puzzle.blanks[:10]:
            other = next(index for index, cells in enumerate(placed.candidates) if not cells >> cell & 1)
            with pytest.raises(ValueError, match=f"cannot be {other + 1}"):
                placed.place({cell: other})
            placed.place({cell: puzzle.grid[cell] - 1})
            filled.fill(cell, puzzle.grid[cell] - 1)
            assert (placed.candidates, placed.blank) == (filled.candidates, filled.blank)


def test_cells_are_counted_by_their_candidates() -> None:
    for puzzle in puzzles(20, "hard")[:3] + puzzles(30)[:3]:
        for position in states(puzzle.clues):
            held = candidates_of(position)
            for n, cells in enumerate(position.counted(), start=1):
                assert members(cells) == [cell for cell in sorted(held) if len(held[cell]) == n]


@pytest.mark.parametrize(
    ("strategy", "few"),
    [(Strategy.NAKED_PAIR, [{0, 1}, {0, 1}]), (Strategy.NAKED_TRIPLET, [{0, 1}, {1, 2}, {0, 2}])],
)
def test_naked_cells_are_found_where_no_others_have_as_few_candidates(strategy: Strategy, few: list[set[int]]) -> None:
    position = Position(board(9))
    for cell, digits in enumerate(few):
        assert position.eliminate([(index, 1 << cell) for index in range(9) if index not in digits])
    found = {(cell, index) for index, cells in ELIMINATIONS[strategy](position) for cell in members(cells)}
    assert found == BY_SETS[strategy](candidates_of(position))
    assert {cell for cell, _ in found} == {*range(9), *range(9, 12), *range(18, 21)} - set(range(len(few)))


def test_difficulties() -> None:
    for puzzle in puzzles(20, "hard")[:20]:
        assert is_of("hard", puzzle.clues)
        assert not is_of("easy", puzzle.clues)
        assert is_of("any", puzzle.clues)
    # "World's hardest" of the newspapers (Inkala 2012): no such strategy gets anywhere near its end.
    clues = from_text("8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4..")
    assert not solve_logically(clues).finished
    # Twenty cells to find, all of them lone or hidden singles.
    grid = proven(clues).grid
    easy = solve_logically(bytes(0 if cell % 4 == 0 else digit for cell, digit in enumerate(grid)))
    assert easy.finished
    assert easy.hardest == Strategy.LONE_SINGLE


def test_contradictions_are_named() -> None:
    with pytest.raises(ValueError, match="contradictory clues: r1c2 cannot be 5"):
        solve_logically(bytes([5, 5] + [0] * 79))
    with pytest.raises(ValueError, match="contradictory clues: no digit fits r1c1"):
        solve_logically(bytes([0, 1, 2, 3, 4, 5, 6, 7, 8] + [9] + [0] * 71))
    with pytest.raises(ValueError, match="7 cells: a Sudoku here has 16 or 81"):
        solve_logically(bytes(7))
