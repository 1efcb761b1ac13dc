"""How far a consumer group has got, seen from outside: nothing is joined and nothing committed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from transport.connection import Connection, client_configuration, milliseconds
from transport.errors import BrokerUnavailable
from transport.messages import Partition
from transport.settings import KafkaSettings
from transport.translation import translated


def committed_offsets(
    kafka: KafkaSettings,
    group_id: str,
    topic: str,
    *,
    timeout_s: float = 10.0,
    connect: Callable[..., Any] = KafkaConsumer,
) -> dict[Partition, int]:
    """Return the group's committed offset of each partition of a topic; those never committed are absent.

    Raises:
        BrokerUnavailable: No answer in time, or the topic does not exist.
        Forbidden: Our user may not see the group or the topic.
    """
    doing = f"look up how far group {group_id!r} is in topic {topic!r}"
    connection = Connection(time.monotonic)
    try:
        consumer = connect(
            **client_configuration(kafka),
            group_id=group_id,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            kafka_client=connection,
        )
    except KafkaError as error:
        connection.close()
        raise translated(error, doing) from error
    try:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise BrokerUnavailable(f"topic {topic!r} does not exist, or our user may not see it")
        found = {
            number: consumer.committed(TopicPartition(topic, number), timeout_ms=milliseconds(timeout_s))
            for number in sorted(numbers)
        }
    except KafkaError as error:
        raise translated(error, doing) from error
    finally:
        consumer.close(autocommit=False)
    return {Partition(topic, number): int(offset) for number, offset in found.items() if offset is not None}
