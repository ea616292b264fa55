"""What a selector is told of positions and rows."""

from __future__ import annotations

import math

import torch

from lightning_mdm.nets.selector_features import (
    CONTEXT,
    confidence_features,
    row_context,
    step_features,
)


def test_the_context_of_a_row_is_what_it_has_left() -> None:
    masked_BL = torch.tensor([[True, True, False], [True, False, False]])
    context_BC = row_context(masked_BL, torch.tensor([2, 4]), 0.25)
    waves = {2: [0.0, -1.0, 0.0, 1.0, 1.0, 0.0, -1.0, 0.0], 4: [-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}
    expected = [[1.0, 0.5, *waves[2], 0.0, 0.5], [2.0, 0.25, *waves[4], -0.462098, 0.5]]
    assert context_BC.shape[1] == CONTEXT
    torch.testing.assert_close(context_BC, torch.tensor(expected, dtype=context_BC.dtype), rtol=1e-6, atol=1e-6)


def test_neighbouring_numbers_of_steps_have_clearly_different_features() -> None:
    feature_TF = step_features(torch.arange(2, 12))
    assert torch.cdist(feature_TF[:-1], feature_TF[1:]).diagonal().min().item() > 0.3
    assert bool(step_features(torch.tensor([1, 1 << 20])).isfinite().all())


def test_confidence_is_shown_as_it_is_but_for_the_odds() -> None:
    shown_F = confidence_features(torch.tensor([0.9, 0.85, 0.4, 0.1]))
    torch.testing.assert_close(shown_F, torch.tensor([0.9, 0.85, 0.4, math.log(0.1) / 10.0]))
    assert math.isfinite(float(confidence_features(torch.tensor([1.0, 1.0, 0.0, 0.0]))[3]))
