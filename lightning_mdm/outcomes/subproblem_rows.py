"""Rows of an analysis: how hard tokens of each kind are, and which kinds of tokens a policy unmasks, and when it errs.

Knows csv; knows nothing of decoding or figures. The fields of the dataclasses are the columns of the files, in this
order. Rows that count no token are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.outcomes.table import read_table, write_table

SUBPROBLEMS = "subproblems.csv"
COMMITS = "commits.csv"


@dataclass(frozen=True)
class SubproblemRow:
    """How well a denoiser predicts masked tokens of one kind in clean sequences.

    Args:
        task: name of the task.
        split: split evaluated.
        checkpoint: content hash of the denoiser's weights.
        kind: what it takes to find the tokens, as the task says.
        ready: whether the task regards that as doable from the tokens that are visible.
        fewest_masked: tokens masked in the sequence, from so many ..
        most_masked: .. to so many.
        n: tokens.
        nats: their mean -log-likelihood.
        nats_sem: standard error of that mean, tokens taken as independent; empty of a single one.
        accuracy: share whose likeliest prediction is the true token.
        device: device name.
        commit: source version.
        software: versions, e.g. ``"torch 2.13.0, python 3.12.3"``; empty where they are not known.
    """

    task: str
    split: str
    checkpoint: str
    kind: str
    ready: bool
    fewest_masked: int
    most_masked: int
    n: int
    nats: float
    nats_sem: float | None
    accuracy: float
    device: str
    commit: str
    software: str = ""


@dataclass(frozen=True)
class CommitRow:
    """The tokens of one kind that a policy unmasked while all before them were right.

    Args:
        task: name of the task.
        split: split evaluated.
        checkpoint: content hash of the denoiser's weights.
        policy: name of the unmasking policy.
        options: every decoding option, canonical JSON.
        T: step budget.
        seed: seed of the decoding noise.
        problems: problems decoded.
        failed: problems with a mistake.
        kind: what it took to find the tokens, before the step that unmasked them.
        ready: whether the task regards that as doable.
        fewest_masked: tokens masked before that step, from so many ..
        most_masked: .. to so many.
        n: tokens.
        wrong: how many of them are wrong.
        first_mistakes: problems whose first mistake it was; of several in one step each counts for its share.
        adaptive: whether the number of steps depends on the row and not on the budget alone.
        device: device name.
        commit: source version.
        software: versions, e.g. ``"torch 2.13.0, python 3.12.3"``; empty where they are not known.
    """

    task: str
    split: str
    checkpoint: str
    policy: str
    options: str
    T: int
    seed: int
    problems: int
    failed: int
    kind: str
    ready: bool
    fewest_masked: int
    most_masked: int
    n: int
    wrong: int
    first_mistakes: float
    adaptive: bool
    device: str
    commit: str
    software: str = ""


def write_subproblems(path: str | Path, rows: Iterable[SubproblemRow]) -> None:
    """Writes ``subproblems.csv``, in one piece."""
    write_table(path, SubproblemRow, rows)


def read_subproblems(path: str | Path) -> list[SubproblemRow]:
    """Reads ``subproblems.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, SubproblemRow)


def write_commits(path: str | Path, rows: Iterable[CommitRow]) -> None:
    """Writes ``commits.csv``, in one piece."""
    write_table(path, CommitRow, rows)


def read_commits(path: str | Path) -> list[CommitRow]:
    """Reads ``commits.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, CommitRow)
