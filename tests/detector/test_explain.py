"""Explanations stay within their memory and work, and say how they were made."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from detector import DenoisingAutoencoder, Detector, Encoder, Records, Scorer, records_of_matrix, stream_of_matrix
from detector.explain import BLOCK_NUMBERS, explain, most_ablated
from tests.payments import decoded, message, odd_message


def odd_records() -> Records:
    """Five records, the third and the last far odder than the others."""
    amounts = [300.0, 400.0, 2e6, 350.0, 1e6]
    return decoded([message(number, amount=amount) for number, amount in enumerate(amounts)])


def cost_of_one(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> int:
    """The least budget that pays for one record."""
    monkeypatch.setattr("detector.explain.ABLATION_WORK", 1 << 40)
    return (1 << 40) // most_ablated(detector.encoder, detector.scorer)


def test_beyond_the_work_budget_only_the_highest_scores_are_explained_by_ablation(
    tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tiny_detector.explain(odd_records())
    monkeypatch.setattr("detector.explain.ABLATION_WORK", 2 * cost_of_one(tiny_detector, monkeypatch))

    limited = tiny_detector.explain(odd_records())

    assert [explanation.explained_by for explanation in full] == ["ablation"] * 5
    assert [explanation.explained_by for explanation in limited] == [
        "residual", "residual", "ablation", "residual", "ablation",
    ]  # fmt: skip
    assert [limited[2], limited[4]] == [full[2], full[4]]


def test_without_ablation_shares_are_those_of_the_residuals_and_expected_is_the_reconstruction(
    tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.explain.ABLATION_WORK", 0)
    records = decoded([odd_message(1)])
    residuals = tiny_detector.score_features(records)[0]
    encoder = tiny_detector.encoder
    rebuilt = tiny_detector.scorer.reconstruct(encoder.encode(records)).astype(np.float64)

    (explanation,) = tiny_detector.explain(records)

    assert explanation.explained_by == "residual"
    for contribution in explanation.contributions:
        position = tiny_detector.feature_names.index(contribution.feature)
        assert contribution.share == pytest.approx(residuals[position] / residuals.sum())
        nearest = encoder.features[position].nearest(rebuilt[:, encoder.slices[position]])
        assert contribution.sensitive or [contribution.expected] == nearest.values
    assert explanation.contributions[0].feature == "amount"


@pytest.mark.parametrize("listed", [0, 2, 3, 99])
def test_listed_features_are_the_first_of_all_and_others_is_the_rest(tiny_detector: Detector, listed: int) -> None:
    (whole,) = tiny_detector.explain(decoded([odd_message(1)]))

    (short,) = tiny_detector.explain(decoded([odd_message(1)]), listed=listed)

    assert short.contributions == whole.contributions[:listed]
    assert sum(c.share for c in short.contributions) + short.others == pytest.approx(1)
    assert whole.others == 0


@pytest.mark.parametrize("block_numbers", [1, 1000])
def test_an_explanation_does_not_depend_on_how_much_is_held_at_once(
    tiny_detector: Detector, monkeypatch: pytest.MonkeyPatch, block_numbers: int
) -> None:
    expected = tiny_detector.explain(odd_records())
    monkeypatch.setattr("detector.explain.BLOCK_NUMBERS", block_numbers)

    assert tiny_detector.explain(odd_records()) == expected


def test_memory_does_not_grow_with_the_square_of_the_features() -> None:
    features, n = 100, 256  # a copy of every record for every feature would be 5 million numbers
    records = records_of_matrix(stream_of_matrix(features), np.random.default_rng(0).normal(size=(n, features)))
    encoder = Encoder.fit(stream_of_matrix(features), records)
    matrix = encoder.encode(records)
    scorer = Scorer.fit(DenoisingAutoencoder(encoder.width, 10, hidden=16), matrix, encoder.indicators)

    tracemalloc.start()
    explanations = explain(encoder, scorer, records, listed=5)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert {explanation.explained_by for explanation in explanations} == {"ablation"}
    # Beside the blocks: a few matrices (n, d) of eight bytes, and what is returned.
    assert peak_bytes < 20 * BLOCK_NUMBERS + 10 * matrix.size * 8


def test_a_record_has_the_same_explanation_alone_and_in_any_batch(tiny_detector: Detector) -> None:
    values = [message(number, amount=amount) for number, amount in enumerate([300.0, 2e6, 20.0])] + [odd_message(5)]

    together = tiny_detector.explain(decoded(values))

    assert tuple(tiny_detector.explain(decoded([value]))[0] for value in values) == together


def test_each_record_of_a_batch_is_told_what_is_missing_unseen_and_out_of_range_in_itself(
    tiny_detector: Detector,
) -> None:
    values = [
        message(1),
        message(2, amount=None, shop__kind=None),
        message(3, shop__kind="casino", amount=1e9),
        message(4, shop__kind=None),
        message(5, amount=1e9),
    ]

    told = tiny_detector.explain(decoded(values))

    assert [each.missing_fields for each in told] == [(), ("amount", "shop.kind"), (), ("shop.kind",), ()]
    assert [each.unseen_categories for each in told] == [(), (), ("shop.kind",), (), ()]
    assert [each.out_of_range_fields for each in told] == [(), (), ("amount",), (), ("amount",)]
    actual = [{one.feature: one.actual for one in each.contributions} for each in told]
    assert [each["amount"] for each in actual][1:] == [None, 1e9, actual[3]["amount"], 1e9]
    assert [each["shop.kind"] for each in actual][1:4] == [None, "casino", None]


def test_the_direction_is_that_of_a_number_and_only_that_there_is_one_of_a_category(tiny_detector: Detector) -> None:
    def direction(feature: str, **changes: object) -> str | None:
        (explanation,) = tiny_detector.explain(decoded([message(2, **changes)]))
        return {each.feature: each.direction for each in explanation.contributions}[feature]

    assert direction("amount", amount=1e5) == "above"
    assert direction("amount", amount=1e-3) == "below"
    assert direction("amount", amount=None) is None
    assert direction("shop.kind", shop__kind="casino") == "differs"
    assert direction("shop.kind", shop__kind=None) is None
    assert direction("at.hour", at="2026-03-01T02:30:00") == "differs"
    assert direction("card.limit", card__limit=9e9) is None


def test_what_is_expected_of_two_odd_fields_does_not_follow_either(tiny_detector: Detector) -> None:
    (explanation,) = tiny_detector.explain(decoded([message(2, amount=1e6, shop__kind="casino")]))

    assert [each.feature for each in explanation.contributions[:2]] == ["amount", "shop.kind"] or [
        each.feature for each in explanation.contributions[:2]
    ] == ["shop.kind", "amount"]
    expected = {each.feature: each.expected for each in explanation.contributions}
    assert expected["shop.kind"] in ("grocery", "fuel", "books")
    assert 5 < float(expected["amount"] or 0) < 200


def test_known_scores_are_not_computed_again_and_change_nothing(tiny_detector: Detector) -> None:
    records = odd_records()

    assert tiny_detector.explain(records, scores=tiny_detector.score(records)) == tiny_detector.explain(records)
