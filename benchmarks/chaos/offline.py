"""What a run without any disturbance publishes: each partition's records judged in the order of their offsets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.checker import Expected, Outcome, Output, Place
from detector import Detector, Reject, RejectReason, Verdicts
from worker.identity import alert_id

_SLICE = 4096


@dataclass(frozen=True)
class Input:
    """One partition of an input topic, read whole; what `Detector.decode` needs of a batch.

    Attributes:
        topic: Its name.
        incarnation: Which topic of that name, counted from 0.
        partition: The partition.
        offsets: Shape (n,), ascending.
        timestamps_ms: When the broker took each message, shape (n,).
        keys: n message keys.
        values: n message values.
        numbers: n numbers in the recording.
    """

    topic: str
    incarnation: int
    partition: int
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    keys: Sequence[bytes | None]
    values: Sequence[bytes | None]
    numbers: Sequence[int]

    @property
    def partition_index(self) -> NDArray[np.int32]:
        """Zeros, shape (n,)."""
        return np.zeros(len(self.values), np.int32)

    def slices(self) -> Iterator[Input]:
        """The same in parts of a few thousand."""
        for start in range(0, len(self.values), _SLICE):
            part = slice(start, start + _SLICE)
            yield Input(
                self.topic, self.incarnation, self.partition, self.offsets[part], self.timestamps_ms[part],
                self.keys[part], self.values[part], self.numbers[part],
            )  # fmt: skip


def expected_of(detector: Detector, partition: Input) -> list[Expected]:
    """What must come of each record of a partition, in order."""
    states = [detector.history.new_state()] if detector.history is not None else None
    alert_states = [detector.alerting.begin()]
    expected: list[Expected] = []
    for part in partition.slices():
        records, rejects = detector.decode(part)
        verdicts, changes = detector.judge(records, states, alert_states, explanations=False)
        if states is not None:
            states[0].apply(changes[0])
        alert_states = list(verdicts.states)
        told = _scored(detector, part, verdicts, records.rows, records.ids) | dict(_rejected(part, rejects))
        expected += [
            Expected(
                _place(part, row), part.incarnation, part.numbers[row], part.keys[row], *told[row]
            )
            for row in range(len(part.values))
        ]  # fmt: skip
    return expected


_Told = tuple[Outcome, dict[Output, object]]


def _scored(
    detector: Detector, part: Input, verdicts: Verdicts, rows: NDArray[np.int64], ids: NDArray[np.object_] | None
) -> dict[int, _Told]:
    outcomes: list[Outcome] = ["normal"] * len(rows)
    for place in verdicts.suppressed.tolist():
        outcomes[place] = "suppressed"
    before = dict(zip(verdicts.alerts.tolist(), verdicts.before, strict=True))
    for place in before:
        outcomes[place] = "alert"
    ratios = verdicts.ratios
    told: dict[int, _Told] = {}
    for place, row in enumerate(rows.tolist()):
        score, ratio = float(verdicts.scores[place]), float(ratios[place])
        contents: dict[Output, object] = {
            "score": (outcomes[place], score, ratio, None if ids is None else str(ids[place]))
        }
        if place in before:
            where = (int(part.offsets[row]), int(part.timestamps_ms[row]))
            identity = alert_id(detector.name, part.topic, part.partition, *where)
            suppressed = before[place]
            count = 0 if suppressed is None else suppressed.count
            contents["alert"] = (identity, score, float(verdicts.thresholds[place]), ratio, count)
        told[row] = (outcomes[place], contents)
    for place in verdicts.unscorable.tolist():
        row = int(rows[place])
        told[row] = ("dead_letter", {"dead_letter": ("non_finite_score", part.values[row])})
    return told


def _rejected(part: Input, rejects: Sequence[Reject]) -> Iterator[tuple[int, _Told]]:
    for reject in rejects:
        if reject.reason is RejectReason.TOMBSTONE:
            yield reject.row, ("tombstone", {})
        else:
            yield reject.row, ("dead_letter", {"dead_letter": (str(reject.reason), part.values[reject.row])})


def _place(part: Input, row: int) -> Place:
    return Place(part.partition, int(part.offsets[row]), int(part.timestamps_ms[row]))
