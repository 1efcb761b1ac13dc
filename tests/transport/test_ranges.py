"""What the contract does not ask of reading ranges: holes, a broker that is away, errors and who acts on them."""

from __future__ import annotations

import logging

import pytest
from kafka import errors as kafka_errors
from kafka.errors import KafkaError

from tests.fakes import FakeCluster
from tests.transport.conftest import KAFKA, FakeStage
from tests.transport.contract import places, values
from transport import (
    BrokerUnavailable,
    ConfigurationRefused,
    Forbidden,
    OffsetOutOfRange,
    Partition,
    RangeReader,
    TransportError,
    offset_at,
)

T0 = Partition("topic-0", 0)


def test_the_client_of_a_range_is_in_no_group_and_resets_and_creates_nothing(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")

    stage.read_range(stage.reader(topic, 0, 1))

    told = cluster.consumers[0].config
    assert (told["group_id"], told["enable_auto_commit"], told["auto_offset_reset"]) == (None, False, "none")
    assert (told["allow_auto_create_topics"], told["isolation_level"]) == (False, "read_committed")
    # Only then does every answer name the partition, and a hole at the end of the log can be told from a slow broker.
    assert told["enable_incremental_fetch_sessions"] is False


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (4, 3)])
def test_what_is_no_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match=rf"\[{start}, {end}\) is no range"):
        RangeReader(KAFKA, T0, start, end)


