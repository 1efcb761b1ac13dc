"""Each alert rule, judged by Prometheus' own promtool: it fires on what it is about, and on nothing less."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.files import ALERTS, PROMETHEUS, alert_rules, tool

HOUR = 60
DAY = 24 * HOUR

# One worker on a healthy stream, a sample a minute from second 0 on: 600 records a minute, of which 1 alert,
# 1 tombstone and 2 dead letters; half of the records have no `device`; the model was trained until ten days ago.
HEALTHY: dict[str, str | None] = {
    "up": "1+0",
    "process_start_time_seconds": "1+0",
    "offbeat_model_info{version='v1'}": "1+0",
    "offbeat_model_trained_until_timestamp_seconds": "-864000+0",
    "offbeat_model_reloads_total{result='loaded'}": "1+0",
    "offbeat_model_reloads_total{result='refused'}": "0+0",
    "offbeat_model_reloads_total{result='unavailable'}": "0+0",
    "offbeat_last_poll_timestamp_seconds": "1+60",
    "offbeat_last_commit_timestamp_seconds": "1+60",
    "offbeat_broker_silence_seconds": "0.5+0",
    "offbeat_assigned_partitions": "6+0",
    "offbeat_rebalances_total{type='assigned'}": "1+0",
    "offbeat_rebalances_total{type='revoked'}": "0+0",
    "offbeat_rebalances_total{type='lost'}": "0+0",
    "offbeat_commits_total{result='committed'}": "0+60",
    "offbeat_commits_total{result='refused'}": "0+0",
    "offbeat_commits_total{result='unavailable'}": "0+0",
    "offbeat_publish_failures_total": "0+0",
    "offbeat_consumer_lag_records{topic='t',partition='0'}": "5+0",
    "offbeat_consumer_lag_records{topic='t',partition='1'}": "7+0",
    "offbeat_consumer_lag_seconds{topic='t'}": "0.2+0",
    "offbeat_records_consumed_total{topic='t'}": "0+600",
    "offbeat_records_total{outcome='normal'}": "0+596",
    "offbeat_records_total{outcome='alert'}": "0+1",
    "offbeat_anomalies_total": "0+1",
    "offbeat_threshold_ratio{bound='least'}": "0.9+0",
    "offbeat_threshold_ratio{bound='most'}": "1.2+0",
    "offbeat_records_total{outcome='suppressed'}": "0+1",
    "offbeat_records_total{outcome='dead_letter'}": "0+2",
    "offbeat_records_unaccounted": "0+0",
    "offbeat_offsets_skipped_total{topic='t'}": "0+0",
    "offbeat_dead_letters_total{stage='deserialize',reason='not_json'}": "0+2",
    "offbeat_dead_letters_total{stage='score',reason='non_finite_score'}": "0+0",
    "offbeat_feature_missing_total{feature='amount'}": "0+0",
    "offbeat_feature_missing_total{feature='device'}": "0+300",
    "offbeat_alert_rate_expected_ratio{bound='low'}": "0.001+0",
    "offbeat_alert_rate_expected_ratio{bound='expected'}": "0.0015+0",
    "offbeat_alert_rate_expected_ratio{bound='high'}": "0.002+0",
    "offbeat_restoring_partitions": "0+0",
    "offbeat_state_write_failures_total": "0+0",
    "offbeat_entities_moved_total": "0+0",
    "offbeat_entities_evicted_total": "0+0",
    "offbeat_feature_unseen_category_total{feature='kind'}": "0+3",
    "offbeat_feature_unseen_category_expected_ratio{feature='kind'}": "0.004+0",
    "offbeat_feature_drift_psi{feature='amount'}": "0.02+0",
    "offbeat_feature_drift_psi{feature='kind'}": "0.05+0",
    "offbeat_score_drift_psi": "0.01+0",
    "offbeat_drift_window_seconds": "86400+0",
}


class Case(NamedTuple):
    """What makes an alert fire, and what only nearly does: series in promtool's notation, None for one that is gone."""

    alert: str
    minutes: int
    firing: dict[str, str | None]
    quiet: dict[str, str | None]


