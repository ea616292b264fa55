"""What a selector is told of positions and rows."""

from __future__ import annotations

import math

import torch

from lightning_mdm.nets.row_features import LEAST_NATS, step_features
from lightning_mdm.nets.selector_features import (
    CONTEXT,
    SHARE_STAKES,
    confidence_features,
    row_context,
    share_stakes,
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


def test_a_share_is_told_by_what_it_stakes_and_what_it_leaves() -> None:
    """By hand: two positions of three at stake, entropies and expected losses of theirs and of the other."""
    taken_BJL = torch.tensor([[[True, True, False, False], [True, True, True, True]]])
    masked_BL = torch.tensor([[True, False, True, True]])  # position 1 is given: whatever is taken there
    cost_BL2 = torch.tensor([[[0.5, 0.2], [0.0, 0.0], [0.25, 0.1], [1.0, 0.7]]], dtype=torch.float64)
    context_BC = torch.randn(1, CONTEXT, dtype=torch.float64)
    nats = torch.tensor([[0.5, 0.2, 1.25, 0.8], [1.75, 1.0, 0.0, 0.0]], dtype=torch.float64)
    part = torch.tensor([[1.0 / 3.0], [1.0]], dtype=torch.float64)
    expected_JF = torch.cat(((nats + LEAST_NATS).log(), part, context_BC.expand(2, -1)), dim=-1)
    stakes_BJF = share_stakes(taken_BJL, cost_BL2, masked_BL, context_BC)
    assert stakes_BJF.shape == (1, 2, SHARE_STAKES + CONTEXT)
    torch.testing.assert_close(stakes_BJF[0], expected_JF)


def test_under_low_precision_the_nats_left_are_not_lost() -> None:
    """Where next to nothing is left, their logarithm tells 0.001 from 0.01."""
    cost_BL2 = torch.full((1, 40, 2), 2.7) * torch.rand(1, 40, 1, generator=torch.Generator().manual_seed(0))
    cost_BL2[0, 39] = 0.004
    taken_BJL = torch.arange(40) < torch.tensor([20, 39, 40])[None, :, None]
    args = (taken_BJL, cost_BL2, torch.ones(1, 40, dtype=torch.bool), torch.zeros(1, CONTEXT))
    exact_BJF = share_stakes(*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_BJF = share_stakes(*args)
    torch.testing.assert_close(low_BJF.float(), exact_BJF, rtol=0.0, atol=1e-5)
