"""Denoisers of the toy laws: formulas in place of trained nets, without parameters.

Their hidden states are the visible tokens, one-hot, and nothing computed: a selector has to work out the rest.
Their tables are buffers, so that the hash of a denoiser's weights tells one law from another.

Padding stands behind the response and nothing reads it, so ``valid_BL`` has nothing to say here.

Shapes: B rows, L positions of a row (prompt, response, padding), R response positions, N chain tokens, Q queried
positions per row, V tokens without the mask, D distances, S tokens and "none", or all sequences.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.laws.markov_marginals import log_marginals
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.laws.nae_sat_posterior import all_sequences, posterior_ones
from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.nets.transformer import at_positions
from lightning_mdm.output import DenoiserOutput


class LawDenoiser(ReadableDenoiser):
    """What the formulas share.

    Args:
        n_tokens: V. The mask token has id V.
        prompt: number of prompt positions, at the beginning of every row.
        response: R, the number of response positions, right behind the prompt; whatever follows is padding.
    """

    def __init__(self, n_tokens: int, prompt: int, response: int) -> None:
        super().__init__(n_tokens, n_tokens + 1)
        self.prompt = prompt
        self.response = response

    def embed(self, tokens_BL: Tensor) -> Tensor:
        """The tokens one-hot, the mask included: ``[B, L, V + 1]`` in the default floating type."""
        return F.one_hot(tokens_BL, self.width).to(torch.get_default_dtype())

    def split(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt and response of every row.

        Raises:
            ValueError: rows too short to be of this law.
        """
        L, whole = tokens_BL.shape[1], self.prompt + self.response
        if whole > L:
            raise ValueError(
                f"rows of {L} tokens: this law has {self.prompt} prompt and {self.response} response tokens; "
                "give data and denoiser the same law"
            )
        return tokens_BL[:, : self.prompt], tokens_BL[:, self.prompt : whole]

    def spread(self, response_BR: Tensor, rest: float, L: int) -> Tensor:
        """Values at the response positions as values at all ``L`` positions (dimension 1), ``rest`` elsewhere."""
        after = L - self.prompt - self.response
        inner = (0, 0) * (response_BR.ndim - 2)
        return F.pad(response_BR, (*inner, self.prompt, after), value=rest)


