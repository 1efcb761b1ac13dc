from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from detector import Detector, StreamDefinition, TrainingDataError, records_of_matrix, stream_of_matrix
from detector.encode import HistoryEncoder, NumberEncoder
from detector.networks import INPUT_LIMIT
from detector.stream import ThresholdSetting
from tests.payments import DEFINITION, STREAM, decoded, message
from tests.trainer import histories
from trainer.evaluation import auroc
from trainer.fitting import FitProgress, FitReport, FitSettings, drawn, evenly, fit_detector, split_by_time
from trainer.replay import remember

QUICK = FitSettings(most_steps=200)
DRAW = np.random.default_rng(0)
MATRIX = DRAW.normal(size=(600, 3)) @ DRAW.normal(size=(3, 6))


def fit_matrix(matrix: np.ndarray, settings: FitSettings = QUICK) -> tuple[Detector, FitReport]:
    stream = stream_of_matrix(matrix.shape[1])
    return fit_detector(records_of_matrix(stream, matrix), stream, settings)


def test_the_same_data_and_seed_give_the_same_detector() -> None:
    first, second = (fit_matrix(MATRIX)[0] for _ in range(2))
    other = fit_matrix(MATRIX, FitSettings(most_steps=200, seed=1))[0]

    assert first.score(MATRIX).tobytes() == second.score(MATRIX).tobytes()
    assert first.facts["data_sha256"] == second.facts["data_sha256"]
    assert first.score(MATRIX).tobytes() != other.score(MATRIX).tobytes()


def test_fitting_leaves_the_global_random_state_alone() -> None:
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit_matrix(MATRIX)

    assert torch.rand(1) == expected


def test_a_record_off_the_learned_surface_scores_above_all_normal_ones() -> None:
    detector = fit_matrix(MATRIX)[0]
    shuffled = DRAW.permuted(MATRIX, axis=0)  # each column as before, their relations gone

    assert np.median(detector.score(shuffled)) > np.quantile(detector.score(MATRIX), 0.95)


def test_known_anomalies_are_left_out_of_fitting_and_counted() -> None:
    anomalous = [message(n, amount=1e6, fraud=1) for n in range(0, 1000, 10)]
    normal = [message(n) for n in range(1000) if n % 10]
    values = sorted(anomalous + normal, key=lambda value: value.split(b'"at": ')[1][:21])

    with_labels, report = fit_detector(decoded(values), STREAM, replace(QUICK, allow_leakage=True))

    assert report.test.labels is not None
    assert report.counts["left_out_labelled"] == 100 - int(report.test.labels.sum())
    assert sum(report.counts.values()) == 1000
    assert report.counts["test"] == 100
    amount = with_labels.encoder.features[0]
    assert isinstance(amount, NumberEncoder)
    assert amount.high < 1000
    assert report.evaluation is not None
    assert report.evaluation["denoising"].auroc > 0.99
    assert set(report.evaluation) == {"denoising", "pca"}


def test_pca_is_evaluated_by_its_own_scores() -> None:
    draw = np.random.default_rng(1)
    values = [message(n, fraud=int(n % 20 == 0), amount=float(draw.uniform(1, 200))) for n in range(1000)]

    report = fit_detector(decoded(values), STREAM, QUICK)[1]

    assert report.baseline is not None
    assert report.test.labels is not None
    assert report.evaluation is not None
    own = auroc(report.baseline.score(report.test), report.test.labels)
    assert report.evaluation["pca"].auroc == own != auroc(report.test_scores, report.test.labels)


def test_the_split_is_by_time_and_its_parts_do_not_overlap() -> None:
    order = np.random.default_rng(3).permutation(500)
    records = decoded([message(int(n), fraud=int(n > 480)) for n in order])

    split = split_by_time(records, seed=0)
    times = records.event_times

    assert times is not None
    parts = [times[rows] for rows in (split.fit, split.validate, split.calibrate, split.test)]
    assert all(before.max() <= after.min() for before, after in pairwise(parts))
    assert len(split.fit) > len(split.calibrate) > len(split.validate) > 0
    assert len(set(np.concatenate([split.fit, split.validate, split.calibrate, split.test]).tolist())) == 500


