from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import genpareto
from sklearn.decomposition import PCA

from detector import Detector, LinearAutoencoder, Records, Scorer
from detector.scoring import TILE, _whitening, in_tiles, shrunk_covariance
from detector.tails import beyond, fit_tails, keep_largest
from tests.payments import decoded, message, odd_message

DRAW = np.random.default_rng(1)
CORRELATED = (DRAW.normal(size=(4000, 3)) @ DRAW.normal(size=(3, 5)) + 0.1 * DRAW.normal(size=(4000, 5))).astype(
    np.float32
)


def pool() -> Records:
    values = [message(number) for number in range(900)]
    values += [
        odd_message(1),
        message(2, amount=None),
        message(3, shop__kind="new"),
        message(4, amount=1e300),
        message(5, amount=-5),
    ]
    return decoded(values)


def test_a_record_scores_the_same_bits_at_every_position_of_a_tile(tiny_detector: Detector) -> None:
    odd, rest = pool().take(np.array([900])), pool().take(np.arange(TILE - 1))
    alone = tiny_detector.score(odd)[0]

    for position in range(TILE):
        row = np.insert(np.arange(TILE - 1), position, TILE - 1)
        assert tiny_detector.score(Records.concat([rest, odd]).take(row))[position] == alone


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 905), max_size=6), seed=st.integers(0, 100))
def test_a_record_scores_the_same_bits_however_the_stream_is_cut(
    cuts: list[int], seed: int, tiny_detector: Detector
) -> None:
    records = pool()
    order = np.random.default_rng(seed).permutation(len(records))
    expected = tiny_detector.score(records)[order]

    parts = [tiny_detector.judge(records.take(rows))[0] for rows in np.split(order, sorted(cuts))]

    assert np.concatenate([verdicts.scores for verdicts in parts]).tobytes() == expected.tobytes()


def test_an_explanation_is_the_same_however_the_stream_is_cut(tiny_detector: Detector) -> None:
    records = decoded([odd_message(number) for number in range(300)])

    together = tiny_detector.explain(records)

    assert [tiny_detector.explain(records.take(np.array([row])))[0] for row in (0, 17, 255, 256, 299)] == [
        together[row] for row in (0, 17, 255, 256, 299)
    ]


def test_no_rows_give_no_scores() -> None:
    network = LinearAutoencoder.fit(CORRELATED, 2)

    assert Scorer.fit(network, CORRELATED, np.zeros(5, np.bool_)).score(CORRELATED[:0]).shape == (0,)
    assert in_tiles(network.encode, CORRELATED[:0]).shape == (0, 2)


def linear(rows: NDArray[np.float32], code_width: int = 3) -> Scorer:
    return Scorer.fit(LinearAutoencoder.fit(rows, code_width), rows, np.zeros(rows.shape[1], np.bool_))


def naive_rarity(value: float, tail: NDArray[np.float64]) -> tuple[float, float]:
    """Decades of rarity, and those of them beyond one in ten, by the definition and scipy's Pareto tail."""
    start, width, high, scale, shape = tail
    rise = min(max((value - start) / width, 0.0), 1.0)
    further = rise - float(genpareto.logsf(max(value - high, 0.0), shape, scale=scale)) / np.log(10)
    return min(max(value / max(start, 1e-3), 0.0), 1.0) + further, further


