"""Parts of a log, read outside any group: where it begins and ends, and all between two offsets. Commits nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from transport.columns import columns, until
from transport.connection import Connection, client_configuration, milliseconds
from transport.consumer import Consumer
from transport.errors import BrokerUnavailable, OffsetOutOfRange
from transport.messages import Batch, Partition
from transport.settings import KafkaSettings
from transport.translation import is_passing, translated

logger = logging.getLogger(__name__)

# Look at how far the reading is at least this often, and let a broker that has nothing to give say so.
_SLICE_S = 0.1

# A broker that answers for so long and names no partition of a topic has none: a new topic is known within a second.
_UNKNOWN_AFTER_S = 5.0

# At least so long for asking where a log begins, however short the poll: else short polls would never learn it.
_LOOK_UP_S = 1.0


class RangeReader:
    """The messages of one partition whose offsets lie in [start, end), a batch with each poll.

    Making it needs no broker; the first `poll` connects, and goes on trying with each poll. All is for one thread.
    Between polls it holds at most one fetch and what the last one left over (`fetch_max_bytes`, as compressed).

    The end need not exist yet: it is waited for. With `read_committed` that is also so while a transaction that
    began before the end is open.

    Args:
        kafka: The cluster.
        partition: What to read.
        start: The first offset wanted.
        end: The offset behind the last one wanted.
        max_batch_records: Most messages of one batch.
        isolation_level: `read_committed` leaves out messages of aborted transactions, and stops before those of
            unfinished ones.
        fetch_max_bytes: Most bytes that one fetch brings, as compressed on the wire.
        clock: Seconds that only grow.
        connect: Makes the client.

    Raises:
        ValueError: `start` is negative, or `end` lies before it.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        partition: Partition,
        start: int,
        end: int,
        *,
        max_batch_records: int = 2048,
        isolation_level: str = "read_committed",
        fetch_max_bytes: int = 2 * 2**20,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., Any] = Consumer,
    ) -> None:
        if not 0 <= start <= end:
            raise ValueError(f"[{start}, {end}) is no range of offsets: let start be at least 0 and end at least start")
        self._kafka = kafka
        self._partition = partition
        self._topic_partition = TopicPartition(partition.topic, partition.number)
        self._position = start
        self._end = end
        self._skipped = 0
        self._configuration = {
            "group_id": None,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": isolation_level,
            "allow_auto_create_topics": False,
            "check_crcs": True,
            "max_poll_records": max_batch_records,
            "fetch_max_bytes": fetch_max_bytes,
            "max_partition_fetch_bytes": fetch_max_bytes,
            "fetch_max_wait_ms": milliseconds(_SLICE_S),
            "enable_incremental_fetch_sessions": False,
            "metrics_enabled": False,
        }
        self._clock = clock
        self._connect = connect
        self._connection = Connection(clock, notes_voids=True)
        self._consumer: Any = None
        self._closed = False

    @property
    def position(self) -> int:
        """The offset before which all is given, skipped or does not exist; grows from `start` to `end`, never back."""
        return self._position

    @property
    def done(self) -> bool:
        """Whether the end is reached."""
        return self._position >= self._end

    @property
    def skipped(self) -> int:
        """How many offsets of the range retention had removed before they could be read. Holes do not count."""
        return self._skipped

    def poll(self, timeout_s: float) -> Batch | None:
        """Return the next messages, or None where none came in time; ask `done` whether any are left.

        Waits at most `timeout_s`, plus `connect_timeout_s` while there is no connection yet, plus a second where it
        must learn what retention has left. A broker that is away is no error: it looks like a quiet topic, and the
        next poll tries again. A topic that does not exist looks the same.

        Raises:
            Forbidden: The operator must see to access rights or credentials.
            ConfigurationRefused: The operator must see to a setting.
            OffsetOutOfRange: The log ends before `position`: it was cut back, or the topic is a new one of that name.
            TransportError: Anything else that polling again will not mend.
            ValueError: The reader is closed.
        """
        if self._closed:
            raise ValueError("the reader is closed: make a new one from its position to go on reading")
        self._connection.check()
        if self.done:
            return None
        try:
            return self._polled(self._clock() + timeout_s)
        except KafkaError as error:
            if is_passing(error):
                logger.warning(
                    "could not read on; trying again with the next poll, nothing is lost. "
                    "error=%r partition=%s offset=%d end=%d",
                    error,
                    self._partition,
                    self._position,
                    self._end,
                )
                return None
            raise translated(error, f"read {self._partition} from offset {self._position}") from error

    def _polled(self, deadline: float) -> Batch | None:
        if self._consumer is None:
            self._consumer = self._connected()
        while not self.done:
            remaining_s = max(0.0, deadline - self._clock())
            try:
                polled = self._consumer.poll(timeout_ms=round(min(_SLICE_S, remaining_s) * 1000))
            except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
                self._begin_at_what_exists(error, max(_LOOK_UP_S, remaining_s))
                continue
            self._advance(self._consumer.known_position(self._topic_partition))
            batch = columns(polled)
            if batch is not None:
                batch = until(batch, {self._partition: self._end})
                if len(batch):
                    return batch
            else:
                first, end = self._connection.void(self._topic_partition)
                if first <= self._position:
                    self._advance(end)
            if remaining_s <= 0.0:
                break
        return None

    def _connected(self) -> Any:
        try:
            consumer = self._connect(
                **client_configuration(self._kafka), **self._configuration, kafka_client=self._connection
            )
        except KafkaError:
            self._connection.close()
            raise
        consumer.assign([self._topic_partition])
        consumer.seek(self._topic_partition, self._position)
        return consumer

    def _advance(self, position: int | None) -> None:
        if position is not None:
            self._position = max(self._position, min(position, self._end))

    def _begin_at_what_exists(self, error: KafkaError, timeout_s: float) -> None:
        """Skip what retention has removed."""
        found = self._consumer.beginning_offsets([self._topic_partition], timeout_ms=milliseconds(timeout_s))
        first = int(found[self._topic_partition])
        if first <= self._position:
            raise OffsetOutOfRange(
                f"offset {self._position} of {self._partition} does not exist, and the log begins at {first}: it ends "
                f"before that offset, because an unclean leader election cut it back or because the topic is a new one "
                f"of that name; what was known of the partition's offsets holds no longer",
                partition=self._partition,
                offset=self._position,
            ) from error
        gone = min(first, self._end) - self._position
        logger.warning(
            "retention removed %d offsets before they were read; going on with the first that exists. "
            "partition=%s offset=%d first=%d end=%d",
            gone,
            self._partition,
            self._position,
            first,
            self._end,
        )
        self._skipped += gone
        self._advance(first)
        if not self.done:
            self._consumer.seek(self._topic_partition, self._position)

    def close(self) -> None:
        """Let go of the connection; never raises because of the broker, and may be called again."""
        self._closed = True
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=milliseconds(_LOOK_UP_S))