def test_the_most_records_to_fit_on_are_evenly_spread_over_their_time() -> None:
    records = decoded([message(n) for n in range(1000)])
    told: list[str] = []

    report = fit_detector(records, STREAM, FitSettings(network="pca", most_records=65), remark=told.append)[1]

    assert report.counts["fit"] == 65
    assert report.counts["spared"] == 650 - 65
    assert sum(report.counts.values()) == 1000
    assert evenly(np.arange(100, 150), 20)[:4].tolist() == [101, 103, 106, 108]  # the middles of spans of 2.5
    assert evenly(np.arange(30), 30).tolist() == list(range(30))
    assert told == report.remarks


def test_fewer_records_to_fit_on_than_teach_anything_are_refused() -> None:
    with pytest.raises(TrainingDataError, match="5 records to fit on are fewer than 20"):
        fit_matrix(MATRIX, replace(QUICK, most_records=5))


def test_the_threshold_is_set_on_records_that_nothing_was_fitted_on() -> None:
    detector, report = fit_matrix(MATRIX)

    assert report.threshold.n == report.counts["calibrate"] == len(report.calibration_scores)
    assert (report.calibration_scores > detector.threshold.value).mean() <= report.threshold.rate


def test_training_stops_early_and_keeps_the_best_weights() -> None:
    settings = FitSettings(most_steps=5000, check_every=10, patience=2)
    matrix = DRAW.normal(size=(60, 4))
    detector, report = fit_matrix(matrix, settings)

    assert report.losses[-1][0] < 5000
    best = min(report.losses, key=lambda look: look[2])
    assert report.best_step == best[0] < report.losses[-1][0]
    records = records_of_matrix(detector.stream, matrix)
    held_out = detector.encoder.encode(records.take(split_by_time(records, settings.seed).validate))
    held_out = held_out.clip(-INPUT_LIMIT, INPUT_LIMIT)  # as the network sees it
    errors = np.square(detector.scorer.reconstruct(held_out) - held_out)[:, detector.scorer.varying.numpy()]
    assert errors.mean() == pytest.approx(best[2], rel=1e-5)


def test_progress_is_told_with_both_losses() -> None:
    told: list[FitProgress] = []
    stream = stream_of_matrix(6)

    fit_detector(records_of_matrix(stream, MATRIX), stream, QUICK, told.append)

    assert [look.step for look in told if look.stage == "train"] == [50, 100, 150, 200]
    assert all(look.training_loss and look.validation_loss for look in told if look.stage == "train")
    assert told[-1].stage == "done"


def test_pca_alone_can_be_asked_for() -> None:
    detector, report = fit_matrix(MATRIX, FitSettings(network="pca"))

    assert detector.scorer.network.kind == "pca"
    assert report.baseline is None
    assert detector.score(MATRIX).shape == (600,)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.zeros((100, 3)), "same value in all"),
        (DRAW.normal(size=(19, 3)), "19 normal records of 19"),
        (np.where(np.arange(3) == 1, np.nan, DRAW.normal(size=(100, 3))), "'x1' is missing in all"),
    ],
)
def test_data_that_cannot_work_is_refused_with_advice(matrix: np.ndarray, says: str) -> None:
    with pytest.raises(TrainingDataError, match=says):
        fit_matrix(matrix)


def test_a_stream_without_normal_records_is_refused() -> None:
    with pytest.raises(TrainingDataError, match="0 normal records of 200"):
        fit_detector(decoded([message(n, fraud=1) for n in range(200)]), STREAM, QUICK)


def test_a_rate_that_the_calibration_records_cannot_resolve_is_refused_with_the_number_needed() -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace("0.01", "0.00001"))

    told: list[FitProgress] = []

    with pytest.raises(TrainingDataError, match="at least 10,000 held-out normal records"):
        fit_detector(decoded([message(n) for n in range(300)], stream), stream, QUICK, told.append)

    assert told == []  # said before the long part


def test_the_two_columns_of_a_matrix_are_enough_and_one_is_too() -> None:
    for width in (1, 2):
        detector = fit_matrix(MATRIX[:, :width])[0]
        assert np.isfinite(detector.score(MATRIX[:, :width])).all()


def test_a_sensitive_event_time_is_not_told_in_the_facts() -> None:
    stream = StreamDefinition.from_toml(DEFINITION.replace('["card.limit"]', '["card.limit", "at"]'))
    records = decoded([message(n) for n in range(500)], stream)

    facts = fit_detector(records, stream, FitSettings(most_steps=50))[0].facts

    assert facts["trained_from"] is facts["trained_until"] is None


