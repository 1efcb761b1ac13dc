from __future__ import annotations

import cmath
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector import (
    History,
    HistoryChanges,
    HistoryState,
    Records,
    StreamDefinition,
    TrainingDataError,
    count_blocks,
    pack_block,
    unpack_block,
)
from detector.history_fold import fold
from detector.history_layout import SLOTS, Prior
from tests.payments import HISTORY_STREAM, decoded, message

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOON = 20_000 * DAY + DAY // 2
PRIORS = {"x": Prior(12.0, 6.0), "y": Prior(0.0, 3.0)}
CLIP = 2.5
WINDOWS = {"1m": 60 * SECOND, "7m": 420 * SECOND}


# -- streams and records made by hand ---------------------------------------------------------------------------------


def feature(statistic: str, of: str | None = None, window: str = "all", *, with_self: bool = False) -> dict[str, Any]:
    keys = {"kind": "history", "statistic": statistic, "of": of, "window": window, "includes_self": with_self}
    return {key: value for key, value in keys.items() if value is not None}


def every_feature() -> list[dict[str, Any]]:
    """Every statistic with every window and both ways of looking at the record itself, as far as they may be."""
    windowed = [
        feature(statistic, of, window, with_self=with_self)
        for statistic, of, window, with_self in product(
            ("count", "sum", "mean", "deviation", "ratio", "z", "min", "max", "excess"), ("x", "y"),
            ("all", *WINDOWS), (False, True),
        )
        if window != "all" or statistic not in ("min", "max", "excess")
    ]  # fmt: skip
    counts = [feature("count", None, window, with_self=own) for window in ("all", *WINDOWS) for own in (False, True)]
    values = [feature("distinct", "v", window, with_self=own) for window in WINDOWS for own in (False, True)]
    firsts = [feature("first_time", "v", window) for window in ("all", *WINDOWS)]
    robust = [feature(f"robust_{what}", of) for what in ("mean", "deviation", "ratio", "z") for of in ("x", "y")]
    return [*windowed, *counts, *values, *firsts, *robust, feature("since_last"), feature("hour_deviation")]


def stream_of(features: Sequence[dict[str, Any]], *, zone: str = "UTC", **setting: Any) -> StreamDefinition:
    return StreamDefinition.model_validate(
        {
            "name": "s", "key": "who", "time": {"field": "at", "zone": zone}, "history": {"clip": CLIP, **setting},
            "feature": features,
        }
    )  # fmt: skip


def history_of(features: Sequence[dict[str, Any]], priors: dict[str, Prior] | None = None, **setting: Any) -> History:
    return History(stream_of(features, **setting), priors or PRIORS)


@dataclass(frozen=True)
class Row:
    """One record; `t` in microseconds since the epoch."""

    who: str | None
    t: int
    x: float | None = None
    y: float | None = None
    v: str | None = None
    partition: int = 0
    minute: int = 0


def records_of(rows: Sequence[Row]) -> Records:
    def numbers(values: list[float | None]) -> NDArray[np.float64]:
        return np.array([math.nan if value is None else value for value in values], np.float64)

    def objects(values: list[Any]) -> NDArray[np.object_]:
        column = np.empty(len(values), np.object_)
        column[:] = values
        return column

    n = len(rows)
    stamps = np.array([row.t for row in rows], np.int64).view("datetime64[us]")
    return Records(
        rows=np.arange(n, dtype=np.int64),
        partition_index=np.array([row.partition for row in rows], np.int32),
        offsets=np.arange(n, dtype=np.int64),
        timestamps_ms=np.full(n, -1, np.int64),
        numbers={"x": numbers([row.x for row in rows]), "y": numbers([row.y for row in rows])},
        categories={"v": objects([row.v for row in rows])},
        times={"at": stamps},
        keys=objects([row.who for row in rows]),
        event_times=stamps,
    )


def run(history: History, rows: Sequence[Row], state: HistoryState | None = None) -> dict[str, NDArray[np.float64]]:
    """Features of all rows as one batch, which then join the state where one is given."""
    state = history.new_state() if state is None else state
    found, changes = history.fold(state, records_of(rows))
    state.apply(changes)
    return found


def only(statistic: dict[str, Any], rows: Sequence[Row], **setting: Any) -> list[float]:
    """The only feature of a history, for each row."""
    (column,) = run(history_of([statistic], **setting), rows).values()
    return [float(value) for value in column]


def contents(history: History, state: HistoryState) -> dict[str, tuple[bytes, ...]]:
    """All that a state remembers, by entity, as bytes."""
    found = {}
    for key, row in state.items():
        (log,) = state.logs(state.find([key])) or [None]
        parts = () if log is None else (log.times_us, log.numbers, log.excess, log.values)
        found[key] = (row.tobytes(), *(part.tobytes() for part in parts))
    return found


def bits(features: dict[str, NDArray[np.float64]]) -> dict[str, bytes]:
    return {name: column.tobytes() for name, column in features.items()}


# -- what every statistic is, written down once more and slowly -------------------------------------------------------


