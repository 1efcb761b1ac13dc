"""Thresholds that follow and entities that are quiet: the same alerts whatever happens to the workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector import Detector, ModelDirectory, Threshold, unpack_alert_state
from tests.odd_cards import following, values
from tests.payments import decoded
from tests.worker.bench import Bench
from tests.worker.lives import EVICTED, FAULTS, STATE, RememberingBench, live, live_through, remembering_bench
from worker.models import Models

RECORDS = 330


def offline(found: list[bytes | None], detector: Detector) -> dict[int, tuple[str, float]]:
    """Verdict and score ratio of each record in one go."""
    records = decoded(found, detector.stream)
    state = None if detector.history is None else [detector.history.new_state()]
    verdicts, _ = detector.judge(records, state, explanations=False)
    said = np.full(len(records), "normal", object)
    said[verdicts.alerts], said[verdicts.suppressed] = "alert", "suppressed"
    assert records.ids is not None
    return {
        int(number): (verdict, ratio)
        for number, verdict, ratio in zip(records.ids.tolist(), said.tolist(), verdicts.ratios.tolist(), strict=True)
    }


def told(bench: Bench) -> dict[int, tuple[str, float]]:
    """Verdict and score ratio of each record on the score topic; a repeat has to be equal."""
    found: dict[int, tuple[str, float]] = {}
    for each in bench.cluster.messages("payments.scores"):
        content = json.loads(each.value or b"")
        verdict = (content["verdict"], content["score_ratio"])
        assert found.setdefault(int(content["record_id"]), verdict) == verdict
    return found


@pytest.fixture(scope="module", params=[True, False], ids=["with history", "without history"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The models of a worker that has loaded them."""
    root = tmp_path_factory.mktemp("following")
    detector = following(remembers=request.param)
    ModelDirectory(root / detector.name).publish(detector)
    return ready(root)


def ready(root: Path) -> Models:
    bench = Bench(root)
    models = Models(root, None, clock=bench.clock, metrics=bench.metrics)
    models.refresh()
    assert models.swap()
    return models


def bench_of(models: Models, **changes: Any) -> RememberingBench:
    return remembering_bench(models._root, **changes)


def test_the_stream_of_these_tests_alerts_suppresses_and_moves_its_threshold() -> None:
    said = offline(values(RECORDS), following())

    counts = {verdict: sum(each == verdict for each, _ in said.values()) for verdict in ("alert", "suppressed")}
    assert counts["alert"] >= 5
    assert counts["suppressed"] >= 5
    records = decoded(values(RECORDS), following().stream)
    verdicts, _ = following().judge(records, explanations=False)
    assert len(set(verdicts.thresholds.tolist())) >= 3


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=st.lists(
        st.tuples(st.lists(st.sampled_from([None, EVICTED, *FAULTS]), max_size=6), st.integers(5, 40)), max_size=4
    ),
    batch_records=st.integers(2, 40),
    commit_interval_s=st.sampled_from([0.0, 1.0, 1000.0]),
    rotation_s=st.sampled_from([0.5, 4.0, 1000.0]),
    has_topic=st.booleans(),
    delivery=st.sampled_from(["at_least_once", "exactly_once"]),
)
def test_no_fault_and_no_crash_changes_an_alert(
    loaded: Models, lives: list[tuple[list[str | None], int]], batch_records: int,
    commit_interval_s: float, rotation_s: float, has_topic: bool, delivery: str,
) -> None:  # fmt: skip
    bench = bench_of(
        loaded, max_batch_records=batch_records, commit_interval_s=commit_interval_s, state={"rotation_s": rotation_s},
        delivery=delivery, transaction_timeout_s=2000,
    )  # fmt: skip
    bench.state_topic = STATE if has_topic else None
    coming = iter(values(RECORDS))
    live_through(bench, loaded, coming, lives, turns=250)

    assert loaded.current is not None
    assert told(bench) == offline(values(RECORDS), loaded.current.detector)
    assert bench.committed == RECORDS
    if delivery == "exactly_once":
        assert len(bench.cluster.messages("payments.scores")) == RECORDS


