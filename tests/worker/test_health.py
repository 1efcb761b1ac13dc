"""Health: what probes are told, in which state, and that the endpoint answers nothing else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from tests.fakes import FakeClock
from tests.worker.bench import BenchClock
from transport import Partition
from worker.health import HealthServer
from worker.metrics import WorkerMetrics
from worker.status import Status


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def status(clock: FakeClock) -> Status:
    """A worker that runs: model, partitions, a broker that answers."""
    status = Status(BenchClock(clock), stall_limit_s=300, silence_limit_s=30)
    status.state = "running"
    status.model = {"name": "payments", "version": "v1"}
    status.joined = True
    status.broker_answered(0)
    return status


@pytest.fixture
def server(status: Status) -> Iterator[HealthServer]:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    server = HealthServer("127.0.0.1", 0, registry=registry, status=status)
    server.start()
    yield server
    server.close()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_running_worker_is_live_and_ready(status: Status) -> None:
    assert status.why_not_live() == []
    assert status.why_not_ready() == []


def test_a_loop_that_stands_still_is_neither_live_nor_ready(status: Status, clock: FakeClock) -> None:
    clock.advance(301)

    assert status.why_not_live() == ["the loop has not moved for 301 s"]
    assert status.why_not_ready() != []


def test_a_worker_that_waits_for_its_model_is_live_and_not_ready(status: Status) -> None:
    status.state, status.model = "waiting_for_model", {}

    assert status.why_not_live() == []
    assert "no model is loaded" in status.why_not_ready()


def test_a_silent_broker_makes_it_not_ready_and_leaves_it_live(status: Status, clock: FakeClock) -> None:
    clock.advance(31)
    status.tick()

    assert status.why_not_live() == []
    assert status.why_not_ready() == ["the broker has not answered for 31 s"]


def test_a_worker_whose_batches_all_fail_is_not_ready_though_the_broker_answers(
    status: Status, clock: FakeClock
) -> None:
    status.retrying_since_s = status.clock.monotonic_s()
    clock.advance(31)
    status.tick()
    status.broker_answered(0)

    assert status.why_not_live() == []
    assert status.why_not_ready() == ["no batch could be finished for 31 s"]


def test_an_answer_of_the_broker_makes_it_ready_again(status: Status, clock: FakeClock) -> None:
    clock.advance(31)
    status.tick()
    status.broker_answered(age_s=2)

    assert status.why_not_ready() == []


def test_a_worker_without_partitions_is_not_ready_at_first_and_a_standby_is(status: Status, clock: FakeClock) -> None:
    status.joined = False
    assert status.why_not_ready() == ["the group has not been joined yet"]

    clock.advance(31)
    status.tick()
    status.broker_answered(0)

    assert status.why_not_ready() == []


def test_a_broker_that_was_away_does_not_make_a_standby(status: Status, clock: FakeClock) -> None:
    status.joined = False
    clock.advance(100)
    status.tick()
    status.broker_answered(age_s=100)
    clock.advance(10)

    status.broker_answered(age_s=0)

    assert status.why_not_ready() == ["the group has not been joined yet"]


@pytest.mark.parametrize("state", ["stopping", "poisoned", "starting"])
def test_a_worker_that_does_not_score_is_not_ready(status: Status, state: str) -> None:
    status.state = state  # type: ignore[assignment]

    assert status.why_not_ready() == [f"the worker is {state}"]


def test_the_four_paths_answer(server: HealthServer, status: Status) -> None:
    status.assignment = (Partition("payments", 1),)
    status.lag = {Partition("payments", 1): 5}

    assert get(server, "/livez") == (200, "ok\n")
    assert get(server, "/readyz?verbose=1") == (200, "ok\n")
    assert "offbeat_records_unaccounted 0.0" in get(server, "/metrics")[1]
    said = json.loads(get(server, "/statusz")[1])
    assert said["assignment"] == [{"topic": "payments", "partition": 1, "lag": 5}]
    assert said["ready"] is True


def test_probes_get_503_and_the_reason(server: HealthServer, status: Status, clock: FakeClock) -> None:
    clock.advance(301)

    assert get(server, "/livez") == (503, "the loop has not moved for 301 s\n")
    assert get(server, "/readyz")[0] == 503


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livezz", "/../etc/passwd"])
def test_nothing_else_is_served(server: HealthServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_nothing_can_be_sent_to_it(server: HealthServer) -> None:
    assert get(server, "/metrics", "POST")[0] == 501


def test_a_head_request_has_no_body(server: HealthServer) -> None:
    assert get(server, "/livez", "HEAD") == (200, "")


def test_a_request_line_without_an_end_is_refused(server: HealthServer) -> None:
    assert get(server, "/" + "x" * 70_000)[0] == 414


def test_it_listens_on_the_address_that_it_was_given_and_on_no_other(server: HealthServer) -> None:
    assert server.address.startswith("http://127.0.0.1:")
