"""The report's text: what was run, the frontier, paired tests, accuracy under parallelism, and what orders cost.

Knows rows, points and comparisons; writes no file. Every section says what its numbers are and are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lightning_mdm.metrics.statistics import aup
from lightning_mdm.outcomes import Row
from lightning_mdm.report.naming import loop_options
from lightning_mdm.report.paired import Comparison, Solved, compare_at_budgets, compare_at_evaluations
from lightning_mdm.report.points import (
    AnyPoint,
    AnyRow,
    Panel,
    Point,
    by_name,
    by_panel,
    competitors,
    is_adaptive,
    panel_titles,
    pool_seeds,
)
from lightning_mdm.report.published import PublishedRow, beside_markdown
from lightning_mdm.report.tables import frontier_markdown, markdown_table, score_markdown


def report_markdown(
    rows: Sequence[Row],
    solved: Solved,
    notes: Sequence[str] = (),
    published: Sequence[PublishedRow] = (),
    orders: Sequence[str] = (),
) -> str:
    """The whole report.

    Args:
        rows: every row, every cell once.
        solved: per-problem outcomes; paired sections say so where there are none.
        notes: remarks to print under the title, e.g. on runs without outcomes.
        published: a paper's rows, shown beside ours.
        orders: lines of the sections on what orders cost, for its end; of these alone where there is no row.

    Raises:
        ValueError: when there is neither.
    """
    title = "# Accuracy against denoiser evaluations" if rows or not orders else "# Orders in nats"
    lines = [title, "", *(f"> {note}" for note in notes), *([""] if notes else [])]
    if orders and not rows:
        return "\n".join([*lines, *orders])
    lines += ["![accuracy against mean NFE](frontier.png)", ""]
    panels = by_panel(pool_seeds(rows))
    titles = panel_titles(panels)
    for panel, points in panels.items():
        members = [row for row in rows if Panel(row.task, row.split, row.checkpoint) == panel]
        lines += [f"## {titles[panel]}", "", *_what_was_run(members), ""]
        lines += ["### Frontier", "", _FRONTIER, "", *frontier_markdown(points), ""]
        if told := dict.fromkeys(point.name for point in points if not point.competes):
            lines += [_TOLD.format(names=_joined(told)), ""]
        if scores := score_markdown(points):
            lines += ["### Score", "", _SCORE, "", *scores, ""]
        if comparison := beside_markdown(points, published):
            lines += ["### Beside published figures", "", *comparison, ""]
        rivals = competitors(points)
        lines += ["### Paired tests at the same step budget", "", *_at_budgets(rivals, solved), ""]
        if any(is_adaptive(curve) for curve in by_name(rivals).values()):
            lines += ["### Paired tests at the same number of evaluations", "", *_at_evaluations(rivals, solved), ""]
        if rivals:
            lines += ["### Accuracy under parallelism", "", *_parallelism(rivals), ""]
    return "\n".join([*lines, *orders])


def orders_markdown(
    title: str,
    figure: str,
    text: str,
    points: Sequence[AnyPoint],
    rows: Sequence[AnyRow],
    table: Callable[[Sequence[AnyPoint]], list[str]],
) -> list[str]:
    """A section on what orders cost: the figure and, for every panel, what was evaluated and a table.

    Args:
        title: of the section.
        figure: the figure, in Markdown.
        text: what the numbers are.
        points: of the rows.
        rows: every row, every cell once.
        table: lines of the table of a panel's points.
    """
    lines = [f"## {title}", "", figure, "", text, ""]
    panels: dict[Panel, list[AnyPoint]] = by_panel(points)
    panel: Panel
    for panel, heading in panel_titles(panels).items():
        own: list[AnyRow] = [row for row in rows if Panel(row.task, row.split, row.checkpoint) == panel]
        made = f"* {len(own)} cells on {_made_by(own)}"
        lines += [f"### {heading}", "", *_cells(own), made]
        if len({row.n for row in own}) > 1:
            lines.append("* **not every cell is of equally many problems**")
        lines += ["", *table(panels[panel]), ""]
    return lines


_FRONTIER = (
    "Accuracy in %, [Wilson 95 % interval], @ mean NFE: denoiser evaluations per problem, counted, not assumed from T. "
    "Bold: best at this T. Seeds are pooled; since they decode the same problems again, the interval is that of the "
    "number of different problems."
)

_TOLD = (
    "{names} competes with nothing: it says what an order could reach with this denoiser that knew which tokens are "
    "those of the task's own answer (with several right ones it may be beaten), and is neither bold nor tested."
)

_SCORE = (
    "Mean share of an answer that is right, in %, ± half its 95 % interval (normal approximation over problems), @ "
    "mean NFE. Bold: best at this T."
)

_PAIRS = (
    "Exact two-sided McNemar tests on the same problems and seeds: *only first* and *only second* count the pairs that "
    "one of the two solves alone, p is Holm-corrected {family}."
)

_VOTES = (
    " Pairs of one problem under several seeds are not independent, so the p to rely on is the last: a sign test in "
    "which every problem votes once."
)


def _what_was_run(rows: Sequence[Row]) -> list[str]:
    problems = {row.n for row in rows}
    left_out = sorted({row.left_out for row in rows})
    lines = [
        *_cells(rows),
        f"* {len(rows)} cells, {sum(row.forward_passes for row in rows):,} forward passes in "
        f"{sum(row.seconds for row in rows):,.0f} s on {_made_by(rows)}",
        "* decoding options of the loop: " + _loop(rows),
    ]
    if left_out != [0]:
        lines.append(
            f"* **left out: {_range(left_out)} problems of the split were not decoded** (for instance because they do "
            "not fit the canvas); they count neither as right nor as wrong"
        )
    if len(problems) > 1:
        lines.append(
            "* **not every cell decoded equally many problems**: compare by the paired tests, not by the table"
        )
    return lines


def _cells(rows: Sequence[AnyRow]) -> list[str]:
    """Of what they are, how many problems, seeds and budgets."""
    return [
        f"* task `{rows[0].task}`, split `{rows[0].split}`, checkpoint `{rows[0].checkpoint}`",
        f"* n = {_range(sorted({row.n for row in rows}))} problems per cell, seeds "
        + _list(sorted({row.seed for row in rows}))
        + f", step budgets T = {_list(sorted({row.T for row in rows}))}",
    ]


def _made_by(rows: Sequence[AnyRow]) -> str:
    """Devices, commits and software."""
    software = _joined((row.software for row in rows), by=" | ")
    made_by = f"{_joined(row.device for row in rows)}, commit {_joined(row.commit for row in rows)}"
    return made_by + (f", {software}" if software else "")


def _at_budgets(points: Sequence[Point], solved: Solved) -> list[str]:
    comparisons = compare_at_budgets(points, solved)
    if not comparisons:
        return ["No two policies that compete have per-problem outcomes in common."]
    votes = _several_seeds(comparisons)
    text = "At every step budget, the most accurate policy against each other one. " + _PAIRS.format(
        family="within a budget"
    )
    text += " Equal T is not equal cost: an adaptive policy may use fewer evaluations, see @ mean NFE."
    text += " The best one was chosen on these very problems, which favours it; "
    text += "`paired.csv` has any two policies at the same budget, corrected over all pairs."
    header = ["comparison", "T", *_PAIR_COLUMNS, *(["p, one vote per problem"] if votes else [])]
    body = [
        [f"{_at(c.first)} against {_at(c.second)}", str(c.first.T), *_pair_cells(c), *_vote_cells(c, votes)]
        for c in comparisons
    ]
    return [text + (_VOTES if votes else ""), "", *markdown_table(header, body)]


def _at_evaluations(points: Sequence[Point], solved: Solved) -> list[str]:
    matched = compare_at_evaluations(points, solved)
    votes = _several_seeds([m.comparison for m in matched if m.comparison is not None])
    text = (
        "Each adaptive policy against the most accurate fixed-budget policy given as many evaluations: **@Avg**, a "
        "budget of the adaptive policy's mean NFE, rounded; **@Max**, of its largest NFE on any problem. Where the "
        "sweep lacks that budget, the next larger one stands in, which favours the fixed-budget policy. Budgets that "
        "change nothing for the adaptive policy are not repeated. `equal_nfe.csv` compares adaptive policies with all "
        "others, adaptive ones too: with the best that as many evaluations buy them by these very outcomes, so that a "
        "p-value where the other is ahead is too small. "
    )
    header = [
        "adaptive policy",
        "against",
        "fixed budget",
        *_PAIR_COLUMNS,
        *(["p, one vote per problem"] if votes else []),
    ]
    body = []
    for m in matched:
        first = f"{m.adaptive.name}, T={m.adaptive.T} @{m.adaptive.nfe_mean:.2f}, max {m.adaptive.nfe_max}"
        if m.comparison is None:
            cells = [f"{m.kind} = {m.wanted}", "no such budget with these problems", *["–"] * (len(header) - 3)]
        else:
            rival = m.comparison.second
            cells = [f"{m.kind} = {m.wanted}", f"{rival.name}, T={rival.T} @{rival.nfe_mean:.2f}"]
            cells += [*_pair_cells(m.comparison), *_vote_cells(m.comparison, votes)]
        body.append([first, *cells])
    family = "over each of the two kinds"
    return [text + _PAIRS.format(family=family) + (_VOTES if votes else ""), "", *markdown_table(header, body)]


def _parallelism(points: Sequence[Point]) -> list[str]:
    best = 100 * max(point.accuracy for point in points)
    body = []
    for name, curve in by_name(points).items():
        accuracy = [100 * point.accuracy for point in curve]
        parallelism = [point.tokens_per_forward for point in curve]
        slowest = max(y for rho, y in zip(parallelism, accuracy, strict=True) if rho == min(parallelism))
        kept = sum(y >= slowest - 5 for y in accuracy)
        span = f"{min(parallelism):.2f}–{max(parallelism):.2f}"
        body.append([name, f"{aup(parallelism, accuracy, best):.1f}", span, f"{kept} of {len(curve)}"])
    text = (
        "AUP (d3LLM, arXiv 2601.07568), in percent x answer tokens per forward pass, larger is better: the area under "
        "accuracy against tokens per forward, discounted by exp(-3 (1 - y / y_max)), over the points at most 5 "
        f"percentage points below the policy's own least parallel one; y_max = {best:.1f} %. It depends on the budgets "
        "swept: compare policies swept over the same ones only."
    )
    return [text, "", *markdown_table(["policy", "AUP", "tokens per forward", "points counted"], body)]


_PAIR_COLUMNS = ("difference, points", "only first", "only second", "pairs", "p")


def _pair_cells(comparison: Comparison) -> list[str]:
    paired = comparison.pooled
    counts = [str(paired.only_a), str(paired.only_b), str(paired.n)]
    return [f"{100 * paired.difference:+.1f}", *counts, _p(comparison.pooled_holm)]


def _vote_cells(comparison: Comparison, votes: bool) -> list[str]:
    return [_p(comparison.by_problem_holm)] if votes else []


def _several_seeds(comparisons: Sequence[Comparison]) -> bool:
    return any(c.pooled.n > c.by_problem.n for c in comparisons)


def _at(point: Point) -> str:
    return f"{point.name} @{point.nfe_mean:.2f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def _loop(rows: Sequence[Row]) -> str:
    """The loop's options, each once; the values of one on which rows differ, ``none`` for rows without it."""
    found = [loop_options(row.options) for row in rows]
    values = {
        name: dict.fromkeys(str(options.get(name, "none")) for options in found)
        for name in sorted({name for options in found for name in options})
    }
    return ", ".join(f"`{name}` = {' or '.join(of)}" for name, of in values.items()) or "none recorded"


def _joined(names: Iterable[str], by: str = "+") -> str:
    # A row of a resumed sweep holds several names already.
    parts = dict.fromkeys(part for name in names for part in name.split(by) if part)
    return " + ".join(f"`{part}`" for part in parts)


def _list(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
