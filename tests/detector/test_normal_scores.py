"""How often normal records score beyond a value: counted, extrapolated, kept, and falling with the score."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector import NormalScores, TrainingDataError

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


def test_a_rank_that_is_kept_gives_its_score_and_another_the_next_one_up_that_is() -> None:
    draw = np.random.default_rng(8)
    scores = np.sort(np.where(draw.random(10_001) < 0.5, draw.normal(size=10_001), draw.integers(-3, 4, size=10_001)))
    normal = NormalScores.fit(scores)

    for rank in [*range(1, 10_002, 7), 7_953, 7_954, 10_000, 10_001]:
        score, known = normal.ranked(rank)
        assert score == scores[known - 1]
        assert rank <= known < rank + 4  # 7,953 scores in 2,048 steps of 4
        assert known == rank or rank <= 10_001 - 2_048


def test_what_tails_say_is_above_what_is_counted() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=5_000)
        normal = NormalScores.fit(scores)
        assert normal.score_at(19.99 / 5_000, 0.0)[0] >= np.sort(scores)[-20]


@pytest.mark.parametrize("scale", [1e-6, 1e307])
def test_probabilities_are_those_of_the_law_on_any_scale(scale: float) -> None:
    normal = NormalScores.fit(SCORES * scale)

    found = normal.probability(np.array([9.0, 11.0, 13.0]) * scale)

    np.testing.assert_allclose(found, NormalScores.fit(SCORES).probability(np.array([9.0, 11.0, 13.0])), rtol=1e-6)
