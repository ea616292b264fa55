"""Nets of the approximate posterior over orders: they see the clean sequence, which the selector never does.

A net reads the clean sequence once per example and gives one score per position. The max-normalised family needs no
more. The state-aware one adds a small function of the true token's log-likelihood in the state at hand, which the
estimator has computed anyway, so that "unmask what is certain now" is at hand from the first update on.
Knows nothing of the estimators.

Shapes: B examples, S states of them, L positions, D width of the embeddings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lightning_mdm.nets.selector import IIDOffset, OrderNet, OrderNetConfig
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli

WAVES = 4
BUDGET_TABLES = 17
"""Every budget has its own table of positions (from 16 on they share one): the best orders have other pivots."""
EVIDENCE = 5
"""Log-likelihood and likelihood of the true token, 1 / steps left, the logarithm of T, the price."""


def budget_features(budget: int) -> list[float]:
    """Features in which neighbouring budgets differ clearly, as the best orders of T = 2 and T = 3 may."""
    octaves = math.log2(budget)
    waves = [wave(math.pi * k * octaves / 2.0) for k in range(1, WAVES + 1) for wave in (math.cos, math.sin)]
    return [math.log(budget), 1.0 / budget, *waves]


class PosteriorNet(nn.Module, ABC):
    """q(U | M, x): scores once per example, then a law for every state.

    Args:
        embedding_width: D.
        config: shape of the net that reads the clean sequence.
        last_scale: scale of its last layer's initial weights.
    """

    reads_states: bool

    def __init__(self, embedding_width: int, config: OrderNetConfig, last_scale: float) -> None:
        super().__init__()
        self.net = OrderNet(embedding_width, len(budget_features(2)) + 1, config, last_scale, BUDGET_TABLES)

    def scores(self, embedded_BLD: Tensor, valid_BL: Tensor, response_BL: Tensor, budget: int, price: float) -> Tensor:
        """Scores ``[B, L]`` of the clean sequence's positions, read once.

        Args:
            embedded_BLD: embeddings of the clean tokens.
            valid_BL: True where a position is not padding.
            response_BL: the positions to order.
            budget: T.
            price: nats per step.
        """
        feature_F = embedded_BLD.new_tensor([*budget_features(budget), math.sqrt(price)])
        feature_BLF = feature_F.expand(*valid_BL.shape, -1)
        return self.net(embedded_BLD, feature_BLF, valid_BL, response_BL, budget)

    @abstractmethod
    def law(
        self, score_SL: Tensor, masked_SL: Tensor, log_prob_SL: Tensor | None, steps_left_S: Tensor, budget: int,
        price: float,
    ) -> NonEmptyBernoulli:  # fmt: skip
        """The law of the next set.

        Args:
            score_SL: scores of each state's example.
            masked_SL: M.
            log_prob_SL: the true tokens' log-likelihoods in the state; ``None`` for families that read no states.
            steps_left_S: steps left including this one, at least 2.
            budget: T.
            price: nats per step.
        """


class MaxNormalised(PosteriorNet):
    """Following Fox et al.: the best-scored position for certain, the others by their distance from it.

    Args:
        embedding_width: D.
        config: shape.
        order_temperature: to start from; a buffer, which training may lower.
    """

    reads_states = False
    order_temperature: Tensor

    def __init__(self, embedding_width: int, config: OrderNetConfig, order_temperature: float) -> None:
        super().__init__(embedding_width, config, last_scale=1.0)
        self.register_buffer("order_temperature", torch.tensor(order_temperature))

    def law(
        self, score_SL: Tensor, masked_SL: Tensor, log_prob_SL: Tensor | None, steps_left_S: Tensor, budget: int,
        price: float,
    ) -> NonEmptyBernoulli:  # fmt: skip
        return max_normalised(score_SL, masked_SL, float(self.order_temperature))


class StateAware(PosteriorNet):
    """The selector's law, on the score plus a small function of the evidence in the current state.

    Args:
        embedding_width: D.
        config: shape.
        evidence_width: inner width of the small function.
    """

    reads_states = True

    def __init__(self, embedding_width: int, config: OrderNetConfig, evidence_width: int = 32) -> None:
        super().__init__(embedding_width, config, last_scale=0.3)
        last = nn.Linear(evidence_width, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.evidence = nn.Sequential(nn.Linear(EVIDENCE, evidence_width), nn.GELU(), last)
        self.offset = IIDOffset()
        self.logit_cap = config.logit_cap

    def law(
        self, score_SL: Tensor, masked_SL: Tensor, log_prob_SL: Tensor | None, steps_left_S: Tensor, budget: int,
        price: float,
    ) -> NonEmptyBernoulli:  # fmt: skip
        assert log_prob_SL is not None, "a state-aware posterior reads states"
        log_prob_SL = log_prob_SL.to(score_SL.dtype)
        given_SL3 = torch.stack(
            (
                (1.0 / steps_left_S.to(score_SL.dtype))[:, None].expand_as(score_SL),
                torch.full_like(score_SL, math.log(budget)),
                torch.full_like(score_SL, math.sqrt(price)),
            ),
            dim=-1,
        )
        seen_SLE = torch.cat((torch.stack((log_prob_SL, log_prob_SL.exp()), dim=-1), given_SL3), dim=-1)
        logits_SL = score_SL + self.evidence(seen_SLE).squeeze(-1)
        logits_SL = self.logit_cap * torch.tanh(logits_SL / self.logit_cap)
        return NonEmptyBernoulli.from_logits(logits_SL + self.offset(steps_left_S)[:, None], masked_SL)
