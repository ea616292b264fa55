"""Weights as a few small files, where large ones cannot be stored: a denoiser in bfloat16 and its tokenizer, if any.

A tensor that does not fit into the rest of a file is continued in the next. The tokenizer, and what else there is to
say, travel in the first file's header.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_mdm.modules.weights import OPTIONS, saved_denoiser

MOST_BYTES, MOST_PARTS = 16 * 1024**2, 4
HEADER_BYTES = 256 * 1024  # set aside in every file for the header of names, shapes and texts
TOKENIZER = "tokenizer.json"


def split_weights(
    state: Mapping[str, Tensor],
    folder: Path,
    texts: Mapping[str, str],
    *,
    most_bytes: int = MOST_BYTES,
    most_parts: int = MOST_PARTS,
) -> list[Path]:
    """Write weights as files of bfloat16; earlier ones in the folder are replaced.

    Args:
        state: tensors by name.
        folder: where to write ``part_1_of_4.safetensors`` and following.
        texts: what to store beside them, such as a tokenizer, or the options of their net (see ``weights.save_net``).
        most_bytes: of a file.
        most_parts: files at most.

    Raises:
        ValueError: the weights need more files, or the texts do not fit the header.
    """
    header = {"texts": json.dumps(dict(texts)), "shapes": json.dumps({n: list(v.shape) for n, v in state.items()})}
    if sum(map(len, header.values())) > HEADER_BYTES // 2:
        raise ValueError(f"the texts ({', '.join(texts)}) take more than {HEADER_BYTES // 2} bytes: store them apart")
    room = (most_bytes - HEADER_BYTES) // 2  # in numbers of two bytes
    if room < 1:
        raise ValueError(f"most_bytes={most_bytes}: a header may take {HEADER_BYTES}; give more")
    parts: list[dict[str, Tensor]] = [{}]
    free = room
    for name, value in state.items():
        flat = value.detach().cpu().to(torch.bfloat16).flatten()
        start = 0
        while start < len(flat):
            if free == 0:
                parts.append({})
                free = room
            taken = min(free, len(flat) - start)
            parts[-1][f"{name}@{start}"] = flat[start : start + taken].clone()
            start, free = start + taken, free - taken
    if len(parts) > most_parts:
        numbers = sum(math.prod(value.shape) for value in state.values())
        raise ValueError(f"{numbers} weights take {len(parts)} files of {most_bytes} bytes, more than {most_parts}")
    folder.mkdir(parents=True, exist_ok=True)
    for old in found_parts(folder):
        old.unlink()
    paths = []
    for k, part in enumerate(parts, start=1):
        path = folder / f"part_{k}_of_{len(parts)}.safetensors"
        save_file(part, path, metadata=header if k == 1 else None)
        paths.append(path)
    return paths


def join_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``split_weights`` wrote: tensors in float32, and texts.

    Raises:
        ValueError: no parts, or not all of them.
    """
    paths = found_parts(folder)
    if not paths:
        raise ValueError(f"{folder}: no parts of weights")
    if {len(paths)} != {int(path.stem.rpartition("_")[2]) for path in paths}:
        raise ValueError(f"{folder}: parts are missing, only {', '.join(path.name for path in paths)} are there")
    slices: dict[str, dict[int, Tensor]] = {}
    header: dict[str, str] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            header |= file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 (no mapping)
                name, _, start = key.rpartition("@")
                slices.setdefault(name, {})[int(start)] = file.get_tensor(key).float()
    shapes = json.loads(header["shapes"])
    state = {
        name: torch.cat([torch.empty(0), *(piece for _, piece in sorted(slices.get(name, {}).items()))]).reshape(shape)
        for name, shape in shapes.items()
    }
    return state, json.loads(header["texts"])


def found_parts(folder: Path) -> list[Path]:
    """The files of weights in a folder, in their order."""
    return sorted(folder.glob("part_*_of_*.safetensors"), key=lambda path: int(path.stem.split("_")[1]))


def split_checkpoint(checkpoint: Path, folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write the denoiser of a checkpoint, and the tokenizer beside it if any, as parts; see ``split_weights``."""
    tokenizer = checkpoint.with_name(TOKENIZER)
    if tokenizer.is_file():
        content = json.loads(tokenizer.read_text(encoding="utf-8"))
        # Without the white space of the file, which is half of it.
        texts = {TOKENIZER: json.dumps(content, ensure_ascii=False, separators=(",", ":")), **texts}
    weights, trained = saved_denoiser(checkpoint, "checkpoint")
    if "net" in trained:
        texts = {OPTIONS: json.dumps({"net": trained["net"]}), **texts}
    return split_weights(weights, folder, texts)


def join_checkpoint(folder: Path, out_dir: Path) -> Path:
    """Join parts into ``denoiser.safetensors`` and, if any, ``tokenizer.json``: to train on or to learn an order for.

    Returns:
        The file of weights.

    Raises:
        ValueError: no parts, or not all of them.
    """
    state, texts = join_weights(folder)
    out_dir.mkdir(parents=True, exist_ok=True)
    if TOKENIZER in texts:
        (out_dir / TOKENIZER).write_text(texts[TOKENIZER], encoding="utf-8")
    metadata = {OPTIONS: texts[OPTIONS]} if OPTIONS in texts else None
    save_file(state, out_dir / "denoiser.safetensors", metadata=metadata)
    return out_dir / "denoiser.safetensors"
