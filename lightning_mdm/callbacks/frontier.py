"""Decodes problems at several budgets with several policies, inside the validation and test loops.

Decoding happens batch by batch while the loop runs: averaged weights (``EMAWeightAveraging``) are in place then,
whatever the order of callbacks, and the loop's shards give each process its own problems. While fitting, a few cells
are decoded and logged. In ``validate``, ``test`` and ``sweep`` every cell is decoded, its outcomes stored batch by
batch as they come, so that a stopped run goes on where it was, and the rows written at the end.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.frontier_log import DecodedExample, log_cells, log_examples, log_frontier
from lightning_mdm.callbacks.generation import generate
from lightning_mdm.callbacks.runs import (
    Run,
    decoding_options,
    denoiser_of,
    device_name,
    place_of,
    planned,
    problems_of,
    ready,
    runs_of,
    selectors_hash,
    software,
    weights_hash,
)
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.data.problem import Problem
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.metrics.frontier import FrontierMetric
from lightning_mdm.outcomes import (
    BatchRecord,
    Cell,
    Outcome,
    OutcomeRow,
    OutcomeStore,
    Row,
    commit_hash,
    frontier_row,
    names_one_source,
    outcome_rows,
    read_outcomes,
    read_rows,
    write_outcomes,
    write_rows,
)
from lightning_mdm.report import write_report


class Frontier(EvaluationCallback):
    """The accuracy-vs-steps frontier.

    Args:
        policies: unmasking policies to compare; all that the module and the task can run, with their default options,
            where not given (see ``runs_of``).
        budgets: step budgets T.
        seeds: seeds of the decoding noise; one cell each.
        decoding: how policies are decoded: end-of-sequence handling, token sampling, guidance, looking back.
        fit_policies: policies decoded at every validation while fitting; none by default.
        fit_budgets: their budgets.
        fit_problems: how many validation problems they decode, the first ones.
        examples: how many decoded problems, the first ones, are shown in TensorBoard, with the step at which each token
            was unmasked.
    """

    def __init__(
        self,
        policies: Sequence[UnmaskingPolicy] | None = None,
        budgets: Sequence[int] = (1, 2, 4, 8, 16, 32),
        seeds: Sequence[int] = (0,),
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008 (frozen)
        fit_policies: Sequence[UnmaskingPolicy] = (),
        fit_budgets: Sequence[int] = (1, 4, 32),
        fit_problems: int = 64,
        examples: int = 3,
    ) -> None:
        for name, number in {"fit_problems": fit_problems, "examples": examples}.items():
            if number < 0:
                raise ValueError(f"frontier.{name}={number}: give a number of problems, at least 0")
        for policy in (*(policies or ()), *fit_policies):
            decoding.check(policy)
        self.all_policies = policies is None
        self.runs = planned("frontier.", policies, budgets, seeds)
        self.fit_runs = planned("frontier.fit_", fit_policies, fit_budgets, (0,))
        self.decoding = decoding
        self.fit_problems = fit_problems
        self.n_examples = examples
        self.active: list[Run] = []
        self.cells: dict[str, Cell] = {}
        self.done: dict[str, set[int]] = {}
        self.problems: dict[int, Problem] = {}
        self.wanted: set[int] = set()
        self.shown: set[int] = set()
        self.examples: list[DecodedExample] = []

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        """Find out what there is to decode, and what is decoded already."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        runs, all_policies = (self.fit_runs, False) if fitting else (self.runs, self.all_policies)
        self.active = []
        if runs:
            self.facts = SplitFacts(problems_of(trainer), split)
            stays = self.decoding.unmasked_stays
            self.active = runs_of(runs, all_policies, module, self.facts, self.decoding.search, stays)
        self.metric = FrontierMetric([run.name for run in self.active]).to(module.device)
        self.cells, self.done, self.examples = {}, {run.name: set() for run in self.active}, []
        if trainer.sanity_checking or not self.active:
            return
        data = problems_of(trainer)
        self.problems = {problem.index: problem for problem in data.problems(split)}
        indices = list(self.problems)  # of some tasks they are line numbers: a range would not do
        self.wanted = set(indices[: self.fit_problems] if fitting else indices)
        self.shown = set(indices[: self.n_examples])
        if fitting:
            return
        published(Path(trainer.default_root_dir))  # what cannot be joined with is said before hours of decoding
        self.store = OutcomeStore(Path(trainer.default_root_dir) / "cells")
        checkpoint, fingerprint = weights_hash(denoiser_of(module)), data.fingerprint(split)
        self.problems_hash = data.problems_hash(split)
        self.selectors = {selectors_hash(module), None}  # whose rows stay, be it decoded with at this time or not
        commits: set[str] = set()
        for run in self.active:
            cell = Cell(
                task=data.task,
                split=data.split_name(split),
                checkpoint=checkpoint,
                data=fingerprint,
                policy=run.policy.name,
                options=self.options(trainer, module, run),
                adaptive=self.decoding.adaptive(run.policy),
                steps=run.steps,
                seed=run.seed,
            )
            self.cells[run.name] = cell
            for record in self.store.records(cell):
                self.record(trainer, run.name, record.outcomes)
                commits.add(record.commit)
        stored = sum(map(len, self.done.values()))
        if stored and trainer.is_global_zero:
            print(f"Found {stored} decoded outcomes in {self.store.root}; only what is missing will be decoded.")
            older = sorted(known for known in commits if known != commit_hash() or not names_one_source(known))
            if older:
                print(
                    f"They are of commit {', '.join(older)}: if policies, task or grading are other ones now, remove "
                    "that directory."
                )
        # No process may append before every process has read.
        trainer.strategy.barrier("frontier_read")

    def options(self, trainer: L.Trainer, module: L.LightningModule, run: Run) -> dict[str, Any]:
        """See ``decoding_options``."""
        return decoding_options(trainer, module, run, self.decoding, self.facts)

    def record(self, trainer: L.Trainer, name: str, outcomes: Sequence[Outcome]) -> None:
        """Count outcomes and note their problems as done."""
        self.done[name].update(outcome.problem for outcome in outcomes)
        columns = [(o.problem, int(o.correct), o.nfe) for o in outcomes]
        scores = [math.nan if o.score is None else o.score for o in outcomes]
        problem_B, correct_B, nfe_B = torch.tensor(columns, device=self.metric.device).unbind(1)
        score_B = torch.tensor(scores, dtype=torch.float64)
        self.metric.update(name, problem_B, correct_B, nfe_B, score_B)

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Decode the problems of a batch in every cell that lacks them."""
        if trainer.sanity_checking or not self.active:
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        index = batch.index_B.tolist()
        for run in self.active:
            missing = self.wanted - self.done[run.name]
            wanted = [row for row, problem in enumerate(index) if problem in missing]
            if not wanted:
                continue
            if trainer.received_sigterm:  # the loop itself looks only between batches, which take minutes here
                raise SIGTERMException
            record = self.decode_rows(trainer, module, batch, wanted, run)
            self.record(trainer, run.name, record.outcomes)
            if not fitting:
                self.store.append(self.cells[run.name], record, trainer.global_rank)

    def decode_rows(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Batch, wanted: Sequence[int], run: Run
    ) -> BatchRecord:
        """Decode some rows of a batch and judge their answers."""
        data = problems_of(trainer)
        denoiser = denoiser_of(module)
        rows = Rows.of(batch, wanted)
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            policy = ready(run, module, self.facts)
            generated, forward_passes = generate(
                denoiser, policy, rows, self.problems, data, self.decoding, steps=run.steps, seed=run.seed
            )
        seconds = time.perf_counter() - start
        outcomes = []
        for problem, found in zip(rows.index_B.tolist(), generated, strict=True):
            grade = data.grade(self.problems[problem], found.graded)
            outcomes.append(Outcome(problem, grade.correct, found.nfe, found.length, grade.answer, grade.score))
            if trainer.is_global_zero and problem in self.shown:
                texts = [data.decode([token]) or "·" for token in found.tokens]
                self.examples.append(DecodedExample(run.name, problem, texts, found.steps, grade.correct))
        where = (device_name(module.device), commit_hash(), software())
        return BatchRecord(tuple(outcomes), forward_passes, seconds, *where)

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        """Log every cell; outside of fitting also write rows, figure and report."""
        if trainer.sanity_checking or not self.active:
            return
        summaries = self.metric.compute()  # gathers from all processes, and is the same on each
        for name, cell in summaries.items():
            # A mean of equal values: it changes nothing, and all processes may monitor it.
            module.log(f"{prefix}/accuracy@{name}", cell.accuracy, sync_dist=True)
            module.log(f"{prefix}/nfe@{name}", cell.nfe_mean, sync_dist=True)
            if cell.score is not None:
                module.log(f"{prefix}/score@{name}", cell.score, sync_dist=True)
        trainer.strategy.barrier("frontier_written")
        if not trainer.is_global_zero:
            return
        log_examples(trainer.loggers, self.examples, trainer.global_step)
        if trainer.state.fn != TrainerFn.FITTING:
            self.publish(trainer)

    def publish(self, trainer: L.Trainer) -> None:
        """Write rows and outcomes of these problems and weights, and the report, into the run directory."""
        run_dir = Path(trainer.default_root_dir)
        cells = [cell for cell in self.cells_to_publish() if self.store.done(cell)]
        rows = [
            frontier_row(cell, self.store.records(cell), len(self.wanted - self.store.done(cell)), self.problems_hash)
            for cell in cells
        ]
        outcomes = [row for cell in cells for row in outcome_rows(cell, self.store.records(cell))]
        # Another split of the same checkpoint stays; what belongs to other weights is history.
        own = {(cell.task, cell.checkpoint, cell.split) for cell in cells}
        kept = {(task, checkpoint) for task, checkpoint, _ in own}

        def stays(row: Row | OutcomeRow) -> bool:
            return (
                (row.task, row.checkpoint) in kept
                and (row.task, row.checkpoint, row.split) not in own
                and json.loads(row.options).get("selector") in self.selectors
            )

        before, outcomes_before = published(run_dir)
        if before:
            gone = [row for row in before if (row.task, row.checkpoint, row.split) in own and row.problems]
            if any(row.problems != self.problems_hash for row in gone):
                rank_zero_warn(
                    f"{run_dir} had rows of other {gone[0].split} problems of {gone[0].task}, which give way to these; "
                    "to have both, give each sweep a --run_dir of its own"
                )
            rows += filter(stays, before)
            outcomes += filter(stays, outcomes_before)
        write_rows(run_dir / "frontier.csv", rows)
        write_outcomes(run_dir / "outcomes.csv", outcomes)
        figure = write_report([run_dir], run_dir).with_name("frontier.png")
        log_frontier(trainer.loggers, rows, figure, trainer.global_step)
        log_cells({self.store.root / cell.label: row for cell, row in zip(cells, rows, strict=False)})

    def cells_to_publish(self) -> list[Cell]:
        """This run's cells, and complete ones of earlier sweeps over the same problems with the same weights.

        Cells of a selector that this module no longer has are history, and those of other code of the same policy. As
        configured where all are this run's own; otherwise sorted, so that nothing depends on which sweep came last.
        """
        own = list(self.cells.values())
        source = {cell.policy: cell.options.get("source") for cell in own}
        where = {(cell.task, cell.split, cell.checkpoint, cell.data) for cell in own}
        complete = set[int]().union(*(self.store.done(cell) for cell in own))
        earlier = [
            cell for cell in self.store.cells()
            if (cell.task, cell.split, cell.checkpoint, cell.data) in where
            and cell.options.get("selector") in self.selectors and cell not in own and self.store.done(cell) >= complete
            and cell.options.get("source") == source.get(cell.policy, cell.options.get("source"))
        ]  # fmt: skip
        if not earlier:
            return own
        return sorted([*own, *earlier], key=lambda cell: (*place_of(cell.policy, cell.options), cell.steps, cell.seed))


def published(run_dir: Path) -> tuple[list[Row], list[OutcomeRow]]:
    """Rows and outcomes of earlier sweeps into a directory; none where one of the two is missing.

    Raises:
        ValueError: a file is damaged.
    """
    rows, outcomes = run_dir / "frontier.csv", run_dir / "outcomes.csv"
    if not rows.exists() or not outcomes.exists():
        return [], []
    return read_rows(rows), read_outcomes(outcomes)