@dataclass
class Slow:
    """Histories as lists of records: what the features mean, from the specification and not from the code."""

    max_age: int = 0
    clip: float = CLIP
    past: dict[str, list[Row]] = field(default_factory=dict)

    def features(self, row: Row, wanted: Sequence[dict[str, Any]]) -> list[float]:
        who = row.who
        if who is None:
            return [math.nan] * len(wanted)
        past = self.past.get(who, [])
        minute = row.t // (60 * SECOND) % 1440  # of the day that it was, however late the record comes
        row = replace(row, t=max([row.t, *(earlier.t for earlier in past)]), minute=minute)
        if past and self.max_age and row.t - past[-1].t > self.max_age:
            past = []
        found = [self._one(past, row, **each) for each in wanted]
        self.past[who] = [*past, row]
        return found

    def _one(  # noqa: C901 - one statistic after the other
        self, past: list[Row], row: Row, *, statistic: str, of: str | None = None, window: str = "all",
        includes_self: bool = False, kind: str = "",
    ) -> float:  # fmt: skip
        if not past and not includes_self:
            return math.nan
        x: float | None = 1.0 if of is None else getattr(row, of)
        width = WINDOWS.get(window, math.inf)
        held = [r for r in past if r.t > row.t - width] + [row] * includes_self
        if statistic == "since_last":
            return (row.t - past[-1].t) / 1e6
        if statistic == "hour_deviation":
            return self._hours(past, row)
        if statistic == "distinct":
            return float(len({r.v for r in held} - {None}))
        if statistic == "first_time":
            return math.nan if row.v is None else float(row.v not in {r.v for r in held})
        prior = PRIORS[of or "x"]
        least = 0.01 * (abs(prior.mean) + prior.deviation)
        if statistic.startswith("robust_"):
            mean, deviation = self._robust(past, str(of), prior, least)
            spread = max(deviation, 0.01 * max(abs(mean), least))
            return {
                "robust_mean": mean,
                "robust_deviation": spread,
                "robust_ratio": math.nan if x is None else x / max(abs(mean), least),
                "robust_z": math.nan if x is None else (x - mean) / spread,
            }[statistic]
        if statistic == "excess":
            return math.fsum(
                max(0.0, abs(getattr(r, str(of))) / max(abs(self._robust(past[:i], str(of), prior, least)[0]), least)
                    - self.clip)
                for i, r in enumerate([*past, row])
                if r.t > row.t - width and getattr(r, str(of)) is not None and (i < len(past) or includes_self)
            )  # fmt: skip
        if window == "all":
            n, mean, variance = self._faded(past, row if includes_self else None, of)
        else:
            values = [1.0 if of is None else getattr(r, of) for r in held]
            values = [value for value in values if value is not None]
            if statistic in ("min", "max"):
                return (min if statistic == "min" else max)(values, default=math.nan)
            n = float(len(values))
            mean = sum(values) / n if values else 0.0
            variance = sum((value - mean) ** 2 for value in values) / n if values else 0.0
        if statistic == "count":
            return n
        if statistic == "sum":
            return n * mean
        if n == 0:
            return math.nan
        if statistic == "mean":
            return mean
        if statistic == "deviation":
            return math.sqrt(variance)
        if x is None:
            return math.nan
        if statistic == "ratio":
            return x / max(abs(mean), least)
        assert statistic == "z"
        usual = self._usual(mean, prior)
        shrunk = math.sqrt((n * variance + 2.0 * usual**2) / (n + 2.0))
        return (x - mean) / max(shrunk, 0.01 * max(abs(mean), least))

    @staticmethod
    def _usual(mean: float, prior: Prior) -> float:
        around_zero = abs(prior.mean) <= 0.01 * prior.deviation
        return prior.deviation * (1.0 if around_zero else min(1.0, abs(mean) / abs(prior.mean)))

    @staticmethod
    def _faded(past: list[Row], row: Row | None, of: str | None) -> tuple[float, float, float]:
        """Count, mean and variance of weighted records: at 200, all before the next weigh half."""
        weights: list[tuple[float, float]] = []
        for r in past:
            x = 1.0 if of is None else getattr(r, of)
            if x is None:
                continue
            if sum(weight for weight, _ in weights) >= 200:
                weights = [(weight / 2, value) for weight, value in weights]
            weights.append((1.0, x))
        own = None if row is None else 1.0 if of is None else getattr(row, of)
        weights += [] if own is None else [(1.0, own)]
        n = sum(weight for weight, _ in weights)
        mean = sum(weight * value for weight, value in weights) / n if n else 0.0
        variance = sum(weight * (value - mean) ** 2 for weight, value in weights) / n if n else 0.0
        return n, mean, variance

    def _robust(self, past: list[Row], of: str, prior: Prior, least: float) -> tuple[float, float]:
        """Mean and deviation of clipped records, the prior counting as two records."""
        n = total = squares = 0.0
        for r in past:
            x = getattr(r, of)
            if x is None:
                continue
            mean = (total + 2 * prior.mean) / (n + 2)
            most = self.clip * max(abs(mean), least)
            clipped = math.copysign(min(abs(x), most), x)
            if n >= 200:
                n, total, squares = n / 2, total / 2, squares / 2
            n, total, squares = n + 1, total + clipped, squares + (clipped - mean) ** 2
        mean = (total + 2 * prior.mean) / (n + 2)
        return mean, math.sqrt((squares + 2 * self._usual(mean, prior) ** 2) / (n + 2))

    @staticmethod
    def _hours(past: list[Row], row: Row) -> float:
        total, n = 0j, 0.0
        for r in past:
            if n >= 200:
                total, n = total / 2, n / 2
            total, n = total + cmath.exp(2j * math.pi * (r.minute + 0.5) / 1440), n + 1
        if abs(total) / n < 0.05:
            return math.nan
        apart = abs((row.minute + 0.5) / 60 - cmath.phase(total) * 12 / math.pi) % 24
        return min(apart, 24 - apart)


