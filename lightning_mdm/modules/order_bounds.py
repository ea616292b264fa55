"""What validation and test evaluate of orders: their variational bounds on -log p(x), learned and IID.

Knows the estimators and how trajectories are drawn; knows nothing of files.

Shapes: B examples, K trajectories of each, N = B K, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import lightning as L
import torch

from lightning_mdm.data.batch import Batch
from lightning_mdm.metrics.order_bounds import BoundSummary, OrderBoundsMetric
from lightning_mdm.modules.order_batch import BatchModel
from lightning_mdm.modules.order_draws import draw_sets, trajectories
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.order_elbo import Bound, all_steps, importance_weighted_nats
from lightning_mdm.objectives.order_one_step import iid_steps

LOGGED = (
    "bound_nats", "bound_nats_per_token", "importance_weighted_nats", "token_nats", "order_kl_nats", "price_nats",
    "steps_of_q",
)  # fmt: skip

ModelOf = Callable[[Batch, int, float], BatchModel]
"""The batch as the estimators see it, at a budget and a price."""


@dataclass(frozen=True)
class BoundCell:
    """One bound to evaluate: of the learned order or of IID, in ``budget`` steps, at a price in nats per step."""

    policy: Literal["learned", "iid"]
    budget: int
    price: float

    @property
    def name(self) -> str:
        """As in metric keys: ``T=4/learned/price=0.5``, without a price of 0."""
        return f"T={self.budget}/{self.policy}" + (f"/price={self.price}" if self.price else "")


def bound_cells(budgets: Sequence[int], prices: Sequence[float]) -> list[BoundCell]:
    """The learned order at every budget with the first price, and at the largest budget with every price.

    IID, which knows no price, once for each budget.
    """
    cells: list[BoundCell] = []
    for budget in dict.fromkeys(budgets):
        cells += [BoundCell("learned", budget, prices[0]), BoundCell("iid", budget, prices[0])]
    return cells + [BoundCell("learned", max(budgets), price) for price in prices[1:] if budgets]


class BoundEvaluation:
    """The bounds of a loop over problems, on draws that are the same at every evaluation.

    Args:
        budgets: step budgets T; none for no bounds.
        prices: nats per step.
        samples: K trajectories of each example.

    Attributes:
        known: bounds, by the names of their cells, that are not to be evaluated again; for who has them in a file.
    """

    def __init__(self, budgets: Sequence[int], prices: Sequence[float], samples: int) -> None:
        self.cells = {cell.name: cell for cell in bound_cells(budgets, prices)}
        self.samples = samples
        self.known: dict[str, BoundSummary] = {}
        self.metric = OrderBoundsMetric([])

    def begin(self, device: torch.device) -> None:
        """A loop begins: nothing is evaluated yet but what is known."""
        self.metric = OrderBoundsMetric([name for name in self.cells if name not in self.known]).to(device)

    def add(self, batch: Batch, model_of: ModelOf) -> None:
        """Evaluate what is not known on one batch."""
        noise = trajectories(RowNoise(0, batch.index_B), self.samples)
        for name in self.metric.cells:
            bound = self.bound(self.cells[name], batch, model_of, noise)
            self.metric.update(
                name,
                batch.index_B,
                bound_nats_B=bound.bound_nats_B,
                importance_weighted_nats_B=importance_weighted_nats(bound.log_weight_BK),
                token_nats_B=bound.token_nats_B,
                order_kl_nats_B=bound.kl_nats_B,
                price_nats_B=bound.price_nats_B,
                steps_of_q_B=bound.steps_BK.mean(-1),
                tokens_B=batch.response_BL.sum(-1),
            )

    def bound(self, cell: BoundCell, batch: Batch, model_of: ModelOf, noise: RowNoise) -> Bound:
        """The bounds of a batch in one cell, on ``noise`` of its N trajectories."""
        budget, price, response_BL = cell.budget, cell.price, batch.response_BL
        model = model_of(batch, budget, price)
        if cell.policy == "learned":
            choose = partial(draw_sets, noise, 0)
            return all_steps(model, response_BL, budget=budget, samples=self.samples, choose=choose, price=price)
        step_NL = 1 + (noise.uniform_BL(Stream.MASK, 0, response_BL.shape[1]) * budget).long()
        return iid_steps(model, response_BL, step_NL, budget=budget, price=price)

    def summaries(self) -> dict[str, BoundSummary]:
        """What is known and what was evaluated, in the order of the cells; gathered from all processes."""
        evaluated = self.metric.compute() if self.metric.cells else {}
        found = {**self.known, **evaluated}
        return {name: found[name] for name in self.cells if name in found}

    def log(self, module: L.LightningModule, split: str) -> None:
        """Log every bound and its parts: ``val/bound_nats_per_token@T=4/learned/price=0.5``."""
        for name, summary in self.summaries().items():
            for part in LOGGED:
                # A mean of equal values: it changes nothing, and all processes may monitor it.
                module.log(f"{split}/{part}@{name}", getattr(summary, part), sync_dist=True)
