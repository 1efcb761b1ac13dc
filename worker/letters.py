"""Dead letters as they are read again: what their headers say, which were redriven. It publishes nothing itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from transport import Batch, KafkaSettings, OutgoingMessage, read_topic

PREFIX = "dlq."
REASON = "dlq.reason"
ATTEMPTS = "dlq.attempts"
REDRIVE_OF = "dlq.redrive_of"
REDRIVEN = "dlq.redriven"

Headers = Sequence[tuple[str, bytes]]

_PLACE = re.compile(r"([a-zA-Z0-9._-]{1,249})/([0-9]{1,10})/([0-9]{1,19})")
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class Place(NamedTuple):
    """Where a message stood; in headers as `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, eq=False)
class Letter:
    """One dead letter.

    Attributes:
        partition: Of the dead-letter topic.
        offset: In that partition.
        reason: Why the record was not scored, of the closed set.
        stage: What found it: deserialize, validate or score.
        message: The same for people; it repeats no value of the record.
        original: Where the record stood when it failed.
        original_timestamp_ms: Its timestamp then, -1 where it had none.
        attempts: How often it has failed.
        failed_at: When it failed the last time.
        redrive_of: Where it stood when it failed first, where this is not the first time.
        truncated: What was cut off to fit the topic; empty where nothing was.
        key: The record's key, as it came.
        value: The record's value, as it came.
        headers: All headers, the record's own and those of the dead letter.
    """

    partition: int
    offset: int
    reason: str
    stage: str
    message: str
    original: Place
    original_timestamp_ms: int
    attempts: int
    failed_at: datetime
    redrive_of: Place | None
    truncated: str
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def size_bytes(self) -> int:
        """Bytes of key, value and headers."""
        heads = sum(len(name.encode()) + len(content) for name, content in self.headers)
        return len(self.key or b"") + len(self.value or b"") + heads

    @property
    def own_headers(self) -> tuple[tuple[str, bytes], ...]:
        """The headers that the record came with, without those of dead letters."""
        return tuple((name, content or b"") for name, content in self.headers if not name.startswith(PREFIX))


class Mark(NamedTuple):
    """A note on the dead-letter topic: letters of its partition that were redriven to a topic and acknowledged."""

    to: str
    offsets: list[int]


@dataclass
class Redriven:
    """Which letters were redriven, and to which topic."""

    _offsets: dict[tuple[str, int], set[int]] = field(default_factory=dict)

    def add(self, partition: int, mark: Mark) -> None:
        """Take note of a mark in a partition."""
        self._offsets.setdefault((mark.to, partition), set()).update(mark.offsets)

    def has(self, letter: Letter, to: str | None = None) -> bool:
        """Whether the letter was redriven to a topic: to the one it came from, unless told otherwise."""
        return letter.offset in self._offsets.get((to or letter.original.topic, letter.partition), ())


@dataclass(frozen=True)
class Selection:
    """Which letters somebody asks for; what is not given selects all.

    Attributes:
        reasons: Any of these reasons.
        since: Failed at this time or later.
        until: Failed before this time.
        partition: Of the dead-letter topic.
        offset: In that partition.
    """

    reasons: Collection[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    partition: int | None = None
    offset: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is asked for."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (self.since is None or letter.failed_at >= self.since)
            and (self.until is None or letter.failed_at < self.until)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
        )


class Letters:
    """The dead letters on a topic, read from its beginning to the end that it has when reading begins."""

    def __init__(
        self,
        kafka: KafkaSettings,
        topic: str,
        *,
        timeout_s: float = 15.0,
        read: Callable[..., Iterator[Batch]] = read_topic,
    ) -> None:
        self.topic = topic
        self._kafka = kafka
        self._timeout_s = timeout_s
        self._read = read

    def redriven(self) -> Redriven:
        """Which were redriven so far.

        Raises:
            TransportError: The broker does not answer, or refuses.
        """
        found = Redriven()
        for batch in self._batches():
            for row, headers in enumerate(batch.headers):
                mark = mark_of(headers, batch.values[row])
                if mark is not None:
                    found.add(batch.partitions[int(batch.partition_index[row])].number, mark)
        return found

    def __iter__(self) -> Iterator[Letter | None]:
        """Every letter, in the order of its partition; None for a message that is none, and no mark either.

        Raises:
            TransportError: The broker does not answer, or refuses.
        """
        for batch in self._batches():
            for row, headers in enumerate(batch.headers):
                if mark_of(headers, batch.values[row]) is None:
                    yield letter_of(batch, row)

    def _batches(self) -> Iterator[Batch]:
        return self._read(self._kafka, self.topic, timeout_s=self._timeout_s)


def letter_of(batch: Batch, row: int) -> Letter | None:
    """The dead letter in a row of a batch, or None where the message is none that we wrote."""
    texts = {name: content.decode("utf-8", "replace") for name, content in batch.headers[row] if name[:4] == PREFIX}
    topic = texts.get("dlq.original.topic", "")
    numbers = [
        _number(texts.get(name)) for name in ("dlq.original.partition", "dlq.original.offset", "dlq.original.timestamp")
    ]
    partition, offset, timestamp_ms = numbers
    if not texts.get(REASON) or not _TOPIC.fullmatch(topic) or partition is None or offset is None:
        return None
    return Letter(
        partition=batch.partitions[int(batch.partition_index[row])].number,
        offset=int(batch.offsets[row]),
        reason=texts[REASON],
        stage=texts.get("dlq.error.stage", ""),
        message=texts.get("dlq.error.message", ""),
        original=Place(topic, partition, offset),
        original_timestamp_ms=-1 if timestamp_ms is None else timestamp_ms,
        attempts=attempts_of(batch.headers[row]),
        failed_at=_time(texts.get("dlq.failed.at", ""), int(batch.timestamps_ms[row])),
        redrive_of=redrive_of(batch.headers[row]),
        truncated=texts.get("dlq.truncated", ""),
        key=batch.keys[row],
        value=batch.values[row],
        headers=batch.headers[row],
    )


def attempts_of(headers: Headers) -> int:
    """How often a message was a dead letter before; a header that is no number counts as none."""
    texts = [content or b"" for name, content in headers if name == ATTEMPTS]
    return int(texts[-1]) if texts and texts[-1].isdigit() and len(texts[-1]) < 10 else 0


def redrive_of(headers: Headers) -> Place | None:
    """Where a redriven message stood when it failed first; None of any other, and where the header says no place."""
    texts = [content for name, content in headers if name == REDRIVE_OF]
    match = _PLACE.fullmatch((texts[-1] or b"").decode("utf-8", "replace")) if texts else None
    return None if match is None else Place(match[1], int(match[2]), int(match[3]))


def mark_message(topic: str, partition: int, to: str, offsets: Sequence[int], *, now: datetime) -> OutgoingMessage:
    """The note that letters of a partition were redriven; it stands in their own partition, behind them.

    Its key is its own, so that it outlives compaction wherever its letters do.
    """
    said = {"redriven_at": _iso(now), "to": to, "offsets": list(offsets)}
    key = f"redriven:{to}:{offsets[0] if offsets else 'begin'}:{_iso(now)}"
    headers = ((REDRIVEN, b"1"), ("content-type", b"application/json"))
    return OutgoingMessage(topic, key.encode(), json.dumps(said).encode(), headers, partition=partition)


def mark_of(headers: Headers, value: bytes | None) -> Mark | None:
    """The note in a message, or None where it is none: a letter, or a note that cannot be read."""
    if not any(name == REDRIVEN for name, _ in headers) or any(name == REASON for name, _ in headers):
        return None
    try:
        said: Any = json.loads(value or b"")
        return Mark(str(said["to"]), [int(offset) for offset in said["offsets"]])
    except (ValueError, TypeError, KeyError):
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) else None


def _time(text: str, timestamp_ms: int) -> datetime:
    """A time as headers have it, else the message's own."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.fromtimestamp(max(timestamp_ms, 0) / 1000, UTC)
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
