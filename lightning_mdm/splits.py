"""Splits by content: a hash decides which of them may hold a problem; those to evaluate hold the first that differ."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

Made = TypeVar("Made")
SPLITS = ("validation", "test", "train")  # of the first bucket, of the second and of all others


def hashed_split(content: bytes, n_buckets: int) -> str:
    """The one split of a content: of so many buckets of hashes one is validation, one test, the rest training."""
    return SPLITS[min(2, zlib.crc32(content) % n_buckets)]


def first_different(
    make: Callable[[int], Made], content: Callable[[Made], Hashable], n: int, patience: int, known: Iterable[bytes] = ()
) -> dict[int, Made]:
    """The first ``n`` things made of 0, 1, 2, ... whose contents differ and are not ``known``, by number.

    Fewer where more than ``patience`` in a row do not.
    """
    found: dict[int, Made] = {}
    seen: set[Hashable] = set(known)
    k = repeats = 0
    while len(found) < n and repeats <= patience:
        made = make(k)
        key = content(made)
        repeats = repeats + 1 if key in seen else 0
        if not repeats:
            found[k] = made
            seen.add(key)
        k += 1
    return found
