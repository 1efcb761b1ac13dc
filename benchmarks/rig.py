"""What the benchmarks on Kafka share: real transactions as messages, a topic full of them, a worker that drains it."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq

from tests.kafka.broker import KafkaBroker, kafka_version
from tests.kafka.worker import ROOT, WorkerProcess
from transport import KafkaPublisher, OutgoingMessage, PublisherSettings, create_topics

TRANSACTIONS = ROOT.parent / "shared" / "data" / "transactions"
_CHUNK = 10_000


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the option that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def report(figures: dict[str, Any], file: Path | None) -> None:
    """Print the figures, and write them where asked for, with what they were measured on."""
    content = {"measured_with": _machine(), **figures}
    print(json.dumps(content, indent=1))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    import os

    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    libraries = {name: version(name) for name in ("kafka-python", "torch", "numpy", "msgspec")}
    return {"cores": os.cpu_count(), "processor": model, "python": platform.python_version(),
            "kafka": kafka_version(), "libraries": libraries}  # fmt: skip


def months(*names: str) -> list[Path]:
    """Files of real transactions by month, such as 2018-04."""
    files = [TRANSACTIONS / f"{name}.parquet" for name in names]
    if missing := [file for file in files if not file.exists()]:
        sys.exit(f"{missing[0]} is not there: this benchmark runs on the real transactions beside the checkout")
    return files


def command(*words: object) -> None:
    """Run `offbeat WORDS` as a user would."""
    subprocess.run([sys.executable, "-m", "offbeat", *map(str, words)], check=True, cwd=ROOT)


def train_as_proposed(history: Path, folder: Path) -> None:
    """Publish a detector of the records, with the definition that `offbeat init` proposes, in `folder / "models"`."""
    definition = folder / "stream.toml"
    proposal = subprocess.run(
        [sys.executable, "-m", "offbeat", "init", str(history)], check=True, cwd=ROOT, capture_output=True, text=True
    )
    definition.write_text(proposal.stdout)
    command("train", history, "--stream", definition, "--models", folder / "models")


def as_messages(files: list[Path], topic: str) -> Iterator[list[OutgoingMessage]]:
    """Transactions as JSON messages in order of time, keyed by customer, in chunks."""
    encode = msgspec.json.encode
    for file in files:
        for chunk in pq.ParquetFile(file).iter_batches(_CHUNK):
            rows = chunk.to_pylist()
            for row in rows:
                row["TX_DATETIME"] = row["TX_DATETIME"].isoformat()
            yield [OutgoingMessage(topic, str(row["CUSTOMER_ID"]).encode(), encode(row)) for row in rows]


def fill(broker: KafkaBroker, topic: str, files: list[Path], partitions: int) -> int:
    """Create a topic with its outputs and publish the files into it; the number of messages."""
    create_topics(
        broker.settings, {topic: partitions, f"{topic}.alerts": 1, f"{topic}.dlq": 1, f"{topic}.scores": partitions}
    )
    create_topics(broker.settings, {f"{topic}.state": partitions}, configuration={"cleanup.policy": "compact"})
    publisher = KafkaPublisher(broker.settings, PublisherSettings(compression="lz4", linger_s=0.005))
    count = 0
    try:
        for chunk in as_messages(files, topic):
            publisher.publish(chunk)
            count += len(chunk)
            print(f"\r{count} messages published", end="", file=sys.stderr, flush=True)
    finally:
        publisher.close()
        print(file=sys.stderr)
    return count


@dataclass(frozen=True)
class Drain:
    """How a worker got through a topic that was full before it started.

    Attributes:
        records: Records that it accounted for.
        outcomes: By what became of them.
        seconds: From its first outcome to its last, as seen through its metrics.
        cpu_us_per_record: Processor time a record over that span, all threads.
        start_s: From the process's start to its first outcome.
        peak_memory_mib: Most resident memory until the end.
        ready_memory_mib: Most resident memory when the first outcome was seen.
        exit_code: Of SIGTERM afterwards.
    """

    records: int
    outcomes: dict[str, int]
    seconds: float
    cpu_us_per_record: float
    start_s: float
    peak_memory_mib: float
    ready_memory_mib: float
    exit_code: int

    @property
    def records_per_s(self) -> float:
        """Throughput over the span."""
        return self.records / self.seconds


def drain(worker: WorkerProcess, records: int, timeout_s: float = 900.0) -> Drain:
    """Wait until a freshly started worker has accounted for all records, watching it, then stop it."""
    began = time.perf_counter()
    worker.wait_until_accounted(1)
    first, cpu, seen = time.perf_counter(), worker.cpu_s(), worker.outcomes().total()
    ready_memory = worker.peak_memory_bytes()
    worker.wait_until_accounted(records, timeout_s)
    seconds, cpu = time.perf_counter() - first, worker.cpu_s() - cpu
    outcomes = worker.outcomes()
    peak = worker.peak_memory_bytes()
    return Drain(
        records=outcomes.total(),
        outcomes=dict(outcomes),
        seconds=seconds * records / (records - seen),
        cpu_us_per_record=cpu / (records - seen) * 1e6,
        start_s=first - began,
        peak_memory_mib=peak / 2**20,
        ready_memory_mib=ready_memory / 2**20,
        exit_code=worker.stop(),
    )
