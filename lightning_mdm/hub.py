"""Single files of the Hugging Face hub, by addresses like ``hf://nieshen/SMDM/mdm_safetensors/weights.safetensors``.

An address is ``hf://OWNER/NAME[@REVISION]/PATH``, as ``huggingface_hub`` writes it. A file is downloaded once into that
library's cache, whatever becomes of a branch later, and is read as data: nothing of a repository is ever run. Knows
nothing of what is in the files.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<file>.+)")
SCHEME = "hf://"
LOCAL = (
    "Files that you have are given by their paths: weights by model.init_from (of an order by model.denoiser_ckpt), a "
    "tokenizer by data.tokenizer_path, problems by data.path"
)


def is_address(path: str | Path) -> bool:
    """Whether a path is meant for the hub."""
    return str(path).startswith(SCHEME)


def fetch(address: str, *, option: str) -> Path:
    """The local copy of a hub's file.

    Args:
        address: ``hf://OWNER/NAME[@REVISION]/PATH``.
        option: what the address is called in messages.

    Raises:
        ValueError: a malformed address, or a file that can neither be found in the cache nor be downloaded.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{option}={address}: an address of the hub is hf://OWNER/NAME[@REVISION]/PATH")
    from huggingface_hub import hf_hub_download  # takes a while to import, and only the hub needs it
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with suppress(LocalEntryNotFoundError):  # without a network, asking takes minutes
            return Path(
                hf_hub_download(match["repo"], match["file"], revision=match["revision"], local_files_only=True)
            )
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))
    except Exception as error:  # the library raises a dozen kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{option}={address}: cannot get this file: {reason}. Is there a network, and does the file exist? {LOCAL}"
        ) from error
