"""Exactly-once delivery on a fake cluster, step by step; tests/worker/test_promises.py lets faults strike anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kafka import errors as kafka_errors

from tests.payments import message, odd_message
from tests.worker.bench import GROUP, Bench
from transport import BrokerUnavailable, Forbidden
from worker.loop import Worker
from worker.settings import WorkerSettings

POISON = b"not json"
TOPIC = {"topic": "payments"}


def bench_of(models: Path, **settings: Any) -> Bench:
    defaults: dict[str, Any] = {"delivery": "exactly_once", "commit_interval_s": 1000, "transaction_timeout_s": 2000}
    return Bench(models, **defaults | settings)


def turn(worker: Worker, bench: Bench) -> None:
    """Poll, and process what came, without a commit."""
    batch = worker._poll()
    if batch is not None:
        worker.process(batch)


def late(worker: Worker, bench: Bench) -> None:
    """From now on no commit is due before somebody asks for one."""
    worker._commit_began_s = bench.clock.monotonic_s() + 1000


def test_nothing_is_seen_and_nothing_is_counted_before_the_commit(models: Path) -> None:
    bench = bench_of(models)
    bench.produce(message(1), odd_message(2), POISON)
    worker = bench.worker()
    turn(worker, bench)
    before = (bench.alerts, bench.dead_letters, bench.cluster.messages("payments.scores"), bench.outcomes())

    worker.commit_if_due(last=True)

    assert before == ([], [], [], dict.fromkeys(before[3], 0))
    assert [alert.source.offset for alert in bench.alerts] == [1]
    assert len(bench.dead_letters) == 1
    assert bench.committed == 3
    assert bench.outcomes() == {"normal": 1, "alert": 1, "suppressed": 0, "dead_letter": 1}


def test_all_batches_since_the_last_commit_are_one_transaction(models: Path) -> None:
    bench = bench_of(models, max_batch_records=1)
    bench.produce(*[odd_message(n) for n in range(5)])
    worker = bench.worker()
    late(worker, bench)
    for _ in range(5):
        turn(worker, bench)
    assert bench.alerts == []
    bench.cluster.fail("send_offsets", kafka_errors.CommitFailedError())

    worker.commit_if_due(last=True)

    assert bench.alerts == []
    assert bench.count("records_returned_total", topic="payments") == 5
    for _ in range(5):
        turn(worker, bench)
    worker.commit_if_due(last=True)
    assert [alert.source.offset for alert in bench.alerts] == [0, 1, 2, 3, 4]
    assert bench.count("records_unaccounted") == 0


def test_a_message_that_is_not_acknowledged_takes_the_batches_before_it_back(models: Path) -> None:
    bench = bench_of(models, max_batch_records=1)
    bench.produce(odd_message(1), odd_message(2))
    worker = bench.worker(turns=8)
    late(worker, bench)
    bench.cluster.fail("ack", None, None, kafka_errors.KafkaTimeoutError())  # alert and score of the first pass

    worker.run()
    bench.source.close()

    assert [alert.source.offset for alert in bench.alerts] == [0, 1]
    assert bench.count("records_returned_total", topic="payments") == 2
    assert bench.outcomes()["alert"] == 2


@pytest.mark.parametrize(("fault", "returned"), [("lost_end", None), ("end", 1)])
def test_a_commit_in_doubt_is_settled_with_the_broker_before_anything_else(
    models: Path, fault: str, returned: int | None
) -> None:
    bench = bench_of(models)
    bench.produce(odd_message(1))
    worker = bench.worker()
    turn(worker, bench)
    bench.cluster.fail(fault, kafka_errors.KafkaTimeoutError())

    worker.commit_if_due(last=True)

    assert bench.count("commits_total", result="in_doubt") == 1
    assert bench.metrics.registry.get_sample_value("offbeat_records_returned_total", TOPIC) == returned
    turn(worker, bench)
    worker.commit_if_due(last=True)
    assert len(bench.alerts) == 1
    assert bench.outcomes()["alert"] == 1
    assert bench.committed == 1


def test_while_a_commit_is_in_doubt_nothing_is_polled(models: Path) -> None:
    bench = bench_of(models)
    bench.produce(odd_message(1))
    worker = bench.worker(turns=3)
    turn(worker, bench)
    polls = bench.cluster.consumers[0].polls
    bench.cluster.fail("lost_end", kafka_errors.KafkaTimeoutError())
    bench.cluster.fail("init_transactions", *[kafka_errors.KafkaTimeoutError()] * 10)

    with pytest.raises(BrokerUnavailable):
        worker.commit_if_due(last=True)
    worker.run()

    assert bench.cluster.consumers[0].polls == polls
    assert bench.status.retry_attempts > 0
    assert bench.outcomes()["alert"] == 0


def test_a_transaction_is_void_where_one_of_its_partitions_was_lost_and_came_back(models: Path) -> None:
    bench = bench_of(models)
    bench.produce(odd_message(1))
    worker = bench.worker()
    turn(worker, bench)
    bench.cluster.evict(GROUP)

    turn(worker, bench)  # lost, assigned again, and given back with the transaction
    turn(worker, bench)
    worker.commit_if_due(last=True)

    assert len(bench.alerts) == 1
    assert bench.count("records_consumed_total", topic="payments") == 1


def test_dead_letters_held_back_for_a_lost_partition_are_not_published(models: Path) -> None:
    bench = bench_of(models, max_batch_records=2, poison={"max_consecutive": 20})
    bench.produce(*[POISON] * 4, message(1))
    worker = bench.worker()
    turn(worker, bench)
    turn(worker, bench)
    assert len(worker._held) == 2
    bench.cluster.evict(GROUP)

    for _ in range(6):
        turn(worker, bench)
    worker.commit_if_due(last=True)

    assert len(bench.dead_letters) == 4
    assert bench.committed == 5


def test_offsets_of_a_void_transaction_are_not_committed_when_the_worker_ends(models: Path) -> None:
    bench = bench_of(models)
    bench.produce(odd_message(1))
    worker = bench.worker()
    turn(worker, bench)
    bench.cluster.fail("send_offsets", kafka_errors.TransactionalIdAuthorizationFailedError())

    with pytest.raises(Forbidden, match="transactional id"):
        worker.commit_if_due(last=True)
    bench.source.close()

    assert bench.alerts == []
    assert bench.committed == 0


def test_waiting_for_records_ends_when_a_commit_is_due(models: Path) -> None:
    bench = bench_of(models, commit_interval_s=0.1, poll_timeout_s=60)
    worker = bench.worker(turns=4)
    bench.produce(message(1))
    worker.run()
    began_s = bench.clock.monotonic_s()
    worker._commit_began_s = began_s
    bench.produce(odd_message(2))
    turn(worker, bench)

    assert worker._poll() is None
    worker.commit_if_due(idle=True)

    assert len(bench.alerts) == 1
    assert bench.clock.monotonic_s() - began_s == pytest.approx(0.1)
    bench.source.close()


def test_alerts_that_are_late_already_share_a_commit_and_the_last_ones_do_not_wait_for_it(models: Path) -> None:
    bench = bench_of(models, commit_interval_s=None, max_batch_records=10)
    worker = bench.worker()
    bench.produce(*(message(number) for number in range(70)))
    commits = []
    while bench.committed < 70:
        turn(worker, bench)
        bench.cluster.clock.advance(0.4)
        worker.commit_if_due()
        commits.append(bench.committed)

    assert commits == [10, 10, 10, 40, 40, 60, 70]
    bench.source.close()


@pytest.mark.parametrize("given", [{"commit_interval_s": 0.3}, {"transaction_timeout_s": 0.6}])
def test_late_alerts_wait_no_longer_than_is_given_nor_than_half_of_what_a_transaction_may_take(given: Any) -> None:
    topics = {"input_topics": ("payments",), "delivery": "exactly_once"}
    assert WorkerSettings.model_validate(topics | given).commit_behind_every_s == 0.3


def test_commits_are_a_second_apart_and_in_transactions_a_tenth() -> None:
    topics = {"input_topics": ("payments",)}
    assert WorkerSettings.model_validate(topics).commit_every_s == 1
    assert WorkerSettings.model_validate(topics | {"delivery": "exactly_once"}).commit_every_s == 0.1
    assert WorkerSettings.model_validate(topics | {"commit_interval_s": 3}).commit_every_s == 3


def test_a_transaction_that_the_broker_would_abort_before_each_commit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"commit_interval_s \(20\) must be below transaction_timeout_s \(15\)"):
        WorkerSettings.model_validate(
            {"input_topics": ("payments",), "delivery": "exactly_once", "commit_interval_s": 20}
        )
