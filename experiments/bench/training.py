"""What a training step costs: utilisation of the device by plain pre-training, and order learning over bare passes."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cache

import torch
from measuring import Bench, median, ratio
from sizes import Size
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.modules.denoiser import DenoiserModule, masked_diffusion, training_t
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.denoiser import ReadableDenoiser, TransformerDenoiser
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from lightning_mdm.nets.transformer import compile_blocks
from lightning_mdm.noise import RowNoise
from lightning_mdm.output import DenoiserOutput

BUDGET = 4
SAMPLES = 8
LAWS = [
    ("relative", "all_steps"), ("state_aware", "all_steps"), ("state_aware", "one_step"),
    ("max_normalised", "all_steps"), ("max_normalised", "one_step"),
]  # fmt: skip


def precision(bench: Bench, size: Size) -> contextlib.AbstractContextManager[object]:
    """What ``--trainer.precision bf16-mixed`` does, for sizes that are trained so."""
    return torch.autocast(bench.device.type, torch.bfloat16) if size.half else contextlib.nullcontext()


def pretraining(bench: Bench, size: Size, name: str) -> None:
    """Tokens per second of a plain step (loss, gradient, AdamW), and the share of the device's peak that this is."""
    if bench.has(f"{name}/training/tokens_per_second"):
        return
    torch.manual_seed(0)
    gpu = bench.device.type == "cuda"
    with bench.device:
        module = DenoiserModule(size.vocabulary, size.net, compile=gpu)
    module = module.to(bench.device)
    module.setup("fit")
    batch = size.batch(size.train_batch, bench.device)
    optimizer = torch.optim.AdamW(module.denoiser.parameters(), lr=1e-5, fused=gpu)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        noise = RowNoise(0, batch.index_B)
        with precision(bench, size):
            t_B = training_t(noise, count, 1e-3)
            out = masked_diffusion(module.denoiser, batch, t_B, noise, count, "uniform", compile=gpu)
        optimizer.zero_grad()
        out.surrogate.backward()
        optimizer.step()

    seconds = median(bench.paired(step), 0)
    rows, where = size.train_batch, {"batch": size.train_batch, "canvas": size.canvas}
    # The gradient costs twice what the loss does. The head runs at the response positions alone.
    flops = 3.0 * size.forward_flops(rows, size.canvas - size.prompt)
    bench.row(f"{name}/training/flops_per_second", flops / seconds, "flop/s", **where)
    if bench.peak is None:
        print(f"no peak is known for {bench.name}: no utilisation; add the device to PEAKS with its source")
    else:
        bench.row(
            f"{name}/training/model_flop_utilisation", flops / seconds / bench.peak.flops, "", target=">=0.45", **where
        )
    held = bench.memory(step)
    if held is not None:
        bench.row(f"{name}/training/peak_memory", held / 2**30, "GiB", **where)
    bench.row(f"{name}/training/tokens_per_second", rows * size.canvas / seconds, "1/s", **where)


def attention(bench: Bench, size: Size, name: str) -> None:
    """What the padding mask costs: attention and its gradient with one over without, for which kernels are faster."""
    row = f"{name}/training/attention_masked_over_unmasked"
    if bench.has(row):
        return
    B, L, H = size.train_batch, size.canvas, size.net.heads
    kind = torch.bfloat16 if size.half else torch.float32
    shape = (B, H, L, size.net.width // H)
    q, k, v = (torch.randn(shape, device=bench.device, dtype=kind, requires_grad=True) for _ in range(3))
    valid = torch.ones(B, 1, 1, L, dtype=torch.bool, device=bench.device)

    def work(mask: Tensor | None) -> None:
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()

    rounds = bench.paired(lambda: work(valid), lambda: work(None))
    bench.row(row, ratio(rounds, 0, 1), "ratio", batch=B, canvas=L)


@dataclass
class Recording:
    """A denoiser that keeps what it was asked."""

    denoiser: ReadableDenoiser
    made: list[tuple[Tensor, ...]] = field(default_factory=list)

    @property
    def vocab_size(self) -> int:
        return self.denoiser.vocab_size

    def embed(self, tokens_BL: Tensor) -> Tensor:
        return self.denoiser.embed(tokens_BL)

    def __call__(self, *inputs: Tensor) -> DenoiserOutput:
        self.made.append(inputs)
        return self.denoiser(*inputs)


@cache
def frozen(size: Size, device: torch.device) -> ReadableDenoiser:
    """The denoiser of all order modules of a size: compiled once."""
    torch.manual_seed(0)
    with device:
        denoiser = TransformerDenoiser(size.vocabulary, size.net).requires_grad_(False)
    if device.type == "cuda":
        compile_blocks(denoiser)
    return denoiser


def order_module(size: Size, family: str, estimator: str, samples: int, device: torch.device) -> OrderModule:
    """What ``OrderModule(..., compile=True)`` is on a GPU, with the denoiser that all share."""
    torch.manual_seed(0)
    with device:
        module = OrderModule(
            size.vocabulary, net=replace(size.net, layers=1), selector=SelectorConfig(**asdict(size.order_net)),
            finishing=family == "relative", posterior=PosteriorConfig(family=family, net=size.order_net),
            estimator=estimator, budgets=[BUDGET], samples=samples, compile=device.type == "cuda",
        )  # fmt: skip
    module.denoiser = frozen(size, device)
    return module.to(device)


def order_update(
    bench: Bench, size: Size, family: str, estimator: str, samples: int
) -> tuple[Callable[[], None], Callable[[], None], list[int]]:
    """One update of a frozen denoiser's order; bare denoiser calls on the states of the latest one; states of each."""
    module = order_module(size, family, estimator, samples, bench.device)
    batch = size.batch(size.order_batch, bench.device)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-4)
    recording, states = Recording(module.denoiser), []

    def update() -> None:
        recording.made.clear()
        model = replace(module.batch_model(batch, BUDGET, 0.0), denoiser=recording)
        with precision(bench, size):
            out = module.objective(model, RowNoise(0, batch.index_B), len(states))
        optimizer.zero_grad()
        out.surrogate.backward()
        optimizer.step()
        states.append(out.evaluations)

    @torch.no_grad()
    def bare() -> None:
        with precision(bench, size):
            for inputs in recording.made:
                module.denoiser(*inputs)

    return update, bare, states


def order_learning(bench: Bench, size: Size, name: str) -> None:
    """Update over bare passes on the distinct states, for every posterior and estimator, with 8 trajectories."""
    target = "<=1.10" if name == "170m" else "<=1.15"
    where = {"batch": size.order_batch, "canvas": size.canvas, "steps": BUDGET}
    for family, estimator in LAWS:
        stem = f"{name}/order/{family}/{estimator}"
        if bench.has(f"{stem}/update_over_passes"):
            continue
        update, bare, states = order_update(bench, size, family, estimator, SAMPLES)

        def once(update: Callable[[], None] = update, bare: Callable[[], None] = bare) -> list[float]:
            return [bench.clock.seconds(update), bench.clock.seconds(bare)]  # the passes are those of this update

        once()
        once()
        rounds = bench.repeated(once)
        held = bench.memory(update)
        if held is not None:
            bench.row(f"{stem}/peak_memory", held / 2**30, "GiB", **where)
        bench.row(f"{stem}/states", statistics.mean(states), "states", **where)
        bench.row(f"{stem}/update_over_passes", ratio(rounds, 0, 1), "ratio", target=target, **where)
