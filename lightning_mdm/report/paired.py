"""Paired comparisons of policies on the same problems and seeds.

Knows points and per-problem outcomes; knows nothing of files or Markdown. Three kinds of comparison: at the same step
budget T, where an adaptive policy may have used fewer evaluations; at the evaluations an adaptive policy used, given to
a fixed budget; and at equal mean evaluations, adaptive policies against each other and against all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from lightning_mdm.metrics.statistics import Paired, holm, mcnemar, sign_by_problem
from lightning_mdm.outcomes import OutcomeRow
from lightning_mdm.report.naming import loop_options
from lightning_mdm.report.points import Panel, Point, by_name, is_adaptive


@dataclass(frozen=True)
class Decoded:
    """What a policy made of the problems at a budget, by (seed, problem).

    Args:
        solved: whether the answer was right.
        nfe: denoiser evaluations.
    """

    solved: dict[tuple[int, int], bool] = field(default_factory=dict)
    nfe: dict[tuple[int, int], int] = field(default_factory=dict)
    _means: dict[frozenset[tuple[int, int]], tuple[float, float]] = field(default_factory=dict)

    @cached_property
    def problems(self) -> frozenset[tuple[int, int]]:
        return frozenset(self.nfe)

    def means(self, some: frozenset[tuple[int, int]]) -> tuple[float, float]:
        """Mean evaluations and accuracy on some of its problems."""
        if some not in self._means:
            nfe, right = sum(self.nfe[key] for key in some), sum(self.solved[key] for key in some)
            self._means[some] = nfe / len(some), right / len(some)
        return self._means[some]


@lru_cache(maxsize=256)
def _common(one: frozenset[tuple[int, int]], other: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
    return one & other  # few sets are different, and there are thousands of pairs


Solved = Mapping[tuple[Panel, str, str, int], Decoded]
"""Outcomes by (panel, policy, options, T)."""


@dataclass(frozen=True)
class Comparison:
    """Two points, paired.

    Args:
        first: the policy in question.
        second: the one it is compared with.
        pooled: McNemar over all (seed, problem) pairs.
        by_problem: sign test in which every problem votes once.
        pooled_holm: Holm-corrected p-value of ``pooled``, within ``Comparison`` s made together; ``by_problem_holm``
            likewise.
    """

    first: Point
    second: Point
    pooled: Paired
    by_problem: Paired
    pooled_holm: float
    by_problem_holm: float


@dataclass(frozen=True)
class MatchedComparison:
    """An adaptive point against the best policy of fixed budget given as many evaluations.

    Args:
        kind: ``"@Avg"`` (its mean NFE, rounded) or ``"@Max"`` (its largest NFE on any problem).
        wanted: that number of evaluations.
        comparison: with the fixed policy at the smallest budget of the sweep that is at least ``wanted``; ``None`` when
            the sweep has no such budget, or no outcomes in common.
    """

    kind: str
    wanted: int
    adaptive: Point
    comparison: Comparison | None


@dataclass(frozen=True)
class PairRow:
    """One line of ``paired.csv``: two policies at the same budget; columns as in ``Comparison``."""

    task: str
    split: str
    checkpoint: str
    T: int
    first: str
    second: str
    pairs: int
    only_first: int
    only_second: int
    difference: float
    p_value: float
    p_holm: float
    p_by_problem: float
    p_by_problem_holm: float


@dataclass(frozen=True)
class EqualNfeRow:
    """One line of ``equal_nfe.csv``: an adaptive policy against the best of another at its price, as ``PairRow``.

    Evaluations and accuracies are those of the problems that both have decoded.
    """

    task: str
    split: str
    checkpoint: str
    first: str
    first_T: int
    first_nfe: float
    first_accuracy: float
    second: str
    second_T: int
    second_nfe: float
    second_accuracy: float
    pairs: int
    only_first: int
    only_second: int
    difference: float
    p_value: float
    p_holm: float
    p_by_problem: float
    p_by_problem_holm: float


def solved_pairs(outcomes: Iterable[OutcomeRow]) -> Solved:
    """Arranges outcomes for pairing. An outcome that occurs twice (two runs sharing a cell) counts once."""
    solved: dict[tuple[Panel, str, str, int], Decoded] = {}
    for row in outcomes:
        cell = (Panel(row.task, row.split, row.checkpoint), row.policy, row.options, row.T)
        decoded = solved.setdefault(cell, Decoded())
        decoded.solved.setdefault((row.seed, row.problem), row.correct)
        decoded.nfe.setdefault((row.seed, row.problem), row.nfe)
    return solved


def compare_at_budgets(points: Sequence[Point], solved: Solved) -> list[Comparison]:
    """At every budget, the most accurate policy against each other one; Holm-corrected within a budget.

    Of equally accurate policies the one with fewer evaluations counts as best.

    Args:
        points: the points of one panel.
        solved: outcomes; points without any, or without one in common with the best, are skipped.
    """
    comparisons = []
    for T in sorted({point.T for point in points}):
        rivals = [point for point in points if point.T == T and _cell(point) in solved]
        if len(rivals) > 1:
            best = min(rivals, key=lambda point: (-point.accuracy, point.nfe_mean))
            comparisons += _compare(best, [point for point in rivals if point is not best], solved)
    return comparisons


def every_pair(points: Sequence[Point], solved: Solved) -> list[PairRow]:
    """Any two policies at the same budget; Holm-corrected over all pairs of a budget.

    Args:
        points: the points of one panel.
        solved: outcomes; points without any are skipped, as are pairs without one in common.
    """
    rows = []
    for T in sorted({point.T for point in points}):
        rivals = [point for point in points if point.T == T and _cell(point) in solved]
        pairs = [pair for k, first in enumerate(rivals) for pair in _compare(first, rivals[k + 1 :], solved)]
        rows += [PairRow(T=T, **_columns(c)) for c in _correct(pairs)]
    return rows


def compare_at_evaluations(points: Sequence[Point], solved: Solved) -> list[MatchedComparison]:
    """Every adaptive point against the best fixed-budget policy @Avg and @Max; Holm-corrected over each kind.

    A larger budget that changes nothing (as many solved, with as many evaluations) is not compared again.

    Args:
        points: the points of one panel.
        solved: outcomes; points without any are skipped.
    """
    curves = by_name(point for point in points if _cell(point) in solved)
    adaptive = [point for curve in curves.values() if is_adaptive(curve) for point in _changing(curve) if point.T > 1]
    fixed = [sorted(curve, key=lambda point: point.T) for curve in curves.values() if not is_adaptive(curve)]
    matched: list[MatchedComparison] = []
    for kind in ("@Avg", "@Max"):
        found: list[tuple[Point, int, Comparison | None]] = []
        for point in adaptive:
            wanted = max(1, round(point.nfe_mean)) if kind == "@Avg" else point.nfe_max
            met = [[rival for rival in curve if on_shared_problems(point, rival, solved)] for curve in fixed]
            enough = [next((rival for rival in curve if wanted <= rival.cost), None) for curve in met]
            least = min((rival.cost for rival in enough if rival is not None), default=None)
            rivals = [rival for rival in enough if rival is not None and rival.cost == least]
            best = max(rivals, key=lambda rival: rival.accuracy, default=None)
            pair = _compare(point, [best], solved) if best is not None else []
            found.append((point, wanted, pair[0] if pair else None))
        corrected = iter(_correct([pair for _, _, pair in found if pair is not None]))
        matched += [
            MatchedComparison(kind, wanted, point, next(corrected) if pair is not None else None)
            for point, wanted, pair in found
        ]
    return matched


def at_equal_evaluations(points: Sequence[Point], solved: Solved) -> list[EqualNfeRow]:
    """Every adaptive point against the best point of each other policy at its price; see ``rival_at``.

    A policy that is searched with (``decoding.search``) and the same without are two; its options and budgets are not.
    Holm-corrected over all.

    Args:
        points: the points of one panel.
        solved: outcomes; points without any are skipped.
    """
    known = [point for point in points if _cell(point) in solved]
    adaptive = [
        point for curve in by_name(known).values() if is_adaptive(curve) for point in _changing(curve) if point.T > 1
    ]
    kinds: dict[tuple[str, bool], list[Point]] = {}
    for point in known:
        kinds.setdefault(_kind(point), []).append(point)
    found = [
        shared
        for point in adaptive
        for kind, rivals in kinds.items()
        if kind != _kind(point) and (shared := rival_at(point, rivals, solved)) is not None
    ]
    corrected = _correct([pair for shared in found for pair in _compare(shared.first, [shared.second], solved)])
    return [
        EqualNfeRow(
            first_T=c.first.T,
            first_nfe=shared.first_nfe,
            first_accuracy=shared.first_accuracy,
            second_T=c.second.T,
            second_nfe=shared.second_nfe,
            second_accuracy=shared.second_accuracy,
            **_columns(c),
        )
        for shared, c in zip(found, corrected, strict=True)
    ]


def _columns(c: Comparison) -> dict[str, Any]:
    """What rows of either kind say of a comparison."""
    return {
        **asdict(c.first.panel),
        "first": c.first.name,
        "second": c.second.name,
        "pairs": c.pooled.n,
        "only_first": c.pooled.only_a,
        "only_second": c.pooled.only_b,
        "difference": c.pooled.difference,
        "p_value": c.pooled.p_value,
        "p_holm": c.pooled_holm,
        "p_by_problem": c.by_problem.p_value,
        "p_by_problem_holm": c.by_problem_holm,
    }


def _kind(point: Point) -> tuple[str, bool]:
    """The policy, whatever its options, and whether it is searched with."""
    return point.policy, bool(loop_options(point.options).get("search"))


@dataclass(frozen=True)
class Shared:
    """Two points on the ``n`` problems and seeds that both have decoded: mean evaluations and accuracy of each."""

    first: Point
    second: Point
    n: int
    first_nfe: float
    first_accuracy: float
    second_nfe: float
    second_accuracy: float

    @property
    def more(self) -> float:
        """Evaluations that the second takes more, on average."""
        return self.second_nfe - self.first_nfe

    @property
    def better(self) -> float:
        """Accuracy that the second has more."""
        return self.second_accuracy - self.first_accuracy


def on_shared_problems(first: Point, second: Point, solved: Solved) -> Shared | None:
    """Two points where they can be compared; ``None`` where they have no problem in common."""
    one, other = solved[_cell(first)], solved[_cell(second)]
    shared = _common(one.problems, other.problems)
    return Shared(first, second, len(shared), *one.means(shared), *other.means(shared)) if shared else None


def rival_at(point: Point, rivals: Sequence[Point], solved: Solved) -> Shared | None:
    """The best that the evaluations of ``point`` buy another policy, whatever its options: its most accurate point.

    Budgets come in steps, so the price is that of its cheapest point with at least as many evaluations; without one it
    is any. Both this and that it is chosen by the outcomes that are tested favour the rival: a p-value where it is
    ahead is too small. Of points that have decoded other problems those with the most in common count; ``None`` where
    there is no problem in common.
    """
    found = [on_shared_problems(point, rival, solved) for rival in rivals]
    most = max((shared.n for shared in found if shared is not None), default=0)
    known = [shared for shared in found if shared is not None and shared.n == most]
    price = min((shared.more for shared in known if shared.more >= -1e-9), default=float("inf"))
    within = [shared for shared in known if shared.more <= price + 1e-9]
    return max(within, key=lambda shared: (shared.better, -shared.more), default=None)


def _compare(first: Point, others: Sequence[Point], solved: Solved) -> list[Comparison]:
    pairs = solved.get(_cell(first), Decoded()).solved
    comparisons = []
    for other in others:
        rival_pairs = solved.get(_cell(other), Decoded()).solved
        if pairs.keys() & rival_pairs.keys():
            pooled, by_problem = mcnemar(pairs, rival_pairs), sign_by_problem(pairs, rival_pairs)
            comparisons.append(Comparison(first, other, pooled, by_problem, pooled.p_value, by_problem.p_value))
    return _correct(comparisons)


def _correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    pooled = holm([comparison.pooled.p_value for comparison in comparisons])
    by_problem = holm([comparison.by_problem.p_value for comparison in comparisons])
    return [
        Comparison(c.first, c.second, c.pooled, c.by_problem, p, q)
        for c, p, q in zip(comparisons, pooled, by_problem, strict=True)
    ]


def _changing(curve: Iterable[Point]) -> list[Point]:
    first: dict[tuple[int, float, int], Point] = {}
    for point in sorted(curve, key=lambda point: point.T):
        first.setdefault((point.correct, point.nfe_mean, point.nfe_max), point)
    return list(first.values())


def _cell(point: Point) -> tuple[Panel, str, str, int]:
    return point.panel, point.policy, point.options, point.T
