"""Functions and nets through ``torch.compile``, each once in a process. Knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch
import torch.fx.experimental._config

Given = ParamSpec("Given")
Out = TypeVar("Out")
PROGRAMS = 32  # of a function, before what is asked for beyond them runs uncompiled


def for_shapes_that_vary() -> None:
    """Tell the compiler what it would otherwise find out by compiling again."""
    # One program each with and without gradient, mask and further rows, and for other nets: torch's 8 are soon used up.
    torch._dynamo.config.recompile_limit = max(PROGRAMS, torch._dynamo.config.recompile_limit)
    # Sizes that are equal in the first batch, as examples and their states before the first step, are not one size.
    torch.fx.experimental._config.use_duck_shape = False


def compiled(function: Callable[Given, Out]) -> Callable[Given, Out]:
    """The same function, or net, compiled for shapes that vary; kept for as long as the process.

    Within a function that is being compiled it is that function itself, compiled along.
    """
    return function if torch.compiler.is_compiling() else compiled_once(function)


@cache
def compiled_once(function: Callable[Given, Out]) -> Callable[Given, Out]:
    for_shapes_that_vary()
    return torch.compile(function, dynamic=True)
