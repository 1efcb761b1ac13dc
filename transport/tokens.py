"""Tokens for OAUTHBEARER: from a file, or from a token endpoint by the client credentials grant of OAuth 2.

Sources: RFC 6749, sections 2.3.1 (the client's secret), 4.4 (the grant), 5 (answers); KIP-768.
"""

from __future__ import annotations

import base64
import json
import logging
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

from kafka.errors import KafkaConnectionError
from kafka.net.sasl.oauth import AbstractTokenProvider

from transport.errors import Forbidden, TransportError
from transport.refusals import Refused
from transport.secrets import read_secret, secret
from transport.settings import KafkaSettings
from transport.tls import verifying_context

logger = logging.getLogger(__name__)

_MOST_ANSWER_BYTES = 256 * 2**10

# A token is renewed when so much of its life has gone: before a broker asks for another, at 85% or later (KIP-368).
_RENEW_AFTER = 0.8

# Answers by which an endpoint says that asking again will not help (RFC 6749, section 5.2).
_REFUSALS = (400, 401, 403, 404, 405)


def token_provider(kafka: KafkaSettings) -> AbstractTokenProvider:
    """Return what gives kafka-python its tokens.

    Raises:
        ConfigurationRefused: A file that it needs cannot be read.
    """
    if kafka.sasl_oauth_token_file is not None:
        return FileTokens(kafka.sasl_oauth_token_file)
    return EndpointTokens(kafka)


