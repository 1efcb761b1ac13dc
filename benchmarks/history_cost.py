"""What histories cost: the fold for each record, memory for each entity, writing blocks, and restoring from them.

    python -m benchmarks.history_cost --json benchmarks/results/history_cost.json

Twenty features of one number. The fold is measured on 100,000 entities: drawn uniformly, one of them with a tenth of
the records, and in batches of 16. Blocks are written to and read from a real broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rig import arguments, report
from detector import (
    Alerting,
    Detector,
    History,
    HistoryState,
    NormalScores,
    Records,
    StreamDefinition,
    count_blocks,
    fit_threshold,
)
from detector.stream import ThresholdSetting
from tests.kafka.broker import KafkaBroker
from transport import KafkaPublisher, Partition, PublisherSettings, create_topics
from worker.broker import Broker
from worker.restoring import PartitionHistory
from worker.state_topic import Lineage, block_message

ENTITIES = 100_000
RECORDS_PER_S = 20_000
ROTATION_S = 300
STATE = "payments.state"

_OF_NUMBER = (
    ("sum", "1d"), ("sum", "7d"), ("sum", "30d"), ("ratio", "1d"), ("ratio", "7d"), ("ratio", "30d"), ("z", "7d"),
    ("z", "30d"), ("mean", "30d"), ("excess", "3d"), ("excess", "14d"), ("robust_mean", "all"),
    ("robust_deviation", "all"), ("robust_ratio", "all"), ("robust_z", "all"),
)  # fmt: skip
_OF_RECORDS = (("count", "1d"), ("count", "7d"), ("count", "30d"), ("since_last", "all"), ("hour_deviation", "all"))


def stream() -> StreamDefinition:
    """Twenty history features of an amount that is always there."""
    return StreamDefinition.model_validate(
        {
            "name": "payments",
            "key": "card",
            "time": {"field": "at"},
            "feature": [
                {"kind": "number", "field": "amount", "required": True},
                *({"kind": "history", "statistic": s, "of": "amount", "window": w} for s, w in _OF_NUMBER),
                *({"kind": "history", "statistic": s, "window": w} for s, w in _OF_RECORDS),
            ],
        }
    )


def main() -> None:
    """Run it and report."""
    options = arguments(__doc__ or "")
    options.add_argument("--rounds", type=int, default=7, help="rounds of all cases, in turn")
    options.add_argument("--restore", type=int, default=1_000_000, help="entities that are restored")
    chosen = options.parse_args()
    report(run(chosen.rounds, chosen.restore), chosen.json)


def run(rounds: int, restored: int) -> dict[str, Any]:
    """The figures: minimum and median over the rounds, in which the cases take turns."""
    history = History.fit(stream(), records(np.arange(1000), 0, np.random.default_rng(0)))
    if history is None:
        raise AssertionError("the stream has history features")
    draw = np.random.default_rng(1)
    cases: dict[str, tuple[int, int, Callable[[int], NDArray[np.int64]]]] = {
        "uniform, batches of 4096": (4096, 40, lambda n: draw.integers(0, ENTITIES, n)),
        "one entity with a tenth of the records, batches of 4096": (
            4096, 40, lambda n: np.where(draw.random(n) < 0.1, 0, draw.integers(0, ENTITIES, n)),
        ),
        "uniform, batches of 16": (16, 2000, lambda n: draw.integers(0, ENTITIES, n)),
    }  # fmt: skip
    state = filled(history, ENTITIES)
    spent: dict[str, list[float]] = {name: [] for name in cases}
    now_us = 1_700_000_000_000_000
    for _ in range(rounds):
        for name, (size, batches, entities) in cases.items():
            work = []
            for _ in range(batches):
                work.append(records(entities(size), now_us, draw))
                now_us += size * 1_000_000 // RECORDS_PER_S
            began = time.process_time()
            for batch in work:
                _, changes = history.fold(state, batch)
                state.apply(changes)
            spent[name].append((time.process_time() - began) / (size * batches) * 1e6)
    return {
        "features": len(history.names),
        "entities": ENTITIES,
        "fold_cpu_us_per_record": {
            name: {"least": min(times), "median": float(np.median(times))} for name, times in spent.items()
        },
        "bytes_per_entity_without_index": history.row_bytes,
        **blocks(history, restored),
    }


def records(entities: NDArray[np.int64], now_us: int, draw: np.random.Generator) -> Records:
    """Payments of entities, (n,), one after the other."""
    n = len(entities)
    return Records(
        rows=np.arange(n), partition_index=np.zeros(n, np.int32), offsets=np.arange(n), timestamps_ms=np.full(n, -1),
        numbers={"amount": draw.lognormal(3, 1, n)}, categories={}, times={},
        keys=np.array([f"card-{entity:08d}" for entity in entities.tolist()], np.object_),
        event_times=(now_us + np.arange(n) * 1_000_000 // RECORDS_PER_S).astype("datetime64[us]"),
    )  # fmt: skip


def filled(history: History, entities: int) -> HistoryState:
    """A state of so many entities, each with one record."""
    state, draw = history.new_state(), np.random.default_rng(2)
    for first in range(0, entities, 4096):
        numbers = np.arange(first, min(first + 4096, entities))
        _, changes = history.fold(state, records(numbers, 1_699_000_000_000_000, draw))
        state.apply(changes)
    return state


def blocks(history: History, entities: int) -> dict[str, Any]:
    """Writing a whole state away in blocks, and restoring it, on a real broker."""
    partition, offset = Partition("payments", 0), 0
    state = filled(history, entities)
    count = count_blocks(history, state)
    with KafkaBroker(heap_mb=1024) as broker:
        create_topics(broker.settings, {"payments": 1})
        create_topics(broker.settings, {STATE: 1}, configuration={"cleanup.policy": "compact"})
        logs = Broker(broker.settings)
        lineage = Lineage("benchmark", "a", logs.identity("payments"))
        publisher = KafkaPublisher(broker.settings, PublisherSettings(compression="lz4", max_message_bytes=1_000_000))
        began, began_wall = time.process_time(), time.perf_counter()
        for first in range(0, count, 16):
            publisher.publish(
                [
                    block_message(STATE, history, state, partition, lineage, number, offset=offset, blocks=count)
                    for number in range(first, min(first + 16, count))
                ]
            )
        written, written_wall = time.process_time() - began, time.perf_counter() - began_wall
        publisher.close()
        restored = PartitionHistory(
            _Remembering(history), partition, logs, begin=None, state_topic=STATE, rotation_s=ROTATION_S, warm_up_s=0,
            monotonic_s=time.monotonic,
        )  # fmt: skip
        began_wall = time.perf_counter()
        while not restored.is_at(offset):
            restored.step(offset, 60)
        seconds = time.perf_counter() - began_wall
    found = 0 if restored.state is None else len(restored.state)
    if found != entities:
        raise AssertionError(f"{found} of {entities} entities came back")
    return {
        "restored_entities": entities,
        "restore_from_blocks_s": seconds,
        "write_whole_state_cpu_s": written,
        "write_whole_state_s": written_wall,
        "write_cpu_us_per_record": written / ROTATION_S / RECORDS_PER_S * 1e6,
        "write_assumes": f"{entities:,} entities, each written every {ROTATION_S} s, at {RECORDS_PER_S:,} records/s",
    }


class _Remembering(Detector):
    """A detector for its history alone: nothing is scored here."""

    def __init__(self, history: History) -> None:
        self.stream, self.history = history.stream, history
        scores = np.arange(1_000.0)
        self.alerting = Alerting(history.stream, fit_threshold(scores, ThresholdSetting()), NormalScores.fit(scores))


if __name__ == "__main__":
    main()
