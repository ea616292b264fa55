"""Shows what a selector has learned: at which step it unmasks which position of the first few validation problems.

Decodes inside the validation loop, on the first process alone and with problems of its own shard: nothing here waits
for another process. The tokens are the model's own, decoded as the frontier does it, but without looking back, as what
is shown is an order; of a response in parts it is the first one, with the whole budget.

Shapes: N samples of problems, L positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_mdm.callbacks.evaluation import EvaluationCallback
from lightning_mdm.callbacks.frontier_log import writers
from lightning_mdm.callbacks.order_log import log_heatmap
from lightning_mdm.callbacks.runs import problems_of
from lightning_mdm.data.batch import Batch
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.report import HeatmapPanel

MOST_FIGURES = 3


class Shown(NamedTuple):
    """What a budget has to show so far: a panel per problem, and the greedy selector's steps."""

    panels: list[HeatmapPanel]
    steps: list[int]


class OrderHeatmap(EvaluationCallback):
    """Heat maps of a learned order in TensorBoard, and the steps its greedy rule takes.

    Nothing for modules without a selector, and nothing in tests.

    Args:
        problems: how many validation problems, the first ones; 0 for no heat maps.
        samples: orders drawn of each.
        budgets: step budgets T; where not given, the smallest, the middle and the largest that the module was trained
            with.
        decoding: how the problems are decoded; that of the frontier, on the command line. Without what makes it faster,
            which takes time to begin with: these are a few problems in the middle of a training.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        problems: int = 3,
        samples: int = 32,
        budgets: Sequence[int] | None = None,
        decoding: DecodingOptions = DecodingOptions(),  # noqa: B008 (frozen)
    ) -> None:
        for name, value, least in (("problems", problems, 0), ("samples", samples, 1)):
            if value < least:
                raise ValueError(f"order_heatmap.{name}={value}: give at least {least}")
        if budgets is not None and any(steps < 1 for steps in budgets):
            raise ValueError(f"order_heatmap.budgets={list(budgets)}: a step budget is at least 1")
        self.problems = problems
        self.samples = samples
        self.budgets = budgets
        self.decoding = replace(decoding, search=False, compile_statistics=False, cuda_graphs=False)
        self.shown: dict[int, Shown] = {}
        self.missing = 0

    def begin(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        idle = trainer.sanity_checking or trainer.state.fn == TrainerFn.TESTING or not trainer.is_global_zero
        self.missing = 0 if idle or not isinstance(module, OrderModule) else self.problems
        self.shown = {}

    def each_batch(self, trainer: L.Trainer, module: L.LightningModule, batch: Batch) -> None:
        rows = min(self.missing, len(batch))
        if not rows:
            return
        assert isinstance(module, OrderModule)
        self.missing -= rows
        canvas = Rows.of(batch, range(rows))
        for budget in self.budgets_of(module):
            shown = self.shown.setdefault(budget, Shown([], []))
            greedy = self.decode(trainer, module, Learned(price=module.prices[0]), canvas, budget)
            shown.steps.extend(greedy.order.n_steps_B.tolist())
            if writers(trainer.loggers):
                shown.panels.extend(self.sample(trainer, module, canvas, budget))

    def budgets_of(self, module: OrderModule) -> list[int]:
        """The budgets to show, ascending."""
        if self.budgets is not None:
            return sorted(set(self.budgets))
        known = sorted(set(module.budgets))
        return known if len(known) <= MOST_FIGURES else [known[0], known[len(known) // 2], known[-1]]

    def sample(self, trainer: L.Trainer, module: OrderModule, canvas: Rows, budget: int) -> list[HeatmapPanel]:
        """The orders of every row of a canvas: seed s of the noise belongs to sample s, whatever else is drawn."""
        policy = Learned("sampled", price=module.prices[0])
        steps_NL = torch.stack(
            [self.decode(trainer, module, policy, canvas, budget, s).order.step_BL for s in range(self.samples)], dim=1
        ).cpu()
        data, panels = problems_of(trainer), []
        for row, index in enumerate(canvas.index_B.tolist()):
            response_L = (canvas.valid_BL & ~canvas.prompt_BL)[row].cpu()
            labels = [data.decode([token]) or "·" for token in canvas.tokens_BL[row].cpu()[response_L].tolist()]
            panels.append(HeatmapPanel(f"problem {index}", labels, steps_NL[row][:, response_L].tolist()))
        return panels

    def decode(
        self, trainer: L.Trainer, module: OrderModule, policy: UnmaskingPolicy, canvas: Rows, budget: int, seed: int = 0
    ) -> Trace:
        """Decode some problems with the module's selector for a budget."""
        space = problems_of(trainer).token_space
        with trainer.precision_plugin.forward_context():
            bound = policy.bound(module.selector_for(budget))
            return self.decoding.decode(module.denoiser, bound, canvas, space, budget, seed)

    def finish(self, trainer: L.Trainer, module: L.LightningModule, prefix: str) -> None:
        for budget, (panels, steps) in self.shown.items():
            for name, value in (
                ("selector_steps", sum(steps) / len(steps)),
                ("fewest_selector_steps", min(steps)),
                ("most_selector_steps", max(steps)),
            ):
                module.log(f"{prefix}/{name}@T={budget}", float(value), rank_zero_only=True)
            if panels:
                log_heatmap(trainer.loggers, panels, budget, trainer.global_step)
        self.shown = {}
