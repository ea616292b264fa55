"""The published weights of SMDM (Nie et al., arXiv 2410.18514) and this project's own: one net in two layouts.

The net is ``TransformerDenoiser`` as it stands: pre-norm RMSNorm, rotary positions by halves, SwiGLU, no bias, an
untied head, no time input, and a mask token with an embedding but no logit. What differs are the names, and the order
of the rows that make queries, keys and values:

==================================  =======================================  ===================================
published                           here                                     shape
==================================  =======================================  ===================================
``transformer.wte.weight``          ``embedding.weight``                     [V + 1, D], the last row is the mask
``lm_head.weight``                  ``head.weight``                          [V, D]
``transformer.ln_f.weight``         ``trunk.norm.weight``                    [D]
``transformer.h.{i}.`` ...          ``trunk.blocks.{i}.`` ...
... ``norm_1.weight``               ... ``attention_norm.weight``            [D]
... ``attn.attn.weight``            ... ``attention.qkv.weight``             [3 D, D], see below
... ``attn.proj.weight``            ... ``attention.out.weight``             [D, D]
... ``norm_2.weight``               ... ``mlp_norm.weight``                  [D]
... ``mlp.swiglu.w1.weight``        ... ``mlp.gate.weight``                  [M, D]
... ``mlp.swiglu.w2.weight``        ... ``mlp.up.weight``                    [M, D]
... ``mlp.swiglu.w3.weight``        ... ``mlp.down.weight``                  [D, M]
==================================  =======================================  ===================================

The published rows run head by head: K rows of the first head's query, K of its key, K of its value, then the second
head's. Here they run kind by kind: the queries of all heads, the keys of all, the values of all. Knows no files.

Shapes: V vocabulary, D width, M inner width of SwiGLU, H heads, K = D / H.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from lightning_mdm.nets.denoiser import TransformerDenoiser
from lightning_mdm.nets.transformer import TransformerConfig

QKV = "attn.attn.weight"
OUTER = {
    "transformer.wte.weight": "embedding.weight",
    "lm_head.weight": "head.weight",
    "transformer.ln_f.weight": "trunk.norm.weight",
}
BLOCK = {
    "norm_1.weight": "attention_norm.weight",
    QKV: "attention.qkv.weight",
    "attn.proj.weight": "attention.out.weight",
    "norm_2.weight": "mlp_norm.weight",
    "mlp.swiglu.w1.weight": "mlp.gate.weight",
    "mlp.swiglu.w2.weight": "mlp.up.weight",
    "mlp.swiglu.w3.weight": "mlp.down.weight",
}


def is_published(names: Iterable[str]) -> bool:
    """Whether weights of these names are in the published layout, or meant to be."""
    return any(name.startswith(("transformer.", "lm_head.")) for name in names)


def key_map(layers: int) -> dict[str, str]:
    """Our name of every published one."""
    blocks = {
        f"transformer.h.{i}.{theirs}": f"trunk.blocks.{i}.{ours}"
        for i in range(layers)
        for theirs, ours in BLOCK.items()
    }
    return {**OUTER, **blocks}


def from_published(state: Mapping[str, Tensor], denoiser: TransformerDenoiser) -> dict[str, Tensor]:
    """Published weights under our names.

    Args:
        state: the published tensors, all of them and no others.
        denoiser: the net that they are for, without learned positions.

    Raises:
        ValueError: a tensor is missing, is one too many or has another shape; the message names its published key.
    """
    config, own = denoiser.trunk.config, denoiser.state_dict()
    check_positions(config)
    names = key_map(config.layers)
    for theirs, ours in names.items():
        shape = tuple(own[ours].shape)
        if theirs not in state:
            raise ValueError(f"{theirs} is missing; this net needs it with shape {shape}")
        if tuple(state[theirs].shape) != shape:
            raise ValueError(f"{theirs} has shape {tuple(state[theirs].shape)}, this net's is {shape}")
    for theirs in state:
        if theirs not in names:
            raise ValueError(f"{theirs} has no place in this net of {config.layers} layers")
    return {
        ours: by_kind(state[theirs], config.heads) if theirs.endswith(QKV) else state[theirs]
        for theirs, ours in names.items()
    }


def to_published(state: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The weights of a ``TransformerDenoiser`` under their published names: the inverse of ``from_published``.

    Raises:
        ValueError: the net has learned positions, for which the published layout has no place.
    """
    check_positions(config)
    return {
        theirs: by_head(state[ours], config.heads) if theirs.endswith(QKV) else state[ours]
        for theirs, ours in key_map(config.layers).items()
    }


def check_positions(config: TransformerConfig) -> None:
    """Refuse learned positions."""
    if config.positions:
        raise ValueError(f"net.positions={config.positions}: the published layout knows rotary positions only; give 0")


def by_kind(rows: Tensor, heads: int) -> Tensor:
    """Rows that run head by head (its query, key, value) in the order kind by kind (the queries of all heads, ...)."""
    return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def by_head(rows: Tensor, heads: int) -> Tensor:
    """Rows that run kind by kind in the order head by head."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)
