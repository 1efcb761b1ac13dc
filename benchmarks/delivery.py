"""What exactly-once delivery costs against at-least-once, in throughput and in latency, on a real broker.

python -m benchmarks.delivery --json benchmarks/results/delivery.json

Throughput is that of a worker that drains a topic of real transactions. Latency is from a record's timestamp to when a
reader of committed messages has its alert, at a steady rate with one odd record in fifty.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benchmarks.rig import Drain, arguments, drain, fill, months, report, train_as_proposed
from detector import ModelDirectory
from tests.kafka.broker import KafkaBroker
from tests.kafka.worker import WorkerProcess
from tests.payments import fitted_detector, message, odd_message
from transport import KafkaPublisher, OutgoingMessage, PublisherSettings, create_topics

TOPIC = "transactions"
DELIVERIES = ("at_least_once", "exactly_once")
"""Each with the commit interval that it has by default."""
_ODD_EVERY = 50


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--rounds", type=int, default=3, help="rounds of both, in turn")
    options.add_argument("--partitions", type=int, default=4)
    options.add_argument("--rate", type=int, default=1000, help="records a second where latency is measured")
    options.add_argument("--seconds", type=int, default=10, help="how long that goes on")
    options.add_argument("--scores", action="store_true", help="publish the score of every record, too")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(run(Path(folder), chosen), chosen.json)


def run(folder: Path, chosen: Any) -> dict[str, Any]:
    """The figures of both, which take turns, and the ratios of exactly_once to at_least_once."""
    train_as_proposed(months("2018-06")[0], folder)
    drains: dict[str, list[Drain]] = {name: [] for name in DELIVERIES}
    waits: dict[str, list[float]] = {name: [] for name in DELIVERIES}
    with KafkaBroker(heap_mb=1024) as broker:
        sent = fill(broker, TOPIC, months("2018-07"), chosen.partitions)
        for turn, name in in_turn(chosen.rounds):
            scores: dict[str, Any] = {"score_topic": f"{TOPIC}.scores"} if chosen.scores else {}
            with WorkerProcess(
                folder, bootstrap_servers=broker.bootstrap_servers, topic=TOPIC, models=folder / "models",
                group_id=f"round-{turn}-{name}", delivery=name, commit_interval_s=None, **scores,
            ) as worker:  # fmt: skip
                drains[name].append(drain(worker, sent))
            waits[name] += latencies(broker, folder, f"steady-{turn}-{name}", name, chosen.rate, chosen.seconds)
    figures = {name: _summary(drains[name], waits[name]) for name in DELIVERIES}
    once, least = figures["exactly_once"], figures["at_least_once"]
    ratios = {key: once[key] / least[key] for key in least if isinstance(least[key], float)}
    return {"records": sent, "rounds": chosen.rounds, "rate": chosen.rate, **figures, "ratio": ratios}


def in_turn(rounds: int) -> list[tuple[int, str]]:
    """Round and delivery of each run; every other round the other way about, as machines grow slower and faster."""
    return [(turn, name) for turn in range(rounds) for name in DELIVERIES[:: -1 if turn % 2 else 1]]


def latencies(broker: KafkaBroker, folder: Path, topic: str, delivery: str, rate: int, seconds: int) -> list[float]:
    """Seconds from the timestamps of odd records to when a reader of committed messages had their alerts."""
    models = folder / "payments"
    if not models.exists():
        ModelDirectory(models / "payments").publish(fitted_detector())
    create_topics(broker.settings, {topic: 2, f"{topic}.alerts": 1, f"{topic}.dlq": 1})
    reader = KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers, isolation_level="read_committed", fetch_max_wait_ms=20
    )
    reader.assign([TopicPartition(f"{topic}.alerts", 0)])
    reader.seek_to_beginning()
    found: list[float] = []
    with WorkerProcess(
        folder, bootstrap_servers=broker.bootstrap_servers, topic=topic, models=models, group_id=topic,
        delivery=delivery, commit_interval_s=None,
    ) as worker:  # fmt: skip
        worker.wait_until_ready()
        publisher = KafkaPublisher(broker.settings, PublisherSettings())
        slices, count = seconds * 20, max(rate // 20, 1)
        began = time.monotonic()
        for turn in range(slices):
            numbers = range(turn * count, (turn + 1) * count)
            publisher.publish([OutgoingMessage(topic, str(n).encode(), _value(n)) for n in numbers])
            while (left := began + turn / 20 - time.monotonic()) > 0:
                found += _arrived(reader, left)
        until = time.monotonic() + 30
        while len(found) < slices * count // _ODD_EVERY and time.monotonic() < until:
            found += _arrived(reader, 0.05)
        publisher.close()
        worker.stop()
    reader.close()
    return found


def _value(number: int) -> bytes:
    return odd_message(number) if number % _ODD_EVERY == 0 else message(number % 1000)


def _arrived(reader: KafkaConsumer, wait_s: float) -> list[float]:
    messages = [each for polled in reader.poll(timeout_ms=int(wait_s * 1000)).values() for each in polled]
    now_s = time.time()
    times = [json.loads(each.value)["source"]["timestamp"] for each in messages]
    return [now_s - datetime.fromisoformat(time_of).timestamp() for time_of in times]


def _summary(drains: list[Drain], waits: list[float]) -> dict[str, Any]:
    per_s = [each.records_per_s for each in drains]
    return {
        "records_per_s": statistics.median(per_s),
        "records_per_s_low": min(per_s),
        "records_per_s_high": max(per_s),
        "cpu_us_per_record": statistics.median(each.cpu_us_per_record for each in drains),
        "latency_ms_p50": float(np.percentile(waits, 50) * 1000),
        "latency_ms_p95": float(np.percentile(waits, 95) * 1000),
        "latency_ms_p99": float(np.percentile(waits, 99) * 1000),
        "alerts_waited_for": len(waits),
        "outcomes": drains[-1].outcomes,
        "exit_codes": sorted({each.exit_code for each in drains}),
    }


if __name__ == "__main__":
    main()