def test_suppressed_records_are_counted_with_their_rule_and_the_next_alert_tells_them(loaded: Models) -> None:
    assert loaded.current is not None
    bench = bench_of(loaded)
    bench.produce(*values(RECORDS))

    live(bench, loaded, iter([]), turns=40)

    said = offline(values(RECORDS), loaded.current.detector)
    suppressed = sum(verdict == "suppressed" for verdict, _ in said.values())
    assert bench.count("records_suppressed_total", reason="quiet_card") == suppressed
    assert sum(bench.outcomes().values()) == RECORDS
    before = [alert.suppressed_before for alert in bench.alerts if alert.suppressed_before is not None]
    assert before
    assert all(each.suppressed_count >= 1 for each in before)
    assert all(each.first_seen is not None and each.first_seen <= each.last_seen for each in before)  # type: ignore[operator]


def test_what_a_new_owner_begins_with_needs_no_old_input(loaded: Models) -> None:
    assert loaded.current is not None
    bench = bench_of(loaded, max_batch_records=20, state={"rotation_s": 0.5})
    coming = iter(values(RECORDS))
    live(bench, loaded, coming, turns=50)
    bench.cluster.trim("payments", 0, before=bench.committed)

    live(bench, loaded, coming, turns=120)

    assert bench.committed == RECORDS
    assert told(bench) == offline(values(RECORDS), loaded.current.detector)


def test_records_are_judged_again_by_the_version_that_judged_them(tmp_path: Path) -> None:
    """The version that comes finds nothing odd; what the one before found keeps its cards quiet all the same."""
    root = tmp_path / "models"
    detector = following()
    ModelDirectory(root / detector.name).publish(detector)
    bench = remembering_bench(root, max_batch_records=10, commit_interval_s=1000, state={"rotation_s": 1000})
    # The state is written at the first commit, before any odd record; the odd ones follow it.
    bench.produce(*values(3))
    live(bench, ready(root), iter([]), turns=10)
    written = len(bench.cluster.messages(STATE))
    bench.state_topic = None
    bench.produce(*values(60, start=3))
    live(bench, ready(root), iter([]), turns=30)
    bench.state_topic = STATE
    quiet = [alert.record_id for alert in bench.alerts]
    deaf = Detector(
        detector.stream, detector.encoder, detector.scorer, _raised(detector), detector.normal_scores,
        history=detector.history, facts=detector.facts | {"fitted_at": "2026-03-14T09:26:53+00:00"},
    )  # fmt: skip
    ModelDirectory(root / detector.name).publish(deaf, promote=True)

    live(bench, ready(root), iter(values(1, start=63)), turns=30)

    assert written > 0
    assert len(quiet) >= 2
    last = [each for each in bench.cluster.messages(STATE) if (each.key or b"").endswith(b"/alerts")][-1]
    state, _ = unpack_alert_state(last.value or b"")
    assert set(state.quiets) == {f"card-{int(number or 0) % 50}" for number in quiet}
    assert state.window is not None
    assert state.window.threshold > 1e6


def _raised(detector: Detector) -> Threshold:
    return replace(detector.threshold, value=1e9)


def test_another_version_waits_until_no_batch_is_held_that_could_take_alerts_back(loaded: Models) -> None:
    assert loaded.current is not None
    bench = bench_of(loaded, max_batch_records=5, poison={"max_consecutive": 10, "max_ratio": 1})
    bench.produce(*values(6), *[b"poison"] * 4)  # a batch that ends in a long run of dead letters is held
    worker = bench.worker(turns=1, models=loaded)
    answers: list[bool] = []
    finish = worker._finish_held

    def ask_and_finish() -> None:
        answers.append(bool(worker._held) and worker._remembers_enough(loaded.current))  # type: ignore[arg-type]
        finish()

    worker._finish_held = ask_and_finish  # type: ignore[method-assign]
    bench.stop.turns = 12
    worker.run()
    bench.source.close()

    assert bench.committed == 10
    assert answers
    assert not any(answers)
