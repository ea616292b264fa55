"""Weights of a denoiser, or of selector and posterior, to and from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_mdm import hub
from lightning_mdm.checkpoint import read_checkpoint
from lightning_mdm.nets.build import NetConfig
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.smdm import from_published, is_published, to_published
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.whole_files import whole_file

WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types whose numbers are weights
PREFIX = "denoiser."  # of a denoiser's weights in the checkpoint of a module
OPTIONS = "lightning_mdm.options"  # what a file of weights calls the options of their net, in its header


def save_net(net: nn.Module, path: str | Path, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a net's weights to a safetensors file.

    Args:
        net: the net.
        path: the file.
        options: of its parts, such as ``{"net": {"heads": 4}}``: the shapes of weights do not tell all of them.

    Raises:
        OSError: the file cannot be written.
    """
    write_safetensors({name: value.detach().cpu() for name, value in net.state_dict().items()}, path, options)


def write_safetensors(state: Mapping[str, Tensor], path: str | Path, options: Mapping[str, Mapping[str, Any]]) -> None:
    """Write weights and the options of their net, at once or not at all; the folder is made.

    Raises:
        OSError: the file cannot be written.
    """
    contiguous = {name: value.contiguous() for name, value in state.items()}
    try:
        with whole_file(path) as draft:
            save_file(contiguous, draft, metadata={OPTIONS: json.dumps(options)})
    except (SafetensorError, OSError) as error:  # a full disk, or a folder in the file's place
        raise OSError(f"{path}: {error}") from error


def load_net(
    net: nn.Module,
    path: str | Path,
    *,
    option: str,
    options: Mapping[str, Mapping[str, Any]],
    left_out: tuple[str, ...] = (),
) -> None:
    """Take a net's weights from a safetensors file.

    Args:
        net: the net to fill.
        path: the file.
        option: what the path is called in messages.
        options: the net's own; see ``save_net``.
        left_out: what the names of weights that the net does without begin with.

    Raises:
        ValueError: no such file, none of this format, or weights of another net.
    """
    state = read_safetensors(existing(path, option), option, options)
    taken = {name: value for name, value in state.items() if not name.startswith(left_out)}
    fill(net, taken, f"{option}={path}")


