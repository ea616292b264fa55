"""Nets of the approximate posterior: what their laws are, what they must not see, and how they start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_mdm.nets.order_net import FIRST_FINISH, OrderNetConfig, OrderReading
from lightning_mdm.nets.posterior_net import (
    MaxNormalised,
    PosteriorConfig,
    PosteriorNet,
    StateAware,
    build_posterior,
)
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

WIDTH = 12
CONFIG = OrderNetConfig(layers=1, width=16, heads=2, mlp_width=24)
RELATIVE = partial(StateAware, relative=True)
FINISHING = partial(StateAware, finishes=True)
RELATIVE_FINISHING = partial(StateAware, relative=True, finishes=True)
STATE_AWARE = {
    "state_aware": StateAware, "relative": RELATIVE, "finishing": FINISHING, "relative_finishing": RELATIVE_FINISHING,
}  # fmt: skip
FAMILIES = {**STATE_AWARE, "max_normalised": partial(MaxNormalised, order_temperature=0.3)}
Kind = Callable[[int, OrderNetConfig], PosteriorNet]


def trained(kind: Kind, seed: int = 0) -> PosteriorNet:
    torch.manual_seed(seed)
    net = kind(WIDTH, CONFIG).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return net


def finishes(net: PosteriorNet) -> bool:
    return isinstance(net, StateAware) and net.finish is not None


def selector_law(masked_SL: Tensor, finishing: bool, seed: int = 5) -> UnmaskingLaw:
    """Some law of the selector over these positions."""
    generator = torch.Generator().manual_seed(seed)
    logits_SL = 2.0 * torch.randn(masked_SL.shape, generator=generator, dtype=torch.float64)
    if not finishing:
        return NonEmptyBernoulli.from_logits(logits_SL, masked_SL)
    finish_S = torch.randn(len(masked_SL), generator=generator, dtype=torch.float64)
    return FinishingBernoulli.from_logits(logits_SL, finish_S, masked_SL)


def read(score_SL: Tensor) -> OrderReading:
    """What a net might have made of clean sequences, its scores given."""
    generator = torch.Generator().manual_seed(6)
    mean_SD = torch.randn(len(score_SL), CONFIG.width, generator=generator, dtype=torch.float64)
    return OrderReading(score_SL, mean_SD.to(score_SL.dtype))


def finish_of(law: UnmaskingLaw) -> Tensor:
    """The logit of finishing."""
    assert isinstance(law, FinishingBernoulli)
    return law.log_f_B - law.log_not_f_B


def sequences(n: int = 3, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of clean tokens, valid and response positions, rows of different lengths; float64."""
    generator = torch.Generator().manual_seed(4)
    embedded_BLD = torch.randn(n, length, WIDTH, generator=generator, dtype=torch.float64)
    valid_BL = torch.arange(length) < torch.tensor([length - 2 * b for b in range(n)])[:, None]
    return embedded_BLD, valid_BL, valid_BL & (torch.arange(length) > 0)


@pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
def test_scores_of_a_row_alone_are_those_in_a_batch(kind: Kind) -> None:
    net = trained(kind)
    embedded_BLD, valid_BL, response_BL = sequences()
    whole = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    whole_BL = whole.value_BL
    assert whole_BL[response_BL].std().item() > 0.1
    for row, length in enumerate(valid_BL.sum(-1).tolist()):
        one = slice(row, row + 1)
        alone = net.scores(
            embedded_BLD[one, :length], valid_BL[one, :length], response_BL[one, :length], 4, 0.2
        )  # fmt: skip
        torch.testing.assert_close(alone.value_BL[0], whole_BL[row, :length], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(alone.mean_BD[0], whole.mean_BD[row], rtol=0.0, atol=1e-12)
    padded_BLD = torch.where(valid_BL[:, :, None], embedded_BLD, 1e3)
    padded = net.scores(padded_BLD, valid_BL, response_BL, 4, 0.2)
    torch.testing.assert_close(padded.value_BL, whole_BL, rtol=0.0, atol=0.0)
    torch.testing.assert_close(padded.mean_BD, whole.mean_BD, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
def test_scores_depend_on_the_clean_tokens_the_budget_and_the_price(kind: Kind) -> None:
    net = trained(kind)
    embedded_BLD, valid_BL, response_BL = sequences()
    first = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    for other in (
        net.scores(embedded_BLD.roll(1, 1), valid_BL, response_BL, 4, 0.2),
        net.scores(embedded_BLD, valid_BL, response_BL, 8, 0.2),
        net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.0),
    ):
        assert not torch.allclose(first.value_BL, other.value_BL, rtol=0.0, atol=1e-4)
        assert not torch.allclose(first.mean_BD, other.mean_BD, rtol=0.0, atol=1e-4)


def test_the_max_normalised_family_has_that_law_and_reads_no_states() -> None:
    net = MaxNormalised(WIDTH, CONFIG, order_temperature=0.25)
    assert not net.reads_states
    score_SL = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masked_SL = torch.tensor([[True] * 5, [True, False, True, True, False], [False, False, True, True, True]])
    law = net.law(read(score_SL), masked_SL, None, None, torch.tensor([4, 3, 2]), 4, 0.0)
    expected = max_normalised(score_SL, masked_SL, 0.25)
    assert law.log_prob(masked_SL).equal(expected.log_prob(masked_SL))
    net.load_state_dict(MaxNormalised(WIDTH, CONFIG, order_temperature=0.5).state_dict())
    assert float(net.order_temperature) == 0.25, "that of the weights is their training's"


@pytest.mark.parametrize("kind", STATE_AWARE.values(), ids=STATE_AWARE)
def test_the_state_aware_family_reads_the_state_at_hand(kind: Kind) -> None:
    net = trained(kind)
    assert net.reads_states
    score_SL = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masked_SL = torch.tensor([[True, True, True, False]])
    log_prob_SL = torch.tensor([[-0.1, -2.0, -0.5, 0.0]], dtype=torch.float64)
    pi = selector_law(masked_SL, finishes(net))

    def law(
        log_prob: Tensor = log_prob_SL, left: int = 4, budget: int = 4, price: float = 0.0, pi: UnmaskingLaw = pi
    ) -> UnmaskingLaw:
        return net.law(read(score_SL), masked_SL, log_prob, pi, torch.tensor([left]), budget, price)

    first = law()
    one_changed = torch.tensor([[-0.1, -2.0, -0.7, -9.0]], dtype=torch.float64)
    differs = (law(one_changed).logit_BL - first.logit_BL)[0, :3].abs() > 1e-6
    assert differs.tolist() == [False, False, True], "each position by its own evidence"
    for other in (law(left=3), law(budget=8), law(price=1.0)):
        assert (other.logit_BL - first.logit_BL).abs().min().item() > 1e-6
        if finishes(net):
            assert (finish_of(other) - finish_of(first)).abs().item() > 1e-6
    if finishes(net):
        of_one = finish_of(law(one_changed))
        assert (of_one - finish_of(first)).abs().item() > 1e-6
        exchanged = finish_of(law(torch.tensor([[-2.0, -0.1, -0.7, 0.0]], dtype=torch.float64)))
        torch.testing.assert_close(exchanged, of_one, rtol=0.0, atol=1e-12)  # what all of them cost together
    moved = law(pi=selector_law(masked_SL, finishes(net), seed=8))
    assert torch.allclose(moved.logit_BL, first.logit_BL, rtol=0.0, atol=1e-6) == (not net.reads_selector)
    with pytest.raises(AssertionError, match="reads states"):
        net.law(read(score_SL), masked_SL, None, pi, torch.tensor([4]), 4, 0.0)
    if net.reads_selector:
        with pytest.raises(AssertionError, match="moves the selector's law"):
            net.law(read(score_SL), masked_SL, log_prob_SL, None, torch.tensor([4]), 4, 0.0)


@pytest.mark.parametrize("kind", [RELATIVE, RELATIVE_FINISHING], ids=["relative", "relative_finishing"])
def test_untrained_a_relative_posterior_is_the_selector_exactly(kind: Kind) -> None:
    torch.manual_seed(0)
    net = kind(WIDTH, CONFIG).double()
    embedded_BLD, valid_BL, response_BL = sequences()
    scores = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    log_prob_BL = -5.0 * torch.rand(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pi = selector_law(response_BL, finishes(net))
    q = net.law(scores, response_BL, log_prob_BL, pi, torch.tensor([4, 3, 2]), 4, 0.2)
    assert q.kl(pi).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    torch.testing.assert_close(q.marginal_BL, pi.marginal_BL, rtol=0.0, atol=1e-12)
    assert type(q) is type(pi)
    changed = trained(kind).law(scores, response_BL, log_prob_BL, pi, torch.tensor([4, 3, 2]), 4, 0.2)
    assert changed.kl(pi).min().item() > 1e-3


def test_without_a_posterior_the_law_is_the_selectors_own() -> None:
    net = build_posterior(PosteriorConfig("selector"), WIDTH, finishes=True)
    embedded_BLD, valid_BL, response_BL = sequences()
    scores, pi = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2), selector_law(response_BL, finishing=True)
    assert net.reads_states
    assert scores.value_BL.shape == response_BL.shape
    assert net.law(scores, response_BL, torch.zeros(response_BL.shape), pi, torch.tensor([3, 3, 3]), 4, 0.2) is pi
    assert not list(net.parameters())


def test_untrained_the_state_aware_family_prefers_some_positions() -> None:
    """Its scores differ from the start, so that the layers below the last one learn from the first update on."""
    torch.manual_seed(0)
    embedded_BLD, valid_BL, response_BL = sequences()
    scores = StateAware(WIDTH, CONFIG).double().scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    assert len(set(scores.value_BL[response_BL].tolist())) == int(response_BL.sum())


def test_untrained_the_state_aware_family_finishes_now_and_then() -> None:
    torch.manual_seed(0)
    net = FINISHING(WIDTH, CONFIG).double()
    embedded_BLD, valid_BL, response_BL = sequences()
    scores = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    for log_prob in (-1e-3, -8.0):
        log_prob_BL = torch.full((3, 7), log_prob, dtype=torch.float64)
        law = net.law(scores, response_BL, log_prob_BL, None, torch.tensor([4, 3, 2]), 4, 0.2)
        assert finish_of(law).tolist() == pytest.approx([FIRST_FINISH] * 3, rel=0.02), "the cap bends it a little"


@pytest.mark.parametrize("kind", STATE_AWARE.values(), ids=STATE_AWARE)
def test_the_logits_of_the_state_aware_family_stay_below_their_cap(kind: Kind) -> None:
    """Those of a relative posterior, within the cap of the selector's."""
    net = trained(kind)
    assert isinstance(net, StateAware)
    if net.offset is not None:
        net.offset.weight.zero_()
    with torch.no_grad():
        net.evidence[-1].weight.mul_(1e6)
        if net.finish is not None:
            net.finish.last.weight.mul_(1e6)
    log_prob_SL = torch.tensor([[-700.0, 0.0, -1e-3]], dtype=torch.float64)
    masked_SL = torch.ones(1, 3, dtype=torch.bool)
    pi = selector_law(masked_SL, finishes(net))
    law = net.law(read(torch.zeros(1, 3).double()), masked_SL, log_prob_SL, pi, torch.tensor([3]), 3, 0.0)
    by_BL = law.logit_BL - (pi.logit_BL if net.reads_selector else 0.0)
    assert 0.9 * CONFIG.logit_cap < by_BL.abs().max().item() <= CONFIG.logit_cap + 1e-9
    if net.finish is not None:
        by_B = finish_of(law) - (finish_of(pi) if net.reads_selector else 0.0)
        assert 0.9 * CONFIG.logit_cap < by_B.abs().item() <= CONFIG.logit_cap + 1e-9


@pytest.mark.parametrize("kind", FAMILIES.values(), ids=FAMILIES)
def test_it_learns_through_every_parameter(kind: Kind) -> None:
    net = trained(kind)
    embedded_BLD, valid_BL, response_BL = sequences()
    log_prob_BL = -torch.rand(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = net.scores(embedded_BLD, valid_BL, response_BL, 4, 0.2)
    pi = selector_law(response_BL, finishes(net))
    law = net.law(scores, response_BL, log_prob_BL, pi, torch.tensor([4, 3, 2]), 4, 0.2)
    (law.marginal_BL * torch.arange(7.0)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in net.parameters() if p.ndim > 1)


def mean_steps(net: PosteriorNet, budget: int, length: int, n: int = 400) -> float:
    """Mean number of steps that q uses on random sequences of ``length`` positions, none of them given."""
    generator = torch.Generator().manual_seed(7)
    embedded_BLD = torch.randn(n, length, WIDTH, generator=generator)
    masked_BL = torch.ones(n, length, dtype=torch.bool)
    log_prob_BL = -3.0 * torch.rand(n, length, generator=generator)
    total = 0
    with torch.no_grad():
        scores = net.scores(embedded_BLD, masked_BL, masked_BL, budget, 0.0)
        for step in range(1, budget + 1):
            total += int(masked_BL.any(-1).sum())
            left_B = torch.full((n,), budget - step + 1)
            if step < budget:
                seen_BL = log_prob_BL if net.reads_states else None
                law = net.law(scores, masked_BL, seen_BL, None, left_B, budget, 0.0)
                chosen_BL = law.sample(
                    torch.rand(n, generator=generator, dtype=torch.float64),
                    torch.rand(n, length, generator=generator, dtype=torch.float64),
                )
                masked_BL = masked_BL & ~chosen_BL
    return total / n


@pytest.mark.parametrize("seed", range(3))
def test_untrained_the_state_aware_family_takes_about_as_many_steps_as_iid(seed: int) -> None:
    torch.manual_seed(seed)
    budget, length = 8, 24
    iid = budget * (1.0 - (1.0 - 1.0 / budget) ** length)  # the expected number of times that some position has
    assert mean_steps(StateAware(WIDTH, CONFIG), budget, length) == pytest.approx(iid, rel=0.05)


@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("seed", range(3))
def test_untrained_the_max_normalised_family_does_not_take_everything_at_once(seed: int, width: int) -> None:
    torch.manual_seed(seed)
    net = MaxNormalised(WIDTH, replace(CONFIG, width=width), PosteriorConfig().order_temperature)
    assert mean_steps(net, budget=8, length=24) > 4.0


def test_an_order_temperature_that_is_not_positive_is_named() -> None:
    with pytest.raises(ValueError, match=r"order_temperature=0.0"):
        MaxNormalised(WIDTH, CONFIG, order_temperature=0.0)
    assert math.isclose(float(MaxNormalised(WIDTH, CONFIG, 0.3).order_temperature), 0.3, rel_tol=1e-6)


@pytest.mark.parametrize("kind", STATE_AWARE.values(), ids=STATE_AWARE)
def test_the_law_of_a_state_alone_is_that_in_a_batch(kind: Kind) -> None:
    """Whatever steps the others have left, and however long they are."""
    net = trained(kind)
    generator = torch.Generator().manual_seed(0)
    score_SL, log_prob_SL = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    known = read(score_SL)
    length_S, left_S = torch.tensor([6, 3, 4]), torch.tensor([2, 5, 3])
    masked_SL = torch.arange(6) < length_S[:, None]
    log_prob_SL = -log_prob_SL.abs().masked_fill(~masked_SL, 0.0)

    def law(rows: slice, length: int) -> UnmaskingLaw:
        masked = masked_SL[rows, :length]
        whole = selector_law(masked_SL, finishes(net))
        pi = selector_law(masked_SL[:, :length], finishes(net)) if length < 6 else whole
        return net.law(
            OrderReading(known.value_BL[rows, :length], known.mean_BD[rows]), masked, log_prob_SL[rows, :length],
            pi.rows(torch.arange(3)[rows]),
            left_S[rows], 5, 0.3,
        )  # fmt: skip

    batched = law(slice(0, 3), 6)
    for s, length in enumerate(length_S.tolist()):
        alone = law(slice(s, s + 1), 6 if net.reads_selector else length)
        torch.testing.assert_close(alone.logit_BL[0, :length], batched.logit_BL[s, :length], rtol=0.0, atol=1e-12)
        if finishes(net):
            torch.testing.assert_close(finish_of(alone)[0], finish_of(batched)[s], rtol=0.0, atol=1e-12)
