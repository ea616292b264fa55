"""The hop chain: its problems, and its optimum against a search over all orders."""

from __future__ import annotations

import math
from functools import cache
from itertools import combinations

import pytest
import torch

from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.nets.laws import HopChainDenoiser
from lightning_mdm.orders.order import Order

LAWS = [
    HopChain(),
    HopChain(arrangement="per_problem", seed=3),
    HopChain(chain=7, free=0, given=0, hops=3, vocab_size=3, certain=0.6, seed=1),
    HopChain(chain=1, free=2, given=0, hops=1, vocab_size=2, arrangement="per_problem"),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_problems(law: HopChain) -> None:
    for k in range(50):
        drawn = law.draw("train", k)
        assert drawn == law.draw("train", k)
        roles = [token - law.vocab_size for token in drawn.prompt] or law.fixed_roles
        assert tuple(sorted(drawn.prompt)) == law.prompt_tokens
        assert set(drawn.prompt) <= set(law.forbidden)
        assert len(drawn.response) == len(roles) == law.length
        assert sorted(roles) == [*range(law.chain), *[law.free_role] * law.free, *[law.given_role] * law.given]
        value = 0
        for i, increment in enumerate(law.increments):
            value = (value + increment) % law.vocab_size
            assert drawn.response[roles.index(i)] == value == law.chain_values[i]
        given = [token for token, role in zip(drawn.response, roles, strict=True) if role == law.given_role]
        assert tuple(given) == law.given_values
        truth = law.truth(roles)
        assert [token is None for token in truth] == [role == law.free_role for role in roles]
        assert all(t in (None, token) for t, token in zip(truth, drawn.response, strict=True))


def test_what_differs_between_problems_and_laws() -> None:
    fixed, shuffled = HopChain(), HopChain(arrangement="per_problem")
    assert len({fixed.draw("train", k).response for k in range(50)}) == 50
    assert len({shuffled.draw("train", k).prompt for k in range(50)}) == 50
    assert fixed.draw("train", 0) != fixed.draw("test", 0)
    assert fixed.fixed_roles != HopChain(seed=1).fixed_roles
    assert fixed.increments != HopChain(seed=1).increments
    assert len(set(fixed.given_values)) > 3
    assert len(set(shuffled.given_values)) == 1
    assert (fixed.n_tokens, fixed.forbidden) == (10, ())
    assert (shuffled.n_tokens, shuffled.forbidden) == (22, tuple(range(10, 22)))


def test_free_tokens_are_uniform() -> None:
    law = HopChain(chain=1, free=4, given=0, vocab_size=3)
    free = [place for place, role in enumerate(law.fixed_roles) if role == law.free_role]
    tokens = torch.tensor([law.draw("train", k).response for k in range(4000)])[:, free]
    assert torch.bincount(tokens.flatten()).sub(16_000 / 3).abs().max() < 400


@cache
def searched_guesses(n: int, hops: int, steps: int) -> int:
    """The least number of guesses over all orders, from every set of unmasked chain tokens."""

    def cost(visible: frozenset[int], chosen: tuple[int, ...]) -> int:
        return sum(i - max((j for j in visible if j < i), default=0) > hops for i in chosen)

    @cache
    def best(visible: frozenset[int], left: int) -> int:
        masked = [i for i in range(1, n + 1) if i not in visible]
        if left == 1 or not masked:
            return cost(visible, tuple(masked))
        return min(
            cost(visible, chosen) + best(visible | set(chosen), left - 1)
            for size in range(len(masked) + 1)
            for chosen in combinations(masked, size)
        )

    return best(frozenset(), steps)


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("n", range(1, 8))
def test_the_optimum_is_that_of_a_search_over_all_orders(n: int, hops: int) -> None:
    for steps in range(1, 5):
        law = HopChain(chain=n, free=0, given=0, hops=hops, certain=0.9, vocab_size=5)
        guesses = searched_guesses(n, hops, steps)
        assert law.least_guesses(steps) == guesses
        nats = guesses * math.log(5) - (n - guesses) * math.log(0.9)
        assert law.optimum_nats(steps) == pytest.approx(nats, abs=1e-12)


def test_the_optimum_is_that_of_its_inequality() -> None:
    for n in range(1, 40):
        for hops in range(1, 6):
            law = HopChain(chain=n, hops=hops)
            for steps in range(1, 12):
                reached = (g for g in range(n + 1) if hops * steps + g * (hops * steps - (hops - 1)) >= n)
                assert law.least_guesses(steps) == next(reached)


def test_the_known_curve() -> None:
    curve = [HopChain().optimum_nats(steps) for steps in (1, 2, 3, 4, 5, 6, 10)]
    assert curve == pytest.approx([32.60, 18.91, 16.62, 16.62, 14.34, 14.34, 14.34], abs=5e-3)
    assert [HopChain().least_guesses(steps) for steps in (1, 2, 3, 4, 5)] == [8, 2, 1, 1, 0]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9])
def test_the_best_order_attains_the_optimum_on_the_denoiser(law: HopChain, steps: int) -> None:
    denoiser, drawn = HopChainDenoiser(law), law.draw("test", 5)
    roles = [token - law.vocab_size for token in drawn.prompt] or law.fixed_roles
    step_BL = torch.tensor([[0] * len(drawn.prompt) + list(law.optimum_order(steps, roles))])
    order = Order(step_BL)
    assert int(order.n_steps_B) <= steps
    clean_BL = torch.tensor([drawn.prompt + drawn.response])
    nats = 0.0
    for step in range(1, int(order.n_steps_B) + 1):
        tokens_BL = clean_BL.masked_fill(order.masked_before(step), law.n_tokens)
        log_BLV = denoiser(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).logits_BQV.log_softmax(-1)
        nats -= float(log_BLV.gather(-1, clean_BL[:, :, None])[order.unmasked_at(step)].double().sum())
    assert nats == pytest.approx(law.optimum_nats(steps), abs=1e-4)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"chain": 0}, "chain=0: give a whole number of at least 1"),
        ({"free": -1}, "free=-1"),
        ({"given": -1}, "given=-1"),
        ({"hops": 0}, "hops=0"),
        ({"vocab_size": 1}, "vocab_size=1: give a whole number of at least 2"),
        ({"certain": 1.0}, "certain=1.0: give a probability above 1/10"),
        ({"certain": 0.1}, "certain=0.1"),
        ({"certain": float("nan")}, "certain=nan"),
        ({"arrangement": "random"}, "arrangement='random': choose one of fixed, per_problem"),
    ],
)
def test_wrong_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HopChain(**option)


def test_a_budget_below_one() -> None:
    for ask in (HopChain().least_guesses, HopChain().optimum_nats, lambda steps: HopChain().optimum_order(steps, [0])):
        with pytest.raises(ValueError, match="steps=0"):
            ask(0)
