"""Weights of a denoiser, or of selector and posterior, to and from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PREFIX = "denoiser."  # of a denoiser's weights in the checkpoint of a module


def save_net(net: nn.Module, path: str | Path) -> None:
    """Write a net's weights to a safetensors file."""
    save_file({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}, path)


def load_net(net: nn.Module, path: str | Path, *, option: str) -> None:
    """Take a net's weights from a safetensors file.

    Args:
        net: the net to fill.
        path: the file.
        option: what the path is called in messages.

    Raises:
        ValueError: no such file, or weights of another shape.
    """
    fill(net, load_file(existing(path, option)), f"{option}={path}")


def load_denoiser(denoiser: nn.Module, path: str | Path, *, option: str) -> None:
    """Take a denoiser's weights from a safetensors file, or from the checkpoint of a module; see ``load_net``."""
    found = existing(path, option)
    state = load_file(found) if found.suffix == ".safetensors" else checkpoint_weights(path, option)
    fill(denoiser, state, f"{option}={path}")


def existing(path: str | Path, option: str) -> Path:
    """The path, if there is a file."""
    if not Path(path).is_file():
        raise ValueError(f"{option}={path}: no such file")
    return Path(path)


def fill(net: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights after a look at their names and shapes."""
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    if own != theirs:
        name = next(n for n in [*own, *theirs] if own.get(n) != theirs.get(n))
        raise ValueError(
            f"{where}: its {name} has shape {theirs.get(name)}, this net's {own.get(name)}; "
            f"give the net and the vocabulary that the weights were trained with"
        )
    net.load_state_dict(state)


def checkpoint_weights(path: str | Path, option: str) -> dict[str, Tensor]:
    """The denoiser's weights in a Lightning checkpoint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except Exception as error:  # torch has many words for a file that is none of its own
        raise ValueError(f"{option}={path}: this file is no checkpoint, or a damaged one") from error
    found = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    if not found:
        raise ValueError(f"{option}={path}: this checkpoint holds no denoiser")
    return found
