"""Which budget an update is spent at: its law, and what is remembered of earlier updates."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lightning_mdm.modules.budget_draws import BudgetDraw, BudgetDraws

BUDGETS = (6, 2, 3)


def shares(draws: BudgetDraws, n: int = 12_000) -> list[float]:
    """Of each budget, of ``n`` evenly spread uniforms."""
    counts = Counter(draws.draw((at + 0.5) / n) for at in range(n))
    assert counts.keys() == set(draws.budgets)
    return [counts[budget] / n for budget in draws.budgets]


@pytest.mark.parametrize(
    ("how", "weights"),
    [("uniform", (1, 1, 1)), ("by_cost", (1 / 6, 1 / 2, 1 / 3)), ("by_evaluations", (1 / 6, 1 / 2, 1 / 3))],
)
def test_budgets_are_drawn_alike_or_by_cost(how: BudgetDraw, weights: tuple[float, ...]) -> None:
    assert shares(BudgetDraws(BUDGETS, how)) == pytest.approx([w / sum(weights) for w in weights], abs=1e-4)


def test_evaluations_that_were_counted_take_the_place_of_the_budget() -> None:
    """The latest count most, and one update is an average already."""
    draws = BudgetDraws(BUDGETS, "by_evaluations")
    draws.add(6, torch.tensor(4.0))
    assert draws.weights() == pytest.approx([1 / 4, 1 / 2, 1 / 3])
    draws.add(6, torch.tensor(3.0))
    mean = (0.95 * 4.0 + 3.0) / 1.95
    assert draws.weights() == pytest.approx([1 / mean, 1 / 2, 1 / 3])
    total = sum(draws.weights())
    assert shares(draws) == pytest.approx([weight / total for weight in draws.weights()], abs=1e-4)


def test_what_was_counted_is_saved_where_it_matters_and_belongs_to_its_budgets() -> None:
    draws = BudgetDraws(BUDGETS, "by_evaluations")
    draws.add(6, torch.tensor(4.0))
    saved = draws.state_dict()
    assert not BudgetDraws(BUDGETS, "by_cost").state_dict()
    for budgets, kept in ((BUDGETS, True), ((2, 6), True), ((2, 3), False), ((2, 3, 9), False)):
        again = BudgetDraws(budgets, "by_evaluations")
        again.load_state_dict(dict(saved))
        assert bool(again.evaluations.any()) == kept
        assert (again.weights() == [1.0 / budget for budget in budgets]) == (not kept)
    again = BudgetDraws(BUDGETS, "by_evaluations")
    again.load_state_dict({})
    assert not again.evaluations.any()
    BudgetDraws(BUDGETS, "by_cost").load_state_dict(dict(saved))
