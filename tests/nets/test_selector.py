"""The selector's net: where it starts, what it must not see, and how large it is."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.order_net import FIRST_FINISH, OrderNet
from lightning_mdm.nets.posterior_net import MaxNormalised, StateAware
from lightning_mdm.nets.row_features import LEAST_NATS, IIDOffset
from lightning_mdm.nets.selector import FIRST_SHARE, Selector, SelectorConfig
from lightning_mdm.nets.selector_features import row_context
from lightning_mdm.nets.selector_start import AtQuota, level_below
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

WIDTH = 10
CONFIG = SelectorConfig(layers=2, width=16, heads=2, mlp_width=24)
PLACED = replace(CONFIG, positions=9)
SHARES = (0.5, 0.9, 1.6)
STARTS = ("iid", "confidence", "quota", "shares", "entropy_bound")


def canvas() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, confidence, valid and masked positions of four rows of different lengths; float64."""
    generator = torch.Generator().manual_seed(0)
    valid_BL = torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]
    masked_BL = valid_BL & (torch.rand(4, 9, generator=generator) < 0.6)
    masked_BL[:, 1] = True
    hidden_BLD = torch.randn(4, 9, WIDTH, generator=generator, dtype=torch.float64)
    confidence_BLF = torch.rand(4, 9, 4, generator=generator, dtype=torch.float64)
    return hidden_BLD, confidence_BLF, valid_BL, masked_BL


def trained(config: SelectorConfig = CONFIG, seed: int = 0, finishes: bool = False) -> Selector:
    """A selector with weights that are all at work."""
    torch.manual_seed(seed)
    selector = Selector(WIDTH, config, finishes).double()
    with torch.no_grad():
        for p in selector.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return selector


def started(config: SelectorConfig, start: str) -> SelectorConfig:
    """The shape with another start, and what that needs; ``shares`` is ``quota`` with several of them."""
    if start == "shares":
        return replace(config, start="quota", start_shares=SHARES)
    return replace(config, start=start, start_stake=0.5 if start == "entropy_bound" else None)


LEFT_B = torch.tensor([4, 2, 7, 3])


def finish_of(law: UnmaskingLaw) -> Tensor:
    """The logit of finishing."""
    assert isinstance(law, FinishingBernoulli)
    return law.log_f_B - law.log_not_f_B


def numbers(law: UnmaskingLaw) -> Tensor:
    """All logits of a law in a row, those of masked positions first."""
    if isinstance(law, Levelled):
        return torch.cat((numbers(law.laws), law.log_w_BJ.flatten()))
    finish = [finish_of(law)] if isinstance(law, FinishingBernoulli) else []
    return torch.cat((law.logit_BL[law.masked_BL], *finish))


