"""Health: what probes are told, in which state, and that the endpoint answers nothing else."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric

from tests.fakes import FakeClock
from tests.worker.bench import BenchClock
from transport import Partition
from worker.health import MOST_CONNECTIONS, HealthServer
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


def connected(server: HealthServer, *, receive_bytes: int = 65536) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(5)
    client.connect((host, int(port)))
    return client


def said_to(server: HealthServer, request: bytes) -> bytes:
    """All that comes back."""
    with connected(server) as client, client.makefile("rb") as answer:
        client.sendall(request)
        return answer.read()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_sent_to_it(server: HealthServer, method: str) -> None:
    assert get(server, "/metrics", method)[0] == 405


def test_a_head_request_has_no_body(server: HealthServer) -> None:
    assert get(server, "/livez", "HEAD") == (200, "")


def test_an_answer_names_neither_the_software_nor_its_version(server: HealthServer) -> None:
    for path in ("/livez", "/nothing", "/statusz"):
        head = said_to(server, f"GET {path} HTTP/1.1\r\n\r\n".encode()).partition(b"\r\n\r\n")[0].lower()

        assert b"server:" not in head
        assert b"python" not in head
        assert b"offbeat" not in head


@pytest.mark.parametrize("request_", [b"GET /" + b"x" * 70_000, b"GET /livez HTTP/1.1\r\nCookie: " + b"x" * 1_000_000])
def test_a_request_without_an_end_is_refused_at_8_kib(server: HealthServer, request_: bytes) -> None:
    assert said_to(server, request_).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "request_", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01 a b\r\n\r\n", b"GET /livez HTTP/2\r\n\r\n"]
)
def test_what_is_no_request_is_told_so(server: HealthServer, request_: bytes) -> None:
    assert said_to(server, request_).startswith(b"HTTP/1.1 400 ")


def test_the_body_of_a_request_is_not_taken_for_another_request(server: HealthServer) -> None:
    said = said_to(server, b"GET /livez HTTP/1.1\r\nContent-Length: 27\r\n\r\nGET /statusz HTTP/1.1\r\n\r\n")

    assert said.count(b"HTTP/1.1 ") == 1
    assert said.endswith(b"ok\n")


def test_probes_are_answered_while_hundreds_of_connections_say_nothing(server: HealthServer) -> None:
    """Slow loris: each half-open connection costs a descriptor only as long as there is room, and never a thread."""
    before, threads = open_files(), threading.active_count()
    with ExitStack() as idle:
        clients = [idle.enter_context(connected(server)) for _ in range(400)]
        for client in clients:
            with suppress(OSError):  # made way already
                client.send(b"GET /livez HTT")

        assert get(server, "/livez") == (200, "ok\n")
        assert open_files() - before - len(clients) <= MOST_CONNECTIONS
        assert threading.active_count() == threads


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off_in_the_end(status: Status) -> None:
    server = HealthServer("127.0.0.1", 0, registry=CollectorRegistry(), status=status, request_timeout_s=0.3)
    server.start()

    with connected(server) as client:
        sent = drip(client, at_most=200)
    server.close()

    assert sent < 200


def drip(client: socket.socket, *, at_most: int) -> int:
    """Send a byte every 50 ms; return how many, when the other side has hung up or all are sent."""
    client.settimeout(0.05)
    for sent in range(at_most):
        try:
            client.send(b"x")
            client.recv(1)
        except TimeoutError:
            continue
        except OSError:
            pass
        return sent
    return at_most


@pytest.mark.timeout(30)
def test_a_client_that_takes_no_answer_is_cut_off(status: Status) -> None:
    registry = CollectorRegistry()
    Counter("long_total", "more than sockets hold " * 400_000, registry=registry)
    server = HealthServer("127.0.0.1", 0, registry=registry, status=status, request_timeout_s=2.0)
    server.start()
    with connected(server, receive_bytes=4096) as client:
        client.settimeout(20)
        client.send(b"GET /metrics HTTP/1.1\r\n\r\n")
        client.recv(1)
        files = open_files()

        while open_files() >= files:  # until the server lets go
            time.sleep(0.05)
    server.close()


def test_a_page_that_fails_is_a_500_and_the_others_go_on(status: Status) -> None:
    class Broken:
        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("out of order")

    registry = CollectorRegistry()
    registry.register(Broken())
    server = HealthServer("127.0.0.1", 0, registry=registry, status=status)
    server.start()

    assert get(server, "/metrics") == (500, "the page could not be made: see the log\n")
    assert get(server, "/livez")[0] == 200
    server.close()


def test_it_listens_on_the_address_that_it_was_given_and_on_no_other(server: HealthServer) -> None:
    assert server.address.startswith("http://127.0.0.1:")
