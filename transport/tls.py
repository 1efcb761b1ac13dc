"""TLS whose certificates may be replaced on disk: every connection is made with the files as they are then."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from typing import Any

from transport.errors import ConfigurationRefused
from transport.secrets import secret
from transport.settings import KafkaSettings

logger = logging.getLogger(__name__)


class TlsFiles:
    """Stands where kafka-python wants an SSL context, and wraps each socket with one made from the files as they are.

    The files are looked at with each connection and read again when one of them has changed: another inode, size or
    time of change, so that replacing, renaming into place and turning a symbolic link are all seen. Files that cannot
    be used, as may be in the middle of a replacement, leave the context of before in use, with a warning.

    Raises:
        ConfigurationRefused: A certificate or key cannot be read at the start.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._lock = threading.Lock()
        self._seen = self._look()
        self._context = tls_context(kafka)

    @property
    def shows_certificate(self) -> bool:
        """Whether we have a certificate of our own."""
        return self._kafka.ssl_certfile is not None

    def wrap_socket(self, socket: Any, **arguments: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        return self.current().wrap_socket(socket, **arguments)

    def current(self) -> ssl.SSLContext:
        """Return the context of the files as they are now."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._reload(seen)
            return self._context

    def _reload(self, seen: tuple[object, ...]) -> None:
        try:
            self._context = tls_context(self._kafka)
        except ConfigurationRefused as error:
            logger.warning(
                "%s; connecting with what was read before, a restart now would fail. setting=%s", error, error.setting
            )
        else:
            self._seen = seen
            logger.info("certificates were replaced on disk, and new connections use them")

    def _look(self) -> tuple[object, ...]:
        kafka = self._kafka
        files = (kafka.ssl_cafile, kafka.ssl_certfile, kafka.ssl_keyfile, kafka.ssl_password_file)
        return tuple(None if file is None else _trace(file) for file in files)


def tls_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Return a context that verifies brokers, and shows our own certificate where there is one.

    Raises:
        ConfigurationRefused: A certificate or key cannot be read. kafka-python would count that as a broker that
            is away, and try for ever.
    """
    context = verifying_context(kafka.ssl_cafile, setting="ssl_cafile")
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_certfile is not None:
        password = secret(kafka, "ssl_password") or ""
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationRefused(
                f"ssl_certfile {kafka.ssl_certfile!r} and ssl_keyfile {kafka.ssl_keyfile!r} cannot be read together "
                f"({_why(error)}): give PEM files that belong together, and ssl_password if the key has one",
                setting=_blamed(kafka),
            ) from error
    return context


def verifying_context(cafile: str | None, *, setting: str) -> ssl.SSLContext:
    """Return a context that trusts the authorities of a PEM file, or those of the system.

    Raises:
        ConfigurationRefused: The file holds no certificates that can be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if cafile is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationRefused(
            f"{setting} {cafile!r} holds no certificates that can be read ({_why(error)}): give a PEM file",
            setting=setting,
        ) from error
    return context


def _blamed(kafka: KafkaSettings) -> str:
    """Which of the files it must be, as far as can be told."""
    for name in ("ssl_certfile", "ssl_keyfile"):
        file = getattr(kafka, name)
        if file is not None and not os.access(file, os.R_OK):
            return name
    return "ssl_certfile"


def _trace(file: str) -> object:
    try:
        status = os.stat(file)  # noqa: PTH116 - of what a symbolic link points to
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)  # of ssl.SSLError
    return str(reason or error.strerror or error)
