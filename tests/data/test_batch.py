"""Rows are left-aligned and padded to the longest of their batch; devices keep every field."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.utilities import move_data_to_device

from lightning_mdm.data.batch import Batch, Example, collate
from toys import rows

EXAMPLES = [Example([5, 6, 7], [True, False, False], 4), Example([8, 9], [True, False], 2)]


def test_a_response_follows_its_prompt() -> None:
    assert [Example.of([5], [6, 7], 4), Example.of((8,), (9,), 2)] == EXAMPLES


def test_collate() -> None:
    batch = collate(EXAMPLES, pad_id=3)
    assert batch.tokens_BL.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch.prompt_BL.tolist() == [[True, False, False], [True, False, False]]
    assert batch.valid_BL.tolist() == [[True, True, True], [True, True, False]]
    assert batch.response_BL.tolist() == [[False, True, True], [False, True, False]]
    assert batch.index_B.tolist() == [4, 2]
    assert (batch.tokens_BL.dtype, batch.index_B.dtype) == (torch.int64, torch.int64)
    assert len(batch) == 2
    assert batch.longest_response == 2
    assert batch.attend_BL is batch.valid_BL


def test_without_padding_nothing_is_masked_out() -> None:
    batch = collate(EXAMPLES[:1], pad_id=3)
    assert batch.attend_BL is None
    assert move_data_to_device(batch, torch.device("meta")).attend_BL is None, "known before"


@pytest.mark.parametrize(
    ("pattern", "readable"),
    [
        ([[1, 2, None, None], [None, None]], True),
        ([[1, 2, 3], [1, None]], True),
        ([[1, None, 2, None], [None, None]], False),
        ([[1, None], [None, 2]], False),
    ],
)
def test_whether_all_that_is_given_comes_first(pattern: list[list[int | None]], readable: bool) -> None:
    """It is known before a batch is moved, as the number of tokens to generate is."""
    canvas = rows(pattern, pad=0)
    for prompt_BL in (canvas.prompt_BL, canvas.prompt_BL | ~canvas.valid_BL):  # padding says nothing
        batch = Batch(canvas.tokens_BL, prompt_BL, canvas.valid_BL, canvas.index_B)
        assert batch.left_to_right == move_data_to_device(batch, torch.device("meta")).left_to_right == readable


def test_padding_follows_the_batch_not_the_data() -> None:
    assert collate(EXAMPLES[1:], pad_id=3).tokens_BL.shape == (1, 2)


def test_lightning_moves_it() -> None:
    moved = move_data_to_device(collate(EXAMPLES, pad_id=3), torch.device("meta"))
    assert isinstance(moved, Batch)
    assert {moved.tokens_BL.device.type, moved.prompt_BL.device.type} == {"meta"}
    assert {moved.valid_BL.device.type, moved.index_B.device.type} == {"meta"}
    assert moved.longest_response == 2, "counted before, as nothing can be counted there"


def test_a_transfer_to_a_gpu_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    def to(tensor: torch.Tensor, device: torch.device | str, non_blocking: bool) -> torch.Tensor:
        asked.append((str(device), non_blocking))
        return tensor

    batch = collate([Example([1, 2], [True, False], 0)], pad_id=0)
    monkeypatch.setattr(torch.Tensor, "to", to)
    for device, non_blocking in (("cuda", None), ("cpu", None), ("cuda:1", False), ("cpu", True)):
        asked.clear()
        batch.to(device, *([] if non_blocking is None else [non_blocking]))
        assert asked == [(device, device == "cuda" if non_blocking is None else non_blocking)] * 4
