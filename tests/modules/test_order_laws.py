"""Bounds of the order module are the enumerated ones, and its laws those of decoding."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from laws import assert_mean
from lightning_mdm.data.batch import Batch
from lightning_mdm.decoding.learned import Learned, Rule, selector_law
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.modules.order_batch import BatchModel
from lightning_mdm.modules.order_draws import draw_sets, trajectories
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.objectives.order_elbo import all_steps
from lightning_mdm.objectives.order_model import States
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.unmasking_law import UnmaskingLaw
from lightning_mdm.vocabulary import TokenSpace
from modules.orders import (
    CHAIN,
    FROM_CONFIDENCE,
    LAWS,
    MAX_NORMALISED,
    NO_POSTERIOR,
    PLAIN,
    RELATIVE,
    SMALL,
    build,
    chain_batch,
    fit,
    same,
    state,
    validate,
)
from modules.test_denoiser_module import V, batch, trainer


def test_untrained_a_relative_posterior_pays_nothing_for_the_order(tmp_path: Path, ckpt: str) -> None:
    """It is the selector then, in every state, so that its bound is the mean cost of the selector's own draws."""
    for finishing in (False, True):
        module = build(ckpt, posterior=RELATIVE, selector=FROM_CONFIDENCE, finishing=finishing)
        found = validate(module, [batch([1, 2, 3])], tmp_path)
        for budget in (2, 3):
            assert found[f"val/order_kl_nats@T={budget}/learned"] == pytest.approx(0.0, abs=1e-5)
            assert found[f"val/token_nats@T={budget}/learned"] > 0.0
        fit(module, tmp_path, steps=2)
        assert validate(module, [batch([1, 2, 3])], tmp_path)["val/order_kl_nats@T=3/learned"] > 1e-5


def test_without_a_posterior_nothing_is_ever_paid_for_the_order(tmp_path: Path, ckpt: str) -> None:
    """As untrained relative posteriors have it: the same trajectories, and the same bound."""
    for finishing in (False, True):
        options = {"selector": FROM_CONFIDENCE, "finishing": finishing, "validation_samples": 16, "learning_rate": 0.1}
        module, relative = build(ckpt, posterior=NO_POSTERIOR, **options), build(ckpt, posterior=RELATIVE, **options)
        module.selectors.load_state_dict(relative.selectors.state_dict())
        found, theirs = (validate(one, [batch([1, 2, 3])], tmp_path) for one in (module, relative))
        assert found == pytest.approx(theirs, abs=1e-5)
        fit(module, tmp_path, steps=2)
        after = validate(module, [batch([1, 2, 3])], tmp_path)
        assert after["val/order_kl_nats@T=3/learned"] == pytest.approx(0.0, abs=1e-6)
        assert after["val/bound_nats@T=3/learned"] != found["val/bound_nats@T=3/learned"], "other sets are drawn"


def test_training_lowers_the_bound_of_a_law_below_that_of_iid(tmp_path: Path) -> None:
    """A law as the denoiser, which needs no file; in the hop chain the order is everything."""
    module = build(
        None, vocab_size=CHAIN.n_tokens, net=CHAIN, budgets=[3], samples=8, validation_samples=8, learning_rate=1e-2,
        selector=replace(SMALL, positions=CHAIN.length, attends="all"),
        posterior=PosteriorConfig(net=replace(PLAIN, positions=CHAIN.length)), warmup_steps=5,
    )  # fmt: skip
    rows = [chain_batch(range(16 * k, 16 * k + 16)) for k in range(40)]
    before = validate(module, rows[:4], tmp_path)
    frozen = state(module.denoiser)
    trainer(tmp_path, max_steps=40).fit(module, torch.utils.data.DataLoader(rows, batch_size=None))  # type: ignore[arg-type]
    after = validate(module, rows[:4], tmp_path)
    assert after["val/bound_nats@T=3/learned"] < 0.8 * before["val/bound_nats@T=3/learned"]
    assert after["val/bound_nats@T=3/learned"] < 0.8 * after["val/bound_nats@T=3/iid"]
    assert after["val/bound_nats@T=3/iid"] == before["val/bound_nats@T=3/iid"]
    assert after["val/bound_nats@T=3/learned"] > CHAIN.optimum_nats(3)
    assert same(frozen, state(module.denoiser))


