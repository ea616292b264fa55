"""Slow, independent references: the law of every unmasking policy, and of a whole decode run, by enumeration.

Written from the definitions in plain Python: sets are frozensets, probabilities are floats, nothing is vectorised.
A policy joins the tests by standing in ``POLICIES`` and having its one-step law in ``SET_LAWS``.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.policies import (
    IID,
    KLASS,
    P2,
    POLICIES,
    Autoregressive,
    Blocks,
    ConfidenceFactor,
    ConfidenceThreshold,
    Dilated,
    Entropy,
    EntropyBounded,
    GivenOrder,
    LeftToRight,
    Noisy,
    Oracle,
    PCSampler,
    Prophet,
    ReMDM,
    TopMargin,
    TopProbability,
)
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.vocabulary import TokenSpace
from toys import ToyFacts, ToySelector

FACTS = ToyFacts()
SAME = 1e-9  # scores closer than this are ties

SetLaw = dict[frozenset[int], float]
Memory = tuple[int, int]
"""What a run remembers between steps: the block at hand, and the time of the latest set in it (IID's; -1: none yet)."""

VARIANTS: dict[type[UnmaskingPolicy], tuple[UnmaskingPolicy, ...]] = {
    Noisy: (
        Noisy(),
        Noisy("probability", "gaussian", 0.3, quota="even"),
        Noisy("log_probability", fading=True, quota="cosine"),
        Noisy("entropy", coefficient=0.0),
    ),
    PCSampler: (PCSampler(), PCSampler(decay=0.0), PCSampler(decay=0.1, clip=0.8)),
    Dilated: (Dilated(), Dilated(3)),
    ConfidenceFactor: (ConfidenceFactor(), ConfidenceFactor(1.8)),
    KLASS: (KLASS(0.4, 0.6, 1), KLASS(0.0, 0.5, 2)),
    Prophet: (Prophet(), Prophet(1.2, 0.9, 0.6), Prophet(2.0, 0.5, 1.5), Prophet(0.0)),
    P2: (P2(), P2(0.5), P2(3.0)),
    ReMDM: (ReMDM(0.3), ReMDM(0.6, "rescale", "margin"), ReMDM(1.0, ranking="probability"), ReMDM(ranking="entropy")),
    GivenOrder: (GivenOrder(), GivenOrder("margin")),
    ConfidenceThreshold: (ConfidenceThreshold(0.45), ConfidenceThreshold(0.6), ConfidenceThreshold(1.0)),
    EntropyBounded: (EntropyBounded(0.0), EntropyBounded(0.7)),
    Blocks: (
        Blocks(TopMargin(), 2),
        Blocks(IID(), 2),
        Blocks(LeftToRight(), 1),
        Blocks(ConfidenceThreshold(0.6), 3),
        Blocks(EntropyBounded(0.7), 2),
        Blocks(Noisy(), 2),
        Blocks(Noisy(quota="cosine"), 2),
        Blocks(Dilated(), 3),
        Blocks(PCSampler(), 3),
        Blocks(KLASS(0.4, 0.6, 1), 3),
        Blocks(Prophet(1.2, 0.9, 0.6), 3),
        Blocks(Learned("greedy", beta=2.0), 2).bound(ToySelector()),
        Blocks(Learned("sampled"), 3).bound(ToySelector()),
        Blocks(Learned("greedy"), 2).bound(ToySelector(finish=0.5)),
    ),
    Learned: (
        Learned("greedy").bound(ToySelector(place=0.0)),
        Learned("greedy", beta=2.0, price=1.5).bound(ToySelector()),
        Learned("greedy", beta=0.5).bound(ToySelector(place=0.0, offset=1.0)),
        Learned("sampled").bound(ToySelector()),
        Learned("sampled", beta=0.5, price=1.5).bound(ToySelector(place=0.0)),
        Learned("sampled", beta=2.0).bound(ToySelector(offset=1.5)),  # several certain positions
        Learned("greedy").bound(ToySelector(finish=0.2)),
        Learned("greedy", price=1.5).bound(ToySelector(offset=2.5, finish=-9.0)),  # all coins fall, but not to finish
        Learned("greedy", beta=2.0).bound(ToySelector(place=0.0, finish=-0.6)),
        Learned("greedy", beta=0.5).bound(ToySelector(place=0.0, offset=1.0, finish=2.5)),
        Learned("sampled").bound(ToySelector(finish=-0.5)),
        Learned("sampled", beta=0.5, price=1.5).bound(ToySelector(place=0.0, finish=0.5)),
        Learned("sampled", beta=2.0).bound(ToySelector(offset=1.5, finish=-0.8)),
    ),
}


def instances() -> list[UnmaskingPolicy]:
    """Every policy of ``POLICIES``, with the options that the tests try."""
    return [policy.informed(FACTS) for kind in POLICIES for policy in VARIANTS.get(kind) or (kind(),)]


def standing() -> list[UnmaskingPolicy]:
    """Those of them under which what is unmasked stays."""
    return [policy for policy in instances() if not policy.revises]


def with_ends(policies: Sequence[UnmaskingPolicy]) -> list[tuple[UnmaskingPolicy, str]]:
    """Policies with each way to treat an end of sequence that they go with: what is closed is closed for good."""
    return [
        (policy, end) for policy in policies for end in ("as_tokens", "close") if end != "close" or not policy.revises
    ]


def label(policy: UnmaskingPolicy) -> str:
    """Short name of a policy with its options, and its selector where it is bound to one."""
    inner = policy.policy if isinstance(policy, Blocks) else policy
    selector = f"@{inner.selector}" if isinstance(inner, Learned) else ""
    return f"{policy}{selector}".replace(" ", "")


@dataclass(frozen=True)
class View:
    """What a policy may know at one step.

    Args:
        masked: positions to choose from, ascending.
        canvas: positions that were masked at the beginning, ascending.
        p: token probabilities of every masked position, and of every filled one for a policy that weighs these.
        step: from 1.
        budget: T.
        steps_left: including this one.
        memory: of the run so far.
        earlier: token probabilities of the masked positions at the steps before, the latest first.
        tokens: of the whole row, mask ids and padding included.
        valid: positions that are no padding.
    """

    masked: tuple[int, ...]
    canvas: tuple[int, ...]
    p: Mapping[int, list[float]]
    step: int
    budget: int
    steps_left: int
    memory: Memory = (0, -1)
    earlier: tuple[Mapping[int, list[float]], ...] = ()
    tokens: tuple[int, ...] = ()
    valid: tuple[int, ...] = ()

    @property
    def filled(self) -> tuple[int, ...]:
        """Positions of the canvas that hold a token."""
        return tuple(i for i in self.canvas if i not in self.masked)

    @property
    def quota(self) -> int:
        """Positions to unmask now."""
        return math.ceil(len(self.masked) / self.steps_left)


def top(p: list[float]) -> float:
    return max(p)


def margin(p: list[float]) -> float:
    best, second = sorted(p, reverse=True)[:2]
    return best - second


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0.0)