def bounds(
    kafka: KafkaSettings,
    partitions: Collection[Partition],
    timeout_s: float,
    *,
    isolation_level: str = "read_committed",
    clock: Callable[[], float] = time.monotonic,
    connect: Callable[..., Any] = Consumer,
) -> dict[Partition, tuple[int, int]]:
    """Return each partition's first offset and the offset behind its last message, in at most `timeout_s`.

    With `read_committed` the end is that of what can be read: the first offset of the oldest transaction still open.

    Raises:
        BrokerUnavailable: No answer in time, or a topic or partition does not exist.
        Forbidden: Our user may not read a topic.
    """
    if not partitions:
        return {}
    wanted = [TopicPartition(partition.topic, partition.number) for partition in partitions]
    with _asking(
        kafka, "look up where logs begin and end", wanted, timeout_s, isolation_level, clock, connect
    ) as question:
        ends = question(lambda consumer, timeout_ms: consumer.end_offsets(wanted, timeout_ms=timeout_ms))
        firsts = question(lambda consumer, timeout_ms: consumer.beginning_offsets(wanted, timeout_ms=timeout_ms))
    return {
        partition: (int(firsts[asked]), max(int(firsts[asked]), int(ends[asked])))
        for partition, asked in zip(partitions, wanted, strict=True)
    }


def partitions_of(
    kafka: KafkaSettings,
    topic: str,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    connect: Callable[..., Any] = Consumer,
) -> list[Partition]:
    """Return a topic's partitions as they are now, in order, in at most `timeout_s`.

    That a topic does not exist is said after five seconds in which the broker answered.

    Raises:
        BrokerUnavailable: No answer in time, or the topic does not exist.
        Forbidden: Our user may not read the topic.
    """
    first = [TopicPartition(topic, 0)]
    with _asking(
        kafka, f"look up the partitions of topic {topic!r}", first, timeout_s, "read_committed", clock, connect
    ) as question:
        # Asking for the end of one partition lets the client learn of all of them, in bounded time.
        def ask(consumer: Any, timeout_ms: int) -> None:
            consumer.end_offsets(first, timeout_ms=timeout_ms)

        connection = question.connection
        try:
            question(ask, _UNKNOWN_AFTER_S)
        except kafka_errors.KafkaTimeoutError:
            if not connection.partitions_of(topic) and connection.last_answer_age_s < _UNKNOWN_AFTER_S:
                raise
            question(ask)
        return [Partition(topic, number) for number in sorted(connection.partitions_of(topic))]


