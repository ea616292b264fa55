"""The rows that a decode run has not finished, which alone are evaluated.

Shapes: B rows of the batch, A active rows, L positions, Q queried positions per row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_mdm.categorical import positions_of
from lightning_mdm.decoding.state import Begun, Canvas, DecodingState, Prediction
from lightning_mdm.noise import RowNoise


@dataclass(frozen=True)
class Active:
    """Rows in the middle of being decoded, and where they go back to.

    Args:
        rows_A: int64, their places in the batch.
        tokens_AL: int64, the mask token at every position of ``masked_AL``.
        masked_AL: bool, what is to be filled.
        canvas_AL: bool, what was to be filled at first.
        valid_AL: bool, the positions that are not padding.
        step_AL: int64, the step at which each position was filled; 0 where it was not.
        budget_A: int64, the steps that each row may take.
        noise: random numbers of these rows.
        mask_id: of the mask token.
        closing_id: of the token after which everything masked is closed with it, at no cost; ``None`` closes nothing.
        left: how many positions each row has masked, on the host; ``budgets`` the steps that each may take, likewise.
        earlier: the predictions of the steps before, the latest first, as many as the policy remembers.
    """

    rows_A: Tensor
    tokens_AL: Tensor
    masked_AL: Tensor
    canvas_AL: Tensor
    valid_AL: Tensor
    step_AL: Tensor
    budget_A: Tensor
    noise: RowNoise
    mask_id: int
    closing_id: int | None
    left: list[int]
    budgets: list[int]
    earlier: tuple[Prediction, ...] = ()

    @classmethod
    def all_of(cls, canvas: Canvas, begun: Begun, noise: RowNoise, mask_id: int, closing_id: int | None) -> Active:
        """All rows, before the first step; what earlier runs have filled may close some of them."""
        canvas_BL = canvas.valid_BL & ~canvas.prompt_BL
        masked_BL = canvas_BL & ~begun.filled_BL
        tokens_BL = canvas.tokens_BL.masked_fill(masked_BL, mask_id)
        rows_B = torch.arange(len(tokens_BL), device=tokens_BL.device)
        return cls(
            rows_B, tokens_BL, masked_BL, canvas_BL, canvas.valid_BL, torch.zeros_like(tokens_BL), begun.budget_B,
            noise, mask_id, closing_id, left=masked_BL.sum(-1).tolist(), budgets=begun.budget_B.tolist(),
        ).closed(0)  # fmt: skip

    def query_AQ(self, widest: int | None) -> Tensor:
        """The masked positions of every row, ascending, shorter rows filled up with others.

        Args:
            widest: of the largest canvas, to list the positions of the canvas in place of the masked ones.
        """
        return positions_of(self.masked_AL, max(self.left)) if widest is None else positions_of(self.canvas_AL, widest)

    def unfinished(self) -> Active:
        """Those of the rows that have something masked."""
        left = [n for n in self.left if n]
        budgets = [budget for budget, n in zip(self.budgets, self.left, strict=True) if n]
        kept_A = torch.nonzero_static(self.masked_AL.any(-1), size=len(left))[:, 0]
        return replace(
            self, rows_A=self.rows_A[kept_A], tokens_AL=self.tokens_AL[kept_A], masked_AL=self.masked_AL[kept_A],
            canvas_AL=self.canvas_AL[kept_A], valid_AL=self.valid_AL[kept_A], step_AL=self.step_AL[kept_A],
            budget_A=self.budget_A[kept_A], noise=self.noise.rows(kept_A), left=left, budgets=budgets,
            earlier=tuple(prediction.rows(kept_A) for prediction in self.earlier),
        )  # fmt: skip

    def put_back(self, tokens_BL: Tensor, step_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The batch's tokens and steps with those of these rows in their places."""
        return tokens_BL.index_copy(0, self.rows_A, self.tokens_AL), step_BL.index_copy(0, self.rows_A, self.step_AL)

    def state(self, step: int, last: bool) -> DecodingState:
        """What a policy sees of them at a step, which may be the last one of all."""
        return DecodingState(
            tokens_BL=self.tokens_AL,
            masked_BL=self.masked_AL,
            canvas_BL=self.canvas_AL,
            valid_BL=self.valid_AL,
            step=step,
            is_last=last,
            budget_B=self.budget_A,
            steps_left_B=self.budget_A - step + 1,
            noise=self.noise,
            earlier=self.earlier,
        )

    def filled(
        self,
        tokens_AL: Tensor,
        chosen_AL: Tensor,
        taken: list[int],
        step: int,
        earlier: tuple[Prediction, ...],
        again_AL: Tensor | None,
    ) -> Active:
        """The rows after a step.

        Args:
            tokens_AL: int64, with what was drawn at the chosen positions.
            chosen_AL: bool, some of what is masked.
            taken: how many that are in each row.
            step: its number.
            earlier: the predictions to remember.
            again_AL: bool, filled positions to mask again; ``None`` where nothing ever is.
        """
        left = [before - now for before, now in zip(self.left, taken, strict=True)]
        step_AL = self.step_AL.masked_fill(chosen_AL, step)
        filled = replace(
            self, tokens_AL=tokens_AL, masked_AL=self.masked_AL & ~chosen_AL, step_AL=step_AL, left=left,
            earlier=earlier,
        )  # fmt: skip
        return (filled if again_AL is None else filled.masked_again(again_AL)).closed(step)

    def masked_again(self, again_AL: Tensor) -> Active:
        """The rows with some of their filled positions masked."""
        masked_AL = self.masked_AL | again_AL
        return replace(
            self, tokens_AL=self.tokens_AL.masked_fill(again_AL, self.mask_id), masked_AL=masked_AL,
            left=masked_AL.sum(-1).tolist(),  # how many they are is the policy's choice: another look
        )  # fmt: skip

    def closed(self, step: int) -> Active:
        """The rows, where a token closes: with everything masked behind one closed with it, at a step."""
        if self.closing_id is None:
            return self
        ended_AL = ((self.tokens_AL == self.closing_id) & self.canvas_AL).cumsum(-1) > 0
        closed_AL = self.masked_AL & ended_AL
        masked_AL = self.masked_AL & ~ended_AL
        return replace(
            self, tokens_AL=self.tokens_AL.masked_fill(closed_AL, self.closing_id), masked_AL=masked_AL,
            step_AL=self.step_AL.masked_fill(closed_AL, step),
            left=masked_AL.sum(-1).tolist(),  # how many were closed is in the tokens: another look
        )  # fmt: skip
