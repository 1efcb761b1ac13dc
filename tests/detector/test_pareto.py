"""Generalised Pareto tails: as likely as any, kept where they fit, and honest about what they may be off."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from detector.excesses import LEAST_SHAPE, MOST_SHAPE
from detector.pareto import MOST_DISTANCE, ParetoTail, Tails, fit_excesses, fit_tails, fit_tails_beyond

SCORES = np.sort(np.random.default_rng(20260101).exponential(size=30_000))


def excesses_of(shape: float, count: int, seed: int = 7) -> np.ndarray:
    return np.sort(stats.genpareto.rvs(shape, size=count, random_state=seed))


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2, 0.4])
def test_the_tail_is_found_that_excesses_were_drawn_from(shape: float) -> None:
    scale, found, distance = fit_excesses(3.0 * excesses_of(shape, 200_000))

    # Their standard errors are about .003.
    assert scale == pytest.approx(3.0, rel=0.01)
    assert found == pytest.approx(shape, abs=0.01)
    assert distance < MOST_DISTANCE


@pytest.mark.parametrize(("shape", "count"), [(-0.6, 40), (-0.2, 500), (0.0, 25), (0.0, 2_000), (0.3, 100), (1.0, 60)])
def test_no_scale_and_shape_are_likelier(shape: float, count: int) -> None:
    excesses = excesses_of(shape, count)

    def unlikely(place: np.ndarray) -> float:
        scale, found = float(np.exp(place[0])), float(place[1])
        prior = stats.beta.logpdf(found, 3, 3, loc=-0.5)
        return -float(stats.genpareto.logpdf(excesses, found, scale=scale).sum() + prior)

    scale, found, _ = fit_excesses(excesses)

    start = np.array([np.log(excesses.mean()), 0.01])
    best = min(
        (optimize.minimize(unlikely, start + np.array([0, tilt]), method="Nelder-Mead") for tilt in (0, 0.2)),
        key=lambda at: at.fun,
    )
    assert unlikely(np.array([np.log(scale), found])) == pytest.approx(best.fun, abs=1e-3)


def test_the_distance_is_that_of_the_upper_tail() -> None:
    excesses = excesses_of(0.2, 200)
    scale, shape, distance = fit_excesses(excesses)

    # The definition: k times the integral of (empirical - fitted)^2 / (1 - fitted) over the fitted distribution.
    fitted = stats.genpareto.cdf(excesses, shape, scale=scale)
    at = (np.arange(1_000_000) + 0.5) / 1_000_000
    empirical = np.searchsorted(fitted, at, "right") / 200
    assert distance == pytest.approx(200 * ((empirical - at) ** 2 / (1 - at)).mean(), rel=0.01)


def test_nineteen_of_twenty_pareto_tails_are_kept() -> None:
    kept = sum(fit_excesses(excesses_of(0.1, 300, seed))[2] <= MOST_DISTANCE for seed in range(600))

    # 570, give or take 5.3, and the limit is rounded.
    assert 545 <= kept <= 590


@pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e12, 1e306])
def test_a_tail_is_the_same_on_any_scale(scale: float) -> None:
    (tail,), (scaled,) = fit_tails_beyond(SCORES, 500), fit_tails_beyond(scale * SCORES, 500)

    assert scaled.shape == pytest.approx(tail.shape, abs=1e-6)
    assert scaled.score_at(1e-5) == pytest.approx(scale * tail.score_at(1e-5), rel=1e-6)


def test_the_highest_scores_are_enough() -> None:
    assert fit_tails(SCORES[-3_001:], 30_000) == fit_tails(SCORES)
    counts = [round(30_000 * tail.share) for tail in fit_tails(SCORES)]
    assert len(counts) >= 5
    assert set(counts) <= {3_000, 1_500, 750, 375, 187, 93, 46}


def test_shapes_that_extrapolate_wildly_are_held_back() -> None:
    for shape in (-2.0, 2.0):
        assert LEAST_SHAPE < fit_excesses(excesses_of(shape, 2_000))[1] < MOST_SHAPE


def test_a_tail_in_two_pieces_is_refused_where_the_second_begins_within_it() -> None:
    draw = np.random.default_rng(3)
    mixed = np.sort(np.where(draw.random(50_000) < 0.01, draw.gamma(2, 6, 50_000), draw.gamma(4, 1, 50_000)))

    assert fit_tails_beyond(mixed, 2_500) == []
    assert len(fit_tails_beyond(mixed, 125)) == 1


@pytest.mark.parametrize("highest", [[1.0, 2.0, 2.0, 2.0], [-1.7e308, 1e308, 1.5e308, 1.7e308]])
def test_excesses_that_are_the_same_or_beyond_numbers_fit_no_tail(highest: list[float]) -> None:
    assert fit_tails_beyond(np.array(highest), 3) == []


@pytest.mark.parametrize("shape", [-0.4, 1e-4, 0.4])
def test_a_tail_is_the_distribution_that_it_names(shape: float) -> None:
    tail = ParetoTail(2.0, 0.05, 3.0, shape)
    scores = np.array([2.5, 5.0, 9.0, 50.0])

    np.testing.assert_allclose(tail.probability(scores), 0.05 * stats.genpareto.sf(scores, shape, 2.0, 3.0), rtol=1e-9)


def test_tails_together_give_the_mean_of_their_shares_weighted_by_their_own() -> None:
    tails = [ParetoTail(1.0, 0.1, 1.0, 0.2), ParetoTail(2.0, 0.02, 2.0, -0.3)]
    scores = np.array([3.0, 6.0, 100.0])

    expected = (0.1 * tails[0].probability(scores) + 0.02 * tails[1].probability(scores)) / 0.12
    np.testing.assert_allclose(Tails(tails).probability(scores), expected)
    for rate in (1e-2, 1e-4, 1e-8):
        assert Tails(tails).probability(np.array([Tails(tails).score_at(rate)]))[0] == pytest.approx(rate)


@pytest.mark.parametrize("shape", [-0.2, 1e-4, 0.25])
def test_the_standard_error_is_how_fits_scatter(shape: float) -> None:
    score = float(stats.genpareto.isf(0.02, shape))
    logarithms, errors = [], []
    for seed in range(300):
        tails = fit_tails_beyond(np.concatenate([[0.0], excesses_of(shape, 500, seed)]), 500, 500)
        if tails:
            logarithms.append(np.log(Tails(tails).probability(np.array([score]))[0]))
            errors.append(Tails(tails).standard_error(500, score))

    # The level stands, so that its share has no error. A standard deviation of 300 is known within 4%.
    assert np.median(errors) == pytest.approx(np.std(logarithms), rel=0.15)


def test_tails_that_are_apart_are_less_certain() -> None:
    one, other = ParetoTail(1.0, 0.1, 1.0, 0.01), ParetoTail(1.0, 0.1, 1.5, 0.01)

    alone, both = Tails([one]).standard_error(50_000, 6.0), Tails([one, other]).standard_error(50_000, 6.0)

    assert both > 2 * alone