class HopChainDenoiser(LawDenoiser):
    """Sure of what the given-away tokens are and of chain tokens within reach; uniform over the digits elsewhere.

    A chain token is computed from the nearest visible one before it, whether that is right or not. Role tokens have
    probability 0. Of a row whose prompt is masked, in part or (for guidance) as a whole, it knows no token: uniform.

    Args:
        law: the hop chain.
    """

    hops: Tensor
    table_KV: Tensor
    constant_R: Tensor
    roles_R: Tensor
    offset_N: Tensor

    def __init__(self, law: HopChain) -> None:
        super().__init__(law.n_tokens, len(law.prompt_tokens), law.length)
        self.digits, self.chain, self.given_role = law.vocab_size, law.chain, law.given_role
        # Row v: sure of digit v; the last row: no idea.
        table_KV = torch.full((self.digits + 1, law.n_tokens), -torch.inf)
        table_KV[:, : self.digits] = math.log((1.0 - law.certain) / (self.digits - 1))
        table_KV[: self.digits, : self.digits].fill_diagonal_(math.log(law.certain))
        table_KV[self.digits, : self.digits] = -math.log(self.digits)
        roles_R = torch.tensor(law.fixed_roles, dtype=torch.int64)
        constant_R = torch.zeros(law.length, dtype=torch.int64)
        if law.given:  # each position's own constant, or the one of all
            constant_R[roles_R == law.given_role if law.fixed_roles else slice(None)] = torch.tensor(
                law.given_values if law.fixed_roles else law.given_values[0]
            )
        self.register_buffer("hops", torch.tensor(law.hops))
        self.register_buffer("table_KV", table_KV)
        self.register_buffer("constant_R", constant_R)
        self.register_buffer("roles_R", roles_R)
        # y_i less y_0, for i = 0 .. N: two values of the chain differ by the difference of these.
        self.register_buffer("offset_N", torch.tensor((0, *law.chain_values)))

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """See ``ReadableDenoiser``; the logits of masked response positions are log-probabilities."""
        prompt_BR, response_BR = self.split(tokens_BL)
        roles_BR = prompt_BR - self.digits if self.prompt else self.roles_R.expand_as(response_BR)
        # Roles below N occur once each: sorted, the first N are the places of y_1 .. y_N.
        place_BN = roles_BR.argsort(dim=-1)[:, : self.chain]
        chain_BN = response_BR.gather(1, place_BN)
        sure_BN, value_BN = self.computed(chain_BN)

        known_BR = torch.where(roles_BR == self.given_role, self.constant_R, self.digits)
        known_BR = known_BR.scatter(1, place_BN, torch.where(sure_BN, value_BN, self.digits))
        told_B1 = (prompt_BR < self.vocab_size).all(-1, keepdim=True)  # otherwise the places are no ones in particular
        known_BR = known_BR.where(told_B1, self.digits)
        known_BL = self.spread(known_BR, self.digits, tokens_BL.shape[1])
        known_BQ = known_BL if query_BQ is None else known_BL.gather(1, query_BQ)
        return DenoiserOutput(F.embedding(known_BQ, self.table_KV), self.embed(tokens_BL))

    def computed(self, chain_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Which of y_1 .. y_N are within reach of a visible one before them, and their values computed from that."""
        index_N = torch.arange(self.chain + 1, device=chain_BN.device)  # 0 is the start
        visible_BN = F.pad(chain_BN < self.digits, (1, 0), value=True)
        # Nearest visible before i: the largest visible index below i.
        nearest_BN = torch.where(visible_BN, index_N, 0).cummax(-1).values[:, :-1]
        from_zero_BN = (F.pad(chain_BN, (1, 0)) - self.offset_N).gather(1, nearest_BN)
        return index_N[1:] - nearest_BN <= self.hops, (from_zero_BN + self.offset_N[1:]) % self.digits


class MarkovChainDenoiser(LawDenoiser):
    """The exact conditional marginals of a Markov chain.

    Args:
        law: the Markov chain.
    """

    log_before_DSV: Tensor
    log_after_DSV: Tensor

    def __init__(self, law: MarkovChain) -> None:
        super().__init__(law.n_tokens, 0, law.length)
        self.register_buffer("log_before_DSV", law.log_before_DSV.clone())
        self.register_buffer("log_after_DSV", law.log_after_DSV.clone())

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """See ``ReadableDenoiser``; the logits of masked response positions are log-probabilities."""
        _, response_BR = self.split(tokens_BL)
        logits_BRV = log_marginals(response_BR, self.log_before_DSV, self.log_after_DSV)
        logits_BLV = self.spread(logits_BRV.to(torch.get_default_dtype()), 0.0, tokens_BL.shape[1])
        if query_BQ is not None:
            logits_BLV = at_positions(logits_BLV, query_BQ)
        return DenoiserOutput(logits_BLV, self.embed(tokens_BL))


class NaeSatDenoiser(LawDenoiser):
    """The exact posterior of latents and observations, by enumeration; probabilities of 0 have logits of -infinity.

    Args:
        law: latents and observations.

    Raises:
        ValueError: more latents than can be enumerated.
    """

    sequence_SR: Tensor

    def __init__(self, law: NaeSat) -> None:
        super().__init__(law.n_tokens, len(law.prompt_tokens), law.length)
        self.register_buffer("sequence_SR", all_sequences(law))

    def forward(self, tokens_BL: Tensor, valid_BL: Tensor | None, query_BQ: Tensor | None = None) -> DenoiserOutput:
        """See ``ReadableDenoiser``; the logits of masked response positions are log-probabilities."""
        _, response_BR = self.split(tokens_BL)
        one_BR = posterior_ones(response_BR, self.sequence_SR)
        p_BRV = F.pad(torch.stack((1.0 - one_BR, one_BR), dim=-1), (0, self.vocab_size - 2))
        logits_BLV = self.spread(p_BRV.log().to(torch.get_default_dtype()), 0.0, tokens_BL.shape[1])
        if query_BQ is not None:
            logits_BLV = at_positions(logits_BLV, query_BQ)
        return DenoiserOutput(logits_BLV, self.embed(tokens_BL))


def law_denoiser(law: HopChain | MarkovChain | NaeSat) -> LawDenoiser:
    """The formula of a law.

    Raises:
        ValueError: a law that is too large for its formula.
    """
    if isinstance(law, HopChain):
        return HopChainDenoiser(law)
    return MarkovChainDenoiser(law) if isinstance(law, MarkovChain) else NaeSatDenoiser(law)
