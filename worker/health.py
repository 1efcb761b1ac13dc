"""Metrics and health over HTTP, for probes and Prometheus; it reads counts and states and never touches a record."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from worker.status import Status

logger = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""How many are open at a time; one more, and the one that has asked for nothing for longest is closed."""

MOST_REQUEST_BYTES = 8192
"""Longest request line and headers together."""

REQUEST_TIMEOUT_S = 5.0
"""How long a client has for all of it: to send its request and to take the answer."""

_TEXT = "text/plain; charset=utf-8"
_END_OF_HEAD = b"\r\n\r\n"
_CLOSE_TIMEOUT_S = 2.0
_ACCEPT_AGAIN_S = 0.1
_MOST_WAITING = 1024  # for being accepted, as far as the system allows


class HealthServer:
    """Serves `/metrics`, `/livez`, `/readyz` and `/statusz` to GET and HEAD, and nothing else, beside the loop.

    One thread and at most 64 connections, whoever asks and however slowly: a client has 5 s and 8 KiB for its whole
    request, and where the room is full the oldest connection that has not asked makes way, so that those who say
    nothing keep nobody out who has something to ask. Every connection carries one request, whose body is not read.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        status: Status,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Listen, and answer from `start` on.

        Raises:
            OSError: Nobody can listen there.
        """
        self._socket = _listening(host, port)
        self._pages = _Pages(registry, status)
        self._request_timeout_s = request_timeout_s
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        # Oldest first: those that have not said all of their request yet, and those that have.
        self._asking: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._answered: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    @property
    def address(self) -> str:
        """Where it listens, as a URL."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._thread.ident is None:
            self._socket.close()
            self._loop.close()
            return
        with suppress(RuntimeError):  # its thread ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        accepting = asyncio.ensure_future(self._accept())
        await self._stop.wait()
        accepting.cancel()
        self._socket.close()
        left = self._asking | self._answered
        for task, writer in left.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(accepting, *left, return_exceptions=True)

    async def _accept(self) -> None:
        """Take connections one at a time, so that those that are there are heard in between."""
        while True:
            try:
                accepted, _ = await self._loop.sock_accept(self._socket)
                reader, writer = await asyncio.open_connection(sock=accepted, limit=MOST_REQUEST_BYTES)
            except OSError as error:  # gone already, or no descriptor left: whoever waits is still there later
                logger.debug("a connection could not be taken. error=%r", error)
                await asyncio.sleep(_ACCEPT_AGAIN_S)
                continue
            self._make_room()
            task = asyncio.ensure_future(self._converse(reader, writer))
            self._asking[task] = writer
            task.add_done_callback(self._forget)

    def _make_room(self) -> None:
        if len(self._asking) + len(self._answered) >= MOST_CONNECTIONS:
            crowd = self._asking or self._answered
            oldest = next(iter(crowd))
            crowd.pop(oldest).transport.abort()
            oldest.cancel()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._asking.pop(task, None)
        self._answered.pop(task, None)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer, all within the time limit."""
        try:
            async with asyncio.timeout(self._request_timeout_s):
                writer.transport.set_write_buffer_limits(0)  # drained means sent
                answer = await self._answer(reader)
                if answer is None:
                    return
                task = asyncio.current_task()
                if task is not None and task in self._asking:
                    self._answered[task] = self._asking.pop(task)
                writer.write(answer)
                await writer.drain()
                # Closing with something unread would reset the connection, and the answer with it.
                writer.write_eof()
                while await reader.read(MOST_REQUEST_BYTES):
                    pass
        except (TimeoutError, OSError) as error:
            logger.debug(
                "a request could not be answered. client=%s error=%r", writer.get_extra_info("peername"), error
            )
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes | None:
        """Read a request and return its answer; None where the client left before the end of it."""
        try:
            head = await reader.readuntil(_END_OF_HEAD)
        except asyncio.LimitOverrunError:
            return _too_long().encode("GET")
        except asyncio.IncompleteReadError:
            return None
        line, _, _ = head.partition(b"\r\n")
        return self._pages.answer(line.decode("latin-1"))


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[str, ...] = ()

    def encode(self, method: str) -> bytes:
        """The answer on the wire. It names no software and no version."""
        lines = (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *self.headers,
        )
        head = "\r\n".join(lines).encode("latin-1") + _END_OF_HEAD
        return head if method == "HEAD" else head + self.body


class _Pages:
    """What is answered to a request line."""

    def __init__(self, registry: CollectorRegistry, status: Status) -> None:
        self._registry = registry
        self._status = status

    def answer(self, line: str) -> bytes:
        """The answer to `METHOD TARGET HTTP/1.x`."""
        parts = line.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST, "bad request: this is no HTTP/1 request").encode("GET")
        method, target, _ = parts
        try:
            return self._page(method, target.partition("?")[0]).encode(method)
        except Exception:
            logger.warning("a page could not be made; the next request tries again. target=%r", target, exc_info=True)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "the page could not be made: see the log").encode(method)

    def _page(self, method: str, path: str) -> _Answer:
        if method not in ("GET", "HEAD"):
            refusal = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD: nothing can be sent here")
            return refusal._replace(headers=("Allow: GET, HEAD",))
        if path == "/metrics":
            return _Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry))
        if path == "/livez":
            return _reasons(self._status.why_not_live())
        if path == "/readyz":
            return _reasons(self._status.why_not_ready())
        if path == "/statusz":
            return _Answer(HTTPStatus.OK, "application/json", json.dumps(self._status.snapshot(), indent=2).encode())
        return _plain(HTTPStatus.NOT_FOUND, "not found: there are /metrics, /livez, /readyz and /statusz")


def _reasons(reasons: list[str]) -> _Answer:
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, "\n".join(reasons or ["ok"]))


def _too_long() -> _Answer:
    return _plain(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request has at most {MOST_REQUEST_BYTES} bytes of headers"
    )


def _plain(status: HTTPStatus, text: str) -> _Answer:
    return _Answer(status, _TEXT, f"{text}\n".encode())


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; on the first that the host's name stands for."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_MOST_WAITING)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
