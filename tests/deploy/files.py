"""The files under test here, parsed; what they should say is the tests' business."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from worker.metrics import MetricDefinition, WorkerMetrics

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"


def parsed(path: Path) -> Any:
    """A YAML file's content."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def alert_rules() -> dict[str, dict[str, Any]]:
    """Every alert rule by its name."""
    rules = [rule for group in parsed(ALERTS)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules), "two alerts have the same name"
    return {rule["alert"]: rule for rule in rules}


def dashboard() -> dict[str, Any]:
    """The one dashboard."""
    content: dict[str, Any] = json.loads((DASHBOARDS / "offbeat.json").read_text(encoding="utf-8"))
    return content


def worker_metrics() -> tuple[dict[str, MetricDefinition], CollectorRegistry]:
    """What the worker exposes: the definitions by name, and a registry in which every closed set shows its zeros."""
    registry = CollectorRegistry()
    return {definition.name: definition for definition in WorkerMetrics(registry).definitions}, registry


def tool(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, or fails where CI should have installed it."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not on this machine: apt-get install {package}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
