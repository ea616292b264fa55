"""Nets of the approximate posterior over orders: they see the clean sequence, which the selector never does.

A net reads the clean sequence once per example and gives one score per position. The max-normalised family needs no
more. The state-aware one adds a small function of the true token's log-likelihood in the state at hand, which the
estimator has computed anyway, so that "unmask what is certain now" is at hand from the first update on. Beside them
stands what a posterior has to be better than: none, trajectories drawn from the selector.
Knows nothing of the estimators.

Shapes: B examples, S states of them, L positions, D width of the embeddings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_mdm.nets.order_net import FIRST_FINISH, OrderNet, OrderNetConfig, OrderReading, RowHead
from lightning_mdm.nets.row_features import LEAST_NATS, STEP_FEATURES, IIDOffset, step_features
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

Family = Literal["state_aware", "relative", "max_normalised", "selector"]

GIVEN = 3  # 1 / steps left, the logarithm of T, the price
EVIDENCE_WIDTH = 32  # of the small function, within


@dataclass(frozen=True)
class PosteriorConfig:
    """The approximate posterior.

    Args:
        family: ``state_aware``, ``relative`` (the same, as a move away from the selector's own law),
            ``max_normalised`` (following Fox et al., arXiv 2602.23968), or ``selector``: no posterior, the selector's
            own draws.
        net: shape of the net that reads the clean sequence, of the families that have one.
        order_temperature: of the max-normalised family.
    """

    family: Family = "state_aware"
    net: OrderNetConfig = field(default_factory=OrderNetConfig)
    order_temperature: float = 0.3

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(f"posterior.family={self.family!r}: choose one of {', '.join(get_args(Family))}")
        if not self.order_temperature > 0.0:
            raise ValueError(f"posterior.order_temperature={self.order_temperature}: give a number above 0")


def posterior_from_plain(config: PosteriorConfig | Mapping[str, Any]) -> PosteriorConfig:
    """The configuration from the plain values of ``dataclasses.asdict``; one that is no mapping stays what it is.

    Those that no option has are left out: a checkpoint may be of another version.
    """
    if not isinstance(config, Mapping):
        return config
    known = {option.name: config[option.name] for option in fields(PosteriorConfig) if option.name in config}
    return PosteriorConfig(**{**known, "net": OrderNetConfig(**config["net"])})


class PosteriorNet(nn.Module, ABC):
    """q(U | M, x): scores once per example, then a law for every state."""

    reads_states: bool
    reads_selector: bool = False

    @abstractmethod
    def scores(
        self, embedded_BLD: Tensor, valid_BL: Tensor, response_BL: Tensor, budget: int | Tensor, price: float | Tensor,
        most: int | None = None,
    ) -> OrderReading:  # fmt: skip
        """Scores of the clean sequence's positions, read once.

        Args:
            embedded_BLD: embeddings of the clean tokens.
            valid_BL: True where a position is not padding.
            response_BL: the positions to order.
            budget: T; as a tensor without dimensions, one compiled net serves all budgets.
            price: nats per step; likewise.
            most: the most positions to order of a row, for callers who know that.
        """

    @abstractmethod
    def law(
        self, read: OrderReading, masked_SL: Tensor, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None,
        steps_left_S: Tensor, budget: int | Tensor, price: float | Tensor,
    ) -> UnmaskingLaw:  # fmt: skip
        """The law of the next set.

        Args:
            read: what ``scores`` gave for each state's example.
            masked_SL: M.
            log_prob_SL: the true tokens' log-likelihoods in the state; ``None`` for families that read no states.
            pi: the selector's law in the state; ``None`` for families that read no states.
            steps_left_S: steps left including this one, at least 2.
            budget: T; as a tensor without dimensions, one compiled law serves all budgets.
            price: nats per step; likewise.
        """


class ScoringPosterior(PosteriorNet):
    """One with a net that reads the clean sequence.

    Args:
        embedding_width: D.
        config: shape of the net.
        last_scale: scale of its last layer's initial weights.
    """

    def __init__(self, embedding_width: int, config: OrderNetConfig, last_scale: float) -> None:
        super().__init__()
        self.net = OrderNet(embedding_width, STEP_FEATURES + 1, config, last_scale)

    def scores(
        self, embedded_BLD: Tensor, valid_BL: Tensor, response_BL: Tensor, budget: int | Tensor, price: float | Tensor,
        most: int | None = None,
    ) -> OrderReading:  # fmt: skip
        steps_B = torch.zeros_like(valid_BL[:, 0], dtype=torch.int64) + budget
        price_B1 = torch.zeros_like(steps_B, dtype=torch.float64)[:, None] + price**0.5
        feature_BF = torch.cat((step_features(steps_B), price_B1), dim=-1).to(embedded_BLD.dtype)
        feature_BLF = feature_BF[:, None].expand(-1, valid_BL.shape[1], -1)
        return self.net(embedded_BLD, feature_BLF, valid_BL, response_BL, steps_B, most)


class MaxNormalised(ScoringPosterior):
    """Following Fox et al.: the best-scored position for certain, the others by their distance from it.

    Args:
        embedding_width: D.
        config: shape.
        order_temperature: kept on the device of the weights and saved with them. It belongs to a training, not to the
            net: loaded from a file, it stays what it is here.

    Raises:
        ValueError: an order temperature that is not positive.
    """

    reads_states = False
    order_temperature: Tensor

    def __init__(self, embedding_width: int, config: OrderNetConfig, order_temperature: float) -> None:
        if not order_temperature > 0.0:
            raise ValueError(f"order_temperature={order_temperature}: give a number above 0")
        super().__init__(embedding_width, config, last_scale=1.0)
        self.register_buffer("order_temperature", torch.tensor(order_temperature))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict[f"{prefix}order_temperature"] = self.order_temperature.clone()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def law(
        self, read: OrderReading, masked_SL: Tensor, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None,
        steps_left_S: Tensor, budget: int | Tensor, price: float | Tensor,
    ) -> UnmaskingLaw:  # fmt: skip
        return max_normalised(read.value_BL, masked_SL, self.order_temperature)


class StateAware(ScoringPosterior):
    """The selector's law, on the score plus a small function of the evidence in the current state.

    Args:
        embedding_width: D.
        config: shape.
        finishes: as the selector's.
        relative: start from the selector's law in place of the IID schedule, and move its logits: at first q = pi, and
            the bound improves the selector's own draws; what the truth adds is learned on top.
    """

    reads_states = True

    def __init__(
        self, embedding_width: int, config: OrderNetConfig, finishes: bool = False, relative: bool = False
    ) -> None:
        super().__init__(embedding_width, config, last_scale=0.0 if relative else 0.3)
        self.reads_selector = relative
        last = nn.Linear(EVIDENCE_WIDTH, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.evidence = nn.Sequential(nn.Linear(2 + GIVEN, EVIDENCE_WIDTH), nn.GELU(), last)
        self.offset = IIDOffset() if not relative else None
        first = 0.0 if relative else FIRST_FINISH
        self.finish = RowHead(config.width, 1 + GIVEN, config.logit_cap, first) if finishes else None
        self.logit_cap = config.logit_cap

    def law(
        self, read: OrderReading, masked_SL: Tensor, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None,
        steps_left_S: Tensor, budget: int | Tensor, price: float | Tensor,
    ) -> UnmaskingLaw:  # fmt: skip
        assert log_prob_SL is not None, "a state-aware posterior reads states"
        score_SL = read.value_BL
        log_prob_SL = log_prob_SL.to(score_SL.dtype)
        left_S = 1.0 / steps_left_S.to(score_SL.dtype)
        log_budget = budget.log() if isinstance(budget, Tensor) else math.log(budget)
        told = (left_S, *(torch.zeros_like(left_S) + value for value in (log_budget, price**0.5)))
        given_SG = torch.stack(told, dim=-1)
        evidence_SL2 = torch.stack((log_prob_SL, log_prob_SL.exp()), dim=-1)
        seen_SLE = torch.cat((evidence_SL2, given_SG[:, None].expand(-1, score_SL.shape[1], -1)), dim=-1)
        logits_SL = score_SL + self.evidence(seen_SLE).squeeze(-1)
        logits_SL = self.logit_cap * torch.tanh(logits_SL / self.logit_cap)
        finish_S = None
        if self.finish is not None:
            cost_S1 = (LEAST_NATS - log_prob_SL.masked_fill(~masked_SL, 0.0).sum(-1, keepdim=True)).log()
            finish_S = self.finish(read.mean_BD, torch.cat((cost_S1, given_SG), dim=-1))
        if self.offset is None:
            assert pi is not None, "a relative posterior moves the selector's law"
            return pi.moved(logits_SL, finish_S)
        logits_SL = logits_SL + self.offset(steps_left_S)[:, None]
        if finish_S is None:
            return NonEmptyBernoulli.from_logits(logits_SL, masked_SL)
        return FinishingBernoulli.from_logits(logits_SL, finish_S, masked_SL)


class SelectorItself(PosteriorNet):
    """No posterior: q is the selector's own law, in the states that it comes to by itself.

    KL(q || pi) is 0, and the bound is what the true tokens cost along the selector's own draws; its gradient is the
    selector's by REINFORCE alone. Nothing that knows the answer has a part in where trajectories lead.
    """

    reads_states = True
    reads_selector = True

    def scores(
        self, embedded_BLD: Tensor, valid_BL: Tensor, response_BL: Tensor, budget: int | Tensor, price: float | Tensor,
        most: int | None = None,
    ) -> OrderReading:  # fmt: skip
        nothing_BL = torch.zeros_like(valid_BL, dtype=embedded_BLD.dtype)
        return OrderReading(nothing_BL, nothing_BL[:, :1])

    def law(
        self, read: OrderReading, masked_SL: Tensor, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None,
        steps_left_S: Tensor, budget: int | Tensor, price: float | Tensor,
    ) -> UnmaskingLaw:  # fmt: skip
        assert pi is not None, "the selector's law is the posterior's"
        return pi


def build_posterior(config: PosteriorConfig, embedding_width: int, finishes: bool) -> PosteriorNet:
    """The net of a configuration.

    Args:
        config: family, and shape of its net.
        embedding_width: D.
        finishes: as the selector's; not of the max-normalised family.
    """
    if config.family == "selector":
        return SelectorItself()
    if config.family == "max_normalised":
        return MaxNormalised(embedding_width, config.net, config.order_temperature)
    return StateAware(embedding_width, config.net, finishes, relative=config.family == "relative")
