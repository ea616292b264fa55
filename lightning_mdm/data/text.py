"""Text tasks: a tokenizer, a canvas measured on the data, and answers compared as numbers.

A text task says where its problems come from (``training`` and ``load_problems``), and where the answer is not a number
behind ``####``, how it is graded (``grade``); nothing else. Tokenizer and canvas travel in the checkpoint, so that
testing needs nothing beside it. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from tokenizers import Tokenizer

from lightning_mdm.data.answers import MARKER, final_answer, grade_number, parse_number
from lightning_mdm.data.canvas import CanvasEncoder, TextEncoder, ids, measure, text_of
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.problem import Grade, Problem
from lightning_mdm.data.questions import read_questions
from lightning_mdm.data.sources import CANVAS_HINT
from lightning_mdm.data.stream import StreamLoader
from lightning_mdm.data.tokenizer import (
    EOS_NAMES,
    PAD_NAMES,
    check_vocab_size,
    find_token,
    ids_in_use,
    parse_tokenizer,
    read_tokenizer,
    train_tokenizer,
)
from lightning_mdm.vocabulary import TokenSpace

DEFAULT_VOCAB_SIZE = 512
T = TypeVar("T")


class TextDataModule(ProblemDataModule):
    """Data of one text task.

    Args:
        vocab_size: number of tokens, 512 where neither this nor ``tokenizer_path`` is given. With ``tokenizer_path``,
            the file's own number, or more to leave rows unused.
        tokenizer_path: a ``tokenizer.json``, one of the hub (``hf://OWNER/NAME/tokenizer.json``), or the checkpoint
            of a training on text, for its own; ``None`` trains one on the training problems, with digits kept single.
        eos_token: the file's end-of-sequence token, where it goes by no usual name.
        pad_token: the file's padding token likewise; where there is none, end-of-sequence serves, as padding is never
            attended to.
        prompt_tokens: longest prompt; ``None`` takes the longest of the data.
        response_tokens: length of the region to generate, for the response and at least one end-of-sequence; ``None``
            takes the longest response of the data and one end-of-sequence.
        measure_problems: how many training problems tokenizer and canvas are measured on, where not all are at hand.
        **options: see ``ProblemDataModule``.

    Raises:
        ValueError: an option out of its range, a tokenizer that cannot be read or lacks a token.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        tokenizer_path: str | None = None,
        eos_token: str | None = None,
        pad_token: str | None = None,
        prompt_tokens: int | None = None,
        response_tokens: int | None = None,
        measure_problems: int = 2000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, value, least in (
            ("prompt_tokens", prompt_tokens, 1),
            ("response_tokens", response_tokens, 2),
            ("measure_problems", measure_problems, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"data.{name}={value}: give at least {least}")
        if tokenizer_path is None and (eos_token or pad_token):
            raise ValueError("data.eos_token and data.pad_token name tokens of a file: give data.tokenizer_path too")
        self.tokenizer_path = tokenizer_path
        self.eos_token = eos_token
        self.pad_token = pad_token
        self.prompt_tokens = prompt_tokens
        self.response_tokens = response_tokens
        self.measure_problems = measure_problems
        self._tokenizer: Tokenizer | None = None
        self._canvas: tuple[int, int] | None = None
        self._special: tuple[int, int] | None = None
        self._vocab_size = DEFAULT_VOCAB_SIZE if vocab_size is None else vocab_size
        if tokenizer_path is None:
            check_vocab_size(self._vocab_size)
        else:
            self._tokenizer = read_tokenizer(tokenizer_path)
            needed = max(ids_in_use(self._tokenizer)) + 1
            if vocab_size is None:
                self._vocab_size = needed
            elif vocab_size < needed:
                raise ValueError(f"data.vocab_size={vocab_size}: {tokenizer_path} has {needed} tokens; leave it out")
            _ = self.special_ids

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: the checkpoint's, the file's or one trained now, the same on every process."""
        if self._tokenizer is None:
            problems = self.training().sample(self.measure_problems)
            trained = train_tokenizer((text for p in problems for text in (p.prompt, p.response)), self.vocab_size)
            self._tokenizer = parse_tokenizer(self._agreed(trained.to_str()), "the trained tokenizer")
        return self._tokenizer

    @property
    def canvas(self) -> tuple[int, int]:
        """The longest prompt and the length of the response region, in tokens."""
        if self._canvas is None:
            asked = (self.prompt_tokens, self.response_tokens)
            measured = (1, 2)
            if None in asked:
                problems = [*self.training().sample(self.measure_problems)]
                problems += [*self.problems("validation"), *self.problems("test")]
                measured = measure(self.tokenizer, problems)
            self._canvas = self._agreed((asked[0] or measured[0], asked[1] or measured[1]))
            rank_zero_info(f"{self.task}: canvas of {self._canvas[0]} prompt and {self._canvas[1]} response tokens")
        return self._canvas

    @property
    def special_ids(self) -> tuple[int, int]:
        """The ids of end-of-sequence and padding."""
        if self._special is None:
            eos_id = find_token(self.tokenizer, "data.eos_token", self.eos_token, EOS_NAMES)
            if eos_id is None:
                raise ValueError(
                    f"the tokenizer has no end-of-sequence token by any usual name ({', '.join(EOS_NAMES)}): "
                    "name it by data.eos_token"
                )
            pad_id = find_token(self.tokenizer, "data.pad_token", self.pad_token, PAD_NAMES)
            self._special = (eos_id, eos_id if pad_id is None else pad_id)
        return self._special

    @property
    def token_space(self) -> TokenSpace:
        eos_id, pad_id = self.special_ids
        unused = set(range(self.vocab_size)) - ids_in_use(self.tokenizer)
        forbidden = unused | ({pad_id} - {eos_id})
        return TokenSpace(self.vocab_size, eos_id, pad_id, tuple(sorted(forbidden)))

    @property
    def encoder(self) -> CanvasEncoder:
        return TextEncoder(self.tokenizer, self.special_ids[0], *self.canvas)

    @property
    def encoding(self) -> str:
        return f"{self.canvas} {self.special_ids} {self.tokenizer.to_str()}"

    def decode(self, tokens: Iterable[int]) -> str:
        return self.encoder.decode(tokens)

    def best_text(self, problem: Problem) -> str:
        """See ``ProblemDataModule``; a tokenizer may lose characters that the answer needs."""
        return text_of(self.tokenizer, ids(self.tokenizer, problem.response))

    def questions(self, path: str) -> list[Problem]:
        """See ``ProblemDataModule``; a reference is a number, or a solution with one after its last ``####``.

        Raises:
            ValueError: also for a reference that is no number.
        """
        problems = []
        for index, question in enumerate(read_questions(path)):
            answer = question.answer if MARKER not in question.answer else final_answer(question.answer) or ""
            if question.answer.strip() and parse_number(answer) is None:
                raise ValueError(f"{question.where}: the answer {question.answer[-60:]!r} is no number")
            problems.append(Problem(index, question.text, "", answer.strip()))
        return problems

    def grade(self, problem: Problem, text: str) -> Grade:
        """Right where the number after the last ``####`` is the reference's."""
        return grade_number(problem.answer, text)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            _ = self.encoder  # while all processes are here

    def train_dataloader(self) -> StreamLoader:
        self._save_tokenizer()
        return super().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer.to_str(),
            "vocab_size": self.vocab_size,
            "special_ids": list(self.special_ids),
            "canvas": list(self.canvas),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint's tokenizer and canvas, and say so where problems do not fit that.

        Canvas lengths given as options stay.

        Raises:
            ValueError: the options ask for another tokenizer than the one the checkpoint was trained with.
        """
        if state_dict["vocab_size"] != self.vocab_size:
            raise ValueError(
                f"data.vocab_size={self.vocab_size}, but the checkpoint was trained with {state_dict['vocab_size']}: "
                "give that"
            )
        if self.tokenizer_path is not None and self.tokenizer.to_str() != state_dict["tokenizer"]:
            raise ValueError(
                f"data.tokenizer_path={self.tokenizer_path!r} is not the tokenizer of the checkpoint: leave it out "
                f"and give data.vocab_size={self.vocab_size}"
            )
        self._tokenizer = parse_tokenizer(state_dict["tokenizer"], "the checkpoint's tokenizer")
        eos_id, pad_id = state_dict["special_ids"]
        self._special = (eos_id, pad_id)
        prompt_tokens, response_tokens = state_dict["canvas"]
        self._canvas = (self.prompt_tokens or prompt_tokens, self.response_tokens or response_tokens)
        if self.canvas_hint == CANVAS_HINT and self.prompt_tokens is self.response_tokens is None:
            self.canvas_hint = (
                f"the canvas is the checkpoint's, of {self._canvas[0]} prompt and {self._canvas[1]} response tokens; "
                "raise data.prompt_tokens and data.response_tokens, or give problems like those of its training"
            )

    def _agreed(self, value: T) -> T:
        """The first process's value on every process."""
        return value if self.trainer is None else self.trainer.strategy.broadcast(value)

    @rank_zero_only
    def _save_tokenizer(self) -> None:
        """Leave ``tokenizer.json`` beside the checkpoints."""
        trainer: Any = self.trainer  # its attributes are not all declared
        checkpoints = None if trainer is None or trainer.fast_dev_run else trainer.checkpoint_callback
        directory = getattr(checkpoints, "dirpath", None)
        if directory:
            files = get_filesystem(directory)
            files.makedirs(str(directory), exist_ok=True)
            with files.open(f"{directory}/tokenizer.json", "w") as file:
                file.write(self.tokenizer.to_str(pretty=True))
