"""The formulas of the laws: the hop chain's against a slow one in plain Python, the Markov chain's against its law."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import TopProbability
from lightning_mdm.decoding.state import Rows
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.nets.denoiser import ReadableDenoiser
from lightning_mdm.nets.laws import HopChainDenoiser, MarkovChainDenoiser, law_denoiser
from lightning_mdm.vocabulary import TokenSpace

HOPS = [
    HopChain(),
    HopChain(arrangement="per_problem", seed=3),
    HopChain(chain=7, free=0, given=0, hops=3, vocab_size=3, certain=0.6, seed=1),
    HopChain(chain=5, free=2, given=3, hops=1, vocab_size=4, arrangement="per_problem", seed=2),
    HopChain(chain=1, free=0, given=1, hops=1, vocab_size=2),
]
LAWS = [
    *HOPS, MarkovChain(), MarkovChain(length=1, vocab_size=2), NaeSat(5, 9),
    NaeSat(4, 7, padding=3, placing="shuffled"),
]  # fmt: skip


def canvas(law: HopChain | MarkovChain | NaeSat, n: int, *, padding: int = 0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows with all shares of masked tokens, half of them with visible tokens that are wrong; tokens and valid."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [law.draw("train", k) for k in range(n)]
    response_BR = torch.tensor([d.response for d in drawn])
    legal = law.n_tokens - len(law.forbidden)
    wrong_BR = torch.randint(legal, response_BR.shape, generator=generator)
    response_BR = torch.where((torch.arange(n) % 2 == 0)[:, None], response_BR, wrong_BR)
    masked_BR = torch.rand(response_BR.shape, generator=generator) <= torch.linspace(0.0, 1.0, n)[:, None]
    prompt_BR = torch.tensor([d.prompt for d in drawn], dtype=torch.int64)
    padding_BR = torch.zeros(n, padding, dtype=torch.int64)
    tokens_BL = torch.cat((prompt_BR, response_BR.masked_fill(masked_BR, law.n_tokens), padding_BR), dim=1)
    valid_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    valid_BL[:, tokens_BL.shape[1] - padding :] = False
    return tokens_BL, valid_BL


def slow_formula(law: HopChain, row: Sequence[int]) -> dict[int, list[float]]:
    """Probabilities at every masked position of a row, as the law's description says it."""
    first = law.length if law.arrangement == "per_problem" else 0
    roles = [token - law.vocab_size for token in row[:first]] or list(law.fixed_roles)
    chain = {role: row[first + place] for place, role in enumerate(roles) if role < law.chain}
    constants = dict(zip([p for p, role in enumerate(roles) if role == law.given_role], law.given_values, strict=True))
    found = {}
    for place, role in enumerate(roles):
        if row[first + place] != law.n_tokens:
            continue
        known = constants.get(place)
        if role < law.chain:
            for back in range(1, law.hops + 1):
                j = role - back  # role counts the chain from 0, so -1 is the start
                if j >= -1 and (j == -1 or chain[j] != law.n_tokens):
                    known = 0 if j == -1 else chain[j]
                    for i in range(j + 1, role + 1):
                        known = (known + law.increments[i]) % law.vocab_size
                    break
        p = [1.0 / law.vocab_size] * law.vocab_size
        if known is not None:
            p = [(1.0 - law.certain) / (law.vocab_size - 1)] * law.vocab_size
            p[known] = law.certain
        found[first + place] = p + [0.0] * len(law.forbidden)
    return found


@pytest.mark.parametrize("law", HOPS, ids=str)
@pytest.mark.parametrize("padding", [0, 3])
def test_the_hop_chain_formula(law: HopChain, padding: int) -> None:
    tokens_BL, valid_BL = canvas(law, 60, padding=padding)
    p_BLV = HopChainDenoiser(law)(tokens_BL, valid_BL).logits_BQV.exp()
    checked = 0
    for row, p_LV in zip(tokens_BL.tolist(), p_BLV, strict=True):
        for place, p in slow_formula(law, row).items():
            torch.testing.assert_close(p_LV[place], torch.tensor(p), rtol=1e-5, atol=1e-7)
            checked += 1
    assert checked > 20


