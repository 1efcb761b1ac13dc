"""The proxy of the fault harness: what it forwards, holds back and resets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.chaos.proxy import Proxy

LIMIT_S = 10.0


class Echo:
    """A server that sends back what it is sent, and remembers it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.heard = bytearray()
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while chunk := connection.recv(65536):
                        self.heard += chunk
                        connection.sendall(chunk)
                except OSError:
                    pass
            self.ended.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.listener.getsockname()) as proxy:
        yield proxy


def client(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LIMIT_S)


def received(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        found += connection.recv(count - len(found))
    return found


def test_bytes_go_through_unchanged_in_both_directions(proxy: Proxy) -> None:
    content = bytes(range(256)) * 20_000  # more than any buffer on the way
    with client(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(content,))
        sender.start()
        found = received(connection, len(content))
        sender.join()

    assert found == content


def test_the_end_of_a_connection_goes_through(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        connection.sendall(b"last words")
        assert received(connection, 10) == b"last words"

    assert echo.ended.wait(LIMIT_S)
    assert proxy.resets == 0


def test_a_reset_ends_open_connections_and_lets_new_ones_through(proxy: Proxy) -> None:
    with client(proxy) as connection:
        connection.sendall(b"one")
        received(connection, 3)
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(10)
    with client(proxy) as connection:
        connection.sendall(b"two")

        assert received(connection, 3) == b"two"
    assert proxy.resets == 1


def test_a_stall_holds_bytes_back_until_it_ends(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        connection.sendall(b"one")
        received(connection, 3)
        proxy.stall()
        connection.sendall(b"two")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(10)
        assert bytes(echo.heard) == b"one"

        proxy.resume()

        connection.settimeout(LIMIT_S)
        assert received(connection, 3) == b"two"


def test_what_a_stall_holds_is_gone_when_its_sender_gives_up(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as connection:
        connection.sendall(b"one")
        received(connection, 3)
        proxy.stall()
        connection.sendall(b"lost")
    assert echo.ended.wait(LIMIT_S)

    proxy.resume()

    assert bytes(echo.heard) == b"one"


def test_a_target_that_is_away_refuses(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = nobody.getsockname()
    # The reset may come before the connection is known to be there.
    with Proxy(address) as proxy, pytest.raises(ConnectionResetError), client(proxy) as connection:
        connection.recv(1)
