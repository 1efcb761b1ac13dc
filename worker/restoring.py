"""What is remembered of one partition, from nothing to where its reading begins: blocks, then a replay nobody sees."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector import Detector, History, HistoryMismatch, HistoryState, Records, unpack_block
from detector.history import bounded_key
from transport import BrokerUnavailable, Partition, RangeReader
from worker.broker import Broker
from worker.partition_alerts import NOWHERE, PartitionAlerts
from worker.state_topic import SIDES, Lineage, Rotation, StoredAlerts, StoredBlock, stored

logger = logging.getLogger(__name__)

_READ_S = 0.1  # a read that brings nothing ends after this, so that others get their turn
_LOOK_BACK_OFFSETS, _LOOK_BACK_S = 200, 10.0  # how many messages tell how old the input is, and how long that may take
_WINDOWLESS_WARM_UP_S = 30 * 86_400.0
_ATTEMPTS = 5  # questions about the state topic that may fail before the input is replayed without it


@dataclass
class Beginning:
    """What restoring began with, for those who ask how far a state can be trusted.

    Attributes:
        blocks: Blocks of entities that were taken over; 0 for none.
        replayed_from: The first offset that was replayed.
        log_start: The first offset that there was, where it was looked up.
        judged_from: The first record that was judged again for alerts, or would have been.
        skipped: Offsets that retention had removed before they could be replayed.
    """

    blocks: int = 0
    replayed_from: int = 0
    log_start: int | None = None
    judged_from: int = NOWHERE
    skipped: int = 0


def warm_up_s(wanted_s: float | None, detector: Detector) -> float:
    """How far back the input is replayed where no blocks are found: as wanted, else the longest window."""
    if wanted_s is not None:
        return float(wanted_s)
    return detector.stream.longest_window_us / 1e6 or _WINDOWLESS_WARM_UP_S


class PartitionHistory:
    """What is remembered of one partition, and how far that is: its entities, and what decides on its alerts.

    `step` brings it nearer to an offset in bounded time; it is there when `offset` is that offset. Until then it reads
    blocks of the state topic, then the input, each block's entities from the offset that it stands for. Nothing of the
    replay is published, counted or committed.

    Attributes:
        history: What is remembered of entities, None for nothing.
        state: The entities, None where nothing is remembered of them.
        alerts: What decides on alerts.
        offset: Everything before this offset is in the state and nothing behind it; None while restoring.
        rotation: Which of its blocks are written next.
        beginning: What it began with.
    """

    def __init__(
        self, detector: Detector, partition: Partition, broker: Broker, *, begin: HistoryState | None,
        state_topic: str | None, rotation_s: float, warm_up_s: float, monotonic_s: Callable[[], float],
        version_of: Callable[[str], Detector | None] = lambda _: None, judges: bool = True,
    ) -> None:  # fmt: skip
        self.history: History | None = detector.history
        self.state: HistoryState | None = None if self.history is None else self.history.new_state(base=begin)
        self.alerts = PartitionAlerts(detector, partition, version_of)
        self._judges = judges and detector.alerting.remembers
        self._begin = begin
        self.offset: int | None = None
        self.rotation = Rotation(rotation_s)
        self.beginning = Beginning()
        self._detector = detector
        self._partition = partition
        self._broker = broker
        self._state_topic = state_topic
        self._warm_up_s = warm_up_s
        self._monotonic_s = monotonic_s
        self._lineage: Lineage | None = None
        self._side = SIDES[0]
        self._blocks: dict[tuple[str, int], StoredBlock] = {}
        self._stored_alerts: dict[str, StoredAlerts] = {}
        self._blocks_read = state_topic is None
        self._stamps: NDArray[np.int64] = np.empty(0, np.int64)
        self._reader: RangeReader | None = None
        self._start: int | None = None  # of the replay, where blocks say it
        self._end = 0
        self._failures = 0

    @property
    def lineage(self) -> Lineage:
        """What our own blocks are written as."""
        if self._lineage is None:
            self._lineage = Lineage(secrets.token_hex(8), self._side, self._broker.identity(self._partition.topic))
        return self._lineage

    @property
    def remaining(self) -> int | None:
        """Offsets that are still to be read, None while that is not known."""
        if self.offset is not None:
            return 0
        return None if self._reader is None else self._end - self._reader.position

    def is_at(self, target: int) -> bool:
        """Whether the state stands for exactly this offset."""
        return self.offset == target

    def step(self, target: int, budget_s: float) -> None:
        """Come nearer to `target`, for about `budget_s`.

        Raises:
            BrokerUnavailable: A question was not answered; the next step asks again.
            TransportError: Something that only an operator can mend.
        """
        until = self._monotonic_s() + budget_s
        while not self.is_at(target):
            if not self._blocks_read:
                self._read_blocks(target)
            elif self._reader is None:
                self._begin_replay(target)
            else:
                self._replay()
            if self._monotonic_s() >= until:
                return

    def serve(self, detector: Detector) -> None:
        """Go on for another version of the detector that remembers the same."""
        self._detector, self.history = detector, detector.history
        if self.state is not None:
            self.state.most = detector.stream.history.max_entities
        if detector.history is None:
            self.state = None
        self.alerts.serve(detector)

    def close(self) -> None:
        """Let go of what is open."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    # -- blocks -------------------------------------------------------------------------------------------------------

    def _read_blocks(self, target: int) -> None:
        """Read on in the state topic; at its end, take over what is of this topic and not beyond the target."""
        if self._reader is None:
            where = Partition(self._state_topic or "", self._partition.number)
            try:
                first, end = self._broker.bounds([where])[where]
            except BrokerUnavailable as error:
                self._failures += 1
                if self._failures < _ATTEMPTS:
                    raise
                logger.warning(
                    "the state topic cannot be read, so the input is replayed without it: %s. partition=%s",
                    error,
                    where,
                )
                first = end = 0
            self._open(where, first, end)
        reader = self._reader
        assert reader is not None  # noqa: S101 - opened above
        if not reader.done and (batch := reader.poll(_READ_S)) is not None:
            for each in stored(batch, self._partition):
                if each.offset > target:  # what compaction has left from before the target is still worth having
                    continue
                if isinstance(each, StoredAlerts):
                    self._stored_alerts[each.lineage.side] = each
                elif self.history is not None and each.fingerprint == self.history.fingerprint:
                    self._blocks[each.lineage.side, each.number] = each
        if reader.done:
            self.close()
            lineage = self._take_blocks()
            self._take_alerts(lineage)
            self._blocks_read = True

    def _take_blocks(self) -> Lineage | None:
        """Begin with the blocks of the lineage that is whole and furthest, if there is one."""
        lineages: dict[Lineage, list[StoredBlock]] = {}
        identity = self._broker.identity(self._partition.topic)
        for block in self._blocks.values():
            if block.lineage.identity == identity:
                lineages.setdefault(block.lineage, []).append(block)
        self._blocks = {}
        whole = [
            sorted(blocks, key=lambda block: block.offset)  # of an entity in two blocks, the later content stays
            for blocks in lineages.values()
            if len(blocks) >= max(blocks, key=lambda block: block.offset).blocks
        ]
        for blocks in sorted(whole, key=lambda blocks: -blocks[0].offset):
            try:
                self._take_lineage(blocks)
            except HistoryMismatch as error:
                logger.warning("blocks are not used: %s. partition=%s", error, self._partition)
                continue
            return blocks[0].lineage
        return None

    def _take_alerts(self, lineage: Lineage | None) -> None:
        """Begin with the state of alerts that goes with the blocks; without blocks, with the one that is furthest."""
        identity = self._broker.identity(self._partition.topic)
        fitting = [
            each
            for each in self._stored_alerts.values()
            if each.lineage.identity == identity and (self.history is None or each.lineage == lineage)
        ]
        self._stored_alerts = {}
        if fitting and self._judges:
            furthest = max(fitting, key=lambda each: each.offset)
            self.alerts.take(furthest)
            self._side = SIDES[1 - SIDES.index(furthest.lineage.side)]
            self._start = furthest.offset if self._start is None else self._start

    def _take_lineage(self, blocks: Sequence[StoredBlock]) -> None:
        assert self.history is not None  # noqa: S101 - blocks of no history are not kept
        state = self.history.new_state(base=self._begin)
        stamps = []
        for block in blocks:
            found = unpack_block(self.history, block.content)
            state.put(found.keys, found.rows, found.logs)
            places = state.find(found.keys)
            stamps.append((places[places >= 0], block.offset))  # what was more than may be remembered is gone
        self._stamps = np.full(max(int(places.max(initial=-1)) + 1 for places, _ in stamps), -1, np.int64)
        for places, offset in stamps:
            self._stamps[places] = offset
        self.state = state
        self._start = blocks[0].offset
        self.beginning.blocks = len(blocks)
        self._side = SIDES[1 - SIDES.index(blocks[0].lineage.side)]
        logger.info("%d entities taken over from %d blocks. partition=%s", len(state), len(blocks), self._partition)

    # -- replay -------------------------------------------------------------------------------------------------------

    def _begin_replay(self, target: int) -> None:
        if self.offset is not None:
            start = self.offset  # the target went on meanwhile
        elif self._start is not None:
            start = self._start
        else:
            start = self._warm_up_start(target)
        self.offset = None
        self._open(self._partition, min(start, target), target)
        self.beginning.replayed_from = min(start, target)
        self.beginning.judged_from = min(self.alerts.judged_from, target)
        if start < target:
            logger.info("restoring: replaying offsets %d to %d. partition=%s", start, target, self._partition)

    def _warm_up_start(self, target: int) -> int:
        """Where to begin without anything that was written away; says from where on alerts are decided again."""
        if self._warm_up_s <= 0:
            return target
        first, _ = self._broker.bounds([self._partition])[self._partition]
        self.beginning.log_start = first
        if first >= target:
            return target
        newest_ms = self._newest_timestamp_ms(first, target)
        start = target
        if self.history is not None:
            start = self._offset_before(newest_ms, self._warm_up_s, first, target)
        if self._judges:
            stream, rule = self._detector.stream, self._detector.stream.entity_rule
            judged_from = target
            if stream.threshold.mode == "online":
                judged_from = max(first, target - stream.threshold.window)
            if rule is not None:
                judged_from = min(judged_from, self._offset_before(newest_ms, rule.longest_us / 1e6, first, target))
            self.alerts.judged_from = judged_from
            start = min(start, judged_from)
        return start

    def _offset_before(self, newest_ms: int | None, span_s: float, first: int, target: int) -> int:
        """The first offset of the last `span_s` seconds before the newest message; `first` where no time is known."""
        if newest_ms is None:
            return first
        since_ms = round(newest_ms - span_s * 1000)
        return max(first, min(self._broker.offset_at(self._partition, since_ms), target))

    def _newest_timestamp_ms(self, first: int, target: int) -> int | None:
        """The time of the messages before the target, None where they have none; a clock would not know old topics."""
        reader = self._broker.reader(self._partition, max(first, target - _LOOK_BACK_OFFSETS), target)
        newest_ms, until = -1, self._monotonic_s() + _LOOK_BACK_S
        try:
            while not reader.done:
                batch = reader.poll(_READ_S)
                if batch is not None:
                    newest_ms = max(newest_ms, int(batch.timestamps_ms.max()))
                elif self._monotonic_s() >= until:
                    raise BrokerUnavailable(f"could not look at the newest messages of {self._partition}: no answer")
        finally:
            reader.close()
        return newest_ms if newest_ms >= 0 else None

    def _open(self, partition: Partition, start: int, end: int) -> None:
        self._reader, self._end = self._broker.reader(partition, start, end), end

    def _replay(self) -> None:
        reader = self._reader
        assert reader is not None  # noqa: S101 - asked by the caller
        batch = None if reader.done else reader.poll(_READ_S)
        if batch is not None:
            records, _ = self._detector.decode(batch)
            if self.history is not None:
                records = self._remember(self.history, self._not_in_blocks(records))
            self.alerts.judge_again(records)
        if reader.done:
            self.beginning.skipped += reader.skipped
            self.offset = self._end
            self.alerts.restored()
            self.close()

    def _not_in_blocks(self, records: Records) -> Records:
        """The records that their entity's block does not hold yet."""
        if not len(self._stamps) or records.keys is None or self.state is None:
            return records
        places = self.state.find([bounded_key(key or "") for key in records.keys.tolist()])
        restored = (places >= 0) & (places < len(self._stamps))
        stamps = np.full(len(records), -1, np.int64)
        stamps[restored] = self._stamps[places[restored]]
        return records.take(records.offsets >= stamps)

    def _remember(self, history: History, records: Records) -> Records:
        """Carry the entities on; the records with their history features."""
        assert self.state is not None  # noqa: S101 - as there is a history
        found, changes = history.fold(self.state, records)
        for place, *_ in self.state.apply(changes).evicted:  # whoever stands there next comes from no block
            self._stamps[place : place + 1] = -1
        return replace(records, history=found)
