"""Optimizers and learning rates: what all trainings have in common."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

MOST_RAMP = 100  # updates until the moments of AdamW say something
TAKEN = ("initial_lr", "betas", "eps", "weight_decay")  # options of an optimizer that a resumed training may change


def check_rates(
    *,
    learning_rate: float,
    warmup_steps: int,
    final_learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> None:
    """Refuse options of an optimizer that are out of their ranges, when a module is built and not where it is used.

    Raises:
        ValueError: names the option.
    """
    if not 0.0 <= learning_rate < math.inf:
        raise ValueError(f"model.learning_rate={learning_rate}: give a finite number of at least 0")
    if warmup_steps < 0:
        raise ValueError(f"model.warmup_steps={warmup_steps}: give a number of updates, at least 0")
    if not 0.0 <= final_learning_rate <= 1.0:
        raise ValueError(f"model.final_learning_rate={final_learning_rate}: give a fraction of the peak, in [0, 1]")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"model.betas={list(betas)}: give two numbers in [0, 1)")
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"model.weight_decay={weight_decay}: give a finite number of at least 0")


def total_updates(trainer: L.Trainer) -> int:
    """The updates of a whole training, which the learning rate follows.

    Raises:
        ValueError: there is no end to them.
    """
    updates = trainer.estimated_stepping_batches
    if math.isinf(updates):
        raise ValueError(
            f"trainer.max_steps={trainer.max_steps}: the learning rate falls until the end of training, which needs "
            "one; give the number of updates (trainer.max_time may stop it sooner)"
        )
    return int(updates)


def adamw_with_warmup(
    net: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_steps: int,
    final_learning_rate: float,
    total: int,
    first: int = 0,
) -> OptimizerLRScheduler:
    """AdamW on all of a net, decaying matrices only, with the learning rate of ``learning_rate_factor``.

    ``total`` updates follow ``first`` earlier ones, of which the moments of AdamW know nothing.
    """
    matrices = [p for p in net.parameters() if p.ndim >= 2]
    vectors = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=on_gpu(net))
    # It could unscale gradients within its step, for which Lightning refuses to clip them under mixed precision.
    optimizer._step_supports_amp_scaling = False
    scheduler = LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, total, warmup_steps, final_learning_rate, first)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def on_gpu(net: nn.Module) -> bool:
    """Whether all of a net is on a GPU, where one kernel can update all of it."""
    return all(parameter.is_cuda for parameter in net.parameters())


def learning_rate_factor(step: int, total: int, warmup: int, final: float, first: int = 0) -> float:
    """Linear warm-up to 1 over ``warmup`` updates, then a cosine to ``final`` at update ``total``.

    Behind ``first`` earlier updates it goes on where it was, after a ramp of ``warmup`` updates, ``MOST_RAMP`` at most.
    """
    if first:
        ramp = min(1.0, (step + 1) / max(1, min(warmup, MOST_RAMP)))
        return ramp * learning_rate_factor(first + step, first + total, warmup, final)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * done))


def take_configured(module: L.LightningModule) -> None:
    """Give the optimizer of a training that goes on the options it is configured with.

    Torch restores those of the checkpoint, learning rate and all. Nothing changes where they are the same. What is no
    option of a training, as whether one kernel updates all, stays what the restored moments are made for.
    """
    optimizer, scheduler = module.optimizers(use_pl_optimizer=False), module.lr_schedulers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(scheduler, LambdaLR)
    made: Any = module.configure_optimizers()
    configured = made["optimizer"].param_groups
    for group, own in zip(optimizer.param_groups, configured, strict=True):
        group.update({name: own[name] for name in TAKEN if name in own})
    scheduler.base_lrs = [group["initial_lr"] for group in configured]
    for group, base, factor in zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(scheduler.last_epoch)
