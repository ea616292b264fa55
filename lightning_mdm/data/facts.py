"""What a task knows beside its problems, for policies that read it: how frequent tokens are, orders, responses.

Knows nothing of policies or models.

Shapes: V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from lightning_mdm.data.batch import Example
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.problem import Problem

COUNTED = 2000
"""Training problems whose tokens are counted."""


class SplitFacts:
    """The facts about one split of a task, found out when asked for.

    Args:
        data: the task.
        split: ``validation``, ``test`` or ``predict``.
    """

    def __init__(self, data: ProblemDataModule, split: str) -> None:
        self.data = data
        self.split = split

    def token_frequency(self) -> Tensor:
        """How often each token stands in the response of a training problem, its filling included, float64 ``[V]``.

        Every token is counted once more than it occurs, so that none has frequency 0.
        """
        return self._frequency_V

    @property
    def frequency_hash(self) -> str:
        """12 hexadecimal digits of the sha256 of the token frequencies."""
        return hashlib.sha256(self._frequency_V.numpy().tobytes()).hexdigest()[:12]

    def order(self, problem: int) -> Sequence[int] | None:
        """The task's own order of a problem's response tokens, as the task says it; ``None`` for later parts."""
        if problem not in self._problems:
            return None
        ranks = self.data.order(self._problems[problem])
        example = self._examples.get(problem)
        assert ranks is None or example is None or len(ranks) == responses(example), "one number per response token"
        return ranks

    def response(self, problem: int) -> Sequence[int] | None:
        """The tokens of a problem's own response, filling included; ``None`` where it has none, or for later parts."""
        example = self._examples.get(problem)
        if example is None or not self._problems[problem].response:
            return None
        return [token for token, given in zip(example.tokens, example.given, strict=True) if not given]

    @cached_property
    def ordered(self) -> bool:
        """Whether the task knows orders: it does of the first problem."""
        return self.order(next(iter(self._problems))) is not None

    @cached_property
    def longest_response(self) -> int:
        """Response tokens of the longest problem of the split that fits the canvas."""
        return max(map(responses, self._examples.values()), default=0)

    @cached_property
    def _problems(self) -> dict[int, Problem]:
        return {problem.index: problem for problem in self.data.problems(self.split)}

    @cached_property
    def _examples(self) -> dict[int, Example]:
        encode = self.data.encoder
        encoded = {index: encode(problem) for index, problem in self._problems.items()}
        return {index: example for index, example in encoded.items() if example is not None}

    @cached_property
    def _frequency_V(self) -> Tensor:
        count_V = torch.ones(self.data.vocab_size, dtype=torch.float64)
        encode = self.data.encoder
        for problem in islice(self.data.training().sample(COUNTED), COUNTED):
            example = encode(problem)
            if example is not None:
                tokens = [t for t, given in zip(example.tokens, example.given, strict=True) if not given]
                count_V += torch.bincount(torch.tensor(tokens, dtype=torch.int64), minlength=len(count_V))
        return count_V / count_V.sum()


def responses(example: Example) -> int:
    """Number of response tokens."""
    return len(example.given) - sum(example.given)
