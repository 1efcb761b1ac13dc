"""What the measurement of a rolling restart takes for a lie of a health page, and for the slowest batch."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from benchmarks.rolling_restart import Probe, slowest_batch_s
from tests.kafka.worker import WorkerProcess

RUNNING = {
    "model": {"name": "payments"}, "restoring": {"partitions": 0}, "state": "running",
    "assignment": [{"partition": 0}], "records": {},
}  # fmt: skip


class _Process:
    name = "worker-1"


class _Worker:
    """A worker whose pages say what a test wants."""

    process = _Process()

    def __init__(self, *, ready: int, counts: dict[str, float] | None = None, **status: Any) -> None:
        self._ready, self._counts, self._status = ready, counts or {}, RUNNING | status

    def get(self, path: str) -> tuple[int, str]:
        return {"/livez": 200, "/readyz": self._ready}[path], ""

    def status(self) -> dict[str, Any]:
        return self._status

    def samples(self) -> dict[tuple[str, Any], float]:
        name = "offbeat_batch_duration_seconds_bucket"
        return {(name, _Labels(le=bound)): count for bound, count in self._counts.items()}


class _Labels(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def probed(worker: _Worker) -> Probe:
    with Probe(lambda: [cast("WorkerProcess", worker)]) as probe:
        until_s = time.monotonic() + 10.0
        while not probe.readyz and time.monotonic() < until_s:
            time.sleep(0.01)
    return probe


@pytest.mark.parametrize(
    "status",
    [
        {"model": {}},
        {"restoring": {"partitions": 2}},
        {"state": "stopping"},
        {"assignment": [], "records": {}},
    ],
)
def test_a_worker_that_says_it_is_ready_while_it_scores_nothing_is_noted(status: dict[str, Any]) -> None:
    probe = probed(_Worker(ready=200, **status))

    assert set(probe.readyz) == {200}
    assert probe.lies


def test_a_worker_that_is_ready_and_scores_is_believed() -> None:
    assert not probed(_Worker(ready=200)).lies


def test_a_worker_that_says_it_is_not_ready_is_believed() -> None:
    assert not probed(_Worker(ready=503, state="stopping")).lies


def test_the_slowest_batch_is_bounded_by_the_first_bucket_that_holds_all_of_them() -> None:
    counts = {"0.1": 3.0, "0.5": 7.0, "1": 7.0, "+Inf": 7.0}

    assert slowest_batch_s(cast("WorkerProcess", _Worker(ready=200, counts=counts))) == 0.5
