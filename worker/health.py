"""Metrics and health over HTTP, for probes and Prometheus; it reads counts and states and never touches a record."""

from __future__ import annotations

import json
import logging
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from worker.status import Status

logger = logging.getLogger(__name__)

_MOST_REQUESTS = 16
_REQUEST_TIMEOUT_S = 5.0


class HealthServer:
    """Serves `/metrics`, `/livez`, `/readyz` and `/statusz`, and nothing else, from threads beside the loop.

    At most 16 requests at a time, each with 5 s to be sent; more are closed unanswered.
    """

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, status: Status) -> None:
        self._server = _Server((host, port), registry, status)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="health", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        host, port = self._server.server_address[:2]
        text = host if isinstance(host, str) else host.decode()
        return f"http://[{text}]:{port}" if ":" in text else f"http://{text}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, status: Status) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.registry = registry
        self.status = status
        self._room = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - http.server's signature
        logger.debug("a request could not be answered. client=%s", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_TIMEOUT_S
    server_version = "offbeat"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the four paths."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.server.registry))
        elif path == "/livez":
            self._answer_reasons(self.server.status.why_not_live())
        elif path == "/readyz":
            self._answer_reasons(self.server.status.why_not_ready())
        elif path == "/statusz":
            body = json.dumps(self.server.status.snapshot(), indent=2).encode()
            self._answer(HTTPStatus.OK, "application/json", body)
        else:
            text = b"not found: there are /metrics, /livez, /readyz and /statusz\n"
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", text)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _answer_reasons(self, reasons: list[str]) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        self._answer(status, "text/plain; charset=utf-8", ("\n".join(reasons or ["ok"]) + "\n").encode())

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name that http.server gives it
        """Probes come every few seconds and are not news."""
        logger.debug(format, *args)
