"""Looking back: what is left of a step budget goes into finding a likelier sequence along a policy's order.

A decode run with the likeliest tokens is the first branch of a tree: once a token stands, all that follows builds on
it, and one wrong token among fifty is enough for a wrong answer. A row that is finished early goes back: a *branch*
keeps what stood before some step, puts the next likelier token at one of the positions unmasked at that step, masks
the rest again and decodes on. A sequence costs the sum of what its tokens cost when they were unmasked, -log p in nats,
so that nothing that goes on from a branch costs less than what it begins with. Branches are therefore followed from
the cheapest up, and a row stops where none is cheaper than the sequence it has found, or where its steps are spent
(best first search with a bound; Land and Doig, 1960). Sure rows stop at once.

Where a policy unmasks one position per step and draws no random numbers, and there are steps enough, what is found is
the mode of p(x | order) (``decoding/likelihood.py``), exactly. Knows nothing of tasks; the loop knows nothing of it.

Shapes: B rows, R of them that go on, L positions, K next likelier tokens, N positions being unmasked, V vocabulary.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.decoding.state import Begun, Canvas, Rows
from lightning_mdm.decoding.tokens import TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.orders.order import Order

OTHERS = 8
"""How many tokens besides the likeliest are tried at a position: all others of a Sudoku's cell."""


class Run(Protocol):
    """A decode run with everything settled but these; see ``lightning_mdm.decoding.loop.decode``."""

    def __call__(self, *, canvas: Canvas, token_sampler: TokenSampler, begun: Begun) -> Trace: ...


class Recording(TokenSampler):
    """The likeliest tokens, and an account of what they and the next likelier ones cost.

    Args:
        tokens_BL: of the canvas.
    """

    def __init__(self, tokens_BL: Tensor) -> None:
        self.nats_BL = torch.zeros_like(tokens_BL, dtype=torch.float64)
        self.other_BLK = tokens_BL[:, :, None].repeat(1, 1, OTHERS)
        self.other_nats_BLK = torch.full_like(self.other_BLK, torch.inf, dtype=torch.float64)

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        best_N1 = logits_NV.argmax(-1, keepdim=True)  # the lowest id among equals, as without looking back
        nats_NV = -logits_NV.double().log_softmax(-1)
        self.nats_BL[row_N, position_N] = nats_NV.gather(-1, best_N1)[:, 0]
        others = min(OTHERS, nats_NV.shape[-1] - 1)
        # In the order of their ids among equals, on every device.
        nats_NK, token_NK = nats_NV.scatter(-1, best_N1, torch.inf).sort(dim=-1, stable=True)
        self.other_BLK[row_N, position_N, :others] = token_NK[:, :others]
        self.other_nats_BLK[row_N, position_N, :others] = nats_NK[:, :others]
        return best_N1[:, 0]


@dataclass(frozen=True)
class Attempt:
    """A filled canvas row, and where other ones could branch off. On the host.

    Args:
        token_L: int64.
        step_L: int64, when each position was unmasked; 0 for what was not.
        nats_L: float64, what each cost then.
        other_LK: int64, the next likelier tokens.
        other_nats_LK: float64, what each would have cost.
    """

    token_L: Tensor
    step_L: Tensor
    nats_L: Tensor
    other_LK: Tensor
    other_nats_LK: Tensor

    @property
    def nats(self) -> float:
        """What the sequence costs."""
        return float(self.nats_L.sum())

    def before(self) -> Tensor:
        """What stood before the step of each position had cost, ``[L]``."""
        by_step_S = torch.zeros(int(self.step_L.max()) + 1, dtype=torch.float64)
        by_step_S = by_step_S.index_add(0, self.step_L, self.nats_L)
        return F.pad(by_step_S.cumsum(0)[:-1], (1, 0))[self.step_L]


@dataclass(order=True)
class Branch:
    """Where to go on from: another token at one position of an attempt.

    Args:
        nats: what any sequence that goes on from here costs at least.
        number: in the order of their discovery, which decides among equals.
        before: what stood before the step has cost.
        attempt: what it branches off.
        position: of the other token.
        rank: which one of the next likelier tokens.
    """

    nats: float
    number: int
    before: float = field(compare=False)
    attempt: Attempt = field(compare=False)
    position: int = field(compare=False)
    rank: int = field(compare=False)

    @property
    def kept_L(self) -> Tensor:
        """Positions that keep their tokens."""
        return self.attempt.step_L < self.attempt.step_L[self.position]

    @property
    def token(self) -> int:
        """The other token."""
        return int(self.attempt.other_LK[self.position, self.rank])


