"""What callbacks that evaluate problems share: validation and test loops look alike to them.

Work is done batch by batch while the loop runs: averaged weights (``EMAWeightAveraging``) are in place only then,
whatever the order of callbacks, and the loop's shards give each process its own problems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from lightning_mdm.data.batch import Batch


class EvaluationCallback(Callback, ABC):
    """The hooks of both loops, brought together in three methods."""

    @abstractmethod
    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        """The loop over ``validation`` or ``test`` begins."""

    @abstractmethod
    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """A batch has been evaluated."""

    @abstractmethod
    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        """The loop has ended; metrics are logged with ``val`` or ``test`` before their names."""

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begin(trainer, pl_module, "validation")

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begin(trainer, pl_module, "test")

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.each_batch(trainer, pl_module, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.each_batch(trainer, pl_module, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.finish(trainer, pl_module, "val")
        log_step(trainer, pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.finish(trainer, pl_module, "test")
        log_step(trainer, pl_module)


def log_step(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Let loggers have the metrics of a checkpoint at its update, where its training has its own, and not at 0."""
    if trainer.state.fn != TrainerFn.FITTING and trainer.global_step:
        module.log("step", float(trainer.global_step), sync_dist=True)  # Lightning's name for that
