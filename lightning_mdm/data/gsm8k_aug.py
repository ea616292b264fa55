"""GSM8K-Aug (Deng et al. 2023) as SMDM (Nie et al., arXiv 2410.18514) and Fox et al. (arXiv 2602.23968) train on it.

Thoughts are equations alone. A problem is three parts, each perhaps begun by a token of its own:

    ``Question: <question>``   ``Answer: <<16-3-4=9>> <<9*2=18>>``   ``#### 18``

and gives two training examples, question -> thought and question + thought -> answer (``stages: two``), or one,
question -> thought + answer (``stages: one``). Every row has the same length, ``canvas_tokens``: what a response leaves
of it is end-of-sequence, which is masked and learned like any token. A problem of two stages is decoded in two runs of
the loop; the thought, up to its end-of-sequence, is given in the second, and the evaluations of both are counted.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

from lightning_mdm.data.answers import MARKER
from lightning_mdm.data.batch import Example
from lightning_mdm.data.canvas import CanvasEncoder, ids, text_of, up_to
from lightning_mdm.data.gsm8k import GSM8K
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import Source
from lightning_mdm.data.tokenizer import check_digits

QUESTION, THOUGHT = "Question: ", "Answer: "
Stages = Literal["one", "two"]
Part = Literal["thought", "answer", "whole"]
"""What is generated: the thought alone, the answer after it, or both at once."""


@dataclass(frozen=True)
class PartOfProblem(Problem):
    """A problem of which one part is to be learned; its index is another than those of its other parts.

    Args:
        part: which.
    """

    part: Part = "whole"


def parts_of(stages: Stages, problem: Problem) -> list[Problem]:
    """The training examples of a problem; the examples of all problems have indices of their own."""
    wanted: tuple[Part, ...] = ("whole",) if stages == "one" else ("thought", "answer")
    return [
        PartOfProblem(
            len(wanted) * problem.index + k, problem.prompt, problem.response, problem.answer, problem.depth, part
        )
        for k, part in enumerate(wanted)
    ]


@dataclass(frozen=True)
class AugEncoder(CanvasEncoder):
    """Lays parts of problems out on a canvas of one length; calling it encodes a problem, ``None`` if it does not fit.

    To be trained on, all three parts of a problem must fit, with one end-of-sequence. To be decoded, its question must:
    a reference that is longer than what is left is cut there, which makes its bound that of its beginning.

    Args:
        tokenizer: text to ids.
        eos_id: ends a response and fills the canvas.
        start: what every part begins with, no token or one.
        canvas_tokens: length of every row.
        first: the part to generate where a problem does not say which, as those to be decoded do not.
    """

    tokenizer: Tokenizer
    eos_id: int
    start: tuple[int, ...]
    canvas_tokens: int
    first: Part

    def __call__(self, problem: Problem) -> Example | None:
        solution, _, answer = problem.response.rpartition(MARKER)
        question = self.tokens(QUESTION + problem.prompt)
        thought = self.tokens(THOUGHT + solution.strip())
        conclusion = self.tokens(f"{MARKER} {answer.strip()}")
        if not isinstance(problem, PartOfProblem):
            room = self.canvas_tokens - len(question)
            reference = thought if self.first == "thought" else thought + conclusion
            return self.row(question, reference[:room], problem.index) if room > 0 else None
        if len(question) + len(thought) + len(conclusion) >= self.canvas_tokens:
            return None  # all of its examples, so that the thoughts trained on are those with an answer
        given = question + thought if problem.part == "answer" else question
        response = {"thought": thought, "answer": conclusion, "whole": thought + conclusion}[problem.part]
        return self.row(given, response, problem.index)

    def tokens(self, text: str) -> list[int]:
        """A part's ids."""
        return [*self.start, *ids(self.tokenizer, text.strip())]

    def row(self, given: Sequence[int], response: Sequence[int], index: int) -> Example:
        """A whole row."""
        filling = [self.eos_id] * (self.canvas_tokens - len(given) - len(response))
        return Example.of(given, [*response, *filling], index)

    def answering(self, problem: Problem, thought: Sequence[int]) -> Example | None:
        """The row in which a problem's answer is generated after a thought; ``None`` if the canvas has no room left.

        Args:
            problem: the problem.
            thought: generated ids, with or without their end-of-sequence.
        """
        given = [*self.tokens(QUESTION + problem.prompt), *up_to(self.eos_id, thought)]
        if len(given) >= self.canvas_tokens:
            return None
        return self.row(given, [], -1 - problem.index)  # a problem of its own, as far as noise is concerned

    def decode(self, tokens: Iterable[int]) -> str:
        """See ``CanvasEncoder``; without what parts begin with."""
        return text_of(self.tokenizer, [t for t in up_to(self.eos_id, tokens) if t not in self.start])