def best(score: Mapping[int, float], n: int) -> SetLaw:
    """The ``n`` highest scores; which of equal ones are taken is decided uniformly."""
    ranked = sorted(score, key=lambda position: -score[position])
    if n >= len(ranked):
        return {frozenset(ranked): 1.0}
    cut = score[ranked[n - 1]]
    above = [i for i in ranked if score[i] > cut + SAME]
    level = [i for i in ranked if abs(score[i] - cut) <= SAME]
    choices = list(itertools.combinations(level, n - len(above)))
    return {frozenset(above).union(choice): 1.0 / len(choices) for choice in choices}


def iid(policy: IID, view: View) -> dict[tuple[frozenset[int], Memory], float]:
    """Every position's time is uniform on 0 .. T - 1; given that those left have times after the latest one, the next
    set holds those of the smallest time."""
    block, latest = view.memory
    m, later = len(view.masked), view.budget - 1 - latest
    law: dict[tuple[frozenset[int], Memory], float] = {}
    for time in range(latest + 1, view.budget):
        for size in range(1, m + 1):
            for chosen in itertools.combinations(view.masked, size):
                law[frozenset(chosen), (block, time)] = (view.budget - 1 - time) ** (m - size) / later**m
    return {event: q for event, q in law.items() if q > 0.0}


