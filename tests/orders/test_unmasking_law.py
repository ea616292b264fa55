"""The non-empty Bernoulli law against enumeration: probabilities, gradients and samples.

The reference lists all subsets and multiplies coins in log space, as the definition does; no closed form of the package
is used. The last tests break the law on purpose and expect the checks to notice.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laws import assert_follows
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, log1mexp, log_not

EXACT = {"rtol": 1e-10, "atol": 1e-10}
INF = math.inf

# Logits of one row, None where the position is not masked; +inf stands for p = 1.
ROWS: dict[str, list[float | None]] = {
    "ordinary": [0.3, -1.2, None, 2.0],
    "all_masked": [-0.7, 0.1, -0.4, 1.5],
    "one": [None, 0.4, None, None],
    "one_unlikely": [None, None, -40.0, None],
    "one_certain": [INF, None, None, None],
    "certain_first": [INF, 0.5, -2.0, None],
    "certain_last": [0.5, -40.0, -2.0, INF],
    "two_certain": [INF, -1.0, None, INF],
    "unlikely": [-40.0, -40.0, None, -39.0],
    "likely": [40.0, 39.0, 40.0, None],
    "extremes": [40.0, -40.0, 0.0, -40.0],
    "none": [None, None, None, None],
}


def law_of(row: list[float | None], dtype: torch.dtype = torch.float64) -> NonEmptyBernoulli:
    """The law of one row; at positions that are not masked it is given something that would show."""
    masked_1L = torch.tensor([[a is not None for a in row]])
    logits_1L = torch.tensor([[99.0 if a is None else 0.0 if a == INF else a for a in row]], dtype=dtype)
    law = NonEmptyBernoulli.from_logits(logits_1L, masked_1L)
    certain_1L = torch.tensor([[a == INF for a in row]])
    return NonEmptyBernoulli(
        law.log_p_BL.masked_fill(certain_1L, 0.0), law.log_not_p_BL.masked_fill(certain_1L, -INF), masked_1L
    )


def subsets(masked: list[int]) -> list[tuple[int, ...]]:
    """All that the law gives a probability to: the non-empty ones, or the empty one where nothing is masked."""
    found = [c for size in range(1, len(masked) + 1) for c in itertools.combinations(masked, size)]
    return found or [()]


def as_mask(chosen: tuple[int, ...], length: int = 4) -> Tensor:
    return torch.tensor([[i in chosen for i in range(length)]])


def enumerated(log_p_L: Tensor, log_not_p_L: Tensor, masked: list[int]) -> dict[tuple[int, ...], Tensor]:
    """log P of every set: a product of coins over the sum of all such products."""
    weight = {
        chosen: torch.stack([*(log_p_L[i] if i in chosen else log_not_p_L[i] for i in masked), log_p_L.new_zeros(())])
        .sum()
        for chosen in subsets(masked)
    }  # fmt: skip
    total = torch.stack(list(weight.values())).logsumexp(0)
    return {chosen: w - total for chosen, w in weight.items()}


def of(law: NonEmptyBernoulli) -> dict[tuple[int, ...], Tensor]:
    return enumerated(law.log_p_BL[0], law.log_not_p_BL[0], law.masked_BL[0].nonzero()[:, 0].tolist())


def enumerated_kl(q: dict[tuple[int, ...], Tensor], p: dict[tuple[int, ...], Tensor]) -> Tensor:
    return torch.stack([q[u].exp() * (q[u] - p[u]) for u in q if q[u].item() > -INF]).sum()


def enumerated_entropy(q: dict[tuple[int, ...], Tensor]) -> Tensor:
    return -torch.stack([a.exp() * a for a in q.values() if a.item() > -INF]).sum()


@pytest.mark.parametrize("name", ROWS)
def test_probabilities_are_the_enumerated_ones_and_sum_to_one(name: str) -> None:
    law = law_of(ROWS[name])
    total = 0.0
    for chosen, expected in of(law).items():
        got = law.log_prob(as_mask(chosen))
        torch.testing.assert_close(got, expected[None], **EXACT)
        total += float(got.exp())
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_marginals_and_entropy_are_the_enumerated_ones(name: str) -> None:
    law = law_of(ROWS[name])
    p = {chosen: float(a.exp()) for chosen, a in of(law).items()}
    expected_1L = torch.tensor([[sum(w for u, w in p.items() if i in u) for i in range(4)]], dtype=torch.float64)
    torch.testing.assert_close(law.marginal_BL, expected_1L, **EXACT)
    torch.testing.assert_close(law.entropy(), enumerated_entropy(of(law))[None], **EXACT)


def kl_pairs() -> list[tuple[list[float | None], list[float | None]]]:
    """Rows over the same positions; where the second is certain, so is the first, or the divergence is infinite."""
    pairs = []
    for q, p in itertools.product(ROWS.values(), repeat=2):
        same = all((a is None) == (b is None) for a, b in zip(q, p, strict=True))
        if same and all(a == INF or b != INF for a, b in zip(q, p, strict=True)):
            pairs.append((q, p))
    generator = torch.Generator().manual_seed(0)
    for row in ROWS.values():
        drawn = (3.0 * torch.randn(4, generator=generator, dtype=torch.float64)).tolist()
        pairs.append((row, [None if a is None else b for a, b in zip(row, drawn, strict=True)]))
        pairs.append((row, [None if a is None else math.copysign(40.0, b) for a, b in zip(row, drawn, strict=True)]))
    return pairs


def check_kl(q: list[float | None], p: list[float | None]) -> None:
    torch.testing.assert_close(law_of(q).kl(law_of(p)), enumerated_kl(of(law_of(q)), of(law_of(p)))[None], **EXACT)


@pytest.mark.parametrize(("q", "p"), kl_pairs())
def test_the_divergence_is_the_enumerated_one(q: list[float | None], p: list[float | None]) -> None:
    check_kl(q, p)


def test_what_the_other_law_never_leaves_out_costs_infinitely_much() -> None:
    assert law_of([0.0, 0.0, None, None]).kl(law_of([INF, 0.0, None, None])).item() == INF


# Gradients.

QUANTITIES: dict[str, Callable[[NonEmptyBernoulli, NonEmptyBernoulli], Tensor]] = {
    "log_z": lambda law, other: law.log_z_B,
    "marginal": lambda law, other: (law.marginal_BL * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum(-1),
    "entropy": lambda law, other: law.entropy(),
    "kl": lambda law, other: law.kl(other),
    "kl_of_other": lambda law, other: other.kl(law),
}


def enumerated_quantity(name: str, law: NonEmptyBernoulli, other: NonEmptyBernoulli) -> Tensor:
    q, p = of(law), of(other)
    if name == "entropy":
        return enumerated_entropy(q)
    if name in ("kl", "kl_of_other"):
        return enumerated_kl(q, p) if name == "kl" else enumerated_kl(p, q)
    if name == "marginal":
        value = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
        return torch.stack([a.exp() * value[list(u)].sum() for u, a in q.items()]).sum()
    masked = law.masked_BL[0].nonzero()[:, 0].tolist()
    coins = [[law.log_p_BL[0, i] if i in u else law.log_not_p_BL[0, i] for i in masked] for u in subsets(masked)]
    return torch.stack([torch.stack(row).sum() for row in coins]).logsumexp(0)


def tied(logits_1L: Tensor, row: list[float | None]) -> NonEmptyBernoulli:
    """A law whose finite logits are ``logits_1L``, to differentiate."""
    masked_1L = torch.tensor([[a is not None for a in row]])
    certain_1L = torch.tensor([[a == INF for a in row]])
    law = NonEmptyBernoulli.from_logits(logits_1L, masked_1L)
    return NonEmptyBernoulli(
        law.log_p_BL.masked_fill(certain_1L, 0.0), law.log_not_p_BL.masked_fill(certain_1L, -INF), masked_1L
    )


def leaf(row: list[float | None]) -> Tensor:
    return torch.tensor([[0.0 if a is None or a == INF else a for a in row]], dtype=torch.float64, requires_grad=True)


def check_gradient(name: str, row: list[float | None]) -> None:
    """Of both laws' logits; the enumerated expression is differentiated by autograd, term by term."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(1, 4, generator=generator, dtype=torch.float64)
    found = []
    for by_enumeration in (False, True):
        logits_1L, other_1L = leaf(row), drawn.clone().requires_grad_()
        law = tied(logits_1L, row)
        # The other law is certain where this one is: the divergence is finite in both directions.
        other = tied(other_1L, row)
        value = enumerated_quantity(name, law, other) if by_enumeration else QUANTITIES[name](law, other).sum()
        found.append(torch.autograd.grad(value, (logits_1L, other_1L), allow_unused=True))
    for got, expected in zip(*found, strict=True):
        got, expected = (torch.zeros(1, 4, dtype=torch.float64) if g is None else g for g in (got, expected))
        assert bool(got.isfinite().all())
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


