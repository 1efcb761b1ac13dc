"""How rare values are among those of normal records, in decades: fitted tails of columns, and what to make of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled, inlined

LEAST_EXCEEDANCES = 20
"""Fewer values than this fit no tail: a small sample lends it values below its last hundredth."""

SHAPES = (0.02, 0.9)
"""Least and greatest shape of a tail: never a hard end, never without a mean, and always growing like a logarithm."""

LEAST_START = 1e-3
"""Smallest 90% point by which a value below it is divided."""

_DECADE = 1 / math.log(10)
_NEARLY = 1.0 - 1e-5


def fit_tails(sample: NDArray[np.floating[Any]], least_spread: float) -> NDArray[np.float64]:
    """What `beyond` needs to know of columns: learned from normal records.

    Args:
        sample: Values of normal records, (n, m).
        least_spread: Smallest scale of a tail and smallest distance of the 90% point from the 99% point.

    Returns:
        Rows of an array (5, m): the 90% point, the distance to the 99% point, the 99% point, scale and shape of the
        generalised Pareto tail from there.

    Source: Hosking and Wallis, "Parameter and Quantile Estimation for the Generalized Pareto Distribution",
        Technometrics 29, 1987 (the estimate by probability-weighted moments).
    """
    n = len(sample)
    count = max(1, min(max(LEAST_EXCEEDANCES, round(n * 0.01)), n // 2))
    wider = max(1, min(max(2 * LEAST_EXCEEDANCES, round(n * 0.1)), n * 2 // 3))
    ordered = np.sort(sample, axis=0).astype(np.float64)
    start, high = ordered[max(n - wider - 1, 0)], ordered[max(n - count - 1, 0)]
    excess = ordered[n - count :] - high  # (count, m), ascending
    mean = excess.mean(axis=0)
    weights = (count - np.arange(1, count + 1)) / max(count - 1, 1)
    weighted = (excess * weights[:, None]).mean(axis=0)
    shape = np.clip(2.0 - mean / np.maximum(mean - 2.0 * weighted, 1e-12), *SHAPES)
    scale = np.maximum((1.0 - shape) * mean, least_spread)
    return np.stack([start, np.maximum(high - start, least_spread), high, scale, shape])


def beyond(values: NDArray[np.floating[Any]], tails: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How many decades rarer than one in ten each value is, (m, n): 0 up to the 90% point of its column.

    In a straight line to 1 at the 99% point, then by the generalised Pareto tail, which has no end.

    Args:
        values: (m, n): the values of a column one after the other.
        tails: What `fit_tails` found, (5, m).
    """
    found = np.empty(values.shape)
    _each(values, tails, False, found)
    return found


def rarity(values: NDArray[np.floating[Any]], tails: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Rarity of values (m, n) of at least 0, in decades: up to 1 at the 90% point in a straight line, then `beyond`."""
    found = np.empty(values.shape)
    _each(values, tails, True, found)
    return found


@inlined
def _beyond(value: float, start: float, width: float, high: float, scale: float, shape: float) -> float:
    rise = min((value - start) / width, 1.0)
    if value > high:
        rise += math.log1p((value - high) / scale * shape) / shape * _DECADE
    return rise


@compiled
def _each(values: NDArray[Any], tails: NDArray[Any], inside: bool, found: NDArray[np.float64]) -> None:  # noqa: FBT001
    for column in range(values.shape[0]):
        start, width, high, scale, shape = tails[:, column]
        whole = max(start, LEAST_START)
        for row in range(values.shape[1]):
            value = values[column, row]
            rare = _beyond(value, start, width, high, scale, shape) if value > start else 0.0
            found[column, row] = rare + min(max(value / whole, 0.0), 1.0) if inside else rare


@compiled
def mean_squares(columns: NDArray[Any], found: NDArray[np.float64]) -> None:
    """Means of the squares of columns (m, n), into `found` (n,), which holds zeros."""
    for column in range(columns.shape[0]):
        for row in range(columns.shape[1]):
            value = float(columns[column, row])
            found[row] += value * value
    found /= columns.shape[0]


@compiled
def add_up(columns: NDArray[Any], tails: NDArray[Any], sums: NDArray[np.float64]) -> None:
    """Add what is `beyond` in columns (m, n) to `sums` (n,)."""
    for column in range(columns.shape[0]):
        start, width, high, scale, shape = tails[:, column]
        for row in range(columns.shape[1]):
            value = columns[column, row]
            if value > start:
                sums[row] += _beyond(value, start, width, high, scale, shape)


@compiled
def keep_largest(columns: NDArray[Any], tails: NDArray[Any], largest: NDArray[np.float64]) -> None:
    """Raise `largest` (n,) of at least 0 to what is `beyond` in columns (m, n), where that is more.

    What lies in a straight line first. Then most logarithms are not taken: a value beyond the 99% point can only be
    more if its excess is more than e^y - 1, y being what is lacking, and that is more than the first terms of its
    series. All records are asked at once, as a branch for each would mostly be foretold wrongly.
    """
    may_be_more = np.empty(columns.shape[1], np.bool_)
    for column in range(columns.shape[0]):
        start, width = tails[0, column], tails[1, column]
        for row in range(columns.shape[1]):
            rise = min((columns[column, row] - start) / width, 1.0)
            largest[row] = rise if rise > largest[row] else largest[row]  # noqa: FURB136 - `max` is compiled to branches
    for column in range(columns.shape[0]):
        start, width, high, scale, shape = tails[:, column]
        exponent, slope = shape / _DECADE * _NEARLY, shape / scale
        count = 0
        for row in range(columns.shape[1]):
            lacking = (largest[row] - 1.0) * exponent
            least = lacking * (1.0 + lacking * (0.5 + lacking / 6.0))
            excess = (columns[column, row] - high) * slope
            may_be_more[row] = (excess > 0.0) & (excess >= least)
            count += may_be_more[row]
        if count > 0:
            for row in range(columns.shape[1]):
                if may_be_more[row]:
                    value = columns[column, row]
                    largest[row] = max(largest[row], _beyond(value, start, width, high, scale, shape))
