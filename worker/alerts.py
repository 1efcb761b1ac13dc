"""Alerts as they stand on their topic; it knows the wire format and nothing of who is anomalous or why."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from detector import (
    Counterfactual,
    Detector,
    Explanation,
    ImageExplanation,
    Records,
    Severity,
    SuppressedBefore,
    Verdicts,
    severity_of,
    to_png,
)
from transport import Batch, OutgoingMessage
from worker.identity import Identities, SourceMessage, shortened
from worker.letters import redrive_of

SCHEMA_VERSION = 1

HEADERS = (("content-type", b"application/json"), ("schema-version", str(SCHEMA_VERSION).encode()))


class AlertContribution(Struct, frozen=True, kw_only=True):
    """A feature's share of the score, what the record said, and what the reconstruction expected."""

    feature: str
    contribution: Annotated[float, Meta(description="Share of the score; all shares and `others` sum to 1.")]
    actual: Annotated[
        str | float | None, Meta(description="Null where missing or sensitive; cut after 256 characters.")
    ]
    expected: Annotated[
        str | float | None,
        Meta(
            description="What the rest of the record lets expect, in its own units; null where that is no value, or "
            "where sensitive."
        ),
    ]
    direction: Annotated[
        Literal["above", "below", "differs"] | None,
        Meta(
            description="How an actual number stands to the expected one; of categories and times `differs`. Null "
            "where they are equal, one of them is missing, or the feature is sensitive."
        ),
    ] = None
    sensitive: bool = False


class AlertChange(Struct, frozen=True, kw_only=True):
    """What one feature would have to be; all features that are not named stay as they are."""

    feature: str
    relation: Annotated[
        Literal["equals", "at_most", "at_least"] | None,
        Meta(
            description="How the feature would have to stand to `value`. A bound was verified at `value` and at the "
            "expected value beyond. Null where sensitive."
        ),
    ]
    value: Annotated[
        str | float | None,
        Meta(
            description="In the record's own units; null for no value, or where sensitive; `(rare)` for any of the "
            "categories that few records have; cut after 256 characters."
        ),
    ]
    sensitive: bool = False


class AlertCounterfactual(Struct, frozen=True, kw_only=True):
    """A record beside this one that would not alert."""

    changes: Annotated[
        tuple[AlertChange, ...],
        Meta(description="What would be otherwise, all of it together, at most four features."),
    ]
    score: Annotated[
        float, Meta(description="Of the record with each change at its value: scored, and not above `threshold`.")
    ]


class AlertImage(Struct, frozen=True, kw_only=True):
    """What the network made of an image, at the size that was scored."""

    reconstruction: Annotated[
        str, Meta(description="PNG in base64: the image, slightly blurred, as the network rebuilt it.")
    ]
    error_map: Annotated[
        str,
        Meta(
            description="Grey PNG in base64: how far the reconstruction is off at each pixel, black for 0, "
            "white for `largest_error`."
        ),
    ]
    largest_error: Annotated[float, Meta(description="Error of a white pixel of the error map, in levels of 0 to 255.")]
    height: Annotated[int, Meta(description="Of both, in pixels.")]
    width: Annotated[int, Meta(description="Of both, in pixels.")]


class AlertRedriveOf(Struct, frozen=True, kw_only=True):
    """Where a redriven record stood when it became a dead letter first."""

    topic: str
    partition: int
    offset: int


class AlertSuppressed(Struct, frozen=True, kw_only=True):
    """What a cooldown or an episode kept back."""

    suppressed_count: Annotated[int, Meta(description="How many anomalies.")]
    first_seen: Annotated[datetime | None, Meta(description="Event time of the first; null where sensitive.")]
    last_seen: Annotated[datetime | None, Meta(description="Event time of the last; null where sensitive.")]


class AlertModel(Struct, frozen=True, kw_only=True):
    """Which model said so."""

    name: str
    version: str | None
    trained_until: datetime | None
    sha256: str | None


