"""Policies that know more than any model may: a solver's order, or the right tokens. How good could an order be?

Shapes: B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.policy import RankedPolicy, TaskFacts, UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream

Ties = Literal["random", "margin"]


@dataclass(frozen=True)
class Told(UnmaskingPolicy):
    """A policy that is told something of each problem, number by number for its tokens."""

    facts: TaskFacts | None = field(default=None, init=False, repr=False, compare=False)

    def informed(self, facts: TaskFacts) -> Self:
        informed = replace(self)
        object.__setattr__(informed, "facts", facts)  # a frozen record, filled once
        return informed

    def told(self, fact: Literal["order", "response"], state: DecodingState) -> Tensor:
        """A fact about each row's problem, at the positions of its canvas: int64 ``[B, L]``.

        Raises:
            ValueError: the task knows nothing of a problem, or too little.
        """
        assert self.facts is not None, f"inform the policy of the task's {fact}s first"
        of_problem = self.facts.order if fact == "order" else self.facts.response
        canvas_BL = state.canvas_BL.cpu()
        in_row: list[int] = []
        for problem, size in zip(state.noise.index_B.tolist(), canvas_BL.sum(-1).tolist(), strict=True):
            known = of_problem(problem)
            if known is None or len(known) < size:
                raise ValueError(
                    f"policy {type(self).__name__}: the task has no {fact} for the {size} tokens of problem {problem}; "
                    f"choose another policy or another task"
                )
            in_row += known[:size]
        value_BL = torch.zeros(canvas_BL.shape, dtype=torch.int64)
        value_BL[canvas_BL] = torch.tensor(in_row, dtype=torch.int64)
        return value_BL.to(state.masked_BL.device)


@dataclass(frozen=True)
class GivenOrder(Told, RankedPolicy):
    """The positions that come first in an order the task knows, such as a solver's: how good can an order be?

    Args:
        ties: which of the positions come first that the order puts alike: any, at ``random``, or those of the largest
            ``margin`` of the two likeliest tokens, and equal ones at random.

    Raises:
        ValueError: an option out of its range.
    """

    ties: Ties = "random"

    reads = frozenset({"order"})

    def __post_init__(self) -> None:
        if self.ties not in get_args(Ties):
            raise ValueError(f"ties={self.ties!r}: choose one of {', '.join(get_args(Ties))}")

    @property
    def options(self) -> dict[str, Any]:
        return {} if self.ties == "random" else super().options  # said where anything but chance decides

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        """Minus the rank in the problem's order; among equal ranks by margin, where that decides ties.

        Raises:
            ValueError: the task knows no order for a problem, or one that is too short.
        """
        score_BL = -self.told("order", state).double()
        if self.ties == "random":
            return score_BL
        # How many margins of the row are smaller, a whole number below L: exact, and no margin outweighs a rank.
        margin_BL = prediction.top_margin_BL
        smaller_BL = torch.searchsorted(margin_BL.sort(dim=-1).values, margin_BL)
        return margin_BL.shape[1] * score_BL + smaller_BL


@dataclass(frozen=True)
class Oracle(Told):
    """All positions whose likeliest token is the right one, and where there is none, that of the largest margin.

    It reads the answer: no competitor, but what an order could reach with this denoiser if it knew which of its tokens
    to trust. Adaptive. With the likeliest tokens only; where more answers than the task's own are right, an order may
    do better than that.
    """

    adaptive = True
    reads = frozenset({"response"})

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        """See the class.

        Raises:
            ValueError: the task has no response of its own for a problem, or one that is too short.
        """
        right_BL = (prediction.best_token_BL == self.told("response", state)) & state.masked_BL
        one_B = torch.ones_like(state.steps_left_B)
        surest_BL = top_n(prediction.top_margin_BL, state.masked_BL, one_B, state.uniform_BL(Stream.TIE))
        return torch.where(right_BL.any(-1, keepdim=True), right_BL, surest_BL)
