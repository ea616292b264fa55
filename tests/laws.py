"""Goodness of fit with a stated false-alarm rate.

Every comparison of samples with a law raises a false alarm with probability ``FALSE_ALARM`` at most; seeds are fixed,
so a passing test keeps passing until the code draws differently.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from scipy.stats import chi2, norm
from torch import Tensor

FALSE_ALARM = 1e-6
LEAST_EXPECTED = 8.0


def assert_follows(counts: Mapping[Hashable, int], law: Mapping[Hashable, float]) -> None:
    """Counts of independent outcomes follow ``law`` (chi-square); outcomes of probability 0 never occur."""
    n = sum(counts.values())
    assert abs(sum(law.values()) - 1.0) < 1e-9, "the law itself does not sum to 1"
    impossible = {outcome: c for outcome, c in counts.items() if c and law.get(outcome, 0.0) <= 0.0}
    assert not impossible, f"outcomes of probability 0 occurred: {impossible}"
    cells: list[tuple[float, int]] = []
    rare_expected, rare_count = 0.0, 0
    for outcome, p in sorted(law.items(), key=lambda item: -item[1]):
        if n * p >= LEAST_EXPECTED:
            cells.append((n * p, counts.get(outcome, 0)))
        else:  # rare outcomes are pooled, the likeliest first, into cells that are large enough
            rare_expected, rare_count = rare_expected + n * p, rare_count + counts.get(outcome, 0)
            if rare_expected >= LEAST_EXPECTED:
                cells.append((rare_expected, rare_count))
                rare_expected, rare_count = 0.0, 0
    if cells and rare_expected > 0.0:
        last_expected, last_count = cells.pop()
        cells.append((last_expected + rare_expected, last_count + rare_count))
    if len(cells) < 2:
        return
    statistic = sum((count - expected) ** 2 / expected for expected, count in cells)
    alarm = float(chi2.isf(FALSE_ALARM, len(cells) - 1))
    assert statistic < alarm, f"chi-square {statistic:.1f} of {len(cells)} cells, at most {alarm:.1f} allowed"


def assert_mean(samples: Tensor, mean: float) -> None:
    """The mean of independent samples is ``mean`` within its Monte-Carlo error."""
    error = float(samples.double().std() / len(samples) ** 0.5)
    deviation = abs(float(samples.double().mean()) - mean)
    assert deviation < float(norm.isf(FALSE_ALARM / 2)) * error, f"mean off by {deviation / error:.1f} standard errors"


def assert_uniform(samples: Tensor, cells: int = 64) -> None:
    """Samples of (0, 1) are uniform over equal cells."""
    counts = torch.histc(samples.double(), bins=cells, min=0.0, max=1.0).long().tolist()
    assert_follows(dict(enumerate(counts)), dict.fromkeys(range(cells), 1.0 / cells))


def assert_independent(first: Tensor, second: Tensor, cells: int = 8) -> None:
    """Pairs of uniforms fill the unit square evenly: uncorrelated, and independent on a grid of cells."""
    pair = (first * cells).long() * cells + (second * cells).long()
    counts = torch.bincount(pair.flatten(), minlength=cells * cells).tolist()
    assert_follows(dict(enumerate(counts)), dict.fromkeys(range(cells * cells), 1.0 / cells**2))
    product = (first - 0.5) * (second - 0.5) * 12.0
    assert_mean(product.flatten(), 0.0)
