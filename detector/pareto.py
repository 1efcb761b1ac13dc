"""Generalised Pareto tails: fitted to the excesses over a level by several estimators, with a test of whether they fit.

Source: Pickands, "Statistical Inference Using Extreme Order Statistics", Annals of Statistics 3, 1975 (excesses over a
    high level have this distribution, whatever the law).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_SHAPE = 0.5
"""Heavier tails are not believed: what is estimated beyond it extrapolates wildly."""

LEAST_SHAPE = -0.5
"""Nor are harder ends: below it the likelihood has no maximum that can be trusted."""

MOST_DISTANCE = 1.3
"""Anderson-Darling distance beyond which a fit is refused: about 1 in 50 where the tail is a Pareto's."""

_GRID = 60
_ROUNDS = 40


@dataclass(frozen=True)
class ParetoTail:
    """The upper tail of scores: how they are distributed beyond a level.

    Attributes:
        level: Where the tail begins, in units of the scores.
        share: Probability of a score beyond the level.
        scale: Of the excesses, in units of the scores.
        shape: Above 0 for tails without end, 0 for exponential ones, below for those with a hard end.
    """

    level: float
    share: float
    scale: float
    shape: float

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of a score beyond each, (n,); 1 up to the level: a tail says nothing of what is below."""
        excess = np.maximum(scores - self.level, 0.0) / self.scale
        if abs(self.shape) < 1e-9:
            survival = np.exp(-excess)
        else:
            survival = np.maximum(1.0 + self.shape * excess, 0.0) ** (-1.0 / self.shape)
        return np.where(scores > self.level, self.share * survival, 1.0)

    def score_at(self, rate: float) -> float:
        """The score beyond which a share `rate` lies; `rate` is at most `share`."""
        ratio = rate / self.share
        if abs(self.shape) < 1e-9:
            return self.level - self.scale * float(np.log(ratio))
        return self.level + self.scale / self.shape * (float(ratio**-self.shape) - 1.0)


def fit_tails_beyond(ordered: NDArray[np.float64], count: int) -> list[ParetoTail]:
    """Tails of the highest `count` of ascending scores, by each estimator; none where one of them does not fit.

    Estimators that disagree so much that one of them does not fit the scores speak of a tail in several pieces, whose
    end no fit of all of it tells. Excesses are divided by their mean first: large scores would be lost in rounding.
    """
    n = len(ordered)
    level = float(ordered[n - count - 1])
    excesses = ordered[n - count :] - level
    mean = float(excesses.mean())
    if not mean > 0 or excesses[0] == excesses[-1]:
        return []
    relative = excesses / mean
    tails = []
    for scale, shape in (fit_by_likelihood(relative), fit_by_moments(relative)):
        tail = ParetoTail(level, count / n, scale * mean, shape)
        if _distance(1 - tail.probability(ordered[n - count :]) / tail.share) > MOST_DISTANCE:
            return []
        tails.append(tail)
    return tails


def fit_by_likelihood(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shape of the greatest likelihood, of excesses (n,) with a mean of 1.

    Along theta = shape / scale the best shape is the mean of log(1 + theta * excess), so that one parameter is
    searched: on a grid, then by golden sections. A shape beyond the limits is held there, with the scale that keeps the
    mean.

    Source: Grimshaw, "Computing Maximum Likelihood Estimates for the Generalized Pareto Distribution", Technometrics
        35, 1993.
    """
    largest = float(excesses.max())
    below = -(1 - np.geomspace(1e-6, 0.999, _GRID)) / largest
    grid = np.concatenate([below, [0.0], np.geomspace(1e-3, 200.0, _GRID)])
    likelihoods = [_profile(theta, excesses)[0] for theta in grid]
    best = int(np.argmax(likelihoods))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(_ROUNDS):
        left, right = high - 0.618 * (high - low), low + 0.618 * (high - low)
        if _profile(left, excesses)[0] > _profile(right, excesses)[0]:
            high = right
        else:
            low = left
    candidates = [_profile(theta, excesses) for theta in ((low + high) / 2, grid[best], 0.0)]
    _, scale, shape = max(candidates)
    return _limited(scale, shape)


def fit_by_moments(excesses: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shape by mean and variance, of excesses (n,) with a mean of 1.

    Source: Hosking and Wallis, "Parameter and Quantile Estimation for the Generalized Pareto Distribution",
        Technometrics 29, 1987.
    """
    ratio = 1.0 / float(excesses.var())
    return _limited(0.5 * (1.0 + ratio), 0.5 * (1.0 - ratio))


def _profile(theta: float, excesses: NDArray[np.float64]) -> tuple[float, float, float]:
    """Logarithm of the likelihood at theta with the best shape for it, scale and shape."""
    if abs(theta) < 1e-9:
        return -len(excesses) * 1.0, 1.0, 0.0
    shape = float(np.log1p(theta * excesses).mean())
    scale = shape / theta
    if scale <= 0:
        return -np.inf, 1.0, 0.0
    return -len(excesses) * (float(np.log(scale)) + 1.0 + shape), scale, shape


def _limited(scale: float, shape: float) -> tuple[float, float]:
    """A shape within the limits; where it was held back, with the scale that gives a mean of 1."""
    held = min(max(shape, LEAST_SHAPE), MOST_SHAPE)
    return (scale, shape) if held == shape else (1.0 - held, held)


def _distance(probabilities: NDArray[np.float64]) -> float:
    """The Anderson-Darling distance of ascending probabilities (n,) from a uniform distribution.

    Source: Anderson and Darling, "A Test of Goodness of Fit", Journal of the American Statistical Association 49, 1954.
    """
    n = len(probabilities)
    inside = np.clip(probabilities, 1e-12, 1 - 1e-12)
    weights = 2 * np.arange(1, n + 1) - 1
    return float(-n - (weights * (np.log(inside) + np.log1p(-inside[::-1]))).mean())
