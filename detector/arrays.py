"""Checks of arrays that were read from somewhere: compiled code looks at places without asking whether they exist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Shape = tuple[int | None, ...]
"""Lengths of an array's dimensions, None for any."""


def check_arrays(owner: str, arrays: Mapping[str, NDArray[Any]], wanted: Mapping[str, tuple[DTypeLike, Shape]]) -> None:
    """Refuse arrays that are not of the types and shapes that they are used as, or hold what is no number.

    Args:
        owner: Whose they are, for the message.
        arrays: By name; others than those of `wanted` are not looked at.
        wanted: Type and shape by name.

    Raises:
        KeyError: One is missing.
        ValueError: One is of another type or shape, or has a value that is not finite.
    """
    for name, (kind, shape) in wanted.items():
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(
            there == asked for there, asked in zip(array.shape, shape, strict=True) if asked is not None
        )
        if array.dtype != np.dtype(kind) or not fits:
            raise ValueError(
                f"{owner}: {name} is {array.dtype} {array.shape}, not {np.dtype(kind)} "
                f"({', '.join('any' if length is None else str(length) for length in shape)}): it is damaged"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{owner}: {name} has a value that is not finite: it is damaged")


def check_places(owner: str, name: str, places: NDArray[Any], count: int) -> None:
    """Refuse places that are not those of `count` things.

    Raises:
        ValueError: One is below 0 or beyond.
    """
    if len(places) and not (int(places.min()) >= 0 and int(places.max()) < count):
        raise ValueError(f"{owner}: {name} points beyond {count}: it is damaged")


def check_numbers(owner: str, values: Mapping[str, Any]) -> None:
    """Refuse values by name that are no finite numbers.

    Raises:
        ValueError: One is another thing, a truth value included.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{owner}: {name} is {value!r:.40}, not a finite number: it is damaged")
