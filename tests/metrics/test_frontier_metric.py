"""The metric counts every problem once, and several processes agree with one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from lightning_mdm.metrics.frontier import CellSummary, FrontierMetric

CELLS = ["margin@4", "threshold@4", "never decoded"]
# (cell, problem, correct, nfe); both processes decode problem 2 of the first cell, as a padded sampler would.
SHARDS = [
    [("margin@4", 0, True, 4), ("margin@4", 1, False, 4), ("margin@4", 2, True, 3)],
    [("margin@4", 2, True, 3)],
]
ONLY_FIRST = [("threshold@4", 5, True, 1), ("threshold@4", 3, True, 2)]
EXPECTED = {
    "margin@4": CellSummary(2 / 3, 11 / 3),
    "threshold@4": CellSummary(1.0, 1.5),
}

Shard = list[tuple[str, int, bool, int]]


def feed(metric: FrontierMetric, shard: Shard) -> None:
    for cell, problem, correct, nfe in shard:
        numbers = (torch.tensor([value]) for value in (problem, correct, nfe))
        metric.update(cell, *numbers)


def test_scores_by_hand() -> None:
    metric = FrontierMetric(CELLS)
    one = torch.ones(3, dtype=torch.int64)
    metric.update("margin@4", torch.arange(3), one, one, torch.tensor([0.25, 1.0, 1 / 3], dtype=torch.float64))
    metric.update("threshold@4", torch.arange(3), one, one, torch.tensor([0.25, float("nan"), 1.0]))
    found = metric.compute()
    assert found["margin@4"].score == pytest.approx((0.25 + 1.0 + 1 / 3) / 3, abs=1e-9)
    assert found["threshold@4"].score is None, "a mean of some problems is none of the cell"


def test_counts_by_hand() -> None:
    metric = FrontierMetric(CELLS)
    feed(metric, SHARDS[0] + SHARDS[1] + ONLY_FIRST)
    assert metric.compute() == EXPECTED
    metric.reset()
    feed(metric, ONLY_FIRST)
    assert metric.compute() == {"threshold@4": EXPECTED["threshold@4"]}


def test_the_first_outcome_of_a_problem_stays() -> None:
    metric = FrontierMetric(["a"])
    metric.update("a", torch.tensor([4, 4]), torch.tensor([True, False]), torch.tensor([2, 8]))
    assert metric.compute()["a"] == CellSummary(1.0, 2.0)


def test_same_name_twice() -> None:
    with pytest.raises(ValueError, match="different names"):
        FrontierMetric(["a", "a"])


def _process(rank: int, folder: str, cases: list[list[Shard]]) -> None:
    store = torch.distributed.FileStore(os.path.join(folder, "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for shards in cases:
        metric = FrontierMetric(CELLS)
        feed(metric, shards[rank])
        assert metric.compute() == EXPECTED, f"rank {rank}: {metric.compute()}"
        # Having been synchronised, it goes on with its own shard: a repeated problem changes nothing, for anybody.
        feed(metric, shards[rank][:1])
        assert metric.compute() == EXPECTED, f"rank {rank}, second time: {metric.compute()}"
    torch.distributed.destroy_process_group()
    Path(folder, f"rank{rank}").touch()


@pytest.mark.long
def test_two_processes_equal_one(tmp_path: Path) -> None:
    uneven = [SHARDS[0] + ONLY_FIRST, SHARDS[1]]
    nothing_to_do = [[], SHARDS[0] + SHARDS[1] + ONLY_FIRST]
    # Both cases in one go: starting processes takes longer than everything else here.
    torch.multiprocessing.spawn(_process, args=(str(tmp_path), [uneven, nothing_to_do]), nprocs=2)
    assert (tmp_path / "rank0").exists()
    assert (tmp_path / "rank1").exists()
