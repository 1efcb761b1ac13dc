"""A small stream of card payments, as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: A card's number is sensitive and on no record shown; the rest is like a real stream, small.
STREAM_TOML = """
name = "payments"
id = "id"
key = "card"
echo = ["id", "amount"]
sensitive = ["pin"]
[time]
field = "at"
[label]
field = "is_fraud"
[threshold]
false_alarm_rate = 0.02
[[feature]]
kind = "number"
field = "amount"
log = true
[[feature]]
kind = "number"
field = "fee"
[[feature]]
kind = "category"
field = "pin"
min_count = 2
[[feature]]
kind = "time"
field = "at"
parts = ["hour"]
"""


def payments(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Payments every ten minutes whose fee is a hundredth of the amount; of a fraud it is a tenth."""
    rng = np.random.default_rng(seed)
    amounts = np.exp(rng.normal(3, 1, n)).round(2)
    rows = []
    for row, amount in enumerate(amounts.tolist()):
        fraud = row % 25 == 24
        moment = np.datetime64("2024-05-01T00:00:00") + np.timedelta64(10 * row, "m")
        rows.append(
            {
                "id": f"p{row:05}",
                "card": row % 40,
                "at": str(moment),
                "amount": amount,
                "fee": round(amount / 100 if not fraud else amount / 10, 4),
                "pin": f"secret-{row % 3}",
                "is_fraud": int(fraud),
            }
        )
    return rows


@pytest.fixture(scope="session")
def payments_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with payments.jsonl (600 records) and stream.toml."""
    directory = tmp_path_factory.mktemp("payments")
    (directory / "payments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in payments(600)))
    (directory / "stream.toml").write_text(STREAM_TOML)
    return directory
