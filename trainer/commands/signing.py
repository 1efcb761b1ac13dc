"""The key that signs versions, and where its passphrase comes from: never a flag, which other users could see."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataFileError

if TYPE_CHECKING:
    from detector import PrivateKey

PASSPHRASE_VARIABLE = "OFFBEAT_SIGNING_PASSPHRASE"  # noqa: S105 - where it is, not what it is
"""Variable with the passphrase of the private key; with `_FILE` behind it, that of a file whose content it is."""

_MOST_BYTES = 4096


def signing_key(path: Path, environment: Mapping[str, str] | None = None) -> PrivateKey:
    """The private key of a file, opened with the passphrase of the environment where it is encrypted.

    Raises:
        SigningKeyError: The key cannot be used.
        DataFileError: The passphrase is given twice, or its file cannot be read.
    """
    from detector import PrivateKey, SigningKeyError

    secret = passphrase(environment)
    try:
        return PrivateKey.read(path, secret)
    except SigningKeyError as error:
        if secret is None and "no passphrase" in str(error):
            raise SigningKeyError(f"{error}: set {PASSPHRASE_VARIABLE} or {PASSPHRASE_VARIABLE}_FILE") from error
        raise


def passphrase(environment: Mapping[str, str] | None = None) -> str | None:
    """The passphrase of the environment, None where there is none; of a file without the line's end.

    Raises:
        DataFileError: It is given twice, or its file cannot be read; nothing of it is in the message.
    """
    environment = os.environ if environment is None else environment
    given, file = environment.get(PASSPHRASE_VARIABLE), environment.get(f"{PASSPHRASE_VARIABLE}_FILE")
    if given and file:
        raise DataFileError(f"{PASSPHRASE_VARIABLE} and {PASSPHRASE_VARIABLE}_FILE are both set: unset one")
    if not file:
        return given or None
    try:
        with Path(file).open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        wrong = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataFileError(f"{PASSPHRASE_VARIABLE}_FILE {file}: cannot be read ({wrong})") from None
    if len(content) > _MOST_BYTES or not content.rstrip("\r\n"):
        raise DataFileError(f"{PASSPHRASE_VARIABLE}_FILE {file}: holds no passphrase, or far more than one")
    return content.rstrip("\r\n")