DIFFERENTIATED = [name for name in ROWS if name not in ("none", "one_certain")]  # of those nothing depends on a logit


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_gradients_are_those_of_the_enumerated_expression(quantity: str, row: str) -> None:
    check_gradient(quantity, ROWS[row])


@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_gradients_of_log_prob_are_those_of_the_enumerated_expression(row: str) -> None:
    possible = [u for u, a in of(law_of(ROWS[row])).items() if a.item() > -INF]
    for chosen in possible:
        first_1L, second_1L = leaf(ROWS[row]), leaf(ROWS[row])
        (got,) = torch.autograd.grad(tied(first_1L, ROWS[row]).log_prob(as_mask(chosen)).sum(), first_1L)
        (expected,) = torch.autograd.grad(of(tied(second_1L, ROWS[row]))[chosen], second_1L)
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_gradients_are_those_of_finite_differences(quantity: str) -> None:
    masked_BL = torch.tensor([[True, True, False, True], [True] * 4])
    generator = torch.Generator().manual_seed(2)
    first_BL, second_BL = (
        torch.randn(2, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )

    def value(first_BL: Tensor, second_BL: Tensor) -> Tensor:
        laws = [NonEmptyBernoulli.from_logits(a, masked_BL) for a in (first_BL, second_BL)]
        return QUANTITIES[quantity](laws[0], laws[1])

    assert torch.autograd.gradcheck(value, (first_BL, second_BL))


def test_a_row_without_masked_positions_has_no_gradient_and_spoils_none() -> None:
    logits_BL = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    masked_BL = torch.tensor([[False] * 3, [True] * 3])
    law = NonEmptyBernoulli.from_logits(logits_BL, masked_BL)
    other = NonEmptyBernoulli.from_logits(torch.ones(2, 3, dtype=torch.float64), masked_BL)
    value = law.log_prob(masked_BL) + law.entropy() + law.kl(other) + law.log_z_B
    assert value[0].item() == 0.0
    value.sum().backward()
    assert logits_BL.grad is not None
    assert bool(logits_BL.grad.isfinite().all())
    assert logits_BL.grad[0].tolist() == [0.0] * 3
    assert bool((logits_BL.grad[1] != 0.0).all())


@pytest.mark.parametrize("row", DIFFERENTIATED)
def test_the_score_is_the_gradient_of_the_enumerated_log_probability(row: str) -> None:
    for chosen in [u for u, a in of(law_of(ROWS[row])).items() if a.item() > -INF]:
        logits_1L = leaf(ROWS[row])
        law = tied(logits_1L, ROWS[row])
        (expected,) = torch.autograd.grad(of(law)[chosen], logits_1L)
        got = law.score(as_mask(chosen))
        assert not got.requires_grad
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


# Draws.


def uniforms(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(n, generator=generator, dtype=torch.float64).clamp(min=1e-300),
        torch.rand(n, 4, generator=generator, dtype=torch.float64),
    )


def check_samples(row: list[float | None], dtype: torch.dtype = torch.float64) -> None:
    n, law = 20_000, law_of(row, dtype)
    drawn_NL = law.rows(torch.zeros(n, dtype=torch.int64)).sample(*uniforms(n, seed=3))
    counts = Counter(tuple(i for i in range(4) if taken[i]) for taken in drawn_NL.tolist())
    assert_follows(counts, {chosen: float(a.exp()) for chosen, a in of(law_of(row)).items()})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ROWS)
