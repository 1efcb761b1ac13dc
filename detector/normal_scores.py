"""How often normal records score beyond a value: counted while enough of them do, by fitted tails beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import TrainingDataError
from detector.pareto import ParetoTail, fit_tails_beyond

ENOUGH = 20
"""Scores beyond a value from which on counting them is better than any fit."""

LEVELS = (0.05, 0.02, 0.01, 0.005, 0.0025)
"""Shares of the scores whose tails are fitted."""

LEAST_EXCESSES = 50
"""Fewer scores than this fit no tail."""

_MOST_KEPT = 2_048
"""Highest scores that are kept one by one; of those below, as many evenly spread."""


class NormalScores:
    """The distribution of scores of normal records that a detector has not learned from.

    A score has the conformal probability (1 + scores at or above it) / (n + 1) while `ENOUGH` are: whatever the law,
    that is right on average over calibrations. Beyond, it is the median of that and of generalised Pareto tails,
    fitted by two estimators at each of `LEVELS` whose tail they fit. Beyond the highest of the scores it is never less
    than what fades exponentially from there, at the rate of the highest: what no record has shown is not impossible.

    Attributes:
        n: Scores that it was learned from.
        tails: The tails that fit.

    Sources: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005 (conformal probabilities);
        Bader, Yan and Zhang, "Automated threshold selection for extreme value analysis via ordered goodness-of-fit
        tests", Annals of Applied Statistics 12, 2018 (levels by whether a tail fits there).
    """

    def __init__(
        self, n: int, scores: NDArray[np.float64], above: NDArray[np.int64], tails: tuple[ParetoTail, ...]
    ) -> None:
        self.n, self.tails = n, tails
        self._scores, self._above = scores, above  # (k,), ascending; how many of all scores are at or above each

    @classmethod
    def fit(cls, scores: NDArray[np.float64]) -> NormalScores:
        """Learn from scores of held-out normal records, (n,).

        Raises:
            TrainingDataError: There are none, or one is not finite.
        """
        n = len(scores)
        if n == 0 or not np.isfinite(scores).all():
            raise TrainingDataError(
                f"{n} calibration scores, {int((~np.isfinite(scores)).sum())} of them not finite: "
                "a threshold needs finite scores of held-out normal records"
            )
        ordered = np.sort(np.asarray(scores, np.float64))
        counts = [round(level * n) for level in LEVELS]
        tails = [tail for count in counts if count >= LEAST_EXCESSES for tail in fit_tails_beyond(ordered, count)]
        highest = max(n - _MOST_KEPT, 0)
        kept = np.concatenate([np.arange(0, highest, -(-highest // _MOST_KEPT) or 1), np.arange(highest, n)])
        values = np.unique(ordered[kept])
        return cls(n, values, n - np.searchsorted(ordered, values, "left"), tuple(tails))

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability that a normal record scores at least as high as each score, (n,), in (0, 1]; falling with it.

        In the bulk it is right to a 2,048th.
        """
        place = np.searchsorted(self._scores, scores, "left")
        counted: NDArray[np.float64] = (1.0 + np.append(self._above, 0)[place]) / (self.n + 1.0)
        enough = (1 + ENOUGH) / (self.n + 1)
        rare = counted < enough
        if not rare.any():
            return counted
        faded = np.exp(-np.maximum(scores[rare] - self._scores[-1], 0.0) / self._mean_excess) / (self.n + 1)
        if self.tails:
            fitted = np.median([counted[rare], *(tail.probability(scores[rare]) for tail in self.tails)], axis=0)
            counted[rare] = np.clip(fitted, faded, enough)
        else:
            counted[rare] = np.where(scores[rare] > self._scores[-1], faded, counted[rare])
        return np.maximum(counted, np.finfo(np.float64).tiny)

    def quantiles(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores that shares of the normal records do not exceed, (k,); in the bulk right to a 2,048th."""
        return np.interp(shares, 1 - self._above / self.n, self._scores)

    @property
    def _mean_excess(self) -> float:
        """How far the highest scores are from the one below them, on average."""
        highest = self._scores[-ENOUGH - 1 :]
        return max(float(highest.mean() - highest[0]), 1e-9)

    def score_at(self, rate: float, counted: float) -> tuple[float, int]:
        """The score that a share `rate` of normal records exceeds, and how many tails said so.

        It is `counted`, the order statistic for that, while `ENOUGH` scores are expected beyond; else the median of it
        and what the tails say.
        """
        tails = [tail for tail in self.tails if tail.share >= rate]
        if self.n * rate >= ENOUGH or not tails:
            return counted, 0
        return float(np.median([counted, *(tail.score_at(rate) for tail in tails)])), len(tails)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned: arrays by name."""
        tails = np.array([astuple(tail) for tail in self.tails], np.float64).reshape(-1, 4)
        return {"n": np.array(self.n), "scores": self._scores, "above": self._above, "tails": tails}

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> NormalScores:
        """The distribution whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
        """
        tails = tuple(ParetoTail(*map(float, tail)) for tail in state["tails"])
        return cls(int(state["n"]), state["scores"], state["above"], tails)
