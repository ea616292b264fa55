"""Lightning's Trainer with two more entry points: a sweep over policies and budgets, and an analysis of subproblems."""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch
from typing_extensions import override


def prefer_kernels_without_plans() -> None:
    """Leave attention to kernels that need no plan for a shape.

    cuDNN, the first choice of torch >= 2.11 on recent GPUs, builds one for every number of rows and length it has not
    met, up to a second each (modelscope/FunASR#3704). Rows leave the decoding loop when they are finished and the
    states of order learning differ from step to step, so that nearly every shape here is one of these.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


class Trainer(L.Trainer):
    """A ``lightning.Trainer`` that can ``sweep`` and ``analyse``.

    Attributes:
        checkpoint_step: the update that the weights to evaluate are of, where a checkpoint says so; loggers are told.
    """

    checkpoint_step = 0

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
    ) -> None:
        """Decode a split with every policy of the frontier at every budget, and write table, figure and report.

        Cells that are already in the run directory are not decoded again.

        Args:
            model: module whose denoiser decodes.
            datamodule: the problems.
            ckpt_path: checkpoint to load; without one the model's own weights are used.
            split: problems to decode; choose on ``validation``, report ``test`` once.
        """
        loop = self.validate if split == "validation" else self.test
        loop(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)

    def analyse(
        self,
        model: L.LightningModule | None = None,
        datamodule: L.LightningDataModule | None = None,
        ckpt_path: str | None = None,
        split: Literal["validation", "test"] = "test",
    ) -> None:
        """Ask how hard the subproblems of a split are, and which of them every policy meets and fails at.

        Only of tasks that tell kinds of subproblems apart.

        Args:
            model: module whose denoiser is asked.
            datamodule: the problems.
            ckpt_path: checkpoint to load; without one the model's own weights are used.
            split: problems to analyse.
        """
        self.sweep(model, datamodule, ckpt_path, split)  # the same loop, under other callbacks
