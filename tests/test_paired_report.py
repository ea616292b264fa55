"""Comparisons at equal evaluations: which points are meant, how seeds weigh, what is corrected together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_mdm.metrics.statistics import holm, wilson
from lightning_mdm.report.paired import (
    at_equal_evaluations,
    compare_at_budgets,
    compare_at_evaluations,
    every_pair,
    solved_pairs,
)
from lightning_mdm.report.points import pool_seeds
from test_report import N, cell, equal, sweep


def test_comparisons_at_evaluations_are_corrected_together() -> None:
    """Over each kind, @Avg and @Max; and over all at equal evaluations."""
    rows, outcomes = sweep((0, 1))
    points, solved = pool_seeds(rows), solved_pairs(outcomes)
    matched = compare_at_evaluations(points, solved)
    for kind in ("@Avg", "@Max"):
        found = [m.comparison for m in matched if m.kind == kind and m.comparison is not None]
        assert len(found) == 2
        assert [c.pooled_holm for c in found] == holm([c.pooled.p_value for c in found])
        assert [c.by_problem_holm for c in found] == holm([c.by_problem.p_value for c in found])
        assert any(c.pooled_holm > c.pooled.p_value for c in found)
    pairs = at_equal_evaluations(points, solved)
    assert len(pairs) == 4
    assert [pair.p_holm for pair in pairs] == holm([pair.p_value for pair in pairs])
    assert [pair.p_by_problem_holm for pair in pairs] == holm([pair.p_by_problem for pair in pairs])
    assert any(pair.p_holm > pair.p_value for pair in pairs)
    assert any(pair.p_by_problem_holm != pair.p_holm for pair in pairs)


def test_of_equally_accurate_points_the_cheaper_one_is_meant() -> None:
    """Both as the best at a budget and as the rival at a price."""
    dear, cheap = (cell("theirs", option, 8, range(30), nfe) for option, nfe in ((0.5, 4), (0.9, 3)))
    for cells in ((dear, cheap), (cheap, dear)):
        points = pool_seeds(row for row, _ in cells)
        (found,) = compare_at_budgets(points, solved_pairs(o for _, own in cells for o in own))
        assert found.first.name == "theirs 0.9"
        (pair,) = (p for p in equal(cell("ours", 0.0, 8, range(20), 5), *cells) if p.first.startswith("ours"))
        assert (pair.second, pair.second_nfe) == ("theirs 0.9", 3.0)


def test_a_budget_whose_hardest_problem_takes_longer_is_compared_again() -> None:
    """As many solved with as many evaluations on average, and more at most: @Max is another number."""
    rows, outcomes = sweep((0,))
    eight = [replace(row, T=8, nfe_max=4) for row in rows if row.policy == "threshold" and row.T == 4]
    more = [replace(row, T=8) for row in outcomes if row.policy == "threshold" and row.T == 4]
    matched = compare_at_evaluations(pool_seeds(rows + eight), solved_pairs(outcomes + more))
    assert [(m.kind, m.adaptive.T, m.wanted) for m in matched if m.kind == "@Max"] == [
        ("@Max", 2, 2), ("@Max", 4, 3), ("@Max", 8, 4),
    ]  # fmt: skip


def test_a_budget_that_changes_anything_is_compared_again() -> None:
    """Problems solved or evaluations alone; and @Avg is a mean rounded to the nearest."""
    cells = [cell("ours", 0.5, T, range(solved), 3) for T, solved in ((2, 20), (4, 21), (8, 21), (16, 21))]
    means = (2.4, 2.4, 2.6, 2.6)
    rows = [replace(row, nfe_mean=mean, nfe_max=9) for (row, _), mean in zip(cells, means, strict=True)]
    matched = compare_at_evaluations(pool_seeds(rows), solved_pairs(o for _, own in cells for o in own))
    assert [(m.adaptive.T, m.wanted) for m in matched if m.kind == "@Avg"] == [(2, 2), (4, 2), (8, 3)]


def test_what_decoded_other_problems_hides_no_rival() -> None:
    rows, outcomes = sweep((0,))
    others = [replace(o, problem=N + o.problem) if (o.policy, o.T) == ("iid", 2) else o for o in outcomes]
    found = compare_at_evaluations(pool_seeds(rows), solved_pairs(others))
    assert [m.comparison and m.comparison.second.name for m in found] == ["top margin"] * 4


def test_every_pair_has_the_votes_of_problems_beside_its_pairs() -> None:
    rows, outcomes = sweep((0, 1))
    pairs = [pair for pair in every_pair(pool_seeds(rows), solved_pairs(outcomes)) if pair.T == 4]
    assert [pair.p_by_problem_holm for pair in pairs] == holm([pair.p_by_problem for pair in pairs])
    (pair,) = (pair for pair in pairs if (pair.first, pair.second) == ("top margin", "threshold 0.9"))
    assert (pair.pairs, pair.only_first, pair.only_second) == (2 * N, 0, 4)
    assert (pair.p_value, pair.p_by_problem) == (2 * 0.5**4, 2 * 0.5**2)


def test_seeds_that_decoded_fewer_problems_weigh_less() -> None:
    """A seed of ten problems of forty; and the interval is that of the forty."""
    row, other = (row for row in sweep((0, 1))[0] if row.policy == "threshold" and row.T == 4)
    other = replace(other, n=10, correct=10, nfe_mean=4.0, tokens_per_forward=6.0, score=1.0, score_sem=0.1)
    row = replace(row, nfe_mean=2.0, tokens_per_forward=5.0, score=0.5, score_sem=0.2)
    (point,) = pool_seeds([row, other])
    assert (point.n, point.correct) == (50, row.correct + 10)
    assert (point.low, point.high) == wilson((row.correct + 10) / 50 * N, N)
    assert point.nfe_mean == pytest.approx((40 * 2.0 + 10 * 4.0) / 50)
    assert point.tokens_per_forward == pytest.approx((40 * 2.0 * 5.0 + 10 * 4.0 * 6.0) / (40 * 2.0 + 10 * 4.0))
    assert point.score == pytest.approx((40 * 0.5 + 10 * 1.0) / 50)
    assert point.score_error == pytest.approx(1.96 * (40 * 0.2 + 10 * 0.1) / 50)
