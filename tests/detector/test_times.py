from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.times import from_iso8601, iso8601, to_local

BASES = ["2026-03-01T12:00:00", "2026-03-01 12:00:00Z", "2026-03-01T12:00:00.5", "2026-03-01T12:00:00.123456Z"]


@st.composite
def nearly_a_time(draw: st.DrawFn) -> str:
    """A common form of a time with up to three characters changed, left out or put in."""
    text = list(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(text) - 1))
        text[place] = draw(st.sampled_from([*"0123456789-:TZ.+ ,W", "", "00"]))
    return "".join(text)


@given(st.lists(nearly_a_time(), min_size=1, max_size=5))
def test_a_text_is_the_time_that_the_standard_library_reads_whatever_stands_beside_it(texts: list[str]) -> None:
    times, bad = from_iso8601(texts, "Asia/Tokyo")  # a zone whose clocks never change

    for text, time, is_bad in zip(texts, times.tolist(), bad.tolist(), strict=True):
        try:
            expected = datetime.fromisoformat(text)
        except ValueError:
            assert is_bad, text
        else:
            aware = expected if expected.tzinfo else expected.replace(tzinfo=ZoneInfo("Asia/Tokyo"))
            assert time == aware.astimezone(UTC).replace(tzinfo=None), text


def test_a_day_that_does_not_exist_is_bad_and_its_neighbours_are_not() -> None:
    times, bad = from_iso8601(["2026-02-28T00:00:00", "2026-02-30T00:00:00", None, "2024-02-29T00:00:00.25Z"], "UTC")

    assert bad.tolist() == [False, True, False, False]
    assert [iso8601(time) for time in times] == ["2026-02-28T00:00:00Z", None, None, "2024-02-29T00:00:00.250Z"]


def test_a_text_of_any_length_costs_no_more_than_itself() -> None:
    assert from_iso8601(["x" * 10_000_000, "2026-03-01T12:00:00"], "UTC")[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("zone", "local"),
    [("UTC", "2026-07-01T12:00"), ("Europe/Berlin", "2026-07-01T14:00"), ("America/New_York", "2026-07-01T08:00")],
)
def test_the_local_clock_is_that_of_the_zone(zone: str, local: str) -> None:
    times = np.array(["2026-07-01T12:00", "NaT"], "datetime64[us]")

    found = to_local(times, zone)

    assert found[0] == np.datetime64(local)
    assert np.isnat(found[1])
