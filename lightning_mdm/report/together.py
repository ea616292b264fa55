"""Several denoisers in one panel: an autoregressive net beside a masked one, or one denoiser before and after.

Knows rows; knows nothing of files. What stands in a panel together must have decoded the same problems.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lightning_mdm.outcomes import OutcomeRow, Row, canonical_json

AnyRow = TypeVar("AnyRow", Row, OutcomeRow)


def together(
    rows: Sequence[Row], outcomes: Sequence[OutcomeRow], names: Mapping[str, str]
) -> tuple[list[Row], list[OutcomeRow]]:
    """The same rows as if one checkpoint had decoded all of a task and split.

    That checkpoint is named by all of them, joined with ``+``. Where several of them decoded with one policy and the
    same options, the options say which one it was.

    Args:
        rows: of several checkpoints.
        outcomes: likewise.
        names: what a checkpoint is called there; the beginning of its hash where it has no name.

    Raises:
        ValueError: the rows of a task and split are of different problems, or of different numbers of them.
    """
    checkpoints: dict[tuple[str, str], dict[str, None]] = {}
    users: dict[tuple[str, str, str, str], set[str]] = {}
    sizes: dict[tuple[str, str], set[int]] = {}
    decoded: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        where = (row.task, row.split)
        checkpoints.setdefault(where, {})[row.checkpoint] = None
        users.setdefault((*where, row.policy, row.options), set()).add(row.checkpoint)
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

    def joined(given: Iterable[AnyRow]) -> list[AnyRow]:
        result: list[AnyRow] = []
        for row in given:
            where: tuple[str, str] = (row.task, row.split)
            options = row.options
            if len(users.get((*where, row.policy, options), ())) > 1:
                name = names.get(row.checkpoint, row.checkpoint[:8])
                options = canonical_json({**json.loads(options), "denoiser": name})
            result.append(
                replace(row, checkpoint="+".join(checkpoints.get(where, {row.checkpoint: None})), options=options)
            )
        return result

    return joined(rows), joined(outcomes)
