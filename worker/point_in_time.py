"""What a worker remembers of a partition when it comes to an offset, for those who ask afterwards; it only reads.

It is found as a new owner of the partition finds it: from the state topic, as far as compaction has left what was
written before the offset, and from the input. No group is joined, nothing is committed and nothing published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from detector import AlertState, Detector, HistoryState
from transport import BrokerUnavailable, ConfigurationRefused, KafkaSettings, Partition, missing_topics
from worker.broker import Broker
from worker.clock import Clock
from worker.configuration import configure
from worker.errors import SettingsRefused
from worker.restoring import PartitionHistory, warm_up_s
from worker.settings import WorkerSettings

logger = logging.getLogger(__name__)

_SLICE_S = 1.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Remembered:
    """What is remembered of a partition before the message at an offset.

    Attributes:
        history: Its entities, None where nothing is remembered of them; it belongs to whoever asked.
        alerts: What decides on alerts.
        remarks: Where that is known from, and what of it is not, for people.
        is_exact: Whether it is what a worker of this version had that has read the partition without a break.
    """

    history: HistoryState | None
    alerts: AlertState
    remarks: tuple[str, ...]
    is_exact: bool


class PointInTime:
    """Looks back at a topic as a worker with the same settings reads it."""

    def __init__(
        self, settings: WorkerSettings, *, broker: Broker | None = None, clock: Clock | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:  # fmt: skip
        """Look back at `settings.input_topics`.

        Args:
            settings: The worker's.
            broker: The broker, unless that of the settings.
            clock: Time.
            timeout_s: Give up where nothing gets nearer for so long.
        """
        self._settings = settings
        self._broker = broker or Broker(settings.kafka, max_batch_records=settings.max_batch_records)
        self._clock = clock or Clock()
        self._timeout_s = timeout_s

    @classmethod
    def of(cls, topic: str, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> PointInTime:
        """Look back at a topic with the settings that `offbeat work` would have with the same flags.

        Raises:
            SettingsRefused: A setting is wrong; says which, from where, and what to do.
        """
        alone = configure(["--input-topics", topic, *arguments], environment).settings
        try:  # a worker of several topics names its state topic after the first of them
            together = configure(arguments, environment).settings
        except SettingsRefused:
            return cls(alone)
        return cls(together if topic in together.input_topics else alone)

    @property
    def kafka(self) -> KafkaSettings:
        """The cluster."""
        return self._settings.kafka

    @property
    def warm_up_s(self) -> float | None:
        """How much of the input is wanted where no blocks are found; None where nobody said."""
        return self._settings.state.warm_up_s

    def remembered_at(
        self, detector: Detector, partition: Partition, offset: int, *,
        begin: HistoryState | None = None, version_of: Callable[[str], Detector | None] = lambda _: None,
    ) -> Remembered:  # fmt: skip
        """Restore what is remembered before the message at an offset.

        Args:
            detector: What judges.
            partition: The partition.
            offset: What lies before it counts, all else does not.
            begin: What is known of entities that the partition does not know: the end of training.
            version_of: Another version of the detector, None where it is gone.

        Raises:
            TransportError: The broker does not answer, or refuses; or `state.topic` names a topic that does not exist.
        """
        if not detector.remembers:
            return Remembered(None, detector.alerting.begin(), (), is_exact=True)
        topic = self._state_topic()
        found = self._restored(detector, partition, offset, topic, begin, version_of)
        alerts = found
        if found.beginning.blocks and detector.alerting.remembers and found.alerts.taken is None:
            # Blocks are left from before the offset and what goes with them is not: it is judged again from the input.
            alerts = self._restored(detector, partition, offset, None, begin, version_of)
        told = [_of_entities(found, detector, topic), _of_alerts(alerts, detector)]
        if lost := max(found.beginning.skipped, alerts.beginning.skipped):
            told.append(
                (f"retention has removed {lost:,} of the offsets in between, and what they meant with them", False)
            )
        return Remembered(
            found.state,
            alerts.alerts.state,
            tuple(remark for remark, _ in told if remark),
            is_exact=all(is_exact for _, is_exact in told),
        )

    def _restored(
        self, detector: Detector, partition: Partition, offset: int, state_topic: str | None,
        begin: HistoryState | None, version_of: Callable[[str], Detector | None],
    ) -> PartitionHistory:  # fmt: skip
        history = PartitionHistory(
            detector, partition, self._broker, begin=begin, state_topic=state_topic,
            rotation_s=self._settings.state.rotation_s,
            warm_up_s=warm_up_s(self._settings.state.warm_up_s, detector),
            monotonic_s=self._clock.monotonic_s, version_of=version_of,
        )  # fmt: skip
        heard_s, before = self._clock.monotonic_s(), history.remaining
        try:
            while not history.is_at(offset):
                try:
                    history.step(offset, _SLICE_S)
                except BrokerUnavailable:
                    if self._clock.monotonic_s() - heard_s >= self._timeout_s:
                        raise
                    continue
                if history.remaining != before:
                    heard_s, before = self._clock.monotonic_s(), history.remaining
                elif self._clock.monotonic_s() - heard_s >= self._timeout_s:
                    raise BrokerUnavailable(
                        f"could not read what precedes offset {offset} of {partition}: nothing came for "
                        f"{self._timeout_s:g} s"
                    )
        finally:
            history.close()
        return history

    def _state_topic(self) -> str | None:
        """The topic of histories where it exists."""
        topic = self._settings.state_to
        if not missing_topics(self.kafka, [topic], **self._broker.admin):
            return topic
        if self._settings.state.topic is not None:
            raise ConfigurationRefused(
                f"state.topic: topic {topic!r} does not exist: mend the name", setting="state.topic"
            )
        return None


def _of_entities(found: PartitionHistory, detector: Detector, state_topic: str | None) -> tuple[str, bool]:
    """Where entities are known from, and whether that is all there is to know."""
    if detector.history is None:
        return "", True
    began = found.beginning
    if began.blocks:
        return (
            f"histories: from {began.blocks} block(s) of {state_topic}, and the input from offset "
            f"{began.replayed_from:,} on"
        ), True
    nothing = "" if state_topic is None else f", as {state_topic} holds nothing from before the offset"
    if began.replayed_from == 0:
        return f"histories: from the beginning of the partition{nothing}", True
    windowless = any(feature.window_us is None for feature in detector.stream.history_features)
    return (
        f"histories: of the records from offset {began.replayed_from:,} on{nothing}; what entities did before is "
        f"unknown{', and features over all of their records show it' if windowless else ''}"
    ), False


def _of_alerts(found: PartitionHistory, detector: Detector) -> tuple[str, bool]:
    """Where what decides on alerts is known from, and whether that is what a worker had."""
    if not detector.alerting.remembers:
        return "", True
    stream = detector.stream
    names = [
        name
        for name, is_there in (
            ("online threshold", stream.threshold.mode == "online"),
            ("quiet entities", stream.entity_rule is not None),
        )
        if is_there
    ]
    what = " and ".join(names)
    if found.alerts.taken is not None:
        offset, version = found.alerts.taken
        judged = f"{what}: as written for offset {offset:,}, and the records since then judged again"
        if version == detector.version:
            return judged, True
        if found.beginning.judged_from == offset:
            return f"{judged} by version {version}, which judged then: see --version {version}", False
        return (
            f"{what}: as written for offset {offset:,} by version {version}, which cannot be read any more; records "
            "since then are not judged again"
        ), False
    judged_from = found.beginning.judged_from
    if judged_from == 0:
        return f"{what}: the records from the beginning of the partition on judged again", True
    if judged_from >= (found.offset or 0):
        return f"{what}: unknown, as no record before the offset is judged again", False
    return (
        f"{what}: the records from offset {judged_from:,} on judged again, as nothing written before this offset is "
        "left; what alerts before them meant is unknown"
    ), False
