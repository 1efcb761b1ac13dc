"""A stream on a real broker for the worker's tests: its topics, its messages, and what must come of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from detector import ModelDirectory
from tests.kafka.broker import KafkaBroker
from tests.kafka.worker import WorkerProcess
from tests.payments import message, odd_message
from transport import KafkaPublisher, OutgoingMessage, Partition, PublisherSettings, create_topics, read_topic
from transport.ranges import bounds
from worker.identity import alert_id

ISOLATION_LEVELS = ("read_committed", "read_uncommitted")
PARTITIONS = 4
"""Of a stream of cards."""


class Stream:
    """One input topic with its outputs, and what was published to it."""

    def __init__(
        self, broker: KafkaBroker, name: str, models: Path, directory: Path, partitions: int = 1,
        outputs: tuple[str, ...] = ("alerts", "dlq", "scores"),
    ) -> None:  # fmt: skip
        self.broker, self.name, self.models, self.directory = broker, name, models, directory
        self.published = 0
        self.create(name, partitions)
        for output in outputs:
            self.create(f"{name}.{output}")

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic of the stream."""
        create_topics(self.broker.settings, {topic: partitions})

    def publish(self, values: list[bytes | None], key: bytes | None = None) -> None:
        """Publish message values; without a key they spread over the partitions."""
        publisher = KafkaPublisher(self.broker.settings, PublisherSettings(linger_s=0.005))
        keys = [key or str(n).encode() for n in range(len(values))]
        headers = (("trace", b"\x00\xff"),)
        publisher.publish(
            [OutgoingMessage(self.name, one, value, headers) for one, value in zip(keys, values, strict=True)]
        )
        publisher.close()
        self.published += len(values)

    def worker(self, name: str = "worker", **settings: Any) -> WorkerProcess:
        """A worker on the stream."""
        settings = {"group_id": f"g-{self.name}"} | settings
        return WorkerProcess(
            self.directory, bootstrap_servers=self.broker.bootstrap_servers, topic=self.name, models=self.models,
            name=name, **settings,
        )  # fmt: skip

    def odd(self) -> set[str]:
        """Ids of the alerts that the messages of the input topic must give, by the detector itself."""
        registry = ModelDirectory(self.models / "payments")
        detector = registry.load(registry.versions()[0])
        expected = set()
        for batch in read_topic(self.broker.settings, self.name, timeout_s=20):
            records, _ = detector.decode(batch)
            for row in records.rows[detector.judge(records)[0].anomalies].tolist():
                partition = batch.partitions[batch.partition_index[row]]
                place = (int(batch.offsets[row]), int(batch.timestamps_ms[row]))
                expected.add(alert_id("payments", self.name, partition.number, *place))
        assert expected
        return expected

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert on the alert topic, repeats included, in order."""
        return [json.loads(value or b"") for value in self._values("alerts")]

    def scores(self) -> list[dict[str, Any]]:
        """Every score on the score topic, in order."""
        return [json.loads(value or b"") for value in self._values("scores")]

    def dead_letters(self) -> list[tuple[bytes | None, dict[str, bytes]]]:
        """Value and headers of every dead letter, in order."""
        return [
            (value, dict(batch.headers[row]))
            for batch in read_topic(self.broker.settings, f"{self.name}.dlq", timeout_s=20)
            for row, value in enumerate(batch.values)
        ]

    def _values(self, output: str) -> Iterator[bytes | None]:
        for batch in read_topic(self.broker.settings, f"{self.name}.{output}", timeout_s=20):
            yield from batch.values

    def is_committed_to_the_end(self) -> bool:
        """Whether the group has committed all that was published here; looks twice a second."""
        time.sleep(0.5)
        try:
            return self.committed() == self.published
        except KafkaError:  # the broker is only just back
            return False

    def wait_until_decided(self, timeout_s: float = 60.0) -> None:
        """Wait until no transaction is open in alerts and scores: what a killed worker left, the broker aborts late."""
        outputs = [Partition(f"{self.name}.{output}", 0) for output in ("alerts", "scores")]
        until = time.monotonic() + timeout_s
        while True:
            ends = [bounds(self.broker.settings, outputs, 10.0, isolation_level=level) for level in ISOLATION_LEVELS]
            if ends[0] == ends[1]:
                return
            assert time.monotonic() < until, f"transactions are open after {timeout_s:g} s: {ends}"
            time.sleep(0.5)

    def committed(self) -> int:
        """Sum of the group's committed offsets."""
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        try:
            group = f"g-{self.name}"
            offsets = admin.list_group_offsets(group)[group]
            return sum(max(offset.offset, 0) for offset in offsets.values())
        finally:
            admin.close()


def payments(count: int, every: int = 10, start: int = 0) -> list[bytes | None]:
    """Normal payments, every tenth one odd."""
    return [odd_message(n) if n % every == 0 else message(n % 1000) for n in range(start, start + count)]


def ids(alerts: list[dict[str, Any]]) -> list[str]:
    return [alert["alert_id"] for alert in alerts]


class CardStream(Stream):
    """A stream whose messages are keyed by their card, as history needs it, with a compacted topic for histories."""

    def __init__(self, broker: KafkaBroker, name: str, models: Path, directory: Path) -> None:
        super().__init__(broker, name, models, directory, partitions=PARTITIONS)
        create_topics(broker.settings, {f"{name}.state": PARTITIONS}, configuration={"cleanup.policy": "compact"})

    def publish_payments(self, numbers: Iterable[int]) -> None:
        """Publish payments by number."""
        publisher = KafkaPublisher(self.broker.settings, PublisherSettings(linger_s=0.005))
        publisher.publish(
            [OutgoingMessage(self.name, f"card-{number % 50}".encode(), message(number)) for number in numbers]
        )
        publisher.close()

    def found(self) -> dict[int, float]:
        """Scores by record; repeats have to be equal."""
        found: dict[int, float] = {}
        for score in self.scores():
            number = int(score["record_id"])
            assert found.setdefault(number, score["score"]) == score["score"], f"record {number} got two scores"
        return found
