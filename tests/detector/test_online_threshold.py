from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector import NormalScores, TrainingDataError, check_resolvable, fit_threshold
from detector.online_threshold import SEGMENTS, OnlineThreshold
from detector.stream import ThresholdSetting

RATE, WINDOW = 1e-2, 5_000
CALIBRATION = np.random.default_rng(0).lognormal(0, 0.7, 20_000)


def policy(rate: float = RATE) -> OnlineThreshold:
    normal = NormalScores.fit(CALIBRATION)
    threshold = fit_threshold(CALIBRATION, ThresholdSetting(false_alarm_rate=rate), normal=normal)
    return OnlineThreshold.of(threshold, normal, WINDOW)


def alarms(scores: NDArray[np.float64], online: OnlineThreshold | None = None) -> NDArray[np.bool_]:
    online = online or policy()
    thresholds, _, _ = online.follow(online.begin(), scores, np.arange(len(scores)))
    return scores > thresholds


def normal_scores(n: int, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(0, 0.7, n)


def test_before_any_segment_is_full_the_threshold_is_the_calibrated_one_to_the_last_bit() -> None:
    online = policy()

    thresholds, standardised, _ = online.follow(online.begin(), normal_scores(100), np.arange(100))

    assert set(thresholds.tolist()) == {online.calibrated}
    np.testing.assert_allclose(standardised, normal_scores(100), rtol=1e-12)


@given(cuts=st.lists(st.integers(0, 1_500), max_size=20))
def test_a_partition_gets_the_same_thresholds_however_it_is_cut_into_batches(cuts: list[int]) -> None:
    online, scores, offsets = policy(), normal_scores(1_500) * 1.2, np.arange(7, 1_507)
    whole, whole_standardised, whole_window = online.follow(online.begin(), scores, offsets)

    window, parts = online.begin(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 1_500], strict=True):
        thresholds, standardised, window = online.follow(window, scores[start:end], offsets[start:end])
        parts.append((thresholds, standardised))

    assert np.concatenate([each for each, _ in parts]).tobytes() == whole.tobytes()
    assert np.concatenate([each for _, each in parts]).tobytes() == whole_standardised.tobytes()
    assert window.points.tobytes() == whole_window.points.tobytes()
    assert window.filling.tobytes() == whole_window.filling.tobytes()
    assert len(set(whole.tolist())) > 10


def test_without_drift_the_promised_rate_is_kept_and_does_not_grow() -> None:
    rates = alarms(normal_scores(200_000)).reshape(4, -1).mean(axis=1)

    assert ((rates > 0.7 * RATE) & (rates < 1.4 * RATE)).all()


@pytest.mark.parametrize("scale", [1.5, 0.67])
def test_a_drift_of_the_scale_is_followed(scale: float) -> None:
    scores = normal_scores(100_000) * np.linspace(1, scale, 100_000)

    assert 0.6 * RATE < alarms(scores)[75_000:].mean() < 1.6 * RATE
    fixed = (scores > policy().calibrated)[75_000:].mean()
    assert not 0.5 * RATE < fixed < 2 * RATE


def test_a_shift_of_the_body_is_followed_within_a_window() -> None:
    scores = np.concatenate([normal_scores(20_000), normal_scores(20_000, seed=2) + 1])

    assert 0.6 * RATE < alarms(scores)[20_000 + 2 * WINDOW :].mean() < 1.6 * RATE


def test_a_jump_of_everything_beyond_the_threshold_is_an_incident_and_not_drift() -> None:
    scores = np.concatenate([normal_scores(20_000), normal_scores(20_000, seed=2) + 8])

    assert alarms(scores)[20_000:].all()


def test_alarms_neither_raise_the_threshold_nor_starve_it() -> None:
    scores = normal_scores(50_000)
    flooded = np.repeat(scores, 2)
    flooded[1::2] = 1e6  # every other record is far beyond

    found = alarms(flooded)

    assert found[1::2].all()
    assert 0.6 * RATE < found[::2].mean() < 1.6 * RATE


def test_a_score_that_has_drifted_is_told_as_it_would_be_at_calibration() -> None:
    online = policy()
    scores = normal_scores(4 * WINDOW) * 2 + 1
    thresholds, standardised, _ = online.follow(online.begin(), scores, np.arange(len(scores)))

    late = slice(2 * WINDOW, None)
    assert thresholds[-1] == pytest.approx(online.calibrated * 2 + 1, rel=0.05)
    np.testing.assert_allclose(standardised[late], (scores[late] - 1) / 2, rtol=0.1, atol=0.1)
    np.testing.assert_array_equal(standardised > online.calibrated, scores > thresholds)


def test_scores_that_are_not_finite_leave_the_window_as_it_is() -> None:
    online, scores = policy(), normal_scores(1_000)
    _, _, clean = online.follow(online.begin(), scores, np.arange(1_000))
    broken = np.insert(scores, 500, np.nan)
    offsets = np.insert(np.arange(1_000), 500, 500)

    thresholds, _, window = online.follow(online.begin(), broken, offsets)

    assert window.points.tobytes() == clean.points.tobytes()
    assert np.isfinite(thresholds).all()


def test_scores_that_are_all_alike_move_the_threshold_and_leave_its_distance() -> None:
    online = policy()

    _, _, window = online.follow(online.begin(), np.full(3 * WINDOW, 0.5), np.arange(3 * WINDOW))

    assert window.stretch == 1.0
    assert window.threshold > 0.5


def test_a_window_is_bounded_whatever_comes() -> None:
    online = policy()

    _, _, window = online.follow(online.begin(), normal_scores(50_000), np.arange(50_000))

    assert window.points.shape[0] == len(window.counts) == SEGMENTS
    assert len(window.filling) <= online.every
    assert window.points.nbytes + window.filling.nbytes < 20_000


def test_a_rate_that_leaves_no_body_below_is_refused_with_what_to_do() -> None:
    with pytest.raises(TrainingDataError, match=r'at most 0\.05.*0\.1.*mode = "fixed"'):
        policy(rate=0.1)


def test_such_a_rate_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(TrainingDataError, match='mode = "fixed"'):
        check_resolvable(10_000, ThresholdSetting(false_alarm_rate=0.1, mode="online"), None)
