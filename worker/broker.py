"""What histories need of the broker beside the group's own reading: parts of logs, and what a topic is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from transport import (
    KafkaSettings,
    Partition,
    RangeReader,
    bounds,
    offset_at,
    topic_configuration,
    topic_identity,
)


@dataclass(frozen=True)
class Broker:
    """Asks the broker in bounded time; holds nothing open but the readers that it gives.

    Attributes:
        kafka: The cluster.
        timeout_s: Give up a question after this.
        max_batch_records: Most messages that a reader gives at once.
        isolation_level: As the group reads.
        consumer: More arguments for what reads, such as a test's `connect` and `clock`.
        admin: The same for what asks about topics.
    """

    kafka: KafkaSettings
    timeout_s: float = 10.0
    max_batch_records: int = 4096
    isolation_level: str = "read_committed"
    consumer: dict[str, Any] = field(default_factory=dict)
    admin: dict[str, Any] = field(default_factory=dict)

    def reader(self, partition: Partition, start: int, end: int) -> RangeReader:
        """A reader of the offsets [start, end) of a partition."""
        return RangeReader(
            self.kafka, partition, start, end, max_batch_records=self.max_batch_records,
            isolation_level=self.isolation_level, **self.consumer,
        )  # fmt: skip

    def bounds(self, partitions: Collection[Partition]) -> dict[Partition, tuple[int, int]]:
        """First offset and end of partitions."""
        return bounds(self.kafka, partitions, self.timeout_s, isolation_level=self.isolation_level, **self.consumer)

    def offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        """The first offset that is as young as a time."""
        return offset_at(
            self.kafka, partition, timestamp_ms, self.timeout_s, isolation_level=self.isolation_level, **self.consumer
        )

    def identity(self, topic: str) -> str:
        """What tells a topic from another of the same name; empty where the broker does not say."""
        return topic_identity(self.kafka, topic, self.timeout_s, **self.admin) or ""

    def configuration(self, topic: str) -> dict[str, str]:
        """Settings of a topic, as far as the broker tells them."""
        return topic_configuration(self.kafka, topic, self.timeout_s, **self.admin)
