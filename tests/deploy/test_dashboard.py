"""The dashboard asks for what the worker shows, from any data source, and every panel says what it means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.expressions import complaints, syntax_errors
from tests.deploy.files import ROOT, alert_rules, dashboard, parsed

PANELS: list[dict[str, Any]] = dashboard()["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for panel in CHARTS:
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in dashboard()["annotations"]["list"])


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_the_dashboard_asks_only_for_what_a_worker_shows(expression: str) -> None:
    assert complaints(expression) == []


@pytest.mark.parametrize("name", sorted(alert_rules()))
def test_an_alert_rule_asks_only_for_what_a_worker_shows(name: str) -> None:
    assert complaints(alert_rules()[name]["expr"]) == []


@pytest.mark.parametrize(
    "expression",
    [
        "offbeat_no_such_metric",
        'rate(offbeat_records_total{outcome="alerted"}[5m])',
        'rate(offbeat_records_total{outcome=~"normal|alerted"}[5m])',
        'offbeat_threshold{outcome="alert"}',
        "sum by (severity) (offbeat_records_total)",
        "offbeat_threshold_bucket",
    ],
)
def test_what_no_worker_shows_is_noticed(expression: str) -> None:
    assert complaints(expression) != []


def test_prometheus_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    values = {"$__rate_interval": "1m", "$job": "offbeat", "$instance": ".*"}
    plain = [re.sub(r"\$\w+", lambda name: values[name[0]], expression) for expression in expressions()]

    assert syntax_errors(plain, tmp_path) == ""


@pytest.mark.parametrize("panel", CHARTS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_means_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    if panel["type"] != "heatmap":
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_every_query_goes_to_the_data_source_that_is_chosen_above() -> None:
    sources = [item["datasource"] for panel in CHARTS for item in (panel, *panel["targets"])]
    sources += [annotation["datasource"] for annotation in dashboard()["annotations"]["list"]]
    sources += [variable["datasource"] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]

    assert {source["uid"] for source in sources} == {"${datasource}"}


def test_panels_have_ids_of_their_own_and_do_not_lie_over_each_other() -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in PANELS]

    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(place["x"] + place["w"] <= 24 for _, place in places)
    for (one, a), (other, b) in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y, f"{one} lies over {other}"


def test_the_dashboard_keeps_its_address_and_is_what_grafana_opens_with() -> None:
    grafana = parsed(ROOT / "docker-compose.yml")["services"]["grafana"]
    provider = parsed(ROOT / "deploy/grafana/provisioning/dashboards/offbeat.yml")["providers"][0]
    folder = provider["options"]["path"]

    assert dashboard()["uid"] == "offbeat-worker"
    assert f"./deploy/grafana/dashboards:{folder}:ro" in grafana["volumes"]
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/offbeat.json"
    assert (ROOT / "deploy/grafana/dashboards/offbeat.json").exists()


def test_grafana_reads_from_the_prometheus_of_the_compose_file() -> None:
    source = parsed(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    chosen = next(v for v in dashboard()["templating"]["list"] if v["type"] == "datasource")

    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in parsed(ROOT / "docker-compose.yml")["services"]
    assert chosen["current"]["value"] == source["uid"]
