"""Rows of ``order_nats.csv``: what the order of a policy costs in nats. One per policy, budget and seed.

Knows csv; knows nothing of decoding or figures. The fields of the dataclass are the columns of the file, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.outcomes.table import read_table, write_table

ORDER_NATS = "order_nats.csv"


@dataclass(frozen=True)
class OrderRow:
    """The cost of one policy's order at one budget.

    Args:
        task: name of the task.
        split: split evaluated.
        checkpoint: content hash of the denoiser's weights.
        policy: name of the unmasking policy.
        options: its parameters, the precision and a selector's hash, canonical JSON.
        T: step budget.
        seed: seed of the policy's noise.
        n: problems.
        nats: -log-likelihood of the true response along the policy's order, mean per sequence.
        nats_sem: standard error of that mean, over problems; empty of a single one.
        nats_per_token: the same nats, summed, over response tokens.
        nfe_mean: denoiser evaluations per problem, counted; ``nfe_min`` and ``nfe_max`` over problems.
        optimum: the least expected nats in T steps, empty where the task knows none. Of a Markov chain that of orders
            chosen in advance, which a policy that sees the tokens may undercut.
        device: device name.
        commit: source version.
        adaptive: whether the policy decides the number of steps; otherwise the budget does.
        software: versions, e.g. ``"torch 2.13.0, python 3.12.3"``; empty where they are not known.
    """

    task: str
    split: str
    checkpoint: str
    policy: str
    options: str
    T: int
    seed: int
    n: int
    nats: float
    nats_sem: float | None
    nats_per_token: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    optimum: float | None
    device: str
    commit: str
    adaptive: bool
    software: str = ""


def write_order_rows(path: str | Path, rows: Iterable[OrderRow]) -> None:
    """Writes ``order_nats.csv``, in one piece: readers never see half a file."""
    write_table(path, OrderRow, rows)


def read_order_rows(path: str | Path) -> list[OrderRow]:
    """Reads ``order_nats.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, OrderRow)
