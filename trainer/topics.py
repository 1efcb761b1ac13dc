"""Ranges of a topic as sources of records; it joins no group, commits nothing and publishes nothing.

A range is one of offsets, fixed before the first message is read: what arrives later is not in it. Times are looked up
in the broker's own index of message timestamps, so that a range of time is one of offsets as well.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from detector import AlertState, Detector, HistoryState, StreamDefinition, decoder_of
from trainer.datasets import Chunk
from trainer.errors import DataFileError, TrainerError
from transport import (
    Batch,
    KafkaSettings,
    Partition,
    RangeReader,
    TransportError,
    bounds,
    offsets_at,
    partitions_of,
)

CHUNK_MESSAGES = 8_192
"""Most messages that are read before they are decoded."""

WINDOWLESS_WARM_UP_S = 30 * 86_400.0
"""How far back history is read where its features have no window."""

_TIMEOUT_S = 30.0
_POLL_S = 0.5
_MOST_SHOWN = 12  # partitions in a line for people
_LOOK_BACK_OFFSETS = 200  # how many messages tell how old those before an offset are

_OFFSETS = re.compile(r"\d+:\d+(,\d+:\d+)*", re.ASCII)
_OFFSET = re.compile(r"\d+", re.ASCII)


# --- what the worker's room knows ---


class Remembered(Protocol):
    """What a worker remembers of a partition when it comes to an offset."""

    @property
    def history(self) -> HistoryState | None:
        """Its entities, None where nothing is remembered of them; it belongs to whoever asked."""

    @property
    def alerts(self) -> AlertState:
        """What decides on alerts."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Where that is known from, and what of it is not, for people."""

    @property
    def is_exact(self) -> bool:
        """Whether it is what a worker of this version had that has read the partition without a break."""


class LookBack(Protocol):
    """Looks back at a topic as the worker with the same settings reads it; made by the worker's room."""

    @property
    def kafka(self) -> KafkaSettings:
        """The cluster."""

    @property
    def warm_up_s(self) -> float | None:
        """How much of the input is wanted for the histories of what follows it; None where nobody said."""

    def remembered_at(
        self, detector: Detector, partition: Partition, offset: int, *,
        begin: HistoryState | None, version_of: Callable[[str], Detector | None],
    ) -> Remembered:  # fmt: skip
        """What is remembered of a partition before the message at an offset.

        Raises:
            TransportError: The broker does not answer, or refuses.
        """


# --- the ends of a range, as people write them ---


@dataclass(frozen=True)
class Edge:
    """One end of a range.

    Attributes:
        text: As it was written.
        timestamp_ms: The time, where it is one.
        offsets: Where it is offsets, by partition.
        offset: Where it is one offset without a partition.
    """

    text: str
    timestamp_ms: int | None = None
    offsets: Mapping[int, int] = field(default_factory=dict)
    offset: int | None = None

    @classmethod
    def parse(cls, text: str, option: str) -> Edge:
        """Read an ISO-8601 date or time (UTC where it names no zone), `PARTITION:OFFSET,...`, or `OFFSET`.

        Raises:
            DataFileError: It is none of these; names the option.
        """
        text = text.strip()
        if _OFFSETS.fullmatch(text):
            pairs = [part.split(":") for part in text.split(",")]
            offsets = {int(number): int(offset) for number, offset in pairs}
            if len(offsets) < len(pairs):
                raise DataFileError(f"{option} {text}: names a partition twice: give each partition one offset")
            return cls(text, offsets=offsets)
        if _OFFSET.fullmatch(text):
            return cls(text, offset=int(text))
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise DataFileError(
                f"{option} {text}: is neither a date or time (2026-03-01, 2026-03-01T12:00+01:00) nor offsets "
                "(PARTITION:OFFSET,... or, of a topic with one partition, OFFSET)"
            ) from None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        timestamp_ms = round(moment.timestamp() * 1000)
        if timestamp_ms < 0:
            raise DataFileError(f"{option} {text}: lies before 1970, and no message does: give a later time")
        return cls(text, timestamp_ms=timestamp_ms)


