"""What the worker exposes, read by Prometheus' own tool."""

from __future__ import annotations

import subprocess

from prometheus_client import generate_latest

from tests.deploy.files import tool, worker_metrics


def test_prometheus_finds_nothing_to_criticise_in_what_the_worker_exposes() -> None:
    promtool = tool("promtool", "prometheus")

    said = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(worker_metrics()[1]), capture_output=True, check=False
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
