"""A worker on a real broker, scraped by a real Prometheus with the configuration that we ship."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.processes import OwnProcess, free_port
from tests.deploy.files import ALERTS, PROMETHEUS, alert_rules, parsed, tool
from tests.kafka.streams import Stream, payments


class Prometheus:
    """Debian's Prometheus with our scrape file, pointed at one worker."""

    def __init__(self, directory: Path, worker_port: int) -> None:
        self.port = free_port()
        configuration = parsed(PROMETHEUS / "prometheus.yml")
        configuration["global"] = {
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "500ms",
        }
        configuration["rule_files"] = [str(ALERTS)]
        for job in configuration["scrape_configs"]:
            port = worker_port if job["job_name"] == "offbeat" else self.port
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        command = [
            tool("prometheus", "prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip
        self.process = OwnProcess("prometheus", command, directory / "prometheus.log")

    def get(self, path: str, **query: str) -> Any:
        """The data that its API answers with, None while it does not."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            self.process.check()
            return None

    def value(self, query: str) -> float | None:
        """The one value of an instant query, None while there is none."""
        data = self.get("query", query=query)
        results = data["result"] if data else []
        return float(results[0]["value"][1]) if len(results) == 1 else None

    def wait_for(self, ready: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Return when `ready` says so."""
        until = time.monotonic() + timeout_s
        while not ready():
            assert time.monotonic() < until, f"no {what} within {timeout_s:g} s; {self.process.last_words()}"
            time.sleep(0.1)


@pytest.fixture
def prometheus_of(tmp_path: Path) -> Iterator[Callable[[int], Prometheus]]:
    started: list[Prometheus] = []

    def start(worker_port: int) -> Prometheus:
        started.append(Prometheus(tmp_path, worker_port))
        return started[-1]

    yield start
    for prometheus in started:
        prometheus.process.stop(timeout_s=10)


def test_prometheus_sees_every_record_and_judges_every_rule_of_a_running_worker(
    stream: Stream, prometheus_of: Callable[[int], Prometheus]
) -> None:
    stream.publish([*payments(400), b"not json"])
    with stream.worker() as worker:
        worker.wait_until_accounted(401)
        prometheus = prometheus_of(worker.port)
        prometheus.wait_for(lambda: prometheus.value("sum(offbeat_records_total)") == 401, "401 outcomes")

        assert prometheus.value("sum(offbeat_records_consumed_total)") == 401
        assert prometheus.value("offbeat_records_unaccounted") == 0
        assert prometheus.value('sum(offbeat_dead_letters_total{reason="not_json"})') == 1
        assert prometheus.value("sum(offbeat_alerts_total)") == worker.outcomes()["alert"]
        assert prometheus.value('up{job="offbeat"}') == 1

        def rules() -> dict[str, str]:
            data = prometheus.get("rules") or {"groups": []}
            return {rule["name"]: rule["health"] for group in data["groups"] for rule in group["rules"]}

        prometheus.wait_for(lambda: "unknown" not in rules().values(), "judgement of every rule")
        assert rules() == dict.fromkeys(alert_rules(), "ok")
        assert worker.stop() == 0
