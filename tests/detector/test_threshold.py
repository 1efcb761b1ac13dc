from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import Threshold, TrainingDataError, fit_threshold
from detector.stream import ThresholdSetting

SCORES = np.random.default_rng(0).gamma(2, 1, 10_000)


def rate(share: float) -> ThresholdSetting:
    return ThresholdSetting(false_alarm_rate=share)


@given(st.integers(1, 300), st.floats(0.001, 0.999))
def test_at_most_the_wanted_share_of_exchangeable_records_is_expected_above(n: int, share: float) -> None:
    scores = np.arange(n, dtype=np.float64)
    if share < 1 / (n + 1):
        with pytest.raises(TrainingDataError):
            fit_threshold(scores, rate(share))
        return

    threshold = fit_threshold(scores, rate(share))

    # A further record falls into each of the n + 1 gaps between the scores with equal chance.
    above = 1 + int((scores > threshold.value).sum())
    assert above / (n + 1) <= share + 1e-9
    assert threshold.rate == pytest.approx(above / (n + 1))


def test_the_intervals_hold_what_they_promise() -> None:
    draw = np.random.default_rng(1)
    truth = -math.log(0.02)  # the exponential law's quantile at rate 0.02
    inside_value = inside_rate = 0
    for _ in range(400):
        threshold = fit_threshold(draw.exponential(size=500), rate(0.02))
        inside_value += threshold.low <= truth <= threshold.high
        inside_rate += threshold.rate_low <= math.exp(-threshold.value) <= threshold.rate_high

    # 95% of 400 is 380, with a standard deviation of 4.4; the order statistics' interval errs to the wide side.
    assert 365 <= inside_rate <= 395
    assert inside_value >= 365


def test_a_budget_becomes_a_rate_through_the_event_rate() -> None:
    threshold = fit_threshold(SCORES, ThresholdSetting(alert_budget="50/day"), records_per_day=5000.0)

    assert threshold.rate == pytest.approx(0.01, rel=0.01)
    assert threshold.expected_per_day == pytest.approx(50, rel=0.01)
    assert threshold.stated == 'alert_budget = "50/day"'


def test_too_few_scores_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(TrainingDataError, match=r"10000 calibration scores cannot resolve .*1e-06.*at least 999999 "):
        fit_threshold(SCORES, rate(1e-6))


def test_the_number_that_is_said_to_be_needed_suffices() -> None:
    assert fit_threshold(np.arange(999.0), rate(1e-3)).value == 998
    with pytest.raises(TrainingDataError, match="at least 999 "):
        fit_threshold(np.arange(998.0), rate(1e-3))


def test_without_a_statement_small_data_gets_the_smallest_rate_that_it_can_resolve() -> None:
    assert fit_threshold(SCORES[:50], ThresholdSetting()).rate == pytest.approx(1 / 51)
    assert fit_threshold(SCORES, ThresholdSetting()).rate == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize(
    ("per_day", "says"), [(None, "declare the event time"), (40.0, "more than the 40 normal records")]
)
def test_a_budget_that_cannot_be_kept_is_refused(per_day: float | None, says: str) -> None:
    with pytest.raises(TrainingDataError, match=says):
        fit_threshold(SCORES, ThresholdSetting(alert_budget="50/day"), records_per_day=per_day)


@pytest.mark.parametrize("scores", [np.array([]), np.array([1.0, math.nan]), np.array([1.0, math.inf])])
def test_scores_that_are_not_finite_set_no_threshold(scores: np.ndarray) -> None:
    with pytest.raises(TrainingDataError, match="finite scores"):
        fit_threshold(scores, rate(0.5))


def test_a_threshold_survives_the_way_through_json() -> None:
    threshold = fit_threshold(SCORES[:50], ThresholdSetting())

    assert threshold.high == math.inf
    assert Threshold.from_json(threshold.to_json()) == threshold
