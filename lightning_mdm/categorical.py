"""Small exact operations on categoricals and on subsets of positions.

Confidence, margin, entropy and divergence of logits; inverse-transform sampling in float64; the best n of each row with
ties broken at random; the positions of a subset. Knows nothing of models, policies or text.

Shapes: B rows, L positions, Q of them, N any number of categoricals, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CELLS_AT_ONCE = 1 << 22  # logits held in float64 at a time


@dataclass(frozen=True)
class Certainty:
    """How sure categoricals are; float64 but for the logit.

    Args:
        best: the likeliest token's logit, float32 or as it came.
        odds: ``(1 - p) / p`` of the likeliest token; relatively precise where ``p`` itself would round to 1, so certain
            tokens still have a ranking.
        margin: probability of the likeliest token minus that of the second.
        entropy: nats; a logit of minus infinity contributes nothing.
    """

    best: Tensor
    odds: Tensor
    margin: Tensor
    entropy: Tensor


def certainty(logits_NV: Tensor) -> Certainty:
    """All of ``Certainty``, each ``[N]``: the logits are read, shifted and exponentiated once."""
    best_N, gap_NV, ratio_NV = against_best(logits_NV)
    odds_N = ratio_NV.sum(-1).double()
    margin_N = (1.0 - ratio_NV.amax(-1).double()) / (1.0 + odds_N)
    return Certainty(best_N, odds_N, margin_N, entropy_from(gap_NV, ratio_NV, odds_N))


def odds_against_best(logits_NV: Tensor) -> Tensor:
    """``(1 - p) / p`` of the likeliest token, float64 ``[N]``; see ``Certainty``."""
    _, gap_NV = gaps(logits_NV)
    return gap_NV.exp_().sum(-1).double()


def top_margin(logits_NV: Tensor) -> Tensor:
    """Probability of the likeliest token minus that of the second, float64 ``[N]``; needs V >= 2."""
    _, gap_NV = gaps(logits_NV)
    ratio_NV = gap_NV.exp_()
    return (1.0 - ratio_NV.amax(-1).double()) / (1.0 + ratio_NV.sum(-1).double())


def top_log_ratio(logits_NV: Tensor) -> Tensor:
    """Logit of the likeliest token minus that of the second, nats, float64 ``[N]``; infinite where it is the only one.

    Needs V >= 2.
    """
    _, gap_NV = gaps(logits_NV)
    return -gap_NV.amax(-1).double()


def entropy(logits_NV: Tensor) -> Tensor:
    """Entropy in nats, float64 ``[N]``; a logit of minus infinity contributes nothing."""
    _, gap_NV, ratio_NV = against_best(logits_NV)
    return entropy_from(gap_NV, ratio_NV, ratio_NV.sum(-1).double())


def at_least_float32(logits_NV: Tensor) -> Tensor:
    """The same numbers in float32 or more: in bfloat16 sums would round, and scores would tie."""
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))


def gaps(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The best logit ``[N, 1]``, and every token's log-odds against it, minus infinity for itself."""
    top_N1, best_N1 = logits_NV.max(dim=-1, keepdim=True)
    # A comparison where a scatter would do: compiled, a scatter would have to write all of [N, V].
    is_best_NV = torch.arange(logits_NV.shape[-1], device=logits_NV.device) == best_N1
    return top_N1, (at_least_float32(logits_NV) - top_N1).masked_fill_(is_best_NV, -torch.inf)


