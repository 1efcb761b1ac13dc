from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from detector import NormalScores, Threshold, TrainingDataError, fit_threshold, refit_threshold
from detector.normal_scores import ENOUGH
from detector.stream import ThresholdSetting

SCORES = np.random.default_rng(0).gamma(2, 1, 10_000)


def rate(share: float) -> ThresholdSetting:
    return ThresholdSetting(false_alarm_rate=share)


@given(st.integers(40, 300), st.floats(0.001, 0.999))
def test_at_most_the_wanted_share_of_exchangeable_records_is_expected_above_where_it_is_counted(
    n: int, share: float
) -> None:
    assume(n * share >= ENOUGH)
    scores = np.arange(n, dtype=np.float64)

    threshold = fit_threshold(scores, rate(share))

    # A further record falls into each of the n + 1 gaps between the scores with equal chance.
    above = 1 + int((scores > threshold.value).sum())
    assert above / (n + 1) <= share + 1e-9
    assert threshold.rate == pytest.approx(above / (n + 1))
    assert (threshold.method, threshold.warning) == ("empirical", None)


LAWS: dict[str, tuple[Callable[[np.random.Generator, int], Any], Callable[[float], float]]] = {
    "gauss": (lambda draw, n: draw.normal(size=n), stats.norm.sf),
    "chi2": (lambda draw, n: draw.chisquare(10, n), lambda z: stats.chi2.sf(z, 10)),
    "t3": (lambda draw, n: np.abs(draw.standard_t(3, n)), lambda z: 2 * stats.t.sf(z, 3)),
    "beta": (lambda draw, n: draw.beta(2, 5, n), lambda z: stats.beta.sf(z, 2, 5)),
    "large, in pieces": (
        lambda draw, n: 1e6 * np.where(draw.random(n) < 0.01, draw.gamma(2, 6, n), draw.gamma(4, 1, n)),
        lambda z: 0.99 * stats.gamma.sf(z / 1e6, 4) + 0.01 * stats.gamma.sf(z / 1e6, 2, scale=6),
    ),
}


@pytest.mark.parametrize("law", LAWS)
def test_rates_that_few_scores_tell_are_kept_within_a_factor_of_two(law: str) -> None:
    scores_of, share_above = LAWS[law]
    ratios, methods = [], []
    for seed in range(5):
        threshold = fit_threshold(scores_of(np.random.default_rng(seed), 50_000), rate(1e-4))
        ratios.append(share_above(threshold.value) / 1e-4)
        methods.append(threshold.method)
        assert threshold.low <= threshold.value <= threshold.high
        assert threshold.rate_low <= threshold.rate <= threshold.rate_high
        assert "only 5 of 50,000 held-out scores" in (threshold.warning or "")

    assert methods.count("tail fit") >= 4
    assert 0.5 <= np.median(ratios) <= 2
    assert sum(0.5 <= ratio <= 2 for ratio in ratios) >= 4


def test_where_no_tail_fits_the_threshold_is_counted_and_says_so() -> None:
    # Two values alone: whatever is fitted to their excesses does not fit.
    scores = np.repeat([1.0, 2.0], [49_000, 1_000])

    threshold = fit_threshold(scores, rate(1e-4))

    assert threshold.method == "empirical"
    assert threshold.value == 2.0
    assert "no tail could be fitted" in (threshold.warning or "")


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


def test_the_intervals_of_extrapolated_thresholds_hold_what_they_promise() -> None:
    draw = np.random.default_rng(2)
    inside_value = inside_rate = 0
    for _ in range(400):
        threshold = fit_threshold(draw.exponential(size=5_000), rate(1e-3))
        assert threshold.method == "tail fit"
        inside_value += threshold.low <= math.log(1e3) <= threshold.high
        inside_rate += threshold.rate_low <= math.exp(-threshold.value) <= threshold.rate_high

    # 380 are promised, give or take 4.4; a normal approximation on few excesses may miss by a few more.
    assert 365 <= inside_value <= 396
    assert 365 <= inside_rate <= 396


