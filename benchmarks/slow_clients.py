"""Health while clients hold connections open and say nothing: how many probes are answered, how soon, and at what cost.

Each server serves a worker's metrics from a process of its own. So many clients connect, send half a request and then
a byte a second (slow loris); meanwhile /metrics is asked for again and again, 2 s patience each. Beside ours:
prometheus_client's own server and the standard library's threading one with 5 s of patience for a read and at most 16
requests at a time, which is what the worker had before.

    python -m benchmarks.slow_clients --json benchmarks/results/slow_clients.json
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from benchmarks.rig import arguments, report
from worker.clock import Clock
from worker.health import HealthServer
from worker.metrics import WorkerMetrics
from worker.status import Status

PATIENCE_S = 2.0
MOST_THREADS = 16


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--clients", type=int, nargs="+", default=[0, 15, 100, 500])
    options.add_argument("--seconds", type=float, default=10.0, help="how long to probe in each case")
    chosen = options.parse_args()
    rows = [
        measured(name, serve, clients, chosen.seconds) for name, serve in SERVERS.items() for clients in chosen.clients
    ]
    report({"patience_s": PATIENCE_S, "seconds": chosen.seconds, "cases": rows}, chosen.json)


def ours(registry: CollectorRegistry) -> int:
    """The worker's."""
    status = Status(Clock(), stall_limit_s=300.0, silence_limit_s=30.0)
    server = HealthServer("127.0.0.1", 0, registry=registry, status=status)
    server.start()
    return int(server.address.rsplit(":", 1)[1])


def theirs(registry: CollectorRegistry) -> int:
    """prometheus_client's."""
    return int(start_http_server(0, "127.0.0.1", registry=registry)[0].server_address[1])


def threads(registry: CollectorRegistry) -> int:
    """A thread for each request, at most 16."""
    room = threading.BoundedSemaphore(MOST_THREADS)

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0

        def do_GET(self) -> None:
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def process_request(self, request: Any, client_address: Any) -> None:
            if room.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                room.release()

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


SERVERS: dict[str, Callable[[CollectorRegistry], int]] = {
    "offbeat": ours,
    "http.server, 16 threads": threads,
    "prometheus_client": theirs,
}


def measured(name: str, serve: Callable[[CollectorRegistry], int], clients: int, seconds: float) -> dict[str, Any]:
    """One server under so many silent clients."""
    with served(serve) as (port, process):
        stop, all_there = threading.Event(), threading.Event()
        slow = threading.Thread(target=drip, args=(port, clients, stop, all_there))
        slow.start()
        all_there.wait()
        waits_s, asked = [], 0
        until = time.monotonic() + seconds
        most_threads = most_files = 0
        while time.monotonic() < until:
            asked += 1
            if (wait_s := probe(port)) is not None:
                waits_s.append(wait_s)
            most_threads = max(most_threads, process.num_threads())
            most_files = max(most_files, process.num_fds())
            time.sleep(0.1)
        stop.set()
        slow.join()
    return {
        "server": name, "silent_clients": clients, "probes": asked, "answered_share": round(len(waits_s) / asked, 3),
        "median_ms": round(1000 * float(np.median(waits_s)), 1) if waits_s else None,
        "p99_ms": round(1000 * float(np.quantile(waits_s, 0.99)), 1) if waits_s else None,
        "most_threads": most_threads, "most_descriptors": most_files,
    }  # fmt: skip


@contextmanager
def served(serve: Callable[[CollectorRegistry], int]) -> Iterator[tuple[int, psutil.Process]]:
    """A server in a process of its own: its port and its process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_child, args=(serve, there), daemon=True)
    child.start()
    try:
        yield here.recv(), psutil.Process(child.pid)
    finally:
        child.terminate()
        child.join()


def _child(serve: Callable[[CollectorRegistry], int], pipe: Connection) -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    pipe.send(serve(registry))
    threading.Event().wait()


def drip(port: int, clients: int, stop: threading.Event, all_there: threading.Event) -> None:
    """Hold so many connections open, a byte a second each; who is hung up on comes back."""
    held: list[socket.socket | None] = [None] * clients
    while not stop.is_set():
        for index, client in enumerate(held):
            try:
                if client is None:
                    held[index] = begun(port)
                else:
                    client.send(b"x")
            except OSError:
                if client is not None:
                    client.close()
                held[index] = None
        all_there.set()
        stop.wait(1.0)
    for client in held:
        if client is not None:
            client.close()


def begun(port: int) -> socket.socket:
    """A connection with half a request on it."""
    client = socket.create_connection(("127.0.0.1", port), timeout=0.5)
    client.send(b"GET /metrics HTTP/1.1\r\nX: ")
    return client


def probe(port: int) -> float | None:
    """Ask for /metrics; seconds until all of it was there, None where that was not within the patience."""
    began = time.perf_counter()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        said = b""
        while (part := client.recv(65536)) and time.perf_counter() - began < PATIENCE_S:
            said += part
        if b" 200 " in said[:20] and not part:
            return time.perf_counter() - began
    return None


if __name__ == "__main__":
    main()
