"""Rows: what a sweep publishes. ``frontier.csv`` has one per cell, ``outcomes.csv`` one per problem of a cell.

Knows records and csv; knows nothing of stores or figures. The fields of the two dataclasses are the columns of the
files, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lightning_mdm.metrics.statistics import mean_and_error, wilson
from lightning_mdm.outcomes.records import BatchRecord, Cell, Outcome
from lightning_mdm.outcomes.table import read_table, write_table


@dataclass(frozen=True)
class Row:
    """One cell of a sweep, summed up.

    Args:
        task: name of the task.
        split: split decoded.
        checkpoint: content hash of the weights.
        policy: name of the unmasking policy.
        options: its parameters and the loop's, canonical JSON.
        T: step budget.
        seed: seed of the decoding noise.
        n: problems decoded.
        correct: problems solved.
        accuracy: ``correct / n``; ``accuracy_low`` and ``accuracy_high`` are its Wilson 95 % interval. Fractions.
        nfe_mean: denoiser evaluations per problem, counted; ``nfe_min`` and ``nfe_max`` over problems.
        tokens_per_forward: answer tokens over evaluations, both summed over problems.
        forward_passes: calls of the denoiser, each for a whole batch.
        seconds: wall-clock time of decoding, summed over processes.
        device: device names, joined with ``+`` when a sweep was resumed elsewhere.
        commit: source versions, joined likewise.
        left_out: problems of the split that were not decoded, e.g. because they do not fit the canvas.
        adaptive: whether the number of steps depends on the row and not on the budget alone.
        score: mean share of an answer that is right, a fraction, where the task can tell; its standard error over
            problems is ``score_sem``, empty of a single one.
        problems: hash of the split's questions and answers; empty where it is not known. Rows of two are not compared.
        software: versions, joined with ``|``, as they may hold a ``+``; empty where they are not known.
    """

    task: str
    split: str
    checkpoint: str
    policy: str
    options: str
    T: int
    seed: int
    n: int
    correct: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    nfe_min: int
    nfe_max: int
    tokens_per_forward: float
    forward_passes: int
    seconds: float
    device: str
    commit: str
    left_out: int
    adaptive: bool
    score: float | None = None
    score_sem: float | None = None
    problems: str = ""
    software: str = ""


@dataclass(frozen=True)
class OutcomeRow:
    """The outcome of one problem in one cell: what a paired test needs. Columns as in :class:`Row` and ``Outcome``."""

    task: str
    split: str
    checkpoint: str
    problem: int
    policy: str
    options: str
    T: int
    seed: int
    correct: bool
    nfe: int
    tokens: int
    answer: str | None
    score: float | None = None


def frontier_row(cell: Cell, records: Iterable[BatchRecord], left_out: int = 0, problems: str = "") -> Row:
    """Sums up the batches of a cell; a problem that occurs twice counts once.

    Args:
        cell: the cell.
        records: its batches.
        left_out: see :class:`Row`.
        problems: likewise.

    Raises:
        ValueError: when there is no outcome at all.
    """
    records = list(records)
    outcomes = _by_problem(records)
    if not outcomes:
        raise ValueError(f"cell {cell.label} has no outcomes: decode at least one problem before summing it up")
    nfe = [outcome.nfe for outcome in outcomes]
    correct = sum(outcome.correct for outcome in outcomes)
    interval = wilson(correct, len(outcomes))
    tokens = sum(outcome.tokens for outcome in outcomes)
    scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    score, score_sem = mean_and_error(scores) if len(scores) == len(outcomes) else (None, None)
    return Row(
        task=cell.task,
        split=cell.split,
        checkpoint=cell.checkpoint,
        policy=cell.policy,
        options=cell.options_json,
        T=cell.steps,
        seed=cell.seed,
        n=len(outcomes),
        correct=correct,
        accuracy=correct / len(outcomes),
        accuracy_low=interval.low,
        accuracy_high=interval.high,
        nfe_mean=sum(nfe) / len(nfe),
        nfe_min=min(nfe),
        nfe_max=max(nfe),
        tokens_per_forward=tokens / sum(nfe) if sum(nfe) else 0.0,
        forward_passes=sum(record.forward_passes for record in records),
        seconds=sum(record.seconds for record in records),
        device="+".join(dict.fromkeys(record.device for record in records)),
        commit="+".join(dict.fromkeys(record.commit for record in records)),
        left_out=left_out,
        adaptive=cell.adaptive,
        score=score,
        score_sem=score_sem,
        problems=problems,
        software=" | ".join(dict.fromkeys(record.software for record in records if record.software)),
    )


def outcome_rows(cell: Cell, records: Iterable[BatchRecord]) -> list[OutcomeRow]:
    """One row per problem of a cell, in the order of the problems' indices."""
    return [
        OutcomeRow(
            task=cell.task,
            split=cell.split,
            checkpoint=cell.checkpoint,
            problem=outcome.problem,
            policy=cell.policy,
            options=cell.options_json,
            T=cell.steps,
            seed=cell.seed,
            correct=outcome.correct,
            nfe=outcome.nfe,
            tokens=outcome.tokens,
            answer=outcome.answer,
            score=outcome.score,
        )
        for outcome in sorted(_by_problem(records), key=lambda outcome: outcome.problem)
    ]


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Writes ``frontier.csv``, in one piece: readers never see half a file."""
    write_table(path, Row, rows)


def read_rows(path: str | Path) -> list[Row]:
    """Reads ``frontier.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, Row)


def write_outcomes(path: str | Path, rows: Iterable[OutcomeRow]) -> None:
    """Writes ``outcomes.csv``, in one piece. An empty answer reads back as none."""
    write_table(path, OutcomeRow, rows)


def read_outcomes(path: str | Path) -> list[OutcomeRow]:
    """Reads ``outcomes.csv``; ``ValueError`` names file, line and column of anything wrong."""
    return read_table(path, OutcomeRow)


def _by_problem(records: Iterable[BatchRecord]) -> list[Outcome]:
    first: dict[int, Outcome] = {}
    for record in records:
        for outcome in record.outcomes:
            first.setdefault(outcome.problem, outcome)
    return list(first.values())