class Row:
    """One row: the cheapest sequence found, and the open branches.

    Args:
        attempt: the first one.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.found = attempt
        self.open: list[Branch] = []
        self.numbered = 0
        self.grow(attempt, attempt.step_L > 0)

    def grow(self, attempt: Attempt, open_L: Tensor) -> None:
        """Keep an attempt if it is cheaper, and open its branches at some of its positions."""
        if attempt.nats < self.found.nats:
            self.found = attempt
        before_L = attempt.before()
        for position in (open_L & (before_L + attempt.other_nats_LK[:, 0] < self.found.nats)).nonzero()[:, 0].tolist():
            self.push(float(before_L[position]), attempt, position, 0)

    def push(self, before: float, attempt: Attempt, position: int, rank: int) -> None:
        nats = before + float(attempt.other_nats_LK[position, rank])
        if nats < self.found.nats:
            heapq.heappush(self.open, Branch(nats, self.numbered, before, attempt, position, rank))
            self.numbered += 1

    def pop(self) -> Branch | None:
        """The cheapest open branch, whose place the next token there takes; ``None`` where all cost too much."""
        if not self.open or self.open[0].nats >= self.found.nats:
            return None
        branch = heapq.heappop(self.open)
        if branch.rank + 1 < OTHERS:
            self.push(branch.before, branch.attempt, branch.position, branch.rank + 1)
        return branch


def search(run: Run, canvas: Canvas, steps: int, isolate_rows: bool = False) -> Trace:
    """Decode, and look back as long as there are steps left and something likelier may be found.

    Args:
        run: the decode run, of at most ``steps`` steps.
        canvas: rows to decode.
        steps: the budget T of all that is done for a row.
        isolate_rows: one row after the other; see ``lightning_mdm.decoding.loop.decode``.

    Returns:
        The sequences found and the orders along which they were, each as if it had been decoded at once; evaluations
        and passes of everything that was tried.

    Raises:
        ValueError: as ``decode``.
        RuntimeError: likewise.
    """
    if isolate_rows and len(canvas.index_B) > 1:
        alone = [search(run, Rows.alone(canvas, row), steps) for row in range(len(canvas.index_B))]
        return Trace.stacked(alone, canvas.tokens_BL)
    trace, attempts = recorded(run, canvas, Begun.nothing(canvas))
    if not attempts:
        return trace
    rows = [Row(attempt) for attempt in attempts]
    nfe_B, spent_B, passes = trace.nfe_B, trace.order.n_steps_B, trace.forward_passes
    device = canvas.tokens_BL.device
    while True:
        left = [steps - spent for spent in spent_B.tolist()]
        branches = {r: branch for r, row in enumerate(rows) if left[r] and (branch := row.pop()) is not None}
        if not branches:
            break
        row_R = torch.tensor(list(branches), device=device)
        kept_RL = torch.stack([branch.kept_L for branch in branches.values()]).to(device)
        token_RL = torch.stack([branch.attempt.token_L for branch in branches.values()]).to(device)
        position_R = torch.tensor([branch.position for branch in branches.values()], device=device)
        other_R = torch.tensor([branch.token for branch in branches.values()], device=device)
        each_R = torch.arange(len(row_R), device=device)
        token_RL[each_R, position_R] = other_R
        part = Rows(token_RL, canvas.prompt_BL[row_R], canvas.valid_BL[row_R], canvas.index_B[row_R])
        filled_RL = kept_RL & ~part.prompt_BL & part.valid_BL
        filled_RL[each_R, position_R] = True
        trace, attempts = recorded(run, part, Begun(filled_RL, spent_B[row_R]))
        nfe_B = nfe_B.index_add(0, row_R, trace.nfe_B)
        spent_B = spent_B.index_add(0, row_R, trace.order.n_steps_B)
        passes += trace.forward_passes
        for (r, branch), attempt in zip(branches.items(), attempts, strict=True):
            rows[r].grow(joined(branch, attempt), attempt.step_L > 0)
    token_BL = torch.stack([row.found.token_L for row in rows]).to(device)
    step_BL = torch.stack([row.found.step_L for row in rows]).to(device)
    return Trace(token_BL, Order(step_BL), nfe_B, passes)


def recorded(run: Run, canvas: Canvas, begun: Begun) -> tuple[Trace, list[Attempt]]:
    """A decode run, and what it cost."""
    recording = Recording(canvas.tokens_BL)
    trace = run(canvas=canvas, token_sampler=recording, begun=begun)
    parts = (
        trace.tokens_BL, trace.order.step_BL, recording.nats_BL, recording.other_BLK, recording.other_nats_BLK,
    )  # fmt: skip
    return trace, [Attempt(*of_row) for of_row in zip(*(part.cpu() for part in parts), strict=True)]


def joined(branch: Branch, attempt: Attempt) -> Attempt:
    """What goes on from a branch as one attempt: what was kept, the other token, and what followed."""
    origin, position = branch.attempt, branch.position
    at = int(origin.step_L[position])
    # The other token, and what it closed if it ends the sequence, stand since the step at which it branches off.
    step_L = torch.where(attempt.step_L > 0, at + attempt.step_L, origin.step_L.clamp(max=at))
    nats_L = torch.where(branch.kept_L, origin.nats_L, attempt.nats_L)
    nats_L[position] = origin.other_nats_LK[position, branch.rank]
    return Attempt(attempt.token_L, step_L, nats_L, attempt.other_LK, attempt.other_nats_LK)
