"""How cost grows with canvas, batch, steps and trajectories, and the ceilings of the device for the roofline."""

from __future__ import annotations

from collections.abc import Callable

import torch
from loops import Decoder
from measuring import Bench, median
from sizes import Size
from training import BUDGET, order_update

from lightning_mdm.decoding.policies import TopProbability

SAMPLES = (2, 4, 8, 16)


def ceilings(bench: Bench, size: Size) -> None:
    """What the device reaches at best here: a large matrix product, and a copy of a large array."""
    if bench.has("ceiling/matmul", "ceiling/copy"):
        return
    kind, n, m = (torch.bfloat16, 8192, 1 << 28) if bench.device.type == "cuda" else (torch.float32, 768, 1 << 24)
    if size.net.width <= 32:  # where only the script is tested
        n, m = 64, 1 << 12
    square = torch.randn(n, n, device=bench.device, dtype=kind)
    source, target = (torch.zeros(m, device=bench.device, dtype=kind) for _ in range(2))
    rounds = bench.paired(lambda: square @ square, lambda: target.copy_(source))
    bench.row("ceiling/matmul", 2.0 * n**3 / median(rounds, 0), "flop/s", batch=1, canvas=n)
    bench.row("ceiling/copy", 2.0 * m * source.element_size() / median(rounds, 1), "byte/s", batch=1, canvas=m)


def forward(bench: Bench, size: Size) -> Callable[[int], float]:
    """Seconds of a bare forward pass with logits at the response, for a number of rows."""
    denoiser = size.denoiser(bench.device)

    @torch.no_grad()
    def seconds(rows: int) -> float:
        inputs = size.masked(rows, bench.device)
        return median(bench.paired(lambda: denoiser(*inputs)), 0)

    return seconds


def growth(bench: Bench, size: Size, name: str) -> None:
    """Seconds of a pass by batch and by canvas; of decoding by steps; of an update of the order by trajectories."""
    ceilings(bench, size)
    of_rows, middle = forward(bench, size), size.batches[len(size.batches) // 2]
    largest = size.batches[-1]
    batches = [2**i for i in range(largest.bit_length()) if 2**i <= largest]
    for batch in batches:
        row = f"{name}/cost/pass@batch={batch}"
        if not bench.has(row):
            bench.row(row, of_rows(batch), "s", batch=batch, canvas=size.canvas, steps=1)
    for canvas in size.canvases:
        row = f"{name}/cost/pass@canvas={canvas}"
        if not bench.has(row):
            seconds = forward(bench, size.with_canvas(canvas))(middle)
            bench.row(row, seconds, "s", batch=middle, canvas=canvas, steps=1)
    decoder = Decoder(bench, size, size.denoiser(bench.device))
    rows = size.rows(middle, bench.device)
    for steps in sorted({1, 2, 4, 8, size.steps, 2 * size.steps}):
        row = f"{name}/cost/decoding@steps={steps}"
        if not bench.has(row):
            rounds = bench.paired(lambda s=steps: decoder.decode(TopProbability(), rows, s, decoder.denoiser))
            bench.row(row, median(rounds, 0), "s", batch=middle, canvas=size.canvas, steps=steps)
    for samples in SAMPLES:
        row = f"{name}/cost/order_update@K={samples}"
        if not bench.has(row):
            update, _, _ = order_update(bench, size, "relative", "all_steps", samples)
            seconds = median(bench.paired(update), 0)
            bench.row(row, seconds, "s", batch=size.order_batch, canvas=size.canvas, steps=BUDGET)
