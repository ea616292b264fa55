"""Statistics of a frontier: an interval for an accuracy, a paired test for two policies, one number per curve.

Knows counts and outcomes; knows nothing of models, files or torch. Accuracies are fractions in [0, 1] except in
:func:`aup`, whose definition is in percent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from scipy.stats import binomtest

Key = TypeVar("Key", bound=Hashable)


class Interval(NamedTuple):
    """A confidence interval, as fractions in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two policies on the same problems.

    Args:
        n: pairs compared.
        only_a: pairs that only the first policy solves; ``only_b`` likewise for the second.
        difference: accuracy of the first minus accuracy of the second, a fraction in [-1, 1].
        p_value: exact, two-sided.
    """

    n: int
    only_a: int
    only_b: int
    difference: float
    p_value: float


def wilson(correct: float, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of the accuracy ``correct / n`` (Wilson 1927).

    ``correct`` need not be whole: of problems that several seeds decode it is the mean over seeds.

    Raises:
        ValueError: unless 0 <= correct <= n and n >= 1.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"wilson needs 0 <= correct <= n and n >= 1, got correct={correct}, n={n}")
    z = statistics.NormalDist().inv_cdf((1.0 + level) / 2.0)
    share, shrink = correct / n, 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1.0 - share) / n + (z / (2 * n)) ** 2)
    # At both ends the formula gives 0 and 1, but for rounding.
    return Interval(0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half)


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error; +-1.96 of them are a 95 % interval of many values.

    The error is ``None`` of a single value, and where one is infinite or NaN.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    mean, known = statistics.fmean(values), len(values) > 1 and all(map(math.isfinite, values))
    return mean, statistics.stdev(values, mean) / math.sqrt(len(values)) if known else None


def mcnemar(correct_a: Mapping[Key, bool], correct_b: Mapping[Key, bool]) -> Paired:
    """Exact two-sided McNemar test: the sign test on the pairs that exactly one of the two solves.

    Args:
        correct_a: outcome of the first policy by key: a problem, or (seed, problem) to pool seeds.
        correct_b: the same of the second. Keys that only one of the two has are not compared.

    The test takes pairs to be independent. Several seeds of one problem are not (a deterministic policy repeats
    itself): beside a pooled result, show :func:`sign_by_problem`.

    Raises:
        ValueError: when the two share no key.
    """
    shared = _shared(correct_a, correct_b)
    only_a = sum(correct_a[key] and not correct_b[key] for key in shared)
    only_b = sum(correct_b[key] and not correct_a[key] for key in shared)
    return Paired(len(shared), only_a, only_b, (only_a - only_b) / len(shared), _sign_test(only_a, only_b))


def sign_by_problem(correct_a: Mapping[tuple[int, int], bool], correct_b: Mapping[tuple[int, int], bool]) -> Paired:
    """Exact two-sided sign test in which every problem votes once, however many seeds it was decoded with.

    Args:
        correct_a: outcome of the first policy by (seed, problem).
        correct_b: the same of the second; only shared keys are compared.

    A problem votes for the policy that solves it with more of the shared seeds; ``n``, ``only_a`` and ``only_b`` count
    problems, ``difference`` is of the pooled accuracies. With one seed this is :func:`mcnemar`. It stays valid when the
    outcomes of one problem depend on each other, which seeds of a nearly deterministic policy do.

    Raises:
        ValueError: when the two share no key.
    """
    shared = _shared(correct_a, correct_b)
    lead: dict[int, int] = {}
    for seed, problem in shared:
        lead[problem] = lead.get(problem, 0) + correct_a[seed, problem] - correct_b[seed, problem]
    only_a, only_b = sum(vote > 0 for vote in lead.values()), sum(vote < 0 for vote in lead.values())
    return Paired(len(lead), only_a, only_b, sum(lead.values()) / len(shared), _sign_test(only_a, only_b))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979): adjusted p-values, in the order given, each at most 1."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def aup(
    parallelism: Iterable[float],
    accuracy: Iterable[float],
    best_accuracy: float,
    alpha: float = 3.0,
    tolerance: float = 5.0,
) -> float:
    """Accuracy under parallelism (d3LLM, arXiv 2601.07568): an area that discounts what parallelism costs.

    With points sorted by parallelism rho and y in percent, W(y) = min(exp(-alpha (1 - y / y_max)), 1):

        AUP = rho_1 y_1 + sum_i (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2

    over the points with y >= y_1 - tolerance. The first rectangle is not discounted. Checked against the authors' code,
    which refuses a curve whose most parallel point falls below the tolerance; here such points are left out like any
    other. Of several points at one parallelism the most accurate counts.

    Args:
        parallelism: rho, tokens per forward pass of every point, >= 0.
        accuracy: y, in percent, in [0, 100].
        best_accuracy: y_max, in percent: the best accuracy over **all** methods compared.
        alpha: how fast lost accuracy is discounted.
        tolerance: percentage points below y_1 at which a point no longer counts.

    Returns:
        The area, in percent x tokens per forward; 0 when nothing was solved at all.

    Raises:
        ValueError: no points, uneven lengths, numbers out of range, or a point above ``best_accuracy``.
    """
    rho, y = list(parallelism), list(accuracy)
    if not rho or len(rho) != len(y):
        raise ValueError(f"aup needs one accuracy per parallelism and at least one point, got {len(rho)} and {len(y)}")
    if not all(math.isfinite(value) and value >= 0 for value in rho):
        raise ValueError(f"aup needs a finite parallelism >= 0 (tokens per forward), got {rho}")
    if not all(0 <= value <= 100 for value in y):
        raise ValueError(f"aup needs accuracies in percent, in [0, 100], got {y}")
    if max(y) > best_accuracy * (1 + 1e-12):
        raise ValueError(f"best_accuracy is the best over all methods, got {best_accuracy} below a point's {max(y)}")
    if not (math.isfinite(alpha) and alpha >= 0 and tolerance >= 0):
        raise ValueError(f"aup needs alpha >= 0 and tolerance >= 0, got alpha={alpha}, tolerance={tolerance}")
    if best_accuracy == 0:
        return 0.0
    best: dict[float, float] = {}
    for value, percent in zip(rho, y, strict=True):
        best[value] = max(percent, best.get(value, 0.0))
    points = sorted(best.items())
    first_rho, first_y = points[0]
    kept = [(value, percent) for value, percent in points if percent >= first_y - tolerance]
    discounted = [percent * min(math.exp(-alpha * (1 - percent / best_accuracy)), 1.0) for _, percent in kept]
    area = first_rho * first_y
    for i in range(1, len(kept)):
        area += (kept[i][0] - kept[i - 1][0]) * (discounted[i] + discounted[i - 1]) / 2
    return area


def _shared(correct_a: Mapping[Key, bool], correct_b: Mapping[Key, bool]) -> list[Key]:
    shared = [key for key in correct_a if key in correct_b]
    if not shared:
        raise ValueError(
            f"a paired test needs problems that both policies decoded, got {len(correct_a)} and {len(correct_b)}"
            " outcomes with none in common: decode the same split with the same seeds"
        )
    return shared


def _sign_test(only_a: int, only_b: int) -> float:
    # With no discordant pair the data say nothing against equality; binomtest has no answer for zero trials.
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0
