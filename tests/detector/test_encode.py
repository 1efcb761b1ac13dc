from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector import (
    Encoder,
    Records,
    StreamDefinition,
    TrainingDataError,
    decode_table,
    records_of_matrix,
    stream_of_matrix,
)
from detector.encode import RARE, Notes, NumberEncoder, significant
from detector.tables import as_table


def fitted(toml: str, **columns: Any) -> tuple[StreamDefinition, Encoder]:
    stream = StreamDefinition.from_toml(f'name = "s"\n{toml}')
    return stream, Encoder.fit(stream, records(stream, **columns))


def records(stream: StreamDefinition, **columns: Any) -> Records:
    return decode_table(stream, as_table(columns))[0]


def encode(pair: tuple[StreamDefinition, Encoder], **columns: Any) -> NDArray[np.float32]:
    return pair[1].encode(records(pair[0], **columns))


NUMBER = '[[feature]]\nkind = "number"\nfield = "x"\n'
CATEGORY = '[[feature]]\nkind = "category"\nfield = "x"\nmin_count = 3\n'
TIME = '[[feature]]\nkind = "time"\nfield = "x"\nformat = "iso8601"\n'
SAMPLE = np.random.default_rng(0).lognormal(3, 1, 2000)


def test_a_number_is_centred_and_scaled_whatever_its_law() -> None:
    column = encode(fitted(NUMBER, x=SAMPLE), x=SAMPLE)[:, 0]

    assert abs(column.mean()) < 0.01
    assert column.std() == pytest.approx(1, abs=0.02)
    # Halfway between the median's rank, 0, and its standard score: the sample is skewed.
    assert np.median(column) == pytest.approx((np.median(SAMPLE) - SAMPLE.mean()) / SAMPLE.std() / 2, abs=0.03)


@pytest.mark.parametrize("log", ["", "log = true\n"])
@given(values=st.lists(st.floats(-1e308, 1e308), min_size=2, max_size=10, unique=True))
def test_a_larger_number_never_encodes_smaller_and_none_overflows(log: str, values: list[float]) -> None:
    column = encode(fitted(NUMBER + log, x=SAMPLE), x=sorted(values))[:, 0]

    assert np.isfinite(column).all()
    assert (np.diff(column) >= 0).all()


def test_beyond_the_fitted_range_a_number_goes_on_growing() -> None:
    column = encode(fitted(NUMBER, x=SAMPLE), x=SAMPLE.max() * np.array([1.0, 2.0, 5.0, 1e3, 1e6, 1e12]))[:, 0]

    assert (np.diff(column) > 0.05).all()
    assert column[-1] < 400


def test_a_missing_number_is_flagged_and_differs_from_every_number() -> None:
    pair = fitted(NUMBER, x=SAMPLE)
    rows = encode(pair, x=[math.nan, 0.0, float(SAMPLE.mean())])

    assert rows[0, 1] > 5
    assert (np.abs(rows[1:, 1]) < 0.01).all()


def test_a_missing_value_that_is_common_is_not_strange() -> None:
    half = np.where(np.arange(2000) % 2 == 0, np.nan, SAMPLE)

    assert encode(fitted(NUMBER, x=half), x=[math.nan])[0, 1] == pytest.approx(1.0, abs=0.01)


def test_a_constant_number_encodes_and_a_change_of_it_shows() -> None:
    rows = encode(fitted(NUMBER, x=[5.0] * 50), x=[5.0, 5.5])

    assert rows[0, 0] == 0
    assert rows[1, 0] > 2


def test_a_number_that_is_always_missing_is_refused_by_name() -> None:
    with pytest.raises(TrainingDataError, match=r"'x' is missing in all 3 normal records.*remove it"):
        fitted(NUMBER, x=[math.nan] * 3)


@pytest.mark.parametrize("log", ["", "log = true\n"])
def test_the_expected_number_of_an_encoded_one_is_that_number(log: str) -> None:
    pair = fitted(NUMBER + log, x=SAMPLE)
    values = np.quantile(SAMPLE, [0.05, 0.5, 0.9])

    nearest = pair[1].features[0].nearest(encode(pair, x=values).astype(np.float64))

    assert nearest.values == pytest.approx(values.tolist(), rel=1e-3)


def test_numbers_of_every_size_are_rounded_to_so_many_digits() -> None:
    values = np.array([123456.7, -0.001234567, 9.99999951e99, 1e-320, 0.0, -3e20, np.nan])

    rounded = significant(values, 6)

    assert rounded[:6].tolist() == [123457.0, -0.00123457, 1e100, 0.0, 0.0, -3e20]
    assert np.isnan(rounded[6])


def test_rare_unseen_and_missing_categories_have_codes_of_their_own() -> None:
    pair = fitted(CATEGORY, x=["a"] * 60 + ["b"] * 30 + ["c", "d", "d", None])
    rows = encode(pair, x=["a", "b", "c", "d", "new", None])

    assert len({row.tobytes() for row in rows}) == 5  # c and d are both rare
    assert pair[1].features[0].nearest(rows[[0, 1, 2, 3, 5]].astype(np.float64)).values == ["a", "b", RARE, RARE, None]


def test_a_rarer_category_encodes_stranger() -> None:
    rows = encode(fitted(CATEGORY, x=["a"] * 900 + ["b"] * 90 + ["c"] * 9), x=["a", "b", "c", "new"])
    strangeness = np.square(rows).sum(axis=1)

    assert (np.diff(strangeness) > 0).all()


