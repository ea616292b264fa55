"""Which budget an update is spent at: its law, and what is remembered of earlier batches."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from lightning_mdm.modules.budget_draws import BudgetDraw, BudgetDraws

BUDGETS = (6, 2, 3)


def shares(draws: BudgetDraws, n: int = 12_000) -> list[float]:
    """Of each budget, of ``n`` updates with evenly spread uniforms."""
    counts = Counter(draws.draw(update, (update + 0.5) / n) for update in range(n))
    assert counts.keys() == set(draws.budgets)
    return [counts[budget] / n for budget in draws.budgets]


@pytest.mark.parametrize(
    ("how", "weights"), [("uniform", (1, 1, 1)), ("by_cost", (1 / 6, 1 / 2, 1 / 3)), ("by_evaluations", (1, 1, 1))]
)
def test_budgets_are_drawn_alike_or_by_cost(how: BudgetDraw, weights: tuple[float, ...]) -> None:
    assert shares(BudgetDraws(BUDGETS, how)) == pytest.approx([w / sum(weights) for w in weights], abs=1e-4)


def test_the_evaluations_that_were_counted_decide() -> None:
    """The latest count most; one batch is an average already; and what was not seen is as dear as the dearest."""
    draws = BudgetDraws(BUDGETS, "by_evaluations")
    draws.add(2, torch.tensor(1.5))
    assert draws.weights() == pytest.approx([1 / 1.5] * 3)
    draws.add(6, torch.tensor(4.0))
    assert draws.weights() == pytest.approx([1 / 4, 1 / 1.5, 1 / 4])
    draws.add(6, torch.tensor(3.0))
    mean = (0.95 * 4.0 + 3.0) / 1.95
    assert draws.weights() == pytest.approx([1 / mean, 1 / 1.5, 1 / mean])
    total = sum(draws.weights())
    assert shares(draws) == pytest.approx([weight / total for weight in draws.weights()], abs=1e-4)


def test_an_update_has_one_budget_whatever_is_counted_in_between() -> None:
    draws = BudgetDraws((2, 6), "by_evaluations")
    assert draws.draw(7, 0.6) == 6
    draws.add(2, torch.tensor(1.0))
    draws.add(6, torch.tensor(5.0))
    assert draws.draw(7, 0.6) == 6
    assert draws.draw(8, 0.6) == 2
    assert draws.draw(0, 0.9) == 6, "a training that begins anew begins at its first update"


def test_what_was_counted_is_saved_where_it_matters_and_belongs_to_its_budgets() -> None:
    draws = BudgetDraws(BUDGETS, "by_evaluations")
    draws.add(6, torch.tensor(4.0))
    draws.add(2, torch.tensor(1.5))
    saved = nn.ModuleDict({"part": draws}).state_dict()
    plain = nn.ModuleDict({"part": BudgetDraws(BUDGETS, "by_cost")})
    assert not plain.state_dict()
    plain.load_state_dict(dict(saved))
    for budgets, weights in (
        (BUDGETS, draws.weights()), ((2, 6), [1 / 1.5, 1 / 4]), ((2, 3), [1.0, 1.0]), ((2, 9), [1.0, 1.0]),
    ):  # fmt: skip
        again = BudgetDraws(budgets, "by_evaluations")
        nn.ModuleDict({"part": again}).load_state_dict(dict(saved))
        assert again.weights() == pytest.approx(weights)
    again = BudgetDraws(BUDGETS, "by_evaluations")
    nn.ModuleDict({"part": again}).load_state_dict({})
    assert again.weights() == [1.0, 1.0, 1.0]
