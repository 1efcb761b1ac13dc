"""Time and the wish to stop, as inputs: what waits, waits here, so that a signal ends it and a test can skip it."""

from __future__ import annotations

import os
import select
import signal
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Clock:
    """The time of this machine."""

    def monotonic_s(self) -> float:
        """Seconds that only go forward: for durations and limits."""
        return time.monotonic()

    def now_s(self) -> float:
        """Seconds since the epoch: for timestamps that leave the process."""
        return time.time()


class Stop:
    """The wish to stop, which a signal may raise at any moment, also while `wait` waits.

    A signal handler may run between any two steps of the main thread, so it must take no lock that the main thread may
    hold: `threading.Event` does, a byte in a pipe does not.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._wished = False
        weakref.finalize(self, _close, self._reader, self._writer)

    def request(self) -> None:
        """Ask to stop; may be called from a signal handler and from any thread."""
        if not self._wished:
            self._wished = True
            os.write(self._writer, b"x")  # stays in the pipe: every later wait ends at once

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self._wished

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks to stop, at most `seconds`; whether somebody did."""
        waiting = select.poll()  # unlike select.select, at home with many open files
        waiting.register(self._reader, select.POLLIN)
        waiting.poll(max(seconds, 0.0) * 1000)
        return self._wished


@contextmanager
def stopping_on_signals(stop: Stop) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT ask to stop, and a second one leave at once with 128 + its number.

    The old handlers come back at the end. Signals can only be listened to from the main thread.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)  # no cleaning up: what is not committed is read again
        stop.request()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
