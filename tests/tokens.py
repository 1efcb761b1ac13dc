"""A token endpoint on loopback, as OpenID providers have it: the client credentials grant, with TLS or without."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote

CLIENT, CLIENT_SECRET = "offbeat-worker", "s3cret/of+the client"


class TokenEndpoint:
    """Gives tokens to one client. Use as a context manager.

    Attributes:
        answer: Status and content of the answer to a client that it knows; a test may change it.
        asked: The form of every request of that client.
        gate: What every request waits for; set, so that none does.
    """

    def __init__(self, make: Callable[[], str], *, certificate: Path | None = None, life_s: float = 300.0) -> None:
        self.answer: Callable[[], tuple[int, Any]] = lambda: (200, {"access_token": make(), "expires_in": life_s})
        self.asked: list[dict[str, list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if certificate is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{self._scheme}://localhost:{self._server.server_address[1]}/token"

    def settings(self, **more: Any) -> dict[str, Any]:
        """What a client of Kafka is told about it."""
        told = {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_url": self.url, "sasl_oauth_client_id": CLIENT}
        return told | {"sasl_oauth_client_secret": CLIENT_SECRET} | more

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(endpoint: TokenEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            endpoint.gate.wait(60)
            kind, _, credentials = self.headers["Authorization"].partition(" ")
            name, _, secret = base64.b64decode(credentials).decode().partition(":")
            if kind == "Basic" and (unquote(name), unquote(secret)) == (CLIENT, CLIENT_SECRET):
                endpoint.asked.append(form)
                status, content = endpoint.answer()
            else:
                status, content = 401, {"error": "invalid_client", "error_description": f"{secret} is wrong"}
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler
