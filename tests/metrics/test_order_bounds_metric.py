"""Bounds are counted once per problem, and several processes agree with one."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from lightning_mdm.metrics.order_bounds import BoundSummary, OrderBoundsMetric

CELLS = ["learned@4", "iid@4", "never evaluated"]
COLUMNS = (
    "bound_nats_B", "importance_weighted_nats_B", "token_nats_B", "order_kl_nats_B", "price_nats_B", "steps_of_q_B",
    "tokens_B",
)  # fmt: skip
# Cell, problem and the columns; both processes hold problem 2.
FIRST = [
    ("learned@4", 0, 1.5, 1.0, 0.75, 0.25, 0.5, 2.0, 4),
    ("learned@4", 2, 4.0, 3.0, 2.0, 1.5, 0.5, 3.0, 6),
    ("iid@4", 7, 2.25, 2.0, 2.25, 0.0, 0.0, 4.0, 3),
]
SECOND = [("learned@4", 2, 4.0, 3.0, 2.0, 1.5, 0.5, 3.0, 6), ("learned@4", 1, 0.5, 0.5, 0.25, 0.25, 0.0, 1.0, 2)]
EXPECTED = {
    "learned@4": BoundSummary(
        n=3,
        bound_nats=2.0,
        bound_nats_sem=statistics.stdev([1.5, 4.0, 0.5]) / math.sqrt(3),
        importance_weighted_nats=1.5,
        importance_weighted_nats_sem=statistics.stdev([1.0, 3.0, 0.5]) / math.sqrt(3),
        token_nats=1.0,
        order_kl_nats=2 / 3,
        price_nats=1 / 3,
        bound_nats_per_token=6 / 12,
        steps_of_q=2.0,
    ),
    "iid@4": BoundSummary(1, 2.25, None, 2.0, None, 2.25, 0.0, 0.0, 0.75, 4.0),
}
Shard = list[tuple[Any, ...]]


def feed(metric: OrderBoundsMetric, shard: Shard) -> None:
    for cell, problem, *numbers in shard:
        columns = {name: torch.tensor([number]) for name, number in zip(COLUMNS, numbers, strict=True)}
        metric.update(cell, torch.tensor([problem]), **columns)


def check(found: dict[str, BoundSummary]) -> None:
    assert list(found) == list(EXPECTED)
    for cell, expected in EXPECTED.items():
        numbers = {name: value for name, value in expected._asdict().items() if value is not None}
        assert {name: getattr(found[cell], name) for name in numbers} == pytest.approx(numbers, rel=1e-15), cell
        assert all(getattr(found[cell], name) is None for name in expected._fields if name not in numbers)


def test_bounds_by_hand() -> None:
    metric = OrderBoundsMetric(CELLS)
    feed(metric, FIRST + SECOND)
    check(metric.compute())


def test_what_can_never_be_generated_has_an_infinite_bound() -> None:
    metric = OrderBoundsMetric(["a"])
    feed(metric, [("a", k, nats, 1.0 + k, 1.0, 0.0, 0.0, 2.0, 1) for k, nats in enumerate((math.inf, 1.0))])
    assert metric.compute()["a"][:4] == (2, math.inf, None, 1.5)
    assert metric.compute()["a"].importance_weighted_nats_sem == pytest.approx(0.5)


def test_where_there_is_nothing_to_generate_a_token_costs_nothing() -> None:
    metric = OrderBoundsMetric(["a"])
    feed(metric, [("a", *[0] * 8)])
    assert metric.compute()["a"] == BoundSummary(1, 0.0, None, 0.0, None, 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("shards", [[FIRST, SECOND], [[], FIRST + SECOND]])
def test_every_process_finds_the_same(shards: list[Shard]) -> None:
    # Real processes are in test_frontier_metric.py; what the metrics share is what gathers.
    def gather(value: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        calls.append(value)
        found = [torch.cat(metric.outcomes or [value[:0]]) for metric in others]
        assert {(part.dtype, part.shape[1]) for part in (value, *found)} == {(torch.float64, 9)}
        return found

    calls: list[torch.Tensor] = []
    metrics = [OrderBoundsMetric(CELLS, dist_sync_fn=gather, distributed_available_fn=lambda: True) for _ in shards]
    others = [OrderBoundsMetric(CELLS) for _ in shards]
    for metric, other, shard in zip(metrics, others, shards, strict=True):
        feed(metric, shard)
        feed(other, shard)
    for times in (1, 2):
        for metric in metrics:
            check(metric.compute())
        assert len(calls) == times * len(metrics), "nobody leaves the others waiting"