def read_safetensors(path: Path, option: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """The weights of a safetensors file, if it does not say that they are another net's.

    Raises:
        ValueError: no such format, or another net.
    """
    try:
        state, stored = load_file(path), stored_options(path)
    except SafetensorError as error:
        raise ValueError(f"{option}={path}: this file is no safetensors file, or a damaged one: {error}") from error
    check_same_net(options, stored, f"{option}={path}")
    return state


def load_denoiser(denoiser: nn.Module, path: str | Path, *, option: str, net: NetConfig) -> None:
    """Take a denoiser's weights from a file, here or on the hub.

    Args:
        denoiser: the net to fill.
        path: a safetensors file in our own layout or in the published one of SMDM (told apart by its names), a
            safetensors file of the hub by its address (see ``hub.py``), or the checkpoint of a module.
        option: what the path is called in messages.
        net: the denoiser's configuration: the file may say of which one its weights are.

    Raises:
        ValueError: no such file, no weights in it, or weights of another net; the message names tensor or option.
    """
    options = {"net": asdict(net)}
    if hub.is_address(path):
        if not str(path).endswith(".safetensors"):
            raise ValueError(f"{option}={path}: from the hub only .safetensors files are read, which hold no code")
        found = hub.fetch(str(path), option=option)
    else:
        found = existing(path, option)
    if not str(path).endswith(".safetensors"):
        weights, trained = saved_denoiser(found, option)
        check_same_net(options, trained, f"{option}={path}")
        fill(denoiser, weights, f"{option}={path}")
        return
    state = read_safetensors(found, option, options)
    if is_published(state):
        if not isinstance(denoiser, TransformerDenoiser):
            raise ValueError(f"{option}={path}: these weights are a masked denoiser's, and this net is none")
        try:
            state = from_published(state, denoiser)
        except ValueError as error:
            raise ValueError(
                f"{option}={path}: {error}; give the net and the vocabulary that the weights were trained with"
            ) from error
    fill(denoiser, state, f"{option}={path}")


def export_denoiser(checkpoint: str | Path, path: str | Path) -> TransformerConfig:
    """Write the denoiser of a checkpoint to a safetensors file in the published layout of SMDM.

    Args:
        checkpoint: of a denoiser's or an order's training.
        path: the file to write.

    Returns:
        The shape of its trunk, of which the layout tells neither the heads nor the constants; our header does.

    Raises:
        ValueError: no such checkpoint, or a net that the layout has no place for.
        OSError: the file cannot be written.
    """
    weights, options = saved_denoiser(existing(checkpoint, "checkpoint"), "checkpoint")
    if options.get("objective") == "next_token" or "layers" not in options["net"]:
        raise ValueError(f"checkpoint={checkpoint}: the published layout is that of a masked denoiser; this is none")
    config = TransformerConfig(**options["net"])
    state = to_published(weights, config)
    write_safetensors(state, path, {"net": asdict(config)})
    return config


def existing(path: str | Path, option: str) -> Path:
    """The path, if there is a file."""
    if not Path(path).is_file():
        raise ValueError(f"{option}={path}: no such file")
    return Path(path)


def stored_options(path: str | Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of the net whose weights it holds; nothing, where it was written elsewhere."""
    with safe_open(path, framework="pt") as file:
        return dict(json.loads((file.metadata() or {}).get(OPTIONS, "{}")))


def check_same_net(options: Mapping[str, Any], trained: Mapping[str, Any], where: str) -> None:
    """Compare a net with the one that weights are of, option by option: one that shapes do not tell goes unseen else.

    Args:
        options: of the net's parts.
        trained: of the net of the weights. Parts and options that it does not know are not compared: it may be older.
        where: the weights come from, for the message.

    Raises:
        ValueError: they differ.
    """
    before = flat(trained)
    for name, value in flat(options).items():
        if plain(value) != plain(before.get(name, value)):
            raise ValueError(
                f"model.{name}={value}, but {where} was trained with {before[name]}: give the configuration that it "
                "was trained with"
            )


def flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of options by their dotted names; those of a class given by its path are its own."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        inner = flat(value) if isinstance(value, Mapping) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": item for key, item in inner.items()}
    return {name.replace("init_args.", ""): value for name, value in found.items()}


def plain(value: Any) -> Any:
    """A value as a file of JSON has it, where all sequences are lists."""
    return json.loads(json.dumps(value))


def fill(net: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load weights after a look at their names and shapes."""
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in state.items()}
    kinds, wanted = ({name.split(".")[0] for name in names} for names in (theirs, own))
    if kinds and not kinds & wanted:
        found = ", ".join(sorted(kinds))
        raise ValueError(f"{where}: these are weights of something else ({found}): give another file")
    if own != theirs:
        name = next(n for n in [*own, *theirs] if own.get(n) != theirs.get(n))
        raise ValueError(
            f"{where}: its {name} has shape {theirs.get(name)}, this net's {own.get(name)}; "
            f"give the net and the vocabulary that the weights were trained with"
        )
    for name, value in state.items():
        if value.dtype not in WEIGHT_TYPES and value.dtype != net.state_dict()[name].dtype:
            raise ValueError(
                f"{where}: its {name} is of type {value.dtype}: quantised weights mean nothing without their scales; "
                "give the ones they were made from"
            )
    net.load_state_dict(state)


def saved_denoiser(path: str | Path, option: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The denoiser's weights in a Lightning checkpoint, and the hyper-parameters of the module that it is a part of."""
    checkpoint = read_checkpoint(path, option=option)
    state = checkpoint["state_dict"]
    found = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    if not found:
        raise ValueError(f"{option}={path}: this checkpoint holds no denoiser")
    return found, checkpoint.get("hyper_parameters", {})
