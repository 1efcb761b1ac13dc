"""Reading a topic for training: records a second and peak memory as the range grows, beside a file of the same records.

Real transactions go to a topic of four partitions. Ranges of growing length are then loaded as `offbeat train` loads
them, each in a process of its own, keeping at most so many records; and the same records from JSON lines.

    python -m benchmarks.topic_reading --json benchmarks/results/topic_reading.json
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.rig import arguments, as_messages, months, report
from detector import StreamDefinition
from tests.kafka.broker import KafkaBroker
from trainer.loading import load
from trainer.topics import topic_range
from transport import KafkaPublisher, KafkaSettings, PublisherSettings, create_topics

TOPIC = "transactions"
PARTITIONS = 4

DEFINITION = """
name = "transactions"
id = "TRANSACTION_ID"
key = "CUSTOMER_ID"

[time]
field = "TX_DATETIME"

[[feature]]
kind = "number"
field = "TX_AMOUNT"
log = true

[[feature]]
kind = "category"
field = "TERMINAL_ID"
"""

HISTORY = "".join(
    f"""
[[feature]]
kind = "history"
statistic = "{statistic}"
of = "TX_AMOUNT"
window = "{window}"
"""
    for statistic, window in (("count", "1d"), ("mean", "7d"), ("z", "30d"))
)


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument(
        "--records", nargs="+", type=int, default=[100_000, 200_000, 400_000], help="lengths of ranges"
    )
    options.add_argument("--keep", type=int, default=50_000, help="most records that are kept, as --max-rows")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder, KafkaBroker(heap_mb=1024) as broker:
        report(run(Path(folder), broker, sorted(chosen.records), chosen.keep), chosen.json)


def run(folder: Path, broker: KafkaBroker, lengths: Sequence[int], keep: int) -> dict[str, Any]:
    """The figures."""
    ends = fill(folder, broker, lengths)
    cases = []
    for with_history in (False, True):
        for length in lengths:
            file = folder / f"{length}.jsonl"
            for source, what in (("topic", ends[length]), ("file", str(file))):
                found = measured(broker.settings if source == "topic" else None, what, keep, with_history)
                assert found["records"] == length
                cases.append({"source": source, "with_history": with_history, **found})
    return {"partitions": PARTITIONS, "kept": keep, "loaded": cases}


def fill(folder: Path, broker: KafkaBroker, lengths: Sequence[int]) -> dict[int, str]:
    """Publish the longest range, and write each as a file; where each ends, as `--to` has it."""
    create_topics(broker.settings, {TOPIC: PARTITIONS})
    publisher = KafkaPublisher(broker.settings, PublisherSettings(compression="lz4", linger_s=0.005))
    counts, ends = dict.fromkeys(range(PARTITIONS), 0), {}
    files = {length: (folder / f"{length}.jsonl").open("wb") for length in lengths}
    messages = (one for chunk in as_messages(months("2018-04", "2018-05"), TOPIC) for one in chunk)
    sent = 0
    for length in lengths:
        while part := list(islice(messages, min(10_000, length - sent))):
            placed = [(int(one.key or b"0") % PARTITIONS, one) for one in part]
            publisher.publish([replace(one, partition=number) for number, one in placed])
            for number, one in placed:
                counts[number] += 1
                for limit, file in files.items():
                    if limit >= length:
                        file.write((one.value or b"") + b"\n")
            sent += len(part)
        ends[length] = ",".join(f"{number}:{count}" for number, count in counts.items())
    for file in files.values():
        file.close()
    publisher.close()
    return ends


def measured(kafka: KafkaSettings | None, what: str, keep: int, with_history: bool) -> dict[str, Any]:  # noqa: FBT001 - sent to a process
    """One loading, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(loaded, (kafka, what, keep, with_history))


def loaded(kafka: KafkaSettings | None, what: str, keep: int, with_history: bool) -> dict[str, Any]:  # noqa: FBT001 - sent to a process
    """Load a range of the topic, or a file; seconds, and how much memory it took at most beyond what was there."""
    stream = StreamDefinition.from_toml(DEFINITION + (HISTORY if with_history else ""))
    before, began_s, began_cpu_s = peak_bytes(), time.monotonic(), time.process_time()
    sources: Any = [Path(what)] if kafka is None else topic_range(kafka, TOPIC, None, what).parts
    dataset = load(sources, stream, max_records=keep)
    seconds, cpu_s = time.monotonic() - began_s, time.process_time() - began_cpu_s
    return {
        "records": dataset.decoded,
        "seconds": round(seconds, 2),
        "records_per_s": round(dataset.decoded / seconds),
        "cpu_us_per_record": round(cpu_s / dataset.decoded * 1e6, 1),
        "peak_growth_mb": round((peak_bytes() - before) / 1e6, 1),
    }


def peak_bytes() -> int:
    """Most resident memory that this process has had so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


if __name__ == "__main__":
    main()