STEPS = st.sampled_from(
    [0, 0, 1, SECOND, 20 * SECOND, 60 * SECOND - 1, 60 * SECOND, 60 * SECOND + 1, 61 * SECOND, 200 * SECOND,
     420 * SECOND, 421 * SECOND, 3600 * SECOND, -1, -90 * SECOND, -DAY, DAY]
)  # fmt: skip
NUMBERS = st.one_of(st.none(), st.integers(-200, 200).map(lambda value: value / 4), st.just(0.0), st.just(4000.0))
VALUES = st.sampled_from([None, "grocery", "fuel", "books", "travel"])


@st.composite
def histories(draw: st.DrawFn, *, most: int = 30, partitions: int = 1) -> list[Row]:
    """Rows of a few entities: late ones, equal times, records exactly a window apart, missing numbers and keys."""
    t, rows = NOON, []
    who = st.sampled_from([None, "a", "a", "a", "b", "c"])
    for _ in range(draw(st.integers(0, most))):
        t += draw(STEPS)
        rows.append(Row(draw(who), t, draw(NUMBERS), draw(NUMBERS), draw(VALUES), draw(st.integers(0, partitions - 1))))
    return rows


EVERY = every_feature()
EXACT = history_of(EVERY, mode="exact")
BUCKETS = history_of(EVERY)
BOTH = pytest.mark.parametrize("history", [BUCKETS, EXACT], ids=["buckets", "exact"])


def assert_like_slow(history: History, rows: Sequence[Row], slow: Slow) -> None:
    found = run(history, rows)
    names = list(found)
    for i, row in enumerate(rows):
        expected = slow.features(row, EVERY)
        for name, each, value in zip(names, EVERY, expected, strict=True):
            # Sums of squares are of up to 1.6e7, and float64 keeps 16 digits of them; hours are kept in float32.
            near = 1e-3 if each["statistic"] == "hour_deviation" else 1e-5
            assert found[name][i] == pytest.approx(value, rel=1e-6, abs=near, nan_ok=True), (i, name)


@given(rows=histories())
@settings(deadline=None)
def test_in_exact_mode_every_statistic_is_what_it_is_called(rows: list[Row]) -> None:
    assert_like_slow(EXACT, rows, Slow())


@given(rows=histories(), max_age=st.sampled_from(["60s", "61s", "1h"]))
@settings(deadline=None, max_examples=50)
def test_an_entity_that_was_silent_for_longer_than_max_age_begins_anew(rows: list[Row], max_age: str) -> None:
    span = {"60s": 60 * SECOND, "61s": 61 * SECOND, "1h": 3600 * SECOND}[max_age]

    assert_like_slow(history_of(EVERY, mode="exact", max_age=max_age), rows, Slow(max_age=span))


@BOTH
def test_sums_over_all_records_are_halved_after_200(history: History) -> None:
    rows = [Row("a", NOON + i * SECOND, float(i % 7), None if i % 3 else float(i % 5) - 2.0) for i in range(700)]
    slow = Slow()
    found = run(history, rows)

    for i, row in enumerate(rows):
        wanted = [each for each in EVERY if each["window"] == "all" and each.get("of") != "v"]
        if i % 50 not in (0, 1, 2):
            slow.features(row, [])
            continue
        expected = slow.features(row, wanted)
        for name, each, value in zip(found, EVERY, [None] * len(EVERY), strict=True):
            if each in wanted:
                value = expected[wanted.index(each)]
                near = 1e-3 if each["statistic"] == "hour_deviation" else 1e-6
                assert found[name][i] == pytest.approx(value, rel=1e-6, abs=near, nan_ok=True), (i, name)
    assert np.nanmax(found["count"]) == 200.0


# -- windows, times, keys ---------------------------------------------------------------------------------------------


def test_a_record_exactly_a_window_old_is_out_and_one_a_microsecond_younger_is_in() -> None:
    count = feature("count", None, "1m")

    assert only(count, [Row("a", NOON), Row("a", NOON + 60 * SECOND)], mode="exact") == pytest.approx(
        [math.nan, 0.0], nan_ok=True
    )
    assert only(count, [Row("a", NOON), Row("a", NOON + 60 * SECOND - 1)], mode="exact")[1] == 1.0


@BOTH
def test_a_late_record_counts_at_the_newest_time_of_its_entity(history: History) -> None:
    late = [Row("a", NOON, 1.0, 2.0, "u"), Row("a", NOON - DAY, 3.0, 4.0, "w"), Row("a", NOON + SECOND, 5.0, 6.0, "u")]
    on_time = [late[0], replace(late[1], t=NOON), late[2]]

    without_hour = [name for name in history.names if name != "hour_deviation"]
    assert [bits(run(history, late))[name] for name in without_hour] == [
        bits(run(history, on_time))[name] for name in without_hour
    ]


@BOTH
def test_the_first_record_of_an_entity_has_no_history_and_no_zero(history: History) -> None:
    found = run(history, [Row("a", NOON, 1.0, 1.0, "u"), Row("b", NOON + SECOND, 1.0, 1.0, "u")])

    alone = [name for name, each in zip(found, EVERY, strict=True) if not each["includes_self"]]
    assert len(alone) > 30
    assert all(np.isnan(found[name]).all() for name in alone)


