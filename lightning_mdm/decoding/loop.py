"""The decoding loop: denoiser x unmasking policy x step budget x token sampler x observers.

Every decode run of this project is this loop, and this loop alone counts denoiser evaluations. At each step the
denoiser predicts the masked positions of the rows still active, the policy chooses some of them, the token sampler
fills these. A policy that revises may have filled positions masked again. Rows without masked ones leave the batch.

What happens to a row depends on nothing but the row: its noise is keyed by its problem, and no operation mixes rows.
What is left is rounding: a matrix kernel may sum in another order for another batch shape, which could flip two scores
closer than that. In float32 on the CPU the tests see none. It decides between positions that the net cannot tell apart
(a canvas without any given token, say), and it may differ on other devices; ``isolate_rows`` of ``DecodingOptions``
excludes it anywhere.

Shapes: B rows, A active rows, L positions, Q queried positions per row, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from lightning_mdm.decoding.active import Active
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Begun, Canvas, DecodingState, Denoiser, Prediction
from lightning_mdm.decoding.tokens import Argmax, TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.noise import STEPS_DRAWN_AHEAD, RowNoise, Stream
from lightning_mdm.orders.budget import StepBudget
from lightning_mdm.orders.order import Order
from lightning_mdm.output import DenoiserOutput
from lightning_mdm.vocabulary import TokenSpace

EndOfSequence = Literal["as_tokens", "close"]
NO_NUMBERS = "the denoiser gave logits that are not finite numbers; has its training diverged?"


class DecodingError(RuntimeError):
    """A policy or a denoiser that does not do what it has to."""


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
    begun: Begun | None = None,
    end_of_sequence: EndOfSequence = "as_tokens",
    seed: int = 0,
    observers: Sequence[Observer] = (),
    guidance: float = 0.0,
    compile_statistics: bool = False,
) -> Trace:
    """Fill every position of ``canvas`` that is neither given nor padding, in at most ``steps`` denoiser calls.

    Args:
        denoiser: gives logits at queried positions.
        policy: chooses what to unmask.
        canvas: rows to decode; its tokens are read only where they are given, or filled by an earlier run.
        space: mask token, end-of-sequence, and what may never be sampled.
        steps: the budget T >= 1.
        token_sampler: draws tokens; argmax if not given.
        begun: goes on with rows that earlier runs have begun, each with a budget of its own of at most ``steps``; what
            is counted and recorded is this run's alone.
        end_of_sequence: ``as_tokens`` fills the canvas like any other text; ``close`` fills everything still
            masked after a committed end-of-sequence with end-of-sequence, at no cost.
        seed: seed of all noise; together with its problem index it determines a row's result.
        observers: called at every step.
        guidance: w >= 0; above 0 a step evaluates the denoiser twice, with everything given and with all of it masked,
            and decodes from the logits (1 + w) with - w without (classifier-free guidance, which needs no training of
            its own here: Nie et al., arXiv 2410.18514). Both count.
        compile_statistics: compute confidence, margin and entropy through ``torch.compile``, which reads the logits
            twice where the plain operations read and write them ten times: on a GPU and with a large vocabulary most of
            what the loop costs. Likewise what a selector makes of them, a hundred small operations. Seconds at the
            first call; sums may round differently.

    Raises:
        ValueError: a budget below 1 or, of a row that was begun, above ``steps``; an unknown ``end_of_sequence``,
            ``close`` without such a token or of a policy that masks tokens again; guidance below 0, infinite, or of a
            policy for causal nets.
        DecodingError: the policy chose positions that were not masked, none at all, or another number than it says; the
            denoiser gave logits of another shape than was asked for, or that are not finite numbers, or a tensor alone.
    """
    budget = StepBudget(steps).steps
    check_options(policy, space, end_of_sequence, guidance)
    token_sampler, begun = token_sampler or Argmax(), begun or Begun.nothing(canvas, budget)
    noise = RowNoise(seed, canvas.index_B, ahead=min(budget, STEPS_DRAWN_AHEAD))
    closing_id = space.eos_id if end_of_sequence == "close" else None
    active = Active.all_of(canvas, begun, noise, space.mask_id, closing_id)
    budget = largest_budget(active.budgets, budget)
    tokens_BL, step_BL = active.tokens_AL, active.step_AL
    nfe_B = torch.zeros_like(canvas.index_B)
    forbidden = torch.tensor(space.forbidden, dtype=torch.int64, device=tokens_BL.device)
    outside = broken = torch.zeros((), dtype=torch.bool, device=tokens_BL.device)
    forward_passes, evaluations = 0, 2 if guidance else 1
    widest = max(active.canvas_AL.sum(-1).tolist(), default=0) if policy.weighs_filled else None
    for step in range(1, budget + 1):
        if 0 in active.left:
            tokens_BL, step_BL = active.put_back(tokens_BL, step_BL)
            active = active.unfinished()
        if not active.left:
            break
        query_AQ = active.query_AQ(widest)
        logits_AQV, hidden_ALD = guided(denoiser, active, query_AQ, space, forbidden, guidance)
        nfe_B = nfe_B.index_add(0, active.rows_A, torch.full_like(active.rows_A, evaluations))
        forward_passes += evaluations

        prediction = Prediction(logits_AQV, query_AQ, tokens_BL.shape[1], hidden_ALD, compile_statistics)
        state = active.state(step, step == budget)
        chosen_AL = policy(state, prediction)
        outside = outside | (chosen_AL & ~(active.canvas_AL if policy.revises else active.masked_AL)).any()
        again_AL = state.filled_BL & ~chosen_AL if policy.revises else None
        chosen_AL = chosen_AL & active.masked_AL
        for observer in observers:
            observer(state, prediction, chosen_AL)

        taken = policy.takes(active.left, [own - step + 1 for own in active.budgets])
        if taken is None:
            taken = chosen_AL.sum(-1).tolist()  # the loop's one look at the device: the shapes to come follow from it
        else:
            outside = outside | (chosen_AL.sum() != sum(taken))
        if 0 in taken:
            if bool(say_nothing(logits_AQV)):  # of which no policy could make anything
                raise DecodingError(NO_NUMBERS)
            raise DecodingError(
                f"policy {policy.name} chose no position at step {step}: it has to take at least one of what is masked "
                "in every row; are its scores numbers?"
            )
        # Queries ascend within a row, so the chosen ones of [A, Q] and of [A, L] are in the same order.
        slot_N = torch.nonzero_static(chosen_AL.gather(1, query_AQ).flatten(), size=sum(taken))[:, 0]
        row_N, position_N = slot_N // query_AQ.shape[1], query_AQ.flatten()[slot_N]
        logits_NV = logits_AQV.flatten(0, 1)[slot_N]
        broken = broken | say_nothing(logits_NV)
        uniform_N = state.uniform_BL(Stream.TOKEN)[row_N, position_N]
        drawn_N = token_sampler.draw(logits_NV, uniform_N, active.rows_A[row_N], position_N)
        active = active.filled(
            active.tokens_AL.index_put((row_N, position_N), drawn_N), chosen_AL, taken, step,
            (prediction, *active.earlier)[: policy.memory], again_AL,
        )  # fmt: skip

    tokens_BL, step_BL = active.put_back(tokens_BL, step_BL)
    if bool(outside | broken):
        if bool(broken | say_nothing(logits_AQV)):
            raise DecodingError(NO_NUMBERS)
        which = "outside of the canvas" if policy.revises else "that were not masked"
        raise DecodingError(
            f"policy {policy.name} chose positions {which}, or not as many as it takes; are its scores numbers?"
        )
    if any(active.left):
        raise DecodingError(f"policy {policy.name} left positions masked after its last step")
    return Trace(tokens_BL, Order(step_BL, gaps=policy.revises), nfe_B, forward_passes)


def check_options(policy: UnmaskingPolicy, space: TokenSpace, end_of_sequence: EndOfSequence, guidance: float) -> None:
    """Refuse options that are none, or do not go together; see ``decode``."""
    if end_of_sequence not in get_args(EndOfSequence):
        raise ValueError(f"end_of_sequence={end_of_sequence!r}: choose one of {', '.join(get_args(EndOfSequence))}")
    if end_of_sequence == "close" and space.eos_id is None:
        raise ValueError("end_of_sequence='close': this task has no end-of-sequence token; choose 'as_tokens'")
    check_closing(policy, end_of_sequence)
    if not 0.0 <= guidance < math.inf:
        raise ValueError(f"guidance={guidance}: give 0 (none) or a finite number above")
    if guidance and policy.sequential:
        raise ValueError(f"guidance={guidance}: a causal net never saw a masked prompt to be guided away from; give 0")


def check_closing(policy: UnmaskingPolicy, end_of_sequence: EndOfSequence) -> None:
    """Refuse to close a canvas, which is for good, under a policy that may mask its end again."""
    if policy.revises and end_of_sequence == "close":
        raise ValueError(
            f"policy {type(policy).__name__}, end_of_sequence='close': what an end closes is closed for good, and it "
            "may mask the end again; choose 'as_tokens' or another policy"
        )


def say_nothing(logits_NV: Tensor) -> Tensor:
    """Whether any of these logits are such that no token could be drawn from them: one bool, on their device."""
    # The largest is no number where any is none, infinite where a token is infinitely likely or none is possible.
    return ~logits_NV.amax(-1).isfinite().all()


def largest_budget(budgets: Sequence[int], steps: int) -> int:
    """The largest of the rows' own budgets, of which none may be below 1 or above ``steps``; see ``decode``."""
    if any(not 1 <= budget <= steps for budget in budgets):
        raise ValueError(f"budgets of begun rows from {min(budgets)} to {max(budgets)}: give 1 to steps={steps}")
    return max(budgets, default=steps)


