"""Pre-training of a denoiser: the masked-diffusion objective around a bidirectional transformer.

Masks are drawn at random, or are those that an unmasking policy leaves (``progressive.py``). Knows nothing of text.
Decoding during validation is a callback's business.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import distributed
from torchmetrics import MeanMetric

from lightning_mdm.data.batch import Batch
from lightning_mdm.data.stream import Replica
from lightning_mdm.modules.optimization import adamw_with_warmup, check_rates, take_configured, total_updates
from lightning_mdm.modules.progressive import Progressive, ProgressiveMasks
from lightning_mdm.modules.weights import load_denoiser, save_net
from lightning_mdm.nets.denoiser import ReadableDenoiser, TransformerDenoiser
from lightning_mdm.nets.transformer import TransformerConfig, compile_blocks
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.denoising import (
    Denoising,
    Weighting,
    denoising,
    fixed_t,
    mask_tokens,
    masked_losses,
    response_query,
    stratified_t,
)

UNDER_WAY = "rows_under_way"  # where a checkpoint keeps those of every process


class DenoiserModule(L.LightningModule):
    """A denoiser and its training.

    Args:
        vocab_size: tokens that can be predicted; linked to the data by the command line.
        net: shape of the transformer.
        weighting: how masked tokens weigh in what is differentiated; ``uniform`` trains far faster on few updates,
            ``bound`` differentiates the bound itself. The bound is reported either way. Both take their mean per token
            within a process's micro-batch: with gradient accumulation or several processes what is differentiated is a
            mean of these means, in which a token of a micro-batch with fewer of them weighs more.
        least_masked: smallest mask probability drawn; the weight 1 / t is at most its inverse.
        progressive: train on the masks that an unmasking policy leaves, in place of random ones. Validation and test
            report the bound, and so random masks, in any case.
        learning_rate: peak of AdamW's learning rate.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        warmup_steps: updates of linear warm-up.
        final_learning_rate: what the cosine ends at, as a fraction of the peak.
        init_from: denoiser weights to start from: a safetensors file (of ``save_weights``, or in SMDM's layout), one of
            the hub (``hf://nieshen/SMDM/mdm_safetensors/...``), or the checkpoint of another run.
        first_update: how many updates the weights of ``init_from`` have had, where they are those of an unfinished
            training: its masks and its learning rate go on from there, after a ramp, as AdamW's moments start from
            nothing. A checkpoint of this run says it by itself.
        compile: run the blocks of the net, and the losses of tokens, through ``torch.compile`` while fitting.
        noise_seed: seed of the masks; with it training is a function of the data's order alone.

    Raises:
        ValueError: an option out of its range, or weights that are not there or of another net.
    """

    def __init__(
        self,
        vocab_size: int,
        net: TransformerConfig = TransformerConfig(),  # noqa: B008 (frozen)
        weighting: Weighting = "uniform",
        least_masked: float = 1e-3,
        progressive: Progressive | None = None,
        learning_rate: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        final_learning_rate: float = 0.02,
        init_from: str | None = None,
        first_update: int = 0,
        compile: bool = False,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 < least_masked < 1.0:
            raise ValueError(f"least_masked={least_masked}: a mask probability lies between 0 and 1")
        if progressive is not None and weighting != "uniform":
            raise ValueError(
                f"weighting={weighting!r} with progressive: the weight 1 / t is for masks drawn with probability t, "
                "and here none are; choose 'uniform'"
            )
        if first_update < 0:
            raise ValueError(f"first_update={first_update}: give at least 0")
        if first_update and init_from is None:
            raise ValueError(f"first_update={first_update}: give the weights that are behind it, by init_from")
        check_rates(
            learning_rate=learning_rate, warmup_steps=warmup_steps, final_learning_rate=final_learning_rate,
            betas=betas, weight_decay=weight_decay,
        )  # fmt: skip
        if isinstance(net, dict):  # as restored from a checkpoint's plain hyper-parameters
            net = TransformerConfig(**net)
        # As plain values: loggers and the safe loading of checkpoints accept nothing else. Without init_from: a
        # checkpoint has weights of its own and must not need that file. first_update is of no use without it: the
        # checkpoint tells it apart. progressive is training's alone.
        self.save_hyperparameters(ignore=["net", "init_from", "first_update", "progressive"])
        self.save_hyperparameters({"net": asdict(net)})
        self.vocab_size = vocab_size
        self.weighting: Weighting = weighting
        self.least_masked = least_masked
        self.learning_rate = learning_rate
        self.betas = betas
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.final_learning_rate = final_learning_rate
        self.compile_net = compile
        self.compile_losses = False
        self.noise_seed = noise_seed
        self.first_update = first_update
        self.denoiser = TransformerDenoiser(vocab_size, net)
        self.masks: ProgressiveMasks | None = None
        if progressive is not None:
            self.masks = ProgressiveMasks(progressive, noise_seed, vocab_size, net.width)
        if init_from is not None:
            load_denoiser(self.denoiser, init_from, option="init_from", net=net)
        self.bound = MeanMetric()
        self.right = MeanMetric()

    def setup(self, stage: str) -> None:
        if self.compile_net and stage == "fit":
            compile_blocks(self.denoiser)
            self.compile_losses = True

    def objective(self, batch: Batch, t_B: torch.Tensor, noise: RowNoise, step: int) -> Denoising:
        """The objective on one batch; see ``masked_diffusion``."""
        return masked_diffusion(self.denoiser, batch, t_B, noise, step, self.weighting, self.compile_losses)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.masks is not None:
            return self.progressive_step(batch, self.masks)
        # Keyed by problem and update, so that a resumed run draws what an uninterrupted one would have drawn.
        noise, step = RowNoise(self.noise_seed, batch.index_B), self.first_update + self.global_step
        out = self.objective(batch, training_t(noise, step, self.least_masked), noise, step)
        self.log("train/bound_nats_per_token", out.bound_nats_B.sum() / out.n_tokens_B.sum())
        self.log_losses(out.surrogate, out.n_right, out.n_masked)
        return out.surrogate

    def progressive_step(self, batch: Batch, masks: ProgressiveMasks) -> torch.Tensor:
        """The mean loss of all masked tokens of the rows under way, which then make a step."""
        now = masks.with_arrivals(batch)
        query_BQ = response_query(now.rows.response_BL, now.rows.longest_response)
        output = self.denoiser(masks.masked_tokens_BL, now.rows.attend_BL, query_BQ)
        losses = masked_losses(
            output.logits_BQV, query_BQ, now.rows.tokens_BL, now.masked_BL, compile=self.compile_losses
        )
        masks.advance(output, query_BQ)
        self.log("train/rows", float(len(now.rows)), batch_size=len(batch))
        self.log_losses(losses.mean, losses.n_right, losses.n_masked)
        return losses.mean

    def log_losses(self, surrogate: torch.Tensor, n_right: torch.Tensor, n_masked: torch.Tensor) -> None:
        self.log("train/surrogate", surrogate.detach(), prog_bar=True)
        self.log("train/masked_accuracy", n_right / n_masked.clamp(min=1), prog_bar=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: str) -> None:
        """Bound and accuracy on masks that are the same for a problem at every evaluation."""
        out = self.objective(batch, fixed_t(batch.index_B, self.least_masked), RowNoise(0, batch.index_B), 0)
        self.bound.update(out.bound_nats_B.sum() / out.n_tokens_B.sum(), out.n_tokens_B.sum())
        self.right.update(out.n_right / out.n_masked.clamp(min=1), out.n_masked)
        self.log(f"{split}/bound_nats_per_token", self.bound, prog_bar=True, batch_size=len(batch))
        self.log(f"{split}/masked_accuracy", self.right, batch_size=len(batch))

    def selector_for(self, budget: int) -> None:
        """No selector: a denoiser alone decodes with the heuristics."""

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The problems of the batch; the ``Predictions`` callback decodes them."""
        return batch.index_B

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw_with_warmup(
            self.denoiser,
            learning_rate=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            final_learning_rate=self.final_learning_rate,
            total=total_updates(self.trainer),
            first=self.first_update,
        )

    def on_train_start(self) -> None:
        take_configured(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["first_update"] = self.first_update
        if self.masks is not None:
            checkpoint[UNDER_WAY] = of_all_processes(self.masks.state_dict())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.first_update = checkpoint.get("first_update", 0)
        under_way = checkpoint.get(UNDER_WAY, [])
        here = Replica.current()
        # Of another number of processes, or none: rows begin anew, and an update holds the fewer of them at first.
        if self.masks is not None and len(under_way) == here.world:
            self.masks.load_state_dict(under_way[here.rank])

    def save_weights(self, path: str | Path) -> None:
        """Write the denoiser's weights to a safetensors file, for ``init_from``."""
        save_net(self.denoiser, path, {"net": self.hparams["net"]})


def training_t(noise: RowNoise, step: int, least: float) -> torch.Tensor:
    """Mask probabilities of a training batch, stratified over it, each at a random one of its rows."""
    offset = noise.uniform_B(Stream.SELECT, step)[0]
    shuffled_B = noise.uniform_B(Stream.TIE, step).argsort()
    return stratified_t(offset, len(noise.index_B), least)[shuffled_B]


def masked_diffusion(
    denoiser: ReadableDenoiser,
    batch: Batch,
    t_B: torch.Tensor,
    noise: RowNoise,
    step: int,
    weighting: Weighting,
    compile: bool = False,
) -> Denoising:
    """The masked-diffusion objective on one batch, masked with probabilities ``t_B`` by the noise of its problems."""
    mask_id = denoiser.vocab_size
    uniform_BL = noise.uniform_BL(Stream.MASK, step, batch.tokens_BL.shape[1])
    masked_tokens_BL = mask_tokens(batch.tokens_BL, batch.response_BL, t_B, uniform_BL, mask_id)
    query_BQ = response_query(batch.response_BL, batch.longest_response)
    logits_BQV = denoiser(masked_tokens_BL, batch.attend_BL, query_BQ).logits_BQV
    masked_BL = masked_tokens_BL == mask_id
    return denoising(logits_BQV, query_BQ, batch.tokens_BL, masked_BL, batch.response_BL, t_B, weighting, compile)


def of_all_processes(value: dict[str, Any]) -> list[dict[str, Any]]:
    """A process's own value and those of all others, by rank; each has to ask."""
    if Replica.current().world == 1:
        return [value]
    values: list[Any] = [None] * Replica.current().world
    distributed.all_gather_object(values, value)
    return values
