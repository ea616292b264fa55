"""The best order of a stationary Markov chain, by dynamic programming over gaps.

Visible tokens cut the sequence into gaps that are conditionally independent of each other, so each gap uses the steps
that are left in the best way for itself:

    C(gap, T) = min over non-empty U of  sum_{u in U} H(x_u | ends)  +  sum of C(sub-gap, T - 1) over the sub-gaps of U

and C(gap, 1) = sum_u H(x_u | ends). A term belongs to an element of U or to two neighbours in it, so the minimum over
all 2^n sets is a shortest path through their elements in ascending order. U may be taken non-empty: a step left unused
could reveal one token of the next set by itself, which never costs more.

A gap of n positions counts them 1 .. n; 0 and n + 1 are its ends, visible or (at the sequence's own ends) absent.
Knows nothing of how the chain was made.

Shapes: D distances 1 .. L, V tokens, S tokens and then "none", n elements of a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class BestOrder:
    """An order that no other of as many steps undercuts.

    Args:
        nats: its expected -log-likelihood.
        steps: for each position the step, from 1, that unmasks it.
    """

    nats: float
    steps: tuple[int, ...]


def enough(length: int, steps: int) -> int:
    """``steps``, as far as they are of use: halving every gap costs nothing and is done in ceil(log2(L + 1)) steps."""
    return min(steps, length.bit_length())


def best_order(length: int, alone: float, apart: Sequence[float], steps: int) -> BestOrder:
    """The best order that is chosen in advance, whatever the tokens turn out to be.

    Args:
        length: L.
        alone: entropy of one token.
        apart: entropy of a token given another at distance d, at ``[d - 1]``; d up to L.
        steps: T >= 1.
    """

    def own(left: bool, right: bool, n: int, u: int) -> float:
        """H(x_u | ends), by the chain rule; the law is stationary, so all depends on distances."""
        before = apart[u - 1] if left else alone
        after = apart[n - u] if right else alone
        return before + after - (apart[n] if left and right else alone)

    @cache
    def solve(left: bool, right: bool, n: int, T: int) -> tuple[float, tuple[int, ...]]:
        """C and the best U of a gap whose ends are visible as ``left`` and ``right`` say."""
        own_n = [own(left, right, n, u) for u in range(1, n + 1)]
        if T == 1 or n <= 1:
            return sum(own_n), tuple(range(1, n + 1))
        # through[u]: the least cost of everything up to u with u in U, and that U.
        through: list[tuple[float, tuple[int, ...]]] = []
        for u in range(1, n + 1):
            ways: list[tuple[float, tuple[int, ...]]] = [(solve(left, True, u - 1, T - 1)[0], ())]
            ways += [(cost + solve(True, True, u - U[-1] - 1, T - 1)[0], U) for cost, U in through]
            cost, U = min(ways)
            through.append((cost + own_n[u - 1], (*U, u)))
        return min((cost + solve(True, right, n - U[-1], T - 1)[0], U) for cost, U in through)

    step_of = [0] * length

    def fill(left: bool, right: bool, first: int, n: int, step: int) -> None:
        """Write down the order of the gap that starts behind position ``first`` (0: the sequence's end)."""
        if n == 0:
            return
        U = solve(left, right, n, T - step + 1)[1]
        for u in U:
            step_of[first + u - 1] = step
        ends = (0, *U, n + 1)
        for a, b in pairwise(ends):
            fill(left or a > 0, right or b <= n, first + a, b - a - 1, step + 1)

    T = enough(length, steps)
    fill(False, False, 0, length, 1)
    return BestOrder(solve(False, False, length, T)[0], tuple(step_of))


def adaptive_optimum(before_DSV: Tensor, after_DSV: Tensor, steps: int) -> float:
    """The least expected -log-likelihood of a policy that chooses each set by the tokens revealed so far.

    The same recursion with a cost for every pair of tokens at the ends of a gap, of which sub-gaps see the expectation.
    It bounds every policy that knows nothing of a token before it is revealed.

    Args:
        before_DSV: p(x_i = v | x_{i-d} = s) at ``[d - 1, s, v]``, float64; p(x_i = v) where s is "none".
        after_DSV: p(x_{i+d} = s | x_i = v) at ``[d - 1, s, v]``, float64; 1 where s is "none".
        steps: T >= 1.
    """
    L, S, V = before_DSV.shape
    after_DVS = after_DSV.transpose(1, 2)
    cost_DSS = before_DSV.new_zeros(L + 1, S, S)  # of a gap of n positions at [n], by the tokens at its ends
    for T in range(1, enough(L, steps) + 1):
        shorter_DSS, cost_DSS = cost_DSS, torch.zeros_like(cost_DSS)
        hop_DVV = before_DSV[:, :V] * shorter_DSS[:L, :V, :V]  # [d - 1, s, v]: p(v | s) times the cost between them
        for n in range(1, L + 1):
            # p(x_u | ends) for u = 1 .. n, up to the factor 1 / p(right end | left end).
            left_nSV, right_nVS = before_DSV[:n], after_DVS[:n].flip(0)
            p_nSVS = left_nSV[:, :, :, None] * right_nVS[:, None]
            ends_SS = p_nSVS[0].sum(1)
            own_nSS = torch.special.entr(p_nSVS / ends_SS[:, None]).sum(2)
            if T == 1:
                cost_DSS[n] = own_nSS.sum(0)
                continue
            first_nSS = (left_nSV * shorter_DSS[:n, :, :V]) @ right_nVS / ends_SS
            last_nSS = left_nSV @ (right_nVS * shorter_DSS[:n, :V].flip(0)) / ends_SS
            through_nSS = torch.empty_like(own_nSS)
            for u in range(n):
                ways_SS = first_nSS[u]
                if u:
                    between_uSS = left_nSV[:u] @ hop_DVV[:u].flip(0) @ right_nVS[u] / ends_SS
                    ways_SS = torch.minimum(ways_SS, (through_nSS[:u] + between_uSS).amin(0))
                through_nSS[u] = own_nSS[u] + ways_SS
            cost_DSS[n] = (through_nSS + last_nSS).amin(0)
    return float(cost_DSS[L, V, V])
