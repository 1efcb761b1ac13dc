"""A poison stream on a fake cluster: what is published and committed when bad records are the rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from kafka import errors as kafka_errors

from tests.payments import message
from tests.worker.bench import GROUP, Bench
from transport import Partition
from worker.errors import EXIT_POISON, PoisonStream

POISON = b"not json"


def test_a_poison_stream_stops_the_worker_before_the_batch_is_published(models: Path) -> None:
    bench = Bench(models, poison={"max_consecutive": 3})
    bench.produce(message(1), *[POISON] * 4)

    with pytest.raises(PoisonStream, match="max_consecutive is 3"):
        bench.drain()

    assert bench.dead_letters == []
    assert bench.cluster.commits(GROUP) == {}
    assert "the worker is poisoned" in bench.status.why_not_ready()


def test_a_run_of_dead_letters_below_the_limit_is_committed_with_the_next_good_record(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, poison={"max_consecutive": 3})
    bench.produce(POISON, POISON, message(1))

    bench.drain()

    assert bench.committed == 3
    assert len(bench.dead_letters) == 2


def test_a_run_of_dead_letters_below_the_limit_is_committed_at_a_clean_stop(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, poison={"max_consecutive": 3})
    bench.produce(POISON, POISON)

    bench.drain(turns=5)

    assert bench.committed == 2


def test_tombstones_after_a_run_of_dead_letters_are_not_held_without_end(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, poison={"max_consecutive": 3}, score_topic=None)
    bench.produce(POISON, *[None] * 10)
    worker = bench.worker(turns=8)
    committed: list[int] = []

    def commit(offsets: Mapping[Partition, int], through: object = None) -> None:
        assert through is None
        committed.append(next(iter(offsets.values())))

    bench.source.commit = commit  # type: ignore[method-assign]

    worker.run()

    assert committed[0] == 4
    assert bench.count("records_unaccounted") == 0


def test_a_batch_that_is_given_back_is_not_counted_twice_as_poison(models: Path) -> None:
    bench = Bench(models, poison={"max_consecutive": 3})
    bench.produce(POISON, POISON, message(1))
    bench.cluster.fail("ack", *[kafka_errors.KafkaTimeoutError()] * 5)

    bench.drain()

    assert bench.committed == 3


def test_a_run_that_is_held_back_is_given_back_with_the_batch_that_fails_and_forgotten(models: Path) -> None:
    bench = Bench(models, max_batch_records=1, poison={"max_consecutive": 3}, score_topic=None)
    bench.produce(POISON, POISON, POISON, message(1))
    bench.cluster.fail("ack", None, None, kafka_errors.KafkaTimeoutError())

    bench.drain()

    assert bench.committed == 4
    assert bench.count("records_returned_total", topic="payments") == 3
    assert bench.outcomes() == {"normal": 1, "alert": 0, "suppressed": 0, "dead_letter": 3}


def test_the_exit_code_of_a_poison_stream_is_its_own() -> None:
    assert PoisonStream("too many").exit_code == EXIT_POISON == 3
