"""What the decoding loop costs beside the denoiser it calls.

    python experiments/bench/loop_overhead.py [--rows 64] [--steps 8] [--repeats 15] [--device cpu]

Decoding 64 rows at T = 8 with the default denoiser, against eight bare denoiser calls of the same shapes, in one
process; the learned policy with an untrained selector. Two kinds of bare call, both on the whole batch: logits at the
response positions only, and at every position as a plain loop would ask for them. The loop asks for the positions still
masked, so a ratio below 1 is possible. Calls and decode runs alternate; the ratio is of medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from lightning_mdm.decoding.loop import decode
from lightning_mdm.decoding.policies import POLICIES, Autoregressive, Blocks, TopMargin
from lightning_mdm.decoding.policy import UnmaskingPolicy
from lightning_mdm.decoding.state import Rows
from lightning_mdm.nets.causal import CausalDenoiser
from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.selector import Selector, SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.vocabulary import TokenSpace

VOCABULARY, PROMPT, RESPONSE = 512, 78, 48  # the default task


class Facts:
    """Something to tell the policies that ask for it."""

    def token_frequency(self) -> torch.Tensor:
        return torch.full((VOCABULARY,), 1 / VOCABULARY, dtype=torch.float64)

    def order(self, problem: int) -> list[int]:
        return list(range(RESPONSE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    config = TransformerConfig(layers=4, width=128, heads=2, mlp_width=384)  # configs/word_problems/denoiser.yaml
    denoiser = TransformerDenoiser(VOCABULARY, config).to(device).eval()
    space = TokenSpace(VOCABULARY, eos_id=1, pad_id=0, forbidden=(0,))
    B, L = options.rows, PROMPT + RESPONSE
    tokens_BL = torch.randint(2, VOCABULARY, (B, L), device=device)
    prompt_BL = (torch.arange(L, device=device) < PROMPT).expand(B, L)
    rows = Rows(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.arange(B, device=device))
    masked_BL = tokens_BL.masked_fill(~prompt_BL, space.mask_id)
    query_BQ = torch.arange(PROMPT, L, device=device).expand(B, RESPONSE)

    def run(work: Callable[[], object]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    @torch.no_grad()
    def bare(response_only: bool) -> None:
        for _ in range(options.steps):
            denoiser(masked_BL, rows.valid_BL, query_BQ if response_only else None)

    def decoded(policy: UnmaskingPolicy) -> Callable[[], object]:
        return lambda: decode(denoiser, policy, rows, space, steps=options.steps)

    # Untrained, it keeps to the IID schedule: what is timed is what it costs to ask.
    selector = Selector(config.width, SelectorConfig()).to(device).eval()
    policies = [
        (Blocks(TopMargin()) if kind is Blocks else kind()).bound(selector).informed(Facts()) for kind in POLICIES
    ]
    work = {"bare, response logits": lambda: bare(True), "bare, all logits": lambda: bare(False)}
    work |= {policy.label: decoded(policy) for policy in policies if not policy.sequential}
    causal = CausalDenoiser(VOCABULARY, config).to(device).eval()
    work["causal net, whole response"] = lambda: decode(causal, Autoregressive(), rows, space, steps=RESPONSE)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(options.repeats + 2):
        for name, task in work.items():
            elapsed = run(task)
            if repeat >= 2:  # the first two warm up
                seconds[name].append(elapsed)
    response, full = (statistics.median(seconds[name]) for name in list(work)[:2])
    print(f"{platform.processor() or platform.machine()}, {device}, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}; {B} rows of {PROMPT} + {RESPONSE} tokens, T = {options.steps}")  # fmt: skip
    print(f"{'':24}{'median s':>10}{'/ response':>12}{'/ all':>8}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:24}{median:10.3f}{median / response:12.3f}{median / full:8.3f}")


if __name__ == "__main__":
    main()
