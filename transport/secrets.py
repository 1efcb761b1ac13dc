"""Secrets that stand in files, as orchestrators mount them: read when needed, and again when they may be new."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from transport.errors import ConfigurationRefused
from transport.settings import KafkaSettings

logger = logging.getLogger(__name__)

_MOST_BYTES = 64 * 2**10


def secret(kafka: KafkaSettings, name: str) -> str | None:
    """Return a secret from its setting or from its file; None where neither is given.

    Args:
        kafka: The settings.
        name: One of `SECRETS`.

    Raises:
        ConfigurationRefused: The file cannot be read, or holds nothing.
    """
    value = getattr(kafka, name)
    if value is not None:
        return str(value.get_secret_value())
    file = getattr(kafka, f"{name}_file")
    return None if file is None else read_secret(file, setting=f"{name}_file")


def read_secret(file: str, *, setting: str) -> str:
    """Return what a file holds, without the line break at its end.

    Raises:
        ConfigurationRefused: It cannot be read, is too long, is not UTF-8, or holds nothing. What it holds is not
            repeated.
    """
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigurationRefused(
            f"{setting} {file!r} cannot be read ({why}): give a file that this process may read", setting=setting
        ) from error
    except UnicodeDecodeError:
        raise ConfigurationRefused(
            f"{setting} {file!r} holds no UTF-8 text: give a file with the secret and nothing else", setting=setting
        ) from None
    if len(content) > _MOST_BYTES:
        raise ConfigurationRefused(
            f"{setting} {file!r} holds more than {_MOST_BYTES} bytes, which is no secret: is it the right file?",
            setting=setting,
        )
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise ConfigurationRefused(f"{setting} {file!r} is empty: write the secret into it", setting=setting)
    return text


class Password(str):
    """A password that does not show itself where somebody prints what holds it, as kafka-python does its settings."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'****'"


class FilePassword(Password):
    """A password that knows which file it was read from, so that a new connection signs in with what stands there then.

    kafka-python wants its password as a string, once for all connections of a client.
    """

    __slots__ = ("_file", "_setting")

    _file: str
    _setting: str

    @classmethod
    def read(cls, file: str, *, setting: str) -> Self:
        """Read it.

        Raises:
            ConfigurationRefused: See `read_secret`.
        """
        password = cls(read_secret(file, setting=setting))
        password._file, password._setting = file, setting
        return password

    def again(self) -> Self:
        """Return the password as the file has it now; the same where the file cannot be read."""
        try:
            return self.read(self._file, setting=self._setting)
        except ConfigurationRefused as error:
            logger.warning("%s; signing in with what was read before, a restart now would fail", error)
            return self
