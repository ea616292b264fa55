"""Latents and observations as a task: whole sequences, without a question. Knows nothing of nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_mdm.data.laws import LawProblems, TokenNames
from lightning_mdm.data.problem import Grade, Problem, SubproblemKind
from lightning_mdm.laws.nae_sat import NaeSat

DEFAULT = NaeSat()
NAMES = ("0", "1", "_")  # bits, and padding
KINDS = (
    SubproblemKind("observation, decided by known latents", ready=True),
    SubproblemKind("observation, not decided yet", ready=False),
    SubproblemKind("latent", ready=False),
)
DECIDED, OPEN, LATENT = range(len(KINDS))


class NaeSatProblems(LawProblems):
    """Sequences of L&O-NAE-SAT.

    Args:
        law: latents and observations.
        n_validation: number of validation problems.
        n_test: number of test problems.
        **options: see ``ProblemDataModule``.

    Raises:
        ValueError: an option out of its range.
    """

    task = "nae_sat"
    law: NaeSat

    def __init__(self, law: NaeSat = DEFAULT, n_validation: int = 500, n_test: int = 1000, **options: Any) -> None:
        super().__init__(law, TokenNames(NAMES[: law.n_tokens]), n_validation, n_test, **options)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where every observation is what the generated latents make it.

        The score is the share of observations that are, which is our reading of the paper's "accuracy in predicting
        the observation tokens". The reference is not asked: every sequence of the law is as good as any other. What
        latents alone say nothing of, such as their diversity, is not graded.
        """
        response = self.encoder.legal(text)
        if response is None:
            return Grade(None, False, 0.0)
        agreeing, wanted = self.law.agreeing(response), self.law.observations
        return Grade(text, agreeing == wanted, agreeing / wanted if wanted else 1.0)

    def order(self, problem: Problem) -> Sequence[int] | None:
        """Latents first, then observations, wherever they stand: no order is better (``NaeSat.optimum_nats``)."""
        latents = self.law.places[: self.law.latents]
        return [int(place not in latents) for place in range(self.law.length)]

    @property
    def subproblem_kinds(self) -> tuple[SubproblemKind, ...]:
        """Observations that known latents decide, others, and latents."""
        return KINDS

    def subproblems(self, problem: Problem, tokens: Sequence[int | None]) -> Sequence[int]:
        """Two latents that differ decide an observation, or all three."""
        places, triples = self.law.places, self.law.triples
        latents = [tokens[place] for place in places[: self.law.latents]]
        kinds = [LATENT] * self.law.length
        for place, triple in zip(places[self.law.latents :], triples, strict=True):
            seen = [latents[i] for i in triple]
            decided = None not in seen or {0, 1} <= set(seen)
            kinds[place] = DECIDED if decided else OPEN
        return kinds