def test_samples_follow_the_enumerated_law(name: str, dtype: torch.dtype) -> None:
    check_samples(ROWS[name], dtype)


def test_the_extreme_uniforms_give_sets_of_the_law() -> None:
    edge = 2.0**-53
    for row in ROWS.values():
        law = law_of(row)
        possible = {u for u, a in of(law).items() if a.item() > -INF}
        for first, others in itertools.product((edge, 1.0 - edge), repeat=2):
            drawn_1L = law.sample(torch.tensor([first]).double(), torch.full((1, 4), others, dtype=torch.float64))
            assert tuple(drawn_1L[0].nonzero()[:, 0].tolist()) in possible


@pytest.mark.parametrize("name", ROWS)
def test_the_likeliest_set_is_the_mode(name: str) -> None:
    law = law_of(ROWS[name])
    log_p = of(law)
    for seed in range(5):
        got = tuple(law.likeliest(uniforms(1, seed)[1])[0].nonzero()[:, 0].tolist())
        assert float(log_p[got]) >= max(map(float, log_p.values())) - 1e-12


def test_equal_positions_are_likeliest_in_turn() -> None:
    n = 9_000
    law = law_of([-1.0, None, -1.0, -1.0]).rows(torch.zeros(n, dtype=torch.int64))
    best_NL = law.likeliest(uniforms(n, seed=4)[1])
    assert bool((best_NL.sum(-1) == 1).all())
    assert_follows(Counter(best_NL.int().argmax(-1).tolist()), {0: 1 / 3, 2: 1 / 3, 3: 1 / 3})


