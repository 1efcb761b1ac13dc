"""Kafka for unit tests: a cluster in memory behind the methods of kafka-python that we call, with faults on demand.

Time stands still unless something waits: a poll without messages and an acknowledgement that does not come advance
the cluster's clock by what they were told to wait. Faults are scripted by the method that they strike:

    cluster.fail("poll", KafkaTimeoutError())            the next poll raises it, the one after works
    cluster.fail("commit", None, CommitFailedError())    the next commit works, the one after raises
    cluster.fail("ack", KafkaTimeoutError())             the next message is not delivered, and its sender learns it
    cluster.fail("lost_ack", KafkaTimeoutError())        the next message is delivered, and its sender learns an error
    cluster.away = True                                  nobody answers until it is False again
    cluster.evict(group)                                 the group puts out all its members
    cluster.trim(topic, 0, 5)                            retention removes what lies before offset 5
    cluster.compact(topic)                               of each key only the last message stays

    cluster.fail("lost_end", KafkaTimeoutError())        the next transaction is committed, and nobody is told

Methods that faults can strike: connect, poll, commit, commit_async, committed, beginning_offsets, end_offsets,
offsets_for_times, send, ack, lost_ack, leave, init_transactions, send_offsets, end, lost_end, list_topics,
create_topics, describe_topics, describe_configs. Messages of a transaction are in their topics from its commit on:
what a reader of committed messages sees. Pass `cluster.consumer`, `cluster.producer` and `cluster.admin`
as `connect`, and `cluster.clock` as `clock`.
"""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource
from kafka.consumer.fetcher import ConsumerRecord
from kafka.partitioner.default import murmur2
from kafka.structs import OffsetAndMetadata, OffsetAndTimestamp

Headers = Sequence[tuple[str, bytes]]


class FakeClock:
    """Seconds that pass only when somebody waits."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@dataclass(frozen=True)
class FakeMessage:
    """A message as it lies in the cluster."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class _Log:
    """One partition."""

    messages: list[FakeMessage] = field(default_factory=list)
    start: int = 0
    end: int = 0


@dataclass
class _Group:
    members: list[FakeKafkaConsumer] = field(default_factory=list)
    commits: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)