def test_untrained_it_is_the_iid_schedule_exactly() -> None:
    torch.manual_seed(0)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    for config in (CONFIG, PLACED, replace(CONFIG, attends="all")):
        selector = Selector(WIDTH, config).double()
        for left in (2, 3, 5, 64):
            left_B = torch.full((4,), left)
            law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, left_B, 0.5)
            assert isinstance(law, NonEmptyBernoulli)
            p_BL = law.log_p_BL.exp()
            torch.testing.assert_close(p_BL, torch.full_like(p_BL, 1 / left), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("config", [CONFIG, PLACED, replace(CONFIG, attends="all")], ids=["masked", "placed", "all"])
def test_untrained_it_can_be_the_threshold_policy(config: SelectorConfig, threshold: float) -> None:
    """Whatever the steps left and the price: greedily it takes what is sure enough, or else the surest."""
    torch.manual_seed(0)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    top_BL = confidence_BLF[:, :, 0].clamp(min=0.05)
    top_BL[2] *= threshold  # a row in which nothing is sure
    top_BL[0] = 1.0 - (1.0 - threshold) * top_BL[0]  # and one in which everything is
    confidence_BLF = torch.stack((top_BL, *confidence_BLF[:, :, 1:3].unbind(-1), (1.0 - top_BL) / top_BL), dim=-1)
    tie_BL = torch.rand(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = []
    for row in range(4):
        here = masked_BL[row].nonzero()[:, 0].tolist()
        sure = [i for i in here if top_BL[row, i].item() >= threshold]
        expected.append(sure or [max(here, key=lambda i, row=row: top_BL[row, i].item())])  # type: ignore[misc]
    selector = Selector(WIDTH, replace(config, start="confidence", start_threshold=threshold)).double()
    for left, price in ((2, 0.0), (9, 0.7)):
        law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), left), price)
        assert [row.nonzero()[:, 0].tolist() for row in law.likeliest(tie_BL)] == expected
        assert law.logit_BL.abs().max().item() <= config.logit_cap + 1e-9


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("config", [CONFIG, PLACED, replace(CONFIG, attends="all")], ids=["masked", "placed", "all"])
def test_untrained_it_can_be_top_probability_wherever_the_budget_binds(
    config: SelectorConfig, threshold: float
) -> None:
    """Greedily it takes what is sure enough, and the surest of an even quota if that is more."""
    torch.manual_seed(0)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    top_BL = confidence_BLF[:, :, 0].clamp(min=0.05)
    confidence_BLF = torch.stack((top_BL, *confidence_BLF[:, :, 1:3].unbind(-1), (1.0 - top_BL) / top_BL), dim=-1)
    tie_BL = torch.rand(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    selector = Selector(WIDTH, replace(config, start="quota", start_threshold=threshold)).double()
    for left in (2, 3, 20):
        expected = []
        for row in range(4):
            here = masked_BL[row].nonzero()[:, 0].tolist()
            ranked = sorted(here, key=lambda i, row=row: -top_BL[row, i].item())  # type: ignore[misc]
            sure = sum(top_BL[row, i].item() >= threshold for i in here)
            expected.append(sorted(ranked[: max(sure, -(-len(here) // left))]))
        law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), left), 0.3)
        assert [row.nonzero()[:, 0].tolist() for row in law.likeliest(tie_BL)] == expected
        assert law.logit_BL.isfinite().all()


@pytest.mark.parametrize("finishes", [False, True])
@pytest.mark.parametrize("gamma", [0.01, 0.6, 2.0])
def test_untrained_it_can_take_as_many_as_the_entropy_bound(gamma: float, finishes: bool) -> None:
    """The surest of them, whatever the steps left; all of them, too."""
    torch.manual_seed(0)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    entropy_BL, odds_BL = confidence_BLF[:, :, 2], confidence_BLF[:, :, 3]
    tie_BL = torch.rand(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = []
    for row in range(4):
        here = sorted(masked_BL[row].nonzero()[:, 0].tolist(), key=lambda i, row=row: odds_BL[row, i].item())  # type: ignore[misc]
        ascending = sorted(entropy_BL[row, here].tolist())
        n = max(k for k in range(1, len(here) + 1) if sum(ascending[: k - 1]) <= gamma)
        expected.append(sorted(here[:n]))
    selector = Selector(WIDTH, replace(CONFIG, start="entropy_bound", start_stake=gamma), finishes).double()
    for left in (2, 9):
        law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), left), 0.0)
        assert [row.nonzero()[:, 0].tolist() for row in law.likeliest(tie_BL)] == expected


def test_a_quota_moves_by_a_learned_distance_and_gaps_count_for_little() -> None:
    sure_BL = torch.tensor([[9.0, 1.0, 3.0, 2.5], [4.0, -50.0, 0.0, 0.0]], dtype=torch.float64)
    masked_BL = torch.tensor([[False, True, True, True], [True, True, False, False]])
    level_BJ = level_below(sure_BL, masked_BL, torch.tensor([[2, 3], [1, 2]]))
    assert level_BJ[:, 0].tolist() == [1.75, 2.0], (
        "between the second of three and the third; half the widest gap below"
    )
    assert level_BJ[:, 1].tolist() == [-1.0, -52.0], "all of them"
    assert level_below(sure_BL, masked_BL & False, torch.tensor([[0], [0]])).isfinite().all(), "nothing is masked"
    net = AtQuota(2.0, 0.999).double()
    args = ((-sure_BL).exp(), torch.zeros_like(sure_BL), masked_BL, torch.tensor([2, 2]))
    before_BL = net(*args)
    with torch.no_grad():
        net.beyond.sub_(0.5)
    torch.testing.assert_close(net(*args), before_BL + 1.0)


@pytest.mark.parametrize("finishes", [False, True])
def test_untrained_every_share_of_the_quota_is_a_level_of_its_own(finishes: bool) -> None:
    """The greedy rule takes that next to 1; each level's own, the surest of so many times the even quota."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    tie_BL = torch.rand(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    config = replace(CONFIG, start="quota", start_threshold=1.0 - 1e-9)
    torch.manual_seed(0)
    selector = Selector(WIDTH, replace(config, start_shares=SHARES), finishes).double()
    law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), 2), 0.3)
    assert isinstance(law, Levelled)
    expected_J = torch.tensor([0.0, FIRST_SHARE, FIRST_SHARE])[[1, 0, 2]].softmax(-1).double()
    torch.testing.assert_close(law.log_w_BJ.exp(), expected_J.expand(4, -1))
    for level, share in enumerate(SHARES):
        here = law.laws.rows(torch.arange(4) * len(SHARES) + level)
        for row, taken_L in enumerate(here.logit_BL > 0.0):
            ranked = sorted(
                masked_BL[row].nonzero()[:, 0].tolist(), key=lambda i, row=row: float(confidence_BLF[row, i, 3])
            )  # type: ignore[misc]
            due = min(max(1, round(share * -(-len(ranked) // 2))), len(ranked))
            assert (taken_L & masked_BL[row]).nonzero()[:, 0].tolist() == sorted(ranked[:due])
    torch.manual_seed(0)
    near = Selector(WIDTH, replace(config, start_shares=(0.9,)), finishes).double()
    expected_BL = near(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), 2), 0.3).likeliest(tie_BL)
    assert torch.equal(law.likeliest(tie_BL), expected_BL)


def test_the_shares_of_a_row_are_told_apart_by_what_the_start_takes_of_it() -> None:
    """From the law's own levels: the part of the row, and the entropy within it."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    torch.manual_seed(0)
    selector = Selector(WIDTH, replace(started(CONFIG, "shares"), start_threshold=1.0 - 1e-9)).double()
    seen: list[Tensor] = []
    assert selector.share is not None
    selector.share.register_forward_hook(lambda head, given, out: seen.append(given[1]))
    law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    assert isinstance(law, Levelled)
    taken_NL = law.laws.masked_BL & (law.laws.logit_BL > 0.0)
    entropy_NL = confidence_BLF[..., 2].repeat_interleave(len(SHARES), 0)
    at_stake_N = (entropy_NL * taken_NL).sum(-1)
    torch.testing.assert_close(seen[0][:, 0], (at_stake_N + LEAST_NATS).log())
    torch.testing.assert_close(seen[0][:, 4], taken_NL.sum(-1) / law.laws.masked_BL.sum(-1).double())
    context_BC = row_context(masked_BL, LEFT_B, 0.3)
    torch.testing.assert_close(seen[0][:, 5:], context_BC.repeat_interleave(len(SHARES), 0))


def test_shares_are_saved_where_there_are_any_but_the_quota_itself() -> None:
    """Weights of a start without shares hold none, as those of files from elsewhere."""
    assert "shares" not in AtQuota(1.0, 0.9).state_dict()
    assert AtQuota(1.0, 0.9, SHARES).state_dict()["shares"].tolist() == pytest.approx(SHARES)


@pytest.mark.parametrize("start", ["confidence", "quota", "entropy_bound"])
def test_a_start_with_a_bound_of_its_own(start: str) -> None:
    """The start's logit is bounded by it alone, and what the net says is added in full."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selectors = []
    for cap in (None, 3.0, 1e9):
        torch.manual_seed(0)
        config = replace(CONFIG, start=start, start_stake=0.6, start_slope=9.0, start_cap=cap and 3.0)
        selectors.append(Selector(WIDTH, config).double())
        selectors[-1].start_cap = cap  # one beyond all logits, which no configuration may have
    args = (hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    summed_BL, capped_BL, bare_BL = (selector(*args).logit_BL[masked_BL] for selector in selectors)
    assert bare_BL.abs().max() > 12.0, "or no bound binds"
    torch.testing.assert_close(capped_BL, 3.0 * (bare_BL / 3.0).tanh(), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(summed_BL, 12.0 * (bare_BL / 12.0).tanh(), rtol=0.0, atol=1e-6)
    for selector in selectors:
        with torch.no_grad():
            selector.net.last.bias.fill_(5.0)
    summed_BL, capped_BL, moved_BL = (selector(*args).logit_BL[masked_BL] for selector in selectors)
    said = 12.0 * math.tanh(5.0 / 12.0)
    torch.testing.assert_close(capped_BL, 3.0 * (bare_BL / 3.0).tanh() + said, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(summed_BL, 12.0 * ((bare_BL + said) / 12.0).tanh(), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(moved_BL, bare_BL + said, rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("start", ["iid", "confidence", "quota", "entropy_bound"])
@pytest.mark.parametrize("stake", [0.002, 0.02, 1.5])
def test_untrained_it_can_finish_where_little_is_at_stake(stake: float, start: str) -> None:
    """Expected cost of the likeliest tokens is not asked, that of sampled ones is: the sum of entropies."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    torch.manual_seed(0)
    selector = Selector(WIDTH, replace(CONFIG, start=start, start_stake=stake), finishes=True).double()
    for share, likely in ((0.99, True), (1.01, False)):
        counted_B1 = masked_BL.sum(-1, keepdim=True) - int(start == "entropy_bound")  # it leaves one of them out
        entropy_BL = torch.where(masked_BL, stake * share / counted_B1.clamp(min=1), 7.0)
        shown_BLF = confidence_BLF.clone()
        shown_BLF[:, :, 2] = entropy_BL
        law = selector(hidden_BLD, shown_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
        assert (finish_of(law) > 0.0).tolist() == [likely or n == 0 for n in counted_B1[:, 0].tolist()]


@pytest.mark.parametrize("start", ["iid", "confidence", "quota"])
def test_untrained_it_finishes_now_and_then(start: str) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    config = replace(CONFIG, start=start)
    torch.manual_seed(0)
    plain = Selector(WIDTH, config).double()
    torch.manual_seed(0)
    finishing = Selector(WIDTH, config, finishes=True).double()
    args = (hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    law, without = finishing(*args), plain(*args)
    assert isinstance(law, FinishingBernoulli)
    first = torch.tensor(FIRST_FINISH, dtype=torch.float64).sigmoid().item()
    assert law.log_f_B.exp().tolist() == pytest.approx([first] * 4, rel=0.02), "the cap bends it a little"
    torch.testing.assert_close(law.logit_BL, without.logit_BL, rtol=0.0, atol=0.0)


def test_finishing_reads_what_is_at_stake_at_masked_positions() -> None:
    """Sums over them of entropies and of what the likeliest tokens would cost, if nothing else is to be read."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(finishes=True)
    assert selector.finish is not None
    with torch.no_grad():
        selector.finish.read_mean.weight.zero_()

    def finish(confidence_BLF: Tensor, left_B: Tensor = LEFT_B, price: float = 0.3) -> Tensor:
        return finish_of(selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, left_B, price)).detach()

    first_B = finish(confidence_BLF)
    here = masked_BL[0].nonzero()[:2, 0].tolist()
    for feature in (2, 3):  # entropy, odds
        changed_BLF = confidence_BLF.clone()
        changed_BLF[0, here[0], feature] += 1.0
        other_B = finish(changed_BLF)
        assert abs(float(other_B[0] - first_B[0])) > 1e-4
        torch.testing.assert_close(other_B[1:], first_B[1:], rtol=0.0, atol=1e-12)
        exchanged_BLF = confidence_BLF.clone()
        exchanged_BLF[0, here, feature] = confidence_BLF[0, here[::-1], feature]
        torch.testing.assert_close(finish(exchanged_BLF), first_B, rtol=0.0, atol=1e-12)
    for feature in (0, 1):
        changed_BLF = confidence_BLF.clone()
        changed_BLF[:, :, feature] += 1.0
        torch.testing.assert_close(finish(changed_BLF), first_B, rtol=0.0, atol=1e-12)
    assert (finish(confidence_BLF, left_B=LEFT_B + 1) - first_B).abs().min().item() > 1e-4
    assert (finish(confidence_BLF, price=1.0) - first_B).abs().min().item() > 1e-4


def test_finishing_reads_the_hidden_states() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(finishes=True)
    first_B, other_B = (
        finish_of(selector(hidden, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3))
        for hidden in (hidden_BLD, hidden_BLD.flip(-1))
    )
    assert (first_B - other_B).abs().min().item() > 1e-4


def test_the_offset_is_the_logit_of_the_iid_schedule() -> None:
    offset = IIDOffset()
    assert offset(torch.tensor([1, 2, 3, 9])).tolist() == pytest.approx([0.0, 0.0, -0.693147, -2.079442], rel=1e-5)
    offset.load_state_dict({"weight": torch.tensor(0.25)})
    assert offset(torch.tensor([9])).tolist() == pytest.approx([-0.519860], rel=1e-5), "a file's own weight is kept"
    assert list(offset.state_dict()) == ["weight"]


@pytest.mark.parametrize("config", [CONFIG, PLACED, replace(CONFIG, attends="all")], ids=["masked", "placed", "all"])
@pytest.mark.parametrize("start", ["iid", "confidence", "quota", "entropy_bound"])
def test_a_row_alone_gives_what_it_gives_in_a_batch(config: SelectorConfig, start: str) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(started(config, start), finishes=True)
    whole = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    whole_BL = whole.logit_BL
    assert whole_BL[masked_BL].std().item() > 0.1
    assert finish_of(whole).std().item() > 0.01
    for row, length in enumerate(valid_BL.sum(-1).tolist()):
        alone = selector(
            hidden_BLD[row : row + 1, :length], confidence_BLF[row : row + 1, :length],
            valid_BL[row : row + 1, :length], masked_BL[row : row + 1, :length], LEFT_B[row : row + 1], 0.3,
        )  # fmt: skip
        here_L = masked_BL[row, :length]
        torch.testing.assert_close(finish_of(alone)[0], finish_of(whole)[row], rtol=0.0, atol=1e-12)
        torch.testing.assert_close(alone.logit_BL[0, here_L], whole_BL[row, :length][here_L], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("config", [CONFIG, PLACED, replace(CONFIG, attends="all")], ids=["masked", "placed", "all"])
def test_a_row_alone_has_the_levels_that_it_has_in_a_batch(config: SelectorConfig) -> None:
    """Their probabilities, and the logits of each: rows of different lengths, one with a single masked position."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    masked_BL[3] = torch.arange(9) == 1
    selector = trained(started(config, "shares"), finishes=True)
    whole = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
    assert isinstance(whole, Levelled)
    assert whole.log_w_BJ.std(0).min().item() > 0.01, "rows differ"
    for row, length in enumerate(valid_BL.sum(-1).tolist()):
        alone = selector(
            hidden_BLD[row : row + 1, :length], confidence_BLF[row : row + 1, :length],
            valid_BL[row : row + 1, :length], masked_BL[row : row + 1, :length], LEFT_B[row : row + 1], 0.3,
        )  # fmt: skip
        torch.testing.assert_close(numbers(alone), numbers(whole.rows(torch.tensor([row]))), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("attends", ["masked", "all"])
def test_it_sees_what_it_attends_to_and_nothing_else(attends: str, start: str) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(started(replace(CONFIG, attends=attends), start), finishes=True)
    ask = partial(selector, valid_BL=valid_BL, masked_BL=masked_BL, steps_left_B=LEFT_B, price=0.3)
    logits_N = numbers(ask(hidden_BLD, confidence_BLF))

    def changed(where_BL: Tensor, of_hidden: bool) -> bool:
        hidden = torch.where(where_BL[:, :, None], hidden_BLD.flip(-1) + 1.0, hidden_BLD) if of_hidden else hidden_BLD
        # Nothing is known of positions that are not masked: what stands there may be of any size, or no number at all.
        unknown = torch.full_like(confidence_BLF, torch.nan)
        unknown = torch.where(masked_BL[:, :, None], confidence_BLF.flip(-1), unknown)
        confidence = confidence_BLF if of_hidden else torch.where(where_BL[:, :, None], unknown, confidence_BLF)
        return not torch.allclose(numbers(ask(hidden, confidence)), logits_N, rtol=0.0, atol=1e-12)

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
    bare_L, placed_L = (
        net(alike_BLD, confidence_BLF, all_BL, all_BL, left_B, 0.0).logit_BL[0] for net in (bare, placed)
    )
    torch.testing.assert_close(bare_L, bare_L[:1].expand(n), rtol=0.0, atol=1e-9)
    assert placed_L.std().item() > 0.05
    generator = torch.Generator().manual_seed(1)
    hidden_BLD = torch.randn(1, n, WIDTH, generator=generator, dtype=torch.float64)
    few_BL = torch.tensor([[False, True, True, False, True, False]])
    args = (confidence_BLF, all_BL)
    logits_BL = bare(hidden_BLD, *args, few_BL, left_B, 0.0).logit_BL
    shifted_BL = bare(hidden_BLD.roll(1, 1), *args, few_BL.roll(1, 1), left_B, 0.0).logit_BL
    torch.testing.assert_close(shifted_BL.roll(-1, 1)[few_BL], logits_BL[few_BL], rtol=0.0, atol=1e-6)
    spread_BL = torch.tensor([[True, False, True, False, False, True]])  # the same three with other gaps
    spread_BLD = torch.zeros_like(hidden_BLD)
    spread_BLD[spread_BL] = hidden_BLD[few_BL]
    other_BL = bare(spread_BLD, *args, spread_BL, left_B, 0.0).logit_BL
    assert not torch.allclose(other_BL[spread_BL], logits_BL[few_BL], rtol=0.0, atol=1e-4)


def test_steps_left_and_price_are_read() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained()
    selector.offset.weight.zero_()
    logits = {
        (left, price): selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, torch.full((4,), left), price).logit_BL
        for left, price in ((3, 0.0), (6, 0.0), (3, 1.0))
    }
    assert not torch.allclose(logits[3, 0.0], logits[6, 0.0], rtol=0.0, atol=1e-4)
    assert not torch.allclose(logits[3, 0.0], logits[3, 1.0], rtol=0.0, atol=1e-4)


def test_a_readout_is_that_of_its_rows_own_number_of_steps() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(replace(CONFIG, step_readouts=True))
    before = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0).logit_BL
    with torch.no_grad():
        selector.net.last.weight[int(LEFT_B[2])] += 1.0
    after = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0).logit_BL
    changed_B = (before != after).any(-1)
    assert changed_B.tolist() == [False, False, True, False]


def test_logits_stay_below_their_cap() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(replace(CONFIG, logit_cap=2.5))
    with torch.no_grad():
        selector.net.last.weight.mul_(1e4)
    selector.offset.weight.zero_()
    logits_BL = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0).logit_BL
    assert logits_BL.abs().max().item() == pytest.approx(2.5)
    assert bool((logits_BL[~masked_BL] == 0.0).all())


