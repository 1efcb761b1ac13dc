"""Everything the worker lets Prometheus see: names, meanings, zeros; it serves nothing itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detector import SEVERITIES, Detector
from detector.drift import Bins
from transport import Partition, RebalanceCounts
from worker.dead_letters import STAGES
from worker.histogram import ColumnHistogram

OUTCOMES = ("normal", "alert", "suppressed", "dead_letter")
SUPPRESSED = ("tombstone",)
STAGE_NAMES = ("decode", "score", "publish", "commit")
LOOP_STATES = ("poll", "process", "commit", "restore", "write_state", "retry")
COMMIT_RESULTS = ("committed", "refused", "unavailable", "in_doubt")
RELOAD_RESULTS = ("loaded", "refused", "unavailable")
REBALANCES = ("assigned", "revoked", "lost")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_RATIO = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 4, 8, 16, 32, 100)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)


class MetricDefinition(NamedTuple):
    """One row of the table of metrics."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


class WorkerMetrics:
    """Everything the worker lets the outside see. One object per registry, so tests never share counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.definitions: list[MetricDefinition] = []
        self._lag_shown: set[Partition] = set()

        self.consumed = self._counter(
            "records_consumed_total",
            "Records whose outcome the broker acknowledged; given-back ones come again.",
            ["topic"],
        )
        self.records = self._counter(
            "records_total", "Records that the broker acknowledged the outcome of, by what became of them.", ["outcome"]
        )
        self.returned = self._counter(
            "records_returned_total",
            "Records polled and given back because their batch could not be finished.",
            ["topic"],
        )
        self.unaccounted = self._gauge(
            "records_unaccounted", "Consumed records less the sum of all outcomes; anything but 0 is a bug."
        )
        self.suppressed = self._counter("records_suppressed_total", "Records left out on purpose, by why.", ["reason"])
        self.dead_letters = self._counter(
            "dead_letters_total",
            "Acknowledged dead letters, by the stage and the reason that made them.",
            ["stage", "reason"],
        )
        self.alerts = self._counter("alerts_total", "Acknowledged alerts, by severity.", ["severity"])
        self.score_ratio = self._columns(
            "score_ratio", "Score divided by threshold of every scored record; above 1.0 is an anomaly.", _RATIO
        )
        self.anomalies = self._counter(
            "anomalies_total", "Records above their threshold, whether they alerted or a rule suppressed them."
        )
        self.threshold = self._gauge(
            "threshold", "Score above which a record is an anomaly, as the model in use was calibrated."
        )
        self.threshold_ratio = self._gauge(
            "threshold_ratio",
            "Threshold in force by the calibrated one, least and most of the owned partitions; 1 where it is fixed.",
            ["bound"],
        )
        self.expected_rate = self._gauge(
            "alert_rate_expected_ratio", "Share of normal records expected to alert, with its 95 % interval.", ["bound"]
        )
        self.observed_rate = self._gauge(
            "alert_rate_observed_ratio",
            "Share of the last 100 000 scored records above their threshold, suppressed or not.",
        )
        self.feature_missing = self._counter(
            "feature_missing_total", "Decoded records in which the field was missing.", ["feature"]
        )
        self.feature_unseen = self._counter(
            "feature_unseen_category_total",
            "Decoded records in which the field had a value never seen in training.",
            ["feature"],
        )
        self.feature_missing_expected = self._gauge(
            "feature_missing_expected_ratio",
            "Share of the records that the model was calibrated on in which the field was missing.",
            ["feature"],
        )
        self.feature_unseen_expected = self._gauge(
            "feature_unseen_category_expected_ratio",
            "Share of the records that the model was calibrated on with a value never seen in training.",
            ["feature"],
        )
        self.feature_drift = self._gauge(
            "feature_drift_psi",
            "Population stability index of the window's values against those of calibration, less what chance makes of "
            "it; the features that drift most.",
            ["feature"],
        )
        self.score_drift = self._gauge(
            "score_drift_psi",
            "The same of the scores; not a number while the window has too few records.",
        )
        self.drift_records = self._gauge("drift_window_records", "Records that drift is measured over.")
        self.drift_span = self._gauge("drift_window_seconds", "Time that those records cover.")

        self.batch_records = self._histogram("batch_records", "Records in a finished batch.", _RECORDS)
        self.batch_duration = self._histogram(
            "batch_duration_seconds", "Time from a batch's poll to the acknowledgement of all its outcomes.", _SECONDS
        )
        self.stage_duration = self._histogram(
            "stage_duration_seconds", "Time of one stage of a batch.", _SECONDS, ["stage"]
        )
        self.latency = self._columns(
            "end_to_end_latency_seconds", "From a record's message timestamp to its acknowledged alert.", _LATENCY
        )

        self.lag = self._gauge(
            "consumer_lag_records",
            "Offsets between the first unfinished and the end, as of the last fetch.",
            ["topic", "partition"],
        )
        self.lag_seconds = self._gauge(
            "consumer_lag_seconds",
            "Age of the newest record that was read of the owned partition furthest behind; 0 without lag.",
            ["topic"],
        )
        self.assigned = self._gauge("assigned_partitions", "Partitions that this worker owns.")
        self.rebalances = self._counter("rebalances_total", "Times partitions came or went.", ["type"])
        self.commits = self._counter("commits_total", "Attempts to commit, by result.", ["result"])
        self.publish_failures = self._counter(
            "publish_failures_total", "Attempts to publish that were not acknowledged; their batches were given back."
        )
        self.retries = self._counter("retries_total", "Waits before trying again after a failure.")
        self.last_poll = self._gauge("last_poll_timestamp_seconds", "When the last poll ended.")
        self.last_commit = self._gauge("last_commit_timestamp_seconds", "When the last commit was acknowledged.")
        self.broker_silence = self._gauge(
            "broker_silence_seconds", "Age of the broker's last answer, at the last poll."
        )
        self.loop_seconds = self._counter("loop_seconds_total", "Time of the loop, by what it was doing.", ["state"])

        self.restoring = self._gauge("restoring_partitions", "Owned partitions that wait for their histories.")
        self.restore_remaining = self._gauge(
            "restore_remaining_records", "Offsets still to be read before those partitions run, as far as known."
        )
        self.entities = self._gauge("entities", "Entities whose history is remembered.")
        self.history_bytes = self._gauge("history_bytes", "Memory of those histories, without the index of keys.")
        self.entities_evicted = self._counter(
            "entities_evicted_total", "Entities that were forgotten because there were too many."
        )
        self.entities_moved = self._counter(
            "entities_moved_total", "Entities that were seen on a second partition of this worker."
        )
        self.state_blocks = self._counter("state_blocks_written_total", "Acknowledged blocks of histories.")
        self.state_write_failures = self._counter(
            "state_write_failures_total", "Attempts to write histories that were not acknowledged."
        )

        self.build = self._gauge("build_info", "1 for the version of offbeat that runs.", ["version"])
        self.model = self._gauge("model_info", "1 for the model in use.", ["name", "version", "sha256"])
        self.model_loaded = self._gauge("model_loaded_timestamp_seconds", "When the model in use took over.")
        self.model_trained_until = self._gauge(
            "model_trained_until_timestamp_seconds",
            "Time of the newest record that the model in use was fitted on; 0 where it is not known.",
        )
        self.reloads = self._counter("model_reloads_total", "Attempts to load a version, by result.", ["result"])
        self.score_drift.set(math.nan)
        self._show_zeros()

    def model_changed(self, detector: Detector, now_s: float) -> None:
        """Show the model that takes over."""
        self.model.clear()
        self.model.labels(detector.name, detector.version or "", detector.sha256 or "").set(1)
        self.model_loaded.set(now_s)
        until = detector.trained_until
        self.model_trained_until.set(0 if until is None else until.timestamp())
        threshold = detector.threshold
        self.threshold.set(threshold.value)
        self.show_threshold_ratios([])
        for bound, rate in (("low", threshold.rate_low), ("expected", threshold.rate), ("high", threshold.rate_high)):
            self.expected_rate.labels(bound).set(rate)
        for name in detector.feature_names:
            self.feature_missing.labels(name)
        for feature in detector.stream.feature:
            if feature.kind == "category":
                self.feature_unseen.labels(feature.label)

    def calibrated_on(self, features: Iterable[Bins]) -> None:
        """Show which shares the records had that the model was calibrated on."""
        self.feature_missing_expected.clear()
        self.feature_unseen_expected.clear()
        for bins in features:
            self.feature_missing_expected.labels(bins.name).set(bins.missing_share)
            if bins.unseen_share is not None:
                self.feature_unseen_expected.labels(bins.name).set(bins.unseen_share)

    def show_threshold_ratios(self, ratios: Sequence[float]) -> None:
        """Show how far the threshold of each partition has moved; none where it is fixed."""
        self.threshold_ratio.labels("least").set(min(ratios, default=1.0))
        self.threshold_ratio.labels("most").set(max(ratios, default=1.0))

    def position(self, lag: Mapping[Partition, int], assignment: Iterable[Partition]) -> None:
        """Show the lag of the partitions that are owned, and forget those that are not."""
        owned = set(assignment)
        self.assigned.set(len(owned))
        for partition in self._lag_shown - owned:
            self.lag.remove(partition.topic, str(partition.number))
        self._lag_shown = owned & lag.keys()
        for partition in self._lag_shown:
            self.lag.labels(partition.topic, str(partition.number)).set(lag[partition])

    def rebalanced(self, before: RebalanceCounts, now: RebalanceCounts) -> None:
        """Add what came and went between two looks."""
        for kind in REBALANCES:
            self.rebalances.labels(kind).inc(getattr(now, kind) - getattr(before, kind))

    def _show_zeros(self) -> None:
        """Make every member of a closed set visible before it happens."""
        closed: list[tuple[Counter | Histogram, Iterable[str]]] = [
            (self.records, OUTCOMES),
            (self.suppressed, SUPPRESSED),
            (self.alerts, (name for name, _ in SEVERITIES)),
            (self.stage_duration, STAGE_NAMES),
            (self.rebalances, REBALANCES),
            (self.commits, COMMIT_RESULTS),
            (self.loop_seconds, LOOP_STATES),
            (self.reloads, RELOAD_RESULTS),
        ]
        for metric, members in closed:
            for member in members:
                metric.labels(member)
        for reason, stage in STAGES.items():
            self.dead_letters.labels(stage, str(reason))

    def _define(self, name: str, kind: str, meaning: str, labels: Iterable[str] = ()) -> str:
        self.definitions.append(MetricDefinition(f"offbeat_{name}", kind, tuple(labels), meaning))
        return f"offbeat_{name}"

    def _counter(self, name: str, meaning: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(self._define(name, "counter", meaning, labels), meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(self._define(name, "gauge", meaning, labels), meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], labels: Iterable[str] = ()) -> Histogram:
        self._define(name, "histogram", meaning, labels)
        return Histogram(f"offbeat_{name}", meaning, labels, buckets=buckets, registry=self.registry)

    def _columns(self, name: str, meaning: str, buckets: tuple[float, ...]) -> ColumnHistogram:
        return ColumnHistogram(self._define(name, "histogram", meaning), meaning, buckets, self.registry)


def metrics_table() -> str:
    """The metrics as a Markdown table; README's copy is checked against it."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, meaning in WorkerMetrics(CollectorRegistry()).definitions:
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {meaning} |")
    return "\n".join(lines) + "\n"