def test_a_compacted_partition_is_read_as_a_whole_though_its_end_is_a_hole(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic(configuration={"cleanup.policy": "compact"})
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", b"4"), (b"c", b"5"), (b"c", None)):
        cluster.append(topic, value, key=key, partition=0)
    cluster.compact(topic)
    first, end = stage.bounds(topic, 0)[T0]
    reader = stage.reader(topic, first, end)

    batches = stage.read_range(reader)

    assert (first, end) == (0, 6)
    assert [(batch.keys, batch.values) for batch in batches] == [([b"a", b"b"], [b"3", b"4"])]
    assert (reader.position, reader.skipped) == (6, 0)


def test_a_range_that_is_nothing_but_a_hole_is_done(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    cluster.skip_offsets(topic, 0, 3)
    reader = stage.reader(topic, 2, 4)

    assert stage.read_range(reader) == []
    assert reader.position == 4


def test_a_range_whose_tail_is_a_hole_before_a_later_message_ends_where_it_ends(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    cluster.skip_offsets(topic, 0, 3)
    stage.write(topic, b"4")
    reader = stage.reader(topic, 0, 3)

    assert places(stage.read_range(reader)) == [(0, 0)]
    assert reader.position == 3


def test_what_retention_removes_while_a_range_is_read_is_counted(
    stage: FakeStage, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1", b"2", b"3")
    reader = stage.reader(topic, 0, 4, max_batch_records=1)
    assert reader.poll(0.5) is not None
    stage.trim(topic, 0, 3)

    with caplog.at_level(logging.WARNING):
        batches = stage.read_range(reader)

    assert values(batches) == [b"3"]
    assert reader.skipped == 2
    assert "retention removed 2 offsets" in caplog.text


def test_a_log_that_was_cut_back_is_out_of_range(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1")
    reader = stage.reader(topic, 0, 3, max_batch_records=1)
    reader.poll(0.5)
    (partition,) = cluster.consumers[0].assignment()
    cluster.fail("poll", kafka_errors.LogTruncationError({partition: None}))

    with pytest.raises(OffsetOutOfRange, match="unclean leader election"):
        reader.poll(0.5)


# -- a broker that is away ------------------------------------------------------------------------------------


def test_a_reader_can_be_made_and_polled_without_a_broker(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    cluster.away = True
    reader = stage.reader(topic, 0, 1)

    assert [reader.poll(0.5), reader.poll(0.5)] == [None, None]
    cluster.away = False

    assert values(stage.read_range(reader)) == [b"0"]


def test_a_poll_of_a_range_waits_no_longer_than_its_limit(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    reader = stage.reader(topic, 0, 5)
    assert reader.poll(0.5) is not None
    for away in (False, True):
        cluster.away = away
        before = cluster.clock()

        assert reader.poll(0.35) is None

        assert cluster.clock() - before == pytest.approx(0.35)


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.KafkaConnectionError("gone"),
        kafka_errors.NotLeaderForPartitionError(),
        kafka_errors.UnknownBrokerIdError(3),
    ],
)
@pytest.mark.parametrize("method", ["connect", "poll"])
def test_what_passes_by_itself_is_no_error_of_a_range(
    stage: FakeStage, cluster: FakeCluster, method: str, error: KafkaError, caplog: pytest.LogCaptureFixture
) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    reader = stage.reader(topic, 0, 1)
    cluster.fail(method, error)

    with caplog.at_level(logging.WARNING):
        assert reader.poll(0.5) is None

    assert "nothing is lost" in caplog.text
    assert values(stage.read_range(reader)) == [b"0"]


def test_a_beginning_that_cannot_be_looked_up_is_tried_again(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1")
    stage.trim(topic, 0, 1)
    reader = stage.reader(topic, 0, 2)
    cluster.fail("beginning_offsets", kafka_errors.KafkaTimeoutError())

    assert reader.poll(0.5) is None
    assert (reader.position, reader.skipped) == (0, 0)

    assert values(stage.read_range(reader)) == [b"1"]
    assert reader.skipped == 1


@pytest.mark.parametrize("question", ["beginning_offsets", "end_offsets"])
def test_bounds_that_nobody_tells_are_an_error_in_time(stage: FakeStage, cluster: FakeCluster, question: str) -> None:
    topic = stage.topic()
    cluster.fail(question, kafka_errors.KafkaTimeoutError())

    with pytest.raises(BrokerUnavailable):
        stage.bounds(topic, 0)

    cluster.away = True
    before = cluster.clock()
    with pytest.raises(BrokerUnavailable):
        stage.bounds(topic, 0)
    assert cluster.clock() - before <= 3.0
    assert all(consumer.closed for consumer in cluster.consumers)


def test_a_message_that_arrives_between_the_questions_is_not_passed_over(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    consumer_of = cluster.consumer

    def connect(**configuration: object) -> object:
        consumer = consumer_of(**configuration)
        ask = consumer.offsets_for_times

        def ask_and_write(*arguments: object, **named: object) -> object:
            found = ask(*arguments, **named)  # type: ignore[arg-type]
            cluster.append(topic, b"just now", partition=0, timestamp_ms=9_000)
            return found

        consumer.offsets_for_times = ask_and_write  # type: ignore[method-assign,assignment]
        return consumer

    assert offset_at(KAFKA, Partition(topic, 0), 5_000, 3.0, clock=cluster.clock, connect=connect) == 0


# -- what an operator must see to -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"topic-0"}), Forbidden),
        (kafka_errors.SaslAuthenticationFailedError("wrong password"), Forbidden),
        (kafka_errors.UnsupportedCodecError("zstd"), ConfigurationRefused),
        (kafka_errors.CorruptRecordError("bad checksum"), TransportError),
    ],
)
@pytest.mark.parametrize("method", ["connect", "poll"])
def test_what_an_operator_must_see_to_is_an_error_of_a_range(
    stage: FakeStage, cluster: FakeCluster, method: str, error: KafkaError, ours: type[TransportError]
) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    reader = stage.reader(topic, 0, 1)
    cluster.fail(method, error)

    with pytest.raises(ours):
        reader.poll(0.5)


def test_bounds_that_may_not_be_asked_for_say_so(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    cluster.fail("end_offsets", kafka_errors.TopicAuthorizationFailedError({topic}))

    with pytest.raises(Forbidden, match=topic):
        stage.bounds(topic, 0)