# --- ranges ---


@dataclass
class ReadingNotes:
    """What was odd in a range when it was last read to its end.

    Attributes:
        skipped: Offsets that retention removed before they were read.
        older: Messages whose timestamp is before the time at which the range begins.
    """

    skipped: int = 0
    older: int = 0


@dataclass(frozen=True, eq=False)
class PartitionRange:
    """The messages of one partition with offsets in [start, end), and those before them that are history alone.

    Attributes:
        kafka: The cluster.
        partition: What is read.
        start: The first offset of the range.
        end: The offset behind the last one.
        warm_from: Messages from here to `start` are history alone; `start` for none.
        since_ms: The time at which the range begins, where it was given as one.
        recall: Restores what is remembered before `start`, when it is the partition's turn.
        remembered: What was remembered, once that was restored.
        timeout_s: Give up where nothing comes for so long.
        client: More arguments for what reads, such as a test's `connect` and `clock`.
        notes: Filled by reading.
    """

    kafka: KafkaSettings
    partition: Partition
    start: int
    end: int
    warm_from: int
    since_ms: int | None = None
    recall: Callable[[PartitionRange], Remembered] | None = None
    remembered: Remembered | None = None
    timeout_s: float = _TIMEOUT_S
    client: Mapping[str, Any] = field(default_factory=dict)
    notes: ReadingNotes = field(default_factory=ReadingNotes)

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The partition, for people: `topic[3]`."""
        return str(self.partition)

    def is_history_alone(self, chunk: Chunk) -> bool:
        """Whether a chunk of this range lies before its start; none lies on both sides."""
        return len(chunk) > 0 and int(chunk.lines[0]) < self.start

    def recalled(self) -> PartitionRange:
        """The same with what is remembered before it; restored now, so that one partition's is in memory at a time."""
        if self.remembered is not None or self.recall is None:
            return self
        return replace(self, remembered=self.recall(self))

    def chunks(self, stream: StreamDefinition, chunk_records: int = CHUNK_MESSAGES) -> Iterator[Chunk]:
        """Read and decode the messages in order, as the worker does; `Chunk.lines` are their offsets.

        One fetch (`RangeReader`) and one chunk are in memory at a time.

        Raises:
            TrainerError: The broker does not answer, or refuses; or the topic is another one by now.
        """
        decoder = decoder_of(stream)
        notes = ReadingNotes()
        for start, end in ((self.warm_from, self.start), (self.start, self.end)):
            for batch in self.batches(start, end, min(chunk_records, CHUNK_MESSAGES), notes):
                if self.since_ms is not None and start == self.start:
                    notes.older += int(((batch.timestamps_ms >= 0) & (batch.timestamps_ms < self.since_ms)).sum())
                records, rejects = decoder.decode(batch)
                yield Chunk(self, batch.offsets, records, rejects)
        self.notes.skipped, self.notes.older = notes.skipped, notes.older  # set, as a range may be read twice

    def batches(self, start: int, end: int, most: int, notes: ReadingNotes) -> Iterator[Batch]:
        """The messages of some offsets, at most so many at once.

        Raises:
            TrainerError: The broker does not answer, or refuses.
        """
        if start >= end:
            return
        clock: Callable[[], float] = self.client.get("clock", time.monotonic)
        with as_trainer_errors():
            reader = RangeReader(self.kafka, self.partition, start, end, max_batch_records=most, **self.client)
        try:
            heard_s, position = clock(), reader.position
            while not reader.done:
                with as_trainer_errors():
                    batch = reader.poll(_POLL_S)
                if batch is not None:
                    yield batch
                if batch is not None or reader.position > position:
                    heard_s, position = clock(), reader.position
                elif clock() - heard_s >= self.timeout_s:
                    raise TrainerError(
                        f"{self.name} gave nothing from offset {reader.position} on for {self.timeout_s:g} s, and the "
                        f"range ends at {end}: is the broker away?"
                    )
            notes.skipped += reader.skipped
        finally:
            reader.close()


