"""Outcomes of decoding: what is recorded, a store that survives a kill, and the rows that are published.

Knows neither torch nor Lightning, so that reports read outcomes without loading either.
"""

from lightning_mdm.outcomes.bound_rows import ORDER_BOUNDS, BoundRow, read_bound_rows, write_bound_rows
from lightning_mdm.outcomes.commit import commit_hash, names_one_source
from lightning_mdm.outcomes.order_rows import ORDER_NATS, OrderRow, read_order_rows, write_order_rows
from lightning_mdm.outcomes.records import BatchRecord, Cell, Outcome, canonical_json
from lightning_mdm.outcomes.rows import (
    OutcomeRow,
    Row,
    frontier_row,
    outcome_rows,
    read_outcomes,
    read_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.outcomes.store import OutcomeStore
from lightning_mdm.outcomes.subproblem_rows import (
    COMMITS,
    SUBPROBLEMS,
    CommitRow,
    SubproblemRow,
    read_commits,
    read_subproblems,
    write_commits,
    write_subproblems,
)

__all__ = [
    "COMMITS",
    "ORDER_BOUNDS",
    "ORDER_NATS",
    "SUBPROBLEMS",
    "BatchRecord",
    "BoundRow",
    "Cell",
    "CommitRow",
    "OrderRow",
    "Outcome",
    "OutcomeRow",
    "OutcomeStore",
    "Row",
    "SubproblemRow",
    "canonical_json",
    "commit_hash",
    "frontier_row",
    "names_one_source",
    "outcome_rows",
    "read_bound_rows",
    "read_commits",
    "read_order_rows",
    "read_outcomes",
    "read_rows",
    "read_subproblems",
    "write_bound_rows",
    "write_commits",
    "write_order_rows",
    "write_outcomes",
    "write_rows",
    "write_subproblems",
]
