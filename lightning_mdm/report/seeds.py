"""Rows of several denoisers of one recipe as the seeds of one, so that reports pool and pair over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_mdm.outcomes import (
    ORDER_NATS,
    OrderRow,
    OutcomeRow,
    Row,
    canonical_json,
    read_order_rows,
    write_order_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report.runs import read_runs


def join_seeds(parts: Mapping[int, Sequence[Path]], path: Path) -> Path:
    """Write a run directory in which every denoiser is a seed, with what orders cost in nats where that is known.

    Args:
        parts: by seed, the run directories of its sweeps.
        path: where to write.
    """
    runs = {seed: read_runs(list(folders)) for seed, folders in parts.items()}
    checkpoint = "+".join(dict.fromkeys(found.rows[0].checkpoint for found in runs.values()))
    rows: list[Row] = []
    outcomes: list[OutcomeRow] = []
    costs: list[OrderRow] = []
    for seed, found in runs.items():
        for row in found.rows:
            rows.append(replace(row, checkpoint=checkpoint, seed=seed, options=without_selector(row.options)))
        for outcome in found.outcomes:
            options = without_selector(outcome.options)
            outcomes.append(replace(outcome, checkpoint=checkpoint, seed=seed, options=options))
        for file in (folder / ORDER_NATS for folder in parts[seed]):
            for cost in read_order_rows(file) if file.is_file() else ():
                options = without_selector(cost.options)
                costs.append(replace(cost, checkpoint=checkpoint, seed=seed, options=options))
    path.mkdir(parents=True, exist_ok=True)
    if costs:
        write_order_rows(path / ORDER_NATS, costs)
    write_rows(path / "frontier.csv", rows)
    write_outcomes(path / "outcomes.csv", outcomes)
    return path


def without_selector(options: str) -> str:
    """The options without the hash of the selector, which differs between denoisers."""
    kept = {key: value for key, value in json.loads(options).items() if key != "selector"}
    return canonical_json(kept)