def ranked_by(score: Callable[[list[float]], float]) -> Callable[[UnmaskingPolicy, View], SetLaw]:
    return lambda policy, view: best({i: score(view.p[i]) for i in view.masked}, view.quota)


def left_to_right(policy: LeftToRight, view: View) -> SetLaw:
    return {frozenset(view.masked[: view.quota]): 1.0}


def confidence_threshold(policy: ConfidenceThreshold, view: View) -> SetLaw:
    sure = frozenset(i for i in view.masked if top(view.p[i]) >= policy.threshold)
    law: SetLaw = defaultdict(float)
    for chosen, q in best({i: top(view.p[i]) for i in view.masked}, 1).items():
        law[sure | chosen] += q
    return law


def entropy_bounded(policy: EntropyBounded, view: View) -> SetLaw:
    h = {i: entropy(view.p[i]) for i in view.masked}
    run = sorted(h.values())
    n = max(k for k in range(1, len(run) + 1) if sum(run[:k]) - max(run[:k]) <= policy.gamma + 1e-12)
    return best({i: -h[i] for i in view.masked}, n)


def plackett_luce(weight: Mapping[int, float], n: int) -> SetLaw:
    """The first ``n`` draws without replacement in proportion to the weights: what Gumbel noise does to a ranking."""
    law: SetLaw = defaultdict(float)
    for order in itertools.permutations(weight, n):
        q, left = 1.0, sum(weight.values())
        for i in order:
            q, left = q * weight[i] / left, left - weight[i]
        law[frozenset(order)] += q
    return dict(law)


def normal_ranking(mean: Mapping[int, float], scale: float, n: int) -> SetLaw:
    """The ``n`` largest of independent normal variables, by quadrature over the smallest of them."""
    x = np.linspace(min(mean.values()) - 12.0 * scale, max(mean.values()) + 12.0 * scale, 8001)
    law = {}
    for chosen in itertools.combinations(mean, n):
        density = 0.0
        for least in chosen:
            term = norm.pdf(x, mean[least], scale)
            for i in mean:
                if i != least:
                    term = term * (norm.sf if i in chosen else norm.cdf)(x, mean[i], scale)
            density = density + term
        law[frozenset(chosen)] = float(np.trapezoid(density, x))
    return law


def noisy(policy: Noisy, view: View) -> SetLaw:
    certainty = {
        "margin": margin, "probability": top, "log_probability": lambda p: math.log(top(p)),
        "entropy": lambda p: -entropy(p),
    }[policy.certainty]  # fmt: skip
    score = {i: certainty(view.p[i]) for i in view.masked}
    t = min(Fraction(view.steps_left - 1, view.budget), Fraction(1))
    share = math.cos(math.pi / 2 * (1 - t)) if policy.quota == "cosine" else t
    scheduled = max(1, len(view.masked) - math.floor(len(view.canvas) * share + 1e-9))
    n = view.quota if policy.quota == "even" else scheduled
    left = Fraction(len(view.masked) - n, len(view.canvas))
    scale = policy.coefficient * (float(left) if policy.fading else 1.0)
    if n >= len(score) or scale == 0.0:
        return best(score, n)
    if policy.noise == "gumbel":
        return plackett_luce({i: math.exp(s / scale) for i, s in score.items()}, n)
    return normal_ranking(score, scale, n)


def pc_sampler(policy: PCSampler, view: View) -> SetLaw:
    frequency = FACTS.token_frequency().tolist()
    score = {}
    for i in view.masked:
        token = view.p[i].index(max(view.p[i]))
        calibrated = min(policy.clip, -view.p[i][token] * math.log(frequency[token]))
        score[i] = math.exp(-policy.decay * view.canvas.index(i)) * calibrated
    return best(score, view.quota)


