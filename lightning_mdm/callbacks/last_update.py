"""Keeps the very last update, which ModelCheckpoint drops where it falls between two of its intervals."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


class LastUpdate(Callback):
    """Saves ``last.ckpt`` after the update that ends training.

    While training still runs: at its end ``EMAWeightAveraging`` overwrites the raw weights by the averaged ones, and a
    checkpoint saved then could not be trained on. It runs after the callbacks of the configuration, so that the
    average has seen the update.
    """

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        checkpoints = trainer.checkpoint_callback
        if not isinstance(checkpoints, ModelCheckpoint) or not checkpoints.save_last or not checkpoints.dirpath:
            return
        if trainer.global_step == trainer.max_steps:
            last = Path(checkpoints.dirpath) / f"{checkpoints.CHECKPOINT_NAME_LAST}{checkpoints.FILE_EXTENSION}"
            trainer.save_checkpoint(last)
