"""Calibrating anew: another threshold for the same scores, by rate, by cost and by F1, as a new version."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import offbeat
from detector import Detector, ModelDirectory, StreamDefinition, TrainingDataError
from tests.trainer.conftest import payments
from tests.trainer.payments import write_jsonl
from trainer import calibration
from trainer.calibration import Cost, calibrate_on, calibrate_on_kept
from trainer.loading import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, payments_dir: Path) -> Path:
    """A directory of models with one version."""
    models = tmp_path_factory.mktemp("models")
    words = ["train", payments_dir / "payments.jsonl", "--stream", payments_dir / "stream.toml", "--models", models,
             "--steps", "50"]  # fmt: skip
    result = CliRunner().invoke(offbeat.app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return models


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "fresh.jsonl", payments(900, seed=5))


def the_detector(models: Path) -> Detector:
    directory = ModelDirectory(models / "payments")
    return directory.load(directory.current() or "")


def test_a_new_rate_changes_the_threshold_and_no_score(trained: Path, fresh: Path) -> None:
    detector = the_detector(trained)
    stream = detector.stream.model_copy(update={"threshold": type(detector.stream.threshold)(false_alarm_rate=0.1)})

    done = calibrate_on(detector, [fresh], stream)

    again = done.detector
    assert again.threshold.rate == pytest.approx(0.1, rel=0.05)
    assert again.threshold.value != done.before.value
    assert again.scorer is detector.scorer
    assert again.facts["calibrated"]["from_version"] == detector.version
    assert again.facts["calibrated"]["threshold_before"] == detector.threshold.to_json()


def test_the_command_publishes_a_version_that_scores_as_before(trained: Path, fresh: Path, tmp_path: Path) -> None:
    before = the_detector(trained)
    words = ["calibrate", fresh, "--models", trained, "--one-in", "5"]

    result = CliRunner().invoke(offbeat.app, list(map(str, words)))

    assert result.exit_code == 0, result.output
    after = the_detector(trained)
    assert after.version != before.version
    assert after.threshold.stated == "one_in = 5"
    assert after.stream.threshold.one_in == 5
    assert after.threshold.rate == pytest.approx(0.2, rel=0.05)
    assert after.threshold.n == after.facts["calibrated"]["normal"] == after.normal_scores.n != before.normal_scores.n
    assert "set on" in result.output


def test_the_command_says_which_rows_were_left_out_and_why(trained: Path, fresh: Path, tmp_path: Path) -> None:
    models = shutil.copytree(trained, tmp_path / "models")
    lines = fresh.read_text().splitlines()
    fresh.write_text("\n".join(["oops", *lines, "oops", '{"id": "x"}']) + "\n")
    words = ["calibrate", fresh, "--models", models, "--one-in", "5"]

    result = CliRunner().invoke(offbeat.app, list(map(str, words)))

    assert result.exit_code == 0, result.output
    assert re.search(r"left out\s+3 ", result.stdout)
    assert re.search(r"^\s+not_json\s+2\s*$", result.stdout, re.MULTILINE)
    assert re.search(r"^\s+missing_field\s+1\s*$", result.stdout, re.MULTILINE)
    assert "fresh.jsonl:1: rejected: the value is not JSON" in result.stderr


RULE = '\n[[suppress]]\nname = "small"\nrule = "floor"\nfield = "amount"\nat_least = 5\n'


def test_other_rules_and_a_threshold_that_follows_need_no_training_and_no_record(
    trained: Path, payments_dir: Path, tmp_path: Path
) -> None:
    before = the_detector(trained)
    wanted = before.stream.model_copy(
        update={"threshold": before.stream.threshold.model_copy(update={"window": 6_000})}
    )
    definition = tmp_path / "stream.toml"
    definition.write_text(wanted.to_toml() + RULE)

    result = CliRunner().invoke(offbeat.app, ["calibrate", "--stream", str(definition), "--models", str(trained)])

    assert result.exit_code == 0, result.output
    after = the_detector(trained)
    assert after.version != before.version
    assert [rule.name for rule in after.stream.suppress] == ["small"]
    assert after.stream.threshold.window == 6_000
    assert after.threshold == before.threshold


def test_a_definition_that_needs_training_is_refused_by_the_name_of_what_differs(trained: Path, tmp_path: Path) -> None:
    definition = tmp_path / "stream.toml"
    definition.write_text(the_detector(trained).stream.to_toml().replace("amount", "sum"))

    result = CliRunner().invoke(offbeat.app, ["calibrate", "--stream", str(definition), "--models", str(trained)])

    assert result.exit_code != 0
    assert "feature" in result.output
    assert "train for the rest" in " ".join(result.output.split())


def test_another_promise_leaves_whether_the_threshold_follows(trained: Path, fresh: Path) -> None:
    from trainer.commands.thresholds import with_threshold

    detector = the_detector(trained)
    setting = detector.stream.threshold.model_copy(update={"mode": "online", "window": 7_000})
    stream = with_threshold(detector.stream.model_copy(update={"threshold": setting}), None, None, 50.0)

    assert (stream.threshold.mode, stream.threshold.window, stream.threshold.one_in) == ("online", 7_000, 50)


def test_the_least_cost_is_the_least_of_all_thresholds(trained: Path, fresh: Path) -> None:
    detector = the_detector(trained)
    chosen = {}
    for miss in (1.0, 1_000.0):
        chosen[miss] = calibrate_on(detector, [fresh], cost=Cost(1.0, miss)).detector.threshold

    scores, odd = scored(detector, fresh)
    for miss, threshold in chosen.items():
        costs = [float(((scores > value) & ~odd).sum() + miss * ((scores <= value) & odd).sum()) for value in scores]
        own = float(((scores > threshold.value) & ~odd).sum() + miss * ((scores <= threshold.value) & odd).sum())
        assert own == min(costs)
        assert threshold.method == "labels"
        assert "labelled anomalies" in threshold.stated
    assert chosen[1_000.0].value <= chosen[1.0].value


def test_the_best_f1_is_the_best_of_all_thresholds(trained: Path, fresh: Path) -> None:
    detector = the_detector(trained)

    threshold = calibrate_on(detector, [fresh], best_f1=True).detector.threshold

    scores, odd = scored(detector, fresh)

    def f1(value: float) -> float:
        alerts = scores > value
        hits = (alerts & odd).sum()
        return float(2 * hits / (alerts.sum() + odd.sum()))

    assert f1(threshold.value) == max(map(f1, scores))


def scored(detector: Detector, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of a file, read as messages are."""
    records = load([file], detector.stream).records
    assert records.labels is not None
    return detector.score(records), records.labels


