"""What is recorded when a denoiser is decoded: the cell of a sweep, the outcome of a problem, a decoded batch.

Knows names and numbers; knows nothing of files or torch. A cell is addressed by its content: change any field and it is
another cell, so a cached outcome can never be taken for the outcome of other weights, problems or options.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any


def canonical_json(options: Mapping[str, Any]) -> str:
    """One text per meaning: sorted keys, no blanks, and ``1.0`` written as ``1``.

    Raises:
        ValueError: for anything that is not JSON (objects, NaN, infinities), naming the options.
    """
    try:
        return json.dumps(_canonical(options), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"options must be plain JSON values, got {dict(options)!r}: {error}") from error


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep.

    Args:
        task: name of the task, e.g. ``"word_problems"``.
        split: e.g. ``"test"``.
        checkpoint: content hash of the weights.
        data: fingerprint of the problems decoded.
        policy: name of the unmasking policy, e.g. ``"top_margin"``.
        options: every decoding option: the policy's own parameters and the loop's. Plain JSON values, kept as JSON
            would read them back (tuples become lists, ``1.0`` becomes ``1``).
        steps: T, the step budget, >= 1.
        seed: seed of the decoding noise.
        adaptive: whether the number of steps depends on the row and not on the budget alone.

    Raises:
        ValueError: for options that are not JSON, and a budget below 1.
    """

    task: str
    split: str
    checkpoint: str
    data: str
    policy: str
    options: Mapping[str, Any] = field(hash=False)
    steps: int
    seed: int
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}: give a step budget T >= 1")
        # A copy of its own: a caller who goes on editing the dictionary must not change the cell.
        object.__setattr__(self, "options", json.loads(canonical_json(self.options)))

    @cached_property
    def options_json(self) -> str:
        """The options as canonical JSON."""
        return canonical_json(self.options)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the sha256 of all fields."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]

    @cached_property
    def label(self) -> str:
        """A directory name: readable, safe on every file system, e.g. ``test-top_margin-T4-s0-1f0c9a3e``."""
        safe = (re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip(".")[:40] or "_" for part in (self.split, self.policy))
        return f"{'-'.join(safe)}-T{self.steps}-s{self.seed}-{self.key[:8]}"


@dataclass(frozen=True)
class Outcome:
    """How decoding one problem ended.

    Args:
        problem: index of the problem within its split.
        correct: whether its answer is right.
        nfe: denoiser evaluations made for it, as counted by the loop.
        tokens: generated answer tokens before end-of-sequence.
        answer: the answer found in the text; ``None``: there is none.
        score: the share of it that is right, in [0, 1], where the task can tell.
    """

    problem: int
    correct: bool
    nfe: int
    tokens: int
    answer: str | None
    score: float | None = None

    def __post_init__(self) -> None:
        assert min(self.problem, self.nfe, self.tokens) >= 0, f"negative count in {self}"
        assert self.score is None or 0.0 <= self.score <= 1.0, f"a score is a share, in {self}"


@dataclass(frozen=True)
class BatchRecord:
    """A decoded batch, and what it took.

    Args:
        outcomes: one per problem of the batch.
        forward_passes: calls of the denoiser for the whole batch (not the sum of the rows' NFE).
        seconds: wall-clock time.
        device: e.g. ``"cpu"`` or ``"NVIDIA H200"``.
        commit: see :func:`lightning_mdm.outcomes.commit_hash`.
        software: versions, e.g. ``"torch 2.13.0, python 3.12.3"``; empty where they are not known.
    """

    outcomes: tuple[Outcome, ...]
    forward_passes: int
    seconds: float
    device: str
    commit: str
    software: str = ""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_json(line: str) -> BatchRecord:
        """The record of one line; ``ValueError`` when it is not one."""
        try:
            values = json.loads(line)
            return BatchRecord(**{**values, "outcomes": tuple(Outcome(**outcome) for outcome in values["outcomes"])})
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            raise ValueError(f"not the record of a decoded batch ({error})") from error


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be text, got {list(value)}")
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