@pytest.mark.parametrize("stage", ["val", "test"])
def test_the_bounds_of_every_budget_and_of_every_price_are_logged(tmp_path: Path, ckpt: str, stage: str) -> None:
    """Of every budget at the first price, and of the learned order at the largest budget with the others."""
    module = build(ckpt, prices=[0.0, 0.5])
    data = torch.utils.data.DataLoader([batch([1, 2, 3])], batch_size=None)  # type: ignore[arg-type]
    run = trainer(tmp_path)
    found = (run.validate if stage == "val" else run.test)(module, data, verbose=False)[0]
    parts = ("bound_nats", "bound_nats_per_token", "importance_weighted_nats", "token_nats", "order_kl_nats")
    cells = ("@T=2/learned", "@T=2/iid", "@T=3/learned", "@T=3/iid", "@T=3/learned/price=0.5")
    assert set(found) == {f"{stage}/{part}{cell}" for part in (*parts, "price_nats", "steps_of_q") for cell in cells}
    for budget in (2, 3):
        for name in ("learned", "iid"):
            where = f"@T={budget}/{name}"
            bound = found[f"{stage}/bound_nats{where}"]
            assert bound == pytest.approx(3.0 * found[f"{stage}/bound_nats_per_token{where}"], rel=1e-5)
            parts_sum = found[f"{stage}/token_nats{where}"] + found[f"{stage}/order_kl_nats{where}"]
            assert bound == pytest.approx(parts_sum, rel=1e-5)
            assert 1.0 <= found[f"{stage}/steps_of_q{where}"] <= budget
            assert found[f"{stage}/price_nats{where}"] == 0.0
    where = "@T=3/learned/price=0.5"
    paid = found[f"{stage}/bound_nats{where}"]
    assert found[f"{stage}/price_nats{where}"] == pytest.approx(0.5 * found[f"{stage}/steps_of_q{where}"], rel=1e-5)
    parts_sum = sum(found[f"{stage}/{part}{where}"] for part in ("token_nats", "order_kl_nats", "price_nats"))
    assert paid == pytest.approx(parts_sum, rel=1e-5)


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        ([2], {}), ([4], {}), ([], {}),  # 4: which nobody trained
        ([2], {"selectors": "per_budget"}), ([], {"selectors": "per_budget"}),
    ],
)  # fmt: skip
def test_bounds_of_other_budgets_or_of_none(
    tmp_path: Path, ckpt: str, wanted: list[int], options: dict[str, Any]
) -> None:
    """A sweep that only decodes asks for none; the nets stay those that were trained, also one for each budget."""
    data = torch.utils.data.DataLoader([batch([1, 2, 3])], batch_size=None)  # type: ignore[arg-type]
    module = build(ckpt, prices=[0.0, 0.5], bound_budgets=wanted, **options)
    found = trainer(tmp_path).validate(module, data, verbose=False)[0]
    cells = [f"@T={T}/{name}" for T in wanted for name in ("learned", "iid", "learned/price=0.5")]
    assert {name for name in found if "bound_nats@" in name} == {f"val/bound_nats{cell}" for cell in cells}
    assert same(state(module), state(build(ckpt, prices=[0.0, 0.5], **options)))


def test_the_validation_bounds_are_the_same_for_any_batch_size_and_order(tmp_path: Path, ckpt: str) -> None:
    module = build(ckpt, prices=[0.2])
    found = [
        validate(module, [batch(part) for part in parts], tmp_path)
        for parts in ([list(range(8))], [[7, 6, 5], [4, 3, 2, 1, 0]], [[k] for k in range(8)])
    ]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def padded(rows: Batch, by: int) -> Batch:
    def pad(x_BL: Tensor, value: int) -> Tensor:
        return nn.functional.pad(x_BL, (0, by), value=value)

    return Batch(pad(rows.tokens_BL, 0), pad(rows.prompt_BL, 0), pad(rows.valid_BL, 0), rows.index_B)


@pytest.mark.parametrize("attends", ["masked", "all"])
@pytest.mark.parametrize("posterior", [PosteriorConfig(net=PLAIN), MAX_NORMALISED], ids=lambda p: p.family)
def test_a_padded_row_has_the_bound_it_has_alone(ckpt: str, posterior: PosteriorConfig, attends: str) -> None:
    module = build(ckpt, posterior=posterior, selector=replace(SMALL, attends=attends)).double()
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        nn.init.normal_(p, std=0.4)
    rows, longer = batch([5]), batch([70])
    longer = Batch(
        longer.tokens_BL.repeat(1, 2), longer.prompt_BL.repeat(1, 2), longer.valid_BL.repeat(1, 2), longer.index_B
    )
    both = padded(rows, 5)
    both = Batch(
        *(
            torch.cat((getattr(both, name), getattr(longer, name)))
            for name in ("tokens_BL", "prompt_BL", "valid_BL", "index_B")
        )
    )
    found = []
    for one in (rows, padded(rows, 3), both, longer):
        model = module.batch_model(one, 3, 0.1)
        noise = trajectories(RowNoise(0, one.index_B), 4)
        out = all_steps(
            model, one.response_BL, budget=3, samples=4, price=0.1, choose=partial(draw_sets, noise, 0)
        )  # fmt: skip
        found.append((out.bound_nats_B.detach(), out.steps_BK))
    alone, wider, batched, other = found
    exact = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(wider, alone, **exact)
    torch.testing.assert_close((batched[0][:1], batched[1][:1]), alone, **exact)
    torch.testing.assert_close((batched[0][1:], batched[1][1:]), other, **exact)