# Other operations.


@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 2.0, 1e3])
@pytest.mark.parametrize("name", ROWS)
def test_scaling_multiplies_every_probability_up_to_one(name: str, factor: float) -> None:
    law = law_of(ROWS[name])
    scaled, masked_1L = law.scaled(factor), law.masked_BL
    p_N = (factor * law.log_p_BL[masked_1L].exp()).clamp(max=1.0)
    torch.testing.assert_close(scaled.log_p_BL[masked_1L].exp(), p_N, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(scaled.log_not_p_BL[masked_1L].exp(), 1.0 - p_N, rtol=1e-9, atol=1e-15)
    assert scaled.masked_BL.equal(masked_1L)
    total = sum(float(scaled.log_prob(as_mask(chosen)).exp()) for chosen in of(law))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_scaling_keeps_small_probabilities_exactly() -> None:
    scaled = law_of([-40.0, -35.0, None, None]).scaled(0.5)
    torch.testing.assert_close(scaled.log_not_p_BL[0, :2], -0.5 * law_of([-40.0, -35.0]).log_p_BL[0].exp())


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if INF not in row])
def test_a_moved_law_has_its_odds_multiplied(name: str) -> None:
    by_1L = torch.tensor([[0.7, -1.3, 2.0, -0.2]], dtype=torch.float64, requires_grad=True)
    law = law_of(ROWS[name])
    moved, masked = law.moved(by_1L), law.masked_BL[0].nonzero()[:, 0].tolist()
    factor = by_1L[0].exp().tolist()
    weight = {u: float(a.exp()) * math.prod(factor[i] for i in u) for u, a in of(law).items()}
    for chosen, w in weight.items():
        assert moved.log_prob(as_mask(chosen)).exp().item() == pytest.approx(w / sum(weight.values()), rel=1e-9)
    if len(masked) > 1:
        (gradient_1L,) = torch.autograd.grad(moved.log_prob(as_mask((masked[0],))).sum(), by_1L)
        torch.testing.assert_close(gradient_1L, moved.score(as_mask((masked[0],))), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(law.moved(torch.zeros(1, 4)).log_prob(law.masked_BL), law.log_prob(law.masked_BL))


def test_rows_are_picked_and_repeated() -> None:
    logits_BL = torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    masked_BL = torch.tensor([[True] * 4, [True, False, True, False], [False, True, True, True]])
    law = NonEmptyBernoulli.from_logits(logits_BL, masked_BL)
    index_N = torch.tensor([2, 0, 2, 2])
    picked = law.rows(index_N)
    assert picked.masked_BL.equal(masked_BL[index_N])
    assert picked.log_prob(masked_BL[index_N]).equal(law.log_prob(masked_BL)[index_N])
    assert picked.marginal_BL.equal(law.marginal_BL[index_N])


X = [-1e-300, -1e-15, -1e-8, -1e-3, -0.5, -math.log(2.0), -0.6931, -0.6932, -1.0, -5.0, -36.0, -40.0, -300.0]


@pytest.mark.parametrize("x", X)
def test_log1mexp_is_precise_at_both_ends_and_so_is_its_gradient(x: float) -> None:
    # Each formula is exact on its own side: expm1 keeps small x, log1p keeps small exp(x).
    expected = math.log(-math.expm1(x)) if x > -0.69 else math.log1p(-math.exp(x))
    slope = 1.0 / math.expm1(-x) if x > -700.0 else math.exp(x)  # d/dx log(1 - e^x), up to its sign
    x_1 = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    value_1 = log1mexp(x_1)
    (gradient_1,) = torch.autograd.grad(value_1.sum(), x_1)
    assert value_1.item() == pytest.approx(expected, rel=1e-13)
    assert gradient_1.item() == pytest.approx(-slope, rel=1e-13)


def test_what_is_certain_leaves_nothing_and_has_no_gradient() -> None:
    log_p_3 = torch.tensor([0.0, -0.25, -math.inf], dtype=torch.float64, requires_grad=True)
    value_3 = log_not(log_p_3)
    assert value_3.tolist() == [-math.inf, pytest.approx(math.log(1.0 - math.exp(-0.25))), 0.0]
    (gradient_3,) = torch.autograd.grad(value_3[1:].sum(), log_p_3)
    assert gradient_3.tolist() == [0.0, pytest.approx(-1.0 / math.expm1(0.25)), 0.0]


def test_log1mexp_has_its_limits() -> None:
    x_2 = torch.tensor([-INF, -800.0], dtype=torch.float64, requires_grad=True)
    value_2 = log1mexp(x_2)
    assert value_2.tolist() == [0.0, 0.0]
    value_2.sum().backward()
    assert x_2.grad is not None
    assert x_2.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_in_float32_everything_is_finite_and_near(name: str) -> None:
    row = ROWS[name]
    logits_1L = leaf(row).detach().float().requires_grad_()
    law = tied(logits_1L, row)
    double = tied(leaf(row), row)
    other, other_double = (tied(torch.full((1, 4), -1.5, dtype=t), row) for t in (torch.float32, torch.float64))
    for got, expected in (
        (law.log_z_B, double.log_z_B),
        (law.marginal_BL, double.marginal_BL),
        (law.entropy(), double.entropy()),
        (law.kl(other), double.kl(other_double)),
        (other.kl(law), other_double.kl(double)),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)
    (law.entropy() + law.kl(other) + other.kl(law) + law.log_z_B).sum().backward()
    assert logits_1L.grad is not None
    assert bool(logits_1L.grad.isfinite().all())


# Tests of the tests: broken on purpose, each has to be noticed.


def without_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NonEmptyBernoulli, "log_z_B", property(lambda law: torch.zeros_like(law.log_p_BL[:, 0])))


