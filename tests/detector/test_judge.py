from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from detector import Detector, Scorer, records_of_matrix, stream_of_matrix
from detector.golden import make_golden
from tests.payments import decoded, message, odd_message


def test_an_odd_record_is_an_anomaly_and_its_reason_comes_first(tiny_detector: Detector) -> None:
    verdicts, changes = tiny_detector.judge(decoded([message(1), odd_message(2), message(3)]), None)

    assert changes == ()
    assert verdicts.anomalies.tolist() == [1]
    first = verdicts.explanations[0].contributions[0]
    assert (first.feature, first.actual) == ("amount", 250_000.0)
    assert first.share > 0.9
    assert isinstance(first.expected, float)
    assert 5 < first.expected < 200
    assert verdicts.explanations[0].out_of_range_fields == ("amount",)


def test_shares_of_all_features_sum_to_one_and_fall(tiny_detector: Detector) -> None:
    for explanation in tiny_detector.explain(decoded([message(n) for n in range(50)] + [odd_message()])):
        shares = [contribution.share for contribution in explanation.contributions]
        assert sum(shares) == pytest.approx(1)
        assert shares == sorted(shares, reverse=True)
        assert min(shares) >= 0
        assert {c.feature for c in explanation.contributions} == set(tiny_detector.feature_names)


def test_a_category_out_of_place_is_blamed_with_the_expected_one(tiny_detector: Detector) -> None:
    explanation = tiny_detector.explain(decoded([message(2, shop__kind="casino")]))[0]

    assert explanation.contributions[0].feature == "shop.kind"
    assert explanation.contributions[0].actual == "casino"
    assert explanation.contributions[0].expected in ("grocery", "fuel", "books")
    assert explanation.unseen_categories == ("shop.kind",)


def test_a_strange_hour_is_blamed_in_clock_time(tiny_detector: Detector) -> None:
    explanation = tiny_detector.explain(decoded([message(2, at="2026-03-01T02:30:00")]))[0]

    assert (explanation.contributions[0].feature, explanation.contributions[0].actual) == ("at.hour", "02:30")
    hours = int(str(explanation.contributions[0].expected)[:2])
    assert 8 <= hours <= 20


def test_a_missing_value_is_said_to_be_missing(tiny_detector: Detector) -> None:
    explanation = tiny_detector.explain(decoded([message(2, amount=None)]))[0]

    assert explanation.missing_fields == ("amount",)
    assert explanation.contributions[0].feature == "amount"
    assert explanation.contributions[0].actual is None


def test_a_sensitive_value_is_never_shown(tiny_detector: Detector) -> None:
    explanation = tiny_detector.explain(decoded([message(2, card__limit=123456789.0)]))[0]

    limit = explanation.contributions[0]
    assert (limit.feature, limit.sensitive, limit.actual, limit.expected) == ("card.limit", True, None, None)
    assert "123456789" not in repr(explanation)


def test_no_value_inside_a_sensitive_object_is_shown_or_kept_in_golden_records(tiny_detector: Detector) -> None:
    stream = tiny_detector.stream.model_copy(update={"sensitive": ("card", "shop"), "echo": ()})
    hiding = Detector(
        stream, tiny_detector.encoder, tiny_detector.scorer, tiny_detector.threshold, tiny_detector.normal_scores
    )

    explanation = hiding.explain(decoded([message(2, card__limit=123456789.0)]))[0]
    golden = repr(make_golden(hiding))

    shown = {contribution.feature for contribution in explanation.contributions if not contribution.sensitive}
    assert shown == {"amount", "at.hour"}
    assert "123456789" not in repr(explanation)
    assert "grocery" in repr(make_golden(tiny_detector))
    assert "grocery" not in golden


def test_a_score_at_the_threshold_is_normal(tiny_detector: Detector) -> None:
    records = decoded([message(n) for n in range(200)])
    score = float(np.sort(tiny_detector.score(records))[100])
    at = Detector(
        tiny_detector.stream, tiny_detector.encoder, tiny_detector.scorer,
        type(tiny_detector.threshold)(**{**tiny_detector.threshold.__dict__, "value": score}),
        tiny_detector.normal_scores,
    )  # fmt: skip

    verdicts = at.judge(records)[0]

    assert verdicts.anomalies.tolist() == np.flatnonzero(verdicts.scores > score).tolist()
    assert len(verdicts.anomalies) == 99
    assert 1.0 in verdicts.ratios


def test_a_score_that_is_not_finite_is_neither_normal_nor_an_anomaly(tiny_detector: Detector) -> None:
    scorer = Scorer.restore(tiny_detector.scorer.network, tiny_detector.scorer.state())
    scorer.whitening = torch.full_like(scorer.whitening, math.nan)  # which no artifact may hold
    broken = Detector(
        tiny_detector.stream, tiny_detector.encoder, scorer, tiny_detector.threshold, tiny_detector.normal_scores
    )

    verdicts = broken.judge(decoded([message(1), message(2)]))[0]

    assert verdicts.unscorable.tolist() == [0, 1]
    assert verdicts.anomalies.tolist() == []


def test_no_records_give_no_verdicts(tiny_detector: Detector) -> None:
    verdicts = tiny_detector.judge(decoded([b"{"]))[0]

    assert (len(verdicts.scores), verdicts.explanations) == (0, ())


def test_rows_of_a_table_that_are_no_records_are_an_error_that_says_which(tiny_detector: Detector) -> None:
    rows = {"payment_id": [1, 2], "at": ["2026-03-01T12:00:00", "?"], "amount": [1.0, 2.0],
            "card": [{"number": "a", "limit": 1.0}] * 2, "shop": [{"kind": "fuel"}] * 2}  # fmt: skip

    with pytest.raises(ValueError, match=r"1 of 2 rows .*row 1: at is not an ISO-8601 time"):
        tiny_detector.score(rows)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.zeros((3, 4)), "4 columns"),
        (np.zeros(3), "shape"),
        (np.array([["a", "b"]]), "numbers"),
        ([[1, math.inf]], "row 0, column 1"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(matrix: np.ndarray, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        records_of_matrix(stream_of_matrix(2), matrix)


def test_the_score_of_a_feature_is_high_where_that_feature_is_odd_and_about_one_elsewhere(
    tiny_detector: Detector,
) -> None:
    normal = tiny_detector.score_features(decoded([message(n) for n in range(500)]))
    odd = tiny_detector.score_features(decoded([odd_message(), message(1, at="2026-03-01T02:30:00")]))
    amount, hour = (tiny_detector.feature_names.index(name) for name in ("amount", "at.hour"))

    assert normal.shape == (500, len(tiny_detector.feature_names))
    assert (normal.mean(axis=0) < 1.5).all()
    assert odd[0, amount] > 100
    assert odd[1, hour] > 2 * normal[:, hour].max() > odd[0, hour]
