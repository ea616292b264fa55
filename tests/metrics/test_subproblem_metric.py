"""Sums over tokens by kind and number masked."""

from __future__ import annotations

import pytest
import torch

from lightning_mdm.metrics.subproblems import SubproblemMetric


def test_sums_by_kind_and_number_masked() -> None:
    metric = SubproblemMetric([], kinds=2, longest=3)
    metric.update(
        torch.tensor([0, 1, 0]), torch.tensor([2, 2, 2]), torch.tensor([0.5, 2.0, 1.5]),
        torch.tensor([True, False, False]),
    )  # fmt: skip
    metric.update(torch.tensor([0]), torch.tensor([3]), torch.tensor([4.0]), torch.tensor([True]))
    denoised, committed = metric.compute()
    assert committed == {}
    assert denoised.n.tolist() == [[0, 0, 2, 1], [0, 0, 1, 0]]
    assert denoised.nats.tolist() == [[0, 0, 2.0, 4.0], [0, 0, 2.0, 0]]
    assert denoised.nats_squared.tolist() == [[0, 0, 2.5, 16.0], [0, 0, 4.0, 0]]
    assert denoised.right.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_first_mistakes_are_shared_by_those_of_one_step() -> None:
    metric = SubproblemMetric(["a", "b"], kinds=2, longest=3)
    metric.update(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]), torch.tensor([True]))
    metric.add_commits("a", [[(0, 3, False)], [(1, 2, True), (0, 2, True)]])
    metric.add_commits("a", [[(0, 3, False), (0, 3, False), (1, 3, False)]])
    committed = metric.compute()[1]
    assert list(committed) == ["a"], "no problem, no sums"
    a = committed["a"]
    assert (a.problems, a.failed) == (2, 1)
    assert a.n.tolist() == [[0, 0, 1, 3], [0, 0, 1, 1]]
    assert a.wrong.tolist() == [[0, 0, 1, 0], [0, 0, 1, 0]]
    assert a.first.tolist() == [[0, 0, 0.5, 0], [0, 0, 0.5, 0]]
    with pytest.raises(AssertionError, match="nothing counts behind the first mistake"):
        metric.add_commits("b", [[(0, 3, True)], [(0, 2, False)]])


def test_a_problem_is_added_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU every addition is a program of its own. Shares of a mistake keep the precision of the sums."""
    metric = SubproblemMetric(["a"], kinds=2, longest=3)
    calls: list[int] = []
    put = torch.Tensor.index_put_
    monkeypatch.setattr(
        torch.Tensor, "index_put_",
        lambda sums, place, value, **options: calls.append(len(value)) or put(sums, place, value, **options),
    )  # fmt: skip
    metric.add_commits("a", [[(0, 3, False)], [(1, 2, True), (0, 2, True), (0, 2, True)]])
    assert calls == [4 + 2 * 3]
    assert metric.committed[0, 2].tolist() == [[0, 0, 1 / 3 + 1 / 3, 0], [0, 0, 1 / 3, 0]]
    metric.add_commits("a", [])


def test_every_run_has_its_own_commits() -> None:
    """One without a failure among them; and what is handed in after a look is in the next one."""
    metric = SubproblemMetric(["a", "b"], kinds=1, longest=2)
    metric.update(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]), torch.tensor([True]))
    metric.add_commits("b", [[(0, 2, False)]])
    assert [(run, c.problems, c.failed, c.n.tolist()) for run, c in metric.compute()[1].items()] == [
        ("b", 1, 0, [[0, 0, 1]])
    ]
    metric.add_commits("a", [[(0, 1, True)]])
    metric.add_commits("b", [[(0, 2, True)]])
    assert [(run, c.problems, c.failed, c.n.tolist()) for run, c in metric.compute()[1].items()] == [
        ("a", 1, 1, [[0, 1, 0]]), ("b", 2, 1, [[0, 0, 2]]),
    ]  # fmt: skip


def test_processes_add_up() -> None:
    """What two processes hand in is what one would have: every state is a sum."""
    parts, whole = [SubproblemMetric(["a"], 1, 2) for _ in range(2)], SubproblemMetric(["a"], 1, 2)
    for number, part in enumerate(parts):
        for metric in (part, whole):
            metric.update(torch.tensor([0]), torch.tensor([1 + number]), torch.tensor([1.5]), torch.tensor([True]))
            metric.add_commits("a", [[(0, 1, number == 1)]])
    first, second = parts
    first._reduce_states({name: getattr(second, name) for name in ("denoised", "committed", "problems")})
    for name in ("denoised", "committed", "problems"):
        assert torch.equal(getattr(first, name), getattr(whole, name))
