"""Dead letters that are counted, chosen and sent back: on a fake cluster, through a worker that reads them again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

from tests.payments import message, odd_message
from tests.worker.bench import START_MS, Bench, batch_of
from transport import Forbidden, KafkaPublisher, OutgoingMessage, PublisherSettings, PublishFailed, read_topic
from worker.dead_letters import Origin, dead_letter
from worker.errors import SettingsRefused
from worker.letters import (
    REDRIVEN,
    Letter,
    Letters,
    Mark,
    Place,
    Selection,
    letter_of,
    mark_message,
    mark_of,
    redrive_of,
)
from worker.overview import overview_of
from worker.redrive import Orders, plan, redrive

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def letter_message(
    value: bytes | None = b"not json",
    *,
    offset: int = 41,
    partition: int = 0,
    reason: str = "not_json",
    headers: tuple[tuple[str, bytes], ...] = (("trace", b"\xff"),),
    key: bytes | None = b"k",
    at_s: float = START_MS / 1000,
    max_bytes: int = 1_000_000,
) -> OutgoingMessage:
    """A dead letter as a worker writes it."""
    batch = batch_of([value], keys=[key], headers=[headers], partition=partition, first_offset=offset)
    origin = Origin("offbeat-payments", "1.2", "v7", at_s)
    return dead_letter(batch, 0, reason, "malformed", origin=origin, topic="payments.dlq", max_bytes=max_bytes)


def read_letter(sent: OutgoingMessage, *, offset: int = 5) -> Letter:
    """The letter as it is read again."""
    batch = batch_of(
        [sent.value], keys=[sent.key], headers=[sent.headers], topic=sent.topic, partition=2, first_offset=offset
    )
    letter = letter_of(batch, 0)
    assert letter is not None
    return letter


class Desk:
    """A bench whose dead letters are looked at and sent back."""

    def __init__(self, models: Path, **settings: Any) -> None:
        self.bench = Bench(models, **settings)
        self.cluster = self.bench.cluster
        read = partial(read_topic, connect=self.cluster.consumer, clock=self.cluster.clock)
        self.letters = Letters(self.bench.settings.kafka, "payments.dlq", read=read)

    def put(self, letters: Iterable[OutgoingMessage]) -> None:
        """Put dead letters onto their topic, all into its first partition."""
        for each in letters:
            self.cluster.append(each.topic, each.value, key=each.key, headers=each.headers, partition=0)

    def redrive(self, *, stopped: Any = lambda: False, **orders: Any) -> Any:
        """Send letters back."""
        publisher = KafkaPublisher(
            self.bench.settings.kafka,
            PublisherSettings(max_message_bytes=2**30),
            clock=self.cluster.clock,
            connect=self.cluster.producer,
        )
        try:
            return redrive(self.letters, Orders(**orders), publisher, now=lambda: NOW, stopped=stopped)
        finally:
            publisher.close()

    def came_back(self) -> list[bytes | None]:
        """Values of redriven messages on the input topic, in their order."""
        return [each.value for each in self.cluster.messages("payments") if redrive_of(each.headers)]


@pytest.fixture
def desk(models: Path) -> Desk:
    return Desk(models)


def test_a_letter_is_read_with_all_that_its_worker_wrote() -> None:
    letter = read_letter(letter_message(partition=3))

    assert (letter.partition, letter.offset) == (2, 5)
    assert (letter.reason, letter.stage, letter.message) == ("not_json", "deserialize", "malformed")
    assert letter.original == Place("payments", 3, 41)
    assert letter.original_timestamp_ms == START_MS + 41_000
    assert (letter.attempts, letter.redrive_of, letter.truncated) == (1, None, "")
    assert letter.failed_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert letter.own_headers == (("trace", b"\xff"),)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dlq.reason": b""},
        {"dlq.original.topic": b"no topic/at all"},
        {"dlq.original.offset": b"many"},
        {"dlq.original.partition": b"9" * 400},
    ],
)
def test_a_message_that_no_worker_wrote_is_no_letter(wrong: dict[str, bytes]) -> None:
    headers = tuple((dict(letter_message().headers) | wrong).items())

    assert letter_of(batch_of([b"x"], headers=[headers]), 0) is None
    assert letter_of(batch_of([b"x"]), 0) is None


@pytest.mark.parametrize("text", ["", "payments", "payments/0", "payments/0/x", "pay ments/0/1", "a/-1/2", "a/0/٣"])
def test_a_redrive_header_that_names_no_place_counts_as_none(text: str) -> None:
    assert redrive_of([("dlq.redrive_of", text.encode())]) is None
    assert redrive_of([("dlq.redrive_of", b"\xff")]) is None


def test_a_mark_says_what_was_redriven_and_a_letter_is_never_one() -> None:
    sent = mark_message("payments.dlq", 1, "payments", [3, 5], now=NOW)

    assert mark_of(sent.headers, sent.value) == Mark("payments", [3, 5])
    assert sent.partition == 1
    assert mark_of(((REDRIVEN, b"1"),), b"no note") is None
    assert mark_of((*letter_message().headers, (REDRIVEN, b"1")), sent.value) is None


def test_a_redriven_record_is_the_one_that_failed_and_says_where_it_stood_first(desk: Desk) -> None:
    value = b"\xff\x00not json"
    desk.put([letter_message(value, key=b"\xfe", headers=(("trace", b"1"), ("trace", b"\xff")))])

    tally = desk.redrive()

    assert tally.letters == {"payments": 1}
    (back,) = desk.cluster.messages("payments")
    assert (back.key, back.value) == (b"\xfe", value)
    assert back.headers == (
        ("trace", b"1"),
        ("trace", b"\xff"),
        ("dlq.attempts", b"1"),
        ("dlq.redrive_of", b"payments/0/41"),
    )


def test_it_goes_back_to_its_own_partition_whatever_its_key_says(models: Path) -> None:
    desk = Desk(models, partitions=4)
    desk.put([letter_message(b"%d" % n, key=b"one key", partition=n) for n in range(4)])

    desk.redrive()

    assert [(each.partition, each.value) for each in desk.cluster.messages("payments")] == [
        (n, b"%d" % n) for n in range(4)
    ]


def test_to_another_topic_it_goes_as_its_key_says(models: Path) -> None:
    desk = Desk(models, partitions=4)
    desk.cluster.create("sandbox", 4)
    desk.put([letter_message(b"%d" % n, key=b"one key", partition=n) for n in range(4)])

    assert desk.redrive(to="sandbox").letters == {"sandbox": 4}

    assert len({each.partition for each in desk.cluster.messages("sandbox")}) == 1
    assert desk.cluster.messages("payments") == []


def test_a_redriven_anomaly_alerts_with_an_id_of_its_own_and_says_what_it_is_a_redrive_of(desk: Desk) -> None:
    desk.put([letter_message(odd_message(7), reason="bad_time")])
    desk.bench.produce(odd_message(8))
    desk.redrive()
    desk.bench.drain()

    plain, redriven = desk.bench.alerts
    assert plain.redrive_of is None
    assert redriven.redrive_of is not None
    assert (redriven.redrive_of.topic, redriven.redrive_of.partition, redriven.redrive_of.offset) == ("payments", 0, 41)
    assert redriven.source.offset == 1
    assert redriven.alert_id != plain.alert_id
    assert desk.bench.outcomes() == {"normal": 0, "alert": 2, "suppressed": 0, "dead_letter": 0}


def test_a_record_that_fails_again_counts_up_and_still_names_its_first_place(desk: Desk) -> None:
    desk.bench.produce(b"not json", message(1))
    desk.bench.drain()
    for _ in range(3):
        assert desk.redrive().letters == {"payments": 1}
        desk.bench.drain()

    letters = [letter for letter in desk.letters if letter is not None]
    assert [letter.attempts for letter in letters] == [1, 2, 3, 4]
    assert [letter.original.offset for letter in letters] == [0, 2, 3, 4]
    assert [letter.redrive_of for letter in letters] == [None, *[Place("payments", 0, 0)] * 3]


def test_a_record_that_was_redriven_too_often_is_refused_unless_forced(desk: Desk) -> None:
    desk.bench.produce(b"not json", message(1))
    desk.bench.drain()
    for _ in range(3):
        desk.redrive()
        desk.bench.drain()

    tally = desk.redrive()

    assert not tally.letters
    assert list(tally.refused) == ["redriven 3 times already (--max-attempts 3, or --force)"]
    assert len(desk.came_back()) == 3
    assert desk.redrive(max_attempts=4).letters == {"payments": 1}
    desk.bench.drain()
    assert desk.redrive(force=True).letters == {"payments": 1}


def test_a_second_redrive_sends_nothing_twice(desk: Desk) -> None:
    desk.put([letter_message(b"%d" % n, offset=n) for n in range(1200)])

    assert desk.redrive().letters == {"payments": 1200}
    again = desk.redrive()

    assert not again.letters
    assert again.already == 1200
    assert desk.came_back() == [b"%d" % n for n in range(1200)]


def test_what_is_chosen_first_leaves_the_rest_for_later(desk: Desk) -> None:
    desk.put([letter_message(b"%d" % n, offset=n, reason=("empty", "not_json")[n % 2]) for n in range(10)])

    assert desk.redrive(selection=Selection(reasons=["empty"])).letters == {"payments": 5}
    assert desk.redrive(limit=2).letters == {"payments": 2}
    rest = desk.redrive()

    assert (rest.letters, rest.already) == ({"payments": 3}, 7)
    assert sorted(desk.came_back()) == [b"%d" % n for n in range(10)]  # type: ignore[type-var]


def test_a_copy_to_another_topic_leaves_a_letter_waiting(desk: Desk) -> None:
    desk.cluster.create("sandbox")
    desk.put([letter_message()])

    assert desk.redrive(to="sandbox").letters == {"sandbox": 1}
    assert desk.redrive(to="sandbox").already == 1
    assert desk.redrive().letters == {"payments": 1}


def test_a_letter_that_was_cut_is_refused_even_by_force(desk: Desk) -> None:
    desk.put([letter_message(b"x" * 50_000, max_bytes=20_000)])

    tally = desk.redrive(force=True)

    assert not tally.letters
    assert list(tally.refused) == ["truncated: the value did not fit the topic, and is gone"]


def test_a_letter_is_never_sent_to_the_topic_of_dead_letters(desk: Desk) -> None:
    desk.put([letter_message()])

    assert list(desk.redrive(to="payments.dlq", force=True).refused) == ["its target is the dead-letter topic itself"]
    assert len(desk.bench.dead_letters) == 1


def test_a_plan_says_what_a_redrive_does_and_publishes_nothing(desk: Desk) -> None:
    desk.put([letter_message(b"%d" % n, offset=n) for n in range(3)])
    desk.put([letter_message(b"x" * 50_000, max_bytes=20_000)])
    desk.cluster.append("payments.dlq", b"somebody else's")

    planned = plan(desk.letters, Orders())

    assert len(desk.bench.dead_letters) == 5
    assert desk.cluster.messages("payments") == []
    done = desk.redrive()
    assert (planned.letters, planned.refused, planned.passed_over) == (done.letters, done.refused, done.passed_over)
    assert (planned.letters.total(), planned.refused.total(), planned.passed_over) == (3, 1, 1)


def test_what_was_acknowledged_before_a_failure_is_not_sent_again(desk: Desk) -> None:
    desk.put([letter_message(b"%d" % n, offset=n) for n in range(700)])
    # A first mark, 500 letters and their mark are acknowledged, and ten letters more.
    desk.cluster.fail("ack", *[None] * 512, KafkaTimeoutError())

    with pytest.raises(PublishFailed):
        desk.redrive()
    tally = desk.redrive()

    assert (tally.already, tally.letters) == (500, {"payments": 200})
    came = desk.came_back()
    assert set(came) == {b"%d" % n for n in range(700)}
    repeated = [value for value in set(came) if came.count(value) > 1]
    assert {int(value or b"-1") for value in repeated} <= set(range(500, 700)), "a letter that was noted came twice"


def test_nothing_is_sent_where_it_could_not_be_noted(desk: Desk) -> None:
    desk.put([letter_message()])
    desk.cluster.fail("ack", TopicAuthorizationFailedError({"payments.dlq"}))

    with pytest.raises(Forbidden):
        desk.redrive()

    assert desk.cluster.messages("payments") == []


def test_a_wish_to_stop_ends_it_after_what_is_in_hand_and_another_run_goes_on(desk: Desk) -> None:
    desk.put([letter_message(b"%d" % n, offset=n) for n in range(1100)])
    answers = iter([False, True])

    tally = desk.redrive(stopped=lambda: next(answers))

    assert (tally.stopped, tally.letters) == (True, {"payments": 500})
    assert desk.redrive().letters == {"payments": 600}
    assert len(desk.came_back()) == 1100


def test_messages_get_the_time_of_the_redrive_unless_their_own_is_asked_for(desk: Desk) -> None:
    desk.put([letter_message(offset=n) for n in range(2)])

    desk.redrive(limit=1)
    desk.redrive(keep_timestamps=True)

    first, second = desk.cluster.messages("payments")
    assert first.timestamp_ms == round(desk.cluster.clock.now_s * 1000)
    assert second.timestamp_ms == START_MS + 1000


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        ({}, {0, 1, 2, 3}),
        ({"reasons": ["empty"]}, {0, 2}),
        ({"since": NOW + timedelta(hours=1)}, {1, 2, 3}),
        ({"until": NOW + timedelta(hours=2)}, {0, 1}),
        ({"since": NOW + timedelta(hours=1), "until": NOW + timedelta(hours=2)}, {1}),
        ({"partition": 0}, {0, 1, 2, 3}),
        ({"partition": 1}, set()),
        ({"partition": 0, "offset": 3}, {3}),
    ],
)
def test_letters_are_chosen_by_reason_time_and_place(desk: Desk, selection: dict[str, Any], taken: set[int]) -> None:
    desk.put(
        letter_message(offset=n, reason=("empty", "not_json")[n % 2], at_s=(NOW + timedelta(hours=n)).timestamp())
        for n in range(4)
    )

    chosen = Selection(**selection)

    assert {letter.offset for letter in desk.letters if letter is not None and chosen.takes(letter)} == taken


def test_an_overview_counts_by_reason_and_hour_and_shows_the_last(desk: Desk) -> None:
    desk.put(
        letter_message(offset=n, reason=("empty", "not_json")[n % 3 == 0], at_s=(NOW + timedelta(hours=n)).timestamp())
        for n in range(9)
    )
    desk.redrive(limit=2)

    found = overview_of(desk.letters, Selection(), limit=3)

    assert [(each.reason, each.stage, each.waiting, each.redriven) for each in found.by_reason] == [
        ("empty", "deserialize", 5, 1),
        ("not_json", "deserialize", 2, 1),
    ]
    assert (found.waiting, found.redriven, found.passed_over) == (7, 2, 0)
    assert found.by == "hour"
    assert found.by_time[:2] == [("2026-01-02 00:00", 1), ("2026-01-02 01:00", 1)]
    assert [row.offset for row in found.last] == [6, 7, 8]
    assert overview_of(desk.letters, Selection(), only_waiting=True).redriven == 0


def test_an_overview_of_many_hours_counts_by_day(desk: Desk) -> None:
    desk.put(letter_message(offset=n, at_s=(NOW + timedelta(hours=n)).timestamp()) for n in range(60))

    found = overview_of(desk.letters, Selection(), limit=0)

    assert (found.by, found.by_time) == ("day", [("2026-01-02", 24), ("2026-01-03", 24), ("2026-01-04", 12)])
    assert found.last == []


def test_times_are_said_as_people_say_them() -> None:
    from worker.dlq_commands import time_of

    assert time_of("24h", NOW, "--since") == NOW - timedelta(days=1)
    assert time_of("90m", NOW, "--since") == NOW - timedelta(minutes=90)
    assert time_of("2026-01-01", NOW, "--since") == datetime(2026, 1, 1, tzinfo=UTC)
    assert time_of("2026-01-01T08:30+02:00", NOW, "--since") == datetime(2026, 1, 1, 6, 30, tzinfo=UTC)
    assert time_of("999999999w", NOW, "--since") == datetime.min.replace(tzinfo=UTC)
    with pytest.raises(SettingsRefused, match="--until 'yesterday': is no time"):
        time_of("yesterday", NOW, "--until")
