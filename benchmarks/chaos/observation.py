"""What readers find on the topics of a run, in the checker's words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from benchmarks.chaos.checker import Delivery, Place
from benchmarks.chaos.offline import Input
from transport import Batch, KafkaSettings, read_topic
from worker.alerts import Alert
from worker.scores import ScoredRecord

_QUIET_S = 20.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def read_input(kafka: KafkaSettings, topic: str, incarnation: int) -> list[Input]:
    """Every partition of an input topic, whole."""
    parts: dict[int, list[tuple[Batch, np.ndarray[tuple[int], np.dtype[np.int64]]]]] = {}
    for batch in read_topic(kafka, topic, timeout_s=_QUIET_S):
        for index, partition in enumerate(batch.partitions):
            parts.setdefault(partition.number, []).append((batch, np.flatnonzero(batch.partition_index == index)))
    return [
        Input(
            topic,
            incarnation,
            number,
            np.concatenate([batch.offsets[rows] for batch, rows in of]),
            np.concatenate([batch.timestamps_ms[rows] for batch, rows in of]),
            [batch.keys[row] for batch, rows in of for row in rows.tolist()],
            [batch.values[row] for batch, rows in of for row in rows.tolist()],
            [int(dict(batch.headers[row])["number"]) for batch, rows in of for row in rows.tolist()],
        )
        for number, of in sorted(parts.items())
    ]


def read_outputs(kafka: KafkaSettings, *, scores: str, alerts: str, dead_letters: str) -> list[Delivery]:
    """Every message on the outputs that a reader of committed messages sees."""
    return [*_scores(kafka, scores), *_alerts(kafka, alerts), *_dead_letters(kafka, dead_letters)]


def _scores(kafka: KafkaSettings, topic: str) -> Iterator[Delivery]:
    decoder = msgspec.json.Decoder(ScoredRecord)
    for batch in read_topic(kafka, topic, timeout_s=_QUIET_S):
        for value, appended_ms in zip(batch.values, batch.timestamps_ms.tolist(), strict=True):
            score = decoder.decode(value or b"")
            source = score.source
            place = Place(source.partition, source.offset, _milliseconds(source.timestamp))
            content = (score.verdict, score.score, score.score_ratio, score.record_id)
            yield Delivery("score", place, content, appended_ms)


def _alerts(kafka: KafkaSettings, topic: str) -> Iterator[Delivery]:
    decoder = msgspec.json.Decoder(Alert)
    for batch in read_topic(kafka, topic, timeout_s=_QUIET_S):
        for value, appended_ms in zip(batch.values, batch.timestamps_ms.tolist(), strict=True):
            alert = decoder.decode(value or b"")
            source, before = alert.source, alert.suppressed_before
            place = Place(source.partition, source.offset, _milliseconds(source.timestamp))
            count = 0 if before is None else before.suppressed_count
            content = (alert.alert_id, alert.score, alert.threshold, alert.score_ratio, count)
            yield Delivery("alert", place, content, appended_ms)


def _dead_letters(kafka: KafkaSettings, topic: str) -> Iterator[Delivery]:
    for batch in read_topic(kafka, topic, timeout_s=_QUIET_S):
        for value, headers, appended_ms in zip(batch.values, batch.headers, batch.timestamps_ms.tolist(), strict=True):
            told = {name: text.decode() for name, text in headers if name.startswith("dlq.")}
            place = Place(*(int(told[f"dlq.original.{name}"]) for name in ("partition", "offset", "timestamp")))
            yield Delivery("dead_letter", place, (told["dlq.reason"], value), appended_ms)


def _milliseconds(moment: datetime | None) -> int:
    return -1 if moment is None else (moment - _EPOCH) // _MILLISECOND
