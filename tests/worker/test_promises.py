"""Whatever fails and wherever the worker dies: no alert is lost, none counts twice, no commit is too early."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka import errors as kafka_errors

from tests.payments import message, odd_message
from tests.worker.bench import GROUP, Bench
from transport import TransportError
from worker.metrics import WorkerMetrics
from worker.models import Models


class Crash(BaseException):
    """The process dies here."""


KINDS = NORMAL, ODD, POISON, TOMBSTONE = "normal", "odd", "poison", "tombstone"
FAULTS: dict[str, tuple[str, BaseException]] = {
    "publish fails": ("ack", kafka_errors.KafkaTimeoutError()),
    "publish arrives and its acknowledgement does not": ("lost_ack", kafka_errors.KafkaTimeoutError()),
    "publish fails before sending": ("send", kafka_errors.KafkaTimeoutError()),
    "commit is refused": ("commit", kafka_errors.CommitFailedError()),
    "commit is not answered": ("commit", kafka_errors.KafkaTimeoutError()),
    "dies before a poll": ("poll", Crash()),
    "dies before a message is sent": ("send", Crash()),
    "dies after a message arrived": ("lost_ack", Crash()),
    "dies before a commit": ("commit", Crash()),
}
TRANSACTION_FAULTS: dict[str, tuple[str, BaseException]] = {
    "a transaction does not begin": ("init_transactions", kafka_errors.KafkaTimeoutError()),
    "offsets are refused": ("send_offsets", kafka_errors.CommitFailedError()),
    "offsets are not answered": ("send_offsets", kafka_errors.KafkaTimeoutError()),
    "a transaction is fenced": ("end", kafka_errors.ProducerFencedError()),
    "the end of a transaction does not arrive": ("end", kafka_errors.KafkaTimeoutError()),
    "the end of a transaction arrives and its answer does not": ("lost_end", kafka_errors.KafkaTimeoutError()),
    "a look at what is committed is not answered": ("committed", kafka_errors.KafkaTimeoutError()),
    "dies before offsets are sent": ("send_offsets", Crash()),
    "dies before a transaction ends": ("end", Crash()),
    "dies after a transaction ended": ("lost_end", Crash()),
}
ALL_FAULTS = FAULTS | TRANSACTION_FAULTS
deliveries = pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
EVICTED = "is evicted"


def value_of(kind: str, number: int) -> bytes | None:
    return {NORMAL: message(number), ODD: odd_message(number), POISON: b"not json", TOMBSTONE: None}[kind]


@pytest.fixture(scope="module")
def loaded(models: Path) -> Models:
    """The models of a worker that has loaded them, so that not every example has to."""
    bench = Bench(models)
    ready = Models(models, None, clock=bench.clock, metrics=bench.metrics)
    ready.refresh()
    assert ready.swap()
    return ready


class WatchedBench(Bench):
    """Looks at every commit: nothing may be committed whose outcomes are not on their topics."""

    def __init__(self, models: Path, kinds: list[tuple[str, int]], **options: Any) -> None:
        super().__init__(models, partitions=2, **options)
        self.kinds: dict[tuple[int, int], str] = {}
        for number, (kind, partition) in enumerate(kinds):
            offset = sum(where[0] == partition for where in self.kinds)
            self.kinds[(partition, offset)] = kind
            self.produce(value_of(kind, number), partition=partition)

    def fail(self, fault: str | None) -> None:
        method, error = ALL_FAULTS[fault] if fault else ("ack", None)
        self.cluster.fail(method, error)

    def alerted(self) -> set[tuple[int, int]]:
        return {(alert.source.partition, alert.source.offset) for alert in self.alerts}

    def buried(self) -> set[tuple[int, int]]:
        headers = [dict(letter.headers) for letter in self.dead_letters]
        return {(int(h["dlq.original.partition"]), int(h["dlq.original.offset"])) for h in headers}

    def assert_nothing_is_committed_too_early(self) -> None:
        for (_, partition), committed in self.cluster.commits(GROUP).items():
            before = {where for where in self.kinds if where[0] == partition and where[1] < committed}
            assert {where for where in before if self.kinds[where] == ODD} <= self.alerted()
            assert {where for where in before if self.kinds[where] == POISON} <= self.buried()

    def live(self, loaded: Models, *, turns: int) -> None:
        """One life of a worker: until it stops, or dies."""
        worker = self.worker(turns=turns, models=loaded)
        commit = self.source.commit

        def watched_commit(offsets: Any, through: Any = None) -> None:
            commit(offsets, through)
            self.assert_nothing_is_committed_too_early()

        self.source.commit = watched_commit  # type: ignore[method-assign]
        try:
            with suppress(TransportError):
                worker.run()
            self.source.close()
        except Crash:
            self.cluster.consumers[-1].closed = True  # the group notices, nobody says goodbye
            for group in self.cluster._groups.values():
                group.members.clear()
            return
        self.assert_nothing_is_committed_too_early()


@deliveries
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(
        st.tuples(st.sampled_from([NORMAL, ODD, POISON, TOMBSTONE]), st.integers(0, 1)), min_size=1, max_size=12
    ),
    lives=st.lists(st.lists(st.sampled_from([None, EVICTED, *ALL_FAULTS]), max_size=6), max_size=4),
    batch_records=st.integers(1, 5),
    commit_interval_s=st.sampled_from([None, 0.0, 1.0, 1000.0]),
    max_consecutive=st.sampled_from([20, 200]),
)
def test_no_fault_and_no_crash_loses_an_alert_or_counts_one_twice(
    models: Path,
    loaded: Models,
    delivery: str,
    kinds: list[tuple[str, int]],
    lives: list[list[str | None]],
    batch_records: int,
    commit_interval_s: float | None,
    max_consecutive: int,
) -> None:
    bench = WatchedBench(
        models,
        kinds,
        delivery=delivery,
        transaction_timeout_s=2000,
        max_batch_records=batch_records,
        commit_interval_s=commit_interval_s,
        score_topic=None,
        poison={"max_consecutive": max_consecutive},
    )
    for faults in lives:
        for fault in faults:
            if fault == EVICTED:
                bench.cluster.evict(GROUP)
            else:
                bench.fail(fault)
        bench.live(loaded, turns=4)
    bench.cluster._faults.clear()
    bench.metrics = WorkerMetrics(type(bench.metrics.registry)())
    bench.live(loaded, turns=60)

    assert bench.alerted() == {where for where, kind in bench.kinds.items() if kind == ODD}
    assert bench.buried() == {where for where, kind in bench.kinds.items() if kind == POISON}
    ends = {partition: sum(where[0] == partition for where in bench.kinds) for partition in (0, 1)}
    commits = bench.cluster.commits(GROUP)
    assert all(commits.get(("payments", partition), 0) == end for partition, end in ends.items())
    ids = {(alert.source.partition, alert.source.offset, alert.alert_id) for alert in bench.alerts}
    assert len(ids) == len(bench.alerted()) == len({alert_id for _, _, alert_id in ids})
    assert bench.count("records_unaccounted") == 0
    if delivery == "exactly_once":
        assert len(bench.alerts) == len(bench.alerted())
        assert len(bench.dead_letters) == len(bench.buried())


@deliveries
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=12),
    faults=st.lists(st.sampled_from([None, *(name for name in ALL_FAULTS if not name.startswith("dies"))]), max_size=8),
    batch_records=st.integers(1, 5),
)
def test_every_consumed_record_has_exactly_one_outcome(
    models: Path, loaded: Models, delivery: str, kinds: list[str], faults: list[str | None], batch_records: int
) -> None:
    bench = WatchedBench(
        models, [(kind, 0) for kind in kinds], delivery=delivery, max_batch_records=batch_records, score_topic=None
    )
    for fault in faults:
        bench.fail(fault)

    bench.live(loaded, turns=80)

    wanted = {"normal": NORMAL, "alert": ODD, "suppressed": TOMBSTONE, "dead_letter": POISON}
    assert bench.outcomes() == {outcome: kinds.count(kind) for outcome, kind in wanted.items()}
    assert bench.count("records_consumed_total", topic="payments") == len(kinds)
    assert bench.count("records_unaccounted") == 0
