"""Payments on their way to a topic: as messages, some of them damaged, at a steady pace; sends through a publisher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from demo.payments import LabelledPayments
from demo.simulator import Simulator
from transport import OutgoingMessage, Publisher

TICK_S = 0.05
"""How long a sender that is on time waits before it sends what has become due."""

MAX_CATCH_UP_S = 2.0
"""A sender that fell behind makes up for at most this much time; the rest is sent later, not faster."""

MOST_AT_ONCE = 5_000
"""Most messages that wait for one acknowledgement."""


@dataclass(frozen=True)
class Delivery:
    """Messages in the order of sending, and what only their sender knows. All columns have equal length."""

    keys: list[bytes]
    values: list[bytes | None]
    transaction_ids: list[str]
    amounts: list[float]
    fraud_kinds: list[str | None]  # None: honest
    damage: list[str | None]  # None: intact; else why a reader must refuse the message

    def __len__(self) -> int:
        """Number of messages."""
        return len(self.keys)

    def take(self, rows: slice) -> Delivery:
        """Return the messages of a slice."""
        return Delivery(
            self.keys[rows],
            self.values[rows],
            self.transaction_ids[rows],
            self.amounts[rows],
            self.fraud_kinds[rows],
            self.damage[rows],
        )

    @staticmethod
    def concat(parts: Sequence[Delivery]) -> Delivery:
        """Return all parts as one."""
        return Delivery(
            [key for part in parts for key in part.keys],
            [value for part in parts for value in part.values],
            [name for part in parts for name in part.transaction_ids],
            [amount for part in parts for amount in part.amounts],
            [kind for part in parts for kind in part.fraud_kinds],
            [damage for part in parts for damage in part.damage],
        )


def deliveries(
    simulator: Simulator, first_day: int, *, damaged_share: float = 0.0, labels: bool = False
) -> Iterator[Delivery]:
    """Return the days from `first_day` on as messages, without end; the same arguments give the same messages."""
    for day in simulator.days(first_day):
        yield _deliver(day, np.random.default_rng([simulator.seed, 2, day.day]), damaged_share, labels=labels)


def first_messages(parts: Iterator[Delivery], count: int) -> Delivery:
    """Return the first `count` messages of some deliveries."""
    taken: list[Delivery] = []
    while (missing := count - sum(map(len, taken))) > 0:
        taken.append(next(parts).take(slice(missing)))
    return Delivery.concat(taken)


def feed(
    publisher: Publisher,
    topic: str,
    delivery: Delivery,
    *,
    rate: float,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    sent: Callable[[int], bool] = lambda _: True,
) -> int:
    """Publish messages at `rate` a second until the last one; return how many the broker acknowledged.

    Args:
        publisher: What sends and waits for the acknowledgement.
        topic: Where to.
        delivery: What to send; the keys keep each customer's payments in order.
        rate: Messages a second, on average.
        clock: Seconds that pass, such as `time.monotonic`.
        sleep: How to wait some seconds.
        sent: Called after each acknowledged send with the number sent so far; False ends the feed.
    """
    began, done = clock(), 0
    while done < len(delivery):
        behind_s = clock() - began - done / rate
        began += max(0.0, behind_s - MAX_CATCH_UP_S)
        due = min(int((clock() - began) * rate), done + MOST_AT_ONCE, len(delivery))
        if due <= done:
            sleep(TICK_S)
            continue
        part = delivery.take(slice(done, due))
        publisher.publish(
            [OutgoingMessage(topic, key, value) for key, value in zip(part.keys, part.values, strict=True)]
        )
        done = due
        if not sent(done):
            break
    return done


def _deliver(day: LabelledPayments, rng: np.random.Generator, damaged_share: float, *, labels: bool) -> Delivery:
    intact = day.messages(labels=labels)
    values: list[bytes | None] = list(intact)
    damage: list[str | None] = [None] * len(intact)
    hit = np.flatnonzero(rng.random(len(intact)) < damaged_share)
    for row, which in zip(hit.tolist(), rng.integers(0, len(_DAMAGE), len(hit)).tolist(), strict=True):
        damage[row], spoil = _DAMAGE[which]
        values[row] = spoil(intact[row])
    return Delivery(
        keys=[customer.encode() for customer in day.customer_ids],
        values=values,
        transaction_ids=day.transaction_ids,
        amounts=day.payments.amount.tolist(),
        fraud_kinds=day.fraud_kinds,
        damage=damage,
    )


def _with_amount(value: bytes, amount: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(value) | {"amount": amount})


# What happens to messages between the terminals and us, and the reason that the worker must give for each.
_DAMAGE: tuple[tuple[str, Callable[[bytes], bytes | None]], ...] = (
    ("not_json", lambda value: value[: len(value) // 2]),
    ("not_utf8", lambda value: value.replace(b'"currency":"', b'"currency":"\xff\xfe')),
    ("not_an_object", lambda value: b"[" + value + b"]"),
    ("wrong_type", lambda value: _with_amount(value, "twelve")),
    ("missing_field", lambda value: _with_amount(value, None)),
    ("empty", lambda _: b""),
    ("tombstone", lambda _: None),
)
DAMAGE_REASONS = tuple(reason for reason, _ in _DAMAGE)
