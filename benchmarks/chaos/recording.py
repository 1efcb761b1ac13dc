"""The recorded stream: numbered payments whose values follow from their numbers, and the detector that judges them."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Literal

from detector import Decoder, Detector, Messages, Records, StreamDefinition
from trainer.fitting import FitSettings, fit_detector

NAME = "chaos"

DEFINITION = """
name = "chaos"
id = "number"
key = "card"
echo = ["number"]

[time]
field = "at"
format = "epoch_s"

[threshold]
false_alarm_rate = 0.01
mode = "online"
window = 5000

[[suppress]]
name = "quiet_card"
rule = "cooldown"
period = "1h"

[[feature]]
kind = "number"
field = "amount"
log = true

[[feature]]
kind = "category"
field = "shop"
min_count = 5

[[feature]]
kind = "time"
field = "at"
parts = ["hour"]

[[feature]]
kind = "history"
statistic = "robust_ratio"
of = "amount"

[[feature]]
kind = "history"
statistic = "count"
window = "3h"

[[feature]]
kind = "history"
statistic = "z"
of = "amount"
window = "6h"

[[feature]]
kind = "history"
statistic = "since_last"
"""
"""All the state there is: features of each card's history, a threshold that follows the scores, a cooldown."""

STREAM = StreamDefinition.from_toml(DEFINITION)

Kind = Literal["normal", "odd", "tombstone", "poison", "malformed"]

CARDS = 60
_FIRST_AT = 946_684_800  # 2000-01-01T00:00:00Z: a record later than now is a dead letter, and a soak has millions
_STEP_S = 20  # between two records: a card comes about every 20 minutes
_SHOPS = {"grocery": 30.0, "fuel": 60.0, "books": 15.0}
_FITTED_ON = 4000

# Shares of the records, in parts of a thousand; what is left is normal.
_TOMBSTONES, _POISONS, _ODD = 10, 20, 110
_ODD_CARDS = 20  # one card in so many is odd again and again, so that its cooldown suppresses


def kind_of(number: int, *, malformed: bool = False) -> Kind:
    """What a record is made to be.

    Args:
        number: Its number.
        malformed: Whether it falls into a time in which every second message is malformed bytes.
    """
    draw = random.Random(number)
    if malformed and draw.random() < 0.5:
        return "malformed"
    place = draw.randrange(1000)
    if place < _TOMBSTONES:
        return "tombstone"
    if place < _TOMBSTONES + _POISONS:
        return "poison"
    is_odd = place < _TOMBSTONES + _POISONS + _ODD or (_card(number) % _ODD_CARDS == 7 and place < 600)
    return "odd" if is_odd else "normal"


def key_of(number: int) -> bytes:
    """The message key: the card, as history needs it."""
    return f"card-{_card(number)}".encode()


def value_of(number: int, *, malformed: bool = False) -> bytes | None:
    """The message value of a record; None for a tombstone."""
    kind = kind_of(number, malformed=malformed)
    if kind == "tombstone":
        return None
    if kind == "malformed":
        return random.Random(number).randbytes(40 + number % 100)
    payment = _payment(number, odd=kind == "odd")
    return _poisoned(payment, number) if kind == "poison" else json.dumps(payment).encode()


def _card(number: int) -> int:
    """Which card a record is of: scattered, so that cards come neither in turn nor in step with the kinds."""
    return (number * 2_654_435_761 >> 8) % CARDS


def _payment(number: int, *, odd: bool) -> dict[str, object]:
    draw = random.Random(f"payment {number}")
    shop = draw.choices(list(_SHOPS), weights=(6, 3, 1))[0]
    amount = 90_000.0 + draw.randrange(10_000) if odd else _SHOPS[shop] * draw.lognormvariate(0, 0.3)
    at = _FIRST_AT + number * _STEP_S
    return {"number": number, "at": at, "card": f"card-{_card(number)}", "amount": round(amount, 2), "shop": shop}


def _poisoned(payment: dict[str, object], number: int) -> bytes:
    """One bad record of every kind, in turn."""
    whole = json.dumps(payment).encode()
    without_time = json.dumps({name: value for name, value in payment.items() if name != "at"}).encode()
    kinds = (
        b"",
        whole[: len(whole) // 2],
        b"\xff\xfe" + whole,
        b"[1, 2, 3]",
        without_time,
        json.dumps(payment | {"amount": "a lot"}).encode(),
        json.dumps(payment | {"at": 1e300}).encode(),
        b"[" * 200 + b"]" * 200,
    )
    return kinds[random.Random(f"poison {number}").randrange(len(kinds))]


@cache
def fitted() -> Detector:
    """The detector, fitted on the normal ones among the records before number 0."""
    return fit_detector(_normal_records(), STREAM, FitSettings(most_steps=100))[0]


def _normal_records() -> Records:
    values = [json.dumps(_payment(number, odd=False)).encode() for number in range(-_FITTED_ON, 0)]
    return Decoder(STREAM).decode(Messages(values))[0]
