"""Rows of ``order_bounds.csv``: the bounds of an order on -log p(x) in nats. One per policy, price and budget.

Knows csv; knows nothing of estimators or figures. The fields of the dataclass are the columns of the file, in this
order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.outcomes.table import read_table, write_table

ORDER_BOUNDS = "order_bounds.csv"


@dataclass(frozen=True)
class BoundRow:
    """The bounds of one order at one budget.

    Args:
        task: name of the task.
        split: split evaluated.
        data: 12 hexadecimal digits of the fingerprint of the split's problems and their encoding.
        checkpoint: content hash of the denoiser's weights.
        policy: ``learned``, the selector's law itself, or ``iid``.
        options: precision and a price, of the learned order also its other parameters and the hashes of selector and
            approximate posterior, canonical JSON.
        T: step budget.
        seed: 0, as the draws are always the same; of runs joined as the seeds of one, which of them it is.
        samples: trajectories of each problem, also of the importance-weighted bound.
        n: problems.
        bound_nats: bound on -log p(x), mean per sequence: the sum of ``token_nats``, ``order_kl_nats`` and
            ``price_nats``.
        bound_nats_sem: standard error of that mean, over problems; empty of a single one.
        importance_weighted_nats: the tighter, importance-weighted bound, mean per sequence;
            ``importance_weighted_nats_sem`` as above.
        token_nats: the bound's part from the tokens.
        order_kl_nats: that from the order, KL of posterior and selector.
        price_nats: that from the price of steps.
        bound_nats_per_token: the same bounds, summed, over response tokens.
        steps_of_q: steps that a trajectory of the approximate posterior takes, mean.
        optimum: the least expected nats in T steps, without any price, empty where the task knows none. Of a Markov
            chain that of orders chosen in advance, which one that sees the tokens may undercut.
        device: device name.
        commit: source version.
        software: versions, e.g. ``"torch 2.13.0, python 3.12.3"``; empty where they are not known.
    """

    task: str
    split: str
    data: str
    checkpoint: str
    policy: str
    options: str
    T: int
    seed: int
    samples: int
    n: int
    bound_nats: float
    bound_nats_sem: float | None
    importance_weighted_nats: float
    importance_weighted_nats_sem: float | None
    token_nats: float
    order_kl_nats: float
    price_nats: float
    bound_nats_per_token: float
    steps_of_q: float
    optimum: float | None
    device: str
    commit: str
    software: str = ""


def write_bound_rows(path: str | Path, rows: Iterable[BoundRow]) -> None:
    """Writes ``order_bounds.csv``, in one piece: readers never see half a file."""
    write_table(path, BoundRow, rows)


def read_bound_rows(path: str | Path) -> list[BoundRow]:
    """Reads ``order_bounds.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, BoundRow)