@BOTH
def test_a_record_without_a_key_has_no_history_and_is_in_none(history: History) -> None:
    state = history.new_state()

    found = run(history, [Row(None, NOON, 1.0, 1.0, "u"), Row(None, NOON + 1, 1.0, 1.0, "u")], state)

    assert all(np.isnan(column).all() for column in found.values())
    assert len(state) == 0


@BOTH
def test_records_of_a_stream_without_any_key_column_have_no_history(history: History) -> None:
    records = replace(records_of([Row("a", NOON, 1.0)]), keys=None)

    found, changes = history.fold(history.new_state(), records)

    assert all(np.isnan(column).all() for column in found.values())
    assert len(changes.keys) == 0


@BOTH
def test_an_empty_batch_changes_nothing(history: History) -> None:
    state = history.new_state()
    run(history, [Row("a", NOON, 1.0)], state)
    before = contents(history, state)

    found = run(history, [], state)

    assert {len(column) for column in found.values()} == {0}
    assert contents(history, state) == before


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@pytest.mark.parametrize("each", EVERY, ids=lambda each: "-".join(str(value) for value in each.values()))
def test_a_stream_with_one_history_feature_gives_what_it_gives_beside_the_others(
    each: dict[str, Any], mode: str
) -> None:
    rows = [
        Row("ab"[i % 2], NOON + i * 9 * SECOND, float(i % 5), None if i % 4 == 0 else i - 20.0, "uvw"[i % 3])
        for i in range(60)
    ]
    alone = history_of([each], mode=mode)

    found = run(alone, rows)

    (name,) = alone.names
    assert found[name].tobytes() == run(EXACT if mode == "exact" else BUCKETS, rows)[name].tobytes()


def test_without_windows_exact_mode_holds_no_records() -> None:
    history = history_of([feature("robust_ratio", "x"), feature("since_last")], mode="exact")
    state = history.new_state()
    rows = [Row(f"e{i % 3}", i * SECOND - 50 * SECOND, float(i)) for i in range(100)]

    run(history, rows, state)
    run(history, rows, state)

    assert [log is not None and len(log.times_us) for log in state.logs(state.find(["e0", "e1", "e2"]))] == [0, 0, 0]


def test_exact_mode_forgets_records_that_no_window_holds() -> None:
    history = history_of([feature("count", None, "1m"), feature("sum", "x", "7m")], mode="exact")
    state = history.new_state()

    run(history, [Row("a", NOON + i * 60 * SECOND, 1.0) for i in range(100)], state)

    (log,) = state.logs(state.find(["a"]))
    assert log is not None
    assert len(log.times_us) == 7


def test_the_usual_hour_is_one_of_the_declared_zone() -> None:
    # 23:30 and 00:30 in Berlin, in summer; then noon there.
    berlin = [Row("a", 20_000 * DAY + minutes * 60 * SECOND) for minutes in (21 * 60 + 30, 22 * 60 + 30, 34 * 60)]
    history = history_of([feature("hour_deviation")], zone="Europe/Berlin")

    hours = run(history, berlin)["hour_deviation"]

    assert hours[1:] == pytest.approx([1.0, 12.0], abs=0.02)


def test_an_entity_that_comes_at_any_hour_has_no_usual_one() -> None:
    rows = [Row("a", NOON + hour * 3600 * SECOND) for hour in range(25)]

    assert math.isnan(only(feature("hour_deviation"), rows)[-1])


def test_one_odd_record_drags_a_robust_mean_by_no_more_than_clip() -> None:
    normal = [Row("a", NOON + i * SECOND, 12.0) for i in range(50)]

    (mean,) = only(feature("robust_mean", "x"), [*normal, Row("a", NOON + DAY, 1e9), Row("a", NOON + DAY, 12.0)])[-1:]

    assert mean == pytest.approx((52 * 12.0 + CLIP * 12.0) / 53)


def test_very_long_keys_are_told_apart_and_remembered_short() -> None:
    history = history_of([feature("count")])
    state = history.new_state()
    first, second = "k" * 5000 + "1", "k" * 5000 + "2"

    run(history, [Row(first, NOON), Row(second, NOON)], state)
    found = run(history, [Row(first, NOON), Row(second, NOON), Row(first, NOON)], state)

    assert found["count"].tolist() == [1.0, 1.0, 2.0]
    assert all(len(key) < 256 for key, _ in state.items())


def test_an_unseen_value_among_hundreds_is_seldom_taken_for_a_seen_one() -> None:
    history = history_of([feature("first_time", "v")])
    seen = [Row("a", NOON + i, v=f"old-{i % 12}") for i in range(100)]

    found = run(history, [*seen, *(Row("a", NOON + DAY, v=f"new-{i}") for i in range(12))])["v.first_time"]

    assert found[12:100].sum() == 0.0
    assert found[100:].mean() > 0.9


# -- numbers that are too much ----------------------------------------------------------------------------------------


@BOTH
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_no_number_makes_a_feature_infinite(history: History, data: st.DataObject) -> None:
    numbers = st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([1.7e308, -1.7e308, 5e-324, 1e-300, 1e39, -1e20, 0.0, 12.0]),
    )
    rows = [
        Row("a", NOON + i * SECOND, data.draw(numbers), data.draw(numbers)) for i in range(data.draw(st.integers(2, 9)))
    ]

    found = run(history, rows)

    assert not [name for name, column in found.items() if np.isinf(column).any()]
    assert not [name for name, column in found.items() if np.isnan(column[1:]).any() and "v" not in name
                and name != "hour_deviation"]  # fmt: skip


