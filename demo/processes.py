"""Processes of our own: started with a log file, ended by their own id; knows nothing of what they run."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from demo.errors import ProcessFailed

_LAST_WORDS_BYTES = 2_000


class OwnProcess:
    """One child process; what it says goes to a file. Use as a context manager, so that it never outlives us."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it, out of reach of the terminal's Ctrl-C: ending it is ours, in our order.

        Raises:
            ProcessFailed: The command cannot be run at all.
        """
        self.name, self.log = name, log
        with log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=None if environment is None else dict(environment),
                    start_new_session=True,
                )
            except OSError as error:
                raise ProcessFailed(f"the {name} cannot be run: {command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs. Negative: the signal that ended it."""
        return self._process.poll()

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            ProcessFailed: It has ended.
        """
        if self.exit_code is not None:
            raise ProcessFailed(f"the {self.name} ended with exit code {self.exit_code}; {self.last_words()}")

    def stop(self, timeout_s: float) -> int:
        """Ask it to end (SIGTERM) and return its exit code; after `timeout_s` end it for good (SIGKILL)."""
        if self.exit_code is None:
            self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
            return -signal.SIGKILL
        except BaseException:  # a second Ctrl-C: nothing of ours stays behind all the same
            self._kill()
            raise

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """Return the end of its log, for an error message."""
        text = self.log.read_bytes()[-_LAST_WORDS_BYTES:].decode(errors="replace").strip()
        return f"its last words (all of them: {self.log}):\n{text}" if text else "it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(timeout_s=5.0)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