def naive_score(scorer: Scorer, row: NDArray[np.float32]) -> float:
    """The score by its definition, one number after the other in double precision."""
    state = {name: tensor.double().numpy() for name, tensor in scorer.state().items()}
    varying = scorer.varying.numpy()
    rebuilt, code = scorer.reconstruct(row[None])[0][varying], scorer.encode(row[None])[0]
    moving = row[varying].astype(np.float64)
    standard = (np.concatenate([moving - rebuilt, code]) - state["centre"]) / state["deviation"]
    whitened = state["whitening"].T @ standard
    own = state["number_whitening"].T @ moving - state["number_shift"]
    left = state["linear"].T @ moving - state["linear_shift"]
    positions, values, least = state["still"]
    stirred = np.abs(row[positions.astype(int)] - values) / least
    width = len(moving)
    columns = [moving[scorer.numbers], own, np.concatenate([standard[:width], whitened[:width]])]
    columns.append(np.concatenate([left, stirred]))
    tails = iter(state["column_tails"].T)
    as_they_are, peaks, of_network, of_pca = (
        [naive_rarity(float(value), next(tails))[1] for value in family] for family in columns
    )
    statistics = [
        float(np.square(whitened).mean()),
        max(peaks, default=0.0),
        (max(of_network, default=0.0) + max(of_pca, default=0.0)) / 2,
        sum(as_they_are),
    ]
    (length, _), (peak, _), (_, surprise), (_, size) = (
        naive_rarity(value, tail) for value, tail in zip(statistics, state["statistic_tails"].T, strict=True)
    )
    trust = float(state["trust"])
    evidence = max(length, trust * peak) + trust * (surprise + size)
    if scorer.codebook is not None:
        known, distant = float(state["known"]), float(scorer.codebook.score(row[None])[0])
        evidence = max(distant, 0.18 * known * evidence) + 0.15 * known * evidence
    return naive_rarity(evidence, state["evidence_tail"][:, 0])[0]


HEAVY = np.random.default_rng(2).standard_t(3, size=(3000, 6)).astype(np.float32)


def test_the_score_is_that_of_its_definition() -> None:
    scorer = linear(HEAVY)
    rows = np.concatenate([HEAVY[:200], 5 * HEAVY[200:300], -5 * HEAVY[300:400]])

    # float32 against float64, through residuals that are small differences
    np.testing.assert_allclose(scorer.score(rows), [naive_score(scorer, row) for row in rows], rtol=1e-3, atol=1e-4)


def test_the_score_of_records_with_indicators_is_that_of_its_definition(tiny_detector: Detector) -> None:
    scorer = tiny_detector.scorer
    rows = tiny_detector.encoder.encode(pool())[-100:]

    np.testing.assert_allclose(scorer.score(rows), [naive_score(scorer, row) for row in rows], rtol=1e-3, atol=1e-4)
    assert 0 < len(scorer.numbers) < rows.shape[1]


def test_normal_records_score_below_one_and_odd_ones_more() -> None:
    scorer = linear(CORRELATED[:2000])
    normal = scorer.score(CORRELATED[2000:])

    assert normal.min() >= 0
    assert np.median(normal) < 1
    assert (normal > 2).mean() < 0.1
    assert scorer.score(np.full((1, 5), 9.0, np.float32)) > normal.max()


def test_stranger_records_score_higher_without_end() -> None:
    scorer = linear(HEAVY)
    sizes = np.geomspace(5, 1e6, 60).astype(np.float32)

    for direction in (np.eye(6)[0], np.ones(6), -np.ones(6), -np.eye(6)[3]):
        scores = scorer.score(sizes[:, None] * direction.astype(np.float32))
        assert np.isfinite(scores).all()
        assert (np.diff(scores) > 0).all()


def test_one_odd_number_among_many_is_not_lost() -> None:
    rows = np.random.default_rng(3).normal(size=(5000, 100)).astype(np.float32)
    scorer = linear(rows[:4000], 50)
    normal, odd = rows[4000:], rows[4000:].copy()
    odd[:, 7] = 6.0

    def found(scores: Callable[[NDArray[np.float32]], NDArray[np.float64]]) -> float:
        return float((scores(odd) > np.quantile(scores(normal), 0.999)).mean())

    assert found(lambda matrix: scorer._statistics(matrix)[:, 0]) < 0.3
    assert found(scorer.score) > 0.7


def test_numbers_that_are_all_large_together_are_strange_and_those_that_are_all_small_less() -> None:
    draw = np.random.default_rng(4)
    rows = (draw.normal(size=(6000, 1)) + 0.5 * draw.normal(size=(6000, 6))).astype(np.float32)
    scorer = linear(rows, 5)
    large = np.full((1, 6), 4.5, np.float32)

    assert scorer.score(large) > np.quantile(scorer.score(rows), 0.999)
    assert scorer.score(large) > scorer.score(-large) + 1


