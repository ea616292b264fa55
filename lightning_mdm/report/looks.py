"""Colour and marker of every policy, the same in every figure, by its name alone.

Knows names that policies have in rows; knows no policy, and gives one that it has never heard of a look that is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from zlib import crc32

# Okabe and Ito's palette, told apart by the colour-blind, without the yellow, which is illegible on white; grey stands
# in for it. Black is nobody's: it is the optimum's.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, GREY, BLACK = "#56B4E9", "#E69F00", "#7F7F7F", "#000000"

LEARNED = "learned"
"""The policy that figures are about: in front of the others, and stronger."""
KNOWN = {
    "iid": (GREY, "o"),
    "top_probability": (PURPLE, "s"),
    "top_margin": (GREEN, "^"),
    "entropy": ("#26359B", "v"),
    "noisy": ("#B04FD8", "X"),
    "pc_sampler": ("#B8003F", "p"),
    "left_to_right": ("#8DB255", "<"),
    "dilated": ("#1FB5C4", ">"),
    "confidence_threshold": (SKY, "D"),
    "confidence_factor": (BLUE, "h"),
    "entropy_bounded": (ORANGE, "P"),
    "klass": ("#7A0A66", ">"),
    "prophet": ("#A88B00", "h"),
    "blocks": ("#3D5AFE", "s"),
    "p2": ("#14707A", "D"),
    "remdm": ("#86B5B0", "X"),
    "given_order": ("#9F82E8", "v"),
    "oracle": ("#0F4A2C", "P"),
    LEARNED: (VERMILLION, "o"),
    "autoregressive": ("#4A5210", "^"),
}
"""Hue and first marker. So many hues are not all told apart by the colour-blind: similar ones differ in the marker."""
LEFT = ("#DD9999", "#7B3FF2", "#A3195B", "#5F7F8C", "#9E7B4F")
"""Hues of all others."""
MARKERS = ("o", "s", "^", "v", "D", "<", ">", "h", "p", "X", "P")
_LOOKS_LEFT = tuple(product(LEFT, MARKERS))
_DARKEST, _STEP = 0.5, 0.3  # of the hue: what the last of many options keeps; what the second of two loses


@dataclass(frozen=True)
class Look:
    """How a curve is drawn.

    Args:
        colour: as matplotlib takes it.
        marker: likewise.
        strong: whether it stands out: thicker, and in front of the others.
    """

    colour: str
    marker: str
    strong: bool = False


def looks(curves: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """The look of every curve of a figure.

    A policy has its hue and its first marker whatever else is drawn. Of several options the first has just these; the
    others have darker shades and the markers that follow. Of policies that are not in ``KNOWN`` each has one of the
    looks that are left, by its name alone as long as no other in the figure falls on the same one.

    Args:
        curves: display name and policy of each, in the order of the rows.
    """
    names: dict[str, list[str]] = {}
    for name, policy in dict(curves).items():
        names.setdefault(policy, []).append(name)
    found = {}
    for policy, (hue, first) in _firsts(names).items():
        shades, start = _shades(hue, len(names[policy])), MARKERS.index(first)
        for k, (name, shade) in enumerate(zip(names[policy], shades, strict=True)):
            found[name] = Look(shade, MARKERS[(start + k) % len(MARKERS)], policy == LEARNED)
    return found


def _firsts(policies: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Hue and first marker of every policy."""
    found = {policy: KNOWN[policy] for policy in policies if policy in KNOWN}
    taken: set[int] = set()
    for policy in sorted(set(policies) - found.keys()):  # not as they come: rows in another order change nothing
        place = crc32(policy.encode()) % len(_LOOKS_LEFT)
        while place in taken and len(taken) < len(_LOOKS_LEFT):
            place = (place + 1) % len(_LOOKS_LEFT)
        taken.add(place)
        found[policy] = _LOOKS_LEFT[place]
    return found


def _shades(hue: str, n: int) -> list[str]:
    """The hue and darker ones, in equal steps."""
    step = min(_STEP, (1.0 - _DARKEST) / max(1, n - 1))
    parts = [int(hue[i : i + 2], 16) for i in (1, 3, 5)]
    return ["#" + "".join(f"{round(part * (1.0 - k * step)):02X}" for part in parts) for k in range(n)]
