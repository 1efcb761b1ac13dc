"""Drift of the stream from the model's calibration: counts over the last day, shown as metrics and status.

It sees counts of bins, never a record. Each worker counts the records of its own partitions, since it started or since
the model in use took over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector import DriftCounts, DriftReference
from detector.drift import LEAST_RECORDS
from worker.metrics import WorkerMetrics
from worker.settings import DriftSettings
from worker.status import Status

NOTABLE = 0.1
"""Stability index from which on `/statusz` names a feature."""

_BLOCKS = 24
_SHOW_EVERY_S = 5.0
_MOST_NAMED = 10


@dataclass
class _Block:
    """Counts of the records of one stretch of time."""

    start_s: float
    records: int
    counts: NDArray[np.int64]


class DriftWindow:
    """Counts of the last records: of `window_s` seconds, and of as many more as make `LEAST_RECORDS`.

    Time is that of the messages. It is kept in at most 26 blocks, whatever comes: a window is longer than asked for by
    up to a twenty-fourth.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._blocks: list[_Block] = []
        self._end_s = -math.inf

    def add(self, counts: NDArray[np.int64], records: int, time_s: float) -> None:
        """Add the counts (b,) of records, the newest of which is of `time_s`; time never runs backwards."""
        self._end_s = max(self._end_s, time_s)
        last = self._blocks[-1] if self._blocks else None
        if last is None or (
            self._end_s - last.start_s >= self._window_s / _BLOCKS and last.records >= LEAST_RECORDS / _BLOCKS
        ):
            last = _Block(self._end_s, 0, np.zeros_like(counts))
            self._blocks.append(last)
        last.records += records
        last.counts += counts
        while len(self._blocks) > 1 and self._can_spare_the_first():
            del self._blocks[0]

    def _can_spare_the_first(self) -> bool:
        rest = self._blocks[1:]
        return self._end_s - rest[0].start_s >= self._window_s and sum(b.records for b in rest) >= LEAST_RECORDS

    @property
    def records(self) -> int:
        """Records that it holds."""
        return sum(block.records for block in self._blocks)

    @property
    def span_s(self) -> float:
        """Time that they cover, in seconds."""
        return self._end_s - self._blocks[0].start_s if self._blocks else 0.0

    @property
    def counts(self) -> NDArray[np.int64]:
        """Their counts, (b,)."""
        total: NDArray[np.int64] = np.sum([block.counts for block in self._blocks], axis=0)
        return total


class Drift:
    """Compares the last records with those that the model in use was calibrated on; belongs to the loop's thread.

    An index is shown from `LEAST_RECORDS` records on, that of an hour or a weekday when window and calibration cover a
    whole day or week.
    """

    def __init__(self, metrics: WorkerMetrics, status: Status, settings: DriftSettings) -> None:
        self._metrics, self._status, self._settings = metrics, status, settings
        self._reference: DriftReference | None = None
        self._window = DriftWindow(settings.window_s)
        self._shown: set[str] = set()
        self._show_next_s = -math.inf

    def add(self, found: DriftCounts | None, records: int, *, time_s: float, now_s: float) -> None:
        """Add a finished batch.

        Args:
            found: Its counts; None where the model has no reference.
            records: How many records they are of.
            time_s: Message time of the newest of them, in seconds since the epoch.
            now_s: The time now, in seconds since the epoch.
        """
        reference = None if found is None else found.reference
        if reference is not self._reference:
            self._begin_anew(reference)
        if found is None or not records:
            return
        self._window.add(found.counts, records, time_s)
        if now_s >= self._show_next_s:
            self._show_next_s = now_s + _SHOW_EVERY_S
            self._show(found.reference)

    def _begin_anew(self, reference: DriftReference | None) -> None:
        """Forget what was counted against another model's reference."""
        self._reference = reference
        self._window = DriftWindow(self._settings.window_s)
        self._show_next_s = -math.inf
        self._show_features({})
        self._metrics.score_drift.set(math.nan)
        self._show_window()
        self._metrics.calibrated_on(() if reference is None else reference.features)
        self._status.drift = {}

    def _show(self, reference: DriftReference) -> None:
        self._show_window()
        if self._window.records < LEAST_RECORDS:
            return
        counts, span_s = self._window.counts, self._window.span_s
        found, score = reference.compare_features(counts, span_s), float(reference.compare(counts)[-1])
        order = sorted(found, key=lambda name: -found[name])
        self._show_features({name: found[name] for name in order[: self._settings.max_features]})
        self._metrics.score_drift.set(score)
        self._status.drift = {
            "records": self._window.records,
            "span_s": round(span_s, 1),
            "score_psi": round(score, 3),
            "features_psi": {name: round(found[name], 3) for name in order[:_MOST_NAMED] if found[name] >= NOTABLE},
        }

    def _show_features(self, found: dict[str, float]) -> None:
        gauge = self._metrics.feature_drift
        for name in self._shown - found.keys():
            gauge.remove(name)
        self._shown = set(found)
        for name, index in found.items():
            gauge.labels(name).set(index)

    def _show_window(self) -> None:
        self._metrics.drift_records.set(self._window.records)
        self._metrics.drift_span.set(self._window.span_s)
