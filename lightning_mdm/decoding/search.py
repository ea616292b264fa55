"""Looking back: what is left of a step budget goes into finding a likelier sequence along a policy's order.

A decode run with the likeliest tokens is the first branch of a tree: once a token stands, all that follows builds on
it, and one wrong token among fifty is enough for a wrong answer. A row that is finished early goes back: a *branch*
keeps what was unmasked before some step, puts the second-likeliest token (or the third, ...) at one of the positions
unmasked at that step, masks everything else since then again and lets the policy go on.

A sequence costs the sum of what its tokens cost when they were unmasked, -log p in nats, and what a branch begins with
is a part of that sum: nothing found from there on costs less. So branches are followed from the cheapest up, and a row
stops when none is cheaper than the sequence it has found, or when its steps are spent (best first search with a bound;
Land and Doig, 1960). Rows that are sure stop at once.

Tokens unmasked in haste look likelier than they are together, so haste must not win. An attempt does not count if the
end of the budget may have cut it short. Where the budget has a say in how many positions go at once, a branch begins
only if the steps left are enough to unmask no more at once than the step it branches off did, and counts only if no
more were. A policy that decides by itself how many go at once is trusted with it.

What is found is exactly the mode of p(x | order), for policies that unmask one position per step, draw no random
numbers, remember nothing and do not ask how many steps are left, if there are steps enough and at most ``OTHERS`` + 1
tokens. (That is the law in ``decoding/likelihood.py``; where sequences are closed, the one in which what is closed
follows from its end-of-sequence.) Other policies begin each branch as a run of its own: the order found is one that
their choices have led to, not always the one that they take undisturbed. Knows nothing of tasks.

Shapes: B rows, R of them that go on, L positions, K next likelier tokens, N positions being unmasked, V vocabulary.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.categorical import odds_against_best
from lightning_mdm.decoding.state import Begun, Canvas, Rows
from lightning_mdm.decoding.tokens import TokenSampler
from lightning_mdm.decoding.trace import Trace
from lightning_mdm.orders.order import Order

OTHERS = 8
"""How many tokens besides the likeliest are tried at a position: all others of a Sudoku's cell."""


class DecodeRun(Protocol):
    """A decode run with everything settled but these; see ``lightning_mdm.decoding.loop.decode``."""

    def __call__(self, *, canvas: Canvas, token_sampler: TokenSampler, begun: Begun) -> Trace: ...


