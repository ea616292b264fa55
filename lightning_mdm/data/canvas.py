"""The canvas of a text problem: ``[prompt][response, then end-of-sequence up to a fixed length]``.

The response region has the same length in every row, so that its length tells nothing of the answer's; rows differ by
their prompts alone. Knows nothing of batches or models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from tokenizers import Tokenizer

from lightning_mdm.data.batch import Example
from lightning_mdm.data.problem import Problem


class CanvasEncoder(ABC):
    """Lays problems out on a canvas, and reads what was written there."""

    @abstractmethod
    def __call__(self, problem: Problem) -> Example | None:
        """The row of a problem, ``None`` where it does not fit."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of a response up to its first end-of-sequence."""


@dataclass(frozen=True)
class TextEncoder(CanvasEncoder):
    """Lays problems out on a canvas; calling it encodes one, or gives ``None`` where it does not fit.

    Args:
        tokenizer: text to ids.
        eos_id: ends a response and fills its region.
        prompt_tokens: longest prompt.
        response_tokens: length of the response region; it takes the response and at least one end-of-sequence.
    """

    tokenizer: Tokenizer
    eos_id: int
    prompt_tokens: int
    response_tokens: int

    def __call__(self, problem: Problem) -> Example | None:
        prompt, response = ids(self.tokenizer, problem.prompt), ids(self.tokenizer, problem.response)
        if len(prompt) > self.prompt_tokens or len(response) >= self.response_tokens:
            return None
        region = response + [self.eos_id] * (self.response_tokens - len(response))
        return Example.of(prompt, region, problem.index)

    def decode(self, tokens: Iterable[int]) -> str:
        return text_of(self.tokenizer, up_to(self.eos_id, tokens))


def up_to(eos_id: int, tokens: Iterable[int]) -> list[int]:
    """The tokens before the first end-of-sequence."""
    return [int(token) for token in takewhile(lambda token: token != eos_id, tokens)]


def text_of(tokenizer: Tokenizer, tokens: list[int]) -> str:
    """The text of ids, special tokens included."""
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of ``text`` alone, without any token that a tokenizer would put around it."""
    return tokenizer.encode(text, add_special_tokens=False).ids


def measure(tokenizer: Tokenizer, problems: Iterable[Problem]) -> tuple[int, int]:
    """The longest prompt and the longest response with one end-of-sequence, in tokens."""
    longest_prompt = longest_response = 0
    for problem in problems:
        longest_prompt = max(longest_prompt, len(ids(tokenizer, problem.prompt)))
        longest_response = max(longest_response, len(ids(tokenizer, problem.response)) + 1)
    return longest_prompt, longest_response
