"""What the contract does not ask of a source: errors and who acts on them, what the client is told, byte limits."""

from __future__ import annotations

import logging

import pytest
from kafka import errors as kafka_errors
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from tests.fakes import FakeCluster
from tests.transport.conftest import FakeStage
from tests.transport.contract import finish, values
from transport import (
    BrokerUnavailable,
    CommitRefused,
    ConfigurationRefused,
    Forbidden,
    OffsetOutOfRange,
    OutgoingMessage,
    Partition,
    TransportError,
)

T0, T1 = Partition("topic-0", 0), Partition("topic-0", 1)


# -- what the client is told ----------------------------------------------------------------------------------


def test_the_client_commits_resets_and_creates_nothing_by_itself(stage: FakeStage, cluster: FakeCluster) -> None:
    source = stage.source(stage.topic(), group="g", group_instance_id="worker-1")
    source.poll()

    (consumer,) = cluster.consumers
    told = consumer.config
    assert told["enable_auto_commit"] is False
    assert told["auto_offset_reset"] == "none"
    assert told["allow_auto_create_topics"] is False
    assert told["check_crcs"] is True
    assert told["isolation_level"] == "read_committed"
    assert told["metrics_enabled"] is False
    assert told["group_instance_id"] == "worker-1"
    assert [assignor.name for assignor in told["partition_assignment_strategy"]] == ["cooperative-sticky"]


# -- a broker that is away ------------------------------------------------------------------------------------


