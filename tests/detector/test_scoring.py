from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from detector import Detector, LinearAutoencoder, Records, Scorer
from detector.scoring import TILE, in_tiles, shrunk_covariance
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


def test_normal_records_score_about_one_and_others_more() -> None:
    scorer = Scorer.fit(LinearAutoencoder.fit(CORRELATED[:2000], 3), CORRELATED[2000:3000], np.zeros(5, np.bool_))

    assert scorer.score(CORRELATED[3000:]).mean() == pytest.approx(5 / 8, abs=0.05)  # 8 dimensions repeat 5
    assert scorer.score(np.full((1, 5), 9.0, np.float32)) > 10


def test_the_linear_autoencoder_rebuilds_as_pca_does() -> None:
    ours = LinearAutoencoder.fit(CORRELATED, 2)
    theirs = PCA(2).fit(CORRELATED.astype(np.float64))

    rebuilt = in_tiles(ours, CORRELATED)

    np.testing.assert_allclose(
        rebuilt, theirs.inverse_transform(theirs.transform(CORRELATED.astype(np.float64))), atol=1e-4
    )


def test_with_all_components_the_score_is_the_mahalanobis_distance_of_the_records() -> None:
    rows = CORRELATED.astype(np.float64)
    scorer = Scorer.fit(LinearAutoencoder.fit(CORRELATED, 4), CORRELATED, np.zeros(5, np.bool_))
    centred = rows - rows.mean(axis=0)
    distance = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(np.cov(centred, rowvar=False)), centred)

    # d + k = 9 dimensions of evidence hold 5 of information: equal up to that factor and the shrinkage.
    assert np.corrcoef(scorer.score(CORRELATED), distance)[0, 1] > 0.99


def test_shrinkage_vanishes_with_many_rows_and_takes_over_with_few() -> None:
    correlation = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]])
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(3), correlation, 200_000)

    np.testing.assert_allclose(shrunk_covariance(rows), correlation, atol=0.02)
    few = shrunk_covariance(np.random.default_rng(0).normal(size=(4, 50)))
    assert np.linalg.eigvalsh(few).min() > 0.1  # without shrinkage 46 eigenvalues are zero


def test_a_code_of_a_record_is_narrower_than_the_record(tiny_detector: Detector) -> None:
    records = pool()

    codes = tiny_detector.encode(records)

    assert codes.shape == (len(records), tiny_detector.scorer.network.code_width)
    assert codes.shape[1] < tiny_detector.encoder.width