@BOTH
def test_one_enormous_number_does_not_blind_an_entity_for_ever(history: History) -> None:
    normal = [Row("a", NOON + DAY * (1 + i), 10.0 + i % 2) for i in range(6000)]

    found = run(history, [Row("a", NOON, 1.7e308), *normal, Row("a", NOON + DAY * 9000, 1000.0)])

    assert found["x.robust_z"][-1] > 20
    assert found["x.robust_ratio"][-1] > 20


@pytest.mark.parametrize("mode", ["buckets", "exact"])
def test_a_deviation_that_is_small_beside_its_numbers_is_kept(mode: str) -> None:
    draw = np.random.default_rng(0)
    values = 300.0 + 0.1 * draw.standard_normal(500)
    history = history_of([feature("deviation", "x", "7m")], {"x": Prior(300.0, 0.2)}, mode=mode)

    found = run(history, [Row("a", NOON - NOON % (60 * SECOND) + i, float(x)) for i, x in enumerate(values)])

    assert found["x.deviation.7m"][-1] == pytest.approx(values[:-1].std(), rel=0.02)


# -- buckets ----------------------------------------------------------------------------------------------------------


@given(rows=histories())
@settings(deadline=None)
def test_buckets_err_by_no_more_than_the_content_of_the_oldest_of_them(rows: list[Row]) -> None:
    found, exact = run(BUCKETS, rows), run(EXACT, rows)
    past: dict[str, list[Row]] = {}
    for i, row in enumerate(rows):
        if row.who is None:
            continue
        mine = past.setdefault(row.who, [])
        t = max([row.t, *(earlier.t for earlier in mine)])
        for window, width in WINDOWS.items():
            bucket = -(-width // (SLOTS - 1))
            oldest = [r for r in mine if r.t // bucket == t // bucket - (SLOTS - 1)]
            older = [r for r in mine if r.t > t - width - bucket]
            for of in ("x", "y"):
                doubtful = sum(abs(getattr(r, of) or 0.0) for r in oldest)
                name = f"{of}.sum.{window}"
                assert found[name][i] == pytest.approx(exact[name][i], abs=doubtful + 0.01, nan_ok=True)
                name = f"{of}.count.{window}"
                doubtful = sum(getattr(r, of) is not None for r in oldest)
                assert found[name][i] == pytest.approx(exact[name][i], abs=doubtful + 1e-6, nan_ok=True)
                values = {getattr(r, of) for r in older} - {None}
                low, high = found[f"{of}.min.{window}"][i], found[f"{of}.max.{window}"][i]
                least, most = exact[f"{of}.min.{window}"][i], exact[f"{of}.max.{window}"][i]
                assert values >= {value for value in (low, high) if not np.isnan(value)}
                assert np.isnan(least) or (low <= least and high >= most)
            name = f"count.{window}"
            assert found[name][i] == pytest.approx(exact[name][i], abs=len(oldest) + 1e-6, nan_ok=True)
        mine.append(replace(row, t=t))


@given(rows=histories())
@settings(deadline=None)
def test_buckets_are_exact_where_no_record_is_about_a_window_old(rows: list[Row]) -> None:
    found, exact = run(BUCKETS, rows), run(EXACT, rows)
    past: dict[str, list[int]] = {}
    compared = [each for each in EVERY if each["statistic"] != "distinct"]
    for i, row in enumerate(rows):
        if row.who is None:
            continue
        mine = past.setdefault(row.who, [])
        t = max([row.t, *mine])
        for name, each in zip(BUCKETS.names, EVERY, strict=True):
            width = WINDOWS.get(each["window"], 0)
            bucket = -(-width // (SLOTS - 1))
            if each in compared and not any(t - width - bucket <= at <= t - width + bucket for at in mine if width):
                # float32 keeps 7 digits of sums of squares of up to 1.6e7, so about 2 of the deviation.
                near = 3.0 if each["statistic"] in ("deviation", "z") else 1e-2
                assert found[name][i] == pytest.approx(exact[name][i], rel=1e-3, abs=near, nan_ok=True), (i, name)
        mine.append(t)


@pytest.mark.parametrize("number", [1, 2, 5, 12, 25])
def test_a_count_of_few_distinct_values_in_buckets_is_about_right(number: int) -> None:
    history = history_of([feature("distinct", "v", "7m")])
    counts = []
    for turn in range(40):
        rows = [Row("a", NOON + i, v=f"{turn}-{i % number}") for i in range(3 * number)]
        counts.append(run(history, [*rows, Row("a", NOON + 1000)])["v.distinct.7m"][-1])

    # Linear counting in 64 bits: its standard error at 25 values is 1.5, and means of 40 are looked at.
    assert np.mean(counts) == pytest.approx(number, rel=0.05, abs=0.1)


# -- to the last bit --------------------------------------------------------------------------------------------------


def cut(rows: Sequence[Row], places: Sequence[int]) -> list[Sequence[Row]]:
    edges = sorted({0, len(rows), *(min(place, len(rows)) for place in places)})
    return [rows[first:last] for first, last in pairwise(edges)]


def joined(parts: Sequence[dict[str, NDArray[np.float64]]], history: History) -> dict[str, bytes]:
    return {name: b"".join(part[name].tobytes() for part in parts) for name in history.names}


AGED = {mode: history_of(EVERY, mode=mode, max_age="1h") for mode in ("buckets", "exact")}


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories(), places=st.lists(st.integers(0, 40)))
@settings(deadline=None)
def test_features_are_the_same_to_the_last_bit_in_whatever_batches_records_come(
    mode: str, rows: list[Row], places: list[int]
) -> None:
    history = AGED[mode]
    state, whole = history.new_state(), history.new_state()

    parts = [run(history, part, state) for part in cut(rows, places)]

    assert joined(parts, history) == bits(run(history, rows, whole)) or not rows
    assert contents(history, state) == contents(history, whole)


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories())
@settings(deadline=None, max_examples=50)
def test_an_entity_never_hears_of_another(mode: str, rows: list[Row]) -> None:
    history = AGED[mode]
    together = run(history, rows)

    for who in ("a", "b", "c"):
        mine = [i for i, row in enumerate(rows) if row.who == who]
        alone = run(history, [rows[i] for i in mine])
        assert bits(alone) == bits({name: column[mine] for name, column in together.items()})


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories(), batches=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 4)), min_size=1))
@settings(deadline=None)
def test_batches_that_were_taken_back_and_came_again_leave_no_trace(
    mode: str, rows: list[Row], batches: list[tuple[int, int]]
) -> None:
    history = AGED[mode]
    state, whole = history.new_state(), history.new_state()
    expected = run(history, rows, whole)
    done: list[tuple[int, int, Any, dict[str, tuple[bytes, ...]]]] = []
    begin, turn = 0, 0
    while begin < len(rows):
        size, back = batches[turn % len(batches)] if turn < 60 else (len(rows), 0)
        turn += 1
        end = min(begin + size, len(rows))
        found, changes = history.fold(state, records_of(rows[begin:end]))
        assert bits(found) == bits({name: column[begin:end] for name, column in expected.items()})
        done.append((begin, end, None, contents(history, state)))
        done[-1] = (begin, end, state.apply(changes), done[-1][3])
        begin = end
        for _ in range(min(back, len(done))):
            begin, _, undo, before = done.pop()
            state.take_back(undo)
            assert contents(history, state) == before

    assert contents(history, state) == contents(history, whole)


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories(partitions=3), places=st.lists(st.integers(0, 40)))
@settings(deadline=None, max_examples=50)
def test_each_partition_has_histories_of_its_own(mode: str, rows: list[Row], places: list[int]) -> None:
    history = AGED[mode]
    states = [history.new_state() for _ in range(3)]
    parts = []
    for part in cut(rows, places):
        records, changes = history.fold_all(states, records_of(part))
        for state, change in zip(states, changes, strict=True):
            state.apply(change)
        parts.append(records.history)

    for partition in range(3):
        mine = [i for i, row in enumerate(rows) if row.partition == partition]
        alone = history.new_state()
        expected = bits(run(history, [rows[i] for i in mine], alone))
        if rows:
            together = {name: np.concatenate([part[name] for part in parts])[mine] for name in history.names}
            assert bits(together) == expected
        assert contents(history, states[partition]) == contents(history, alone)


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories(), places=st.lists(st.integers(0, 40), max_size=4))
@settings(deadline=None, max_examples=50)
def test_a_state_that_was_written_away_and_read_back_carries_on_to_the_last_bit(
    mode: str, rows: list[Row], places: list[int]
) -> None:
    history = AGED[mode]
    state, parts = history.new_state(), []
    for part in cut(rows, places):
        parts.append(run(history, part, state))
        read = history.new_state()
        for number in range(count_blocks(history, state)):
            block = unpack_block(history, pack_block(history, state, number))
            read.put(block.keys, block.rows, block.logs)
        assert contents(history, read) == contents(history, state)
        state = read

    assert joined(parts, history) == bits(run(history, rows)) or not rows


