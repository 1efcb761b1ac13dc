"""The stage of unit tests: a fake cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes import FakeCluster
from tests.transport.contract import Stage
from transport import (
    Batch,
    KafkaPublisher,
    KafkaSettings,
    KafkaSource,
    PublisherSettings,
    SourceSettings,
    create_topics,
    missing_topics,
    read_topic,
)

KAFKA = KafkaSettings()


class FakeStage(Stage):
    """kafka-python's methods over a cluster in memory."""

    patience = 20

    def __init__(self) -> None:
        self.cluster = FakeCluster()

    def topic(self, partitions: int = 1) -> str:
        name = f"topic-{len(self.cluster._logs)}"
        self.cluster.create(name, partitions)
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

    def read(self, topic: str, **options: Any) -> Iterator[Batch]:
        return read_topic(KAFKA, topic, clock=self.cluster.clock, connect=self.cluster.consumer, **options)

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
