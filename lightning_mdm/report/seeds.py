"""Rows of several runs of one recipe as the seeds of one, so that reports pool and pair over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_mdm.outcomes import (
    ORDER_BOUNDS,
    ORDER_NATS,
    BoundRow,
    OrderRow,
    OutcomeRow,
    Row,
    canonical_json,
    write_bound_rows,
    write_order_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report.orders import read_orders
from lightning_mdm.report.runs import read_runs


def join_seeds(parts: Mapping[int, Sequence[Path]], path: Path, selector: str | None = None) -> Path:
    """Write a run directory in which every denoiser, or every order of one, is a seed.

    What orders cost in nats is joined, too, and so are their bounds, where they are known. All sweeps of a denoiser may
    have evaluated the same cells of them; they count once, those over the most problems.

    Args:
        parts: by seed, the run directories of its sweeps.
        path: where to write.
        selector: what the selectors are called in the rows, beside those of other recipes; they are left out where not
            given.

    Raises:
        ValueError: as ``read_runs`` or ``read_orders``.
    """
    runs = {seed: read_runs(list(folders)) for seed, folders in parts.items()}
    checkpoint = "+".join(dict.fromkeys(found.rows[0].checkpoint for found in runs.values()))
    rows: list[Row] = []
    outcomes: list[OutcomeRow] = []
    costs: list[OrderRow] = []
    bounds: dict[tuple[object, ...], BoundRow] = {}
    for seed, found in runs.items():
        for row in found.rows:
            rows.append(replace(row, checkpoint=checkpoint, seed=seed, options=with_selector(row.options, selector)))
        for outcome in found.outcomes:
            options = with_selector(outcome.options, selector)
            outcomes.append(replace(outcome, checkpoint=checkpoint, seed=seed, options=options))
        orders = read_orders(parts[seed], found.rows)
        for note in orders.notes:
            print(f"note: {note}", flush=True)
        for cost in orders.costs:
            options = with_selector(cost.options, selector)
            costs.append(replace(cost, checkpoint=checkpoint, seed=seed, options=options))
        for bound in orders.bounds:
            options = with_selector(bound.options, selector)
            joined = replace(bound, checkpoint=checkpoint, seed=seed, options=options)
            cell = (joined.task, joined.split, joined.policy, joined.options, joined.T, joined.seed)
            if cell not in bounds or bounds[cell].n < joined.n:
                bounds[cell] = joined
    path.mkdir(parents=True, exist_ok=True)
    if costs:
        write_order_rows(path / ORDER_NATS, costs)
    if bounds:
        write_bound_rows(path / ORDER_BOUNDS, bounds.values())
    write_rows(path / "frontier.csv", rows)
    write_outcomes(path / "outcomes.csv", outcomes)
    return path


def with_selector(options: str, selector: str | None) -> str:
    """The options with a name, or nothing, for the hash of the selector, which differs between denoisers.

    And without that of the approximate posterior, which does so, too.
    """
    kept = json.loads(options)
    kept.pop("posterior", None)
    if kept.pop("selector", None) is not None and selector is not None:
        kept["selector"] = selector
    return canonical_json(kept)
