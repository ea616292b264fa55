"""What selector and posterior share: the net's tables and readouts, and heads of rows.

What the net must not see is asked of the selector, which is such a net and a law (``test_selector.py``).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lightning_mdm.nets.order_net import OrderNet, OrderNetConfig, RowHead
from lightning_mdm.nets.row_features import LEAST_NATS

WIDTH = 10
CONFIG = OrderNetConfig(layers=2, width=16, heads=2, mlp_width=24)
PLACED = replace(CONFIG, positions=9)


@pytest.mark.parametrize("config", [PLACED, replace(CONFIG, step_readouts=True)], ids=["tables", "readouts"])
def test_every_number_of_steps_has_a_table_of_positions_or_a_readout(config: OrderNetConfig) -> None:
    """From 16 on they share one. Features apart: rows that differ in the number of steps alone."""
    torch.manual_seed(0)
    net = OrderNet(WIDTH, 1, config, 1.0).double()
    hidden_BLD, nothing_BLF = torch.randn(4, 9, WIDTH).double(), torch.zeros(4, 9, 1, dtype=torch.float64)
    valid_BL = torch.arange(9) < torch.tensor([9, 5, 7, 2])[:, None]
    masked_BL = valid_BL & ((torch.rand(4, 9) < 0.6) | (torch.arange(9) == 1))
    value = {
        left: net(hidden_BLD, nothing_BLF, valid_BL, masked_BL, torch.full((4,), left)).value_BL
        for left in (2, 3, 15, 16, 17, 100)
    }
    for first, second in ((2, 3), (3, 15), (15, 16)):
        assert not torch.allclose(value[first], value[second], rtol=0.0, atol=1e-4)
    assert value[16].equal(value[17])
    assert value[16].equal(value[100])


def test_a_head_of_rows_begins_where_it_is_told_to() -> None:
    """At a constant, or at 0 where the stake is met, two less for each unit of its logarithm beyond; capped."""
    torch.manual_seed(0)
    mean_BD, stakes_BF = torch.randn(5, WIDTH), torch.randn(5, 3)
    at_stake_B = torch.tensor([0.0, 0.02, 0.02 * math.e, 1.0, 1e9])
    torch.testing.assert_close(RowHead(WIDTH, 3, 12.0, first=-2.0)(mean_BD, stakes_BF), capped(torch.full((5,), -2.0)))
    expected_B = 2.0 * (math.log(0.02 + LEAST_NATS) - (at_stake_B + LEAST_NATS).log())
    logit_B = RowHead(WIDTH, 3, 12.0, first=-2.0, stake=0.02)(mean_BD, stakes_BF, at_stake_B)
    torch.testing.assert_close(logit_B, capped(expected_B))
    assert logit_B[1] == 0.0
    assert -12.0 <= logit_B[4] < -11.9


def test_a_head_of_rows_reads_the_mean_and_the_stakes() -> None:
    torch.manual_seed(0)
    head, mean_BD, stakes_BF = RowHead(WIDTH, 3, 12.0), torch.randn(2, WIDTH), torch.randn(2, 3)
    torch.nn.init.normal_(head.last.weight)
    logit_B = head(mean_BD, stakes_BF)
    assert not torch.allclose(head(mean_BD + 1.0, stakes_BF), logit_B)
    assert not torch.allclose(head(mean_BD, stakes_BF + 1.0), logit_B)
    assert logit_B[0] != logit_B[1]


def capped(logit_B: torch.Tensor) -> torch.Tensor:
    """A logit bounded by 12."""
    return 12.0 * torch.tanh(logit_B / 12.0)
