"""The learned order: a trained selector as an unmasking policy.

The selector reads what the denoiser has computed for this step already, so it costs no denoiser evaluation.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Self, cast, get_args

import torch
from torch import Tensor, nn

from lightning_mdm.compilation import compiled
from lightning_mdm.decoding.policy import SelectorNet, UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.noise import Stream
from lightning_mdm.orders.unmasking_law import UnmaskingLaw

Rule = Literal["greedy", "sampled"]


def selector_law(
    selector: SelectorNet,
    prediction: Prediction,
    masked_BL: Tensor,
    valid_BL: Tensor,
    steps_left_B: Tensor,
    price: float | Tensor,
) -> UnmaskingLaw:
    """pi(U | z): the selector's law over the sets to unmask now; in training and in decoding the same.

    Raises:
        ValueError: the denoiser offers no hidden states.
    """
    if prediction.hidden_BLD is None:
        raise ValueError("a learned order reads the denoiser's hidden states, and this denoiser offers none")
    most = prediction.query_BQ.shape[1]  # no row has more masked positions than were queried
    if prediction.compile:
        selector = compiled(cast(nn.Module, selector))
        if not isinstance(price, Tensor):  # a number would be compiled in
            price = torch.full((), price, dtype=torch.float64, device=masked_BL.device)
    return selector(prediction.hidden_BLD, prediction.confidence_BLF, valid_BL, masked_BL, steps_left_B, price, most)


@dataclass(frozen=True)
class Learned(UnmaskingPolicy):
    """The order that a selector has learned (following Fox et al., arXiv 2602.23968). Adaptive.

    Args:
        rule: ``greedy`` decides one thing after the other, each for what is likelier: of a law with levels, the level;
            where finishing is a decision of its own, whether to take everything; and then every position with
            probability above 1/2, the most probable one in any case (but never all of them, where it was decided not to
            finish). ``sampled`` draws from the selector's law.
        beta: test-time factor on every probability of the selector except those of levels, min(1, beta p): above 1
            fewer steps, below 1 more. The greedy rule then takes p > 1 / (2 beta), so at 1/2 and below one position at
            a time.
        price: the price of a step that the selector is told, in nats, for selectors trained with several.

    Raises:
        ValueError: an option out of its range.
    """

    rule: Rule = "greedy"
    beta: float = 1.0
    price: float = 0.0
    selector: SelectorNet | None = field(default=None, init=False, repr=False, compare=False)

    adaptive = True
    learned = True

    def __post_init__(self) -> None:
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule={self.rule!r}: choose one of {', '.join(get_args(Rule))}")
        if not 0.0 < self.beta < math.inf:
            raise ValueError(f"beta={self.beta}: the factor on the probabilities is a finite number above 0")
        if not 0.0 <= self.price < math.inf:
            raise ValueError(f"price={self.price}: the price of a step is a finite number of nats, at least 0")

    def bound(self, selector: SelectorNet | None) -> Self:
        if selector is None:
            raise ValueError("policy Learned: this module has no selector; train one with configs/<task>/order.yaml")
        bound = replace(self)
        object.__setattr__(bound, "selector", selector)  # a frozen record, filled once
        return bound

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        assert self.selector is not None, "bind the policy to a selector first"
        law = selector_law(
            self.selector, prediction, state.masked_BL, state.valid_BL, state.steps_left_B, self.price
        ).scaled(self.beta)
        if self.rule == "greedy":
            chosen_BL = law.likeliest(state.uniform_BL(Stream.TIE))
        else:
            first_B = state.noise.uniform_B(Stream.SELECT, -state.step)  # steps count from 1: no draw is used twice
            chosen_BL = law.sample(first_B, state.uniform_BL(Stream.SELECT))
        # A law that is none would decide by chance: its row takes nothing, which the loop refuses.
        return chosen_BL & ~law.broken_B[:, None]
