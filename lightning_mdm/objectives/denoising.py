"""The masked-diffusion bound of a denoiser (Sahoo et al., arXiv 2406.07524; Shi et al., arXiv 2406.04329).

With t ~ U(0, 1], every response token masked with probability t, and z the sequence so masked,

    -log p(x | prompt) <= E_t E_z [ (1 / t) sum_{i masked} -log p(x_i | z) ]      (nats)

``bound_nats`` is the one-sample estimate of the right side, ``surrogate`` what is differentiated: the same thing, or
the plain mean over masked tokens, whose gradient is far less noisy and which has the same optimum. In practice t starts
at a small ``least`` in place of 0, which biases the estimate by that order.

Shapes: B rows, L positions, Q response positions per row, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_mdm.categorical import positions_of, token_losses
from lightning_mdm.compilation import compiled

Weighting = Literal["bound", "uniform"]

# Positions behind each other on the golden-ratio rotation are spread evenly over the circle, in any window.
GOLDEN_RATIO = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Denoising:
    """One evaluation of the objective.

    Args:
        surrogate: scalar to differentiate: the mean over the batch's masked tokens (``uniform``), or the bound of all
            its rows divided by their response tokens (``bound``).
        bound_nats_B: estimate of the bound of each row, nats per sequence, detached.
        n_tokens_B: response tokens of each row, the denominator of nats per token.
        n_masked: masked tokens in the batch.
        n_right: masked tokens whose likeliest prediction is the true one.
    """

    surrogate: Tensor
    bound_nats_B: Tensor
    n_tokens_B: Tensor
    n_masked: Tensor
    n_right: Tensor


def stratified_t(uniform: Tensor, n: int, least: float) -> Tensor:
    """``n`` mask probabilities, one in every n-th of (least, 1], in ascending order: shuffle them over the rows.

    Args:
        uniform: one float64 uniform of (0, 1), shared by the batch.
        n: number of rows.
        least: the smallest mask probability; bounds the weight 1 / t.
    """
    slot_B = torch.arange(n, device=uniform.device, dtype=torch.float64)
    return least + (1.0 - least) * (slot_B + uniform) / n


def fixed_t(index_B: Tensor, least: float) -> Tensor:
    """Mask probability of each problem for evaluation: a fixed function of its index, evenly spread over (least, 1]."""
    return least + (1.0 - least) * (1.0 - torch.frac(0.5 + index_B.double() * GOLDEN_RATIO))


def mask_tokens(tokens_BL: Tensor, response_BL: Tensor, t_B: Tensor, uniform_BL: Tensor, mask_id: int) -> Tensor:
    """``tokens_BL`` with each response token replaced by ``mask_id`` with its row's probability ``t_B``."""
    return tokens_BL.masked_fill(response_BL & (uniform_BL < t_B[:, None]), mask_id)


def response_query(response_BL: Tensor, longest: int | None = None) -> Tensor:
    """Positions of the response tokens ``[B, Q]``, ascending; shorter rows fill up with other positions.

    Args:
        response_BL: the positions of the response.
        longest: Q, the most of them in a row; ``None`` counts, for which the device is waited for.
    """
    if longest is None:
        longest = int(response_BL.sum(-1).max())
    return positions_of(response_BL, longest)


def denoising(
    logits_BQV: Tensor,
    query_BQ: Tensor,
    tokens_BL: Tensor,
    masked_BL: Tensor,
    response_BL: Tensor,
    t_B: Tensor,
    weighting: Weighting,
    compile: bool = False,
) -> Denoising:
    """The objective from the denoiser's logits at queried positions.

    Args:
        logits_BQV: logits given the masked sequence, at ``query_BQ``, which covers every masked position once.
        query_BQ: queried positions, distinct within a row.
        tokens_BL: the clean sequence.
        masked_BL: the positions that the denoiser saw masked.
        response_BL: the positions that could be masked.
        t_B: mask probability of each row.
        weighting: ``bound``: every masked token weighs 1 / t; ``uniform``: all masked tokens weigh the same.
        compile: take the losses of tokens through ``torch.compile``, which reads the logits where plain operations
            write them again several times.
    """
    of_tokens = masked_losses(logits_BQV, query_BQ, tokens_BL, masked_BL, compile)
    n_tokens_B = response_BL.sum(-1)
    bound_nats_B = of_tokens.nats_BQ.sum(-1) / t_B.to(of_tokens.nats_BQ.dtype)
    surrogate = bound_nats_B.sum() / n_tokens_B.sum() if weighting == "bound" else of_tokens.mean
    return Denoising(surrogate, bound_nats_B.detach(), n_tokens_B, of_tokens.n_masked, of_tokens.n_right)


@dataclass(frozen=True)
class MaskedLosses:
    """What the masked tokens of a batch cost.

    Args:
        nats_BQ: of the true token at each queried position, 0 where it is not masked.
        n_masked: masked tokens in the batch.
        n_right: masked tokens whose likeliest prediction is the true one.
    """

    nats_BQ: Tensor
    n_masked: Tensor
    n_right: Tensor

    @property
    def mean(self) -> Tensor:
        """Nats per masked token; 0 of none."""
        return self.nats_BQ.sum() / self.n_masked.clamp(min=1)


def masked_losses(
    logits_BQV: Tensor, query_BQ: Tensor, tokens_BL: Tensor, masked_BL: Tensor, compile: bool = False
) -> MaskedLosses:
    """The losses of masked tokens from the denoiser's logits at queried positions; see ``denoising``."""
    target_BQ = tokens_BL.gather(1, query_BQ)
    masked_BQ = masked_BL.gather(1, query_BQ)
    losses = compiled(token_losses) if compile else token_losses
    # As [N, V]: with the vocabulary in the middle a GPU would read the logits across their rows.
    nll_N, best_N = losses(logits_BQV.flatten(0, 1), target_BQ.flatten())
    right_BQ = best_N.view_as(target_BQ) & masked_BQ
    return MaskedLosses(nll_N.view_as(target_BQ).where(masked_BQ, 0.0), masked_BQ.sum(), right_BQ.sum())
