"""README says what the code says: its tables of settings and metrics are those that the code makes."""

from __future__ import annotations

import pytest

from worker.docs import README, TABLES, table_in, with_tables


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_table_in_the_readme_is_the_one_of_the_code(name: str) -> None:
    written = table_in(README.read_text(encoding="utf-8"), name)

    assert written is not None, f"README.md has no <!-- {name} --> ... <!-- /{name} -->"
    assert written == TABLES[name](), "run python -m worker.docs"


def test_writing_the_tables_again_changes_nothing() -> None:
    text = with_tables(README.read_text(encoding="utf-8"))

    assert with_tables(text) == text


def test_text_outside_the_markers_is_kept() -> None:
    text = with_tables("before\n<!-- metrics -->\na stale row\n<!-- /metrics -->\nafter\n")

    assert text.startswith("before\n<!-- metrics -->\n")
    assert text.endswith("<!-- /metrics -->\nafter\n")
    assert "a stale row" not in text
