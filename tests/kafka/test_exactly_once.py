"""Exactly-once delivery on a real broker: whoever reads committed messages sees each alert once, whatever happens."""

from __future__ import annotations

import os
import signal
import time

from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import Stream, ids, payments
from tests.kafka.test_transport import BrokerStage
from tests.kafka.worker import WorkerProcess
from tests.transport.contract import values
from transport import BrokerUnavailable, CommitInDoubt, OutgoingMessage

DELIVERY = {"delivery": "exactly_once", "commit_interval_s": None, "transaction_timeout_s": 5}


def assert_each_once(stream: Stream, records: int) -> None:
    """Every odd record has one alert, every record one score, and all is committed."""
    stream.wait_until_decided()
    found = ids(stream.alerts())
    assert sorted(found) == sorted(stream.odd())
    scores = [(score["source"]["partition"], score["source"]["offset"]) for score in stream.scores()]
    assert len(scores) == len(set(scores)) == records
    assert stream.is_committed_to_the_end()


def worker(stream: Stream, name: str, **settings: object) -> WorkerProcess:
    return stream.worker(name, score_topic=f"{stream.name}.scores", **DELIVERY | settings)


def test_kills_in_the_middle_of_transactions_repeat_nothing(stream: Stream) -> None:
    published = 0
    for _ in range(3):
        stream.publish(payments(1500, every=4, start=published))
        published += 1500
        with worker(stream, "victim", commit_interval_s=1, max_batch_records=100) as victim:
            victim.wait_until(lambda w: w.total("offbeat_loop_seconds_total", state="process") > 0.2, "some work")
            victim.kill()
    with worker(stream, "heir") as heir:
        heir.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of all records")
        assert heir.total("offbeat_records_unaccounted") == 0
        assert heir.stop() == 0

    assert_each_once(stream, published)


def test_a_worker_that_wakes_after_its_partitions_moved_adds_nothing(stream: Stream) -> None:
    with worker(stream, "zombie", commit_interval_s=2, max_batch_records=50) as zombie:
        zombie.wait_until_ready()
        stream.publish(payments(2000, every=5))
        zombie.wait_until(lambda w: w.total("offbeat_loop_seconds_total", state="process") > 0.1, "some work")
        os.kill(zombie.process.pid, signal.SIGSTOP)
        try:
            with worker(stream, "heir") as heir:
                heir.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of all records")
                os.kill(zombie.process.pid, signal.SIGCONT)
                zombie.wait_until(lambda w: w.get("/livez")[0] == 200, "life")
                stream.publish(payments(500, every=5, start=2000))
                heir.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of the other records")
                assert heir.stop() == 0
        finally:
            os.kill(zombie.process.pid, signal.SIGCONT)
        zombie.wait_until_ready()
        assert zombie.total("offbeat_records_unaccounted") == 0
        assert zombie.stop() == 0

    assert_each_once(stream, 2500)


def test_workers_that_join_and_leave_under_load_repeat_nothing(stream: Stream) -> None:
    with worker(stream, "one", max_batch_records=50) as one:
        one.wait_until_ready()
        for turn in range(3):
            stream.publish(payments(1000, every=5, start=1000 * turn))
            with worker(stream, f"guest-{turn}", max_batch_records=50) as guest:
                guest.wait_until_ready()
                guest.wait_until(lambda w: len(w.status()["assignment"]) == 1, "a partition")
                stream.publish(payments(500, every=5, start=10_000 + 500 * turn))
                assert guest.stop() == 0
        one.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of all records")
        returned = one.total("offbeat_records_returned_total")
        assert one.stop() == 0

    assert_each_once(stream, 4500)
    assert returned == 0, "partitions were given up without a commit"


def test_a_broker_that_restarts_in_the_middle_of_transactions_repeats_nothing(
    stream: Stream, broker: KafkaBroker
) -> None:
    with worker(stream, "worker", max_batch_records=50, commit_timeout_s=1, publish_timeout_s=3) as one:
        one.wait_until_ready()
        stream.publish(payments(2000, every=5))
        one.wait_until_accounted(300)
        broker.kill()
        assert one.get("/livez")[0] == 200
        broker.start()
        stream.publish(payments(500, every=5, start=2000))
        one.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of all records", timeout_s=180)
        assert one.total("offbeat_records_unaccounted") == 0
        assert one.stop() == 0

    assert_each_once(stream, 2500)


def test_a_broker_that_freezes_leaves_no_transaction_in_doubt(stream: Stream, broker: KafkaBroker) -> None:
    with worker(
        stream, "worker", max_batch_records=20, commit_interval_s=0, commit_timeout_s=0.5, publish_timeout_s=2
    ) as one:
        one.wait_until_ready()
        stream.publish(payments(2000, every=5))
        for _ in range(4):
            time.sleep(0.3)
            broker.freeze()
            time.sleep(1.5)
            broker.thaw()
        one.wait_until(lambda _: stream.is_committed_to_the_end(), "commit of all records")
        assert one.total("offbeat_records_unaccounted") == 0
        assert one.stop() == 0

    assert_each_once(stream, 2000)


def test_ending_a_transaction_waits_no_longer_than_it_may(broker: KafkaBroker, name: str) -> None:
    stage = BrokerStage(broker, name)
    topic, out = stage.topic(), stage.topic()
    stage.write(topic, b"1")
    source = stage.source(topic, group="g", commit_on_release=False)
    transactions = stage.transactions("t", commit_timeout_s=0.5, publish_timeout_s=1)
    (batch,) = stage.batches(source, 1)
    transactions.publish([OutgoingMessage(out, None, b"of 1")])
    source.done(batch)
    broker.freeze()
    began_s = time.monotonic()
    try:
        source.commit(source.committable(), through=transactions)
    except (BrokerUnavailable, CommitInDoubt):
        took_s = time.monotonic() - began_s
    finally:
        broker.thaw()

    assert took_s < 4
    transactions.settle()
    seen = source.is_committed({batch.partitions[0]: 1})
    assert values(list(stage.read(out, timeout_s=20))) == ([b"of 1"] if seen else [])
    stage.close()
