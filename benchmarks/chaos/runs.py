"""One fault from beginning to end: a cluster and an arena of its own, so many injections, and the checker's word."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.chaos.arena import MAX_POLL_INTERVAL_S, Arena, NotRecovered
from benchmarks.chaos.checker import Findings, Promise
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.nursery import Nursery
from benchmarks.chaos.recording import NAME, fitted
from detector import ModelDirectory

LAUNCHER = "benchmarks.chaos.launcher"


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        fault: Name of the fault.
        delivery: What is promised.
        times: How often to inject it.
        records: How many records to send at least.
        seed: Decides when what happens to whom, as far as machines let it.
        workers: How many workers, where the fault does not say.
        models: A directory with the published detector, which is copied.
        logs: Where to keep the workers' logs; None to throw them away where all was well.
    """

    fault: str
    delivery: Promise
    times: int
    records: int
    seed: int
    workers: int
    models: Path
    logs: Path | None = None


@dataclass(frozen=True)
class Result:
    """What came of a job; the first seven are what `--json` writes.

    Attributes:
        fault: Name of the fault.
        delivery: What was promised.
        times: How often it was injected, each time followed by a recovery.
        records: Records of the input, each with an outcome that was checked.
        lost: Messages that must be there and are not.
        duplicated: Messages beyond the first about the same record on the same output.
        longest_gap_s: Longest time in which records of a partition waited and none got its first score.
        outcomes: Records by what became of them.
        moved_entities: Entities whose history began again on another partition, or in a topic created anew.
        restarts: Workers that ended by themselves and were started again.
        seconds: How long it took in all.
        violations: Each broken promise in words.
    """

    fault: str
    delivery: Promise
    times: int
    records: int
    lost: int
    duplicated: int
    longest_gap_s: float
    outcomes: dict[str, int]
    moved_entities: int
    restarts: int
    seconds: float
    violations: tuple[str, ...]

    def figures(self) -> dict[str, Any]:
        """The row of the results file; what broke is in it only where something did."""
        row = {name: value for name, value in asdict(self).items() if name in FIGURES}
        return row | ({"violations": list(self.violations)} if self.violations else {})


FIGURES = ("fault", "delivery", "times", "records", "lost", "duplicated", "longest_gap_s")


def publish_models(directory: Path) -> Path:
    """A directory with the detector that all runs share."""
    ModelDirectory(directory / NAME).publish(fitted())
    return directory


def run(job: Job) -> Result:
    """Inject one kind of fault so often, and check what came of every record."""
    began_s = time.monotonic()
    fault = FAULTS[job.fault]
    draw = random.Random(f"{job.seed} {job.fault} {job.delivery}")
    logs = job.logs or Path(tempfile.mkdtemp(prefix="offbeat-chaos-"))
    logs.mkdir(parents=True, exist_ok=True)
    models = logs / "models"
    shutil.copytree(job.models, models, dirs_exist_ok=True)
    variables = {"CHAOS_SLOW_S": str(MAX_POLL_INTERVAL_S + 2)}
    times = restarts = 0
    stuck: tuple[str, ...] = ()
    with (
        Nursery(logs / "nursery.log") as nursery,
        Cluster(fault.brokers) as cluster,
        Arena(
            cluster, logs, models, promise=job.delivery, rate=job.records / (job.times * fault.seconds),
            workers=fault.workers or job.workers, module=LAUNCHER if fault.is_launched else "worker",
            variables=variables, is_proxied=fault.is_proxied, settings=fault.settings,
            allowed_exits=fault.allowed_exits, processes=nursery.start,
        ) as arena,
    ):  # fmt: skip
        try:
            for _ in range(job.times):
                fault.inject(arena, draw)
                arena.recover()
                times += 1
            findings = arena.finish(job.records)
        except NotRecovered as error:
            stuck = (str(error),)
            findings = arena.findings()
        restarts = arena.restarts
    violations = (*stuck, *findings.violations)
    if job.logs is None and not violations:
        shutil.rmtree(logs, ignore_errors=True)
    elif violations:
        violations = (*violations, f"the logs are in {logs}")
    return _result(job, times, findings, restarts, time.monotonic() - began_s, violations)


def _result(
    job: Job, times: int, findings: Findings, restarts: int, seconds: float, violations: tuple[str, ...]
) -> Result:
    return Result(
        job.fault, job.delivery, times, findings.records, findings.lost, findings.duplicated,
        round(findings.longest_gap_s, 2), dict(findings.outcomes), findings.moved_entities, restarts,
        round(seconds, 1), violations,
    )  # fmt: skip
