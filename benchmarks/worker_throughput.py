"""Peak memory and records per second of the worker on a real broker, beside a consumer that only polls.

python -m benchmarks.worker_throughput --json benchmarks/results/worker_throughput.json
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rig import Drain, arguments, drain, fill, months, report, train_as_proposed
from tests.kafka.broker import KafkaBroker
from tests.kafka.worker import WorkerProcess
from transport import KafkaSource, SourceSettings

TOPIC = "transactions"
BATCHES = (512, 2048, 4096, 8192)


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--rounds", type=int, default=3, help="rounds of all contestants, in turn")
    options.add_argument("--partitions", type=int, default=4)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(run(Path(folder), chosen.rounds, chosen.partitions), chosen.json)


def run(folder: Path, rounds: int, partitions: int) -> dict[str, Any]:
    """The figures: medians over the rounds, in which the contestants take turns."""
    live = months("2018-07")
    train_as_proposed(months("2018-06")[0], folder)
    runs: dict[str, list[Drain]] = {f"worker, batches of {size}": [] for size in BATCHES}
    polls: list[float] = []
    with KafkaBroker(heap_mb=1024) as broker:
        sent = fill(broker, TOPIC, live, partitions)
        for turn in range(rounds):
            for size in BATCHES:
                with WorkerProcess(
                    folder, bootstrap_servers=broker.bootstrap_servers, topic=TOPIC, models=folder / "models",
                    group_id=f"round-{turn}-{size}", max_batch_records=size,
                ) as worker:  # fmt: skip
                    runs[f"worker, batches of {size}"].append(drain(worker, sent))
            polls.append(poll_only(broker, sent, turn))
    return {
        "records": sent,
        "rounds": rounds,
        "poll_only_records_per_s": statistics.median(polls),
        **{name: _summary(drains, statistics.median(polls)) for name, drains in runs.items()},
    }


def poll_only(broker: KafkaBroker, records: int, turn: int) -> float:
    """Records per second of our source alone: polled into columns, marked as done, not looked at."""
    source = KafkaSource(
        broker.settings,
        SourceSettings(topics=(TOPIC,), group_id=f"poll-only-{turn}", max_batch_records=4096, poll_timeout_s=0.1,
                       session_timeout_s=6, heartbeat_interval_s=0.5),
    )  # fmt: skip
    seen = first = 0
    began = time.perf_counter()
    try:
        while seen < records:
            batch = source.poll()
            if batch is None:
                continue
            if not seen:
                began, first = time.perf_counter(), len(batch)
            seen += len(batch)
            source.done(batch)
    finally:
        source.close()
    return (seen - first) / (time.perf_counter() - began)


def _summary(drains: list[Drain], polled_per_s: float) -> dict[str, Any]:
    median = {
        name: statistics.median(asdict(each)[name] for each in drains)
        for name in ("cpu_us_per_record", "peak_memory_mib", "ready_memory_mib", "start_s")
    }
    per_s = [each.records_per_s for each in drains]
    return {
        "records_per_s": statistics.median(per_s),
        "records_per_s_low": min(per_s),
        "records_per_s_high": max(per_s),
        "share_of_poll_only": statistics.median(per_s) / polled_per_s,
        **median,
        "outcomes": drains[-1].outcomes,
        "exit_codes": sorted({each.exit_code for each in drains}),
    }


if __name__ == "__main__":
    main()
