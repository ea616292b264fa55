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

from lightning_mdm.objectives.order_model import States
from lightning_mdm.orders.finishing_law import FinishingBernoulli
from lightning_mdm.orders.levelled_law import Levelled
from lightning_mdm.orders.posterior import max_normalised
from lightning_mdm.orders.unmasking_law import NonEmptyBernoulli, UnmaskingLaw

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


def law_of(p: Tensor, finish: Tensor | None, masked: frozenset[int], chosen: frozenset[int]) -> Tensor:
    """P(chosen) under independent coins given that not all fail, or by ``finish``, the logit of everything."""

    def coins(taken: frozenset[int]) -> Tensor:
        return torch.stack([p[i] if i in taken else 1.0 - p[i] for i in sorted(masked)]).prod()

    if finish is None:
        return coins(chosen) / (1.0 - coins(frozenset()))
    if len(masked) == 1:
        return torch.ones_like(finish)
    if chosen == masked:
        return torch.sigmoid(finish)
    parts = [frozenset(c) for size in range(1, len(masked)) for c in itertools.combinations(sorted(masked), size)]
    # Not 1 - sigmoid(finish), of which few digits are left where finishing is nearly certain.
    return torch.sigmoid(-finish) * coins(chosen) / torch.stack([coins(part) for part in parts]).sum()


@dataclass(frozen=True)
class ToyReading:
    log_prob_SL: Tensor


class ToyModel(nn.Module):
    """Tables for one example x: log p(x_i | z), selector and posterior, all free; an ``OrderModel``.

    Args:
        length: L.
        budget: T.
        family: ``state_aware``, ``relative``, ``max_normalised`` or ``selector``.
        seed: of the tables.
        finishing: whether finishing is a decision of its own.
        levels: of which one is drawn before a set, if there are several; of a ``relative`` posterior or none.
    """

    def __init__(
        self, length: int, budget: int, family: str, seed: int = 0, finishing: bool = False, levels: int = 1
    ) -> None:
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
        self.finishing = finishing
        self.levels = levels
        if levels > 1:
            self.level = table(budget + 1, 2**length, levels)
            self.shift = table(levels)
        if finishing:
            self.selector_finish = table(budget + 1, 2**length)
            self.dynamic_finish = table(budget + 1, 2**length)
            self.evidence_finish = table(1)

    def forward(self) -> None: ...

    @property
    def posterior_reads_states(self) -> bool:
        return self.family != "max_normalised"

    # For the estimators.

    def code(self, masked_SL: Tensor) -> Tensor:
        return (masked_SL.long() * 2 ** torch.arange(self.length)).sum(-1)

    def read(self, states: States) -> ToyReading:
        log_SL = self.denoiser.log_softmax(-1)[self.code(states.masked_SL), :, 0]
        return ToyReading(log_SL.masked_fill(~states.masked_SL, 0.0))

    def selector_law(self, states: States, reading: ToyReading) -> UnmaskingLaw:
        where = states.steps_left_S, self.code(states.masked_SL)
        logits_SL, masked_SL = self.selector[where], states.masked_SL
        if self.levels > 1:
            logits_SL = (logits_SL[:, None] + self.shift[:, None]).flatten(0, 1)
            masked_SL = masked_SL.repeat_interleave(self.levels, 0)
        law: UnmaskingLaw = NonEmptyBernoulli.from_logits(logits_SL, masked_SL)
        if self.finishing:
            finish_S = self.selector_finish[where].repeat_interleave(self.levels, 0)
            law = FinishingBernoulli.from_logits(logits_SL, finish_S, masked_SL)
        return law if self.levels == 1 else Levelled.from_logits(self.level[where], law)

    def posterior_law(self, states: States, log_prob_SL: Tensor | None, pi: UnmaskingLaw | None) -> UnmaskingLaw:
        if self.family == "max_normalised":
            assert log_prob_SL is None
            assert pi is None
            return max_normalised(self.static.expand(len(states.masked_SL), -1), states.masked_SL, 0.7)
        assert log_prob_SL is not None
        assert pi is not None
        if self.family == "selector":
            return pi
        where = states.steps_left_S, self.code(states.masked_SL)
        logits_SL = self.static + self.dynamic[where]
        logits_SL = logits_SL + self.evidence[0] * log_prob_SL + self.evidence[1] * log_prob_SL.exp()
        finish_S = None
        if self.finishing:
            finish_S = self.dynamic_finish[where] + self.evidence_finish * log_prob_SL.sum(-1)
        if self.family == "relative":
            return pi.moved(logits_SL, finish_S)
        if finish_S is None:
            return NonEmptyBernoulli.from_logits(logits_SL, states.masked_SL)
        return FinishingBernoulli.from_logits(logits_SL, finish_S, states.masked_SL)

    # By definition, for one state.

    def log_prob(self, masked: frozenset[int]) -> Tensor:
        """log p(x_i | z) of every position."""
        weight = self.denoiser[sum(2**i for i in masked)].exp()
        return (weight[:, 0] / weight.sum(-1)).log()

    def share(self, masked: frozenset[int], left: int, level: int) -> Tensor:
        """The probability of a level, the same under both laws: a relative posterior moves coins and finishing."""
        if self.levels == 1:
            return torch.ones((), dtype=torch.float64)
        weight = self.level[left, sum(2**i for i in masked)].exp()
        return weight[level] / weight.sum()

    def pi(self, masked: frozenset[int], chosen: frozenset[int], left: int, level: int | None = None) -> Tensor:
        """Of a set, or of a level and a set."""
        if level is None:
            return sum((self.pi(masked, chosen, left, j) for j in range(self.levels)), torch.zeros(()))
        state = left, sum(2**i for i in masked)
        finish = self.selector_finish[state] if self.finishing else None
        shift = self.shift[level] if self.levels > 1 else 0.0
        p = torch.sigmoid(self.selector[state] + shift)
        return self.share(masked, left, level) * law_of(p, finish, masked, chosen)

    def q(self, masked: frozenset[int], chosen: frozenset[int], left: int, level: int | None = None) -> Tensor:
        """Of a set, or of a level and a set."""
        if level is None:
            return sum((self.q(masked, chosen, left, j) for j in range(self.levels)), torch.zeros(()))
        if self.family == "selector":
            return self.pi(masked, chosen, left, level)
        if self.family == "max_normalised":
            best = max(self.static[i].item() for i in masked)
            top = next(i for i in masked if self.static[i].item() == best)
            p = ((self.static - self.static[top]) / 0.7).exp()
            p = torch.stack([torch.ones_like(p[i]) if i == top else p[i] for i in range(self.length)])
            return law_of(p, None, masked, chosen)
        log_p, state = self.log_prob(masked), (left, sum(2**i for i in masked))
        # A relative posterior has the odds of the selector, times a factor.
        base = self.selector[state] if self.family == "relative" else 0.0
        base = base + (self.shift[level] if self.levels > 1 else 0.0)
        p = torch.sigmoid(
            base + self.static + self.dynamic[state] + self.evidence[0] * log_p + self.evidence[1] * log_p.exp()
        )
        share = self.share(masked, left, level)
        if not self.finishing:
            return share * law_of(p, None, masked, chosen)
        base = self.selector_finish[state] if self.family == "relative" else 0.0
        stake = sum(log_p[i] for i in sorted(masked))
        return share * law_of(p, base + self.dynamic_finish[state] + self.evidence_finish[0] * stake, masked, chosen)


