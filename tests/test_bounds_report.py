"""Bounds of orders: rows, points, figure and table, small enough to check by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from rich.console import Console

from lightning_mdm.outcomes import (
    ORDER_BOUNDS,
    BoundRow,
    read_bound_rows,
    write_bound_rows,
)
from lightning_mdm.report import order_bounds_figure, order_bounds_table, report_order_bounds
from lightning_mdm.report.bound_points import bound_points
from lightning_mdm.report.looks import BLACK, KNOWN
from lightning_mdm.report.seeds import join_seeds
from test_report import save, sweep

pytestmark = pytest.mark.draws

IID = BoundRow(
    task="hop_chain", split="test", data="aa", checkpoint="1f0c9a3e77aa", policy="iid", options="{}", T=2, seed=0,
    samples=8, n=10, bound_nats=26.0, bound_nats_sem=0.25, importance_weighted_nats=25.0,
    importance_weighted_nats_sem=0.5, token_nats=24.0, order_kl_nats=0.0, price_nats=2.0, bound_nats_per_token=0.8,
    steps_of_q=2.0, optimum=18.0, device="cpu", commit="abc",
)  # fmt: skip
OPTIONS = '{"beta":1,"posterior":"%s","price":%s,"rule":"sampled","selector":"%s"}'
LEARNED = replace(IID, policy="learned", options=OPTIONS % ("cc", 0, "bb"), bound_nats=22.0)
PRICED = replace(LEARNED, options=OPTIONS % ("cc", 0.5, "bb"), T=4, optimum=16.0, bound_nats=21.0)
ROWS = [IID, replace(IID, T=4, optimum=16.0, bound_nats=20.0), LEARNED, replace(LEARNED, T=4, optimum=16.0), PRICED]


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / ORDER_BOUNDS
    rows = [
        *ROWS, replace(IID, optimum=None, bound_nats_sem=None, importance_weighted_nats_sem=None),
        replace(IID, bound_nats=math.inf, bound_nats_per_token=0.1 + 0.2),
    ]  # fmt: skip
    write_bound_rows(path, rows)
    assert read_bound_rows(path) == rows
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("18.0", "much"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: column optimum must be float \| None, got 'much'"):
        read_bound_rows(path)
    path.write_text(text.replace("samples", "trajectories"), encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: the columns must be task,split,data,checkpoint,policy"):
        read_bound_rows(path)


def test_seeds_are_pooled() -> None:
    other = replace(IID, seed=1, n=30, bound_nats=28.0, bound_nats_sem=0.75, importance_weighted_nats=27.0)
    (point,) = bound_points([IID, other])
    assert (point.nats, point.sem, point.importance_weighted_nats, point.size) == (27.5, 0.5, 26.5, (2, 30))
    (alone,) = bound_points([replace(IID, bound_nats_sem=None)])
    assert math.isnan(alone.sem)
    with pytest.raises(ValueError, match="there are no rows of bounds"):
        bound_points([])
    with pytest.raises(ValueError, match=r"hop_chain.* at T=2 occurs twice with one seed \(seeds \[0, 0\]\)"):
        bound_points([IID, replace(IID, n=3)])


def test_the_figure_has_both_bounds_of_a_policy_and_price_over_the_budget_and_a_black_optimum() -> None:
    (axis,) = order_bounds_figure(ROWS).axes
    labels = axis.get_legend_handles_labels()[1]
    assert labels == ["iid", "learned price=0", "learned price=0.5", "optimum"]
    bounds = [container.lines[0] for container in axis.containers]
    assert [list(line.get_xdata()) for line in bounds] == [[2, 4], [2, 4], [4], [2, 4]]
    assert [list(line.get_ydata()) for line in bounds] == [[26.0, 20.0], [22.0, 22.0], [21.0], [18.0, 16.0]]
    assert [line.get_linestyle() for line in bounds] == ["-"] * 4
    assert bounds[-1].get_color() == BLACK
    assert [to_rgb(line.get_color()) for line in bounds[:2]] == [to_rgb(KNOWN[name][0]) for name in ("iid", "learned")]
    (bars,) = axis.containers[0].lines[2]
    assert bars.get_segments()[0][:, 1].tolist() == [25.75, 26.25]
    tighter = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in tighter] == [[25.0, 25.0], [25.0, 25.0], [25.0]]
    assert [line.get_color() for line in tighter] == [line.get_color() for line in bounds[:3]]
    assert all(line.get_alpha() < 1.0 for line in tighter)
    two = order_bounds_figure([*ROWS, replace(IID, split="validation", optimum=None, bound_nats=math.inf)])
    assert [axis.get_title(loc="left") for axis in two.axes] == [
        f"hop_chain, {split}: n = 10" for split in ("test", "validation")
    ]
    assert not [line for line in two.axes[1].lines if line.get_color() == BLACK]


def test_the_table_ends_with_the_optimum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200, force_terminal=True)
    with console.capture() as captured:
        console.print(order_bounds_table(ROWS))
    for nats, bold in (("26.00", False), ("22.00", True), ("20.00", True), ("21.00", False)):
        assert (f"\x1b[1m{nats}" in captured.get()) == bold
    report_order_bounds([*ROWS, replace(IID, T=8, bound_nats_sem=None, optimum=None)], tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[:3] == [
        ["hop_chain,", "test:", "n", "=", "10"],
        ["policy", "T=2", "T=4", "T=8"],
        lines[2],
    ]
    assert ["iid", "26.00±0.25", "20.00±0.25", "26.00"] in lines
    assert ["iw", "25.00", "iw", "25.00", "iw", "25.00"] in lines
    assert ["optimum", "18.00", "16.00"] in lines
    assert {path.name for path in tmp_path.iterdir()} == {"order_bounds.png", "order_bounds.svg"}


def test_runs_are_joined_as_seeds(tmp_path: Path) -> None:
    """The bounds of a denoiser's order count once, however many sweeps there were; those of the most problems."""
    parts: dict[int, list[Path]] = {3: [], 5: []}
    for seed, name in ((3, "aa"), (5, "bb")):
        for k, n in enumerate((10, 30, 20)):
            folder = tmp_path / f"{seed}_{k}"
            save(folder, *sweep((0,), checkpoint=name))
            options = OPTIONS % (f"q{name}", 0, f"p{name}")
            rows = [replace(row, checkpoint=name, n=n) for row in (IID, replace(LEARNED, options=options))]
            write_bound_rows(folder / ORDER_BOUNDS, rows)
            parts[seed].append(folder)
    path = join_seeds(parts, tmp_path / "joined", selector="mine")
    found = read_bound_rows(path / ORDER_BOUNDS)
    assert {row.checkpoint for row in found} == {"aa+bb"}
    assert [(row.policy, row.seed, row.n, row.options) for row in found] == [
        (policy, seed, 30, options)
        for seed in (3, 5)
        for policy, options in (
            ("iid", "{}"), ("learned", '{"beta":1,"price":0,"rule":"sampled","selector":"mine"}'),
        )
    ]  # fmt: skip
    assert [point.size for point in bound_points(found)] == [(2, 30)] * 2
