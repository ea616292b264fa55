"""The next-token objective: the exact -log-likelihood of a response, by the chain rule from left to right.

    -log p(x | prompt) = sum_i -log p(x_i | prompt, x_1 .. x_i-1)      (nats)

Nothing is sampled and nothing bounded: what is reported is the likelihood itself, and what is differentiated is its
mean per response token.

Shapes: B rows, L positions, Q response positions per row, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_mdm.categorical import token_losses
from lightning_mdm.compilation import compiled


@dataclass(frozen=True)
class NextToken:
    """One evaluation of the objective.

    Args:
        surrogate: scalar to differentiate, the batch's nats per response token.
        nats_B: -log p(response | prompt) of each row, nats per sequence, detached.
        n_tokens_B: response tokens of each row, the denominator of nats per token.
        n_right: response tokens that are the likeliest prediction, in the batch.
    """

    surrogate: Tensor
    nats_B: Tensor
    n_tokens_B: Tensor
    n_right: Tensor


def next_token(
    logits_BQV: Tensor, query_BQ: Tensor, tokens_BL: Tensor, response_BL: Tensor, compile: bool = False
) -> NextToken:
    """The objective from a causal net's logits at queried positions.

    Args:
        logits_BQV: logits given the tokens to the left, at ``query_BQ``, which covers every response position once.
        query_BQ: queried positions, distinct within a row.
        tokens_BL: the sequence.
        response_BL: the positions whose tokens count.
        compile: see ``denoising``.
    """
    target_BQ, counts_BQ = tokens_BL.gather(1, query_BQ), response_BL.gather(1, query_BQ)
    losses = compiled(token_losses) if compile else token_losses
    nll_N, best_N = losses(logits_BQV.flatten(0, 1), target_BQ.flatten())
    nll_BQ = nll_N.view_as(target_BQ).where(counts_BQ, 0.0)
    n_tokens_B, nats_B = response_BL.sum(-1), nll_BQ.sum(-1)
    right_BQ = best_N.view_as(target_BQ) & counts_BQ
    return NextToken(nats_B.sum() / n_tokens_B.sum().clamp(min=1), nats_B.detach(), n_tokens_B, right_BQ.sum())
