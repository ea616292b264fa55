"""Keeps the very last update, which ModelCheckpoint drops where it falls between two of its intervals."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


class LastUpdate(Callback):
    """Makes ``last.ckpt`` the checkpoint of the update that ends training.

    It is saved while training still runs: at its end ``EMAWeightAveraging`` overwrites the raw weights by the averaged
    ones, and a checkpoint saved then, as ModelCheckpoint may do, could not be trained on. It runs after the callbacks
    of the configuration, so that the average has seen the update.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        last = self.last(trainer)
        if last is not None and trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.aside(last))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = self.last(trainer)
        if last is not None and trainer.is_global_zero and self.aside(last).exists():
            os.replace(self.aside(last), last)

    @staticmethod
    def aside(last: Path) -> Path:
        """Where the checkpoint waits until nobody writes ``last.ckpt`` any more."""
        return last.with_suffix(".final")

    @staticmethod
    def last(trainer: L.Trainer) -> Path | None:
        """The file that the trainer's ModelCheckpoint keeps the newest state in, if it does."""
        checkpoints = trainer.checkpoint_callback
        if not isinstance(checkpoints, ModelCheckpoint) or not checkpoints.save_last or not checkpoints.dirpath:
            return None
        return Path(checkpoints.dirpath) / f"{checkpoints.CHECKPOINT_NAME_LAST}{checkpoints.FILE_EXTENSION}"
