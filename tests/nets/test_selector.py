"""The selector's net: where it starts, what it must not see, and how large it is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.posterior_net import MaxNormalised, StateAware
from lightning_mdm.nets.selector import IIDOffset, OrderNet, OrderNetConfig, Selector, row_context
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli

WIDTH = 10
CONFIG = OrderNetConfig(layers=2, width=16, heads=2, mlp_width=24)
PLACED = replace(CONFIG, positions=9)


def canvas() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, confidence, valid and masked positions of four rows of different lengths; float64."""
    generator = torch.Generator().manual_seed(0)
    valid_BL = torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]
    masked_BL = valid_BL & (torch.rand(4, 9, generator=generator) < 0.6)
    masked_BL[:, 1] = True
    hidden_BLD = torch.randn(4, 9, WIDTH, generator=generator, dtype=torch.float64)
    confidence_BLF = torch.rand(4, 9, 4, generator=generator, dtype=torch.float64)
    return hidden_BLD, confidence_BLF, valid_BL, masked_BL


def trained(config: OrderNetConfig = CONFIG, seed: int = 0) -> Selector:
    """A selector with weights that are all at work."""
    torch.manual_seed(seed)
    selector = Selector(WIDTH, config).double()
    with torch.no_grad():
        for p in selector.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return selector


LEFT_B = torch.tensor([4, 2, 7, 3])


def test_untrained_it_is_the_iid_schedule_exactly() -> None:
    torch.manual_seed(0)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    for config in (CONFIG, PLACED, replace(CONFIG, attends="all")):
        selector = Selector(WIDTH, config).double()
        for left in (2, 3, 5, 64):
            left_B = torch.full((4,), left)
            logits_BL = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, left_B, 0.5)
            p_BL = NonEmptyBernoulli.from_logits(logits_BL, masked_BL).log_p_BL.exp()
            torch.testing.assert_close(p_BL, torch.full_like(p_BL, 1 / left), rtol=1e-6, atol=0.0)


def test_the_offset_can_fade_out() -> None:
    offset = IIDOffset()
    assert offset(torch.tensor([1, 2, 3, 9])).tolist() == pytest.approx([0.0, 0.0, -0.693147, -2.079442], rel=1e-5)
    offset.weight.fill_(0.25)
    assert offset(torch.tensor([9])).tolist() == pytest.approx([-0.519860], rel=1e-5)
    offset.weight.zero_()
    assert offset(torch.tensor([9])).tolist() == [0.0]
    assert list(offset.state_dict()) == ["weight"], "how far it has faded is part of a checkpoint"


@pytest.mark.parametrize("config", [CONFIG, PLACED, replace(CONFIG, attends="all")], ids=["masked", "placed", "all"])
def test_a_row_alone_gives_what_it_gives_in_a_batch(config: OrderNetConfig) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(config)
    whole_BL = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    assert whole_BL[masked_BL].std().item() > 0.1
    for row, length in enumerate(valid_BL.sum(-1).tolist()):
        alone_1L = selector(
            hidden_BLD[row : row + 1, :length], confidence_BLF[row : row + 1, :length],
            valid_BL[row : row + 1, :length], masked_BL[row : row + 1, :length], LEFT_B[row : row + 1], 0.3,
        )  # fmt: skip
        here_L = masked_BL[row, :length]
        torch.testing.assert_close(alone_1L[0, here_L], whole_BL[row, :length][here_L], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("attends", ["masked", "all"])
def test_it_sees_what_it_attends_to_and_nothing_else(attends: str) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(replace(CONFIG, attends=attends))
    ask = partial(selector, valid_BL=valid_BL, masked_BL=masked_BL, steps_left_B=LEFT_B, price=0.3)
    logits_N = ask(hidden_BLD, confidence_BLF)[masked_BL]

    def changed(where_BL: Tensor, of_hidden: bool) -> bool:
        hidden = torch.where(where_BL[:, :, None], hidden_BLD.flip(-1) + 1.0, hidden_BLD) if of_hidden else hidden_BLD
        # Nothing is known of positions that are not masked: what stands there may be of any size, or no number at all.
        unknown = torch.full_like(confidence_BLF, torch.nan)
        unknown = torch.where(masked_BL[:, :, None], confidence_BLF.flip(-1), unknown)
        confidence = confidence_BLF if of_hidden else torch.where(where_BL[:, :, None], unknown, confidence_BLF)
        return not torch.allclose(ask(hidden, confidence)[masked_BL], logits_N, rtol=0.0, atol=1e-12)

    assert not changed(~valid_BL, True)
    assert not changed(~masked_BL, False)
    assert changed(masked_BL, True)
    assert changed(masked_BL, False)
    assert changed(valid_BL & ~masked_BL, True) == (attends == "all")


def test_where_a_position_stands_matters_with_and_without_a_table() -> None:
    """Without a table by distances alone: all positions alike, a shift of the whole row changes nothing."""
    n = 6
    alike_BLD = torch.ones(1, n, WIDTH, dtype=torch.float64)
    confidence_BLF = torch.full((1, n, 4), 0.5, dtype=torch.float64)
    all_BL, left_B = torch.ones(1, n, dtype=torch.bool), torch.tensor([3])
    bare, placed = trained(), trained(PLACED)
    bare_L, placed_L = (net(alike_BLD, confidence_BLF, all_BL, all_BL, left_B, 0.0)[0] for net in (bare, placed))
    torch.testing.assert_close(bare_L, bare_L[:1].expand(n), rtol=0.0, atol=1e-9)
    assert placed_L.std().item() > 0.05
    generator = torch.Generator().manual_seed(1)
    hidden_BLD = torch.randn(1, n, WIDTH, generator=generator, dtype=torch.float64)
    few_BL = torch.tensor([[False, True, True, False, True, False]])
    args = (confidence_BLF, all_BL)
    logits_BL = bare(hidden_BLD, *args, few_BL, left_B, 0.0)
    shifted_BL = bare(hidden_BLD.roll(1, 1), *args, few_BL.roll(1, 1), left_B, 0.0)
    torch.testing.assert_close(shifted_BL.roll(-1, 1)[few_BL], logits_BL[few_BL], rtol=0.0, atol=1e-6)
    spread_BL = torch.tensor([[True, False, True, False, False, True]])  # the same three with other gaps
    spread_BLD = torch.zeros_like(hidden_BLD)
    spread_BLD[spread_BL] = hidden_BLD[few_BL]
    other_BL = bare(spread_BLD, *args, spread_BL, left_B, 0.0)
    assert not torch.allclose(other_BL[spread_BL], logits_BL[few_BL], rtol=0.0, atol=1e-4)


def test_steps_left_and_price_are_read() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained()
    selector.offset.weight.zero_()
    logits = {
        (left, price): selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), left), price)
        for left, price in ((3, 0.0), (6, 0.0), (3, 1.0))
    }
    assert not torch.allclose(logits[3, 0.0], logits[6, 0.0], rtol=0.0, atol=1e-4)
    assert not torch.allclose(logits[3, 0.0], logits[3, 1.0], rtol=0.0, atol=1e-4)