def against_best(logits_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best logit ``[N]``; log-odds and odds of every token against it, minus infinity and 0 for itself."""
    top_N1, gap_NV = gaps(logits_NV)
    return at_least_float32(top_N1).squeeze(-1), gap_NV, gap_NV.exp()


def token_losses(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of target tokens, nats, at least float32 ``[N]``; and whether each is the likeliest one, bool ``[N]``."""
    is_target_NV = torch.arange(logits_NV.shape[-1], device=logits_NV.device) == target_N[:, None]
    # Compiled, logits are read twice, and once more for their gradient: a comparison where a gather's gradient would
    # write all of [N, V], and no logarithm of every probability, whose gradient sums over the vocabulary again.
    gap_NV = at_least_float32(logits_NV) - at_least_float32(logits_NV.detach().amax(-1, keepdim=True))
    nats_N = gap_NV.exp().sum(-1).log() - gap_NV.where(is_target_NV, 0.0).sum(-1)
    return nats_N, logits_NV.argmax(-1) == target_N


def log_total(logits_NV: Tensor) -> Tensor:
    """Logarithm of the sum of the exponentials, at least float32 ``[N]``."""
    return at_least_float32(logits_NV).logsumexp(-1)


def entropy_from(gap_NV: Tensor, ratio_NV: Tensor, odds_N: Tensor) -> Tensor:
    """Entropy in nats from what ``against_best`` gives, the first of which is overwritten, and the sum of the odds."""
    # -x e^x at x = -inf is the limit 0, not nan. A gap whose exponential is 0 in any precision stands in for it; a much
    # larger one would overflow in the gradient.
    cost_N = (ratio_NV * gap_NV.clamp_(min=-1e4)).sum(-1).double()
    return torch.log1p(odds_N) - cost_N / (1.0 + odds_N)


def divergence(logits_NV: Tensor, other_NV: Tensor) -> Tensor:
    """KL(p || q) in nats of the distributions p, q of two sets of logits, float64 ``[N]``.

    Infinite where p holds something possible that q does not. Some rows after the others: in float64, of which there
    are several copies on the way, all of them would take many times what the logits do.
    """
    *shape, V = logits_NV.shape
    rows = max(1, CELLS_AT_ONCE // V)
    parts = zip(logits_NV.reshape(-1, V).split(rows), other_NV.reshape(-1, V).split(rows), strict=True)
    return torch.cat([_divergence(*part) for part in parts]).view(shape)


def _divergence(logits_NV: Tensor, other_NV: Tensor) -> Tensor:
    log_p_NV, log_q_NV = logits_NV.double().log_softmax(-1), other_NV.double().log_softmax(-1)
    p_NV = log_p_NV.exp()
    # 0 log 0 is 0, whatever q says.
    return (p_NV * (log_p_NV - log_q_NV)).where(p_NV > 0.0, 0.0).sum(-1).clamp(min=0.0)


def sample_categorical(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """One token per row by inverse transform in float64, int64 ``[N]``.

    Gumbel noise in float32 would bias the law towards lower temperatures; one float64 uniform per row does not.
    A token of probability 0 is never drawn.
    """
    cumulative_NV = logits_NV.double().softmax(-1).cumsum(-1)
    # Scaling by the computed total makes the last reachable token the one at which the sum stops growing.
    target_N1 = (uniform_N * cumulative_NV[:, -1])[:, None]
    return (cumulative_NV < target_N1).sum(-1)


def top_n(score_BL: Tensor, among_BL: Tensor, n_B: Tensor, tie_BL: Tensor) -> Tensor:
    """The ``n_B`` best-scored positions of each row among ``among_BL``; equal scores in the order of ``tie_BL``.

    Args:
        score_BL: higher is better; finite among ``among_BL``.
        among_BL: candidates.
        n_B: how many to take; all of them where there are fewer.
        tie_BL: distinct numbers, the larger wins; draw them at random.

    Returns:
        bool ``[B, L]``, a subset of ``among_BL``.
    """
    score_BL = score_BL.masked_fill(~among_BL, -torch.inf)
    by_tie_BL = tie_BL.argsort(dim=-1, descending=True)
    order_BL = score_BL.gather(-1, by_tie_BL).argsort(dim=-1, descending=True, stable=True)
    ranked_BL = by_tie_BL.gather(-1, order_BL)
    taken_BL = torch.arange(score_BL.shape[-1], device=score_BL.device) < n_B[:, None]
    return torch.zeros_like(among_BL).scatter_(-1, ranked_BL, taken_BL) & among_BL


def positions_of(among_BL: Tensor, most: int) -> Tensor:
    """The positions of each row where ``among_BL`` holds, ascending, and behind them the others, ascending too.

    Args:
        among_BL: bool.
        most: Q, how many to list; all that hold, if no row has more of them.

    Returns:
        int64 ``[B, Q]``, distinct within a row.
    """
    return among_BL.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
