"""What all parts of a stream definition share: a misspelled key stops the load, and spans of time are short words."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

_SPAN = re.compile(r"\s*([0-9]+)\s*(s|m|h|d|w)\s*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST_SPAN_S = 36_525 * 86_400


class Closed(BaseModel):
    """A part of the definition: frozen, and a misspelled key stops the load."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def span_us(text: str) -> int:
    """A span such as "90s", "15m", "1h", "7d" or "2w" in microseconds.

    Raises:
        ValueError: It is none, not above zero, or above a hundred years.
    """
    match = _SPAN.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f'{text!r} is not a span of time: write a whole number and one of s, m, h, d, w, such as "7d"')
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_SPAN_S:
        raise ValueError(f"{text!r} is longer than a hundred years: write a shorter span")
    return seconds * 1_000_000


def span_is_readable(text: str | None) -> str | None:
    """The text itself, where it is a span or there is none.

    Raises:
        ValueError: As of `span_us`.
    """
    if text is not None:
        span_us(text)
    return text
