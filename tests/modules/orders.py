"""Small order modules, and how the tests of several files train them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_mdm.data.batch import Batch
from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.modules.denoiser import DenoiserModule
from lightning_mdm.modules.order_module import OrderModule
from lightning_mdm.nets.order_net import OrderNetConfig
from lightning_mdm.nets.posterior_net import PosteriorConfig
from lightning_mdm.nets.selector import SelectorConfig
from modules.test_denoiser_module import NET, V, loader, trainer

SMALL = SelectorConfig(layers=1, width=16, heads=2, mlp_width=16)
PLAIN = OrderNetConfig(layers=1, width=16, heads=2, mlp_width=16)
MAX_NORMALISED = PosteriorConfig("max_normalised", PLAIN)
RELATIVE = PosteriorConfig("relative", PLAIN)
NO_POSTERIOR = PosteriorConfig("selector", PLAIN)
FROM_CONFIDENCE = replace(SMALL, start="confidence", start_threshold=0.3)
SHARES, OTHER = (0.7, 1.0, 1.4), (0.5, 1.0, 2.0)
OF_SHARES = replace(SMALL, start="quota", start_threshold=0.2, start_shares=SHARES)
CHAIN = HopChain(chain=3, free=1, given=2, hops=1, vocab_size=4)
LAWS = {
    "state_aware": {},
    "finishing": {"finishing": True},
    "relative": {"posterior": RELATIVE, "selector": FROM_CONFIDENCE},
    "relative_finishing": {"posterior": RELATIVE, "finishing": True},
    "levelled": {"posterior": RELATIVE, "selector": OF_SHARES},
    "levelled_finishing": {"posterior": RELATIVE, "selector": OF_SHARES, "finishing": True},
    "selector": {"posterior": NO_POSTERIOR, "selector": OF_SHARES, "finishing": True},
}


@cache
def denoiser_file(folder: Path, kind: str = "ckpt") -> str:
    """A briefly trained denoiser, as a checkpoint or as a file of weights."""
    torch.manual_seed(0)
    module = DenoiserModule(V, NET, warmup_steps=1)
    run = trainer(folder, max_steps=2)
    run.fit(module, loader())
    path = folder / f"denoiser.{kind}"
    if kind == "ckpt":
        run.save_checkpoint(path)
    else:
        module.save_weights(path)
    return str(path)


def build(ckpt: str | None, **options: Any) -> OrderModule:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {
        "net": NET, "denoiser_ckpt": ckpt, "selector": SMALL, "posterior": PosteriorConfig(net=PLAIN),
        "budgets": [2, 3], "samples": 2, "validation_samples": 2, "warmup_steps": 1, "learning_rate": 1e-2,
    }  # fmt: skip
    return OrderModule(options.pop("vocab_size", V), **{**defaults, **options})


def fit(module: OrderModule, folder: Path, steps: int = 3, start: int = 0, **options: Any) -> L.Trainer:
    run = trainer(folder, max_steps=steps, **options)
    run.fit(module, loader(start))
    return run


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Which of the module's parts have changed."""
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}


def validate(module: OrderModule, batches: Sequence[Batch], folder: Path) -> dict[str, float]:
    data = torch.utils.data.DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]
    return dict(trainer(folder).validate(module, data, verbose=False)[0])


def chain_batch(index: Sequence[int]) -> Batch:
    tokens_BL = torch.tensor([CHAIN.draw("train", k).response for k in index])
    prompt_BL = torch.zeros_like(tokens_BL, dtype=torch.bool)
    return Batch(tokens_BL, prompt_BL, ~prompt_BL, torch.tensor(list(index)))