CASES = [
    Case("WorkerDown", 3, {"up": "0+0"}, {"up": "1 0 1+0"}),
    Case("WorkerDown", 3, {"up": None}, {}),
    Case(
        "WorkerStuck",
        6,
        {"offbeat_last_poll_timestamp_seconds": "1+0"},
        {"offbeat_last_poll_timestamp_seconds": "0+0"},  # waits for its first model
    ),
    Case("WorkerWithoutModel", 4, {"offbeat_model_info{version='v1'}": None}, {"up": "_ _ _ 1+0"}),
    Case(
        "TooManyRestarts",
        20,
        {"process_start_time_seconds": "1+240"},
        {"process_start_time_seconds": "1 1 2 2 3 3 4 4+0"},
    ),
    Case("BrokerSilent", 5, {"offbeat_broker_silence_seconds": "61+60"}, {"offbeat_broker_silence_seconds": "59+0"}),
    Case("NoPartitions", 7, {"offbeat_assigned_partitions": "0+0"}, {"offbeat_assigned_partitions": "0 0 0 0 1+0"}),
    Case(
        "NoCommits",
        9,
        {"offbeat_last_commit_timestamp_seconds": "1+0"},
        {  # idle: there is nothing to commit
            "offbeat_last_commit_timestamp_seconds": "1+0",
            "offbeat_records_consumed_total{topic='t'}": "600+0",
            "offbeat_records_total{outcome='normal'}": "597+0",
            "offbeat_records_total{outcome='dead_letter'}": "2+0",
            "offbeat_records_total{outcome='suppressed'}": "1+0",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
        },
    ),
    Case(
        "CommitsFailing",
        20,
        {"offbeat_commits_total{result='refused'}": "0+1"},
        {"offbeat_commits_total{result='unavailable'}": "0 0 0 0 3+0"},
    ),
    Case(
        "PublishFailing",
        25,
        {"offbeat_publish_failures_total": "0+2"},
        {"offbeat_publish_failures_total": "0 0 0 0 4 4 4 4 4+0"},  # one hiccup
    ),
    Case(
        "LagHigh",
        12,
        {"offbeat_consumer_lag_seconds{topic='t'}": "301+0"},
        {"offbeat_consumer_lag_seconds{topic='t'}": "299+0"},
    ),
    Case(
        "LagGrowing",
        35,
        {
            "offbeat_consumer_lag_records{topic='t',partition='1'}": "7+60",
            "offbeat_consumer_lag_seconds{topic='t'}": "90+0",
        },
        {  # late, and catching up
            "offbeat_consumer_lag_records{topic='t',partition='1'}": "9000-60",
            "offbeat_consumer_lag_seconds{topic='t'}": "90+0",
        },
    ),
    Case(
        "RebalanceStorm",
        20,
        {"offbeat_rebalances_total{type='revoked'}": "0+1"},
        {"offbeat_rebalances_total{type='revoked'}": "0 0 0 2 2 4+0"},  # a rolling deployment
    ),
    Case("OutcomeSumMismatch", 4, {"offbeat_records_unaccounted": "1+0"}, {"offbeat_records_unaccounted": "0 1 0+0"}),
    Case("OutcomeSumMismatch", 4, {"offbeat_records_total{outcome='suppressed'}": "0+2"}, {}),
    Case(
        "StreamSilent",
        2 * HOUR,
        {
            "offbeat_records_consumed_total{topic='t'}": "600+0",
            "offbeat_records_total{outcome='normal'}": "597+0",
            "offbeat_records_total{outcome='dead_letter'}": "2+0",
            "offbeat_records_total{outcome='suppressed'}": "1+0",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
        },
        {
            "offbeat_records_consumed_total{topic='t'}": "0+1",
            "offbeat_records_total{outcome='normal'}": "0+1",
            "offbeat_records_total{outcome='dead_letter'}": "0+0",
            "offbeat_records_total{outcome='suppressed'}": "0+0",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
        },
    ),
    Case("OffsetsSkipped", 62, {"offbeat_offsets_skipped_total{topic='t'}": "0+0x30 9+0"}, {}),
    Case(  # of a worker that skipped before it was first looked at; an hour later it is known
        "OffsetsSkipped",
        62,
        {"offbeat_offsets_skipped_total{topic='t'}": "_x30 7+0"},
        {"offbeat_offsets_skipped_total{topic='t'}": "7+0"},
    ),
    Case(
        "DeadLetterRatioHigh",
        20,
        {"offbeat_records_total{outcome='normal'}": "0+591", "offbeat_records_total{outcome='dead_letter'}": "0+7"},
        {"offbeat_records_total{outcome='normal'}": "0+593", "offbeat_records_total{outcome='dead_letter'}": "0+5"},
    ),
    Case(
        "NonFiniteScores",
        20,
        {"offbeat_dead_letters_total{stage='score',reason='non_finite_score'}": "0 0 0 0 0 0 0 0 0 1+0"},
        {},
    ),
    Case(
        "FeatureMissingHigh",
        DAY + 90,
        {"offbeat_feature_missing_total{feature='amount'}": f"0+0x{DAY} 150+150"},
        {"offbeat_feature_missing_total{feature='amount'}": f"0+0x{DAY} 100+100"},
    ),
    Case(
        "AlertRateAboveBudget",
        HOUR + 30,
        {
            "offbeat_records_total{outcome='normal'}": "0+593",
            "offbeat_records_total{outcome='alert'}": "0+4",
            "offbeat_anomalies_total": "0+4",
        },
        {
            "offbeat_records_total{outcome='normal'}": "0+594",
            "offbeat_records_total{outcome='alert'}": "0+3",
            "offbeat_anomalies_total": "0+3",
        },
    ),
    Case(
        "AlertRateZero",
        HOUR + 30,
        {
            "offbeat_records_total{outcome='normal'}": "0+597",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
        },
        {  # too few records to expect one
            "offbeat_records_total{outcome='normal'}": "0+597",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
            "offbeat_alert_rate_expected_ratio{bound='low'}": "0.00001+0",
        },
    ),
    Case(
        "ThresholdMoved",
        90,
        {"offbeat_threshold_ratio{bound='most'}": "1.6+0"},
        {"offbeat_threshold_ratio{bound='most'}": "1.4+0"},
    ),
    Case(
        "ThresholdMoved",
        90,
        {"offbeat_threshold_ratio{bound='least'}": "0.6+0"},
        {"offbeat_threshold_ratio{bound='least'}": "0.7+0"},
    ),
    Case(
        "ModelStale",
        2 * HOUR,
        {"offbeat_model_trained_until_timestamp_seconds": f"{-31 * 86400}+0"},
        {"offbeat_model_trained_until_timestamp_seconds": "0+0"},  # a stream without event times
    ),
    Case("ModelReloadFailing", 10, {"offbeat_model_reloads_total{result='refused'}": "0 0 0 1+0"}, {}),
    Case(
        "ModelsUnreadable",
        20,
        {"offbeat_model_reloads_total{result='unavailable'}": "0+6"},
        {"offbeat_model_reloads_total{result='unavailable'}": "0 0 2+0"},
    ),
    Case(
        "RestoringLong",
        20,
        {"offbeat_restoring_partitions": "6 6 5+0"},
        {"offbeat_restoring_partitions": "6 6 6 6 6 6 6 6 6 6 6 6 6 0+0"},  # a start that takes its time
    ),
    Case(
        "StateWriteFailing",
        25,
        {"offbeat_state_write_failures_total": "0+4"},
        {"offbeat_state_write_failures_total": "0 0 0 0 3 3 3 3 3+0"},  # one hiccup
    ),
    Case(
        "EntitiesOnTwoPartitions",
        20,
        {"offbeat_entities_moved_total": "0+1"},
        {"offbeat_entities_moved_total": "0 0 0 2+0"},  # somebody sent a record by hand
    ),
    Case("EntitiesEvicted", 20, {"offbeat_entities_evicted_total": "0 0 0 0 15625+0"}, {}),
    Case(
        "FeatureDriftHigh",
        2 * HOUR,
        {"offbeat_feature_drift_psi{feature='amount'}": "0.26+0"},
        {"offbeat_feature_drift_psi{feature='amount'}": "0.24+0"},
    ),
    Case(
        "FeatureDriftHigh",
        2 * HOUR,
        {"offbeat_feature_drift_psi{feature='kind'}": "3+0"},
        {  # a worker that started in the night
            "offbeat_feature_drift_psi{feature='amount'}": "3+0",
            "offbeat_drift_window_seconds": "3600+60",
        },
    ),
    Case(
        "ScoreDriftHigh",
        2 * HOUR,
        {"offbeat_score_drift_psi": "0.26+0"},
        {"offbeat_score_drift_psi": "NaN+0"},  # too few records
    ),
    Case(
        "UnseenCategoriesHigh",
        8 * HOUR,
        {"offbeat_feature_unseen_category_total{feature='kind'}": "0+15"},
        {"offbeat_feature_unseen_category_total{feature='kind'}": "0+14"},
    ),
    Case(
        "UnseenCategoriesHigh",
        8 * HOUR,
        {"offbeat_feature_unseen_category_total{feature='kind'}": "0+600"},
        {  # too few records to say so
            "offbeat_feature_unseen_category_total{feature='kind'}": "0+1",
            "offbeat_records_consumed_total{topic='t'}": "0+2",
            "offbeat_records_total{outcome='normal'}": "0+2",
            "offbeat_records_total{outcome='dead_letter'}": "0+0",
            "offbeat_records_total{outcome='suppressed'}": "0+0",
            "offbeat_records_total{outcome='alert'}": "0+0",
            "offbeat_anomalies_total": "0+0",
        },
    ),
]