def test_a_divergence_without_its_normaliser_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    without_normaliser(monkeypatch)
    with pytest.raises(AssertionError):
        check_kl(ROWS["all_masked"], [0.5, -1.0, 0.2, 0.0])
    with pytest.raises(AssertionError):
        check_gradient("kl", ROWS["all_masked"])


def test_a_law_that_may_be_empty_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def coins(law: NonEmptyBernoulli, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        return (uniform_BL < law.log_p_BL.exp()) & law.masked_BL

    monkeypatch.setattr(NonEmptyBernoulli, "sample", coins)
    with pytest.raises(AssertionError):
        check_samples(ROWS["ordinary"])


def test_coins_with_one_put_in_where_all_fail_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback to the likeliest position is a law of its own, not the conditioned one."""

    def fallback(law: NonEmptyBernoulli, uniform_B: Tensor, uniform_BL: Tensor) -> Tensor:
        coin_BL = (uniform_BL < law.log_p_BL.exp()) & law.masked_BL
        return torch.where(coin_BL.any(-1, keepdim=True), coin_BL, law.likeliest(uniform_BL))

    monkeypatch.setattr(NonEmptyBernoulli, "sample", fallback)
    with pytest.raises(AssertionError):
        check_samples(ROWS["all_masked"])


def test_a_gradient_cut_at_the_marginals_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = NonEmptyBernoulli.marginal_BL.func
    monkeypatch.setattr(NonEmptyBernoulli, "marginal_BL", property(lambda law: real(law).detach()))
    with pytest.raises(AssertionError):
        check_gradient("entropy", ROWS["all_masked"])


def test_the_max_normalised_law_is_one_of_these() -> None:
    """Its certain position goes through the same formulas."""
    law = max_normalised(torch.tensor([[0.5, -1.0, 0.2, 0.4]]).double(), torch.ones(1, 4, dtype=torch.bool), 0.3)
    assert law.log_z_B.item() == 0.0
    total = sum(float(law.log_prob(as_mask(chosen)).exp()) for chosen in subsets([0, 1, 2, 3]))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_one_half_is_not_above_one_half() -> None:
    tie_1L = torch.rand(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    all_1L = torch.ones(1, 3, dtype=torch.bool)
    coins = NonEmptyBernoulli.from_logits(torch.zeros(1, 3), all_1L)
    assert int(coins.likeliest(tie_1L).sum()) == 1
    law = FinishingBernoulli.from_logits(torch.ones(1, 3), torch.zeros(1), all_1L)
    assert int(law.likeliest(tie_1L).sum()) == 2
