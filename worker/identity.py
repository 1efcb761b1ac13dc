"""Who a record is, as messages may say it: place on Kafka, id, entity, pseudonyms for what is sensitive."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid5

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from detector import Records, StreamDefinition
from transport import Batch

_NAMESPACE = UUID("5b0c3f7e-6c0a-4d0e-9f43-0d3d3a7c3f11")  # never change: the ids of repeats must stay equal
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BETWEEN = "\x1f"
_MOST_CHARACTERS = 256  # a record may hold a megabyte where an id should be, and its alert must still fit its topic
_MOST_KEY_BYTES = 1024


class SourceMessage(Struct, frozen=True, kw_only=True):
    """Where the record stands on Kafka: enough to read it again."""

    topic: str
    partition: int
    offset: int
    timestamp: Annotated[datetime | None, Meta(description="Timestamp of the message, where it has one.")]
    key: Annotated[
        str | UnsetType | None,
        Meta(
            description="Key of the message as text, `base64:` before keys that are not UTF-8; cut after 256 "
            "characters; absent where fields are sensitive and it is neither the record's id nor its entity."
        ),
    ] = UNSET


def alert_id(detector: str, topic: str, partition: int, offset: int, timestamp_ms: int) -> str:
    """The id of the alert on one message: the same for every delivery of it, another for a topic created anew."""
    parts = ("alert", detector, topic, str(partition), str(offset), str(timestamp_ms))
    return str(uuid5(_NAMESPACE, _BETWEEN.join(parts)))


def pseudonym(detector: str, value: str) -> str:
    """A stable stand-in for a sensitive value: equal values stay equal within one detector.

    It hides the value from a reader's eye, not from somebody who guesses it and computes the same.
    """
    return f"pseudonym:{uuid5(_NAMESPACE, _BETWEEN.join(('pseudonym', detector, value)))}"


def shortened(text: str) -> str:
    """The text itself, or its first 256 characters and an ellipsis."""
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"


def time_of(timestamp_ms: int) -> datetime | None:
    """A message's timestamp as a time in UTC; None where it has none, the calendar's last moment beyond that."""
    if timestamp_ms < 0:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


class Identities:
    """Who the records of one batch are; rows are rows of `records`."""

    def __init__(self, batch: Batch, records: Records, stream: StreamDefinition) -> None:
        self._batch = batch
        self._records = records
        self._stream = stream
        self._hides_time = stream.time is not None and stream.is_sensitive(stream.time.field)
        self._hides_key = stream.key is not None and stream.is_sensitive(stream.key)
        self._hides_id = stream.id is not None and stream.is_sensitive(stream.id)

    def source(self, row: int) -> SourceMessage:
        """Where the record stands on Kafka."""
        message = int(self._records.rows[row])
        topic, partition = self._batch.partitions[int(self._records.partition_index[row])]
        return SourceMessage(
            topic=topic,
            partition=partition,
            offset=int(self._records.offsets[row]),
            timestamp=time_of(int(self._records.timestamps_ms[row])),
            key=_text(self._batch.keys[message]) if self._may_show_input_key(row) else UNSET,
        )

    def alert_id(self, row: int) -> str:
        """The id of an alert on the record."""
        topic, partition = self._batch.partitions[int(self._records.partition_index[row])]
        return alert_id(
            self._stream.name, topic, partition, int(self._records.offsets[row]), int(self._records.timestamps_ms[row])
        )

    def event_time(self, row: int) -> datetime | None:
        """When it happened: as the record says, else the time of its message; None where it is sensitive."""
        times: NDArray[np.datetime64] | None = self._records.event_times
        if times is None or np.isnat(times[row]):
            return None if self._hides_time else time_of(int(self._records.timestamps_ms[row]))
        return self.shown_time(times[row])

    def shown_time(self, event_time: np.datetime64) -> datetime | None:
        """An event time of this stream's records; None where it is sensitive."""
        if self._hides_time:
            return None
        return _EPOCH + timedelta(microseconds=int(event_time.astype("datetime64[us]").astype(np.int64)))

    def record_id(self, row: int) -> str | None:
        """The record's own id; a pseudonym where it is sensitive."""
        value = None if self._records.ids is None else self._records.ids[row]
        return None if value is None else self._shown(value, hidden=self._hides_id)

    def entity_key(self, row: int) -> str | None:
        """Value of the entity key; a pseudonym where it is sensitive, None where there is none."""
        value = None if self._records.keys is None else self._records.keys[row]
        return None if value is None else self._shown(value, hidden=self._hides_key)

    def entity(self, row: int) -> dict[str, str] | None:
        """Field and value of the entity key, or None where there is none."""
        value = self.entity_key(row)
        return None if value is None or self._stream.key is None else {self._stream.key: value}

    def message_key(self, row: int) -> bytes | None:
        """The key of what is published about the record: its entity, so that order per entity is kept.

        Where the stream defines no entity, or the record has none, it is the input's key, or a pseudonym for it where
        it may hold a sensitive value.
        """
        value = self.entity_key(row)
        if value is not None:
            return value.encode("utf-8", "replace")
        key = self._batch.keys[int(self._records.rows[row])]
        if key is None or self._may_show_input_key(row):
            return None if key is None else key[:_MOST_KEY_BYTES]
        return pseudonym(self._stream.name, key.decode("utf-8", "backslashreplace")).encode()

    def _may_show_input_key(self, row: int) -> bool:
        """Whether the input's key surely holds no sensitive value: senders like to use one as the key."""
        key = self._batch.keys[int(self._records.rows[row])]
        if key is None or not self._stream.sensitive:
            return True
        shown = ((self._records.ids, self._hides_id), (self._records.keys, self._hides_key))
        known = [column[row] for column, hidden in shown if column is not None and not hidden]
        return any(value is not None and key == value.encode("utf-8", "replace") for value in known)

    def _shown(self, value: str, *, hidden: bool) -> str:
        return pseudonym(self._stream.name, value) if hidden else shortened(str(value))


def _text(key: bytes | None) -> str | None:
    if key is None:
        return None
    try:
        return shortened(key.decode())
    except UnicodeDecodeError:
        return shortened("base64:" + base64.b64encode(key[:_MOST_KEY_BYTES]).decode())
