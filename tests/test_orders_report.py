"""What ``lightning report`` says of runs that know what their orders cost in nats, and their bounds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_mdm.outcomes import (
    ORDER_BOUNDS,
    ORDER_NATS,
    BoundRow,
    OrderRow,
    canonical_json,
    read_bound_rows,
    read_order_rows,
    read_rows,
    write_bound_rows,
    write_order_rows,
)
from lightning_mdm.report import keep, report, write_report
from lightning_mdm.report.bound_points import bound_points
from lightning_mdm.report.orders import read_orders
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.report.together import orders_together
from test_bounds_report import IID as BOUND
from test_bounds_report import LEARNED as LEARNED_BOUND
from test_order_report import ROW
from test_report import save, sweep

CHECKPOINT, TASK = "1f0c9a3e77", "word_problems"
COST = replace(ROW, task=TASK, checkpoint=CHECKPOINT, options='{"precision":"32-true"}')
COSTS = [
    COST,
    replace(COST, T=4, nats=20.5, optimum=16.6),
    replace(COST, policy="top_margin", nats=22.0, nats_sem=None),
]
BOUNDS = [replace(row, task=TASK, checkpoint=CHECKPOINT) for row in (BOUND, LEARNED_BOUND)]
FIGURES = {f"{stem}.{kind}" for stem in ("order_nats", "order_bounds") for kind in ("png", "svg")}


def run_of(
    folder: Path, costs: Sequence[OrderRow] = (), bounds: Sequence[BoundRow] = (), frontier: bool = True, **of: Any
) -> Path:
    """A run directory with these rows, and a frontier."""
    folder.mkdir(parents=True)
    if frontier:
        save(folder, *sweep((0,), **of))
    if costs:
        write_order_rows(folder / ORDER_NATS, costs)
    if bounds:
        write_bound_rows(folder / ORDER_BOUNDS, bounds)
    return folder


def names_in(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def table_of(text: str, section: str) -> list[str]:
    """The lines of the first table of a section."""
    lines = [*text[text.index(section) :].splitlines(), ""]
    return [line for line in lines[: lines.index("", lines.index("|---|---:|---:|"))] if line.startswith("|")]


def test_sections_tables_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = [*BOUNDS, replace(BOUNDS[0], T=4, bound_nats=21.0, optimum=16.0)]
    run, plain = run_of(tmp_path / "run", COSTS, bounds), run_of(tmp_path / "plain")
    report([str(plain)])
    without, shown = (plain / "report.md").read_text(encoding="utf-8"), capsys.readouterr().out
    assert not names_in(plain) & {*FIGURES, ORDER_NATS, ORDER_BOUNDS}
    before = {name: (run / name).read_bytes() for name in (ORDER_NATS, ORDER_BOUNDS)}
    report([str(run)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == str(run / "report.md")
    assert printed.startswith("\n".join(shown.splitlines()[:-1]))
    assert printed.index("accuracy %") < printed.index("25.50") < printed.index("26.00±0.25")
    text = (run / "report.md").read_text(encoding="utf-8")
    assert text.startswith(without.rstrip("\n")), "the frontier's part stays"
    assert names_in(run) >= FIGURES
    assert {name: (run / name).read_bytes() for name in before} == before
    costs = text.index("## What orders cost in nats\n\n![nats against mean NFE](order_nats.png)")
    assert costs < text.index("## Bounds of orders\n\n![bounds against the step budget](order_bounds.png)")
    assert table_of(text, "## What orders cost") == [
        "| policy | T=2 | T=4 |", "|---|---:|---:|",
        "| iid | 25.50 ± 0.25 @2.00 | **20.50** ± 0.25 @2.00 |", "| top margin | **22.00** @2.00 |  |",
        "| optimum | 18.90 | 16.60 |",
    ]  # fmt: skip
    assert table_of(text, "## Bounds of orders") == [
        "| policy | T=2 | T=4 |", "|---|---:|---:|",
        "| iid | 26.00 ± 0.25, iw 25.00 | **21.00** ± 0.25, iw 25.00 |", "| learned | **22.00** ± 0.25, iw 25.00 |  |",
        "| optimum | 18.00 | 16.00 |",
    ]  # fmt: skip
    for wanted in (
        "### word_problems, test: n = 10\n\n* task `word_problems`, split `test`, checkpoint `1f0c9a3e77`\n"
        "* n = 10 problems per cell, seeds 0, step budgets T = 2, 4\n* 3 cells on `cpu`, commit `abc`\n\n",
        "the importance-weighted bound, of 8 trajectories",
    ):
        assert wanted in text
    write_report([run], tmp_path / "swept")
    assert (tmp_path / "swept" / "report.md").read_text(encoding="utf-8") == without, "that of a sweep"


def test_rows_of_several_runs_are_joined_and_seeds_pooled(tmp_path: Path) -> None:
    second = [replace(row, seed=1, nats=row.nats + 1.0) for row in COSTS]
    runs = [run_of(tmp_path / "a", COSTS, BOUNDS), run_of(tmp_path / "b", [*second, COST], BOUNDS[:1])]
    report([str(run) for run in runs])
    joined = tmp_path / "report"
    assert read_order_rows(joined / ORDER_NATS) == [*COSTS, *second]
    assert read_bound_rows(joined / ORDER_BOUNDS) == BOUNDS
    text = (joined / "report.md").read_text(encoding="utf-8")
    assert "| iid | 26.00 ± 0.25 @2.00 | **21.00** ± 0.25 @2.00 |" in text
    assert "### word_problems, test: n = 2 seeds x 10" in text
    report([str(joined)])
    again = (joined / "report.md").read_text(encoding="utf-8")
    assert again[again.index("## What orders") :] == text[text.index("## What orders") :], "it is a run directory"


def test_joined_seeds_are_shown(tmp_path: Path) -> None:
    parts: dict[int, list[Path]] = {3: [], 5: []}
    for seed, name in ((3, "aa"), (5, "bb")):
        costs = [replace(row, checkpoint=name, nats=row.nats + seed) for row in COSTS]
        for k in range(2):  # both sweeps of a denoiser know the same
            parts[seed].append(run_of(tmp_path / f"{name}_{k}", costs, checkpoint=name))
    path = join_seeds(parts, tmp_path / "joined")
    assert len(read_order_rows(path / ORDER_NATS)) == 2 * len(COSTS)
    report([str(path)])
    text = (path / "report.md").read_text(encoding="utf-8")
    assert "| iid | 29.50 ± 0.25 @2.00 | **24.50** ± 0.25 @2.00 |" in text


def test_a_cell_of_several_runs_counts_once(tmp_path: Path) -> None:
    """That over the most problems, be they first or last, and of several devices the first."""
    more = replace(COST, n=30, nats=24.0)
    elsewhere = replace(COST, nats=COST.nats * (1 + 2e-4), device="gpu")
    longer = replace(BOUNDS[0], samples=16, importance_weighted_nats=24.0)
    for k, (costs, found) in enumerate((([COST, more], more), ([more, COST], more), ([COST, elsewhere], COST))):
        runs = [run_of(tmp_path / f"{k}{j}", [row]) for j, row in enumerate(costs)]
        assert read_orders(runs, read_rows(runs[0] / "frontier.csv")).costs == [found]
    runs = [run_of(tmp_path / f"bounds{j}", [], [row]) for j, row in enumerate((BOUNDS[0], longer))]
    assert read_orders(runs, read_rows(runs[0] / "frontier.csv")).bounds == [longer]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (ORDER_NATS, {"nats": 25.6}, r"disagree on what the order of iid .* at T=2, seed 0, .*: 25\.50 against 25\.60"),
        (ORDER_BOUNDS, {"bound_nats": 26.1}, r"disagree .*: 26\.00 against 26\.10 nats over 10 problems"),
        (ORDER_BOUNDS, {"importance_weighted_nats": 24.0}, "disagree on what the order of iid"),
    ],
)
def test_runs_that_disagree_are_refused(tmp_path: Path, name: str, change: dict[str, Any], message: str) -> None:
    runs = []
    for k, changed in enumerate(({}, change)):
        costs = [replace(COST, **changed)] if name == ORDER_NATS else []
        bounds = [replace(BOUNDS[0], **changed)] if name == ORDER_BOUNDS else []
        runs.append(run_of(tmp_path / f"run_{k}", costs, bounds))
    with pytest.raises(ValueError, match=rf"run_0 and .*run_1 {message}"):
        report([str(run) for run in runs])
    assert not (tmp_path / "report").exists()


def test_bounds_over_other_problems_are_left_out(tmp_path: Path) -> None:
    """Or over another encoding of them, of which a frontier knows nothing."""
    runs = [run_of(tmp_path / f"run_{k}", bounds=[replace(BOUNDS[0], T=2 + k, data=f"{k}")]) for k in (0, 1)]
    report([str(run) for run in runs])
    out = tmp_path / "report"
    assert read_bound_rows(out / ORDER_BOUNDS) == [replace(BOUNDS[0], data="0")]
    note = "run_1 has bounds over other test problems of word_problems than run_0, or over another encoding of them"
    assert f"> {note}: they are left out." in (out / "report.md").read_text(encoding="utf-8")


def test_rows_without_numbers_agree_with_themselves(tmp_path: Path) -> None:
    rows = [replace(BOUNDS[0], importance_weighted_nats=math.nan), replace(BOUNDS[0], T=4, bound_nats=2e-5)]
    other = [rows[0], replace(rows[1], bound_nats=2.01e-5)]
    runs = [run_of(tmp_path / f"run_{k}", bounds=bounds) for k, bounds in enumerate((rows, other))]
    for given in ([*runs, runs[0]], runs[:1]):
        found = read_orders(given, read_rows(runs[0] / "frontier.csv")).bounds
        assert [(row.T, row.bound_nats) for row in found] == [(2, 26.0), (4, 2e-5)]


def test_rows_of_an_earlier_selector_are_left_out(tmp_path: Path) -> None:
    without = sweep((0,))[0]
    options = canonical_json({**json.loads(without[0].options), "price": 0.1, "selector": "5e1"})
    frontier = [*without, replace(without[0], policy="learned", options=options)]
    mine, earlier = (replace(BOUNDS[1], options=f'{{"price":0.1,"selector":"{name}"}}') for name in ("5e1", "01d"))
    run = run_of(tmp_path / "run", bounds=[BOUNDS[0], mine, earlier])
    found = read_orders([run], frontier)
    assert found.bounds == [BOUNDS[0], mine]
    assert found.notes == ["run has rows of other weights in order_bounds.csv than in frontier.csv: they are left out."]
    assert read_orders([run], without).bounds == [BOUNDS[0], mine, earlier], "it names none"


def test_nothing_of_an_earlier_report_stays(tmp_path: Path) -> None:
    with_orders, plain = run_of(tmp_path / "orders", COSTS, BOUNDS), run_of(tmp_path / "plain")
    alone = run_of(tmp_path / "alone", COSTS, frontier=False)
    out = tmp_path / "out"
    report([str(with_orders)], str(out))
    assert names_in(out) >= {*FIGURES, ORDER_NATS, ORDER_BOUNDS}
    report([str(plain)], str(out))
    assert names_in(out) == {"frontier.csv", "frontier.png", "frontier.svg", "paired.csv", "equal_nfe.csv", "report.md"}
    report([str(alone)], str(out))
    assert names_in(out) == {ORDER_NATS, "order_nats.png", "order_nats.svg", "report.md"}
    kept = tmp_path / "kept"
    kept.mkdir()
    keep(out, kept, "_x")
    assert names_in(kept) == {"order_nats_x.csv", "order_nats_x.png", "order_nats_x.svg", "report_x.md"}


@pytest.mark.parametrize("left", ["outcomes.csv", "cells/T=1/cell.json", "sweep.yaml"])
@pytest.mark.parametrize("several", [False, True])
def test_a_directory_that_another_run_has_written_to_is_no_place_for_a_report(
    tmp_path: Path, left: str, several: bool
) -> None:
    """Be it one that has decoded nothing, or has not finished: its rows are its own."""
    run, other = run_of(tmp_path / "run"), tmp_path / "report"  # where several go unless told
    run_of(other, COSTS, BOUNDS, split="validation")
    if left != "outcomes.csv":
        (other / "outcomes.csv").unlink()
        (other / left).parent.mkdir(parents=True, exist_ok=True)
        (other / left).touch()
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    runs = [str(run), *([str(run_of(tmp_path / "second"))] if several else [])]
    out = None if several else f"{other}/../report"
    with pytest.raises(ValueError, match=rf"out=.*report holds {left.split('/')[0]}, as a run leaves it, .*; give ano"):
        report(runs, out)
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    report([str(other)], str(other))
    assert (other / "report.md").is_file(), "its own"


def test_rows_of_an_earlier_training_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = replace(COST, checkpoint="01d")
    run = run_of(tmp_path / "run", [old], BOUNDS)
    report([str(run)])
    text = (run / "report.md").read_text(encoding="utf-8")
    note = "run has rows of other weights in order_nats.csv than in frontier.csv: they are left out."
    assert f"> {note}" in text
    assert f"note: {note}" in capsys.readouterr().out
    assert "order_nats.png" not in text
    assert "order_bounds.png" in text
    assert read_order_rows(run / ORDER_NATS) == [old], "the run keeps them"
    other = run_of(tmp_path / "other", checkpoint="01d")
    report([str(run), str(other)], str(tmp_path / "out"))
    assert read_order_rows(tmp_path / "out" / ORDER_NATS) == [old], "another run is of these weights"


def test_runs_may_have_orders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As those of a law, whose sweeps decode nothing."""
    runs = [run_of(tmp_path / f"seed_{k}", [replace(COST, seed=k)], frontier=False) for k in (0, 1)]
    report([str(run) for run in runs])
    out = tmp_path / "report"
    assert names_in(out) == {"report.md", "order_nats.csv", "order_nats.png", "order_nats.svg"}
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Orders in nats\n\n## What orders cost in nats\n")
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "report.md")
    with_frontier = run_of(tmp_path / "decoded")
    report([str(runs[0]), str(with_frontier)], str(tmp_path / "both"))
    text = (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    assert "> seed_0 has no frontier.csv: it adds what orders cost alone." in text
    assert text.index("### Frontier") < text.index("## What orders cost in nats")
    nothing = run_of(tmp_path / "nothing", frontier=False)
    write_order_rows(nothing / ORDER_NATS, [])
    with pytest.raises(ValueError, match="nothing has no rows: finish its sweep first"):
        report([str(nothing)])


def test_policies_are_called_as_in_the_frontier(tmp_path: Path) -> None:
    """The options on which the frontier's policies differ are said, even if one alone has nats."""
    rows, _ = sweep((0,))
    iid = [row for row in rows if row.policy == "iid"]
    shared = {"end_of_sequence": "as_tokens", "beta": 1, "rule": "greedy"}
    learned = [
        replace(row, policy="learned", options=json.dumps({**shared, "price": price, "selector": selector}))
        for row in iid
        for price, selector in ((0, "s0"), (2, "s0"), (0, "s1"))
    ]
    run = tmp_path / "run"
    run.mkdir()
    save(run, [*iid, *learned], [])
    own = {"beta": 1, "price": 0, "selector": "s0"}
    cost = replace(COST, policy="learned", options=json.dumps({**own, "rule": "greedy"}))
    write_order_rows(run / ORDER_NATS, [cost])
    laws = [
        replace(LEARNED_BOUND, task=TASK, checkpoint=CHECKPOINT, options=json.dumps({**own, **of, "rule": "sampled"}))
        for of in ({"posterior": "p0"}, {"posterior": "p1", "selector": "s1"})
    ]
    write_bound_rows(run / ORDER_BOUNDS, laws)
    report([str(run)])
    frontier, costs, bounds = (run / "report.md").read_text(encoding="utf-8").split("\n## ")[1:]
    for name, sections in {"s0": (frontier, costs, bounds), "s1": (frontier, bounds)}.items():
        for section in sections:
            assert f"| learned price=0 [selector={name}] |" in section
    assert [point.name for point in bound_points(laws)] == ["learned [selector=s0]", "learned [selector=s1]"]
    again = [laws[0], replace(laws[0], options=laws[0].options.replace("p0", "p2"))]
    assert [point.name for point in bound_points(again)] == ["learned [posterior=p0]", "learned [posterior=p2]"]


def test_the_orders_of_two_tasks_are_called_alike(tmp_path: Path) -> None:
    """In all sections, whatever their selectors are; two of one task are told apart in all."""
    row, greedy, runs = sweep((0,))[0][0], {"price": 0, "rule": "greedy"}, []
    for task, selectors in {"hop_chain": ["5a"], "markov_chain": ["5b", "5c"]}.items():
        where, run = {"task": task, "checkpoint": f"of {task}"}, tmp_path / task
        of = [{"policy": "learned", "options": canonical_json({**greedy, "selector": name})} for name in selectors]
        run.mkdir()
        save(run, [replace(row, **where, **own) for own in of], [])
        write_order_rows(run / ORDER_NATS, [replace(COST, **where, **of[0])])
        options = {**json.loads(of[0]["options"]), "posterior": "90", "rule": "sampled"}
        write_bound_rows(run / ORDER_BOUNDS, [replace(BOUNDS[1], **where, options=canonical_json(options))])
        runs.append(run)
    report([str(run) for run in runs])
    sections = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for title in ("### Frontier", "## What orders cost", "## Bounds of orders"):
        section = sections[sections.index(title) :]
        found = dict.fromkeys(re.findall(r"\n\| (learned[^|]*) \|", section))
        assert list(found)[:2] == ["learned", "learned [selector=5b]"]


def test_several_denoisers_share_a_panel_where_asked(tmp_path: Path) -> None:
    other = "abcdef0123"
    theirs = [replace(row, checkpoint=other, nats=row.nats + 1.0) for row in COSTS[:2]]
    first, second = run_of(tmp_path / "first", COSTS, BOUNDS), run_of(tmp_path / "second", theirs, checkpoint=other)
    report([str(first), str(second)], str(tmp_path / "apart"))
    text = (tmp_path / "apart" / "report.md").read_text(encoding="utf-8")
    assert text.count("### word_problems, test, checkpoint ") == 2
    report([str(first), str(second)], str(tmp_path / "joined"), one_panel=True)
    text = (tmp_path / "joined" / "report.md").read_text(encoding="utf-8")
    costs, bounds = text.split("\n## ")[2:]
    assert f"checkpoint `{CHECKPOINT}+{other}`" in costs
    assert "| iid [denoiser=first] | 25.50" in costs
    assert "| iid [denoiser=second] | 26.50" in costs
    assert "| top margin [denoiser=first] |" in costs, "as the frontier calls it"
    assert "| iid [denoiser=first] |" in bounds, "likewise, though they are those of a single denoiser"
    assert f"checkpoint `{CHECKPOINT}`" in bounds
    for name in (ORDER_NATS, "frontier.csv"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes()
    fewer = run_of(tmp_path / "fewer", [replace(row, n=5) for row in theirs], checkpoint=other)
    report([str(first), str(fewer)], str(tmp_path / "out"), one_panel=True)
    costs = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").split("\n## ")[2]
    assert costs.count("### word_problems, test, checkpoint ") == 2, "what is of other problems stays apart"


def test_a_learned_order_is_called_by_its_denoiser_in_both(tmp_path: Path) -> None:
    """The rule by which it decodes is not that of its bounds."""
    row = sweep((0,))[0][0]
    greedy = [
        replace(row, policy="learned", options='{"price":0.1,"rule":"greedy"}', checkpoint=name)
        for name in (CHECKPOINT, "abc")
    ]
    bound = replace(BOUNDS[1], options='{"price":0.1,"rule":"sampled"}')
    (joined,) = orders_together([bound], greedy, {CHECKPOINT: "first"})
    assert json.loads(joined.options)["denoiser"] == "first"
    other = replace(greedy[1], policy="iid", options="{}")
    assert orders_together([bound], [greedy[0], other], {}) == [bound], "the only one with that policy"
    assert orders_together([bound], greedy[:1], {}) == [bound], "the only one"


def test_what_a_report_shows_of_orders_is_kept_with_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    run = run_of(tmp_path / "run", COSTS)
    report([str(run)])
    keep(run, kept, "_large")
    shown = {"order_nats_large.csv", "order_nats_large.png", "order_nats_large.svg"}
    assert {name for name in names_in(kept) if name.startswith("order")} == shown
    text = (kept / "report_large.md").read_text(encoding="utf-8")
    assert "(frontier_large.png)" in text
    assert "(order_nats_large.png)" in text
    write_report([run], run)
    keep(run, kept, "_small")
    assert not [name for name in names_in(kept) if name.startswith("order") and "small" in name]
