"""The stage of unit tests: a fake cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.fakes import FakeCluster
from tests.transport.contract import Stage
from transport import (
    Batch,
    KafkaPublisher,
    KafkaSettings,
    KafkaSource,
    KafkaTransactions,
    Partition,
    PublisherSettings,
    RangeReader,
    SourceSettings,
    bounds,
    create_topics,
    missing_topics,
    offset_at,
    read_topic,
    topic_configuration,
    topic_identity,
)

KAFKA = KafkaSettings()


class FakeStage(Stage):
    """kafka-python's methods over a cluster in memory."""

    patience = 20

    def __init__(self) -> None:
        self.cluster = FakeCluster()

    def topic(self, partitions: int = 1, configuration: Mapping[str, str] | None = None) -> str:
        name = f"topic-{len(self.cluster._logs)}"
        self.cluster.create(name, partitions, configuration)
        return name

    def add_partitions(self, topic: str, total: int) -> None:
        self.cluster.create(topic, total)

    def write(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self.cluster.append(topic, value, partition=partition)

    def trim(self, topic: str, partition: int, before: int) -> None:
        self.cluster.trim(topic, partition, before)

    def commits(self, group: str, topic: str) -> dict[int, int]:
        return {number: offset for (name, number), offset in self.cluster.commits(group).items() if name == topic}

    def source(self, *topics: str, group: str, **settings: Any) -> KafkaSource:
        return KafkaSource(
            KAFKA,
            SourceSettings(topics=topics, group_id=group, **settings),
            clock=self.cluster.clock,
            connect=self.cluster.consumer,
        )

    def publisher(self, **settings: Any) -> KafkaPublisher:
        return KafkaPublisher(
            KAFKA, PublisherSettings(**settings), clock=self.cluster.clock, connect=self.cluster.producer
        )

    def transactions(self, transactional_id: str, **settings: Any) -> KafkaTransactions:
        return KafkaTransactions(
            KAFKA,
            PublisherSettings(**settings),
            transactional_id,
            clock=self.cluster.clock,
            connect=self.cluster.producer,
        )

    def read(self, topic: str, **options: Any) -> Iterator[Batch]:
        return read_topic(KAFKA, topic, clock=self.cluster.clock, connect=self.cluster.consumer, **options)

    def reader(self, topic: str, start: int, end: int, *, partition: int = 0, **options: Any) -> RangeReader:
        where = Partition(topic, partition)
        return RangeReader(KAFKA, where, start, end, clock=self.cluster.clock, connect=self.cluster.consumer, **options)

    def bounds(self, topic: str, *numbers: int) -> dict[Partition, tuple[int, int]]:
        partitions = [Partition(topic, number) for number in numbers]
        return bounds(KAFKA, partitions, 3.0, clock=self.cluster.clock, connect=self.cluster.consumer)

    def offset_at(self, topic: str, timestamp_ms: int) -> int:
        where = Partition(topic, 0)
        return offset_at(KAFKA, where, timestamp_ms, 3.0, clock=self.cluster.clock, connect=self.cluster.consumer)

    def identity(self, topic: str) -> str | None:
        return topic_identity(KAFKA, topic, 3.0, connect=self.cluster.admin)

    def configuration(self, topic: str) -> dict[str, str]:
        return topic_configuration(KAFKA, topic, 3.0, connect=self.cluster.admin)

    def create_again(self, topic: str) -> None:
        self.cluster.delete(topic)
        self.cluster.create(topic)

    def missing(self, *names: str) -> list[str]:
        return missing_topics(KAFKA, names, connect=self.cluster.admin)

    def create(self, **partitions: int) -> list[str]:
        return create_topics(KAFKA, partitions, connect=self.cluster.admin)


@pytest.fixture
def stage() -> FakeStage:
    return FakeStage()


@pytest.fixture
def cluster(stage: FakeStage) -> FakeCluster:
    return stage.cluster
