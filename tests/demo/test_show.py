"""What a person reads of an alert."""

from __future__ import annotations

import io
import re
from typing import Any

from rich.console import Console
from rich.text import Text

from demo.show import Show, alert_line
from demo.tally import Account, Detection, KindTally


def some_alert(*contributions: tuple[str, float, str | float | None, str | float | None]) -> dict[str, Any]:
    return {
        "entity": {"customer_id": "C000123"},
        "score_ratio": 2.44,
        "contributions": [
            {"feature": feature, "contribution": share, "actual": actual, "expected": expected}
            for feature, share, actual, expected in contributions
        ],
    }


def line(alert: dict[str, Any]) -> str:
    return Text.from_markup(alert_line(alert)).plain


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_alert_names_who_how_strange_and_the_two_strongest_reasons() -> None:
    alert = some_alert(
        ("currency", 0.1, "GBP", "EUR"), ("amount", 0.6, 512.3, 38.42), ("entry_mode", 0.3, "keyed", "chip")
    )

    assert line(alert) == "alert C000123 ×2.4  amount 512 (expected 38) · entry_mode keyed (expected chip)"


def test_a_reason_that_hardly_counts_is_left_out() -> None:
    alert = some_alert(("amount", 0.93, 1.5, 38.42), ("currency", 0.07, "EUR", "EUR"))

    assert line(alert) == "alert C000123 ×2.4  amount 1.5 (expected 38)"


def test_a_missing_value_is_said_to_be_none() -> None:
    assert "device none (expected phone)" in line(some_alert(("device", 1.0, None, "phone")))


def test_brackets_in_a_record_are_shown_and_not_obeyed() -> None:
    assert "[bold]x" in line(some_alert(("entry_mode", 1.0, "[bold]x", "chip")))


def test_alerts_that_come_too_fast_to_read_are_counted_instead() -> None:
    clock, out = Clock(), io.StringIO()
    show = Show(Console(file=out, width=200), alert_every_s=1.0, clock=clock)

    for clock.now in (10.0, 10.1, 10.2, 11.5):
        show.alert(some_alert(("amount", 1.0, 900.0, 20.0)), "false alarm")

    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert "more" not in lines[0]
    assert lines[1].endswith("(+2 more)")


def test_a_feed_without_a_terminal_says_now_and_then_how_far_it_is() -> None:
    clock, out = Clock(), io.StringIO()
    show = Show(Console(file=out, width=200), clock=clock)

    with show.sending(100) as advance:
        for clock.now, sent in ((1.0, 10), (6.0, 60), (7.0, 70), (12.0, 100)):
            advance(sent, 3)

    assert [text.strip() for text in out.getvalue().splitlines()] == [
        "60 of 100 sent, 3 alerts",
        "100 of 100 sent, 3 alerts",
    ]


def test_what_is_there_to_type_is_on_one_line_however_narrow_the_terminal() -> None:
    out = io.StringIO()
    command = f"offbeat simulate --topic [x] {'--rate 200 ' * 20}"

    Show(Console(file=out, width=40)).addresses([("broker", "127.0.0.1:9092"), ("send more", command)])

    assert out.getvalue() == f"broker     127.0.0.1:9092\nsend more  {command}\n"


def test_the_summary_shows_beside_each_kind_who_caught_how_many() -> None:
    out = io.StringIO()
    detection = Detection(
        alerts=4,
        true_alerts=3,
        alerts_without_history=2,
        true_without_history=1,
        true_by_amount=0,
        kinds=(KindTally("neighbour", injected=4, caught=3, caught_without_history=1, caught_by_amount=0),),
    )

    Show(Console(file=out, width=200)).summary(
        sent=10,
        seconds=1.0,
        account=Account(consumed=10, outcomes={"normal": 6, "alert": 4}, dead_letters={}, suppressed={}),
        committed=10,
        latency=None,
        detection=detection,
    )

    rows = [re.findall(r"[\w%]+", text) for text in out.getvalue().splitlines()]
    assert ["neighbour", "4", "3", "75%", "1", "25%", "0", "0%"] in rows
    assert ["alerts", "4", "2", "4"] in rows
    assert ["of", "them", "frauds", "3", "75%", "1", "50%", "0", "0%"] in rows
