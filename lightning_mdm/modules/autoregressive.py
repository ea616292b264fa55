"""The autoregressive baseline: a causal transformer trained to predict the next token, on the same data.

Decoded by the same loop, as one more policy: ``Autoregressive``, one token per step. Knows nothing of text.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torchmetrics import MeanMetric

from lightning_mdm.data.batch import Batch
from lightning_mdm.modules.optimization import adamw_with_warmup, check_rates, take_configured, total_updates
from lightning_mdm.modules.weights import load_denoiser, save_net
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.transformer import TransformerConfig, compile_blocks
from lightning_mdm.objectives.denoising import response_query
from lightning_mdm.objectives.next_token import NextToken, next_token


class AutoregressiveModule(L.LightningModule):
    """A causal denoiser and its training.

    Args:
        vocab_size: tokens that can be predicted; linked to the data by the command line.
        net: shape of the transformer.
        learning_rate: peak of AdamW's learning rate.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: updates of linear warm-up.
        final_learning_rate: what the cosine ends at, as a fraction of the peak.
        init_from: safetensors file of weights to start from (written by ``save_weights``), or a checkpoint.
        compile: run the blocks of the net, and the losses of tokens, through ``torch.compile`` while fitting.
    """

    def __init__(
        self,
        vocab_size: int,
        net: TransformerConfig = TransformerConfig(),  # noqa: B008 (frozen)
        learning_rate: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        final_learning_rate: float = 0.02,
        init_from: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_rates(
            learning_rate=learning_rate, warmup_steps=warmup_steps, final_learning_rate=final_learning_rate,
            betas=betas, weight_decay=weight_decay,
        )  # fmt: skip
        if isinstance(net, dict):  # as restored from a checkpoint's plain hyper-parameters
            net = TransformerConfig(**net)
        self.save_hyperparameters(ignore=["net", "init_from"])
        self.save_hyperparameters({"net": asdict(net), "objective": "next_token"})
        self.learning_rate = learning_rate
        self.betas = betas
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.final_learning_rate = final_learning_rate
        self.compile_net = compile
        self.compile_losses = False
        self.denoiser = CausalDenoiser(vocab_size, net)
        if init_from is not None:
            load_denoiser(self.denoiser, init_from, option="init_from", net=net)
        self.nats = MeanMetric()
        self.right = MeanMetric()

    def setup(self, stage: str) -> None:
        if self.compile_net and stage == "fit":
            compile_blocks(self.denoiser)
            self.compile_losses = True

    def objective(self, batch: Batch) -> NextToken:
        """The next-token objective on one batch.

        Raises:
            ValueError: a row has given tokens behind tokens to generate.
        """
        if not batch.left_to_right:
            raise ValueError(
                "data: some given tokens stand behind tokens to generate, where an autoregressive net cannot see them; "
                "choose a layout of the task that begins with all that is given"
            )
        query_BQ = response_query(batch.response_BL, batch.longest_response)
        logits_BQV = self.denoiser(batch.tokens_BL, batch.attend_BL, query_BQ).logits_BQV
        return next_token(logits_BQV, query_BQ, batch.tokens_BL, batch.response_BL, self.compile_losses)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        out = self.objective(batch)
        self.log("train/nats_per_token", out.surrogate.detach(), prog_bar=True)
        self.log("train/accuracy_per_token", out.n_right / out.n_tokens_B.sum().clamp(min=1), prog_bar=True)
        return out.surrogate

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: str) -> None:
        """Exact likelihood and accuracy of single tokens, given the true tokens to their left."""
        out = self.objective(batch)
        n_tokens = out.n_tokens_B.sum()
        self.nats.update(out.nats_B.sum() / n_tokens.clamp(min=1), n_tokens)
        self.right.update(out.n_right / n_tokens.clamp(min=1), n_tokens)
        self.log(f"{split}/nats_per_token", self.nats, prog_bar=True, batch_size=len(batch))
        self.log(f"{split}/accuracy_per_token", self.right, batch_size=len(batch))

    def selector_for(self, budget: int) -> None:
        """No selector: the order is given."""

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The problems of the batch; the ``Predictions`` callback decodes them."""
        return batch.index_B

    def on_train_start(self) -> None:
        take_configured(self)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_with_warmup(
            self.denoiser,
            learning_rate=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            final_learning_rate=self.final_learning_rate,
            total=total_updates(self.trainer),
        )

    def save_weights(self, path: str | Path) -> None:
        """Write the denoiser's weights to a safetensors file, for ``init_from``."""
        save_net(self.denoiser, path, {"net": self.hparams["net"]})