def test_with_confidence_and_finishing_all_logits_stay_below_their_cap() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(replace(CONFIG, logit_cap=2.5, start="confidence"), finishes=True)
    assert selector.finish is not None
    with torch.no_grad():
        selector.finish.last.weight.mul_(1e6)
    for odds in (1e-12, 1e12):
        confidence_BLF[:, :, 3] = odds
        law = selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0)
        assert law.logit_BL[masked_BL].abs().max().item() <= 2.5 + 1e-9
        assert finish_of(law).abs().max().item() == pytest.approx(2.5)


@pytest.mark.parametrize("start", STARTS)
def test_certain_tokens_and_hopeless_ones_give_finite_logits_and_gradients(start: str) -> None:
    hidden_BLD, _, valid_BL, masked_BL = canvas()
    selector = trained(started(CONFIG, start), finishes=True)
    for odds in (0.0, 1e-300, 1e12):
        top = 1.0 / (1.0 + odds)
        confidence_BLF = torch.tensor([top, top, 0.0, odds], dtype=torch.float64).expand(4, 9, 4).clone()
        confidence_BLF.requires_grad_()
        logits_N = numbers(selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.0))
        assert bool(logits_N.isfinite().all())
        (gradient_BLF,) = torch.autograd.grad(logits_N.sum(), confidence_BLF)
        assert bool(gradient_BLF.isfinite().all())


