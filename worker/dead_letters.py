"""Dead letters: messages that cannot be scored, their bytes unchanged, the reason in headers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from detector import Reject, RejectReason
from transport import Batch, OutgoingMessage
from worker.letters import PREFIX, attempts_of, redrive_of

NON_FINITE_SCORE = "non_finite_score"

Stage = Literal["deserialize", "validate", "score"]

STAGES: dict[str, Stage] = {
    RejectReason.EMPTY: "deserialize",
    RejectReason.TOO_LARGE: "deserialize",
    RejectReason.TOO_DEEP: "deserialize",
    RejectReason.NOT_UTF8: "deserialize",
    RejectReason.NOT_JSON: "deserialize",
    RejectReason.NOT_AN_OBJECT: "deserialize",
    RejectReason.MISSING_FIELD: "validate",
    RejectReason.WRONG_TYPE: "validate",
    RejectReason.NOT_FINITE: "validate",
    RejectReason.BAD_TIME: "validate",
    RejectReason.FUTURE_TIME: "validate",
    RejectReason.BAD_IMAGE: "validate",
    NON_FINITE_SCORE: "score",
}
"""Every reason of a dead letter and the stage that found it. Tombstones are no dead letters."""

_MOST_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True)
class Origin:
    """What every dead letter of one batch says about who wrote it."""

    consumer_group: str
    worker_version: str
    model_version: str | None
    at_s: float


def non_finite_score(row: int) -> tuple[int, str, str]:
    """Row, reason and message of a record whose score is not a number that can be compared."""
    return row, NON_FINITE_SCORE, "the score is not finite, so that it is neither normal nor an anomaly"


def of_reject(reject: Reject) -> tuple[int, str, str]:
    """Row, reason and message of a value that is not a record of the stream."""
    place = f"{reject.field}: " if reject.field else ""
    text = reject.message if reject.field and reject.message.startswith(reject.field) else place + reject.message
    return reject.row, str(reject.reason), text


def dead_letter(
    batch: Batch, row: int, reason: str, message: str, *, origin: Origin, topic: str, max_bytes: int
) -> OutgoingMessage:
    """The dead letter of one message: value, key and headers as they came, `dlq.*` headers added.

    A message that was redriven has its old `dlq.*` headers replaced and `dlq.attempts` counted up, so that a redrive
    that fails again can be told from a first failure; where it failed first stays, in `dlq.redrive_of`. What the broker
    would not take is cut, in this order: the value, the original headers, the key; `dlq.truncated` names what was,
    `dlq.original.size` the value's bytes.
    """
    partition = batch.partitions[int(batch.partition_index[row])]
    original = [(name, value or b"") for name, value in batch.headers[row] if not name.startswith(PREFIX)]
    added = {
        "dlq.reason": reason,
        "dlq.error.class": "RecordRejected" if STAGES[reason] != "score" else "ScoreNotFinite",
        "dlq.error.message": message[:_MOST_MESSAGE_CHARACTERS],
        "dlq.error.stage": STAGES[reason],
        "dlq.original.topic": partition.topic,
        "dlq.original.partition": str(partition.number),
        "dlq.original.offset": str(int(batch.offsets[row])),
        "dlq.original.timestamp": str(int(batch.timestamps_ms[row])),
        "dlq.consumer.group": origin.consumer_group,
        "dlq.attempts": str(attempts_of(batch.headers[row]) + 1),
        "dlq.worker.version": origin.worker_version,
        "dlq.model.version": origin.model_version or "none",
        "dlq.failed.at": datetime.fromtimestamp(round(origin.at_s, 3), UTC).isoformat().replace("+00:00", "Z"),
    }
    if (first := redrive_of(batch.headers[row])) is not None:
        added["dlq.redrive_of"] = str(first)
    return _fit(topic, batch.keys[row], batch.values[row], original, added, max_bytes)


def _fit(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    original: list[tuple[str, bytes]],
    added: dict[str, str],
    max_bytes: int,
) -> OutgoingMessage:
    def message(kept: list[tuple[str, bytes]], key: bytes | None, value: bytes | None) -> OutgoingMessage:
        headers = (*kept, *((name, text.encode("utf-8", "replace")) for name, text in added.items()))
        return OutgoingMessage(topic, key, value, headers)

    whole = message(original, key, value)
    if whole.size_bytes <= max_bytes:
        return whole
    added |= {"dlq.truncated": "value,headers,key", "dlq.original.size": str(len(value or b""))}
    if (room := max_bytes - message(original, key, b"").size_bytes) >= 0:
        added["dlq.truncated"] = "value"
        return message(original, key, (value or b"")[:room])
    if (room := max_bytes - message([], key, b"").size_bytes) >= 0:
        added["dlq.truncated"] = "value,headers"
        return message([], key, (value or b"")[:room])
    room = max_bytes - message([], b"", b"").size_bytes
    return message([], (key or b"")[: max(room, 0)], b"")