@pytest.mark.parametrize("mode", ["buckets", "exact"])
@given(rows=histories(), mask=st.lists(st.booleans(), min_size=40, max_size=40))
@settings(deadline=None)
def test_records_that_do_not_join_see_history_and_leave_none(mode: str, rows: list[Row], mask: list[bool]) -> None:
    history = AGED[mode]
    joins = np.array(mask[: len(rows)], np.bool_)
    state, lone = history.new_state(), history.new_state()

    found, changes = history.fold(state, records_of(rows), joins)
    state.apply(changes)

    for i, row in enumerate(rows):
        seen, change = history.fold(lone, records_of([row]))
        assert bits(seen) == bits({name: column[i : i + 1] for name, column in found.items()})
        if joins[i]:
            lone.apply(change)
    assert contents(history, state) == contents(history, lone)


@pytest.mark.parametrize("mode", ["buckets", "exact"])
def test_a_look_at_an_entity_after_max_age_does_not_make_it_begin_anew(mode: str) -> None:
    history = history_of([feature("count"), feature("count", None, "7m"), feature("robust_mean", "x")],
                         mode=mode, max_age="1h")  # fmt: skip
    state = history.new_state()
    run(history, [Row("a", NOON, 20.0), Row("a", NOON + 1, 20.0)], state)
    before = contents(history, state)

    looked, changes = history.fold(state, records_of([Row("a", NOON + DAY, 20.0)]), np.array([False]))
    state.apply(changes)

    assert all(np.isnan(column).all() for column in looked.values())
    assert contents(history, state) == before
    assert run(history, [Row("a", NOON + SECOND, 20.0)], state)["count"].tolist() == [2.0]


