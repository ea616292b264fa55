"""What a command starts from: a checkpoint, weights in a file, the tokenizer that belongs to them; and their export.

Looked at before anything is built, so that a run over a trained model, another net's weights or another tokenizer is
refused at once, in a line that says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import jsonargparse
import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_only

from lightning_mdm import hub
from lightning_mdm.data.tokenizer import checkpoint_tokenizer, read_tokenizer, tokenizer_path_of
from lightning_mdm.modules.weights import check_same_net, export_denoiser
from lightning_mdm.nets.transformer import TransformerConfig


def other_weights(message: str) -> str | None:
    """What to do about a checkpoint whose weights are not the module's, in one line; ``None`` of another message."""
    found = re.search(r"Error\(s\) in loading state_dict for (\w+):\s*(.*)", message)
    if found is None:
        return None
    return (
        f"ckpt_path: the checkpoint's weights do not fit {found[1]} as configured ({shorten(found[2], 150)}): give the "
        "configuration that it was trained with, or another run_dir to train anew in"
    )


def expand_home(config: jsonargparse.Namespace) -> None:
    """Let ``~`` mean the same to those who look into the run directory as to those who write it."""
    for name in ("run_dir", "ckpt_path"):
        if config.get(name):
            config[name] = os.path.expanduser(config[name])


def check_run_dir(config: jsonargparse.Namespace) -> None:
    """Refuse a file in place of a directory.

    Raises:
        ValueError: the run directory is a file.
    """
    if Path(config.run_dir).is_file():
        raise ValueError(f"run_dir={config.run_dir} is a file: give a directory, which is made if there is none")


def check_places(config: jsonargparse.Namespace) -> None:
    """Refuse what would replace the checkpoints of another run, as its own ``fit.yaml`` with another ``run_dir`` does.

    Raises:
        ValueError: a callback's ``dirpath`` is in the directory of another run.
    """
    own, callbacks = Path(config.run_dir).resolve(), config.trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        given = callback.get("init_args", {}).get("dirpath")
        if not isinstance(given, str) or "://" in given:
            continue
        folder = Path(given).resolve()
        if own not in (folder, *folder.parents) and (folder.parent / "fit.yaml").is_file():
            raise ValueError(
                f"trainer.callbacks: dirpath={given} is in another run's directory, and run_dir={config.run_dir} would "
                f"replace its checkpoints: give --trainer.callbacks.dirpath {config.run_dir}/checkpoints and likewise "
                "trainer.logger.init_args.save_dir, or the configuration files that fit.yaml was made of"
            )


def last_checkpoint(config: jsonargparse.Namespace) -> Path:
    """Where a run directory keeps its newest checkpoint."""
    return Path(config.run_dir) / "checkpoints" / "last.ckpt"


def checkpoint_path(config: jsonargparse.Namespace, *, fitting: bool) -> Path | None:
    """The checkpoint that will be loaded, where that is a file; none at the beginning of training.

    Raises:
        ValueError: no such file, no weights at all to evaluate, or training over a trained model, anew or another.
    """
    given = config.ckpt_path
    if given is None:
        if fitting and last_checkpoint(config).is_file():
            raise ValueError(
                f"run_dir={config.run_dir} holds a trained model already: go on with it by --ckpt_path last, "
                "or give another run_dir"
            )
        if not fitting and config.model is not None and not config.model.init_args.get("init_from"):
            raise ValueError(
                "ckpt_path is missing, and the weights would be random: give a checkpoint, e.g. "
                f"--ckpt_path {last_checkpoint(config)}, or weights by --model.init_from"
            )
        return None
    if given in ("best", "hpc") or "://" in given or given.startswith("registry"):
        return None  # Lightning finds these
    last = last_checkpoint(config)
    path = last if given == "last" else Path(given)
    if path.is_file():
        if fitting and last.is_file() and last.resolve().parent not in path.resolve().parents:
            raise ValueError(
                f"run_dir={config.run_dir} holds a trained model already, and ckpt_path={given} is another's: go on "
                "with its own by --ckpt_path last, or with the other in another run_dir"
            )
        return path
    if given == "last" and fitting:
        return None
    raise ValueError(f"ckpt_path={given}: no such file" + (f" as {path}" if given == "last" else ""))


