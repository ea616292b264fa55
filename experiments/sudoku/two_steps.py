"""Does an order learned for two steps alone solve more hard Sudokus in two steps than top margin?

python experiments/sudoku/two_steps.py [--jobs 2] [--runs runs/sudoku_two_steps]

Two steps solve one hard puzzle in five hundred, so nearly all of a training is spent on puzzles that no order can solve
in two. Here the order of the 6M denoiser is learned on at T = 2 alone (``two_steps.yaml``), on those that may be: of
8,000 hard puzzles of the training split the ones whose solution costs less than seven nats along the order of margin or
of the learned order with some beta, and their symmetric images. Then margin and this order decode test puzzles 40,001
to 72,000. What is complete is not repeated; where ``order_6m_two_steps.safetensors`` is stored, it is what decodes,
and without it, and without the folder of ``--runs``, the order is learned anew. An hour and a half of two CPU cores.

Shapes: B puzzles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile

import torch
from omegaconf import OmegaConf

from lightning_mdm.callbacks.runs import denoiser_of, selector_of
from lightning_mdm.data.batch import collate
from lightning_mdm.data.sudoku import SudokuProblems
from lightning_mdm.decoding.learned import Learned
from lightning_mdm.decoding.likelihood import true_token_nats
from lightning_mdm.decoding.policies import TopMargin
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.modules.weight_parts import join_checkpoint
from lightning_mdm.puzzles.sudoku import Puzzle
from lightning_mdm.puzzles.sudoku_files import Origin, write_compact
from lightning_mdm.puzzles.sudoku_generator import SudokuOptions, fresh
from lightning_mdm.slices import NO_BOUNDS, Clock, Fit, Sweep, layers, not_complete, run_all, run_script, steps_of

HERE = Path(__file__).parent
FILES = (Path("configs/sudoku/order.yaml"), HERE / "two_steps.yaml")
ORDER = HERE / "order_6m.safetensors"
LEARNED = HERE / "order_6m_two_steps.safetensors"
HARD = SudokuOptions(9, 17, 34, "hard")
STREAM = "two_steps/train"
CANDIDATES = 8000
REACH = 7.0  # nats
BETAS = (1.0, 3.0, 6.0, 15.0)  # of the orders along which a solution may be within reach
TEST = range(40_000, 72_000)
BATCH = 250
SAID = 1000  # puzzles from one line of progress to the next


def made(stream: str, numbers: Iterable[int], split: str, jobs: int) -> Iterator[Puzzle]:
    """Hard puzzles of a stream, in the order of their numbers."""
    make = partial(fresh, HARD, stream, split=split)
    # Forked processes would inherit the threads of numerical libraries in whatever state they are.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for n, puzzle in enumerate(pool.imap(make, numbers, chunksize=50), start=1):
            if n % SAID == 0:
                print(f"{split}: {n:,} hard puzzles", flush=True)
            yield puzzle


@torch.no_grad()
def within_reach(puzzles: Iterable[Puzzle], order: OrderModule, reach: float) -> Iterator[Puzzle]:
    """Those whose solution costs less than ``reach`` nats in two steps, along margin's order or a learned one."""
    data = SudokuProblems()
    denoiser, selector = denoiser_of(order), selector_of(order, 2)
    policies = [TopMargin(), *(Learned(beta=beta).bound(selector) for beta in BETAS)]
    for some in in_batches(puzzles):
        examples = [data.encode(data.problem("train", k, puzzle)) for k, puzzle in enumerate(some)]
        batch = collate([example for example in examples if example is not None], data.token_space.pad_id)
        each = [true_token_nats(denoiser, policy, batch, data.token_space, steps=2)[0] for policy in policies]
        least_B = torch.stack(each).amin(0)
        yield from (puzzle for puzzle, nats in zip(some, least_B.tolist(), strict=True) if nats < reach)


def in_batches(puzzles: Iterable[Puzzle]) -> Iterator[list[Puzzle]]:
    """All of them, ``BATCH`` at a time."""
    some: list[Puzzle] = []
    for puzzle in puzzles:
        some.append(puzzle)
        if len(some) == BATCH:
            yield some
            some = []
    if some:
        yield some


def read_order(weights: Path) -> OrderModule:
    """The 6M denoiser and its order, as they are stored."""
    options = OmegaConf.to_container(OmegaConf.load(FILES[0]).model.init_args)
    assert isinstance(options, dict)
    given = {**options, "denoiser_ckpt": str(weights), "init_from": str(ORDER)}
    return OrderModule(HARD.side, **{str(key): value for key, value in given.items()}).eval()


def fit_of(weights: Path, run_dir: Path) -> Fit:
    """The training, on ``train.npz`` of its run directory."""
    options = (
        *layers(*FILES), "--model.denoiser_ckpt", str(weights), "--model.init_from", str(ORDER),
        "--data.train_path", str(run_dir / "train.npz"),
    )  # fmt: skip
    return Fit(run_dir, steps_of(*FILES), options)


def sweep_of(weights: Path, run_dir: Path) -> Sweep:
    """Margin and the order learned, on ``test.npz``."""
    options = (
        *layers(*FILES), "--model.denoiser_ckpt", str(weights), "--model.init_from", str(LEARNED), *NO_BOUNDS,
        "--data.test_path", str(run_dir / "test.npz"), "--data.n_test", str(len(TEST)),
        "--data.eval_batch_size", str(BATCH),
    )  # fmt: skip
    return Sweep(run_dir / "hard", options)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that make puzzles")
    parser.add_argument("--runs", type=Path, default=Path("runs/sudoku_two_steps"), help="where all is kept")
    given = parser.parse_args(arguments)
    run_dir, weights = given.runs, given.runs / "denoiser.safetensors"
    if not weights.is_file():
        join_checkpoint(HERE / "weights_6m", run_dir)
    if not LEARNED.is_file():
        path = run_dir / "train.npz"
        if not path.is_file():
            candidates = made(STREAM, range(CANDIDATES), "train", given.jobs)
            write_compact(path, within_reach(candidates, read_order(weights), REACH), Origin("train", "hard"))
        fit = fit_of(weights, run_dir)
        if not run_all([("order", fit)], Clock(float("inf"))):
            not_complete()
        OrderModule.load_from_checkpoint(fit.last, map_location="cpu").save_order(LEARNED)
    if not (run_dir / "test.npz").is_file():
        write_compact(run_dir / "test.npz", made("test", TEST, "test", given.jobs), Origin("test", "hard"))
    sweep = sweep_of(weights, run_dir)
    if not run_all([("hard", sweep)], Clock(float("inf"))):
        not_complete()
    for name, kept in (("frontier", "rows"), ("paired", "paired")):
        copyfile(sweep.run_dir / f"{name}.csv", HERE / f"{kept}_6m_two_steps.csv")
    print("all is complete")


if __name__ == "__main__":
    run_script(main)
