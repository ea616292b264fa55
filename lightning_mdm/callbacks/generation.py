"""Generates the responses of some problems: in one run of the decoding loop, or part by part as their task asks.

What a part has unmasked is given to the next one. Evaluations are those of all parts, as the loop counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_mdm.data.batch import Example, collate
from lightning_mdm.data.datamodule import ProblemDataModule
from lightning_mdm.data.problem import Problem
from lightning_mdm.decoding.options import DecodingOptions
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Canvas, Denoiser


@dataclass
class Generated:
    """What was generated for one problem.

    Args:
        text: all parts, joined by spaces.
        graded: the text in which the answer stands: that of the last part, and nothing where it was not reached.
        tokens: ids of all response positions, one part after the other, with what follows their end-of-sequence.
        steps: the step at which each was unmasked, counted over all parts.
        nfe: denoiser evaluations of all parts.
        length: tokens before each part's first end-of-sequence, summed over parts.
    """

    text: str
    graded: str
    tokens: list[int]
    steps: list[int]
    nfe: int
    length: int


def generate(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    rows: Canvas,
    problems: Mapping[int, Problem],
    data: ProblemDataModule,
    decoding: DecodingOptions,
    *,
    steps: int,
    seed: int,
) -> tuple[list[Generated], int]:
    """Generate the response of every row, and count the calls of the denoiser, each for a whole batch.

    Args:
        denoiser: gives logits.
        policy: chooses what to unmask, bound to its selector and facts.
        rows: the first parts to decode.
        problems: by the index of the row.
        data: their task, which says what follows a part.
        decoding: options of the loop.
        steps: the budget T of all parts together, as the task divides it.
        seed: of the noise.
    """
    space = data.token_space
    order = rows.index_B.tolist()
    found: dict[int, Generated] = {}
    active, forward_passes = order, 0
    budgets = data.budgets(steps)
    for number, budget in enumerate(budgets, start=1):
        trace = decoding.decode(denoiser, policy, rows, space, budget, seed)
        tokens_BL, nfe = trace.tokens_BL.cpu(), trace.nfe_B.tolist()  # waits for the device
        response_BL, step_BL = (rows.valid_BL & ~rows.prompt_BL).cpu(), trace.order.step_BL.cpu()
        forward_passes += trace.forward_passes
        following: dict[int, Example] = {}
        for row, index in enumerate(active):
            ids = tokens_BL[row][response_BL[row]].tolist()
            text, steps_taken = data.decode(ids), step_BL[row][response_BL[row]].tolist()
            part = Generated(text, text if number == len(budgets) else "", ids, steps_taken, nfe[row], len(ids))
            if space.eos_id in ids:
                part.length = ids.index(space.eos_id)
            found[index] = joined(found[index], part) if index in found else part
            if number < len(budgets) and (example := data.continued(problems[index], ids)) is not None:
                following[index] = example
        if not following:
            break
        rows, active = collate(list(following.values()), space.pad_id).to(rows.tokens_BL.device), list(following)
    return [found[index] for index in order], forward_passes


def joined(before: Generated, part: Generated) -> Generated:
    """Two parts, one after the other."""
    return Generated(
        f"{before.text} {part.text}",
        part.graded,
        before.tokens + part.tokens,
        before.steps + [max(before.steps, default=0) + step for step in part.steps],
        before.nfe + part.nfe,
        before.length + part.length,
    )