@pytest.mark.parametrize("finishes", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_it_learns_through_every_parameter(start: str, finishes: bool) -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    selector = trained(started(replace(PLACED, start_threshold=0.3), start), finishes=finishes)
    if start in ("quota", "shares"):
        assert selector.confidence is not None
        assert selector.confidence.level is not None
        assert selector.confidence.beyond is not None
        with torch.no_grad():
            selector.confidence.level.fill_(1.0)  # of two levels the lower counts: each in some row
            selector.confidence.beyond.zero_()
    numbers(selector(hidden_BLD, confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)).square().sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in selector.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("start", STARTS)
def test_of_hidden_states_in_16_bits_the_start_is_what_it_is_in_float32(start: str, dtype: torch.dtype) -> None:
    """Odds that 16 bits hold as 0, as infinite, or as those of their neighbours are told apart."""
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    odds_BL = torch.logspace(-12, 6, masked_BL.numel(), dtype=torch.float64).view_as(masked_BL)
    odds_BL[0, 1], odds_BL[0, 2] = 0.0, 2e-9
    confidence_BLF[..., 3] = odds_BL
    torch.manual_seed(0)
    config = replace(started(CONFIG, start), start_stake=0.5)  # untrained: the net's own number is 0
    for finishes in (False, True):
        selector = Selector(WIDTH, config, finishes)
        full = selector(hidden_BLD.float(), confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
        low = selector.to(dtype)(hidden_BLD.to(dtype), confidence_BLF, valid_BL, masked_BL, LEFT_B, 0.3)
        assert not bool(low.broken_B.any())
        assert numbers(low).dtype == torch.float32
        # Parameters in 16 bits, and the heads' last layers, are rounded; not what they are applied to.
        torch.testing.assert_close(numbers(low), numbers(full), rtol=0.01, atol=0.05)


def test_under_low_precision_the_logits_keep_float32() -> None:
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    torch.manual_seed(0)
    net, inside = OrderNet(WIDTH, 4, CONFIG, 1.0), []
    net.trunk.register_forward_hook(lambda trunk, inputs, out: inside.append((inputs[0].dtype, out.dtype)))
    args = (hidden_BLD.float(), confidence_BLF.float(), valid_BL, masked_BL, LEFT_B)
    exact = net(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        read = net(*args)
    assert read.value_BL.dtype == read.mean_BD.dtype == torch.float32
    assert inside == [(torch.float32, torch.float32)] * 2
    torch.testing.assert_close(read.value_BL, exact.value_BL, rtol=0.05, atol=0.05)
    for start in STARTS[1:]:
        selector = Selector(WIDTH, replace(started(CONFIG, start), start_stake=0.5), finishes=True)
        full = numbers(selector(hidden_BLD.float(), confidence_BLF.float(), valid_BL, masked_BL, LEFT_B, 0.0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            law = selector(hidden_BLD.float(), confidence_BLF.float(), valid_BL, masked_BL, LEFT_B, 0.0)
        assert numbers(law).dtype == torch.float32
        torch.testing.assert_close(numbers(law), full, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": -1}, "positions=-1"),
        ({"start": "margin"}, "start='margin': choose one of iid, confidence, quota, entropy_bound"),
        ({"start_threshold": 1.0}, "start_threshold=1.0: give a probability"),
        ({"start_threshold": 0.0}, "start_threshold=0.0"),
        ({"start_slope": 0.0}, "start_slope=0.0: give a number above 0"),
        ({"start_cap": 0.0, "start": "quota"}, "start_cap=0.0 with start='quota': give a number above 0"),
        ({"start_cap": 4.0}, "start_cap=4.0 with start='iid'"),
        ({"start_cap": 1000.0, "start": "quota"}, r"start_cap=1000.0 with logit_cap=12.0: .* give at most 80 in all"),
        ({"start_cap": 69.0, "start": "quota"}, "start_cap=69.0 with logit_cap=12.0"),
        ({"start_cap": math.nan, "start": "quota"}, "start_cap=nan"),
        ({"start": "entropy_bound"}, "start='entropy_bound': give start_stake"),
        ({"start_stake": 0.0}, "start_stake=0.0: give a number of nats above 0"),
        ({"start": "quota", "start_shares": ()}, r"start_shares=\[\]: give multiples of the quota"),
        ({"start": "quota", "start_shares": (1.0, 0.0)}, r"start_shares=\[1.0, 0.0\]: give multiples of the quota"),
        ({"start": "quota", "start_shares": (1.0, math.nan)}, "start_shares="),
        ({"start": "quota", "start_shares": (1.0, math.inf)}, "start_shares="),
        ({"start": "quota", "start_shares": (1.2, 1.2)}, "each once"),
        ({"start": "confidence", "start_shares": (0.8, 1.0)}, "only quota has them"),
        ({"attends": "some"}, "attends='some': choose masked or all"),
        ({"logit_cap": 0.0}, "logit_cap=0.0"),
        ({"logit_cap": float("nan")}, "logit_cap=nan"),
        ({"logit_cap": 81.0}, r"logit_cap=81.0: give a number in \(0, 80\]"),
        ({"layers": 0}, "layers=0"),
        ({"width": 10, "heads": 3}, "width=10 with heads=3"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectorConfig(**options)  # type: ignore[arg-type]


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
        config = SelectorConfig(width=256, layers=1, mlp_width=512)
        nets = [
            Selector(768, config, finishes=True), StateAware(768, config, finishes=True),
            MaxNormalised(768, config, 0.3),
        ]  # fmt: skip
    assert size(denoiser) == pytest.approx(170e6, rel=0.05)
    assert all(0 < size(net) <= 0.05 * 170e6 for net in nets)


def test_the_distance_is_that_to_the_quota_not_to_the_threshold() -> None:
    """Where the threshold takes more than the quota it decides alone."""
    sure_BL = torch.tensor([[3.0, 1.0, -5.0, -6.0]], dtype=torch.float64)
    net = AtQuota(2.0, 0.5).double()  # two positions are above it, at log-odds 0; the quota is one of four
    with torch.no_grad():
        net.beyond.fill_(9.0)
    found_BJL = net((-sure_BL).exp(), torch.zeros_like(sure_BL), torch.ones(1, 4, dtype=torch.bool), torch.tensor([4]))
    torch.testing.assert_close(found_BJL, 2.0 * sure_BL[:, None], rtol=0.0, atol=1e-6)