def dilated_groups(n: int, base: int) -> list[set[int]]:
    """The groups of places 0 .. n - 1, without empty ones."""
    rounds = max(1, next(r for r in itertools.count() if base**r >= n))
    groups: list[set[int]] = []
    for t in range(1, rounds + 1):
        apart = max(1, n // base**t)
        groups.append({k for k in range(n) if k % apart == 0}.difference(*groups))
    if len(groups) > 1 and len(groups[-1]) < len(groups[-2]):
        last = groups.pop()
        groups[-1] |= last
    return [group for group in groups if group]


def dilated(policy: Dilated, view: View) -> SetLaw:
    for group in dilated_groups(len(view.canvas), policy.base):
        left = frozenset(view.canvas[k] for k in group) & set(view.masked)
        if left:
            return {left: 1.0}
    raise AssertionError("the groups hold every position")


def confidence_factor(policy: ConfidenceFactor, view: View) -> SetLaw:
    falling = sorted((top(view.p[i]) for i in view.masked), reverse=True)
    fits = [n for n, c in enumerate(falling, start=1) if (n + 1) * (1.0 - c) < policy.factor]
    return best({i: top(view.p[i]) for i in view.masked}, max([1, *fits]))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0.0)


def klass(policy: KLASS, view: View) -> SetLaw:
    run = [view.p, *view.earlier[: policy.history]]
    rest = [] if len(run) <= policy.history else [
        i for i in view.masked
        if top(view.p[i]) > policy.threshold
        and all(kl(now[i], before[i]) < policy.divergence for now, before in itertools.pairwise(run))
    ]  # fmt: skip
    return {frozenset(rest): 1.0} if rest else best({i: top(view.p[i]) for i in view.masked}, view.quota)


def prophet(policy: Prophet, view: View) -> SetLaw:
    ranked = [sorted(view.p[i], reverse=True) for i in view.masked]
    gaps = [math.log(first / second) if second else math.inf for first, second, *_ in ranked]
    share = Fraction(view.budget - view.steps_left + 1, view.budget)
    bound = policy.early if share < 0.33 else policy.middle if share < 0.67 else policy.late
    if sum(gaps) / len(gaps) >= bound:
        return {frozenset(view.masked): 1.0}
    return best({i: top(view.p[i]) for i in view.masked}, view.quota)


def p2(policy: P2, view: View) -> SetLaw:
    """What stands after the step."""
    score = {i: math.log(top(view.p[i])) for i in view.masked}
    # Of equal scores those of filled positions win.
    score |= {i: policy.eta * math.log(view.p[i][view.tokens[i]]) + 10 * SAME for i in view.filled}
    return best(score, len(view.filled) + view.quota)


def remdm(policy: ReMDM, view: View) -> SetLaw:
    """What stands after the step: a coin for every filled position, and the best of those masked before."""
    t, s = Fraction(view.steps_left, view.budget), Fraction(view.steps_left - 1, view.budget)
    most = min(Fraction(1), s / (1 - t)) if t < 1 else Fraction(1)
    sigma = min(policy.eta, float(most)) if policy.strategy == "cap" else policy.eta * float(most)
    certainty = {
        "random": lambda p: 0.0, "margin": margin, "probability": top, "log_probability": lambda p: math.log(top(p)),
        "entropy": lambda p: -entropy(p),
    }[policy.ranking]  # fmt: skip
    law: SetLaw = defaultdict(float)
    for size in range(len(view.filled) + 1):
        for again in itertools.combinations(view.filled, size):
            q_again = sigma**size * (1.0 - sigma) ** (len(view.filled) - size)
            for chosen, q in best({i: certainty(view.p[i]) for i in view.masked}, view.quota + size).items():
                law[chosen | (frozenset(view.filled) - frozenset(again))] += q_again * q
    return {kept: q for kept, q in law.items() if q > 0.0}


def given_order(policy: GivenOrder, view: View) -> SetLaw:
    rank = {i: FACTS.RANKS[view.canvas.index(i)] for i in view.masked}
    taken: frozenset[int] = frozenset()
    for level in sorted(set(rank.values())):
        score = {i: margin(view.p[i]) if policy.ties == "margin" else 0.0 for i in view.masked if rank[i] == level}
        if len(taken) + len(score) >= view.quota:
            return {taken | chosen: q for chosen, q in best(score, view.quota - len(taken)).items()}
        taken |= frozenset(score)
    raise AssertionError("the quota is at most what is masked")


def oracle(policy: Oracle, view: View) -> SetLaw:
    likeliest = {i: view.p[i].index(max(view.p[i])) for i in view.masked}
    right = frozenset(i for i in view.masked if likeliest[i] == FACTS.RESPONSE[view.canvas.index(i)])
    return {right: 1.0} if right else best({i: margin(view.p[i]) for i in view.masked}, 1)


