"""The worker's promises on a real broker, in processes of their own, with real kills."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from detector import Detector, ModelDirectory
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import Stream, ids, payments
from tests.payments import decoded, message, odd_message
from worker.errors import EXIT_OPERATOR, EXIT_POISON

POISON: dict[bytes, str] = {
    b"not json": "not_json",
    b"": "empty",
    b"[1]": "not_an_object",
    b'{"x": "\xff"}': "not_utf8",
    message(1, amount="much"): "wrong_type",
    message(1, at=None): "missing_field",
    message(1, at="yesterday"): "bad_time",
    message(1, amount=5).replace(b'"amount": 5', b'"amount": 1e999'): "not_finite",
    b'{"a":' * 100 + b"1" + b"}" * 100: "too_deep",
}


def test_two_workers_in_a_group_give_every_record_one_outcome(stream: Stream) -> None:
    with stream.worker("one") as one, stream.worker("two") as two:
        one.wait_until_ready()
        two.wait_until_ready()
        both = (one, two)
        one.wait_until(
            lambda _: [len(worker.status()["assignment"]) for worker in both] == [1, 1], "a partition for each worker"
        )
        stream.publish(payments(2000))
        one.wait_until(lambda _: sum(worker.outcomes().total() for worker in both) >= 2000, "2000 outcomes")
        outcomes = [worker.outcomes() for worker in both]
        consumed = sum(worker.total("offbeat_records_consumed_total") for worker in both)
        assert [worker.stop() for worker in both] == [0, 0]

    together = outcomes[0] + outcomes[1]
    assert together.total() == consumed == 2000
    assert min(outcome.total() for outcome in outcomes) > 500
    assert set(ids(stream.alerts())) == stream.odd()
    assert len(stream.alerts()) == together["alert"] >= 200
    assert stream.committed() == 2000


def test_a_worker_killed_mid_batch_loses_nothing_and_repeats_with_equal_ids(stream: Stream) -> None:
    published = 0
    for _ in range(3):
        # The first batch is committed at once, the next commit is due after a minute: what is finished beyond the first
        # batch is never committed, so that the kill must cause repeats.
        stream.publish(payments(12_000, every=4, start=published))
        published += 12_000
        with stream.worker("victim", commit_interval_s=60, max_batch_records=100) as victim:
            victim.wait_until_accounted(500)
            victim.kill()
    with stream.worker("heir") as heir:
        heir.wait_until_accounted(published - stream.committed())
        assert heir.stop() == 0

    alerts = stream.alerts()
    assert len(alerts) > len(set(ids(alerts))), "the kills repeated nothing, so this test showed nothing"
    assert set(ids(alerts)) >= stream.odd()
    by_id: dict[str, dict[str, Any]] = {}
    for alert in alerts:
        first = by_id.setdefault(alert["alert_id"], alert)
        assert {**alert, "detected_at": ""} == {**first, "detected_at": ""}
    assert stream.committed() == published


def test_a_batch_whose_publish_failed_is_gone_back_to_and_not_skipped(stream: Stream, broker: KafkaBroker) -> None:
    with stream.worker(publish_timeout_s=1, retry_max_s=0.5, max_batch_records=20) as worker:
        worker.wait_until_ready()
        for attempt in range(1, 20):
            stream.publish(payments(2000, every=1, start=2000 * attempt))
            worker.wait_until_accounted(2000 * (attempt - 1) + 200)
            broker.freeze()  # the loop is nearly always waiting for the acknowledgement of a batch that it polled
            time.sleep(2.5)
            assert worker.get("/livez")[0] == 200
            broker.thaw()
            worker.wait_until_accounted(2000 * attempt)
            if worker.total("offbeat_publish_failures_total"):
                break
        assert worker.total("offbeat_publish_failures_total") >= 1
        assert worker.total("offbeat_records_returned_total") >= 1
        assert worker.total("offbeat_records_consumed_total") == worker.outcomes().total() == 2000 * attempt
        assert worker.stop() == 0

    assert set(ids(stream.alerts())) == stream.odd()
    assert len(stream.odd()) == 2000 * attempt
    assert stream.committed() == 2000 * attempt


def test_an_output_topic_that_is_not_there_is_said_at_start_with_its_setting(
    broker: KafkaBroker, name: str, models: Path, tmp_path: Path
) -> None:
    stream = Stream(broker, name, models, tmp_path, outputs=("dlq",))
    stream.publish(payments(30))

    with stream.worker() as worker:
        assert worker.wait_for_exit() == EXIT_OPERATOR
        last_words = worker.log.read_text()

    assert f"alert_topic: topic '{name}.alerts' does not exist" in last_words


def test_poison_records_of_every_kind_become_dead_letters_and_the_stream_goes_on(stream: Stream) -> None:
    values: list[bytes | None] = [message(1), None]
    for value in POISON:
        values += [value, odd_message(2), message(3)]
    stream.publish(values, key=b"\x00one key")

    with stream.worker() as worker:
        worker.wait_until_accounted(len(values))
        outcomes = worker.outcomes()
        assert worker.total("offbeat_records_suppressed_total", reason="tombstone") == 1
        assert worker.stop() == 0

    assert outcomes["dead_letter"] == len(POISON)
    assert outcomes["suppressed"] == 1
    assert set(ids(stream.alerts())) == stream.odd()
    letters = stream.dead_letters()
    assert [(value, headers["dlq.reason"].decode()) for value, headers in letters] == list(POISON.items())
    for _, headers in letters:
        assert headers["trace"] == b"\x00\xff"
        assert headers["dlq.original.topic"].decode() == stream.name
        assert headers["dlq.attempts"] == b"1"
    offsets = [int(headers["dlq.original.offset"]) for _, headers in letters]
    assert [values[offset] for offset in offsets] == list(POISON)


def test_a_poison_stream_stops_the_worker_with_nothing_committed_past_the_last_good_batch(stream: Stream) -> None:
    stream.publish(payments(200), key=b"same partition")
    with stream.worker(max_batch_records=50, poison__max_consecutive=20) as worker:
        worker.wait_until_accounted(200)
        worker.wait_until(lambda _: stream.committed() == 200, "commit of the good records")
        stream.publish([b"poison %d" % n for n in range(2000)], key=b"same partition")
        assert worker.wait_for_exit() == EXIT_POISON
        last_words = worker.log.read_text()

    assert stream.committed() == 200
    assert len(stream.dead_letters()) <= 50
    assert re.search(r"poison", last_words)


def test_a_broker_that_restarts_costs_a_pause_and_no_record(stream: Stream, broker: KafkaBroker) -> None:
    stream.publish(payments(500))
    with stream.worker(max_batch_records=50) as worker:
        worker.wait_until_accounted(100)
        broker.kill()
        for _ in range(20):
            assert worker.get("/livez")[0] == 200
            time.sleep(0.1)
        broker.start()
        stream.publish(payments(500, start=500))
        worker.wait_until_accounted(1000, timeout_s=120)
        worker.wait_until(lambda _: stream.committed() == 1000, "commit of all records")
        assert worker.stop() == 0

    assert set(ids(stream.alerts())) == stream.odd()


def test_a_stopped_worker_left_nothing_to_score_again(stream: Stream) -> None:
    stream.publish(payments(700))
    with stream.worker(commit_interval_s=60) as worker:
        worker.wait_until_accounted(700)
        assert worker.stop() == 0
    assert stream.committed() == 700
    stream.publish(payments(5, start=1))
    with stream.worker() as worker:
        worker.wait_until_accounted(5)
        assert worker.outcomes().total() == 5
        assert worker.stop() == 0

    assert len(stream.alerts()) == len(set(ids(stream.alerts()))) == len(stream.odd())


def test_a_promoted_version_takes_over_while_the_stream_runs(
    broker: KafkaBroker, name: str, tiny_detector: Detector, tmp_path: Path
) -> None:
    registry = ModelDirectory(tmp_path / "models" / tiny_detector.name)
    facts = tiny_detector.facts | {"fitted_at": "2026-03-14T09:26:53+00:00"}
    second = Detector(
        tiny_detector.stream,
        tiny_detector.encoder,
        tiny_detector.scorer,
        tiny_detector.threshold,
        tiny_detector.normal_scores,
        facts=facts,
    )
    first_version = registry.publish(tiny_detector)
    stream = Stream(broker, name, tmp_path / "models", tmp_path)
    with stream.worker() as worker:
        stream.publish([odd_message(1)])
        worker.wait_until_accounted(1)
        second_version = registry.publish(second, promote=True)
        worker.wait_until(lambda w: w.total("offbeat_model_info", version=second_version) == 1, "the new version")
        stream.publish([odd_message(2)])
        worker.wait_until_accounted(2)
        (registry.path(first_version) / "golden.json").write_text("broken")
        (registry.root / "aliases.json").write_text(json.dumps({"production": first_version}))
        worker.wait_until(lambda w: w.total("offbeat_model_reloads_total", result="refused") >= 1, "a refused version")
        stream.publish([odd_message(3)])
        worker.wait_until_accounted(3)
        assert worker.get("/readyz")[0] == 200
        assert worker.stop() == 0

    assert [alert["model"]["version"] for alert in stream.alerts()] == [first_version, second_version, second_version]


def test_the_workers_scores_equal_those_of_the_detector_to_the_last_bit(
    stream: Stream, tiny_detector: Detector
) -> None:
    values = [message(n, amount=float(n) ** 2) for n in range(1500)]
    stream.publish(list(values))
    with stream.worker(score_topic=f"{stream.name}.scores", max_batch_records=333) as worker:
        worker.wait_until_accounted(1500)
        assert worker.stop() == 0

    found = {int(score["record_id"]): score["score"] for score in stream.scores()}
    offline = tiny_detector.score(decoded(values))

    assert np.array([found[n] for n in range(1500)]).tobytes() == offline.tobytes()