@dataclass
class _Transaction:
    """What waits for its end."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    offsets: dict[TopicPartition, OffsetAndMetadata] = field(default_factory=dict)
    group: str | None = None


@dataclass(frozen=True)
class FakeMembership:
    """What a consumer says of itself to who commits for it."""

    group_id: str
    member: FakeKafkaConsumer
    generation_id: int = 1


class FakeCluster:
    """Topics, groups and faults."""

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self.clock = FakeClock()
        self.away = False
        self.arrived: list[FakeMessage] = []
        self.consumers: list[FakeKafkaConsumer] = []
        self.producers: list[FakeKafkaProducer] = []
        self._logs: dict[str, list[_Log]] = {}
        self._ids: dict[str, str] = {}
        self._configurations: dict[str, dict[str, str]] = {}
        self._created = 0
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._faults: dict[str, deque[BaseException | None]] = defaultdict(deque)
        self._transactions: dict[str, _Transaction] = {}
        for topic, partitions in (topics or {}).items():
            self.create(topic, partitions)

    # -- what tests do ----------------------------------------------------------------------------------------

    def create(self, topic: str, partitions: int = 1, configuration: Mapping[str, str] | None = None) -> None:
        """Create a topic, or give it more partitions."""
        if topic not in self._logs:
            self._created += 1
            self._logs[topic] = []
            self._ids[topic] = str(uuid.UUID(int=self._created))
            self._configurations[topic] = {"cleanup.policy": "delete", "retention.ms": "604800000"}
        self._configurations[topic].update(configuration or {})
        logs = self._logs[topic]
        logs.extend(_Log() for _ in range(partitions - len(logs)))

    def delete(self, topic: str) -> None:
        """Delete a topic with its messages and the offsets that groups have committed for it."""
        del self._logs[topic], self._ids[topic], self._configurations[topic]
        self.arrived = [message for message in self.arrived if message.topic != topic]
        for group in self._groups.values():
            group.commits = {where: at for where, at in group.commits.items() if where.topic != topic}

    def append(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> FakeMessage:
        """Put a message into a topic."""
        logs = self._logs[topic]
        if partition is None:
            partition = 0 if key is None else (murmur2(key) & 0x7FFFFFFF) % len(logs)
        log = logs[partition]
        if timestamp_ms is None:
            timestamp_ms = round(self.clock.now_s * 1000)
        message = FakeMessage(topic, partition, log.end, timestamp_ms, key, value, tuple(headers))
        log.messages.append(message)
        log.end += 1
        self.arrived.append(message)
        return message

    def skip_offsets(self, topic: str, partition: int, count: int) -> None:
        """Leave a hole behind the last message, as compaction and transaction markers do."""
        self._logs[topic][partition].end += count

    def trim(self, topic: str, partition: int, before: int) -> None:
        """Remove what lies before an offset, as retention does."""
        log = self._logs[topic][partition]
        log.start = before
        log.messages = [message for message in log.messages if message.offset >= before]

    def compact(self, topic: str) -> None:
        """Keep only the last message of each key in each partition, and no tombstone; offsets stay as they are."""
        for log in self._logs[topic]:
            last = {message.key: message for message in log.messages}
            log.messages = [
                message for message in log.messages if last[message.key] is message and message.value is not None
            ]

    def messages(self, topic: str) -> list[FakeMessage]:
        """Return a topic's messages in the order of their arrival."""
        return [message for message in self.arrived if message.topic == topic]

    def commits(self, group: str) -> dict[tuple[str, int], int]:
        """Return a group's committed offsets by topic and partition."""
        return {(where.topic, where.partition): at.offset for where, at in self._groups[group].commits.items()}

    def commit_metadata(self, group: str) -> dict[tuple[str, int], str]:
        """Return what was written beside a group's committed offsets."""
        return {(where.topic, where.partition): at.metadata for where, at in self._groups[group].commits.items()}

    def set_commit(self, group: str, topic: str, partition: int, offset: int, metadata: str = "") -> None:
        """Commit for a group, as an operator's tool does."""
        self._groups[group].commits[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata, -1)

    def fail(self, method: str, *errors: BaseException | None) -> None:
        """Let the next calls of a method raise these errors, in this order; None lets one through."""
        self._faults[method].extend(errors)

    def evict(self, group: str, *, told: bool = False) -> None:
        """Put out all of a group's members; each learns it with its next commit or poll, or (`told`) at once.

        A client that was told by a heartbeat has no generation any more, and still its partitions until the next poll.
        """
        for member in self._groups[group].members:
            member.evicted, member.told = True, told

    # -- what clients are made of -----------------------------------------------------------------------------

    def consumer(self, **configuration: Any) -> FakeKafkaConsumer:
        """Stand in for `kafka.KafkaConsumer`."""
        self._check_connect(configuration)
        consumer = FakeKafkaConsumer(self, configuration)
        self.consumers.append(consumer)
        return consumer

    def producer(self, **configuration: Any) -> FakeKafkaProducer:
        """Stand in for `kafka.KafkaProducer`."""
        self._check_connect(configuration)
        producer = FakeKafkaProducer(self, configuration)
        self.producers.append(producer)
        return producer

    def admin(self, **configuration: Any) -> FakeKafkaAdmin:
        """Stand in for `kafka.KafkaAdminClient`."""
        self._check_connect(configuration)
        return FakeKafkaAdmin(self, configuration)

    def _check_connect(self, configuration: dict[str, Any]) -> None:
        if self.away:
            self.clock.advance(configuration["bootstrap_timeout_ms"] / 1000)
            raise kafka_errors.KafkaTimeoutError("Unable to bootstrap")
        self._strike("connect")

    def _strike(self, method: str) -> None:
        faults = self._faults[method]
        if faults and (fault := faults.popleft()) is not None:
            raise fault

    def _log(self, partition: TopicPartition) -> _Log:
        logs: list[_Log] = self._logs[str(partition.topic)]
        return logs[int(partition.partition)]

    def _share(self, group: _Group, member: FakeKafkaConsumer) -> set[TopicPartition]:
        """Return what a member should own: the group's partitions dealt out in turn."""
        subscribed = sorted(
            TopicPartition(topic, number)
            for topic in {topic for other in group.members for topic in other.topics}
            for number in range(len(self._logs.get(topic, ())))
        )
        place = group.members.index(member)
        return set(subscribed[place :: len(group.members)])


