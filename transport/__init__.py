"""All that touches Kafka: connection settings, source, publisher, reading a topic. Knows no record and no detector."""

from __future__ import annotations

from transport.errors import (
    BrokerUnavailable,
    CommitRefused,
    ConfigurationRefused,
    Forbidden,
    MessageTooLarge,
    OffsetOutOfRange,
    PublishFailed,
    TransportError,
)
from transport.messages import Batch, OutgoingMessage, Partition, RebalanceCounts
from transport.protocols import Publisher, Source
from transport.publisher import KafkaPublisher
from transport.ranges import RangeReader, bounds, offset_at, offsets_at, partitions_of
from transport.settings import Compression, KafkaSettings, PublisherSettings, SourceSettings, StartAt
from transport.source import KafkaSource
from transport.topics import create_topics, missing_topics, read_topic, topic_configuration, topic_identity

__all__ = [
    "Batch",
    "BrokerUnavailable",
    "CommitRefused",
    "Compression",
    "ConfigurationRefused",
    "Forbidden",
    "KafkaPublisher",
    "KafkaSettings",
    "KafkaSource",
    "MessageTooLarge",
    "OffsetOutOfRange",
    "OutgoingMessage",
    "Partition",
    "PublishFailed",
    "Publisher",
    "PublisherSettings",
    "RangeReader",
    "RebalanceCounts",
    "Source",
    "SourceSettings",
    "StartAt",
    "TransportError",
    "bounds",
    "create_topics",
    "missing_topics",
    "offset_at",
    "offsets_at",
    "partitions_of",
    "read_topic",
    "topic_configuration",
    "topic_identity",
]
