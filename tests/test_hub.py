"""Files of the hub: which addresses there are, what is asked of the hub, and what is said when it does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lightning_mdm.hub import fetch, is_address


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the hub is asked for; it answers with a path. Nothing is in the cache."""
    calls: list[tuple[Any, ...]] = []

    def download(repo_id: str, filename: str, *, revision: str | None = None, local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
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
    def unreachable(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        raise OSError("no route to host\nand a long explanation")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(
        ValueError, match=r"init_from=hf://o/n/f: cannot get this file: no route to host\. Is there"
    ) as raised:
        fetch("hf://o/n/f", option="init_from")
    for option in ("model.init_from", "model.denoiser_ckpt", "data.tokenizer_path", "data.path"):
        assert option in str(raised.value), "all that would have to be given"


def test_a_file_in_the_cache_is_taken_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library itself, in its own layout: a branch or a revision names a snapshot."""
    commit = "0" * 40
    repository = tmp_path / "models--o--n"
    for file, text in ((repository / "snapshots" / commit / "deep" / "f", "x"), (repository / "refs" / "main", commit)):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    def never(*_: Any, **__: Any) -> str:
        raise AssertionError("the hub is asked")

    monkeypatch.setattr(huggingface_hub.file_download, "get_hf_file_metadata", never)
    for address in ("hf://o/n/deep/f", f"hf://o/n@{commit}/deep/f"):
        assert fetch(address, option="x").read_text() == "x"
    with pytest.raises(ValueError, match="the hub is asked"):
        fetch("hf://o/n/other", option="x")


@pytest.mark.parametrize("path", ["runs/last.ckpt", "weights.safetensors", "hf/x"])
def test_paths_are_no_addresses(path: str) -> None:
    assert not is_address(path)
