"""Stopping: a wish ends every wait, the first signal asks, the second leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from worker.clock import Clock, Stop, stopping_on_signals


def test_a_wish_ends_a_wait_at_once_and_every_later_one() -> None:
    stop = Stop()
    stop.request()

    assert stop.wait(3600) is True
    assert stop.wait(3600) is True
    assert stop.is_set()


def test_without_a_wish_a_wait_ends_by_itself() -> None:
    assert Stop().wait(0) is False


def test_a_signal_asks_to_stop_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()

    with stopping_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10) is True

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_leaves_at_once_with_its_number() -> None:
    program = (
        "import os, signal\n"
        "from worker.clock import Stop, stopping_on_signals\n"
        "with stopping_on_signals(Stop()):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    raise SystemExit(1)\n"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 143


def test_the_clock_is_that_of_the_machine() -> None:
    clock = Clock()

    assert clock.monotonic_s() <= clock.monotonic_s()
    assert abs(clock.now_s() - time.time()) < 60
