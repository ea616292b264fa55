"""Denoisers by their configuration: a transformer's shape, or a law whose formula is the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeAlias

from lightning_mdm.laws.hop_chain import HopChain
from lightning_mdm.laws.markov_chain import MarkovChain
from lightning_mdm.laws.nae_sat import NaeSat
from lightning_mdm.nets.denoiser import ReadableDenoiser, TransformerDenoiser
from lightning_mdm.nets.laws import law_denoiser
from lightning_mdm.nets.transformer import TransformerConfig

NetConfig: TypeAlias = TransformerConfig | HopChain | MarkovChain | NaeSat
KINDS: tuple[type[NetConfig], ...] = (TransformerConfig, HopChain, MarkovChain, NaeSat)


def build_denoiser(config: NetConfig, vocab_size: int) -> ReadableDenoiser:
    """The denoiser of a configuration.

    Raises:
        ValueError: a law of another vocabulary.
    """
    if isinstance(config, TransformerConfig):
        return TransformerDenoiser(vocab_size, config)
    denoiser = law_denoiser(config)
    if denoiser.vocab_size != vocab_size:
        raise ValueError(
            f"model.net: this {type(config).__name__} has {denoiser.vocab_size} tokens, the data {vocab_size}; "
            "give both the same law"
        )
    return denoiser


def net_from_plain(config: NetConfig | Mapping[str, Any]) -> NetConfig:
    """The configuration from the plain values of ``dataclasses.asdict``; one that is no mapping stays what it is.

    No kind has all options of another, so that these say which kind it is; those that a kind has gained since a
    checkpoint was written are missing in it.
    """
    if not isinstance(config, Mapping):
        return config
    kind = next(kind for kind in KINDS if {option.name for option in fields(kind)} >= set(config))
    return kind(**config)
