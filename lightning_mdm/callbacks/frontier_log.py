"""What the frontier shows in TensorBoard: curves, the figure, decoded examples, and one HPARAMS row per cell.

Knows rows and loggers; nothing of decoding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.image import imread
from torch.utils.tensorboard.writer import SummaryWriter

from lightning_mdm.outcomes import Row
from lightning_mdm.report import display_name


@dataclass(frozen=True)
class DecodedExample:
    """One decoded problem to show.

    Args:
        run: policy and budget.
        problem: index of the problem.
        pieces: text of each canvas token.
        steps: the step at which each was unmasked.
        correct: whether the answer is right.
    """

    run: str
    problem: int
    pieces: Sequence[str]
    steps: Sequence[int]
    correct: bool

    def markdown(self) -> str:
        """A table: the tokens, and below each its step."""
        cells = [piece.replace("|", "\\|").replace("\n", "⏎") for piece in self.pieces]
        lines = [
            f"{self.run}, problem {self.problem}, {'right' if self.correct else 'wrong'}\n",
            "|".join(["", "token", *(f"`{cell}`" for cell in cells), ""]),
            "|".join(["", *("---" for _ in ("token", *cells)), ""]),
            "|".join(["", "step", *map(str, self.steps), "\n"]),
        ]
        return "\n".join(lines)


def writers(loggers: Iterable[Logger]) -> list[SummaryWriter]:
    """The TensorBoard writers among the trainer's loggers."""
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def log_examples(loggers: Iterable[Logger], examples: Sequence[DecodedExample], step: int) -> None:
    """Decoded problems as text, one entry per policy and budget."""
    by_run: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        by_run[example.run].append(example.markdown())
    for writer in writers(loggers):
        for run, texts in by_run.items():
            writer.add_text(f"decoded/{run}", "\n\n".join(texts), step)


def log_frontier(loggers: Iterable[Logger], rows: Sequence[Row], figure: Path, step: int) -> None:
    """The figure, a PNG file, and accuracy, NFE and score of every policy as curves over the budget T."""
    for writer in writers(loggers):
        writer.add_image("frontier", imread(figure), step, dataformats="HWC")  # drawing it again takes ten times longer
        for row in sorted(rows, key=lambda row: row.T):
            where = f"{row.split}/{display_name(row.policy, row.options)}" + (f"/seed={row.seed}" if row.seed else "")
            writer.add_scalar(f"accuracy_over_T/{where}", row.accuracy, row.T)
            writer.add_scalar(f"nfe_over_T/{where}", row.nfe_mean, row.T)
            if row.score is not None:
                writer.add_scalar(f"score_over_T/{where}", row.score, row.T)
        writer.flush()


def log_cells(rows: Mapping[Path, Row]) -> None:
    """One run directory per cell, so that the HPARAMS tab has one row per cell."""
    for directory, row in rows.items():
        for earlier in directory.glob("events.out.tfevents.*"):
            earlier.unlink()  # of a sweep that stopped with fewer problems
        logger = TensorBoardLogger(directory, name="", version="", default_hp_metric=False)
        params = {
            "task": row.task,
            "split": row.split,
            "checkpoint": row.checkpoint,
            "policy": display_name(row.policy, row.options),
            "options": row.options,
            "T": row.T,
            "seed": row.seed,
        }
        metrics = {"accuracy": row.accuracy, "nfe_mean": row.nfe_mean, "tokens_per_forward": row.tokens_per_forward}
        logger.log_hyperparams(params, metrics)
        logger.finalize("success")
