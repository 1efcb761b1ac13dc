"""One run: topics, a sender, workers and somebody who restarts them, faults in between, and what came of it all."""

from __future__ import annotations

import os
import signal
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kafka.errors import KafkaError

from benchmarks.chaos.checker import Findings, Promise, check
from benchmarks.chaos.cluster import Cluster
from benchmarks.chaos.observation import read_input, read_outputs
from benchmarks.chaos.offline import Input, expected_of
from benchmarks.chaos.producer import Producer
from benchmarks.chaos.recording import NAME
from demo.processes import OwnProcess
from detector import ModelDirectory
from tests.kafka.worker import WorkerProcess
from transport import TransportError, create_topics

PARTITIONS = 4
SESSION_TIMEOUT_S = 6.0
MAX_POLL_INTERVAL_S = 10.0
PUBLISH_TIMEOUT_S = 4.0

_RECOVERY_S = 90.0
_DRAIN_S = 180.0
_START_S = 120.0
_LOOK_EVERY_S = 0.2
_LOG_APPEND = {"message.timestamp.type": "LogAppendTime"}

SETTINGS: dict[str, Any] = {
    "session_timeout_s": SESSION_TIMEOUT_S,
    "max_poll_interval_s": MAX_POLL_INTERVAL_S,
    "publish_timeout_s": PUBLISH_TIMEOUT_S,
    "commit_timeout_s": 3.0,
    "retry_max_s": 1.0,
    "transaction_timeout_s": 10.0,
    "max_batch_records": 100,  # small, so that a fault finds a batch in hand
    "state__rotation_s": 5.0,
    "kafka__metadata_max_age_s": 2.0,
    "kafka__request_timeout_s": 5.0,
}
"""Limits as short as the broker takes, so that a fault and the recovery from it take seconds."""

_COMMIT_INTERVAL_S: dict[Promise, float | None] = {"at_least_once": 0.3, "exactly_once": None}
"""Short, so that little is repeated; in transactions the default, which is longer where records wait."""


class NotRecovered(RuntimeError):  # noqa: N818 - the name says what happened
    """The workers did not come back to the end of the topic in time after a fault, or a worker did not start."""


