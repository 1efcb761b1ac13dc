"""Running what is to be compared: one result for each method, problem and seed, appended to a file as it comes."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.quality import images, tables, transactions
from benchmarks.quality.anchors import Method
from benchmarks.quality.problems import Part, Problem, Sample

PARTS: Mapping[str, Part] = {"tables": tables.PART, "transactions": transactions.PART, "images": images.PART}

BATCH_ROWS = 4_096
"""Rows that are scored at once to see what a row costs."""

ENOUGH_S = 1.0
"""Scoring that takes longer than this is not timed a second time."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One method on one problem with one seed."""

    part: str
    problem: Problem
    method: str
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What its result is found by."""
        return self.part, self.problem.name, self.method, self.seed


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        part: Of the job.
        problem: Name of the problem.
        method: Name of the method.
        seed: Of the split and of the method.
        figures: Higher is better, by name; empty where the method failed.
        width: Columns of a row.
        train_rows: Rows that were fitted on.
        test_rows: Rows that were scored.
        anomalies: Anomalies among the latter.
        fit_s: Time to fit on one thread.
        us_per_row: Time to score a row in batches of `BATCH_ROWS`, on one thread.
        error: Why there are no figures.
    """

    part: str
    problem: str
    method: str
    seed: int
    figures: dict[str, float] = field(default_factory=dict)
    width: int = 0
    train_rows: int = 0
    test_rows: int = 0
    anomalies: int = 0
    fit_s: float = 0.0
    us_per_row: float = 0.0
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What it is found by."""
        return self.part, self.problem, self.method, self.seed


def jobs_of(part: str, problems: Sequence[Problem], methods: Iterable[str], seeds: Sequence[int]) -> list[Job]:
    """Every job of a part, seed after seed, so that a part of them covers every problem.

    A method without randomness on a split without randomness runs once.
    """
    description = PARTS[part]
    return [
        Job(part, problem, method, seed)
        for seed in seeds
        for problem in problems
        for method in methods
        if seed == seeds[0] or description.is_split_by_seed or description.entries[method].is_random
    ]


def left_out(part: str) -> dict[str, str]:
    """Methods that cannot take part here, and the package that they need."""
    needed = {name: entry.needs for name, entry in PARTS[part].entries.items() if entry.needs is not None}
    return {name: package for name, package in needed.items() if find_spec(package) is None}


def run(jobs: Sequence[Job], processes: int) -> Iterator[Result]:
    """Do the jobs, each on one thread; results come as they are ready."""
    if processes == 1:
        one_thread()
        yield from map(do, jobs)
        return
    os.environ |= dict.fromkeys(_THREADS, "1")  # a new process reads them before it loads a library
    with ProcessPoolExecutor(processes, get_context("spawn"), initializer=one_thread) as pool:
        waiting = [pool.submit(do, job) for job in jobs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def one_thread() -> None:
    """Keep this process to one thread, so that times are of one core."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def do(job: Job) -> Result:
    """Fit, score and judge. A method that fails is a result too: the others go on, and the page says so."""
    part = PARTS[job.part]
    sample = part.load(job.problem, job.seed)
    method = part.entries[job.method].make(job.seed, sample)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            method.fit(sample.train)
            fit_s = time.perf_counter() - began
            figures = sample.judge(np.asarray(method.score(sample.test)).ravel())
            us_per_row = 1e6 * seconds_per_row(method, sample)
    except Exception as error:  # noqa: BLE001 - whatever a method dies of, the comparison goes on without it
        return Result(*job.key, error=f"{type(error).__name__}: {error}"[:300])
    return Result(
        *job.key,
        figures={name: round(figure, 6) for name, figure in figures.items()},
        width=int(np.prod(sample.train.shape[1:])),
        train_rows=len(sample.train),
        test_rows=len(sample.test),
        anomalies=int(sample.odd.sum()),
        fit_s=round(fit_s, 4),
        us_per_row=round(us_per_row, 4),
    )


def seconds_per_row(method: Method, sample: Sample) -> float:
    """Least time of three to score a batch, the test rows repeated as often as it takes to fill it."""
    batch = sample.test[np.arange(BATCH_ROWS) % len(sample.test)]
    times: list[float] = []
    while len(times) < 3 and (not times or times[-1] < ENOUGH_S):
        began = time.perf_counter()
        method.score(batch)
        times.append(time.perf_counter() - began)
    return min(times) / BATCH_ROWS


class ResultsFile:
    """Results as lines of JSON. A line that was cut off by the end of its process is dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            path.write_bytes(whole)
        self._results = [Result(**json.loads(line)) for line in whole.splitlines()]

    @property
    def results(self) -> list[Result]:
        """The last result of each key."""
        return list({result.key: result for result in self._results}.values())

    def forget(self, methods: Iterable[str]) -> None:
        """Drop all results of some methods, as they are to run again."""
        gone = set(methods)
        self._results = [result for result in self.results if result.method not in gone]
        self._path.write_text("".join(map(_line, self._results)), encoding="utf-8")

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that have no figures yet."""
        done = {result.key for result in self.results if result.error is None}
        return [job for job in jobs if job.key not in done]

    def add(self, result: Result) -> None:
        """Keep a result, in the file as well."""
        self._results.append(result)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(result))


def _line(result: Result) -> str:
    return json.dumps(asdict(result)) + "\n"
