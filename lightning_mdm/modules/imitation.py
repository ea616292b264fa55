"""The warm start of an order: selector and posterior imitate what the denoiser makes of the true tokens.

Shapes: B examples, L positions.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lightning_mdm.modules.denoiser import training_t
from lightning_mdm.modules.order_batch import BatchModel
from lightning_mdm.nets.posterior_net import PosteriorNet, StateAware
from lightning_mdm.nets.selector import Selector
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.order_model import States

IMITATED_LOGIT = 12.0  # per unit of margin


def imitation(model: BatchModel, noise: RowNoise, step: int, threshold: float) -> Tensor:
    """Squared distance of the posterior's and the selector's logits from the true token's margin, in random states.

    The states hold a uniformly drawn share of masked positions, as the IID schedule would meet them. The denoiser is
    what is imitated, and gets no gradient: to say something else is no way to be imitated better.

    Args:
        model: the batch.
        noise: of its problems.
        step: the update.
        threshold: the margin at which an imitated probability is 1/2.
    """
    model = replace(model, frozen=True)
    response_BL = model.batch.response_BL
    uniform_BL = noise.uniform_BL(Stream.MASK, step, response_BL.shape[1]).masked_fill(~response_BL, 2.0)
    t_B1 = training_t(noise, step, 1e-3)[:, None]
    masked_BL = response_BL & ((uniform_BL < t_B1) | (uniform_BL == uniform_BL.amin(-1, keepdim=True)))
    left_B = (t_B1[:, 0] * model.budget).ceil().long().clamp(min=2)
    states = States(torch.arange(len(response_BL), device=response_BL.device), masked_BL, left_B)
    reading = model.read(states)
    target_BL = IMITATED_LOGIT * (reading.margin_SL - threshold)
    pi = model.selector_law(states, reading)
    error_BL = (pi.logit_BL - offset_of(model.selector, left_B) - target_BL).square()
    if model.posterior.reads_selector:
        pass  # it starts as the selector
    elif model.posterior_reads_states:
        q = model.posterior_law(states, reading.log_prob_SL.detach(), pi)
        error_BL = error_BL + (q.logit_BL - offset_of(model.posterior, left_B) - target_BL).square()
    else:
        error_BL = error_BL + (model.scores.value_BL - reading.margin_SL).square()
    return error_BL[masked_BL].mean()


def offset_of(net: Selector | PosteriorNet, steps_left_B: Tensor) -> Tensor:
    """The pull of the IID schedule in a net's logits, ``[B, 1]``; 0 where it has none."""
    offset = net.offset if isinstance(net, Selector | StateAware) else None
    return torch.zeros_like(steps_left_B)[:, None] if offset is None else offset(steps_left_B)[:, None]
