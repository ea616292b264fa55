"""What orders cost is counted once per problem, and several processes agree with one."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from lightning_mdm.metrics.order_nats import OrderCost, OrderNatsMetric

CELLS = ["margin@4", "threshold@4", "never evaluated"]
# (cell, problem, nats, tokens, nfe); both processes hold problem 2.
FIRST = [("margin@4", 0, 1.5, 4, 4), ("margin@4", 2, 4.0, 6, 3), ("threshold@4", 7, 2.25, 3, 1)]
SECOND = [("margin@4", 2, 4.0, 6, 3), ("margin@4", 1, 0.5, 2, 2)]
EXPECTED = {
    "margin@4": OrderCost(3, 2.0, statistics.stdev([1.5, 4.0, 0.5]) / math.sqrt(3), 6 / 12, 3.0, 2, 4),
    "threshold@4": OrderCost(1, 2.25, None, 0.75, 1.0, 1, 1),
}
Shard = list[tuple[str, int, float, int, int]]


def feed(metric: OrderNatsMetric, shard: Shard) -> None:
    for cell, problem, nats, tokens, nfe in shard:
        numbers = (torch.tensor([problem]), torch.tensor([nats]).double(), torch.tensor([tokens]), torch.tensor([nfe]))
        metric.update(cell, *numbers)


def test_costs_by_hand() -> None:
    metric = OrderNatsMetric(CELLS)
    feed(metric, FIRST + SECOND)
    assert metric.compute() == EXPECTED


def test_what_can_never_be_generated_costs_infinitely_much() -> None:
    metric = OrderNatsMetric(["a"])
    metric.update("a", torch.tensor([0, 1]), torch.tensor([math.inf, 1.0]), torch.tensor([1, 1]), torch.tensor([1, 1]))
    assert metric.compute()["a"][:4] == (2, math.inf, None, math.inf)


def test_where_there_is_nothing_to_generate_a_token_costs_nothing() -> None:
    metric = OrderNatsMetric(["a"])
    metric.update("a", *(torch.tensor([0]) for _ in range(4)))
    assert metric.compute()["a"] == OrderCost(1, 0.0, None, 0.0, 0.0, 0, 0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("shards", [[FIRST, SECOND], [[], FIRST + SECOND]])
def test_every_process_finds_the_same(shards: list[Shard]) -> None:
    # Real processes are in test_frontier_metric.py; what both metrics share is what gathers.
    def gather(value: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        calls.append(value)
        found = [torch.cat(metric.outcomes or [value[:0]]) for metric in others]
        assert {(part.dtype, part.shape[1]) for part in (value, *found)} == {(torch.float64, 5)}
        return found

    calls: list[torch.Tensor] = []
    metrics = [OrderNatsMetric(CELLS, dist_sync_fn=gather, distributed_available_fn=lambda: True) for _ in shards]
    others = [OrderNatsMetric(CELLS) for _ in shards]
    for metric, other, shard in zip(metrics, others, shards, strict=True):
        feed(metric, shard)
        feed(other, shard)
    for times in (1, 2):
        for metric in metrics:
            assert metric.compute() == EXPECTED
        assert len(calls) == times * len(metrics), "nobody leaves the others waiting"