class Alert(Struct, frozen=True, kw_only=True):
    """One anomaly. A redelivered record gives the same `alert_id`, so that readers who upsert by it count it once."""

    schema_version: int
    alert_id: str
    detector: str
    severity: Annotated[
        Severity,
        Meta(
            description="How much rarer so high a score is among normal records than the false alarms that the "
            "threshold promises: minor 10 times, major 100, critical 1,000."
        ),
    ]
    event_time: Annotated[
        datetime | None,
        Meta(description="When it happened, as the record says, else the time of its message; null where sensitive."),
    ]
    detected_at: Annotated[datetime, Meta(description="When the worker scored it.")]
    source: SourceMessage
    record_id: Annotated[str | None, Meta(description="The record's id field; a pseudonym where it is sensitive.")]
    entity: Annotated[
        dict[str, str] | None,
        Meta(description="Field and value of the entity key; `pseudonym:` and a UUID where it is sensitive."),
    ]
    score: float
    threshold: float
    score_ratio: Annotated[float, Meta(description="score / threshold: 1.0 is the boundary.")]
    tail_probability: Annotated[
        float,
        Meta(
            description="Probability of so high a score of a normal record: counted on held-out normal records, and by "
            "tails fitted to their scores where fewer than 20 score as high."
        ),
    ]
    suppressed_before: Annotated[
        AlertSuppressed | None,
        Meta(description="Anomalies of the entity that did not alert since the alert before; null for none."),
    ]
    contributions: Annotated[tuple[AlertContribution, ...], Meta(description="Largest share first.")]
    others: Annotated[float, Meta(description="Share of the score of all features that are not listed.")]
    explained_by: Annotated[
        Literal["ablation", "residual"],
        Meta(
            description="How shares were found: by trying what else the features that were rebuilt worst could be, or "
            "by residuals where a batch has so many anomalies that the first would hold up the stream."
        ),
    ]
    counterfactual: Annotated[
        AlertCounterfactual | None,
        Meta(description="What would not have alerted; null where nothing was found or sought."),
    ] = None
    counterfactual_search: Annotated[
        Literal["found", "none_found", "not_made", "left_out"],
        Meta(
            description="What became of the search for a counterfactual: `none_found` among the features that were "
            "tried, up to four at once; `not_made` where it is off, for images, and where `explained_by` is "
            "residual; `left_out` where it was too large for the topic."
        ),
    ] = "not_made"
    missing_fields: tuple[str, ...]
    unseen_categories: Annotated[tuple[str, ...], Meta(description="Features with a value never seen in training.")]
    out_of_range_fields: Annotated[tuple[str, ...], Meta(description="Features beyond what was seen in training.")]
    model: AlertModel
    echo: Annotated[dict[str, Any], Meta(description="The fields that the stream definition allows to repeat.")]
    echo_left_out: Annotated[bool, Meta(description="The echo was too large for the topic.")] = False
    image: Annotated[
        AlertImage | None,
        Meta(description="Of a record that is an image; null where it is sensitive, or was too large for the topic."),
    ] = None
    image_left_out: Annotated[bool, Meta(description="`image` was too large for the topic.")] = False
    redrive_of: Annotated[
        AlertRedriveOf | None,
        Meta(
            description="Of a record that was a dead letter and came again by `offbeat dlq redrive`: where it stood "
            "first. Its `source` is where it stands now. Null for all others."
        ),
    ] = None


def alerts_of(
    batch: Batch,
    records: Records,
    verdicts: Verdicts,
    detector: Detector,
    *,
    now_s: float,
    top: int,
) -> list[tuple[int, Alert]]:
    """The alerts of a judged batch with the row of `records` of each, in the order of the records."""
    who = Identities(batch, records, detector.stream)
    model = AlertModel(
        name=detector.name, version=detector.version, trained_until=detector.trained_until, sha256=detector.sha256
    )
    alerts = []
    ratios = verdicts.ratios
    for row, probability, explanation, before in zip(
        verdicts.alerts.tolist(), verdicts.probabilities.tolist(), verdicts.explanations, verdicts.before, strict=True
    ):
        shown, others = _contributions(explanation, top)
        alert = Alert(
            schema_version=SCHEMA_VERSION,
            alert_id=who.alert_id(row),
            detector=detector.name,
            severity=severity_of(probability, detector.threshold.rate),
            event_time=who.event_time(row),
            detected_at=datetime.fromtimestamp(round(now_s, 3), UTC),
            source=who.source(row),
            record_id=who.record_id(row),
            entity=who.entity(row),
            score=float(verdicts.scores[row]),
            threshold=float(verdicts.thresholds[row]),
            score_ratio=float(ratios[row]),
            tail_probability=probability,
            suppressed_before=_suppressed(before, who),
            contributions=shown,
            others=others,
            explained_by=explanation.explained_by,
            counterfactual=_counterfactual(explanation.counterfactual),
            counterfactual_search=_search(explanation),
            missing_fields=tuple(explanation.missing_fields),
            unseen_categories=tuple(explanation.unseen_categories),
            out_of_range_fields=tuple(explanation.out_of_range_fields),
            model=model,
            echo=detector.echo(batch.values[int(records.rows[row])] or b""),
            image=_image(explanation.image),
            redrive_of=_redrive_of(batch.headers[int(records.rows[row])]),
        )
        alerts.append((row, alert))
    return alerts