@pytest.mark.parametrize("n", [1, 2, 3, 20, 100])
def test_few_normal_records_give_finite_scores(n: int) -> None:
    scorer = linear(HEAVY[:1000])
    few = Scorer.fit(scorer.network, HEAVY[:n], np.zeros(6, np.bool_))

    assert np.isfinite(few.score(100 * HEAVY[1000:])).all()
    assert float(few.trust) == pytest.approx(n / (n + 1000))
    assert float(few.known) == pytest.approx(n / (n + 10_000))


def test_numbers_that_never_vary_give_finite_scores_that_rise_with_them() -> None:
    rows = HEAVY.copy()
    rows[:, 2] = 0.0
    scorer = linear(rows)
    off = np.zeros((3, 6), np.float32)
    off[:, 2] = [1.0, 10.0, 2000.0]

    assert np.isfinite(scorer.score(off)).all()
    assert (np.diff(scorer.score(off)) > 0).all()


def test_an_indicator_that_does_not_belong_to_a_record_counts_beside_its_length() -> None:
    draw = np.random.default_rng(4)
    kind = draw.random(6000) < 0.3
    rows = np.stack([kind, kind ^ (draw.random(6000) < 0.002), *draw.normal(size=(3, 6000))], axis=1)
    rows = ((rows - rows.mean(axis=0)) / rows.std(axis=0)).astype(np.float32)
    scorer = Scorer.fit(LinearAutoencoder.fit(rows, 4), rows, np.array([True, True, False, False, False]))
    odd = rows[:500].copy()
    odd[:, 1] = np.where(odd[:, 1] > 0, rows[:, 1].min(), rows[:, 1].max())

    surprise = scorer._statistics(odd)[:, 2]

    assert np.median(surprise) > np.quantile(scorer._statistics(rows)[:, 2], 0.99)
    assert np.median(scorer.score(odd)) > np.quantile(scorer.score(rows), 0.99)


def test_a_scorer_of_the_same_state_gives_the_same_bits() -> None:
    scorer = linear(HEAVY)

    again = Scorer.restore(scorer.network, scorer.state())

    assert again.score(10 * HEAVY).tobytes() == scorer.score(10 * HEAVY).tobytes()


@pytest.mark.parametrize("width", [2, 3, 5, 7, 8, 13, 20])
def test_extreme_records_score_the_same_bits_at_every_place(width: int) -> None:
    rows = np.random.default_rng(width).standard_t(2, size=(2 * TILE, width)).astype(np.float32)
    scorer = linear(rows, width - 1)
    expected = scorer.score(10 * rows[:TILE])

    for shift in range(1, TILE, 5):
        moved = scorer.score(10 * np.roll(rows[:TILE], shift, axis=0))
        assert np.roll(moved, -shift).tobytes() == expected.tobytes()


def test_a_tail_counts_the_decades_that_the_distribution_has() -> None:
    draw = np.random.default_rng(5)
    sample = np.stack([draw.exponential(size=200_000), draw.pareto(4, size=200_000)], axis=1)
    tails = fit_tails(sample, 1e-3)
    rarities = np.array([1.0, 2.0, 3.0, 4.5])  # one in ten, in a hundred, ...
    quantiles = np.stack([rarities * np.log(10), 10 ** (rarities / 4) - 1])

    found = beyond(quantiles, tails)

    np.testing.assert_allclose(found, np.stack([rarities - 1] * 2), rtol=0.1, atol=0.02)  # of 2,000 exceedances


