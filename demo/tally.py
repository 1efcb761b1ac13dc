"""What a finished tour comes to: frauds caught and by what, and whether the promises held. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from demo.frauds import KIND_NAMES
from demo.wire import Delivery

TOMBSTONE = "tombstone"


@dataclass(frozen=True)
class SeenAlert:
    """What the tour keeps of an alert that it read."""

    alert_id: str
    record_id: str | None
    latency_s: float  # from the timestamp of the message to the moment the alert was read


@dataclass(frozen=True)
class KindTally:
    """How many frauds of one kind were sent intact, and how many of them were found."""

    kind: str
    injected: int
    caught: int
    caught_without_history: int
    caught_by_amount: int


@dataclass(frozen=True)
class Detection:
    """How well the alerts fit the frauds, beside those of two others.

    Without history: the same detector without what it remembers of customers, with alerts at a threshold of its own. By
    the amount: as many alerts, on the largest amounts.
    """

    alerts: int
    true_alerts: int
    alerts_without_history: int
    true_without_history: int
    true_by_amount: int
    kinds: tuple[KindTally, ...]

    @property
    def injected(self) -> int:
        """Frauds of all kinds that were sent intact."""
        return sum(kind.injected for kind in self.kinds)


def detection(delivery: Delivery, alerts: Sequence[SeenAlert], without_history: AbstractSet[str]) -> Detection:
    """Compare alerts with what was sent.

    The rule on the amount may look at the whole stream first and then raises exactly as many alerts, on the largest
    amounts: better than any limit that has to be set beforehand.

    Args:
        delivery: What was sent.
        alerts: Every alert that was read, repeats included.
        without_history: Ids of the records that the detector without history calls anomalous.
    """
    intact = [row for row, damage in enumerate(delivery.damage) if damage is None]
    alerted = {alert.record_id for alert in alerts}
    found = {row for row in intact if delivery.transaction_ids[row] in alerted}
    found_without = {row for row in intact if delivery.transaction_ids[row] in without_history}
    largest = set(sorted(intact, key=lambda row: -delivery.amounts[row])[: len(found)])
    kinds = delivery.fraud_kinds
    injected, caught, caught_without, by_amount = (
        Counter(kinds[row] for row in rows) for rows in (intact, found, found_without, largest)
    )
    return Detection(
        alerts=len(found),
        true_alerts=len(found) - caught[None],
        alerts_without_history=len(found_without),
        true_without_history=len(found_without) - caught_without[None],
        true_by_amount=len(largest) - by_amount[None],
        kinds=tuple(
            KindTally(kind, injected[kind], caught[kind], caught_without[kind], by_amount[kind]) for kind in KIND_NAMES
        ),
    )


@dataclass(frozen=True)
class Account:
    """What the worker says became of the records, from its metrics."""

    consumed: int
    outcomes: Mapping[str, int]
    dead_letters: Mapping[str, int]  # by reason, those that happened
    suppressed: Mapping[str, int]  # by reason, those that happened


def broken_promises(
    delivery: Delivery,
    account: Account,
    alerts: Sequence[SeenAlert],
    committed: int,
) -> list[str]:
    """Return each promise that the figures contradict, in words; empty where all hold.

    Args:
        delivery: What the broker acknowledged.
        account: What the worker counted.
        alerts: Every alert that was read, repeats included.
        committed: Sum of the group's committed offsets over the partitions of the input topic, which began empty.
    """
    sent_damaged = Counter(reason for reason in delivery.damage if reason is not None)
    tombstones = sent_damaged.pop(TOMBSTONE, 0)
    accounted = sum(account.outcomes.values())
    broken = []
    if not len(delivery) == account.consumed == accounted:
        broken.append(
            f"records unaccounted for: {len(delivery)} sent, {account.consumed} consumed, {accounted} with an outcome"
        )
    if dict(account.dead_letters) != dict(sent_damaged):
        broken.append(
            f"dead letters {dict(account.dead_letters)} are not the damaged messages sent, {dict(sent_damaged)}"
        )
    if account.suppressed.get(TOMBSTONE, 0) != tombstones:
        broken.append(f"{tombstones} tombstones were sent and {account.suppressed.get(TOMBSTONE, 0)} suppressed")
    if (unlike := len({alert.alert_id for alert in alerts})) != account.outcomes.get("alert", 0):
        broken.append(f"{account.outcomes.get('alert', 0)} records got an alert and {unlike} alerts were read")
    if committed != len(delivery):
        broken.append(f"{len(delivery)} records were sent and {committed} are committed")
    return broken


def latency_quantiles(alerts: Sequence[SeenAlert]) -> tuple[float, float] | None:
    """Return median and 95th percentile of the time from send to alert read; None without alerts."""
    if not alerts:
        return None
    p50, p95 = np.quantile([alert.latency_s for alert in alerts], [0.5, 0.95])
    return float(p50), float(p95)
