"""Keeps the very last update, which ModelCheckpoint drops where it falls between two of its intervals."""

from __future__ import annotations

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


class LastUpdate(Callback):
    """Makes ``last.ckpt`` the checkpoint of the update that ends training, be it the last of all or the last in time.

    It is saved while training still runs: at its end ``EMAWeightAveraging`` overwrites the raw weights by the averaged
    ones, and a checkpoint saved then, as ModelCheckpoint may do, could not be trained on. It runs after the callbacks
    of the configuration, so that the average has seen the update, and after the trainer's clock.

    A training that is told to stop within a batch, as by ``trainer.max_time``, first completes its update, whose
    gradients no checkpoint holds, and does not validate any more, be it due or not: that could take longer than all
    that is left. What ``EarlyStopping`` may stop, at a validation or the end of an epoch, is saved then; within an
    update it stops behind it.
    """

    def __init__(self) -> None:
        self.updates = 0  # before the batch
        self.stopping = self.kept = False
        self.limit: int | float | None = None  # of validation, while it is left out

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        others = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        saving = [c for c in others if isinstance(c, Checkpoint)]
        trainer.callbacks = [*(c for c in others if c not in saving), self, *saving]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stopping = False
        self.discard(trainer)  # left by a run that was killed, and older than this one's

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is gone on with has been saved: again, it would be within the next update, whose gradients it lacks."""
        for checkpoints in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(checkpoints, ModelCheckpoint):
                checkpoints._last_global_step_saved = trainer.global_step  # no part of its state

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        self.updates = trainer.global_step
        if self.kept:
            self.discard(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 >= trainer.max_epochs
        complete = trainer.global_step == trainer.max_steps or (last_epoch and trainer.is_last_batch)
        self.stopping = self.stopping or trainer.should_stop
        # A complete training ends by itself, and validates where its interval says so.
        whole = trainer.global_step > self.updates
        trainer.should_stop = self.stopping and self.enough(trainer) and whole and not complete
        if trainer.should_stop and self.limit is None:
            self.limit, trainer.limit_val_batches = trainer.limit_val_batches, 0
        if complete or trainer.should_stop:
            self.keep(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not trainer.should_stop or not self.enough(trainer) or self.limit is not None:
            return
        if trainer.global_step == self.updates:
            self.stopping, trainer.should_stop = True, False
        else:
            self.keep(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # They look at the epoch after all other callbacks: once they stop it, it is too late.
        if not self.kept and any(isinstance(c, EarlyStopping) for c in trainer.callbacks):  # type: ignore[attr-defined]
            self.keep(trainer)

    def keep(self, trainer: L.Trainer) -> None:
        """Save what may be the end."""
        last, self.kept = self.last(trainer), True
        if last is not None:
            trainer.save_checkpoint(self.aside(last))

    def discard(self, trainer: L.Trainer) -> None:
        """Training goes on: what was kept is not its end."""
        last, self.kept = self.last(trainer), False
        if last is not None and trainer.is_global_zero:
            self.aside(last).unlink(missing_ok=True)

    @staticmethod
    def enough(trainer: L.Trainer) -> bool:
        """Whether the trainer may stop at all."""
        return trainer.global_step >= (trainer.min_steps or 0) and trainer.current_epoch >= (trainer.min_epochs or 0)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.limit is not None:
            trainer.limit_val_batches, self.limit = self.limit, None
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
