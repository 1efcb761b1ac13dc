"""What becomes of each record of a judged batch, and the messages that say so; it publishes and counts nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector import DriftCounts, Records, Reject, RejectReason, Verdicts
from transport import Batch, OutgoingMessage
from worker.alerts import Alert, alert_message, alerts_of
from worker.dead_letters import STAGES, Origin, dead_letter, non_finite_score, of_reject
from worker.identity import Identities
from worker.models import Model
from worker.scores import score_messages
from worker.settings import WorkerSettings


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What becomes of each record of a batch: every one is exactly one of normal, alert, suppressed, dead letter.

    Attributes:
        messages: What has to be acknowledged before the batch is finished.
        normal: Records that score at or below the threshold.
        alerts: One for each anomaly that no rule suppresses.
        alerted_ms: Message timestamps of the records that alert, shape (len(alerts),).
        suppressed: Records left out on purpose, by reason.
        dead_letters: Records that cannot be scored, by stage and reason.
        dead: True for each dead letter, in the batch's order without tombstones, shape (n - tombstones,).
        anomalies: Records above their threshold, whether they alert or a rule suppresses them.
        ratios: Score ratios of all records that have one, shape (normal + anomalies,).
        missing: Records without the field, by feature.
        unseen: Records with a category never seen in training, by feature.
        drift: The records by bin, None where the model has no reference to compare them with.
    """

    messages: list[OutgoingMessage]
    normal: int
    alerts: list[Alert]
    alerted_ms: NDArray[np.int64]
    suppressed: Counter[str]
    dead_letters: Counter[tuple[str, str]]
    dead: NDArray[np.bool_]
    anomalies: int
    ratios: NDArray[np.float64]
    missing: dict[str, int]
    unseen: dict[str, int]
    drift: DriftCounts | None

    def counts(self) -> dict[str, int]:
        """Records by outcome."""
        return {
            "normal": self.normal,
            "alert": len(self.alerts),
            "suppressed": self.suppressed.total(),
            "dead_letter": self.dead_letters.total(),
        }


def outcomes_of(
    batch: Batch,
    records: Records,
    rejects: list[Reject],
    verdicts: Verdicts,
    model: Model,
    settings: WorkerSettings,
    origin: Origin,
) -> Outcomes:
    """The outcomes of a batch that was decoded and judged by `model`."""
    detector = model.detector
    alerts = alerts_of(batch, records, verdicts, detector, now_s=origin.at_s, top=settings.alert_contributions)
    who = Identities(batch, records, detector.stream)
    messages = [
        alert_message(alert, settings.alerts_to, who.message_key(row), settings.max_message_bytes)
        for row, alert in alerts
    ]

    tombstones = [reject.row for reject in rejects if reject.reason is RejectReason.TOMBSTONE]
    refused = [of_reject(reject) for reject in rejects if reject.reason is not RejectReason.TOMBSTONE]
    refused += [non_finite_score(row) for row in records.rows[verdicts.unscorable].tolist()]
    refused.sort()
    messages += [
        dead_letter(batch, *letter, origin=origin, topic=settings.dead_letters_to, max_bytes=settings.max_message_bytes)
        for letter in refused
    ]
    if settings.score_topic is not None:
        messages += score_messages(batch, records, verdicts, detector, settings.score_topic)

    dead = np.zeros(len(batch), np.bool_)
    dead[[row for row, _, _ in refused]] = True
    scorable = np.isfinite(verdicts.scores)
    return Outcomes(
        messages=messages,
        normal=len(records) - len(verdicts.anomalies) - len(verdicts.unscorable),
        alerts=[alert for _, alert in alerts],
        alerted_ms=records.timestamps_ms[verdicts.alerts],
        suppressed=Counter({"tombstone": len(tombstones)}) + Counter(verdicts.reasons),
        dead_letters=Counter((str(STAGES[reason]), reason) for _, reason, _ in refused),
        dead=np.delete(dead, tombstones),
        anomalies=len(verdicts.anomalies),
        ratios=np.asarray(verdicts.ratios, np.float64)[scorable],
        missing=verdicts.missing,
        unseen=verdicts.unseen,
        drift=verdicts.drift,
    )
