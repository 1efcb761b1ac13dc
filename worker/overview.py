"""What is on a dead-letter topic, by reason and by time, and the last letters one by one; never their contents."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from worker.letters import Letter, Letters, Place, Selection

_MOST_HOURS = 48


class Row(NamedTuple):
    """One letter, without what is in its record."""

    partition: int
    offset: int
    reason: str
    attempts: int
    failed_at: datetime
    original: Place
    redriven: bool
    truncated: str
    message: str


@dataclass
class OfReason:
    """The letters of one reason."""

    reason: str
    stage: str
    first: datetime
    last: datetime
    waiting: int = 0
    redriven: int = 0


@dataclass
class Overview:
    """The letters that were asked for.

    Attributes:
        by_reason: Counts by reason, the most frequent first.
        by: What `by_time` counts by: hour, or day where there would be more than 48 hours.
        by_time: Counts by time of failure in UTC, in order.
        last: The last letters by time of failure.
        passed_over: Messages that are no dead letters of ours.
    """

    by_reason: list[OfReason] = field(default_factory=list)
    by: str = "hour"
    by_time: list[tuple[str, int]] = field(default_factory=list)
    last: list[Row] = field(default_factory=list)
    passed_over: int = 0

    @property
    def waiting(self) -> int:
        """Letters that were not redriven to where they came from."""
        return sum(each.waiting for each in self.by_reason)

    @property
    def redriven(self) -> int:
        """Letters that were."""
        return sum(each.redriven for each in self.by_reason)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "waiting": self.waiting,
            "redriven": self.redriven,
            "no_dead_letters": self.passed_over,
            "by_reason": [
                {
                    "reason": each.reason,
                    "stage": each.stage,
                    "waiting": each.waiting,
                    "redriven": each.redriven,
                    "first": each.first.isoformat(),
                    "last": each.last.isoformat(),
                }
                for each in self.by_reason
            ],
            f"by_{self.by}": dict(self.by_time),
            "last": [
                row._asdict() | {"failed_at": row.failed_at.isoformat(), "original": row.original._asdict()}
                for row in self.last
            ],
        }


def overview_of(letters: Letters, selection: Selection, *, limit: int = 20, only_waiting: bool = False) -> Overview:
    """Count the letters that were asked for; memory grows with `limit` and with hours, not with letters.

    Raises:
        TransportError: The broker does not answer, or refuses.
    """
    redriven = letters.redriven()
    reasons: dict[tuple[str, str], OfReason] = {}
    hours: Counter[str] = Counter()
    last: dict[int, deque[Row]] = {}  # by partition, each in its order
    passed_over = 0
    for letter in letters:
        if letter is None:
            passed_over += 1
            continue
        is_redriven = redriven.has(letter)
        if not selection.takes(letter) or (only_waiting and is_redriven):
            continue
        at = letter.failed_at.astimezone(UTC)
        each = reasons.setdefault((letter.reason, letter.stage), OfReason(letter.reason, letter.stage, at, at))
        each.first, each.last = min(each.first, at), max(each.last, at)
        each.waiting += not is_redriven
        each.redriven += is_redriven
        hours[at.strftime("%Y-%m-%d %H:00")] += 1
        last.setdefault(letter.partition, deque(maxlen=limit)).append(_row(letter, redriven=is_redriven))
    rows = sorted((row for rows in last.values() for row in rows), key=lambda row: (row.failed_at, row[:2]))
    by, by_time = _by_time(hours)
    return Overview(
        by_reason=sorted(reasons.values(), key=lambda each: (-each.waiting - each.redriven, each.reason)),
        by=by,
        by_time=by_time,
        last=rows[-limit:] if limit else [],
        passed_over=passed_over,
    )


def _row(letter: Letter, *, redriven: bool) -> Row:
    return Row(
        letter.partition, letter.offset, letter.reason, letter.attempts, letter.failed_at.astimezone(UTC),
        letter.original, redriven, letter.truncated, letter.message,
    )  # fmt: skip


def _by_time(hours: Counter[str]) -> tuple[str, list[tuple[str, int]]]:
    if len(hours) <= _MOST_HOURS:
        return "hour", sorted(hours.items())
    days: Counter[str] = Counter()
    for hour, count in hours.items():
        days[hour[:10]] += count
    return "day", sorted(days.items())
