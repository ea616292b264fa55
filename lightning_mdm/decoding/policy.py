"""What an unmasking policy is: which of the masked positions to unmask now.

A policy is a frozen record of its options and one method, which sees a ``DecodingState`` and a ``Prediction`` and
returns a subset of ``state.masked_BL``, non-empty in every row. A few are told what the task knows of a problem, too,
and a few mask again what they have unmasked (``decoding/revising.py``). It knows nothing of the denoiser, of how tokens
are drawn or of when a row is finished. Its ranking never sees the token sampler's noise, and equal scores are ordered
at random.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, final

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream
from lightning_mdm.orders.budget import quota
from lightning_mdm.orders.unmasking_law import UnmaskingLaw


class SelectorNet(Protocol):
    """The law of the set to unmask now; see ``lightning_mdm.nets.selector.Selector``."""

    def __call__(
        self,
        hidden_BLD: Tensor,
        confidence_BLF: Tensor,
        valid_BL: Tensor,
        masked_BL: Tensor,
        steps_left_B: Tensor,
        price: float | Tensor,
        most: int | None = None,
    ) -> UnmaskingLaw: ...


Fact = Literal["token_frequency", "order", "response"]


class TaskFacts(Protocol):
    """What a task knows beside its problems; asked only by policies that read it."""

    def token_frequency(self) -> Tensor:
        """How often each token stands in a response, float64 ``[V]``, positive, with sum 1."""
        ...

    def order(self, problem: int) -> Sequence[int] | None:
        """When each response token of a problem is to be unmasked: smaller numbers first, equal ones in any order."""
        ...

    def response(self, problem: int) -> Sequence[int] | None:
        """The tokens of a problem's own response."""
        ...


class UnmaskingPolicy(ABC):
    """A decode-time strategy: call it with the state and the prediction to get the positions to unmask.

    Its traits are the properties below; of a constant one a subclass says ``adaptive = True``, without an annotation.
    """

    @property
    def name(self) -> str:
        """The class name in snake case, as in rows and figures: ``pc_sampler`` of ``PCSampler``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(self).__name__).lower()

    @property
    def adaptive(self) -> bool:
        """Whether the policy itself decides how many steps it takes; otherwise the budget does."""
        return False

    @property
    def hurries(self) -> bool:
        """Whether the budget makes positions go together, before the last step, that the policy would take one by one.

        A learned order is told how many steps are left and has learned what to make of them: nothing forces it.
        """
        return not self.adaptive

    @property
    def learned(self) -> bool:
        """Whether a trained selector decides: such a policy has to be ``bound`` to one."""
        return False

    @property
    def sequential(self) -> bool:
        """Whether it takes one token per step, the leftmost, whatever the budget: as a causal net must be decoded."""
        return False

    @property
    def revises(self) -> bool:
        """Whether it may mask filled positions again: ``select`` then names all that hold a token after the step."""
        return False

    @property
    def weighs_filled(self) -> bool:
        """Whether it looks at the prediction at filled positions, too: it asks for logits of the whole canvas then."""
        return False

    @property
    def reads(self) -> frozenset[Fact]:
        """What it has to be told by the task: such a policy has to be ``informed``."""
        return frozenset()

    @property
    def memory(self) -> int:
        """How many earlier predictions of the run it looks at."""
        return 0

    def takes(self, left: Sequence[int], steps_left: Sequence[int]) -> list[int] | None:
        """How many positions it takes of each row, if that follows from these two numbers alone; ``None`` if not.

        They are on the host, so that the loop need not wait for a GPU to learn how many positions were chosen.

        Args:
            left: masked positions of each row, at least 1.
            steps_left: its steps left including this one, at least 1; with one left everything is taken.
        """
        return None

    def informed(self, facts: TaskFacts) -> Self:
        """The same policy with what the task knows in place, where it reads that."""
        return self

    def bound(self, selector: SelectorNet | None) -> Self:
        """The same policy with the module's selector in place, where it asks for one.

        Raises:
            ValueError: it asks for one and there is none.
        """
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The policy's own parameters, ready for JSON.

        Raises:
            ValueError: the class is no dataclass, whose fields they are.
        """
        if not dataclasses.is_dataclass(self):
            raise ValueError(
                f"policy {type(self).__name__} is no dataclass: put @dataclass(frozen=True) above its class"
            )
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        return {
            name: {"name": value.name, **value.options} if isinstance(value, UnmaskingPolicy) else value
            for name, value in values.items()
        }

    @property
    def label(self) -> str:
        """Name and parameter values, distinct for distinct options: ``blocks-top_margin-8``."""
        values = (getattr(self, field) for field in self.options)
        return "-".join([self.name, *(v.label if isinstance(v, UnmaskingPolicy) else str(v) for v in values)])

    @final
    def __call__(self, state: DecodingState, prediction: Prediction) -> Tensor:
        """What ``select`` says, bool ``[B, L]``; with one step left all that is masked, and nothing is masked again."""
        everything_BL = state.canvas_BL if self.revises else state.masked_BL
        if state.is_last:
            return everything_BL
        last_B1 = state.steps_left_B[:, None] == 1
        return torch.where(last_B1, everything_BL, self.select(state, prediction))

    @abstractmethod
    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        """A subset of ``state.masked_BL``, bool ``[B, L]``, non-empty in every row that has masked positions.

        Of a policy that ``revises``: what of ``state.canvas_BL`` holds a token after the step, some of what is masked
        among it.
        """


class RankedPolicy(UnmaskingPolicy):
    """The quota's worth of best-scored positions; subclasses say what the score is."""

    @abstractmethod
    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        """Score of every masked position, ``[B, L]``, higher first."""

    @final
    def takes(self, left: Sequence[int], steps_left: Sequence[int]) -> list[int]:
        return [quota(n, steps) for n, steps in zip(left, steps_left, strict=True)]

    @final
    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        score_BL = self.score(state, prediction)
        best_BL = top_n(score_BL, state.masked_BL, state.quota_B, state.uniform_BL(Stream.TIE))
        # A score that is NaN would be ranked by chance: a row with one takes nothing, which the loop refuses.
        return best_BL & ~(score_BL.isnan() & state.masked_BL).any(-1, keepdim=True)
