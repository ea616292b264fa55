"""The report of an analysis: rows, figure and table, small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lightning_mdm.metrics.statistics import wilson
from lightning_mdm.outcomes import (
    CommitRow,
    SubproblemRow,
    read_commits,
    read_subproblems,
    write_commits,
    write_subproblems,
)
from lightning_mdm.report import report_subproblems, subproblem_figure, subproblem_table
from lightning_mdm.report.looks import looks
from lightning_mdm.report.points import Panel
from lightning_mdm.report.subproblems import kind_colours, policies_of

pytestmark = pytest.mark.draws

LOSS = SubproblemRow(
    task="sudoku", split="easy", checkpoint="1f0c9a3e77aa", kind="lone single", ready=True, fewest_masked=1,
    most_masked=2, n=30, nats=0.1, nats_sem=0.01, accuracy=0.9, device="cpu", commit="abc",
)  # fmt: skip
LOSSES = [
    LOSS,
    replace(LOSS, fewest_masked=3, most_masked=4, n=10, nats=0.5, accuracy=0.5),
    replace(LOSS, kind="naked pair", n=10, nats=0.7, accuracy=0.6),
    replace(LOSS, kind="other cells first", ready=False, n=3, nats=2.0, nats_sem=None, accuracy=0.0),
]
COMMIT = CommitRow(
    task="sudoku", split="easy", checkpoint="1f0c9a3e77aa", policy="iid", options="{}", T=4, seed=0, problems=8,
    failed=3, kind="lone single", ready=True, fewest_masked=3, most_masked=4, n=30, wrong=1, first_mistakes=0.5,
    adaptive=False, device="cpu", commit="abc",
)  # fmt: skip
COMMITS = [
    COMMIT,
    replace(COMMIT, kind="other cells first", ready=False, n=10, wrong=3, first_mistakes=2.5),
    replace(COMMIT, seed=1, failed=1, fewest_masked=1, most_masked=2, n=10, wrong=1, first_mistakes=1.0),
    replace(COMMIT, policy="top_margin", failed=0, n=20, wrong=0, first_mistakes=0.0),
]
PANEL = Panel("sudoku", "easy", "1f0c9a3e77aa")


def text_of(losses: list[SubproblemRow], commits: list[CommitRow]) -> list[list[str]]:
    console = Console(width=150)
    with console.capture() as captured:
        console.print(subproblem_table(losses, commits))
    return [line.split() for line in captured.get().splitlines() if line.strip()]


def test_rows_come_back(tmp_path: Path) -> None:
    write_subproblems(tmp_path / "subproblems.csv", LOSSES)
    write_commits(tmp_path / "commits.csv", COMMITS)
    assert read_subproblems(tmp_path / "subproblems.csv") == LOSSES
    assert read_commits(tmp_path / "commits.csv") == COMMITS


def test_seeds_are_pooled() -> None:
    iid, margin = policies_of(PANEL, COMMITS)
    assert (iid.name, iid.n, iid.problems, iid.failed) == ("iid", 50, 16, 4)
    assert iid.total(lambda row: row.first_mistakes, "lone single") == 1.5
    assert iid.total(lambda row: row.first_mistakes, masked=3) == 3.0
    assert (margin.name, margin.problems, margin.failed) == ("top margin", 8, 0)
    budgets = [COMMIT, replace(COMMIT, T=8)]
    assert [c.name for c in policies_of(PANEL, budgets)] == ["iid, T=4", "iid, T=8"]
    assert policies_of(replace(PANEL, split="hard"), COMMITS) == []


def test_the_table_by_hand() -> None:
    lines = text_of(LOSSES, COMMITS)
    assert ["lone", "single", "yes", "40", "0.200", "80.0"] in lines
    assert ["other", "cells", "first", "no", "3", "2.000", "0.0"] in lines
    # 40 of 50 tokens are ready, 1.5 of 4 first mistakes, 5 tokens are wrong; of eight problems, decoded with two seeds
    # each, 6 on average have no mistake.
    assert ["iid", "50", "80.0", "(38)", "10.00", "75.0", "(40.9-92.9)"] in lines
    assert ["top", "margin", "20", "100.0", "0.00", "100.0", "(67.6-100.0)"] in lines
    assert any("mistake:" in line for line in lines), "what the policies' columns mean"
    assert not {"policy", "mistake:"} & {word for line in text_of(LOSSES, []) for word in line}


def test_a_seed_that_only_repeats_does_not_narrow_the_interval() -> None:
    one = text_of(LOSSES, COMMITS[:1])
    assert ["iid", "30", "100.0", "(17)", "3.33", "62.5", "(30.6-86.3)"] in one
    five = text_of(LOSSES, [replace(COMMIT, seed=seed) for seed in range(5)])
    assert ["iid", "150", "100.0", "(17)", "3.33", "62.5", "(30.6-86.3)"] in five


def test_the_figure_shows_the_numbers() -> None:
    figure = subproblem_figure(LOSSES, COMMITS)
    nats, wrong, unmasked, first, by_kind, by_masked = figure.axes
    curves = {c.get_label(): c[0].get_xydata().tolist() for c in nats.containers}  # type: ignore[union-attr]
    assert curves["lone single"] == [[1.5, 0.1], [3.5, 0.5]]
    assert curves["other cells first"] == [], "three tokens are no point"
    shares = {c.get_label(): c[0].get_xydata()[:, 1].tolist() for c in wrong.containers}  # type: ignore[union-attr]
    assert shares["naked pair"] == pytest.approx([40.0])
    bars = {
        (axis, c.get_label()): [segment[:, 1].tolist() for segment in c[2][0].get_segments()]
        for axis in (nats, wrong) for c in axis.containers
    }  # fmt: skip
    assert bars[nats, "lone single"] == [pytest.approx([0.09, 0.11]), pytest.approx([0.49, 0.51])]
    low, high = wilson(4, 10)
    assert bars[wrong, "naked pair"] == [pytest.approx([100 * low, 100 * high])]
    widths = [[bar.get_width() for bar in container] for container in unmasked.containers]  # type: ignore[union-attr]
    assert widths == [pytest.approx([80.0, 100.0]), [0.0, 0.0], pytest.approx([20.0, 0.0])]
    widths = [[bar.get_width() for bar in container] for container in first.containers]  # type: ignore[union-attr]
    assert widths == [pytest.approx([100 * 1.5 / 16, 0.0]), [0.0, 0.0], pytest.approx([100 * 2.5 / 16, 0.0])]
    assert [text.get_text() for text in by_kind.texts] == ["5.0", "", "30.0", "0.0", "", ""]
    assert nats.get_title(loc="left") == "sudoku, easy: n = 2 seeds x 8"
    colours = {line.get_label(): line.get_color() for line in by_masked.lines}
    assert colours == {
        name: look.colour for name, look in looks([("iid", "iid"), ("top margin", "top_margin")]).items()
    }
    lines = {line.get_label(): line.get_xydata().tolist() for line in by_masked.lines}  # type: ignore[union-attr]
    assert lines["iid"] == [[1.5, pytest.approx(100 / 16)], [3.5, pytest.approx(300 / 16)]]
    assert [legend.get_title().get_text() for legend in figure.legends] == ["kinds", "policies"]
    bare = subproblem_figure(LOSSES, []).axes
    assert [axis.get_title(loc="left") for axis in bare] == ["sudoku, easy", ""]
    assert len(subproblem_figure([*LOSSES, replace(LOSS, split="hard")], COMMITS).axes) == 8


def test_kinds_are_told_apart() -> None:
    colours = kind_colours(LOSSES)
    assert list(colours) == ["lone single", "naked pair", "other cells first"]
    assert len(set(colours.values())) == 3


def test_nothing_to_show() -> None:
    for show in (subproblem_figure, subproblem_table):
        with pytest.raises(ValueError, match="there are no subproblems"):
            show([], COMMITS)


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_subproblems(LOSSES, COMMITS, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"subproblems.png", "subproblems.svg"}
    assert "naked pair" in capsys.readouterr().out
