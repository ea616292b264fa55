"""Toy denoisers and canvases, small enough to enumerate.

Shapes: B rows, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_mdm.decoding.state import Rows
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw
from lightning_mdm.output import DenoiserOutput


def pick(logits_BLV: Tensor, query_BQ: Tensor, tokens_BL: Tensor) -> DenoiserOutput:
    """Logits at the queried positions, ``[B, Q, V]``; the hidden states are the tokens one-hot, the mask last."""
    hidden_BLD = nn.functional.one_hot(tokens_BL, logits_BLV.shape[-1] + 1).to(logits_BLV.dtype)
    return DenoiserOutput(torch.take_along_dim(logits_BLV, query_BQ[:, :, None], dim=1), hidden_BLD)


@dataclass(frozen=True)
class ToySelector:
    """A selector that is a formula of everything a selector may know, for enumeration in plain Python.

    Args:
        place: weight of where a position stands; with 0, positions of equal confidence tie.
        offset: added to every logit.
        finish: added to the logit of finishing; ``None``: that is no decision of its own.
    """

    place: float = 0.6
    offset: float = 0.3
    finish: float | None = None

    def __call__(
        self, hidden_BLD: Tensor, confidence_BLF: Tensor, valid_BL: Tensor, masked_BL: Tensor, steps_left_B: Tensor,
        price: float, most: int | None = None,
    ) -> UnmaskingLaw:  # fmt: skip
        top_BL, margin_BL, entropy_BL, odds_BL = confidence_BLF.unbind(-1)
        # Counted over the whole row: the number of tokens 0 that are visible.
        zeros_B = ((hidden_BLD[:, :, 0] > 0.5) & valid_BL).sum(-1)
        place_L = torch.arange(masked_BL.shape[1], device=masked_BL.device) % 3 - 1.0
        row_B = self.offset + 0.2 * zeros_B + 0.25 * price - 0.4 * steps_left_B - 0.1 * masked_BL.sum(-1)
        own_BL = 1.5 * top_BL + 0.8 * margin_BL - 0.5 * entropy_BL - 0.1 * odds_BL.clamp(max=5.0)
        logits_BL = own_BL + self.place * place_L + row_B[:, None]
        if self.finish is None:
            return NonEmptyBernoulli.from_logits(logits_BL, masked_BL)
        # At stake is all that is masked.
        stake_B = (0.5 * entropy_BL + 0.1 * place_L).masked_fill(~masked_BL, 0.0).sum(-1)
        finish_B = self.finish + 0.3 * zeros_B + 0.2 * price + 0.1 * steps_left_B - stake_B
        return FinishingBernoulli.from_logits(logits_BL, finish_B, masked_BL)


class ToyFacts:
    """What a task might know: the frequency of tokens, and one order, with ties, and one response for all problems."""

    RANKS = (2, 0, 2, 1, 3, 1, 0, 4, 2, 2, 5, 1, 0, 3, 1)
    RESPONSE = (1, 0, 0, 2, 1, 0, 2, 0, 1, 1, 2, 0, 0, 1, 2)

    def token_frequency(self) -> Tensor:
        weight_V = 1.0 / (1.0 + (5 * torch.arange(64, dtype=torch.float64)) % 7)
        return weight_V / weight_V.sum()

    def order(self, problem: int) -> Sequence[int]:
        return self.RANKS

    def response(self, problem: int) -> Sequence[int]:
        return self.RESPONSE


class Tabular(nn.Module):
    """Independent random logits for every state of ``length`` positions: the most general denoiser there is."""

    def __init__(self, length: int, vocab_size: int, *, scale: float = 1.5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        states = (vocab_size + 1) ** length
        table = scale * torch.randn(states, length, vocab_size, generator=generator, dtype=torch.float64)
        self.table = nn.Parameter(table)
        self.base = vocab_size + 1

    def state(self, tokens_BL: Tensor) -> Tensor:
        """The row of the table of each state, int64 ``[B]``."""
        return (tokens_BL * self.base ** torch.arange(tokens_BL.shape[1])).sum(-1)

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        return pick(self.table[self.state(tokens_BL)], query_BQ, tokens_BL)


def with_ties(denoiser: Tabular, seed: int = 0) -> Tabular:
    """Half of all positions copy the distribution of another, token ids reversed: scores tie exactly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        length = denoiser.table.shape[1]
        for state in range(len(denoiser.table)):
            order = torch.randperm(length, generator=generator)
            for source, target in zip(order[: length // 2], order[length // 2 :], strict=False):
                denoiser.table[state, target] = denoiser.table[state, source].flip(-1)
    return denoiser


class Fixed(nn.Module):
    """Independent positions: the same logits ``[L, V]`` in every state."""

    def __init__(self, logits_LV: Tensor) -> None:
        super().__init__()
        self.logits_LV = nn.Parameter(logits_LV)

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        return pick(self.logits_LV.expand(len(tokens_BL), -1, -1), query_BQ, tokens_BL)


class Mixing:
    """Random logits that depend on every valid token and its place, for rows of any length; float64."""

    def __init__(self, vocab_size: int, *, width: int = 16, longest: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocab_size + 1, width, generator=generator, dtype=torch.float64)
        self.place = torch.randn(longest, width, generator=generator, dtype=torch.float64)
        self.head = torch.randn(width, vocab_size, generator=generator, dtype=torch.float64)

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        place_LD = self.place[: tokens_BL.shape[1]]
        token_BLD = torch.sin(3.0 * self.embedding[tokens_BL] * place_LD) * valid_BL[:, :, None]
        mixed_B1D = token_BLD.sum(1, keepdim=True)
        return pick(torch.sin(mixed_B1D + place_LD + token_BLD) @ self.head, query_BQ, tokens_BL)


class Recording:
    """Another denoiser, and which rows it was asked about: the given token at position 0 names the row.

    Args:
        denoiser: the other one.
        mask_id: of the mask token.
        widest: the largest canvas, if it is to be asked about all of it in place of what is masked.
    """

    def __init__(self, denoiser: object, mask_id: int, widest: int | None = None) -> None:
        self.denoiser = denoiser
        self.mask_id = mask_id
        self.widest = widest
        self.calls: list[list[int]] = []

    def __call__(self, tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        self.calls.append(tokens_BL[:, 0].tolist())
        masked_BL = tokens_BL == self.mask_id
        assert bool(masked_BL.any(-1).all()), "a finished row was evaluated"
        most = int(masked_BL.sum(-1).max()) if self.widest is None else self.widest
        assert query_BQ.shape[1] == most, "more positions were queried than are asked about"
        assert all(len(set(row)) == len(row) for row in query_BQ.tolist()), "a position was queried twice"
        return self.denoiser(tokens_BL, valid_BL, query_BQ)

    def evaluations(self, row: int) -> int:
        """How often the denoiser saw a row."""
        return sum(call.count(row) for call in self.calls)


def rows(pattern: Sequence[Sequence[int | None]], *, pad: int, index: Sequence[int] | None = None) -> Rows:
    """A canvas from one list per row: a token id where given, ``None`` where to decode; padded at the end."""
    B, L = len(pattern), max(len(row) for row in pattern)
    tokens_BL = torch.full((B, L), pad)
    prompt_BL, valid_BL = torch.zeros(B, L, dtype=torch.bool), torch.zeros(B, L, dtype=torch.bool)
    for b, row in enumerate(pattern):
        valid_BL[b, : len(row)] = True
        for position, token in enumerate(row):
            if token is not None:
                tokens_BL[b, position], prompt_BL[b, position] = token, True
    return Rows(tokens_BL, prompt_BL, valid_BL, torch.tensor(range(B) if index is None else index))


def repeated(pattern: Sequence[int | None], n: int, *, pad: int, padding: int = 0) -> Rows:
    """``n`` problems with the same canvas, followed by ``padding`` positions of padding."""
    one = rows([pattern, [pad] * (len(pattern) + padding)], pad=pad)
    return Rows(
        one.tokens_BL[:1].expand(n, -1),
        one.prompt_BL[:1].expand(n, -1),
        one.valid_BL[:1].expand(n, -1),
        torch.arange(n),
    )


def random_rows(
    n: int, *, vocab_size: int, pad: int, longest: int, seed: int, row_token: bool = False, least: int = 1
) -> Rows:
    """Rows of different lengths with given tokens anywhere and at least ``least`` positions to decode.

    With ``row_token`` a row begins with its own number, given.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    pattern: list[list[int | None]] = []
    for row in range(n):
        length = draw(max(1, least), longest)
        share = draw(0, 3) / 4
        body: list[int | None] = [draw(0, vocab_size - 1) if draw(0, 99) < 100 * share else None for _ in range(length)]
        for position in torch.randperm(length, generator=generator).tolist()[:least]:
            body[position] = None
        pattern.append([row, *body] if row_token else body)
    index = torch.randperm(10 * n, generator=generator)[:n].tolist()
    return rows(pattern, pad=pad, index=index)


def subset(canvas: Rows, chosen: Sequence[int], *, pad: int, padding: int = 0) -> Rows:
    """Some rows of a canvas in a given order, cut to the longest of them, then padded by ``padding`` positions."""
    picked = torch.tensor(chosen)
    length = int(canvas.valid_BL[picked].sum(-1).max())
    more = (0, padding)
    return Rows(
        nn.functional.pad(canvas.tokens_BL[picked, :length], more, value=pad),
        nn.functional.pad(canvas.prompt_BL[picked, :length], more),
        nn.functional.pad(canvas.valid_BL[picked, :length], more),
        canvas.index_B[picked],
    )