@dataclass(frozen=True)
class TopicRange:
    """A range of a topic, one part a partition, in the order of their numbers.

    Attributes:
        topic: Its name.
        parts: Those partitions of which there is something to read.
        remarks: What a person should know of where the range begins and ends, one line each.
    """

    topic: str
    parts: tuple[PartitionRange, ...]
    remarks: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Where records were read, for the artifact's manifest."""
        return {
            "topic": self.topic,
            "offsets": {str(part.partition.number): [part.start, part.end] for part in self.parts},
        }

    def described(self) -> str:
        """The range in a line."""
        shown = [f"[{part.partition.number}] {part.start:,} to {part.end - 1:,}" for part in self.parts[:_MOST_SHOWN]]
        offsets = "; ".join([*shown, "..."] if len(self.parts) > _MOST_SHOWN else shown)
        count = sum(part.end - part.start for part in self.parts)
        return f"{self.topic}: {count:,} offsets of {len(self.parts)} partition(s): {offsets}"

    def told_after(self) -> Iterator[str]:
        """What was odd in the reading, once it is done."""
        if skipped := sum(part.notes.skipped for part in self.parts):
            yield f"{self.topic}: retention removed {skipped:,} offsets of the range before they were read"
        if older := sum(part.notes.older for part in self.parts):
            yield (
                f"{self.topic}: {older:,} messages of the range carry a timestamp before its beginning: their producer "
                "dated them so, and the range is one of offsets, from the first message that is young enough on"
            )

    def with_memories(self, recall: Callable[[PartitionRange], Remembered]) -> TopicRange:
        """The same, with what is remembered before the start of each part restored when it is its turn."""
        return replace(self, parts=tuple(replace(part, recall=recall) for part in self.parts))


def topic_range(
    kafka: KafkaSettings,
    topic: str,
    since: str | None = None,
    until: str | None = None,
    *,
    partitions: Sequence[int] = (),
    warm_up_s: float = 0.0,
    settle: Callable[[float], float] = lambda offset: offset,
    timeout_s: float = _TIMEOUT_S,
    client: Mapping[str, Any] | None = None,
) -> TopicRange:
    """Find where a range of a topic begins and ends, now and for good.

    A time stands for the first message whose timestamp is as young or younger: that of its producer, or of its arrival
    at the broker where the topic is set to `message.timestamp.type=LogAppendTime`. Where no end is given it is the last
    stable offset of now: messages of an open transaction, and what lies behind them, are not in the range.

    Args:
        kafka: The cluster.
        topic: The topic.
        since: Where it begins, as `Edge` has it; at the oldest message unless given.
        until: The end, exclusive; behind the newest message of now unless given.
        partitions: Only these.
        warm_up_s: How much before the beginning is read as history alone, by timestamps, as far as retention left it.
        settle: Makes the same of an offset in all processes of a training.
        timeout_s: Give up a question, or a reading in which nothing comes, after this.
        client: More arguments for what reads, such as a test's `connect` and `clock`.

    Raises:
        DataFileError: An end is not understood or does not exist, a partition does not exist, or the range is empty.
        TrainerError: The broker does not answer, or refuses; or the topic does not exist.
    """
    edges = _edges(since, until)
    client = client or {}
    with as_trainer_errors():
        wanted = _chosen(partitions_of(kafka, topic, timeout_s, **client), partitions)
        limits = bounds(kafka, wanted, timeout_s, **client)
        starts, ends = (_offsets(kafka, edge, limits, timeout_s, client) for edge in edges)
        remarks: list[str] = []
        parts: list[PartitionRange] = []
        for partition, (first, last) in limits.items():
            start = first if starts is None else starts[partition]
            end = last if ends is None else ends[partition]
            remarks += _missing(partition, start, end, first, last, edges)
            start, end = (int(settle(float(each))) for each in (max(start, first), end))
            if start < end:
                warm_from = _warm_from(kafka, partition, first, start, edges[0], warm_up_s, timeout_s, client)
                parts.append(
                    PartitionRange(
                        kafka,
                        partition,
                        start,
                        end,
                        int(settle(float(warm_from))),
                        since_ms=None if edges[0] is None else edges[0].timestamp_ms,
                        timeout_s=timeout_s,
                        client=client,
                    )
                )
        if not parts:
            raise DataFileError(_why_empty(kafka, topic, limits, edges, remarks, timeout_s, client))
    return TopicRange(topic, tuple(parts), tuple(remarks))


