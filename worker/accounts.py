"""Closes the books on finished batches: what was consumed, what became of it, what was given back."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np

from transport import Batch
from worker.drift import Drift
from worker.metrics import OUTCOMES, WorkerMetrics
from worker.outcomes import Outcomes
from worker.settings import DriftSettings
from worker.status import Status

_OBSERVED_RECORDS = 100_000


class Accounts:
    """Adds finished batches to the metrics and to the status; belongs to the loop's thread."""

    def __init__(self, metrics: WorkerMetrics, status: Status, drift: DriftSettings) -> None:
        self._metrics = metrics
        self._status = status
        self._drift = Drift(metrics, status, drift)
        self._consumed = 0
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._observed: deque[tuple[int, int]] = deque()  # scored records and anomalies of the last batches
        self._observed_sum = [0, 0]

    def finished(self, batch: Batch, outcomes: Outcomes, *, now_s: float) -> None:
        """Count a batch whose outcomes are all acknowledged."""
        metrics = self._metrics
        for topic, count in _by_topic(batch).items():
            metrics.consumed.labels(topic).inc(count)
        counts = outcomes.counts()
        for outcome, count in counts.items():
            metrics.records.labels(outcome).inc(count)
        for reason, count in outcomes.suppressed.items():
            metrics.suppressed.labels(reason).inc(count)
        for (stage, reason), count in outcomes.dead_letters.items():
            metrics.dead_letters.labels(stage, reason).inc(count)
        metrics.anomalies.inc(outcomes.anomalies)
        for alert in outcomes.alerts:
            metrics.alerts.labels(alert.severity).inc()
        for feature, count in outcomes.missing.items():
            metrics.feature_missing.labels(feature).inc(count)
        for feature, count in outcomes.unseen.items():
            metrics.feature_unseen.labels(feature).inc(count)
        metrics.batch_records.observe(len(batch))
        metrics.score_ratio.observe(outcomes.ratios)
        metrics.latency.observe(np.maximum(now_s - outcomes.alerted_ms / 1000, 0.0)[outcomes.alerted_ms >= 0])
        self._observe_rate(outcomes.ratios.size, outcomes.anomalies)
        self._drift.add(outcomes.drift, outcomes.ratios.size, time_s=_newest_s(batch, now_s), now_s=now_s)
        self._consumed += len(batch)
        self._outcomes.update(counts)
        metrics.unaccounted.set(self._consumed - self._outcomes.total())
        self._status.counts = {"consumed": self._consumed, **self._outcomes}

    def returned(self, batch: Batch) -> None:
        """Count a batch that is given back; its records come again."""
        for topic, count in _by_topic(batch).items():
            self._metrics.returned.labels(topic).inc(count)

    def _observe_rate(self, scored: int, anomalies: int) -> None:
        if not scored:
            return
        self._observed.append((scored, anomalies))
        self._observed_sum[0] += scored
        self._observed_sum[1] += anomalies
        while self._observed_sum[0] - self._observed[0][0] >= _OBSERVED_RECORDS:
            oldest = self._observed.popleft()
            self._observed_sum[0] -= oldest[0]
            self._observed_sum[1] -= oldest[1]
        self._metrics.observed_rate.set(self._observed_sum[1] / self._observed_sum[0])


def _by_topic(batch: Batch) -> Counter[str]:
    counts: Counter[str] = Counter()
    sizes = np.bincount(batch.partition_index, minlength=len(batch.partitions)).tolist()
    for partition, size in zip(batch.partitions, sizes, strict=True):
        counts[partition.topic] += size
    return counts


def _newest_s(batch: Batch, now_s: float) -> float:
    """Message time of the newest message: now where there is none, and never later."""
    newest_ms = int(batch.timestamps_ms.max(initial=-1))
    return now_s if newest_ms < 0 else min(newest_ms / 1000, now_s)