def autoregressive(policy: Autoregressive, view: View) -> SetLaw:
    return {frozenset({min(view.masked)}): 1.0}


def blocks(policy: Blocks, view: View) -> dict[tuple[frozenset[int], Memory], float]:
    length = max(policy.block_length, math.ceil(len(view.canvas) / view.budget))
    parts = [view.canvas[start : start + length] for start in range(0, len(view.canvas), length)]
    number, part = next((b, part) for b, part in enumerate(parts) if set(part) & set(view.masked))
    ends = [math.floor(b * view.budget / len(parts)) for b in (number, number + 1)]
    inner = replace(
        view,
        masked=tuple(i for i in part if i in view.masked),
        canvas=part,
        budget=ends[1] - ends[0],
        steps_left=ends[1] - view.step + 1,
        memory=view.memory if view.memory[0] == number else (number, -1),
    )
    return set_law(policy.policy, inner)


def learned(policy: Learned, view: View) -> SetLaw:
    """Independent coins given that not all fail, or their likeliest outcome.

    Where finishing is a decision of its own the coins are tossed for a proper part only, and what is left out at the
    least is the least likely position.
    """
    selector = policy.selector
    assert isinstance(selector, ToySelector)
    zeros = sum(view.tokens[i] == 0 for i in view.valid)
    row = selector.offset + 0.2 * zeros + 0.25 * policy.price - 0.4 * view.steps_left - 0.1 * len(view.masked)
    coin = {}
    for i in view.masked:
        own = 1.5 * top(view.p[i]) + 0.8 * margin(view.p[i]) - 0.5 * entropy(view.p[i])
        own -= 0.1 * min(5.0, (1.0 - top(view.p[i])) / top(view.p[i]))
        logit = own + selector.place * (i % 3 - 1) + row
        coin[i] = min(1.0, policy.beta / (1.0 + math.exp(-logit)))
    likely = frozenset(i for i in view.masked if coin[i] > 0.5)
    everything = frozenset(view.masked)
    weight = {
        frozenset(chosen): math.prod(coin[i] if i in chosen else 1.0 - coin[i] for i in view.masked)
        for size in range(1, len(view.masked) + 1)
        for chosen in itertools.combinations(view.masked, size)
    }
    if selector.finish is not None:
        stake = sum(0.5 * entropy(view.p[i]) + 0.1 * (i % 3 - 1) for i in view.masked)
        logit = selector.finish + 0.3 * zeros + 0.2 * policy.price + 0.1 * view.steps_left - stake
        finish = min(1.0, policy.beta / (1.0 + math.exp(-logit)))
        del weight[everything]
        total = sum(weight.values())
        if total == 0.0:  # nothing but everything can be taken
            return {everything: 1.0}
        if policy.rule == "greedy":
            part = best(coin, min(max(1, len(likely)), len(everything) - 1))
            return {everything: 1.0} if finish > 0.5 else part
        law = {everything: finish, **{chosen: (1.0 - finish) * w / total for chosen, w in weight.items()}}
        return {chosen: q for chosen, q in law.items() if q > 0.0}
    if policy.rule == "greedy":
        return {likely: 1.0} if likely else best(coin, 1)
    return {chosen: w / sum(weight.values()) for chosen, w in weight.items() if w > 0.0}


SET_LAWS: dict[type[UnmaskingPolicy], Callable[..., Any]] = {
    IID: iid,
    TopProbability: ranked_by(top),
    TopMargin: ranked_by(margin),
    Entropy: ranked_by(lambda p: -entropy(p)),
    LeftToRight: left_to_right,
    ConfidenceThreshold: confidence_threshold,
    EntropyBounded: entropy_bounded,
    Blocks: blocks,
    Learned: learned,
    Noisy: noisy,
    PCSampler: pc_sampler,
    Dilated: dilated,
    ConfidenceFactor: confidence_factor,
    KLASS: klass,
    Prophet: prophet,
    P2: p2,
    ReMDM: remdm,
    GivenOrder: given_order,
    Oracle: oracle,
    Autoregressive: autoregressive,
}


