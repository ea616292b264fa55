"""The unmasking policies there are: the common heuristics, and the list of all.

To add a policy: write its class, a frozen dataclass, here or in a file of its own, and add it to ``POLICIES``;
configurations, figures and tests find it there, and the tests ask for its law (``tests/decoding/reference.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from lightning_mdm.categorical import top_n
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.noisy import Noisy
from lightning_mdm.decoding.oracles import GivenOrder, Oracle
from lightning_mdm.decoding.places import Autoregressive, Dilated, PCSampler
from lightning_mdm.decoding.policy import Fact, RankedPolicy, SelectorNet, TaskFacts, UnmaskingPolicy
from lightning_mdm.decoding.revising import P2, ReMDM
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.decoding.sure import KLASS, ConfidenceFactor, Prophet
from lightning_mdm.noise import Stream
from lightning_mdm.orders.budget import entropy_bounded


@dataclass(frozen=True)
class IID(UnmaskingPolicy):
    """Every position at one of the T steps, drawn uniformly and independently of everything.

    The ancestral sampler of masked diffusion under a linear schedule: at each step every masked position is unmasked
    with probability 1 / steps left. Steps at which none is change nothing, need no denoiser call and are passed over,
    so a row may take fewer than T.
    """

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        # The same draw at every step: keyed by step 0, cut into as many equal parts as there are steps.
        uniform_BL = state.noise.uniform_BL(Stream.SELECT, 0, state.masked_BL.shape[1])
        when_BL = (
            (uniform_BL * state.budget_B[:, None]).long().masked_fill(~state.masked_BL, torch.iinfo(torch.int64).max)
        )
        return state.masked_BL & (when_BL == when_BL.amin(-1, keepdim=True))


@dataclass(frozen=True)
class TopProbability(RankedPolicy):
    """The positions whose likeliest token is the most probable."""

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        return -prediction.odds_against_best_BL


@dataclass(frozen=True)
class TopMargin(RankedPolicy):
    """The positions whose likeliest token leads the second by most (Kim et al., arXiv 2502.06768)."""

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        return prediction.top_margin_BL


@dataclass(frozen=True)
class Entropy(RankedPolicy):
    """The positions of lowest entropy."""

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        return -prediction.entropy_BL


@dataclass(frozen=True)
class LeftToRight(RankedPolicy):
    """The leftmost positions."""

    def score(self, state: DecodingState, prediction: Prediction) -> Tensor:
        length = state.masked_BL.shape[1]
        return -torch.arange(length, device=state.masked_BL.device, dtype=torch.float64).expand(state.masked_BL.shape)


@dataclass(frozen=True)
class ConfidenceThreshold(UnmaskingPolicy):
    """All positions with a top probability of at least ``threshold``, and always the best one.

    Adaptive: it takes as many positions as are sure, and fewer steps than the budget where it can
    (Fast-dLLM, Wu et al., arXiv 2505.22618).

    Args:
        threshold: in (0, 1].
    """

    threshold: float = 0.9

    adaptive = True

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"threshold={self.threshold}: a confidence threshold lies in (0, 1]")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        sure_BL = (prediction.top_probability_BL >= self.threshold) & state.masked_BL
        one_B = torch.ones_like(state.steps_left_B)
        return sure_BL | top_n(-prediction.odds_against_best_BL, state.masked_BL, one_B, state.uniform_BL(Stream.TIE))


@dataclass(frozen=True)
class EntropyBounded(UnmaskingPolicy):
    """The longest run of positions, in order of entropy H, with sum H - max H <= ``gamma`` nats.

    The left side bounds the information that unmasking them together can lose (EB-Sampler, Ben-Hamu et al.,
    arXiv 2505.24857). Adaptive; the first position of the run always qualifies.

    Args:
        gamma: nats, >= 0.
    """

    gamma: float = 0.1

    adaptive = True

    def __post_init__(self) -> None:
        if not self.gamma >= 0.0:
            raise ValueError(f"gamma={self.gamma}: the entropy bound is a number of nats, at least 0")

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        n_B = entropy_bounded(prediction.entropy_BL, state.masked_BL, self.gamma)
        return top_n(-prediction.entropy_BL, state.masked_BL, n_B, state.uniform_BL(Stream.TIE))


@dataclass(frozen=True)
class Blocks(UnmaskingPolicy):
    """Semi-autoregressive decoding: another policy, one block of consecutive canvas positions after the other.

    The budget is divided evenly over the blocks; with fewer steps than blocks the blocks grow until each has a step.

    Args:
        policy: chooses within the current block.
        block_length: canvas positions per block.

    Raises:
        ValueError: a policy that blocks cannot hold, or blocks of nothing.
    """

    policy: UnmaskingPolicy = TopMargin()
    block_length: int = 8

    hurries = True  # a block has to end with its share of the budget

    def __post_init__(self) -> None:
        if self.policy.sequential:
            raise ValueError(
                f"policy={type(self.policy).__name__}: it takes one token per step, in blocks or not; use it alone"
            )
        if self.policy.revises:
            raise ValueError(
                f"policy={type(self.policy).__name__}: what it masks again is of the whole canvas; use it alone"
            )
        if isinstance(self.policy, Blocks):
            raise ValueError("policy=Blocks: blocks of blocks divide the budget twice; give one block_length")
        if self.policy.reads & {"order", "response"}:
            raise ValueError(f"policy={type(self.policy).__name__}: what it knows is of the whole canvas; use it alone")
        if self.block_length < 1:
            raise ValueError(f"block_length={self.block_length}: a block has at least one position")

    @property
    def adaptive(self) -> bool:
        return self.policy.adaptive

    @property
    def learned(self) -> bool:
        return self.policy.learned

    @property
    def reads(self) -> frozenset[Fact]:
        return self.policy.reads

    @property
    def memory(self) -> int:
        return self.policy.memory

    def bound(self, selector: SelectorNet | None) -> Self:
        return replace(self, policy=self.policy.bound(selector))

    def informed(self, facts: TaskFacts) -> Self:
        return replace(self, policy=self.policy.informed(facts))

    def select(self, state: DecodingState, prediction: Prediction) -> Tensor:
        n_B1, budget_B1 = state.canvas_BL.sum(-1, keepdim=True), state.budget_B[:, None]
        length_B1 = (-(-n_B1 // budget_B1)).clamp(min=self.block_length)
        n_blocks_B1 = -(-n_B1 // length_B1)
        block_BL = (state.canvas_BL.cumsum(-1) - 1) // length_B1
        current_B1 = block_BL.masked_fill(~state.masked_BL, torch.iinfo(torch.int64).max).amin(-1, keepdim=True)
        first_B1, last_B1 = (block_B1 * budget_B1 // n_blocks_B1 for block_B1 in (current_B1, current_B1 + 1))
        within = state.within(
            block_BL == current_B1,
            budget_B=(last_B1 - first_B1).squeeze(-1),
            steps_left_B=(last_B1 - state.step + 1).squeeze(-1),
        )
        return self.policy(within, prediction)


POLICIES: tuple[type[UnmaskingPolicy], ...] = (
    IID,
    TopProbability,
    TopMargin,
    Entropy,
    Noisy,
    PCSampler,
    LeftToRight,
    Dilated,
    ConfidenceThreshold,
    ConfidenceFactor,
    EntropyBounded,
    KLASS,
    Prophet,
    Blocks,
    P2,
    ReMDM,
    GivenOrder,
    Oracle,
    Learned,
    Autoregressive,
)
