"""The bound over orders and its gradient estimators, against enumeration (laws 1 to 5 of the method).

Expectations of the estimators are taken exactly, over every tuple of trajectories; there is no Monte-Carlo error to
hide a bias in. The last tests break the code on purpose and expect the checks to notice.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from laws import assert_mean
from lightning_mdm.objectives import order_elbo, order_one_step, variance
from lightning_mdm.objectives.order_elbo import OrderElbo, all_steps, importance_weighted_nats
from lightning_mdm.objectives.order_model import States
from lightning_mdm.objectives.order_one_step import iid_steps, one_step
from lightning_mdm.objectives.variance import HEAVIEST, control_moments, leave_one_out, log_success, score_variance
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw
from objectives.order_reference import Enumerated, Sets, ToyModel

EXACT = {"rtol": 1e-9, "atol": 1e-10}
CONTROL = (0.7, 1.3, 0.4)  # any numbers will do: the control variate has no part in the mean
FAMILIES = ("state_aware", "relative", "finishing", "relative_finishing", "max_normalised", "selector")
"""Families of the posterior; with ``finishing`` both laws are those in which finishing is a decision of its own."""
FINISHING = {"finishing": "state_aware", "relative_finishing": "relative", "selector_finishing": "selector"}
LEVELLED = {
    "levelled": "relative", "levelled_finishing": "relative_finishing", "levelled_selector": "selector_finishing"
}  # fmt: skip
"""And with several levels."""


def toy(length: int, budget: int, family: str, seed: int) -> ToyModel:
    levels, family = (2 if family in LEVELLED else 1), LEVELLED.get(family, family)
    return ToyModel(length, budget, FINISHING.get(family, family), seed, family in FINISHING, levels)


def prescribed(per_trajectory: tuple[Sets, ...], length: int) -> Callable[[UnmaskingLaw, Tensor, int], Tensor]:
    """Takes the sets of a list in place of draws."""

    def choose(law: UnmaskingLaw, row_A: Tensor, step: int) -> Tensor:
        chosen_AL = torch.zeros(len(row_A), length, dtype=torch.bool)
        for a, row in enumerate(row_A.tolist()):
            chosen_AL[a, sorted(per_trajectory[row][step - 1])] = True
        return chosen_AL

    return choose


def drawn(seed: int) -> Callable[[UnmaskingLaw, Tensor, int], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def choose(law: UnmaskingLaw, row_A: Tensor, step: int) -> Tensor:
        shape = law.masked_BL.shape
        return law.sample(
            torch.rand(shape[0], generator=generator, dtype=torch.float64),
            torch.rand(shape, generator=generator, dtype=torch.float64),
        )

    return choose


def response(model: ToyModel, n: int = 1) -> Tensor:
    return torch.ones(n, model.length, dtype=torch.bool)


def gradients(value: Tensor, model: ToyModel) -> list[Tensor]:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found, strict=True)]


def expected_gradient(
    enumerated: Enumerated, estimator: str, samples: int, **more: float
) -> tuple[list[Tensor], float, float]:
    """Mean gradient of the surrogate, bound and steps, over every tuple of trajectories with its probability.

    Tuples that differ in the order of their trajectories alone, or in sets that an estimate of one step never comes to,
    are taken together.
    """
    model = enumerated.model
    mean, bound, taken = torch.zeros((), dtype=torch.float64), 0.0, 0.0
    terms = {"price": enumerated.price, "entropy_bonus": enumerated.entropy_bonus}
    steps = [None] if estimator == "all_steps" else range(1, model.budget + 1)
    for step in steps:
        weight_of: dict[Sets, float] = defaultdict(float)
        for sets in enumerated.sets:
            weight_of[sets[:step]] += enumerated.log_q(sets).exp().item()
        possible = [sets for sets, weight in weight_of.items() if weight > 0.0]
        for combination in itertools.combinations_with_replacement(possible, samples):
            alike = math.prod(math.factorial(times) for times in Counter(combination).values())
            weight = math.factorial(samples) / alike * math.prod(weight_of[sets] for sets in combination)
            options: dict[str, Any] = {
                "budget": model.budget, "samples": samples, "choose": prescribed(combination, model.length), **terms,
            }  # fmt: skip
            if step is None:
                out = all_steps(model, response(model), control=CONTROL, **options, **more)
            else:
                out = one_step(model, response(model), torch.tensor([step]), **options)
            share = weight / len(steps)
            bound += (share * out.bound_nats_B[0]).item()
            taken += share * out.steps_BK.mean().item()
            mean = mean + share * out.surrogate * model.length
    return gradients(mean, model), bound, taken


def weighed(enumerated: Enumerated) -> tuple[list[Sets], Tensor]:
    """The possible trajectories, N of them, and their probabilities under q."""
    weights = {sets: enumerated.log_q(sets).exp().item() for sets in enumerated.sets}
    possible = [sets for sets, weight in weights.items() if weight > 0.0]
    return possible, torch.tensor([weights[sets] for sets in possible], dtype=torch.float64)


def sum_of_expectations(model: ToyModel, sets_N: list[Sets], price: float) -> Tensor:
    """-F_s summed along each trajectory: the bound with tokens in expectation at every step, ``[N]``."""
    options: dict[str, Any] = {
        "budget": model.budget, "samples": 1, "price": price, "choose": prescribed(tuple(sets_N), model.length),
    }  # fmt: skip
    steps = (torch.full((len(sets_N),), step) for step in range(1, model.budget + 1))
    outs = [one_step(model, response(model, len(sets_N)), step_N, **options) for step_N in steps]
    return torch.stack([out.bound_nats_B for out in outs]).sum(0).detach() / model.budget


def moments(weight_N: Tensor, value_N: Tensor) -> tuple[float, float]:
    """Mean and variance under weights that add up to 1."""
    mean = (weight_N * value_N).sum()
    return mean.item(), (weight_N * (value_N - mean).square()).sum().item()


@pytest.mark.parametrize("family", [*FAMILIES, *LEVELLED])
def test_trajectories_have_no_order(family: str) -> None:
    model = toy(3, 3, family, seed=4)
    some = [sets for sets in Enumerated(model).sets if Enumerated(model).log_q(sets).exp() > 0.0][-3:]
    found = []
    for combination in itertools.permutations(some):
        options: dict[str, Any] = {"budget": 3, "samples": 3, "choose": prescribed(combination, 3)}
        whole = all_steps(model, response(model), control=CONTROL, focus=0.7, **options)
        outs = [whole, *(one_step(model, response(model), torch.tensor([step]), **options) for step in (1, 2))]
        found.append([*(g for out in outs for g in gradients(out.surrogate, model)), *(o.bound_nats_B for o in outs)])
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, another, **EXACT)


def check_estimator(family: str, estimator: str, budget: int, samples: int, **extra: float) -> None:
    enumerated = Enumerated(toy(3, budget, family, seed=budget), **extra)
    exact = enumerated.bound_nats()
    mean, bound, taken = expected_gradient(enumerated, estimator, samples)
    assert bound == pytest.approx(exact.item(), rel=1e-9)
    steps = sum(len(sets) * enumerated.log_q(sets).exp().item() for sets in enumerated.sets)
    assert taken == pytest.approx(steps, rel=1e-9)
    for estimated, true in zip(mean, gradients(enumerated.objective(), enumerated.model), strict=True):
        torch.testing.assert_close(estimated, true, **EXACT)


@pytest.mark.parametrize("family", [*FAMILIES, *LEVELLED])
@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
@pytest.mark.parametrize(("budget", "samples"), [(1, 2), (2, 2), (2, 3), (3, 2)])
def test_the_mean_gradient_is_that_of_the_enumerated_bound(
    family: str, estimator: str, budget: int, samples: int
) -> None:
    """For every parameter of denoiser, selector and posterior, and the mean bound is the enumerated one."""
    check_estimator(family, estimator, budget, samples)


@pytest.mark.parametrize("family", ["state_aware", "relative_finishing"])
@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
def test_the_price_of_steps_is_part_of_bound_and_gradient(estimator: str, family: str) -> None:
    check_estimator(family, estimator, budget=3, samples=2, price=0.3)


@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
@pytest.mark.parametrize("family", ["state_aware", "relative_finishing", "max_normalised"])
def test_the_entropy_bonus_is_in_the_gradient_alone(estimator: str, family: str) -> None:
    check_estimator(family, estimator, budget=3, samples=2, entropy_bonus=0.4)


def check_focus(family: str, budget: int, samples: int) -> None:
    """The expected gradient is that of the bound times what the example weighs, a mean over other trajectories."""
    focus, usual = 0.7, -1.6
    enumerated = Enumerated(toy(3, budget, family, seed=budget), price=0.3)
    model = enumerated.model
    possible, _ = weighed(enumerated)
    nats = dict(zip(possible, sum_of_expectations(model, possible, price=0.0).tolist(), strict=True))
    weight = 0.0
    for others in itertools.product(nats, repeat=samples - 1):
        share = math.prod(enumerated.log_q(sets).exp().item() for sets in others)
        weight += share * math.exp(-focus * sum(nats[sets] for sets in others) / len(others))
    assert 0.001 < weight < 0.9
    mean, *_ = expected_gradient(enumerated, "all_steps", samples, focus=focus, usual_log_success=usual)
    for estimated, true in zip(mean, gradients(enumerated.objective(), model), strict=True):
        torch.testing.assert_close(estimated, true * weight / math.exp(usual), **EXACT)


@pytest.mark.parametrize("family", ["state_aware", "relative_finishing", "max_normalised"])
@pytest.mark.parametrize(("budget", "samples"), [(2, 2), (2, 3), (3, 2)])
def test_focus_weighs_the_gradient_of_an_example(family: str, budget: int, samples: int) -> None:
    check_focus(family, budget, samples)


def test_a_weight_that_knows_its_own_trajectory_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_elbo, "log_success", lambda nats_BK, focus: -focus * nats_BK)
    with pytest.raises(AssertionError):
        check_focus("state_aware", 2, 2)


def test_examples_weigh_what_their_other_trajectories_say() -> None:
    nats_BK = torch.tensor([[1.0, 3.0, 5.0], [200.0, 300.0, 400.0]], dtype=torch.float64)
    others_BK = torch.tensor([[4.0, 3.0, 2.0], [350.0, 300.0, 250.0]], dtype=torch.float64)
    torch.testing.assert_close(log_success(nats_BK, 0.5), -0.5 * others_BK)
    assert (log_success(nats_BK, 0.0) == 0.0).all(), "all alike"


def test_every_example_has_a_weight_of_its_own() -> None:
    """A batch of two is the mean of both alone, and none weighs more than so many usual ones."""
    model = toy(3, 2, "state_aware", seed=2)
    likely = [sets for sets in Enumerated(model).sets if len(sets) == 2][:4]

    def surrogate(sets: list[Sets], usual: float) -> Tensor:
        out = all_steps(
            model, response(model, len(sets) // 2), budget=2, samples=2, choose=prescribed(tuple(sets), 3), focus=2.0,
            usual_log_success=usual,
        )  # fmt: skip
        weights = (out.log_success_BK - usual).exp()
        assert weights.unique().numel() == weights.numel() == len(sets), "all differ"
        return out.surrogate

    both, first, second = (surrogate(sets, -3.0) for sets in (likely, likely[:2], likely[2:]))
    torch.testing.assert_close(both, (first + second) / 2.0)
    bound = all_steps(model, response(model, 2), budget=2, samples=2, choose=prescribed(tuple(likely), 3)).surrogate
    torch.testing.assert_close(surrogate(likely, -500.0), HEAVIEST * bound)
    assert surrogate(likely, 500.0).item() < 1e-200


@pytest.mark.parametrize("finishing", [False, True])
def test_the_generative_model_adds_up_to_one(finishing: bool) -> None:
    """Over all sequences and trajectories; with a price the rest is the probability of a break."""
    length, budget, vocabulary = 3, 3, 2
    generator = torch.Generator().manual_seed(3)
    for price in (0.0, 0.2):
        total, broken = 0.0, 0.0
        denoiser = torch.randn((vocabulary + 1) ** length, length, vocabulary, generator=generator).double()
        selector = torch.randn(budget + 1, (vocabulary + 1) ** length, length, generator=generator).double()
        finish = torch.randn(budget + 1, (vocabulary + 1) ** length, generator=generator).double()

        def go(
            tokens: tuple[int, ...], left: int, weight: float, price: float = price, denoiser: Tensor = denoiser,
            selector: Tensor = selector, finish: Tensor = finish,
        ) -> None:  # fmt: skip
            nonlocal total, broken
            masked = [i for i, token in enumerate(tokens) if token == vocabulary]
            if not masked:
                total += weight
                return
            survives = float(torch.tensor(-price, dtype=torch.float64).exp())
            broken += weight * (1.0 - survives)
            code = sum(token * (vocabulary + 1) ** i for i, token in enumerate(tokens))
            masked_1L = torch.tensor([[i in masked for i in range(length)]])
            law: UnmaskingLaw = NonEmptyBernoulli.from_logits(selector[left, code][None], masked_1L)
            if finishing:
                law = FinishingBernoulli.from_logits(selector[left, code][None], finish[left, code][None], masked_1L)
            p = denoiser[code].softmax(-1)
            for size in range(1, len(masked) + 1):
                for chosen in itertools.combinations(masked, size):
                    chosen_1L = torch.tensor([[i in chosen for i in range(length)]])
                    share = float(law.log_prob(chosen_1L).exp()) if left > 1 else float(size == len(masked))
                    if share == 0.0:
                        continue
                    for drawn_tokens in itertools.product(range(vocabulary), repeat=size):
                        after, q = list(tokens), weight * survives * share
                        for i, token in zip(chosen, drawn_tokens, strict=True):
                            after[i], q = token, q * float(p[i, token])
                        go(tuple(after), left - 1, q)

        go((vocabulary,) * length, budget, 1.0)
        assert total + broken == pytest.approx(1.0, abs=1e-12)
        assert (broken == 0.0) == (price == 0.0)


@pytest.mark.parametrize("family", [*FAMILIES, *LEVELLED])
@pytest.mark.parametrize("price", [0.0, 0.4])
def test_the_bound_holds(family: str, price: float) -> None:
    for seed in range(20):
        enumerated = Enumerated(toy(3, 3, family, seed=100 + seed), price)
        with torch.no_grad():
            assert enumerated.bound_nats().item() >= enumerated.nats().item() - 1e-12


@pytest.mark.parametrize("family", ["state_aware", "relative", "finishing", "relative_finishing"])
def test_the_bound_is_tight_for_the_exact_posterior(family: str) -> None:
    """With two positions the law of the first set has two free numbers, no more than logits: q can be exact."""
    model = toy(2, 2, family, seed=5)
    enumerated = Enumerated(model)
    with torch.no_grad():
        nats = enumerated.nats()
        weight = {sets: (enumerated.log_joint(sets) + nats).exp().item() for sets in enumerated.sets}
        first, second, both = (
            sum(w for sets, w in weight.items() if sets[0] == frozenset(chosen)) for chosen in ((0,), (1,), (0, 1))
        )
        # p1 (1 - p2) : (1 - p1) p2 : p1 p2 = first : second : both; if both is a decision of its own, the rest as one.
        odds = [first, second] if family in FINISHING else [both / second, both / first]
        model.static.zero_()
        model.evidence.zero_()
        model.dynamic[2, 3] = torch.tensor(odds, dtype=torch.float64).log()
        if family in FINISHING:
            model.evidence_finish.zero_()
            model.dynamic_finish[2, 3] = math.log(both / (1.0 - both))
        if FINISHING.get(family, family) == "relative":
            model.dynamic[2, 3] -= model.selector[2, 3]
            if family in FINISHING:
                model.dynamic_finish[2, 3] -= model.selector_finish[2, 3]
    assert enumerated.bound_nats().item() == pytest.approx(nats.item(), abs=1e-9)
    out = all_steps(model, response(model, 400), budget=2, samples=8, price=0.0, choose=drawn(1))
    assert float(out.bound_nats_B.mean()) == pytest.approx(nats.item(), abs=0.1)
    # Every trajectory then has the same weight, p(x).
    torch.testing.assert_close(out.log_weight_BK, -nats.detach().expand(400, 8), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rao_blackwellised_step_has_the_plain_mean_and_no_more_variance(family: str) -> None:
    """Step by step; over their sum see below."""
    enumerated = Enumerated(toy(3, 3, family, seed=8), price=0.1)
    model = enumerated.model
    for step in (1, 2):
        weights, blackwellised, plain = [], [], []
        for sets in enumerated.sets:
            weight = enumerated.log_q(sets).exp().item()
            if weight == 0.0 or len(sets) < step:
                continue
            out = one_step(
                model, response(model), torch.tensor([step]), budget=3, samples=1, price=0.1,
                choose=prescribed((sets,), 3),
            )  # fmt: skip
            masked = enumerated.start - frozenset().union(*sets[: step - 1])
            chosen, left = sets[step - 1], 3 - step + 1
            one = sum(model.log_prob(masked)[i] for i in chosen) - 0.1
            one = one + (model.pi(masked, chosen, left) / model.q(masked, chosen, left)).log()
            weights.append(weight)
            blackwellised.append(-out.bound_nats_B[0].item() / 3)
            plain.append(one.item())
        weight_N = torch.tensor(weights, dtype=torch.float64)
        means, variances = [], []
        for values in (blackwellised, plain):
            value_N = torch.tensor(values, dtype=torch.float64)
            mean = (weight_N * value_N).sum() / weight_N.sum()
            means.append(mean.item())
            variances.append((weight_N * (value_N - mean).square()).sum().item())
        assert means[0] == pytest.approx(means[1], rel=1e-9)
        assert variances[0] <= variances[1] + 1e-12


def settled(model: ToyModel, state_matters: float) -> ToyModel:
    """The toy with token costs that depend on the state by so much alone: at 0 nothing is gained by waiting."""
    with torch.no_grad():
        model.denoiser.copy_(torch.lerp(model.denoiser[-1:].expand_as(model.denoiser), model.denoiser, state_matters))
    return model


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", [*FAMILIES, *LEVELLED])
def test_the_reported_bound_varies_less_than_the_sum_of_expectations(family: str, seed: int) -> None:
    """Both have the mean of the bound, on any toy; if waiting changes all costs at random, either may vary more."""
    for state_matters in (0.4, 1.0):
        enumerated = Enumerated(settled(toy(3, 3, family, seed=seed), state_matters), price=0.1)
        model, bound = enumerated.model, enumerated.bound_nats().item()
        possible, weight_N = weighed(enumerated)
        out = all_steps(
            model, response(model, len(possible)), budget=3, samples=1, price=0.1,
            choose=prescribed(tuple(possible), 3),
        )  # fmt: skip
        reported = moments(weight_N, out.bound_nats_B)
        expected = moments(weight_N, sum_of_expectations(model, possible, price=0.1))
        assert reported[0] == pytest.approx(bound, rel=1e-9)
        assert expected[0] == pytest.approx(bound, rel=1e-9)
        assert state_matters == 1.0 or reported[1] < 0.99 * expected[1]


@pytest.mark.parametrize("family", [*FAMILIES, *LEVELLED])
def test_the_tokens_of_a_trajectory_count_once(family: str) -> None:
    """Where nothing is gained by waiting they cost the same on every trajectory, learned or IID."""
    model = settled(toy(3, 3, family, seed=8), 0.0)
    nats = -model.log_prob(frozenset(range(3))).sum().item()
    possible, weight_N = weighed(Enumerated(model))
    n = len(possible)
    out = all_steps(model, response(model, n), budget=3, samples=1, choose=prescribed(tuple(possible), 3))
    torch.testing.assert_close(out.token_nats_B, torch.full((n,), nats, dtype=torch.float64), **EXACT)
    expected_N = sum_of_expectations(model, possible, price=0.0) - out.kl_nats_B
    assert moments(weight_N, expected_N)[1] > 0.01, "expectations do not"
    times_NL = torch.tensor(list(itertools.product(range(1, 4), repeat=3)))
    iid = iid_steps(model, response(model, 27), times_NL, budget=3)
    torch.testing.assert_close(iid.token_nats_B, torch.full((27,), nats, dtype=torch.float64), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampled_bound_is_the_enumerated_one(family: str) -> None:
    model = toy(3, 3, family, seed=8)
    out = all_steps(model, response(model, 40_000), budget=3, samples=1, price=0.1, choose=drawn(2))
    exact = Enumerated(model, price=0.1).bound_nats().item()
    assert_mean(out.bound_nats_B, exact)
    assert_mean(-out.log_weight_BK[:, 0], exact)
    torch.testing.assert_close(out.bound_nats_B, out.token_nats_B + out.kl_nats_B + out.price_nats_B)


@pytest.mark.parametrize("family", ["state_aware", "relative_finishing"])
def test_importance_weighting_tightens_towards_the_likelihood(family: str) -> None:
    model = toy(3, 3, family, seed=9)
    enumerated = Enumerated(model)
    nats, bound = enumerated.nats().item(), enumerated.bound_nats().item()
    means = []
    for samples in (1, 4, 512):
        out = all_steps(model, response(model, 1_000), budget=3, samples=samples, price=0.0, choose=drawn(samples))
        nats_B = importance_weighted_nats(out.log_weight_BK)
        means.append(float(nats_B.mean()))
        if samples == 1:
            assert_mean(nats_B, bound)
    assert nats - 0.02 < means[2] < means[1] < means[0]
    assert means[2] == pytest.approx(nats, abs=0.05)


@pytest.mark.parametrize("family", ["state_aware", "relative", "finishing"])
def test_a_sequence_may_be_finished_early_and_examples_may_differ_in_length(family: str) -> None:
    """A row whose response has fewer positions gives what it gives alone."""
    model = toy(3, 3, family, seed=4)
    short = torch.tensor([[True, False, True], [True, True, True]])
    out = all_steps(model, short.repeat(3_000, 1), budget=3, samples=2, price=0.2, choose=drawn(3))
    alone = Enumerated(model, 0.2, given=frozenset({1}))
    assert_mean(out.bound_nats_B[0::2], alone.bound_nats().item())
    assert_mean(out.bound_nats_B[1::2], Enumerated(model, 0.2).bound_nats().item())
    assert int(out.steps_BK[0::2].max()) <= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_evaluations_are_counted_and_identical_states_evaluated_once(family: str) -> None:
    model = toy(3, 2, family, seed=1)
    seen: list[int] = []
    read = model.read
    model.read = lambda states: (seen.append(len(states.masked_SL)), read(states))[1]  # type: ignore[method-assign]
    out = all_steps(model, response(model, 5), budget=2, samples=8, price=0.0, choose=drawn(4))
    assert seen[0] == 5  # the fully masked state of five examples, once for all forty trajectories
    assert out.evaluations == sum(seen) <= 5 + 40
    seen.clear()
    step_B = torch.tensor([1, 2, 1, 2, 2])
    out = one_step(model, response(model, 5), step_B, budget=2, samples=8, price=0.0, choose=drawn(4))
    assert out.evaluations == sum(seen)
    if family == "max_normalised":
        assert out.evaluations <= 2 + 3 * 8  # one per trajectory, fully masked ones once


def test_iid_orders_have_their_enumerated_cost() -> None:
    model = ToyModel(3, 3, "state_aware", seed=6)
    cost, price = 0.0, 0.25
    for times in itertools.product(range(1, 4), repeat=3):
        masked = frozenset(range(3))
        for time in sorted(set(times)):
            falls = {i for i in masked if times[i] == time}
            cost += (price - sum(model.log_prob(masked)[i].item() for i in falls)) / 27
            masked -= falls
    times_NL = torch.randint(1, 4, (60_000, 3), generator=torch.Generator().manual_seed(0))
    out = iid_steps(model, response(model, 30_000), times_NL, budget=3, price=price)
    assert_mean(out.bound_nats_B, cost)
    assert_mean(-out.log_weight_BK.flatten(), cost)
    assert float(out.kl_nats_B.abs().max()) == 0.0


@pytest.mark.parametrize("family", ["state_aware", "relative_finishing"])
def test_the_score_variance_falls_with_the_baseline(family: str) -> None:
    model = toy(3, 3, family, seed=2)
    out = all_steps(model, response(model, 2_000), budget=3, samples=8, price=0.0, choose=drawn(5))
    assert 0.0 < float(out.score_variance) < float(out.score_variance_without_baseline)


def test_leaving_one_out_is_the_mean_of_the_others() -> None:
    value_BK = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(leave_one_out(value_BK), torch.tensor([[4.0, 3.5, 1.5]], dtype=torch.float64))
    assert leave_one_out(value_BK[:, :1]).tolist() == [[0.0]]


# Tests of the tests: broken on purpose, each has to be noticed.


@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
def test_a_baseline_with_its_own_sample_would_be_noticed(monkeypatch: pytest.MonkeyPatch, estimator: str) -> None:
    for module in (variance, order_one_step):
        monkeypatch.setattr(module, "leave_one_out", lambda value: value.mean(-1, keepdim=True).expand_as(value))
    with pytest.raises(AssertionError):
        check_estimator("state_aware", estimator, budget=2, samples=2)


def test_a_law_without_its_normaliser_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NonEmptyBernoulli, "log_z_B", property(lambda law: torch.zeros_like(law.log_p_BL[:, 0])))
    with pytest.raises(AssertionError):
        check_estimator("state_aware", "all_steps", budget=2, samples=2)


def test_a_clamped_probability_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def clamped(logits_BL: Tensor, masked_BL: Tensor) -> NonEmptyBernoulli:
        p_BL = logits_BL.sigmoid().clamp(0.2, 0.8)
        return NonEmptyBernoulli(p_BL.log(), (1.0 - p_BL).log(), masked_BL)

    monkeypatch.setattr(NonEmptyBernoulli, "from_logits", staticmethod(clamped))
    with pytest.raises(AssertionError):
        check_estimator("state_aware", "all_steps", budget=2, samples=2)


def test_finishing_that_coins_may_do_as_well_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The normaliser of the non-empty law in place of that of a proper part."""
    monkeypatch.setattr(FinishingBernoulli, "log_z_B", property(lambda law: law.coins.log_z_B))
    with pytest.raises(AssertionError):
        check_estimator("finishing", "all_steps", budget=2, samples=2)


