"""What the contract does not ask of reading and creating topics: failures."""

from __future__ import annotations

import pytest
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from tests.fakes import FakeCluster
from tests.transport.conftest import FakeStage
from transport import BrokerUnavailable, ConfigurationRefused, Forbidden


def test_reading_from_the_end_to_the_end_is_refused(stage: FakeStage) -> None:
    with pytest.raises(ValueError, match="set from_beginning or follow"):
        stage.read(stage.topic(), timeout_s=1.0, from_beginning=False)


def test_a_topic_that_does_not_exist_is_said_not_to(stage: FakeStage) -> None:
    with pytest.raises(BrokerUnavailable, match=r"'unheard\.of': there is no such topic"):
        stage.read("unheard.of", timeout_s=1.0)


def test_an_end_that_is_never_reached_is_an_error_and_not_an_end(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    batches = stage.read(topic, timeout_s=2.0)
    cluster.away = True

    with pytest.raises(BrokerUnavailable, match="nothing came for 2 s"):
        list(batches)

    assert cluster.consumers[0].closed


def test_a_reader_that_is_dropped_lets_go_of_its_connection(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2")
    batches = stage.read(topic, timeout_s=2.0, max_batch_records=1)
    next(batches)

    batches.close()  # type: ignore[attr-defined]

    assert cluster.consumers[0].closed


@pytest.mark.parametrize("method", ["connect", "poll"])
def test_a_topic_that_may_not_be_read_says_so(stage: FakeStage, cluster: FakeCluster, method: str) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    cluster.fail(method, kafka_errors.TopicAuthorizationFailedError({topic}))

    with pytest.raises(Forbidden, match=topic):
        list(stage.read(topic, timeout_s=2.0))


def test_topics_that_the_broker_does_not_create_as_asked_name_the_setting(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    cluster.fail("create_topics", kafka_errors.InvalidReplicationFactorError("3 > 1"))

    with pytest.raises(ConfigurationRefused, match="t-1"):
        stage.create(**{"t-1": 1})


def test_listing_topics_without_a_broker_fails_in_time(stage: FakeStage, cluster: FakeCluster) -> None:
    cluster.away = True

    with pytest.raises(BrokerUnavailable):
        stage.missing("t")


@pytest.mark.parametrize(
    "error", [kafka_errors.TopicAuthorizationFailedError({"t"}), kafka_errors.ClusterAuthorizationFailedError()]
)
def test_a_configuration_that_may_not_be_asked_for_is_empty(
    stage: FakeStage, cluster: FakeCluster, error: KafkaError
) -> None:
    topic = stage.topic()
    cluster.fail("describe_configs", error)

    assert stage.configuration(topic) == {}


@pytest.mark.parametrize("question", ["identity", "configuration"])
def test_what_nobody_tells_about_a_topic_is_an_error_and_not_nothing(
    stage: FakeStage, cluster: FakeCluster, question: str
) -> None:
    topic = stage.topic()
    cluster.fail("describe_topics", kafka_errors.RequestTimedOutError())
    cluster.fail("describe_configs", kafka_errors.RequestTimedOutError())
    with pytest.raises(BrokerUnavailable):
        getattr(stage, question)(topic)

    cluster.away = True
    before = cluster.clock()
    with pytest.raises(BrokerUnavailable):
        getattr(stage, question)(topic)
    assert cluster.clock() - before <= 3.0
