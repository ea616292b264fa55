"""The selector of an order that is trained already, from its file, to ask and not to train."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from lightning_mdm.checkpoint import read_checkpoint
from lightning_mdm.modules.weights import existing, fill, stored_options
from lightning_mdm.nets.selector import Selector, SelectorConfig

PREFIX = "selectors."


def saved_selector(path: str | Path, width: int, *, option: str) -> Selector:
    """The selector of an order's checkpoint, or of the file that ``OrderModule.save_order`` wrote, frozen.

    Args:
        path: the file.
        width: D, that of the hidden states that it reads.
        option: what the path is called in messages.

    Raises:
        ValueError: no such file, no order in it, one selector for every budget, or hidden states of another width.
    """
    found = existing(path, option)
    if found.suffix == ".safetensors":
        state, config = load_file(found), stored_options(found).get("selector", {})
    else:
        checkpoint = read_checkpoint(found, option=option)
        state, config = checkpoint["state_dict"], checkpoint.get("hyper_parameters", {}).get("selector", {})
    weights: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(PREFIX):
            which, _, rest = name.removeprefix(PREFIX).partition(".")
            weights.setdefault(which, {})[rest] = value
    if not weights:
        raise ValueError(f"{option}={path}: this file holds no order; give one that was learned for this denoiser")
    if set(weights) != {"shared"}:
        raise ValueError(f"{option}={path}: it has one selector for every budget; give an order that has one for all")
    own = weights["shared"]
    selector = Selector(width, SelectorConfig(**config), finishes=any(name.startswith("finish.") for name in own))
    fill(selector, own, f"{option}={path}")
    return selector.requires_grad_(False).eval()
