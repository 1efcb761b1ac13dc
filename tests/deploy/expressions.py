"""What PromQL expressions ask for: metrics, labels and label values; whether they are valid is promtool's business."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from tests.deploy.files import tool, worker_metrics

SCRAPED_LABELS = {"job", "instance"}
"""What Prometheus adds to every series."""

_SELECTOR = re.compile(r"\b(offbeat_[a-z0-9_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without|group_left|group_right)\s*\(([^)]*)\)")


class Selector(NamedTuple):
    """One mention of a metric, with its matchers: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> Iterator[Selector]:
    """Every mention of a metric of ours."""
    for metric, matchers in _SELECTOR.findall(expression):
        yield Selector(metric, tuple(_MATCHER.findall(matchers)))


def complaints(expression: str) -> list[str]:
    """What the expression asks for that no worker ever shows: it would be silent, not wrong."""
    definitions, registry = worker_metrics()
    exposed = _label_values(registry)
    found = []
    known_labels = set(SCRAPED_LABELS)
    for metric, matchers in selectors(expression):
        family = metric if metric in definitions else re.sub(r"_(bucket|sum|count)$", "", metric)
        if family not in definitions or (family != metric and definitions[family].kind != "histogram"):
            found.append(f"{metric} is no metric of the worker")
            continue
        labels = {*definitions[family].labels, *(["le"] if metric.endswith("_bucket") else [])}
        known_labels |= labels
        for label, operator, value in matchers:
            if label not in labels | SCRAPED_LABELS:
                found.append(f"{metric} has no label {label}")
            elif (values := exposed.get((family, label))) and "$" not in value:
                wanted = value.split("|") if "~" in operator else [value]
                found += [f"{metric} never has {label}={each}" for each in wanted if each not in values]
    for group in _GROUPING.findall(expression):
        asked = {label.strip() for label in group.split(",") if label.strip()}
        found += [f"nothing in it has the label {label}" for label in sorted(asked - known_labels)]
    return found


def syntax_errors(expressions: Iterable[str], folder: Path) -> str:
    """What promtool says against the expressions, empty where nothing."""
    rules = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(expressions)]
    file = folder / "expressions.json"
    file.write_text(json.dumps({"groups": [{"name": "expressions", "rules": rules}]}), encoding="utf-8")
    answer = subprocess.run(
        [tool("promtool", "prometheus"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


def _label_values(registry: CollectorRegistry) -> dict[tuple[str, str], set[str]]:
    """The values of each label before anything happened: complete for closed sets, absent for open ones."""
    values: dict[tuple[str, str], set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            for label, value in sample.labels.items():
                if label != "le":
                    values.setdefault((name, label), set()).add(value)
    return values
