"""Train a denoiser on enlarged GSM8K from nothing, learn its order, sweep: in slices on one GPU.

python experiments/gsm8k_scratch/run.py --path path/to/gsm8k [--size 25m] [--minutes 9] [--seed 0] [--tiny]

Give the same command until it says that all is complete. What is complete is not repeated, what was stopped goes on.
The weights of the 25M denoiser so far and its order are stored in ``weights/``, from which a run continues where its
checkpoints are not at hand; the larger ones are too large for that. Without ``--path`` the problems are streamed from
the hub. ``--tiny`` walks the whole chain on a CPU, on generated problems in GSM8K's form, with nets and numbers that
mean nothing. A seed is one of weights, training rows (and the tokenizer that is trained on them) and noise, and of the
noise of decoding; where several seeds of a size are complete, they are also reported together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.word_problems import generate
from lightning_mdm.report import keep, keep_seeds, report
from lightning_mdm.report.seeds import join_seeds
from lightning_mdm.slices import (
    COMPILING,
    LAST_WRITTEN,
    LEAST_SECONDS,
    NO_BOUNDS,
    Clock,
    Fit,
    Kept,
    Sweep,
    decoded_with,
    layers,
    not_complete,
    run_all,
    run_script,
    seeded,
    steps_of,
    trained,
)

HERE = Path("experiments/gsm8k_scratch")
CONFIGS = Path("configs/gsm8k")
SIZES = ("25m", "85m", "170m")
STORED = "25m"  # the size whose weights fit into four files of 16 MiB
TINY_STEPS = 2


def net_of(config: Path) -> list[str]:
    """The options that give another configuration the net of this one."""
    net = OmegaConf.load(config).model.init_args.net
    return [part for name, value in net.items() for part in (f"--model.net.{name}", str(value))]


def rehearsal_files(folder: Path) -> Path:
    """Generated problems in GSM8K's own format."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in (("train", 120), ("test", 4)):
        lines = []
        for k in range(n):
            problem = generate(split, k, Difficulty())
            thought = problem.response.replace(" #### ", "\n#### ")
            lines.append(json.dumps({"question": problem.prompt, "answer": thought}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def complete(runs: Path, size: str, split: str) -> dict[int, list[Path]]:
    """The seeds of a size that have decoded a split, and where their rows are."""
    reports = runs.glob(f"{size}_seed_*/sweep_{split}/{LAST_WRITTEN['sweep']}")
    return dict(sorted((int(path.parent.parent.name.rpartition("_")[2]), [path.parent]) for path in reports))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="a directory with train.jsonl, test.jsonl and perhaps icot_valid.txt")
    parser.add_argument("--size", choices=SIZES, default="25m")
    parser.add_argument("--minutes", type=float, default=9.0, help="wall-clock time of this slice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--tiny", action="store_true", help="the whole chain on a CPU, with numbers that mean nothing")
    options = parser.parse_args(arguments)
    clock = Clock(options.minutes, 1.0 if options.tiny else 75.0)
    name = f"{options.size}_seed_{options.seed}"
    runs = Path("runs/gsm8k_scratch_tiny" if options.tiny else "runs/gsm8k_scratch") / name
    weights = (runs / "weights" if options.tiny else HERE / "weights") / name
    path = options.path
    if options.tiny and path is None:
        path = str(rehearsal_files(runs / "data"))
    config, order_config = CONFIGS / f"scratch_{options.size}.yaml", CONFIGS / "scratch_order.yaml"
    steps, order_steps = steps_of(config), steps_of(order_config)
    tiny, tiny_order = [], []
    net = net_of(config)
    if options.tiny:
        steps = order_steps = TINY_STEPS
        tiny, tiny_order, net = [HERE / "tiny.yaml"], [HERE / "tiny_order.yaml"], net_of(HERE / "tiny.yaml")
    common = [*seeded(options.seed), *([] if path is None else ["--data.path", path])]
    # On a GPU the nets are compiled.
    denoiser = Fit(
        runs / "denoiser", steps, (*layers(config, *tiny), *common), LEAST_SECONDS if options.tiny else COMPILING
    )
    found = trained("denoiser", denoiser, weights if options.size == STORED else None, clock)
    if found is None:
        not_complete()
    order = [
        *layers(order_config, *tiny_order), *net, *common, "--model.denoiser_ckpt", str(found),
        "--data.tokenizer_path", str(found.with_name("tokenizer.json")),
    ]  # fmt: skip
    kept = Kept(weights / "order.ckpt", found) if options.size == STORED else None
    fit = Fit(runs / "order", order_steps, tuple(order), LEAST_SECONDS if options.tiny else COMPILING, kept=kept)
    sweep = Sweep(
        runs / f"sweep_{options.split}",
        (
            *order, "--split", options.split, "--ckpt_path", str(fit.last),
            *NO_BOUNDS, *decoded_with(options.seed),
        ),
    )  # fmt: skip
    if not run_all([("order", fit), (f"sweep, {options.split}", sweep)], clock):
        not_complete()
    published = options.split == "test" and not options.tiny
    if published:
        keep(sweep.run_dir, HERE, f"_{name}")
    seeds = complete(runs.parent, options.size, options.split)
    if len(seeds) > 1:
        joined = join_seeds(seeds, runs.with_name(f"{options.size}_joined_{options.split}"))
        report([str(joined)])
        if published:
            keep_seeds(joined, HERE, f"_{options.size}_seeds")
    print(f"all is complete: {sweep.run_dir}")


if __name__ == "__main__":
    run_script(main)