def test_more_categories_than_allowed_share_the_rare_code() -> None:
    stream, encoder = fitted(CATEGORY + "max_values = 2\n", x=["a"] * 9 + ["b"] * 8 + ["c"] * 7)

    assert encoder.width == 2 + 3
    assert encoder.features[0].nearest(encode((stream, encoder), x=["c"]).astype(np.float64)).values == [RARE]


def test_midnight_lies_beside_the_minute_before_it_and_noon_opposite() -> None:
    pair = fitted(TIME + 'parts = ["hour"]\n', x=["2026-03-01T12:00:00"])
    night, later, noon = encode(pair, x=["2026-03-01T23:59:00", "2026-03-02T00:00:00", "2026-03-02T12:00:00"])

    assert np.abs(night - later).max() < 0.01
    assert np.abs(later - noon).max() > 2


def test_hour_and_weekday_are_those_of_the_declared_zone() -> None:
    pair = fitted(TIME + 'zone = "Asia/Tokyo"\n', x=["2026-03-01T12:00:00"])
    rows = records(pair[0], x=["2026-03-01T20:30:00Z"])  # Sunday evening in UTC

    assert [feature.actual(rows, np.arange(1)).tolist() for feature in pair[1].features] == [["05:30"], ["Monday"]]
    matrix = pair[1].encode(rows).astype(np.float64)
    assert pair[1].features[0].nearest(matrix[:, pair[1].slices[0]]).values == ["05:30"]
    assert pair[1].features[1].nearest(matrix[:, pair[1].slices[1]]).values == ["Monday"]


def test_the_notes_say_what_is_missing_unseen_and_out_of_range() -> None:
    stream, encoder = fitted(NUMBER + CATEGORY.replace('"x"', '"y"'), x=[1.0, 2.0, 3.0], y=["a"] * 3)
    notes = Notes()

    encoder.encode(records(stream, x=[2.0, 9.0, math.nan], y=["a", "new", None]), notes)

    assert {name: mask.tolist() for name, mask in notes.missing.items()} == {
        "x": [False, False, True], "y": [False, False, True],
    }  # fmt: skip
    assert notes.unseen["y"].tolist() == [False, True, False]
    assert notes.out_of_range["x"].tolist() == [False, True, False]


@given(st.lists(st.floats(allow_infinity=False), min_size=1, max_size=40), st.randoms())
def test_a_row_encodes_to_the_same_bits_in_any_company(values: list[float], random: Any) -> None:
    stream = stream_of_matrix(2)
    encoder = Encoder.fit(stream, records_of_matrix(stream, np.stack([SAMPLE, SAMPLE[::-1]], axis=1)))
    matrix = np.array([[value, -value] for value in values])
    order = random.sample(range(len(values)), len(values))

    together = encoder.encode(records_of_matrix(stream, matrix))
    alone = np.concatenate([encoder.encode(records_of_matrix(stream, matrix[i : i + 1])) for i in order])

    assert alone.tobytes() == together[order].tobytes()


@pytest.mark.parametrize("log", ["", "log = true\n"])
def test_decoding_undoes_encoding_however_far_out(log: str) -> None:
    feature = fitted(NUMBER + log, x=SAMPLE)[1].features[0]
    assert isinstance(feature, NumberEncoder)
    values = np.array([-1e9, -3.0, 0.0, 0.5, 7.0, 1e4, 1e12])

    assert feature.values_of(feature.columns_of(values)[:, 0]) == pytest.approx(values, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "sample", "value"),
    [
        (NUMBER, SAMPLE, float(np.median(SAMPLE))),
        (NUMBER, [*SAMPLE.tolist(), *[math.nan] * len(SAMPLE)], math.nan),
        (CATEGORY, ["a"] * 60 + ["b"] * 30, "b"),
        (TIME, ["2026-03-01T12:00:00", "2026-03-02T07:13:00"], "2026-03-02T07:13:00"),
    ],
)
def test_the_nearest_possible_columns_of_a_record_are_its_own(kind: str, sample: list[object], value: object) -> None:
    pair = fitted(kind, x=sample)
    columns = encode(pair, x=[value]).astype(np.float64)

    for feature, place in zip(pair[1].features, pair[1].slices, strict=True):
        assert feature.nearest(columns[:, place]).columns == pytest.approx(columns[:, place], abs=1e-4)


def test_half_an_indicator_becomes_a_whole_one_and_a_short_angle_one_on_the_circle() -> None:
    category = fitted(CATEGORY, x=["a"] * 60 + ["b"] * 30)[1].features[0]
    both = category.nearest(category.nearest(np.array([[0.3, 0.2, 0.0, 0.0, 0.0]])).columns)
    hour = fitted(TIME + 'parts = ["hour"]\n', x=["2026-03-01T12:00:00"])[1].features[0]

    assert both.values == ["a"]
    assert np.square(hour.nearest(np.array([[0.1, 0.1, 0.0]])).columns[0, :2]).sum() == pytest.approx(2.0)


def test_an_unseen_category_is_never_the_nearest() -> None:
    category = fitted(CATEGORY, x=["a"] * 60 + ["b"] * 30)[1].features[0]

    assert category.nearest(np.array([[0.0, 0.0, 0.0, 9.0, 0.0]])).values[0] in ("a", "b")