def test_finishing_that_is_not_moved_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FinishingBernoulli.moved
    monkeypatch.setattr(FinishingBernoulli, "moved", lambda law, by_BL, by_B: real(law, by_BL))
    with pytest.raises(AssertionError):
        check_estimator("relative_finishing", "all_steps", budget=2, samples=2)


@pytest.mark.parametrize("estimator", ["all_steps", "one_step"])
@pytest.mark.parametrize("family", ["relative", "relative_finishing"])
def test_a_selector_without_its_gradient_through_the_posterior_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, family: str, estimator: str
) -> None:
    """Where q moves pi, the selector decides about the draws as well."""

    class Detached(ToyModel):
        def posterior_law(self, states: States, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None) -> UnmaskingLaw:
            with torch.no_grad():
                pi = self.selector_law(states, self.read(states))
            return super().posterior_law(states, log_prob_SL, pi)

    monkeypatch.setitem(globals(), "ToyModel", Detached)
    with pytest.raises(AssertionError):
        check_estimator(family, estimator, budget=2, samples=2)


def test_a_reward_that_forgets_later_steps_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = order_elbo.all_steps

    def forgetful(*args: object, **options: object) -> OrderElbo:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(variance, "leave_one_out", lambda value: value)  # advantages of 0
            return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setitem(globals(), "all_steps", forgetful)
    with pytest.raises(AssertionError):
        check_estimator("state_aware", "all_steps", budget=2, samples=2)


def test_the_score_variance_is_that_of_the_definition() -> None:
    """Of two examples of three trajectories: over logits the sum, then the mean."""
    generator = torch.Generator().manual_seed(0)
    weight_TN = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    direction_TNL = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    gradient_BKL = (weight_TN[:, :, None] * direction_TNL).sum(0).view(2, 3, 4)
    expected = (gradient_BKL - gradient_BKL.mean(1, keepdim=True)).square().mean(1).sum(-1).mean()
    torch.testing.assert_close(score_variance(weight_TN, list(direction_TNL), 2), expected)
    assert score_variance(weight_TN, [], 2) == 0.0


def test_the_moments_of_the_control_variate_are_those_of_the_definition() -> None:
    """Covariance with the rewards to go and variance, within examples."""
    generator = torch.Generator().manual_seed(0)
    after_TBK, left_TBK = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64) + 5.0
    found_T2 = control_moments(after_TBK, left_TBK)
    for t in range(2):
        both = [torch.stack((after_TBK[t, b], left_TBK[t, b])).cov(correction=0) for b in range(3)]
        expected_2 = torch.stack([cov[1] for cov in both]).mean(0)
        torch.testing.assert_close(found_T2[t], expected_2)