def test_a_score_that_the_sample_cannot_bound_has_an_interval_without_end() -> None:
    assert fit_threshold(np.random.default_rng(0).exponential(size=1_000), rate(1e-4)).high == math.inf


@pytest.mark.parametrize("scale", [1e-300, 1e307])
@pytest.mark.parametrize("share", [1e-2, 1e-4])
def test_a_threshold_is_the_same_on_any_scale(scale: float, share: float) -> None:
    threshold, scaled = fit_threshold(SCORES, rate(share)), fit_threshold(SCORES * scale, rate(share))

    assert (scaled.method, scaled.warning) == (threshold.method, threshold.warning)
    assert scaled.value == pytest.approx(scale * threshold.value, rel=1e-6)


def test_scores_that_are_further_apart_than_numbers_reach_are_counted() -> None:
    scores = np.concatenate([np.full(9_900, -1.7e308), np.linspace(1e308, 1.7e308, 100)])

    threshold = fit_threshold(scores, rate(1e-3))

    assert np.isfinite([threshold.value, threshold.rate]).all()
    assert 1e308 < threshold.value <= 1.7e308


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 1e-3, 1e-4, 1e-5])
def test_a_distribution_alone_gives_the_threshold_of_its_scores(share: float) -> None:
    kept = NormalScores.restore(NormalScores.fit(SCORES).state())

    threshold, again = fit_threshold(SCORES, rate(share)), refit_threshold(kept, rate(share))

    if share < 0.2:  # among the highest 2,048 of 10,000
        assert again == threshold
    else:
        counted = (1 + int((again.value < SCORES).sum())) / 10_001
        assert again.rate == pytest.approx(counted)
        assert share - 4 / 10_000 <= again.rate <= share
        assert again.rate_low < again.rate < again.rate_high
        assert again.low < again.value < again.high


def test_a_distribution_alone_refuses_what_its_scores_would() -> None:
    normal = NormalScores.fit(SCORES)

    with pytest.raises(TrainingDataError, match="at least 100,000 held"):
        refit_threshold(normal, rate(1e-6))
    with pytest.raises(TrainingDataError, match="declare the event time"):
        refit_threshold(normal, ThresholdSetting(alert_budget="50/day"))


def test_a_threshold_knows_the_event_rate_that_its_budget_came_from() -> None:
    threshold = fit_threshold(SCORES, ThresholdSetting(alert_budget="50/day"), records_per_day=5000.0)

    assert threshold.records_per_day == pytest.approx(5000)
    assert fit_threshold(SCORES, rate(0.01)).records_per_day is None


def test_a_budget_becomes_a_rate_through_the_event_rate() -> None:
    threshold = fit_threshold(SCORES, ThresholdSetting(alert_budget="50/day"), records_per_day=5000.0)

    assert threshold.rate == pytest.approx(0.01, rel=0.01)
    assert threshold.expected_per_day == pytest.approx(50, rel=0.01)
    assert threshold.stated == 'alert_budget = "50/day"'


def test_one_in_so_many_is_a_rate() -> None:
    threshold = fit_threshold(SCORES, ThresholdSetting(one_in=100))

    assert threshold.value == fit_threshold(SCORES, rate(0.01)).value
    assert threshold.stated == "one_in = 100"


def test_too_few_scores_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(TrainingDataError, match=r"10000 calibration scores cannot tell .*1e-06.*at least 100,000 held"):
        fit_threshold(SCORES, rate(1e-6))


def test_the_number_that_is_said_to_be_needed_suffices() -> None:
    assert fit_threshold(np.arange(100.0), rate(1e-3)).value == 99
    with pytest.raises(TrainingDataError, match="at least 100 held-out"):
        fit_threshold(np.arange(99.0), rate(1e-3))


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
