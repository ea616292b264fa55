"""Where training problems come from: one endless global order, dealt out by slot number.

A source numbers its problems 0, 1, 2, ... without end, epoch after epoch, in an order that depends on its seed alone.
Every *slot* holds exactly one problem that fits the canvas, so whoever takes each slot once takes each problem of an
epoch once, and a slot number is all there is to remember for an exact resume. Knows nothing of processes or batches.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice, tee
from typing import TypeAlias

import torch

from lightning_mdm.data.batch import Example
from lightning_mdm.data.problem import Problem

# Encodes a problem; None where it does not fit the canvas. It travels to worker processes, so it must pickle.
Encode: TypeAlias = Callable[[Problem], Example | None]
# Makes several problems of one; it travels likewise.
Expand: TypeAlias = Callable[[Problem], Sequence[Problem]]

# What stands for a problem in an epoch, counted from 0: itself, or a variant of it. It must pickle too.
Vary: TypeAlias = Callable[[Problem, int], Problem]

# Replacements for generated problems that do not fit start here; no run gets that far.
SPARE = 1 << 48
MAX_SPARES = 1000
CANVAS_HINT = "raise data.prompt_tokens and data.response_tokens, or leave them out to measure them"


class Source(ABC):
    """An endless global order of training problems."""

    @abstractmethod
    def sample(self, n: int) -> Sequence[Problem]:
        """What tokenizer and canvas are measured on: every problem where they are at hand, else the first ``n``."""

    def fitting(self, encode: Encode, hint: str = CANVAS_HINT) -> tuple[Source, int]:
        """The same source without problems that do not fit, and how many those are where that is known up front.

        Args:
            encode: says which problems fit.
            hint: what to do where hardly any problem does.
        """
        return self, 0

    def expanded(self, into: Expand) -> Source:
        """The same source with every problem replaced by several, in an order of their own."""
        raise NotImplementedError(f"{type(self).__name__}: only problems of a list or a stream are expanded")

    @abstractmethod
    def examples(self, slots: Iterable[int], encode: Encode) -> Iterator[tuple[Example, int]]:
        """Yield, for each of the ascending ``slots``, its example and how many misfits were passed over for it."""


def itself(problem: Problem, epoch: int) -> Problem:
    """The problem as it is, in every epoch."""
    return problem


def encoded(problem: Problem, epoch: int, vary: Vary, encode: Encode) -> Example | None:
    """The example of what ``vary`` gives for a problem in an epoch, or of the problem where that does not fit."""
    varied = vary(problem, epoch)
    example = encode(varied)
    return encode(problem) if example is None and varied is not problem else example


class ListSource(Source):
    """Problems that are all at hand: every epoch is another permutation, drawn from ``(seed, epoch)``.

    Args:
        problems: of an epoch.
        seed: of the permutations.
        vary: gives what stands for a problem in an epoch, such as a variant; if that does not fit, the problem does.
    """

    def __init__(self, problems: Sequence[Problem], seed: int, vary: Vary = itself) -> None:
        self.problems = problems
        self.seed = seed
        self.vary = vary

    def sample(self, n: int) -> Sequence[Problem]:
        return self.problems

    def fitting(self, encode: Encode, hint: str = CANVAS_HINT) -> tuple[Source, int]:
        kept = [problem for problem in self.problems if encode(problem) is not None]
        if not kept:
            raise ValueError(f"none of the {len(self.problems)} training problems fits the canvas: {hint}")
        return ListSource(kept, self.seed, self.vary), len(self.problems) - len(kept)

    def expanded(self, into: Expand) -> Source:
        assert self.vary is itself, "a part of a problem has no variants"
        return ListSource([part for problem in self.problems for part in into(problem)], self.seed)

    def examples(self, slots: Iterable[int], encode: Encode) -> Iterator[tuple[Example, int]]:
        current, order = -1, torch.empty(0)
        for slot in slots:
            epoch, place = divmod(slot, len(self.problems))
            if epoch != current:
                generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{epoch}").getrandbits(60))
                current, order = epoch, torch.randperm(len(self.problems), generator=generator)
            example = encoded(self.problems[int(order[place])], epoch, self.vary, encode)
            assert example is not None, "misfits were taken out by fitting()"
            yield example, 0


class GeneratorSource(Source):
    """Problems made from their number: ``make(k)`` for k = 0, 1, 2, ...; a misfit is replaced by a spare one.

    Args:
        make: makes a problem; it travels to worker processes, so it must pickle.
        hint: what to do where hardly any problem fits the canvas.
    """

    def __init__(self, make: Callable[[int], Problem], hint: str = CANVAS_HINT) -> None:
        self.make = make
        self.hint = hint

    def sample(self, n: int) -> Sequence[Problem]:
        return [self.make(k) for k in range(n)]

    def fitting(self, encode: Encode, hint: str = CANVAS_HINT) -> tuple[Source, int]:
        return GeneratorSource(self.make, hint), 0

    def examples(self, slots: Iterable[int], encode: Encode) -> Iterator[tuple[Example, int]]:
        for slot in slots:
            for attempt in range(MAX_SPARES):
                example = encode(self.make(slot + attempt * SPARE))
                if example is not None:
                    yield example, attempt
                    break
            else:
                raise ValueError(f"{MAX_SPARES} generated problems in a row do not fit the canvas: {self.hint}")


def each_part(read: Callable[[], Iterable[Problem]], into: Expand) -> Iterator[Problem]:
    """All problems made from those of a stream."""
    return (part for problem in read() for part in into(problem))


class StreamSource(Source):
    """Problems that can only be read in order, such as a data set streamed from a hub.

    Each epoch is shuffled by a buffer of our own, seeded by ``(seed, epoch)``, as the buffer of ``datasets`` does not
    come back exactly after a resume. Every process and worker reads the whole stream and keeps its own slots: the one
    division that gives every problem exactly once whatever the numbers of files, processes and workers. A resume reads
    the first epoch once to learn its length (when the slot lies beyond it) and then the epoch it stopped in.

    Args:
        read: starts the stream anew, always in the same order; it travels to worker processes, so it must pickle.
        seed: of the shuffling.
        shuffle_buffer: how many problems the shuffling holds at a time.
        vary: gives what stands for a problem in an epoch, such as a variant; if that does not fit, the problem does.
    """

    def __init__(
        self, read: Callable[[], Iterable[Problem]], seed: int, shuffle_buffer: int, vary: Vary = itself
    ) -> None:
        self.read = read
        self.seed = seed
        self.shuffle_buffer = shuffle_buffer
        self.vary = vary

    def sample(self, n: int) -> Sequence[Problem]:
        return list(islice(self.read(), n))

    def expanded(self, into: Expand) -> Source:
        return StreamSource(partial(each_part, self.read, into), self.seed, self.shuffle_buffer)

    def examples(self, slots: Iterable[int], encode: Encode) -> Iterator[tuple[Example, int]]:
        length: int | None = None  # examples of an epoch, known once one was read to its end
        epoch, place = 0, 0
        walk = self._epoch(epoch, encode)
        for slot in slots:
            while True:
                if length is not None and slot // length != epoch:
                    epoch, place = slot // length, slot // length * length
                    walk = self._epoch(epoch, encode)
                example = next(walk, None)
                if example is not None:
                    place += 1
                    if place > slot:
                        break
                elif length is None and place:
                    length = place
                else:
                    raise ValueError(
                        f"the training stream ended after {place - epoch * (length or 0)} problems that fit the canvas"
                        + (f", an earlier reading after {length}" if length else "; it must hold at least one")
                    )
            yield example

    def _epoch(self, epoch: int, encode: Encode) -> Iterator[tuple[Example, int]]:
        """One shuffled epoch; each example with the number of misfits read since the one before."""
        rng = random.Random(f"{self.seed}/{epoch}")
        buffer: list[Example] = []
        misfits = 0
        for problem in self.read():
            example = encoded(problem, epoch, self.vary, encode)
            if example is None:
                misfits += 1
                continue
            if len(buffer) < self.shuffle_buffer:
                buffer.append(example)
                continue
            place = rng.randrange(len(buffer))
            buffer[place], example = example, buffer[place]
            yield example, misfits
            misfits = 0
        rng.shuffle(buffer)
        for example in buffer:
            yield example, misfits
            misfits = 0


class MixedSource(Source):
    """Two sources in one: a share of the slots is the second's, evenly spread.

    Args:
        first: of most slots.
        second: of the others.
        share: what part of the slots is the second's, between 0 and 1.
    """

    def __init__(self, first: Source, second: Source, share: Fraction) -> None:
        assert 0 < share < 1, "with one of them alone there is nothing to mix"
        self.first = first
        self.second = second
        self.share = share

    def sample(self, n: int) -> Sequence[Problem]:
        """Every problem of the first where they are at hand, and as many of the second as the share makes of ``n``."""
        return [*self.first.sample(n), *self.second.sample(math.ceil(n * self.share))]

    def fitting(self, encode: Encode, hint: str = CANVAS_HINT) -> tuple[Source, int]:
        (first, a), (second, b) = self.first.fitting(encode, hint), self.second.fitting(encode, hint)
        return MixedSource(first, second, self.share), a + b

    def examples(self, slots: Iterable[int], encode: Encode) -> Iterator[tuple[Example, int]]:
        # Each walks its own slots, which ascend as these do.
        one, two, three = tee(slots, 3)
        of_first = self.first.examples((s - self.before(s) for s in one if not self.is_second(s)), encode)
        of_second = self.second.examples((self.before(s) for s in two if self.is_second(s)), encode)
        for slot in three:
            yield next(of_second if self.is_second(slot) else of_first)

    def before(self, slot: int) -> int:
        """How many slots before this one are the second's."""
        return math.floor(slot * self.share)

    def is_second(self, slot: int) -> bool:
        return self.before(slot + 1) > self.before(slot)