def offset_at(
    kafka: KafkaSettings,
    partition: Partition,
    timestamp_ms: int,
    timeout_s: float,
    *,
    isolation_level: str = "read_committed",
    clock: Callable[[], float] = time.monotonic,
    connect: Callable[..., Any] = Consumer,
) -> int:
    """Return the first offset whose message is as young as `timestamp_ms` or younger: `offsets_at` of one partition."""
    return offsets_at(
        kafka, {partition: timestamp_ms}, timeout_s, isolation_level=isolation_level, clock=clock, connect=connect
    )[partition]


def offsets_at(
    kafka: KafkaSettings,
    timestamps_ms: Mapping[Partition, int],
    timeout_s: float,
    *,
    isolation_level: str = "read_committed",
    clock: Callable[[], float] = time.monotonic,
    connect: Callable[..., Any] = Consumer,
) -> dict[Partition, int]:
    """Return of partitions the first offset whose message is as young as a timestamp or younger, in `timeout_s`.

    Where there is none it is the end, as `bounds` has it: whatever comes later lies behind it. Timestamps need not
    ascend: messages behind that offset may be older.

    Raises:
        BrokerUnavailable: No answer in time, or a topic or partition does not exist.
        Forbidden: Our user may not read a topic.
    """
    if not timestamps_ms:
        return {}
    wanted = {partition: TopicPartition(partition.topic, partition.number) for partition in timestamps_ms}
    times = {wanted[partition]: max(0, timestamp_ms) for partition, timestamp_ms in timestamps_ms.items()}
    doing = f"look up a time in {', '.join(map(str, wanted))}"
    with _asking(kafka, doing, list(times), timeout_s, isolation_level, clock, connect) as question:
        # The end comes first: a message that arrives between the two questions then lies behind it.
        ends = question(lambda consumer, timeout_ms: consumer.end_offsets(list(times), timeout_ms=timeout_ms))
        found = question(lambda consumer, timeout_ms: consumer.offsets_for_times(times, timeout_ms=timeout_ms))
    return {
        partition: int(ends[asked] if found[asked] is None else found[asked].offset)
        for partition, asked in wanted.items()
    }


class _Question:
    """Puts questions to a consumer, all within one time limit."""

    def __init__(self, consumer: Any, connection: Connection, left_s: Callable[[], float]) -> None:
        self.connection = connection
        self._consumer = consumer
        self._left_s = left_s

    def __call__(self, ask: Callable[[Any, int], Any], most_s: float = math.inf) -> Any:
        return ask(self._consumer, milliseconds(min(max(0.0, self._left_s()), most_s)))


@contextmanager
def _asking(
    kafka: KafkaSettings,
    doing: str,
    partitions: Collection[TopicPartition],
    timeout_s: float,
    isolation_level: str,
    clock: Callable[[], float],
    connect: Callable[..., Any],
) -> Iterator[_Question]:
    """Give what puts questions to a consumer without a group, all within one time limit."""
    deadline = clock() + timeout_s
    connection = Connection(clock)
    configuration = client_configuration(kafka) | {
        "bootstrap_timeout_ms": milliseconds(min(kafka.connect_timeout_s, timeout_s)),
        "group_id": None,
        "enable_auto_commit": False,
        "isolation_level": isolation_level,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    try:
        consumer = connect(**configuration, kafka_client=connection)
    except KafkaError as error:
        connection.close()
        raise translated(error, doing) from error
    try:
        yield _Question(consumer, connection, lambda: deadline - clock())
    except KafkaError as error:
        unknown = sorted(
            f"{partition.topic}[{partition.partition}]"
            for partition in partitions
            if partition.partition not in connection.partitions_of(partition.topic)
        )
        if unknown and isinstance(error, kafka_errors.KafkaTimeoutError) and connection.last_answer_age_s < timeout_s:
            raise BrokerUnavailable(
                f"could not {doing}: there is no {', '.join(unknown)}, or our user may not see it"
            ) from error
        raise translated(error, doing) from error
    finally:
        consumer.close(autocommit=False)
