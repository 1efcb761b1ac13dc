"""A counterfactual is a record that can be, that does not alert, and that says how far a number may go."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detector import Change, Counterfactual, Detector, Records, Scorer, in_words
from detector.counterfactual import LOOKS
from detector.encode import NumberEncoder
from tests.payments import decoded, fitted_detector, message, odd_message, remembering_detector

AMOUNTS = (300.0, 400.0, 2e6, 350.0, 1e6)
ODD = [message(number, amount=amount) for number, amount in enumerate(AMOUNTS)]
ODD_IN_TWO = [message(number, amount=3e5, shop__kind="casino") for number in range(20)]


def found(detector: Detector, values: list[bytes], **options: Any) -> list[Counterfactual | None]:
    options = {"threshold": detector.threshold.value} | options
    return [each.counterfactual for each in detector.explain(decoded(values), **options)]


def with_changes(detector: Detector, value: bytes, counterfactual: Counterfactual) -> Records:
    """The record as its counterfactual says, made from the record's own values."""
    records = decoded([value])
    for change in counterfactual.changes:
        column: Any = records.numbers if change.feature in records.numbers else records.categories
        column[change.feature][0] = change.value
    return records


@pytest.mark.parametrize("value", [*ODD, *ODD_IN_TWO[:5]])
def test_the_record_as_its_counterfactual_says_does_not_alert(tiny_detector: Detector, value: bytes) -> None:
    (counterfactual,) = found(tiny_detector, [value])
    assert counterfactual is not None

    changed = with_changes(tiny_detector, value, counterfactual)

    assert tiny_detector.judge(decoded([value]))[0].anomalies.tolist() == [0]
    assert tiny_detector.judge(changed)[0].anomalies.tolist() == []
    assert tiny_detector.score(changed)[0] == counterfactual.score <= tiny_detector.threshold.value


def test_a_number_may_go_about_as_far_as_the_threshold_lets_it(tiny_detector: Detector) -> None:
    for value, counterfactual in zip(ODD, found(tiny_detector, ODD), strict=True):
        assert counterfactual is not None
        (change,) = counterfactual.changes
        assert (change.feature, change.relation) == ("amount", "at_most")
        assert isinstance(change.value, float)
        beyond = Counterfactual((Change("amount", "at_most", change.value * 1.3),), 0.0)
        assert len(tiny_detector.judge(with_changes(tiny_detector, value, beyond))[0].anomalies) == 1


def test_a_bound_has_three_digits(tiny_detector: Detector) -> None:
    values = [each.changes[0].value for each in found(tiny_detector, ODD) if each is not None]

    assert [float(f"{value:.3g}") for value in values] == values


def test_a_number_that_is_too_small_has_a_least_value(tiny_detector: Detector) -> None:
    (counterfactual,) = found(tiny_detector, [message(1, amount=1e-4)])

    assert counterfactual is not None
    (change,) = counterfactual.changes
    assert (change.feature, change.relation) == ("amount", "at_least")
    assert isinstance(change.value, float)
    assert 1e-4 < change.value < 100


def test_a_category_out_of_place_would_have_to_be_one_that_normal_records_have(tiny_detector: Detector) -> None:
    (counterfactual,) = found(tiny_detector, [message(2, shop__kind="casino")])

    assert counterfactual is not None
    (change,) = counterfactual.changes
    assert (change.feature, change.relation) == ("shop.kind", "equals")
    assert change.value in ("grocery", "fuel", "books")


def test_two_odd_fields_need_two_changes_and_only_the_last_is_a_bound(tiny_detector: Detector) -> None:
    for counterfactual in found(tiny_detector, ODD_IN_TWO):
        assert counterfactual is not None
        assert {change.feature for change in counterfactual.changes} == {"amount", "shop.kind"}
        assert counterfactual.changes[0].relation == "equals"


def test_a_missing_number_would_have_to_be_there(tiny_detector: Detector) -> None:
    (counterfactual,) = found(tiny_detector, [message(2, amount=None)])

    assert counterfactual is not None
    (change,) = counterfactual.changes
    assert (change.feature, change.relation) == ("amount", "equals")
    assert isinstance(change.value, float)


def test_of_a_sensitive_field_the_name_is_said_and_neither_value_nor_direction(tiny_detector: Detector) -> None:
    (explanation,) = tiny_detector.explain(
        decoded([message(7, card__limit=9e9)]), threshold=tiny_detector.threshold.value
    )

    assert explanation.counterfactual is not None
    assert explanation.counterfactual.changes == (Change("card.limit", None, None, sensitive=True),)
    shown = {each.feature: each for each in explanation.contributions}["card.limit"]
    assert (shown.actual, shown.expected, shown.direction) == (None, None, None)


def test_a_higher_threshold_lets_a_number_go_further_and_each_record_has_its_own(tiny_detector: Detector) -> None:
    limit = tiny_detector.threshold.value
    thresholds = np.array([limit, 1.3 * limit])

    low, high = found(tiny_detector, [odd_message(1)] * 2, threshold=thresholds)

    assert low is not None
    assert high is not None
    assert float(low.changes[0].value or 0) < float(high.changes[0].value or 0)
    assert low.score <= limit < high.score <= 1.3 * limit


