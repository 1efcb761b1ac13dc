from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detector import Detector, Records, StreamDefinition, TrainingDataError
from detector.stream import LabelField
from tests.payments import STREAM, decoded, message
from trainer.estimator import fit
from trainer.evaluation import average_precision
from trainer.fitting import FitReport, FitSettings, fit_detector
from trainer.head import (
    LABEL_FREE,
    LOSSES,
    HeadReport,
    HeadResult,
    KnownLabels,
    Loss,
    compare,
    extreme_value_loss,
    fit_head,
    focal_loss,
    known_labels,
    weighted_cross_entropy,
)

SHARE = 0.25
LOGITS = torch.tensor([1.2, -0.7, 2.0, -3.0], dtype=torch.float64)
ANOMALOUS = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_weighted_cross_entropy_weighs_a_class_by_the_share_of_the_other() -> None:
    expected = [
        -0.75 * math.log(probability(1.2)), -0.75 * math.log(probability(-0.7)),
        -0.25 * math.log(1 - probability(2.0)), -0.25 * math.log(1 - probability(-3.0)),
    ]  # fmt: skip

    assert weighted_cross_entropy(LOGITS, ANOMALOUS, SHARE).tolist() == pytest.approx(expected)


def test_the_focal_loss_damps_what_is_told_right() -> None:
    u, w = probability(1.2), 1 - probability(2.0)

    found = focal_loss(LOGITS, ANOMALOUS, SHARE, focus=2.0).tolist()

    assert found[0] == pytest.approx(-0.75 * (1 - u) ** 2 * math.log(u))
    assert found[2] == pytest.approx(-0.25 * (1 - w) ** 2 * math.log(w))


def test_the_extreme_value_loss_is_as_written() -> None:
    gamma, expected = 3.0, []
    for logit, v in zip(LOGITS.tolist(), ANOMALOUS.tolist(), strict=True):
        u = probability(logit)
        expected.append(
            -0.75 * (1 - u / gamma) ** gamma * v * math.log(u)
            - 0.25 * (1 - (1 - u) / gamma) ** gamma * (1 - v) * math.log(1 - u)
        )

    assert extreme_value_loss(LOGITS, ANOMALOUS, SHARE, gamma).tolist() == pytest.approx(expected)


def test_the_extreme_value_loss_goes_from_a_focal_loss_to_a_damped_cross_entropy_as_gamma_grows() -> None:
    focal = focal_loss(LOGITS, ANOMALOUS, SHARE, focus=1.0)
    plain = weighted_cross_entropy(LOGITS, ANOMALOUS, SHARE)
    right = torch.sigmoid(torch.where(ANOMALOUS > 0, LOGITS, -LOGITS))

    assert torch.allclose(extreme_value_loss(LOGITS, ANOMALOUS, SHARE, gamma=1.0), focal)
    assert torch.allclose(extreme_value_loss(LOGITS, ANOMALOUS, SHARE, gamma=1e7), plain * torch.exp(-right))


@pytest.mark.parametrize("loss", [weighted_cross_entropy, focal_loss, extreme_value_loss])
def test_gradients_of_the_losses_are_those_of_small_differences(loss: type) -> None:
    logits = torch.tensor([-6.0, -0.4, 0.9, 5.0], dtype=torch.float64, requires_grad=True)

    for anomalous in (torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)):
        assert torch.autograd.gradcheck(lambda z, v=anomalous: loss(z, v, SHARE), (logits,))