def assert_firing(expected: set[str], series: dict[str, str | None], minutes: int, folder: Path) -> None:
    """Let promtool evaluate all rules each minute, and compare what fires after `minutes`."""
    test = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _with_worker(name), "values": re.sub(r"([+-]\d+)$", rf"\1x{minutes}", values)}
                    for name, values in series.items()
                    if values is not None
                ],
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)],
                    }
                ],
            }
        ],
    }
    file = folder / "rules.test.json"
    file.write_text(json.dumps(test), encoding="utf-8")
    answer = subprocess.run(
        [tool("promtool", "prometheus"), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _with_worker(name: str) -> str:
    """The series of one scraped worker, in double quotes as promtool wants them."""
    metric, _, labels = name.rstrip("}").replace("'", '"').partition("{")
    return f'{metric}{{job="offbeat",instance="worker:9464"{"," if labels else ""}{labels}}}'


def test_nothing_fires_on_a_healthy_worker(tmp_path: Path) -> None:
    assert_firing(set(), {**HEALTHY}, DAY + 90, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_and_no_other_fires_on_what_it_is_about(case: Case, tmp_path: Path) -> None:
    assert_firing({case.alert}, {**HEALTHY, **case.firing}, case.minutes, tmp_path)


@pytest.mark.parametrize("case", [case for case in CASES if case.quiet], ids=lambda case: case.alert)
def test_an_alert_does_not_fire_on_what_is_nearly_that(case: Case, tmp_path: Path) -> None:
    assert_firing(set(), {**HEALTHY, **case.quiet}, case.minutes, tmp_path)


def test_every_alert_has_a_case_that_makes_it_fire() -> None:
    assert {case.alert for case in CASES} == set(alert_rules())


def test_prometheus_accepts_the_scrape_file_and_the_rules() -> None:
    file = PROMETHEUS / "prometheus.yml"

    answer = subprocess.run(
        [tool("promtool", "prometheus"), "check", "config", str(file)], capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"{len(alert_rules())} rules found" in answer.stdout