def set_law(policy: UnmaskingPolicy, view: View) -> dict[tuple[frozenset[int], Memory], float]:
    """The law of the set that one step unmasks, and of what is remembered of it.

    Of a policy that revises: of what stands after the step.
    """
    assert view.steps_left >= 1, "the budget has run out"
    among = frozenset(view.canvas if policy.revises else view.masked)
    if view.steps_left == 1:
        return {(among, view.memory): 1.0}
    law = SET_LAWS[type(policy)](policy, view)
    law = {event if isinstance(event, tuple) else (event, view.memory): q for event, q in law.items()}
    assert math.isclose(sum(law.values()), 1.0), "probabilities add up to 1"
    assert all(chosen & set(view.masked) and chosen <= among for chosen, _ in law)
    return law


Outcome = tuple[tuple[int, ...], tuple[int, ...]]


def decode_law(
    probabilities: Callable[[tuple[int, ...]], list[list[float]]],
    policy: UnmaskingPolicy,
    start: tuple[int, ...],
    space: TokenSpace,
    *,
    steps: int,
    token_temperature: float = 1.0,
    close: bool = False,
    padding: int = 0,
) -> dict[Outcome, float]:
    """The law of (tokens, step of every position) of a whole decode run.

    Args:
        probabilities: p(x_i | z) of every position of a state, forbidden tokens already at 0.
        policy: the policy.
        start: the first state, mask ids where something is to be decoded.
        space: ids.
        steps: T.
        token_temperature: 1 draws from p, 0 takes the likeliest token.
        close: whether an end-of-sequence closes what follows it.
        padding: number of positions of padding at the end.
    """
    canvas = tuple(i for i, token in enumerate(start) if token == space.mask_id)
    valid = tuple(range(len(start) - padding))
    law: dict[Outcome, float] = defaultdict(float)

    def token_law(p: list[float]) -> list[tuple[int, float]]:
        if token_temperature == 0.0:
            return [(p.index(max(p)), 1.0)]
        return [(token, q) for token, q in enumerate(p) if q > 0.0]

    def go(
        tokens: tuple[int, ...], order: tuple[int, ...], step: int, weight: float, memory: Memory,
        earlier: tuple[Mapping[int, list[float]], ...],
    ) -> None:  # fmt: skip
        masked = tuple(i for i in canvas if tokens[i] == space.mask_id)
        if not masked:
            law[tokens, order] += weight
            return
        p = dict(enumerate(probabilities(tokens)))
        now = {i: p[i] for i in (canvas if policy.weighs_filled else masked)}
        view = View(masked, canvas, now, step, steps, steps - step + 1, memory, earlier, tokens, valid)
        for (chosen, remembered), q_set in set_law(policy, view).items():
            positions = sorted(chosen & set(masked))
            again = set(canvas) - set(masked) - chosen if policy.revises else set()
            for drawn in itertools.product(*(token_law(p[i]) for i in positions)):
                after, when = list(tokens), list(order)
                q = weight * q_set
                for i, (token, q_token) in zip(positions, drawn, strict=True):
                    after[i], when[i], q = token, step, q * q_token
                for i in again:
                    after[i], when[i] = space.mask_id, 0
                ends = [i for i in canvas if after[i] == space.eos_id] if close else []
                for i in canvas:
                    if ends and i > ends[0] and after[i] == space.mask_id:
                        after[i], when[i] = space.eos_id, step
                go(tuple(after), tuple(when), step + 1, q, remembered, (now, *earlier))

    go(start, (0,) * len(start), 1, 1.0, (0, -1), ())
    return dict(law)


def table_probabilities(
    table_SLV: Tensor, state: Callable[[Tensor], Tensor], space: TokenSpace
) -> Callable[[tuple[int, ...]], list[list[float]]]:
    """p(x_i | z) of a ``Tabular`` denoiser in plain Python, forbidden tokens at 0."""

    @functools.cache
    def probabilities(tokens: tuple[int, ...]) -> list[list[float]]:
        rows = table_SLV[int(state(torch.tensor([tokens])))].tolist()
        weights = [[0.0 if v in space.forbidden else math.exp(a) for v, a in enumerate(row)] for row in rows]
        return [[w / sum(row) for w in row] for row in weights]

    return probabilities
