"""Messages, their damage and their pace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec
import pytest

import demo
from demo.simulator import Simulator
from demo.wire import DAMAGE_REASONS, Delivery, deliveries, feed, first_messages
from detector import StreamDefinition
from detector.decode import Decoder
from tests.demo.batches import batch_of
from transport import OutgoingMessage


class FakeBroker:
    """A publisher that remembers, and a clock that only its own delays and sleepers move."""

    def __init__(self, seconds_per_send: float = 0.0) -> None:
        self.now = 100.0
        self.last_answer_age_s = 0.0
        self.sends: list[tuple[float, list[OutgoingMessage]]] = []
        self._seconds_per_send = seconds_per_send

    def publish(self, messages: Sequence[OutgoingMessage]) -> None:
        self.now += self._seconds_per_send
        self.sends.append((self.now, list(messages)))

    def close(self) -> None:
        return

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def values(self) -> list[bytes | None]:
        return [message.value for _, messages in self.sends for message in messages]


def some_messages(count: int, damaged_share: float = 0.0) -> Delivery:
    return first_messages(deliveries(Simulator(seed=2, customers=200), 5, damaged_share=damaged_share), count)


def test_each_damaged_message_is_refused_for_the_reason_that_the_sender_noted_and_no_other_is_refused() -> None:
    delivery = some_messages(2_000, damaged_share=0.3)
    stream = StreamDefinition.load(Path(demo.__file__).with_name("stream.toml"))

    _, rejects = Decoder(stream).decode(batch_of(delivery.values))

    expected = {row: reason for row, reason in enumerate(delivery.damage) if reason is not None}
    assert {reject.row: str(reject.reason) for reject in rejects} == expected
    assert set(expected.values()) == set(DAMAGE_REASONS)


def test_the_share_of_damaged_messages_is_the_one_asked_for() -> None:
    delivery = some_messages(20_000, damaged_share=0.01)

    assert 150 < sum(reason is not None for reason in delivery.damage) < 250


def test_without_a_share_nothing_is_damaged() -> None:
    assert set(some_messages(2_000).damage) == {None}


def test_the_live_stream_carries_no_labels() -> None:
    fields = Counter(name for value in some_messages(500).values for name in msgspec.json.decode(value or b"{}"))

    assert fields["transaction_id"] == 500
    assert fields["is_fraud"] == fields["fraud_kind"] == 0


def test_labels_travel_where_they_are_asked_for() -> None:
    delivery = next(deliveries(Simulator(seed=2, customers=200), 5, labels=True))

    decoded = [msgspec.json.decode(value or b"") for value in delivery.values]
    assert [record.get("fraud_kind") for record in decoded] == delivery.fraud_kinds


def test_messages_are_keyed_by_customer() -> None:
    delivery = some_messages(50)

    assert [msgspec.json.decode(value or b"")["customer_id"].encode() for value in delivery.values] == delivery.keys


def test_the_messages_of_several_days_follow_each_other_without_a_gap() -> None:
    days = list(islice(deliveries(Simulator(seed=2, customers=200), 5), 3))

    together = first_messages(deliveries(Simulator(seed=2, customers=200), 5), len(days[0]) + len(days[1]) + 1)

    assert together.values == [*days[0].values, *days[1].values, days[2].values[0]]


def test_a_feed_sends_every_message_once_and_in_order() -> None:
    broker, delivery = FakeBroker(), some_messages(500)

    sent = feed(broker, "payments", delivery, rate=100, clock=broker.clock, sleep=broker.sleep)

    assert sent == 500
    assert broker.values == delivery.values


@pytest.mark.parametrize("rate", [50.0, 1_000.0])
def test_a_feed_keeps_its_rate(rate: float) -> None:
    broker, delivery = FakeBroker(seconds_per_send=0.01), some_messages(1_000)

    feed(broker, "payments", delivery, rate=rate, clock=broker.clock, sleep=broker.sleep)

    assert broker.now - 100.0 == pytest.approx(1_000 / rate, abs=0.1)


def test_a_feed_that_fell_far_behind_makes_up_for_two_seconds_and_no_more() -> None:
    broker, delivery = FakeBroker(), some_messages(1_000)

    def slept(seconds: float) -> None:
        broker.now += 60.0 if len(broker.sends) == 1 else seconds

    feed(broker, "payments", delivery, rate=100, clock=broker.clock, sleep=slept)

    assert max(len(messages) for _, messages in broker.sends) == pytest.approx(200, abs=1)  # rounding of the clock
    assert broker.now - 100.0 == pytest.approx(60 + 8, abs=0.2)


def test_a_feed_ends_when_it_is_told_to() -> None:
    broker, delivery = FakeBroker(), some_messages(500)

    sent = feed(
        broker, "payments", delivery, rate=100, clock=broker.clock, sleep=broker.sleep, sent=lambda done: done < 200
    )

    assert 200 <= sent < 210
    assert len(broker.values) == sent
