"""Files of the hub: which addresses there are, what is asked of the hub, and what is said when it does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lightning_mdm.hub import fetch, is_address


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the hub is asked for; it answers with a path."""
    calls: list[tuple[Any, ...]] = []

    def download(repo_id: str, filename: str, *, revision: str | None = None) -> str:
        calls.append((repo_id, filename, revision))
        return "/cache/file"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("hf://nieshen/SMDM/mdm_safetensors/a.safetensors", ("nieshen/SMDM", "mdm_safetensors/a.safetensors", None)),
        ("hf://o/n@v1.0/tokenizer.json", ("o/n", "tokenizer.json", "v1.0")),
        ("hf://o/n/deep/er/odd@name.json", ("o/n", "deep/er/odd@name.json", None)),
    ],
)
def test_an_address_names_repository_revision_and_file(
    asked: list[tuple[Any, ...]], address: str, wanted: tuple[Any, ...]
) -> None:
    assert is_address(address)
    assert fetch(address, option="x") == Path("/cache/file")
    assert asked == [wanted]


@pytest.mark.parametrize("address", ["hf://", "hf://owner/name", "hf://owner/name/", "hf://owner//file"])
def test_a_malformed_address_is_refused_before_anything_is_asked(asked: list[tuple[Any, ...]], address: str) -> None:
    with pytest.raises(ValueError, match=rf"init_from={address}: an address of the hub is hf://OWNER/NAME"):
        fetch(address, option="init_from")
    assert asked == []


def test_no_network_is_a_plain_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise OSError("no route to host\nand a long explanation")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ValueError, match=r"init_from=hf://o/n/f: cannot get this file: no route to host\. Is there"):
        fetch("hf://o/n/f", option="init_from")


@pytest.mark.parametrize("path", ["runs/last.ckpt", "weights.safetensors", "hf/x"])
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)
