"""What orders cost and when they unmask: rows, points, figures and table, small enough to check by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lightning_mdm.outcomes import OrderRow, read_order_rows, write_order_rows
from lightning_mdm.report import (
    HeatmapPanel,
    heatmap_figure,
    order_nats_figure,
    order_nats_table,
    report_order_nats,
)
from lightning_mdm.report.looks import BLACK, looks
from lightning_mdm.report.order_heatmap import legible
from lightning_mdm.report.order_points import order_points
from lightning_mdm.report.panels import optimum_curve
from lightning_mdm.report.points import Panel

pytestmark = pytest.mark.draws

ROW = OrderRow(
    task="hop_chain", split="test", checkpoint="1f0c9a3e77aa", policy="iid", options="{}", T=2, seed=0, n=10, nats=25.5,
    nats_sem=0.25, nats_per_token=0.8, nfe_mean=2.0, nfe_min=2, nfe_max=2, optimum=18.9, device="cpu", commit="abc",
    adaptive=False,
)  # fmt: skip
THRESHOLD = replace(
    ROW,
    policy="confidence_threshold",
    options='{"threshold":0.9}',
    nats=28.0,
    nats_sem=0.5,
    nfe_mean=1.5,
    adaptive=True,
)
ROWS = [
    replace(row, T=T, optimum=optimum, nats=row.nats / T)
    for row in (ROW, THRESHOLD)
    for T, optimum in ((2, 18.9), (4, 16.6))
]


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [*ROWS, replace(ROW, optimum=None, nats_sem=None), replace(ROW, nats=math.inf)]
    write_order_rows(tmp_path / "order_nats.csv", rows)
    assert read_order_rows(tmp_path / "order_nats.csv") == rows
    text = (tmp_path / "order_nats.csv").read_text(encoding="utf-8")
    (tmp_path / "order_nats.csv").write_text(text.replace("18.9", "much"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: column optimum must be float \| None, got 'much'"):
        read_order_rows(tmp_path / "order_nats.csv")


def test_seeds_are_pooled() -> None:
    (point,) = order_points([ROW, replace(ROW, seed=1, nats=24.5, nats_sem=0.75, nfe_mean=1.0)])
    assert (point.nats, point.sem, point.nfe_mean, point.n, point.seeds) == (25.0, 0.5, 1.5, 10, 2)
    others = [replace(ROW, **change) for change in ({"checkpoint": "2e"}, {"split": "hard"}, {"task": "markov_chain"})]
    points = order_points([ROW, *others])
    assert [point.panel for point in points] == [Panel(row.task, row.split, row.checkpoint) for row in (ROW, *others)]
    (alone,) = order_points([replace(ROW, nats_sem=None)])
    assert math.isnan(alone.sem)
    with pytest.raises(ValueError, match="there are no rows of what orders cost"):
        order_points([])
    with pytest.raises(ValueError, match=rf"{ROW.task}.* at T={ROW.T} occurs twice with one seed \(seeds \[0, 0\]\)"):
        order_points([ROW, replace(ROW, nats=24.5)])


def test_seeds_of_fewer_problems_weigh_less() -> None:
    (point,) = order_points([ROW, replace(ROW, seed=1, n=30, nats=27.5, nats_sem=None, nfe_mean=4.0)])
    assert (point.nats, point.sem, point.nfe_mean, point.n) == (27.0, 0.25, 3.5, 30)


def test_the_least_at_every_budget_is_bold() -> None:
    console = Console(width=200, force_terminal=True)
    with console.capture() as captured:
        console.print(order_nats_table(ROWS))
    for nats, bold in (("12.75", True), ("6.38", True), ("14.00", False), ("7.00", False)):
        assert (f"\x1b[1m{nats}" in captured.get()) == bold


def test_the_optimum_is_a_curve_over_the_budget() -> None:
    assert optimum_curve(order_points(ROWS)) == {2: 18.9, 4: 16.6}
    assert optimum_curve(order_points([replace(ROW, optimum=None)])) == {}


def test_the_figure_has_a_line_per_policy_and_a_black_optimum() -> None:
    (axis,) = order_nats_figure(ROWS).axes
    labels = axis.get_legend_handles_labels()[1]
    assert labels == ["iid", "confidence threshold 0.9", "optimum"]
    lines = [container.lines[0] for container in axis.containers]
    assert BLACK == "#000000" not in {look.colour for look in looks((str(n), str(n)) for n in range(99)).values()}
    assert [list(line.get_xdata()) for line in lines] == [[2.0, 2.0], [1.5, 1.5], [2, 4]]
    assert [line.get_color() == "#000000" for line in lines] == [False, False, True]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "-"]
    two = order_nats_figure([*ROWS, replace(ROW, split="validation", optimum=None, nats=math.inf)])
    assert [axis.get_title(loc="left") for axis in two.axes] == [
        f"hop_chain, {split}: n = 10" for split in ("test", "validation")
    ]


def test_the_table_ends_with_the_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(order_nats_table(ROWS))
    lines = [line.split() for line in captured.get().splitlines() if line.strip()]
    assert lines[0] == ["hop_chain,", "test:", "n", "=", "10"]
    assert lines[1] == ["policy", "T=2", "T=4"]
    assert [line for line in lines if line[0] in ("iid", "optimum")] == [
        ["iid", "12.75", "6.38"],
        ["optimum", "18.90", "16.60"],
    ]
    capsys.readouterr()
    many = [replace(row, T=row.T + 2 * k) for row in ROWS for k in range(0, 20, 2)]
    report_order_nats(many, tmp_path)
    assert "confidence threshold 0.9 " in capsys.readouterr().out, "not folded where there is no width to keep to"
    assert {path.name for path in tmp_path.iterdir()} == {"order_nats.png", "order_nats.svg"}


def test_shares_by_hand() -> None:
    panel = HeatmapPanel("problem 3", ["4", "7"], [[1, 2], [1, 1], [3, 1], [1, 2]])
    assert panel.shares(3) == [[0.75, 0.5], [0.0, 0.5], [0.25, 0.0]]
    figure = heatmap_figure([panel, panel], 3)
    first = figure.axes[0]
    assert first.get_title(loc="left") == "problem 3"
    assert [label.get_text() for label in first.get_xticklabels()] == ["4", "7"]
    assert first.images[0].get_array().tolist() == panel.shares(3)  # type: ignore[union-attr]
    assert first.images[0].get_extent() == [-0.5, 1.5, 0.5, 3.5]
    with pytest.raises(ValueError, match="there are no orders to draw"):
        heatmap_figure([], 3)


def test_any_token_is_a_legible_label() -> None:
    assert [legible(text) for text in ("7", " eggs", " ", "\n", "$x$", "漢", "é", "·", "\t")] == [
        "7", " eggs", "␣", "\\n", r"\$x\$", "?", "é", "·", "?",
    ]  # fmt: skip
    labels = [" ", "\n", "$x$", "漢", "_{", "\\frac"]
    heatmap_figure([HeatmapPanel("a $ b", labels, [[1] * 6])], 1).canvas.draw()  # a missing glyph would be a warning
