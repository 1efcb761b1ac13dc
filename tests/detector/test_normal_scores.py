"""How often normal records score beyond a value: counted, extrapolated, kept, and falling with the score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from detector import NormalScores, TrainingDataError
from detector.pareto import LEAST_SHAPE, MOST_SHAPE, fit_by_likelihood, fit_by_moments, fit_tails_beyond

DRAW = np.random.default_rng(20260101)
SCORES = DRAW.exponential(size=30_000)


def test_in_the_bulk_probabilities_are_counted() -> None:
    normal = NormalScores.fit(SCORES)

    for score in (0.1, 1.0, 3.0, 6.0):
        counted = (1 + (score <= SCORES).sum()) / 30_001
        assert normal.probability(np.array([score]))[0] == pytest.approx(counted, rel=1e-3)


def test_the_highest_scores_are_counted_exactly() -> None:
    normal = NormalScores.fit(SCORES)
    score = float(np.sort(SCORES)[-100])

    assert normal.probability(np.array([score]))[0] == 101 / 30_001


def test_beyond_the_sample_probabilities_follow_the_law() -> None:
    decades = np.array([4.0, 5.0, 6.0])

    found = [
        NormalScores.fit(np.random.default_rng(seed).exponential(size=30_000)).probability(decades * np.log(10))
        for seed in range(6)
    ]

    np.testing.assert_allclose(np.median(-np.log10(found), axis=0), decades, atol=0.5)


def test_no_score_is_less_probable_than_an_exponential_fade_from_the_highest_normal_one() -> None:
    bounded = np.sort(DRAW.beta(2, 5, size=30_000))
    normal = NormalScores.fit(bounded)
    excess = (bounded[-21:] - bounded[-21]).mean()

    for beyond in (0.05, 0.5, 5.0):
        least = np.exp(-beyond / excess) / 30_001
        assert normal.probability(bounded[-1:] + beyond)[0] >= max(least, 1e-300) * (1 - 1e-9)


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 30, 500, 5_000]))
def test_a_higher_score_is_never_more_probable(seed: int, n: int) -> None:
    draw = np.random.default_rng(seed)
    normal = NormalScores.fit(
        draw.choice([draw.normal(size=n), draw.standard_cauchy(size=n), draw.integers(4, size=n)])
    )
    scores = np.sort(np.concatenate([draw.normal(size=200) * 3, np.geomspace(1, 1e12, 50), [-1e12]]))

    found = normal.probability(scores)

    assert (np.diff(found) <= 0).all()
    assert ((found > 0) & (found <= 1)).all()


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e9, 1e9)))
def test_any_finite_scores_have_probabilities(scores: np.ndarray) -> None:
    found = NormalScores.fit(scores).probability(scores)

    assert np.isfinite(found).all()
    assert found.min() >= 1 / (len(scores) + 1)


def test_without_a_tail_scores_beyond_the_sample_still_differ() -> None:
    normal = NormalScores.fit(SCORES[:100])
    beyond = SCORES[:100].max() + np.array([0.0, 1.0, 2.0])

    assert normal.tails == ()
    assert (np.diff(normal.probability(beyond)) < 0).all()


def test_what_is_restored_gives_the_same_bits() -> None:
    normal = NormalScores.fit(SCORES)

    again = NormalScores.restore(normal.state())

    scores = np.linspace(0, 40, 1_000)
    assert again.probability(scores).tobytes() == normal.probability(scores).tobytes()
    assert sum(array.nbytes for array in normal.state().values()) < 100_000


@pytest.mark.parametrize("scores", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_scores_that_are_not_finite_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(TrainingDataError, match="finite scores"):
        NormalScores.fit(scores)


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2, 0.4])
def test_both_estimators_find_the_tail_that_excesses_were_drawn_from(shape: float) -> None:
    excesses = stats.genpareto.rvs(shape, size=200_000, random_state=7)
    mean = excesses.mean()

    by_likelihood, by_moments = fit_by_likelihood(excesses / mean), fit_by_moments(excesses / mean)

    assert by_likelihood == pytest.approx((1 / mean, shape), abs=0.02)
    if shape < 0.3:  # beyond, the variance that moments need converges slowly
        assert by_moments == pytest.approx((1 / mean, shape), abs=0.05)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_a_tail_is_the_same_on_any_scale(scale: float) -> None:
    ordered = np.sort(SCORES)

    for tail, scaled in zip(fit_tails_beyond(ordered, 500), fit_tails_beyond(scale * ordered, 500), strict=True):
        assert scaled.shape == pytest.approx(tail.shape, abs=1e-6)
        assert scaled.score_at(1e-5) == pytest.approx(scale * tail.score_at(1e-5), rel=1e-6)


def test_a_tail_and_its_inverse_agree() -> None:
    for tail in fit_tails_beyond(np.sort(SCORES), 500):
        for rate in (1e-2, 1e-4, 1e-6):
            assert tail.probability(np.array([tail.score_at(rate)]))[0] == pytest.approx(rate)


def test_shapes_that_extrapolate_wildly_are_held_back() -> None:
    heavy = np.sort(stats.genpareto.rvs(2.0, size=2_000, random_state=0))
    hard = np.sort(stats.genpareto.rvs(-2.0, size=2_000, random_state=0))

    for excesses in (heavy, hard):
        for _, shape in (fit_by_likelihood(excesses / excesses.mean()), fit_by_moments(excesses / excesses.mean())):
            assert LEAST_SHAPE <= shape <= MOST_SHAPE


def test_a_tail_in_two_pieces_is_refused_where_the_second_begins_within_it() -> None:
    draw = np.random.default_rng(3)
    mixed = np.sort(np.where(draw.random(50_000) < 0.01, draw.gamma(2, 6, 50_000), draw.gamma(4, 1, 50_000)))

    assert fit_tails_beyond(mixed, 2_500) == []
    assert len(fit_tails_beyond(mixed, 125)) == 2
