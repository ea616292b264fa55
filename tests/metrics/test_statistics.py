"""Wilson, McNemar, Holm and AUP against published, enumerated and hand-made numbers."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lightning_mdm.metrics.statistics import aup, holm, mcnemar, mean_and_error, sign_by_problem, wilson


def test_mean_and_its_error() -> None:
    assert mean_and_error([0.25]) == (0.25, None)
    assert mean_and_error([0.0, 1.0]) == (0.5, pytest.approx(0.5))
    assert mean_and_error([1.0, 0.0, 0.5, 0.5]) == (0.5, pytest.approx((0.5 / 3 / 4) ** 0.5))
    # Of right or wrong answers it is the usual error of a share, with n - 1 in place of n.
    mean, error = mean_and_error([1.0] * 30 + [0.0] * 70)
    assert (mean, error) == (pytest.approx(0.3), pytest.approx(math.sqrt(0.3 * 0.7 / 99)))
    with pytest.raises(ValueError, match="a mean needs at least one value"):
        mean_and_error([])


@pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (1, 3), (263, 400), (437, 1319), (0.2, 10), (20.5, 40)])
def test_wilson_solves_the_score_equation(correct: float, n: int) -> None:
    # The interval's ends are the rates p at which the observation lies exactly z standard errors away.
    z = 1.959963984540054
    low, high = wilson(correct, n)
    for p in (low, high):
        if 0 < p < 1:
            assert abs(correct / n - p) == pytest.approx(z * math.sqrt(p * (1 - p) / n), rel=1e-9)
    assert (low == 0) == (correct == 0)
    assert (high == 1) == (correct == n)
    assert low <= correct / n <= high


@given(data=st.data(), seeds=st.integers(1, 20), n=st.integers(1, 10**6))
def test_wilson_holds_the_accuracy_that_seeds_pool(data: st.DataObject, seeds: int, n: int) -> None:
    """Exactly, not but for rounding: the ends are lengths of bars."""
    accuracy = data.draw(st.integers(0, seeds * n)) / (seeds * n)
    low, high = wilson(accuracy * n, n)
    assert 0.0 <= low <= accuracy <= high <= 1.0


def test_wilson_known_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3: 81/263, 15/148, 1/29.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_is_that_of_scipy() -> None:
    for n in (1, 7, 100, 6000):
        for correct in {0, 1, n // 3, n - 1, n}:
            theirs = binomtest(correct, n).proportion_ci(confidence_level=0.9, method="wilson")
            assert wilson(correct, n, level=0.9) == pytest.approx((theirs.low, theirs.high), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"correct={correct}, n={n}"):
        wilson(correct, n)


def enumerated_p_value(only_a: int, only_b: int) -> float:
    """Share of the equally likely splits of the discordant pairs that are at least as uneven as the observed one."""
    discordant = only_a + only_b
    splits = [abs(2 * sum(bits) - discordant) for bits in product((0, 1), repeat=discordant)]
    return sum(split >= abs(only_a - only_b) for split in splits) / len(splits)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 5), (3, 3), (7, 2), (2, 9)])
def test_mcnemar_is_the_enumerated_sign_test(only_a: int, only_b: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * 4 + [False] * 3
    b = [False] * only_a + [True] * only_b + [True] * 4 + [False] * 3
    result = mcnemar(dict(enumerate(a)), dict(enumerate(b)))
    assert (result.n, result.only_a, result.only_b) == (len(a), only_a, only_b)
    assert result.difference == pytest.approx((sum(a) - sum(b)) / len(a))
    assert result.p_value == pytest.approx(enumerated_p_value(only_a, only_b), rel=1e-12)


def test_only_shared_keys_are_compared() -> None:
    result = mcnemar({1: True, 2: True, 3: False}, {2: False, 3: False, 4: True})
    assert (result.n, result.only_a, result.only_b) == (2, 1, 0)


@pytest.mark.parametrize("test", [mcnemar, sign_by_problem])
def test_nothing_in_common_is_an_error(test: object) -> None:
    with pytest.raises(ValueError, match="1 and 2 outcomes with none in common"):
        test({(0, 1): True}, {(0, 2): True, (1, 1): True})  # type: ignore[operator]


def test_repeated_seeds_prove_nothing_more() -> None:
    # A deterministic policy gives the same outcomes under every seed: pooling would shrink p, one vote each does not.
    a = {problem: problem < 8 for problem in range(10)}
    b = {problem: problem in (0, 8) for problem in range(10)}
    once = mcnemar(a, b)
    seeds = range(3)
    many_a = {(seed, problem): solved for seed in seeds for problem, solved in a.items()}
    many_b = {(seed, problem): solved for seed in seeds for problem, solved in b.items()}
    votes = sign_by_problem(many_a, many_b)
    assert (votes.n, votes.only_a, votes.only_b, votes.p_value) == (10, once.only_a, once.only_b, once.p_value)
    assert votes.difference == pytest.approx(once.difference)
    assert mcnemar(many_a, many_b).p_value < once.p_value


def test_problems_vote_with_the_majority_of_their_seeds() -> None:
    a = {(0, 7): True, (1, 7): True, (2, 7): False, (0, 8): True, (1, 8): False}
    b = {(0, 7): False, (1, 7): True, (2, 7): False, (0, 8): False, (1, 8): True}
    votes = sign_by_problem(a, b)
    assert (votes.n, votes.only_a, votes.only_b) == (2, 1, 0)
    assert votes.difference == pytest.approx(1 / 5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_aup_by_hand() -> None:
    # One point: the undiscounted rectangle. A second one at the same accuracy, undiscounted: a longer rectangle.
    assert aup([2.0], [80.0], best_accuracy=90.0) == pytest.approx(160.0)
    assert aup([2.0, 5.0], [80.0, 80.0], best_accuracy=80.0) == pytest.approx(400.0)
    # Three points, given unsorted, y_max = 80: W(76) = exp(-3 * 4/80), W(80) = 1.
    discount = math.exp(-0.15)
    expected = 1 * 80 + (3 - 1) * (80 + 76 * discount) / 2 + (4 - 3) * (76 * discount + 76 * discount) / 2
    assert aup([4.0, 1.0, 3.0], [76.0, 80.0, 76.0], best_accuracy=80.0) == pytest.approx(expected)


def test_aup_leaves_out_what_lost_too_much() -> None:
    # 74.9 is more than 5 points below 80, 75.0 is not; the kept neighbours are joined over the gap.
    kept = aup([1.0, 3.0], [80.0, 78.0], best_accuracy=80.0)
    assert aup([1.0, 2.0, 3.0], [80.0, 74.9, 78.0], best_accuracy=80.0) == pytest.approx(kept)
    assert aup([1.0, 2.0, 3.0], [80.0, 75.0, 78.0], best_accuracy=80.0) != pytest.approx(kept)


def test_aup_measures_what_is_lost_from_the_curve_s_own_start() -> None:
    # 20 points below the best of another policy: discounted, but within 5 points of its own start, so counted.
    discounted = [y * math.exp(-3 * (1 - y / 90)) for y in (70, 66)]
    expected = 1 * 70 + (2 - 1) * sum(discounted) / 2
    assert aup([1.0, 2.0], [70.0, 66.0], best_accuracy=90.0) == pytest.approx(expected)


def test_aup_edges() -> None:
    assert aup([1.0, 2.0], [0.0, 0.0], best_accuracy=0.0) == 0.0
    for several in ([50.0, 60.0], [60.0, 50.0]):
        assert aup([1.0, 1.0], several, best_accuracy=60.0) == pytest.approx(60.0), "the most accurate counts"
    # The best may have been computed in another order.
    assert aup([1.0], [60.0], best_accuracy=math.nextafter(60.0, 0.0)) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("rho", "y", "best", "message"),
    [
        ([], [], 50.0, "at least one point"),
        ([1.0], [50.0, 40.0], 50.0, "got 1 and 2"),
        ([-1.0], [50.0], 50.0, "parallelism >= 0"),
        ([math.nan], [50.0], 50.0, "parallelism >= 0"),
        ([math.inf], [50.0], 50.0, "parallelism >= 0"),
        ([1.0], [101.0], 101.0, r"\[0, 100\]"),
        ([1.0], [-1.0], 50.0, r"\[0, 100\]"),
        ([1.0], [50.0], 40.0, "best over all methods"),
    ],
)
def test_aup_refuses(rho: list[float], y: list[float], best: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        aup(rho, y, best)


@pytest.mark.parametrize(("alpha", "tolerance"), [(-0.1, 5.0), (math.inf, 5.0), (math.nan, 5.0), (3.0, -0.1)])
def test_aup_refuses_what_discounts_nothing_or_everything(alpha: float, tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"got alpha={alpha}, tolerance={tolerance}"):
        aup([1.0], [50.0], 50.0, alpha, tolerance)
