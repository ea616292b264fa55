"""The Markov chain: marginals against the enumerated joint, optima against searches over all orders."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, pairwise, product

import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.orders.order import Order

SMALL = [
    MarkovChain(length=length, vocab_size=V, stickiness=stickiness, concentration=0.5, seed=seed)
    for length, V, stickiness, seed in [(1, 2, 0.0, 0), (2, 3, 0.5, 1), (4, 3, 0.3, 4), (5, 2, 0.8, 2), (5, 3, 0.0, 3)]
]


@cache
def joint(law: MarkovChain) -> Tensor:
    """p(x) of every sequence, one dimension per position."""
    p = law.start_V
    for _ in range(law.length - 1):
        p = p[..., None] * law.transition_VV
    return p


@cache
def entropy_of(law: MarkovChain, positions: frozenset[int]) -> float:
    others = [i for i in range(law.length) if i not in positions]
    p = joint(law).sum(others) if others else joint(law)
    return float(torch.special.entr(p).sum())


def nats_of(law: MarkovChain, sets: Sequence[Sequence[int]]) -> float:
    """Expected -log-likelihood of an order, from the enumerated joint."""
    visible: frozenset[int] = frozenset()
    nats = 0.0
    for chosen in sets:
        nats += sum(entropy_of(law, visible | {i}) - entropy_of(law, visible) for i in chosen)
        visible |= set(chosen)
    return nats


def partitions(positions: tuple[int, ...], steps: int) -> Iterator[list[tuple[int, ...]]]:
    """Every ordered partition into at most ``steps`` sets."""
    if not positions:
        yield []
    elif steps:
        for size in range(1, len(positions) + 1):
            for chosen in combinations(positions, size):
                for rest in partitions(tuple(i for i in positions if i not in chosen), steps - 1):
                    yield [chosen, *rest]


@pytest.mark.parametrize("law", SMALL, ids=str)
def test_the_law_is_a_stationary_chain(law: MarkovChain) -> None:
    assert float(law.transition_VV.min()) > 0.0
    torch.testing.assert_close(law.transition_VV.sum(-1), torch.ones(law.vocab_size, dtype=torch.float64))
    torch.testing.assert_close(law.start_V @ law.transition_VV, law.start_V, rtol=0, atol=1e-13)
    assert float(law.start_V.sum()) == pytest.approx(1.0, abs=1e-13)
    assert law.entropy_nats == pytest.approx(entropy_of(law, frozenset(range(law.length))), abs=1e-12)


def test_problems_follow_the_law() -> None:
    law = MarkovChain(length=4, vocab_size=3, stickiness=0.4, seed=7)
    counts = Counter(law.draw("train", k).response for k in range(20_000))
    p = joint(law)
    assert_follows(counts, {x: float(p[x]) for x in product(range(3), repeat=4)})
    assert law.draw("train", 3) == law.draw("train", 3)
    assert [law.draw("test", k) for k in range(9)] != [law.draw("train", k) for k in range(9)]
    assert law.draw("train", 0).prompt == ()


@pytest.mark.parametrize("law", SMALL, ids=str)
def test_marginals_are_those_of_the_enumerated_joint(law: MarkovChain) -> None:
    L, V = law.length, law.vocab_size
    states = list(product(range(V + 1), repeat=L))
    log_BLV = law.log_marginals(torch.tensor(states))
    assert log_BLV.dtype == torch.float64
    for state, log_LV in zip(states, log_BLV, strict=True):
        seen = joint(law)[tuple(slice(None) if token == V else slice(token, token + 1) for token in state)]
        for i in range(L):
            if state[i] == V:
                p_V = seen.sum([j for j in range(L) if j != i]) if L > 1 else seen
                torch.testing.assert_close(log_LV[i].exp(), p_V / p_V.sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("law", SMALL, ids=str)
@pytest.mark.parametrize("steps", range(1, 6))
def test_the_optimum_is_that_of_a_search_over_all_orders(law: MarkovChain, steps: int) -> None:
    searched = min(nats_of(law, sets) for sets in partitions(tuple(range(law.length)), steps))
    assert law.optimum_nats(steps) == pytest.approx(searched, abs=1e-10)
    order = Order(torch.tensor([law.optimum_order(steps)]))
    assert int(order.n_steps_B) <= steps
    sets = [torch.nonzero(set_BL[0])[:, 0].tolist() for set_BL in order.sets()]
    assert sorted(i for chosen in sets for i in chosen) == list(range(law.length))
    assert nats_of(law, sets) == pytest.approx(searched, abs=1e-10)


@pytest.mark.parametrize("law", [law for law in SMALL if law.length * law.vocab_size <= 12], ids=str)
@pytest.mark.parametrize("steps", range(1, 5))
def test_the_adaptive_optimum_is_that_of_a_search_over_all_policies(law: MarkovChain, steps: int) -> None:
    L, V = law.length, law.vocab_size

    @cache
    def seen(state: tuple[int, ...]) -> Tensor:
        return joint(law)[tuple(slice(None) if token == V else slice(token, token + 1) for token in state)]

    @cache
    def best(state: tuple[int, ...], left: int) -> float:
        masked = [i for i in range(L) if state[i] == V]
        p_LV = {i: seen(state).sum([j for j in range(L) if j != i]) if L > 1 else seen(state) for i in masked}
        own = {i: float(torch.special.entr(p_V / p_V.sum()).sum()) for i, p_V in p_LV.items()}
        if left == 1 or not masked:
            return sum(own.values())
        costs = []
        for size in range(1, len(masked) + 1):
            for chosen in combinations(masked, size):
                cost = sum(own[i] for i in chosen)
                for tokens in product(range(V), repeat=size):
                    filled = dict(zip(chosen, tokens, strict=True))
                    after = tuple(filled.get(i, token) for i, token in enumerate(state))
                    cost += float(seen(after).sum() / seen(state).sum()) * best(after, left - 1)
                costs.append(cost)
        return min(costs)

    assert law.adaptive_optimum_nats(steps) == pytest.approx(best((V,) * L, steps), abs=1e-10)


@pytest.mark.parametrize("law", [MarkovChain(), MarkovChain(length=13, concentration=0.1, stickiness=0.0)], ids=str)
def test_the_optima_fall_to_the_entropy(law: MarkovChain) -> None:
    """Halving every gap loses nothing: ceil(log2(L + 1)) steps are enough, and one less is not."""
    curve = [law.optimum_nats(steps) for steps in range(1, law.length + 2)]
    adaptive = [law.adaptive_optimum_nats(steps) for steps in range(1, 7)]
    assert all(later <= sooner + 1e-12 for sooner, later in pairwise(curve))
    assert all(a <= c + 1e-10 for a, c in zip(adaptive, curve, strict=False))
    assert adaptive[0] == pytest.approx(curve[0], abs=1e-10)
    enough = law.length.bit_length()
    assert curve[enough - 1 :] == pytest.approx([law.entropy_nats] * (len(curve) - enough + 1), abs=1e-10)
    assert adaptive[enough - 1] == pytest.approx(law.entropy_nats, abs=1e-10)
    assert curve[enough - 2] > law.entropy_nats + 1e-4


def test_what_a_policy_sees_can_be_worth_something() -> None:
    law = MarkovChain(length=32, concentration=0.1, stickiness=0.0)
    assert law.adaptive_optimum_nats(3) < law.optimum_nats(3) - 1e-3


def test_golden_numbers() -> None:
    curve = [MarkovChain().optimum_nats(steps) for steps in (1, 2, 3, 4, 5)]
    assert curve == pytest.approx([22.0721, 10.5731, 9.0028, 8.5937, 8.5092], abs=1e-4)


def test_long_chains_take_no_time() -> None:
    law = MarkovChain(length=32)
    start = time.process_time()
    for steps in (2, 4, 6, 32):
        law.optimum_order(steps)
        law.adaptive_optimum_nats(steps)
    assert time.process_time() - start < 8.0


def test_a_tiny_concentration_leaves_nothing_impossible() -> None:
    law = MarkovChain(length=32, concentration=1e-4)
    assert bool(law.log_before_DSV.isfinite().all())
    assert bool(law.log_after_DSV.isfinite().all())
    assert law.optimum_nats(32) == pytest.approx(law.entropy_nats, abs=1e-9)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"length": 0}, "length=0: give a whole number of at least 1"),
        ({"vocab_size": 1}, "vocab_size=1"),
        ({"stickiness": 1.0}, "stickiness=1.0"),
        ({"stickiness": -0.1}, "stickiness=-0.1"),
        ({"stickiness": float("nan")}, "stickiness=nan"),
        ({"concentration": 0.0}, "concentration=0.0"),
        ({"concentration": float("inf")}, "concentration=inf"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MarkovChain(**option)


def test_a_budget_below_one() -> None:
    law = MarkovChain()
    for ask in (law.optimum_nats, law.optimum_order, law.adaptive_optimum_nats):
        with pytest.raises(ValueError, match="steps=0"):
            ask(0)
