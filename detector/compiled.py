"""Functions compiled for the machine they run on, once where there is a place to keep what was compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compiled for the types that it is called with, once on a machine. Arithmetic is IEEE's: nothing is reordered."""
    try:
        return cast("_Function", njit(cache=True, error_model="numpy", nogil=True)(function))
    except RuntimeError:  # nowhere to keep the compiled code: it is compiled anew in each process
        return cast("_Function", njit(error_model="numpy", nogil=True)(function))


def inlined(function: _Function) -> _Function:
    """A part of a compiled function, compiled into it."""
    return cast("_Function", njit(inline="always", error_model="numpy")(function))