def test_the_markov_chain_formula() -> None:
    law = MarkovChain(length=9, vocab_size=3)
    tokens_BL, valid_BL = canvas(law, 40, padding=2)
    logits_BLV = MarkovChainDenoiser(law)(tokens_BL, valid_BL).logits_BQV
    torch.testing.assert_close(logits_BLV[:, :9], law.log_marginals(tokens_BL[:, :9]).float())
    assert bool(logits_BLV.isfinite().all())


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_every_law_denoiser(law: HopChain | MarkovChain | NaeSat) -> None:
    denoiser = law_denoiser(law)
    assert isinstance(denoiser, ReadableDenoiser)
    assert not list(denoiser.parameters())
    assert (denoiser.vocab_size, denoiser.width) == (law.n_tokens, law.n_tokens + 1)
    tokens_BL, valid_BL = canvas(law, 30)
    logits_BLV, hidden_BLD = denoiser(tokens_BL, valid_BL)
    assert logits_BLV.shape == (*tokens_BL.shape, law.n_tokens)
    assert hidden_BLD is not None
    assert torch.equal(hidden_BLD, denoiser.embed(tokens_BL))
    assert torch.equal(hidden_BLD.argmax(-1), tokens_BL)
    assert bool((hidden_BLD.sum(-1) == 1).all())
    assert hidden_BLD.dtype == logits_BLV.dtype == torch.float32
    masked_BL = tokens_BL == law.n_tokens
    sums_N = logits_BLV[masked_BL].exp().sum(-1)
    torch.testing.assert_close(sums_N, torch.ones_like(sums_N))

    # Queries, padding and the other rows change nothing.
    query_BQ = masked_BL.int().argsort(dim=-1, descending=True)[:, :3]
    picked_BQV = denoiser(tokens_BL, valid_BL, query_BQ).logits_BQV
    assert torch.equal(picked_BQV, torch.take_along_dim(logits_BLV, query_BQ[:, :, None], dim=1))
    padded_BL = torch.nn.functional.pad(tokens_BL, (0, 4), value=0)
    padded_BLV = denoiser(padded_BL, torch.nn.functional.pad(valid_BL, (0, 4))).logits_BQV
    assert torch.equal(padded_BLV[:, : tokens_BL.shape[1]], logits_BLV)
    assert torch.equal(denoiser(tokens_BL[7:8], valid_BL[7:8]).logits_BQV, logits_BLV[7:8])


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_buffers_carry_the_law(law: HopChain | MarkovChain | NaeSat) -> None:
    state = law_denoiser(law).state_dict()
    copy = law_denoiser(law)
    copy.load_state_dict(state)
    tokens_BL, valid_BL = canvas(law, 10)
    assert torch.equal(copy(tokens_BL, valid_BL).logits_BQV, law_denoiser(law)(tokens_BL, valid_BL).logits_BQV)
    another = {HopChain: HopChain(hops=3), MarkovChain: MarkovChain(seed=1), NaeSat: NaeSat(5, 9, seed=1)}[type(law)]
    theirs = law_denoiser(another).state_dict()
    assert any(state[n].shape != theirs[n].shape or not torch.equal(state[n], theirs[n]) for n in state)


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_autocast_changes_no_formula(law: HopChain | MarkovChain | NaeSat) -> None:
    tokens_BL, valid_BL = canvas(law, 30)
    exact = law_denoiser(law)(tokens_BL, valid_BL).logits_BQV
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(law_denoiser(law)(tokens_BL, valid_BL).logits_BQV, exact)


