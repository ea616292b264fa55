"""How many operators decoding starts beside those of the denoiser calls it makes.

At one row a GPU computes faster than operators are started, so that this ratio is that of time there, whatever the
device it is counted on.

Shapes: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from loops import budgeted
from measuring import Bench
from sizes import Size
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_mdm.decoding.loop import decode
from lightning_mdm.output import DenoiserOutput

# These look at the same memory in another shape, or ask for the result's type: nothing is started.
VIEWS = frozenset(
    {
        "_unsafe_view", "alias", "as_strided", "chunk", "detach", "expand", "permute", "promote_types", "select",
        "slice", "split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
    }
)  # fmt: skip


class Counted(TorchDispatchMode):
    """Counts operators, and apart from all others those of ``denoiser``, which it calls."""

    def __init__(self, denoiser: Callable[..., DenoiserOutput]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.all = self.own = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all += func.overloadpacket.__name__ not in VIEWS
        return func(*args, **(kwargs or {}))

    def __call__(self, *inputs: Tensor) -> DenoiserOutput:
        before = self.all
        out = self.denoiser(*inputs)
        self.own += self.all - before
        return out


def operators(bench: Bench, size: Size, name: str) -> None:
    """Operators of decoding one row over those of its denoiser calls, for every policy with a budget."""
    denoiser = size.denoiser(bench.device)
    rows = size.rows(1, bench.device)
    for policy in budgeted(bench, size):
        row = f"{name}/decoding/{policy.name}/operators_over_calls"
        if bench.has(row):
            continue
        with torch.no_grad(), Counted(denoiser) as counted:
            decode(counted, policy, rows, size.space, steps=size.steps)
        where = {"batch": 1, "canvas": size.canvas, "steps": size.steps}
        bench.row(row, counted.all / counted.own, "ratio", target="<=1.15" if name == "170m" else "", **where)
