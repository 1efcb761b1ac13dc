"""Generalised Pareto distributions of ascending excesses over a level: compiled loops over one array each.

Arithmetic is IEEE's, and nothing is reordered: the same excesses give the same bits in any process of a machine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.compiled import compiled, inlined

MOST_SHAPE = 0.5
"""Heavier tails are not believed: what is estimated beyond it extrapolates wildly."""

LEAST_SHAPE = -0.5
"""Nor are harder ends: below it the likelihood has no maximum that can be trusted."""

SHAPE_WEIGHT = 2.0
"""Power of each limit's distance in the prior of a shape: a beta distribution of (3, 3) between the limits.

Its standard deviation is .19. A shape fitted to a few dozen excesses scatters by as much, and is drawn to 0 by it; one
fitted to thousands hardly feels it.
"""

_LEAST_DEPARTURE = 1e-4
"""A shape this near to 0 is taken to be this far: a hundredth of its error, and formulas without a special case."""

_ROUNDS = 30
_CLOSE_ENOUGH = 1e-6
_AT_ONCE = 8


@inlined
def _log_survival(excess: float, shape: float) -> float:
    """Logarithm of the probability beyond an excess in units of the scale."""
    inside = 1.0 + shape * excess
    return -math.log(inside) / shape if inside > 0.0 else -np.inf


@inlined
def _logarithm_of_prior(shape: float) -> float:
    return SHAPE_WEIGHT * math.log((shape - LEAST_SHAPE) * (MOST_SHAPE - shape))


@inlined
def _likelihood(excesses: NDArray[np.float64], scale: float, shape: float) -> tuple[float, float, float]:
    """Logarithm of the likelihood, and its slopes along shape and logarithm of the scale."""
    logarithm = slope = 0.0
    product, waiting = 1.0, 0
    for excess in excesses:
        along = shape * excess / scale
        inside = 1.0 + along
        slope += along / inside
        product *= inside  # one logarithm for several: it is what costs
        waiting += 1
        if waiting == _AT_ONCE:
            logarithm += math.log(product)
            product, waiting = 1.0, 0
    logarithm += math.log(product)
    count, power = len(excesses), 1.0 + 1.0 / shape
    along_shape = logarithm / (shape * shape) - power * slope / shape
    return -count * math.log(scale) - power * logarithm, along_shape, power * slope - count


@compiled
def fit_pareto(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shape of the greatest likelihood times prior, of ascending excesses (k,) that are not all the same.

    By Fisher's scoring from the estimate of moments: each step divides the slopes by the information that k excesses
    are expected to hold, and is halved until it climbs. It ends where a step is a thousandth of the standard error.

    Sources: Coles and Dixon, "Likelihood-Based Inference for Extreme Value Models", Extremes 2, 1999, and Martins and
        Stedinger, "Generalized Maximum-Likelihood Generalized Extreme-Value Quantile Estimators", Water Resources
        Research 36, 2000 (a penalty on the shape, and a beta distribution as its prior); Smith, "Estimating Tails of
        Probability Distributions", Annals of Statistics 15, 1987 (the information).
    """
    count, largest = len(excesses), excesses[-1]
    mean = excesses.mean()
    by_moments = 0.5 - 0.5 * mean * mean / max(((excesses - mean) ** 2).mean(), 1e-30 * mean * mean)
    shape = min(max(by_moments, -0.3), 0.3)
    shape = _LEAST_DEPARTURE if abs(shape) < _LEAST_DEPARTURE else shape
    scale = max((1.0 - shape) * mean, -1.01 * shape * largest)
    likelihood, along_shape, along_scale = _likelihood(excesses, scale, shape)
    height = likelihood + _logarithm_of_prior(shape)
    for _ in range(_ROUNDS):
        from_low, from_high = shape - LEAST_SHAPE, MOST_SHAPE - shape
        along_shape += SHAPE_WEIGHT * (1.0 / from_low - 1.0 / from_high)
        width = 1.0 + 2.0 * shape
        of_shape = 2.0 * count / ((1.0 + shape) * width) + SHAPE_WEIGHT * (from_low**-2.0 + from_high**-2.0)
        of_both, of_scale = count / ((1.0 + shape) * width), count / width
        determinant = of_shape * of_scale - of_both * of_both
        shape_step = (along_shape * of_scale - along_scale * of_both) / determinant
        scale_step = (along_scale * of_shape - along_shape * of_both) / determinant
        gain = along_shape * shape_step + along_scale * scale_step
        part, climbed = 1.0, False
        while part > 1e-3 and not climbed:
            new_shape, new_scale = shape + part * shape_step, scale * math.exp(part * scale_step)
            new_shape = _LEAST_DEPARTURE if abs(new_shape) < _LEAST_DEPARTURE else new_shape
            if LEAST_SHAPE < new_shape < MOST_SHAPE and new_scale > -new_shape * largest:
                likelihood, along_shape, along_scale = _likelihood(excesses, new_scale, new_shape)
                new_height = likelihood + _logarithm_of_prior(new_shape)
                climbed = new_height >= height - 1e-10 * count
            part *= 0.5
        if not climbed:
            break
        shape, scale, height = new_shape, new_scale, new_height
        if gain < _CLOSE_ENOUGH:
            break
    return scale, shape


@compiled
def upper_distance(excesses: NDArray[np.float64], scale: float, shape: float) -> float:
    """The upper-tail Anderson-Darling distance of ascending excesses (k,) from a generalised Pareto distribution.

    Departures count the more the further out they are: it is the end that is extrapolated.

    Source: Sinclair, Spurr and Ahmad, "Modified Anderson Darling Test", Communications in Statistics, Theory and
        Methods 19, 1990.
    """
    count = len(excesses)
    below = weighted = 0.0
    for place in range(count):
        survival = _log_survival(excesses[place] / scale, shape)
        below -= math.expm1(survival)
        weighted += (2.0 - (2.0 * place + 1.0) / count) * survival
    return 0.5 * count - 2.0 * below - weighted


@inlined
def _share_beyond(tails: NDArray[np.float64], score: float) -> float:
    total = weights = 0.0
    for tail in tails:
        level, share, scale, shape = tail
        excess = (score - level) / scale
        survival = 1.0 if excess <= 0.0 else math.exp(_log_survival(excess, shape))
        total += share * share * survival
        weights += share
    return total / weights


@compiled
def share_beyond(tails: NDArray[np.float64], scores: NDArray[np.float64], found: NDArray[np.float64]) -> None:
    """The share beyond each score (n,) by several tails (m, 4), each with the weight of its share, into `found` (n,).

    Args:
        tails: Level, share, scale and shape of each; shapes are not 0.
        scores: Up to the level of a tail, its share.
        found: Takes the shares.
    """
    for place in range(len(scores)):
        found[place] = _share_beyond(tails, scores[place])


@compiled
def score_beyond(tails: NDArray[np.float64], rate: float) -> Any:
    """The score that a share `rate`, below that of each tail (m, 4), lies beyond: the inverse of `share_beyond`."""
    low, high = np.inf, -np.inf
    for tail in tails:  # what they say together is between what they say one by one
        level, share, scale, shape = tail
        score = level + scale * (math.expm1(-shape * math.log(rate / share)) / shape)
        low, high = min(low, score), max(high, score)
    most = np.finfo(np.float64).max
    low, high = min(low, most), min(high, most)
    for _ in range(80):
        middle = low + 0.5 * (high - low)
        if middle <= low or middle >= high:
            break
        if _share_beyond(tails, middle) > rate:
            low = middle
        else:
            high = middle
    return high