@dataclass
class Enumerated:
    """Everything about one model's bound that can be listed."""

    model: ToyModel
    price: float = 0.0
    entropy_bonus: float = 0.0
    given: frozenset[int] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self.start = frozenset(range(self.model.length)) - self.given
        self.sets = list(trajectories(self.start, self.model.budget))

    def log_joint(self, sets: Sets, levels: tuple[int | None, ...] = (None,) * 9) -> Tensor:
        """log of p(x, trajectory, no break), or of that and the levels."""
        masked, total = self.start, torch.zeros((), dtype=torch.float64)
        for step, chosen in enumerate(sets, start=1):
            left = self.model.budget - step + 1
            log_p = self.model.log_prob(masked)
            total = total + sum(log_p[i] for i in chosen) - self.price
            if left > 1:
                total = total + self.model.pi(masked, chosen, left, levels[step - 1]).log()
            masked = masked - chosen
        return total

    def log_q(self, sets: Sets, levels: tuple[int | None, ...] = (None,) * 9) -> Tensor:
        """log of q(trajectory | x), or of that and the levels."""
        masked, total = self.start, torch.zeros((), dtype=torch.float64)
        for step, chosen in enumerate(sets, start=1):
            left = self.model.budget - step + 1
            if left > 1:
                total = total + self.model.q(masked, chosen, left, levels[step - 1]).log()
            masked = masked - chosen
        return total

    def bound_nats(self) -> Tensor:
        """-E_q log(p / q), without any expectation in closed form; levels are part of the trajectory."""
        possible = [
            (sets, levels)
            for sets in self.sets
            if self.log_q(sets).item() > -math.inf
            for levels in itertools.product(range(self.model.levels), repeat=len(sets))
            # At the last step none is drawn.
            if len(sets) < self.model.budget or levels[-1] == 0
        ]
        logs = [(self.log_q(*both), self.log_joint(*both)) for both in possible]
        return -sum(log_q.exp() * (log_joint - log_q) for log_q, log_joint in logs)

    def objective(self) -> Tensor:
        """The bound less the bonus for q's entropy at every step."""
        total = self.bound_nats()
        for sets in (sets for sets in self.sets if self.entropy_bonus and self.log_q(sets).item() > -math.inf):
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