@pytest.mark.parametrize("law", [law for law in HOPS if law.arrangement == "per_problem"], ids=str)
def test_without_its_prompt_nothing_of_a_hop_chain_is_known(law: HopChain) -> None:
    """So that guidance, which moves logits away from what is said without the prompt, changes no likeliest token."""
    denoiser, (tokens_BL, valid_BL) = HopChainDenoiser(law), canvas(law, 40)
    told_BLV = denoiser(tokens_BL, valid_BL).logits_BQV
    hidden_BL = tokens_BL.clone()
    hidden_BL[:20, : law.length] = law.n_tokens
    hidden_BL[20:30, 0] = law.n_tokens  # one role is enough
    found_BLV = denoiser(hidden_BL, valid_BL).logits_BQV
    assert torch.equal(found_BLV[30:], told_BLV[30:])
    uniform_V = torch.full((law.vocab_size,), 1.0 / law.vocab_size)
    p_NV = found_BLV[:30, law.length :].exp().flatten(0, 1)
    torch.testing.assert_close(p_NV[:, : law.vocab_size], uniform_V.expand(len(p_NV), -1))
    assert not bool(p_NV[:, law.vocab_size :].any())

    drawn = [law.draw("test", k) for k in range(8)]
    prompt_BR, response_BR = torch.tensor([d.prompt for d in drawn]), torch.tensor([d.response for d in drawn])
    rows = Rows(
        torch.cat((prompt_BR, response_BR), dim=1), torch.arange(2 * law.length).expand(8, -1) < law.length,
        torch.ones(8, 2 * law.length, dtype=torch.bool), torch.arange(8),
    )  # fmt: skip
    space = TokenSpace(law.n_tokens, eos_id=None, pad_id=0, forbidden=law.forbidden)
    plain, guided = (
        decode(denoiser, TopProbability(), rows, space, steps=law.length, guidance=weight) for weight in (0.0, 1.5)
    )
    assert torch.equal(plain.tokens_BL, guided.tokens_BL)


def test_decoding_in_reach_is_right() -> None:
    """Step by step, each time what is surest: the chain comes out right, though every guess would be a lottery."""
    for arrangement in ("fixed", "per_problem"):
        law = HopChain(arrangement=arrangement, free=0)
        drawn = [law.draw("test", k) for k in range(20)]
        tokens_BL = torch.tensor([d.prompt + d.response for d in drawn])
        prompt_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
        prompt_BL[:, : len(law.prompt_tokens)] = True
        rows = Rows(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.arange(20))
        space = TokenSpace(law.n_tokens, None, 0, law.forbidden)
        trace = decode(law_denoiser(law), TopProbability(), rows, space, steps=law.length)
        assert torch.equal(trace.tokens_BL, tokens_BL)


@pytest.mark.parametrize("law", [HopChain(arrangement="per_problem"), MarkovChain(length=32), NaeSat()], ids=str)
def test_it_is_fast(law: HopChain | MarkovChain | NaeSat) -> None:
    denoiser = law_denoiser(law)
    tokens_BL, valid_BL = canvas(law, 256)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        denoiser(tokens_BL, valid_BL)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


def test_rows_of_another_law() -> None:
    shuffled = HopChain(arrangement="per_problem")
    tokens_BL, valid_BL = canvas(HopChain(), 2)
    with pytest.raises(ValueError, match="rows of 32 tokens: this law has 32 prompt and 32 response tokens"):
        law_denoiser(shuffled)(tokens_BL, valid_BL)


def test_certainty_is_the_laws() -> None:
    law = HopChain(chain=4, free=1, given=0, hops=2, certain=0.7, vocab_size=5)
    tokens_BL = torch.full((1, law.length), law.n_tokens)
    log_LV = law_denoiser(law)(tokens_BL, tokens_BL == law.n_tokens).logits_BQV[0]
    tops = [float(log_LV[law.fixed_roles.index(role)].max()) for role in range(5)]
    assert tops == pytest.approx([math.log(0.7)] * 2 + [-math.log(5)] * 3)