def test_a_source_can_be_made_and_polled_without_a_broker(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    cluster.away = True
    source = stage.source(topic, group="g")

    assert [source.poll(), source.poll()] == [None, None]
    assert source.last_answer_age_s == pytest.approx(10.0)  # two attempts to connect of 5 s each
    source.go_back()
    cluster.away = False

    assert values(stage.batches(source, 1)) == [b"1"]
    assert source.last_answer_age_s == 0.0


def test_an_absent_broker_looks_like_a_quiet_topic_but_the_age_of_its_last_answer_grows(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    source = stage.source(stage.topic(), group="g")
    stage.settle(source, 1)
    cluster.away = True

    ages = []
    for _ in range(10):
        assert source.poll() is None
        ages.append(source.last_answer_age_s)

    assert ages == sorted(ages)
    assert ages[-1] - ages[0] == pytest.approx(4.5)


def test_a_silent_broker_is_asked_every_three_seconds(stage: FakeStage, cluster: FakeCluster) -> None:
    source = stage.source(stage.topic(), group="g")
    stage.settle(source, 1)
    cluster.away = True

    for _ in range(20):
        source.poll()

    assert cluster.consumers[0].net.asked == 3


@pytest.mark.parametrize(
    "error",
    [
        kafka_errors.KafkaConnectionError("gone"),
        kafka_errors.NotCoordinatorError(),
        kafka_errors.UnknownBrokerIdError(3),
        kafka_errors.UnknownMemberIdError(),
        kafka_errors.IllegalGenerationError(),
        kafka_errors.RebalanceInProgressError(),
    ],
)
def test_what_passes_by_itself_is_no_error_of_a_poll(
    stage: FakeStage, cluster: FakeCluster, error: KafkaError, caplog: pytest.LogCaptureFixture
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g")
    cluster.fail("poll", error)

    with caplog.at_level(logging.WARNING):
        assert source.poll() is None

    assert "nothing is lost" in caplog.text
    assert values(stage.batches(source, 1)) == [b"1"]


# -- what an operator must see to -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ours", "setting"),
    [
        (kafka_errors.TopicAuthorizationFailedError({"secret"}), Forbidden, "topics"),
        (kafka_errors.GroupAuthorizationFailedError("g"), Forbidden, "group_id"),
        (kafka_errors.SaslAuthenticationFailedError("wrong password"), Forbidden, "sasl_username"),
        (kafka_errors.ClusterAuthorizationFailedError(), Forbidden, "sasl_username"),
        (kafka_errors.FencedInstanceIdError(), ConfigurationRefused, "group_instance_id"),
        (kafka_errors.InvalidSessionTimeoutError(), ConfigurationRefused, "session_timeout_s"),
        (kafka_errors.InconsistentGroupProtocolError(), ConfigurationRefused, "group_id"),
        (kafka_errors.UnsupportedSaslMechanismError(), ConfigurationRefused, "sasl_mechanism"),
        (kafka_errors.UnsupportedCodecError("zstd"), ConfigurationRefused, "topics"),
    ],
)
@pytest.mark.parametrize("method", ["connect", "poll"])
def test_what_an_operator_must_see_to_names_the_setting(
    stage: FakeStage, cluster: FakeCluster, method: str, error: KafkaError, ours: type[TransportError], setting: str
) -> None:
    source = stage.source(stage.topic(), group="g")
    cluster.fail(method, error)

    with pytest.raises(ours) as refusal:
        source.poll()

    assert getattr(refusal.value, "setting", None) == setting


def test_an_error_that_nobody_foresaw_is_not_swallowed(stage: FakeStage, cluster: FakeCluster) -> None:
    source = stage.source(stage.topic(), group="g")
    cluster.fail("poll", kafka_errors.CorruptRecordError("bad checksum"))

    with pytest.raises(TransportError, match="bad checksum"):
        source.poll()


def test_a_log_that_was_cut_back_is_out_of_range(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    source = stage.source(topic, group="g")
    stage.settle(source, 1)
    (partition,) = cluster.consumers[0].assignment()
    cluster.fail("poll", kafka_errors.LogTruncationError({partition: None}))
    cluster.fail("end_offsets", kafka_errors.KafkaTimeoutError("no answer"))

    with pytest.raises(OffsetOutOfRange, match="unclean leader election") as refusal:
        source.poll()

    assert refusal.value.partition == T0


def test_a_log_that_was_cut_back_is_read_on_from_where_it_was_cut(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2", b"3")
    source = stage.source(topic, group="g", on_offset_out_of_range="earliest")
    finish(source, stage.batches(source, 3))
    (partition,) = cluster.consumers[0].assignment()
    cluster.fail("poll", kafka_errors.LogTruncationError({partition: OffsetAndMetadata(2, "", 0)}))

    batches = stage.batches(source, 1)

    assert values(batches) == [b"3"]
    assert dict(source.skipped) == {topic: 0}


def test_an_offset_that_is_lost_while_the_broker_is_silent_is_left_later(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2", b"3")
    source = stage.source(topic, group="g", on_offset_out_of_range="earliest")
    finish(source, stage.batches(source, 3))
    (partition,) = cluster.consumers[0].assignment()
    # The client tells of a log that was cut back only once.
    cluster.fail("poll", kafka_errors.LogTruncationError({partition: OffsetAndMetadata(1, "", 0)}))
    cluster.fail("end_offsets", kafka_errors.KafkaTimeoutError("no answer"))

    assert source.poll() is None
    assert values(stage.batches(source, 2)) == [b"2", b"3"]


def test_a_lost_offset_begins_its_partition_anew_and_nothing_done_before_is_committed(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2", b"3")
    source = stage.source(topic, group="g", on_offset_out_of_range="latest", max_batch_records=1)
    (open_one,) = stage.batches(source, 1)
    before = source.generations()
    cluster.trim(topic, 0, 3)

    assert source.poll() is None
    source.done(open_one)

    assert source.generations() != before
    assert source.committable() == {T0: 3}


def test_a_partition_that_begins_anew_waits_like_one_that_is_newly_assigned(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2")
    source = stage.source(topic, group="g", on_offset_out_of_range="earliest", start_paused=True, max_batch_records=1)
    stage.settle(source, 1)
    source.resume(source.assignment())
    stage.batches(source, 1)
    cluster.trim(topic, 0, 2)
    stage.write(topic, b"3")

    stage.quiet(source)
    source.resume(source.assignment())

    assert values(stage.batches(source, 1)) == [b"3"]


@pytest.mark.parametrize("choice", ["stop", "latest"])
def test_a_topic_created_anew_stops_the_source_or_is_read_from_its_end(
    stage: FakeStage, cluster: FakeCluster, choice: str
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2")
    source = stage.source(topic, group="g", on_offset_out_of_range=choice)
    for batch in stage.batches(source, 2):
        source.done(batch)
    stage.create_again(topic)
    stage.write(topic, b"a", b"b", b"c", b"d")

    if choice == "stop":
        with pytest.raises(OffsetOutOfRange, match="created anew"):
            stage.quiet(source)
        source.close()
        assert stage.commits("g", topic) == {}, "an offset of the former topic was committed"
        return
    stage.quiet(source)
    stage.write(topic, b"e")

    assert values(stage.batches(source, 1)) == [b"e"]
    assert dict(source.skipped) == {topic: 4}


def test_what_was_read_beside_a_topic_created_anew_comes_again(stage: FakeStage, cluster: FakeCluster) -> None:
    anew, other = stage.topic(), stage.topic()
    stage.write(anew, b"1")
    source = stage.source(anew, other, group="g", on_offset_out_of_range="earliest")
    finish(source, stage.batches(source, 1))
    stage.create_again(anew)
    stage.write(anew, b"a")
    stage.write(other, b"b")

    assert sorted(values(stage.batches(source, 2))) == [b"a", b"b"]  # type: ignore[type-var]


def test_a_member_that_was_put_out_and_told_so_commits_nothing_in_a_transaction(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    """A zombie's heartbeat tells it before its next poll: its client then names no generation, which fences nobody."""
    topic, out = stage.topic(), stage.topic()
    source, transactions = stage.source(topic, group="g", commit_on_release=False), stage.transactions("t")
    stage.settle(source, 1)
    stage.write(topic, b"one")
    batch = source.poll()
    assert batch is not None
    transactions.publish([OutgoingMessage(out, None, b"of one")])
    source.done(batch)
    cluster.evict("g", told=True)

    with pytest.raises(CommitRefused, match="has put this member out") as refusal:
        source.commit(source.committable(), through=transactions)
    transactions.abort()

    assert refusal.value.evicted
    assert stage.commits("g", topic) == {}
    assert cluster.messages(out) == []


# -- commits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (kafka_errors.KafkaTimeoutError(), BrokerUnavailable),
        (kafka_errors.NotCoordinatorError(), BrokerUnavailable),
        (kafka_errors.CommitFailedError(), CommitRefused),
        (kafka_errors.IllegalGenerationError(), CommitRefused),
        (kafka_errors.UnknownMemberIdError(), CommitRefused),
        (kafka_errors.RebalanceInProgressError(), CommitRefused),
        (kafka_errors.FencedInstanceIdError(), ConfigurationRefused),
        (kafka_errors.GroupAuthorizationFailedError("g"), Forbidden),
        (kafka_errors.OffsetMetadataTooLargeError(), TransportError),
    ],
)
def test_a_commit_that_fails_leaves_its_offsets_committable(
    stage: FakeStage, cluster: FakeCluster, error: KafkaError, ours: type[TransportError]
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g")
    (batch,) = stage.batches(source, 1)
    source.done(batch)
    cluster.fail("commit", error)

    with pytest.raises(ours) as refusal:
        source.commit(source.committable())

    if isinstance(refusal.value, CommitRefused):
        assert refusal.value.evicted is not isinstance(error, kafka_errors.RebalanceInProgressError)
    assert source.committable() == {T0: 1}
    source.commit(source.committable())
    assert cluster.commits("g") == {T0: 1}


def test_a_commit_waits_no_longer_than_its_limit(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g", commit_timeout_s=2.0)
    (batch,) = stage.batches(source, 1)
    source.done(batch)
    cluster.away = True
    before = cluster.clock()

    with pytest.raises(BrokerUnavailable):
        source.commit(source.committable())

    assert cluster.clock() - before == pytest.approx(2.0)


def test_partitions_that_were_lost_take_all_that_was_polled_and_done_with_them(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic(2)
    stage.write(topic, b"1", partition=0)
    stage.write(topic, b"2", partition=1)
    source = stage.source(topic, group="g", max_batch_records=1)
    one, two = stage.batches(source, 2)
    source.done(one)
    cluster.evict("g")

    with pytest.raises(CommitRefused) as refusal:
        source.commit(source.committable())
    assert refusal.value.evicted
    again = [source.poll(), source.poll()]

    assert sorted(map(str, values([batch for batch in again if batch is not None]))) == ["b'1'", "b'2'"]
    source.done(two)
    assert source.committable() == {}
    assert (source.rebalances.lost, source.rebalances.revoked) == (1, 0)
    assert cluster.commits("g") == {}


@pytest.mark.parametrize("trouble", [kafka_errors.CommitFailedError(), None], ids=["refused", "no answer"])
def test_a_failed_commit_of_partitions_given_up_costs_a_repeat_and_nothing_else(
    stage: FakeStage, cluster: FakeCluster, trouble: KafkaError | None, caplog: pytest.LogCaptureFixture
) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g", commit_timeout_s=2.0)
    (batch,) = stage.batches(source, 1)
    source.done(batch)
    if trouble is None:
        cluster.away = True
    else:
        cluster.fail("commit_async", trouble)
    before = cluster.clock()

    with caplog.at_level(logging.WARNING):
        source.close()

    assert cluster.clock() - before <= 2.0
    assert "reads some records again" in caplog.text
    cluster.away = False
    assert values(stage.batches(stage.source(topic, group="g"), 1)) == [b"1"]


def test_a_farewell_that_fails_is_a_warning(
    stage: FakeStage, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    source = stage.source(stage.topic(), group="g")
    stage.settle(source, 1)
    cluster.fail("leave", kafka_errors.KafkaTimeoutError())

    with caplog.at_level(logging.WARNING):
        source.close()

    assert "could not leave the group" in caplog.text
    with pytest.raises(ValueError, match="closed"):
        source.poll()


def test_a_source_that_never_polled_closes(stage: FakeStage, cluster: FakeCluster) -> None:
    stage.source(stage.topic(), group="g").close()

    assert cluster.consumers == []


# -- where reading starts -------------------------------------------------------------------------------------


def test_the_first_start_at_the_latest_is_noted_beside_its_commits(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic(3)
    source = stage.source(topic, group="g", start_at="latest")
    source.poll()
    source.commit(source.committable())

    assert set(cluster.commit_metadata("g").values()) == {"offbeat:first_partitions=3"}


def test_a_partition_that_another_member_has_not_reached_yet_starts_where_the_group_started(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic(3)
    for number in range(3):
        stage.write(topic, b"old", partition=number)
    cluster.set_commit("g", topic, 0, 1, "offbeat:first_partitions=2")
    source = stage.source(topic, group="g", start_at="latest")

    (batch,) = stage.batches(source, 1)

    assert batch.partitions == (Partition(topic, 2),)
    assert source.committable() == {T1: 1}


def test_without_that_note_a_partition_without_a_commit_starts_at_its_beginning(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic(2)
    stage.write(topic, b"old", partition=1)
    cluster.set_commit("g", topic, 0, 0)

    assert values(stage.batches(stage.source(topic, group="g", start_at="latest"), 1)) == [b"old"]


@pytest.mark.parametrize("question", ["committed", "end_offsets"])
def test_a_start_that_cannot_be_looked_up_is_tried_again(stage: FakeStage, cluster: FakeCluster, question: str) -> None:
    topic = stage.topic()
    stage.write(topic, b"old")
    source = stage.source(topic, group="g", start_at="latest")
    cluster.fail(question, kafka_errors.KafkaTimeoutError())

    assert source.poll() is None
    assert source.committable() == {}
    assert source.poll() is None
    assert source.committable() == {T0: 1}


# -- partitions that come and go ------------------------------------------------------------------------------


def test_partitions_lost_and_gained_again_within_one_poll_are_paused_and_of_another_generation(
    stage: FakeStage, cluster: FakeCluster
) -> None:
    topic = stage.topic(2)
    source = stage.source(topic, group="g", start_paused=True)
    stage.settle(source, 2)
    source.resume(source.assignment())
    before = source.generations()
    stage.write(topic, b"1", partition=0)
    cluster.evict("g")

    stage.quiet(source)

    assert source.assignment() == set(before)
    assert not set(before.values()) & set(source.generations().values())
    source.resume([T0])
    assert values(stage.batches(source, 1)) == [b"1"]


def test_looking_asks_nobody(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g", start_paused=True)
    stage.settle(source, 1)
    cluster.away = True
    before = cluster.clock()

    assert source.position(T0) == 0
    assert source.generations().keys() == {T0}
    assert source.lag() == {}
    assert cluster.clock() == before


def test_a_start_that_cannot_be_looked_up_leaves_the_position_unknown(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    source = stage.source(topic, group="g", start_at="latest", start_paused=True)
    cluster.fail("end_offsets", kafka_errors.KafkaTimeoutError())

    assert source.poll() is None
    assert source.assignment() == {T0}
    assert source.position(T0) is None
    assert source.poll() is None
    assert source.position(T0) == 0


# -- bounds ---------------------------------------------------------------------------------------------------


def test_large_messages_make_batches_shorter_and_small_ones_long_again(stage: FakeStage) -> None:
    topic = stage.topic()
    stage.write(topic, *[bytes(1000)] * 12, *[b"1"] * 40)
    source = stage.source(topic, group="g", max_batch_records=8, max_batch_bytes=3000)

    lengths = [len(batch) for batch in stage.batches(source, 52)]

    assert lengths[:3] == [8, 3, 3]
    assert max(lengths[3:]) == 8


def test_a_message_larger_than_a_batch_may_be_still_comes(stage: FakeStage) -> None:
    topic = stage.topic()
    stage.write(topic, bytes(100), bytes(100), None)
    source = stage.source(topic, group="g", max_batch_bytes=10)

    assert len(stage.batches(source, 3)) >= 1


def test_headers_without_a_value_come_with_an_empty_one(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    cluster.append(topic, b"1", headers=[("h", None)])  # type: ignore[list-item]

    (batch,) = stage.batches(stage.source(topic, group="g"), 1)

    assert list(batch.headers[0]) == [("h", b"")]


def test_lag_passes_over_holes_at_the_end(stage: FakeStage, cluster: FakeCluster) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    cluster.skip_offsets(topic, 0, 1)
    source = stage.source(topic, group="g")
    (batch,) = stage.batches(source, 1)
    source.done(batch)

    assert source.lag() == {T0: 0}
