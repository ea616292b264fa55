"""The ids a task's sequences are made of, and which of them may never be generated.

Knows nothing of text, problems or models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenSpace:
    """Ids 0 .. ``vocab_size - 1`` are tokens; ``vocab_size`` itself is the mask, which no head predicts.

    Args:
        vocab_size: number of tokens, without the mask.
        eos_id: the end-of-sequence token; ``None`` for tasks whose answers have a fixed length.
        pad_id: fills rows up to the longest of a batch; never attended to, so it may be ``eos_id``.
        forbidden: ids that may never be sampled, such as padding and ids that stand for no text; sorted, unique.
    """

    vocab_size: int
    eos_id: int | None
    pad_id: int
    forbidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size={self.vocab_size}: at least one token is needed")
        named = {"pad_id": self.pad_id} if self.eos_id is None else {"pad_id": self.pad_id, "eos_id": self.eos_id}
        for name, token in (*named.items(), *(("forbidden", token) for token in self.forbidden)):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"{name}: {token} is no token of a vocabulary of {self.vocab_size}")
        if list(self.forbidden) != sorted(set(self.forbidden)):
            raise ValueError(f"forbidden={self.forbidden}: give every id once, in ascending order")
        if self.eos_id in self.forbidden:
            raise ValueError(f"forbidden={self.forbidden} holds eos_id={self.eos_id}: no sequence could ever end")
        if len(self.forbidden) == self.vocab_size:
            raise ValueError(f"all {self.vocab_size} tokens are forbidden: nothing could be sampled")

    @property
    def mask_id(self) -> int:
        """The id of the mask, one past the last token."""
        return self.vocab_size
