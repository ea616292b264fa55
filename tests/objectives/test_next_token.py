"""The next-token objective: what counts, what does not, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_mdm.objectives.denoising import response_query
from lightning_mdm.objectives.next_token import next_token
from toys import random_rows

V = 5


def test_nats_surrogate_and_gradient_match_their_definition() -> None:
    canvas = random_rows(6, vocab_size=V, pad=0, longest=9, seed=3)
    response_BL = canvas.valid_BL & ~canvas.prompt_BL
    generator = torch.Generator().manual_seed(0)
    B, L = response_BL.shape
    logits_BLV = torch.randn(B, L, V, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens_BL = torch.randint(0, V, (B, L), generator=generator)
    query_BQ = response_query(response_BL)

    def objective(tokens: Tensor) -> object:
        return next_token(torch.take_along_dim(logits_BLV, query_BQ[:, :, None], dim=1), query_BQ, tokens, response_BL)

    out = objective(tokens_BL)
    log_p_BL = logits_BLV.log_softmax(-1).gather(-1, tokens_BL[:, :, None]).squeeze(-1)
    nats_B = torch.stack([-log_p_BL[row][response_BL[row]].sum() for row in range(B)])
    torch.testing.assert_close(out.nats_B, nats_B.detach(), rtol=1e-12, atol=0.0)
    definition = nats_B.sum() / response_BL.sum()
    torch.testing.assert_close(out.surrogate, definition, rtol=1e-12, atol=0.0)
    got, wanted = (
        torch.autograd.grad(scalar, logits_BLV, retain_graph=True)[0] for scalar in (out.surrogate, definition)
    )
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    assert (got.abs().sum(-1) > 0).equal(response_BL)
    assert out.n_tokens_B.equal(response_BL.sum(-1))
    assert int(out.n_right) == int(((logits_BLV.argmax(-1) == tokens_BL) & response_BL).sum())
    assert objective(tokens_BL.masked_fill(~response_BL, 4)).nats_B.equal(out.nats_B), "prompt and padding"


def test_low_precision_logits_are_summed_in_float32() -> None:
    logits_BQV = torch.randn(2, 3, V, generator=torch.Generator().manual_seed(0)).bfloat16()
    query_BQ, all_BL = torch.arange(3).expand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    tokens_BL = torch.zeros(2, 3, dtype=torch.int64)
    low, high = (next_token(x, query_BQ, tokens_BL, all_BL) for x in (logits_BQV, logits_BQV.float()))
    assert low.nats_B.equal(high.nats_B)
