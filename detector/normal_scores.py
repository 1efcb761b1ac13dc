"""How often normal records score beyond a value: counted while enough of them do, by fitted tails beyond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrays import check_arrays
from detector.errors import TrainingDataError
from detector.pareto import ParetoTail, Tails, fit_tails

ENOUGH = 20
"""Scores beyond a value from which on counting them is better than any fit."""

_MOST_KEPT = 2_048
"""Highest scores that are kept one by one; of those below, as many evenly spread."""


class NormalScores:
    """The distribution of scores of normal records that a detector has not learned from.

    A score has the conformal probability (1 + scores at or above it) / (n + 1) while `ENOUGH` are: whatever the law,
    that is right on average over calibrations. Beyond, it is the mean of what generalised Pareto tails above several
    levels say, of those that fit. Beyond the highest of the scores it is never less than what fades exponentially from
    there, at the rate of the highest: what no record has shown is not impossible.

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
        highest = max(n - _MOST_KEPT, 0)
        kept = np.concatenate([np.arange(0, highest, -(-highest // _MOST_KEPT) or 1), np.arange(highest, n)])
        values = np.unique(ordered[kept])
        return cls(n, values, n - np.searchsorted(ordered, values, "left"), tuple(fit_tails(ordered)))

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
        with np.errstate(over="ignore"):
            beyond = np.minimum(scores[rare] - self._scores[-1], np.finfo(np.float64).max)
        faded = np.exp(-np.maximum(beyond, 0.0) / self._mean_excess) / (self.n + 1)
        if self.tails:
            counted[rare] = np.clip(Tails(self.tails).probability(scores[rare]), faded, enough)
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
        with np.errstate(over="ignore"):
            return max(float(((highest - highest[0]) / len(highest)).sum()), 1e-9)

    def score_at(self, rate: float, counted: float) -> tuple[float, int]:
        """The score that a share `rate` of normal records exceeds, and how many tails said so.

        It is `counted`, the order statistic for that, while `ENOUGH` scores are expected beyond, or where no tail fits;
        else what the tails say, but no score that so many are counted beyond.
        """
        if self.n * rate >= ENOUGH or not self.tails:
            return counted, 0
        least = self.ranked(self.n - ENOUGH + 1)[0]
        return max(Tails(self.tails).score_at(rate), least), len(self.tails)

    def ranked(self, rank: int) -> tuple[float, int]:
        """The score of a rank among the n ascending ones, counted from 1, and its rank.

        Of a rank that is not among those kept, the next one up: less than an n / 2,048th of the scores away, and below
        the highest 2,048 alone.
        """
        highest = max(self.n - _MOST_KEPT, 0)
        step = -(-highest // _MOST_KEPT) or 1
        place = rank - 1
        if place < highest:
            place = min(-(-place // step) * step, highest)
        kept = int(np.searchsorted(self.n - self._above, place, "right")) - 1
        return float(self._scores[kept]), place + 1

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned: arrays by name."""
        tails = np.array([astuple(tail) for tail in self.tails], np.float64).reshape(-1, 4)
        return {"n": np.array(self.n), "scores": self._scores, "above": self._above, "tails": tails}

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> NormalScores:
        """The distribution whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Its parts do not belong together.
        """
        kept = state["scores"].size
        check_arrays("the normal scores", state, {
            "n": (np.int64, ()), "scores": (np.float64, (kept,)), "above": (np.int64, (kept,)),
            "tails": (np.float64, (None, 4)),
        })  # fmt: skip
        if not kept <= int(state["n"]) or not kept or (np.diff(state["scores"]) < 0).any():
            raise ValueError(
                f"the normal scores: {kept} scores of {int(state['n'])} are no distribution: it is damaged"
            )
        tails = tuple(ParetoTail(*map(float, tail)) for tail in state["tails"])
        normal = cls(int(state["n"]), state["scores"], state["above"], tails)
        normal.probability(normal._scores[-1:])  # compiled now, not while the first alert waits
        return normal
