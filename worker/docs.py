"""Rewrites what documentation says twice: README's tables of settings and metrics, and the JSON schema of an alert."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from worker.alerts import alert_schema
from worker.metrics import metrics_table
from worker.settings import settings_table

ROOT = Path(__file__).parent.parent
ALERT_SCHEMA = ROOT / "docs" / "alert.schema.json"
README = ROOT / "README.md"

TABLES: dict[str, Callable[[], str]] = {"settings": settings_table, "metrics": metrics_table}


def table_in(text: str, name: str) -> str | None:
    """What stands between `<!-- name -->` and `<!-- /name -->`, or None where the markers are missing."""
    match = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    return None if match is None else match[1].strip() + "\n"


def with_tables(text: str) -> str:
    """The text with each table between its markers made anew; text without markers stays as it is."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}\n{table()}\n{match[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def schema_text() -> str:
    """The JSON schema of an alert as it stands in `docs/`."""
    return json.dumps(alert_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    ALERT_SCHEMA.write_text(schema_text(), encoding="utf-8")
    if README.exists():
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
