"""The decoding loop: denoiser x unmasking policy x step budget x token sampler x observers.

Every decode run of this project is this loop, and this loop alone counts denoiser evaluations. At each step the
denoiser predicts the masked positions of the rows still active, the policy chooses some of them, the token sampler
fills these. Finished rows leave the batch.

What happens to a row depends on nothing but the row: its noise is keyed by its problem, and no operation mixes rows.
What is left is rounding: a matrix kernel may sum in another order for another batch shape, which could flip two scores
closer than that. In float32 on the CPU the tests see none. It decides between positions that the net cannot tell apart
(a canvas without any given token, say), and it may differ on other devices; ``isolate_rows=True`` excludes it anywhere.

Shapes: B rows, A active rows, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Canvas, DecodingState, Denoiser, Prediction, Rows
from lightning_mdm.decoding.tokens import Argmax, TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.noise import RowNoise, Stream
from lightning_mdm.orders.budget import StepBudget
from lightning_mdm.orders.order import Order
from lightning_mdm.vocabulary import TokenSpace

EndOfSequence = Literal["as_tokens", "close"]


class Observer(Protocol):
    """Watches a decode run; it can change nothing."""

    def __call__(self, state: DecodingState, prediction: Prediction, chosen_AL: Tensor) -> None:
        """Called at every step for the active rows; ``state.noise.index_B`` says which problems they are."""
        ...


@torch.no_grad()
def decode(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    canvas: Canvas,
    space: TokenSpace,
    *,
    steps: int,
    token_sampler: TokenSampler | None = None,
    end_of_sequence: EndOfSequence = "as_tokens",
    seed: int = 0,
    observers: Sequence[Observer] = (),
    isolate_rows: bool = False,
) -> Trace:
    """Fill every position of ``canvas`` that is neither given nor padding, in at most ``steps`` denoiser calls.

    Args:
        denoiser: gives logits at queried positions.
        policy: chooses what to unmask.
        canvas: rows to decode; its tokens are read only where they are given.
        space: mask token, end-of-sequence, and what may never be sampled.
        steps: the budget T >= 1.
        token_sampler: draws tokens; argmax if not given.
        end_of_sequence: ``as_tokens`` fills the canvas like any other text; ``close`` fills everything still
            masked after a committed end-of-sequence with end-of-sequence, at no cost.
        seed: seed of all noise; together with its problem index it determines a row's result.
        observers: called at every step.
        isolate_rows: decode one row after the other, cut to its own length, so that the same kernels run on the same
            shapes whatever the batch: slower, and immune to rounding on any device.

    Raises:
        ValueError: a budget below 1, an unknown ``end_of_sequence``, or ``close`` without such a token.
        RuntimeError: the policy chose positions that were not masked, or none at all; the denoiser gave logits that are
            not numbers.
    """
    budget = StepBudget(steps).steps
    if end_of_sequence not in get_args(EndOfSequence):
        raise ValueError(f"end_of_sequence={end_of_sequence!r}: choose one of {', '.join(get_args(EndOfSequence))}")
    if end_of_sequence == "close" and space.eos_id is None:
        raise ValueError("end_of_sequence='close': this task has no end-of-sequence token; choose 'as_tokens'")
    token_sampler = token_sampler or Argmax()
    if isolate_rows and len(canvas.index_B) > 0:
        traces = [
            decode(
                denoiser,
                policy,
                Rows.alone(canvas, row),
                space,
                steps=steps,
                token_sampler=token_sampler,
                end_of_sequence=end_of_sequence,
                seed=seed,
                observers=observers,
            )
            for row in range(len(canvas.index_B))
        ]
        return Trace.stacked(traces, canvas.tokens_BL)

    canvas_BL = canvas.valid_BL & ~canvas.prompt_BL
    tokens_BL = canvas.tokens_BL.masked_fill(canvas_BL, space.mask_id)
    masked_BL = canvas_BL.clone()
    L = tokens_BL.shape[1]
    noise = RowNoise(seed, canvas.index_B)
    forbidden = torch.tensor(space.forbidden, dtype=torch.int64, device=tokens_BL.device)
    step_BL = torch.zeros_like(tokens_BL)
    nfe_B = torch.zeros_like(canvas.index_B)
    outside = broken = torch.zeros((), dtype=torch.bool, device=tokens_BL.device)
    forward_passes = 0
    left = [L + 1] * len(nfe_B)
    active = list(range(len(nfe_B)))
    earlier: tuple[Prediction, ...] = ()

    for step in range(1, budget + 1):
        before, left = left, masked_BL.sum(-1).tolist()  # the loop's one look at where its rows are
        previous, active = active, [row for row, n in enumerate(left) if n]
        if not active:
            break
        if any(left[row] == before[row] for row in active):
            raise RuntimeError(f"policy {policy.name} chose no position at step {step - 1}")
        rows_A = torch.tensor(active, device=tokens_BL.device)
        tokens_AL, masked_AL = tokens_BL[rows_A], masked_BL[rows_A]

        if earlier and len(active) < len(previous):
            kept = [place for place, row in enumerate(previous) if left[row]]
            earlier = tuple(prediction.rows(kept) for prediction in earlier)
        query_AQ = masked_AL.int().argsort(dim=-1, descending=True, stable=True)[:, : max(left)]
        logits_AQV, hidden_ALD = denoiser(tokens_AL, canvas.valid_BL[rows_A], query_AQ)
        logits_AQV = logits_AQV.to(torch.promote_types(logits_AQV.dtype, torch.float32))  # bfloat16 would rank in ties
        if space.forbidden:
            logits_AQV = logits_AQV.index_fill(-1, forbidden, -torch.inf)
        nfe_B[rows_A] += 1
        forward_passes += 1

        prediction = Prediction(logits_AQV, query_AQ, L, hidden_ALD)
        state = DecodingState(
            tokens_BL=tokens_AL,
            masked_BL=masked_AL,
            canvas_BL=canvas_BL[rows_A],
            valid_BL=canvas.valid_BL[rows_A],
            step=step,
            is_last=step == budget,
            budget_B=torch.full_like(rows_A, budget),
            steps_left_B=torch.full_like(rows_A, budget - step + 1),
            noise=noise.rows(rows_A),
            earlier=earlier,
        )
        chosen_AL = policy(state, prediction)
        earlier = (prediction, *earlier)[: policy.memory]
        outside = outside | (chosen_AL & ~masked_AL).any()
        chosen_AL = chosen_AL & masked_AL
        for observer in observers:
            observer(state, prediction, chosen_AL)

        # Queries ascend within a row, so masks over [A, Q] and over [A, L] list the chosen positions in the same order.
        logits_NV = logits_AQV[chosen_AL.gather(1, query_AQ)]
        broken = broken | logits_NV.isnan().any()
        active_N, position_N = chosen_AL.nonzero(as_tuple=True)
        uniform_N = state.uniform_BL(Stream.TOKEN)[active_N, position_N]
        drawn_N = token_sampler.draw(logits_NV, uniform_N, rows_A[active_N], position_N)
        filled_AL = tokens_AL.masked_scatter(chosen_AL, drawn_N)
        still_AL = masked_AL & ~chosen_AL
        if end_of_sequence == "close" and space.eos_id is not None:
            ended_AL = ((filled_AL == space.eos_id) & state.canvas_BL & ~still_AL).cumsum(-1) > 0
            filled_AL = filled_AL.masked_fill(still_AL & ended_AL, space.eos_id)
            still_AL = still_AL & ~ended_AL
        tokens_BL[rows_A], masked_BL[rows_A] = filled_AL, still_AL
        step_BL[rows_A] = step_BL[rows_A].masked_fill(masked_AL & ~still_AL, step)

    if bool(outside):
        raise RuntimeError(f"policy {policy.name} chose positions that were not masked")
    if bool(broken):
        raise RuntimeError("the denoiser gave logits that are not numbers; has its training diverged?")
    if bool(masked_BL.any()):
        raise RuntimeError(f"policy {policy.name} left positions masked after its last step")
    return Trace(tokens_BL, Order(step_BL), nfe_B, forward_passes)
