"""Denoisers of one recipe joined as the seeds of one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lightning_mdm.outcomes import read_rows, write_rows
from lightning_mdm.report.seeds import join_seeds, without_selector
from runs import REPOSITORY


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
    expected = sorted((r.policy, r.T, r.seed, r.correct, without_selector(r.options)) for r in rows)
    assert sorted((r.policy, r.T, r.seed, r.correct, r.options) for r in joined) == expected


def test_other_options_stay_in_the_form_of_rows() -> None:
    assert without_selector('{"price": 2.0, "selector": "ab", "beta": 0.5}') == '{"beta":0.5,"price":2}'