class GSM8KAug(GSM8K):
    """Question, thought and answer on a canvas of one length.

    Validation measures the bound of what is decoded first: of thoughts, or of whole responses.

    Args:
        stages: ``two``: the thought, and then the answer with the thought given; ``one``: both at once.
        answer_steps: of a budget of T steps with two stages, this many are the answer's and the others the thought's,
            so that T bounds the evaluations of both together; ``None`` gives T steps to each, up to 2 T together.
        canvas_tokens: length of every row, prompt and response together.
        start_token: the token that every part begins with, as ``<s>`` in SMDM; ``None`` for none.
        dataset: as in ``GSM8K``.
        config: as in ``GSM8K``.
        **options: see ``GSM8K``.

    Raises:
        ValueError: an option out of its range, a missing file, a tokenizer that joins digits or lacks a token.
    """

    task = "gsm8k_aug"
    canvas_hint = "raise data.canvas_tokens"

    def __init__(
        self,
        stages: Stages = "two",
        answer_steps: int | None = 1,
        canvas_tokens: int = 256,
        start_token: str | None = None,
        dataset: str = "zen-E/GSM8k-Aug",
        config: str | None = None,
        **options: Any,
    ) -> None:
        if canvas_tokens < 2:
            raise ValueError(f"data.canvas_tokens={canvas_tokens}: give at least 2")
        for name in ("variants", "word_problems_share"):
            if options.get(name):
                raise ValueError(
                    f"data.{name}={options[name]}: this set is enlarged already; this is for data.gsm8k.GSM8K"
                )
        super().__init__(
            dataset=dataset, config=config, prompt_tokens=canvas_tokens, response_tokens=canvas_tokens,
            thoughts="equations", **options,
        )  # fmt: skip
        if stages not in get_args(Stages):
            raise ValueError(f"data.stages={stages!r}: give one of {', '.join(get_args(Stages))}")
        if answer_steps is not None and answer_steps < 1:
            raise ValueError(f"data.answer_steps={answer_steps}: give at least 1, or null for T steps to each stage")
        if start_token is not None and self.tokenizer_path is None:
            raise ValueError("data.start_token names a token of a file: give data.tokenizer_path too")
        self.stages: Stages = stages
        self.answer_steps = answer_steps
        self.start_token = start_token
        self._canvas = (canvas_tokens, canvas_tokens)
        if self.tokenizer_path is not None:
            check_digits(self.tokenizer, f"data.tokenizer_path={self.tokenizer_path!r}")
            _ = self.start

    @property
    def start(self) -> tuple[int, ...]:
        """The ids that a part begins with."""
        if self.start_token is None:
            return ()
        token = self.tokenizer.token_to_id(self.start_token)
        if token is None:
            raise ValueError(f"data.start_token={self.start_token!r}: the tokenizer has no such token; give null")
        return (int(token),)

    @property
    def encoder(self) -> AugEncoder:
        first: Part = "thought" if self.stages == "two" else "whole"
        return AugEncoder(self.tokenizer, self.special_ids[0], self.start, self.canvas[0], first)

    @property
    def encoding(self) -> str:
        return f"{self.stages} {self.start} {super().encoding}"

    @property
    def decoding_options(self) -> dict[str, Any]:
        if self.stages == "one":
            return {"stages": "one"}
        return {"stages": "two", "answer_steps": self.answer_steps}

    def training(self) -> Source:
        return self._parts

    @cached_property
    def _parts(self) -> Source:
        return super().training().expanded(partial(parts_of, self.stages))

    def budgets(self, steps: int) -> tuple[int, ...]:
        if self.stages == "one":
            return (steps,)
        if self.answer_steps is None:
            return (steps, steps)
        if steps <= self.answer_steps:
            raise ValueError(
                f"a budget of {steps} leaves no step for the thought beside data.answer_steps={self.answer_steps}: "
                "give larger budgets, fewer answer_steps, or data.stages=one"
            )
        return (steps - self.answer_steps, self.answer_steps)

    def continued(self, problem: Problem, generated: Sequence[int]) -> Example | None:
        return self.encoder.answering(problem, generated)
