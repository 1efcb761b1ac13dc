"""What the loop is doing, for those who ask over HTTP: written by the loop, read by any thread; no record in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from transport import Partition
from worker.clock import Clock

State = Literal["starting", "waiting_for_model", "running", "retrying", "stopping", "poisoned"]


class Restoring(NamedTuple):
    """How far the histories of newly assigned partitions are: how many wait, of how many, and offsets to be read."""

    partitions: int
    of: int
    remaining: int


@dataclass
class Status:
    """The worker as it was at the last tick. Every attribute is replaced whole, so that no reader sees half of one.

    Attributes:
        clock: Where ages are measured.
        stall_limit_s: The loop counts as dead when it has not ticked for this long.
        silence_limit_s: The broker counts as away when it has not answered for this long.
        state: What the loop is doing.
        model: Name, version, sha256 and end of the training data of the model in use, empty before the first.
        assignment: Partitions that are owned.
        lag: Records between the first unfinished and the end, by partition.
        joined: Whether the group ever gave this worker partitions.
        restoring: How far histories of entities are restored.
        counts: Records by outcome.
        drift: How far the last records are from those of calibration, empty while that is not known.
        last_error: The last failure in words, empty where there was none.
        retry_attempts: Failures in a row.
        retrying_since_s: Monotonic time of the first of them, None where the last batch was finished.
    """

    clock: Clock
    stall_limit_s: float
    silence_limit_s: float
    state: State = "starting"
    model: dict[str, str | None] = field(default_factory=dict)
    assignment: tuple[Partition, ...] = ()
    lag: dict[Partition, int] = field(default_factory=dict)
    joined: bool = False
    restoring: Restoring = field(default_factory=lambda: Restoring(0, 0, 0))
    counts: dict[str, int] = field(default_factory=dict)
    drift: dict[str, Any] = field(default_factory=dict)
    last_error: str = ""
    retry_attempts: int = 0
    retrying_since_s: float | None = None

    def __post_init__(self) -> None:
        self._started = self._ticked = self.clock.monotonic_s()
        self._answered: float | None = None
        self._polling_since: float | None = None

    def tick(self) -> None:
        """The loop went on: a poll ended, a wait went by, a batch was finished."""
        self._ticked = self.clock.monotonic_s()

    def broker_answered(self, age_s: float) -> None:
        """The broker's last answer is this old now."""
        self._answered = self.clock.monotonic_s() - age_s
        if age_s > self.silence_limit_s:
            self._polling_since = None
        elif self._polling_since is None:
            self._polling_since = self.clock.monotonic_s()

    def stalled_s(self) -> float:
        """Seconds since the loop last ticked."""
        return self.clock.monotonic_s() - self._ticked

    def why_not_live(self) -> list[str]:
        """Why the process should be killed; empty while the loop ticks, also while it waits for a broker or a model."""
        stalled = self.stalled_s()
        return [] if stalled <= self.stall_limit_s else [f"the loop has not moved for {stalled:.0f} s"]

    def why_not_ready(self) -> list[str]:
        """Why records are not being scored now; empty when they are."""
        reasons = self.why_not_live()
        if not self.model:
            reasons.append("no model is loaded")
        if self.state in ("starting", "stopping", "poisoned"):
            reasons.append(f"the worker is {self.state}")
        if self.model and not self.joined and not self._stands_by():
            reasons.append("the group has not been joined yet")
        if self.restoring.partitions:
            waiting, of, remaining = self.restoring
            reasons.append(f"{waiting} of {of} partitions wait for their histories, {remaining} offsets to go")
        retrying = 0.0 if self.retrying_since_s is None else self.clock.monotonic_s() - self.retrying_since_s
        if retrying > self.silence_limit_s:
            reasons.append(f"no batch could be finished for {retrying:.0f} s")
        silence = self.silence_s()
        if silence > self.silence_limit_s:
            reasons.append(f"the broker has not answered for {silence:.0f} s")
        return reasons

    def _stands_by(self) -> bool:
        """Whether it polled for so long that it must be a member too many: ready, with nothing to do."""
        return self._polling_since is not None and self.clock.monotonic_s() - self._polling_since > self.silence_limit_s

    def silence_s(self) -> float:
        """Seconds since the broker last answered; since the start where it never did."""
        return self.clock.monotonic_s() - (self._started if self._answered is None else self._answered)

    def snapshot(self) -> dict[str, Any]:
        """Everything, as JSON can say it."""
        lag = self.lag
        return {
            "state": self.state,
            "ready": not self.why_not_ready(),
            "not_ready": self.why_not_ready(),
            "uptime_s": round(self.clock.monotonic_s() - self._started, 1),
            "loop_moved_s_ago": round(self.stalled_s(), 1),
            "broker_answered_s_ago": round(self.silence_s(), 1),
            "model": self.model,
            "assignment": [
                {"topic": partition.topic, "partition": partition.number, "lag": lag.get(partition)}
                for partition in sorted(self.assignment)
            ],
            "restoring": self.restoring._asdict(),
            "records": self.counts,
            "drift": self.drift,
            "retry_attempts": self.retry_attempts,
            "last_error": self.last_error,
        }