def at(module: OrderModule, rows: Batch, masked: tuple[int, ...], budget: int, left: int) -> tuple[BatchModel, States]:
    masked_1L = torch.tensor([[i in masked for i in range(rows.tokens_BL.shape[1])]])
    return module.batch_model(rows, budget, 0.3), States(torch.zeros(1).long(), masked_1L, torch.tensor([left]))


@pytest.mark.parametrize("law", ["state_aware", "relative_finishing", "selector"])
def test_the_validation_bound_is_the_enumerated_one(tmp_path: Path, ckpt: str, law: str) -> None:
    """One row under many problem numbers: its mean bound is the sum over all sets of the first of two steps."""
    module = build(ckpt, budgets=[2], prices=[0.3], validation_samples=1, **LAWS[law]).double()
    for p in [*module.selectors.parameters(), *module.posteriors.parameters()]:
        nn.init.normal_(p, std=0.4)
    one, exact = batch([37]), 0.0
    with torch.no_grad():
        model, start = at(module, one, (2, 3, 4), 2, 2)
        reading = model.read(start)
        pi = model.selector_law(start, reading)
        q = model.posterior_law(start, reading.log_prob_SL, pi)
        for size in (1, 2, 3):
            for chosen in itertools.combinations((2, 3, 4), size):
                chosen_1L = torch.tensor([[i in chosen for i in range(5)]])
                cost = 0.3 - float(reading.log_prob_SL[chosen_1L].sum())
                cost += float(q.log_prob(chosen_1L) - pi.log_prob(chosen_1L))
                rest = tuple(i for i in (2, 3, 4) if i not in chosen)
                if rest:
                    model, then = at(module, one, rest, 2, 1)
                    cost += 0.3 - float(model.read(then).log_prob_SL.sum())
                exact += float(q.log_prob(chosen_1L).exp()) * cost
        n = 4000
        many = Batch(
            one.tokens_BL.expand(n, -1), one.prompt_BL.expand(n, -1), one.valid_BL.expand(n, -1), torch.arange(n)
        )
        out = all_steps(
            module.batch_model(many, 2, 0.3), many.response_BL, budget=2, samples=1, price=0.3,
            choose=partial(draw_sets, trajectories(RowNoise(0, many.index_B), 1), 0),
        )  # fmt: skip
        assert_mean(out.bound_nats_B, exact)
        logged = validate(module.float(), [many], tmp_path)
    assert logged["val/bound_nats@T=2/learned/price=0.3"] == pytest.approx(float(out.bound_nats_B.mean()), rel=1e-4)


def test_the_true_tokens_likelihood_is_that_of_the_denoiser(ckpt: str) -> None:
    """Also where some tokens are never generated, and where rows query different numbers of positions."""
    module = build(ckpt).double()
    rows = batch([5, 61])
    rows.tokens_BL[:, 2:] = torch.tensor([[3, 4, 5], [5, 3, 4]])
    masked_SL = torch.tensor([[False, False, True, False, True], [False] * 3 + [True, False], [False] * 2 + [True] * 3])
    states = States(torch.tensor([0, 1, 1]), masked_SL, torch.tensor([3, 3, 2]))
    model = replace(module.batch_model(rows, 3, 0.0), forbidden=(0, 9))
    with torch.no_grad():
        reading = model.read(states)
        for s, row in enumerate(states.example_S.tolist()):
            z_1L = rows.tokens_BL[row].masked_fill(masked_SL[s], V)[None]
            logits_LV = module.denoiser(z_1L, rows.valid_BL[row : row + 1]).logits_BQV[0]
            logits_LV[:, [0, 9]] = -torch.inf
            p_LV = logits_LV.softmax(-1)
            for i in range(5):
                token = int(rows.tokens_BL[row, i])
                others = [float(p) for v, p in enumerate(p_LV[i]) if v != token]
                expected = (float(p_LV[i, token].log()), float(p_LV[i, token]) - max(others))
                got = (float(reading.log_prob_SL[s, i]), float(reading.margin_SL[s, i]))
                assert got == (pytest.approx(expected, abs=1e-10) if masked_SL[s, i] else (0.0, 0.0))


