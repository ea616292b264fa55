"""What a training logs of every budget apart, of which an update has one: Lightning would repeat the last value."""

from __future__ import annotations

import lightning as L
from torch import Tensor
from torchmetrics import MaxMetric, MeanMetric, Metric, MinMetric

from lightning_mdm.objectives.order_elbo import OrderElbo


class BudgetCurves:
    """Collects figures of single budgets, and writes them where all others are written.

    A point sums up the updates at its budget since the one before; where there was none, there is no point.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}

    def add(self, module: L.LightningModule, elbo: OrderElbo, budget: int, trajectories: bool) -> None:
        """Note an update.

        Args:
            module: logs the figures, too, for callbacks that follow them.
            elbo: of its batch.
            budget: of the update.
            trajectories: whether they were followed to their end, so that the steps of each are known.
        """
        self.note(module, f"train/bound_nats@T={budget}", elbo.bound_nats_B.mean(), MeanMetric)
        self.note(module, f"train/steps_of_q@T={budget}", elbo.steps_BK.mean(), MeanMetric)
        if trajectories:
            self.note(module, f"train/fewest_steps_of_q@T={budget}", elbo.steps_BK.min(), MinMetric)
            self.note(module, f"train/most_steps_of_q@T={budget}", elbo.steps_BK.max(), MaxMetric)

    def note(self, module: L.LightningModule, name: str, value: Tensor, kind: type[Metric]) -> None:
        module.log(name, value, logger=False)
        if name not in self.metrics:
            self.metrics[name] = kind().to(value.device)
        self.metrics[name].update(value)

    def write(self, trainer: L.Trainer, update: int) -> None:
        """Hand loggers what was noted, if ``update``, which counts from 0, is one that they are told of."""
        if (update + 1) % trainer.log_every_n_steps or not self.metrics:  # type: ignore[attr-defined]
            return
        found = {name: float(metric.compute()) for name, metric in self.metrics.items()}  # of all processes
        self.metrics.clear()
        for logger in trainer.loggers:
            logger.log_metrics(found, step=update)
