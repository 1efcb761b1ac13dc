"""What the contract does not ask of a publisher: failures, and what comes after them."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.record.default_records import DefaultRecordBatchBuilder

from tests.fakes import FakeCluster
from tests.transport.conftest import FakeStage
from transport import Forbidden, KafkaPublisher, KafkaSettings, OutgoingMessage, PublisherSettings, PublishFailed


def _messages(topic: str, *values: bytes) -> list[OutgoingMessage]:
    return [OutgoingMessage(topic, None, value) for value in values]


def test_every_in_sync_replica_acknowledges_and_repeats_are_recognised(stage: FakeStage, cluster: FakeCluster) -> None:
    stage.publisher(compression="none").publish(_messages(stage.topic(), b"1"))

    told = cluster.producers[0].config
    assert (told["acks"], told["enable_idempotence"], told["compression_type"]) == ("all", True, None)
    assert told["allow_auto_create_topics"] is False
    assert told["delivery_timeout_ms"] >= told["request_timeout_ms"] + told["linger_ms"]


def test_a_clock_ahead_of_the_brokers_is_named(stage: FakeStage, cluster: FakeCluster) -> None:
    publisher = stage.publisher()
    cluster.fail("ack", kafka_errors.InvalidTimestampError())

    with pytest.raises(PublishFailed, match="this machine's clock is further from the broker's than"):
        publisher.publish(_messages(stage.topic(), b"0"))


@pytest.mark.parametrize("fault", ["send", "ack", "lost_ack"])
@pytest.mark.parametrize(
    ("error", "retriable"),
    [
        (kafka_errors.KafkaTimeoutError("expired"), True),
        (kafka_errors.NotEnoughReplicasError(), True),
        (kafka_errors.OutOfOrderSequenceNumberError(), True),
        (kafka_errors.UnknownProducerIdError(), True),
        (kafka_errors.InvalidTimestampError(), True),
        (kafka_errors.MessageSizeTooLargeError("too large"), False),
        (kafka_errors.InvalidRecordError(), False),
    ],
)
def test_after_a_failure_the_next_publish_begins_with_a_clean_producer(
    stage: FakeStage, cluster: FakeCluster, fault: str, error: KafkaError, retriable: bool
) -> None:
    topic = stage.topic()
    publisher = stage.publisher()
    publisher.publish(_messages(topic, b"0"))
    cluster.fail(fault, None, error)

    with pytest.raises(PublishFailed, match=topic) as failure:
        publisher.publish(_messages(topic, b"1", b"2"))

    assert (failure.value.retriable, failure.value.topic) == (retriable, topic)
    (broken,) = cluster.producers
    assert broken.forced
    assert broken.closed
    publisher.publish(_messages(topic, b"3"))
    assert [message.value for message in cluster.messages(topic)][-1] == b"3"
    assert len(cluster.producers) == 2


@pytest.mark.parametrize(
    ("error", "setting"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"alerts"}), "topics"),
        (kafka_errors.ClusterAuthorizationFailedError(), "sasl_username"),
    ],
)
def test_what_is_forbidden_names_the_setting(
    stage: FakeStage, cluster: FakeCluster, error: KafkaError, setting: str
) -> None:
    publisher = stage.publisher()
    cluster.fail("ack", error)

    with pytest.raises(Forbidden) as refusal:
        publisher.publish(_messages(stage.topic(), b"1"))

    assert refusal.value.setting == setting


@pytest.mark.parametrize("away_before_connecting", [True, False])
def test_publishing_waits_no_longer_than_its_limit_in_all(
    stage: FakeStage, cluster: FakeCluster, away_before_connecting: bool
) -> None:
    topic = stage.topic()
    publisher = stage.publisher(publish_timeout_s=3.0)
    if not away_before_connecting:
        publisher.publish(_messages(topic, b"0"))
    cluster.away = True
    before = cluster.clock()

    with pytest.raises(PublishFailed) as failure:
        publisher.publish(_messages(topic, b"1", b"2", b"3"))

    assert failure.value.retriable
    assert cluster.clock() - before == pytest.approx(3.0)


def test_a_topic_that_is_unknown_while_the_broker_is_away_may_be_known_later(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    publisher = stage.publisher(publish_timeout_s=3.0)
    publisher.publish(_messages(stage.topic(), b"0"))
    cluster.away = True

    with pytest.raises(PublishFailed) as failure:
        publisher.publish(_messages("unheard.of", b"1"))

    assert failure.value.retriable


def test_an_interrupted_publish_leaves_nothing_on_its_way(stage: FakeStage, cluster: FakeCluster) -> None:
    publisher = stage.publisher()
    cluster.fail("send", None, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        publisher.publish(_messages(stage.topic(), b"1", b"2"))

    assert cluster.producers[0].forced


def test_publishing_nothing_connects_nowhere(stage: FakeStage, cluster: FakeCluster) -> None:
    stage.publisher().publish([])

    assert cluster.producers == []


def test_a_closed_publisher_says_so(stage: FakeStage) -> None:
    publisher = stage.publisher()
    publisher.close()

    with pytest.raises(ValueError, match="closed"):
        publisher.publish(_messages(stage.topic(), b"1"))


@pytest.mark.parametrize("headers", [(), (("name", b"value"),), tuple((f"näme-{n}", bytes(n)) for n in range(40))])
@pytest.mark.parametrize("length", [0, 1, 127, 128, 20_000])
def test_a_messages_size_is_never_less_than_what_the_client_counts(
    length: int, headers: tuple[tuple[str, bytes], ...]
) -> None:
    message = OutgoingMessage("t", bytes(length), bytes(length), headers)

    counted = DefaultRecordBatchBuilder.estimate_size_in_bytes(message.key, message.value, list(headers))

    assert counted <= message.size_bytes <= counted + 100 + 10 * len(headers)


def test_a_partition_that_is_unknown_to_an_old_producer_may_be_known_to_the_next(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    publisher = stage.publisher()
    publisher.publish(_messages(topic, b"0"))
    message = OutgoingMessage(topic, None, b"1", partition=1)

    with pytest.raises(PublishFailed) as failure:
        publisher.publish([message])
    assert failure.value.retriable
    with pytest.raises(PublishFailed) as failure:
        publisher.publish([message])
    assert not failure.value.retriable
    stage.add_partitions(topic, 2)
    publisher.publish([message])

    assert [(each.partition, each.value) for each in cluster.messages(topic)] == [(0, b"0"), (1, b"1")]


def test_a_partition_below_0_is_refused_before_anything_is_sent(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()

    with pytest.raises(ValueError, match=r"message 1 .* partition -1"):
        stage.publisher().publish(
            [OutgoingMessage(topic, None, b"0"), OutgoingMessage(topic, None, b"1", partition=-1)]
        )

    assert cluster.messages(topic) == []


class _Counting:
    """A producer that counts what was sent and not waited for."""

    def __init__(self, producer: Any, told: list[int]) -> None:
        self._producer = producer
        self._told = told
        self._open = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def send(self, **arguments: Any) -> Any:
        acknowledgement = self._producer.send(**arguments)
        size = len(arguments["value"])
        self._open += size
        self._told.append(self._open)
        get = acknowledgement.get

        def get_and_count(timeout: float) -> None:
            get(timeout)
            self._open -= size

        acknowledgement.get = get_and_count
        return acknowledgement


def test_no_more_is_sent_than_may_wait_for_its_acknowledgement(cluster: FakeCluster) -> None:
    cluster.create("t")
    open_bytes: list[int] = []
    publisher = KafkaPublisher(
        KafkaSettings(),
        PublisherSettings(max_unacknowledged_bytes=10_000),
        clock=cluster.clock,
        connect=lambda **configuration: _Counting(cluster.producer(**configuration), open_bytes),
    )

    publisher.publish(_messages("t", *[b"%03d" % n + b"x" * 2000 for n in range(40)]))

    assert 6000 < max(open_bytes) <= 10_000
    assert [(message.value or b"")[:3] for message in cluster.messages("t")] == [b"%03d" % n for n in range(40)]
    assert publisher.unacknowledged_bytes == 0
    publisher.publish(_messages("t", b"x" * 50_000, b"y" * 50_000))
    assert open_bytes[-2:] == [50_000, 50_000], "one that is larger than the limit goes alone"


def test_what_failed_is_no_longer_waited_for(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    publisher = stage.publisher(max_unacknowledged_bytes=10_000)
    assert isinstance(publisher, KafkaPublisher)
    cluster.fail("ack", None, kafka_errors.KafkaTimeoutError("expired"))

    with pytest.raises(PublishFailed):
        publisher.publish(_messages(topic, *[b"x" * 2000] * 20))

    assert publisher.unacknowledged_bytes == 0
