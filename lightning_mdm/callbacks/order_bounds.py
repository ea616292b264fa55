"""The bounds of orders as rows: what a module with a learned order evaluates in the validation and test loops.

The module evaluates and logs them (``modules/order_bounds.py``); outside of fitting they are written down here, and
what is written down already is not evaluated again. Bounds are kept cell by cell: of a loop that was stopped, none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.order_log import log_order_bounds
from lightning_mdm.callbacks.runs import (
    Run,
    denoiser_of,
    device_name,
    policy_options,
    posteriors_hash,
    problems_of,
    selectors_hash,
    software,
    weights_hash,
)
from lightning_mdm.data.batch import Batch
from lightning_mdm.data.evaluation import problems_in
from lightning_mdm.data.facts import SplitFacts
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.policies import IID
from lightning_mdm.metrics.order_bounds import BoundSummary
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.outcomes import (
    ORDER_BOUNDS,
    BoundRow,
    canonical_json,
    commit_hash,
    names_one_source,
    read_bound_rows,
    write_bound_rows,
)
from lightning_mdm.report import report_order_bounds


class OrderBounds(EvaluationCallback):
    """Variational bounds of the learned order and of IID; nothing of a module without any.

    They are those of ``model.bound_budgets`` and ``model.prices``. A row is taken for a bound to evaluate if problems,
    weights, options, budget and number of trajectories are the same, and if it is of no fewer problems.
    """

    def __init__(self) -> None:
        self.wanted: dict[str, dict[str, Any]] = {}
        self.kept: dict[str, BoundRow] = {}
        self.nets: dict[str, str | None] = {}
        self.n = 0

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        """Find out what there is to evaluate, and tell the module what is known already."""
        self.wanted, self.kept = {}, {}
        if not isinstance(module, OrderModule):
            return
        module.bounds.known = {}
        if trainer.sanity_checking or trainer.state.fn == TrainerFn.FITTING or not module.bounds.cells:
            return
        self.nets = {"selector": selectors_hash(module), "posterior": posteriors_hash(module)}
        self.wanted = self.columns(trainer, module, split)
        self.n = problems_to_come(trainer, split)
        path = Path(trainer.default_root_dir) / ORDER_BOUNDS
        rows = published(path.parent)  # a damaged file is refused by every process
        known = {
            name: row for name, wanted in self.wanted.items() for row in rows
            if row.n >= self.n and all(getattr(row, column) == value for column, value in wanted.items())
        }  # fmt: skip
        # By one process: another may have read the file before the rows of the last loop were in it.
        self.kept = trainer.strategy.broadcast(known)
        module.bounds.known = {
            name: BoundSummary(*(getattr(row, figure) for figure in BoundSummary._fields))
            for name, row in self.kept.items()
        }
        if not self.kept or not trainer.is_global_zero:
            return
        print(f"Found {len(self.kept)} bounds in {path}; only what is missing will be evaluated.")
        commits = {row.commit for row in self.kept.values()}
        older = sorted(commit for commit in commits if commit != commit_hash() or not names_one_source(commit))
        if older:
            print(f"They are of commit {', '.join(older)}: if nets or bounds are other ones now, remove that file.")

    def columns(self, trainer: L.Trainer, module: OrderModule, split: str) -> dict[str, dict[str, Any]]:
        """By the name of each cell, the columns of its row that say what is evaluated."""
        data, facts = problems_of(trainer), SplitFacts(problems_of(trainer), split)
        same = {
            "task": data.task, "split": data.split_name(split), "data": data.fingerprint(split)[:12],
            "checkpoint": weights_hash(denoiser_of(module)), "seed": 0, "samples": module.bounds.samples,
        }  # fmt: skip
        found = {}
        for name, cell in module.bounds.cells.items():
            learned = cell.policy == "learned"
            policy = Learned("sampled", price=cell.price) if learned else IID()
            options = policy_options(trainer, module, Run(policy, cell.budget, 0), facts)
            if learned:
                options["posterior"] = self.nets["posterior"]
            elif cell.price:  # which an order drawn without asking it pays all the same
                options["price"] = cell.price
            found[name] = {**same, "policy": policy.name, "options": canonical_json(options), "T": cell.budget}
        return found

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        """Nothing: the module has evaluated its bounds."""

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        """Write what is known now; the module logs it."""
        if not self.wanted:
            return
        assert isinstance(module, OrderModule)
        summaries = module.bounds.summaries()  # gathers from all processes, and is the same on each
        if trainer.is_global_zero:
            self.publish(trainer, module, summaries)

    def publish(self, trainer: L.Trainer, module: OrderModule, summaries: dict[str, BoundSummary]) -> None:
        """Write rows and figure into the run directory, log curves, print the table."""
        data, run_dir = problems_of(trainer), Path(trainer.default_root_dir)
        made_by: dict[str, Any] = {
            "device": device_name(module.device),
            "commit": commit_hash(),
            "software": software(),
        }
        rows = []
        for name, summary in summaries.items():
            wanted = self.wanted[name]
            evaluated = BoundRow(**wanted, **summary._asdict(), optimum=data.optimum_nats(wanted["T"]), **made_by)
            rows.append(self.kept.get(name, evaluated))
        rows += filter(self.stays, published(run_dir))
        write_bound_rows(run_dir / ORDER_BOUNDS, rows)
        report_order_bounds(rows, run_dir)
        log_order_bounds(trainer.loggers, rows, trainer.global_step)

    def stays(self, row: BoundRow) -> bool:
        """Whether a row of an earlier loop, of another cell than these, is of the same weights.

        One of the same split also has to be of the same problems, be it of fewer, and of as many trajectories.
        """
        own, options = next(iter(self.wanted.values())), json.loads(row.options)
        if (row.task, row.checkpoint) != (own["task"], own["checkpoint"]) or any(
            options.get(name) not in (None, found) for name, found in self.nets.items()
        ):
            return False
        if row.split != own["split"]:
            return True
        return (
            all((row.policy, row.options, row.T) != (w["policy"], w["options"], w["T"]) for w in self.wanted.values())
            and (row.data, row.samples) == (own["data"], own["samples"])
            and options.get("source") == json.loads(own["options"]).get("source")
        )


def problems_to_come(trainer: L.Trainer, split: str) -> int:
    """How many problems of a split the loop that begins is to evaluate, on all processes."""
    data = problems_of(trainer)
    batches = trainer.num_val_batches if split == "validation" else trainer.num_test_batches
    fitting = len(data.problems(split)) - data.left_out.get(split, 0)
    return problems_in(fitting, trainer.world_size, data.eval_batch_size, sum(batches))


def published(run_dir: Path) -> list[BoundRow]:
    """What earlier loops have left in a directory.

    Raises:
        ValueError: the file is damaged.
    """
    return read_bound_rows(run_dir / ORDER_BOUNDS) if (run_dir / ORDER_BOUNDS).exists() else []
