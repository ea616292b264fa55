"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168) and data in its forms, such as GSM8K-Aug (Deng et al. 2023).

Knows nothing of models.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import Any, Literal

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.gsm8k_origins import HubOrigin, LocalOrigin, Origin
from lightning_mdm.data.number_substitution import substitute
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import GeneratorSource, MixedSource, Source, itself
from lightning_mdm.data.text import TextDataModule
from lightning_mdm.data.word_problems import generate

LEAST_SHARE = 0.001
# Generated word problems to mix in, about as long and as hard as GSM8K's.
MIXED_IN = Difficulty(
    min_steps=2, max_steps=6, max_value=200, max_operand=20, operations="+-*/", comparisons=0.3, branches=0.3,
    doubles=0.2, sales=0.2, distractors=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class Variants:
    """Lets a problem and ``n`` variants of it take turns, an epoch each; problems begin at different ones."""

    n: int
    seed: int

    def __call__(self, problem: Problem, epoch: int) -> Problem:
        turn = (epoch + zlib.crc32(f"{self.seed}/{problem.index}".encode())) % (self.n + 1)
        return problem if turn == self.n else substitute(problem, self.seed, turn) or problem


class GSM8K(TextDataModule):
    """Grade-school problems from local files, or streamed from the hub.

    Args:
        path: a directory with train, test and perhaps validation files (``train.jsonl``, ``test.jsonl``,
            ``icot_valid.txt``), or these files by split; ``None`` streams ``dataset`` from the hub.
        dataset: name of the hub data set, used without ``path``.
        config: its configuration; ``null`` where it has none, as ``zen-E/GSM8k-Aug``.
        thoughts: ``equations`` (``<<48/2=24>> <<48+24=72>> #### 72``) or ``natural`` (the whole solution).
        on_bad_line: ``error`` names file and line; ``skip`` leaves bad lines out and reports how many.
        n_validation: evaluate at most this many validation problems, the first ones; ``None`` all. All of them are
            kept out of training in any case.
        n_test: likewise for the test problems.
        shuffle_buffer: problems held at a time to shuffle a hub stream; local files are shuffled as a whole.
        variants: how many variants with other numbers (see ``number_substitution``) take turns with every training
            problem, one of them or the original an epoch; problems that allow none stay as they are.
        word_problems_share: share of the training rows that are generated word problems instead, as the nearest
            fraction with a denominator of at most 1,000.
        word_problems: how hard these are.
        **options: see ``TextDataModule``.

    Raises:
        ValueError: an option out of its range, a missing file.
    """

    task = "gsm8k"

    def __init__(
        self,
        path: str | dict[str, str] | None = None,
        dataset: str = "openai/gsm8k",
        config: str | None = "main",
        thoughts: Literal["equations", "natural"] = "equations",
        on_bad_line: Literal["error", "skip"] = "error",
        n_validation: int | None = None,
        n_test: int | None = None,
        shuffle_buffer: int = 10_000,
        variants: int = 0,
        word_problems_share: float = 0.0,
        word_problems: Difficulty = MIXED_IN,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        for name, asked, known in (
            ("thoughts", thoughts, ("equations", "natural")),
            ("on_bad_line", on_bad_line, ("error", "skip")),
        ):
            if asked not in known:
                raise ValueError(f"data.{name}={asked!r}: give one of {', '.join(known)}")
        for name, value in (("n_validation", n_validation), ("n_test", n_test), ("shuffle_buffer", shuffle_buffer)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}: give at least 1")
        if variants < 0:
            raise ValueError(f"data.variants={variants}: give a number of variants, or 0 for none")
        if variants and thoughts != "equations":
            raise ValueError(
                f"data.variants={variants}: only equations are calculated anew; ask for thoughts=equations"
            )
        if word_problems_share and not LEAST_SHARE <= word_problems_share <= 1.0 - LEAST_SHARE:
            raise ValueError(
                f"data.word_problems_share={word_problems_share}: give 0, or a share from {LEAST_SHARE} to "
                f"{1.0 - LEAST_SHARE}"
            )
        self.thoughts = thoughts
        self.variants = variants
        self.word_problems_share = word_problems_share
        self.word_problems = word_problems
        self.shuffle_buffer = shuffle_buffer
        self.limits = {"validation": n_validation, "test": n_test}
        self.origin: Origin = (
            HubOrigin(dataset, config, on_bad_line) if path is None else LocalOrigin(path, on_bad_line)
        )

    @cached_property
    def _source(self) -> Source:
        vary = Variants(self.variants, self.seed) if self.variants else itself
        source = self.origin.training(self.thoughts, self.seed, self.shuffle_buffer, vary)
        if not self.word_problems_share:
            return source
        generated = GeneratorSource(partial(generate, "train", difficulty=self.word_problems, seed=self.seed))
        return MixedSource(source, generated, Fraction(self.word_problems_share).limit_denominator(1000))

    def training(self) -> Source:
        return self._source

    def load_problems(self, split: str) -> list[Problem]:
        rows = self.origin.rows(split)[: self.limits[split]]
        return [row.problem(number, self.thoughts) for number, row in rows]
