"""What every task shares: the four dataloaders over one ``Batch``, exact resume, and the identity of its problems.

A task says where its problems come from, how one is encoded and how an answer is graded; nothing here knows of text.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lightning_mdm.data.batch import Batch, Example
from lightning_mdm.data.evaluation import evaluation_loader
from lightning_mdm.data.problem import Grade, Problem, SubproblemKind
from lightning_mdm.data.questions import read_questions
from lightning_mdm.data.sources import CANVAS_HINT, Encode, Source
from lightning_mdm.data.stream import Progress, Replica, StreamLoader
from lightning_mdm.vocabulary import TokenSpace


class ProblemDataModule(L.LightningDataModule, ABC):
    """Data of one task.

    Training never ends by itself: bound it by ``trainer.max_steps``, and an epoch, if one is wanted, by
    ``trainer.limit_train_batches``. It resumes exactly from a checkpoint, with any number of workers.

    Args:
        batch_size: training rows per process and step.
        eval_batch_size: most rows per process in validation, test and predict; on several processes the largest number
            up to it that gives all of them equally many batches.
        num_workers: processes per training process that prepare training batches; 0 prepares them in between.
        seed: decides the training order and whatever the task draws.
        first_slot: place in the training order that training starts from: the training rows behind weights that it
            goes on from. A checkpoint says by itself where it stands.
        sort_batches: so many training batches at a time are sorted by length before they are cut, so that less of them
            is padding. The problems are the same; rows of a batch are then of like length. 1 sorts nothing.
        predict_path: a text file of questions, one a line, or a ``.jsonl`` with ``question`` and perhaps ``answer``;
            ``None`` predicts the test split.

    Attributes:
        left_out: per split, how many problems were left out because they do not fit the canvas. For endless training
            data: how many this process passed over so far.

    Raises:
        ValueError: an option out of its range.
    """

    task: ClassVar[str]
    canvas_hint: str = CANVAS_HINT
    """What to do where problems do not fit the canvas."""

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        first_slot: int = 0,
        sort_batches: int = 1,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("first_slot", first_slot, 0),
            ("sort_batches", sort_batches, 1),
        ):
            if value < least:
                raise ValueError(f"data.{name}={value}: give at least {least}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.first_slot = first_slot
        self.sort_batches = sort_batches
        self.predict_path = predict_path
        self.left_out: dict[str, int] = {}
        self.progress = Progress()
        self._problems: dict[str, list[Problem]] = {}

    # What a task defines.

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of tokens without the mask; known straight after construction, so that models can be linked to it."""

    @property
    @abstractmethod
    def token_space(self) -> TokenSpace:
        """The ids in use. Ask for it when a loop runs, not in ``setup``: a checkpoint is restored in between."""

    @property
    @abstractmethod
    def encoder(self) -> Encode:
        """Encodes problems, ``None`` for those that do not fit; it travels to worker processes, so it must pickle."""

    @property
    @abstractmethod
    def encoding(self) -> str:
        """Everything that decides how a problem is encoded, as text."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of a response's tokens, up to its end."""

    @abstractmethod
    def training(self) -> Source:
        """Where training problems come from."""

    @abstractmethod
    def load_problems(self, split: str) -> list[Problem]:
        """The problems of the ``validation`` or ``test`` split, unique indices, in a fixed order."""

    @abstractmethod
    def grade(self, problem: Problem, text: str) -> Grade:
        """Judge a generated text against a problem's reference answer."""

    # What a task may know.

    def questions(self, path: str) -> list[Problem]:
        """The problems of ``predict_path``, in order.

        Raises:
            ValueError: no such file, no question in it, or one that the task refuses, named by its line.
        """
        return [Problem(index, q.text, "", q.answer) for index, q in enumerate(read_questions(path))]

    def split_name(self, split: str) -> str:
        """What rows of results call a split, for tasks with several tests."""
        return split

    def optimum_nats(self, steps: int) -> float | None:
        """The least expected -log-likelihood of a response in ``steps`` steps; ``None`` where nobody knows."""
        return None

    def order(self, problem: Problem) -> Sequence[int] | None:
        """When each response token is best found: one number per token, smaller ones first, equal ones in any order.

        A solver's order, for the policy ``GivenOrder``; ``None`` where the task knows none.
        """
        return None

    def budgets(self, steps: int) -> tuple[int, ...]:
        """A budget's steps, divided among the parts that a response is generated in, one after the other.

        Raises:
            ValueError: there are too few for all of them.
        """
        return (steps,)

    def continued(self, problem: Problem, generated: Sequence[int]) -> Example | None:
        """The row of a problem's next part, once a part is generated, with an index of its own; for tasks with parts.

        Args:
            problem: the problem.
            generated: the response tokens of the part before.

        Returns:
            ``None`` where nothing can follow.
        """
        raise NotImplementedError(f"{self.task} generates a response in one part")

    @property
    def decoding_options(self) -> dict[str, Any]:
        """What the task decides about decoding, for rows of results."""
        return {}

    @property
    def subproblem_kinds(self) -> tuple[SubproblemKind, ...]:
        """The kinds that ``subproblems`` tells apart, easy ones first; none where the task knows none."""
        return ()

    def subproblems(self, problem: Problem, tokens: Sequence[int | None]) -> Sequence[int]:
        """What it takes to find each response token next: the number of its kind in ``subproblem_kinds``.

        Args:
            problem: the problem.
            tokens: the response tokens found so far, all of them right, and ``None`` for those still masked.

        Returns:
            One number per response token; those of tokens already found mean nothing.
        """
        raise NotImplementedError(f"{self.task} tells no kinds of subproblems apart")

    @property
    def one_answer(self) -> bool:
        """Whether only the reference response is right, so that a token unlike its own is a mistake."""
        return False

    def best_text(self, problem: Problem) -> str:
        """The text that is graded where a problem's own response is generated."""
        return problem.response

    # What the framework uses.

    def problems(self, split: str) -> list[Problem]:
        """The problems of ``validation``, ``test`` or ``predict``, read once.

        Raises:
            ValueError: an unknown split, or one without problems.
        """
        if split not in ("validation", "test", "predict"):
            raise ValueError(f"split {split!r}: problems are listed for validation, test and predict")
        if split == "predict" and self.predict_path is None:
            return self.problems("test")
        if split not in self._problems:
            own = self.predict_path if split == "predict" else None
            self._problems[split] = self.load_problems(split) if own is None else self.questions(own)
            if not self._problems[split]:
                raise ValueError(f"{self.task}: the {split} split holds no problem")
            assert len({p.index for p in self._problems[split]}) == len(self._problems[split]), "indices are unique"
        return self._problems[split]

    def check_grading(self, split: str) -> None:
        """See whether the task grades its own responses, as they are decoded, as right: if none, nothing else would be.

        Raises:
            ValueError: none of them is.
        """
        problems = [problem for problem in self.problems(split) if problem.response]  # questions may have none
        wrong = [problem for problem in problems if not self.grade(problem, self.best_text(problem)).correct]
        if not wrong:
            return
        first = f"problem {wrong[0].index}, whose answer is {wrong[0].answer!r}: {self.best_text(wrong[0])!r}"
        if len(wrong) == len(problems):
            raise ValueError(
                f"{self.task}: no {split} problem's own response is graded right, so that none could be; first "
                f"{first}; see how {type(self).__name__} grades, what responses end with and what the tokenizer keeps"
            )
        rank_zero_warn(
            f"{self.task}: the own responses of {len(wrong)} {split} problem(s) are graded wrong: no policy can solve "
            f"them; first {first}"
        )

    def encode(self, problem: Problem) -> Example | None:
        """The example of a problem, ``None`` where it does not fit the canvas."""
        return self.encoder(problem)

    def fingerprint(self, split: str) -> str:
        """sha256, in hex, of a split's problems and of everything that decides their encoding."""
        rows = [[p.index, p.prompt, p.response, p.answer, p.depth] for p in self.problems(split)]
        content = json.dumps([self.task, rows, self.encoding])
        return hashlib.sha256(content.encode()).hexdigest()

    def problems_hash(self, split: str) -> str:
        """8 hexadecimal digits of a split's questions and answers, whatever their encoding.

        Where they are equal, two denoisers can be compared problem by problem, be one masked and the other causal.
        """
        content = json.dumps([self.task, [[p.index, p.prompt, p.answer] for p in self.problems(split)]])
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def setup(self, stage: str) -> None:
        """Training starts from ``first_slot``; Lightning hands the training loader a checkpoint's place after this."""
        if stage == "fit":
            self.progress = Progress(self.first_slot)

    def train_dataloader(self) -> StreamLoader:
        """Endless training batches of this process."""
        encode = self.encoder
        source, misfits = self.training().fitting(encode, self.canvas_hint)
        self._report("train", misfits)
        return StreamLoader(
            source,
            encode,
            self.progress,
            batch_size=self.batch_size,
            pad_id=self.token_space.pad_id,
            num_workers=self.num_workers,
            replica=self._replica(),
            window=self.sort_batches,
        )

    def val_dataloader(self) -> DataLoader[Example]:
        """The validation problems, each once."""
        return self._evaluation("validation")

    def test_dataloader(self) -> DataLoader[Example]:
        """The test problems, each once."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Example]:
        """The questions of ``predict_path``, or the test problems, each once."""
        return self._evaluation("predict")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Count a training batch as consumed: the trainer fetches one ahead, so the loader cannot know."""
        trainer: Any = self.trainer  # its attributes are not all declared
        # With overfit_batches every epoch shall begin at the same place again.
        if trainer is not None and trainer.training and not trainer.overfit_batches:
            self.progress.slots += len(batch) * self._replica().world
            if self.progress.left_out > 2 * self.left_out.get("train", 0):
                self._report("train", self.progress.left_out)
        return batch

    def _evaluation(self, split: str) -> DataLoader[Example]:
        encode = self.encoder
        problems = self.problems(split)
        examples = [example for problem in problems if (example := encode(problem)) is not None]
        self._report(split, len(problems) - len(examples))
        self.check_grading(split)
        if not examples:
            raise ValueError(f"none of the {len(problems)} {split} problems fits the canvas: {self.canvas_hint}")
        return evaluation_loader(
            examples,
            batch_size=self.eval_batch_size,
            pad_id=self.token_space.pad_id,
            replica=self._replica(),
        )

    def _report(self, split: str, misfits: int) -> None:
        """Never leave a problem out in silence."""
        self.left_out[split] = misfits
        if misfits:
            rank_zero_warn(
                f"{self.task}: {misfits} {split} problem(s) do not fit the canvas and are left out: {self.canvas_hint}"
            )

    def _replica(self) -> Replica:
        """This process among those that share the data, as the trainer's strategy says where there is one."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return Replica.current() if kwargs is None else Replica(kwargs["rank"], kwargs["num_replicas"])
