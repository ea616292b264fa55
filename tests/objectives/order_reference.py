"""The bound over orders by enumeration, from the definitions: no law, estimator or closed form of the package is used.

Sizes are toy sizes: every state has its own parameters, every trajectory is listed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lightning_mdm.objectives.order_elbo import States
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli

Sets = tuple[frozenset[int], ...]


def trajectories(masked: frozenset[int], steps: int) -> Iterator[Sets]:
    """Every sequence of non-empty sets that unmasks ``masked`` in at most ``steps`` steps, the last taking the rest."""
    if not masked:
        yield ()
    elif steps == 1:
        yield (masked,)
    else:
        for size in range(1, len(masked) + 1):
            for chosen in itertools.combinations(sorted(masked), size):
                for rest in trajectories(masked - set(chosen), steps - 1):
                    yield (frozenset(chosen), *rest)


def law_of(p: Tensor, masked: frozenset[int], chosen: frozenset[int]) -> Tensor:
    """P(chosen) under independent coins conditioned on not all failing."""
    taken = torch.stack([p[i] if i in chosen else 1.0 - p[i] for i in sorted(masked)]).prod()
    none = torch.stack([1.0 - p[i] for i in sorted(masked)]).prod()
    return taken / (1.0 - none)


@dataclass(frozen=True)
class ToyReading:
    log_prob_SL: Tensor


class ToyModel(nn.Module):
    """Tables for one example x: log p(x_i | z), selector and posterior, all free; an ``OrderModel``.

    Args:
        length: L.
        budget: T.
        family: ``state_aware`` or ``max_normalised``.
        seed: of the tables.
        empty: positions that are given, not generated.
    """

    def __init__(self, length: int, budget: int, family: str, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def table(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.length, self.budget, self.family = length, budget, family
        self.denoiser = table(2**length, length, 3)  # three tokens, of which token 0 is the true one
        self.selector = table(budget + 1, 2**length, length)
        self.static = table(length)
        self.dynamic = table(budget + 1, 2**length, length)
        self.evidence = table(2)

    def forward(self) -> None: ...

    @property
    def posterior_reads_states(self) -> bool:
        return self.family == "state_aware"

    # For the estimators.

    def code(self, masked_SL: Tensor) -> Tensor:
        return (masked_SL.long() * 2 ** torch.arange(self.length)).sum(-1)

    def read(self, states: States) -> ToyReading:
        log_SL = self.denoiser.log_softmax(-1)[self.code(states.masked_SL), :, 0]
        return ToyReading(log_SL.masked_fill(~states.masked_SL, 0.0))

    def selector_law(self, states: States, reading: ToyReading) -> NonEmptyBernoulli:
        logits_SL = self.selector[states.steps_left_S, self.code(states.masked_SL)]
        return NonEmptyBernoulli.from_logits(logits_SL, states.masked_SL)

    def posterior_law(self, states: States, log_prob_SL: Tensor | None) -> NonEmptyBernoulli:
        if self.family == "max_normalised":
            assert log_prob_SL is None
            return max_normalised(self.static.expand(len(states.masked_SL), -1), states.masked_SL, 0.7)
        assert log_prob_SL is not None
        logits_SL = self.static + self.dynamic[states.steps_left_S, self.code(states.masked_SL)]
        logits_SL = logits_SL + self.evidence[0] * log_prob_SL + self.evidence[1] * log_prob_SL.exp()
        return NonEmptyBernoulli.from_logits(logits_SL, states.masked_SL)

    # By definition, for one state.

    def log_prob(self, masked: frozenset[int]) -> Tensor:
        """log p(x_i | z) of every position."""
        weight = self.denoiser[sum(2**i for i in masked)].exp()
        return (weight[:, 0] / weight.sum(-1)).log()

    def pi(self, masked: frozenset[int], chosen: frozenset[int], left: int) -> Tensor:
        return law_of(torch.sigmoid(self.selector[left, sum(2**i for i in masked)]), masked, chosen)

    def q(self, masked: frozenset[int], chosen: frozenset[int], left: int) -> Tensor:
        if self.family == "max_normalised":
            best = max(self.static[i].item() for i in masked)
            top = next(i for i in masked if self.static[i].item() == best)
            p = ((self.static - self.static[top]) / 0.7).exp()
            p = torch.stack([torch.ones_like(p[i]) if i == top else p[i] for i in range(self.length)])
        else:
            log_p = self.log_prob(masked)
            p = torch.sigmoid(
                self.static + self.dynamic[left, sum(2**i for i in masked)] + self.evidence[0] * log_p
                + self.evidence[1] * log_p.exp()
            )  # fmt: skip
        return law_of(p, masked, chosen)


@dataclass
class Enumerated:
    """Everything about one model's bound that can be listed."""

    model: ToyModel
    price: float = 0.0
    wait_price: float = 0.0
    entropy_bonus: float = 0.0
    given: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self.start = frozenset(range(self.model.length)) - self.given
        self.sets = list(trajectories(self.start, self.model.budget))

    def log_joint(self, sets: Sets) -> Tensor:
        """log of p(x, trajectory, no break)."""
        masked, total = self.start, torch.zeros((), dtype=torch.float64)
        for step, chosen in enumerate(sets, start=1):
            left = self.model.budget - step + 1
            log_p = self.model.log_prob(masked)
            total = total + sum(log_p[i] for i in chosen) - self.price
            if left > 1:
                total = total + self.model.pi(masked, chosen, left).log()
            masked = masked - chosen
            total = total - self.wait_price * len(masked)
        return total

    def log_q(self, sets: Sets) -> Tensor:
        """log of q(trajectory | x)."""
        masked, total = self.start, torch.zeros((), dtype=torch.float64)
        for step, chosen in enumerate(sets, start=1):
            left = self.model.budget - step + 1
            if left > 1:
                total = total + self.model.q(masked, chosen, left).log()
            masked = masked - chosen
        return total

    def bound_nats(self) -> Tensor:
        """-E_q log(p / q), without any expectation in closed form."""
        possible = [sets for sets in self.sets if self.log_q(sets).item() > -math.inf]
        return -sum(self.log_q(sets).exp() * (self.log_joint(sets) - self.log_q(sets)) for sets in possible)

    def objective(self) -> Tensor:
        """The bound less the bonus for q's entropy at every step."""
        total = self.bound_nats()
        for sets in (sets for sets in self.sets if self.log_q(sets).item() > -math.inf):
            weight, masked = self.log_q(sets).exp(), self.start
            for step in range(1, len(sets) + 1):
                left = self.model.budget - step + 1
                if left > 1:
                    q = [
                        self.model.q(masked, frozenset(chosen), left)
                        for size in range(1, len(masked) + 1)
                        for chosen in itertools.combinations(sorted(masked), size)
                    ]
                    entropy = -sum(p * p.log() for p in q if p.item() > 0.0)
                    total = total - self.entropy_bonus * weight * entropy
                masked = masked - sets[step - 1]
        return total

    def nats(self) -> Tensor:
        """-log p(x), over all trajectories."""
        return -torch.stack([self.log_joint(sets) for sets in self.sets]).logsumexp(0)
