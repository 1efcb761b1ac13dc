"""Simulated payments as files: Parquet, CSV or JSONL, written day by day; knows nothing of topics."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from demo.payments import SCHEMA, LabelledPayments

SUFFIXES = (".parquet", ".csv", ".jsonl")


def write_days(path: Path, days: Iterable[LabelledPayments]) -> int:
    """Write the days, labels included, to a file in the format that its suffix names; return the number of payments.

    Holds one day in memory at a time.

    Raises:
        ValueError: The suffix is not one of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: its suffix names no format that can be written: use {', '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        return _write_lines(path, days)
    written = 0
    make = pq.ParquetWriter if path.suffix == ".parquet" else pa_csv.CSVWriter
    with make(str(path), SCHEMA) as writer:
        for day in days:
            table: pa.Table = day.table()
            writer.write_table(table)
            written += table.num_rows
    return written


def _write_lines(path: Path, days: Iterable[LabelledPayments]) -> int:
    written = 0
    with path.open("wb") as file:
        for day in days:
            messages = day.messages()
            file.writelines(message + b"\n" for message in messages)
            written += len(messages)
    return written
