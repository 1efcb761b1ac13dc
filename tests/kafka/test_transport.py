"""The transport on a real broker: its contract, and what only a real broker shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

from tests.kafka.broker import KafkaBroker
from tests.transport.contract import Stage, TransportContract, finish, values
from transport import (
    Batch,
    BrokerUnavailable,
    CommitRefused,
    ConfigurationRefused,
    KafkaPublisher,
    KafkaSettings,
    KafkaSource,
    KafkaTransactions,
    OutgoingMessage,
    Partition,
    PublisherSettings,
    PublishFailed,
    RangeReader,
    Source,
    SourceSettings,
    bounds,
    create_topics,
    missing_topics,
    offset_at,
    read_topic,
    topic_configuration,
    topic_identity,
)
from transport.header_names import HeaderName


class BrokerStage(Stage):
    """kafka-python on a real broker."""

    patience = 100

    def __init__(self, broker: KafkaBroker, name: str) -> None:
        self.broker = broker
        self._name = name
        self._topics = 0
        self._open: list[KafkaSource | KafkaPublisher | RangeReader] = []

    def topic(self, partitions: int = 1, configuration: Mapping[str, str] | None = None) -> str:
        self._topics += 1
        return self.broker.create_topic(
            f"{self._name}-{self._topics}", partitions, None if configuration is None else dict(configuration)
        )

    def add_partitions(self, topic: str, total: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        admin.create_partitions({topic: total})
        admin.wait_for_topics([topic])
        admin.close()

    def write(self, topic: str, *values: bytes | None, partition: int = 0) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap_servers)
        for value in values:
            producer.send(topic, value=value, partition=partition).get(10)
        producer.close(10)

    def trim(self, topic: str, partition: int, before: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        admin.delete_records({TopicPartition(topic, partition): before})
        admin.close()

    def commits(self, group: str, topic: str) -> dict[int, int]:
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        offsets = admin.list_group_offsets(self._group(group))
        admin.close()
        flat = offsets.get(self._group(group), offsets)
        return {
            partition.partition: at.offset
            for partition, at in flat.items()
            if partition.topic == topic and at.offset >= 0
        }

    def _group(self, group: str) -> str:
        return f"{self._name}-{group}"

    def source(self, *topics: str, group: str, **settings: Any) -> KafkaSource:
        defaults = {
            "poll_timeout_s": 0.5,  # a join that does not end within one poll begins again with the next
            "session_timeout_s": 3.0,
            "heartbeat_interval_s": 0.1,
            "max_poll_interval_s": 30.0,
        }
        source = KafkaSource(
            self.broker.settings, SourceSettings(topics=topics, group_id=self._group(group), **(defaults | settings))
        )
        self._open.append(source)
        return source

    def publisher(self, **settings: Any) -> KafkaPublisher:
        publisher = KafkaPublisher(self.broker.settings, PublisherSettings(**settings))
        self._open.append(publisher)
        return publisher

    def transactions(self, transactional_id: str, **settings: Any) -> KafkaTransactions:
        transactions = KafkaTransactions(
            self.broker.settings, PublisherSettings(**settings), f"{self._name}-{transactional_id}"
        )
        self._open.append(transactions)
        return transactions

    def read(self, topic: str, **options: Any) -> Iterator[Batch]:
        return read_topic(self.broker.settings, topic, **options)

    def reader(self, topic: str, start: int, end: int, *, partition: int = 0, **options: Any) -> RangeReader:
        reader = RangeReader(self.broker.settings, Partition(topic, partition), start, end, **options)
        self._open.append(reader)
        return reader

    def bounds(self, topic: str, *numbers: int) -> dict[Partition, tuple[int, int]]:
        return bounds(self.broker.settings, [Partition(topic, number) for number in numbers], 3.0)

    def offset_at(self, topic: str, timestamp_ms: int) -> int:
        return offset_at(self.broker.settings, Partition(topic, 0), timestamp_ms, 3.0)

    def identity(self, topic: str) -> str | None:
        return topic_identity(self.broker.settings, topic, 3.0)

    def configuration(self, topic: str) -> dict[str, str]:
        return topic_configuration(self.broker.settings, topic, 3.0)

    def create_again(self, topic: str) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        admin.delete_topics([topic])
        admin.close()
        deadline = time.monotonic() + 10.0
        while not create_topics(self.broker.settings, {topic: 1}):
            assert time.monotonic() < deadline, "the topic is not deleted"

    def missing(self, *names: str) -> list[str]:
        return missing_topics(self.broker.settings, names)

    def create(self, **partitions: int) -> list[str]:
        return create_topics(self.broker.settings, partitions)

    def poll_all(self, sources: Sequence[Source]) -> list[Batch | None]:
        # As processes of their own would: kafka-python drops a join that completes between two polls and joins again.
        with ThreadPoolExecutor(len(sources)) as threads:
            return list(threads.map(lambda source: source.poll(), sources))

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def stage(broker: KafkaBroker, name: str) -> Iterator[BrokerStage]:
    stage = BrokerStage(broker, name)
    yield stage
    stage.close()


class TestContract(TransportContract):
    """kafka-python on a real broker."""


# -- what is on the wire --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_can_be_written_and_read(stage: BrokerStage, codec: str) -> None:
    topic = stage.topic()
    expected = [b"%d " % number * 200 for number in range(300)]
    stage.publisher(compression=codec).publish([OutgoingMessage(topic, None, value) for value in expected])

    assert values(stage.batches(stage.source(topic, group="g"), 300)) == expected


def test_messages_of_aborted_and_unfinished_transactions_are_left_out(stage: BrokerStage) -> None:
    topic = stage.topic()
    producer = KafkaProducer(bootstrap_servers=stage.broker.bootstrap_servers, transactional_id=topic)
    producer.init_transactions()
    for value, commit in ((b"aborted", False), (b"committed", True)):
        producer.begin_transaction()
        producer.send(topic, value=value).get(10)
        producer.commit_transaction() if commit else producer.abort_transaction()
    producer.begin_transaction()
    producer.send(topic, value=b"unfinished").get(10)
    source = stage.source(topic, group="g")

    (batch,) = stage.batches(source, 1)
    stage.quiet(source)

    assert batch.values == [b"committed"]
    assert values(list(stage.read(topic, timeout_s=10.0))) == [b"committed"]
    producer.abort_transaction()
    producer.close(10)


def test_a_message_at_the_limit_fits_the_broker(stage: BrokerStage) -> None:
    topic = stage.topic()
    message = OutgoingMessage(topic, b"key", b"", (("name", b"value"),))
    room = 1_000_000 - message.size_bytes
    publisher = stage.publisher(max_message_bytes=1_000_000, compression="none")

    publisher.publish([OutgoingMessage(topic, b"key", bytes(room), message.headers)])

    (batch,) = stage.read(topic, timeout_s=10.0)
    assert [len(value or b"") for value in batch.values] == [room]


def test_a_topic_that_takes_only_smaller_messages_is_named(stage: BrokerStage, broker: KafkaBroker) -> None:
    topic = broker.create_topic(stage.topic() + ".small", configuration={"max.message.bytes": "2000"})
    publisher = stage.publisher(compression="none")

    with pytest.raises(PublishFailed, match=r"raise the topic's max\.message\.bytes") as failure:
        publisher.publish([OutgoingMessage(topic, None, bytes(5000))])

    assert (failure.value.retriable, failure.value.topic) == (False, topic)


# -- a broker in trouble --------------------------------------------------------------------------------------


def test_a_broker_that_restarts_costs_nothing_but_time(stage: BrokerStage, broker: KafkaBroker) -> None:
    topic = stage.topic()
    publisher = stage.publisher(publish_timeout_s=2.0)
    publisher.publish([OutgoingMessage(topic, None, b"1")])
    source = stage.source(topic, group="g")
    (batch,) = stage.batches(source, 1)
    source.done(batch)

    broker.kill()
    started = time.monotonic()
    for _ in range(10):
        assert source.poll() is None
    away_s = time.monotonic() - started
    assert source.last_answer_age_s > 0.9 * away_s > 1.0
    with pytest.raises(BrokerUnavailable):
        source.commit(source.committable())
    started = time.monotonic()
    with pytest.raises(PublishFailed) as failure:
        publisher.publish([OutgoingMessage(topic, None, b"never")])
    assert failure.value.retriable
    assert time.monotonic() - started < 2.0 + 2.0

    broker.start()
    publisher.publish([OutgoingMessage(topic, None, b"2")])
    again = values(stage.batches(source, 1))
    source.commit(source.committable())

    assert again == [b"2"]
    assert source.last_answer_age_s < 3.0
    assert stage.commits("g", topic) == {0: 1}
    assert values(list(stage.read(topic, timeout_s=10.0))) == [b"1", b"2"]


def test_no_wait_outlasts_its_limit_while_the_broker_hangs(stage: BrokerStage, broker: KafkaBroker) -> None:
    topic = stage.topic()
    publisher = stage.publisher(publish_timeout_s=1.5)
    publisher.publish([OutgoingMessage(topic, None, b"1")])
    source = stage.source(topic, group="g", commit_timeout_s=1.0)
    (batch,) = stage.batches(source, 1)
    source.done(batch)

    broker.freeze()
    waits = {}
    for what, call, error in (
        ("poll", source.poll, None),
        ("commit", lambda: source.commit(source.committable()), BrokerUnavailable),
        ("publish", lambda: publisher.publish([OutgoingMessage(topic, None, b"2")]), PublishFailed),
        ("close the publisher", publisher.close, None),
        ("close the source", source.close, None),
    ):
        started = time.monotonic()
        if error is None:
            call()
        else:
            with pytest.raises(error):
                call()
        waits[what] = time.monotonic() - started

    assert waits["poll"] < 1.5
    assert waits["commit"] < 2.0
    assert waits["publish"] < 3.5
    assert waits["close the publisher"] < 2.0
    assert waits["close the source"] < 4.0


def test_a_broker_that_accepts_connections_and_never_answers_does_not_count_as_answering(
    stage: BrokerStage, broker: KafkaBroker
) -> None:
    source = stage.source(stage.topic(), group="g")
    stage.settle(source, 1)

    broker.freeze()
    frozen = time.monotonic()
    while time.monotonic() - frozen < 3.0:
        source.poll()

    assert source.last_answer_age_s > 2.0


def test_without_any_broker_a_source_keeps_trying_and_leaves_nothing_behind() -> None:
    kafka = KafkaSettings(bootstrap_servers="127.0.0.1:1", connect_timeout_s=0.3, reconnect_backoff_max_s=0.1)
    before = set(threading.enumerate())
    source = KafkaSource(kafka, SourceSettings(topics=("t",), group_id="g"))
    publisher = KafkaPublisher(kafka, PublisherSettings(publish_timeout_s=1.0))

    started = time.monotonic()
    assert [source.poll() for _ in range(3)] == [None, None, None]
    with pytest.raises(PublishFailed) as failure:
        publisher.publish([OutgoingMessage("t", None, b"1")])
    with pytest.raises(BrokerUnavailable):
        missing_topics(kafka, ["t"])
    with pytest.raises(BrokerUnavailable):
        read_topic(kafka, "t", timeout_s=1.0)
    source.close()
    publisher.close()

    assert failure.value.retriable
    assert 0.9 < source.last_answer_age_s < time.monotonic() - started + 0.1 < 10.0
    assert set(threading.enumerate()) <= before


def test_closing_leaves_no_thread_behind(stage: BrokerStage) -> None:
    topic = stage.topic()
    before = set(threading.enumerate())
    source = stage.source(topic, group="g")
    publisher = stage.publisher()
    publisher.publish([OutgoingMessage(topic, None, b"1")])
    stage.batches(source, 1)
    assert set(threading.enumerate()) > before

    source.close()
    publisher.close()

    assert set(threading.enumerate()) <= before


# -- groups ---------------------------------------------------------------------------------------------------


def test_a_member_that_does_not_poll_is_put_out_and_reads_again_what_was_not_committed(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g", session_timeout_s=1.0, max_poll_interval_s=1.0)
    (batch,) = stage.batches(source, 1)
    time.sleep(2.0)
    source.done(batch)

    with pytest.raises(CommitRefused) as refusal:
        source.commit(source.committable())
    assert refusal.value.evicted

    assert values(stage.batches(source, 1)) == [b"1"]
    assert source.committable() == {}
    assert source.rebalances.lost == 1


def test_a_member_that_was_killed_is_replaced_and_nothing_is_lost(stage: BrokerStage) -> None:
    topic = stage.topic(2)
    stage.write(topic, b"1", partition=0)
    stage.write(topic, b"2", partition=1)
    dead = stage.source(topic, group="g", session_timeout_s=1.0)
    stage.batches(dead, 2)
    heir = stage.source(topic, group="g", session_timeout_s=1.0)
    # What SIGKILL leaves of a member: no heartbeat, no farewell.
    consumer, dead._consumer = dead._consumer, None
    consumer._client.close()

    assert sorted(map(str, values(stage.batches(heir, 2)))) == ["b'1'", "b'2'"]
    assert heir.assignment() == {Partition(topic, 0), Partition(topic, 1)}


def test_a_static_member_that_comes_back_gets_its_partitions_without_a_rebalance(stage: BrokerStage) -> None:
    topic = stage.topic(2)
    one = stage.source(topic, group="g", group_instance_id="one")
    two = stage.source(topic, group="g", group_instance_id="two")
    stage.settle(one, 2)
    stage.settle(two, 1, one)
    for _ in range(3):
        assert stage.poll_all([one, two]) == [None, None]
    held, counted = two.assignment(), one.rebalances

    two.close()
    back = stage.source(topic, group="g", group_instance_id="two")
    stage.settle(back, 1, one)

    assert back.assignment() == held
    assert one.rebalances == counted


def test_a_second_member_under_the_same_static_name_stops_the_first_and_says_why(stage: BrokerStage) -> None:
    topic = stage.topic()
    one = stage.source(topic, group="g", group_instance_id="same")
    stage.settle(one, 1)
    two = stage.source(topic, group="g", group_instance_id="same")
    stage.settle(two, 1)

    stage.write(topic, b"1")
    (batch,) = stage.batches(one, 1)
    one.done(batch)

    with pytest.raises(ConfigurationRefused, match="same group_instance_id") as refusal:
        one.commit(one.committable())

    assert refusal.value.setting == "group_instance_id"


def test_a_session_that_the_broker_does_not_allow_names_the_setting(stage: BrokerStage) -> None:
    source = stage.source(stage.topic(), group="g", session_timeout_s=0.4)  # the rig's broker wants 0.5

    with pytest.raises(ConfigurationRefused) as refusal:
        stage.settle(source, 1)

    assert refusal.value.setting == "session_timeout_s"


def test_a_group_whose_members_assign_otherwise_is_refused(stage: BrokerStage) -> None:
    topic = stage.topic()
    other = KafkaConsumer(topic, bootstrap_servers=stage.broker.bootstrap_servers, group_id=stage._group("g"))
    for _ in range(20):
        other.poll(100)
    source = stage.source(topic, group="g")

    with pytest.raises(ConfigurationRefused) as refusal:
        stage.settle(source, 1)

    assert refusal.value.setting == "group_id"
    other.close(autocommit=False)


def test_a_member_put_out_while_it_joins_again_hears_that_its_partitions_are_lost(stage: BrokerStage) -> None:
    topic = stage.topic()
    partition = Partition(topic, 0)
    stage.write(topic, b"1", b"2")
    one = stage.source(topic, group="g", session_timeout_s=1.0, max_batch_records=1)
    stage.batches(one, 1)
    before = one.generations()
    two = stage.source(topic, group="g", session_timeout_s=1.0)
    assert two.poll() is None
    # A poll of no length sends the request to join and does not see it through.
    one._settings = one._settings.model_copy(update={"poll_timeout_s": 0.0})
    while not one._consumer._coordinator.rejoining:
        one.poll()
        time.sleep(0.01)

    finish(two, stage.batches(two, 2))
    two.close()
    one._settings = one._settings.model_copy(update={"poll_timeout_s": 0.2})
    for _ in range(stage.patience):
        assert one.poll() is None
        if one.rebalances.lost and one.position(partition) is not None:
            break

    assert one.rebalances.lost == 1
    assert one.generations()[partition] != before[partition]
    assert one.position(partition) == 2


def test_a_member_that_was_put_out_comes_back_to_nothing_that_its_owner_has_not_given_up(stage: BrokerStage) -> None:
    topic = stage.topic(4)
    for number in range(4):
        stage.write(topic, b"1", partition=number)
    one = stage.source(topic, group="g", session_timeout_s=1.0, max_poll_interval_s=1.0)
    stage.batches(one, 4)
    two = stage.source(topic, group="g")
    for batch in stage.batches(two, 4):  # the other one is put out, as it does not poll
        two.done(batch)
    coordinator, claims, shared = one._consumer._coordinator, [], []
    protocols = coordinator.group_protocols

    def note_what_is_claimed() -> Any:
        asked = protocols()
        if coordinator._generation.generation_id < 0:
            claims.extend(asked[0][1].owned_partitions)
        return asked

    def look_who_owns_what_is_given_up() -> None:
        time.sleep(0.5)
        shared.append(one.assignment() & two.assignment())

    coordinator.group_protocols, two.before_release = note_what_is_claimed, look_who_owns_what_is_given_up
    for _ in range(stage.patience):
        stage.poll_all([one, two])
        if len(one.assignment()) == 2 and len(two.assignment()) == 2:
            break

    assert claims == []
    assert shared == [frozenset()]


def test_partitions_lost_in_the_midst_of_a_fetch_give_nothing_of_it_until_they_are_resumed(stage: BrokerStage) -> None:
    topic = stage.topic(2)
    stage.write(topic, *(b"%d" % number for number in range(6)), partition=0)
    source = stage.source(
        topic, group="g", session_timeout_s=1.0, max_poll_interval_s=1.0, max_batch_records=2, start_paused=True
    )
    stage.settle(source, 2)
    source.resume(source.assignment())
    stage.batches(source, 2)
    before = source.generations()

    time.sleep(2.0)
    stage.quiet(source, 10)

    assert source.rebalances.lost == 1
    assert not set(before.values()) & set(source.generations().values())
    stage.write(topic, b"of the other", partition=1)
    source.resume([Partition(topic, 1)])
    assert values(stage.batches(source, 1)) == [b"of the other"]
    assert source.position(Partition(topic, 0)) == 0
    source.resume([Partition(topic, 0)])
    assert values(stage.batches(source, 6)) == [b"%d" % number for number in range(6)]


def test_a_member_whose_partitions_are_all_paused_stays_in_its_group_and_knows_that_the_broker_answers(
    stage: BrokerStage, broker: KafkaBroker
) -> None:
    topic = stage.topic(2)
    slow = {"heartbeat_interval_s": 10.0, "session_timeout_s": 30.0}
    silent = stage.source(topic, group="silent", start_paused=True, **slow)
    brisk = stage.source(topic, group="brisk", start_paused=True, session_timeout_s=1.0)
    stage.settle(silent, 2)
    stage.settle(brisk, 2)

    ages = []
    started = time.monotonic()
    while time.monotonic() - started < 8.0:
        assert stage.poll_all([silent, brisk]) == [None, None]
        ages.append((silent.last_answer_age_s, brisk.last_answer_age_s))

    assert max(age for age, _ in ages) < 5.0
    assert max(age for _, age in ages) < 1.0
    assert brisk.rebalances.lost == silent.rebalances.lost == 0
    assert len(ages) < 8.0 / 0.1
    broker.freeze()
    started = time.monotonic()
    while time.monotonic() - started < 3.0:
        brisk.poll()
    assert brisk.last_answer_age_s > 2.0


def test_members_coming_and_going_under_load_lose_nothing(stage: BrokerStage) -> None:
    topic = stage.topic(4)
    publisher = stage.publisher()
    seen: set[tuple[int, int]] = set()
    sources: list[KafkaSource] = []
    for step in range(8):
        publisher.publish([OutgoingMessage(topic, b"%d" % n, b"%d" % step) for n in range(100)])
        if step in (0, 1, 3, 6):
            sources.append(stage.source(topic, group="g", max_batch_records=40))
        if step in (4, 7):
            sources.pop(0).close()
        for _ in range(4 if step < 7 else stage.patience):
            for source, batch in zip(sources, stage.poll_all(sources), strict=True):
                if batch is not None:
                    seen.update(_places(batch))
                    finish_quietly(source, batch)
            if len(seen) == 800:
                break

    assert len(seen) == 800


def finish_quietly(source: KafkaSource, batch: Batch) -> None:
    source.done(batch)
    try:
        source.commit(source.committable())
    except CommitRefused:
        return


def _places(batch: Batch) -> set[tuple[int, int]]:
    return {
        (batch.partitions[index].number, int(offset))
        for index, offset in zip(batch.partition_index, batch.offsets, strict=True)
    }


def test_finishing_and_committing_leaves_the_group_where_it_says(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"1", b"2")
    source = stage.source(topic, group="g")

    finish(source, stage.batches(source, 2))

    assert stage.commits("g", topic) == {0: 2}


# -- ranges ---------------------------------------------------------------------------------------------------


def test_a_range_that_ends_in_aborted_transactions_is_done_and_gives_nothing_of_them(stage: BrokerStage) -> None:
    topic = stage.topic()
    producer = KafkaProducer(bootstrap_servers=stage.broker.bootstrap_servers, transactional_id=topic)
    producer.init_transactions()
    for value, commit in ((b"committed", True), (b"aborted", False), (b"aborted too", False)):
        producer.begin_transaction()
        producer.send(topic, value=value, partition=0).get(10)
        producer.commit_transaction() if commit else producer.abort_transaction()
    producer.close(10)
    first, end = stage.bounds(topic, 0)[Partition(topic, 0)]
    reader = stage.reader(topic, first, end)

    assert values(stage.read_range(reader)) == [b"committed"]
    assert (first, end, reader.position, reader.skipped) == (0, 6, 6, 0)
    inside = stage.reader(topic, 3, 5)
    assert stage.read_range(inside) == []
    uncommitted = stage.reader(topic, first, end, isolation_level="read_uncommitted")
    assert values(stage.read_range(uncommitted)) == [b"committed", b"aborted", b"aborted too"]


def test_an_open_transaction_is_where_bounds_end_and_is_waited_for_by_a_range_that_goes_on(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    producer = KafkaProducer(bootstrap_servers=stage.broker.bootstrap_servers, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, value=b"1", partition=0).get(10)
    stage.write(topic, b"2")
    reader = stage.reader(topic, 0, 3)

    assert stage.bounds(topic, 0) == {Partition(topic, 0): (0, 1)}
    assert bounds(stage.broker.settings, [Partition(topic, 0)], 3.0, isolation_level="read_uncommitted") == {
        Partition(topic, 0): (0, 3)
    }
    while reader.position < 1:
        reader.poll(0.5)
    assert [reader.poll(0.3) for _ in range(3)] == [None, None, None]
    assert reader.position == 1
    producer.commit_transaction()
    producer.close(10)

    assert values(stage.read_range(reader)) == [b"1", b"2"]


def test_an_answer_without_messages_is_understood_as_such(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1")
    reader = stage.reader(topic, 0, 3)

    for _ in range(5):
        reader.poll(0.3)

    # What is between the offset asked for and the end: nothing here, as the whole log has been read.
    assert reader._connection.void(TopicPartition(topic, 0)) == (2, 2)
    assert reader.position == 2


def test_polls_of_no_length_too_get_past_what_retention_removed(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1", b"2")
    stage.trim(topic, 0, 2)
    reader = stage.reader(topic, 0, 3)
    got: list[Batch] = []

    deadline = time.monotonic() + 10.0
    while not reader.done and time.monotonic() < deadline:
        batch = reader.poll(0.0)
        got += [batch] if batch is not None else []
        time.sleep(0.02)

    assert values(got) == [b"2"]
    assert (reader.position, reader.skipped) == (3, 2)


def test_a_range_outlasts_a_broker_that_restarts(stage: BrokerStage, broker: KafkaBroker) -> None:
    topic = stage.topic()
    stage.write(topic, b"0", b"1", b"2")
    reader = stage.reader(topic, 0, 3, max_batch_records=1)
    got: list[Batch] = []
    while not got:
        batch = reader.poll(0.5)
        got += [batch] if batch is not None else []

    broker.kill()
    away = [batch for batch in (reader.poll(0.2) for _ in range(5)) if batch is not None]
    broker.start()

    assert values(got + away + stage.read_range(reader)) == [b"0", b"1", b"2"]


def test_no_look_at_a_log_outlasts_its_limit_while_the_broker_hangs(stage: BrokerStage, broker: KafkaBroker) -> None:
    topic = stage.topic()
    partition = Partition(topic, 0)
    stage.write(topic, b"0")
    connected = stage.reader(topic, 0, 2)
    stage.read_range(stage.reader(topic, 0, 1))
    while connected.position < 1:
        connected.poll(0.5)
    fresh = stage.reader(topic, 0, 1)

    broker.freeze()
    waits = {}
    for what, call, error in (
        ("poll", lambda: connected.poll(0.5), None),
        ("connect", lambda: fresh.poll(0.5), None),
        ("bounds", lambda: bounds(broker.settings, [partition], 1.0), BrokerUnavailable),
        ("time", lambda: offset_at(broker.settings, partition, 0, 1.0), BrokerUnavailable),
        ("identity", lambda: topic_identity(broker.settings, topic, 1.0), BrokerUnavailable),
        ("configuration", lambda: topic_configuration(broker.settings, topic, 1.0), BrokerUnavailable),
        ("close", connected.close, None),
    ):
        started = time.monotonic()
        if error is None:
            assert call() is None
        else:
            with pytest.raises(error):
                call()
        waits[what] = time.monotonic() - started

    assert waits["poll"] < 1.0
    assert waits["connect"] < 5.0 + 1.0
    assert max(waits[what] for what in ("bounds", "time", "identity", "configuration", "close")) < 2.5


def test_looking_at_a_log_leaves_no_thread_behind(stage: BrokerStage) -> None:
    topic = stage.topic()
    stage.write(topic, b"0")
    before = set(threading.enumerate())
    reader = stage.reader(topic, 0, 1)
    stage.read_range(reader)
    stage.bounds(topic, 0)
    stage.offset_at(topic, 0)
    stage.identity(topic)
    stage.configuration(topic)

    reader.close()

    assert set(threading.enumerate()) <= before


def test_a_header_name_that_is_not_utf8_is_read_and_published_again_with_the_same_bytes(stage: BrokerStage) -> None:
    topic, letters = stage.topic(), stage.topic()
    name = HeaderName(b"caf\xe9".decode("utf-8", "surrogateescape"))
    publisher = stage.publisher()
    publisher.publish([OutgoingMessage(topic, b"k", b"1", ((name, b"x"), ("plain", b"y")))])
    publisher.publish([OutgoingMessage(topic, b"k", b"2")])
    read = stage.batches(stage.source(topic, group="g"), 2)

    publisher.publish([OutgoingMessage(letters, b"k", b"3", tuple(read[0].headers[0]))])

    assert values(read) == [b"1", b"2"]
    (batch,) = stage.read(letters, timeout_s=5.0)
    assert [(name.encode(), value) for name, value in batch.headers[0]] == [(b"caf\xe9", b"x"), (b"plain", b"y")]


def test_a_compacted_partition_is_read_as_a_whole() -> None:
    with KafkaBroker(properties={"log.cleaner.backoff.ms": "100"}) as broker:
        topic = broker.create_topic(
            "compacted",
            configuration={
                "cleanup.policy": "compact",
                "segment.ms": "50",
                "min.cleanable.dirty.ratio": "0.01",
                "delete.retention.ms": "0",
            },
        )
        publisher = KafkaPublisher(broker.settings, PublisherSettings())
        for number in range(6):
            publisher.publish([OutgoingMessage(topic, b"k%d" % (number % 3), b"%d" % number, partition=0)])
            time.sleep(0.1)
        publisher.publish([OutgoingMessage(topic, b"last", b"6", partition=0)])
        publisher.close()

        def whole() -> tuple[list[Batch], RangeReader]:
            ((first, end),) = bounds(broker.settings, [Partition(topic, 0)], 5.0).values()
            reader = RangeReader(broker.settings, Partition(topic, 0), first, end)
            batches = []
            while not reader.done:
                batch = reader.poll(1.0)
                batches += [batch] if batch is not None else []
            reader.close()
            return batches, reader

        deadline = time.monotonic() + 60.0
        batches, reader = whole()
        while sum(map(len, batches)) > 4 and time.monotonic() < deadline:
            time.sleep(0.5)
            batches, reader = whole()

        assert values(batches) == [b"3", b"4", b"5", b"6"]
        assert (reader.position, reader.skipped) == (7, 0)
