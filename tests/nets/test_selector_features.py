"""What a selector is told of positions and rows."""

from __future__ import annotations

import math

import torch

from lightning_mdm.nets.selector_features import (
    CONTEXT,
    LEAST_NATS,
    STANDING,
    confidence_features,
    row_context,
    standing_features,
    step_features,
)


def test_the_context_of_a_row_is_what_it_has_left() -> None:
    masked_BL = torch.tensor([[True, True, False], [True, False, False]])
    context_BC = row_context(masked_BL, torch.tensor([2, 4]), 0.25)
    waves = {2: [0.0, -1.0, 0.0, 1.0, 1.0, 0.0, -1.0, 0.0], 4: [-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]}
    expected = [[1.0, 0.5, *waves[2], 0.0, 0.5], [2.0, 0.25, *waves[4], -0.462098, 0.5]]
    torch.testing.assert_close(context_BC, torch.tensor(expected, dtype=context_BC.dtype), rtol=1e-6, atol=1e-6)


def test_neighbouring_numbers_of_steps_have_clearly_different_features() -> None:
    feature_TF = step_features(torch.arange(2, 12))
    assert torch.cdist(feature_TF[:-1], feature_TF[1:]).diagonal().min().item() > 0.3
    assert bool(step_features(torch.tensor([1, 1 << 20])).isfinite().all())


def test_confidence_is_shown_as_it_is_but_for_the_odds() -> None:
    shown_F = confidence_features(torch.tensor([0.9, 0.85, 0.4, 0.1]))
    torch.testing.assert_close(shown_F, torch.tensor([0.9, 0.85, 0.4, math.log(0.1) / 10.0]))
    assert math.isfinite(float(confidence_features(torch.tensor([1.0, 1.0, 0.0, 0.0]))[3]))


def test_a_position_is_told_where_it_stands_and_what_is_surer_and_what_is_not() -> None:
    odds_BL = torch.tensor([[0.5, 7.0, 0.1, 0.3], [2.0, 1.0, 1.0, 9.0]])
    entropy_BL = torch.tensor([[0.6, 9.0, 0.2, 0.4], [0.7, 0.5, 0.3, 9.0]])
    masked_BL = torch.tensor([[True, False, True, True], [True, True, True, False]])
    logs = [[1.2, 0.0], None, [0.2, 1.0], [0.6, 0.6]], [[1.5, 0.0], [0.5, 1.0], [0.8, 0.7], None]
    shares = [1.0, 0.0, 1 / 3, 2 / 3], [1.0, 1 / 3, 2 / 3, 0.0]  # of two alike the first is the surer one
    expected = [
        [
            [s, *(math.log(n + LEAST_NATS) for n in nats)] if nats else [0.0] * STANDING
            for s, nats in zip(*row, strict=True)
        ]
        for row in zip(shares, logs, strict=True)
    ]
    found_BLF = standing_features(odds_BL, entropy_BL, masked_BL)
    torch.testing.assert_close(found_BLF, torch.tensor(expected), rtol=0.0, atol=3e-4)  # 1e-7 of a sum, over LEAST_NATS


def test_where_a_position_stands_does_not_depend_on_padding_or_on_other_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    odds_BL, entropy_BL = torch.rand(2, 3, 8, generator=generator, dtype=torch.float64)
    masked_BL = torch.rand(3, 8, generator=generator) < 0.6
    masked_BL[1] = False  # a row with nothing masked
    all_BLF = standing_features(odds_BL, entropy_BL, masked_BL)
    assert all_BLF.shape == (3, 8, STANDING)
    assert not all_BLF[1].any()
    for row in range(3):
        longer = [torch.nn.functional.pad(x[row : row + 1], (0, 5)) for x in (odds_BL, entropy_BL, masked_BL)]
        torch.testing.assert_close(standing_features(*longer)[0, :8], all_BLF[row], rtol=0.0, atol=0.0)


def test_the_context_has_its_width() -> None:
    assert row_context(torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 5]), 0.0).shape == (2, CONTEXT)