def test_the_largest_tail_is_that_of_all_tails_whatever_their_order() -> None:
    draw = np.random.default_rng(7)
    tails = fit_tails(draw.standard_t(3, size=(2000, 40)) * draw.uniform(0.1, 10, size=40), 1e-3)
    values = draw.standard_t(1, size=(40, 500)) * 10 ** draw.uniform(-1, 4, size=(40, 1))
    every = beyond(values, tails)

    for order in (np.arange(40), np.arange(40)[::-1], every.sum(axis=1).argsort()):
        largest = np.zeros(500)
        keep_largest(values[order], tails[:, order], largest)
        assert largest.tobytes() == np.maximum(every.max(axis=0), 0.0).tobytes()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_tail_of_what_is_no_number_is_never_the_largest(kind: type[np.floating[Any]]) -> None:
    tails = np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 2.0], [1.0, 1.0], [0.1, 0.1]], kind)  # (5, 2)
    values = np.array([[np.nan, np.nan, 0.0, 1.5], [np.nan, 1.25, np.nan, np.nan]], kind)
    largest = np.zeros(4)

    keep_largest(values, tails, largest)

    assert largest.tolist() == [0.0, 0.25, 0.0, 0.5]


def test_a_tail_is_fitted_by_probability_weighted_moments() -> None:
    sample = np.random.default_rng(6).standard_t(4, size=(5000, 1))
    ordered = sorted(sample[:, 0].tolist())
    excesses = [value - ordered[4949] for value in ordered[4950:]]
    mean = sum(excesses) / 50
    weighted = sum(excess * (49 - place) / 49 for place, excess in enumerate(excesses)) / 50

    start, width, high, scale, shape = fit_tails(sample, 1e-3)[:, 0]

    assert (start, high) == (ordered[4499], ordered[4949])
    assert width == pytest.approx(high - start)
    assert shape == pytest.approx(2 - mean / (mean - 2 * weighted))
    assert scale == pytest.approx(2 * mean * weighted / (mean - 2 * weighted))


def test_the_linear_autoencoder_rebuilds_as_pca_does() -> None:
    ours = LinearAutoencoder.fit(CORRELATED, 2)
    theirs = PCA(2).fit(CORRELATED.astype(np.float64))

    rebuilt = in_tiles(ours, CORRELATED)

    np.testing.assert_allclose(
        rebuilt, theirs.inverse_transform(theirs.transform(CORRELATED.astype(np.float64))), atol=1e-4
    )


def test_with_all_components_the_length_is_the_mahalanobis_distance_of_the_records() -> None:
    rows = CORRELATED.astype(np.float64)
    scorer = linear(CORRELATED, 4)
    centred = rows - rows.mean(axis=0)
    distance = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(np.cov(centred, rowvar=False)), centred)

    # d + k = 9 dimensions of evidence hold 5 of information: equal up to that factor and the shrinkage.
    length = scorer._statistics(CORRELATED)[:, 0]
    assert np.corrcoef(length, distance)[0, 1] > 0.99


def test_shrinkage_vanishes_with_many_rows_and_takes_over_with_few() -> None:
    correlation = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]])
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(3), correlation, 200_000)

    np.testing.assert_allclose(shrunk_covariance(rows), correlation, atol=0.02)
    few = shrunk_covariance(np.random.default_rng(0).normal(size=(4, 50)))
    assert np.linalg.eigvalsh(few).min() > 0.1  # without shrinkage 46 eigenvalues are zero


@pytest.mark.parametrize(("rows", "columns"), [(30, 200), (50, 120), (40, 41)])
def test_with_more_columns_than_rows_the_whitening_is_that_of_the_whole_covariance(rows: int, columns: int) -> None:
    draw = np.random.default_rng(columns)
    sample = draw.normal(size=(rows, columns)) * draw.uniform(0.001, 2, columns)  # some are below the floor

    centre, deviation, whitening = _whitening(sample, np.full(columns, 0.05))

    values, vectors = np.linalg.eigh(shrunk_covariance((sample - centre) / deviation))
    np.testing.assert_allclose(whitening, (vectors / np.sqrt(values)) @ vectors.T, atol=1e-9)


def test_a_code_of_a_record_is_narrower_than_the_record(tiny_detector: Detector) -> None:
    records = pool()

    codes = tiny_detector.encode(records)

    assert codes.shape == (len(records), tiny_detector.scorer.network.code_width)
    assert codes.shape[1] < tiny_detector.encoder.width
