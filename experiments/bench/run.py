"""Everything that is measured of speed, as ratios within one process; see README.md.

    python experiments/bench/run.py                    # on a GPU the 170M shape, minutes; on a CPU the default task's
    python experiments/bench/run.py --size wide --only order
    python experiments/bench/run.py --tiny --out runs/bench    # shapes for nothing but a test of the script

Rows are appended to rows.csv one by one. What is there already, at this commit and on this device, is not measured
again: after an interruption the same command goes on. A copy without git learns its commit from the environment
variable LIGHTNING_MDM_COMMIT; rows of an "unknown" or "-dirty" one count with ``--same_code`` only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from cost import growth
from figure import draw
from loops import adaptive, by_graphs, one_token_a_step, overhead, side_by_side
from measuring import REPOSITORY, Bench
from operators import operators
from sizes import SIZES, Size
from training import attention, order_learning, pretraining

from lightning_mdm.trainer import prefer_kernels_without_plans

HERE = Path(__file__).resolve().parent
PARTS: dict[str, Sequence[Callable[[Bench, Size, str], None]]] = {
    "training": (pretraining, attention),
    "order": (order_learning,),
    "operators": (operators,),
    "decoding": (overhead, by_graphs, one_token_a_step, adaptive),
    "naive": (side_by_side,),
    "cost": (growth,),
    "figure": (),  # drawn from the rows that are there
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=[name for name in SIZES if name != "tiny"])
    parser.add_argument("--tiny", action="store_true", help="shapes for nothing but a test of the script")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--patience", type=float, help="seconds for one comparison; 0.7 on a GPU, 6 on a CPU")
    parser.add_argument("--out", type=Path, help="folder of rows.csv and figures; this one, or runs/bench with --tiny")
    parser.add_argument(
        "--same_code", action="store_true", help='count rows of an "unknown" or "-dirty" commit: the code is the same'
    )
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    name = "tiny" if options.tiny else options.size or ("170m" if device.type == "cuda" else "default")
    out = options.out or (REPOSITORY / "runs" / "bench" if options.tiny else HERE)
    patience = options.patience if options.patience is not None else (0.7 if device.type == "cuda" else 6.0)
    if device.type == "cpu":
        torch.set_num_threads(1)  # processor time is the measure there
    prefer_kernels_without_plans()
    bench = Bench(device, out / "rows.csv", patience, same_code=options.same_code)
    print(f"{bench.name}, torch {torch.__version__}, commit {bench.commit}, size {name}", flush=True)
    for part in options.only:
        for measure in PARTS[part]:
            measure(bench, SIZES[name], name)
    if "figure" in options.only:
        stem = out / f"cost_{name}_{device.type}"
        draw(bench.rows, name, bench.name, stem)
        print(f"{stem}.png, .svg")


if __name__ == "__main__":
    main()
