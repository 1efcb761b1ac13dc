"""Offsets on a real broker: where a worker begins, where partitions come from, and what it does where they are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import Stream, payments
from tests.kafka.test_histories import remembering_models
from tests.payments import message, odd_message
from transport import create_topics, topic_identity
from worker.errors import EXIT_OPERATOR

__all__ = ["remembering_models"]


def trim(stream: Stream, before: int, partition: int = 0) -> None:
    """Remove what lies before an offset, as retention does."""
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap_servers)
    admin.delete_records({TopicPartition(stream.name, partition): before})
    admin.close()


def create_again(stream: Stream) -> None:
    """Delete the input topic and create it again under the same name."""
    before = topic_identity(stream.broker.settings, stream.name, 10.0)
    admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap_servers)
    admin.delete_topics([stream.name])
    admin.close()
    while not create_topics(stream.broker.settings, {stream.name: 1}):
        pass
    assert topic_identity(stream.broker.settings, stream.name, 10.0) != before


@pytest.fixture
def stream(broker: KafkaBroker, name: str, models: Path, tmp_path: Path) -> Stream:
    """A stream of payments on one partition."""
    return Stream(broker, name, models, tmp_path)


def left_behind(stream: Stream) -> None:
    """Let the group finish 100 records, and retention remove 50 more that it never read."""
    stream.publish(payments(100))
    with stream.worker("first") as worker:
        worker.wait_until_accounted(100)
        assert worker.stop() == 0
    assert stream.committed() == 100
    stream.publish(payments(100, start=100))
    trim(stream, 150)


def test_an_offset_that_retention_took_stops_the_worker_and_says_what_may_be_done(stream: Stream) -> None:
    left_behind(stream)

    with stream.worker() as worker:
        assert worker.wait_for_exit() == EXIT_OPERATOR
        last_words = worker.log.read_text()

    assert "offset 100" in last_words
    assert "holds 150 to 200" in last_words
    assert "on_offset_out_of_range = earliest or latest" in last_words
    assert stream.committed() == 100


@pytest.mark.parametrize(("choice", "records", "skipped"), [("earliest", 50, 50), ("latest", 0, 100)])
def test_a_chosen_jump_is_counted_and_the_stream_goes_on(
    stream: Stream, choice: str, records: int, skipped: int
) -> None:
    left_behind(stream)

    with stream.worker(on_offset_out_of_range=choice) as worker:
        worker.wait_until(lambda w: w.total("offbeat_offsets_skipped_total") > 0, "a jump")
        worker.wait_until_accounted(records)
        stream.publish([odd_message(1)])
        worker.wait_until_accounted(records + 1)
        assert worker.total("offbeat_offsets_skipped_total", topic=stream.name) == skipped
        assert worker.outcomes().total() == records + 1
        worker.wait_until(lambda _: stream.committed() == 201, "commit of all that is left")
        assert worker.stop() == 0
        assert f"{skipped} offsets are never read" in worker.log.read_text()


@pytest.mark.parametrize(("start_at", "records"), [("earliest", 30), ("latest", 10)])
def test_a_group_without_offsets_starts_where_the_setting_says(stream: Stream, start_at: str, records: int) -> None:
    stream.publish(payments(20))

    with stream.worker(start_at=start_at) as worker:
        worker.wait_until_ready()
        if start_at == "latest":
            worker.wait_until(lambda _: stream.committed() == 20, "a start at the end")
        stream.publish(payments(10, start=20))
        worker.wait_until_accounted(records)
        assert worker.stop() == 0
        assert worker.process.exit_code == 0

    assert stream.committed() == 30


def test_partitions_added_later_are_read_from_their_beginning_even_where_the_group_began_at_the_end(
    stream: Stream,
) -> None:
    stream.publish(payments(20))
    with stream.worker(start_at="latest", kafka__metadata_max_age_s=1) as worker:
        worker.wait_until(lambda _: stream.committed() == 20, "a start at the end")
        admin = KafkaAdminClient(bootstrap_servers=stream.broker.bootstrap_servers)
        admin.create_partitions({stream.name: 4})
        admin.close()
        stream.publish(payments(200, start=20))  # before the worker knows of them
        worker.wait_until_accounted(200)
        assert worker.outcomes().total() == 200
        assert len(worker.status()["assignment"]) == 4
        assert worker.stop() == 0


def test_a_topic_created_anew_under_a_running_worker_is_read_from_its_beginning(stream: Stream) -> None:
    stream.publish(payments(50))
    settings: dict[str, Any] = {"on_offset_out_of_range": "earliest", "kafka__metadata_max_age_s": 1}
    with stream.worker(**settings) as worker:
        worker.wait_until_accounted(50)
        worker.wait_until(lambda _: stream.committed() == 50, "commit of the former topic")
        create_again(stream)
        # More than were read of the former topic: its next offset exists in the new one.
        stream.publish(payments(120))
        worker.wait_until_accounted(170)
        worker.wait_until(lambda _: stream.committed() == 120, "commit of the new topic")
        assert worker.outcomes().total() == 170
        assert worker.get("/livez")[0] == 200
        assert worker.stop() == 0

    assert stream.odd() <= {alert["alert_id"] for alert in stream.alerts()}


def test_a_topic_created_anew_loses_nothing_also_where_the_worker_stops(stream: Stream) -> None:
    stream.publish(payments(50))
    with stream.worker("first", kafka__metadata_max_age_s=1) as worker:
        worker.wait_until_accounted(50)
        worker.wait_until(lambda _: stream.committed() == 50, "commit of the former topic")
        create_again(stream)
        stream.publish(payments(120))
        # It notices while it still owns the partition, and stops; or the group hands it out anew, and it reads on.
        worker.wait_until(
            lambda w: w.process.exit_code is not None or w.outcomes().total() == 170, "the end, or all records"
        ) if worker.process.exit_code is None else None
        code = worker.process.exit_code
        if code is None:
            assert worker.stop() == 0
        else:
            assert code == EXIT_OPERATOR
    if code is not None:
        with stream.worker("second") as worker:
            worker.wait_until_accounted(120)
            assert worker.stop() == 0

    assert stream.committed() == 120
    assert stream.odd() <= {alert["alert_id"] for alert in stream.alerts()}


def test_histories_begin_again_with_a_topic_created_anew(
    broker: KafkaBroker, name: str, remembering_models: Path, tmp_path: Path
) -> None:
    stream = Stream(broker, name, remembering_models, tmp_path)
    create_topics(broker.settings, {f"{name}.state": 1}, configuration={"cleanup.policy": "compact"})
    values: list[bytes | None] = [message(number) for number in range(200)]
    stream.publish(values, key=b"card")
    settings: dict[str, Any] = {"on_offset_out_of_range": "earliest", "kafka__metadata_max_age_s": 1}
    with stream.worker(score_topic=f"{name}.scores", **settings) as worker:
        worker.wait_until_accounted(200)
        worker.wait_until(lambda _: stream.committed() == 200, "commit of the former topic")
        create_again(stream)
        stream.publish([*values, *values], key=b"card")
        worker.wait_until_accounted(600)
        assert worker.stop() == 0

    # The first 200 of the new topic score as those of the former did: as records without a history.
    scores = [score["score"] for score in stream.scores()]
    assert len(scores) == 600
    assert scores[200:400] == scores[:200]
    assert scores[400:] != scores[:200], "histories made no difference, so this test showed nothing"
