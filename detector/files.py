"""Files of a directory that somebody else may have written to: each is read once, and only if it is a plain file.

It knows nothing of what is in them. No link is followed, below the directory and in its place; what is no regular file
(a pipe would be waited for without end) is not read; and no more bytes are than the caller allows.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UnsafeFileError(ValueError):
    """A file that is not read for what it is; the message says what, beginning with `it`.

    Attributes:
        is_too_large: It has more bytes than the caller allows.
    """

    def __init__(self, message: str, *, is_too_large: bool = False) -> None:
        super().__init__(message)
        self.is_too_large = is_too_large


class Folder:
    """One directory, held open: all that is read through it is of this very directory, whatever takes its name since.

    Attributes:
        path: Where it was, for messages.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def read(self, name: str, most_bytes: int, exactly: int | None = None) -> bytes:
        """The bytes of one file, read once.

        Args:
            name: A plain name; it has no parts.
            most_bytes: A larger file is refused before a byte of it is read.
            exactly: How many bytes it must have, where that is known.

        Raises:
            UnsafeFileError: It is a link, no regular file, or not of an allowed size.
            OSError: It is not there or cannot be read.
        """
        return _read(name, self._descriptor, most_bytes, exactly)


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """A directory to read files of.

    Raises:
        UnsafeFileError: It is a symbolic link.
        OSError: It is not there, is none, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise UnsafeFileError("it is a symbolic link, which would lead elsewhere tomorrow") from error
        raise
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file that stands alone, by the rules of `Folder.read`; links on the way to it are followed."""
    return _read(path, None, most_bytes, None)


def _read(name: str | Path, descriptor: int | None, most_bytes: int, exactly: int | None) -> bytes:
    try:
        opened_file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError("it is a symbolic link, which would lead elsewhere tomorrow") from error
        if error.errno == errno.ENXIO:
            raise UnsafeFileError("it is no regular file") from error
        raise
    with os.fdopen(opened_file, "rb") as file:
        found = os.fstat(file.fileno())
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(name))
        if not stat.S_ISREG(found.st_mode):
            raise UnsafeFileError("it is no regular file")
        if exactly is not None and found.st_size != exactly:
            raise UnsafeFileError(f"it has {found.st_size} bytes, and {exactly} were published")
        if found.st_size > most_bytes:
            raise UnsafeFileError(f"it is larger than {most_bytes} bytes", is_too_large=True)
        content = file.read(found.st_size + 1)  # no more than it had: it may grow while it is read
        if len(content) != found.st_size:
            raise BlockingIOError(errno.EAGAIN, "it is being written", str(name))
    return content
