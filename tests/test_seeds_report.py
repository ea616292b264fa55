"""Denoisers of one recipe joined as the seeds of one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_mdm.outcomes import (
    ORDER_NATS,
    OutcomeRow,
    Row,
    read_order_rows,
    read_outcomes,
    read_rows,
    write_order_rows,
    write_rows,
)
from lightning_mdm.report.paired import solved_pairs
from lightning_mdm.report.points import pool_seeds
from lightning_mdm.report.seeds import join_seeds, with_selector
from runs import REPOSITORY
from test_order_report import ROW
from test_report import POLICIES, N, save, sweep


def test_every_denoiser_becomes_a_seed(tmp_path: Path) -> None:
    rows = [row for row in read_rows(REPOSITORY / "experiments/word_problems_order/rows.csv") if row.seed < 2]
    for row in rows:
        folder = tmp_path / f"seed_{row.seed}"
        folder.mkdir(exist_ok=True)
    for seed, checkpoint in ((0, "aa"), (1, "bb")):
        own = [row for row in rows if row.seed == seed]
        options = [{**json.loads(row.options), "selector": checkpoint} for row in own]
        write_rows(
            tmp_path / f"seed_{seed}" / "frontier.csv",
            [
                replace(row, seed=0, checkpoint=checkpoint, options=json.dumps(o))
                for row, o in zip(own, options, strict=True)
            ],
        )
    path = join_seeds({seed: [tmp_path / f"seed_{seed}"] for seed in (0, 1)}, tmp_path / "joined")
    joined = read_rows(path / "frontier.csv")
    assert {row.checkpoint for row in joined} == {"aa+bb"}
    expected = sorted((r.policy, r.T, r.seed, r.correct, with_selector(r.options, None)) for r in rows)
    assert sorted((r.policy, r.T, r.seed, r.correct, r.options) for r in joined) == expected


def test_outcomes_and_costs_are_those_of_the_seed(tmp_path: Path) -> None:
    """Of all sweeps of a denoiser, each of which had the same seed of its noise."""
    parts: dict[int, list[Path]] = {3: [], 5: []}
    for seed, checkpoint in ((3, "aa"), (5, "bb")):
        found = sweep((0,), checkpoint=checkpoint)
        options = json.dumps({"selector": checkpoint, "threshold": 0.9})
        rows: list[Row] = [replace(row, options=options) for row in found[0]]
        outcomes: list[OutcomeRow] = [replace(row, options=options) for row in found[1]]
        for policy, *_ in POLICIES:
            folder = tmp_path / f"{policy}_{seed}"
            save(folder, [r for r in rows if r.policy == policy], [o for o in outcomes if o.policy == policy])
            write_order_rows(folder / ORDER_NATS, [replace(ROW, policy=policy, checkpoint=checkpoint, options=options)])
            parts[seed].append(folder)
    path = join_seeds(parts, tmp_path / "joined")
    solved = solved_pairs(read_outcomes(path / "outcomes.csv"))
    points = pool_seeds(read_rows(path / "frontier.csv"))
    assert len(points) == len(solved) == 3 * len(POLICIES)
    for point in points:
        assert point.seeds == (3, 5)
        assert solved[point.panel, point.policy, point.options, point.T].problems == {
            (seed, problem) for seed in (3, 5) for problem in range(N)
        }
    costs = [(row.policy, row.seed, row.checkpoint, row.options) for row in read_order_rows(path / ORDER_NATS)]
    assert costs == [(policy, seed, "aa+bb", '{"threshold":0.9}') for seed in (3, 5) for policy, *_ in POLICIES]


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "run", *sweep((0,)))
    write_order_rows(tmp_path / "run" / ORDER_NATS, [replace(ROW, checkpoint="01d")])
    path = join_seeds({0: [tmp_path / "run"]}, tmp_path / "joined")
    assert not (path / ORDER_NATS).exists()
    assert capsys.readouterr().out.startswith("note: run has rows of other weights in order_nats.csv")


def test_other_options_stay_in_the_form_of_rows() -> None:
    options = '{"price": 2.0, "selector": "ab", "beta": 0.5}'
    assert with_selector(options, None) == '{"beta":0.5,"price":2}'
    assert with_selector(options, "mine") == '{"beta":0.5,"price":2,"selector":"mine"}'
    assert with_selector('{"threshold": 0.9}', "mine") == '{"threshold":0.9}'  # a heuristic has none
