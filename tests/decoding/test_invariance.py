"""Nothing of a row's result depends on its neighbours: bit-identical tokens, order and NFE, float32 on the CPU."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from decoding.reference import instances, label, with_ends
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import IID, ConfidenceThreshold, TopMargin, TopProbability
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.decoding.tokens import Temperature
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.selector import Selector, SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.vocabulary import TokenSpace
from toys import random_rows, subset

SPACE = TokenSpace(12, eos_id=2, pad_id=0, forbidden=(0, 1))
N = 6


@cache
def net() -> TransformerDenoiser:
    torch.manual_seed(0)
    return TransformerDenoiser(12, TransformerConfig(layers=2, width=32, heads=2, mlp_width=64)).eval()


def selector(attends: str, finishes: bool = False, start: str = "iid") -> Selector:
    """A net with weights that are all at work, and not everything in one step."""
    torch.manual_seed(1)
    config = SelectorConfig(layers=1, width=16, heads=2, mlp_width=24, attends=attends, start=start)  # type: ignore[arg-type]
    found = Selector(32, config, finishes).eval()
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.4 * torch.randn_like(p))
        found.net.last.bias.fill_(-1.0)
    return found


NETS = [
    *(Learned(rule).bound(selector(attends)) for rule in ("greedy", "sampled") for attends in ("masked", "all")),
    *(Learned(rule).bound(selector("masked", True, "confidence")) for rule in ("greedy", "sampled")),
]


@cache
def canvas() -> Rows:
    # A given token in every row: where all tokens are masks, all positions tie but for rounding.
    return random_rows(N, vocab_size=12, pad=0, longest=13, seed=8, row_token=True)


def result(trace: Trace, row: int, length: int) -> tuple[list[int], list[int], int]:
    return (
        trace.tokens_BL[row, :length].tolist(),
        trace.order.step_BL[row, :length].tolist(),
        int(trace.nfe_B[row]),
    )


def name(policy: UnmaskingPolicy) -> str:
    net = isinstance(policy, Learned) and isinstance(policy.selector, Selector)
    return f"{policy.label}@{policy.selector.net.config.attends}" if net else label(policy)


BATCHES = {
    "shuffled_and_padded": ([[3, 0, 5, 1, 2, 4]], 9),
    "in_parts": ([[5, 2, 0], [1, 3, 4]], 0),
    "alone": ([[row] for row in range(N)], 0),
    "twice_and_padded": ([[1, 1]], 5),
}


@pytest.mark.parametrize("token_temperature", [0.0, 1.0])
@pytest.mark.parametrize(("policy", "end_of_sequence"), with_ends([*instances(), *NETS]), ids=name)
def test_a_row_is_decoded_the_same_in_any_batch(
    policy: UnmaskingPolicy, end_of_sequence: str, token_temperature: float
) -> None:
    if token_temperature and "response" in policy.reads:
        pytest.skip("it trusts the likeliest tokens, so it is refused where others may be drawn")
    options = DecodingOptions(end_of_sequence, token_temperature)
    length_B = canvas().valid_BL.sum(-1).tolist()
    whole = options.decode(net(), policy, canvas(), SPACE, steps=3, seed=3)
    expected = [result(whole, row, length_B[row]) for row in range(N)]
    for name, (batches, padding) in BATCHES.items():
        for chosen in batches:
            trace = options.decode(net(), policy, subset(canvas(), chosen, pad=0, padding=padding), SPACE, 3, 3)
            for place, row in enumerate(chosen):
                assert result(trace, place, length_B[row]) == expected[row], f"row {row} differs: {name}"
    isolated = DecodingOptions(end_of_sequence, token_temperature, isolate_rows=True)
    trace = isolated.decode(net(), policy, canvas(), SPACE, steps=3, seed=3)
    assert [result(trace, row, length_B[row]) for row in range(N)] == expected
    assert trace.tokens_BL[~canvas().valid_BL].eq(0).all()
    assert trace.forward_passes == int(trace.nfe_B.sum())


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.6])
def test_an_untrained_selector_that_starts_at_confidence_decodes_as_the_threshold_policy(threshold: float) -> None:
    torch.manual_seed(2)
    config = SelectorConfig(1, 16, 2, 24, start="confidence", start_threshold=threshold)
    learned = Learned().bound(Selector(32, config).eval())
    found, expected = (
        decode(net(), policy, canvas(), SPACE, steps=6, seed=3) for policy in (learned, ConfidenceThreshold(threshold))
    )
    assert found.order.step_BL.equal(expected.order.step_BL)
    assert found.tokens_BL.equal(expected.tokens_BL)
    assert int(found.nfe_B.max()) > 1


@pytest.mark.parametrize("steps", [2, 3, 6])
def test_an_untrained_selector_that_starts_at_a_quota_decodes_as_top_probability(steps: int) -> None:
    torch.manual_seed(2)
    config = SelectorConfig(1, 16, 2, 24, start="quota", start_threshold=0.99999)
    learned = Learned().bound(Selector(32, config).eval())
    found, expected = (
        decode(net(), policy, canvas(), SPACE, steps=steps, seed=3) for policy in (learned, TopProbability())
    )
    assert found.order.step_BL.equal(expected.order.step_BL)
    assert found.tokens_BL.equal(expected.tokens_BL)


def drawn(policy: UnmaskingPolicy, seed: int, index_B: Tensor) -> Trace:
    rows = subset(canvas(), range(N), pad=0)
    rows = Rows(rows.tokens_BL, rows.prompt_BL, rows.valid_BL, index_B)
    return decode(net(), policy, rows, SPACE, steps=4, token_sampler=Temperature(), seed=seed)


def test_the_same_seed_repeats_and_another_does_not() -> None:
    index_B = torch.arange(N)
    first = drawn(IID(), 0, index_B)
    assert first.tokens_BL.equal(drawn(IID(), 0, index_B).tokens_BL)
    assert first.order.step_BL.equal(drawn(IID(), 0, index_B).order.step_BL)
    for seed, index in ((1, index_B), (-1, index_B), (0, index_B + 1)):
        other = drawn(IID(), seed, index)
        assert not first.tokens_BL.equal(other.tokens_BL)
        assert not first.order.step_BL.equal(other.order.step_BL)


def test_without_randomness_the_seed_does_not_matter() -> None:
    options = DecodingOptions()
    first, second = (options.decode(net(), TopMargin(), canvas(), SPACE, steps=3, seed=seed) for seed in (0, 1))
    assert first.tokens_BL.equal(second.tokens_BL)
    assert first.order.step_BL.equal(second.order.step_BL)
