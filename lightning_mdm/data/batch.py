"""The one record that all tasks hand to the framework: rows of tokens and what is known about every position.

Knows nothing of text, problems or models. B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Example:
    """One encoded problem.

    Args:
        tokens: the clean row, without padding.
        given: per token, whether it is given (the prompt) or to be generated.
        index: the problem's index within its split.
    """

    tokens: list[int]
    given: list[bool]
    index: int

    def __post_init__(self) -> None:
        assert len(self.tokens) == len(self.given), "one flag per token"

    @classmethod
    def of(cls, prompt: Sequence[int], response: Sequence[int], index: int) -> Example:
        """A prompt, all of it given, and the response to generate after it."""
        return cls([*prompt, *response], [True] * len(prompt) + [False] * len(response), index)


@dataclass
class Batch:
    """Clean rows, left-aligned, padded at the end to the longest of them.

    Args:
        tokens_BL: int64, the clean tokens; padding positions hold the pad token.
        prompt_BL: bool, the position is given and never masked.
        valid_BL: bool, the position is no padding.
        index_B: int64, the problem's index within its split.
        longest_response: most positions to generate in a row. Counted where it is not given, or negative, as after rows
            or prompts are replaced; best before the batch is on a GPU, which would have to be waited for.
        full: whether no row is padded; likewise.
        left_to_right: whether in every row all that is given stands before the first token to generate, as a causal net
            has to see it; likewise.
    """

    tokens_BL: Tensor
    prompt_BL: Tensor
    valid_BL: Tensor
    index_B: Tensor
    longest_response: int = -1
    full: bool | None = None
    left_to_right: bool | None = None

    def __post_init__(self) -> None:
        if self.full is None:
            self.full = bool(self.valid_BL.all())
        if self.longest_response < 0:
            self.longest_response = int(self.response_BL.sum(-1).max()) if len(self) else 0
        if self.left_to_right is None:
            behind_BL = self.response_BL.cumsum(-1) > 0
            self.left_to_right = not bool((behind_BL & self.prompt_BL & self.valid_BL).any())

    def __len__(self) -> int:
        """Number of rows."""
        return self.tokens_BL.shape[0]

    @property
    def response_BL(self) -> Tensor:
        """bool, positions to generate: valid and not given."""
        return self.valid_BL & ~self.prompt_BL

    @property
    def attend_BL(self) -> Tensor | None:
        """The positions that a net may attend to: those that are no padding, and ``None`` where that is all of them.

        Attention without a mask has faster kernels.
        """
        return None if self.full else self.valid_BL

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Batch:
        """The same batch on ``device``; what Lightning calls to transfer it.

        Lightning says ``non_blocking`` of plain tensors only. To a GPU, that is the default here: from page-locked
        memory four waits are saved, and from other memory a copy waits anyway.
        """
        if non_blocking is None:
            non_blocking = torch.device(device).type == "cuda"
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; what a DataLoader calls with ``pin_memory=True``."""
        return self._each(Tensor.pin_memory)

    def some(self, kept_B: Tensor) -> Batch:
        """Some of the rows, cut to the longest of them.

        Args:
            kept_B: bool, which.
        """
        valid_BL = self.valid_BL[kept_B]
        length = int(valid_BL.sum(-1).max()) if len(valid_BL) else 0
        return Batch(
            self.tokens_BL[kept_B, :length], self.prompt_BL[kept_B, :length], valid_BL[:, :length],
            self.index_B[kept_B],
        )  # fmt: skip

    def _each(self, moved: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch, each of its tensors moved; nothing is counted again."""
        return replace(
            self,
            tokens_BL=moved(self.tokens_BL),
            prompt_BL=moved(self.prompt_BL),
            valid_BL=moved(self.valid_BL),
            index_B=moved(self.index_B),
        )


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Stack examples, padding each at its end with ``pad_id`` to the longest of them."""
    assert examples, "a batch has at least one row"
    B, L = len(examples), max(len(example.tokens) for example in examples)
    tokens_BL = torch.full((B, L), pad_id, dtype=torch.int64)
    prompt_BL = torch.zeros((B, L), dtype=torch.bool)
    valid_BL = torch.zeros((B, L), dtype=torch.bool)
    for row, example in enumerate(examples):
        n = len(example.tokens)
        tokens_BL[row, :n] = torch.tensor(example.tokens, dtype=torch.int64)
        prompt_BL[row, :n] = torch.tensor(example.given, dtype=torch.bool)
        valid_BL[row, :n] = True
    index_B = torch.tensor([example.index for example in examples], dtype=torch.int64)
    return Batch(tokens_BL, prompt_BL, valid_BL, index_B)


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches, in this order, as long as the longest of them.

    What lies behind a shorter row's own positions is padding, whose token is 0: nothing reads it.
    """
    length = max(batch.tokens_BL.shape[1] for batch in batches)

    def longer(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([pad(value, (0, length - value.shape[1])) for value in values])

    return Batch(
        longer([batch.tokens_BL for batch in batches]),
        longer([batch.prompt_BL for batch in batches]),
        longer([batch.valid_BL for batch in batches]),
        torch.cat([batch.index_B for batch in batches]),
    )
