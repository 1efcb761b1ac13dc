"""A worker on a fake cluster: all of it real but time and the broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from detector import Detector, ModelDirectory
from tests.fakes import FakeClock, FakeCluster, FakeMessage
from tests.payments import fitted_detector
from transport import Batch, KafkaPublisher, KafkaSource, KafkaTransactions, Partition
from worker.alerts import Alert
from worker.broker import Broker
from worker.clock import Clock, Stop
from worker.loop import Worker
from worker.metrics import WorkerMetrics
from worker.models import Models
from worker.service import delivery_of, histories_of, publisher_settings, source_settings
from worker.settings import WorkerSettings
from worker.status import Status

GROUP = "offbeat-payments"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
TIMESTAMP_MS = START_MS - 60_000


class BenchClock(Clock):
    """The cluster's time, as the worker sees it."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.fake = clock or FakeClock()
        self._began_s = self.fake.now_s

    def monotonic_s(self) -> float:
        return self.fake.now_s

    def now_s(self) -> float:
        return START_MS / 1000 + self.fake.now_s - self._began_s


class BenchStop(Stop):
    """Asks to stop after some turns of the loop; waiting advances the cluster's time."""

    def __init__(self, clock: FakeClock, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.waits_s: list[float] = []
        self._clock = clock

    def is_set(self) -> bool:
        self.turns -= 1
        return super().is_set() or self.turns < 0

    def wait(self, seconds: float) -> bool:
        if not super().is_set():
            self.waits_s.append(seconds)
            self._clock.advance(seconds)
        return super().is_set()


class Bench:
    """A cluster with input, alert, dead-letter and score topics, and workers on it, one after the other or together."""

    def __init__(self, models: Path, *, partitions: int = 1, **settings: Any) -> None:
        self.settings = WorkerSettings.model_validate(
            {"input_topics": ("payments",), "score_topic": "payments.scores", "models": models, **settings}
        )
        self.cluster = FakeCluster(
            {"payments": partitions, "payments.alerts": 3, "payments.dlq": 3, "payments.scores": 3}
        )
        self.state_topic: str | None = None
        self.clock = BenchClock(self.cluster.clock)
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.status = Status(self.clock, self.settings.max_poll_interval_s, self.settings.http.silence_limit_s)

    def produce(self, *values: bytes | None, partition: int = 0) -> None:
        """Put messages into the input topic; message k has the key `k<k>`."""
        for value in values:
            key = f"k{len(self.cluster.messages('payments'))}".encode()
            self.cluster.append("payments", value, key=key, partition=partition, timestamp_ms=TIMESTAMP_MS)

    def worker(self, *, turns: int = 20, models: Models | None = None) -> Worker:
        """A worker that has its model and stops after some turns of its loop; metrics go on from the one before."""
        if models is None:
            models = Models(self.settings.models, self.settings.detector, clock=self.clock, metrics=self.metrics)
            models.refresh()
            models.swap()
        assert models.current is not None
        self.status.model = models.current.describe()
        self.stop = BenchStop(self.cluster.clock, turns)
        self.source = KafkaSource(
            self.settings.kafka,
            source_settings(self.settings, GROUP),
            clock=self.cluster.clock,
            connect=self.cluster.consumer,
        )
        publisher = KafkaPublisher(
            self.settings.kafka,
            publisher_settings(self.settings),
            clock=self.cluster.clock,
            connect=self.cluster.producer,
        )
        transactions = KafkaTransactions(
            self.settings.kafka,
            publisher_settings(self.settings),
            f"{GROUP}-{len(self.cluster.consumers)}",
            clock=self.cluster.clock,
            connect=self.cluster.producer,
        )
        return Worker(
            source=self.source,
            delivery=delivery_of(self.settings, self.source, publisher, transactions),
            models=models,
            histories_of=histories_of(
                self.settings,
                self.state_topic,
                publisher=publisher,
                metrics=self.metrics,
                clock=self.clock,
                version_of=models.version,
                broker=Broker(
                    self.settings.kafka,
                    consumer={"connect": self.cluster.consumer, "clock": self.cluster.clock},
                    admin={"connect": self.cluster.admin},
                ),
            ),
            settings=self.settings,
            group_id=GROUP,
            version="1.2",
            metrics=self.metrics,
            status=self.status,
            clock=self.clock,
            stop=self.stop,
        )

    def drain(self, *, turns: int = 20) -> None:
        """Run a worker for some turns and let it leave the group."""
        worker = self.worker(turns=turns)
        try:
            worker.run()
        finally:
            self.source.close()

    @property
    def alerts(self) -> list[Alert]:
        """Everything on the alert topic, repeats included."""
        return [
            msgspec.json.decode(message.value or b"", type=Alert)
            for message in self.cluster.messages("payments.alerts")
        ]

    @property
    def dead_letters(self) -> list[FakeMessage]:
        """Everything on the dead-letter topic, repeats included."""
        return self.cluster.messages("payments.dlq")

    @property
    def committed(self) -> int:
        """The committed offset of the first input partition, 0 where there is none."""
        return self.cluster.commits(GROUP).get(("payments", 0), 0)

    def count(self, name: str, **labels: str) -> float:
        """The value of a sample."""
        value = self.metrics.registry.get_sample_value(f"offbeat_{name}", labels)
        assert value is not None, f"there is no sample {name} {labels}"
        return value

    def outcomes(self) -> dict[str, int]:
        """Records by outcome."""
        names = ("normal", "alert", "suppressed", "dead_letter")
        return {name: int(self.count("records_total", outcome=name)) for name in names}


def publish_models(directory: Path, detector: Detector | None = None) -> Path:
    """A models directory with one version in production."""
    detector = detector or fitted_detector()
    ModelDirectory(directory / detector.name).publish(detector)
    return directory


def batch_of(
    values: Sequence[bytes | None],
    *,
    topic: str = "payments",
    partition: int = 0,
    first_offset: int = 0,
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Sequence[tuple[str, bytes]]] | None = None,
    timestamp_of: Callable[[int], int] = lambda offset: START_MS + 1000 * offset,
) -> Batch:
    """A batch of one partition."""
    offsets = np.arange(first_offset, first_offset + len(values), dtype=np.int64)
    return Batch(
        partitions=(Partition(topic, partition),),
        partition_index=np.zeros(len(values), np.int32),
        offsets=offsets,
        timestamps_ms=np.array([timestamp_of(int(offset)) for offset in offsets], np.int64),
        keys=list(keys) if keys is not None else [f"k{offset}".encode() for offset in offsets],
        values=list(values),
        headers=list(headers) if headers is not None else [()] * len(values),
    )