def laws(*found: UnmaskingLaw) -> list[tuple[Tensor, ...]]:
    """The numbers of several laws side by side."""
    return [
        tuple(law.logit_BL[law.masked_BL] for law in found),
        *([tuple(law.log_f_B for law in found)] if all(isinstance(law, FinishingBernoulli) for law in found) else []),
    ]


@pytest.mark.parametrize("finishing", [False, True])
@pytest.mark.parametrize("attends", ["masked", "all"])
def test_the_selectors_law_in_training_is_that_in_decoding(ckpt: str, attends: str, finishing: bool) -> None:
    selector_config = replace(SMALL, attends=attends)
    module = build(ckpt, selector=selector_config, prices=[0.4], finishing=finishing).double().eval()
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.3)
    nn.init.constant_(module.selector_for(3).net.last.bias, -0.5)  # more than one step
    rows, space = batch(list(range(20, 32))), TokenSpace(V, eos_id=None, pad_id=0, forbidden=(10,))
    selector, seen = module.selector_for(3), []

    def observe(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        law = selector_law(selector, prediction, state.masked_BL, state.valid_BL, state.steps_left_B, 0.4)
        seen.append((state, law, chosen_AL))

    trace = decode(module.denoiser, Learned(price=0.4).bound(selector), rows, space, steps=3, observers=[observe])
    # The decoded rows as if they were data: the states on the way are then states of training.
    decoded = Batch(trace.tokens_BL, rows.prompt_BL, rows.valid_BL, rows.index_B)
    model = replace(module.batch_model(decoded, 3, 0.4), forbidden=space.forbidden)
    compared = 0
    for now, law, chosen_AL in seen:
        if now.is_last:
            continue
        states = States(now.noise.index_B - 20, now.masked_BL, now.steps_left_B)
        with torch.no_grad():
            trained_law = model.selector_law(states, model.read(states))
        for got, expected in laws(trained_law, law):
            torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)
        best_BL = (trained_law.logit_BL > 0.0) & now.masked_BL
        several_B = best_BL.any(-1)
        if isinstance(trained_law, FinishingBernoulli):
            finishes_B = (trained_law.log_f_B > trained_law.log_not_f_B) | (now.masked_BL.sum(-1) == 1)
            assert chosen_AL.eq(now.masked_BL).all(-1).equal(finishes_B), "greedy decoding finishes above one half"
            several_B = several_B & ~finishes_B & (best_BL != now.masked_BL).any(-1)
        assert chosen_AL[several_B].equal(best_BL[several_B]), "and takes the mode of the trained law"
        compared += len(chosen_AL)
    assert compared > 12


@pytest.mark.parametrize("rule", ["greedy", "sampled"])
def test_decoding_takes_what_the_law_of_several_shares_says(ckpt: str, rule: Rule) -> None:
    """Of a selector that goes through a checkpoint's plain options and weights."""
    module = build(ckpt, **LAWS["levelled_finishing"])
    for p in module.selectors.parameters():
        nn.init.normal_(p, std=0.5)
    selector = module.selector_for(3)
    assert selector.share is not None
    assert selector.finish is not None
    nn.init.constant_(selector.finish.last.bias, -9.0)  # more than one step
    nn.init.normal_(selector.share.read_stakes.weight, std=3.0)
    options = yaml.safe_load(json.dumps({name: module.hparams[name] for name in ("selector", "posterior")}))
    again = build(ckpt, finishing=True, **options)
    again.load_state_dict(module.state_dict())
    rows, space = batch(list(range(20, 40))), TokenSpace(V, eos_id=None, pad_id=0, forbidden=())
    taken: list[tuple[Tensor, Tensor]] = []
    levels: set[int] = set()

    def observe(state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        law = selector_law(selector, prediction, state.masked_BL, state.valid_BL, state.steps_left_B, 0.0)
        assert isinstance(law, Levelled)
        levels.update(law.log_w_BJ.argmax(-1).tolist())
        if state.is_last:
            taken.append((chosen_AL, state.masked_BL))
        elif rule == "greedy":
            taken.append((chosen_AL, law.likeliest(state.uniform_BL(Stream.TIE))))
        else:
            first_B = state.noise.uniform_B(Stream.SELECT, -state.step)
            taken.append((chosen_AL, law.sample(first_B, state.uniform_BL(Stream.SELECT))))

    policy = Learned(rule=rule).bound(again.selector_for(3))
    decode(again.denoiser, policy, rows, space, steps=3, observers=[observe])
    assert levels != {1}, "as of an untrained selector"
    assert len(taken) > 1
    assert all(torch.equal(chosen_AL, expected_AL) for chosen_AL, expected_AL in taken)
