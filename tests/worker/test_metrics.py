"""Metrics: closed sets visible from the start, no unbounded labels, and histograms that count like Prometheus' own."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from detector import Detector
from tests.payments import decoded, fitted_detector, message
from transport import Partition
from worker.dead_letters import STAGES
from worker.histogram import ColumnHistogram
from worker.metrics import OUTCOMES, WorkerMetrics, metrics_table


def test_every_outcome_and_every_reason_is_visible_before_it_happens() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)

    for outcome in OUTCOMES:
        assert registry.get_sample_value("offbeat_records_total", {"outcome": outcome}) == 0
    for reason, stage in STAGES.items():
        assert registry.get_sample_value("offbeat_dead_letters_total", {"stage": stage, "reason": str(reason)}) == 0


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, kind, labels, meaning in WorkerMetrics(CollectorRegistry()).definitions:
        assert re.fullmatch(r"offbeat_[a-z_]+", name)
        assert (kind == "counter") == name.endswith("_total")
        assert not {"key", "offset", "entity", "id"} & set(labels)
        assert meaning.endswith(".")


def test_the_table_has_every_metric() -> None:
    metrics = WorkerMetrics(CollectorRegistry())

    rows = [row.split("|")[1].strip(" `") for row in metrics_table().splitlines()[2:]]

    assert rows == [definition.name for definition in metrics.definitions]
    exposed = {family.name for family in metrics.registry.collect()}
    assert {name.removesuffix("_total") for name in rows} == exposed


def test_two_registries_share_no_counts() -> None:
    one, other = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())

    one.retries.inc()

    assert other.registry.get_sample_value("offbeat_retries_total") == 0


def test_a_partition_that_is_given_up_is_no_longer_shown() -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    one, two = Partition("t", 1), Partition("t", 2)
    metrics.position({one: 5, two: 7}, {one, two})

    metrics.position({two: 0}, {two})

    text = generate_latest(metrics.registry).decode()
    assert 'offbeat_consumer_lag_records{partition="1",topic="t"}' not in text
    assert 'offbeat_consumer_lag_records{partition="2",topic="t"} 0.0' in text
    assert "offbeat_assigned_partitions 1.0" in text


def test_a_model_that_takes_over_replaces_the_one_before() -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    fitted = fitted_detector()

    for version in ("v1", "v2"):
        detector = Detector(
            fitted.stream,
            fitted.encoder,
            fitted.scorer,
            fitted.threshold,
            fitted.normal_scores,
            facts={"trained_until": "2026-03-31T00:00:00+00:00"},
            version=version,
            sha256="abc",
        )
        metrics.model_changed(detector, 5.0)

    text = generate_latest(metrics.registry).decode()
    assert 'offbeat_model_info{name="payments",sha256="abc",version="v2"} 1.0' in text
    assert 'version="v1"' not in text
    until = metrics.registry.get_sample_value("offbeat_model_trained_until_timestamp_seconds")
    assert until == datetime(2026, 3, 31, tzinfo=UTC).timestamp()
    assert 'offbeat_feature_unseen_category_total{feature="shop.kind"} 0.0' in text
    assert 'offbeat_feature_missing_total{feature="amount"} 0.0' in text


def test_the_features_that_are_visible_at_zero_are_those_that_are_counted() -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    detector = fitted_detector()
    verdicts = detector.judge(decoded([message(1)]))[0]

    metrics.model_changed(detector, 5.0)

    for metric, counted in ((metrics.feature_missing, verdicts.missing), (metrics.feature_unseen, verdicts.unseen)):
        shown = {sample.labels["feature"] for family in metric.collect() for sample in family.samples}
        assert shown == set(counted)


@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32)), max_size=5))
def test_a_column_is_counted_as_prometheus_counts_its_values_one_by_one(columns: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = ColumnHistogram("h", "Meaning.", (0.5, 1.0, 2.0), ours)
    reference = Histogram("h", "Meaning.", buckets=(0.5, 1.0, 2.0), registry=theirs)

    for column in columns:
        histogram.observe(np.array(column))
        for value in column:
            reference.observe(value)

    for bound in ("0.5", "1.0", "2.0", "+Inf"):
        assert ours.get_sample_value("h_bucket", {"le": bound}) == theirs.get_sample_value("h_bucket", {"le": bound})
    assert ours.get_sample_value("h_count") == theirs.get_sample_value("h_count")


def test_values_that_are_not_finite_do_not_spoil_a_histogram() -> None:
    registry = CollectorRegistry()
    histogram = ColumnHistogram("h", "Meaning.", (1.0,), registry)

    histogram.observe([0.5, float("nan"), float("inf")])

    assert registry.get_sample_value("h_count") == 1
    assert registry.get_sample_value("h_sum") == 0.5
