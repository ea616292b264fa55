"""The hop chain as a task. The prompt, where there is one, shows the role of each response position.

Knows nothing of nets: how far a denoiser computes is an option of the law, but nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lightning_mdm.data.laws import LawProblems, TokenNames, digit_names
from lightning_mdm.data.problem import Grade, Problem
from lightning_mdm.laws.hop_chain import HopChain

DEFAULT = HopChain()


def names_of(law: HopChain) -> TokenNames:
    """Digits, and where prompts show roles: ``c1`` .. ``cN`` of the chain, ``f`` (free) and ``g`` (given away)."""
    roles = (*(f"c{i}" for i in range(1, law.chain + 1)), "f", "g")
    return TokenNames(digit_names(law.vocab_size) + (roles if law.forbidden else ()))


def answer_of(law: HopChain, roles: Sequence[int], response: Sequence[int]) -> str:
    """What counts in a response: y_1 .. y_N, then the given-away tokens by position."""
    counted = sorted((role, place) for place, role in enumerate(roles) if role != law.free_role)
    return " ".join(str(response[place]) for _, place in counted)


def generate(stream: str, k: int, law: HopChain) -> Problem:
    """Problem number ``k`` of a random stream: a pure function of both and the law."""
    drawn, names = law.draw(stream, k), names_of(law)
    roles = law.fixed_roles or [token - law.vocab_size for token in drawn.prompt]
    answer = answer_of(law, roles, drawn.response)
    return Problem(k, names.text(drawn.prompt), names.text(drawn.response), answer, depth=law.chain)


class HopChainProblems(LawProblems):
    """Problems of a hop chain.

    Args:
        law: the hop chain.
        n_validation: number of validation problems.
        n_test: number of test problems.
        **options: see ``ProblemDataModule``.

    Raises:
        ValueError: an option out of its range.
    """

    task = "hop_chain"
    law: HopChain

    def __init__(self, law: HopChain = DEFAULT, n_validation: int = 500, n_test: int = 1000, **options: Any) -> None:
        super().__init__(law, names_of(law), n_validation, n_test, **options)

    def maker(self, stream: str) -> Callable[[int], Problem]:
        return partial(generate, stream, law=self.law)

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where all chain and given-away tokens are; the free ones are nobody's fault."""
        response, prompt = self.encoder.legal(text), self.names.tokens(problem.prompt)
        if response is None or prompt is None:
            return Grade(None, False)
        answer = answer_of(self.law, self.law.fixed_roles or [t - self.law.vocab_size for t in prompt], response)
        return Grade(answer, answer == problem.answer)
