"""What scores are worth, beside scikit-learn and naive formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from trainer.evaluation import auroc, average_precision, entity_precision, evaluate, precision_at

RANKED = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def columns(pairs: list[tuple[int, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([score for score, _ in pairs], float), np.array([label for _, label in pairs], bool)


@given(RANKED)
def test_auroc_equals_scikit_learn_with_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, anomalous = columns(pairs)

    assert auroc(scores, anomalous) == pytest.approx(roc_auc_score(anomalous, scores), abs=1e-12)


@given(RANKED)
def test_average_precision_equals_scikit_learn_with_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, anomalous = columns(pairs)

    assert average_precision(scores, anomalous) == pytest.approx(average_precision_score(anomalous, scores), abs=1e-12)


@given(RANKED, st.integers(1, 60), st.randoms())
def test_precision_at_k_is_the_mean_over_all_ways_to_break_ties(
    pairs: list[tuple[int, bool]], k: int, shuffler: object
) -> None:
    scores, anomalous = columns(pairs)
    k = min(k, len(scores))
    # By hand: those above the k-th score are in, those equal to it are in with the same chance.
    cut = np.sort(scores)[::-1][k - 1]
    above, tied = scores > cut, scores == cut
    expected = (anomalous[above].sum() + (k - above.sum()) * anomalous[tied].mean()) / k

    assert precision_at(scores, anomalous, k) == pytest.approx(expected, abs=1e-12)


def test_precision_at_k_counts_the_highest_scores() -> None:
    scores = np.array([0.1, 0.9, 0.8, 0.2])
    anomalous = np.array([True, True, False, False])

    assert precision_at(scores, anomalous, 1) == 1.0
    assert precision_at(scores, anomalous, 2) == 0.5


def test_precision_at_more_than_there_is_is_refused() -> None:
    with pytest.raises(ValueError, match="not defined for 2 records"):
        precision_at(np.zeros(2), np.array([True, False]), 3)


def test_auroc_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one of each"):
        auroc(np.zeros(2), np.array([True, True]))


def handbook_card_precision(
    scores: NDArray[np.float64],
    anomalous: NDArray[np.bool_],
    cards: NDArray[np.object_],
    days: NDArray[np.int64],
    k: int,
) -> float:
    """The naive formula: a list a day, found compromised cards leave."""
    gone: set[str] = set()
    precisions = []
    for day in sorted(set(days.tolist())):
        best: dict[str, float] = {}
        bad: set[str] = set()
        for score, label, card, when in zip(scores, anomalous, cards, days, strict=True):
            if when == day and card not in gone:
                best[card] = max(best.get(card, -np.inf), score)
                if label:
                    bad.add(card)
        top = sorted(best, key=lambda card: (-best[card], card))[:k]
        precisions.append(len(bad & set(top)) / k)
        gone |= bad & set(top)
    return float(np.mean(precisions))


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_entity_precision_equals_the_naive_formula(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 80))
    scores = rng.integers(0, 8, n).astype(float)
    anomalous = rng.random(n) < 0.2
    cards = np.array([f"card-{i}" for i in rng.integers(0, 12, n)], object)
    days = rng.integers(0, 5, n)

    result = entity_precision(scores, anomalous, cards, days, k)

    assert result.mean == pytest.approx(handbook_card_precision(scores, anomalous, cards, days, k), abs=1e-12)
    assert result.days == len(set(days.tolist()))


def test_an_entity_that_was_found_is_not_looked_for_again() -> None:
    cards = np.array(["a", "b", "a", "b"], object)
    days = np.array([0, 0, 1, 1])
    anomalous = np.array([True, False, True, False])

    result = entity_precision(np.array([9.0, 1.0, 9.0, 1.0]), anomalous, cards, days, k=1)

    assert result.mean == 0.5
    assert result.attainable == 0.5


def test_a_day_begins_at_midnight_of_the_streams_zone() -> None:
    # 23:30 and 00:30 UTC are one day in Berlin and two in UTC; the found card leaves after its first day.
    times = np.array(["2024-05-01T23:30", "2024-05-02T00:30", "2024-05-02T01:00"], "datetime64[us]")
    cards = np.array(["a", "a", "b"], object)
    anomalous = np.array([True, True, False])
    scores = np.array([2.0, 3.0, 1.0])

    def days(zone: str) -> int:
        result = evaluate(scores, anomalous, entities=cards, times=times, zone=zone)
        assert result is not None
        assert result.entity is not None
        return result.entity.days

    assert days("UTC") == 2
    assert days("Europe/Berlin") == 1


def test_records_without_entity_or_time_do_not_count_by_entity() -> None:
    times = np.array(["2024-05-01T10:00", "NaT", "2024-05-01T11:00"], "datetime64[us]")
    cards = np.array([None, "a", "b"], object)

    result = evaluate(np.array([3.0, 2.0, 1.0]), np.array([True, True, False]), entities=cards, times=times)

    assert result is not None
    assert result.records == 3
    assert result.entity is None


def test_labels_of_one_value_are_not_evaluated() -> None:
    assert evaluate(np.zeros(3), np.zeros(3, bool)) is None


def test_scores_that_are_not_finite_are_left_out() -> None:
    result = evaluate(np.array([np.nan, 1.0, 2.0]), np.array([True, False, True]))

    assert result is not None
    assert (result.records, result.anomalies, result.auroc) == (2, 1, 1.0)