class FileTokens(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """The token that stands in a file, read again for every connection; who writes the file sees to its renewal.

    Raises:
        ConfigurationRefused: The file cannot be read at the start.
    """

    setting = "sasl_oauth_token_file"

    def __init__(self, file: str) -> None:
        self._file = file
        read_secret(file, setting="sasl_oauth_token_file")

    def token(self) -> str:
        """See `AbstractTokenProvider.token`."""
        try:
            return read_secret(self._file, setting="sasl_oauth_token_file").strip()
        except TransportError as error:
            raise Refused(error) from error


class EndpointTokens(AbstractTokenProvider):  # type: ignore[misc]  # kafka-python has no types
    """Tokens of an endpoint, kept until four fifths of their life are over.

    `token` waits at most `sasl_oauth_timeout_s`, name resolution included: asking happens on a thread of its own, of
    which there is at most one. While an endpoint is away a token that is still valid goes on being used. A token
    without `expires_in` is asked for with every connection.

    Args:
        kafka: The settings.
        clock: Seconds that only grow.

    Raises:
        ConfigurationRefused: A file that it needs cannot be read at the start.
    """

    setting = "sasl_oauth_client_id"

    def __init__(self, kafka: KafkaSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._kafka = kafka
        self._clock = clock
        self._lock = threading.Lock()
        self._asking: _Question | None = None
        self._token = ""
        self._renew_at_s = self._ends_at_s = float("-inf")
        self._context = self._tls()
        secret(kafka, "sasl_oauth_client_secret")

    def token(self) -> str:
        """See `AbstractTokenProvider.token`.

        Raises:
            Refused: The endpoint does not know us, or we cannot trust it.
            KafkaConnectionError: It is away, and there is no token that is valid.
        """
        with self._lock:
            if self._clock() < self._renew_at_s:
                return self._token
            try:
                return self._renewed()
            except KafkaConnectionError as error:
                if self._clock() >= self._ends_at_s:
                    raise
                logger.warning(
                    "no new token, and the one in use ends in %.0f s: %s", self._ends_at_s - self._clock(), error
                )
                return self._token

    def _renewed(self) -> str:
        if self._asking is None:
            self._asking = _Question(self._ask)
        answer = self._asking.answer(self._kafka.sasl_oauth_timeout_s)
        if answer is None:
            raise KafkaConnectionError(
                f"the token endpoint {self._kafka.sasl_oauth_token_url} has not answered in "
                f"{self._kafka.sasl_oauth_timeout_s:g} s"
            )
        self._asking = None
        if isinstance(answer, Exception):
            raise answer
        asked_s, content = answer
        token = content.get("access_token")
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise KafkaConnectionError(
                f"the token endpoint {self._kafka.sasl_oauth_token_url} gave an answer without an access_token"
            )
        life_s = content.get("expires_in")
        life_s = float(life_s) if isinstance(life_s, (int, float)) and life_s > 0 else 0.0
        self._token, self._ends_at_s, self._renew_at_s = token, asked_s + life_s, asked_s + _RENEW_AFTER * life_s
        return token

    def _ask(self) -> tuple[float, dict[str, Any]]:
        """Ask once. Runs on a thread of its own."""
        kafka = self._kafka
        asked_s = self._clock()
        try:
            request = self._request()
            opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=self._tls()))
            with opener.open(request, timeout=kafka.sasl_oauth_timeout_s) as answer:
                content = json.loads(answer.read(_MOST_ANSWER_BYTES))
        except TransportError as error:
            raise Refused(error) from error
        except urllib.error.HTTPError as error:
            raise self._of_status(error) from None
        except (OSError, ValueError) as error:
            raise self._of_failure(error) from None
        if not isinstance(content, dict):
            raise KafkaConnectionError(
                f"the token endpoint {kafka.sasl_oauth_token_url} gave an answer that is no object"
            )
        return asked_s, content

    def _request(self) -> urllib.request.Request:
        kafka = self._kafka
        password = secret(kafka, "sasl_oauth_client_secret") or ""
        credentials = f"{quote(kafka.sasl_oauth_client_id or '', safe='')}:{quote(password, safe='')}"
        form = {"grant_type": "client_credentials"}
        if kafka.sasl_oauth_scope is not None:
            form["scope"] = kafka.sasl_oauth_scope
        return urllib.request.Request(  # noqa: S310 - http(s) only, by the settings
            kafka.sasl_oauth_token_url or "",
            data=urlencode(form).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}",
                "Accept": "application/json",
            },
        )

    def _of_status(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            said = _error_code(error.read(_MOST_ANSWER_BYTES))
        url = self._kafka.sasl_oauth_token_url
        text = f"the token endpoint {url} answered {error.code}{f' ({said})' if said else ''}"
        if error.code in _REFUSALS:
            setting, advice = _ADVICE.get(
                said, ("sasl_oauth_token_url", "is it the token endpoint, and may this client use this grant?")
            )
            if error.code == 401:
                setting, advice = _ADVICE["invalid_client"]
            return Refused(Forbidden(f"{text}: {advice}", setting=setting))
        if 300 <= error.code < 400:
            return Refused(
                Forbidden(
                    f"{text}: redirects are not followed, as the client's secret would be",
                    setting="sasl_oauth_token_url",
                )
            )
        return _away(f"{text}; trying again can help")

    def _of_failure(self, error: Exception) -> Exception:
        url = self._kafka.sasl_oauth_token_url
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Refused(
                Forbidden(
                    f"the token endpoint {url} shows a certificate that cannot be trusted ({reason.verify_message}): "
                    "give its authority as sasl_oauth_cafile, or correct sasl_oauth_token_url",
                    setting="sasl_oauth_cafile",
                )
            )
        if isinstance(reason, ValueError) and not isinstance(reason, OSError):
            return _away(f"the token endpoint {url} gave an answer that is no JSON")
        return _away(f"the token endpoint {url} is away ({reason!r})")

    def _tls(self) -> ssl.SSLContext:
        return verifying_context(self._kafka.sasl_oauth_cafile, setting="sasl_oauth_cafile")


_ADVICE = {
    "invalid_client": (
        "sasl_oauth_client_id",
        "it does not know this client by this secret: correct sasl_oauth_client_id or sasl_oauth_client_secret",
    ),
    "invalid_scope": ("sasl_oauth_scope", "this client may not have this scope: correct sasl_oauth_scope"),
    "unauthorized_client": (
        "sasl_oauth_client_id",
        "this client may not ask for tokens by client credentials: allow it to, or correct sasl_oauth_client_id",
    ),
}


class _Question:
    """A call on a thread of its own that is waited for with a time limit, again and again if need be."""

    def __init__(self, ask: Callable[[], tuple[float, dict[str, Any]]]) -> None:
        self._ask = ask
        self._answer: tuple[float, dict[str, Any]] | Exception | None = None
        self._answered = threading.Event()
        threading.Thread(target=self._run, name="kafka-token", daemon=True).start()

    def answer(self, timeout_s: float) -> tuple[float, dict[str, Any]] | Exception | None:
        """What it returned or raised; None where it has not ended yet."""
        self._answered.wait(timeout_s)
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            self._answer = error
        self._answered.set()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the client's secret along to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _away(text: str) -> Exception:
    """What kafka-python takes for a broker that is away, so that it is tried again."""
    error: Exception = KafkaConnectionError(text)
    return error


def _error_code(content: bytes) -> str:
    """The `error` of an answer, where it is one of those that the standard has; other text may hold anything."""
    try:
        said = json.loads(content)["error"]
    except (ValueError, TypeError, KeyError):
        return ""
    known = {"invalid_request", "invalid_grant", "unsupported_grant_type", *_ADVICE}
    return said if isinstance(said, str) and said in known else ""
