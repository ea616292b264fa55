"""Take denoiser and tokenizer out of a finished training run, as the files that `make sweep-steps` starts from.

python experiments/word_problems/ship_weights.py RUN_DIR
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lightning_mdm.modules.denoiser import DenoiserModule

HERE = Path(__file__).parent
MOST_BYTES = 4_000_000


def main(run_dir: str, out_dir: str | Path = HERE) -> None:
    checkpoints = Path(run_dir) / "checkpoints"
    module = DenoiserModule.load_from_checkpoint(checkpoints / "last.ckpt", map_location="cpu")
    weights = Path(out_dir) / "denoiser.safetensors"
    module.save_weights(weights)
    if weights.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{weights} has {weights.stat().st_size} bytes, more than the {MOST_BYTES} that may ship")
    tokenizer = Path(out_dir) / "tokenizer.json"
    if tokenizer.resolve() != (checkpoints / "tokenizer.json").resolve():
        shutil.copyfile(checkpoints / "tokenizer.json", tokenizer)
    print(f"{weights} and {tokenizer} are those of {checkpoints / 'last.ckpt'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
