"""The trunk against hand formulas: rotary positions, norms, SwiGLU, attention; its size and its errors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.transformer import (
    Attention,
    Block,
    SwiGLU,
    Transformer,
    TransformerConfig,
    rotary_angles,
    rotate,
)

CONFIG = TransformerConfig(layers=2, width=16, heads=2, mlp_width=24)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotated_by_complex_numbers(x: Tensor, base: float, first: int = 0) -> Tensor:
    """Dimension j of the first half and j of the second are one complex number, turned by position * base^(-2j/K)."""
    length, width = x.shape[-2:]
    turned = torch.empty_like(x)
    for position in range(length):
        for j in range(width // 2):
            number = complex(x[..., position, j], x[..., position, j + width // 2])
            angle = (first + position) * base ** (-2.0 * j / width)
            number *= complex(math.cos(angle), math.sin(angle))
            turned[..., position, j], turned[..., position, j + width // 2] = number.real, number.imag
    return turned


@pytest.mark.parametrize("base", [10_000.0, 500.0])
def test_rotation_is_multiplication_of_complex_numbers(base: float) -> None:
    x = numbers(9, 8)
    angles = rotary_angles(torch.arange(9), 8, base)
    got = rotate(x, angles.cos().double(), angles.sin().double())
    torch.testing.assert_close(got, rotated_by_complex_numbers(x, base), rtol=0.0, atol=3e-6)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    angles = rotary_angles(torch.arange(40), 8, 10_000.0).double()
    q, k = (rotate(numbers(1, 8, seed=seed).expand(40, 8), angles.cos(), angles.sin()) for seed in (1, 2))
    product = q @ k.T
    for distance in range(-20, 21):
        diagonal = product.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0.0, atol=1e-4)
    assert float((product[0, 1] - product[1, 0]).abs()) > 1e-3, "left and right are told apart"


@torch.no_grad()
def test_learned_positions_tell_masked_tokens_apart() -> None:
    valid_BL = torch.ones(1, 5, dtype=torch.bool)
    same_BLD = numbers(1, 1, 16).float().expand(1, 5, 16)
    relative = Transformer(CONFIG)(same_BLD, valid_BL)
    torch.testing.assert_close(relative, relative[:, :1].expand_as(relative), msg="rotary positions alone are relative")
    trunk = Transformer(TransformerConfig(layers=2, width=16, heads=2, mlp_width=24, positions=5))
    assert trunk.places is not None
    absolute = trunk(same_BLD, valid_BL)
    assert float((absolute[:, 0] - absolute[:, 1]).abs().max()) > 1e-2
    # The table is added to the embeddings, and where each stands may be said.
    plain = Transformer(CONFIG)
    plain.load_state_dict({name: w for name, w in trunk.state_dict().items() if not name.startswith("places")})
    torch.testing.assert_close(absolute, plain(same_BLD + trunk.places, valid_BL))
    order_BL = torch.tensor([[3, 0, 4, 1, 2]])
    torch.testing.assert_close(trunk(same_BLD, valid_BL, order_BL), absolute[:, order_BL[0]])
    with pytest.raises(ValueError, match="positions=5: the canvas has 6 positions"):
        trunk(torch.zeros(1, 6, 16), torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="positions=-1"):
        TransformerConfig(positions=-1)


def test_swiglu_matches_its_formula() -> None:
    mlp, x = SwiGLU(CONFIG).double(), numbers(3, 5, 16)
    gate = x @ mlp.gate.weight.T
    torch.testing.assert_close(mlp(x), (gate / (1 + (-gate).exp()) * (x @ mlp.up.weight.T)) @ mlp.down.weight.T)


def root_mean_square_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def attention_by_hand(layer: Attention, x: Tensor, valid: Tensor, base: float) -> Tensor:
    """One row ``[L, D]``, one head after the other, softmax over the valid positions."""
    width = x.shape[-1] // layer.heads
    q, k, v = (x @ part.T for part in layer.qkv.weight.chunk(3))
    heads = []
    for h in range(layer.heads):
        part = slice(h * width, (h + 1) * width)
        score = rotated_by_complex_numbers(q[:, part], base) @ rotated_by_complex_numbers(k[:, part], base).T
        score = (score / width**0.5).masked_fill(~valid, -torch.inf)
        heads.append(score.softmax(-1) @ v[:, part])
    return torch.cat(heads, dim=-1) @ layer.out.weight.T


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_the_trunk_matches_its_formula(eps: float) -> None:
    config = TransformerConfig(layers=2, width=16, heads=2, mlp_width=24, norm_eps=eps, rope_base=100.0)
    torch.manual_seed(0)
    trunk = Transformer(config).double()
    for name, parameter in trunk.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    x, valid = numbers(7, 16), torch.tensor([True] * 5 + [False] * 2)
    trunk.requires_grad_(False)
    expected = x
    for block in trunk.blocks:
        assert isinstance(block, Block)
        normed = root_mean_square_norm(expected, block.attention_norm.weight, eps)
        expected = expected + attention_by_hand(block.attention, normed, valid, 100.0)
        expected = expected + block.mlp(root_mean_square_norm(expected, block.mlp_norm.weight, eps))
    expected = root_mean_square_norm(expected, trunk.norm.weight, eps)
    torch.testing.assert_close(trunk(x[None], valid[None])[0], expected, rtol=0.0, atol=1e-5)


def test_what_is_written_to_the_stream_begins_smaller_with_depth() -> None:
    """A matrix begins with a variance of one over the width; what writes, with that over the number of writers."""
    torch.manual_seed(0)
    trunk = Transformer(TransformerConfig(layers=8, width=64, heads=2, mlp_width=64))
    for name, weight in trunk.named_parameters():
        if "norm" not in name:
            depth = 2 * 8 if name.endswith(("out.weight", "down.weight")) else 1
            assert float(weight.detach().square().mean()) == pytest.approx(1.0 / (64 * depth), rel=0.1), name


def test_a_position_embedding_is_added_to_what_goes_in() -> None:
    torch.manual_seed(0)
    told, plain = Transformer(replace(CONFIG, positions=5)).double(), Transformer(CONFIG).double()
    places = told.places
    assert places is not None
    plain.load_state_dict({name: value for name, value in told.state_dict().items() if name != "places"})
    x_BLD, valid_BL = numbers(2, 4, 16), torch.ones(2, 4, dtype=torch.bool)
    torch.testing.assert_close(told(x_BLD, valid_BL), plain(x_BLD + places[:4], valid_BL))
    # Told where each embedding stands, it takes the vectors of those places.
    position_BL = torch.tensor([[3, 0, 4, 1], [0, 1, 2, 3]])
    torch.testing.assert_close(
        told(x_BLD, valid_BL, position_BL), plain(x_BLD + places[position_BL], valid_BL, position_BL)
    )
    with pytest.raises(ValueError, match="positions=5: the canvas has 6 positions; give at least as many"):
        told(numbers(1, 6, 16), torch.ones(1, 6, dtype=torch.bool))


def test_the_published_170m_shape_is_reachable() -> None:
    config = TransformerConfig(layers=18, width=768, heads=12, mlp_width=3072)
    with torch.device("meta"):
        denoiser = TransformerDenoiser(32_000, config)
    assert sum(p.numel() for p in denoiser.trunk.parameters()) == 169_897_728
    assert denoiser.embedding.weight.shape == (32_001, 768)
    assert denoiser.head.weight.shape == (32_000, 768)
    assert not [name for name, _ in denoiser.named_parameters() if name.endswith("bias")]
    assert not list(denoiser.buffers())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 0}, "layers=0"),
        ({"heads": 0}, "heads=0"),
        ({"heads": -2}, "heads=-2"),
        ({"width": 0}, "width=0"),
        ({"mlp_width": 0}, "mlp_width=0"),
        ({"width": 100, "heads": 3}, "width=100 with heads=3"),
        ({"width": 12, "heads": 4}, "even"),
        ({"positions": -1}, "positions=-1: give the length of the canvas, or 0"),
    ],
)
def test_impossible_shapes_are_refused(shape: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**shape)