def test_a_record_that_does_not_alert_has_none_though_one_was_sought(tiny_detector: Detector) -> None:
    (explanation,) = tiny_detector.explain(decoded([message(1)]), threshold=tiny_detector.threshold.value)

    assert explanation.counterfactual is None
    assert explanation.is_counterfactual_sought


def test_where_nothing_brings_the_score_below_the_threshold_none_is_found(tiny_detector: Detector) -> None:
    (explanation,) = tiny_detector.explain(decoded([odd_message(1)]), threshold=-1.0)

    assert explanation.counterfactual is None
    assert explanation.is_counterfactual_sought


def test_none_is_sought_without_a_threshold_or_where_it_would_take_too_long(
    tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (without,) = tiny_detector.explain(decoded([odd_message(1)]))
    monkeypatch.setattr("detector.explain.ABLATION_WORK", 0)
    (too_long,) = tiny_detector.explain(decoded([odd_message(1)]), threshold=tiny_detector.threshold.value)

    assert not without.is_counterfactual_sought
    assert not too_long.is_counterfactual_sought
    assert (without.counterfactual, too_long.counterfactual) == (None, None)


def test_judging_without_counterfactuals_gives_the_same_reasons(tiny_detector: Detector) -> None:
    records = decoded([odd_message(1), message(2)])

    with_them, _ = tiny_detector.judge(records)
    without, _ = tiny_detector.judge(records, counterfactuals=False)

    assert with_them.explanations[0].counterfactual is not None
    assert without.explanations[0].counterfactual is None
    assert with_them.explanations[0].contributions == without.explanations[0].contributions


def test_a_record_has_the_same_counterfactual_alone_and_in_any_batch(tiny_detector: Detector) -> None:
    values = [*ODD, *ODD_IN_TWO, *(message(number) for number in range(50))]

    together = found(tiny_detector, values)

    assert [found(tiny_detector, [value])[0] for value in values] == together


def test_the_search_for_many_records_takes_no_more_calls_than_the_longest_of_them(
    tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, calls, score = [*ODD, *ODD_IN_TWO], [0], Scorer.score

    def counted(scorer: Scorer, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        calls[0] += 1
        return score(scorer, matrix)

    def calls_for(some: list[bytes]) -> int:
        scores = tiny_detector.score(decoded(some))
        calls[0] = 0
        found(tiny_detector, some, scores=scores)
        return calls[0]

    monkeypatch.setattr(Scorer, "score", counted)

    alone = [calls_for([value]) for value in values]

    assert len(set(alone)) > 1
    assert calls_for(values) == max(alone) <= 1 + 3 + LOOKS


def test_a_history_feature_is_changed_by_itself() -> None:
    detector = remembering_detector()
    assert detector.history is not None
    records, _ = detector.history.fold_all(
        [detector.history.new_state()], decoded([message(number) for number in range(200)], detector.stream)
    )
    odd = records.take(np.array([150 + int(detector.score(records)[150:].argmin())]))
    odd.history["count.1d"][0] = 300.0

    (explanation,) = detector.explain(odd, threshold=detector.threshold.value)

    assert explanation.counterfactual is not None
    (change,) = explanation.counterfactual.changes
    assert (change.feature, change.relation) == ("count.1d", "at_most")
    odd.history["count.1d"][0] = float(change.value or 0)
    assert detector.score(odd)[0] == explanation.counterfactual.score <= detector.threshold.value


def test_counts_are_bounded_by_whole_numbers() -> None:
    feature = remembering_detector().encoder.features[remembering_detector().feature_names.index("count.1d")]
    assert isinstance(feature, NumberEncoder)

    nearest = feature.nearest(feature.columns_of(np.array([1.4, 2.7])))

    assert nearest.values == [1.0, 3.0] or feature.high < 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("amount", "at_most", 1234.5), "with amount at most 1,234.5 this would not alert"),
        (Change("amount", "at_least", 3.0), "with amount at least 3 this would not alert"),
        (Change("shop.kind", "equals", "fuel"), "with shop.kind fuel this would not alert"),
        (Change("device", "equals", None), "with no device this would not alert"),
        (Change("card.limit", None, None, sensitive=True), "with another card.limit (sensitive) this would not alert"),
    ],
)
def test_people_read_it_as_a_sentence(change: Change, text: str) -> None:
    assert in_words([change]) == text


def test_several_changes_are_one_sentence() -> None:
    assert in_words([Change("a", "equals", 1.0), Change("b", "at_most", 2.0)]) == (
        "with a 1 and b at most 2 this would not alert"
    )


def test_the_detector_of_these_tests_alerts_on_what_they_call_odd() -> None:
    assert (fitted_detector().score(decoded([*ODD, *ODD_IN_TWO])) > fitted_detector().threshold.value).all()
