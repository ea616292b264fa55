"""The selector through the compiler: one program for whatever it is told."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from lightning_mdm.decoding.learned import selector_law
from lightning_mdm.decoding.state import Prediction
from nets.test_selector import CONFIG, LEFT_B, canvas, trained


@pytest.mark.filterwarnings("ignore")  # torch warns of parts of its own
def test_one_compilation_serves_all_prices() -> None:
    """As the compiler of a run makes it: others do not take a number's value for granted."""
    torch._dynamo.reset()
    selector = trained(replace(CONFIG, start="confidence"), finishes=True)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    query_BQ = masked_BL.int().argsort(dim=-1, descending=True, stable=True)[:, : int(masked_BL.sum(-1).max())]
    plain, fast = (
        cast(Prediction, SimpleNamespace(hidden_BLD=hidden_BLD, confidence_BLF=confidence_BLF, query_BQ=query_BQ,
                                         compile=compile))
        for compile in (False, True)
    )  # fmt: skip
    with torch.no_grad():
        graphs = torch._dynamo.utils.counters["stats"]
        before = graphs["unique_graphs"]
        for price in (0.01, 0.5):
            law, expected = (selector_law(selector, p, masked_BL, valid_BL, LEFT_B, price) for p in (fast, plain))
            torch.testing.assert_close(law.logit_BL, expected.logit_BL, rtol=1e-4, atol=1e-5)  # the price is float32
    assert graphs["unique_graphs"] == before + 1
    torch._dynamo.reset()
