"""The published layout of SMDM against a formulation of its own: same logits, there and back, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.smdm import by_head, by_kind, from_published, is_published, to_published
from lightning_mdm.nets.transformer import TransformerConfig

V = 23
CONFIG = TransformerConfig(layers=3, width=24, heads=3, mlp_width=40)


def random_state(config: TransformerConfig = CONFIG, seed: int = 0) -> dict[str, Tensor]:
    """Published tensors, every one of them random, norms included."""
    generator = torch.Generator().manual_seed(seed)
    D, M = config.width, config.mlp_width

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator)
        return drawn * shape[-1] ** -0.5 if len(shape) > 1 else 1.0 + 0.3 * drawn

    state = {"lm_head.weight": draw(V, D), "transformer.wte.weight": draw(V + 1, D)}
    for i in range(config.layers):
        state |= {
            f"transformer.h.{i}.norm_1.weight": draw(D),
            f"transformer.h.{i}.attn.attn.weight": draw(3 * D, D),
            f"transformer.h.{i}.attn.proj.weight": draw(D, D),
            f"transformer.h.{i}.norm_2.weight": draw(D),
            f"transformer.h.{i}.mlp.swiglu.w1.weight": draw(M, D),
            f"transformer.h.{i}.mlp.swiglu.w2.weight": draw(M, D),
            f"transformer.h.{i}.mlp.swiglu.w3.weight": draw(D, M),
        }
    return {**state, "transformer.ln_f.weight": draw(D)}


def by_the_book(state: dict[str, Tensor], heads: int, tokens_L: Tensor) -> Tensor:
    """Logits ``[L, V]`` of one sequence, from the published tensors alone: loops over heads and pairs of dimensions."""

    def norm(x_LD: Tensor, weight_D: Tensor) -> Tensor:
        return x_LD / (x_LD.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_D

    def turned(x_LK: Tensor) -> Tensor:
        L, K = x_LK.shape
        out_LK = torch.empty_like(x_LK)
        for j in range(K // 2):  # dimension j turns with dimension j + K / 2
            angle_L = torch.arange(L, dtype=x_LK.dtype) / 10_000.0 ** (2 * j / K)
            a_L, b_L = x_LK[:, j], x_LK[:, j + K // 2]
            out_LK[:, j] = a_L * angle_L.cos() - b_L * angle_L.sin()
            out_LK[:, j + K // 2] = a_L * angle_L.sin() + b_L * angle_L.cos()
        return out_LK

    x_LD = state["transformer.wte.weight"][tokens_L]
    K = x_LD.shape[1] // heads
    for i in range(sum(name.endswith("norm_1.weight") for name in state)):
        block = {name.removeprefix(f"transformer.h.{i}."): value for name, value in state.items()}
        y_LD = norm(x_LD, block["norm_1.weight"])
        mixed = []
        for h in range(heads):
            first = 3 * K * h  # of this head: K rows for the query, K for the key, K for the value
            q_KD, k_KD, v_KD = block["attn.attn.weight"][first : first + 3 * K].split(K)
            q_LK, k_LK, v_LK = turned(y_LD @ q_KD.T), turned(y_LD @ k_KD.T), y_LD @ v_KD.T
            mixed.append(torch.softmax(q_LK @ k_LK.T / K**0.5, dim=-1) @ v_LK)
        x_LD = x_LD + torch.cat(mixed, dim=-1) @ block["attn.proj.weight"].T
        y_LD = norm(x_LD, block["norm_2.weight"])
        inner_LM = F.silu(y_LD @ block["mlp.swiglu.w1.weight"].T) * (y_LD @ block["mlp.swiglu.w2.weight"].T)
        x_LD = x_LD + inner_LM @ block["mlp.swiglu.w3.weight"].T
    return norm(x_LD, state["transformer.ln_f.weight"]) @ state["lm_head.weight"].T


@pytest.mark.parametrize("shape", [(3, 24, 3, 40), (1, 16, 1, 8), (2, 16, 4, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_are_those_of_the_published_formulation(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    config = TransformerConfig(*shape)
    state = {name: value.to(dtype) for name, value in random_state(config).items()}
    denoiser = TransformerDenoiser(V, config).to(dtype)
    denoiser.load_state_dict(from_published(state, denoiser))
    tokens_BL = torch.randint(0, V + 1, (4, 19), generator=torch.Generator().manual_seed(1))  # V is the mask
    with torch.no_grad():
        logits_BLV = denoiser(tokens_BL, torch.ones_like(tokens_BL, dtype=torch.bool)).logits_BQV
    for row, tokens_L in enumerate(tokens_BL):
        wanted_LV = by_the_book(state, config.heads, tokens_L)
        assert 0.5 < wanted_LV.std() < 2.0
        torch.testing.assert_close(logits_BLV[row], wanted_LV, rtol=0.0, atol=1e-5)


def test_there_and_back() -> None:
    state = random_state()
    denoiser = TransformerDenoiser(V, CONFIG)
    ours = from_published(state, denoiser)
    back = to_published(ours, CONFIG)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], value) for name, value in state.items())
    assert set(ours) == set(denoiser.state_dict())


def test_the_rows_of_queries_keys_and_values() -> None:
    # Rows named head, kind, dimension: published they run head by head.
    published = torch.tensor([[100 * h + 10 * kind + k] for h in range(3) for kind in range(3) for k in range(2)])
    ours = [100 * h + 10 * kind + k for kind in range(3) for h in range(3) for k in range(2)]
    assert by_kind(published, 3)[:, 0].tolist() == ours
    assert torch.equal(by_head(by_kind(published, 3), 3), published)


def test_the_shapes_of_the_keys_at_170m() -> None:
    config = TransformerConfig(18, 768, 12, 3072)
    with torch.device("meta"):
        denoiser = TransformerDenoiser(32_000, config)
    shapes = {name: tensor.shape for name, tensor in to_published(denoiser.state_dict(), config).items()}
    assert len(shapes) == 3 + 7 * 18
    assert shapes["lm_head.weight"] == (32_000, 768)
    assert shapes["transformer.wte.weight"] == (32_001, 768)
    assert shapes["transformer.h.17.attn.attn.weight"] == (2304, 768)
    assert (
        shapes["transformer.h.0.mlp.swiglu.w1.weight"] == shapes["transformer.h.0.mlp.swiglu.w2.weight"] == (3072, 768)
    )
    assert shapes["transformer.h.0.mlp.swiglu.w3.weight"] == (768, 3072)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("lm_head.weight", None, r"lm_head.weight is missing; this net needs it with shape \(23, 24\)"),
        ("transformer.wte.weight", None, r"transformer.wte.weight is missing"),
        ("transformer.wte.weight", torch.zeros(V, 24), r"wte.weight has shape \(23, 24\), this net's is \(24, 24\)"),
        ("transformer.h.1.attn.attn.weight", torch.zeros(24, 24), r"h.1.attn.attn.weight has shape \(24, 24\)"),
        ("transformer.h.3.norm_1.weight", torch.zeros(24), r"h.3.norm_1.weight has no place in this net of 3 layers"),
        ("lm_head.bias", torch.zeros(V), r"lm_head.bias has no place"),
    ],
)
def test_what_does_not_fit_is_named(name: str, tensor: Tensor | None, message: str) -> None:
    state = random_state()
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    assert is_published(state)
    with pytest.raises(ValueError, match=message):
        from_published(state, TransformerDenoiser(V, CONFIG))


def test_learned_positions_have_no_place_there() -> None:
    config = TransformerConfig(layers=1, width=8, heads=2, mlp_width=8, positions=5)
    denoiser = TransformerDenoiser(V, config)
    with pytest.raises(ValueError, match=r"net.positions=5: the published layout knows rotary positions only"):
        to_published(denoiser.state_dict(), config)
    with pytest.raises(ValueError, match=r"net.positions=5"):
        from_published(random_state(), denoiser)


def test_our_own_names_are_not_published_ones() -> None:
    assert not is_published(TransformerDenoiser(V, CONFIG).state_dict())
