"""A sensitive value leaves the worker in no alert, score, header, metric, status or log line, whatever it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from tests.planted import PLANTED, found_in, planted_payments
from tests.worker.bench import Bench, publish_models


def test_sensitive_values_of_good_odd_and_broken_records_are_in_nothing_that_the_worker_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(publish_models(tmp_path))
    bench.produce(*planted_payments())

    bench.drain()

    outcomes = bench.outcomes()
    assert outcomes["alert"] >= 4
    assert outcomes["dead_letter"] >= 13
    outputs = {
        "alerts": [message.value for message in bench.cluster.messages("payments.alerts")],
        "scores": [message.value for message in bench.cluster.messages("payments.scores")],
        "headers": [header for message in bench.dead_letters for header in message.headers],
        "metrics": generate_latest(bench.metrics.registry),
        "status": json.dumps(bench.status.snapshot()),
        "log": caplog.text,
    }
    assert {name: found for name, content in outputs.items() if (found := found_in(str(content)))} == {}
    assert outputs["headers"]
    # The dead letter itself is what came, or nobody could mend it.
    assert found_in(str([message.value for message in bench.dead_letters])) == list(PLANTED[:3])


def test_a_bug_that_carries_a_record_is_told_by_its_kind_alone_in_the_status(tmp_path: Path) -> None:
    bench = Bench(publish_models(tmp_path))
    worker = bench.worker()

    worker._failed(RuntimeError("cannot work with PLANTED"))

    assert bench.status.last_error == "RuntimeError"
