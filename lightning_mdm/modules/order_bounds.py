"""What validation reports of orders: their bounds on -log p(x) in nats, collected over batches and processes.

Knows the estimators' record; knows nothing of how it came about.
"""

from __future__ import annotations

from collections import defaultdict

import lightning as L
from torchmetrics import MeanMetric

from lightning_mdm.data.batch import Batch
from lightning_mdm.objectives.order_elbo import Bound, importance_weighted_nats


class OrderBounds:
    """Means by figure, budget, policy and price: ``bound_nats_per_token@T=4/learned/price=0.5``."""

    def __init__(self) -> None:
        self.means: defaultdict[str, MeanMetric] = defaultdict(MeanMetric)

    def clear(self) -> None:
        """Begin anew."""
        self.means.clear()

    def add(self, name: str, bound: Bound, batch: Batch, budget: int, price: float) -> None:
        """Collect the figures of one policy on one batch."""
        where = f"@T={budget}/{name}" + (f"/price={price}" if price else "")
        tokens, rows = batch.response_BL.sum(), len(batch)
        for part, value, weight in (
            ("bound_nats", bound.bound_nats_B.mean(), rows),
            ("bound_nats_per_token", bound.bound_nats_B.sum() / tokens, tokens),
            ("importance_weighted_nats", importance_weighted_nats(bound.log_weight_BK).mean(), rows),
            ("token_nats", bound.token_nats_B.mean(), rows),
            ("order_kl_nats", bound.kl_nats_B.mean(), rows),
            ("price_nats", bound.price_nats_B.mean(), rows),
            ("steps_of_q", bound.steps_BK.mean(), rows),
        ):
            self.means[f"{part}{where}"].to(value.device).update(value, weight)

    def log(self, module: L.LightningModule, split: str) -> None:
        """Log what was collected; the metrics gather it from all processes."""
        for name, mean in self.means.items():
            module.log(f"{split}/{name}", mean.compute(), sync_dist=True)  # equal on all: it changes nothing
