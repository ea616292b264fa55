"""The denoiser net: what it may see, what it must not see, and what it can predict."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.denoiser import ReadableDenoiser, TransformerDenoiser
from lightning_mdm.nets.transformer import TransformerConfig, compile_blocks
from toys import random_rows

V = 11


def net(dtype: torch.dtype = torch.float64, seed: int = 0) -> TransformerDenoiser:
    torch.manual_seed(seed)
    return TransformerDenoiser(V, TransformerConfig(layers=3, width=32, heads=4, mlp_width=48)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_padding_never_leaks(dtype: torch.dtype, tolerance: float) -> None:
    denoiser = net(dtype)
    canvas = random_rows(6, vocab_size=V, pad=0, longest=12, seed=1)
    with torch.no_grad():
        batch_BLV = denoiser(canvas.tokens_BL, canvas.valid_BL).logits_BQV
        assert bool(batch_BLV.isfinite().all())
        for row, length in enumerate(canvas.valid_BL.sum(-1).tolist()):
            alone_LV = denoiser(
                canvas.tokens_BL[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool)
            ).logits_BQV[0]
            torch.testing.assert_close(batch_BLV[row, :length], alone_LV, rtol=0.0, atol=tolerance)
        other = canvas.tokens_BL.masked_fill(~canvas.valid_BL, V)
        valid = canvas.valid_BL
        torch.testing.assert_close(denoiser(other, valid).logits_BQV[valid], batch_BLV[valid], rtol=0.0, atol=0.0)


def test_every_valid_position_is_seen_from_both_sides() -> None:
    embedded_LD = torch.randn(1, 8, 32, dtype=torch.float64, requires_grad=True)
    valid_BL = torch.tensor([[True] * 6 + [False] * 2])
    hidden_LD = net().trunk(embedded_LD, valid_BL)[0]
    for position in range(6):
        (gradient,) = torch.autograd.grad(hidden_LD[position].square().sum(), embedded_LD, retain_graph=True)
        reaches = gradient[0].abs().amax(-1)
        assert bool((reaches[:6] > 1e-9).all())
        assert bool((reaches[6:] == 0.0).all())


def test_the_mask_token_is_read_and_never_predicted() -> None:
    denoiser = net()
    assert denoiser.embedding.num_embeddings == V + 1
    valid = torch.ones(1, 4, dtype=torch.bool)
    logits = denoiser(torch.tensor([[V, 1, V, 3]]), valid).logits_BQV
    assert logits.shape == (1, 4, V)
    assert not torch.allclose(logits, denoiser(torch.tensor([[2, 1, V, 3]]), valid).logits_BQV)


def test_queried_logits_are_those_of_the_full_head() -> None:
    denoiser = net()
    canvas = random_rows(5, vocab_size=V, pad=0, longest=9, seed=2)
    full_BLV = denoiser(canvas.tokens_BL, canvas.valid_BL).logits_BQV
    generator = torch.Generator().manual_seed(0)
    query_BQ = torch.stack([torch.randperm(full_BLV.shape[1], generator=generator)[:3] for _ in range(5)])
    got_BQV = denoiser(canvas.tokens_BL, canvas.valid_BL, query_BQ).logits_BQV
    for row in range(5):
        torch.testing.assert_close(got_BQV[row], full_BLV[row, query_BQ[row]], rtol=0.0, atol=1e-12)
    empty_BQ = torch.zeros(5, 0, dtype=torch.int64)
    assert denoiser(canvas.tokens_BL, canvas.valid_BL, empty_BQ).logits_BQV.shape == (5, 0, V)


@pytest.mark.parametrize("kind", [TransformerDenoiser, CausalDenoiser])
def test_no_mask_is_a_mask_that_hides_nothing(kind: type[ReadableDenoiser]) -> None:
    denoiser = kind(V, TransformerConfig(layers=2, width=16, heads=2, mlp_width=24)).double()
    tokens_BL = torch.arange(12).reshape(2, 6) % (V + 1)
    masked = denoiser(tokens_BL, torch.ones(2, 6, dtype=torch.bool)).logits_BQV
    torch.testing.assert_close(denoiser(tokens_BL, None).logits_BQV, masked, rtol=0.0, atol=1e-12)


def test_places_matter_and_only_relative_to_each_other() -> None:
    denoiser = net()
    tokens = torch.tensor([[4, V, 7, V]])
    logits = denoiser(tokens, torch.ones(1, 4, dtype=torch.bool)).logits_BQV
    swapped = denoiser(tokens.flip(-1), torch.ones(1, 4, dtype=torch.bool)).logits_BQV.flip(1)
    assert not torch.allclose(logits, swapped, atol=1e-3)
    shifted = torch.tensor([[0] * 5 + tokens[0].tolist()])
    valid = torch.tensor([[False] * 5 + [True] * 4])
    torch.testing.assert_close(denoiser(shifted, valid).logits_BQV[:, 5:], logits, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("kind", [TransformerDenoiser, CausalDenoiser])
def test_untrained_logits_are_of_size_one(kind: type[ReadableDenoiser]) -> None:
    """Neither sure of anything nor flat: the final norm gives numbers of size one, and the head keeps that size."""
    torch.manual_seed(0)
    denoiser = kind(200, TransformerConfig(layers=2, width=64, heads=4, mlp_width=64))
    with torch.no_grad():
        logits_BQV = denoiser(torch.arange(200)[None], None).logits_BQV
    assert float(logits_BQV.square().mean()) == pytest.approx(1.0, rel=0.1)


def test_it_learns_through_every_parameter() -> None:
    denoiser = net()
    denoiser(torch.arange(V + 1)[None], torch.ones(1, V + 1, dtype=torch.bool)).logits_BQV.square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in denoiser.parameters())


@pytest.mark.parametrize("kind", [TransformerDenoiser, CausalDenoiser])
@pytest.mark.parametrize("positions", [0, 30])
def test_one_compilation_serves_all_blocks_and_shapes(
    kind: type[ReadableDenoiser], positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows leave a batch and lengths differ from batch to batch; a size of 1 is another matter."""
    torch._dynamo.reset()
    counter = CompileCounter()
    net = kind(9, TransformerConfig(layers=3, width=16, heads=2, mlp_width=16, positions=positions))
    compiled = copy.deepcopy(net)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    compile_blocks(compiled)
    for B, L, Q in ((7, 30, 12), (6, 30, 9), (4, 21, 17), (2, 5, 3)):
        tokens_BL = torch.randint(0, 9, (B, L))
        query_BQ = torch.rand(B, L).argsort(-1)[:, :Q]
        with torch.no_grad():
            out, plain = (one(tokens_BL, torch.ones(B, L, dtype=torch.bool), query_BQ) for one in (compiled, net))
        torch.testing.assert_close(out.logits_BQV, plain.logits_BQV)
    assert counter.frame_count == 1, "compiled once"
    for B, L in ((7, 30), (3, 21)):
        with torch.no_grad():
            compiled(torch.randint(0, 9, (B, L)), None)
    assert counter.frame_count == 2, "once more without a mask"
    torch._dynamo.reset()
