"""Lightning's checkpoints, read from their files as plain values. Knows nothing of what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: str | Path, *, option: str) -> dict[str, Any]:
    """What a checkpoint holds, its tensors on the CPU and in the file until they are needed; no code is run.

    Args:
        path: the file.
        option: what the path is called in messages.

    Raises:
        ValueError: the file is no checkpoint, or a damaged one.
    """
    message = f"{option}={path}: this file is no checkpoint, or a damaged one"
    if Path(path).suffix == ".safetensors":
        message = f"{option}={path}: this file holds weights and is no checkpoint"
        if option == "ckpt_path":
            message += "; give it as model.init_from, or a denoiser's as model.denoiser_ckpt to learn its order"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch has many words for a file that is none of its own
        raise ValueError(message) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(message)
    return checkpoint
