"""What a task hands to the framework: a problem in words, and a judgement of an answer.

Knows nothing of tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One problem with its reference solution.

    Args:
        index: identity of the problem within its split; seeds its decoding noise and keys its outcome.
        prompt: the text that is given.
        response: the text to generate, thought and answer, e.g. ``"<<2+3=5>> #### 5"``.
        answer: the reference answer alone, e.g. ``"5"``.
        depth: length of the longest chain of dependent steps, where the task knows it.
    """

    index: int
    prompt: str
    response: str
    answer: str
    depth: int | None = None


@dataclass(frozen=True)
class Grade:
    """The judgement of a generated text.

    Args:
        answer: the answer found; ``None``: there is none.
        correct: whether it is right.
        score: the share of it that is right, in [0, 1], where the task can tell.
    """

    answer: str | None
    correct: bool
    score: float | None = None


@dataclass(frozen=True)
class SubproblemKind:
    """What it takes to find one token of an answer, where some of the others are known.

    Args:
        name: what figures call it.
        ready: whether the known tokens say what it is, by means that the task regards as easy.
    """

    name: str
    ready: bool
