"""What an optimisation step of order learning costs, against the denoiser evaluations it makes.

python experiments/bench/order_step.py [--device cuda] [--repeats 7] [--size default|170m]

One update (bound, surrogate, gradient, Adam) of a frozen denoiser's order, against bare calls of the denoiser on the
very states that the update evaluated, in batches of the same sizes. Times alternate; medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from lightning_mdm.data.batch import Batch
from lightning_mdm.modules.order_module import OrderModule, PosteriorConfig
from lightning_mdm.nets.selector import OrderNetConfig, SelectorConfig
from lightning_mdm.nets.transformer import TransformerConfig
from lightning_mdm.noise import RowNoise

SIZES = {  # net, vocabulary, prompt, response, examples of a batch, selector and posterior
    "default": (TransformerConfig(4, 128, 2, 384), 512, 78, 56, 8, OrderNetConfig()),
    "170m": (TransformerConfig(18, 768, 12, 3072), 32_000, 128, 128, 32, OrderNetConfig(width=256, mlp_width=512)),
}
BUDGET = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", choices=SIZES, default="default")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    net, vocabulary, prompt, response, B, order_net = SIZES[options.size]
    length = prompt + response
    tokens_BL = torch.randint(0, vocabulary, (B, length), device=device)
    prompt_BL = (torch.arange(length, device=device) < prompt).expand(B, length)
    batch = Batch(tokens_BL, prompt_BL, torch.ones_like(prompt_BL), torch.arange(B, device=device))
    print(f"{platform.processor() or platform.machine()}, {device}, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}; {options.size}: {B} examples x 8 trajectories, T = {BUDGET}")  # fmt: skip
    for family, estimator in (
        ("max_normalised", "one_step"), ("max_normalised", "all_steps"), ("state_aware", "all_steps"),
        ("relative", "all_steps"),
    ):  # fmt: skip
        module = OrderModule(
            vocabulary, net=net, selector=SelectorConfig(**asdict(order_net)), finishing=family == "relative",
            posterior=PosteriorConfig(family=family, net=order_net), estimator=estimator, budgets=[BUDGET],
        ).to(device)  # fmt: skip
        optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-4)
        calls: list[tuple[Tensor, Tensor, Tensor]] = []
        hook = module.denoiser.register_forward_pre_hook(lambda net, inputs, calls=calls: calls.append(inputs))

        def update(step: int, module: OrderModule = module, optimizer: torch.optim.Optimizer = optimizer) -> None:
            model = module.batch_model(batch, BUDGET, 0.0)
            out = module.objective(model, RowNoise(0, batch.index_B), step)
            optimizer.zero_grad()
            out.surrogate.backward()
            optimizer.step()

        def seconds(work: Callable[[], None]) -> float:
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        @torch.no_grad()
        def bare(module: OrderModule = module, made: list[tuple[Tensor, Tensor, Tensor]] = calls) -> None:
            for inputs in list(made):
                module.denoiser(*inputs)

        times: dict[str, list[float]] = {"update": [], "bare": []}
        rows = 0
        for repeat in range(options.repeats + 1):
            calls.clear()
            updating = seconds(lambda repeat=repeat: update(repeat))
            made = list(calls)
            baring = seconds(lambda made=made: bare(made=made))
            if repeat:  # the first warms up
                times["update"].append(updating)
                times["bare"].append(baring)
                rows += sum(len(inputs[0]) for inputs in made)
        hook.remove()
        ratio = statistics.median(u / b for u, b in zip(times["update"], times["bare"], strict=True))
        print(f"{family:16}{estimator:12}{rows / options.repeats:8.0f} evaluations"
              f"{statistics.median(times['update']):9.3f} s update{statistics.median(times['bare']):9.3f} s bare"
              f"{ratio:7.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
