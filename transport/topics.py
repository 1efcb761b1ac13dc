"""Topics as a whole: create them, look for them, read one without a group. Knows nothing about what is in a message."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import ConfigResource
from kafka.errors import KafkaError

from transport.columns import columns, until
from transport.connection import Connection, client_configuration, milliseconds
from transport.errors import BrokerUnavailable, ConfigurationRefused
from transport.header_names import read_any_header_name
from transport.messages import Batch, Partition
from transport.settings import KafkaSettings
from transport.translation import translated

_SLICE_S = 0.5


def create_topics(
    kafka: KafkaSettings,
    partitions: Mapping[str, int],
    *,
    replication_factor: int = -1,
    configuration: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
    connect: Callable[..., Any] = KafkaAdminClient,
) -> list[str]:
    """Create the topics that do not exist yet, wait until they can be used, and return their names.

    Args:
        kafka: The cluster.
        partitions: How many partitions each topic gets. One that exists stays as it is.
        replication_factor: Copies of each partition; -1 for the broker's own default.
        configuration: Settings of the topics, such as `retention.ms`.
        timeout_s: Give up after this.
        connect: Makes the client.

    Raises:
        BrokerUnavailable: No answer in time.
        Forbidden: Our user may not create topics.
        ConfigurationRefused: The broker does not accept the topics as asked for.
    """
    missing = missing_topics(kafka, partitions, connect=connect)
    if not missing:
        return []
    wanted = {
        name: {
            "num_partitions": partitions[name],
            "replication_factor": replication_factor,
            "configs": dict(configuration or {}),
        }
        for name in missing
    }
    with _Admin(kafka, f"create topics {', '.join(missing)}", connect) as admin:
        try:
            admin.create_topics(wanted, timeout_ms=milliseconds(timeout_s))
        except kafka_errors.TopicAlreadyExistsError:
            # Somebody was faster with one of them; the others were created all the same.
            pass
        except (
            kafka_errors.InvalidReplicationFactorError,
            kafka_errors.InvalidPartitionsError,
            kafka_errors.InvalidConfigurationError,
            kafka_errors.PolicyViolationError,
        ) as error:
            raise ConfigurationRefused(
                f"the broker does not create topics {', '.join(missing)} as asked for ({error!r}): change their "
                f"partitions, replication_factor or configuration",
                setting="topics",
            ) from error
        admin.wait_for_topics(missing, timeout_ms=milliseconds(timeout_s))
    return missing


def missing_topics(
    kafka: KafkaSettings, names: Iterable[str], *, connect: Callable[..., Any] = KafkaAdminClient
) -> list[str]:
    """Return those of the topics that do not exist, or that our user may not see, in the order given.

    Raises:
        BrokerUnavailable: No answer in time.
        Forbidden: The broker does not let us in.
    """
    with _Admin(kafka, "list topics", connect) as admin:
        existing = set(admin.list_topics())
    return [name for name in names if name not in existing]


def topic_identity(
    kafka: KafkaSettings, topic: str, timeout_s: float, *, connect: Callable[..., Any] = KafkaAdminClient
) -> str | None:
    """Return Kafka's own id of a topic, a UUID: a topic deleted and created again under its name has another one.

    Waits at most `timeout_s`, and as long again while there is no connection yet.

    Returns:
        None where the broker does not tell: it is older than 2.8, there is no such topic, or our user may not see it.

    Raises:
        BrokerUnavailable: No answer in time.
        Forbidden: The broker does not let us in.
    """
    with _Admin(kafka, f"look up the id of topic {topic!r}", connect, timeout_s) as admin:
        described = {each["name"]: each.get("topic_id") for each in admin.describe_topics([topic])}
    identity = described.get(topic)
    return None if identity is None else str(identity)


def topic_configuration(
    kafka: KafkaSettings, topic: str, timeout_s: float, *, connect: Callable[..., Any] = KafkaAdminClient
) -> dict[str, str]:
    """Return a topic's settings by Kafka's names, such as `retention.ms`; where it has none of its own, the broker's.

    Waits at most `timeout_s`, and as long again while there is no connection yet.

    Returns:
        Nothing where the broker does not tell: there is no such topic, or our user may not ask (that takes the right
        to DescribeConfigs). Settings without a value, and those kept secret, are absent.

    Raises:
        BrokerUnavailable: No answer in time.
        Forbidden: The broker does not let us in.
    """
    with _Admin(kafka, f"look up the configuration of topic {topic!r}", connect, timeout_s) as admin:
        try:
            described = admin.describe_configs([ConfigResource("TOPIC", topic)], config_filter="all")
        except (
            kafka_errors.TopicAuthorizationFailedError,
            kafka_errors.ClusterAuthorizationFailedError,
            kafka_errors.UnknownTopicOrPartitionError,
        ):
            return {}
    settings = described.get("topic", {}).get(topic, {})
    return {name: str(setting["value"]) for name, setting in settings.items() if setting["value"] is not None}


def read_topic(
    kafka: KafkaSettings,
    topic: str,
    *,
    timeout_s: float,
    from_beginning: bool = True,
    follow: bool = False,
    isolation_level: str = "read_committed",
    max_batch_records: int = 2048,
    clock: Callable[[], float] = time.monotonic,
    connect: Callable[..., Any] = KafkaConsumer,
) -> Iterator[Batch]:
    """Read all partitions of a topic without a group; nothing is committed.

    Where reading begins and ends is fixed when this is called, not when the result is first asked.

    Args:
        kafka: The cluster.
        topic: The topic; its partitions as they are now.
        timeout_s: With `follow`, stop when nothing has come for so long. Without, fail when nothing has come for
            so long and the end is not reached.
        from_beginning: Begin with the oldest message, else behind the newest.
        follow: Go on behind the end that the topic has now, until nothing has come for `timeout_s`. Otherwise
            stop at that end.
        isolation_level: `read_committed` leaves out messages of aborted and unfinished transactions.
        max_batch_records: Most messages of one batch.
        clock: Seconds that only grow.
        connect: Makes the client.

    Raises:
        BrokerUnavailable: No answer in time, or the topic does not exist.
        Forbidden: Our user may not read the topic.
        ValueError: Neither `from_beginning` nor `follow`: there would be nothing to read.
    """
    if not from_beginning and not follow:
        raise ValueError("reading from the end to the end gives nothing: set from_beginning or follow")
    doing = f"read topic {topic!r}"
    read_any_header_name()
    connection = Connection(clock)
    try:
        consumer = connect(
            **client_configuration(kafka),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation_level,
            allow_auto_create_topics=False,
            max_poll_records=max_batch_records,
            metrics_enabled=False,
            kafka_client=connection,
        )
    except KafkaError as error:
        connection.close()
        raise translated(error, doing) from error
    try:
        # Asking for the end of one partition lets the client learn of all of them, in bounded time.
        consumer.end_offsets([TopicPartition(topic, 0)], timeout_ms=milliseconds(timeout_s))
        partitions = [TopicPartition(topic, number) for number in sorted(connection.partitions_of(topic))]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions, timeout_ms=milliseconds(timeout_s))
        starts = consumer.beginning_offsets(partitions, timeout_ms=milliseconds(timeout_s)) if from_beginning else ends
        for partition in partitions:
            consumer.seek(partition, starts[partition])
    except KafkaError as error:
        unknown = isinstance(error, kafka_errors.KafkaTimeoutError) and not connection.partitions_of(topic)
        consumer.close(autocommit=False)
        if unknown and connection.last_answer_age_s < timeout_s:
            raise BrokerUnavailable(f"could not {doing}: there is no such topic, or our user may not see it") from error
        raise translated(error, doing) from error
    except BaseException:
        consumer.close(autocommit=False)
        raise
    return _read(consumer, dict(ends), timeout_s=timeout_s, follow=follow, clock=clock, doing=doing)


def _read(
    consumer: Any,
    ends: dict[TopicPartition, int],
    *,
    timeout_s: float,
    follow: bool,
    clock: Callable[[], float],
    doing: str,
) -> Iterator[Batch]:
    limits = {Partition(partition.topic, partition.partition): end for partition, end in ends.items()}
    try:
        last_s = clock()
        while follow or any(consumer.position(partition, timeout_ms=0) < end for partition, end in ends.items()):
            batch = columns(consumer.poll(timeout_ms=milliseconds(min(_SLICE_S, timeout_s))))
            if batch is not None:
                yield batch if follow else until(batch, limits)
                last_s = clock()
            elif clock() - last_s >= timeout_s:
                if follow:
                    return
                raise BrokerUnavailable(f"could not {doing} to its end: nothing came for {timeout_s:g} s")
    except KafkaError as error:
        raise translated(error, doing) from error
    finally:
        consumer.close(autocommit=False)


class _Admin:
    """An admin client for the length of one question."""

    def __init__(
        self, kafka: KafkaSettings, doing: str, connect: Callable[..., Any], timeout_s: float = math.inf
    ) -> None:
        self._configuration = client_configuration(kafka) | {
            "bootstrap_timeout_ms": milliseconds(min(kafka.connect_timeout_s, timeout_s)),
            "request_timeout_ms": milliseconds(min(kafka.request_timeout_s, timeout_s)),
        }
        self._doing = doing
        self._connect = connect
        self._client: Any = None

    def __enter__(self) -> Any:
        connection = Connection(time.monotonic)
        try:
            self._client = self._connect(**self._configuration, kafka_client=connection)
        except KafkaError as error:
            connection.close()
            raise translated(error, self._doing) from error
        return self._client

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._client.close()
        if isinstance(error, KafkaError):
            raise translated(error, self._doing) from error