def guided(
    denoiser: Denoiser, active: Active, query_AQ: Tensor, space: TokenSpace, forbidden: Tensor, guidance: float
) -> DenoiserOutput:
    """The denoiser's logits, what may never be sampled at minus infinity, and its hidden states.

    Without guidance one call, with it two. The ids of what may never be sampled are on the device already: to copy them
    there at every step would wait for it.

    Raises:
        DecodingError: logits of another shape than was asked for, or no ``DenoiserOutput``.
    """
    output = denoiser(active.tokens_AL, active.valid_AL, query_AQ)
    if isinstance(output, Tensor):  # which would fall apart into its rows
        raise DecodingError(
            "the denoiser gave a tensor: give DenoiserOutput(logits), with hidden states if it has some"
        )
    logits_AQV, hidden_ALD = output
    wanted = (*query_AQ.shape, space.vocab_size)
    if logits_AQV.shape != wanted:
        raise DecodingError(
            f"the denoiser gave logits of shape {tuple(logits_AQV.shape)} where {wanted} are due: a row for each "
            "position that was asked for and a column for each token, with none for the mask"
        )
    if guidance:
        alone_AL = active.tokens_AL.masked_fill(~active.canvas_AL & active.valid_AL, space.mask_id)
        alone_AQV = denoiser(alone_AL, active.valid_AL, query_AQ).logits_BQV
        moved_AQV = torch.lerp(alone_AQV, logits_AQV, 1.0 + guidance)
        # What one of them excludes is as likely as with the prompt: there is no distance to move it by.
        logits_AQV = torch.where(logits_AQV.isneginf() | alone_AQV.isneginf(), logits_AQV, moved_AQV)
    if len(forbidden):
        logits_AQV.index_fill_(-1, forbidden, -torch.inf)
    return DenoiserOutput(logits_AQV, hidden_ALD)
