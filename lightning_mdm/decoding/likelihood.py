"""What an order costs: the -log-likelihood of the true tokens along the order that an unmasking policy picks.

The decoding loop, with the true tokens committed in place of drawn ones. Of a policy that draws no random numbers this
is exactly -log p(x | at most T steps), and exp(-nats) sums to one over all sequences; of one that does it belongs to
the order drawn. Comparable between policies on one denoiser. Knows nothing of tasks or files.

Shapes: B rows, L positions, N positions being unmasked, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Canvas, Denoiser
from lightning_mdm.decoding.tokens import TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.vocabulary import TokenSpace


class _TrueTokens(TokenSampler):
    """Commits the canvas's own tokens and keeps account of their -log-likelihood."""

    def __init__(self, tokens_BL: Tensor) -> None:
        self.tokens_BL = tokens_BL
        self.nats_B = torch.zeros(len(tokens_BL), dtype=torch.float64, device=tokens_BL.device)

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        true_N = self.tokens_BL[row_N, position_N]
        log_NV = logits_NV.double().log_softmax(-1)
        self.nats_B.index_add_(0, row_N, -log_NV.gather(-1, true_N[:, None]).squeeze(-1))
        return true_N


def true_token_nats(
    denoiser: Denoiser, policy: UnmaskingPolicy, canvas: Canvas, space: TokenSpace, *, steps: int, seed: int = 0
) -> tuple[Tensor, Trace]:
    """-log-likelihood of every row's own tokens, nats, float64 ``[B]``, and the order that it was summed along.

    The end of the sequence is a token like any other here: closing a canvas behind it costs nothing and so has no
    likelihood.

    Args:
        denoiser: gives logits at queried positions.
        policy: chooses what to unmask.
        canvas: rows whose tokens are all known; padding and given tokens cost nothing.
        space: mask token, and what may never be sampled; a true token among these costs infinitely many nats.
        steps: the budget T >= 1.
        seed: seed of all noise.

    Raises:
        ValueError: a budget below 1, or a policy that masks tokens again: a sequence has many ways then.
        RuntimeError: as ``decode``.
    """
    if policy.revises:
        raise ValueError(
            f"policy {type(policy).__name__}: it may mask tokens again, so that no order gives a sequence its "
            "likelihood; choose another"
        )
    true_tokens = _TrueTokens(canvas.tokens_BL)
    trace = decode(denoiser, policy, canvas, space, steps=steps, token_sampler=true_tokens, seed=seed)
    return true_tokens.nats_B, trace