def test_costs_need_labels(trained: Path, tmp_path: Path) -> None:
    normal = [line for line in payments(300, seed=6) if not line["is_fraud"]]
    file = write_jsonl(tmp_path / "normal.jsonl", normal)

    with pytest.raises(TrainingDataError, match="no record is labelled anomalous"):
        calibrate_on(the_detector(trained), [file], best_f1=True)


def test_records_that_it_was_trained_on_are_remarked(trained: Path, payments_dir: Path) -> None:
    done = calibrate_on(the_detector(trained), [payments_dir / "payments.jsonl"])

    assert any("no newer than the last that the detector was trained on" in remark for remark in done.remarks)


def promising(detector: Detector, **threshold: Any) -> StreamDefinition:
    """The detector's definition with another promise."""
    return StreamDefinition.model_validate({**detector.stream.model_dump(), "threshold": threshold})


def test_without_records_a_new_budget_is_set_on_the_scores_that_the_version_holds(
    trained: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(trained, tmp_path / "models")
    before = the_detector(models)
    daily = before.threshold.records_per_day
    assert daily is not None
    words = ["calibrate", "--models", models, "--alert-budget", f"{daily / 10:.6f}/day"]

    result = CliRunner().invoke(offbeat.app, list(map(str, words)))

    assert result.exit_code == 0, result.output
    after = the_detector(models)
    assert after.version != before.version
    assert after.stream.threshold.alert_budget == f"{daily / 10:.6f}/day"
    assert after.threshold.expected_per_day == pytest.approx(daily / 10, rel=0.05)
    assert after.threshold.rate == pytest.approx(0.1, rel=0.05)
    assert after.threshold.rate_low < 0.1 < after.threshold.rate_high
    assert after.threshold.low <= after.threshold.value <= after.threshold.high
    kept, left = (each.normal_scores.state() for each in (before, after))
    assert all(np.array_equal(kept[name], left[name]) for name in kept)
    told = after.facts["calibrated"]
    assert (told["on"], told["normal"], told["from_version"]) == ("kept scores", before.threshold.n, before.version)
    assert "no record was read" in " ".join(result.output.split())


def test_without_records_the_threshold_is_the_one_that_the_records_gave(trained: Path, fresh: Path) -> None:
    detector = the_detector(trained)
    for rate in (0.2, 0.01, 1e-3):
        stream = promising(detector, false_alarm_rate=rate)
        on_records = calibrate_on(detector, [fresh], stream).detector

        again = calibrate_on_kept(on_records, stream)

        assert again.detector.threshold == on_records.threshold
        assert again.remarks[1:] == (
            [] if on_records.threshold.warning is None else [f"threshold: {on_records.threshold.warning}"]
        )


def test_the_age_of_kept_scores_is_theirs_and_not_that_of_the_last_calibration(trained: Path, fresh: Path) -> None:
    detector = calibrate_on(the_detector(trained), [fresh]).detector
    detector.facts["calibrated"]["scores_of"] = "2020-01-01T00:00:00+00:00"

    once = calibrate_on_kept(detector, promising(detector, one_in=5))
    twice = calibrate_on_kept(once.detector, promising(detector, one_in=6))

    assert "since 2020-01-01" in twice.remarks[0]


def test_a_rate_that_the_kept_scores_cannot_tell_is_refused(trained: Path) -> None:
    detector = the_detector(trained)

    with pytest.raises(TrainingDataError, match="cannot tell a false-alarm rate of 1e-07"):
        calibrate_on_kept(detector, promising(detector, false_alarm_rate=1e-7))


def test_a_budget_is_refused_where_the_version_does_not_know_the_event_rate(trained: Path) -> None:
    known = the_detector(trained)
    detector = Detector(
        known.stream, known.encoder, known.scorer, replace(known.threshold, expected_per_day=None), known.normal_scores
    )

    with pytest.raises(TrainingDataError, match="does not: its stream declares no event time"):
        calibrate_on_kept(detector, promising(detector, alert_budget="5/day"))


@pytest.mark.parametrize(
    "words", [(), ("--best-f1",), ("--cost-miss", "3", "--cost-false-alarm", "1"), ("--one-in", "5", "--history", "x")]
)
def test_what_needs_records_is_refused_without_any(trained: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(offbeat.app, ["calibrate", "--models", str(trained), *words])

    assert result.exit_code == 2
    assert "without records" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "words", [("--one-in", "5", "--best-f1"), ("--cost-miss", "3"), ("--false-alarm-rate", "0.1", "--one-in", "5")]
)
def test_contradicting_wishes_are_refused(trained: Path, fresh: Path, words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(offbeat.app, ["calibrate", str(fresh), "--models", str(trained), *words])

    assert result.exit_code != 0


def test_drift_is_measured_from_the_fresh_records_from_then_on(trained: Path, tmp_path: Path) -> None:
    rows = [{**row, "amount": 10 * row["amount"]} for row in payments(900, seed=5)]
    detector = the_detector(trained)

    again = calibrate_on(detector, [write_jsonl(tmp_path / "fresh.jsonl", rows)]).detector

    later = load([write_jsonl(tmp_path / "later.jsonl", payments(900, seed=6))], detector.stream).records
    drift = again.judge(later, explanations=False)[0].drift
    assert drift is not None
    assert again.reference is not None
    assert again.reference.features[0].name == "amount"
    assert {int(bins.counts.sum()) for bins in (*again.reference.features, again.reference.score)} == {900 - 36}
    assert again.reference.span_s == 10 * 60 * 898.0  # the last row is a fraud
    assert again.reference.compare_features(drift.counts, None)["amount"] > 1


def test_a_sample_is_bounded_and_evenly_spread(monkeypatch: pytest.MonkeyPatch, fresh: Path, trained: Path) -> None:
    records = load([fresh], the_detector(trained).stream).records
    monkeypatch.setattr(calibration, "MOST_REFERENCE", 50)
    sample = calibration._Sample()

    for start in range(0, 900, 70):
        sample.add(records.take(np.arange(start, min(start + 70, 900))))

    kept = sample.records().offsets.tolist()
    assert 50 <= len(kept) <= 100
    assert kept == records.offsets[:: kept[1]].tolist()