def warm_up_of(stream: StreamDefinition) -> float:
    """How much before a range history needs, in seconds: its longest window, as a worker has it; 0 without history."""
    if not stream.history_features:
        return 0.0
    return stream.longest_window_us / 1e6 or WINDOWLESS_WARM_UP_S


def _edges(since: str | None, until: str | None) -> list[Edge | None]:
    """Both ends of a range.

    Raises:
        DataFileError: One is not understood, or they are times in the wrong order.
    """
    begin, end = (
        None if text is None else Edge.parse(text, option) for text, option in ((since, "--from"), (until, "--to"))
    )
    times = [edge.timestamp_ms for edge in (begin, end) if edge is not None and edge.timestamp_ms is not None]
    if len(times) == 2 and times[0] >= times[1]:
        raise DataFileError(
            f"--from {since} to --to {until}: ends before anything is in it, as --to is the first that is out of the "
            "range: exchange them, or give a later end"
        )
    return [begin, end]


def _chosen(there: Sequence[Partition], numbers: Sequence[int]) -> list[Partition]:
    unknown = sorted(set(numbers) - {partition.number for partition in there})
    if unknown:
        raise DataFileError(
            f"--partition {unknown[0]}: {there[0].topic} has partitions 0 to {there[-1].number}: choose among them"
        )
    return [partition for partition in there if not numbers or partition.number in numbers]


def _offsets(
    kafka: KafkaSettings, edge: Edge | None, limits: Mapping[Partition, tuple[int, int]], timeout_s: float,
    client: Mapping[str, Any],
) -> dict[Partition, int] | None:  # fmt: skip
    """The offset at which an end lies in each partition; None for an end that was not given."""
    if edge is None:
        return None
    if edge.timestamp_ms is not None:
        found = offsets_at(kafka, dict.fromkeys(limits, edge.timestamp_ms), timeout_s, **client)
        return {partition: min(offset, limits[partition][1]) for partition, offset in found.items()}
    if edge.offset is not None:
        if len(limits) > 1:
            raise DataFileError(
                f"{edge.text}: {next(iter(limits)).topic} is read in {len(limits)} partitions, and each counts its own "
                f"offsets: write PARTITION:OFFSET,..., or choose one with --partition"
            )
        return dict.fromkeys(limits, edge.offset)
    numbers = {partition.number for partition in limits}
    if unknown := sorted(edge.offsets.keys() - numbers):
        raise DataFileError(f"{edge.text}: partition {unknown[0]} is not among those that are read")
    if unsaid := sorted(numbers - edge.offsets.keys()):
        raise DataFileError(
            f"{edge.text}: says nothing of partition {', '.join(map(str, unsaid))}: give an offset for each, or choose "
            "partitions with --partition"
        )
    return {partition: edge.offsets[partition.number] for partition in limits}


