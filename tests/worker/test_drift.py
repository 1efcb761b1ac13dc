"""Drift as the worker shows it: a window of bounded size, and metrics that say nothing before they can."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import errors as kafka_errors
from prometheus_client import CollectorRegistry, generate_latest

from detector import Detector, DriftCounts, DriftReference, ModelDirectory
from detector.drift import LEAST_RECORDS, Bins
from tests.fakes import FakeClock
from tests.payments import fitted_detector, message
from tests.worker.bench import Bench, BenchClock, publish_models
from worker.drift import Drift, DriftWindow
from worker.metrics import WorkerMetrics
from worker.models import Models
from worker.settings import DriftSettings
from worker.status import Status

DAY_S = 86_400.0
NO_COUNTS = np.zeros(1, np.int64)


def halves(name: str, *, cycle_s: int = 0, has_unseen: bool = False) -> Bins:
    """A feature of which one half of 10,000 calibration records is above 0."""
    counts = np.array([5_000, 4_000, 1_000] if has_unseen else [5_000, 5_000, 0])
    return Bins(name, counts, np.array([0.0]), has_unseen=has_unseen, cycle_s=cycle_s)


REFERENCE = DriftReference(
    [halves("amount"), halves("at.hour", cycle_s=86_400), halves("shop", has_unseen=True)], halves(""), 30 * DAY_S
)


def counts_of(reference: DriftReference, above: dict[str, int], n: int) -> DriftCounts:
    """Of n records, how many are above 0 by feature; a half unless given."""
    parts = []
    for bins in (*reference.features, reference.score):
        if bins.has_unseen:
            parts.append(bins.counts * n // bins.counts.sum())
        else:
            high = above.get(bins.name, n // 2)
            parts.append(np.array([n - high, high, 0]))
    return DriftCounts(reference, np.concatenate(parts))


class Seen:
    """Drift with everything it shows."""

    def __init__(self, **settings: float) -> None:
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry)
        self.status = Status(BenchClock(FakeClock()), 300, 30)
        self.drift = Drift(self.metrics, self.status, DriftSettings.model_validate(settings))
        self.now_s = 1e9

    def add(self, reference: DriftReference | None, n: int, after_s: float = 0.0, **above: int) -> None:
        self.now_s += after_s
        found = None if reference is None else counts_of(reference, above, n)
        self.drift.add(found, n, time_s=self.now_s, now_s=self.now_s)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"offbeat_{name}", labels)

    @property
    def shown(self) -> set[str]:
        return {
            sample.labels["feature"] for family in self.metrics.feature_drift.collect() for sample in family.samples
        }


def test_nothing_is_said_of_too_few_records() -> None:
    seen = Seen()

    seen.add(REFERENCE, LEAST_RECORDS - 1, amount=0)

    assert seen.shown == set()
    assert math.isnan(seen.value("score_drift_psi") or 0)
    assert seen.status.drift == {}
    assert seen.value("drift_window_records") == LEAST_RECORDS - 1


def test_the_same_law_drifts_by_nothing_and_another_by_much() -> None:
    seen = Seen()

    seen.add(REFERENCE, 2_000, amount=1_900)

    assert seen.value("feature_drift_psi", feature="amount") == pytest.approx(0.45 * math.log(19), rel=0.02)
    assert seen.value("feature_drift_psi", feature="shop") == 0
    assert seen.value("score_drift_psi") == 0
    assert set(seen.status.drift["features_psi"]) == {"amount"}
    assert seen.status.snapshot()["drift"]["records"] == 2_000


def test_an_hour_is_compared_only_when_the_window_has_a_whole_day() -> None:
    seen = Seen()
    seen.add(REFERENCE, 2_000)
    seen.add(REFERENCE, 2_000, after_s=DAY_S - 1)
    before = seen.shown

    seen.add(REFERENCE, 2_000, after_s=6)

    assert before == {"amount", "shop"}
    assert seen.shown == {"amount", "at.hour", "shop"}


def test_an_hour_is_not_compared_with_a_calibration_of_less_than_a_day() -> None:
    short = DriftReference(REFERENCE.features, REFERENCE.score, DAY_S / 2)
    seen = Seen()

    seen.add(short, 2_000)
    seen.add(short, 2_000, after_s=DAY_S + 1)

    assert seen.shown == {"amount", "shop"}


def test_only_the_features_that_drift_most_are_shown_and_the_others_are_forgotten() -> None:
    seen = Seen(max_features=1)
    seen.add(REFERENCE, 1_000, amount=600)
    first = seen.shown

    reference = DriftReference([halves("amount"), halves("fee")], halves(""), None)
    seen.add(reference, 1_000, amount=600, fee=700)

    assert first == {"amount"}
    assert seen.shown == {"fee"}


def test_a_new_model_begins_anew_and_one_without_a_reference_shows_nothing() -> None:
    seen = Seen()
    seen.add(REFERENCE, 5_000, amount=5_000)

    other = DriftReference([halves("amount")], halves(""), None)
    seen.add(other, 1_500)
    records, drift, shown = (
        seen.value("drift_window_records"),
        seen.value("feature_drift_psi", feature="amount"),
        seen.shown,
    )
    seen.add(None, 1_500)

    assert records == 1_500
    assert drift == 0
    assert shown == {"amount"}
    assert seen.shown == set()
    assert math.isnan(seen.value("score_drift_psi") or 0)
    assert seen.value("drift_window_records") == 0
    assert seen.value("feature_missing_expected_ratio", feature="amount") is None


def test_the_shares_at_calibration_are_shown_beside_the_counters() -> None:
    seen = Seen()

    seen.add(REFERENCE, 1)

    assert seen.value("feature_missing_expected_ratio", feature="amount") == 0
    assert seen.value("feature_missing_expected_ratio", feature="shop") == 0.1
    assert seen.value("feature_unseen_category_expected_ratio", feature="shop") == 0.4
    assert seen.value("feature_unseen_category_expected_ratio", feature="amount") is None


def test_a_change_is_forgotten_when_it_is_over_for_longer_than_the_window() -> None:
    seen = Seen(window_s=3_600)
    seen.add(REFERENCE, 2_000, amount=2_000)
    high = seen.value("feature_drift_psi", feature="amount") or 0

    for _ in range(26):
        seen.add(REFERENCE, 2_000, after_s=150)

    assert high > 1
    assert seen.value("feature_drift_psi", feature="amount") == 0


@given(st.lists(st.tuples(st.floats(-1e5, 3e5), st.integers(1, 3_000)), min_size=1, max_size=60))
def test_a_window_is_bounded_and_has_its_time_and_its_records(batches: list[tuple[float, int]]) -> None:
    window, now_s, newest_s = DriftWindow(DAY_S), 0.0, -math.inf
    added: list[tuple[float, int]] = []
    for step_s, records in batches:
        now_s += step_s
        newest_s = max(newest_s, now_s)
        window.add(np.array([records]), records, now_s)
        added.append((newest_s, records))

    last_day = sum(records for time_s, records in added if time_s >= newest_s - DAY_S)
    total = sum(records for _, records in added)
    assert window.counts.tolist() == [window.records]
    assert len(window._blocks) <= 26
    assert last_day <= window.records <= total
    assert window.records >= min(total, LEAST_RECORDS)


def test_a_full_window_is_longer_than_asked_for_by_at_most_a_block() -> None:
    window = DriftWindow(DAY_S)

    for minute in range(3 * 1_440):
        window.add(NO_COUNTS, 100, 60.0 * minute)

    assert DAY_S <= window.span_s <= DAY_S * 25 / 24


def long_stream(*values: bytes) -> list[bytes]:
    return [*values] * (1 + 1_200 // len(values))


def test_a_worker_shows_which_feature_of_its_stream_drifts(models: Path) -> None:
    bench = Bench(models)
    bench.produce(*long_stream(*(message(n, amount=500.0) for n in range(50))))

    bench.drain()

    assert bench.count("feature_drift_psi", feature="amount") > 1
    assert bench.count("feature_drift_psi", feature="shop.kind") < 0.25
    assert bench.count("score_drift_psi") > 0.25
    assert next(iter(bench.status.drift["features_psi"])) == "amount"
    assert bench.count("drift_window_records") == bench.outcomes()["normal"] + bench.outcomes()["alert"]


def test_no_value_of_the_stream_is_in_the_metrics_or_the_status(models: Path) -> None:
    bench = Bench(models)
    bench.produce(*long_stream(message(1, shop__kind="zoo", card__limit=4_242.5), message(2)))

    bench.drain()

    shown = generate_latest(bench.metrics.registry).decode() + str(bench.status.snapshot()["drift"])
    assert "drift_psi{feature=" in shown
    assert not any(value in shown for value in ("zoo", "grocery", "4242.5", "999.99", "1500.0"))


def test_what_is_given_back_is_not_counted_twice(models: Path) -> None:
    bench = Bench(models)
    bench.produce(*long_stream(*(message(n) for n in range(50))))
    bench.cluster.fail("ack", kafka_errors.KafkaTimeoutError())

    bench.drain()

    assert bench.count("records_returned_total", topic="payments") > 0
    assert bench.count("drift_window_records") == sum(bench.outcomes().values())


def test_a_model_that_takes_over_starts_the_window_anew(tmp_path: Path) -> None:
    fitted = fitted_detector()
    registry = ModelDirectory(publish_models(tmp_path) / "payments")
    bench = Bench(tmp_path)
    models = Models(tmp_path, None, clock=bench.clock, metrics=bench.metrics)
    models.refresh()
    models.swap()
    bench.produce(*long_stream(*(message(n, amount=500.0) for n in range(50))))
    worker = bench.worker(models=models)
    worker.run()
    before = bench.count("drift_window_records")

    facts = fitted.facts | {"fitted_at": "2026-04-01T00:00:00+00:00"}
    again = Detector(
        fitted.stream, fitted.encoder, fitted.scorer, fitted.threshold, fitted.normal_scores,
        reference=fitted.reference, facts=facts,
    )  # fmt: skip
    registry.publish(again, promote=True)
    models.refresh()
    bench.produce(*(message(n) for n in range(70)))
    bench.stop.turns = 20
    worker.run()

    assert before > LEAST_RECORDS
    assert bench.count("drift_window_records") == 70
    assert math.isnan(bench.count("score_drift_psi"))
