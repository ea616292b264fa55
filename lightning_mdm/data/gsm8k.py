"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168) and data in its forms, such as GSM8K-Aug (Deng et al. 2023).

Knows nothing of models.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from lightning_mdm.data.gsm8k_origins import HubOrigin, LocalOrigin, Origin
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import Source
from lightning_mdm.data.text import TextDataModule


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
        self.thoughts = thoughts
        self.shuffle_buffer = shuffle_buffer
        self.limits = {"validation": n_validation, "test": n_test}
        self.origin: Origin = (
            HubOrigin(dataset, config, on_bad_line) if path is None else LocalOrigin(path, on_bad_line)
        )

    @cached_property
    def _source(self) -> Source:
        return self.origin.training(self.thoughts, self.seed, self.shuffle_buffer)

    def training(self) -> Source:
        return self._source

    def load_problems(self, split: str) -> list[Problem]:
        rows = self.origin.rows(split)[: self.limits[split]]
        return [row.problem(number, self.thoughts) for number, row in rows]
