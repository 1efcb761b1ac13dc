"""A loop that stands still is seen, and where it stands is in the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from tests.fakes import FakeClock
from tests.worker.bench import BenchClock
from worker.status import Status
from worker.watchdog import Watchdog, stacks

LIMIT_S = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def status(clock: FakeClock) -> Status:
    return Status(BenchClock(clock), stall_limit_s=LIMIT_S, silence_limit_s=30.0)


@pytest.fixture
def stuck_thread() -> Iterator[threading.Thread]:
    """A thread that waits in `stuck_in_here`."""
    release, arrived = threading.Event(), threading.Event()

    def stuck_in_here() -> None:
        arrived.set()
        release.wait()

    thread = threading.Thread(target=stuck_in_here, name="the-loop")
    thread.start()
    arrived.wait()
    yield thread
    release.set()
    thread.join()


def test_a_loop_that_stands_still_is_logged_with_the_stacks_of_all_threads(
    clock: FakeClock, status: Status, stuck_thread: threading.Thread, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = Watchdog(status)
    clock.advance(LIMIT_S + 1)

    watchdog.look()

    assert status.why_not_live()
    assert "has not moved for 61 s" in caplog.text
    assert f"thread {stuck_thread.name}:" in caplog.text
    assert "in stuck_in_here" in caplog.text


def test_it_is_logged_once_and_again_only_after_the_loop_has_moved(
    clock: FakeClock, status: Status, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = Watchdog(status)
    caplog.set_level(logging.ERROR)
    for _ in range(3):
        clock.advance(LIMIT_S)
        watchdog.look()
    assert len(caplog.records) == 1
    status.tick()
    watchdog.look()
    clock.advance(LIMIT_S + 1)
    watchdog.look()

    assert len(caplog.records) == 2


def test_a_loop_that_ticks_is_never_logged(clock: FakeClock, status: Status, caplog: pytest.LogCaptureFixture) -> None:
    watchdog = Watchdog(status)
    for _ in range(100):
        clock.advance(LIMIT_S - 1)
        watchdog.look()
        status.tick()

    assert caplog.text == ""


def test_stacks_show_no_value(stuck_thread: threading.Thread) -> None:
    secret = str(4929 * 1234)

    assert secret not in stacks()
    assert "test_stacks_show_no_value" in stacks()
