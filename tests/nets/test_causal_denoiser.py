"""The causal denoiser: what it sees, what it does not, and that it decodes like any other."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import Autoregressive
from lightning_mdm.decoding.state import Rows
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.objectives.denoising import response_query
from lightning_mdm.objectives.next_token import next_token
from lightning_mdm.vocabulary import TokenSpace
from toys import random_rows, repeated, rows, subset

V = 5
SPACE = TokenSpace(V, eos_id=1, pad_id=0)


def net(vocab_size: int = V, seed: int = 0) -> CausalDenoiser:
    torch.manual_seed(seed)
    return CausalDenoiser(vocab_size, TransformerConfig(layers=2, width=16, heads=2, mlp_width=24)).double().eval()


def conditional(denoiser: CausalDenoiser, prefix: tuple[int, ...]) -> list[float]:
    """p(next token | prefix), from the prefix alone."""
    tokens_BL = torch.tensor([[*prefix, 0]])  # whatever stands at the place itself
    with torch.no_grad():
        logits_BQV = denoiser(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), None).logits_BQV
    p: list[float] = logits_BQV[0, -1].softmax(-1).tolist()
    return p


@pytest.mark.parametrize("position", range(7))
def test_a_position_reads_exactly_what_stands_before_it(position: int) -> None:
    denoiser = net()
    tokens_BL = torch.randint(0, V, (1, 7), generator=torch.Generator().manual_seed(1))
    valid_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    before_LV = denoiser(tokens_BL, valid_BL).logits_BQV[0]
    for token in {*range(V + 1)} - {int(tokens_BL[0, position])}:
        other_BL = tokens_BL.clone()
        other_BL[0, position] = token
        after_LV = denoiser(other_BL, valid_BL).logits_BQV[0]
        assert after_LV[: position + 1].equal(before_LV[: position + 1])
        moved_L = (after_LV - before_LV)[position + 1 :].abs().amax(-1)
        assert bool((moved_L > 1e-9).all())


def test_rows_do_not_see_each_other_or_padding() -> None:
    denoiser = net()
    canvas = random_rows(6, vocab_size=V, pad=0, longest=12, seed=1)
    batch_BLV = denoiser(canvas.tokens_BL, canvas.valid_BL).logits_BQV
    assert bool(batch_BLV.isfinite().all())
    for row, length in enumerate(canvas.valid_BL.sum(-1).tolist()):
        alone = Rows.alone(canvas, row)
        alone_LV = denoiser(alone.tokens_BL, alone.valid_BL).logits_BQV[0]
        torch.testing.assert_close(batch_BLV[row, :length], alone_LV, rtol=0.0, atol=1e-12)
    query_BQ = response_query(canvas.valid_BL & ~canvas.prompt_BL)
    queried_BQV = denoiser(canvas.tokens_BL, canvas.valid_BL, query_BQ).logits_BQV
    torch.testing.assert_close(queried_BQV, torch.take_along_dim(batch_BLV, query_BQ[:, :, None], dim=1))


def test_it_learns_through_every_parameter() -> None:
    denoiser = net()
    tokens_BL = torch.arange(V)[None]
    denoiser(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).logits_BQV.square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in denoiser.parameters())


def chain_rule(
    denoiser: CausalDenoiser, given: tuple[int, ...], length: int, close: bool
) -> dict[tuple[int, ...], float]:
    """The law of a response, token by token."""
    law = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for response, q in law.items():
            if close and SPACE.eos_id in response:
                longer[(*response, 1)] = q
                continue
            for token, p in enumerate(conditional(denoiser, given + response)):
                longer[(*response, token)] = q * p
        law = longer
    return law


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("given", [(), (3, 0)])
def test_decoding_draws_from_the_chain_rule(given: tuple[int, ...], close: bool) -> None:
    denoiser = net()
    options = DecodingOptions("close" if close else "as_tokens", token_temperature=1.0)
    canvas = repeated([*given, None, None, None], 12_000, pad=0, padding=2)
    trace = options.decode(denoiser, Autoregressive(), canvas, SPACE, 5, 3)
    place = slice(len(given), len(given) + 3)
    drawn = trace.tokens_BL[:, place]
    assert_follows(Counter(map(tuple, drawn.tolist())), chain_rule(denoiser, given, 3, close))
    is_end = drawn == SPACE.eos_id
    first_end_B = torch.where(is_end.any(-1), is_end.int().argmax(-1) + 1, 3)
    assert trace.nfe_B.equal(first_end_B if close else torch.full_like(first_end_B, 3)), "as many as tokens"


def test_the_likeliest_tokens_are_those_of_a_plain_greedy_walk() -> None:
    denoiser = net(seed=2)
    canvas = rows([[2, None, None, None, None], [None, None], [0, 4, 1, None, None]], pad=0)
    trace = decode(denoiser, Autoregressive(), canvas, SPACE, steps=9)
    for row, length in enumerate(canvas.valid_BL.sum(-1).tolist()):
        tokens = canvas.tokens_BL[row, canvas.prompt_BL[row]].tolist()
        while len(tokens) < length:
            p = conditional(denoiser, tuple(tokens))
            tokens.append(p.index(max(p)))
        assert trace.tokens_BL[row, :length].tolist() == tokens


def every_sequence(given: tuple[int, ...], length: int) -> Rows:
    sequences = [[*given, *x] for x in itertools.product(range(V), repeat=length)]
    tokens_BL = torch.tensor(sequences)
    prompt_BL = (torch.arange(tokens_BL.shape[1]) < len(given)).expand(tokens_BL.shape)
    return Rows(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.arange(len(tokens_BL)))


def objective_nats(denoiser: CausalDenoiser, canvas: Rows) -> Tensor:
    response_BL = canvas.valid_BL & ~canvas.prompt_BL
    query_BQ = response_query(response_BL)
    with torch.no_grad():
        logits_BQV = denoiser(canvas.tokens_BL, canvas.valid_BL, query_BQ).logits_BQV
    return next_token(logits_BQV, query_BQ, canvas.tokens_BL, response_BL).nats_B


@pytest.mark.parametrize("given", [(), (4, 2)])
def test_the_objective_is_the_likelihood_that_the_loop_walks(given: tuple[int, ...]) -> None:
    denoiser, canvas = net(), every_sequence(given, 3)
    nats_B = objective_nats(denoiser, canvas)
    assert float((-nats_B).exp().sum()) == pytest.approx(1.0, abs=1e-12)
    law = chain_rule(denoiser, given, 3, close=False)
    wanted = [-math.log(law[tuple(x[len(given) :])]) for x in canvas.tokens_BL.tolist()]
    assert nats_B.tolist() == pytest.approx(wanted, abs=1e-10)
    # From masked canvases, one token at a time, with whatever stands behind hidden: the same number.
    walked_B, trace = true_token_nats(denoiser, Autoregressive(), canvas, SPACE, steps=3)
    torch.testing.assert_close(walked_B, nats_B, rtol=0.0, atol=1e-10)
    assert trace.nfe_B.tolist() == [3] * len(nats_B)


def test_decoding_a_row_alone_changes_nothing() -> None:
    torch.manual_seed(0)
    denoiser = CausalDenoiser(V, TransformerConfig(layers=2, width=32, heads=2, mlp_width=64)).eval()
    lengths = (3, 6, 1, 8)
    canvas = rows([[row % V, *[None] * n] for row, n in enumerate(lengths)], pad=0)
    whole = decode(denoiser, Autoregressive(), canvas, SPACE, steps=8, token_sampler=Temperature(), seed=1)
    for order in ([0], [1], [2], [3], [3, 1, 0, 2]):
        part = decode(
            denoiser, Autoregressive(), subset(canvas, order, pad=0, padding=2), SPACE, steps=8,
            token_sampler=Temperature(), seed=1,
        )  # fmt: skip
        for place, row in enumerate(order):
            length = lengths[row] + 1
            assert part.tokens_BL[place, :length].equal(whole.tokens_BL[row, :length])
            assert int(part.nfe_B[place]) == lengths[row]
