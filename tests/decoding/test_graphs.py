"""A denoiser replayed from CUDA graphs decodes what it decodes without; without a GPU, recording is pretended."""

from __future__ import annotations

import copy
import gc
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from lightning_mdm.decoding import graphs
from lightning_mdm.decoding.graphs import Graphed, Recorded
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import ConfidenceThreshold, TopProbability
from lightning_mdm.decoding.state import Denoiser, Rows
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace
from toys import random_rows

SPACE = TokenSpace(40, eos_id=3, pad_id=0, forbidden=(0,))
LONGEST = 70


def net() -> TransformerDenoiser:
    torch.manual_seed(0)
    found = TransformerDenoiser(40, TransformerConfig(layers=2, width=32, heads=2, mlp_width=48)).double().eval()
    return found.requires_grad_(False)


def rows(n: int = 5) -> Rows:
    return random_rows(n, vocab_size=40, pad=0, longest=LONGEST, seed=1, row_token=True, least=50)


@dataclass
class Again:
    """A recorder whose passes are made anew at every replay, into where the first, on other tokens, left its own."""

    recorded: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, denoiser: Denoiser, inputs: tuple[Tensor, ...]) -> Recorded:
        out = denoiser(*(torch.zeros_like(value) if value.dtype == torch.int64 else value for value in inputs))
        assert out.hidden_BLD is not None
        self.recorded.append((len(inputs[0]), inputs[2].shape[1]))

        def replay() -> None:
            again = denoiser(*inputs)
            assert again.hidden_BLD is not None
            out.logits_BQV.copy_(again.logits_BQV)
            assert out.hidden_BLD is not None
            out.hidden_BLD.copy_(again.hidden_BLD)

        return replay, out


def test_graphs_give_what_the_denoiser_gives() -> None:
    """Their padding and their bookkeeping: what was recorded is read and written in place."""
    pretended = Again()
    recorded = pretended.recorded
    plain, canvas = net(), rows()
    replayed = Graphed(plain, pretended)
    for policy in (TopProbability(), ConfidenceThreshold(0.5)):
        first, second = (decode(denoiser, policy, canvas, SPACE, steps=6) for denoiser in (plain, replayed))
        assert first.tokens_BL.equal(second.tokens_BL)
        assert first.order.step_BL.equal(second.order.step_BL)
        assert len(set(first.tokens_BL.flatten().tolist())) > 3, "one token everywhere shows nothing"
    assert len(recorded) == len(set(recorded)) == len(replayed.graphs)
    assert set(recorded) <= {(n, q) for n in (1, 2, 4, 8) for q in (32, 64, LONGEST)}
    assert len({queries for _, queries in recorded}) > 1

    with torch.inference_mode():
        kept = Graphed(plain, pretended, most_graphs=2)
        decode(kept, TopProbability(), canvas, SPACE, steps=6)
    assert len(kept.graphs) == 2
    again = decode(kept, TopProbability(), canvas, SPACE, steps=6)
    assert again.tokens_BL.equal(decode(plain, TopProbability(), canvas, SPACE, steps=6).tokens_BL)

    few = Graphed(plain, pretended, most_rows=4)
    before = len(recorded)
    inputs = canvas.tokens_BL, canvas.valid_BL, torch.arange(3).expand(5, -1)
    assert few(*inputs).logits_BQV.equal(plain(*inputs).logits_BQV)
    assert len(recorded) == before, "with many rows the denoiser is called plainly"


@pytest.mark.parametrize(
    ("n", "queries", "shape"), [(1, 1, (1, 32)), (4, 32, (4, 32)), (5, 33, (8, 64)), (5, 64, (8, 64)), (5, 65, (8, 70))]
)
def test_rows_are_padded_to_a_power_of_two_and_queries_to_a_multiple(
    n: int, queries: int, shape: tuple[int, int]
) -> None:
    pretended, plain = Again(), net()
    tokens_BL = torch.randint(40, (n, LONGEST), generator=torch.Generator().manual_seed(0))
    inputs = tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), torch.arange(queries).expand(n, -1)
    out, expected = Graphed(plain, pretended, most_rows=5)(*inputs), plain(*inputs)
    assert pretended.recorded == [shape], "up to as many rows as it says"
    torch.testing.assert_close(out.logits_BQV, expected.logits_BQV)
    torch.testing.assert_close(out.hidden_BLD, expected.hidden_BLD)


def test_rows_of_another_length_have_a_graph_of_their_own() -> None:
    plain = net()
    replayed = Graphed(plain, Again())
    for length in (40, 50, 40):
        tokens_BL = torch.randint(40, (2, length), generator=torch.Generator().manual_seed(length))
        inputs = tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), torch.arange(32).expand(2, -1)
        torch.testing.assert_close(replayed(*inputs).logits_BQV, plain(*inputs).logits_BQV)
    assert list(replayed.graphs) == [(2, 40, 32), (2, 50, 32)]


