"""The report: names, pooling, tests, table, figure and the files, on rows that are small enough to check by hand."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb
from matplotlib.figure import Figure
from rich.console import Console

from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policies import IID
from lightning_mdm.decoding.policies import POLICIES as ALL_POLICIES
from lightning_mdm.metrics.statistics import mcnemar, wilson
from lightning_mdm.outcomes import (
    BatchRecord,
    Cell,
    Outcome,
    OutcomeRow,
    Row,
    frontier_row,
    outcome_rows,
    read_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report import display_name, frontier_figure, frontier_table, keep, read_runs, report, write_report
from lightning_mdm.report.looks import BLACK, GREY, KNOWN, LEFT, MARKERS, Look, looks
from lightning_mdm.report.markdown import report_markdown
from lightning_mdm.report.naming import LOOP_OPTIONS, distinct_names
from lightning_mdm.report.paired import (
    EqualNfeRow,
    at_equal_evaluations,
    compare_at_budgets,
    compare_at_evaluations,
    every_pair,
    solved_pairs,
)
from lightning_mdm.report.points import by_name, by_panel, is_adaptive, panel_titles, pool_seeds
from lightning_mdm.report.together import together

pytestmark = pytest.mark.draws

N = 40
LOOP = {"end_of_sequence": "as_tokens", "token_temperature": 0.0}
# (policy, parameters, NFE of a problem under T, problems solved under T and seed)
Policy = tuple[str, dict[str, Any], Callable[[int, int], int], Callable[[int, int], int]]
POLICIES: list[Policy] = [
    ("iid", {}, lambda T, _: T, lambda T, seed: {1: 10, 2: 14, 4: 20}[T] + seed),
    ("top_margin", {}, lambda T, _: T, lambda T, _: {1: 10, 2: 13, 4: 30}[T]),
    ("threshold", {"threshold": 0.9}, lambda T, p: min(T, 1 + p % 3), lambda T, _: {1: 10, 2: 25, 4: 32}[T]),
]


def sweep(seeds: tuple[int, ...] = (0, 1), **changes: Any) -> tuple[list[Row], list[OutcomeRow]]:
    """Rows and outcomes of a sweep in which the first so many problems are solved."""
    rows, outcomes = [], []
    for policy, parameters, nfe, solved in POLICIES:
        for T in (1, 2, 4):
            for seed in seeds:
                options = {**parameters, **LOOP}
                cell = Cell(
                    "word_problems",
                    "test",
                    "1f0c9a3e77",
                    "d0",
                    policy,
                    options,
                    T,
                    seed,
                    adaptive=policy == "threshold",
                )
                cell = replace(cell, **changes)
                done = tuple(Outcome(p, p < solved(T, seed), nfe(T, p), 12, str(p)) for p in range(N))
                records = [BatchRecord(done, T, 0.5, "cpu", "abc1234")]
                rows.append(frontier_row(cell, records, left_out=3))
                outcomes += outcome_rows(cell, records)
    return rows, outcomes


def save(folder: Path, rows: list[Row], outcomes: list[OutcomeRow] | None) -> Path:
    write_rows(folder / "frontier.csv", rows)
    if outcomes is not None:
        write_outcomes(folder / "outcomes.csv", outcomes)
    return folder


@pytest.mark.parametrize(
    ("policy", "options", "name"),
    [
        ("top_margin", LOOP, "top margin"),
        ("threshold", {"threshold": 0.9, **LOOP}, "threshold 0.9"),
        ("noisy", {"scale": 0.5, "noise": "gumbel"}, "noisy scale=0.5, noise=gumbel"),
        ("plain", {"greedy": True, "limit": None}, "plain greedy=true"),
        ("plain", {"greedy": True}, "plain greedy=true"),
        ("plain", {"scale": 0.5, "limit": None}, "plain scale=0.5"),
        ("plain", {"limit": None}, "plain"),
        ("blocks", {"length": 8, "policy": {"name": "top_margin"}, **LOOP}, "blocks(8) of top margin"),
        ("blocks", {"length": 8, "policy": {"name": "threshold", "t": 0.9}}, "blocks(8) of threshold 0.9"),
        ("blocks", {"length": 8, "policy": {"name": "noisy", "scale": 1, "of": None}}, "blocks(8) of noisy scale=1"),
        ("mirror", {"policy": {"name": "blocks", "l": 2, "policy": {"name": "iid"}}}, "mirror of blocks(2) of iid"),
        ("turns", {"n": 2, "first": {"name": "iid"}, "then": {"name": "p_q"}}, "turns(2) of iid and p q"),
        ("iid", {"price": 0.01, "precision": "32-true"}, "iid price=0.01"),
    ],
)
def test_display_name(policy: str, options: dict[str, Any], name: str) -> None:
    assert display_name(policy, json.dumps(options)) == name


@pytest.mark.parametrize("options", ["[1]", "{", ""])
def test_display_name_refuses(options: str) -> None:
    with pytest.raises(ValueError, match="options must be a JSON object, got"):
        display_name("iid", options)


def test_loop_options_are_those_of_the_loop() -> None:
    told = {"denoiser", "posterior", "precision", "selector", "source", "token_frequency", "told"}
    of_the_task = {"answer_steps", "stages"}  # see GSM8KAug.decoding_options
    described = set(DecodingOptions(guidance=0.5, search=True).describe(IID())) - set(IID().options)
    assert {field.name for field in fields(DecodingOptions)} - described == {
        "compile_statistics",
        "cuda_graphs",
    }, "how fast, not what"
    assert described | told | of_the_task == LOOP_OPTIONS


def test_code_of_ones_own_is_told_apart_only_where_names_do_not() -> None:
    own = [("mine", '{"source":"aa"}'), ("other", '{"source":"bb"}'), ("iid", "{}")]
    assert list(distinct_names(own).values()) == ["mine", "other", "iid"]
    again = [*own, ("mine", '{"source":"cc"}')]
    assert list(distinct_names(again).values()) == ["mine [source=aa]", "other [source=bb]", "iid", "mine [source=cc]"]


def test_loop_options_tell_names_apart_only_where_they_differ() -> None:
    cells = [
        ("iid", '{"end_of_sequence":"close","token_temperature":0}'),
        ("iid", '{"end_of_sequence":"as_tokens","token_temperature":0}'),
    ]
    assert list(distinct_names(cells).values()) == ["iid [end_of_sequence=close]", "iid [end_of_sequence=as_tokens]"]
    assert distinct_names(cells[:1]) == {cells[0]: "iid"}
    searched = ("iid", '{"end_of_sequence":"close","search":true,"token_temperature":0}')
    assert list(distinct_names([cells[0], searched]).values()) == ["iid", "iid [search=true]"]
    assert distinct_names([searched]) == {searched: "iid"}
    two = [("told", '{"precision":"16","guidance":2,"told":"response"}'), ("told", '{"precision":"32"}')]
    assert list(distinct_names(two).values()) == [
        "told (told the answer) [guidance=2, precision=16]",
        "told [precision=32]",
    ]
    learned = [("learned", f'{{"rule":"greedy","selector":"{selector}"}}') for selector in ("1f", "2e")]
    assert list(distinct_names([*cells[:1], learned[0]]).values()) == ["iid", "learned greedy"]
    assert list(distinct_names(learned).values()) == ["learned greedy [selector=1f]", "learned greedy [selector=2e]"]


def cell_of(policy: str, **options: Any) -> tuple[str, str]:
    return policy, json.dumps(options)


def test_what_weights_or_tasks_decide_tells_names_apart_only_within_a_panel() -> None:
    tasks = [
        [cell_of("learned", selector=name), cell_of("pc_sampler", token_frequency=name), cell_of("mine", source=name)]
        for name in ("s0", "s1")
    ]
    assert list(distinct_names(*tasks).values()) == ["learned", "pc sampler", "mine"] * 2
    assert list(distinct_names(tasks[0] + tasks[1]).values()) == [
        f"{name}={told}]" for told in ("s0", "s1")
        for name in ("learned [selector", "pc sampler [token_frequency", "mine [source")
    ]  # fmt: skip
    both, third = (
        [cell_of("learned", selector="s0"), cell_of("learned", selector="s1")],
        cell_of("learned", selector="s2"),
    )
    told = ["learned [selector=s0]", "learned [selector=s1]"]
    assert list(distinct_names(both, [third]).values()) == [*told, "learned"]
    assert list(distinct_names(both[:1], [third], both).values()) == [told[0], "learned", told[1]], (
        "the same everywhere"
    )
    bound = cell_of("learned", selector="s1", posterior="p1")
    assert distinct_names([bound], both)[bound] == told[1], "be its options others than those beside"
    precise = [cell_of("iid", precision="32"), cell_of("iid", precision="16")]
    assert list(distinct_names(precise[:1], precise[1:]).values()) == ["iid [precision=32]", "iid [precision=16]"]
    denoisers = [cell_of("learned", denoiser=name, selector=f"s{k}") for k, name in enumerate(("a", "b"))]
    assert list(distinct_names(denoisers).values()) == ["learned [denoiser=a]", "learned [denoiser=b]"]
    again = cell_of("learned", denoiser="b", selector="s2")
    assert list(distinct_names([*denoisers, again]).values()) == [
        f"learned [denoiser={name}, selector=s{k}]" for k, name in enumerate("abb")
    ]


def test_a_policy_is_called_and_drawn_alike_in_the_panels_of_several_tasks() -> None:
    rows = [
        replace(row, task=task, checkpoint=task, policy="learned", options=json.dumps({**LOOP, "selector": task}))
        for task in ("hop_chain", "markov_chain")
        for row in sweep((0,))[0]
        if row.policy == "iid"
    ]
    figure = frontier_figure(rows)
    drawn = [
        [(bars.get_label(), bars[0].get_color(), bars[0].get_marker()) for bars in axis.containers]
        for axis in figure.axes
    ]
    assert drawn == [[("learned", *KNOWN["learned"])]] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["learned"]
    assert {point.name for point in pool_seeds(rows)} == {"learned"}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        # A value without a name is that of the only parameter that the policy has.
        ([{"t": 0.9}, {"t": 0.97}], ["p 0.9", "p 0.97"]),
        ([{"t": 0.9}], ["p 0.9"]),
        ([{"beta": 1, "price": 0.01}, {"beta": 1, "price": 2}], ["p price=0.01", "p price=2"]),
        ([{"beta": 1, "price": 2}, {"beta": 2, "price": 2}], ["p beta=1", "p beta=2"]),
        ([{"beta": 1, "price": 8}, {"beta": 2, "price": 2}], ["p beta=1, price=8", "p beta=2, price=2"]),
        ([{"beta": 1, "price": 0.01}], ["p"]),
        ([{"beta": 1, "limit": None}, {"beta": 2, "limit": None}], ["p beta=1", "p beta=2"]),
        ([{"beta": 1, "limit": None}, {"beta": 1, "limit": 3}], ["p", "p limit=3"]),
        ([{"beta": 1}, {"beta": 1, "limit": 3}], ["p", "p limit=3"]),
        ([{"beta": 1}, {"beta": 2, "limit": 3}], ["p beta=1", "p beta=2, limit=3"]),
        ([{"n": 8, "of": {"name": "q"}}, {"n": 4, "of": {"name": "q"}}], ["p(8) of q", "p(4) of q"]),
        (
            [{"of": {"name": "q", "beta": beta, "price": 2}} for beta in (1, 2)],
            ["p of q beta=1, price=2", "p of q beta=2, price=2"],
        ),
    ],
)
def test_parameters_that_tell_options_of_a_policy_apart(options: list[dict[str, Any]], names: list[str]) -> None:
    cells = [("p", json.dumps({**own, **LOOP})) for own in options]
    other = ("q", json.dumps({"beta": 7, "price": 7}))
    assert list(distinct_names([*cells, other]).values()) == [*names, "q"], "other policies change nothing"
    assert list(distinct_names([other, *cells, *cells]).values()) == ["q", *names]


def scored_sweep() -> list[Row]:
    """Rows of two seeds in which the share of every answer that is right is known."""
    rows = []
    for seed in (0, 1):
        for T in (1, 2):
            cell = Cell("nae_sat", "test", "1f0c9a3e77", "d0", "iid", LOOP, T, seed)
            done = tuple(Outcome(p, p % 2 == 0, T, 12, "x", (0.5, 1.0)[(p + seed) % 2] / T) for p in range(N))
            rows.append(frontier_row(cell, [BatchRecord(done, T, 0.5, "cpu", "abc1234")]))
    return rows


def test_scores_are_pooled_and_shown() -> None:
    rows = scored_sweep()
    points = pool_seeds(rows)
    assert [point.score for point in points] == [pytest.approx(0.75), pytest.approx(0.375)]
    # The seeds decode the same problems again: two of them know no more than one.
    assert points[0].score_error == pytest.approx(1.96 * 0.25 * (N / (N - 1)) ** 0.5 / N**0.5)
    markdown = report_markdown(rows, {})
    assert "### Score" in markdown
    assert f"**75.0** ± {100 * points[0].score_error:.1f} @1.00" in markdown
    assert "**37.5** ±" in markdown, "the best at its T"
    shown = io.StringIO()
    Console(width=200, file=shown).print(frontier_table(rows))
    printed = shown.getvalue()
    assert "score 75.0 ±" in printed
    assert "score 37.5 ±" in printed
    labels = [axis.get_ylabel() for axis in frontier_figure(rows).axes]
    assert [label.split()[0] for label in labels] == ["accuracy", "score"]
    plain = sweep()[0]
    assert "### Score" not in report_markdown(plain, {})
    assert [axis.get_ylabel().split()[0] for axis in frontier_figure(plain).axes] == ["accuracy"]
    partly = [*rows[:2], *(replace(row, score=None) for row in rows[2:])]
    assert {point.score for point in pool_seeds(partly)} == {None}


def test_what_was_told_the_answers_competes_with_nothing(tmp_path: Path) -> None:
    rows, outcomes = sweep()

    def knowing(row: Any) -> Any:
        options = {key: value for key, value in json.loads(row.options).items() if key != "threshold"}
        return replace(row, policy="oracle", options=json.dumps({**options, "told": "response"}))

    added = [replace(knowing(row), correct=N) for row in rows if row.policy == "threshold"]
    known = [replace(knowing(row), correct=True) for row in outcomes if row.policy == "threshold"]
    without, with_it = ((r, solved_pairs(o)) for r, o in ((rows, outcomes), (rows + added, outcomes + known)))
    before, after = report_markdown(*without), report_markdown(*with_it)
    for line in before.splitlines():
        # What was run, and what is bold, tested or an area, stays; what is new is a line of the frontier and a remark.
        assert line in after or line.startswith(("* 18 cells", "* decoding options")), line
    lines = [line for line in after.splitlines() if line not in before]
    first = [line.split()[:2] for line in lines]
    assert first == [["*", "24"], ["*", "decoding"], ["|", "oracle"], ["`oracle", "(told"]]
    assert "**" not in lines[2]
    assert lines[3].startswith("`oracle (told the answer)` competes with nothing")
    for name, (some_rows, some_outcomes) in {"w": (rows, outcomes), "o": (rows + added, outcomes + known)}.items():
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "frontier.csv", some_rows)
        write_outcomes(tmp_path / name / "outcomes.csv", some_outcomes)
        write_report([tmp_path / name], tmp_path / name)
    for table in ("paired.csv", "equal_nfe.csv"):
        assert (tmp_path / "w" / table).read_text() == (tmp_path / "o" / table).read_text()
    shown = io.StringIO()
    Console(width=200, file=shown, force_terminal=True).print(frontier_table(rows + added))
    assert "\x1b[1m100.0" not in shown.getvalue()
    assert "100.0" in shown.getvalue()
    assert "oracle (told the answer)" in [
        text.get_text() for text in frontier_figure(rows + added).legends[0].get_texts()
    ]
    alone = report_markdown(added, {})
    assert "### Accuracy under parallelism" not in alone


def test_options_on_which_rows_differ_are_said_once() -> None:
    rows = sweep()[0]
    options = [{}, {"selector": "first"}, {"selector": "second", "guidance": 0.5}]
    mixed = [
        replace(row, options=json.dumps({**json.loads(row.options), **options[k % 3]})) for k, row in enumerate(rows)
    ]
    (line,) = (line for line in report_markdown(mixed, {}).splitlines() if line.startswith("* decoding options"))
    assert line == (
        "* decoding options of the loop: `end_of_sequence` = as_tokens, `guidance` = none or 0.5, "
        "`selector` = none or first or second, `token_temperature` = 0"
    )


def test_pooling_seeds() -> None:
    points = {(point.name, point.T): point for point in pool_seeds(sweep()[0])}
    point = points["iid", 4]
    assert (point.seeds, point.n, point.problems, point.correct) == ((0, 1), 2 * N, N, 41)
    # The interval is that of the N different problems: 20.5 solved on average.
    assert (point.low, point.high) == wilson(20.5, N)
    adaptive = points["threshold 0.9", 4]
    nfe = [1 + p % 3 for p in range(N)]
    assert adaptive.nfe_mean == pytest.approx(sum(nfe) / N)
    assert (adaptive.nfe_min, adaptive.nfe_max) == (1, 3)
    assert adaptive.tokens_per_forward == pytest.approx(12 * N / sum(nfe))
    with pytest.raises(ValueError, match=r"iid at T=1 occurs twice with one seed"):
        pool_seeds(sweep()[0] + sweep()[0])


def test_points_come_by_panel_then_policy_then_budget() -> None:
    """Whatever the order of the budgets and seeds, and however panels are mixed."""
    rows = [row for one in sweep()[0][::-1] for row in (one, replace(one, split="hard"))]
    points = pool_seeds(rows)
    names = ["threshold 0.9", "top margin", "iid"]
    assert [(point.panel.split, point.name, point.T, point.seeds) for point in points] == [
        (split, name, T, (0, 1)) for split in ("test", "hard") for name in names for T in (1, 2, 4)
    ]


def test_evaluations_range_over_all_seeds() -> None:
    row = sweep(seeds=(0,))[0][0]
    for few, many in ((row, replace(row, seed=1, nfe_min=2, nfe_max=9)), (replace(row, nfe_max=9, nfe_min=2), row)):
        (point,) = pool_seeds([replace(few, seed=0), replace(many, seed=1)])
        assert (point.nfe_min, point.nfe_max) == (1, 9)
    (nothing,) = pool_seeds([replace(row, nfe_mean=0.0, tokens_per_forward=0.0)])
    assert nothing.tokens_per_forward == 0.0, "responses that were given whole"


def test_titles_of_panels() -> None:
    points = pool_seeds(sweep()[0])
    (panel,) = panels = by_panel(points)
    other, hard = replace(panel, checkpoint="abcdef0123+0badcafe99"), replace(panel, split="hard")
    assert panel_titles(panels) == {panel: "word_problems, test: n = 2 seeds x 40"}
    mixed = [replace(points[0], seeds=(0,)), points[1]]
    assert panel_titles({panel: mixed}) == panel_titles({panel: mixed[::-1]}) == panel_titles(panels)
    one = [replace(point, seeds=(0,), problems=problems) for point in points for problems in (1319, 1200)]
    assert panel_titles({panel: points, other: one, hard: one[::2], replace(hard, task="gsm8k"): []}) == {
        panel: "word_problems, test, checkpoint 1f0c9a3e: n = 2 seeds x 40",
        other: "word_problems, test, checkpoint abcdef01 + 0badcafe: n = 1,200 to 1,319",
        hard: "word_problems, hard: n = 1,319",
        replace(hard, task="gsm8k"): "gsm8k, hard",
    }


def test_which_policies_are_adaptive() -> None:
    curves = by_name(pool_seeds(sweep()[0]))
    assert {name: is_adaptive(curve) for name, curve in curves.items()} == {
        "iid": False,
        "top margin": False,
        "threshold 0.9": True,
    }
    one = curves["iid"][0]
    assert is_adaptive([one, replace(one, adaptive=True)]), "some of its points are enough"
    # Ending early on a short response is no choice.
    assert not is_adaptive([replace(point, nfe_mean=1.0) for point in curves["iid"]])


def test_comparisons_at_budgets() -> None:
    rows, outcomes = sweep()
    comparisons = compare_at_budgets(pool_seeds(rows), solved_pairs(outcomes))
    at_4 = {c.second.name: c for c in comparisons if c.first.T == 4}
    assert {c.first.name for c in at_4.values()} == {"threshold 0.9"}
    assert set(at_4) == {"iid", "top margin"}
    pooled = at_4["top margin"].pooled
    assert (pooled.n, pooled.only_a, pooled.only_b) == (2 * N, 4, 0)
    assert (at_4["top margin"].by_problem.n, at_4["top margin"].by_problem.only_a) == (N, 2)
    assert at_4["top margin"].by_problem_holm == 0.5  # 2 * (1/2)^2, the larger of the two: uncorrected
    assert at_4["iid"].pooled_holm == pytest.approx(2 * 2 * 0.5**23)  # 12 + 11 discordant pairs, the smaller of two
    # Duplicated outcomes, as of two runs that share a cell, change nothing.
    assert compare_at_budgets(pool_seeds(rows), solved_pairs(outcomes * 2)) == comparisons


def test_every_pair_of_policies_at_every_budget() -> None:
    rows, outcomes = sweep(seeds=(0,))
    points, solved = pool_seeds(rows), solved_pairs(outcomes)
    pairs = every_pair(points, solved)
    assert {(pair.T, frozenset((pair.first, pair.second))) for pair in pairs} == {
        (T, frozenset(names))
        for T in (1, 2, 4)
        for names in (("iid", "top margin"), ("iid", "threshold 0.9"), ("top margin", "threshold 0.9"))
    }
    pair = next(p for p in pairs if (p.T, p.first, p.second) == (4, "iid", "threshold 0.9"))
    # Problems 20..31 are solved by the threshold alone: 12 discordant pairs, all one way.
    assert (pair.pairs, pair.only_first, pair.only_second) == (N, 0, 12)
    assert pair.p_value == pytest.approx(2 * 0.5**12)
    assert pair.p_holm == pytest.approx(3 * 2 * 0.5**12)
    assert pair.difference == pytest.approx(-12 / N)


def test_comparisons_at_evaluations() -> None:
    rows, outcomes = sweep((0,))
    matched = compare_at_evaluations(pool_seeds(rows), solved_pairs(outcomes))
    summary = [(m.kind, m.adaptive.T, m.wanted, m.comparison and m.comparison.second.name) for m in matched]
    assert summary == [
        ("@Avg", 2, 2, "iid"),
        ("@Avg", 4, 2, "iid"),
        ("@Max", 2, 2, "iid"),
        ("@Max", 4, 3, "top margin"),  # no budget of 3 in the sweep: the next larger one, T = 4
    ]
    last = matched[-1].comparison
    assert last is not None
    assert last.second.T == 4
    solved = {p: p < 32 for p in range(N)}, {p: p < 30 for p in range(N)}
    assert last.pooled == mcnemar(*solved)
    unpaired = [row for row in outcomes if (row.policy, row.T) != ("iid", 2)]
    found = [
        m.comparison and m.comparison.second.name
        for m in compare_at_evaluations(pool_seeds(rows), solved_pairs(unpaired))
    ]
    assert found == ["top margin"] * 4, "what has no outcomes hides none that has"
    without_4 = [point for point in pool_seeds(rows) if point.T != 4 or point.policy == "threshold"]
    assert [m.comparison for m in compare_at_evaluations(without_4, solved_pairs(outcomes))][-1] is None


def test_comparisons_where_a_step_is_two_evaluations() -> None:
    """What a fixed budget costs decides which one is compared, not its T."""
    rows, outcomes = sweep((0,))
    guided = [row if row.adaptive else replace(row, nfe_mean=2 * row.nfe_mean, nfe_max=2 * row.T) for row in rows]
    matched = compare_at_evaluations(pool_seeds(guided), solved_pairs(outcomes))
    found = [(m.kind, m.wanted, m.comparison and m.comparison.second.T) for m in matched]
    assert found == [("@Avg", 2, 1), ("@Avg", 2, 1), ("@Max", 2, 1), ("@Max", 3, 2)]


def test_comparisons_with_rivals_of_both_kinds_and_short_responses() -> None:
    """Whoever has fewer evaluations than wanted is no rival; whoever has T of them is, though fewer are enough."""
    rows, outcomes = sweep((0,))
    options = json.dumps({"guidance": 0.5})
    guided = [replace(r, options=options, nfe_mean=2 * r.nfe_mean, nfe_max=2 * r.T) for r in rows if not r.adaptive]
    solved = [replace(row, options=options) for row in outcomes if row.policy in {r.policy for r in guided}]
    matched = compare_at_evaluations(pool_seeds(rows + guided), solved_pairs(outcomes + solved))
    for m in matched:
        assert m.comparison is not None
        assert m.comparison.second.cost >= m.wanted
    assert [m.comparison and m.comparison.second.cost for m in matched] == [2, 2, 2, 4]
    short = [
        row if row.adaptive else replace(row, nfe_mean=min(row.nfe_mean, 2.0), nfe_max=min(row.T, 2)) for row in rows
    ]
    found = compare_at_evaluations(pool_seeds(short), solved_pairs(outcomes))
    assert [m.comparison and m.comparison.second.T for m in found] == [2, 2, 2, 4]


def test_comparisons_at_equal_evaluations() -> None:
    """The other policy has at least as many on average, or its most; adaptive or not, whatever its T."""
    rows, outcomes = sweep((0,))
    found = at_equal_evaluations(pool_seeds(rows), solved_pairs(outcomes))
    assert [(r.first, r.first_T, r.second, r.second_T) for r in found] == [
        ("threshold 0.9", 2, "iid", 2), ("threshold 0.9", 2, "top margin", 2),
        ("threshold 0.9", 4, "iid", 2), ("threshold 0.9", 4, "top margin", 2),
    ]  # fmt: skip
    assert all(r.second_nfe >= r.first_nfe for r in found)
    assert (found[2].first_accuracy, found[2].second_accuracy) == (32 / N, 14 / N)
    assert (found[2].only_first, found[2].only_second, found[2].pairs) == (18, 0, N)
    assert found[2].p_value == mcnemar({p: p < 32 for p in range(N)}, {p: p < 14 for p in range(N)}).p_value
    # Against another adaptive policy that never takes as many: at its most.
    short = [replace(row, policy="short", options="{}") for row in rows if row.policy == "threshold" and row.T == 2]
    solved = [
        replace(row, policy="short", options="{}") for row in outcomes if row.policy == "threshold" and row.T == 2
    ]
    found = at_equal_evaluations(pool_seeds(rows + short), solved_pairs(outcomes + solved))
    against = {(r.first, r.first_T): (r.second, r.second_T) for r in found if r.second in ("short", "threshold 0.9")}
    assert against == {
        ("threshold 0.9", 2): ("short", 2), ("threshold 0.9", 4): ("short", 2), ("short", 2): ("threshold 0.9", 2),
    }  # fmt: skip


def cell(policy: str, threshold: float, T: int, solved: range, nfe: int, n: int = N) -> tuple[Row, list[OutcomeRow]]:
    """An adaptive policy that takes as many evaluations for every problem."""
    rows, outcomes = sweep((0,))
    row = next(row for row in rows if row.policy == "threshold" and row.T == 4)
    given = {"policy": policy, "options": json.dumps({"threshold": threshold}), "T": T}
    own = [
        replace(o, **given, correct=o.problem in solved, nfe=nfe)
        for o in outcomes if o.policy == "threshold" and o.T == 4 and o.problem < n
    ]  # fmt: skip
    correct = sum(o.correct for o in own)
    return replace(row, **given, n=n, correct=correct, nfe_mean=nfe, nfe_min=nfe, nfe_max=nfe), own


def equal(*cells: tuple[Row, list[OutcomeRow]]) -> list[EqualNfeRow]:
    return at_equal_evaluations(pool_seeds(row for row, _ in cells), solved_pairs(o for _, own in cells for o in own))


def test_the_rival_is_the_best_that_its_price_buys() -> None:
    """With other options a policy may do more with less than where it is given as many evaluations."""
    ours = cell("ours", 0.0, 8, range(30), 5)
    hasty, careful, dear = (
        cell("theirs", *rest) for rest in ((0.5, 64, range(10), 6), (0.9, 4, range(25), 4), (0.99, 64, range(40), 7))
    )

    def against_ours(*cells: tuple[Row, list[OutcomeRow]]) -> list[tuple[str, float, float, int, int]]:
        found = [row for row in equal(ours, *cells) if row.first.startswith("ours")]
        return [(r.second, r.second_nfe, r.second_accuracy, r.only_first, r.only_second) for r in found]

    assert against_ours(hasty, careful, dear) == [("theirs 0.9", 4.0, 25 / N, 5, 0)]
    assert against_ours(hasty, dear) == [("theirs 0.5", 6.0, 10 / N, 20, 0)], "what costs more than need be is no rival"
    assert against_ours(careful, dear) == [("theirs 0.99", 7.0, 1.0, 0, 10)]
    cheap = cell("theirs", 0.7, 2, range(28), 2)
    assert against_ours(careful, cheap) == [("theirs 0.7", 2.0, 28 / N, 2, 0)], "no point has as many: its best"


def test_a_rival_on_the_same_problems_comes_before_one_on_a_few() -> None:
    ours = cell("ours", 0.0, 8, range(20), 5)
    all_of_them, two = cell("theirs", 0.9, 8, range(32), 5), cell("theirs", 0.5, 8, range(2), 5, n=2)
    (found,) = (row for row in equal(ours, all_of_them, two) if row.first.startswith("ours"))
    assert (found.second, found.pairs, found.only_second) == ("theirs 0.9", N, 12)


def test_evaluations_are_those_of_the_problems_compared() -> None:
    (row, own), theirs = cell("ours", 0.0, 8, range(40), 2), cell("theirs", 0.9, 8, range(15), 5, n=20)
    late = [replace(o, nfe=8, correct=False) if o.problem >= 20 else o for o in own]
    mean = sum(o.nfe for o in late) / N
    (found,) = (r for r in equal((replace(row, nfe_mean=mean, correct=20), late), theirs) if r.first.startswith("ours"))
    assert (found.pairs, found.first_nfe, found.second_nfe) == (20, 2.0, 5.0)
    assert (found.first_accuracy, found.second_accuracy, found.difference) == (1.0, 0.75, 0.25)


def test_what_is_searched_is_compared_with_the_same_policy_as_it_is() -> None:
    rows, outcomes = sweep((0,))

    def searched(row: Any) -> Any:
        return replace(row, options=json.dumps({**json.loads(row.options), "search": True}))

    more_rows = [replace(searched(row), adaptive=True) for row in rows if row.policy != "iid"]
    more = [searched(row) for row in outcomes if row.policy != "iid"]
    found = at_equal_evaluations(pool_seeds(rows + more_rows), solved_pairs(outcomes + more))
    pairs = {(r.first, r.second) for r in found}
    assert ("threshold 0.9 [search=true]", "threshold 0.9") in pairs
    assert ("top margin [search=true]", "top margin") in pairs
    assert ("top margin [search=true]", "threshold 0.9 [search=true]") in pairs
    assert not any(first == second for first, second in pairs)


def test_budgets_that_change_nothing_are_not_compared_again() -> None:
    rows, outcomes = sweep((0,))
    eight = [replace(row, T=8) for row in rows if row.T == 4]
    points = pool_seeds(rows + eight)
    matched = compare_at_evaluations(points, solved_pairs(outcomes))
    assert [m.adaptive.T for m in matched] == [2, 4, 2, 4]


def text_of(rows: list[Row], width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(frontier_table(rows))
        return console.export_text()


def test_table() -> None:
    rows, _ = sweep()
    other, _ = sweep((0,), task="gsm8k", checkpoint="abcdef0123")
    text = text_of(rows + other)
    for wanted in (
        "word_problems, test: n = 2 seeds x 40",
        "gsm8k, test: n = 40",
    ):
        assert wanted in text
    lines = [line for line in text.splitlines() if line.strip()]
    top = next(i for i, line in enumerate(lines) if "threshold 0.9" in line)
    assert lines[top].split() == ["threshold", "0.9", "25.0", "62.5", "80.0"]
    assert lines[top + 2].split() == ["NFE", "1.00", "NFE", "1.65", "NFE", "1.98"]
    low, high = wilson(32, N)
    assert lines[top + 1].split()[-1] == f"{100 * low:.1f}–{100 * high:.1f}"
    assert max(len(line.rstrip()) for line in text_of(rows, width=80).splitlines()) <= 80


def test_figure() -> None:
    rows, _ = sweep()
    other, _ = sweep((0,), split="validation")
    figure = frontier_figure(rows + other)
    assert isinstance(figure, Figure)
    hasty = [replace(row, nfe_mean=1.25) if (row.policy, row.T) == ("threshold", 4) else row for row in rows]
    assert [bars[0].get_xdata().tolist() for bars in frontier_figure(hasty).axes[0].containers][2] == [1.0, 1.25, 1.65]
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "word_problems, test: n = 2 seeds x 40", "word_problems, validation: n = 40",
    ]  # fmt: skip
    axis = figure.axes[0]
    containers = {str(container.get_label()): container for container in axis.containers}
    assert list(containers) == ["iid", "top margin", "threshold 0.9"]
    line = containers["threshold 0.9"][0]
    assert list(line.get_xdata()) == pytest.approx([1.0, 66 / 40, 79 / 40])  # NFE as counted, not T
    assert list(line.get_ydata()) == pytest.approx([25.0, 62.5, 80.0])
    assert (line.get_linestyle(), line.get_markerfacecolor()) == ("--", "white")
    assert containers["iid"][0].get_linestyle() == "-"
    (bars,) = containers["threshold 0.9"][2]
    low, high = wilson(32, N)
    assert bars.get_segments()[-1][:, 1] == pytest.approx([100 * low, 100 * high])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(containers)
    for many in (12, 40):
        names = [replace(row, policy=f"p{i}") for i in range(many) for row in rows[:1]]
        crowded = frontier_figure(names)
        crowded.draw_without_rendering()
        legend = crowded.legends[0].get_window_extent()
        assert crowded.bbox.y0 <= legend.y0
        assert legend.y1 <= crowded.bbox.y1


@pytest.mark.parametrize("nfe", [1.0, 3.0, 21.6, 28.3])
def test_numbers_along_the_axis_of_a_single_budget(nfe: float) -> None:
    row = replace(sweep((0,))[0][0], T=50, nfe_mean=nfe)
    axis = frontier_figure([row, replace(row, policy="other", nfe_mean=1.02 * nfe)]).axes[0]
    low, high = axis.get_xlim()
    assert sum(low <= tick <= high for tick in axis.get_xticks()) >= 2
    assert low <= nfe <= 1.02 * nfe <= high


@pytest.mark.filterwarnings("error")
def test_nothing_solved(tmp_path: Path) -> None:
    rows, _ = sweep((0,))
    nothing = [replace(row, correct=0, tokens_per_forward=0.0) for row in rows]
    path = write_report([save(tmp_path, nothing, [])], tmp_path)
    assert "No two policies that compete have per-problem outcomes in common." in path.read_text()


def test_files_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, outcomes = sweep()
    run = save(tmp_path / "a", rows, outcomes)
    report([str(run)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run / "report.md")
    assert "threshold 0.9" in printed
    assert sorted(path.name for path in run.iterdir()) == [
        "equal_nfe.csv", "frontier.csv", "frontier.png", "frontier.svg", "outcomes.csv", "paired.csv", "report.md",
    ]  # fmt: skip
    assert read_rows(run / "frontier.csv") == rows
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")
    text = (run / "report.md").read_text()
    for wanted in [
        "## word_problems, test: n = 2 seeds x 40",
        "task `word_problems`, split `test`, checkpoint `1f0c9a3e77`",
        "n = 40 problems per cell, seeds 0, 1, step budgets T = 1, 2, 4",
        "on `cpu`, commit `abc1234`",
        "`end_of_sequence` = as_tokens, `token_temperature` = 0",
        "left out: 3 problems",
        "**80.0** [65.2, 89.5] @1.98",
        "| threshold 0.9 @1.98 against top margin @4.00 | 4 | +5.0 | 4 | 0 | 80 | 0.125 | 0.500 |",
        "| 23 | 0 | 80 | 5e-07 | 1e-03 |",  # against IID, twice the smaller p of two
        "| threshold 0.9, T=4 @1.98, max 3 | @Max = 3 | top margin, T=4 @4.00 | +5.0 | 4 | 0 | 80 |",
        "y_max = 80.0 %",
    ]:
        assert wanted in text
    # A single point within the tolerance: 32 solved, at T=4, 12 * 40 tokens in 79 evaluations.
    assert f"| threshold 0.9 | {80 * 480 / 79:.1f} | 6.08–12.00 | 1 of 3 |" in text
    picture = (run / "frontier.svg").read_bytes()
    report([str(run)])
    assert (run / "frontier.svg").read_bytes() == picture


def test_every_panel_says_what_was_run_in_it() -> None:
    parts = [sweep((0,))[0], sweep((0, 1), split="hard", checkpoint="abcdef0123")[0]]
    slower = [replace(row, seconds=2.0, device="gpu", commit="def5678", left_out=0) for row in parts[1]]
    said = [
        [line for line in report_markdown(rows, {}).splitlines() if line.startswith("* ")]
        for rows in (parts[0], slower, [*parts[0], *slower])
    ]
    assert said[2] == said[0] + said[1]
    assert said[1][2] == "* 18 cells, 42 forward passes in 36 s on `gpu`, commit `def5678`"
    versions = ["torch 2.9.0+cpu", "torch 2.9.0+cpu | torch 2.13.0+cu130", ""]
    rows = [replace(row, software=known) for row, known in zip(slower, versions, strict=False)]
    assert "commit `def5678`, `torch 2.9.0+cpu` + `torch 2.13.0+cu130`\n" in report_markdown(rows, {})


def test_points_count_down_to_five_below_the_least_parallel_one() -> None:
    rows = [row for row in sweep((0,))[0] if row.policy == "iid"]  # 25.0 and 35.0 % with one and two steps
    text = report_markdown([replace(row, correct=12) if row.T == 4 else row for row in rows], {})
    assert "| 3.00–12.00 | 3 of 3 |" in text
    text = report_markdown([replace(row, correct=13) if row.T == 4 else row for row in rows], {})
    assert "| 3.00–12.00 | 2 of 3 |" in text


def test_one_seed_needs_no_second_p(tmp_path: Path) -> None:
    text = write_report([save(tmp_path / "a", *sweep((0,)))], tmp_path / "out").read_text()
    assert "one vote per problem" not in text


def test_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, outcomes = sweep((0,))
    more_rows, more_outcomes = sweep((0, 1))
    slower = [replace(row, seconds=9.0, device="gpu") for row in more_rows]
    runs = [save(tmp_path / "a", rows, outcomes), save(tmp_path / "b", slower, more_outcomes)]
    report([str(run) for run in runs])
    path = tmp_path / "report" / "report.md"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    combined = read_rows(path.parent / "frontier.csv")
    assert combined == rows + [row for row in slower if row.seed == 1]  # shared cells once, as first seen
    assert "| 4 | +5.0 | 4 | 0 | 80 |" in path.read_text()
    without = save(tmp_path / "c", [replace(row, split="validation") for row in rows], None)
    text = write_report([runs[0], without], tmp_path / "out").read_text()
    assert "> c has no outcomes.csv: its rows are missing from the paired tests." in text
    for own in (str(runs[1]), f"{tmp_path}/a/../b"):
        with pytest.raises(ValueError, match=r"out=.*b is one of the runs, whose own rows those of all would replace"):
            report([str(run) for run in runs], out=own)
    assert read_rows(runs[1] / "frontier.csv") == slower
    joined = tmp_path / "report"  # where several go unless told
    with pytest.raises(ValueError, match=r"out=.*report is one of the runs"):
        report([str(joined), str(runs[0])])
    cut = save(tmp_path / "d", rows, [row for row in outcomes if row.T != 4 or row.problem])
    text = write_report([cut], tmp_path / "out").read_text()
    lacking = sum(row.T == 4 for row in rows)
    assert f"> d has not all outcomes of {lacking} of its {len(rows)} rows: what is missing" in text


def test_a_report_is_kept_under_names_of_its_own(tmp_path: Path) -> None:
    made, kept = tmp_path / "made", tmp_path / "kept"
    kept.mkdir()
    write_report([save(tmp_path / "a", *sweep((0,)))], made)
    keep(made, kept)
    keep(made, kept, "_large")
    names = ("rows.csv", "paired.csv", "equal_nfe.csv", "frontier.png", "frontier.svg", "report.md")
    large = {name.replace(".", "_large."): name for name in names}
    assert {path.name for path in kept.iterdir()} == {*names, *large}
    assert (kept / "rows.csv").read_bytes() == (made / "frontier.csv").read_bytes()
    for name, plain in large.items():
        if not name.endswith(".md"):
            assert (kept / name).read_bytes() == (kept / plain).read_bytes()
    assert "(frontier.png)" in (kept / "report.md").read_text()
    assert "(frontier_large.png)" in (kept / "report_large.md").read_text(), "the figure beside it"


def test_errors(tmp_path: Path) -> None:
    rows, outcomes = sweep((0,))
    good = save(tmp_path / "good", rows, outcomes)
    (tmp_path / "bare").mkdir()
    empty = save(tmp_path / "empty", [], [])
    other = save(tmp_path / "other", [replace(rows[0], correct=rows[0].correct + 1), *rows[1:]], None)
    broken = save(tmp_path / "broken", [replace(rows[0], options="[]")], None)
    for runs, message in [
        ([], "name at least one run directory"),
        ([good, tmp_path / "gone"], "gone does not exist"),
        ([good / "frontier.csv"], rf"csv is a file: give the directory that it is in, {re.escape(str(good))}$"),
        ([tmp_path / "bare"], r"bare has no frontier\.csv"),
        ([empty], r"empty has no rows in frontier\.csv"),
        ([good, other], r"good and .*other disagree on iid .* T=1, seed 0.*: 10 of 40 against 11 of 40"),
        ([broken], "options must be a JSON object"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_report(runs, tmp_path / "out")
    assert not (tmp_path / "out" / "report.md").exists()
    with pytest.raises(ValueError, match="no rows"):
        frontier_figure([])


@pytest.mark.parametrize(
    "change", [{"n": N + 1}, {"nfe_mean": 1.5}, {"nfe_min": 0}, {"nfe_max": 2}, {"tokens_per_forward": 6.0}]
)
def test_runs_that_disagree_on_a_cell_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """On whatever was decoded, but for the rounding of another machine."""
    row = sweep((0,))[0][0]
    one = save(tmp_path / "one", [row], None)
    other = save(tmp_path / "other", [replace(row, **change)], None)
    with pytest.raises(ValueError, match=r"one and .*other disagree on iid"):
        read_runs([one, other])
    rounded = {name: math.nextafter(getattr(row, name), 99.0) for name in ("nfe_mean", "tokens_per_forward")}
    assert read_runs([one, save(tmp_path / "rounded", [replace(row, **rounded)], None)]).rows == [row]


def test_loads_neither_torch_nor_lightning() -> None:
    code = "import sys, lightning_mdm.report; print({'torch', 'lightning', 'matplotlib.pyplot'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_several_denoisers_share_a_panel_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = save(tmp_path / "first", *sweep((0,)))
    rows, outcomes = sweep((0,), checkpoint="abcdef0123")
    keep = [row for row in rows if row.policy == "iid"]
    ours = [replace(row, policy="autoregressive") for row in rows if row.policy == "top_margin" and row.T == 4]
    second = save(tmp_path / "second", keep + ours, [row for row in outcomes if row.policy == "iid"])
    report([str(first), str(second)], str(tmp_path / "apart"))
    apart = (tmp_path / "apart" / "report.md").read_text(encoding="utf-8")
    assert re.findall("\n## (.*)", apart) == [
        f"word_problems, test, checkpoint {checkpoint}: n = 40" for checkpoint in ("1f0c9a3e", "abcdef01")
    ]
    report([str(first), str(second)], str(tmp_path / "joined"), one_panel=True)
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    assert re.findall("\n## (.*)", text) == ["word_problems, test: n = 40"]
    assert "split `test`, checkpoint `1f0c9a3e77+abcdef0123`" in text
    names = ["iid", "top margin", "threshold 0.9"]
    named = [
        *(f"{name} [denoiser=first]" for name in names),
        "iid [denoiser=second]",
        "autoregressive [denoiser=second]",
    ]
    lines = text[text.index("### Frontier") : text.index("### Paired")].splitlines()
    assert [line.split(" |")[0] for line in lines if line.startswith("| ")][1:] == [f"| {name}" for name in named]
    assert "iid [denoiser=second]" in (tmp_path / "joined" / "paired.csv").read_text(encoding="utf-8")
    assert read_rows(tmp_path / "joined" / "frontier.csv") == read_rows(tmp_path / "apart" / "frontier.csv")
    alike = save(tmp_path / "more" / "first", keep + ours, [])
    report([str(first), str(alike)], str(tmp_path / "joined"), one_panel=True)
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    assert "| iid [denoiser=more/first] |" in text, "as much of the path as tells them apart"
    net = [save(tmp_path / "net" / split, [replace(r, split=split) for r in keep], []) for split in ("hard", "test")]
    report([str(first), *map(str, net)], str(tmp_path / "joined"), one_panel=True)
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    assert "| iid [denoiser=net] |" in text, "what holds all that was read of one"
    both = save(tmp_path / "both", [*keep, *(replace(row, checkpoint="0123456789") for row in keep)], [])
    report([str(first), str(both)], str(tmp_path / "joined"), one_panel=True)
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    for name in ("first", "abcdef01", "01234567"):
        assert f"| iid [denoiser={name}] |" in text, "a directory of two names neither"
    cut = [replace(row, n=N - 1) if row.T == 4 else row for row in rows]
    assert together(cut, outcomes, {}) == (cut, outcomes), "one alone may have decoded fewer in some cells"
    fewer = save(tmp_path / "fewer", [replace(row, n=N - 1) for row in keep], [])
    with pytest.raises(ValueError, match=rf"decoded {N - 1} and {N} test problems of word_problems"):
        report([str(first), str(fewer)], str(tmp_path / "no"), one_panel=True)


def test_every_policy_has_a_look_of_its_own_whatever_else_is_drawn() -> None:
    policies = [kind().name for kind in ALL_POLICIES]
    alone = {name: looks([(name, name)])[name] for name in policies}
    assert len({(look.colour, look.marker) for look in alone.values()}) == len(policies)
    assert len({look.colour for look in alone.values()}) == len(policies), "while there is one option of each"
    assert [name for name, look in alone.items() if look.strong] == ["learned"]
    assert looks((name, name) for name in policies) == alone
    assert looks((name, name) for name in reversed(policies)) == alone
    assert looks((f"{name}, shown", name) for name in policies[::3]) == {
        f"{name}, shown": alone[name] for name in policies[::3]
    }
    assert alone["iid"] == Look(GREY, "o")
    assert BLACK not in {look.colour for look in alone.values()}, "the optimum's"


def test_a_policy_of_which_nothing_is_known_has_a_look_that_is_left() -> None:
    policies = [kind().name for kind in ALL_POLICIES]
    mine = looks([("mine", "mine")])["mine"]
    with_all = looks([*((name, name) for name in policies), ("mine", "mine"), ("another", "another")])
    assert with_all["mine"] == mine, "by its name alone"
    many = [*policies, *(f"own_{i}" for i in range(len(LEFT) * len(MARKERS)))]
    found = looks((name, name) for name in many)
    assert found == looks((name, name) for name in sorted(many)), "not by its row"
    assert len({(look.colour, look.marker) for look in found.values()}) == len(many)
    assert not {found[name].colour for name in policies} & {found[name].colour for name in many[len(policies) :]}
    assert len(looks((name, name) for name in [*many, "one", "more"])) == len(many) + 2


@pytest.mark.parametrize("policy", ["learned", "confidence_threshold", "mine"])
@pytest.mark.parametrize("n", [2, 4, 7])
def test_options_of_a_policy_share_its_hue(policy: str, n: int) -> None:
    (alone,) = looks([(policy, policy)]).values()
    options = list(looks([("iid", "iid"), *((f"{policy} {i}", policy) for i in range(n))]).values())[1:]
    assert options[0] == alone
    assert len({look.colour for look in options}) == len({look.marker for look in options}) == n
    hues, shades = zip(*(rgb_to_hsv(to_rgb(look.colour))[[0, 2]] for look in options), strict=True)
    assert list(hues) == pytest.approx([hues[0]] * n, abs=0.01)
    assert list(shades) == sorted(shades, reverse=True)
    assert {look.strong for look in options} == {policy == "learned"}


def test_figures_draw_a_policy_alike_and_the_learned_one_in_front() -> None:
    rows = [replace(row, policy="learned", options="{}") for row in sweep((0,))[0] if row.policy == "iid"]
    others = [row for row in sweep((0,))[0] if row.policy != "threshold"]

    def drawn(shown: list[Row]) -> dict[str, tuple[str, str, float, float]]:
        lines = {str(bars.get_label()): bars[0] for bars in frontier_figure(shown).axes[0].containers}
        return {
            name: (line.get_color(), line.get_marker(), line.get_linewidth(), line.get_zorder())
            for name, line in lines.items()
        }

    first = drawn([*rows, *others])
    assert drawn([*others, *rows]) == first
    assert drawn(rows)["learned"] == first["learned"]
    assert all(first["learned"][2:] > first[name][2:] for name in ("iid", "top margin"))
    assert first["learned"][3] > max(first[name][3] for name in ("iid", "top margin"))
    assert first["iid"][:2] == (GREY, "o")


def test_what_decoded_different_problems_is_not_compared(tmp_path: Path) -> None:
    """Even if there are as many, under the same name, and no cell is in both."""
    rows, outcomes = sweep((0,))
    theirs = [replace(row, problems="0badcafe") for row in rows if row.policy == "iid"]
    ours = [replace(row, problems="5eedf00d") for row in rows if row.policy != "iid"]
    one, other = save(tmp_path / "one", theirs, outcomes), save(tmp_path / "other", ours, outcomes)
    message = "one and .*other decoded different test problems of word_problems"
    with pytest.raises(ValueError, match=message):
        write_report([one, other], tmp_path / "out")
    second = save(tmp_path / "second", [replace(row, checkpoint="abcdef0123") for row in ours], [])
    report([str(one), str(second)], str(tmp_path / "apart"))
    with pytest.raises(ValueError, match="the runs decoded different test problems of word_problems"):
        report([str(one), str(second)], str(tmp_path / "joined"), one_panel=True)
    unknown = save(tmp_path / "unknown", [row for row in rows if row.policy != "iid"], outcomes)
    write_report([unknown, one], tmp_path / "out")
    assert {row.problems for row in read_rows(tmp_path / "out" / "frontier.csv")} == {"", "0badcafe"}
