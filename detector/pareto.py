"""Generalised Pareto tails: fitted to the excesses over several levels, those kept that fit, with what they may be off.

Source: Pickands, "Statistical Inference Using Extreme Order Statistics", Annals of Statistics 3, 1975 (excesses over a
    high level have this distribution, whatever the law).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from detector.excesses import (
    LEAST_SHAPE,
    MOST_SHAPE,
    SHAPE_WEIGHT,
    fit_pareto,
    score_beyond,
    share_beyond,
    upper_distance,
)

LARGEST_SHARE = 0.1
"""Share of the scores above the lowest level. Each further level has half of the scores of the one below it."""

LEAST_EXCESSES = 25
"""Fewer scores than this fit no tail.

More than are counted one by one (`normal_scores.ENOUGH`), so that all levels lie below the scores that tails judge.
"""

MOST_DISTANCE = 0.4
"""Upper-tail Anderson-Darling distance beyond which a fit is refused: one in twenty of true Pareto tails."""


@dataclass(frozen=True)
class ParetoTail:
    """The upper tail of scores: how they are distributed beyond a level.

    Attributes:
        level: Where the tail begins, in units of the scores.
        share: Probability of a score beyond the level.
        scale: Of the excesses, in units of the scores.
        shape: Above 0 for tails without end, near 0 for exponential ones, below for those with a hard end.
    """

    level: float
    share: float
    scale: float
    shape: float

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of a score beyond each, (n,); `share` up to the level: a tail says nothing of what is below."""
        return Tails((self,)).probability(scores)

    def score_at(self, rate: float) -> float:
        """The score beyond which a share `rate` lies; `rate` is at most `share`."""
        return Tails((self,)).score_at(rate)


class Tails:
    """What several tails of the same scores say together, each with the weight of the scores that it was fitted to.

    The share beyond a score is the mean of the shares that they give: as a mean of probabilities it is one itself, and
    falls with the score.

    Args:
        tails: One or more.
    """

    def __init__(self, tails: Sequence[ParetoTail]) -> None:
        self._tails = np.array([astuple(tail) for tail in tails], np.float64).reshape(-1, 4)
        shapes = self._tails[:, 3]
        shapes[np.abs(shapes) < 1e-9] = 1e-9

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of a score beyond each, (n,); above all levels it falls with the score."""
        found = np.empty(len(scores))
        share_beyond(self._tails, np.asarray(scores, np.float64), found)
        return found

    def score_at(self, rate: float) -> float:
        """The score beyond which a share `rate`, at most the least of the tails' own, lies."""
        return float(score_beyond(self._tails, rate))

    def standard_error(self, n: int, score: float) -> float:
        """Of the logarithm of the probability beyond a score, where the tails were fitted to some of n scores.

        The variance of each tail's own by the delta method, and beside it how far the tails are apart: what is not
        known of scale and shape, and what is not known of where the tail begins. Tails that end before the score say
        nothing of it.

        Source: Buckland, Burnham and Augustin, "Model Selection: An Integral Part of Inference", Biometrics 53, 1997
            (the variance of an average over models).
        """
        level, share, scale, shape = self._tails.T
        excess = np.maximum(score - level, 0.0) / scale
        reaches = 1.0 + shape * excess > 0.0
        level, share, scale, shape, excess = (part[reaches] for part in (level, share, scale, shape, excess))
        if len(level) == 0:
            return math.inf
        inside = 1.0 + shape * excess
        logarithm = np.log(share) - np.log(inside) / shape
        weights = share * np.exp(logarithm)
        weights /= weights.sum()
        apart = logarithm - math.log(self.probability(np.array([score]))[0])
        along_scale = excess / inside
        along_shape = np.log(inside) / shape**2 - excess / (shape * inside)
        count, width = share * n, 1.0 + 2.0 * shape
        known = SHAPE_WEIGHT * ((shape - LEAST_SHAPE) ** -2 + (MOST_SHAPE - shape) ** -2)
        of_shape, of_both, of_scale = (
            2 * count / ((1 + shape) * width) + known,
            count / ((1 + shape) * width),
            count / width,
        )
        variance = (1.0 - share) / count + (
            along_shape**2 * of_scale - 2 * along_shape * along_scale * of_both + along_scale**2 * of_shape
        ) / (of_shape * of_scale - of_both**2)
        return math.sqrt(float((weights * (variance + apart**2)).sum()))


def fit_tails(ordered: NDArray[np.float64], n: int | None = None) -> list[ParetoTail]:
    """The tails that fit, of all levels.

    Args:
        ordered: Ascending scores; the highest tenth of them and one more are enough.
        n: How many scores there are in all, where `ordered` is the highest of them.
    """
    n = len(ordered) if n is None else n
    count, tails = math.floor(LARGEST_SHARE * n), []
    while count >= LEAST_EXCESSES:
        if count < len(ordered):
            tails += fit_tails_beyond(ordered, count, n)
        count //= 2
    return tails


def fit_tails_beyond(ordered: NDArray[np.float64], count: int, n: int | None = None) -> list[ParetoTail]:
    """The tail of the highest `count` of ascending scores; none where it does not fit.

    A tail that fits badly is one of several pieces, or not yet one: what it is far out, no fit of all of it tells.

    Args:
        ordered: As of `fit_tails`.
        count: Scores above the level, fewer than there are.
        n: As of `fit_tails`.
    """
    n, level = len(ordered) if n is None else n, float(ordered[-count - 1])
    with np.errstate(over="ignore"):
        excesses = ordered[-count:] - level
    if not np.isfinite(excesses[-1]) or excesses[0] == excesses[-1]:
        return []
    scale, shape, distance = fit_excesses(excesses)
    fits = distance <= MOST_DISTANCE and math.isfinite(scale) and scale > 0
    return [ParetoTail(level, count / n, scale, shape)] if fits else []


def fit_excesses(excesses: NDArray[np.float64]) -> tuple[float, float, float]:
    """Scale and shape of ascending excesses over a level, and their distance from that distribution.

    They are divided by the largest first: large scores overflow in sums, and small ones are lost in rounding.

    Args:
        excesses: Ascending, at least 0, finite and not all the same, (k,).

    Returns:
        The scale in units of the scores, the shape between its limits, and the upper-tail Anderson-Darling distance:
        below `MOST_DISTANCE` for nineteen of twenty true Pareto tails.
    """
    largest = float(excesses[-1])
    relative = excesses / largest
    scale, shape = fit_pareto(relative)
    return scale * largest, shape, float(upper_distance(relative, scale, shape))
