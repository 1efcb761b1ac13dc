"""The loop on a fake cluster: what is published, what is committed, and what is done when something fails."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from kafka import errors as kafka_errors

from tests.payments import fitted_detector, message, odd_message
from tests.worker.bench import GROUP, START_MS, TIMESTAMP_MS, Bench
from transport import ConfigurationRefused, Forbidden, OffsetOutOfRange, PublishFailed
from worker.errors import PoisonStream
from worker.models import Model, Models

POISON = b"not json"


def offsets(bench: Bench) -> list[int]:
    """Source offsets of the alerts, in the order of the topic."""
    return [alert.source.offset for alert in bench.alerts]


def test_an_anomaly_becomes_an_alert_and_normal_records_do_not(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1), odd_message(2), message(3))

    bench.drain()

    assert offsets(bench) == [1]
    assert bench.dead_letters == []
    assert bench.committed == 3
    assert bench.outcomes() == {"normal": 2, "alert": 1, "suppressed": 0, "dead_letter": 0}


def test_a_poison_record_is_dead_lettered_and_its_batch_goes_on(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1), POISON, odd_message(2))

    bench.drain()

    assert offsets(bench) == [2]
    assert [
        (letter.value, letter.key, dict(letter.headers)["dlq.original.offset"]) for letter in bench.dead_letters
    ] == [(POISON, b"k1", b"1")]
    assert bench.committed == 3
    assert bench.count("dead_letters_total", stage="deserialize", reason="not_json") == 1


def test_a_tombstone_is_suppressed_and_no_dead_letter(models: Path) -> None:
    bench = Bench(models)
    bench.produce(None, message(1))

    bench.drain()

    assert bench.dead_letters == []
    assert bench.outcomes() == {"normal": 1, "alert": 0, "suppressed": 1, "dead_letter": 0}
    assert bench.count("records_suppressed_total", reason="tombstone") == 1
    assert bench.committed == 2


def test_every_scored_record_is_on_the_score_topic_and_nothing_else(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1), POISON, None, odd_message(2))

    bench.drain()

    scored = [message.value or b"" for message in bench.cluster.messages("payments.scores")]
    assert [(b'"alert"' in value, b'"offset":3' in value) for value in scored] == [(False, False), (True, True)]


def test_a_score_that_is_not_finite_is_a_dead_letter_and_never_normal(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1), odd_message(2))
    broken = copy.deepcopy(fitted_detector())
    broken.scorer.deviation[:] = float("nan")
    ready = Models(models, None, clock=bench.clock, metrics=bench.metrics)
    ready._loaded.append(Model("v1", broken))
    ready.swap()

    bench.worker(models=ready).run()

    reasons = [dict(letter.headers)["dlq.reason"] for letter in bench.dead_letters]
    assert reasons == [b"non_finite_score"] * 2
    assert bench.outcomes() == {"normal": 0, "alert": 0, "suppressed": 0, "dead_letter": 2}
    assert bench.cluster.messages("payments.scores") == []
    assert bench.committed == 2


def test_without_a_score_topic_no_score_is_published(models: Path) -> None:
    bench = Bench(models, score_topic=None)
    bench.produce(message(1))

    bench.drain()

    assert bench.cluster.messages("payments.scores") == []
    assert bench.committed == 1


def test_a_publish_that_fails_after_a_poll_is_gone_back_to_and_not_skipped(models: Path) -> None:
    bench = Bench(models, score_topic=None)
    bench.produce(odd_message(1), message(2), odd_message(3))
    bench.cluster.fail("ack", kafka_errors.KafkaTimeoutError())

    bench.drain()

    assert set(offsets(bench)) == {0, 2}
    assert bench.committed == 3
    assert bench.count("publish_failures_total") == 1
    assert bench.count("records_returned_total", topic="payments") == 3
    assert bench.count("records_consumed_total", topic="payments") == 3
    assert bench.count("records_unaccounted") == 0


def test_a_lost_acknowledgement_repeats_the_alert_with_an_equal_id(models: Path) -> None:
    bench = Bench(models, score_topic=None)
    bench.produce(odd_message(1))
    bench.cluster.fail("lost_ack", kafka_errors.KafkaTimeoutError())

    bench.drain()

    assert offsets(bench) == [0, 0]
    assert len({alert.alert_id for alert in bench.alerts}) == 1
    assert bench.outcomes()["alert"] == 1


def test_nothing_is_committed_while_the_broker_does_not_acknowledge(models: Path) -> None:
    bench = Bench(models, score_topic=None)
    bench.produce(odd_message(1))
    bench.cluster.fail("ack", *[kafka_errors.KafkaTimeoutError()] * 50)

    bench.drain(turns=10)

    assert bench.cluster.commits(GROUP) == {}
    assert bench.outcomes() == {"normal": 0, "alert": 0, "suppressed": 0, "dead_letter": 0}
    assert bench.status.last_error.startswith("PublishFailed")


def test_waits_between_attempts_double_up_to_a_limit_and_end_with_the_first_success(models: Path) -> None:
    bench = Bench(models, score_topic=None, retry_initial_s=0.5, retry_max_s=2)
    bench.produce(odd_message(1))
    bench.cluster.fail("ack", *[kafka_errors.KafkaTimeoutError()] * 4)

    bench.drain()

    assert bench.stop.waits_s == [0.5, 1, 1, 1, 1, 1]  # 0.5, 1, 2 and 2 s, in slices of at most a second
    assert bench.status.retry_attempts == 0
    assert bench.status.retrying_since_s is None
    assert bench.count("retries_total") == 4


def test_waiting_between_attempts_counts_as_progress(models: Path) -> None:
    bench = Bench(models, score_topic=None, retry_initial_s=14, retry_max_s=15, max_poll_interval_s=61)
    bench.produce(odd_message(1))
    bench.cluster.fail("ack", *[kafka_errors.KafkaTimeoutError()] * 100)

    bench.drain(turns=30)

    assert sum(bench.stop.waits_s) > 61
    assert bench.status.why_not_live() == []


def test_a_wish_to_stop_ends_the_wait_between_attempts(models: Path) -> None:
    bench = Bench(models, score_topic=None)
    bench.produce(odd_message(1))
    bench.cluster.fail("ack", kafka_errors.KafkaTimeoutError())
    worker = bench.worker(turns=1)
    wait = bench.stop.wait

    def asked_to_stop_while_waiting(seconds: float) -> bool:
        bench.stop.request()
        return wait(seconds)

    bench.stop.wait = asked_to_stop_while_waiting  # type: ignore[method-assign]
    worker.run()

    assert bench.stop.waits_s == []
    assert bench.cluster.commits(GROUP) == {}


def test_commits_wait_for_their_interval_while_there_is_more_to_read(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, commit_interval_s=5)
    bench.produce(*[message(number) for number in range(4)])

    worker = bench.worker(turns=3)
    worker.run()

    assert bench.count("commits_total", result="committed") == 2  # the first at once, the last at the end
    assert bench.committed == 3


def test_an_idle_worker_commits_at_once(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, commit_interval_s=1000)
    bench.produce(message(1), message(2))
    worker = bench.worker(turns=3)
    bench.stop.request = lambda: None  # type: ignore[method-assign]

    seen: list[int] = []
    poll = bench.source.poll

    def poll_and_look(**_: object) -> object:
        batch = poll()
        seen.append(bench.committed)
        return batch

    bench.source.poll = poll_and_look  # type: ignore[method-assign, assignment]
    worker.run()

    assert seen == [0, 1, 1]
    assert bench.committed == 2


def test_a_commit_without_an_answer_is_tried_again(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1))
    bench.cluster.fail("commit", kafka_errors.KafkaTimeoutError())

    bench.drain()

    assert bench.committed == 1
    assert bench.count("commits_total", result="unavailable") == 1


def test_an_evicted_worker_goes_on_and_the_records_are_read_again_with_equal_ids(models: Path) -> None:
    bench = Bench(models)
    bench.produce(odd_message(1))
    bench.cluster.fail("commit", *[kafka_errors.CommitFailedError()] * 2)
    worker = bench.worker(turns=1)
    worker.run()
    bench.cluster.evict(GROUP)
    bench.stop.turns = 5

    worker.run()

    assert bench.count("commits_total", result="refused") == 2
    assert bench.count("rebalances_total", type="lost") == 1
    assert offsets(bench) == [0, 0]
    assert len({alert.alert_id for alert in bench.alerts}) == 1
    assert bench.committed == 1


def test_access_denied_ends_the_worker_with_the_settings_name(models: Path) -> None:
    bench = Bench(models)
    bench.produce(message(1))
    bench.cluster.fail("poll", kafka_errors.TopicAuthorizationFailedError({"payments"}))

    with pytest.raises(Forbidden) as caught:
        bench.drain()

    assert caught.value.setting


def test_a_missing_offset_ends_the_worker_and_nothing_is_skipped(models: Path) -> None:
    bench = Bench(models)
    bench.produce(*[message(number) for number in range(5)])
    bench.cluster.set_commit(GROUP, "payments", 0, 1)
    bench.cluster.trim("payments", 0, 3)

    with pytest.raises(OffsetOutOfRange):
        bench.drain()

    assert bench.committed == 1


def test_a_publish_that_cannot_succeed_ends_the_worker_uncommitted(models: Path) -> None:
    bench = Bench(models, alert_topic="nowhere")
    bench.produce(odd_message(1))

    with pytest.raises((PublishFailed, ConfigurationRefused)):
        bench.drain()

    assert bench.cluster.commits(GROUP) == {}


def test_nothing_past_the_last_good_batch_is_committed_when_a_poison_stream_comes_record_by_record(
    models: Path,
) -> None:
    bench = Bench(models, max_batch_records=1, commit_interval_s=0, poison={"max_consecutive": 3})
    bench.produce(message(1), *[POISON] * 9)

    for _restart in range(3):
        with pytest.raises(PoisonStream):
            bench.drain()

    assert bench.committed == 1
    assert {dict(letter.headers)["dlq.original.offset"] for letter in bench.dead_letters} == {b"1", b"2", b"3"}
    assert bench.count("records_unaccounted") == 0
    assert bench.outcomes()["dead_letter"] == 0  # none of them is committed, all are given back


def test_two_workers_of_a_group_share_the_partitions_and_lose_nothing(models: Path) -> None:
    bench = Bench(models, partitions=4)
    for partition in range(4):
        bench.produce(odd_message(partition), message(partition), partition=partition)
    first = bench.worker(turns=2)
    first.run()
    first_source = bench.source
    second = bench.worker(turns=4)
    bench.produce(odd_message(9), partition=3)

    second.run()
    first_source.close()
    bench.drain()

    assert {(alert.source.partition, alert.source.offset) for alert in bench.alerts} == {
        (0, 0),
        (1, 0),
        (2, 0),
        (3, 0),
        (3, 2),
    }
    assert set(bench.cluster.commits(GROUP).values()) == {2, 3}


def test_lag_is_shown_before_a_batch_is_processed(models: Path) -> None:
    bench = Bench(models, max_batch_records=2, alert_topic="nowhere")
    bench.produce(odd_message(1), *[message(number) for number in range(4)])

    with pytest.raises(PublishFailed):
        bench.drain()

    assert bench.count("consumer_lag_records", topic="payments", partition="0") == 5


def test_a_partition_at_its_head_does_not_hide_one_that_is_hours_behind(models: Path) -> None:
    bench = Bench(models, partitions=2, max_batch_records=1)
    worker = bench.worker()

    ages_s = []
    for partition, age_s in ((0, 1), (1, 7_200), (1, 7_200), (0, 1)):
        bench.cluster.append("payments", message(1), partition=partition, timestamp_ms=START_MS - age_s * 1000)
        batch = worker._poll()
        assert batch is not None
        ages_s.append(bench.count("consumer_lag_seconds", topic="payments"))
        worker.process(batch)
    worker._show_position()

    assert ages_s == pytest.approx([1, 7_200, 7_200, 1], abs=60)
    assert bench.count("consumer_lag_seconds", topic="payments") == 0


def test_the_age_of_an_alert_is_counted_from_the_records_timestamp(models: Path) -> None:
    bench = Bench(models)
    bench.cluster.append("payments", message(1), partition=0, timestamp_ms=TIMESTAMP_MS - 3_600_000)
    bench.produce(odd_message(1))

    bench.drain()

    assert bench.count("end_to_end_latency_seconds_count") == 1
    assert bench.count("end_to_end_latency_seconds_sum") == pytest.approx(60, abs=1)