def alert_message(alert: Alert, topic: str, key: bytes | None, max_bytes: int) -> OutgoingMessage:
    """The alert as a message; what would not fit the topic is left out, the alert itself never is.

    First the echo goes, and says so; then an image's PNGs; then the counterfactual; then the smaller contributions
    become part of `others`.
    """
    message = OutgoingMessage(topic, key, _ENCODER.encode(alert), HEADERS)
    if message.size_bytes > max_bytes:
        alert = msgspec.structs.replace(alert, echo={}, echo_left_out=True)
        message = OutgoingMessage(topic, key, _ENCODER.encode(alert), HEADERS)
    if message.size_bytes > max_bytes and alert.image is not None:
        alert = msgspec.structs.replace(alert, image=None, image_left_out=True)
        message = OutgoingMessage(topic, key, _ENCODER.encode(alert), HEADERS)
    if message.size_bytes > max_bytes and alert.counterfactual is not None:
        alert = msgspec.structs.replace(alert, counterfactual=None, counterfactual_search="left_out")
        message = OutgoingMessage(topic, key, _ENCODER.encode(alert), HEADERS)
    while message.size_bytes > max_bytes and alert.contributions:
        kept = alert.contributions[: len(alert.contributions) // 2]
        dropped = sum(contribution.contribution for contribution in alert.contributions[len(kept) :])
        alert = msgspec.structs.replace(alert, contributions=kept, others=alert.others + dropped)
        message = OutgoingMessage(topic, key, _ENCODER.encode(alert), HEADERS)
    return message


def alert_schema() -> dict[str, Any]:
    """JSON schema of an alert; `docs/alert.schema.json` is checked against it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Alert)}


_ENCODER = msgspec.json.Encoder()


def _contributions(explanation: Explanation, top: int) -> tuple[tuple[AlertContribution, ...], float]:
    shown = explanation.contributions[:top]
    others = explanation.others + sum(contribution.share for contribution in explanation.contributions[top:])
    return tuple(
        AlertContribution(
            feature=contribution.feature,
            contribution=float(contribution.share),
            actual=_shown(contribution.actual),
            expected=_shown(contribution.expected),
            direction=contribution.direction,
            sensitive=contribution.sensitive,
        )
        for contribution in shown
    ), float(others)


def _redrive_of(headers: Sequence[tuple[str, bytes]]) -> AlertRedriveOf | None:
    first = redrive_of(headers)
    return None if first is None else AlertRedriveOf(**first._asdict())


def _suppressed(before: SuppressedBefore | None, who: Identities) -> AlertSuppressed | None:
    if before is None:
        return None
    first, last = who.shown_time(before.first), who.shown_time(before.last)
    return AlertSuppressed(suppressed_count=before.count, first_seen=first, last_seen=last)


def _counterfactual(counterfactual: Counterfactual | None) -> AlertCounterfactual | None:
    if counterfactual is None:
        return None
    changes = tuple(
        AlertChange(
            feature=change.feature, relation=change.relation, value=_shown(change.value), sensitive=change.sensitive
        )
        for change in counterfactual.changes
    )
    return AlertCounterfactual(changes=changes, score=counterfactual.score)


def _search(explanation: Explanation) -> Literal["found", "none_found", "not_made"]:
    if not explanation.is_counterfactual_sought:
        return "not_made"
    return "none_found" if explanation.counterfactual is None else "found"


def _image(explanation: ImageExplanation | None) -> AlertImage | None:
    if explanation is None:
        return None
    height, width = explanation.error.shape
    largest = float(explanation.error.max())
    error = np.rint(explanation.error * (255 / max(largest, 1e-6))).astype(np.uint8)
    return AlertImage(
        reconstruction=base64.b64encode(to_png(explanation.reconstruction)).decode(),
        error_map=base64.b64encode(to_png(error[:, :, None])).decode(),
        largest_error=round(largest, 2),
        height=height,
        width=width,
    )


def _shown(value: str | float | None) -> str | float | None:
    return shortened(value) if isinstance(value, str) else value
