"""Several denoisers in one panel: an autoregressive net beside a masked one, or one denoiser before and after.

Knows rows; knows nothing of files. What stands in a panel together must have decoded the same problems.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lightning_mdm.outcomes import BoundRow, OrderRow, OutcomeRow, Row, canonical_json
from lightning_mdm.report.naming import LOOP_OPTIONS

AnyRow = TypeVar("AnyRow", Row, OutcomeRow)
AnyOrderRow = TypeVar("AnyOrderRow", OrderRow, BoundRow)


def together(
    rows: Sequence[Row], outcomes: Sequence[OutcomeRow], names: Mapping[str, str]
) -> tuple[list[Row], list[OutcomeRow]]:
    """The same rows as if one checkpoint had decoded all of a task and split.

    That checkpoint is named by all of them, joined with ``+``. Where several of them decoded with one policy, the
    options of all rows beside these say which one it was.

    Args:
        rows: of several checkpoints.
        outcomes: likewise.
        names: what a checkpoint is called there; the beginning of its hash where it has no name.

    Raises:
        ValueError: the rows of a task and split are of different problems, or of different numbers of them.
    """
    checkpoints: dict[tuple[str, str], dict[str, None]] = {}
    sizes: dict[tuple[str, str], set[int]] = {}
    decoded: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        where = (row.task, row.split)
        checkpoints.setdefault(where, {})[row.checkpoint] = None
        sizes.setdefault(where, set()).add(row.n)
        decoded.setdefault(where, set()).update({row.problems} - {""})
    for (task, split), found in sizes.items():
        if len(checkpoints[task, split]) > 1 and len(found) > 1:
            raise ValueError(
                f"the runs decoded {' and '.join(map(str, sorted(found)))} {split} problems of {task}: denoisers are "
                "compared on the same problems; sweep them with the same data, or report them apart"
            )

    for (task, split), hashes in decoded.items():
        if len(hashes) > 1:
            raise ValueError(
                f"the runs decoded different {split} problems of {task}: denoisers are compared on the same problems; "
                "sweep them with the same data, or report them apart"
            )

    ambiguous = _ambiguous(rows)

    def joined(given: Iterable[AnyRow]) -> list[AnyRow]:
        result: list[AnyRow] = []
        for row in given:
            where: tuple[str, str] = (row.task, row.split)
            options = _with_denoiser(row, names) if where in ambiguous else row.options
            checkpoint = "+".join(checkpoints.get(where, {row.checkpoint: None}))
            result.append(replace(row, checkpoint=checkpoint, options=options))
        return result

    return joined(rows), joined(outcomes)


def orders_together(orders: Sequence[AnyOrderRow], rows: Iterable[Row], names: Mapping[str, str]) -> list[AnyOrderRow]:
    """What orders cost as if one checkpoint had been evaluated on all of a task and split, or their bounds.

    The options say which denoiser it was where several have one policy, be it in the frontier alone. Of denoisers that
    were evaluated on different numbers of problems, or whose bounds are over different ones, all stay apart; nats say
    the number alone.

    Args:
        orders: of several checkpoints.
        rows: of the frontier, not yet together.
        names: as for ``together``.
    """
    checkpoints: dict[tuple[str, str], dict[str, None]] = {}
    evaluated: dict[tuple[str, str], dict[str, set[tuple[object, ...]]]] = {}
    for order in orders:
        where = (order.task, order.split)
        checkpoints.setdefault(where, {})[order.checkpoint] = None
        found = evaluated.setdefault(where, {}).setdefault(order.checkpoint, set())
        found.add((order.n, getattr(order, "data", None)))
    ambiguous = _ambiguous([*rows, *orders])

    def joined(order: AnyOrderRow) -> AnyOrderRow:
        where: tuple[str, str] = (order.task, order.split)
        if len(set(map(frozenset, evaluated[where].values()))) > 1:
            return order
        options = _with_denoiser(order, names) if where in ambiguous else order.options
        return replace(order, checkpoint="+".join(checkpoints[where]), options=options)

    return [joined(order) for order in orders]


def _ambiguous(rows: Iterable[Row | OrderRow | BoundRow]) -> set[tuple[str, str]]:
    """The tasks and splits in which several denoisers have one policy: there, a row has to say whose it is.

    However tokens are decoded, and by whichever rule: for nats and bounds these are others than for a frontier.
    """
    users: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        options = json.loads(row.options)
        own = canonical_json({key: options[key] for key in options if key not in LOOP_OPTIONS and key != "rule"})
        users.setdefault((row.task, row.split, row.policy, own), set()).add(row.checkpoint)
    return {(task, split) for (task, split, *_), checkpoints in users.items() if len(checkpoints) > 1}


def _with_denoiser(row: Row | OutcomeRow | OrderRow | BoundRow, names: Mapping[str, str]) -> str:
    """The options, and which denoiser it was."""
    return canonical_json({**json.loads(row.options), "denoiser": names.get(row.checkpoint, row.checkpoint[:8])})
