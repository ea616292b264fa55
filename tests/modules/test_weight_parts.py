"""Weights in a few small files: what is joined is what was split, up to bfloat16, and everything else is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_mdm.modules.weight_parts import (
    HEADER_BYTES,
    MOST_BYTES,
    MOST_PARTS,
    found_parts,
    join_checkpoint,
    join_weights,
    split_checkpoint,
    split_weights,
)
from lightning_mdm.modules.weights import load_denoiser, stored_options
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.transformer import TransformerConfig

NET = TransformerConfig(layers=1, width=8, heads=2, mlp_width=8)


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"wide": (70, 301), "row": (5,), "cube": (2, 3, 4), "empty": (0, 3), "one": ()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("numbers", [1 << 20, 21_105, 10_000, 5_300])
def test_what_is_joined_is_what_was_split(tmp_path: Path, numbers: int) -> None:
    original, most_bytes = state(), HEADER_BYTES + 2 * numbers
    folder = tmp_path / "of_its_own" / "parts"
    paths = split_weights(original, folder, {"note": "ü"}, most_bytes=most_bytes)
    assert len(paths) == max(1, -(-sum(value.numel() for value in original.values()) // numbers))
    assert all(path.stat().st_size <= most_bytes for path in paths)
    joined, texts = join_weights(folder)
    assert texts == {"note": "ü"}
    assert list(joined) == list(original)
    for name, value in original.items():
        assert joined[name].dtype == torch.float32
        assert torch.equal(joined[name], value.to(torch.bfloat16).float()), name


def test_32_million_weights_fit_into_four_files_of_16_mib() -> None:
    assert MOST_PARTS * ((MOST_BYTES - HEADER_BYTES) // 2) >= 32_000_000
    assert (MOST_PARTS, MOST_BYTES) == (4, 16 * 2**20)


def test_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"21105 weights take 5 files of .* bytes, more than 4"):
        split_weights({"a": torch.zeros(21_105)}, tmp_path, {}, most_bytes=HEADER_BYTES + 10_000)
    with pytest.raises(ValueError, match=r"the texts \(long\) take more than"):
        split_weights({}, tmp_path, {"long": "x" * HEADER_BYTES})
    for most_bytes in (1000, HEADER_BYTES + 1):
        with pytest.raises(ValueError, match=rf"most_bytes={most_bytes}: a header may take"):
            split_weights(state(), tmp_path, {}, most_bytes=most_bytes)
    assert not found_parts(tmp_path)


def test_missing_parts_are_noticed_and_earlier_ones_replaced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no parts of weights"):
        join_weights(tmp_path)
    paths = split_weights(state(), tmp_path, {}, most_bytes=HEADER_BYTES + 20_000)
    assert len(paths) == 3
    paths[1].unlink()
    with pytest.raises(ValueError, match=r"parts are missing, only part_1_of_3.safetensors, part_3_of_3"):
        join_weights(tmp_path)
    paths[2].rename(paths[2].with_name("part_2_of_2.safetensors"))
    with pytest.raises(ValueError, match=r"parts are missing, only part_1_of_3.safetensors, part_2_of_2"):
        join_weights(tmp_path)
    assert split_weights(state(), tmp_path, {}) == [tmp_path / "part_1_of_1.safetensors"] == found_parts(tmp_path)


def test_a_checkpoint_goes_through_with_its_tokenizer_if_any(tmp_path: Path) -> None:
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoint = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"denoiser.{n}": v for n, v in net.state_dict().items()}}, checkpoint)
    (tmp_path / "tokenizer.json").write_text('{"a": [1,\n  "ü"]}')
    split_checkpoint(checkpoint, tmp_path / "parts", {"standing": "here"})
    weights = join_checkpoint(tmp_path / "parts", tmp_path / "joined")
    assert (tmp_path / "joined" / "tokenizer.json").read_text() == '{"a":[1,"ü"]}'
    assert join_weights(tmp_path / "parts")[1]["standing"] == "here"
    load_denoiser(other, weights, option="init_from", net=TransformerConfig())
    torch.testing.assert_close(other.weight, net.weight, rtol=1e-2, atol=1e-3)
    (tmp_path / "tokenizer.json").unlink()
    split_checkpoint(checkpoint, tmp_path / "numbers", {"standing": "there"})
    assert join_weights(tmp_path / "numbers")[1] == {"standing": "there"}, "numbers need no tokenizer"
    join_checkpoint(tmp_path / "numbers", tmp_path / "joined_numbers")
    assert [path.name for path in (tmp_path / "joined_numbers").iterdir()] == ["denoiser.safetensors"]
    assert stored_options(weights) == {}, "an old checkpoint says nothing of its net"


def test_parts_say_of_which_net_they_are(tmp_path: Path) -> None:
    denoiser = TransformerDenoiser(5, NET)
    state = {f"denoiser.{name}": value for name, value in denoiser.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"net": asdict(NET)}}, tmp_path / "last.ckpt")
    split_checkpoint(tmp_path / "last.ckpt", tmp_path / "parts", {"standing": "here"})
    assert join_weights(tmp_path / "parts")[1]["standing"] == "here"
    weights = join_checkpoint(tmp_path / "parts", tmp_path / "joined")
    assert stored_options(weights) == {"net": asdict(NET)}
    load_denoiser(denoiser, weights, option="init_from", net=NET)
    with pytest.raises(ValueError, match=r"model.net.heads=1, but init_from=.* was trained with 2"):
        load_denoiser(denoiser, weights, option="init_from", net=replace(NET, heads=1))
