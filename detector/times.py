"""Times as columns: text or epoch numbers to UTC, and UTC to the local clock; it reads no clock itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NOT_A_TIME = np.datetime64("NaT", "us")

# Within these bounds every calendar operation of Python, numpy and Arrow is defined.
_EARLIEST = np.datetime64("0001-01-03", "us")
_LATEST = np.datetime64("9999-12-29", "us")
_PLAIN = "0000-00-00T00:00:00"
_LONGEST_PLAIN = len(_PLAIN) + len(".000000Z")
_MICROSECONDS = {"epoch_s": 1_000_000, "epoch_ms": 1_000}


def from_iso8601(texts: Sequence[str | None], zone: str) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Parse ISO-8601 texts; those without an offset are local to `zone`.

    Returns:
        Times in UTC, datetime64[us] (n,), NaT where missing or bad; and a mask (n,) of the bad ones.
    """
    times, naive, done = _parse_plain(texts)
    bad = np.zeros(len(texts), np.bool_)
    for row in np.flatnonzero(~done).tolist():
        text = texts[row]
        if text is not None:
            times[row], naive[row] = _parse_one(text)
            bad[row] = np.isnat(times[row])
    times[naive] = _to_utc(times[naive], zone)
    return times, bad


def _parse_plain(
    texts: Sequence[str | None],
) -> tuple[NDArray[np.datetime64], NDArray[np.bool_], NDArray[np.bool_]]:
    """All texts at once that look like `2026-03-14T09:26:53`, with or without a fraction and a Z: the common case.

    Returns:
        Times (n,) as written; which are without an offset (n,); and which were parsed at all (n,).
    """
    n = len(texts)
    times, naive, done = np.full(n, NOT_A_TIME), np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    bounded = [text if text is not None and len(text) <= _LONGEST_PLAIN else "" for text in texts]
    chars = np.array(bounded, f"U{_LONGEST_PLAIN}").view(np.uint32).reshape(n, _LONGEST_PLAIN)
    ends_in_z = (chars == ord("Z")).sum(axis=1) == 1
    lengths = (chars != 0).sum(axis=1)
    ends_in_z &= chars[np.arange(n), np.maximum(lengths - 1, 0)] == ord("Z")
    lengths = lengths - ends_in_z
    digits = (chars >= ord("0")) & (chars <= ord("9"))
    expected = np.array([ord(c) for c in _PLAIN], np.uint32)
    punctuation = expected != ord("0")
    plain = (digits[:, : len(_PLAIN)] | punctuation).all(axis=1)
    separator = chars[:, 10].copy()
    matches = chars[:, : len(_PLAIN)] == expected
    matches[:, 10] = (separator == ord("T")) | (separator == ord(" "))
    plain &= (matches | ~punctuation).all(axis=1)
    in_fraction = np.arange(_LONGEST_PLAIN) >= len(_PLAIN) + 1
    beyond = np.arange(_LONGEST_PLAIN) >= lengths[:, None]
    plain &= (digits | beyond | ~in_fraction).all(axis=1)
    plain &= (lengths == len(_PLAIN)) | ((chars[:, len(_PLAIN)] == ord(".")) & (lengths > len(_PLAIN) + 1))
    rows = np.flatnonzero(plain)
    try:
        parsed = np.array([bounded[row][: lengths[row]] for row in rows.tolist()], "datetime64[us]")
    except ValueError:  # a day or an hour that does not exist: looked at one by one
        return times, naive, done
    inside = in_bounds(parsed)
    times[rows[inside]] = parsed[inside]
    done[rows[inside]] = True
    naive[rows[inside]] = ~ends_in_z[rows[inside]]
    return times, naive, done


def _parse_one(text: str) -> tuple[np.datetime64, bool]:
    """One time, NaT where it is none, and whether it is without an offset and so still local."""
    try:
        time = datetime.fromisoformat(text)
        naive = time.tzinfo is None
        time = time if naive else time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return NOT_A_TIME, False
    parsed = np.datetime64(time, "us")
    return (parsed, naive) if _EARLIEST <= parsed <= _LATEST else (NOT_A_TIME, False)


def in_bounds(times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
    """Which times lie where every calendar operation is defined, shape (n,); NaT does not."""
    inside: NDArray[np.bool_] = (times >= _EARLIEST) & (times <= _LATEST)
    return inside


def from_epoch(numbers: NDArray[np.float64], form: str) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Epoch seconds or milliseconds (`epoch_s`, `epoch_ms`), NaN = missing, as UTC times and a mask of the bad ones."""
    missing = np.isnan(numbers)
    micros = np.rint(np.where(missing, 0.0, numbers) * _MICROSECONDS[form])
    bad = ~missing & (np.abs(micros) > 9e18)
    times = np.where(bad, 0.0, micros).astype(np.int64).view("datetime64[us]")
    bad |= ~missing & ~in_bounds(times)
    return np.where(missing | bad, NOT_A_TIME, times), bad


def from_naive(times: NDArray[np.datetime64], zone: str) -> tuple[NDArray[np.datetime64], NDArray[np.bool_]]:
    """Local times of `zone` as UTC times, and a mask of those out of bounds."""
    times = times.astype("datetime64[us]")
    bad = ~np.isnat(times) & ~in_bounds(times)
    return _to_utc(np.where(bad, NOT_A_TIME, times), zone), bad


def _to_utc(times: NDArray[np.datetime64], zone: str) -> NDArray[np.datetime64]:
    """Local times to UTC; of an hour that occurs twice the first, of one that does not occur the hour before."""
    if zone == "UTC":
        return times
    local = pa.array(times, pa.timestamp("us"))
    aware = pc.assume_timezone(local, zone, ambiguous="earliest", nonexistent="earliest")
    converted: NDArray[np.datetime64] = (
        aware.cast(pa.timestamp("us", "UTC")).to_numpy(zero_copy_only=False).astype("datetime64[us]")
    )
    return converted


def to_local(times: NDArray[np.datetime64], zone: str) -> NDArray[np.datetime64]:
    """UTC times as the local clock of `zone` showed them, datetime64[us] (n,); NaT stays NaT."""
    if zone == "UTC":
        return times
    aware = pa.array(times.astype("datetime64[us]"), pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
    local: NDArray[np.datetime64] = pc.local_timestamp(aware).to_numpy(zero_copy_only=False).astype("datetime64[us]")
    return local


def iso8601(time: Any) -> str | None:
    """A UTC datetime64 as text such as `2026-03-14T09:26:53.589Z`, None for NaT."""
    if np.isnat(time):
        return None
    micros = int(time.astype("datetime64[us]").astype(np.int64)) % 1_000_000
    unit = "s" if micros == 0 else "ms" if micros % 1000 == 0 else "us"
    text = np.array(time, f"datetime64[{unit}]").astype(str)
    return f"{text}Z"
