"""What decides on the alerts of one partition: restored with the model that it came from, carried on, written away."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detector import AlertState, AlertStateMismatch, Detector, Records, pack_alert_state, unpack_alert_state
from transport import Partition
from worker.state_topic import StoredAlerts

logger = logging.getLogger(__name__)

_WRITE_EVERY_S = 10.0
"""How much input a new owner judges again at most, beside what was not committed."""

NOWHERE = 1 << 62
"""An offset behind all records."""


class PartitionAlerts:
    """The threshold that follows a partition's scores, and its entities that are quiet.

    While a partition is restored, its records are judged again from the offset that the stored state stands for, by
    the version of the detector that the state names: nobody is quiet for an alert that was never published. Where that
    version is gone, the entities that were quiet then stay so, and what came after is not judged.

    Attributes:
        state: What the next records are judged by.
        judged_from: While restoring, the offset from which records are judged again.
        written_at: The offset that the state last written by us stands for.
        taken: Offset and version of the stored state that was begun with, None for none.
    """

    def __init__(self, detector: Detector, partition: Partition, version_of: Callable[[str], Detector | None]) -> None:
        self.state: AlertState = detector.alerting.begin()
        self.judged_from = NOWHERE
        self._detector = detector
        self._judging = detector  # while restoring
        self._partition = partition
        self._version_of = version_of
        self.written_at: int | None = None
        self._written_s: float | None = None
        self.taken: tuple[int, str] | None = None

    def take(self, stored: StoredAlerts) -> None:
        """Begin with what was written away."""
        try:
            state, version = unpack_alert_state(stored.content)
        except AlertStateMismatch as error:
            logger.warning("the state of alerts is not used: %s. partition=%s", error, self._partition)
            return
        self.taken = stored.offset, version
        judging = self._detector if version == self._detector.version else self._version_of(version)
        if judging is None or not _remembers_alike(judging, self._detector):
            logger.warning(
                "alerts were decided by version %s, which cannot be used any more: records since offset %d are not "
                "judged again, so that entities which alerted since may alert again early. partition=%s",
                version, stored.offset, self._partition,
            )  # fmt: skip
            self.state = self._detector.alerting.adopt(state)
            return
        self.state, self._judging, self.judged_from = state, judging, stored.offset

    def judge_again(self, records: Records) -> None:
        """Let records that were judged before, and carry their history features, have their effect again."""
        again = records.take(records.offsets >= self.judged_from)
        if len(again):
            verdicts, _ = self._judging.judge(again, None, [self.state], explanations=False)
            (self.state,) = verdicts.states

    def restored(self) -> None:
        """Restoring has ended: from now on the detector in use judges."""
        self.judged_from = NOWHERE
        self.serve(self._detector)

    def serve(self, detector: Detector) -> None:
        """Go on for a version of the detector; its own state stays as it is."""
        self._detector = detector
        if self.judged_from == NOWHERE and self._judging is not detector:
            self.state, self._judging, self._written_s = detector.alerting.adopt(self.state), detector, None

    @property
    def threshold_ratio(self) -> float | None:
        """The threshold in force divided by the calibrated one; None where it is fixed."""
        window = self.state.window
        return None if window is None else window.threshold / self._detector.threshold.value

    def due(self, now_s: float) -> bool:
        """Whether the state should be written although nothing else is."""
        return self._written_s is None or now_s - self._written_s >= _WRITE_EVERY_S

    def wrote(self, offset: int, now_s: float) -> None:
        """Take note that the state was written, for an offset."""
        self.written_at, self._written_s = offset, now_s

    def packed(self) -> bytes:
        """The state as it is written."""
        return pack_alert_state(self.state, self._detector.version or "")


def _remembers_alike(one: Detector, other: Detector) -> bool:
    """Whether the histories of one detector give the other its features."""
    if one.history is None or other.history is None:
        return one.history is None
    return one.history.fingerprint == other.history.fingerprint