def test_silence_of_exactly_max_age_is_no_new_beginning() -> None:
    rows = [
        Row("a", NOON),
        Row("a", NOON + 3600 * SECOND),
        Row("a", NOON + 2 * 3600 * SECOND + 1),
        Row("a", NOON + DAY),
    ]

    found = only(feature("count", None, "all", with_self=True), rows, max_age="1h")

    assert found == [1.0, 2.0, 1.0, 1.0]


# -- applying, taking back, forgetting --------------------------------------------------------------------------------

COUNT = [feature("count"), feature("sum", "x", "7m")]
MODES = pytest.mark.parametrize("mode", ["buckets", "exact"])


def fill(history: History, state: HistoryState, names: Sequence[str], t: int = NOON) -> Any:
    _, changes = history.fold(state, records_of([Row(name, t + i, 1.0) for i, name in enumerate(names)]))
    return state.apply(changes)


def names_of(state: HistoryState) -> set[str]:
    return {key for key, _ in state.items()}


def test_folding_changes_nothing() -> None:
    state = EXACT.new_state()
    fill(EXACT, state, ["a", "b"])
    before = contents(EXACT, state)

    for _ in range(3):
        EXACT.fold(state, records_of([Row("a", NOON + DAY, 5.0, 5.0, "u"), Row("c", NOON)]))

    assert contents(EXACT, state) == before


def test_changes_that_were_made_from_another_content_are_refused() -> None:
    state = BUCKETS.new_state()
    _, stale = BUCKETS.fold(state, records_of([Row("a", NOON)]))
    fill(BUCKETS, state, ["b"])
    before = contents(BUCKETS, state)

    with pytest.raises(ValueError, match="fold the records again"):
        state.apply(stale)

    assert contents(BUCKETS, state) == before


def test_changes_that_were_made_from_a_content_that_was_taken_back_are_refused() -> None:
    state = BUCKETS.new_state()
    undo = fill(BUCKETS, state, ["a"])
    _, stale = BUCKETS.fold(state, records_of([Row("a", NOON)]))
    state.take_back(undo)
    fill(BUCKETS, state, ["b"])

    with pytest.raises(ValueError, match="fold the records again"):
        state.apply(stale)


def test_changes_are_taken_back_in_the_reverse_order_alone() -> None:
    state = BUCKETS.new_state()
    first, second = fill(BUCKETS, state, ["a"]), fill(BUCKETS, state, ["b"])

    with pytest.raises(ValueError, match="reverse order"):
        state.take_back(first)
    state.take_back(second)
    with pytest.raises(ValueError, match="reverse order"):
        state.take_back(second)
    state.take_back(first)

    assert len(state) == 0


@MODES
def test_taking_back_is_right_after_the_arrays_grew(mode: str) -> None:
    history = history_of(COUNT, mode=mode)
    state = history.new_state()
    fill(history, state, ["a", "b"])
    before = contents(history, state)

    undo = fill(history, state, ["a", *(f"n{i}" for i in range(1000))], NOON + 5)
    state.take_back(undo)

    assert contents(history, state) == before
    fill(history, state, [f"m{i}" for i in range(500)])
    assert len(state) == 502
    assert {key: content for key, content in contents(history, state).items() if key in before} == before


def test_an_entity_stays_where_it_is_as_long_as_it_is_remembered() -> None:
    history = history_of(COUNT, max_entities=100)
    state = history.new_state()
    fill(history, state, ["a", "b"], NOON + DAY)
    places = state.find(["a", "b"]).tolist()
    for turn in range(10):
        undo = fill(history, state, [f"{turn}-{i}" for i in range(60)], NOON + turn)
        assert state.find(["a", "b"]).tolist() == places
        if turn % 3 == 0:
            state.take_back(undo)
            assert state.find(["a", "b"]).tolist() == places


@MODES
def test_of_too_many_entities_the_longest_silent_are_forgotten_and_counted(mode: str) -> None:
    history = history_of(COUNT, mode=mode, max_entities=4)
    state = history.new_state()
    fill(history, state, ["a", "b", "c", "d"])
    fill(history, state, ["a"], NOON + SECOND)

    fill(history, state, ["e", "f"], NOON + 2 * SECOND)

    assert names_of(state) == {"a", "d", "e", "f"}
    assert state.evictions == 2
    assert run(history, [Row("b", NOON + DAY, 1.0)], state)["count"].tolist() == pytest.approx([math.nan], nan_ok=True)


@MODES
def test_a_batch_with_more_entities_than_may_be_remembered_leaves_the_newest(mode: str) -> None:
    history = history_of(COUNT, mode=mode, max_entities=4)
    state = history.new_state()
    fill(history, state, ["a", "b", "c"])
    before = contents(history, state)

    undo = fill(history, state, ["b", *(f"n{i}" for i in range(10))], NOON + SECOND)

    assert names_of(state) == {"n6", "n7", "n8", "n9"}
    assert state.evictions == 9
    state.take_back(undo)
    assert contents(history, state) == before
    assert state.evictions == 0


