"""Runs of several faults side by side, in processes that end what they have started when they are told to end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context

from benchmarks.chaos.runs import Job, Result, run

_told_to_end = False


def run_all(jobs: Sequence[Job], side_by_side: int) -> Iterator[Result]:
    """The result of each job, as they come."""
    if side_by_side == 1:
        yield from map(run, jobs)
        return
    with ProcessPoolExecutor(side_by_side, mp_context=get_context("spawn"), initializer=_end_when_told) as processes:
        try:
            for done in as_completed([processes.submit(_run, job) for job in jobs]):
                yield done.result()
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _end_when_told() -> None:
    """Let a process that is terminated leave its run in good order: the brokers of the run end with it."""

    def end(number: int, _frame: object) -> None:
        global _told_to_end  # noqa: PLW0603 - the pool would go on with the job that it has fetched already
        _told_to_end = True
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _run(job: Job) -> Result:
    if _told_to_end:
        sys.exit(1)
    return run(job)
