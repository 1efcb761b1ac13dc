"""A small stream of payments for tests: its definition, its messages, and a detector fitted on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from detector import Decoder, Detector, Messages, Records, StreamDefinition
from trainer.fitting import FitSettings, fit_detector

DEFINITION = """
name = "payments"
id = "payment_id"
key = "card.number"
echo = ["payment_id", "shop.kind"]
sensitive = ["card.limit"]

[time]
field = "at"

[label]
field = "fraud"

[threshold]
false_alarm_rate = 0.01

[[feature]]
kind = "number"
field = "amount"
log = true

[[feature]]
kind = "number"
field = "card.limit"

[[feature]]
kind = "category"
field = "shop.kind"
min_count = 5

[[feature]]
kind = "time"
field = "at"
parts = ["hour"]
"""

STREAM = StreamDefinition.from_toml(DEFINITION)

HISTORY = """
[[feature]]
kind = "history"
statistic = "robust_ratio"
of = "amount"

[[feature]]
kind = "history"
statistic = "count"
window = "1d"

[[feature]]
kind = "history"
statistic = "z"
of = "amount"
window = "7d"

[[feature]]
kind = "history"
statistic = "first_time"
of = "shop.kind"

[[feature]]
kind = "history"
statistic = "since_last"
"""

HISTORY_STREAM = StreamDefinition.from_toml(DEFINITION.replace('name = "payments"', 'name = "remembering"') + HISTORY)
"""The same stream with features from each card's history."""


def payment(number: int = 0, **changes: Any) -> dict[str, Any]:
    """A normal payment; the same number gives the same one. Dotted changes use `__` for the dot."""
    draw = np.random.default_rng(number)
    kind = str(draw.choice(["grocery", "fuel", "books"], p=[0.6, 0.3, 0.1]))
    scale = {"grocery": 30.0, "fuel": 60.0, "books": 15.0}[kind]
    content: dict[str, Any] = {
        "payment_id": number,
        "at": f"2026-03-{1 + number // 1440 % 28:02d}T{8 + number // 60 % 12:02d}:{number % 60:02d}:00",
        "amount": round(float(scale * np.exp(draw.normal(0, 0.3))), 2),
        "card": {"number": f"card-{number % 50}", "limit": 1000.0 + 500 * (number % 3)},
        "shop": {"kind": kind},
        "fraud": 0,
    }
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = content
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return content


def message(number: int = 0, **changes: Any) -> bytes:
    """A payment as a message value."""
    return json.dumps(payment(number, **changes)).encode()


def odd_message(number: int = 0) -> bytes:
    """A payment far above every normal one, which the fitted detector alerts on."""
    return message(number, amount=250_000.0)


def decoded(values: Sequence[bytes | None], stream: StreamDefinition = STREAM) -> Records:
    """The records among message values."""
    return Decoder(stream).decode(Messages(values))[0]


@cache
def fitted_detector() -> Detector:
    """A detector fitted on 1,500 normal payments."""
    records = decoded([message(number) for number in range(1500)])
    return fit_detector(records, STREAM, FitSettings(most_steps=300))[0]


@cache
def remembering_detector() -> Detector:
    """The same with features from each card's history."""
    records = decoded([message(number) for number in range(1500)], HISTORY_STREAM)
    return fit_detector(records, HISTORY_STREAM, FitSettings(most_steps=300))[0]