class _NetClient:
    """The part of kafka-python's network client that we use."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._fake = cluster
        self.cluster = self
        self.asked = 0
        self.closed = False
        self.unauthorized_topics: set[str] = set()

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        logs = self._fake._logs.get(topic)
        return set(range(len(logs))) if logs else None

    def topic_id(self, topic: str) -> str | None:
        return self._fake._ids.get(topic)

    def request_update(self) -> None:
        self.asked += 1

    async def within(self, timeout_s: float, future: FakeFuture) -> Any:
        if not future.comes:
            self._fake.clock.advance(timeout_s)
            raise kafka_errors.KafkaTimeoutError(f"Timed out after {timeout_s} s")
        return await future

    def close(self) -> None:
        self.closed = True


class FakeFuture:
    """A future that is settled from the start, or never is."""

    def __init__(self, value: Any = None, error: BaseException | None = None, *, comes: bool = True) -> None:
        self.value = value
        self.error = error
        self.comes = comes

    def __await__(self) -> Generator[None, None, Any]:
        if self.error is not None:
            raise self.error
        yield from ()
        return self.value


class FakeKafkaConsumer:
    """Stands in for `kafka.KafkaConsumer`: groups with cooperative rebalances inside `poll`, positions, commits."""

    def __init__(self, cluster: FakeCluster, configuration: dict[str, Any]) -> None:
        self.config = configuration
        self.cluster = cluster
        self.topics: tuple[str, ...] = ()
        self.evicted = self.told = False
        self.closed = False
        self.polls = 0
        self.net = _NetClient(cluster)
        self._connection = configuration["kafka_client"]
        self._connection.use(self.net)
        self._listener: Any = None
        self._positions: dict[TopicPartition, int | None] = {}
        self._highwaters: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._answered()

    # -- groups -----------------------------------------------------------------------------------------------

    @property
    def _group(self) -> _Group | None:
        group_id = self.config.get("group_id")
        return None if group_id is None else self.cluster._groups[group_id]

    def subscribe(self, topics: Sequence[str], listener: Any = None) -> None:
        self.topics = tuple(topics)
        self._listener = listener

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, None)

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def _rebalance(self) -> None:
        group = self._group
        if group is None:
            return
        if self.evicted:
            self.evicted = self.told = False
            if self._positions:
                self._call("on_partitions_lost", set(self._positions))
            self._positions.clear()
            self._paused.clear()
        if self not in group.members:
            group.members.append(self)
        wanted = self.cluster._share(group, self)
        given_up = set(self._positions) - wanted
        for partition in given_up:
            del self._positions[partition]
            self._paused.discard(partition)
        if given_up:
            self._call("on_partitions_revoked", given_up)
        held = {partition for member in group.members if member is not self for partition in member._positions}
        gained = wanted - set(self._positions) - held
        for partition in gained:
            self._positions[partition] = None
        if gained:
            self._call("on_partitions_assigned", gained)

    def _call(self, method: str, partitions: set[TopicPartition]) -> None:
        if self._listener is not None:
            _drive(getattr(self._listener, method)(partitions))

    # -- reading ----------------------------------------------------------------------------------------------

    def poll(self, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[ConsumerRecord]]:
        assert not self.closed, "poll after close"
        self.polls += 1
        if self.cluster.away:
            self.cluster.clock.advance(timeout_ms / 1000)
            return {}
        self.cluster._strike("poll")
        self._answered()
        self._rebalance()
        self._find_positions()
        polled: dict[TopicPartition, list[ConsumerRecord]] = {}
        room = max_records or self.config["max_poll_records"]
        for partition, position in self._positions.items():
            if partition in self._paused or partition.topic not in self.cluster._logs:
                continue
            log = self.cluster._log(partition)
            self._highwaters[partition] = log.end
            assert position is not None
            if not log.start <= position <= log.end:
                raise kafka_errors.OffsetOutOfRangeError({partition: position})
            records = [_record(message) for message in log.messages if message.offset >= position][:room]
            room -= len(records)
            if records:
                polled[partition] = records
                at_end = records[-1].offset == log.messages[-1].offset
                self._positions[partition] = log.end if at_end else records[-1].offset + 1
            elif not any(message.offset >= position for message in log.messages):
                self._connection.note_void(partition, position, log.end)
            if room == 0:
                break
        if not polled:
            self.cluster.clock.advance(timeout_ms / 1000)
        return polled

    def _find_positions(self) -> None:
        missing = {partition for partition, position in self._positions.items() if position is None}
        commits = self._group.commits if self._group else {}
        for partition in set(missing):
            if partition in commits:
                self._positions[partition] = commits[partition].offset
                missing.remove(partition)
        if missing:
            raise kafka_errors.NoOffsetForPartitionError(missing)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._positions:
            raise ValueError("Unassigned partition")
        self._positions[partition] = offset

    def position(self, partition: TopicPartition, timeout_ms: int | None = None) -> int | None:
        if partition not in self._positions:
            raise kafka_errors.IllegalStateError("Partition is not assigned")
        return self._positions[partition]

    def known_position(self, partition: TopicPartition) -> int | None:
        return self._positions.get(partition)

    def highwater(self, partition: TopicPartition) -> int | None:
        if partition not in self._positions:
            raise kafka_errors.IllegalStateError("Partition is not assigned")
        return self._highwaters.get(partition)

    def pause(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            assert partition in self._positions, f"{partition} is not assigned"
            self._paused.add(partition)

    def resume(self, *partitions: TopicPartition) -> None:
        for partition in partitions:
            assert partition in self._positions, f"{partition} is not assigned"
            self._paused.discard(partition)

    def beginning_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        self._question("beginning_offsets", timeout_ms, partitions)
        return {partition: self.cluster._log(partition).start for partition in partitions}

    def end_offsets(
        self, partitions: Sequence[TopicPartition], timeout_ms: int | None = None
    ) -> dict[TopicPartition, int]:
        self._question("end_offsets", timeout_ms, partitions)
        return {partition: self.cluster._log(partition).end for partition in partitions}

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: int | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        self._question("offsets_for_times", timeout_ms, timestamps)
        found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
        for partition, timestamp_ms in timestamps.items():
            assert timestamp_ms >= 0, "kafka-python refuses times before 1970"
            young = (each for each in self.cluster._log(partition).messages if each.timestamp_ms >= timestamp_ms)
            first = next(young, None)
            found[partition] = None if first is None else OffsetAndTimestamp(first.offset, first.timestamp_ms, 0)
        return found

    # -- committing -------------------------------------------------------------------------------------------

    def committed(
        self, partition: TopicPartition, metadata: bool = False, timeout_ms: int | None = None
    ) -> OffsetAndMetadata | int | None:
        self._question("committed", timeout_ms)
        assert self._group is not None
        commit = self._group.commits.get(partition)
        return commit if commit is None or metadata else commit.offset

    def commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], timeout_ms: int | None = None) -> None:
        assert timeout_ms is not None, "a commit without a time limit"
        self._question("commit", timeout_ms)
        self._commit(offsets)

    def commit_async(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> FakeFuture:
        if self.cluster.away:
            return FakeFuture(comes=False)
        try:
            self.cluster._strike("commit_async")
            self._commit(offsets)
        except kafka_errors.KafkaError as error:
            return FakeFuture(error=error)
        return FakeFuture()

    def _commit(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        if self.evicted:
            raise kafka_errors.CommitFailedError("not part of an active group")
        assert self._group is not None
        self._group.commits.update(offsets)

    def group_metadata(self) -> FakeMembership:
        return FakeMembership(self.config["group_id"], self, -1 if self.told else 1)

    def close(self, autocommit: bool = True, timeout_ms: int | None = None) -> None:
        if self.closed:
            return
        self.closed = True
        group = self._group
        if group is not None and self in group.members:
            if self._positions:
                self._call("on_partitions_lost" if self.evicted else "on_partitions_revoked", set(self._positions))
            group.members.remove(self)
        self._positions.clear()
        self.cluster._strike("leave")

    def _question(self, method: str, timeout_ms: int | None, partitions: Iterable[TopicPartition] = ()) -> None:
        assert timeout_ms is not None, f"{method} without a time limit"
        if self.cluster.away or any(
            partition.partition >= len(self.cluster._logs.get(partition.topic, ())) for partition in partitions
        ):
            self.cluster.clock.advance(timeout_ms / 1000)
            if not self.cluster.away:
                self._answered()
            raise kafka_errors.KafkaTimeoutError(f"Timed out after {timeout_ms} ms")
        self.cluster._strike(method)
        self._answered()

    def _answered(self) -> None:
        self._connection.note_answer()


class FakeKafkaProducer:
    """Stands in for our `Producer`: a message is delivered when sent or with its transaction, unless faults strike."""

    def __init__(self, cluster: FakeCluster, configuration: dict[str, Any]) -> None:
        self.config = dict(configuration)
        self.cluster = cluster
        self.closed = False
        self.forced = False
        self._sender = self
        self._connection = configuration["kafka_client"]
        self._connection.use(_NetClient(cluster))
        self._connection.note_answer()
        self._id: str | None = configuration.get("transactional_id")
        self._transaction: _Transaction | None = None
        self.cause: Exception | None = None

    def init_transactions(self) -> None:
        assert self._id is not None
        if self.cluster.away:
            self.cluster.clock.advance(self.config["max_block_ms"] / 1000)
            raise kafka_errors.KafkaTimeoutError("Timeout expired while initializing transactional state")
        self.cluster._strike("init_transactions")
        self.cluster._transactions.pop(self._id, None)

    def begin_transaction(self) -> None:
        assert self._id is not None
        assert self._transaction is None, "the transaction before was not ended"
        self._transaction = self.cluster._transactions[self._id] = _Transaction()

    def send_offsets(
        self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group: FakeMembership, *, timeout_s: float
    ) -> None:
        self._question("send_offsets", timeout_s)
        assert self._transaction is not None
        gone = group.member.evicted or group.member not in self.cluster._groups[group.group_id].members
        # As Kafka has it: who names no generation is not asked whether it is a member.
        if group.generation_id >= 0 and gone:
            raise kafka_errors.CommitFailedError("metadata mismatch: UnknownMemberIdError")
        self._transaction.offsets.update(offsets)
        self._transaction.group = group.group_id

    def end(self, *, commit: bool, timeout_s: float) -> None:
        self._question("end", timeout_s)
        assert self._id is not None
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        if self.cluster._transactions.pop(self._id, None) is not transaction:
            raise kafka_errors.ProducerFencedError
        if commit:
            for message in transaction.messages:
                self.cluster.append(**message)
            if transaction.group is not None:
                self.cluster._groups[transaction.group].commits.update(transaction.offsets)
            self.cluster._strike("lost_end")

    def _question(self, method: str, timeout_s: float) -> None:
        if self.cluster.away:
            self.cluster.clock.advance(timeout_s)
            raise kafka_errors.KafkaTimeoutError(f"no answer within {timeout_s} s")
        self.cluster._strike(method)
        self._connection.note_answer()

    def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: list[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> _Acknowledgement:
        assert not self.closed, "send after close"
        assert all(isinstance(name, str) and isinstance(content, bytes) for name, content in headers or ())
        self.cluster._strike("send")
        if topic not in self.cluster._logs:
            self.cluster.clock.advance(self.config["max_block_ms"] / 1000)
            if not self.cluster.away:
                self._connection.note_answer()
                self._connection.note_unknown([topic])
            raise kafka_errors.KafkaTimeoutError("Failed to update metadata")
        if partition is not None and partition >= len(self.cluster._logs[topic]):
            raise ValueError(f"Unrecognized partition {partition} for topic {topic}")
        if self.cluster.away:
            return _Acknowledgement(self.cluster.clock, kafka_errors.KafkaTimeoutError("not acknowledged"), slow=True)
        try:
            self.cluster._strike("ack")
        except kafka_errors.KafkaError as error:
            return _Acknowledgement(self.cluster.clock, error)
        message: dict[str, Any] = {
            "topic": topic, "value": value, "key": key, "partition": partition, "headers": headers or (),
            "timestamp_ms": timestamp_ms,
        }  # fmt: skip
        if self._id is None:
            self.cluster.append(**message)
        else:
            assert self._transaction is not None, "a message outside of any transaction"
            self._transaction.messages.append(message)
        self._connection.note_answer()
        try:
            self.cluster._strike("lost_ack")
        except kafka_errors.KafkaError as error:
            return _Acknowledgement(self.cluster.clock, error)
        return _Acknowledgement(self.cluster.clock)

    def force_close(self) -> None:
        """The sender's; nothing is delivered afterwards."""
        self.forced = True

    def close(self, timeout: float | None = None) -> None:
        assert timeout is not None, "closing without a time limit"
        self.closed = True