def check_time(trainer: L.Trainer, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Ask for time to go on with, of which Lightning counts that of all sessions together.

    Raises:
        ValueError: there is none left.
    """
    for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):  # type: ignore[attr-defined]
        behind = checkpoint.get("callbacks", {}).get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        left = timer.time_remaining()
        if left is not None and left <= behind:
            raise ValueError(
                f"trainer.max_time: {path} has trained for {behind:.0f} seconds, which count, of {left:.0f} that are "
                "given: give the time of all sessions together"
            )


def check_objective(class_path: str, trained: Mapping[str, Any], path: Path) -> None:
    """Tell nets that read from left to right from those that read in any order: their options look alike.

    Raises:
        ValueError: the configured model is of one kind and the checkpoint of the other.
    """
    configured = class_path.rpartition(".")[2] == "AutoregressiveModule"
    found = trained.get("objective") == "next_token"
    if trained and configured != found:
        kind = "an autoregressive net" if found else "a masked denoiser"
        raise ValueError(f"ckpt_path={path} holds {kind}: give the configuration that it was trained with")


def check_model(options: jsonargparse.Namespace, trained: Mapping[str, Any], path: Path) -> None:
    """Compare the configured model with the one in a checkpoint, its nets option by option.

    A checkpoint may say more than the options do, such as the kind of net.

    Raises:
        ValueError: they differ.
    """
    if "selector" in options and trained and "selector" not in trained:
        raise ValueError(
            f"ckpt_path={path} holds a denoiser without a selector: give it as model.denoiser_ckpt to learn an order"
        )
    if "selector" in trained and "selector" not in options:
        raise ValueError(f"ckpt_path={path} holds a selector too: give the configuration that it was trained with")
    parts = {name: options.get(name) for name in ("net", "selector", "posterior.family", "posterior.net")}
    plain = {name: part.as_dict() if isinstance(part, jsonargparse.Namespace) else part for name, part in parts.items()}
    check_same_net({name: part for name, part in plain.items() if part is not None}, trained, f"ckpt_path={path}")


def export(checkpoint: str, file: str) -> TransformerConfig:
    """Write the denoiser of a checkpoint in the published layout of SMDM, and its tokenizer beside it if it has one.

    Args:
        checkpoint: of a denoiser's or an order's training.
        file: where to write, ending in ``.safetensors``.

    Returns:
        See ``export_denoiser``.

    Raises:
        ValueError: another ending, no such checkpoint, a net that the layout has no place for, or beside the file the
            tokenizer of other weights.
        OSError: a file cannot be written.
    """
    if not file.endswith(".safetensors"):
        raise ValueError(f"file={file}: the weights are a .safetensors file; name it so")
    tokenizer = checkpoint_tokenizer(checkpoint, option="checkpoint") if Path(checkpoint).is_file() else None
    beside = Path(file).with_name("tokenizer.json")
    if tokenizer is not None and beside.is_file() and read_tokenizer(str(beside)).to_str() != tokenizer:
        raise ValueError(f"file={file}: {beside} is another tokenizer than the checkpoint's; export to another folder")
    config = export_denoiser(checkpoint, file)
    if tokenizer is not None:
        beside.write_text(tokenizer, encoding="utf-8")
    return config


def take_tokenizer(config: jsonargparse.Namespace) -> None:
    """Read text with the tokenizer of the weights to start from: it lies beside them, or a checkpoint holds it.

    Raises:
        ValueError: there is none, and the configuration names none, or it names another. With another one the weights'
            tokens would have other meanings, and nobody would see.
    """
    options, text = config.model.init_args, config.get("data.init_args")
    option = "denoiser_ckpt" if "selector" in options else "init_from"  # an order's own weights know no tokens
    weights = options.get(option)
    if not weights or text is None or "tokenizer_path" not in text:
        return
    if not hub.is_address(weights) and not Path(weights).is_file():
        return  # who reads the weights says so
    given, own = text.tokenizer_path, tokenizer_path_of(weights, option=f"model.{option}")
    if own is None and given is None:
        beside = "these weights come without a tokenizer.json beside them"
        if hub.is_address(weights):
            beside = "no tokenizer was looked for on the hub"
        elif weights.endswith(".ckpt"):
            beside = "this checkpoint holds no tokenizer, as those of tasks without text"
        raise ValueError(
            f"model.{option}={weights}: {beside}, and with one trained now they would read another text; give theirs "
            "as data.tokenizer_path"
        )
    if own is not None and given is not None and read_tokenizer(given).to_str() != read_tokenizer(own).to_str():
        raise ValueError(
            f"data.tokenizer_path={given} is not the tokenizer that model.{option}={weights} was trained with, which "
            f"is that of {own}: leave it out"
        )
    if own is not None and given is None:
        text.tokenizer_path = own
        rank_zero_only(print)(f"The tokenizer is that of the denoiser: {own}")
