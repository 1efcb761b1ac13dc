"""What is remembered of all partitions that this worker owns: restored, carried on, written away; judged elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from detector import AlertState, Detector, HistoryChanges, HistoryState, HistoryUndo, count_blocks
from transport import (
    Batch,
    BrokerUnavailable,
    OutgoingMessage,
    Partition,
    Publisher,
    PublishFailed,
    Source,
)
from worker.broker import Broker
from worker.clock import Clock
from worker.metrics import WorkerMetrics
from worker.restoring import PartitionHistory, warm_up_s
from worker.settings import WorkerSettings
from worker.state_topic import alerts_message, block_message
from worker.status import Restoring

logger = logging.getLogger(__name__)

_SLICE_BUSY_S, _SLICE_IDLE_S = 0.2, 1.0
_SHOW_EVERY_S = 5.0


@dataclass(frozen=True)
class Applied:
    """Changes of one batch that were applied, and can be taken back."""

    undo: list[tuple[PartitionHistory, HistoryUndo | None, AlertState]] = field(default_factory=list)


class Histories:
    """What is remembered for one detector, partition by partition: of entities, and what decides on alerts.

    Of a detector without history features, with a fixed threshold and no rule about entities, nothing is: every
    partition is ready at once.

    A partition that was newly assigned is paused by the source. `follow` begins to restore it, `restore` brings it
    nearer in slices between two polls, and lets it run when its state stands for the offset that is read next. Changes
    are applied when a batch is acknowledged and taken back when it is given back, so that a state never runs ahead of
    what can be committed. Blocks are written only after a commit, stamped with the committed offset.
    """

    def __init__(
        self, detector: Detector, *, begin: HistoryState | None, settings: WorkerSettings,
        state_topic: str | None, broker: Broker,
        publisher: Publisher, metrics: WorkerMetrics, clock: Clock, runs: bool = True,
        version_of: Callable[[str], Detector | None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Begin with nothing.

        Args:
            detector: Whose history features are kept.
            begin: What is known of entities that no partition knows yet: the end of training.
            settings: The worker's.
            state_topic: Where blocks are written and read; None for nowhere: a restart replays the input.
            broker: The broker, beside the group's own reading.
            publisher: Writes blocks.
            metrics: The worker's.
            clock: Time.
            runs: Whether partitions are paused and resumed for these histories; not for those of a coming model.
            version_of: Another version of the detector, None where it is gone.
        """
        self.detector = detector
        self._begin = begin
        self._settings = settings
        self._state_topic = state_topic
        self._broker = broker
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._runs = runs
        self._version_of = version_of
        self._partitions: dict[Partition, PartitionHistory] = {}
        self._generations: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._write_again_s = 0.0
        self._evictions = 0
        self._moved: set[str] = set()  # topics that were warned of
        self._too_large: set[str] = set()
        self._shown_s = -_SHOW_EVERY_S

    # -- partitions come and go ---------------------------------------------------------------------------------------

    def follow(self, source: Source) -> None:
        """Begin anew with partitions that were newly assigned, and forget those that are no longer owned."""
        generations = source.generations()
        for partition in self._generations.keys() - generations.keys():
            self._drop(partition)
        for partition, generation in generations.items():
            if self._generations.get(partition) == generation:
                continue
            self._drop(partition)
            self._generations[partition] = generation
            if not self.detector.remembers:
                source.resume([partition])
                continue
            self._partitions[partition] = self._partition_history(partition)

    def _partition_history(self, partition: Partition) -> PartitionHistory:
        return PartitionHistory(
            self.detector, partition, self._broker, begin=self._begin, state_topic=self._state_topic,
            rotation_s=self._settings.state.rotation_s, warm_up_s=self.warm_up_s,
            monotonic_s=self._clock.monotonic_s, version_of=self._version_of, judges=self._runs,
        )  # fmt: skip

    def _drop(self, partition: Partition) -> None:
        self._generations.pop(partition, None)
        self._committed.pop(partition, None)
        history = self._partitions.pop(partition, None)
        if history is not None:
            history.close()

    @property
    def warm_up_s(self) -> float:
        """How far back the input is replayed where no blocks are found."""
        return warm_up_s(self._settings.state.warm_up_s, self.detector)

    def restore(self, source: Source) -> None:
        """Bring what is not there yet nearer, for a moment; partitions that are there begin to run.

        Raises:
            TransportError: Something that only an operator can mend.
        """
        waiting = {
            partition: target
            for partition, history in self._partitions.items()
            if (target := source.position(partition)) is not None and not history.is_at(target)
        }
        if self._runs:
            waiting = {partition: target for partition, target in waiting.items() if self._is_restoring(partition)}
        is_idle = self._runs and len(waiting) == len(self._partitions)
        budget_s = (_SLICE_IDLE_S if is_idle else _SLICE_BUSY_S) / max(len(waiting), 1)
        for partition, target in waiting.items():
            history = self._partitions[partition]
            try:
                history.step(target, budget_s)
            except BrokerUnavailable as error:
                logger.warning("restoring waits for the broker: %s. partition=%s", error, partition)
            if self._runs and history.is_at(target):
                entities = 0 if history.state is None else len(history.state)
                logger.info("%d entities are remembered; the partition runs. partition=%s", entities, partition)
                source.resume([partition])

    def _is_restoring(self, partition: Partition) -> bool:
        return self._partitions[partition].offset is None

    def are_at(self, source: Source) -> bool:
        """Whether every owned partition's state stands for the offset that is read next."""
        if not self.detector.remembers:
            return True
        positions = {partition: source.position(partition) for partition in source.generations()}
        return all(
            position is not None and partition in self._partitions and self._partitions[partition].is_at(position)
            for partition, position in positions.items()
        )

    def restoring(self) -> Restoring:
        """How far restoring is."""
        waiting = [history for history in self._partitions.values() if history.offset is None]
        return Restoring(len(waiting), len(self._partitions), sum(history.remaining or 0 for history in waiting))

    # -- batches ------------------------------------------------------------------------------------------------------

    def states(self, batch: Batch) -> Sequence[HistoryState] | None:
        """The entities of a batch's partitions, in their order; None where nothing is remembered of any."""
        if self.detector.history is None:
            return None
        states = [self._partitions[partition].state for partition in batch.partitions]
        return [state for state in states if state is not None]

    def alert_states(self, batch: Batch) -> Sequence[AlertState] | None:
        """What decides on the alerts of a batch's partitions, in their order; None where no earlier record does."""
        if not self.detector.alerting.remembers:
            return None
        return [self._partitions[partition].alerts.state for partition in batch.partitions]

    def apply(self, batch: Batch, changes: Sequence[HistoryChanges], alerts: Sequence[AlertState]) -> Applied:
        """Take over what an acknowledged batch changes: of entities, and of what decides on alerts."""
        applied = Applied()
        if not self.detector.remembers:
            return applied
        next_offsets = batch.next_offsets()
        for number, partition in enumerate(batch.partitions):
            history, undo = self._partitions[partition], None
            if history.state is not None:
                undo = history.state.apply(changes[number])
                self._watch_for_moves(partition, undo.new)
            applied.undo.append((history, undo, history.alerts.state))
            if self.detector.alerting.remembers:
                self._watch_for_moved_alerts(partition, history.alerts.state, alerts[number])
                history.alerts.state = alerts[number]
            history.offset = next_offsets[partition]
        return applied

    def take_back(self, applied: Applied, batch: Batch) -> None:
        """Undo what a batch changed; of batches, the newest first."""
        first_offsets = batch.first_offsets()
        mine = {id(history): partition for partition, history in self._partitions.items()}
        for history, undo, alerts in reversed(applied.undo):
            partition = mine.get(id(history))
            if partition is not None:
                if history.state is not None and undo is not None:
                    history.state.take_back(undo)
                history.alerts.state = alerts
                history.offset = first_offsets[partition]

    def _watch_for_moves(self, partition: Partition, new: Sequence[str]) -> None:
        """Notice entities that come on two partitions: each of the two knows half of their history."""
        others = [history.state for other, history in self._partitions.items() if other != partition]
        self._tell_moves(partition, [key for key in new if any(key in state for state in others if state is not None)])

    def _watch_for_moved_alerts(self, partition: Partition, before: AlertState, after: AlertState) -> None:
        """The same for entities that alert: each of two partitions knows half of what was suppressed."""
        if self.detector.history is not None or after.quiets is before.quiets:
            return
        others = [history.alerts.state.quiets for other, history in self._partitions.items() if other != partition]
        new = after.quiets.keys() - before.quiets.keys()
        self._tell_moves(partition, [key for key in new if any(key in quiets for quiets in others)])

    def _tell_moves(self, partition: Partition, moved: Sequence[str]) -> None:
        if not moved:
            return
        self._metrics.entities_moved.inc(len(moved))
        if not self._moved:
            logger.warning(
                "%d entities were seen on a second partition, so that each partition knows a part of what they did: "
                "let the producer use the entity (%s) as the message key, and see docs/operations.md. partition=%s",
                len(moved), self.detector.stream.key, partition,
            )  # fmt: skip
            self._moved.add(partition.topic)

    def run(self, source: Source) -> None:
        """Be the histories in use from now on: partitions whose state is there run, the others wait for theirs."""
        self._runs = True
        self.follow(source)
        source.resume([partition for partition, history in self._partitions.items() if history.offset is not None])

    def begin_here(self, source: Source) -> None:
        """Begin to remember where the source stands, after a detector that remembered nothing."""
        self.follow(source)
        for partition, history in self._partitions.items():
            history.offset = source.position(partition)
        self.run(source)

    def adopt_alerts(self, former: Histories) -> None:
        """Let entities that alerted stay quiet, after a detector that remembered other things of entities."""
        for partition, history in self._partitions.items():
            if partition in former._partitions:
                history.alerts.state = self.detector.alerting.adopt(former._partitions[partition].alerts.state)

    def adopt(self, former: Histories) -> None:
        """Carry on with the states of a detector that remembers the same."""
        self._partitions, self._generations = former._partitions, former._generations
        self._moved = former._moved
        for history in self._partitions.values():
            history.serve(self.detector)

    # -- writing ------------------------------------------------------------------------------------------------------

    def committed(self, offsets: Mapping[Partition, int], *, last: bool = False) -> None:
        """Write some of what is remembered of the partitions whose whole state was just committed.

        Of entities new blocks, and some of the others; beside them, and now and then alone, what decides on alerts: so
        that no block is ahead of it, and the records that it does not know yet can be judged again as they were.

        Args:
            offsets: What was committed.
            last: Whether nothing will be committed any more: see `leave`.

        Raises:
            TransportError: Something that only an operator can mend.
        """
        self._committed.update(offsets)
        topic, now_s = self._state_topic, self._clock.monotonic_s()
        if topic is None or not self.detector.remembers or now_s < self._write_again_s:
            return
        for partition, offset in offsets.items():
            history = self._partitions.get(partition)
            if history is None or not history.is_at(offset):
                continue
            due: list[int] = []
            messages: list[OutgoingMessage] = []
            try:
                if history.history is not None and history.state is not None:
                    blocks = count_blocks(history.history, history.state)
                    due = history.rotation.due(blocks, now_s)
                    messages = [
                        block_message(topic, history.history, history.state, partition, history.lineage, number,
                                      offset=offset, blocks=blocks)
                        for number in due
                    ]  # fmt: skip
                if self.detector.alerting.remembers and (due or last or history.alerts.due(now_s)):
                    alerts = alerts_message(topic, history.alerts.packed(), partition, history.lineage, offset=offset)
                    messages.insert(0, alerts)
                fitting = [message for message in messages if message.size_bytes <= self._settings.max_message_bytes]
                self._publisher.publish(fitting)
            except (BrokerUnavailable, PublishFailed) as error:
                self._could_not_write(partition, error, self._clock.monotonic_s() - now_s)
                return
            if len(fitting) < len(messages):
                self._tell_too_large(partition, len(messages) - len(fitting))
            history.rotation.wrote(due)
            if len(messages) > len(due):
                history.alerts.wrote(offset, now_s)
            self._metrics.state_blocks.inc(len(fitting))

    def leave(self) -> None:
        """Write what is small, so that a new owner need not replay for it: nothing will be committed any more.

        Raises:
            TransportError: Something that only an operator can mend.
        """
        waiting = {
            partition: offset
            for partition, offset in self._committed.items()
            if partition in self._partitions and self._partitions[partition].alerts.written_at != offset
        }
        self.committed(waiting, last=True)

    def _could_not_write(self, partition: Partition, error: Exception, took_s: float) -> None:
        """Leave it for a while: at most a tenth of the loop's time is spent on a topic that does not answer."""
        wait_s = max(self._settings.retry_max_s, took_s * 10)
        self._write_again_s = self._clock.monotonic_s() + wait_s
        self._metrics.state_write_failures.inc()
        logger.warning(
            "histories could not be written: %s; a new owner of the partition would replay more of its input, nothing "
            "is lost; trying again in %.0f s. partition=%s",
            error, wait_s, partition,
        )  # fmt: skip

    def _tell_too_large(self, partition: Partition, blocks: int) -> None:
        self._metrics.state_write_failures.inc(blocks)
        if partition.topic not in self._too_large:
            self._too_large.add(partition.topic)
            logger.warning(
                "%d blocks of histories are larger than max_message_bytes (%d) and not written, so that a new owner "
                "replays the input: raise it here and on the state topic, or use history.mode = buckets. partition=%s",
                blocks, self._settings.max_message_bytes, partition,
            )  # fmt: skip

    def show(self) -> None:
        """Bring the metrics up to date."""
        states = [history.state for history in self._partitions.values() if history.state is not None]
        restoring = self.restoring()
        self._metrics.restoring.set(restoring.partitions)
        self._metrics.restore_remaining.set(restoring.remaining)
        self._metrics.entities.set(sum(len(state) for state in states))
        if (now_s := self._clock.monotonic_s()) - self._shown_s >= _SHOW_EVERY_S:  # it is counted log by log
            self._shown_s = now_s
            self._metrics.history_bytes.set(sum(state.nbytes for state in states))
        self._metrics.show_threshold_ratios(
            [ratio for history in self._partitions.values() if (ratio := history.alerts.threshold_ratio) is not None]
        )
        evictions = sum(state.evictions for state in states)
        self._metrics.entities_evicted.inc(max(evictions - self._evictions, 0))
        self._evictions = evictions

    def close(self) -> None:
        """Let go of what is open."""
        for partition in list(self._generations):
            self._drop(partition)
