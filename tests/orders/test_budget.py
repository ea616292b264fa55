"""The step budget: its plan, and the memoryless quota that follows it."""

from __future__ import annotations

import pytest
import torch

from lightning_mdm.orders.budget import StepBudget, quota

CASES = [(n, steps) for n in range(0, 25) for steps in (1, 2, 3, 4, 7, 8, 24, 40)]


@pytest.mark.parametrize(("n", "steps"), CASES)
def test_the_plan_is_even_larger_parts_first_and_complete(n: int, steps: int) -> None:
    plan = StepBudget(steps).quotas(n)
    assert sum(plan) == n
    assert len(plan) == min(n, steps)
    assert plan == sorted(plan, reverse=True)
    assert not plan or (max(plan) - min(plan) <= 1 and min(plan) >= 1)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 24, 40])
def test_following_the_quota_is_following_the_plan(steps: int) -> None:
    left_B = torch.arange(25)
    taken = []
    for step in range(1, steps + 1):
        taken.append(quota(left_B, torch.full_like(left_B, steps - step + 1)))
        left_B = left_B - taken[-1]
    assert not bool(left_B.any())
    for n, row in enumerate(torch.stack(taken, dim=1).tolist()):
        assert [size for size in row if size] == StepBudget(steps).quotas(n)


def test_the_quota_is_the_least_that_keeps_the_budget_reachable() -> None:
    for n in range(1, 30):
        for left in range(1, 10):
            size = int(quota(torch.tensor([n]), torch.tensor([left])))
            assert size * left >= n > (size - 1) * left


@pytest.mark.parametrize("steps", [0, -1])
def test_a_budget_without_steps_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps={steps}"):
        StepBudget(steps)
