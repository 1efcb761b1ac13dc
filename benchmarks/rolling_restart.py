"""A rolling restart of three workers under load: how long partitions wait, and what the health pages say meanwhile.

Each worker is asked to end (SIGTERM) and another is started in its place, one after the other and each time only when
all partitions are read to their ends again; `--rounds` times over. Once with members that join anew, whose partitions
move, and once with static members, whose partitions wait for them. Settings are those that a worker has unless told
otherwise, but for what `--heartbeat` and `--delivery` say.

The gap is the longest time in which a partition's records waited and none of them got its score, by the broker's clock.
Health pages are asked ten times a second. `/livez` must say 200 whenever it answers, `/readyz` 200 only where records
are scored: not before the histories are there, not after SIGTERM was noticed.

    python -m benchmarks.rolling_restart --json benchmarks/results/rolling_restart.json
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos.arena import SETTINGS, Arena
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.runs import publish_models
from benchmarks.rig import arguments, report
from benchmarks.watcher import Watcher
from tests.kafka.worker import QUICK, WorkerProcess
from worker.settings import WorkerSettings

_LOOK_EVERY_S = 0.1
_DEFAULTS = {
    name: WorkerSettings.model_fields[name].default
    for name in SETTINGS.keys() | QUICK.keys()
    if name in WorkerSettings.model_fields and WorkerSettings.model_fields[name].default is not None
}
"""What a worker has unless told otherwise, in place of the limits that make faults pass quickly."""
_SHORT = ("state__rotation_s", "kafka__metadata_max_age_s", "kafka__request_timeout_s")  # nested; no matter here


class Probe(Watcher):
    """What the pages of workers said.

    Attributes:
        livez: Answers by status.
        readyz: Answers by status.
        lies: Each time that a worker said it was ready, and was not by what it had said of itself before and after.
    """

    def __init__(self, workers: Callable[[], list[WorkerProcess]]) -> None:
        super().__init__(workers, _LOOK_EVERY_S)
        self.livez: Counter[int] = Counter()
        self.readyz: Counter[int] = Counter()
        self.lies: list[str] = []

    def look(self, worker: WorkerProcess) -> None:
        """Ask for its pages."""
        before = _why_idle(worker)
        live, ready = worker.get("/livez")[0], worker.get("/readyz")[0]
        after = _why_idle(worker)
        if live:
            self.livez[live] += 1
        if ready:
            self.readyz[ready] += 1
        if ready == 200 and before and after:
            self.lies.append(f"{worker.process.name}: ready, and {before} before and {after} after")


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    add = options.add_argument
    add("--rounds", type=int, default=3, help="how often each worker is restarted")
    add("--rate", type=float, default=1500.0, help="records a second")
    add("--workers", type=int, default=3)
    add(
        "--heartbeat", type=lambda text: [float(part) for part in text.split(",")], help="intervals to compare, seconds"
    )
    add("--delivery", type=lambda text: text.split(","), default=["at_least_once"])
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # brokers and workers end with us
    heartbeats = chosen.heartbeat or [_DEFAULTS["heartbeat_interval_s"]]
    rows = []
    with tempfile.TemporaryDirectory(prefix="offbeat-rolling-") as folder:
        models = publish_models(Path(folder) / "models")
        for number, (delivery, heartbeat_s, is_static) in enumerate(
            itertools.product(chosen.delivery, heartbeats, (False, True))
        ):
            logs = Path(folder) / str(number)
            logs.mkdir()
            rows.append(run(logs, models, chosen, delivery=delivery, heartbeat_s=heartbeat_s, is_static=is_static))
            report({"rate": chosen.rate, "workers": chosen.workers, "rolling_restarts": rows}, chosen.json)


def run(
    folder: Path, models: Path, chosen: argparse.Namespace, *, delivery: Any, heartbeat_s: float, is_static: bool
) -> dict[str, Any]:
    """What one rolling restart showed."""
    kept = {name: SETTINGS[name] for name in _SHORT}
    settings = _DEFAULTS | kept | {"heartbeat_interval_s": heartbeat_s, "commit_interval_s": None}
    stops_s, starts_s = [], []
    slowest_s = 0.0
    with (
        Cluster() as cluster,
        Arena(
            cluster, folder, models, promise=delivery, rate=chosen.rate, workers=chosen.workers, settings=settings,
            is_static=is_static,
        ) as arena,
        Probe(lambda: list(arena.workers)) as probe,
    ):  # fmt: skip
        for _ in range(chosen.rounds):
            for worker in list(arena.workers):
                time.sleep(2.0)  # of a stream that nothing disturbs
                slowest_s = max(slowest_s, slowest_batch_s(worker))
                began_s = time.monotonic()
                worker.stop()
                stopped_s = time.monotonic()
                heir = arena.replace(worker).wait_until_ready()
                stops_s.append(stopped_s - began_s)
                starts_s.append(time.monotonic() - stopped_s)
                arena.recover()
                assert heir.process.exit_code is None
        slowest_s = max([slowest_s, *map(slowest_batch_s, arena.workers)])
        probe.workers = list
        findings = arena.finish()
    return {
        "delivery": delivery, "membership": "static" if is_static else "dynamic", "heartbeat_interval_s": heartbeat_s,
        "restarts": len(stops_s), "records": findings.records, "lost": findings.lost,
        "duplicated": findings.duplicated, "violations": list(findings.violations),
        "longest_gap_s": round(findings.longest_gap_s, 2), "slowest_batch_at_most_s": slowest_s,
        "longest_stop_s": round(max(stops_s), 2), "longest_start_s": round(max(starts_s), 2),
        "livez": dict(probe.livez), "readyz": dict(probe.readyz), "untrue_readyz": probe.lies,
    }  # fmt: skip


def slowest_batch_s(worker: WorkerProcess) -> float:
    """The bound of the histogram's bucket that the slowest batch is in, in seconds."""
    counts = {
        float(labels["le"]): count
        for (name, labels), count in worker.samples().items()
        if name == "offbeat_batch_duration_seconds_bucket"
    }
    return min((bound for bound, count in counts.items() if count == max(counts.values())), default=0.0)


def _why_idle(worker: WorkerProcess) -> str:
    """Why a worker scores nothing now by its own account, empty where it does; also where it does not answer."""
    try:
        status = worker.status()
    except ValueError:
        return ""
    if not status["model"]:
        return "without a model"
    if status["restoring"]["partitions"]:
        return "restoring histories"
    if status["state"] in ("running", "retrying"):
        return "" if status["assignment"] or status["records"] else "without partitions"
    return str(status["state"])


if __name__ == "__main__":
    main()
