"""An order's checkpoint without the frozen denoiser that it holds: small enough to be stored, and to go on from.

Nothing is lost but what is stored elsewhere: updates, optimizer and place in the data are kept, so that a training goes
on where it was, on the denoiser's weights as they are found there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_mdm.modules.weights import PREFIX, saved_denoiser
from lightning_mdm.whole_files import whole_file

OF_DENOISER = "frozen_denoiser"  # what a kept checkpoint says of the weights that it goes with


def keep_order(checkpoint: Path, out: Path) -> None:
    """Write an order's checkpoint without its denoiser; an earlier one gives way.

    Raises:
        ValueError: the denoiser was trained along.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["hyper_parameters"].get("denoiser") != "frozen":
        raise ValueError(f"{checkpoint}: its denoiser is not frozen, so that it cannot be left out")
    denoiser = {name: value for name, value in state["state_dict"].items() if name.startswith(PREFIX)}
    state[OF_DENOISER] = rounded_hash({name.removeprefix(PREFIX): value for name, value in denoiser.items()})
    state["state_dict"] = {name: value for name, value in state["state_dict"].items() if name not in denoiser}
    # Where checkpoints are is nothing to keep.
    state["callbacks"] = {k: v for k, v in state["callbacks"].items() if not k.startswith("ModelCheckpoint")}
    save(state, out)


def restore_order(kept: Path, weights: Path, out: Path) -> bool:
    """Write the whole checkpoint again; whether it goes with these weights, rounded to bfloat16 or not.

    Args:
        kept: what ``keep_order`` wrote.
        weights: of the denoiser, a checkpoint or a safetensors file in our layout.
        out: where to write it.

    Raises:
        ValueError: a damaged file.
    """
    try:
        state = torch.load(kept, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{kept}: this file is damaged; remove it to learn the order anew") from error
    found = load_file(weights) if weights.suffix == ".safetensors" else saved_denoiser(weights, "denoiser_ckpt")[0]
    if state.pop(OF_DENOISER) != rounded_hash(found):
        return False
    state["state_dict"].update({f"{PREFIX}{name}": value for name, value in found.items()})
    save(state, out)
    return True


def save(state: Mapping[str, Any], out: Path) -> None:
    """Write a file at once or not at all, as whatever is killed meanwhile is to go on from it."""
    with whole_file(out) as draft, open(draft, "wb") as file:  # of a path torch would write the name into the file
        torch.save(dict(state), file)


def rounded_hash(weights: Mapping[str, Tensor]) -> str:
    """The sha256 of names and values in bfloat16, as weights are stored."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
