"""Training streams: every problem of an epoch exactly once over processes and workers, and exact resume."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from itertools import islice

import pytest

from lightning_mdm.data.batch import Batch, Example
from lightning_mdm.data.problem import Problem
from lightning_mdm.data.sources import GeneratorSource, ListSource, MixedSource, Source, StreamSource
from lightning_mdm.data.stream import Progress, Replica, StreamLoader

N = 23


def make(k: int) -> Problem:
    return Problem(k, f"p{k}", "r", "1")


def read(n: int = N) -> Iterable[Problem]:
    return map(make, range(n))


def encode(problem: Problem) -> Example | None:
    return Example([problem.index % 97], [False], problem.index)


def odd_misfits(problem: Problem) -> Example | None:
    return encode(problem) if problem.index % 5 else None


def list_source(seed: int = 0) -> Source:
    return ListSource([make(k) for k in range(N)], seed)


def stream_source(seed: int = 0) -> Source:
    return StreamSource(read, seed, shuffle_buffer=7)


FINITE = [list_source, stream_source]
ALL = [*FINITE, lambda: GeneratorSource(make)]


def indices(source: Source, slots: Iterable[int], fit=encode) -> list[int]:
    return [example.index for example, _ in source.examples(slots, fit)]


def batches(source: Source, n: int, *, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0, size: int = 4):
    loader = StreamLoader(
        source, encode, Progress(start), batch_size=size, pad_id=0, num_workers=workers, replica=Replica(rank, world)
    )
    return [batch.index_B.tolist() for batch in islice(loader, n)]


@pytest.mark.parametrize("source", FINITE)
def test_epochs_are_permutations_and_differ(source) -> None:
    order = indices(source(), range(3 * N))
    epochs = [order[e * N : (e + 1) * N] for e in range(3)]
    assert all(sorted(epoch) == list(range(N)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(N))
    assert order != indices(source(seed=1), range(3 * N))


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("start", [1, N - 1, N, 2 * N + 5])
def test_a_slot_holds_the_same_problem_however_it_is_reached(source, start: int) -> None:
    assert indices(source(), range(start, start + N, 3)) == indices(source(), range(3 * N + 5))[start : start + N : 3]


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize(("world", "size"), [(1, 4), (2, 3), (3, 5), (4, 1)])
def test_processes_share_the_global_order(source, world: int, size: int) -> None:
    """Uneven on purpose: 23 problems in global batches of 3 to 15, over several epochs."""
    n = 12
    shares = [batches(source(), n, rank=rank, world=world, size=size) for rank in range(world)]
    together = [index for b in range(n) for share in shares for index in share[b]]
    assert together == indices(source(), range(n * world * size))


@pytest.mark.parametrize("source", [list_source, stream_source])
def test_workers_do_not_change_the_batches_and_resume_is_exact(source) -> None:
    whole = batches(source(), 12)
    assert batches(source(), 12, workers=2) == whole
    assert batches(source(), 5, start=7 * 4) == whole[7:]
    assert batches(source(), 5, start=7 * 4, workers=2) == whole[7:]


def by_length(problem: Problem) -> Example:
    """Rows of 1 to 23 tokens, not in the order of their numbers."""
    n = problem.index * 7 % N + 1
    return Example([1] * n, [False] * n, problem.index)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_windows_sorted_by_length_hold_the_same_problems_with_less_padding(world: int, workers: int) -> None:
    """And go on within a window, with any number of workers."""

    def take(n: int, window: int, start: int = 0, rank: int = 0, workers: int = workers) -> list[Batch]:
        loader = StreamLoader(
            list_source(), by_length, Progress(start), batch_size=4, pad_id=0, num_workers=workers,
            replica=Replica(rank, world), window=window,
        )  # fmt: skip
        return list(islice(loader, n))

    def seen(taken: list[Batch]) -> list[list[int]]:
        return [batch.index_B.tolist() for batch in taken]

    lengths = []
    for rank in range(world):
        plain, whole = take(12, 1, rank=rank, workers=0), take(12, 3, rank=rank)
        for k in range(0, 12, 3):
            window = [sorted(i for row in seen(taken[k : k + 3]) for i in row) for taken in (plain, whole)]
            assert window[0] == window[1]
        lengths.append([batch.tokens_BL.shape[1] for batch in whole])
        assert sum(lengths[-1]) < 0.85 * sum(batch.tokens_BL.shape[1] for batch in plain)
        for done in range(7):
            assert seen(take(5, 3, done * 4 * world, rank)) == seen(whole)[done : done + 5]
    shortest = [[own[k : k + 3].index(min(own[k : k + 3])) for k in range(0, 12, 3)] for own in lengths]
    assert len(set(shortest[0])) > 1, "not always the first"
    assert all(own == shortest[0] for own in shortest), "processes wait for the longest of theirs"


def test_sorted_windows_go_on_with_the_same_rows_or_not_at_all() -> None:
    def made(batch_size: int, world: int, window: int) -> StreamLoader:
        return StreamLoader(
            list_source(), by_length, Progress(8), batch_size=batch_size, pad_id=0, replica=Replica(0, world),
            window=window,
        )  # fmt: skip

    stopped = made(4, 1, 3).state_dict()
    assert stopped == {"slots": 8, "window": 3, "batch_size": 4, "processes": 1}
    made(4, 1, 3).load_state_dict(stopped)
    for batch_size, world, window in ((2, 1, 3), (4, 2, 3), (2, 2, 3), (4, 1, 1), (4, 1, 2)):
        message = (
            rf"data.sort_batches={window}, data.batch_size={batch_size} on {world} process\(es\), "
            "but this training sorted 3 batches of 4 on 1 and stopped"
        )
        with pytest.raises(ValueError, match=message):
            made(batch_size, world, window).load_state_dict(stopped)
    with pytest.raises(ValueError, match=r"data.sort_batches=3, .*this training sorted 1 batches of 4 on 1"):
        made(4, 1, 3).load_state_dict(made(4, 1, 1).state_dict())
    made(2, 2, 1).load_state_dict(made(4, 1, 1).state_dict())  # in the order of the source any batch goes on
    older = made(4, 1, 3)
    older.load_state_dict({"slots": 20})
    assert older.progress.slots == 20


@pytest.mark.parametrize("source", FINITE)
def test_misfits_leave_an_epoch_whole(source) -> None:
    fitting, known = source().fitting(odd_misfits)
    kept = [k for k in range(N) if k % 5]
    taken = list(fitting.examples(range(2 * len(kept)), odd_misfits))
    for epoch in (taken[: len(kept)], taken[len(kept) :]):
        assert sorted(example.index for example, _ in epoch) == kept
        assert known + sum(misfits for _, misfits in epoch) == N - len(kept)


def test_misfits_are_counted_once_over_processes_and_workers() -> None:
    counts = []
    for rank in range(2):
        progress = Progress()
        loader = StreamLoader(
            stream_source(), odd_misfits, progress, batch_size=3, pad_id=0, num_workers=2, replica=Replica(rank, 2)
        )
        assert len(list(islice(loader, 3))) == 3
        counts.append(progress.left_out)
    assert sum(counts) == 5  # 18 slots of one epoch, 5 misfits among its 23 problems


def test_generated_misfits_are_replaced_and_counted() -> None:
    taken = list(GeneratorSource(make).examples(range(12), odd_misfits))
    assert [example.index for example, _ in taken if example.index < 12] == [k for k in range(12) if k % 5]
    assert len({example.index for example, _ in taken}) == 12
    assert sum(misfits for _, misfits in taken) >= 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (partial(StreamSource, partial(read, 0), 0, 4), "must hold at least one"),
        (partial(GeneratorSource, make), "in a row do not fit"),
    ],
)
def test_nothing_that_fits_is_an_error(source, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        indices(source(), [0], lambda problem: None)
    with pytest.raises(ValueError, match="none of the 23 training problems fits"):
        list_source().fitting(lambda problem: None)


def test_a_stream_is_shuffled_from_its_first_problem_to_its_last() -> None:
    """As its buffer is full, and as it empties."""
    order = indices(stream_source(), range(N))
    for part in (order[:16], order[16:], indices(StreamSource(read, 0, shuffle_buffer=N), range(N))):
        assert part != sorted(part)


def test_generated_problems_keep_the_advice_of_their_task() -> None:
    wider, _ = GeneratorSource(make).fitting(encode, "wider")
    with pytest.raises(ValueError, match="do not fit the canvas: wider"):
        indices(wider, [0], lambda problem: None)


def test_generated_problems_are_not_expanded() -> None:
    with pytest.raises(NotImplementedError, match="GeneratorSource: only problems of a list or a stream"):
        GeneratorSource(make).expanded(lambda problem: [problem])


def test_two_sources_in_one_know_the_misfits_of_both() -> None:
    both = MixedSource(list_source(), list_source(1), Fraction(1, 2))
    assert both.fitting(odd_misfits)[1] == 2 * list_source().fitting(odd_misfits)[1] == 10
    some = MixedSource(list_source(), GeneratorSource(make), Fraction(3, 10))
    assert [len(some.sample(n)) - N for n in (1, 3, 4, 10)] == [1, 1, 2, 3]


def test_what_tokenizers_are_measured_on() -> None:
    assert [p.index for p in GeneratorSource(make).sample(3)] == [0, 1, 2]
    assert [p.index for p in stream_source().sample(3)] == [0, 1, 2]
    assert len(list_source().sample(3)) == N
