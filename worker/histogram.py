"""A Prometheus histogram that takes a whole column at once: a batch costs one pass, not a call a record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class ColumnHistogram(Collector):
    """Counts values by upper bound, as `prometheus_client.Histogram` does; one thread writes, any may scrape."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(buckets, dtype=np.float64)
        self._state = (np.zeros(len(buckets) + 1, dtype=np.int64), 0.0)  # replaced as one, so that no scrape sees half
        registry.register(self)

    def observe(self, values: ArrayLike) -> None:
        """Count finite values; others are passed over."""
        column = np.asarray(values, dtype=np.float64)
        column = column[np.isfinite(column)]
        counts, total = self._state
        index = np.searchsorted(self._bounds, column, side="left")  # a value equal to a bound is within it
        self._state = (counts + np.bincount(index, minlength=counts.size), total + float(column.sum()))

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """The family without its counts."""
        return [HistogramMetricFamily(self._name, self._documentation)]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family with its counts."""
        counts, total = self._state
        bounds = [*(str(bound) for bound in self._bounds.tolist()), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, np.cumsum(counts).tolist(), strict=True)]
        yield HistogramMetricFamily(self._name, self._documentation, buckets=buckets, sum_value=total)
