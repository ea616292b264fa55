"""Evaluation shares: each problem once on any number of processes, equally many batches, and Lightning lets them be."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import RunningStage
from torch.utils.data import DistributedSampler

from lightning_mdm.data.batch import Example
from lightning_mdm.data.evaluation import ExactShard, evaluation_loader, even_batch_size, problems_in
from lightning_mdm.data.stream import Replica


def examples(n: int) -> list[Example]:
    return [Example([1] * (k % 3 + 1), [False] * (k % 3 + 1), k) for k in range(n)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [5, 6, 11, 16])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_each_problem_once(n: int, world: int, batch_size: int) -> None:
    shares = [
        [
            batch.index_B.tolist()
            for batch in evaluation_loader(examples(n), batch_size=batch_size, pad_id=0, replica=Replica(rank, world))
        ]
        for rank in range(world)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(n))
    assert all(share == sorted(share) for share in shares)
    assert len({len(share) for share in shares}) == 1


@pytest.mark.parametrize(("n", "world", "batch_size"), [(33, 2, 16), (500, 3, 64), (1319, 4, 33), (5, 4, 8)])
def test_equally_many_batches(n: int, world: int, batch_size: int) -> None:
    size = even_batch_size(n, world, batch_size)
    lengths = {
        len(evaluation_loader(examples(n), batch_size=batch_size, pad_id=0, replica=Replica(rank, world)))
        for rank in range(world)
    }
    assert len(lengths) == 1
    assert 1 <= size <= batch_size


@pytest.mark.parametrize("batches", [1, 2, math.inf])
@pytest.mark.parametrize(("n", "world", "batch_size"), [(7, 1, 3), (7, 2, 2), (12, 3, 2), (33, 2, 16)])
def test_the_first_batches_of_all_processes_hold_the_first_problems(
    n: int, world: int, batch_size: int, batches: float
) -> None:
    size = even_batch_size(n, world, batch_size)
    held = {
        place
        for rank in range(world)
        for place in list(range(rank, n, world))[: n if batches == math.inf else int(batches) * size]
    }
    assert held == set(range(problems_in(n, world, batch_size, batches)))


def test_even_batch_size_changes_nothing_without_need() -> None:
    assert even_batch_size(100, 1, 32) == even_batch_size(96, 1, 32) == even_batch_size(64, 2, 32) == 32
    assert even_batch_size(33, 2, 16) == 15
    assert even_batch_size(5, 2, 2) == 3


def test_more_processes_than_problems() -> None:
    with pytest.raises(ValueError, match="3 problems cannot be shared by 4 processes"):
        ExactShard(examples(3), Replica(0, 4))
    with pytest.raises(ValueError, match="1 problems cannot be shared by 2 processes"):
        evaluation_loader(examples(1), batch_size=2, pad_id=0, replica=Replica(1, 2))


@pytest.mark.parametrize("stage", [RunningStage.VALIDATING, RunningStage.TESTING, RunningStage.PREDICTING])
def test_lightning_keeps_the_share_in_a_distributed_run(stage: RunningStage, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=False)
    monkeypatch.setattr(type(trainer._accelerator_connector), "is_distributed", property(lambda self: True))
    loader = evaluation_loader(examples(5), batch_size=2, pad_id=0, replica=Replica(1, 2))
    prepared = trainer._data_connector._prepare_dataloader(loader, shuffle=False, mode=stage)
    assert [batch.index_B.tolist() for batch in prepared] == [[1, 3]]
    # The same call replaces any sampler that is not distributed already: the check above can fail.
    plain = torch.utils.data.DataLoader(range(5))
    assert trainer._data_connector._requires_distributed_sampler(plain)
    assert isinstance(loader.sampler, DistributedSampler)


def test_the_smallest_size_above_is_taken() -> None:
    assert even_batch_size(7, 2, 1) == 2