def test_what_a_replay_gave_stays_when_another_follows() -> None:
    replayed = Graphed(net(), Again())
    tokens_BL = torch.randint(40, (4, LONGEST), generator=torch.Generator().manual_seed(0))
    rest = torch.ones_like(tokens_BL, dtype=torch.bool), torch.arange(32).expand(4, -1)
    first = replayed(tokens_BL, *rest)
    assert first.hidden_BLD is not None
    logits_BQV, hidden_BLD = first.logits_BQV.clone(), first.hidden_BLD.clone()
    assert not replayed(tokens_BL.flip(0), *rest).logits_BQV.equal(logits_BQV)
    assert first.logits_BQV.equal(logits_BQV)
    assert first.hidden_BLD.equal(hidden_BLD)


def test_the_oldest_graph_makes_room_for_one_more() -> None:
    kept = Graphed(net(), Again(), most_graphs=2)
    for n in (1, 2, 4):
        tokens_BL = torch.zeros(n, LONGEST, dtype=torch.int64)
        kept(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool), torch.zeros(n, 1, dtype=torch.int64))
    assert [rows for rows, _, _ in kept.graphs] == [2, 4]


def test_a_denoiser_without_hidden_states_has_graphs_too() -> None:
    def denoiser(tokens_BL: Tensor, valid_BL: Tensor, query_BQ: Tensor) -> DenoiserOutput:
        return DenoiserOutput(torch.ones(*query_BQ.shape, 40), None)

    out = Graphed(denoiser, lambda net, inputs: (lambda: None, net(*inputs)))(
        torch.zeros(3, 4, dtype=torch.int64), torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.int64)
    )
    assert out.hidden_BLD is None
    assert out.logits_BQV.shape == (3, 2, 40)


def test_graphs_are_kept_for_as_long_as_a_net_and_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a graph reads is memory: other values are no reason for another one, another place is."""
    weight = SimpleNamespace(is_cuda=True, place=1)
    weight.data_ptr = lambda: weight.place

    class Net(nn.Module):
        def parameters(self, recurse: bool = True) -> list[object]:  # type: ignore[override]
            return [weight]

        def forward(self, *inputs: Tensor) -> DenoiserOutput:
            return DenoiserOutput(inputs[0] + 1.0, None)

    first, second = Net(), Net()
    kept = graphs.graphed(first)
    assert kept.denoiser(torch.zeros(1)).logits_BQV.item() == 1.0
    assert graphs.graphed(first) is kept
    assert graphs.graphed(second) is not kept
    weight.place = 2
    moved = graphs.graphed(first)
    assert moved is not kept
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    halved = graphs.graphed(first)
    assert halved is not moved, "products of another type"
    assert graphs.graphed(first) is halved
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float8_e5m2)
    assert graphs.graphed(first) is not halved, "and of a third one"
    before = len(graphs._kept)
    del first
    gc.collect()
    assert len(graphs._kept) == before - 1


def test_graphs_are_for_gpus() -> None:
    options, canvas = DecodingOptions(cuda_graphs=True), rows()
    with pytest.raises(ValueError, match="cuda_graphs=True: the denoiser has no weights on a GPU; leave it out"):
        options.decode(net(), TopProbability(), canvas, SPACE, 3, 0)
    for weights in ([], [SimpleNamespace(is_cuda=True), SimpleNamespace(is_cuda=False)]):
        partly = nn.Module()
        partly.parameters = lambda weights=weights: weights  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="the denoiser has no weights on a GPU"):
            graphs.graphed(partly)
    with pytest.raises(ValueError, match="cuda_graphs=True: the denoiser is no net; leave it out"):
        options.decode(lambda *inputs: net()(*inputs), TopProbability(), canvas, SPACE, 3, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_graphs_of_a_gpu_decode_the_same(precision: torch.dtype) -> None:
    """Under autocast, too, where what it keeps of a weight is gone at the second decode."""
    plain, canvas = net().cuda(), rows()
    if precision == torch.bfloat16:
        plain = plain.float().requires_grad_()  # or autocast keeps nothing
    gpu = Rows(*(value.cuda() for value in (canvas.tokens_BL, canvas.prompt_BL, canvas.valid_BL, canvas.index_B)))
    # Padded alike, so that the very same kernels run.
    eager = Graphed(copy.deepcopy(plain), Again())
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            first = decode(eager, TopProbability(), gpu, SPACE, steps=6)
            second = DecodingOptions(cuda_graphs=True).decode(plain, TopProbability(), gpu, SPACE, 6, 0)
        assert first.tokens_BL.equal(second.tokens_BL)
        assert first.order.step_BL.equal(second.order.step_BL)
