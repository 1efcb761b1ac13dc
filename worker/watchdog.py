"""Sees that the loop stands still and says where, in the log; it mends nothing, and knows no record."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import sys
import threading
import traceback

from worker.status import Status

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_LATER_S = 10.0


class Watchdog:
    """A thread beside the loop that logs the stacks of all threads when the loop has not ticked for its limit.

    That is when `/livez` begins to say 503, so that the reason is in the log before somebody kills the process. Stacks
    are names of functions and lines of source; no value is in them. Where this thread cannot run either, because
    something holds the interpreter's lock, the interpreter itself writes them to standard error ten seconds later.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to look, every second."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(timeout=_LOOK_EVERY_S)
        faulthandler.cancel_dump_traceback_later()

    def look(self) -> None:
        """Log where all threads are, once for each time that the loop stands still for too long."""
        stalled_s = self._status.stalled_s()
        if stalled_s <= self._status.stall_limit_s:
            if self._told:
                logger.warning("the loop moves again")
            self._told = False
        elif not self._told:
            self._told = True
            logger.error(
                "the loop has not moved for %.0f s, and /livez says so; a restart would read again what is not "
                "committed. This is where all threads are:\n%s",
                stalled_s,
                stacks(),
            )

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            self.look()
            if not self._told:
                # Standard error may be no file, as in tests; then the log is all there is.
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    faulthandler.dump_traceback_later(self._status.stall_limit_s + _LATER_S, file=sys.stderr)


def stacks() -> str:
    """Where each thread of this process is, the innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - the documented way to other threads' stacks
        lines.append(f"thread {names.get(ident, ident)}:")
        lines += [line.rstrip("\n") for line in traceback.format_stack(frame)]
    return "\n".join(lines)
