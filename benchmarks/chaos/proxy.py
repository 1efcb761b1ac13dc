"""A small TCP proxy in front of a broker, which resets or stalls its connections when told to. Knows no Kafka."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_CHUNK = 64 * 2**10
_MOST_HELD = 4 * 2**20  # bytes of one direction; beyond that the sender is not read from
_TICK_S = 0.05


class _Line:
    """One direction of one connection: what came from `source` and `sink` has not taken yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.held = bytearray()
        self.is_over = False  # the source says no more


class Proxy:
    """Forwards connections to one address, on one thread. Use as a context manager.

    A stall holds all bytes back in both directions; what a client sent meanwhile is gone if it closes before the stall
    ends, as in a network that lost the packets. A reset ends every connection with a TCP reset to both sides.
    """

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._lines: dict[socket.socket, _Line] = {}  # by source
        self._peers: dict[socket.socket, socket.socket] = {}
        self._reset = threading.Event()
        self._stalled = threading.Event()
        self._closing = threading.Event()
        self._resets = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._peers) // 2

    @property
    def resets(self) -> int:
        """Connections that were reset so far."""
        return self._resets

    def reset(self) -> None:
        """Reset every connection that is open; new ones are taken."""
        self._reset.set()

    def stall(self) -> None:
        """Forward nothing from now on; connections are still taken."""
        self._stalled.set()

    def resume(self) -> None:
        """Forward what is held, and go on."""
        self._stalled.clear()

    def close(self) -> None:
        """End every connection and stop listening."""
        self._closing.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            if self._reset.is_set():
                self._reset.clear()
                self._drop_all(resets=True)
            for key, _ in self._selector.select(_TICK_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                    self._read(key.fileobj)
            if not self._stalled.is_set():
                for line in list(self._lines.values()):
                    self._write(line)
            self._watch()
        self._drop_all(resets=False)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._target, timeout=1.0)
            except OSError:
                _end(client, resets=True)  # as a port without a listener answers
                return
            for source, sink in ((client, server), (server, client)):
                source.setblocking(False)
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._lines[source] = _Line(source, sink)
                self._peers[source] = sink
                self._selector.register(source, selectors.EVENT_READ)

    def _read(self, source: socket.socket) -> None:
        line = self._lines[source]
        try:
            chunk = source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._drop(source, resets=True)
            return
        if chunk:
            line.held += chunk
        elif self._stalled.is_set():
            self._drop(source, resets=True)  # nobody waits for what is held
        else:
            line.is_over = True

    def _write(self, line: _Line) -> None:
        if line.source not in self._peers:
            return
        try:
            while line.held:
                sent = line.sink.send(line.held[:_CHUNK])
                del line.held[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._drop(line.source, resets=True)
            return
        if line.is_over:
            self._drop(line.source, resets=False)

    def _watch(self) -> None:
        """Read from those whose bytes there is room for, and be woken by those that bytes wait for."""
        for source, line in list(self._lines.items()):
            wants_room = self._peers[source] in self._lines and bool(self._lines[self._peers[source]].held)
            events = 0 if line.is_over or len(line.held) >= _MOST_HELD else selectors.EVENT_READ
            if wants_room and not self._stalled.is_set():
                events |= selectors.EVENT_WRITE
            is_watched = source in self._selector.get_map()
            if events and is_watched:
                self._selector.modify(source, events)
            elif events:
                self._selector.register(source, events)
            elif is_watched:
                self._selector.unregister(source)

    def _drop(self, one: socket.socket, *, resets: bool) -> None:
        other = self._peers.pop(one)
        self._peers.pop(other)
        for end in (one, other):
            self._lines.pop(end)
            if end in self._selector.get_map():
                self._selector.unregister(end)
            _end(end, resets=resets)
        self._resets += resets

    def _drop_all(self, *, resets: bool) -> None:
        for one in list(self._peers):
            if one in self._peers:
                self._drop(one, resets=resets)


def _end(end: socket.socket, *, resets: bool) -> None:
    with contextlib.suppress(OSError):
        if resets:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
