"""The Markov chain as a task: sequences without a prompt. Knows nothing of nets."""

from __future__ import annotations

from typing import Any

from lightning_mdm.data.laws import LawProblems, TokenNames, digit_names
from lightning_mdm.data.problem import Grade, Problem
from lightning_mdm.laws.markov_chain import MarkovChain

DEFAULT = MarkovChain()


class MarkovChainProblems(LawProblems):
    """Sequences of a Markov chain.

    Args:
        law: the Markov chain.
        n_validation: number of validation problems.
        n_test: number of test problems.
        **options: see ``ProblemDataModule``.

    Raises:
        ValueError: an option out of its range.
    """

    task = "markov_chain"
    law: MarkovChain

    def __init__(self, law: MarkovChain = DEFAULT, n_validation: int = 500, n_test: int = 1000, **options: Any) -> None:
        super().__init__(law, TokenNames(digit_names(law.vocab_size)), n_validation, n_test, **options)

    def grade(self, problem: Problem, text: str) -> Grade:
        """There is no right answer: "correct" says only that the text has the right length and legal tokens.

        What an order is worth shows in the likelihood, never in this grade.
        """
        return Grade(text or None, self.encoder.legal(text) is not None)
