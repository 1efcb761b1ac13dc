"""A member of a consumer group over kafka-python. Knows nothing about what is in a message."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from transport.columns import columns
from transport.connection import Connection, client_configuration, milliseconds
from transport.consumer import Consumer
from transport.errors import CommitRefused, OffsetOutOfRange, TransportError
from transport.messages import Batch, Partition, RebalanceCounts
from transport.progress import Progress
from transport.protocols import Transactions
from transport.settings import KafkaSettings, SourceSettings
from transport.translation import is_membership, is_passing, translated

logger = logging.getLogger(__name__)

# Ask for metadata when nothing was answered for so long.
_SILENCE_S = 3.0

# Why a position does not exist.
_GONE = "retention has removed records, or the topic is a new one of that name"
_CUT = "an unclean leader election has removed records"
_ANEW = "the topic was deleted and created anew"

# Written beside the first offsets of a group that starts at "latest", and kept in its later commits: how many
# partitions the topic had then. Members that start together cannot see each other's positions, and a partition
# without a committed offset is either one that nobody got to yet (start at "latest", as the others did) or one
# that was added later (start at its beginning). Kafka numbers partitions upwards, so the count tells them apart.
_FIRST_PARTITIONS = re.compile(r"offbeat:first_partitions=(\d+)")


class KafkaSource:
    """The source of batches over kafka-python: cooperative-sticky assignment, commits only when asked for.

    Making it needs no broker; the first `poll` connects, and goes on trying with each poll. All methods are for
    the one thread that polls, but `last_answer_age_s` and `rebalances` may be read from any.

    A partition without a committed offset starts where `start_at` says if its group never committed one for the
    topic, and at its beginning if the topic got it later. A start at "latest" is committable at once, so that it
    does not move while the topic stays quiet.

    Memory is bounded by the fetches (`fetch_max_bytes` for each broker, as compressed) and by the batch:
    `max_batch_records` strictly, `max_batch_bytes` from the second batch on, by the mean size of the values in
    the one before.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: SourceSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., Any] = Consumer,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._clock = clock
        self._connect = connect
        self._connection = Connection(clock)
        self._consumer: Any = None
        self._closed = False
        self._progress = Progress()
        self._first_partitions: dict[str, int] = {}
        self._max_records = settings.max_batch_records
        self._rebalances = RebalanceCounts()
        self._skipped: Counter[str] = Counter()
        self._identities: dict[Partition, tuple[int, str]] = {}  # generation, and identity of its topic then
        self._invalid: dict[tuple[Partition, int], str] = {}  # positions that do not exist, and why
        self.start_paused = settings.start_paused
        self.before_release: Callable[[], None] | None = None

    # -- reading ----------------------------------------------------------------------------------------------

    def poll(self, *, within_s: float | None = None) -> Batch | None:
        """See `Source.poll`."""
        if self._closed:
            raise ValueError("the source is closed: make a new one to go on reading")
        if not self._connected():
            return None
        self._connection.check()
        self._connection.ask_if_silent(_SILENCE_S)
        timeout_s = self._settings.poll_timeout_s
        deadline = self._clock() + (timeout_s if within_s is None else min(timeout_s, within_s))
        try:
            batch = self._polled(deadline)
        except KafkaError as error:
            if is_passing(error):
                logger.warning(
                    "could not poll; trying again with the next poll, nothing is lost. error=%r group=%s",
                    error,
                    self._settings.group_id,
                )
                return None
            raise self._fatal(error) from error
        if batch is not None and self._invalid:
            self._read_again(batch)
            return None
        if batch is not None:
            self._opened(batch)
        return batch

    def _connected(self) -> bool:
        if self._consumer is not None:
            return True
        connection = self._connection
        try:
            consumer = self._connect(**self._configuration(), kafka_client=connection)
        except KafkaError as error:
            connection.close()
            if is_passing(error):
                logger.warning(
                    "no broker answers; trying again with the next poll. bootstrap_servers=%s error=%r",
                    self._kafka.bootstrap_servers,
                    error,
                )
                return False
            raise translated(error, f"connect to {self._kafka.bootstrap_servers}") from error
        consumer.subscribe(
            topics=list(self._settings.topics), listener=_Listener(self._gained, self._release, self._lost)
        )
        self._consumer = consumer
        return True

    def _configuration(self) -> dict[str, Any]:
        settings = self._settings
        return client_configuration(self._kafka) | {
            "group_id": settings.group_id,
            "group_instance_id": settings.group_instance_id,
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "isolation_level": settings.isolation_level,
            "allow_auto_create_topics": False,
            "check_crcs": True,
            "partition_assignment_strategy": (CooperativeStickyAssignor,),
            "max_poll_records": settings.max_batch_records,
            "fetch_max_bytes": settings.fetch_max_bytes,
            "max_partition_fetch_bytes": settings.fetch_max_partition_bytes,
            "max_poll_interval_ms": milliseconds(settings.max_poll_interval_s),
            "session_timeout_ms": milliseconds(settings.session_timeout_s),
            "heartbeat_interval_ms": milliseconds(settings.heartbeat_interval_s),
            "metrics_enabled": False,
        }

    def _polled(self, deadline: float) -> Batch | None:
        while True:
            self._leave_invalid()
            remaining_ms = max(0, round((deadline - self._clock()) * 1000))
            try:
                batch = columns(self._consumer.poll(timeout_ms=remaining_ms, max_records=self._max_records))
                self._look_for_new_topics()
                return batch
            except kafka_errors.NoOffsetForPartitionError as error:
                # Raised before anything is fetched, so no record of this poll is dropped by starting over.
                self._start(_partition(partition) for partition in error.args[0])
            except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
                # The same holds: the client keeps such an error back until what it has read before is given.
                is_cut = isinstance(error, kafka_errors.LogTruncationError)
                self._invalid |= dict.fromkeys(_out_of_range(error).items(), _CUT if is_cut else _GONE)
                self._leave_invalid()
            if self._clock() >= deadline:
                return None

    def _opened(self, batch: Batch) -> None:
        self._progress.open(batch)
        mean_bytes = sum(len(value) for value in batch.values if value) / len(batch)
        affordable = int(self._settings.max_batch_bytes / max(mean_bytes, 1.0))
        self._max_records = max(1, min(self._settings.max_batch_records, affordable))

    # -- positions that do not hold ------------------------------------------------------------------------------

    def _look_for_new_topics(self) -> None:
        """Note positions in topics that are others of the same name than when their partitions were assigned."""
        generations = self._progress.generations()
        for partition in self._identities.keys() - generations.keys():
            del self._identities[partition]
        for partition, generation in generations.items():
            identity = self._connection.identity_of(partition.topic)
            if identity is None:  # the topic is gone, or the broker does not say
                continue
            known = self._identities.setdefault(partition, (generation, identity))
            self._identities[partition] = (generation, identity)
            position = self.position(partition)
            if known[0] == generation and known[1] != identity and position is not None:
                self._invalid[partition, position] = _ANEW

    def _read_again(self, batch: Batch) -> None:
        """Let a batch that nobody was given come again."""
        for partition, offset in batch.first_offsets().items():
            if partition in self._progress.owned:
                self._consumer.seek(_topic_partition(partition), offset)

    def _leave_invalid(self) -> None:
        """Leave positions that do not exist for those that the setting names; kept until the broker has answered.

        What was done before is never committed: it may be of another log. What follows begins like a partition that
        was newly assigned, so that whoever remembers something of it begins anew too.

        Raises:
            OffsetOutOfRange: The setting says to stop.
            KafkaError: The broker did not say what it holds.
        """
        for (partition, offset), cause in list(self._invalid.items()):
            if partition in self._progress.owned:
                self._leave(partition, offset, cause)
            del self._invalid[partition, offset]

    def _leave(self, partition: Partition, offset: int, cause: str) -> None:
        topic_partition, choice = _topic_partition(partition), self._settings.on_offset_out_of_range
        timeout_ms = milliseconds(self._settings.commit_timeout_s)
        try:
            first = int(self._consumer.beginning_offsets([topic_partition], timeout_ms=timeout_ms)[topic_partition])
            end = int(self._consumer.end_offsets([topic_partition], timeout_ms=timeout_ms)[topic_partition])
        except KafkaError as error:
            if choice == "stop":
                raise self._out_of_range(partition, offset, cause, f"what it holds is unknown ({error!r})") from error
            raise
        if choice == "stop":
            raise self._out_of_range(partition, offset, cause, f"the broker holds {first} to {end}")
        target = first if choice == "earliest" else end
        if cause == _CUT:  # up to there the log is the one that was read
            offset = target = min(max(offset, first), end)
        # Of another log no offset was read: what lies before the target is skipped.
        skipped = target - (offset if cause == _CUT else min(offset, first))
        self._take([partition])
        self._consumer.seek(topic_partition, target)
        self._progress.start(partition, target)
        self._skipped[partition.topic] += skipped
        logger.warning(
            "offset %d does not exist, and the broker holds %d to %d: %s; going on at %d, as on_offset_out_of_range "
            "says, %d offsets are never read. partition=%s group=%s",
            offset,
            first,
            end,
            cause,
            target,
            skipped,
            partition,
            self._settings.group_id,
        )

    # -- where to start ---------------------------------------------------------------------------------------

    def _start(self, partitions: Iterable[Partition]) -> None:
        """Set a first position for partitions that have no committed offset."""
        deadline = self._clock() + self._settings.commit_timeout_s
        by_topic: dict[str, list[Partition]] = {}
        for partition in partitions:
            by_topic.setdefault(partition.topic, []).append(partition)
        for topic, waiting in by_topic.items():
            fresh = self._partitions_of_the_first_start(topic, waiting, deadline)
            at_end = [partition for partition in waiting if partition.number < fresh]
            at_beginning = [partition for partition in waiting if partition.number >= fresh]
            self._place(at_beginning, self._consumer.beginning_offsets, deadline, "its beginning")
            for partition, offset in self._place(at_end, self._consumer.end_offsets, deadline, "its end").items():
                self._first_partitions[topic] = fresh
                self._progress.start(partition, offset)

    def _partitions_of_the_first_start(self, topic: str, waiting: list[Partition], deadline: float) -> int:
        """Return below which number the topic's partitions start at the end: 0 where none does."""
        if self._settings.start_at == "earliest":
            return 0
        if topic in self._first_partitions:
            return self._first_partitions[topic]
        numbers = self._connection.partitions_of(topic) | {partition.number for partition in waiting}
        commits = []
        for number in sorted(numbers):
            commit = self._consumer.committed(
                TopicPartition(topic, number), metadata=True, timeout_ms=self._remaining_ms(deadline)
            )
            if commit is not None:
                commits.append(commit)
        if not commits:
            return int(max(numbers)) + 1
        noted = [_FIRST_PARTITIONS.search(commit.metadata or "") for commit in commits]
        return max((int(match[1]) for match in noted if match), default=0)

    def _place(
        self, partitions: list[Partition], look_up: Callable[..., Any], deadline: float, where: str
    ) -> dict[Partition, int]:
        if not partitions:
            return {}
        wanted = [_topic_partition(partition) for partition in partitions]
        found = look_up(wanted, timeout_ms=self._remaining_ms(deadline))
        placed: dict[Partition, int] = {}
        for topic_partition in wanted:
            offset = int(found[topic_partition])
            self._consumer.seek(topic_partition, offset)
            placed[_partition(topic_partition)] = offset
            logger.info(
                "no committed offset: starting at %s. partition=%s offset=%d group=%s",
                where,
                _partition(topic_partition),
                offset,
                self._settings.group_id,
            )
        return placed

    def _remaining_ms(self, deadline: float) -> int:
        return max(1, round((deadline - self._clock()) * 1000))

    # -- what is done -----------------------------------------------------------------------------------------

    def done(self, batch: Batch) -> None:
        """See `Source.done`."""
        self._progress.done(batch)

    def go_back(self) -> None:
        """See `Source.go_back`."""
        for partition, offset in self._progress.give_back().items():
            self._consumer.seek(_topic_partition(partition), offset)

    def go_back_to_commit(self) -> None:
        """See `Source.go_back_to_commit`."""
        for partition, offset in self._progress.give_back_uncommitted().items():
            self._consumer.seek(_topic_partition(partition), offset)

    def committable(self) -> dict[Partition, int]:
        """See `Source.committable`."""
        return self._progress.committable()

    def commit(self, offsets: Mapping[Partition, int], through: Transactions | None = None) -> None:
        """See `Source.commit`."""
        owned = {partition: offset for partition, offset in offsets.items() if partition in self._progress.owned}
        if not owned:
            return
        if through is not None:
            group = self._consumer.group_metadata()
            if group.generation_id < 0:
                # Without a generation the broker takes the offsets of a transaction from anybody.
                raise CommitRefused(
                    f"the group {self._settings.group_id!r} has put this member out: its transaction must not commit "
                    f"the offsets of {', '.join(map(str, sorted(owned)))}, which the new owner reads again",
                    evicted=True,
                )
            through.commit(self._with_metadata(owned), group)
            self.committed(owned)
            return
        try:
            self._consumer.commit(self._with_metadata(owned), timeout_ms=milliseconds(self._settings.commit_timeout_s))
        except KafkaError as error:
            if is_membership(error):
                evicted = not isinstance(error, kafka_errors.RebalanceInProgressError)
                raise CommitRefused(
                    f"the group {self._settings.group_id!r} did not take the offsets of "
                    f"{', '.join(map(str, sorted(owned)))} ({error!r}): "
                    + (
                        "this member was put out, and the new owner reads them again"
                        if evicted
                        else "partitions are moving; those that stay can be committed after the next poll"
                    ),
                    evicted=evicted,
                ) from error
            raise translated(error, f"commit offsets of group {self._settings.group_id!r}") from error
        self.committed(owned)

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """See `Source.committed`."""
        self._progress.committed(offsets)

    def is_committed(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source.is_committed`."""
        deadline = self._clock() + self._settings.commit_timeout_s
        try:
            found = [
                self._consumer.committed(_topic_partition(partition), timeout_ms=self._remaining_ms(deadline))
                for partition in offsets
            ]
        except KafkaError as error:
            raise translated(error, f"look up the offsets of group {self._settings.group_id!r}") from error
        return all(
            offset is not None and offset >= wanted for offset, wanted in zip(found, offsets.values(), strict=True)
        )

    def _with_metadata(self, offsets: Mapping[Partition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        commits = {}
        for partition, offset in offsets.items():
            first = self._first_partitions.get(partition.topic)
            metadata = "" if first is None else f"offbeat:first_partitions={first}"
            commits[_topic_partition(partition)] = OffsetAndMetadata(offset, metadata, -1)
        return commits

    # -- partitions that come and go: called on the client's own thread, while `poll` or `close` waits ---------

    def _take(self, partitions: Collection[Partition]) -> None:
        self._progress.gain(partitions)
        if self.start_paused:
            # Before the poll that gains them goes on: it fetches nothing of them, nor gives what is left of a fetch.
            self._consumer.pause(*map(_topic_partition, partitions))

    def _gained(self, partitions: Collection[Partition]) -> None:
        self._take(partitions)
        if partitions:
            self._rebalances = replace(self._rebalances, assigned=self._rebalances.assigned + 1)
            self._tell("the group gave this member partitions", partitions)

    async def _release(self, partitions: Collection[Partition]) -> None:
        offsets = {
            partition: offset for partition, offset in self.committable().items() if partition in set(partitions)
        }
        if offsets and self.before_release is not None:
            self.before_release()
        elif offsets and self._settings.commit_on_release:
            await self._commit_before_release(offsets)
        self._progress.forget(partitions)
        if partitions:
            self._rebalances = replace(self._rebalances, revoked=self._rebalances.revoked + 1)
            self._tell("partitions are given up in good order", partitions)

    async def _commit_before_release(self, offsets: Mapping[Partition, int]) -> None:
        commits = self._with_metadata(offsets)
        timeout_s = self._settings.commit_timeout_s
        try:
            # Where the coordinator is unknown, the first future is that of looking it up, and has its id as value.
            if await self._connection.within(timeout_s, self._consumer.commit_async(commits)) is not None:
                await self._connection.within(timeout_s, self._consumer.commit_async(commits))
        except KafkaError as error:
            logger.warning(
                "could not commit partitions before giving them up; their new owner reads some records again. "
                "error=%r offsets=%s group=%s",
                error,
                {str(partition): offset for partition, offset in offsets.items()},
                self._settings.group_id,
            )

    def _lost(self, partitions: Collection[Partition]) -> None:
        self._progress.forget(partitions)
        if partitions:
            self._rebalances = replace(self._rebalances, lost=self._rebalances.lost + 1)
            logger.warning(
                "the group put this member out; the new owner of its partitions reads what was not committed again. "
                "partitions=%s group=%s",
                sorted(map(str, partitions)),
                self._settings.group_id,
            )

    def _tell(self, what: str, partitions: Collection[Partition]) -> None:
        logger.info("%s. partitions=%s group=%s", what, sorted(map(str, partitions)), self._settings.group_id)

    # -- looking ----------------------------------------------------------------------------------------------

    def assignment(self) -> frozenset[Partition]:
        """See `Source.assignment`."""
        return self._progress.owned

    def lag(self) -> dict[Partition, int]:
        """See `Source.lag`."""
        lags: dict[Partition, int] = {}
        for partition in self._progress.owned:
            topic_partition = _topic_partition(partition)
            position = self.position(partition)
            try:
                end = self._consumer.highwater(topic_partition)
            except KafkaError:
                # Put out, and told so only by the next poll.
                continue
            if end is not None and position is not None:
                lags[partition] = max(0, end - position)
        return lags

    def generations(self) -> dict[Partition, int]:
        """See `Source.generations`."""
        return self._progress.generations()

    def position(self, partition: Partition) -> int | None:
        """See `Source.position`."""
        if partition not in self._progress.owned:
            return None
        first_open = self._progress.first_open(partition)
        if first_open is not None:
            return first_open
        position: int | None = self._consumer.known_position(_topic_partition(partition))
        return position

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `Source.pause`."""
        owned = self._owned(partitions)
        if owned:
            self._consumer.pause(*owned)

    def resume(self, partitions: Collection[Partition]) -> None:
        """See `Source.resume`."""
        owned = self._owned(partitions)
        if owned:
            self._consumer.resume(*owned)

    def _owned(self, partitions: Collection[Partition]) -> list[TopicPartition]:
        return [_topic_partition(partition) for partition in partitions if partition in self._progress.owned]

    @property
    def last_answer_age_s(self) -> float:
        """See `Source.last_answer_age_s`."""
        return self._connection.last_answer_age_s

    @property
    def rebalances(self) -> RebalanceCounts:
        """See `Source.rebalances`."""
        return self._rebalances

    @property
    def skipped(self) -> Mapping[str, int]:
        """See `Source.skipped`."""
        return self._skipped

    # -- ends -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """See `Source.close`."""
        if self._closed:
            return
        self._closed = True
        if self._consumer is None:
            return
        try:
            self._consumer.close(autocommit=False, timeout_ms=milliseconds(self._settings.commit_timeout_s))
        except KafkaError as error:
            logger.warning(
                "could not leave the group in good order; it notices after session_timeout_s. error=%r group=%s",
                error,
                self._settings.group_id,
            )
        self._progress.clear()

    def _fatal(self, error: KafkaError) -> TransportError:
        return translated(error, f"read {', '.join(self._settings.topics)}")

    def _out_of_range(self, partition: Partition, offset: int, cause: str, extent: str) -> OffsetOutOfRange:
        # Leaving the group commits what is done: nothing of a topic that may be another one.
        self._progress.gain([owned for owned in self._progress.owned if owned.topic == partition.topic])
        return OffsetOutOfRange(
            f"offset {offset} of {partition} does not exist any more, and {extent}: {cause}, and group "
            f"{self._settings.group_id!r} may never have read what is gone. Nothing is skipped silently: accept the "
            f"loss with on_offset_out_of_range = earliest or latest, or stop every member and set the group's offset "
            f"with kafka-consumer-groups.sh --reset-offsets",
            partition=partition,
            offset=offset,
        )


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Tells the source about its partitions; on the client's own thread, while the polling thread waits in `poll`."""

    def __init__(
        self,
        gained: Callable[[list[Partition]], None],
        release: Callable[[list[Partition]], Awaitable[None]],
        lost: Callable[[list[Partition]], None],
    ) -> None:
        self._gained = gained
        self._release = release
        self._lost = lost

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._gained([_partition(partition) for partition in assigned])

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._release([_partition(partition) for partition in revoked])

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self._lost([_partition(partition) for partition in lost])


def _out_of_range(error: KafkaError) -> dict[Partition, int]:
    """The positions that an error says do not exist; of a log that was cut back, where it parts from what was read."""
    if isinstance(error, kafka_errors.LogTruncationError):
        cuts = error.divergent_offsets.items()
        return {_partition(partition): 0 if cut is None else int(cut.offset) for partition, cut in cuts}
    positions = error.args[0] if error.args else {}
    return {_partition(partition): int(offset) for partition, offset in positions.items()}


def _partition(partition: TopicPartition) -> Partition:
    return Partition(partition.topic, partition.partition)


def _topic_partition(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
