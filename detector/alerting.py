"""From scores to alerts: the threshold in force, the rules of suppression, and what both carry from batch to batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.explain import Explanation
from detector.normal_scores import NormalScores
from detector.online_threshold import OnlineThreshold, ScoreWindow
from detector.records import Records
from detector.stream import StreamDefinition
from detector.suppression import (
    Quiets,
    SuppressedBefore,
    suppressed_by_direction,
    suppressed_by_entity,
    suppressed_by_value,
)
from detector.suppression_rules import DirectionRule
from detector.threshold import Threshold


@dataclass(frozen=True)
class AlertState:
    """What the earlier records of a partition mean for the alerts on its next ones. Never changed.

    Attributes:
        window: Latest scores, which an online threshold follows; None where the threshold is fixed.
        quiets: Entities that alerted; empty where no rule asks.
    """

    window: ScoreWindow | None = None
    quiets: Quiets = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """Which records of a batch alert.

    Attributes:
        thresholds: The threshold in force for each record, (n,).
        anomalies: Rows above it, ascending, (a,).
        alerts: Those of them that alert, ascending, (k,).
        probabilities: Of each alert, how probable so high a score is of a normal record, (k,).
        suppressed: Anomalies that do not alert, ascending, (a - k,).
        reasons: Of each of these, the name of the rule.
        before: Of each alert, what of its entity was suppressed since the alert before.
        explanations: Why, one for each alert, where they were asked for or a rule had to know them; else empty.
        states: What is left for the next records, one for each partition.
    """

    thresholds: NDArray[np.float64]
    anomalies: NDArray[np.int64]
    alerts: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    suppressed: NDArray[np.int64]
    reasons: tuple[str, ...]
    before: tuple[SuppressedBefore | None, ...]
    explanations: tuple[Explanation, ...]
    states: tuple[AlertState, ...]


class Alerting:
    """Decides which scores alert. The same partition gives the same alerts in whatever batches it comes.

    Rules apply in the order: floors and segments, directions, then cooldown or episode; so that an anomaly which is
    suppressed for what it is keeps no other quiet.
    """

    def __init__(self, stream: StreamDefinition, threshold: Threshold, normal: NormalScores) -> None:
        """Set up for a detector's stream, calibrated threshold and normal scores.

        Raises:
            TrainingDataError: An online threshold cannot keep the promised rate.
        """
        self._stream, self._threshold, self._normal = stream, threshold, normal
        is_online = stream.threshold.mode == "online"
        self.online = OnlineThreshold.of(threshold, normal, stream.threshold.window) if is_online else None
        self._asks_direction = any(isinstance(rule, DirectionRule) for rule in stream.suppress)

    @property
    def remembers(self) -> bool:
        """Whether earlier records matter to the alerts on the next ones."""
        return self.online is not None or self._stream.entity_rule is not None

    def begin(self) -> AlertState:
        """The state of a partition without records."""
        return AlertState(None if self.online is None else self.online.begin())

    def adopt(self, state: AlertState) -> AlertState:
        """The state of another version of the detector, as far as it means something to this one.

        Scores of another version are no scores of this one, so that an online threshold begins anew. Entities that
        alerted stay quiet where a rule asks.
        """
        return AlertState(self.begin().window, state.quiets if self._stream.entity_rule is not None else {})

    def judge(
        self,
        records: Records,
        scores: NDArray[np.float64],
        states: Sequence[AlertState],
        explain: Callable[[NDArray[np.int64], NDArray[np.float64]], tuple[Explanation, ...]],
    ) -> Judgement:
        """Decide which of scored records alert.

        Args:
            records: The records, those of one partition in their order.
            scores: Their scores, (n,); one that is not finite is no anomaly.
            states: What earlier records left, one for each partition (`records.partition_index` says which).
            explain: Gives the explanations of the records at some rows, by the thresholds in force for them.
        """
        thresholds, standardised, windows = self._thresholds(records, scores, states)
        anomalies = np.flatnonzero(np.isfinite(scores) & (scores > thresholds))
        reasons = np.full(len(anomalies), None, object)
        if self._stream.suppress and len(anomalies):
            reasons = suppressed_by_value(self._stream, records.take(anomalies))
        explanations: dict[int, Explanation] = {}
        if self._asks_direction and len(anomalies):
            left = np.flatnonzero(_unsuppressed(reasons))
            told = explain(anomalies[left], thresholds[anomalies[left]])
            explanations = dict(zip(anomalies[left].tolist(), told, strict=True))
            reasons[left] = suppressed_by_direction(self._stream, told)
        before, quiets = self._quieted(records, anomalies, reasons, states)
        does_alert = _unsuppressed(reasons)
        alerting, suppressed = np.flatnonzero(does_alert), np.flatnonzero(~does_alert)
        alerts = anomalies[alerting]
        return Judgement(
            thresholds=thresholds,
            anomalies=anomalies,
            alerts=alerts,
            probabilities=self._normal.probability(standardised[alerts]),
            suppressed=anomalies[suppressed],
            reasons=tuple(reasons[suppressed].tolist()),
            before=tuple(before[row] for row in alerting.tolist()),
            explanations=tuple(explanations[row] for row in alerts.tolist()) if explanations else (),
            states=tuple(AlertState(*both) for both in zip(windows, quiets, strict=True)),
        )

    def _thresholds(
        self, records: Records, scores: NDArray[np.float64], states: Sequence[AlertState]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[ScoreWindow | None]]:
        """Thresholds (n,), scores as they would be at calibration (n,), and the windows after the records."""
        windows = [state.window for state in states]
        thresholds, standardised = np.full(len(scores), self._threshold.value), scores.copy()
        if self.online is not None:
            for partition, window in enumerate(windows):
                rows = np.flatnonzero(records.partition_index == partition)
                thresholds[rows], standardised[rows], windows[partition] = self.online.follow(
                    window or self.online.begin(), scores[rows], records.offsets[rows]
                )
        return thresholds, standardised, windows

    def _quieted(
        self,
        records: Records,
        anomalies: NDArray[np.int64],
        reasons: NDArray[np.object_],
        states: Sequence[AlertState],
    ) -> tuple[list[SuppressedBefore | None], list[Quiets]]:
        """What was suppressed before each anomaly, and who is quiet afterwards; adds to `reasons`."""
        before: list[SuppressedBefore | None] = [None] * len(anomalies)
        quiets = [state.quiets for state in states]
        rule = self._stream.entity_rule
        if rule is None:
            return before, quiets
        for partition, known in enumerate(quiets):
            own = np.flatnonzero((records.partition_index[anomalies] == partition) & _unsuppressed(reasons))
            suppressed, found, quiets[partition] = suppressed_by_entity(rule, known, records.take(anomalies[own]))
            reasons[own[suppressed]] = rule.name
            for row, told in zip(own.tolist(), found, strict=True):
                before[row] = told
        return before, quiets


def _unsuppressed(reasons: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Where no rule has suppressed an anomaly yet, (a,)."""
    return np.array([reason is None for reason in reasons.tolist()], np.bool_)
