"""Three payments with an entity, a label and a nested field, and rows as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector import StreamDefinition

PAYMENTS = StreamDefinition.from_toml("""
name = "payments"
id = "id"
key = "card"
[time]
field = "at"
[label]
field = "fraud"
[[feature]]
kind = "number"
field = "amount"
[[feature]]
kind = "category"
field = "shop.kind"
""")

ROWS: list[dict[str, Any]] = [
    {"id": "a", "card": 1, "at": "2024-05-01T10:00:00", "fraud": 0, "amount": 5.5, "shop": {"kind": "food"}},
    {"id": "b", "card": 2, "at": "2024-05-01T11:00:00", "fraud": 1, "amount": None, "shop": {"kind": None}},
    {"id": "c", "card": 1, "at": "2024-05-01T12:00:00", "fraud": 0, "amount": 7.25, "shop": {"kind": "fuel"}},
]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """Rows, or lines that are none, as a JSONL file."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path
