"""What the tasks of the toy laws share: problems as text of token names separated by spaces, drawn by their number.

Training, validation and test draw from different random streams, so they are disjoint as numbers of problems; the same
sequence may still be drawn twice, as from any law. Validation and test depend on the law alone, never on
``data.seed``: runs with several seeds are compared on the same problems. Knows no particular law, and no nets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from lightning_mdm.data.batch import Example
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import GeneratorSource, Source
from lightning_mdm.laws.law import Law
from lightning_mdm.vocabulary import TokenSpace


@dataclass(frozen=True)
class TokenNames:
    """Tokens as text.

    Args:
        names: the name of every token, different from each other and without spaces.
    """

    names: tuple[str, ...]

    def text(self, tokens: Iterable[int]) -> str:
        return " ".join(self.names[token] for token in tokens)

    def tokens(self, text: str) -> list[int] | None:
        """The tokens of a text, ``None`` where a word is no token's name."""
        words = text.split()
        return [self._ids[word] for word in words] if all(word in self._ids for word in words) else None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {name: token for token, name in enumerate(self.names)}


def digit_names(n: int) -> tuple[str, ...]:
    """``0``, ``1``, .. for the first ``n`` tokens."""
    return tuple(str(digit) for digit in range(n))


@dataclass(frozen=True)
class LawEncoder:
    """Encodes problems of one law; calling it gives ``None`` for a text that is no problem of it.

    Args:
        names: tokens as text.
        prompt: the tokens of every prompt, ascending.
        response: number of response positions. A question without a response is encoded with token 0 in its place.
        generated: the tokens below this one may stand in a response.
    """

    names: TokenNames
    prompt: tuple[int, ...]
    response: int
    generated: int

    def __call__(self, problem: Problem) -> Example | None:
        prompt = self.names.tokens(problem.prompt)
        response = self.legal(problem.response) if problem.response else [0] * self.response
        if prompt is None or tuple(sorted(prompt)) != self.prompt or response is None:
            return None
        return Example.of(prompt, response, problem.index)

    def legal(self, response: str) -> list[int] | None:
        """The tokens of a response, ``None`` unless they are of the right number and may all be generated."""
        tokens = self.names.tokens(response)
        if tokens is None or len(tokens) != self.response or max(tokens) >= self.generated:
            return None
        return tokens


def generate(stream: str, k: int, law: Law, names: TokenNames) -> Problem:
    """Problem number ``k`` of a random stream: a pure function of all these; the sequence is its own answer."""
    drawn = law.draw(stream, k)
    response = names.text(drawn.response)
    return Problem(k, names.text(drawn.prompt), response, response)


class LawProblems(ProblemDataModule):
    """Problems of one law.

    Args:
        law: where problems come from.
        names: tokens as text.
        n_validation: number of validation problems.
        n_test: number of test problems.
        **options: see ``ProblemDataModule``.

    Raises:
        ValueError: an option out of its range.
    """

    law: Law
    canvas_hint = "give prompts of data.law, in its tokens"

    def __init__(self, law: Law, names: TokenNames, n_validation: int, n_test: int, **options: Any) -> None:
        super().__init__(**options)
        for name, value in (("n_validation", n_validation), ("n_test", n_test)):
            if value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        self.law = law
        self.names = names
        self.sizes = {"validation": n_validation, "test": n_test}

    def maker(self, stream: str) -> Callable[[int], Problem]:
        """Makes the problems of a random stream from their numbers; it travels to worker processes."""
        return partial(generate, stream, law=self.law, names=self.names)

    @property
    def vocab_size(self) -> int:
        return self.law.n_tokens

    @property
    def token_space(self) -> TokenSpace:
        return TokenSpace(self.law.n_tokens, eos_id=None, pad_id=0, forbidden=self.law.forbidden)

    @property
    def encoder(self) -> LawEncoder:
        law = self.law
        return LawEncoder(self.names, law.prompt_tokens, law.length, law.n_tokens - len(law.forbidden))

    @property
    def encoding(self) -> str:
        return f"{self.law} {' '.join(self.names.names)}"

    def state_dict(self) -> dict[str, Any]:
        return {"law": str(self.law)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn of a checkpoint of another law: nets take any law of their length, so little else would show it."""
        if state_dict["law"] != str(self.law):
            rank_zero_warn(
                f"data.law is {self.law}, and the checkpoint was trained on {state_dict['law']}: unless this is what "
                "you want, give the configuration that it was trained with"
            )

    def optimum_nats(self, steps: int) -> float:
        """See the law's own ``optimum_nats``: for the law's formula as denoiser."""
        return self.law.optimum_nats(steps)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.names.text(tokens)

    def training(self) -> Source:
        return GeneratorSource(self.maker(f"train/{self.seed}"))

    def load_problems(self, split: str) -> list[Problem]:
        return [self.maker(split)(k) for k in range(self.sizes[split])]
