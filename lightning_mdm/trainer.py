"""Lightning's Trainer with two more entry points: a sweep over policies and budgets, and an analysis of subproblems."""

from __future__ import annotations

from pathlib import Path
from types import FrameType
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from lightning_mdm.whole_files import whole_file


def prefer_kernels_without_plans() -> None:
    """Leave attention to kernels that need no plan for a shape.

    cuDNN, the first choice of torch >= 2.11 on recent GPUs, builds one for every number of rows and length it has not
    met, up to a second each (modelscope/FunASR#3704). Rows leave the decoding loop when they are finished and the
    states of order learning differ from step to step, so that nearly every shape here is one of these.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are never half written, whatever ends the program and wherever they lie.

    Lightning writes to the directory of temporary files and moves the file from there, which is a copy over the last
    checkpoint where runs are on another file system. Here the file is written beside its place.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # Of a path torch would write the name, a draft's, into the file.
        with whole_file(path) as draft, open(draft, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's words for a write that failed, as on a full disk
                if isinstance(error.__context__, OSError):
                    raise OSError(f"{path}: {error.__context__}") from error
                raise


class Signals(_SignalConnector):
    """Lightning's, whose handler of SIGTERM does no more than to note it and to tell the processes it has started.

    Lightning's also broadcasts, within the handler, to processes that are in the middle of another exchange: they wait
    for one another for ever.
    """

    @override
    def _sigterm_notifier_fn(self, signum: int, _: FrameType | None) -> None:
        launcher = self.trainer.strategy.launcher
        if not self.received_sigterm and launcher is not None:
            launcher.kill(signum)
        self.received_sigterm = True


class Agreement(Callback):
    """Lets processes that train together end behind the same batch."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object) -> None:
        assert isinstance(trainer, Trainer)
        trainer.agree_to_end()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: object, **__: object
    ) -> None:
        assert isinstance(trainer, Trainer)
        trainer.agree_to_end()


class Trainer(L.Trainer):
    """A ``lightning.Trainer`` that can ``sweep`` and ``analyse``.

    Attributes:
        checkpoint_step: the update that the weights to evaluate are of, where a checkpoint says so; loggers are told.
    """

    checkpoint_step = 0
    ending = False  # what processes that train together have agreed on

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_connector = Signals(self)
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # and none that was asked for
            self.strategy.checkpoint_io = WholeFiles()
        self.callbacks.append(Agreement())  # type: ignore[attr-defined]

    @property
    def together(self) -> bool:
        """Whether several processes train, and so wait for one another at every batch."""
        return self.world_size > 1 and self.state.fn == TrainerFn.FITTING

    @property
    @override
    def received_sigterm(self) -> bool:
        """Whether to end; processes that train together end behind the same batch, or some would wait for others."""
        return self.ending if self.together else super().received_sigterm

    def agree_to_end(self) -> None:
        """Let all processes that train know what one of them has been told; each of them has to ask."""
        if self.together:
            told = torch.tensor(float(super().received_sigterm), device=self.strategy.root_device)
            self.ending = bool(self.strategy.reduce(told, reduce_op="sum"))

    @property
    @override
    def global_step(self) -> int:
        """The update at hand. Outside of a training, where Lightning's is 0, that of the checkpoint."""
        return super().global_step or self.checkpoint_step

    def sweep(
        self,
        model: L.LightningModule | None = None,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        split: Literal["validation", "test"] = "test",
        weights_only: bool | None = None,
    ) -> None:
        """Decode a split with every policy of the frontier at every budget, and write table, figure and report.

        Cells that are already in the run directory are not decoded again.

        Args:
            model: module whose denoiser decodes.
            datamodule: the problems.
            ckpt_path: checkpoint to load; without one the model's own weights are used.
            split: problems to decode; choose on ``validation``, report ``test`` once.
            weights_only: how to read the checkpoint, as for Lightning's own entry points.
        """
        loop = self.validate if split == "validation" else self.test
        loop(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False, weights_only=weights_only)

    def analyse(
        self,
        model: L.LightningModule | None = None,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        split: Literal["validation", "test"] = "test",
        weights_only: bool | None = None,
    ) -> None:
        """Ask how hard the subproblems of a split are, and which of them every policy meets and fails at.

        Only of tasks that tell kinds of subproblems apart.

        Args:
            model: module whose denoiser is asked.
            datamodule: the problems.
            ckpt_path: checkpoint to load; without one the model's own weights are used.
            split: problems to analyse.
            weights_only: how to read the checkpoint, as for Lightning's own entry points.
        """
        self.sweep(model, datamodule, ckpt_path, split, weights_only)  # the same loop, under other callbacks
