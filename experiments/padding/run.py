"""What does the padding of a wide canvas do to a frontier, and what does a loop that knows the end of a sequence?

python experiments/padding/run.py [--jobs N]

The shipped denoiser of word problems is trained on with responses of 256 tokens, of which some 46 are text and all
others end-of-sequence, as in the canvas of Fox et al. (arXiv 2602.23968). Policies decode it with the end of the
sequence as a token like any other and with everything behind it closed; so does an order learned for it, where the
end is a token. What is complete is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import OmegaConf

from lightning_mdm.data.difficulty import Difficulty
from lightning_mdm.data.word_problems import WordProblems
from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import IID, ConfidenceThreshold, TopMargin
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.outcomes import commit_hash
from lightning_mdm.report import keep, report
from lightning_mdm.slices import NO_BOUNDS, Clock, Fit, Sweep, layers, run_all, run_script

HERE = Path(__file__).parent
RUNS = Path("runs/padding")
CONFIG, ORDER = "configs/word_problems/denoiser.yaml", "configs/word_problems/order.yaml"
SHIPPED = "experiments/word_problems"
PROMPT_TOKENS, RESPONSE_TOKENS = 86, 256
UPDATES, ORDER_UPDATES, TEST, TRACED = 240, 200, 300, 100
BUDGETS = (1, 2, 4, 8, 16)
POLICIES = "[IID, TopProbability, TopMargin, {class_path: ConfidenceThreshold, init_args: {threshold: 0.9}}]"
LEARNED = "[{class_path: Learned, init_args: {price: 0.01}}, {class_path: Learned, init_args: {price: 2.0}}]"
ENDS = ("as_tokens", "close")


def note_ends(checkpoint: Path, to: Path) -> None:
    """How much of the text goes with the last step, and how often its end is misplaced, the end being a token.

    Written for the first ``TRACED`` test problems: ``last_step`` is a share of the text's tokens, ``misplaced`` one of
    the problems, in which text is filled with the end or what is behind it with text.
    """
    module = DenoiserModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    task = OmegaConf.to_container(OmegaConf.load(CONFIG))["data"]["init_args"]
    data = WordProblems(
        Difficulty(**task["difficulty"]), vocab_size=task["vocab_size"], n_test=TRACED, eval_batch_size=TRACED,
        prompt_tokens=PROMPT_TOKENS, response_tokens=RESPONSE_TOKENS, tokenizer_path=f"{SHIPPED}/tokenizer.json",
    )  # fmt: skip
    batch, space = next(iter(data.test_dataloader())), data.token_space
    text_BL = batch.response_BL & (batch.tokens_BL != space.eos_id)
    with open(to, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["policy", "T", "n", "last_step", "misplaced", "commit"])
        for policy in (IID(), TopMargin(), ConfidenceThreshold()):
            for steps in BUDGETS:
                trace = decode(module.denoiser, policy, batch, space, steps=steps)
                last = float((trace.order.step_BL == steps)[text_BL].float().mean())
                ended_BL = (trace.tokens_BL == space.eos_id) & batch.response_BL
                misplaced = float((ended_BL != batch.response_BL & ~text_BL).any(-1).float().mean())
                rows.writerow([policy.label, steps, TRACED, round(last, 4), round(misplaced, 4), commit_hash()])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, one thread each")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    canvas = (
        "--data.prompt_tokens", str(PROMPT_TOKENS), "--data.response_tokens", str(RESPONSE_TOKENS),
        "--data.tokenizer_path", f"{SHIPPED}/tokenizer.json",
    )  # fmt: skip
    never = ("--trainer.val_check_interval", "100000", "--trainer.num_sanity_val_steps", "0")
    fit = Fit(
        RUNS / "denoiser", UPDATES,
        (
            *layers(CONFIG), *canvas, *never, "--model.init_from", f"{SHIPPED}/denoiser.safetensors",
            "--model.learning_rate", "1e-3", "--model.warmup_steps", "20", "--data.batch_size", "16",
        ),
    )  # fmt: skip
    order = Fit(
        RUNS / "order", ORDER_UPDATES, (*layers(ORDER), *canvas, *never, "--model.denoiser_ckpt", str(fit.last))
    )
    run_all([("the denoiser", fit)], Clock(float("inf")))

    def sweep(name: str, end: str, trained: tuple[str, ...], policies: str) -> Path:
        stage = Sweep(
            RUNS / name,
            (
                *trained, *canvas, "--frontier.decoding.end_of_sequence", end, "--frontier.policies", policies,
                "--frontier.budgets", str(list(BUDGETS)), "--data.n_test", str(TEST), "--data.eval_batch_size", "50",
            ),
        )  # fmt: skip
        run_all([(name, stage)], Clock(float("inf")))
        return stage.run_dir

    def heuristics(end: str) -> list[Path]:
        return [sweep(end, end, (*layers(CONFIG), "--ckpt_path", str(fit.last)), POLICIES)]

    def learned(ends: Sequence[str]) -> list[Path]:
        run_all([("the order", order)], Clock(float("inf")))
        trained = (*layers(ORDER), *NO_BOUNDS, "--ckpt_path", str(order.last))
        return [sweep(f"learned_{end}", end, trained, LEARNED) for end in ends]

    with ThreadPoolExecutor(options.jobs) as pool:
        made = [pool.submit(learned, ENDS), *(pool.submit(heuristics, end) for end in ENDS)]
        swept = [run for runs in made for run in runs.result()]
    report([str(run) for run in swept], str(RUNS / "report"))
    keep(RUNS / "report", HERE)
    note_ends(fit.last, HERE / "ends.csv")


if __name__ == "__main__":
    run_script(main)
