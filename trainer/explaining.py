"""All that a detector decides about single records, for people and machines: it judges as the worker would.

What a worker remembers of a partition decides too where a threshold follows the scores, or an entity is quiet after an
alert. Of a message of a topic it is restored; records of a file are judged as the first ones of their partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector import (
    AlertState,
    Change,
    Detector,
    Explanation,
    History,
    HistoryState,
    Messages,
    Records,
    Reject,
    RejectReason,
    StreamDefinition,
    Verdicts,
    in_words,
    severity_of,
)
from detector.encode import Notes
from detector.history import bounded_key
from detector.records import MessageBatch
from detector.suppression import Quiet
from detector.times import iso8601
from trainer.errors import DataFileError
from trainer.replay import check_earlier, merged
from trainer.scoring import NON_FINITE_SCORE
from trainer.topics import LookBack, as_trainer_errors
from trainer.writing import hidden_fields
from transport import Batch, KafkaSettings, Partition, RangeReader, bounds

MOST_RECORDS = 1_000
"""Most records that are explained at once: what is printed of each is for eyes."""


@dataclass(frozen=True)
class FeatureFacts:
    """One feature of a record.

    Attributes:
        name: Its name.
        field: The field that it is read or computed from; empty for one of the entity's history alone.
        actual: What the record says, None where missing or sensitive.
        expected: What the rest of the record lets expect, None for no value, or where sensitive.
        direction: How they stand to each other, None where that cannot be said or is sensitive.
        share: Its share of the score.
        encoded: Its columns, None where sensitive.
        notes: `missing`, `unseen`, `out_of_range`.
        sensitive: Whether values are left out for it.
    """

    name: str
    field: str
    actual: str | float | None
    expected: str | float | None
    direction: str | None
    share: float
    encoded: list[float] | None
    notes: list[str]
    sensitive: bool


@dataclass(frozen=True)
class RecordFacts:
    """All that was decided about one record.

    Attributes:
        origin: Where it was read.
        outcome: `alert`, `normal`, or `dead_letter` for what is no record of the stream or has no finite score;
            `suppressed` for a tombstone, or an anomaly that a rule keeps from alerting.
        reason: Why it is a dead letter or suppressed, as the worker counts it; of an anomaly the name of the rule.
        message: What is wrong with it, for people; never a value of the record.
        identity: Id, key and event time, as far as they are not sensitive.
        score: Its anomaly score.
        threshold: The threshold in force.
        score_ratio: Score over threshold.
        tail_probability: How probable so high a score is of a normal record.
        severity: Of an alert, as the worker would say.
        features: Its features, the largest share first.
        explained_by: How shares were found.
        changes: What would not have alerted, None where nothing was found or nothing alerts.
        counterfactual_score: The score of the record with these changes.
        remembered: Of a message of a topic where what was known before it comes from, and what is not; a line each.
        is_exact: Of a message whether that is what a worker of this version had; None for others.
        quiet_since: Event time of the last alert of its entity in the partition, where a rule asks and it is not
            sensitive.
        suppressed_since: Anomalies of the entity that were suppressed since then.
    """

    origin: str
    outcome: str
    reason: str | None = None
    message: str | None = None
    identity: dict[str, str] | None = None
    score: float | None = None
    threshold: float | None = None
    score_ratio: float | None = None
    tail_probability: float | None = None
    severity: str | None = None
    features: tuple[FeatureFacts, ...] = ()
    explained_by: str | None = None
    changes: tuple[Change, ...] | None = None
    counterfactual_score: float | None = None
    remembered: tuple[str, ...] = ()
    is_exact: bool | None = None
    quiet_since: str | None = None
    suppressed_since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the counterfactual also as a sentence."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        content["in_words"] = None if self.changes is None else in_words(self.changes)
        return content


@dataclass(frozen=True)
class Given:
    """Message values that somebody asks about.

    Attributes:
        values: The values, with where each stands in its partition.
        origins: What to call each, for people.
    """

    values: MessageBatch
    origins: tuple[str, ...]


def from_text(name: str, text: bytes) -> Given:
    """Records in JSON: one object over any lines, or one record a line.

    Raises:
        DataFileError: There is nothing in it, or more than `MOST_RECORDS`.
    """
    try:
        whole = isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        whole = False
    lines = [(1, text.strip())] if whole else [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataFileError(f"{name}: holds nothing: give a record as JSON, or one a line")
    if len(lines) > MOST_RECORDS:
        raise DataFileError(
            f"{name}: holds {len(lines):,} lines, and what is said of each record fills a screen: give at most "
            f"{MOST_RECORDS:,}, or score the file with `offbeat score`"
        )
    return Given(Messages([line for _, line in lines]), tuple(f"{name}:{number}" for number, _ in lines))


def from_topic(
    kafka: KafkaSettings,
    partition: Partition,
    offset: int,
    *,
    timeout_s: float = 10.0,
    look_up: Callable[..., dict[Partition, tuple[int, int]]] = bounds,
    reader: Callable[..., RangeReader] = RangeReader,
) -> Given:
    """One message of a topic; commits nothing and joins no group.

    Raises:
        DataFileError: There is no message at that offset.
        TransportError: The broker does not answer, or refuses.
    """
    first, end = look_up(kafka, [partition], timeout_s)[partition]
    if not first <= offset < end:
        there = f"its offsets are {first} to {end - 1}" if end > first else "it is empty"
        raise DataFileError(f"{partition} has no message at offset {offset}: {there}")
    reading = reader(kafka, partition, offset, offset + 1)
    try:
        batch = _first_batch(reading, timeout_s)
    finally:
        reading.close()
    if batch is None:
        why = "retention took it a moment ago" if reading.skipped else "compaction or an aborted transaction took it"
        raise DataFileError(
            f"{partition} gave no message at offset {offset} within {timeout_s:g} s: "
            f"{why if reading.done else 'is the broker away?'}"
        )
    return Given(batch, (f"{partition} offset {offset}",))


def _first_batch(reading: RangeReader, timeout_s: float) -> Batch | None:
    for _ in range(max(1, round(timeout_s))):
        batch = reading.poll(1.0)
        if batch is not None or reading.done:
            return batch
    return None


def explain_message(
    detector: Detector, view: LookBack, partition: Partition, offset: int, *,
    begin: HistoryState | None = None, version_of: Callable[[str], Detector | None] = lambda _: None,
    client: Mapping[str, Any] | None = None,
) -> list[RecordFacts]:  # fmt: skip
    """All that the detector decides about one message of a topic, by what a worker remembers when it comes to it.

    Args:
        detector: The detector.
        view: Looks back at the topic.
        partition: Where the message is.
        offset: Its offset.
        begin: What is known of entities that the partition does not know.
        version_of: Another version of the detector, None where it is gone.
        client: More arguments for what reads the message, such as a test's `connect` and `clock`.

    Raises:
        DataFileError: There is no message at that offset, or the stream is of images.
        TrainerError: The broker does not answer, or refuses.
    """
    _check_explainable(detector)
    client = client or {}
    with as_trainer_errors():
        given = from_topic(
            view.kafka, partition, offset, look_up=partial(bounds, **client), reader=partial(RangeReader, **client)
        )
        remembered = view.remembered_at(detector, partition, offset, begin=begin, version_of=version_of)
    facts = explain_given(detector, given, state=remembered.history, alerts=remembered.alerts)
    return [replace(each, remembered=remembered.remarks, is_exact=remembered.is_exact) for each in facts]


def _check_explainable(detector: Detector) -> None:
    if detector.stream.image is not None:
        raise DataFileError(
            f"stream {detector.name!r} is of images, whose reasons are pictures: see `image` of its alerts, or the "
            "report of the version"
        )


def explain_given(
    detector: Detector, given: Given, *, earlier: Sequence[Path] = (), state: HistoryState | None = None,
    alerts: AlertState | None = None,
) -> list[RecordFacts]:  # fmt: skip
    """All that the detector decides about the records of some messages, in their order.

    Args:
        detector: The detector.
        given: The messages.
        earlier: Files of records that came before, from which history features are computed, merged by time; the
            given records follow them and each other.
        state: What still earlier records left behind; it is changed. History begins without it.
        alerts: What they mean for alerts; nothing unless given.

    Raises:
        DataFileError: The stream is of images, or it has no use for earlier records.
    """
    _check_explainable(detector)
    check_earlier([], earlier, detector.stream)
    records, rejects = detector.decode(given.values)
    if detector.history is not None:
        after = state_after(detector.history, earlier, detector.stream, state)
        records, _ = detector.history.fold_all([after], records)
    alerts = detector.alerting.begin() if alerts is None else alerts
    verdicts, _ = detector.judge(records, None, [alerts], explanations=False)
    told = explained(detector, records, verdicts, given.origins, alerts)
    found = dict(zip(records.rows.tolist(), told, strict=True))
    found |= {reject.row: _rejected(reject, given.origins[reject.row]) for reject in rejects}
    return [found[row] for row in sorted(found)]


def state_after(
    history: History, earlier: Sequence[Path], stream: StreamDefinition, state: HistoryState | None = None
) -> HistoryState:
    """What the records of files leave behind, merged by time, on top of what still earlier ones did."""
    state = history.new_state() if state is None else state  # one that knows nobody yet may still have a base
    for stretch in merged(earlier, stream):
        _, (changes,) = history.fold_all([state], stretch.records)
        state.apply(changes)
    return state


def explained(
    detector: Detector, records: Records, verdicts: Verdicts, origins: Sequence[str], alerts: AlertState
) -> Iterator[RecordFacts]:
    """The facts of each record of a judged batch, alert or not.

    Args:
        detector: What judged them.
        records: The records, with their history features where the stream has any; n.
        verdicts: What was decided. Its thresholds are those that are shown, and that counterfactuals keep.
        origins: What to call each message of the batch, by row.
        alerts: What decided on alerts before the first of them.
    """
    notes = Notes()
    matrix = detector.encoder.encode(records, notes)
    explanations = detector.explain(records, threshold=verdicts.thresholds, scores=verdicts.scores)
    probabilities = detector.normal_scores.probability(verdicts.scores)
    anomalous, unscorable = set(verdicts.anomalies.tolist()), set(verdicts.unscorable.tolist())
    suppressed = dict(zip(verdicts.suppressed.tolist(), verdicts.reasons, strict=True))
    for row, explanation in enumerate(explanations):
        origin, identity = origins[int(records.rows[row])], _identity(detector.stream, records, row)
        quiet = None if records.keys is None else alerts.quiets.get(bounded_key(records.keys[row] or ""))
        if row in unscorable:
            message = "its score is no number: the record or the model holds what cannot be computed with"
            yield RecordFacts(origin, "dead_letter", NON_FINITE_SCORE, message, identity)
            continue
        counterfactual = explanation.counterfactual
        yield RecordFacts(
            origin=origin,
            outcome="suppressed" if row in suppressed else "alert" if row in anomalous else "normal",
            reason=suppressed.get(row),
            identity=identity,
            score=float(verdicts.scores[row]),
            threshold=float(verdicts.thresholds[row]),
            score_ratio=float(verdicts.ratios[row]),
            tail_probability=float(probabilities[row]),
            severity=severity_of(float(probabilities[row]), detector.threshold.rate) if row in anomalous else None,
            features=tuple(_features(detector, matrix[row], notes, row, explanation)),
            explained_by=explanation.explained_by,
            changes=None if counterfactual is None else counterfactual.changes,
            counterfactual_score=None if counterfactual is None else counterfactual.score,
            quiet_since=_shown_time(detector.stream, quiet),
            suppressed_since=0 if quiet is None else quiet.count,
        )


def _features(
    detector: Detector, columns: NDArray[np.float32], notes: Notes, row: int, explanation: Explanation
) -> Iterator[FeatureFacts]:
    encoder = detector.encoder
    noticed = {"missing": notes.missing, "unseen": notes.unseen, "out_of_range": notes.out_of_range}
    for one in explanation.contributions:
        position = encoder.names.index(one.feature)
        yield FeatureFacts(
            name=one.feature,
            field=encoder.features[position].field,
            actual=one.actual,
            expected=one.expected,
            direction=one.direction,
            share=one.share,
            encoded=None
            if one.sensitive
            else [round(value, 6) for value in columns[encoder.slices[position]].tolist()],
            notes=[name for name, masks in noticed.items() if one.feature in masks and masks[one.feature][row]],
            sensitive=one.sensitive,
        )


def _rejected(reject: Reject, origin: str) -> RecordFacts:
    """What the worker would make of a value that is no record."""
    outcome = "suppressed" if reject.reason is RejectReason.TOMBSTONE else "dead_letter"
    return RecordFacts(origin, outcome, str(reject.reason), reject.message)


def _shown_time(stream: StreamDefinition, quiet: Quiet | None) -> str | None:
    """When an entity alerted, None where it did not or that is sensitive."""
    if quiet is None or stream.time is None or stream.time.field in hidden_fields(stream):
        return None
    return iso8601(np.datetime64(quiet.alerted_us, "us"))


def _identity(stream: StreamDefinition, records: Records, row: int) -> dict[str, str]:
    """Id, key and event time by field, as far as they are there and not sensitive."""
    times = None if records.event_times is None else records.event_times[row]
    found = {
        stream.id: None if records.ids is None else records.ids[row],
        stream.key: None if records.keys is None else records.keys[row],
        stream.time.field if stream.time else None: None if times is None or np.isnat(times) else iso8601(times),
    }
    hidden = hidden_fields(stream)
    return {
        path: "(sensitive)" if path in hidden else str(value)
        for path, value in found.items()
        if path is not None and value is not None
    }
