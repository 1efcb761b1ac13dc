"""Simulated payments as files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from demo.files import write_days
from demo.payments import SCHEMA
from demo.simulator import Simulator


def expected() -> pa.Table:
    return pa.concat_tables([day.table() for day in Simulator(seed=1, customers=100).days(0, 3)])


def written(path: Path) -> Path:
    assert write_days(path, Simulator(seed=1, customers=100).days(0, 3)) == expected().num_rows
    return path


def test_parquet_holds_every_payment_of_every_day(tmp_path: Path) -> None:
    assert pq.read_table(written(tmp_path / "history.parquet")).equals(expected())


def test_csv_holds_every_payment_of_every_day(tmp_path: Path) -> None:
    types = pa_csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True)

    assert pa_csv.read_csv(written(tmp_path / "history.csv"), convert_options=types).equals(expected())


def test_json_lines_hold_every_payment_of_every_day(tmp_path: Path) -> None:
    lines = written(tmp_path / "history.jsonl").read_bytes().splitlines()

    assert pa.Table.from_pylist([msgspec.json.decode(line) for line in lines], schema=SCHEMA).equals(expected())


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names no format"):
        write_days(tmp_path / "new" / "history.xlsx", [])

    assert list(tmp_path.iterdir()) == []
