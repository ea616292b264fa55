"""Orders: what is one, what is none, and the conversions between steps and sets."""

from __future__ import annotations

import pytest
import torch

from lightning_mdm.orders.order import Order


def random_order(seed: int, rows: int = 20, length: int = 7) -> Order:
    """Steps of random rows, some positions given."""
    generator = torch.Generator().manual_seed(seed)
    step_BL = torch.randint(0, 5, (rows, length), generator=generator)
    for row in step_BL:  # close the gaps, so that every step is taken
        for rank, step in enumerate(sorted(set(row.tolist()) - {0}), start=1):
            row[row == step] = rank
    return Order(step_BL)


@pytest.mark.parametrize("seed", range(5))
def test_sets_and_steps_are_the_same_order(seed: int) -> None:
    order = random_order(seed)
    assert Order.from_sets(order.sets()).step_BL.equal(order.step_BL)
    assert order.n_steps_B.equal(order.step_BL.max(-1).values)
    assert len(order.sets()) == int(order.n_steps_B.max())


@pytest.mark.parametrize("seed", range(5))
def test_each_step_unmasks_the_difference_of_the_masked_sets(seed: int) -> None:
    order = random_order(seed)
    for step in range(1, int(order.n_steps_B.max()) + 1):
        before, after = order.masked_before(step), order.masked_before(step + 1)
        assert order.unmasked_at(step).equal(before & ~after)
        assert not bool((after & ~before).any())
        assert bool((order.unmasked_at(step).any(-1) == (order.n_steps_B >= step)).all())
    assert order.masked_before(1).equal(order.step_BL > 0)
    assert not bool(order.masked_before(int(order.n_steps_B.max()) + 1).any())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([[0, 1, 3]], "skips a step"),
        ([[2, 0, 2]], "skips a step"),
        ([[1, 2, 0], [1, 3, 0]], "skips a step"),
        ([[1, -1, 2]], "negative"),
        ([1, 2, 3], r"\[B, L\]"),
    ],
)
def test_what_is_no_order_is_refused(steps: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(torch.tensor(steps))


def test_only_int64_is_an_order() -> None:
    with pytest.raises(ValueError, match="int64"):
        Order(torch.tensor([[1, 2]], dtype=torch.int32))


def test_rows_may_take_different_numbers_of_steps() -> None:
    order = Order(torch.tensor([[0, 0, 0], [1, 1, 1], [3, 1, 2]]))
    assert order.n_steps_B.tolist() == [0, 1, 3]


def test_a_position_is_unmasked_once() -> None:
    first, second = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    with pytest.raises(ValueError, match="step 2"):
        Order.from_sets([first, second])
    with pytest.raises(ValueError, match="at least one set"):
        Order.from_sets([])


@pytest.mark.parametrize("step", [0, -1])
def test_steps_count_from_one(step: int) -> None:
    order = Order(torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match="count from 1"):
        order.unmasked_at(step)
    with pytest.raises(ValueError, match="count from 1"):
        order.masked_before(step)


def test_a_step_may_be_missing_where_what_it_unmasked_was_masked_again() -> None:
    order = Order(torch.tensor([[0, 1, 3], [2, 2, 0]]), gaps=True)
    assert order.n_steps_B.tolist() == [3, 2]
    assert [chosen_BL.sum().item() for chosen_BL in order.sets()] == [1, 2, 1]
    with pytest.raises(ValueError, match="negative step"):
        Order(torch.tensor([[1, -1]]), gaps=True)
