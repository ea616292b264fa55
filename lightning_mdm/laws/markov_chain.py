"""A stationary Markov chain: a law whose conditional marginals are exact and whose best order is computable.

Visible tokens cut the sequence into gaps that are independent of each other, and within a gap nothing matters but its
two ends: marginals need the nearest visible neighbours alone, and the best order is found gap by gap.
Knows nothing of nets, tasks or text.

Shapes: B rows, L positions, D distances 1 .. L, V tokens, S tokens and then "none".
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.laws.law import Draw, check_least
from lightning_mdm.laws.markov_marginals import log_marginals
from lightning_mdm.laws.markov_optimum import BestOrder, adaptive_optimum, best_order

# Every transition keeps this probability (shared by the V tokens): whatever is visible, nothing is impossible.
UNIFORM_PART = 1e-3


@dataclass(frozen=True)
class MarkovChain:
    """x_1 from the stationary law, then every token from a row of one transition matrix.

    The matrix is ``stickiness`` on the diagonal plus ``1 - stickiness`` times rows drawn from a symmetric Dirichlet law
    (and a small uniform part).

    Args:
        length: L, the number of positions.
        vocab_size: V, the number of tokens.
        stickiness: probability of staying, in [0, 1).
        concentration: of the Dirichlet law: near 0 a token decides its successor, far above 1 it says little of it.
        seed: decides the matrix and all problems.

    Raises:
        ValueError: an option out of its range.
    """

    length: int = 16
    vocab_size: int = 4
    stickiness: float = 0.8
    concentration: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(length=(self.length, 1), vocab_size=(self.vocab_size, 2))
        if not 0.0 <= self.stickiness < 1.0:
            raise ValueError(f"stickiness={self.stickiness}: a probability from 0 on, below 1")
        if not 0.0 < self.concentration < math.inf:
            raise ValueError(f"concentration={self.concentration}: give a positive number, e.g. 1.0")

    @property
    def n_tokens(self) -> int:
        """Number of tokens without the mask."""
        return self.vocab_size

    @property
    def forbidden(self) -> tuple[int, ...]:
        return ()

    @property
    def prompt_tokens(self) -> tuple[int, ...]:
        return ()

    @cached_property
    def transition_VV(self) -> Tensor:
        """p(next | this), float64; rows sum to 1 and no entry is 0."""
        rng, V = random.Random(f"{self.seed}/transition"), self.vocab_size
        # A gamma variable of shape a is one of shape a + 1 times u^(1/a); its logarithm does not underflow.
        log_gamma_VV = torch.tensor(
            [
                [
                    math.log(rng.gammavariate(self.concentration + 1.0, 1.0))
                    + math.log(1.0 - rng.random()) / self.concentration
                    for _ in range(V)
                ]
                for _ in range(V)
            ],
            dtype=torch.float64,
        )
        moving_VV = (1.0 - UNIFORM_PART) * log_gamma_VV.softmax(-1) + UNIFORM_PART / V
        return self.stickiness * torch.eye(V, dtype=torch.float64) + (1.0 - self.stickiness) * moving_VV

    @cached_property
    def start_V(self) -> Tensor:
        """The stationary law, float64: that of every single token."""
        V = self.vocab_size
        balance_VV = torch.eye(V, dtype=torch.float64) - self.transition_VV
        # pi (1 - P + J) = (1, .., 1), with J all ones, has the stationary law as its only solution.
        return torch.linalg.solve((balance_VV + 1.0).T, torch.ones(V, dtype=torch.float64))

    @cached_property
    def log_before_DSV(self) -> Tensor:
        """log p(x_i = v | x_{i-d} = s) at ``[d - 1, s, v]``, float64; log p(x_i = v) where s is "none"."""
        powers_DVV = self._powers_DVV
        start_D1V = self.start_V.expand(self.length, 1, -1)
        return torch.cat((powers_DVV, start_D1V), dim=1).log()

    @cached_property
    def log_after_DSV(self) -> Tensor:
        """log p(x_{i+d} = s | x_i = v) at ``[d - 1, s, v]``, float64; 0 where s is "none"."""
        return F.pad(self._powers_DVV.transpose(1, 2).log(), (0, 0, 0, 1))

    @cached_property
    def _powers_DVV(self) -> Tensor:
        powers = [self.transition_VV]
        while len(powers) < self.length:
            powers.append(powers[-1] @ self.transition_VV)
        return torch.stack(powers)

    def log_marginals(self, tokens_BL: Tensor) -> Tensor:
        """log p(x_i | visible tokens) of every masked position, float64 ``[B, L, V]``.

        Args:
            tokens_BL: int64, whole sequences; V, the mask, where a token is not visible.
        """
        assert tokens_BL.shape[1] == self.length, "whole sequences"
        before_DSV, after_DSV = self.log_before_DSV.to(tokens_BL.device), self.log_after_DSV.to(tokens_BL.device)
        return log_marginals(tokens_BL, before_DSV, after_DSV)

    def draw(self, stream: str, k: int) -> Draw:
        """Problem ``k`` of a stream: a pure function of the law, ``stream`` and ``k``."""
        rng = random.Random(f"{self.seed}/{stream}/{k}")
        start, rows = self._weights
        tokens = rng.choices(range(self.vocab_size), start)
        while len(tokens) < self.length:
            tokens += rng.choices(range(self.vocab_size), rows[tokens[-1]])
        return Draw((), tuple(tokens))

    @cached_property
    def _weights(self) -> tuple[list[float], list[list[float]]]:
        return self.start_V.tolist(), self.transition_VV.tolist()

    @cached_property
    def entropy_nats(self) -> float:
        """Entropy of a sequence, ``H(x_1) + (L - 1) H(x_2 | x_1)``: what no order can undercut."""
        return self._alone + (self.length - 1) * self._apart[0]

    @property
    def _alone(self) -> float:
        """Entropy of one token, nats."""
        return float(torch.special.entr(self.start_V).sum())

    @property
    def _apart(self) -> list[float]:
        """Entropy of a token given one at distance d on either side, at ``[d - 1]``, nats."""
        return (self.start_V @ torch.special.entr(self._powers_DVV).sum(-1).T).tolist()

    def optimum_nats(self, steps: int) -> float:
        """The least expected -log-likelihood, in nats, of an order of at most ``steps`` steps *chosen in advance*.

        A policy that looks at the tokens it has revealed can do better, see ``adaptive_optimum_nats``.

        Raises:
            ValueError: a budget below 1.
        """
        return self._best_order(steps).nats

    def optimum_order(self, steps: int) -> tuple[int, ...]:
        """The step (from 1) at which each position is unmasked in one of the best orders chosen in advance.

        Raises:
            ValueError: a budget below 1.
        """
        return self._best_order(steps).steps

    def adaptive_optimum_nats(self, steps: int) -> float:
        """The least expected -log-likelihood, in nats, of a policy that sees the revealed tokens, in ``steps`` steps.

        Raises:
            ValueError: a budget below 1.
        """
        check_least(steps=(steps, 1))
        return adaptive_optimum(self.log_before_DSV.exp(), self.log_after_DSV.exp(), steps)

    def _best_order(self, steps: int) -> BestOrder:
        check_least(steps=(steps, 1))
        return best_order(self.length, self._alone, self._apart, steps)
