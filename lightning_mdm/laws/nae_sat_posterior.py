"""Exact posterior marginals of L&O-NAE-SAT, by enumeration of all latents.

Sequences of the law are as many as latents, each as likely as any other; so the posterior is uniform over those that
agree with the visible tokens. Visible tokens that no sequence agrees with (a decode run may have erred) leave those
that disagree with the fewest of them: what Bayes' rule gives where every visible token has been flipped with one
probability, in the limit of 0. Knows nothing of nets.

Shapes: B rows, R response positions, S = 2^N sequences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.laws.nae_sat import NaeSat

MOST_LATENTS = 16
CELLS_AT_ONCE = 1 << 24  # sequences x rows held at a time


def all_sequences(law: NaeSat) -> Tensor:
    """Every sequence of the law, int8 ``[S, R]``; latent ``i`` of sequence ``s`` is bit ``i`` of ``s``.

    Raises:
        ValueError: more latents than can be enumerated.
    """
    if law.latents > MOST_LATENTS:
        raise ValueError(f"latents={law.latents}: the exact posterior enumerates at most {MOST_LATENTS}")
    latent_SN = torch.arange(1 << law.latents)[:, None] >> torch.arange(law.latents) & 1
    first, second, third = torch.tensor(law.triples, dtype=torch.int64).reshape(-1, 3).unbind(-1)
    equal_SP = (latent_SN[:, first] == latent_SN[:, second]) & (latent_SN[:, second] == latent_SN[:, third])
    sequence_SR = torch.empty(len(latent_SN), law.length, dtype=torch.int8)
    sequence_SR[:, torch.tensor(law.places)] = torch.cat((latent_SN, 1 - equal_SP.long()), dim=1).to(torch.int8)
    return sequence_SR


def posterior_ones(response_BR: Tensor, sequence_SR: Tensor) -> Tensor:
    """p(x_i = 1 | visible tokens) of every position, float64 ``[B, R]``.

    Args:
        response_BR: int64 tokens; whatever is neither 0 nor 1 is not visible.
        sequence_SR: see ``all_sequences``.
    """
    rows = max(1, CELLS_AT_ONCE // len(sequence_SR))
    return torch.cat([_posterior_ones(part_BR, sequence_SR) for part_BR in response_BR.split(rows)])


def _posterior_ones(response_BR: Tensor, sequence_SR: Tensor) -> Tensor:
    # Whole numbers below 2^24: exact in float32, to which autocast would not keep.
    with torch.autocast(response_BR.device.type, enabled=False):
        sequence_SR = sequence_SR.float()
        one_BR, zero_BR = (response_BR == 1).float(), (response_BR == 0).float()
        disagree_BS = one_BR.sum(-1, keepdim=True) + (zero_BR - one_BR) @ sequence_SR.T
        kept_BS = (disagree_BS == disagree_BS.amin(-1, keepdim=True)).float()
        return (kept_BS @ sequence_SR).double() / kept_BS.sum(-1, keepdim=True).double()