class CostRecorder(TokenSampler):
    """The likeliest tokens, and an account of what they and the next likelier ones cost.

    Args:
        tokens_BL: of the canvas.
    """

    def __init__(self, tokens_BL: Tensor) -> None:
        self.nats_BL = torch.zeros_like(tokens_BL, dtype=torch.float64)
        self.other_BLK = tokens_BL[:, :, None].repeat(1, 1, OTHERS)
        self.other_nats_BLK = torch.full_like(self.other_BLK, torch.inf, dtype=torch.float64)
        self.drawn_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)

    def draw(self, logits_NV: Tensor, uniform_N: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        best_N1 = logits_NV.argmax(-1, keepdim=True)  # the lowest id among equals, as without looking back
        nats_N1 = odds_against_best(logits_NV)[:, None].log1p()  # relatively precise, however sure the token is
        others = min(OTHERS, logits_NV.shape[-1] - 1)
        found_NK = logits_NV.scatter(-1, best_N1, -torch.inf).topk(others, dim=-1)
        self.nats_BL[row_N, position_N] = nats_N1[:, 0]
        self.drawn_BL[row_N, position_N] = True
        self.other_BLK[row_N, position_N, :others] = found_NK.indices
        gap_NK = logits_NV.gather(-1, best_N1).double() - found_NK.values.double()
        self.other_nats_BLK[row_N, position_N, :others] = nats_N1 + gap_NK
        return best_N1[:, 0]


@dataclass(frozen=True)
class Attempt:
    """A filled canvas row, and where other ones could branch off. On the host.

    Args:
        token_L: int64.
        step_L: int64, when each position was unmasked; 0 for what was not.
        nats_L: float64, what each cost then.
        other_LK: int64, the next likelier tokens.
        other_nats_LK: float64, what each would have cost; infinite where there is none, or none that is its to try.
        drawn_L: bool, the positions that hold a token which its own run has drawn for them.
    """

    token_L: Tensor
    step_L: Tensor
    nats_L: Tensor
    other_LK: Tensor
    other_nats_LK: Tensor
    drawn_L: Tensor

    @cached_property
    def nats(self) -> float:
        """What the sequence costs."""
        return float(self.nats_L.sum())

    @cached_property
    def steps(self) -> int:
        """How many steps it took."""
        return int(self.step_L.max())

    def before(self) -> Tensor:
        """What stood before the step of each position had cost, ``[L]``."""
        by_step_S = torch.zeros(self.steps + 1, dtype=torch.float64).index_add(0, self.step_L, self.nats_L)
        return F.pad(by_step_S.cumsum(0)[:-1], (1, 0))[self.step_L]

    @property
    def most_at_once(self) -> int:
        """How many positions its fullest step unmasked, those that were closed left out."""
        return int(F.pad(self.step_L[self.drawn_L].bincount(), (0, 1)).max())

    def cut_short(self, budget: int) -> bool:
        """Whether several positions were unmasked at the last step of a budget, at which all are that are left."""
        return self.steps == budget and int((self.step_L == budget).sum()) > 1


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
    def step(self) -> int:
        """When it branches off."""
        return int(self.attempt.step_L[self.position])

    @property
    def filled_L(self) -> Tensor:
        """Positions that were not given and hold a token at the beginning: those unmasked before, and this one."""
        filled_L = (self.attempt.step_L > 0) & (self.attempt.step_L < self.step)
        filled_L[self.position] = True
        return filled_L

    @property
    def masked(self) -> int:
        """How many positions are masked again."""
        return int((self.attempt.step_L >= self.step).sum()) - 1

    @property
    def at_once(self) -> int:
        """How many positions were unmasked at the step that it branches off, those that were closed left out."""
        return int((self.attempt.drawn_L & (self.attempt.step_L == self.step)).sum())

    @property
    def token_L(self) -> Tensor:
        """The attempt's tokens with the other one in its place."""
        token_L = self.attempt.token_L.clone()
        token_L[self.position] = self.attempt.other_LK[self.position, self.rank]
        return token_L


class RowSearch:
    """One row: the cheapest sequence found, and the open branches.

    Args:
        attempt: the first one.
        left: the steps that the row has left after it.
        adaptive: whether the policy decides how many positions go at once.
        hurries: whether the budget has a say in it.
    """

    def __init__(self, attempt: Attempt, left: int, adaptive: bool, hurries: bool) -> None:
        self.found = attempt
        self.left = left
        self.adaptive = adaptive
        self.hurries = hurries
        self.open: list[Branch] = []
        self.begun: set[bytes] = set()
        self.numbered = 0
        self.grow(attempt)

    def grow(self, attempt: Attempt) -> None:
        """Keep an attempt if it is cheaper, and open branches at the positions that it was the first to unmask."""
        if attempt.nats < self.found.nats:
            self.found = attempt
        before_L = attempt.before()
        open_L = before_L + attempt.other_nats_LK[:, 0] < self.found.nats
        for position in open_L.nonzero()[:, 0].tolist():
            self.push(float(before_L[position]), attempt, position, 0)

    def push(self, before: float, attempt: Attempt, position: int, rank: int) -> None:
        """Open a branch."""
        nats = before + float(attempt.other_nats_LK[position, rank])
        heapq.heappush(self.open, Branch(nats, self.numbered, before, attempt, position, rank))
        self.numbered += 1

    def pop(self) -> Branch | None:
        """The cheapest open branch that there are steps for, each state once; ``None`` where none may find better.

        Where an adaptive policy has no steps for the cheapest one, dearer ones are not followed in its place: with more
        steps it would not find less.
        """
        while self.left and self.open and self.open[0].nats < self.found.nats:
            branch = heapq.heappop(self.open)
            if branch.rank + 1 < OTHERS:
                self.push(branch.before, branch.attempt, branch.position, branch.rank + 1)
            state = branch.token_L.masked_fill(~branch.filled_L, -1).numpy().tobytes()
            if state in self.begun:
                continue
            if self.adaptive and self.left == 1 and branch.masked > 1:
                self.open.clear()  # all would be unmasked at once
                break
            if not self.hurries or branch.masked <= self.left * branch.at_once:
                self.begun.add(state)
                return branch
        return None

    def went_on(self, branch: Branch, attempt: Attempt) -> None:
        """Count what a branch has led to."""
        hurried = self.hurries and attempt.most_at_once > branch.at_once
        if not (hurried or attempt.cut_short(self.left)):
            self.grow(joined(branch, attempt))
        self.left -= attempt.steps


def search(run: DecodeRun, canvas: Canvas, steps: int, adaptive: bool, hurries: bool) -> Trace:
    """Decode, and look back as long as there are steps left and something likelier may be found.

    Args:
        run: the decode run, of at most ``steps`` steps.
        canvas: rows to decode.
        steps: the budget T of all that is done for a row.
        adaptive: whether the policy decides how many positions go at once, and so when it is finished.
        hurries: whether the budget has a say in it; see ``UnmaskingPolicy``.

    Returns:
        The sequences found and the orders in which they came about; evaluations and passes of all that was tried.

    Raises:
        ValueError: as ``decode``.
        RuntimeError: likewise.
    """
    trace, attempts = recorded(run, canvas, Begun.nothing(canvas, steps))
    if not attempts:
        return trace
    rows = [RowSearch(attempt, steps - attempt.steps, adaptive, hurries) for attempt in attempts]
    nfe_B, passes, device = trace.nfe_B, trace.forward_passes, canvas.tokens_BL.device
    while branches := {r: branch for r, row in enumerate(rows) if (branch := row.pop()) is not None}:
        row_R = torch.tensor(list(branches), device=device)
        token_RL = torch.stack([branch.token_L for branch in branches.values()]).to(device)
        part = Rows(token_RL, canvas.prompt_BL[row_R], canvas.valid_BL[row_R], canvas.index_B[row_R])
        filled_RL = torch.stack([branch.filled_L for branch in branches.values()]).to(device)
        left_R = torch.tensor([rows[r].left for r in branches], device=device)
        trace, attempts = recorded(run, part, Begun(filled_RL, left_R))
        nfe_B = nfe_B.index_add(0, row_R, trace.nfe_B)
        passes += trace.forward_passes
        for (r, branch), attempt in zip(branches.items(), attempts, strict=True):
            rows[r].went_on(branch, attempt)
    token_BL = torch.stack([row.found.token_L for row in rows]).to(device)
    step_BL = torch.stack([row.found.step_L for row in rows]).to(device)
    return Trace(token_BL, Order(step_BL), nfe_B, passes)


def recorded(run: DecodeRun, canvas: Canvas, begun: Begun) -> tuple[Trace, list[Attempt]]:
    """A decode run, and what it cost."""
    costs = CostRecorder(canvas.tokens_BL)
    trace = run(canvas=canvas, token_sampler=costs, begun=begun)
    parts = (trace.tokens_BL, trace.order.step_BL, costs.nats_BL, costs.other_BLK, costs.other_nats_BLK, costs.drawn_BL)
    # Each row's own: an open branch is not to keep the other rows in memory.
    return trace, [Attempt(*(value.clone() for value in row)) for row in zip(*(p.cpu() for p in parts), strict=True)]


def joined(branch: Branch, attempt: Attempt) -> Attempt:
    """What goes on from a branch as one attempt: what was kept, the other token, and what followed."""
    origin, position, at = branch.attempt, branch.position, branch.step
    # The other token, and what it closed if it ends the sequence, stand since the step at which it branches off.
    step_L = torch.where(attempt.step_L > 0, at + attempt.step_L, origin.step_L.clamp(max=at))
    nats_L = torch.where(branch.filled_L, origin.nats_L, attempt.nats_L)
    nats_L[position] = origin.other_nats_LK[position, branch.rank]
    return Attempt(attempt.token_L, step_L, nats_L, attempt.other_LK, attempt.other_nats_LK, attempt.drawn_L)
