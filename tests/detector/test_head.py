from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector import ArtifactError, Detector, Head, Records, Scorer
from detector.head import LIMIT, moments
from detector.scoring import TILE
from tests.detector.test_scoring import naive_rarity, pool
from tests.payments import fitted_detector

WIDTH = 4


def normal_inputs(n: int = 3000) -> NDArray[np.float64]:
    """Three inputs of normal records, and a label-free score in decades."""
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(size=(n, WIDTH - 1)), -np.log10(draw.random((n, 1)))], axis=1)


def head(weights: tuple[float, ...] = (2.0, -1.0, 0.0, 0.5), labels: int = 30) -> Head:
    return Head.calibrated(normal_inputs(), np.array(weights), -3.0, labels)


@pytest.fixture(scope="module")
def taught() -> Detector:
    """The tiny detector with a head that raises records that are rebuilt too small in their first column."""
    detector = Detector(
        fitted_detector().stream, fitted_detector().encoder, _copy_of_scorer(), fitted_detector().threshold,
        fitted_detector().normal_scores, facts=fitted_detector().facts,
    )  # fmt: skip
    inputs = detector.scorer.head_inputs(detector.encoder.encode(pool().take(np.arange(900))))
    weights = np.zeros(inputs.shape[1])
    weights[0], weights[3] = -2.0, 1.0
    detector.scorer.attach(Head.calibrated(inputs, weights, -2.0, 40))
    return detector


def _copy_of_scorer() -> Scorer:
    scorer = fitted_detector().scorer
    return Scorer.restore(scorer.network, scorer.state())


def test_a_score_is_the_label_free_one_raised_by_the_rarity_of_the_logit() -> None:
    own, row = head(), np.array([1.5, -40.0, 0.3, 2.5])
    tamed = np.arcsinh(normal_inputs())
    total = -3.0
    for place, weight in enumerate((2.0, -1.0, 0.0, 0.5)):
        standard = (math.asinh(row[place]) - tamed[:, place].mean()) / tamed[:, place].std()
        total += weight * min(max(standard, -8.0), 8.0)
    raised = 2.5 + 30 / 40 * naive_rarity(total, own.logit_tail[:, 0])[1]

    assert own.logits(row[None])[0] == pytest.approx(total, rel=1e-9)
    assert own.score(row[None])[0] == pytest.approx(naive_rarity(raised, own.score_tail[:, 0])[0], rel=1e-9)


def test_a_head_without_weights_keeps_the_label_free_ranking() -> None:
    inputs = normal_inputs(500)

    scores = head((0.0, 0.0, 0.0, 0.0)).score(inputs)

    assert np.argsort(scores).tolist() == np.argsort(inputs[:, -1]).tolist()


def test_a_record_that_is_unlike_the_labelled_ones_loses_nothing_before_it_is_ranked_again() -> None:
    own = head()
    inputs = normal_inputs(500)
    unlike = own.logits(inputs) < np.quantile(own.logits(normal_inputs()), 0.8)

    assert unlike.sum() > 300
    assert own._raised(inputs)[unlike].tolist() == inputs[unlike, -1].tolist()
    assert (own._raised(inputs) >= inputs[:, -1]).all()


def test_scores_stay_decades_of_rarity_among_normal_records() -> None:
    scores = head().score(normal_inputs())

    assert [round(float((scores > decades).mean()), 3) for decades in (1, 2)] == [0.1, 0.01]


def test_few_labels_raise_a_record_less_than_many() -> None:
    like = np.array([[3.0, -3.0, 0.0, 1.0]])
    raised = [head(labels=labels)._raised(like)[0] for labels in (10, 50, 250)]

    assert 1.0 < raised[0] < raised[1] < raised[2]


def test_an_input_beyond_the_limit_counts_as_at_it() -> None:
    own = head((1.0, 0.0, 0.0, 0.0))
    centre, deviation = moments(normal_inputs())
    at_limit = math.sinh(float(centre[0] + (LIMIT + 1) * deviation[0]))

    near, far = (own.logits(np.array([[value, 0.0, 0.0, 0.0]]))[0] for value in (at_limit, 1e30))

    assert near == far == pytest.approx(-3.0 + LIMIT)


@pytest.mark.parametrize("label_free", [math.nan, math.inf])
def test_a_score_that_is_not_finite_stays_so(label_free: float) -> None:
    assert not np.isfinite(head().score(np.array([[0.0, 0.0, 0.0, label_free]]))[0])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 905), max_size=6), seed=st.integers(0, 100))
def test_with_a_head_a_record_scores_the_same_bits_however_the_stream_is_cut(
    cuts: list[int], seed: int, taught: Detector
) -> None:
    records = pool()
    order = np.random.default_rng(seed).permutation(len(records))
    expected = taught.score(records)[order]

    parts = [taught.score(records.take(rows)) for rows in np.split(order, sorted(cuts))]

    assert np.concatenate(parts).tobytes() == expected.tobytes()


def test_with_a_head_a_record_scores_the_same_bits_alone(taught: Detector) -> None:
    records = pool()
    together = taught.score(records)

    for row in (0, 7, TILE - 1, TILE, 900, 904):
        assert taught.score(records.take(np.array([row])))[0] == together[row]


def test_a_head_changes_scores_and_taking_it_away_gives_the_old_bits_back(taught: Detector) -> None:
    plain = fitted_detector()

    assert taught.score(pool()).tobytes() != plain.score(pool()).tobytes()
    inputs = taught.scorer.head_inputs(taught.encoder.encode(pool()))
    assert np.ascontiguousarray(inputs[:, -1]).tobytes() == plain.score(pool()).tobytes()


def test_an_artifact_with_a_head_gives_the_same_bits_and_reasons(taught: Detector, tmp_path: Path) -> None:
    loaded = Detector.load(taught.save(tmp_path / "artifact"))

    assert loaded.scorer.head is not None
    assert loaded.score(pool()).tobytes() == taught.score(pool()).tobytes()
    odd: Records = pool().take(np.arange(895, 905))
    assert loaded.explain(odd) == taught.explain(odd)


def test_golden_records_prove_the_head(taught: Detector, tmp_path: Path) -> None:
    from tests.detector.test_artifact import rehash

    with_head = taught.save(tmp_path / "with")
    without = fitted_detector().save(tmp_path / "without")
    (with_head / "weights.safetensors").write_bytes((without / "weights.safetensors").read_bytes())
    rehash(with_head)

    with pytest.raises(ArtifactError, match="golden records do not get their scores"):
        Detector.load(with_head)


def test_a_head_of_another_scorer_is_refused(taught: Detector) -> None:
    with pytest.raises(ValueError, match="a head of 4 inputs does not belong"):
        taught.scorer.attach(head())


def test_a_damaged_head_is_refused() -> None:
    state = head().state()

    with pytest.raises(ValueError, match="head's deviation"):
        Head.restore(state | {"deviation": state["deviation"][:-1]})
