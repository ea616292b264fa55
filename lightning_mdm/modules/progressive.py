"""Training masks that an unmasking policy leaves (progressive unmasking; Kim et al., arXiv 2602.10314).

Masks drawn at random are rarely those of a decode run, which fills easy positions first. Here every training row is a
decode run of its true tokens: it begins with everything masked, and at each update the policy looks at the prediction
that the objective was computed from and unmasks some more. Rows of all stages are evaluated together, so that the runs
cost no evaluation of their own.

Shapes: B rows under way, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_mdm.data.batch import Batch, joined
from lightning_mdm.decoding.policies import TopProbability
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import DecodingState, Prediction
from lightning_mdm.modules.saved_selector import saved_selector
from lightning_mdm.nets.selector import Selector
from lightning_mdm.noise import RowNoise, Stream, mix
from lightning_mdm.output import DenoiserOutput

# What a checkpoint keeps of rows under way.
OF_BATCH = ("tokens_BL", "prompt_BL", "valid_BL", "index_B")
PER_ROW = ("left_B", "budget_B", "key_B")


@dataclass(frozen=True)
class Progressive:
    """Which masks to train on.

    Args:
        policy: what unmasks the rows: any that decides from the prediction at hand alone. What may never be sampled is
            part of this prediction; a net soon knows better.
        budgets: step budgets T >= 1; a row draws one, and is trained on in each of the at most T states that it visits.
            So an update holds about as many rows as ``data.batch_size`` times their mean.
        order_ckpt: of a learned policy, the order that it follows: checkpoint or safetensors file (of ``save_order``)
            of an order that was learned for the denoiser to start from. It stays as it is.

    Raises:
        ValueError: a budget below 1 or none at all, a policy that asks for more than the prediction at hand, or a
            learned one without an order, or an order without one.
    """

    policy: UnmaskingPolicy = TopProbability()  # noqa: RUF009 (frozen)
    budgets: Sequence[int] = (4, 8, 16)
    order_ckpt: str | None = None

    def __post_init__(self) -> None:
        if not self.budgets or min(self.budgets) < 1:
            raise ValueError(f"model.progressive.budgets={list(self.budgets)}: give step budgets of at least 1")
        asks = {
            "a causal net": self.policy.sequential,
            "what the task knows of a problem": bool(self.policy.reads),
            "earlier predictions": self.policy.memory > 0,
            "leave to mask tokens again": self.policy.revises,
        }
        for what, asked in asks.items():
            if asked:
                raise ValueError(
                    f"model.progressive.policy={type(self.policy).__name__}: it asks for {what}, which there is not in "
                    "training; choose a policy that looks at the prediction alone"
                )
        if self.policy.learned != (self.order_ckpt is not None):
            raise ValueError(
                f"model.progressive.policy={type(self.policy).__name__}, order_ckpt={self.order_ckpt}: the policy "
                "Learned follows an order that is trained already, and no other does; give both or none"
            )


@dataclass(frozen=True)
class UnderWay:
    """Rows in the middle of being generated, every one at a step of its own.

    Args:
        rows: their problems, the true tokens everywhere.
        masked_BL: bool, what is not generated yet: some of every row's response.
        left_B: int64, the steps that each row has left, at least 1.
        budget_B: int64, the steps of each in all.
        key_B: int64, what its noise is keyed by: problem and arrival, as problems come again.
    """

    rows: Batch
    masked_BL: Tensor
    left_B: Tensor
    budget_B: Tensor
    key_B: Tensor

    @classmethod
    def begin(cls, rows: Batch, budget_B: Tensor, key_B: Tensor) -> UnderWay:
        """Rows before their first step, but for those that have nothing to generate."""
        begun = cls(rows, rows.response_BL, budget_B, budget_B, key_B)
        return begun.some(rows.response_BL.any(-1))

    def with_more(self, more: UnderWay) -> UnderWay:
        """These rows and others, as long as the longest of them."""
        rows = joined([self.rows, more.rows])
        masked_BL = torch.zeros_like(rows.valid_BL)
        masked_BL[: len(self.rows), : self.masked_BL.shape[1]] = self.masked_BL
        masked_BL[len(self.rows) :, : more.masked_BL.shape[1]] = more.masked_BL
        rest = {name: torch.cat([getattr(self, name), getattr(more, name)]) for name in PER_ROW}
        return UnderWay(rows, masked_BL, **rest)

    def some(self, kept_B: Tensor) -> UnderWay:
        """Some of the rows, cut to the longest of them."""
        rows = self.rows.some(kept_B)
        rest = {name: getattr(self, name)[kept_B] for name in PER_ROW}
        return UnderWay(rows, self.masked_BL[kept_B, : rows.tokens_BL.shape[1]], **rest)

    def to(self, device: torch.device) -> UnderWay:
        """The same rows on ``device``."""
        rest = {name: getattr(self, name).to(device) for name in PER_ROW}
        return UnderWay(self.rows.to(device), self.masked_BL.to(device), **rest)

    def after(self, chosen_BL: Tensor) -> UnderWay:
        """The rows that are not finished once the chosen positions hold their true tokens."""
        stepped = replace(self, masked_BL=self.masked_BL & ~chosen_BL, left_B=self.left_B - 1)
        return stepped.some(stepped.masked_BL.any(-1))


class ProgressiveMasks:
    """The rows that a training has under way.

    Args:
        options: see ``Progressive``.
        seed: of the budgets that rows draw and of whatever their policy draws.
        mask_id: of the mask token.
        width: D, that of the denoiser's hidden states.

    Raises:
        ValueError: no order where the options say, or one of another net.
    """

    def __init__(self, options: Progressive, seed: int, mask_id: int, width: int) -> None:
        self.budgets = list(options.budgets)
        self.seed = seed
        self.mask_id = mask_id
        self.selector: Selector | None = None
        if options.order_ckpt is not None:
            self.selector = saved_selector(options.order_ckpt, width, option="model.progressive.order_ckpt")
        self.policy = options.policy.bound(self.selector)
        self.step = 0  # of all rows together: no two steps of a row draw alike
        self.under_way: UnderWay | None = None

    def with_arrivals(self, batch: Batch) -> UnderWay:
        """The rows to train on now: those under way, and a batch that begins."""
        self.step += 1
        key_B = mix(mix(batch.index_B) ^ self.step)
        uniform_B = RowNoise(self.seed, key_B).uniform_B(Stream.MASK, 0)  # of a stream that no policy draws from
        budgets = torch.tensor(self.budgets, device=key_B.device)
        arrived = UnderWay.begin(batch, budgets[(uniform_B * len(budgets)).long()], key_B)
        before = self.under_way
        # Neither what a checkpoint held nor the selector is where the batch is.
        self.under_way = arrived if before is None else before.to(key_B.device).with_more(arrived)
        if self.selector is not None:
            self.selector.to(key_B.device)
        return self.under_way

    def advance(self, output: DenoiserOutput, query_BQ: Tensor) -> None:
        """Let the policy choose what is unmasked next.

        Args:
            output: the denoiser's, of the rows as ``with_arrivals`` gave them.
            query_BQ: the positions of its logits, all that are masked among them.
        """
        now = self.under_way
        assert now is not None, "there are rows first"
        state = DecodingState(
            tokens_BL=self.masked_tokens_BL, masked_BL=now.masked_BL, canvas_BL=now.rows.response_BL,
            valid_BL=now.rows.valid_BL, step=self.step, is_last=False, budget_B=now.budget_B, steps_left_B=now.left_B,
            noise=RowNoise(self.seed, now.key_B),
        )  # fmt: skip
        hidden_BLD = None if output.hidden_BLD is None else output.hidden_BLD.detach()
        prediction = Prediction(output.logits_BQV.detach(), query_BQ, now.masked_BL.shape[1], hidden_BLD)
        with torch.no_grad():
            chosen_BL = self.policy(state, prediction)
        self.under_way = now.after(chosen_BL)

    @property
    def masked_tokens_BL(self) -> Tensor:
        """The rows under way as the denoiser sees them."""
        assert self.under_way is not None, "there are rows first"
        return self.under_way.rows.tokens_BL.masked_fill(self.under_way.masked_BL, self.mask_id)

    def state_dict(self) -> dict[str, Any]:
        """The rows under way, as plain values and tensors."""
        now = self.under_way
        if now is None:
            return {"step": self.step}
        return {
            "step": self.step,
            "rows": {name: getattr(now.rows, name).cpu() for name in OF_BATCH},
            "under_way": {name: getattr(now, name).cpu() for name in ("masked_BL", *PER_ROW)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the rows of ``state_dict``."""
        self.step = state["step"]
        self.under_way = UnderWay(Batch(**state["rows"]), **state["under_way"]) if "rows" in state else None
