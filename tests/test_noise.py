"""The counter-based noise: uniform, independent between keys, and a function of its keys alone."""

from __future__ import annotations

import pytest
import torch

from laws import assert_independent, assert_uniform
from lightning_mdm.noise import RowNoise, Stream, mix, to_uniform

SEEDS = [0, 1, -1, 1234567, 2**31, 2**63 - 1, -(2**63)]
N = 20_000


def draw(seed: int = 0, stream: Stream = Stream.TOKEN, step: int = 1, first: int = 0, length: int = 1) -> torch.Tensor:
    return RowNoise(seed, torch.arange(first, first + N)).uniform_BL(stream, step, length)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stream", list(Stream))
def test_uniform_over_problems(seed: int, stream: Stream) -> None:
    assert_uniform(draw(seed, stream))


def test_uniform_over_positions_steps_and_seeds_of_one_problem() -> None:
    one = torch.tensor([41])
    assert_uniform(RowNoise(5, one).uniform_BL(Stream.TIE, 3, N))
    assert_uniform(torch.cat([RowNoise(5, one).uniform_B(Stream.TIE, step) for step in range(1500)]))
    assert_uniform(torch.cat([RowNoise(seed, one).uniform_B(Stream.TIE, 1) for seed in range(-750, 750)]))


@pytest.mark.parametrize("seed", SEEDS)
def test_neighbouring_keys_are_independent(seed: int) -> None:
    base = draw(seed, length=4)
    assert_independent(base[:, 0], base[:, 1])
    assert_independent(base[:, 0], base[:, 3])
    assert_independent(base[:, :1], draw(seed, first=1))
    assert_independent(base, draw(seed, step=2, length=4))
    assert_independent(base[:, :1], draw(seed - 1 if seed > 0 else seed + 1))


@pytest.mark.parametrize("other", [stream for stream in Stream if stream is not Stream.TOKEN])
def test_streams_are_independent(other: Stream) -> None:
    assert_independent(draw(length=4), draw(stream=other, length=4))


def test_exchanged_keys_do_not_share_noise() -> None:
    def one(seed: int, index: int, stream: int, step: int) -> float:
        return float(RowNoise(seed, torch.tensor([index])).uniform_B(Stream(stream), step))

    keys = [(a, b, c, d) for a in range(-2, 4) for b in range(6) for c in Stream for d in range(6)]
    assert len({one(*key) for key in keys}) == len(keys)


def test_a_row_keeps_its_noise_in_any_batch_and_at_any_length() -> None:
    index_B = torch.tensor([7, 0, 123456789, -3])
    whole_BL = RowNoise(9, index_B).uniform_BL(Stream.SELECT, 4, 12)
    assert whole_BL.equal(RowNoise(9, index_B).uniform_BL(Stream.SELECT, 4, 40)[:, :12])
    chosen = torch.tensor([2, 0])
    assert whole_BL[chosen].equal(RowNoise(9, index_B).rows(chosen).uniform_BL(Stream.SELECT, 4, 12))
    for row, index in enumerate(index_B):
        assert whole_BL[row].equal(RowNoise(9, index[None]).uniform_BL(Stream.SELECT, 4, 12)[0])
    assert whole_BL[:, 0].equal(RowNoise(9, index_B).uniform_B(Stream.SELECT, 4))


@pytest.mark.parametrize("ahead", [2, 5, 16])
def test_drawing_ahead_changes_no_value(ahead: int) -> None:
    index_B, chosen = torch.tensor([7, 0, 123456789, -3]), torch.tensor([2, 0])
    one, many = RowNoise(9, index_B), RowNoise(9, index_B, ahead)
    for step in [1, 2, 3, -1, 16, 15, 40, 2]:  # also back to draws that were let go
        for stream in (Stream.TIE, Stream.SELECT):
            assert many.uniform_BL(stream, step, 6).equal(one.uniform_BL(stream, step, 6))
        assert many.uniform_B(Stream.TIE, step).equal(one.uniform_B(Stream.TIE, step))
        fewer = many.rows(chosen)
        assert fewer.uniform_BL(Stream.TIE, step, 6).equal(one.uniform_BL(Stream.TIE, step, 6)[chosen])
        assert fewer.uniform_BL(Stream.TIE, step + 1, 6).equal(one.uniform_BL(Stream.TIE, step + 1, 6)[chosen])


def test_values_lie_strictly_inside_the_unit_interval() -> None:
    words = torch.tensor([0, -1, 1, 2**63 - 1, -(2**63), 4095, 4096])
    values = to_uniform(words)
    assert values.dtype == torch.float64
    assert bool(((values > 0.0) & (values < 1.0)).all())
    assert float(values[0]) == 2.0**-53
    assert float(values[1]) == 1.0 - 2.0**-53


def test_mix_is_splitmix64() -> None:
    # First outputs of the reference implementation for the seed 1234567 (rosettacode.org, "Pseudo-random
    # numbers/Splitmix64").
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + i * golden) % 2**64 for i in range(5)]
    signed = torch.tensor([s - 2**64 if s >= 2**63 else s for s in states])
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [word % 2**64 for word in mix(signed).tolist()] == expected


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_seeds_beyond_64_bits_are_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        RowNoise(seed, torch.tensor([0]))


def test_of_each_kind_of_draw_the_latest_are_kept_and_no_others() -> None:
    noise = RowNoise(9, torch.tensor([7, 0]), ahead=2)
    for step in range(20):
        for stream in (Stream.TIE, Stream.SELECT):
            noise.uniform_BL(stream, step, 6)
        noise.uniform_B(Stream.TIE, step)
    assert sorted(noise._drawn) == [(Stream.TIE, 9, 1), (Stream.TIE, 9, 6), (Stream.SELECT, 9, 6)]