def _missing(
    partition: Partition, start: int, end: int, first: int, last: int, edges: Sequence[Edge | None]
) -> Iterator[str]:
    """What of a range is not there (any more).

    Raises:
        DataFileError: An end was given as an offset that is still to come, or the end lies before the beginning.
    """
    for offset, edge in zip((start, end), edges, strict=True):
        if edge is not None and edge.timestamp_ms is None and offset > last:
            raise DataFileError(
                f"{edge.text}: {partition} ends at offset {last:,}, and {offset:,} is still to come: wait for it, or "
                "give one that exists"
            )
    if start > end and all(edges):
        raise DataFileError(
            f"--from {edges[0] and edges[0].text} lies behind --to {edges[1] and edges[1].text} in {partition} "
            f"(offsets {start:,} and {end:,}): exchange them"
        )
    since = edges[0]
    if since is None or first == 0:
        return
    if since.timestamp_ms is None and start < first:
        yield (
            f"{partition}: retention has removed {min(first, end) - start:,} offsets of the range; it begins at "
            f"{first:,}"
        )
    elif since.timestamp_ms is not None and start == first:
        yield (
            f"{partition}: retention has removed what lay before offset {first:,}: whether that is a part of the range "
            "from " + since.text + " cannot be told any more"
        )


def _warm_from(
    kafka: KafkaSettings, partition: Partition, first: int, start: int, since: Edge | None, warm_up_s: float,
    timeout_s: float, client: Mapping[str, Any],
) -> int:  # fmt: skip
    """Where reading begins, so that what follows has its history."""
    if warm_up_s <= 0 or start <= first:
        return start
    known = since is not None and since.timestamp_ms is not None
    begin_ms = since.timestamp_ms if since is not None and known else None
    if begin_ms is None:
        begin_ms = _newest_ms(kafka, partition, max(first, start - _LOOK_BACK_OFFSETS), start, timeout_s, client)
    if begin_ms is None:
        return first
    found = offsets_at(kafka, {partition: round(begin_ms - warm_up_s * 1000)}, timeout_s, **client)[partition]
    return max(first, min(found, start))


def _newest_ms(
    kafka: KafkaSettings, partition: Partition, start: int, end: int, timeout_s: float, client: Mapping[str, Any]
) -> int | None:
    """The youngest timestamp in a range, None where its messages have none, or there are none."""
    part = PartitionRange(kafka, partition, start, end, start, timeout_s=timeout_s, client=client)
    batches = part.batches(start, end, CHUNK_MESSAGES, ReadingNotes())
    newest = max((int(batch.timestamps_ms.max()) for batch in batches), default=-1)
    return newest if newest >= 0 else None


def _why_empty(
    kafka: KafkaSettings, topic: str, limits: Mapping[Partition, tuple[int, int]], edges: Sequence[Edge | None],
    remarks: Sequence[str], timeout_s: float, client: Mapping[str, Any],
) -> str:  # fmt: skip
    since, until = ("" if edge is None else edge.text for edge in edges)
    there = {partition: limit for partition, limit in limits.items() if limit[0] < limit[1]}
    if not there:
        return f"{topic} is empty: {'; '.join(remarks) or 'nobody has written to it, or retention took it all'}"
    newest = [
        stamp
        for partition, (first, end) in there.items()
        if (stamp := _newest_ms(kafka, partition, max(first, end - _LOOK_BACK_OFFSETS), end, timeout_s, client))
    ]
    held = "; ".join(f"{partition} holds offsets {first:,} to {end - 1:,}" for partition, (first, end) in there.items())
    dated = f", the newest message of {_iso(max(newest))} by its timestamp" if newest else ""
    return (
        f"{topic} has no message in the range{f' from {since}' if since else ''}{f' to {until}' if until else ''}: "
        f"{held}{dated}; times of a range are those of messages, not of the events in them"
    )


def _iso(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def as_trainer_errors() -> Iterator[None]:
    """Turn what the broker refuses into an error of this room."""
    try:
        yield
    except TransportError as error:
        raise TrainerError(str(error)) from error
