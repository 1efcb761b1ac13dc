"""The score of every record, for the optional topic of all scores."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from detector import Detector, Records, Verdicts
from transport import Batch, OutgoingMessage
from worker.alerts import HEADERS, SCHEMA_VERSION
from worker.identity import Identities, SourceMessage


class ScoredRecord(Struct, frozen=True, kw_only=True):
    """The score of one record; records without a finite score are dead letters and not here."""

    schema_version: int
    detector: str
    source: SourceMessage
    record_id: Annotated[str | None, Meta(description="The record's id field; a pseudonym where it is sensitive.")]
    score: float
    score_ratio: Annotated[float, Meta(description="score / threshold: 1.0 is the boundary.")]
    verdict: Literal["normal", "alert", "suppressed"]
    model_version: str | None


def score_messages(
    batch: Batch, records: Records, verdicts: Verdicts, detector: Detector, topic: str
) -> list[OutgoingMessage]:
    """One message for every record with a finite score, in the order of the records, keyed as its alert would be."""
    who = Identities(batch, records, detector.stream)
    verdict_of: list[Literal["normal", "alert", "suppressed"]] = ["normal"] * len(records)
    for row in verdicts.alerts.tolist():
        verdict_of[row] = "alert"
    for row in verdicts.suppressed.tolist():
        verdict_of[row] = "suppressed"
    scorable = np.ones(len(records), np.bool_)
    scorable[verdicts.unscorable] = False
    ratios = verdicts.ratios
    messages = []
    for row in np.flatnonzero(scorable).tolist():
        value = _ENCODER.encode(
            ScoredRecord(
                schema_version=SCHEMA_VERSION,
                detector=detector.name,
                source=who.source(row),
                record_id=who.record_id(row),
                score=float(verdicts.scores[row]),
                score_ratio=float(ratios[row]),
                verdict=verdict_of[row],
                model_version=detector.version,
            )
        )
        messages.append(OutgoingMessage(topic, who.message_key(row), value, HEADERS))
    return messages


_ENCODER = msgspec.json.Encoder()
