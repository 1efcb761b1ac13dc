"""A threshold that follows where the scores of one partition drift, from scores below it alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detector.normal_scores import NormalScores
from detector.threshold import Threshold, check_followable

SEGMENTS = 50
"""Parts that a window has; it moves on, and the threshold with it, by one of them."""

POINTS = 50
"""Order statistics that are kept of a segment."""

_DECILES = (0.1, 0.9)


@dataclass(frozen=True, eq=False)
class ScoreWindow:
    """The scores of the latest records of one partition, as far as they did not exceed the threshold of their time.

    Never changed; what follows it is another one.

    Attributes:
        points: Of each segment evenly spaced order statistics, float32 (SEGMENTS, POINTS), the oldest segment first.
        counts: How many scores each segment stands for, (SEGMENTS,).
        segment: Number of the segment that is being filled, -1 before the first record.
        filling: The scores that it has so far, float32 (k,).
        threshold: What follows from the segments that are full.
        stretch: How much further apart their deciles are than those of calibration.
    """

    points: NDArray[np.float32]
    counts: NDArray[np.int64]
    segment: int
    filling: NDArray[np.float32]
    threshold: float
    stretch: float


@dataclass(frozen=True, eq=False)
class OnlineThreshold:
    """Moves a calibrated threshold along with the body of the scores.

    A partition's latest scores are compared with those of calibration by their lower and upper decile. Where they have
    moved or stretched, the threshold moves and stretches with them:

        t' = u' + (t - u) (u' - l') / (u - l)      l, u deciles of calibration, l', u' of the window

    So the tail is imputed, not learned: its form stays that of calibration, which had no anomalies in it. Scores above
    the threshold of their time never enter the window, and of what they leave out the promised share is counted as if
    it were there: alarms neither raise the threshold nor starve it. What it can't follow is a tail that changes while
    the body of the scores stays as it is.

    Offsets are cut into segments of a fixed length, and the threshold changes between two of them only. So the same
    partition gets the same thresholds in whatever batches it comes, and nothing is drawn at random.

    Attributes:
        calibrated: The threshold on scores as they were at calibration.
        rate: Share of normal records that it promises to exceed it.
        every: Offsets in a segment.
        body: The calibrated scores below the threshold as a window has them, float32 (SEGMENTS, POINTS).

    Measured against other ways to follow drift in docs/decisions/0019.
    """

    calibrated: float
    rate: float
    every: int
    body: NDArray[np.float32]

    @classmethod
    def of(cls, threshold: Threshold, normal: NormalScores, window: int) -> OnlineThreshold:
        """The policy for a calibrated threshold and a window of so many records.

        Raises:
            TrainingDataError: The promised rate is too high to tell body from tail.
        """
        check_followable(threshold.rate, threshold.stated)
        shares = np.stack([_shares(segment) for segment in range(SEGMENTS)]) * (1 - threshold.rate)
        body = normal.quantiles(shares).astype(np.float32)
        return cls(threshold.value, threshold.rate, max(window // SEGMENTS, 1), body)

    def begin(self) -> ScoreWindow:
        """The window of a partition without records: as if it had always been like calibration."""
        counts = np.full(SEGMENTS, self.every)
        return ScoreWindow(self.body, counts, -1, np.empty(0, np.float32), self.calibrated, 1.0)

    def follow(
        self, window: ScoreWindow, scores: NDArray[np.float64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], ScoreWindow]:
        """Judge the next records of a partition.

        Args:
            window: What earlier records left.
            scores: Their scores, (n,); one that is not finite leaves the window as it is.
            offsets: Their offsets, (n,), ascending.

        Returns:
            The threshold in force for each, (n,); each score as it would be at calibration, (n,); and the window after
            them.
        """
        thresholds, standardised = np.empty(len(scores)), np.empty(len(scores))
        segments = offsets // self.every
        edges = [0, *(np.flatnonzero(np.diff(segments)) + 1).tolist(), len(scores)] if len(scores) else []
        for start, end in pairwise(edges):
            if segments[start] != window.segment:
                window = self._turned(window, int(segments[start]))
            some = scores[start:end]
            thresholds[start:end] = window.threshold
            standardised[start:end] = self.calibrated + (some - window.threshold) / window.stretch
            below = some[some <= window.threshold].astype(np.float32)
            window = replace(window, filling=np.concatenate([window.filling, below]))
        return thresholds, standardised, window

    def _turned(self, window: ScoreWindow, segment: int) -> ScoreWindow:
        """The window with its full segment in the place of the oldest, and the next one to be filled."""
        points, counts = window.points, window.counts
        if len(window.filling):
            ordered = np.sort(window.filling)
            places = (_shares(window.segment) * len(ordered)).astype(np.int64)
            points = np.concatenate([points[1:], ordered[places][None]])
            counts = np.append(counts[1:], len(ordered))
        lower, upper = self._deciles(points, counts)
        was_lower, was_upper = self._were
        is_told = upper > lower and was_upper > was_lower  # scores that are all alike tell no stretch
        stretch = (upper - lower) / (was_upper - was_lower) if is_told else 1.0
        threshold = self.calibrated + (upper - was_upper) + (stretch - 1.0) * (self.calibrated - was_upper)
        return ScoreWindow(points, counts, segment, np.empty(0, np.float32), threshold, stretch)

    @cached_property
    def _were(self) -> tuple[float, float]:
        """The deciles of calibration, counted as those of a window are."""
        window = self.begin()
        return self._deciles(window.points, window.counts)

    def _deciles(self, points: NDArray[np.float32], counts: NDArray[np.int64]) -> tuple[float, float]:
        """Deciles of all scores of a window, those above the threshold counted as the promised share."""
        values = points.ravel()
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(np.repeat(counts, POINTS)[order])
        found = np.searchsorted(reached, np.array(_DECILES) / (1 - self.rate) * reached[-1])
        lower, upper = values[order[np.minimum(found, len(order) - 1)]].tolist()
        return lower, upper


def _shares(segment: int) -> NDArray[np.float64]:
    """Of which shares of its scores a segment keeps the order statistics, (POINTS,).

    They are shifted from segment to segment, so that the points of a window stand for evenly spaced shares and its
    deciles fall into no gap.
    """
    shares: NDArray[np.float64] = (np.arange(POINTS) + (segment % SEGMENTS + 0.5) / SEGMENTS) / POINTS
    return shares
