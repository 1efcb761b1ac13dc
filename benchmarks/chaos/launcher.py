"""`python -m benchmarks.chaos.launcher`: the worker with two hooks, a clock that jumps and a batch that is slow.

CHAOS_CLOCK names a file of eight bytes, a float64 of seconds by which this process's wall clock is wrong. SIGUSR1 makes
the next batch take CHAOS_SLOW_S seconds longer. The product knows nothing of either.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def shift_clock(file: Path) -> None:
    """Let `time.time` be wrong by what the file says, from now on and whenever it changes."""
    with file.open("rb") as opened:
        shared = mmap.mmap(opened.fileno(), 8, access=mmap.ACCESS_READ)
    right = time.time

    def wrong() -> float:
        return float(right() + struct.unpack("d", shared[:8])[0])

    time.time = wrong


def slow_down_on_signal(seconds: float) -> None:
    """Let the batch after each SIGUSR1 take so much longer: polled, and not yet published."""
    from worker.loop import Worker

    asked: list[bool] = []
    process: Callable[..., None] = Worker.process

    def slowly(self: Worker, batch: Any) -> None:
        if asked:
            asked.clear()
            time.sleep(seconds)
        process(self, batch)

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        asked.append(True)

    Worker.process = slowly  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, on_signal)


if __name__ == "__main__":
    if "CHAOS_CLOCK" in os.environ:
        shift_clock(Path(os.environ["CHAOS_CLOCK"]))
    slow_down_on_signal(float(os.environ.get("CHAOS_SLOW_S", "0")))
    from worker.commands import work_command

    sys.exit(work_command(sys.argv[1:]))
