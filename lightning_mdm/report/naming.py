"""What a policy is called in tables and figures, derived from its name and options alone.

Knows the shape of the options; knows no policy, so that one added tomorrow is named like the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

LOOP_OPTIONS = frozenset(
    {
        "answer_steps", "denoiser", "end_of_sequence", "guidance", "isolate_rows", "precision", "search", "selector",
        "source", "stages", "token_frequency", "token_temperature", "told",
    }
)  # fmt: skip
"""Options of the decoding loop and of the task, what a policy was told or its hash, the hash of a user's own code, and
the denoiser where several share a panel; every other option is a parameter of the policy."""
SAID_WHERE_USED = frozenset({"guidance", "search"})
"""Options that rows leave out where they are off."""


def display_name(policy: str, options: str) -> str:
    """The policy with its own parameters.

    ``top margin``, ``threshold 0.9`` (one parameter: its value says enough), ``noisy margin noise=gumbel, scale=0.5``,
    and for a policy that wraps another, ``blocks(8) of top margin``.

    Args:
        policy: name of the policy.
        options: JSON object; ``{"policy": {"name": ...}}`` is the wrapped policy.

    Raises:
        ValueError: when the options are not a JSON object.
    """
    parameters = {key: value for key, value in _parse(options).items() if key not in LOOP_OPTIONS}
    return _describe(policy, parameters)


def distinct_names(cells: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Display names of (policy, options) pairs, told apart: loop options on which the pairs differ are appended.

    E.g. ``top margin [end_of_sequence=close]`` where the rows hold both treatments of the end of the sequence. Of a
    policy with several parameters those are left out on which all its pairs agree: ``learned beta=2``, ``learned``.
    """
    cells = list(dict.fromkeys(cells))
    loop = {cell: {key: value for key, value in _parse(cell[1]).items() if key in LOOP_OPTIONS} for cell in cells}
    # A policy without an option, as the heuristics have no selector, says nothing about those with it.
    values = {
        key: {json.dumps(options.get(key)) for options in loop.values() if key in options or key in SAID_WHERE_USED}
        for key in LOOP_OPTIONS
    }
    # Policies of different files are told apart by their names.
    sources = {(policy, loop[policy, options].get("source")) for policy, options in cells}
    if len(sources) == len({policy for policy, _ in sources}):
        del values["source"]
    varying = [key for key in sorted(values) if len(values[key]) > 1]
    names = {}
    for cell in cells:
        suffix = ", ".join(f"{key}={_text(loop[cell][key])}" for key in varying if key in loop[cell])
        told = "" if competes(cell[1]) else " (told the answer)"
        names[cell] = display_name(cell[0], telling(cell, cells)) + told + (f" [{suffix}]" if suffix else "")
    return names


def telling(cell: tuple[str, str], cells: Iterable[tuple[str, str]]) -> str:
    """The options of a pair without those of several parameters that are the same for all pairs of its policy."""
    own = {key: value for key, value in _parse(cell[1]).items() if key not in LOOP_OPTIONS and value is not None}
    if len(own) < 2 or any(map(_is_policy, own.values())):
        return cell[1]
    others = [_parse(options) for policy, options in cells if policy == cell[0]]
    return json.dumps({key: value for key, value in own.items() if any(o.get(key) != value for o in others)})


def competes(options: str) -> bool:
    """Whether a policy can be better or worse than others: one that was told the response cannot."""
    return _parse(options).get("told") != "response"


def loop_options(options: str) -> dict[str, Any]:
    """The loop's share of the options."""
    return {key: value for key, value in sorted(_parse(options).items()) if key in LOOP_OPTIONS}


def _describe(name: str, parameters: Mapping[str, Any]) -> str:
    name = name.replace("_", " ")
    wrapped = [value for value in parameters.values() if _is_policy(value)]
    plain = {key: value for key, value in parameters.items() if value is not None and not _is_policy(value)}
    if len(plain) == 1 and not isinstance(next(iter(plain.values())), bool):
        arguments = _text(next(iter(plain.values())))
    else:
        arguments = ", ".join(f"{key}={_text(value)}" for key, value in plain.items())
    if not wrapped:
        return f"{name} {arguments}".strip()
    inner = " and ".join(
        _describe(str(value["name"]), {key: inner for key, inner in value.items() if key != "name"})
        for value in wrapped
    )
    return f"{name}({arguments}) of {inner}" if arguments else f"{name} of {inner}"


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