@MODES
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_whatever_is_evicted_comes_back_with_the_batch_that_evicted_it(mode: str, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, 6))
    history = history_of(COUNT, mode=mode, max_entities=most)
    state = history.new_state()
    done: list[tuple[Any, dict[str, tuple[bytes, ...]], list[int], int]] = []
    goes_back: list[bool] = data.draw(st.lists(st.booleans(), min_size=1, max_size=12))
    for turn, back in enumerate(goes_back):
        if done and back:
            undo, before, places, evictions = done.pop()
            state.take_back(undo)
            assert contents(history, state) == before
            assert state.find(sorted(before)).tolist() == places
            assert state.evictions == evictions
            continue
        names = data.draw(st.lists(st.sampled_from("abcdefghij"), max_size=8))
        before = contents(history, state)
        places, evictions = state.find(sorted(before)).tolist(), state.evictions
        undo = fill(history, state, names, NOON + turn * SECOND)
        done.append((undo, before, places, evictions))
        assert len(state) <= most
        assert set(names[-1:]) <= names_of(state)
    numbers = range(count_blocks(history, state))
    blocks = [unpack_block(history, pack_block(history, state, number)) for number in numbers]
    assert sorted(key for block in blocks for key in block.keys) == sorted(names_of(state))


def test_reading_back_more_entities_than_may_be_remembered_forgets_the_longest_silent() -> None:
    large, small = history_of(COUNT), history_of(COUNT, max_entities=3)
    state, read = large.new_state(), small.new_state()
    fill(large, state, ["a", "b", "c", "d", "e"])
    block = unpack_block(small, pack_block(large, state, 0))

    read.put(block.keys, block.rows, block.logs)

    assert names_of(read) == {"c", "d", "e"}


# -- priors -----------------------------------------------------------------------------------------------------------


def test_a_prior_is_the_mean_and_deviation_with_extreme_numbers_drawn_in() -> None:
    values = [*(float(i) for i in range(1000)), 1e12]
    records = records_of([Row("a", NOON, x) for x in values])

    history = History.fit(stream_of([feature("z", "x")]), records)

    assert history is not None
    assert history.priors["x"].mean == pytest.approx(499.5, abs=2)
    assert history.priors["x"].deviation == pytest.approx(288.4, abs=3)
    assert History.from_json(history.stream, history.to_json()) == history


def test_a_number_that_is_always_the_same_has_a_prior_with_some_deviation() -> None:
    history = History.fit(stream_of([feature("z", "x")]), records_of([Row("a", NOON, 0.0)] * 5))

    assert history is not None
    assert history.priors["x"].deviation > 0.0


def test_a_number_that_is_always_missing_has_no_prior() -> None:
    with pytest.raises(TrainingDataError, match=r"'x'.* missing in all"):
        History.fit(stream_of([feature("z", "x")]), records_of([Row("a", NOON)] * 5))


def test_a_stream_without_history_features_has_no_history() -> None:
    stream = StreamDefinition.model_validate({"name": "s", "feature": [{"kind": "number", "field": "x"}]})

    assert History.fit(stream, records_of([Row("a", NOON, 1.0)])) is None


def test_history_needs_event_times() -> None:
    with pytest.raises(ValueError, match="no event time"):
        BUCKETS.fold(BUCKETS.new_state(), replace(records_of([Row("a", NOON)]), event_times=None))


def test_decoded_payments_have_the_features_that_their_definition_names() -> None:
    records = decoded([message(number) for number in range(200)], HISTORY_STREAM)
    history = History.fit(HISTORY_STREAM, records)
    assert history is not None

    found, _ = history.fold(history.new_state(), records)

    assert list(found) == ["amount.robust_ratio", "count.1d", "amount.z.7d", "shop.kind.first_time", "since_last"]
    assert np.isnan(found["since_last"][:50]).all()
    assert found["since_last"][50:].tolist() == [3000.0] * 150


# -- without the compiler ---------------------------------------------------------------------------------------------


def test_the_fold_reads_and_writes_within_its_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled fold checks no bounds; the same Python does, and gives the same bits."""
    from detector import history as module
    from detector import history_fold

    plain: dict[str, Callable[..., Any]] = {
        name: value.py_func for name, value in vars(history_fold).items() if hasattr(value, "py_func")
    }
    rows = [
        Row(
            ["a", "b", None, "c"][i % 4],
            NOON + (i * 37 % 19) * 20 * SECOND + i * SECOND,
            i % 5 - 1.0,
            None,
            "uvw"[i % 3],
        )
        for i in range(60)
    ]
    histories_ = [BUCKETS, EXACT, AGED["exact"], history_of([feature("robust_z", "x")], mode="exact")]
    compiled = [[bits(run(history, part)) for part in (rows, rows[:1], [])] for history in histories_]

    for name, function in plain.items():
        monkeypatch.setattr(history_fold, name, function)
    monkeypatch.setattr(module, "fold", plain["fold"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slow = [[bits(run(history, part)) for part in (rows, rows[:1], [])] for history in histories_]

    assert slow == compiled


def test_changes_of_nothing_can_be_applied_and_taken_back() -> None:
    state = EXACT.new_state()
    changes: HistoryChanges
    _, changes = EXACT.fold(state, records_of([Row(None, NOON)]))

    state.take_back(state.apply(changes))

    assert len(state) == 0


def test_the_fold_is_compiled_once_for_batches_of_many_entities_of_one_and_of_none() -> None:
    records = decoded([message(number) for number in range(40)], HISTORY_STREAM)
    history = History.fit(HISTORY_STREAM, records)
    assert history is not None
    state = history.new_state()
    history.fold(state, records)
    compiled = list(getattr(fold, "signatures", ()))  # none where the compiler is switched off

    for rows in (np.array([3]), np.arange(0, dtype=np.int64)):
        history.fold(state, records.take(rows))

    assert list(getattr(fold, "signatures", ())) == compiled
