"""The selector through the compiler: one program for whatever it is told."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lightning_mdm import compilation
from lightning_mdm.categorical import positions_of
from lightning_mdm.decoding.learned import selector_law
from lightning_mdm.decoding.state import Prediction
from nets.test_selector import CONFIG, LEFT_B, canvas, trained


@pytest.mark.filterwarnings("ignore")  # torch warns of parts of its own
def test_one_compilation_serves_all_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price is told as a tensor: of a number the compiler of a run, which takes minutes here, holds the value."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    told: list[tuple[Any, ...]] = []
    once = compilation.compiled_once
    monkeypatch.setattr(
        compilation, "compiled_once", lambda net: lambda *inputs: told.append(inputs) or once(net)(*inputs)
    )
    selector = trained(replace(CONFIG, start="confidence"), finishes=True)
    hidden_BLD, confidence_BLF, valid_BL, masked_BL = canvas()
    query_BQ = positions_of(masked_BL, int(masked_BL.sum(-1).max()))
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
    assert len(told) == 2
    assert not any(isinstance(value, float) for inputs in told for value in inputs)
    assert [float(cast(Tensor, inputs[5])) for inputs in told] == [0.01, 0.5]
    torch._dynamo.reset()


def test_room_for_programs_is_made_and_never_taken_away() -> None:
    for before, after in ((8, compilation.PROGRAMS), (1000, 1000)):
        with torch._dynamo.config.patch(recompile_limit=before):
            compilation.for_shapes_that_vary()
            assert torch._dynamo.config.recompile_limit == after


def test_within_what_is_being_compiled_a_function_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(compilation, "compiled_once", lambda function: asked.append(function) or len)
    assert compilation.compiled(sum) is len
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert compilation.compiled(sum) is sum
    assert asked == [sum]
