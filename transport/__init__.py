"""All that touches Kafka: connection settings, source, publisher, reading a topic. Knows no record and no detector."""

from __future__ import annotations

from transport.errors import (
    BrokerUnavailable,
    CommitInDoubt,
    CommitRefused,
    ConfigurationRefused,
    Forbidden,
    MessageTooLarge,
    OffsetOutOfRange,
    PublishFailed,
    TransportError,
)
from transport.messages import Batch, OutgoingMessage, Partition, RebalanceCounts
from transport.protocols import Publisher, Source, Transactions
from transport.publisher import KafkaPublisher
from transport.ranges import RangeReader, bounds, offset_at
from transport.settings import Compression, KafkaSettings, PublisherSettings, SourceSettings, StartAt
from transport.source import KafkaSource
from transport.topics import create_topics, missing_topics, read_topic, topic_configuration, topic_identity
from transport.transactions import KafkaTransactions

__all__ = [
    "Batch",
    "BrokerUnavailable",
    "CommitInDoubt",
    "CommitRefused",
    "Compression",
    "ConfigurationRefused",
    "Forbidden",
    "KafkaPublisher",
    "KafkaSettings",
    "KafkaSource",
    "KafkaTransactions",
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
    "Transactions",
    "TransportError",
    "bounds",
    "create_topics",
    "missing_topics",
    "offset_at",
    "read_topic",
    "topic_configuration",
    "topic_identity",
]
