"""The worker's account, read from what its metrics endpoint really exposes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from demo.children import account_of
from demo.tally import Account
from worker.metrics import WorkerMetrics


def test_the_account_is_read_from_the_workers_own_metrics() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    metrics.consumed.labels("transactions").inc(9)
    metrics.records.labels("normal").inc(5)
    metrics.records.labels("alert").inc(1)
    metrics.records.labels("suppressed").inc(1)
    metrics.records.labels("dead_letter").inc(2)
    metrics.dead_letters.labels("deserialize", "not_json").inc(2)
    metrics.suppressed.labels("tombstone").inc(1)

    account = account_of(generate_latest(registry).decode())

    assert account == Account(
        consumed=9,
        outcomes={"normal": 5, "alert": 1, "suppressed": 1, "dead_letter": 2},
        dead_letters={"not_json": 2},
        suppressed={"tombstone": 1},
    )


def test_a_worker_that_has_done_nothing_yet_has_an_empty_account() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)

    account = account_of(generate_latest(registry).decode())

    assert account.consumed == 0
    assert sum(account.outcomes.values()) == 0
    assert account.dead_letters == {}
