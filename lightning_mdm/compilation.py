"""Functions and nets through ``torch.compile``, each once in a process. Knows nothing of what they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Out = TypeVar("Out")


def compiled(function: Callable[Given, Out]) -> Callable[Given, Out]:
    """The same function, or net, compiled for shapes that vary; kept for as long as the process.

    Within a function that is being compiled it is that function itself, compiled along.
    """
    return function if torch.compiler.is_compiling() else _compiled(function)


@cache
def _compiled(function: Callable[Given, Out]) -> Callable[Given, Out]:
    return torch.compile(function, dynamic=True)