class Arena:
    """A cluster with topics of its own, a sender and workers. Use as a context manager, then `finish`.

    Attributes:
        cluster: The brokers.
        topic: Name of the input.
        group: Name of the workers' group.
        models: The directory that the workers read models from.
        workers: Those that should run; a fault may change them.
        producer: The sender.
        partitions: How many partitions the input has now.
        restarts: Workers that ended by themselves and were started again.
        allowed_exits: Exit codes that a fault brings about; any other is a violation.
        session_timeout_s: How long the group waits for a worker that says nothing.
        clock: Eight bytes that launched workers' wall clocks are wrong by, see the launcher.
    """

    def __init__(
        self, cluster: Cluster, directory: Path, models: Path, *, promise: Promise, rate: float, workers: int = 2,
        name: str = "chaos",
        module: str = "worker", variables: Mapping[str, str] | None = None, is_proxied: bool = False,
        settings: Mapping[str, Any] | None = None, allowed_exits: frozenset[int] = frozenset(), is_static: bool = False,
        processes: Callable[..., OwnProcess] = OwnProcess,
    ) -> None:  # fmt: skip
        """With `is_static` workers are static members of the group, and a replaced one comes back under its name."""
        self.cluster, self.models, self.allowed_exits = cluster, models, allowed_exits
        self.topic = self.group = name
        self.partitions = PARTITIONS
        self.workers: list[WorkerProcess] = []
        self.restarts = 0
        self.overrides: dict[str, Any] = {}
        self.clock = directory / "clock"
        self._directory, self._promise, self._module, self._count = directory, promise, module, workers
        self._processes, self._is_static = processes, is_static
        self._variables = {"CHAOS_CLOCK": str(self.clock), **(variables or {})}
        self._settings = SETTINGS | {
            "score_topic": f"{name}.scores", "group_id": name, "delivery": promise,
            "commit_interval_s": _COMMIT_INTERVAL_S[promise],
        } | dict(settings or {})  # fmt: skip
        self.session_timeout_s = float(self._settings["session_timeout_s"])
        self._servers = cluster.proxied_servers if is_proxied else cluster.settings.bootstrap_servers
        self._started = 0
        self._violations: list[str] = []
        self._past: list[Input] = []  # input topics that were deleted
        self._incarnation = 0
        self._rate = rate
        self.set_clock(0.0)

    def __enter__(self) -> Self:
        self._create_topics()
        self.producer = Producer(self.cluster.settings, self.topic, self._rate)
        self.producer.pause()
        try:
            for _ in range(self._count):
                self.start_worker()
            self.recover(_START_S)
            self.producer.resume()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs, in whatever state it is."""
        for worker in self.workers:
            if worker.process.exit_code is None:
                os.kill(worker.process.pid, signal.SIGCONT)
                worker.kill()
        self.workers = []
        self.producer.close()

    # -- topics -------------------------------------------------------------------------------------------------------

    def _create_topics(self) -> None:
        kafka = self.cluster.settings
        create_topics(kafka, {self.topic: PARTITIONS, f"{self.topic}.scores": PARTITIONS}, configuration=_LOG_APPEND)
        create_topics(kafka, {f"{self.topic}.alerts": 2, f"{self.topic}.dlq": 2})
        create_topics(kafka, {f"{self.topic}.state": PARTITIONS}, configuration={"cleanup.policy": "compact"})

    def add_partition(self) -> None:
        """Let the input have one partition more, the topic of histories first."""
        self.partitions += 1
        for topic in (f"{self.topic}.state", self.topic):
            self.cluster.add_partitions(topic, self.partitions)

    def recreate_topic(self) -> None:
        """Delete the input, whose records are all done, and create it anew; the checker gets what it held."""
        self._past += read_input(self.cluster.settings, self.topic, self._incarnation)
        self.cluster.delete_topic(self.topic)
        until_s = time.monotonic() + _RECOVERY_S
        while self.cluster.exists(self.topic):
            self._wait_until(until_s, "deletion of the topic")
        create_topics(self.cluster.settings, {self.topic: self.partitions}, configuration=_LOG_APPEND)
        self._incarnation += 1

    # -- workers ------------------------------------------------------------------------------------------------------

    def start_worker(self, name: str | None = None) -> WorkerProcess:
        """Start one more worker, under a new name unless one is given; returns before it is ready."""
        self._started += 1
        name = name or f"worker-{self._started}"
        membership = {"group_instance_id": name} if self._is_static else {}
        worker = WorkerProcess(
            self._directory, bootstrap_servers=self._servers, topic=self.topic, models=self.models,
            name=name, command=("-m", self._module), variables=self._variables,
            processes=self._processes, **self._settings | membership | self.overrides,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Start another in the place of one that has ended."""
        self.workers.remove(worker)
        return self.start_worker(worker.process.name if self._is_static else None)

    def stop_worker(self, worker: WorkerProcess) -> None:
        """Ask a worker to end as an operator would, and look how it does."""
        self.workers.remove(worker)
        self._note_exit(worker, worker.stop())

    def tend(self) -> None:
        """Start workers anew that have ended by themselves, as a supervisor does."""
        for worker in list(self.workers):
            code = worker.process.exit_code
            if code is not None:
                self.restarts += 1
                self._note_exit(worker, code)
                self.replace(worker)

    def _note_exit(self, worker: WorkerProcess, code: int) -> None:
        if code != 0 and code not in self.allowed_exits:
            self._violations.append(f"{worker.process.name} ended with exit code {code}; {worker.process.last_words()}")

    def set_clock(self, seconds: float) -> None:
        """Let the wall clock of launched workers be wrong by so much."""
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))

    # -- waiting ------------------------------------------------------------------------------------------------------

    def recover(self, timeout_s: float = _RECOVERY_S) -> None:
        """Return when every partition has one owner that is ready, and what was sent since this was asked is committed.

        Raises:
            NotRecovered: That did not happen in time.
        """
        until_s = time.monotonic() + timeout_s
        sent, wanted = self.producer.sent, None
        while not (wanted is not None and self._are_owned() and self._are_committed(wanted)):
            self.tend()
            if wanted is None and (self.producer.sent > sent or not self.producer.is_sending):
                wanted = self._ends()
            self._wait_until(until_s, "every partition read to where its end was")

    def wait_for(self, happened: Callable[[], bool], what: str, timeout_s: float = _RECOVERY_S) -> None:
        """Return when something has happened, tending nobody meanwhile.

        Raises:
            NotRecovered: It did not happen in time.
        """
        until_s = time.monotonic() + timeout_s
        while not happened():
            self._wait_until(until_s, what)

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Return when the group has committed the ends of all partitions; nothing may be sent meanwhile.

        Raises:
            NotRecovered: That did not happen in time.
        """
        ends = self.cluster.ends(self.topic, self.partitions)
        wanted = {partition: end for partition, end in ends.items() if end > 0}
        until_s = time.monotonic() + timeout_s
        while not wanted.items() <= self.cluster.committed(self.group, self.topic).items():
            self.tend()
            self._wait_until(until_s, f"commit of {wanted}; it is {self.cluster.committed(self.group, self.topic)}")

    def is_committed(self) -> bool:
        """Whether something is committed of every partition, and that is its end, or nearly."""
        ends, committed = self._ends(), self.cluster.committed(self.group, self.topic)
        behind = [end - committed.get(partition, 0) for partition, end in ends.items()]
        return min(ends.values()) > 0 and min(behind) >= 0 and sum(behind) <= 2 * self._rate + 10

    def _are_owned(self) -> bool:
        """Whether every partition has one owner, and each worker is ready."""
        owned: list[int] = []
        for worker in self.workers:
            try:
                status = worker.status()
            except (ValueError, OSError):
                return False
            if not status["ready"]:
                return False
            owned += [each["partition"] for each in status["assignment"]]
        return sorted(owned) == list(range(self.partitions))

    def _are_committed(self, wanted: Mapping[int, int]) -> bool:
        """Whether the group has come so far, by the broker's word: a worker without it knows only what was before."""
        try:
            committed = self.cluster.committed(self.group, self.topic)
        except (KafkaError, TransportError):  # the cluster is not whole yet
            return False
        return all(committed.get(partition, 0) >= offset for partition, offset in wanted.items())

    def _ends(self) -> dict[int, int]:
        return self.cluster.ends(self.topic, self.partitions)

    def _wait_until(self, until_s: float, what: str) -> None:
        self.producer.check()
        if time.monotonic() > until_s:
            words = "\n".join(worker.process.last_words() for worker in self.workers)
            raise NotRecovered(f"no {what} in time; {words}")
        time.sleep(_LOOK_EVERY_S)

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self, records: int = 0) -> Findings:
        """Send what is missing of so many records, drain, stop everything, and check what came of it."""
        if self.producer.sent < records:
            self.producer.rate = max(self._rate, (records - self.producer.sent) / 20)
            self.wait_for(lambda: self.producer.sent >= records, f"{records} records sent", _DRAIN_S)
        self.producer.pause()
        self.drain()
        for worker in list(self.workers):
            unaccounted = worker.total("offbeat_records_unaccounted")
            if unaccounted:
                self._violations.append(f"{worker.process.name} has {unaccounted:g} records without an outcome")
            self.stop_worker(worker)
        return self.findings()

    def findings(self) -> Findings:
        """What the checker says of all that was published so far."""
        kafka = self.cluster.settings
        directory = ModelDirectory(self.models / NAME)
        detector = directory.load(directory.versions()[0])
        parts = self._past + read_input(kafka, self.topic, self._incarnation)
        expected = [each for part in parts for each in expected_of(detector, part)]
        missing = set(range(self.producer.sent)) - {each.number for each in expected}
        if missing:
            self._violations.append(
                f"{len(missing)} records are acknowledged and not in the input: {sorted(missing)[:5]}"
            )
        delivered = read_outputs(
            kafka, scores=f"{self.topic}.scores", alerts=f"{self.topic}.alerts", dead_letters=f"{self.topic}.dlq"
        )
        ends = self.cluster.ends(self.topic, self.partitions)
        committed = self.cluster.committed(self.group, self.topic)
        findings = check(expected, delivered, committed=committed, ends=ends, promise=self._promise)
        return Findings(**vars(findings) | {"violations": (*self._violations, *findings.violations)})