def test_the_context_of_a_row_is_the_same_at_all_its_positions() -> None:
    masked_BL = torch.tensor([[True, True, False], [True, False, False]])
    context_BLF = row_context(masked_BL, torch.tensor([2, 4]), 0.25)
    torch.testing.assert_close(context_BLF[0], torch.tensor([[0.5, 0.0, 0.5]]).expand(3, -1))
    torch.testing.assert_close(context_BLF[1], torch.tensor([[0.25, -0.462098, 0.5]]).expand(3, -1))


def test_logits_stay_below_their_cap() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(replace(CONFIG, logit_cap=2.5))
    with torch.no_grad():
        selector.net.last.weight.mul_(1e4)
    selector.offset.weight.zero_()
    logits_BL = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0)
    assert logits_BL.abs().max().item() == pytest.approx(2.5)
    assert bool((logits_BL[~masked_BL] == 0.0).all())


def test_certain_tokens_and_hopeless_ones_give_finite_logits_and_gradients() -> None:
    hidden_BLD, _, valid_BL, masked_BL = canvas()
    selector = trained()
    for odds in (0.0, 1e-300, 1e12):
        top = 1.0 / (1.0 + odds)
        confidence_BLF = torch.tensor([top, top, 0.0, odds], dtype=torch.float64).expand(4, 9, 4).clone()
        confidence_BLF.requires_grad_()
        logits_BL = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0)
        assert bool(logits_BL.isfinite().all())
        (gradient_BLF,) = torch.autograd.grad(logits_BL.sum(), confidence_BLF)
        assert bool(gradient_BLF.isfinite().all())


def test_it_learns_through_every_parameter() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(PLACED)
    selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in selector.parameters())


def test_under_low_precision_the_logits_keep_float32() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    torch.manual_seed(0)
    net, inside = OrderNet(WIDTH, 4, CONFIG, 1.0), []
    net.trunk.register_forward_hook(lambda trunk, inputs, out: inside.append((inputs[0].dtype, out.dtype)))
    exact_BL = net(hidden_BLD.float(), confidence_BLF.float(), valid_BL, masked_BL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value_BL = net(hidden_BLD.float(), confidence_BLF.float(), valid_BL, masked_BL)
    assert value_BL.dtype == torch.float32
    assert inside == [(torch.float32, torch.float32)] * 2
    torch.testing.assert_close(value_BL, exact_BL, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": -1}, "positions=-1"),
        ({"attends": "some"}, "attends='some': choose masked or all"),
        ({"logit_cap": 0.0}, "logit_cap=0.0"),
        ({"logit_cap": float("nan")}, "logit_cap=nan"),
        ({"layers": 0}, "layers=0"),
        ({"width": 10, "heads": 3}, "width=10 with heads=3"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrderNetConfig(**options)  # type: ignore[arg-type]


def test_a_canvas_longer_than_the_table_is_named() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = Selector(WIDTH, replace(CONFIG, positions=8)).double()
    with pytest.raises(ValueError, match="positions=8: the canvas has 9 positions"):
        selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0)


def test_beside_a_large_denoiser_it_is_small() -> None:
    """At most 5 % of a denoiser of 170M parameters, selector and posterior each."""

    def size(net: torch.nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    with torch.device("meta"):
        denoiser = TransformerDenoiser(32_000, TransformerConfig(layers=18, width=768, heads=12, mlp_width=2048))
        config = OrderNetConfig(width=256, layers=1, mlp_width=512)
        nets = [Selector(768, config), StateAware(768, config), MaxNormalised(768, config, 0.3)]
    assert size(denoiser) == pytest.approx(170e6, rel=0.05)
    assert all(0 < size(net) <= 0.05 * 170e6 for net in nets)
