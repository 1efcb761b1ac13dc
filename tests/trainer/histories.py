"""A small stream of card payments with features from history, and its rows as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector import Decoder, History, Messages, Records, StreamDefinition

STREAM = StreamDefinition.from_toml("""
name = "cards"
id = "id"
key = "card"
[time]
field = "at"
[label]
field = "fraud"
[threshold]
false_alarm_rate = 0.05
[[feature]]
kind = "number"
field = "amount"
[[feature]]
kind = "history"
statistic = "count"
window = "1d"
[[feature]]
kind = "history"
statistic = "mean"
of = "amount"
window = "2d"
[[feature]]
kind = "history"
statistic = "robust_ratio"
of = "amount"
[[feature]]
kind = "history"
statistic = "since_last"
""")

_BEGIN = np.datetime64("2024-05-01T00:00:00", "s")


def row(number: int, minute: int, **changes: Any) -> dict[str, Any]:
    """A payment at so many minutes after the beginning; a card comes back every seven."""
    draw = np.random.default_rng(number)
    at = str(_BEGIN + np.timedelta64(minute, "m"))
    amount = round(float(np.exp(draw.normal(3, 0.5))), 2)
    return {"id": f"p{number}", "card": f"c{number % 7}", "at": at, "amount": amount, "fraud": 0} | changes


def rows(n: int, step_minutes: int = 20, first: int = 0) -> list[dict[str, Any]]:
    """Payments in regular steps."""
    return [row(number, number * step_minutes) for number in range(first, first + n)]


def decoded(content: Sequence[dict[str, Any]], stream: StreamDefinition = STREAM) -> Records:
    """Rows as records."""
    return Decoder(stream).decode(Messages([json.dumps(each).encode() for each in content]))[0]


def features_of(
    content: Sequence[dict[str, Any]], history: History | None = None
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The features of rows folded one after the other in the order given, by the row's id and the feature's name."""
    records = decoded(content)
    history = history or History.fit(STREAM, records)
    assert history is not None
    state = history.new_state()
    found = {}
    for position, each in enumerate(content):
        columns, changes = history.fold(state, records.take(np.array([position])))
        state.apply(changes)
        found[each["id"]] = columns
    return found
