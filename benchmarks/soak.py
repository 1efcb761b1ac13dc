"""Half an hour at the highest rate that the workers keep up with, a fault every minute: what grows, and what does not.

Memory, file descriptors, threads and lag of each worker, once a second.

python -m benchmarks.soak --json benchmarks/results/soak.json --plot benchmarks/results/soak.png
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from matplotlib.figure import Figure

from benchmarks.chaos.arena import Arena
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.faults import (
    Draw,
    freeze_broker,
    freeze_worker,
    reset_connections,
    stall_connections,
)
from benchmarks.chaos.runs import publish_models
from benchmarks.rig import arguments
from benchmarks.watcher import Watcher
from tests.kafka.worker import WorkerProcess

FAULTS: dict[str, Callable[[Arena, Draw], None]] = {
    "connections reset": reset_connections,
    "connections stalled": stall_connections,
    "worker frozen": freeze_worker,
    "broker frozen": freeze_broker,
}
"""Those that every worker outlives, so that there is one history of half an hour for each."""

MEASURES = ("rss_mib", "descriptors", "threads", "lag")
_EVERY_S = 1.0
_STEP_S = 8.0
_FIRST_RATE, _RATE_FACTOR, _MOST_RATE = 500.0, 1.3, 20_000.0
_STEADY = 0.9  # of the highest rate that was kept
_SETTLED = 0.2  # share of the time after which nothing is warming up any more
_SETTINGS = {"max_batch_records": 4096, "session_timeout_s": 6.0}


class Watch(Watcher):
    """Samples of workers.

    Attributes:
        series: By worker: `t_s`, and each of `MEASURES`; lag is None where the worker did not answer.
    """

    def __init__(self, workers: Callable[[], list[WorkerProcess]], began_s: float) -> None:
        super().__init__(workers, _EVERY_S)
        self.series: dict[str, dict[str, list[float | None]]] = {}
        self._began_s = began_s

    def look(self, worker: WorkerProcess) -> None:
        """Take a sample."""
        try:
            process = psutil.Process(worker.process.pid)
            with process.oneshot():
                is_frozen = process.status() == psutil.STATUS_STOPPED
                seen: list[float | None] = [
                    time.monotonic() - self._began_s,
                    process.memory_info().rss / 2**20,
                    process.num_fds(),
                    process.num_threads(),
                ]
        except psutil.Error:
            return
        seen.append(None if is_frozen else _lag(worker))
        series = self.series.setdefault(worker.process.name, {name: [] for name in ("t_s", *MEASURES)})
        for name, value in zip(series, seen, strict=True):
            series[name].append(None if value is None else round(value, 2))


def main() -> int:
    """Run it, report and plot; the exit code."""
    options = arguments(__doc__ or "")
    add = options.add_argument
    add("--minutes", type=float, default=30.0)
    add("--rate", type=float, help="records a second; the highest that is kept, less a tenth, unless given")
    add("--workers", type=int, default=2)
    add("--delivery", default="at_least_once", choices=["at_least_once", "exactly_once"])
    add("--seed", type=int, default=1)
    add("--plot", type=Path, help="draw the samples to this PNG")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # brokers and workers end with us
    with tempfile.TemporaryDirectory(prefix="offbeat-soak-") as folder:
        content = run(Path(folder), chosen)
    print(json.dumps({name: content[name] for name in content if name != "series"}, indent=1))
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if chosen.plot is not None:
        draw(content, chosen.plot)
    return 0 if content["unaccounted"] == 0 and not content["workers_that_ended"] else 1


def run(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """What happened, and all samples."""
    models = publish_models(folder / "models")
    seeds = random.Random(chosen.seed)
    faults: list[dict[str, Any]] = []
    with (
        Cluster() as cluster,
        Arena(
            cluster, folder, models, promise=chosen.delivery, rate=_FIRST_RATE,
            workers=chosen.workers, is_proxied=True, settings=_SETTINGS,
        ) as arena,
    ):  # fmt: skip
        rate = chosen.rate or _STEADY * highest_rate(arena)
        arena.producer.rate = rate
        began_s, before = time.monotonic(), arena.producer.sent
        with Watch(lambda: list(arena.workers), began_s) as watch:
            while (now_s := time.monotonic() - began_s) < 60 * chosen.minutes:
                if now_s >= 60 * (len(faults) + 0.5) and now_s < 60 * (chosen.minutes - 0.5):
                    name = seeds.choice(list(FAULTS))
                    faults.append({"t_s": round(now_s, 1), "fault": name})
                    FAULTS[name](arena, seeds)
                arena.tend()
                arena.producer.check()
                time.sleep(0.2)
        sent = arena.producer.sent - before
        arena.producer.pause()
        arena.drain(600.0)
        unaccounted = sum(worker.total("offbeat_records_unaccounted") for worker in arena.workers)
        ended = arena.restarts
    return {
        "minutes": chosen.minutes, "rate": round(rate, 1), "records": sent, "workers": chosen.workers,
        "unaccounted": unaccounted, "workers_that_ended": ended, "faults": faults,
        "summary": {name: summary(series) for name, series in watch.series.items()},
        "series": watch.series,
    }  # fmt: skip


def highest_rate(arena: Arena) -> float:
    """The highest rate, on a ladder, that sender and workers keep up with for some seconds."""
    rate, kept = _FIRST_RATE, _FIRST_RATE
    while rate <= _MOST_RATE:
        arena.producer.rate = rate
        sent = arena.producer.sent
        time.sleep(_STEP_S)
        lag = sum(_lag(worker) or 0.0 for worker in arena.workers)
        print(f"{rate:.0f} records/s: lag {lag:.0f}", file=sys.stderr, flush=True)
        if lag > rate or arena.producer.sent - sent < 0.8 * rate * _STEP_S:
            break
        rate, kept = rate * _RATE_FACTOR, rate
    arena.producer.rate = _FIRST_RATE
    arena.recover()
    return kept


def summary(series: dict[str, list[float | None]]) -> dict[str, Any]:
    """What there is to say of one worker: growth of memory after it has settled, lag then and at last, extremes."""
    times = np.array(series["t_s"], float)
    settled = times >= times[0] + _SETTLED * (times[-1] - times[0])
    memory = np.array(series["rss_mib"], float)
    lag = np.array([np.nan if value is None else value for value in series["lag"]], float)
    half = times >= np.median(times[settled])
    growth = np.polyfit(times[settled] / 3600, memory[settled], 1)[0] if settled.sum() > 1 else 0.0
    return {
        "rss_mib": _extent(memory[settled]),
        "rss_growth_mib_per_hour": round(float(growth), 1),
        "descriptors": _extent(np.array(series["descriptors"], float)[settled]),
        "threads": _extent(np.array(series["threads"], float)[settled]),
        "median_lag_of_the_first_half": round(float(np.nanmedian(lag[settled & ~half])), 1),
        "median_lag_of_the_second_half": round(float(np.nanmedian(lag[half])), 1),
        "largest_lag": round(float(np.nanmax(lag)), 1),
    }


def draw(content: dict[str, Any], file: Path) -> None:
    """Four panels over time, a line for each worker, a mark for each fault."""
    figure = Figure(figsize=(10, 9), layout="constrained")
    panels = figure.subplots(len(MEASURES), 1, sharex=True)
    titles = ("memory, MiB", "file descriptors", "threads", "lag, records")
    for panel, name, title in zip(panels, MEASURES, titles, strict=True):
        for worker, series in content["series"].items():
            values = [np.nan if value is None else value for value in series[name]]
            panel.plot(np.array(series["t_s"]) / 60, values, linewidth=0.8, label=worker)
        for fault in content["faults"]:
            panel.axvline(fault["t_s"] / 60, color="0.7", linewidth=0.5, zorder=0)
        panel.set_ylabel(title)
        panel.set_ylim(bottom=0)
    panels[0].legend(loc="lower right", fontsize="small")
    panels[0].set_title(f"{content['rate']:,.0f} records/s for {content['minutes']:g} minutes; a grey line is a fault")
    panels[-1].set_xlabel("minutes")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _lag(worker: WorkerProcess) -> float | None:
    try:
        return float(sum(owned["lag"] or 0 for owned in worker.status()["assignment"]))
    except (ValueError, OSError):
        return None


def _extent(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[float]:
    return [round(float(values.min()), 1), round(float(values.max()), 1)]


if __name__ == "__main__":
    sys.exit(main())