class _Acknowledgement:
    def __init__(self, clock: FakeClock, error: BaseException | None = None, *, slow: bool = False) -> None:
        self._clock = clock
        self._error = error
        self._slow = slow

    def get(self, timeout: float | None = None) -> None:
        assert timeout is not None, "waiting without a time limit"
        if self._slow:
            self._clock.advance(timeout)
        if self._error is not None:
            raise self._error


class FakeKafkaAdmin:
    """Stands in for `kafka.KafkaAdminClient`."""

    def __init__(self, cluster: FakeCluster, configuration: dict[str, Any]) -> None:
        self._cluster = cluster
        configuration["kafka_client"].use(_NetClient(cluster))

    def list_topics(self) -> list[str]:
        self._cluster._strike("list_topics")
        return list(self._cluster._logs)

    def create_topics(self, topics: Mapping[str, Mapping[str, Any]], timeout_ms: int | None = None) -> None:
        self._cluster._strike("create_topics")
        for name, options in topics.items():
            self._cluster.create(name, options["num_partitions"], options.get("configs"))

    def describe_topics(self, topics: Sequence[str]) -> list[dict[str, Any]]:
        self._cluster._strike("describe_topics")
        return [
            {
                "name": name,
                "error_code": 0 if name in self._cluster._ids else 3,
                "topic_id": self._cluster._ids.get(name),
            }
            for name in topics
        ]

    def describe_configs(
        self, config_resources: Sequence[ConfigResource], config_filter: str = "modified"
    ) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
        assert config_filter == "all", "only what differs from the broker's defaults would come"
        self._cluster._strike("describe_configs")
        return {
            "topic": {
                resource.name: {
                    name: {"value": value}
                    for name, value in self._cluster._configurations.get(resource.name, {}).items()
                }
                for resource in config_resources
            }
        }

    def wait_for_topics(self, names: Sequence[str], timeout_ms: int) -> None:
        assert set(names) <= set(self._cluster._logs)

    def close(self) -> None:
        """Nothing is held open."""


def _record(message: FakeMessage) -> ConsumerRecord:
    return ConsumerRecord(
        topic=message.topic,
        partition=message.partition,
        leader_epoch=0,
        offset=message.offset,
        timestamp=message.timestamp_ms,
        timestamp_type=0,
        key=message.key,
        value=message.value,
        headers=list(message.headers),
        checksum=None,
        serialized_key_size=-1 if message.key is None else len(message.key),
        serialized_value_size=-1 if message.value is None else len(message.value),
        serialized_header_size=-1,
    )


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never really waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the listener waits for something that the fake cannot settle")
