"""Lives of workers that remember: one after the other on a fake cluster, each as long as its faults let it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from kafka import errors as kafka_errors

from tests.worker.bench import GROUP, Bench
from transport import TransportError
from worker.models import Models

STATE = "payments.state"
SENT_MS = 1_775_001_600_000  # 2026-04-01T00:00:00Z


class RememberingBench(Bench):
    """A bench whose messages are younger than the payments in them."""

    reads = 0
    """Clients beside the group's own that were made since another version was promoted."""

    def produce(self, *values: bytes | None, partition: int = 0) -> None:
        for value in values:
            self.cluster.append("payments", value, partition=partition, timestamp_ms=SENT_MS)


def remembering_bench(root: Path, partitions: int = 1, **settings: Any) -> RememberingBench:
    """A bench with a topic for histories, on which no time passes between two commits and a rotation is short."""
    bench = RememberingBench(
        root, partitions=partitions, **{"state": {"rotation_s": 10}, "commit_interval_s": 0} | settings
    )
    bench.cluster.create(STATE, partitions)
    bench.state_topic = STATE
    return bench


class Crash(BaseException):
    """The process dies here."""


FAULTS: dict[str, tuple[str, BaseException]] = {
    "publish fails": ("ack", kafka_errors.KafkaTimeoutError()),
    "publish arrives and its acknowledgement does not": ("lost_ack", kafka_errors.KafkaTimeoutError()),
    "commit is refused": ("commit", kafka_errors.CommitFailedError()),
    "commit is not answered": ("commit", kafka_errors.KafkaTimeoutError()),
    "a look at the log is not answered": ("beginning_offsets", kafka_errors.KafkaTimeoutError()),
    "dies before a poll": ("poll", Crash()),
    "dies before a message is sent": ("send", Crash()),
    "dies after a message arrived": ("lost_ack", Crash()),
    "dies before a commit": ("commit", Crash()),
    "the end of a transaction does not arrive": ("end", kafka_errors.KafkaTimeoutError()),
    "the end of a transaction arrives and its answer does not": ("lost_end", kafka_errors.KafkaTimeoutError()),
    "offsets are refused": ("send_offsets", kafka_errors.CommitFailedError()),
    "dies before a transaction ends": ("end", Crash()),
    "dies after a transaction ended": ("lost_end", Crash()),
}
EVICTED = "is evicted"


def faulty(bench: Bench, faults: Sequence[str | None]) -> None:
    """Let faults strike, one after the other; None is a message that is acknowledged."""
    for fault in faults:
        if fault == EVICTED:
            bench.cluster.evict(GROUP)
        else:
            bench.cluster.fail(*(FAULTS[fault] if fault else ("ack", None)))


def live(bench: RememberingBench, loaded: Models, coming: Iterator[bytes | None], *, turns: int) -> None:
    """One life of a worker, until it stops, or dies; a few records come and half a second passes with each poll."""
    worker = bench.worker(turns=turns, models=loaded)
    poll = bench.source.poll

    def poll_while_records_come(**_: Any) -> Any:
        bench.produce(*islice(coming, 5))
        bench.cluster.clock.advance(0.5)
        return poll()

    bench.source.poll = poll_while_records_come  # type: ignore[method-assign]
    try:
        with suppress(TransportError):
            worker.run()
        bench.source.close()
    except Crash:
        for consumer in bench.cluster.consumers:
            consumer.closed = True  # the group notices, nobody says goodbye
        for group in bench.cluster._groups.values():
            group.members.clear()


def live_through(
    bench: RememberingBench, loaded: Models, coming: Iterator[bytes | None],
    lives: Sequence[tuple[Sequence[str | None], int]], *, turns: int,
) -> None:  # fmt: skip
    """Lives of workers, each with its faults and turns, and a last one without faults."""
    for faults, turns_of_life in lives:
        faulty(bench, faults)
        live(bench, loaded, coming, turns=turns_of_life)
    bench.cluster._faults.clear()
    live(bench, loaded, coming, turns=turns)
