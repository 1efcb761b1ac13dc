"""Which anomalies do not become alerts, and why; what an entity's alerts leave behind for its next anomaly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.explain import Contribution, Explanation
from detector.history import bounded_key
from detector.records import Records
from detector.stream import StreamDefinition
from detector.suppression_rules import DirectionRule, EntityRule, EpisodeRule, FloorRule, SegmentRule

MOST_SUPPRESSED = 2**40
"""Where the count of what is suppressed stops: a state that was read can always be written and read again."""


@dataclass(frozen=True)
class Quiet:
    """An entity that alerted, and what was suppressed of it since.

    Attributes:
        alerted_us: Event time of its last alert, in microseconds since the epoch.
        latest_us: Event time of its latest anomaly, alert or not.
        count: Anomalies suppressed since the alert, at most `MOST_SUPPRESSED`.
        first_us: Event time of the first of them; no meaning while there are none.
        last_us: Event time of the last of them.
    """

    alerted_us: int
    latest_us: int
    count: int = 0
    first_us: int = 0
    last_us: int = 0


Quiets = Mapping[str, Quiet]
"""Entities that alerted, the longest quiet first. Never changed: what follows is another mapping."""


@dataclass(frozen=True)
class SuppressedBefore:
    """Anomalies of an alert's entity that did not alert since the alert before.

    Attributes:
        count: How many.
        first: Event time of the first.
        last: Event time of the last.
    """

    count: int
    first: np.datetime64
    last: np.datetime64


def suppressed_by_value(stream: StreamDefinition, records: Records) -> NDArray[np.object_]:
    """The rule that suppresses each record by what it says, None for none, (n,): floors and segments.

    A value that is missing suppresses nothing.
    """
    reasons = np.full(len(records), None, object)
    for rule in reversed(stream.suppress):  # of several, the first that is defined is counted
        if isinstance(rule, FloorRule):
            reasons[records.numbers[rule.field] < rule.at_least] = rule.name
        elif isinstance(rule, SegmentRule):
            reasons[np.isin(records.categories[rule.field], rule.values)] = rule.name
    return reasons


def suppressed_by_direction(stream: StreamDefinition, explanations: Sequence[Explanation]) -> NDArray[np.object_]:
    """The rule that suppresses each anomaly by its first reason, None for none, (n,)."""
    reasons = np.full(len(explanations), None, object)
    rules = [rule for rule in stream.suppress if isinstance(rule, DirectionRule)]
    for row, explanation in enumerate(explanations):
        first = explanation.contributions[0]
        reasons[row] = next((rule.name for rule in rules if _goes(first, rule)), None)
    return reasons


def _goes(reason: Contribution, rule: DirectionRule) -> bool:
    return reason.feature == rule.feature and reason.direction == rule.direction


def suppressed_by_entity(
    rule: EntityRule, quiets: Quiets, records: Records
) -> tuple[NDArray[np.bool_], list[SuppressedBefore | None], Quiets]:
    """Judge the next anomalies of a partition by what their entities did before.

    Args:
        rule: A cooldown or an episode.
        quiets: What earlier anomalies left.
        records: The anomalies, in their order. Those without an entity are not suppressed.

    Returns:
        Whether each is suppressed, (n,); for each what was suppressed of its entity before it, where it is not and
        something was; and what is left for the next.
    """
    suppressed = np.zeros(len(records), np.bool_)
    before: list[SuppressedBefore | None] = [None] * len(records)
    if not len(records) or records.keys is None or records.event_times is None:
        return suppressed, before, quiets
    left = dict(quiets)
    times_us = records.event_times.astype("datetime64[us]").astype(np.int64).tolist()
    for row, (key, time_us) in enumerate(zip(records.keys.tolist(), times_us, strict=True)):
        if key is None:
            continue
        entity = bounded_key(key)
        quiet = left.pop(entity, None)  # whoever is put back stands last
        if quiet is not None and _is_quiet(rule, quiet, time_us):
            suppressed[row] = True
            left[entity] = replace(
                quiet, count=min(quiet.count + 1, MOST_SUPPRESSED), latest_us=max(quiet.latest_us, time_us),
                first_us=min(quiet.first_us, time_us) if quiet.count else time_us,
                last_us=max(quiet.last_us, time_us) if quiet.count else time_us,
            )  # fmt: skip
            continue
        if quiet is not None and quiet.count:
            first, last = (np.datetime64(us, "us") for us in (quiet.first_us, quiet.last_us))
            before[row] = SuppressedBefore(quiet.count, first, last)
        left[entity] = Quiet(time_us, time_us)
        if len(left) > rule.max_entities:
            del left[next(iter(left))]
    return suppressed, before, left


def _is_quiet(rule: EntityRule, quiet: Quiet, time_us: int) -> bool:
    """Whether an anomaly at a time is suppressed; one that is older than what it is compared with counts as close."""
    within = abs(time_us - quiet.alerted_us) < rule.longest_us
    return within and (not isinstance(rule, EpisodeRule) or time_us - quiet.latest_us < rule.gap_us)