def test_hours_that_the_held_out_part_did_not_cover_score_like_the_others() -> None:
    records = decoded([message(n) for n in range(2000)])  # a tenth of them is held out: some three hours of twelve
    fresh = decoded([message(n) for n in range(5000, 9000)])
    assert fresh.event_times is not None

    scores = fit_detector(records, STREAM, FitSettings(most_steps=300))[0].score(fresh)

    hours = fresh.event_times.astype("datetime64[h]").astype(np.int64) % 24
    medians = [float(np.median(scores[hours == hour])) for hour in range(8, 20)]
    # 2.8 as measured; 5.6 with a scorer that learns from the held-out part alone.
    assert max(medians) / min(medians) < 4


def remembered(n: int = 3000) -> tuple[Detector, FitReport]:
    return fit_detector(
        histories.decoded(histories.rows(n, step_minutes=5)), histories.STREAM, FitSettings(most_steps=150)
    )


def test_a_table_is_given_the_history_that_it_has_and_its_first_longest_window_is_not_fitted() -> None:
    detector, report = remembered()

    assert report.counts["replayed"] == 2 * 288  # two days, a record every five minutes
    assert sum(report.counts.values()) == 3000
    assert detector.history is not None
    assert [encoder.name for encoder in detector.encoder.features if isinstance(encoder, HistoryEncoder)] == list(
        detector.history.names
    )


def test_a_table_shorter_than_its_longest_window_is_fitted_whole() -> None:
    records = histories.decoded(histories.rows(400, step_minutes=5))

    report = fit_detector(records, histories.STREAM, FitSettings(network="pca"))[1]

    assert report.counts["replayed"] == 0


def test_an_entity_without_history_is_expected_and_calibration_sees_none_that_was_hidden() -> None:
    records, history = remember(histories.decoded(histories.rows(3000, step_minutes=5)), histories.STREAM)
    records = records.take(np.arange(600, 3000))  # none of them is the first of its card

    threshold = ThresholdSetting(false_alarm_rate=0.01)
    stream = histories.STREAM.model_copy(update={"threshold": threshold})
    detector, report = fit_detector(records, stream, FitSettings(most_steps=300), history=history)

    rates = [
        encoder.state()[0]["missing_rate"] for encoder in detector.encoder.features if encoder.name in history.names
    ]
    assert all(0.02 < rate < 0.08 for rate in rates)  # 5% of 1,560 records; 5 standard deviations are 2.8%
    calibration = records.take(split_by_time(records, 0).calibrate)
    found = detector.scorer.score(detector.encoder.encode(calibration), leave_out=True)
    assert found.tobytes() == report.calibration_scores.tobytes()
    unknown = replace(calibration, history={name: np.full(len(calibration), np.nan) for name in history.names})
    assert (detector.score(unknown) > detector.threshold.value).mean() < 0.5  # .29 as measured on so few
    bare = fit_detector(records, stream, FitSettings(most_steps=300, no_history_share=0.0), history=history)[0]
    assert (bare.score(unknown) > bare.threshold.value).mean() > 0.9


def test_which_history_is_hidden_depends_on_the_record_and_the_seed_alone() -> None:
    records, _ = remember(histories.decoded(histories.rows(1000)), histories.STREAM)
    some = np.random.default_rng(0).permutation(1000)[:300]

    whole, other_seed = drawn(records, FitSettings()), drawn(records, FitSettings(seed=1))

    assert drawn(records.take(some), FitSettings()).tolist() == whole[some].tolist()
    assert 0.02 < (whole < 0.05).mean() < 0.09
    assert not np.array_equal(whole < 0.05, other_seed < 0.05)


def test_records_with_a_history_need_what_computed_it() -> None:
    records, _ = remember(histories.decoded(histories.rows(300)), histories.STREAM)

    with pytest.raises(ValueError, match="a detector needs what computed them"):
        fit_detector(records, histories.STREAM, QUICK)


def test_a_feature_that_moves_within_the_training_data_is_told_from_those_that_stay() -> None:
    values = [message(n, amount=30.0 + 0.02 * n, shop__kind="fuel") for n in range(2_000)]

    detector, report = fit_detector(decoded(values), STREAM, QUICK)

    assert report.feature_drift["amount"] > 0.25
    assert report.feature_drift["shop.kind"] < 0.01
    assert detector.reference is not None
    assert detector.reference.span_s == 500 * 60 - 60
    assert "at.hour" not in report.feature_drift  # no whole day was calibrated on


def test_a_detector_of_few_records_has_no_reference_for_drift_and_says_nothing_of_it() -> None:
    detector, report = fit_matrix(MATRIX)

    assert report.counts["calibrate"] == 150
    assert detector.reference is None
    assert report.feature_drift == {}
