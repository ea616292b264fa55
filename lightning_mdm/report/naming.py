"""What a policy is called in tables and figures, derived from its name and options alone.

Knows the shape of the options; knows no policy, so that one added tomorrow is named like the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LOOP_OPTIONS = frozenset(
    {
        "answer_steps", "denoiser", "end_of_sequence", "guidance", "isolate_rows", "posterior", "precision", "search",
        "selector", "source", "stages", "token_frequency", "token_temperature", "told",
    }
)  # fmt: skip
"""Options of the decoding loop and of the task, what a policy was told or its hash, the approximate posterior's, the
hash of a user's own code, and the denoiser where several share a panel; every other option is a parameter of the
policy."""
TOLD_BY = {"posterior": "selector", "selector": "denoiser", "source": "policy", "token_frequency": "denoiser"}
"""Options that weights or tasks decide, and what tells one of them where that has no other beside it: a policy of one's
own has a name, an order the denoiser that it was learned for, an approximate posterior the selector."""
SAID_WHERE_USED = frozenset({"guidance", "search"})
"""Options that rows leave out where they are off."""


def display_name(policy: str, options: str) -> str:
    """The policy with its own parameters, in the order of the options.

    ``top margin``, ``threshold 0.9`` (the only parameter it has: its value says enough, unless it is ``true``,
    ``false`` or a price), ``remdm eta=0.1, ranking=random``, and for a policy that wraps another, ``blocks(8) of top
    margin``.

    Args:
        policy: name of the policy.
        options: JSON object; ``{"policy": {"name": ...}}`` is the wrapped policy.

    Raises:
        ValueError: when the options are not a JSON object.
    """
    parameters = _parameters(options)
    return _describe(policy, parameters, _bare(parameters))


def distinct_names(*panels: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Display names of the (policy, options) pairs of some panels, told apart by what they differ in.

    Of a policy with several parameters those are left out on which all its pairs agree; the others keep their names:
    ``learned beta=1`` beside ``learned beta=2``, and ``learned`` alone. The only parameter that a policy has is always
    shown, as its value. Loop options on which the pairs differ are appended, e.g. ``top margin
    [end_of_sequence=close]`` where the rows hold both treatments of the end of the sequence; those that weights or
    tasks decide (``TOLD_BY``) only where a panel holds several that nothing else tells apart. What was told the answer
    says so.

    A pair has one name in all panels; pairs that share no panel may have the same.
    """
    held = [list(dict.fromkeys(panel)) for panel in panels]
    cells = list(dict.fromkeys(cell for panel in held for cell in panel))
    loop = {cell: loop_options(cell[1]) for cell in cells}
    # A policy without an option, as the heuristics have no selector, says nothing about those with it.
    values = {
        key: {json.dumps(options.get(key)) for options in loop.values() if key in options or key in SAID_WHERE_USED}
        for key in LOOP_OPTIONS - TOLD_BY.keys()
    }
    # By value, not by pair: rows of another kind, with other options, are called alike.
    said = {(key, value) for key, found in values.items() if len(found) > 1 for value in found}
    for panel in held:
        for key, by in TOLD_BY.items():
            having = [{"policy": cell[0], **loop[cell]} for cell in panel if key in loop[cell]]
            told = {(str(options.get(by)), json.dumps(options[key])) for options in having}
            if len(told) > len({teller for teller, _ in told}):
                said |= {(key, value) for _, value in told}
    own: dict[str, list[dict[str, Any]]] = {}
    for policy, options in cells:
        own.setdefault(policy, []).append(_parameters(options))
    names = {}
    for cell in cells:
        suffix = ", ".join(
            f"{key}={_text(value)}" for key, value in loop[cell].items() if (key, json.dumps(value)) in said
        )
        told_it = "" if competes(cell[1]) else " (told the answer)"
        names[cell] = _own_name(cell, own[cell[0]]) + told_it + (f" [{suffix}]" if suffix else "")
    return names


def _own_name(cell: tuple[str, str], alike: Sequence[Mapping[str, Any]]) -> str:
    """The policy of a pair with those of its parameters that tell it from others of the policy.

    Args:
        cell: the pair.
        alike: the parameters of all pairs of the policy.
    """
    policy, options = cell
    parameters = _parameters(options)
    known = {key: value for other in alike for key, value in other.items()}
    bare = _bare(known)
    if bare or any(map(_is_policy, known.values())):
        return _describe(policy, parameters, bare)
    told = {key: value for key, value in parameters.items() if any(other.get(key) != value for other in alike)}
    return _describe(policy, told, bare=False)


def competes(options: str) -> bool:
    """Whether a policy can be better or worse than others: one that was told the response cannot."""
    return _parse(options).get("told") != "response"


def loop_options(options: str) -> dict[str, Any]:
    """The loop's share of the options."""
    return {key: value for key, value in sorted(_parse(options).items()) if key in LOOP_OPTIONS}


def _parameters(options: str) -> dict[str, Any]:
    """The policy's share of the options."""
    return {key: value for key, value in _parse(options).items() if key not in LOOP_OPTIONS}


def _bare(parameters: Mapping[str, Any]) -> bool:
    """Whether a policy of these parameters has a single one, beside the policy that it wraps: one without a name."""
    return len([value for value in parameters.values() if not _is_policy(value)]) == 1


def _describe(name: str, parameters: Mapping[str, Any], bare: bool) -> str:
    """Name and parameters that have a value, without the parameters' own names where ``bare``."""
    name = name.replace("_", " ")
    wrapped = [value for value in parameters.values() if _is_policy(value)]
    plain = {key: value for key, value in parameters.items() if value is not None and not _is_policy(value)}
    arguments = ", ".join(
        _text(value) if bare and key != "price" and not isinstance(value, bool) else f"{key}={_text(value)}"
        for key, value in plain.items()
    )
    if not wrapped:
        return f"{name} {arguments}".strip()
    inner = " and ".join(_describe_wrapped(value) for value in wrapped)
    return f"{name}({arguments}) of {inner}" if arguments else f"{name} of {inner}"


def _describe_wrapped(policy: Mapping[str, Any]) -> str:
    parameters = {key: value for key, value in policy.items() if key != "name"}
    return _describe(str(policy["name"]), parameters, _bare(parameters))


def _is_policy(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" in value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parse(options: str) -> dict[str, Any]:
    try:
        parsed = json.loads(options)
    except ValueError as error:
        raise ValueError(f"options must be a JSON object, got {options!r}: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"options must be a JSON object, got {options!r}")
    return parsed
