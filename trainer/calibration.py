"""Calibrating a detector anew: another threshold for the same weights, on fresh records or the scores it holds.

Fresh records also give another reference for drift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector import (
    Detector,
    DriftReference,
    NormalScores,
    Notes,
    Records,
    StreamDefinition,
    Threshold,
    TrainingDataError,
    fit_threshold,
    refit_threshold,
)
from detector.drift import MOST_REFERENCE
from detector.stream import ThresholdSetting
from trainer.datasets import Chunk, Source
from trainer.fitting import span_s
from trainer.replay import read_with_history
from trainer.scoring import NON_FINITE_SCORE, RowSummary
from trainer.writing import reasons_of

_MICROSECONDS_A_DAY = 86_400_000_000


@dataclass(frozen=True)
class Cost:
    """What a wrong verdict costs, in any unit; a threshold is to make their sum least.

    Attributes:
        false_alarm: Of an alert on a normal record.
        miss: Of an anomaly without an alert.
    """

    false_alarm: float = 1.0
    miss: float = 1.0


@dataclass(frozen=True)
class Calibration:
    """What came of it.

    Attributes:
        detector: The detector with its new threshold; it has no version before it is published.
        before: The threshold that it had.
        normal: Normal records whose scores the threshold was set on.
        anomalous: Records labelled anomalous.
        read: What became of the rows that were read.
        remarks: What a person should know, one line each.
    """

    detector: Detector
    before: Threshold
    normal: int
    anomalous: int
    read: RowSummary = field(default_factory=RowSummary)
    remarks: list[str] = field(default_factory=list)


def calibrate_on(
    detector: Detector,
    files: Sequence[Source],
    stream: StreamDefinition | None = None,
    *,
    earlier: Sequence[Path] = (),
    cost: Cost | None = None,
    best_f1: bool = False,
    progress: Callable[[Chunk], None] | None = None,
) -> Calibration:
    """Set a detector's threshold anew on fresh records; weights and scores stay as they are.

    Drift is measured from the fresh normal records from then on.

    Args:
        detector: What scores the records.
        files: Files, or ranges of a topic, of records that it was not trained on: of those, scores are too low.
        stream: The detector's definition with another `[threshold]`, where that is to change.
        earlier: Files whose records are history alone.
        cost: Choose the threshold at which wrong verdicts on labelled records cost least, in the place of a rate.
        best_f1: Choose the one with the best F1 on labelled records.
        progress: Called with each chunk that was read.

    Raises:
        DataFileError: A file cannot be read.
        TrainingDataError: There are too few normal records for the rate, or no anomalies to weigh costs on.
    """
    stream = stream or detector.stream
    sample = _Sample()
    read = RowSummary()
    scores, odd, times = _scored(detector, files, earlier, sample, read, progress)
    normal_scores = scores[~odd]
    if len(normal_scores) == 0:
        raise TrainingDataError(
            f"none of {len(scores):,} records is normal: a threshold is set on normal records; give some"
        )
    daily = _records_per_day(times[~odd])
    normal = NormalScores.fit(normal_scores)
    if cost is None and not best_f1:
        threshold = fit_threshold(normal_scores, stream.threshold, daily, normal)
    else:
        threshold = _chosen(scores, odd, cost, normal, daily)
    remarks = [] if threshold.warning is None else [f"threshold: {threshold.warning}"]
    until = detector.trained_until
    if until is not None:
        seen = int((times <= np.datetime64(until.astimezone(UTC).replace(tzinfo=None), "us")).sum())
        if seen:
            remarks.append(
                f"{seen:,} of {len(times):,} records are no newer than the last that the detector was trained on: if "
                "it has seen them, their scores are too low, and so is the threshold"
            )
    now = _now()
    told = {"on": "records", "scores_of": now, "normal": len(normal_scores), "anomalous": int(odd.sum())}
    notes = Notes()
    if stream.image is None:
        detector.encoder.encode(sample.records(), notes)
    reference = DriftReference.fit(detector.encoder, notes, normal_scores, span_s(times[~odd]))
    again = _recalibrated(detector, stream, threshold, normal, reference, now, told)
    return Calibration(again, detector.threshold, len(normal_scores), int(odd.sum()), read, remarks)


def with_rules_of(given: StreamDefinition, trained: StreamDefinition) -> StreamDefinition:
    """The definition that a detector was trained with, with threshold and rules of suppression of a given one.

    Raises:
        TrainingDataError: Something else differs, which only training can change.
    """
    taken = trained.model_copy(update={"threshold": given.threshold, "suppress": given.suppress})
    other = [name for name in type(given).model_fields if getattr(given, name) != getattr(taken, name)]
    if other:
        raise TrainingDataError(
            f"{', '.join(other)} of the stream definition differ from those that the version was trained with: "
            "calibrating changes [threshold] and [[suppress]] alone; train for the rest, or bring the definition back"
        )
    return given


def with_stream(detector: Detector, stream: StreamDefinition) -> Calibration:
    """A detector that promises what it did, with other rules of suppression, or a threshold that follows or stays.

    Raises:
        TrainingDataError: The promise is too high for a threshold that follows.
    """
    told = {"on": "nothing", "scores_of": None, "normal": detector.normal_scores.n, "anomalous": 0}
    threshold, normal = detector.threshold, detector.normal_scores
    again = _recalibrated(detector, stream, threshold, normal, detector.reference, _now(), told)
    return Calibration(again, threshold, normal.n, 0)


def calibrate_on_kept(detector: Detector, stream: StreamDefinition) -> Calibration:
    """Set a detector's threshold anew without records: on the normal scores that its threshold was set on.

    Of those the highest 2,048 are kept one by one, so that a threshold among or beyond them is the one that the records
    would give. A budget is spread over as many records a day as there were when the detector was calibrated.

    Args:
        detector: What holds the scores.
        stream: Its definition with another `[threshold]`.

    Raises:
        TrainingDataError: There were too few normal records for the rate, or a budget meets a detector that does not
            know how many records a day brings.
    """
    normal, daily = detector.normal_scores, detector.threshold.records_per_day
    if stream.threshold.alert_budget is not None and daily is None:
        raise TrainingDataError(
            f'alert_budget = "{stream.threshold.alert_budget}" needs to know how many records a day brings, and '
            f"version {detector.version} does not: its stream declares no event time, or its calibration spanned none. "
            "State false_alarm_rate or one_in instead, or give fresh records of a stream with [time]"
        )
    threshold = refit_threshold(normal, stream.threshold, daily)
    since = (detector.facts.get("calibrated") or {}).get("scores_of") or detector.facts.get("fitted_at")
    remarks = [
        f"no record was read: the threshold is set on the scores of {normal.n:,} normal records that the version holds"
        + ("" if since is None else f" since {since}")
        + ", and its interval knows nothing of what has changed since; fresh records would show it"
    ]
    if threshold.warning is not None:
        remarks.append(f"threshold: {threshold.warning}")
    told = {"on": "kept scores", "scores_of": since, "normal": normal.n, "anomalous": 0}
    again = _recalibrated(detector, stream, threshold, normal, detector.reference, _now(), told)
    return Calibration(again, detector.threshold, normal.n, 0, remarks=remarks)


def _recalibrated(
    detector: Detector,
    stream: StreamDefinition,
    threshold: Threshold,
    normal: NormalScores,
    reference: DriftReference | None,
    at: str,
    told: dict[str, Any],
) -> Detector:
    """The detector with another threshold, whose manifest says what it was set on."""
    calibrated = {
        "at": at, "from_version": detector.version, **told, "threshold_before": detector.threshold.to_json(),
    }  # fmt: skip
    facts = detector.facts | {"fitted_at": at, "calibrated": calibrated}
    return Detector(
        stream, detector.encoder, detector.scorer, threshold, normal, history=detector.history, reference=reference,
        facts=facts,
    )  # fmt: skip


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Sample:
    """Normal records that are evenly spread over all that were added: at most twice `MOST_REFERENCE`."""

    def __init__(self) -> None:
        self._parts: list[Records] = []
        self._added, self._every = 0, 1

    def add(self, records: Records) -> None:
        """Keep some of the next records."""
        kept = records.take((self._added + np.arange(len(records))) % self._every == 0)
        self._added += len(records)
        self._parts.append(kept)
        if sum(map(len, self._parts)) > 2 * MOST_REFERENCE:
            self._every *= 2
            together = self.records()
            self._parts = [together.take(np.arange(0, len(together), 2))]

    def records(self) -> Records:
        """Those that were kept, in their order."""
        return Records.concat(self._parts)


def _scored(
    detector: Detector, files: Sequence[Source], earlier: Sequence[Path], sample: _Sample, read: RowSummary,
    progress: Callable[[Chunk], None] | None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.datetime64]]:  # fmt: skip
    """Scores (n,) of all records, which are labelled anomalous (n,), and event times (n,), NaT for none.

    Normal records with a score are added to `sample`, but no images; all rows are counted in `read`.
    """
    scores, odd, times = [np.empty(0)], [np.empty(0, np.bool_)], [np.empty(0, "datetime64[us]")]
    for chunk in read_with_history(files, detector.stream, detector.history, earlier=earlier, progress=progress):
        records = chunk.records
        found = detector.judge(records, explanations=False)[0].scores
        finite = np.isfinite(found)
        scores.append(found[finite])
        labels = np.zeros(len(records), np.bool_) if records.labels is None else records.labels
        odd.append(labels[finite])
        if detector.stream.image is None:
            sample.add(records.take(finite & ~labels))
        if records.event_times is not None:
            times.append(records.event_times[finite])
        reasons = reasons_of(chunk)
        reasons[records.rows[~finite]] = NON_FINITE_SCORE
        read.add(chunk, reasons)
    together = np.concatenate(times)
    every = np.concatenate(scores)
    return every, np.concatenate(odd), together if len(together) else np.full(len(every), np.datetime64("NaT"))


def _records_per_day(times: NDArray[np.datetime64]) -> float | None:
    """Event rate; None where there is no time, or no span of it."""
    if len(times) < 2 or np.isnat(times).any():
        return None
    span_us = int((times.max() - times.min()).astype("timedelta64[us]").astype(np.int64))
    return None if span_us <= 0 else (len(times) - 1) * _MICROSECONDS_A_DAY / span_us


def _chosen(
    scores: NDArray[np.float64], odd: NDArray[np.bool_], cost: Cost | None, normal: NormalScores, daily: float | None
) -> Threshold:
    """The threshold with the least cost, or the best F1, on labelled records.

    Its rate and interval are those of the normal records among them. That the same records chose it makes its cost look
    a little better than it will be.
    """
    anomalies, n = int(odd.sum()), int((~odd).sum())
    if anomalies == 0:
        raise TrainingDataError(
            "no record is labelled anomalous: what misses cost, and F1, can only be weighed on labelled anomalies; "
            "declare the label as [label], or state a budget or a rate"
        )
    order = np.argsort(scores, kind="stable")
    ordered, hits = scores[order], odd[order]
    # With the threshold at ordered[i], all after the last record of that score alert.
    last = np.searchsorted(ordered, ordered, "right")
    found = anomalies - np.concatenate([[0], np.cumsum(hits)])[last]
    alarms = len(ordered) - last - found
    if cost is not None:
        spent = cost.false_alarm * alarms + cost.miss * (anomalies - found)
        best = int(np.flatnonzero(spent == spent.min())[-1])
        stated = f"least cost: a false alarm {cost.false_alarm:g}, a miss {cost.miss:g}"
    else:
        f1 = 2 * found / (2 * found + alarms + anomalies - found)
        best = int(np.flatnonzero(f1 == f1.max())[-1])
        stated = "best F1"
    value = float(ordered[best])
    rate = float(normal.probability(np.array([np.nextafter(value, np.inf)]))[0])
    interval = fit_threshold(scores[~odd], _rate_of(max(rate, 0.2 / n)), daily, normal)
    return replace(
        interval, value=value, low=min(interval.low, value), high=max(interval.high, value), rate=rate,
        expected_per_day=None if daily is None else rate * daily, method="labels",
        stated=f"{stated}, on {anomalies:,} labelled anomalies", warning=None,
    )  # fmt: skip


def _rate_of(rate: float) -> ThresholdSetting:
    return ThresholdSetting(false_alarm_rate=min(rate, 1 - 1e-9))
