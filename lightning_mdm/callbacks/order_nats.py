"""What an order costs in nats, for every policy at every budget, inside the validation and test loops.

The yardstick on laws whose optimal order is known. The states are revealed with the true tokens, so that policies are
compared on the order alone. Nothing is evaluated while fitting, and nothing is kept for a later run: it costs one
decode per cell, without any grading, and a stopped one begins again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.order_log import log_order_nats
from lightning_mdm.callbacks.runs import (
    Run,
    denoiser_of,
    device_name,
    planned,
    policy_options,
    problems_of,
    ready,
    runs_of,
    selectors_hash,
    software,
    weights_hash,
)
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.metrics.order_nats import OrderCost, OrderNatsMetric
from lightning_mdm.outcomes import (
    ORDER_NATS,
    OrderRow,
    canonical_json,
    commit_hash,
    read_order_rows,
    write_order_rows,
)
from lightning_mdm.report import report_order_nats


class OrderNats(EvaluationCallback):
    """-log-likelihood of the true tokens along the order of each policy; off without budgets.

    Args:
        policies: unmasking policies to compare; all that the module and the task can run, with their default options,
            where not given (see ``runs_of``).
        budgets: step budgets T.
        seeds: seeds of the policies' noise; one cell each.
        n_problems: how many problems of the split, the first ones; all where not given.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        policies: Sequence[UnmaskingPolicy] | None = None,
        budgets: Sequence[int] = (),
        seeds: Sequence[int] = (0,),
        n_problems: int | None = None,
    ) -> None:
        if n_problems is not None and n_problems < 1:
            raise ValueError(f"order_nats.n_problems={n_problems}: give at least 1, or null for all")
        self.all_policies = policies is None
        self.runs = planned("order_nats.", policies, budgets, seeds)
        if told := [policy.name for policy in policies or () if "response" in policy.reads]:
            raise ValueError(f"order_nats.policies={told}: an order that reads the answer gives it no likelihood")
        if revising := [policy.name for policy in policies or () if policy.revises]:
            raise ValueError(f"order_nats.policies={revising}: tokens that are masked again have no likelihood")
        self.n_problems = n_problems
        self.active: list[Run] = []
        self.wanted: set[int] = set()

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        idle = trainer.sanity_checking or trainer.state.fn == TrainerFn.FITTING
        self.active = []
        if idle or not self.runs:
            return
        self.facts = SplitFacts(problems_of(trainer), split)
        self.active = runs_of(self.runs, self.all_policies, module, self.facts, unmasked_stays=True)
        published(Path(trainer.default_root_dir))  # what cannot be joined with is said before anything is decoded
        self.split = problems_of(trainer).split_name(split)
        self.metric = OrderNatsMetric([run.name for run in self.active]).to(module.device)
        self.wanted = {problem.index for problem in problems_of(trainer).problems(split)[: self.n_problems]}

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        wanted = [row for row, problem in enumerate(batch.index_B.tolist()) if problem in self.wanted]
        if not self.active or not wanted:
            return
        rows = Rows.of(batch, wanted)
        tokens_B = (rows.valid_BL & ~rows.prompt_BL).sum(-1)
        denoiser, space = denoiser_of(module), problems_of(trainer).token_space
        for run in self.active:
            with trainer.precision_plugin.forward_context():
                policy = ready(run, module, self.facts)
                nats_B, trace = true_token_nats(denoiser, policy, rows, space, steps=run.steps, seed=run.seed)
            self.metric.update(run.name, rows.index_B, nats_B, tokens_B, trace.nfe_B)

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        if not self.active:
            return
        costs = self.metric.compute()  # gathers from all processes, and is the same on each
        for name, cost in costs.items():
            # A mean of equal values: it changes nothing, and all processes may monitor it.
            module.log(f"{prefix}/order_nats@{name}", cost.nats, sync_dist=True)
        if trainer.is_global_zero:
            self.publish(trainer, module, costs)

    def publish(self, trainer: L.Trainer, module: L.LightningModule, costs: dict[str, OrderCost]) -> None:
        """Write rows and figure into the run directory, log curves, print the table."""
        data, path = problems_of(trainer), Path(trainer.default_root_dir) / ORDER_NATS
        checkpoint, device = weights_hash(denoiser_of(module)), device_name(module.device)
        optimum = {steps: data.optimum_nats(steps) for steps in {run.steps for run in self.active}}
        selector = selectors_hash(module)
        rows = []
        for run in self.active:
            options = policy_options(trainer, module, run, self.facts)
            row = OrderRow(
                task=data.task, split=self.split, checkpoint=checkpoint, policy=run.policy.name,
                options=canonical_json(options), T=run.steps, seed=run.seed, **costs[run.name]._asdict(),
                optimum=optimum[run.steps], device=device, commit=commit_hash(), adaptive=run.policy.adaptive,
                software=software(),
            )  # fmt: skip
            rows.append(row)
        # Another split of the same weights stays; what belongs to other weights is history.
        rows += [
            row for row in published(path.parent)
            if (row.task, row.checkpoint) == (data.task, checkpoint) and row.split != self.split
            and json.loads(row.options).get("selector") in (None, selector)
        ]  # fmt: skip
        write_order_rows(path, rows)
        report_order_nats(rows, path.parent)
        log_order_nats(trainer.loggers, rows, trainer.global_step)


def published(run_dir: Path) -> list[OrderRow]:
    """What earlier loops have left in a directory.

    Raises:
        ValueError: the file is damaged.
    """
    return read_order_rows(run_dir / ORDER_NATS) if (run_dir / ORDER_NATS).exists() else []
