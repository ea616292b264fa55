"""Take the weights out of a finished training run, as the files that `make sweep-steps` starts from.

python experiments/word_problems/ship_weights.py RUN_DIR [OUT_DIR]

Of a denoiser's run these are denoiser and tokenizer, of an order's run selector and posterior.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule

HERE = Path(__file__).parent
MOST_BYTES = 4_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument("out_dir", type=Path, metavar="OUT_DIR", nargs="?", default=HERE)
    options = parser.parse_args(arguments)
    checkpoints, out_dir = options.run_dir / "checkpoints", options.out_dir
    last = checkpoints / "last.ckpt"
    is_order = "posterior" in torch.load(last, map_location="cpu", weights_only=True, mmap=True)["hyper_parameters"]
    weights = out_dir / ("order.safetensors" if is_order else "denoiser.safetensors")
    if is_order:
        OrderModule.load_from_checkpoint(last, map_location="cpu").save_order(weights)
    else:
        DenoiserModule.load_from_checkpoint(last, map_location="cpu").save_weights(weights)
        tokenizer = out_dir / "tokenizer.json"
        if tokenizer.resolve() != (checkpoints / "tokenizer.json").resolve():
            shutil.copyfile(checkpoints / "tokenizer.json", tokenizer)
    if weights.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{weights} has {weights.stat().st_size} bytes, more than the {MOST_BYTES} that may ship")
    print(f"{weights} is from {last}")


if __name__ == "__main__":
    main()