@pytest.mark.parametrize("loss", [weighted_cross_entropy, focal_loss, extreme_value_loss])
def test_a_record_that_is_sure_beyond_rounding_has_a_finite_loss_and_gradient(loss: type) -> None:
    logits = torch.tensor([800.0, -800.0], dtype=torch.float64, requires_grad=True)

    total = loss(logits, torch.tensor([0.0, 1.0], dtype=torch.float64), SHARE).sum()
    total.backward()

    assert torch.isfinite(total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_gamma_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma is 0\.5"):
        extreme_value_loss(LOGITS, ANOMALOUS, SHARE, gamma=0.5)


def cloud(n: int, shift: float, seed: int) -> NDArray[np.float64]:
    """Inputs whose first is shifted; the last is a label-free score that knows nothing of it."""
    draw = np.random.default_rng(seed)
    inputs = np.concatenate([draw.normal(size=(n, 5)), -np.log10(draw.random((n, 1)))], axis=1)
    inputs[:, 0] += shift
    return inputs


@pytest.mark.parametrize("loss", LOSSES)
def test_a_head_finds_later_anomalies_like_those_that_taught_it(loss: Loss) -> None:
    head = fit_head(cloud(4000, 0, 0), cloud(20, 4, 1), loss)
    later = np.concatenate([cloud(4000, 0, 2), cloud(50, 4, 3)])
    odd = np.arange(len(later)) >= 4000

    assert average_precision(later[:, -1], odd) < 0.1
    assert average_precision(head.score(later), odd) > 0.25


def test_the_same_inputs_give_the_same_head() -> None:
    first, second = (fit_head(cloud(500, 0, 0), cloud(15, 2, 1), "evl") for _ in range(2))

    assert first.weights.tobytes() == second.weights.tobytes()


def test_labels_without_any_meaning_hardly_hurt() -> None:
    head = fit_head(cloud(4000, 0, 0), cloud(10, 0, 1), "evl")
    later = cloud(4000, 0, 2)
    odd = later[:, -1] > np.quantile(later[:, -1], 0.99)  # what the label-free score ranks without a fault

    assert average_precision(head.score(later), odd) > 0.5


def test_too_few_labels_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(TrainingDataError, match=r"9 labelled anomalies .* at least 10"):
        fit_head(cloud(100, 0, 0), cloud(9, 2, 1), "evl")


DELAYED = STREAM.model_copy(update={"label": LabelField(field="fraud", delay="3h")})


def stream_of(delay: str | None) -> StreamDefinition:
    return STREAM.model_copy(update={"label": LabelField(field="fraud", delay=delay)})


def odd_payments(n: int = 3000, young_amount: float = 20.0) -> Records:
    """Payments a minute apart, of which every 24th is a fraud: books as dear as fuel; young ones as asked.

    Young are those of the last three hours of the training span, which is the first nine tenths.
    """
    values = []
    for number in range(n):
        at = f"2026-03-{1 + number // 1440:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00"
        if number % 24 != 7:
            values.append(message(number, at=at))
            continue
        is_young = number > round(n * 0.9) - 1 - 180
        amount = young_amount if is_young else 60.0 + number % 7
        values.append(message(number, at=at, fraud=1, shop__kind="books", amount=amount))
    return decoded(values)


def test_a_label_counts_from_the_moment_at_which_it_is_known() -> None:
    records = odd_payments()
    span = np.arange(2700)
    assert records.event_times is not None
    assert records.labels is not None
    until = records.event_times[span].max()
    age = (until - records.event_times).astype("timedelta64[m]").astype(int)

    known = known_labels(records, span, stream_of("3h"))

    expected = [row for row in span if records.labels[row] and age[row] >= 180]
    assert known.rows.tolist() == expected
    assert known.too_young == int(records.labels[span].sum()) - len(expected) > 0
    assert known_labels(records, span, stream_of(None)).too_young == 0


def test_changing_a_label_that_is_too_young_changes_nothing_that_teaches() -> None:
    records = odd_payments()
    span = np.arange(2700)
    assert records.labels is not None
    changed = records.labels.copy()
    young = np.setdiff1d(span[records.labels[span]], known_labels(records, span, stream_of("3h")).rows)
    changed[young] = False

    after = known_labels(replace(records, labels=changed), span, stream_of("3h"))

    assert len(young) > 0
    assert after.rows.tolist() == known_labels(records, span, stream_of("3h")).rows.tolist()


def test_labels_that_are_all_too_young_are_refused() -> None:
    with pytest.raises(TrainingDataError, match=r"0 labelled anomalies that were known in time .* at least 10"):
        known_labels(odd_payments(), np.arange(2700), stream_of("90d"))


def test_labels_of_a_single_entity_are_refused() -> None:
    records = odd_payments()
    assert records.labels is not None
    assert records.keys is not None
    of_one = replace(records, keys=np.where(records.labels, "the one", records.keys).astype(object))

    with pytest.raises(TrainingDataError, match=r"are of one card\.number"):
        known_labels(of_one, np.arange(2700), STREAM)


def test_a_stream_without_a_label_has_no_head() -> None:
    bare = STREAM.model_copy(update={"label": None})

    with pytest.raises(TrainingDataError, match="has no label"):
        known_labels(decoded([message(n) for n in range(100)], bare), np.arange(90), bare)


QUICK = FitSettings(most_steps=100)


@cache
def fitted(loss: Loss | None, delay: str | None = None, young_amount: float = 20.0) -> tuple[Detector, FitReport]:
    return fit_detector(odd_payments(young_amount=young_amount), stream_of(delay), replace(QUICK, head=loss))


def test_without_a_head_scores_are_the_label_free_bits_of_the_one_with_it() -> None:
    plain, with_head = fitted(None)[0], fitted("evl")[0]
    records = odd_payments()
    inputs = with_head.scorer.head_inputs(with_head.encoder.encode(records))

    assert plain.scorer.head is None
    assert "head" not in {name.split(".")[0] for name in plain.scorer.state()}
    assert np.ascontiguousarray(inputs[:, -1]).tobytes() == plain.score(records).tobytes()
    assert with_head.score(records).tobytes() != plain.score(records).tobytes()


def test_what_a_record_with_a_young_label_holds_teaches_the_head_nothing() -> None:
    first, second = (fitted("evl", "3h", young_amount=amount)[0] for amount in (20.0, 45.0))
    mature = fitted("evl")[0]

    assert first.scorer.head.weights.tobytes() == second.scorer.head.weights.tobytes()
    assert first.scorer.head.weights.tobytes() != mature.scorer.head.weights.tobytes()


def test_a_head_that_finds_later_anomalies_is_recommended_and_its_threshold_keeps_its_promise() -> None:
    detector, report = fitted("evl")

    head = report.head
    assert head is not None
    assert set(head.results) == {LABEL_FREE, *LOSSES}
    assert head.recommended
    assert head.results["evl"].gain_low > 0
    assert "is worth it" in head.verdict
    assert report.evaluation is not None
    published, free = report.evaluation["denoising"], report.evaluation[LABEL_FREE]
    assert published.average_precision == pytest.approx(head.results["evl"].average_precision)
    assert free.average_precision == pytest.approx(head.results[LABEL_FREE].average_precision)
    assert (report.calibration_scores > detector.threshold.value).mean() == pytest.approx(0.01, abs=0.005)
    assert detector.facts["head"]["loss"] == "evl"
    assert detector.facts["head"]["recommended"]


def test_fitting_from_python_warns_where_a_head_is_not_recommended() -> None:
    records = odd_payments(300)

    with pytest.warns(UserWarning, match="the head is not recommended: 2 labelled anomalies in the test span"):
        detector = fit(records, stream_of(None), head="cross-entropy")

    assert detector.facts["head"]["labels"] == 11
    assert detector.scorer.head is not None


def test_reasons_explain_the_score_with_the_head() -> None:
    detector, report = fitted("evl")
    assert report.test.labels is not None
    odd = report.test.take(np.flatnonzero(report.test.labels)[:5])

    named = [explanation.contributions[0].feature for explanation in detector.explain(odd)]

    assert sum(name in {"amount", "shop.kind"} for name in named) >= 4


def comparison(gain: float, recall: float) -> HeadReport:
    draw = np.random.default_rng(0)
    records = odd_payments(1000)
    assert records.labels is not None
    free = draw.normal(size=1000)
    better = free + gain * records.labels
    calibration = {LABEL_FREE: draw.normal(size=1000), "evl": draw.normal(size=1000) + (0 if recall else 100)}
    return compare(
        "evl", KnownLabels(np.arange(12), 3, 12), {LABEL_FREE: free, "evl": better}, calibration, records, STREAM, None
    )


def test_a_head_is_recommended_only_where_its_whole_interval_is_above_zero_and_it_misses_no_more() -> None:
    better, equal, deaf = comparison(3.0, 1.0), comparison(0.0, 1.0), comparison(3.0, 0.0)

    assert better.recommended
    assert not equal.recommended
    assert equal.results["evl"].gain_low == equal.results["evl"].gain_high == 0
    assert not deaf.recommended
    assert "train without --head" in deaf.verdict


def test_the_interval_of_a_gain_resamples_entities() -> None:
    records = odd_payments(1000)
    assert records.labels is not None
    scores = {LABEL_FREE: np.arange(1000.0), "evl": np.arange(1000.0) + 400 * records.labels}
    calibration = dict.fromkeys(scores, np.arange(1000.0))
    assert records.keys is not None
    of_one = replace(records, keys=np.where(records.labels, "one", records.keys).astype(object))

    def width(test: Records) -> float:
        known = KnownLabels(np.arange(12), 0, 12)
        result = compare("evl", known, scores, calibration, test, STREAM, None).results["evl"]
        return result.gain_high - result.gain_low

    assert width(of_one) > 2 * width(records)  # all anomalies stand or fall together


def test_a_test_span_with_hardly_any_anomaly_recommends_nothing() -> None:
    records = odd_payments(220)
    assert records.labels is not None
    scores = {LABEL_FREE: np.arange(220.0), "evl": np.arange(220.0) + 400 * records.labels}

    report = compare("evl", KnownLabels(np.arange(12), 0, 12), scores, scores, records, STREAM, None)

    assert report.results == {}
    assert not report.recommended
    assert "cannot tell" in report.verdict


def test_a_report_goes_into_the_manifest() -> None:
    result = HeadResult(0.5, 0.4, 0.1, 0.05, 0.2)

    content = HeadReport("focal", 12, 3, 20, {"focal": result}, recommended=True).to_json()

    assert content["comparison"]["focal"]["gain_low"] == 0.05
    assert (content["loss"], content["labels"], content["too_young"], content["tested"]) == ("focal", 12, 3, 20)
