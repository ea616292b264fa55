"""How hard tokens of each kind are, and what policies commit: sums over tokens, gathered from any number of processes.

Knows nothing of policies, files or the Trainer. Every problem is handed in once.

Shapes: K kinds of subproblems, M numbers of tokens still masked (0 .. the longest response), R decode runs, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class Denoised(NamedTuple):
    """Sums over masked tokens of clean sequences, by kind and by how many were masked, float64 ``[K, M]``.

    ``n`` tokens, their -log-likelihood in nats, its square, and how many were predicted rightly.
    """

    n: Tensor
    nats: Tensor
    nats_squared: Tensor
    right: Tensor


class Committed(NamedTuple):
    """Sums over the tokens that a run unmasked while all before them were right, float64 ``[K, M]``.

    ``n`` tokens, how many of them were ``wrong``, and ``first``: the problems whose first mistake this was, each of
    several in one step counting for its share. ``problems``, ``failed``: how many there are, and how many went wrong.
    """

    n: Tensor
    wrong: Tensor
    first: Tensor
    problems: int
    failed: int


class SubproblemMetric(Metric):
    """Accumulates both.

    Args:
        runs: names of the decode runs; the same, in the same order, on every process.
        kinds: number of kinds.
        longest: most response tokens of a problem.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    denoised: Tensor
    committed: Tensor
    problems: Tensor

    def __init__(self, runs: Sequence[str], kinds: int, longest: int) -> None:
        super().__init__(compute_with_cache=False)
        self.runs = list(runs)
        sums = {
            "denoised": (len(Denoised._fields), kinds, longest + 1),
            "committed": (len(runs), 3, kinds, longest + 1),
            "problems": (len(runs), 2),
        }
        for name, shape in sums.items():
            self.add_state(name, default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, kind_N: Tensor, masked_N: Tensor, nats_N: Tensor, right_N: Tensor) -> None:
        """Adds N masked tokens of clean sequences.

        Args:
            kind_N: int64, kind of each.
            masked_N: int64, tokens masked in its sequence.
            nats_N: its -log-likelihood.
            right_N: bool, whether the likeliest token is the true one.
        """
        nats_N = nats_N.double()
        for sums, value_N in zip(
            self.denoised, (torch.ones_like(nats_N), nats_N, nats_N.square(), right_N.double()), strict=True
        ):
            sums.index_put_((kind_N, masked_N), value_N, accumulate=True)

    def add_commits(self, run: str, steps: Sequence[Sequence[tuple[int, int, bool]]]) -> None:
        """Adds one problem.

        Args:
            run: one of the names given at construction.
            steps: the tokens unmasked at every step, up to the first one with a mistake: kind, tokens masked before
                the step, whether it is wrong.
        """
        mistakes, added = 0, []
        for step in steps:
            assert not mistakes, "nothing counts behind the first mistake"
            mistakes = sum(wrong for _, _, wrong in step)
            for kind, masked, wrong in step:
                added.append((0, kind, masked, 1.0))
                if wrong:
                    added += [(1, kind, masked, 1.0), (2, kind, masked, 1.0 / mistakes)]
        sums = self.committed[self.runs.index(run)]
        # At once: on a GPU each addition would be a program of its own.
        added_N4 = torch.tensor(added, dtype=sums.dtype, device=sums.device).view(-1, 4)
        sums.index_put_(added_N4[:, :3].long().unbind(1), added_N4[:, 3], accumulate=True)
        self.problems[self.runs.index(run)] += torch.tensor([1, int(mistakes > 0)]).to(self.problems)

    def compute(self) -> tuple[Denoised, dict[str, Committed]]:
        """The sums, on the CPU; of the runs those that have a problem."""
        committed = {
            run: Committed(*sums.cpu(), *map(int, problems))
            for run, sums, problems in zip(self.runs, self.committed, self.problems.tolist(), strict=True)
            if problems[0]
        }
        return Denoised(*self.denoised.cpu()), committed
