"""What a person would see in the columns of a sample of records: kinds, distinct values, gaps; it decides nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detector.tables import as_table
from detector.times import from_iso8601, from_naive
from trainer.datasets import CsvRows, format_of
from trainer.errors import DataFileError

Kind = Literal["number", "text", "truth", "time", "empty", "other"]

SAMPLE_RECORDS = 200_000
"""Records that are looked at, the first ones in order."""

#: Share of a column's values that must agree on a kind; the rest is dirt.
_MOST = 0.95

_PLAIN_NUMBER = re.compile(r"\s*-?(0|[1-9]\d{0,14})(\.\d+)?([eE][-+]?\d+)?\s*|\s*-?\.\d+\s*", re.ASCII)
_STARTS_LIKE_A_TIME = re.compile(r"\d{4}-?\d{2}-?\d{2}([T ]\d{2}:?\d{2}|$)", re.ASCII)


@dataclass(frozen=True)
class Column:
    """One field of the sampled records.

    Attributes:
        path: The field's name; dots reach into nested objects.
        kind: What its values are.
        values: Those of all rows: float64 for numbers (NaN missing), datetime64[us] in UTC for times (NaT missing),
            text, truth values or None otherwise, shape (n,).
        known: Which rows have a value, shape (n,).
        distinct: The different values and how often each occurs, the most frequent first.
        in_strings: The numbers were found inside strings.
        naive: The times have no offset.
    """

    path: str
    kind: Kind
    values: NDArray[Any]
    known: NDArray[np.bool_]
    distinct: tuple[NDArray[Any], NDArray[np.int64]]
    in_strings: bool = False
    naive: bool = False

    @property
    def count(self) -> int:
        """Rows with a value."""
        return int(self.known.sum())

    @property
    def values_known(self) -> NDArray[Any]:
        """The values of the rows that have one, in order."""
        return self.values[self.known]

    @property
    def whole(self) -> bool:
        """All values are whole numbers."""
        known = self.values_known
        return self.kind == "number" and bool(np.all(np.isfinite(known)) and np.all(known == np.floor(known)))

    @property
    def name_words(self) -> tuple[str, ...]:
        """The words of the field's name in lower case, those of all levels of the path, in order."""
        spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", self.path)
        return tuple(re.findall(r"[a-z0-9]+", spaced.lower()))

    @property
    def words(self) -> frozenset[str]:
        """The words of the field's name, without order."""
        return frozenset(self.name_words)


def sample_columns(files: Sequence[Path], most: int = SAMPLE_RECORDS) -> tuple[list[Column], int]:
    """The columns of the first records of some files, and how many records were looked at.

    Raises:
        DataFileError: A file cannot be read, or there is no record in any.
    """
    form = format_of(files[0])
    try:
        if form == "parquet":
            columns, n = _of_parquet(files, most)
        elif form == "csv":
            columns, n = _of_csv(files, most)
        else:
            columns, n = _of_jsonl(files, most)
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{files[0]}: cannot be read: {error}") from error
    if n == 0:
        raise DataFileError(f"{files[0]}: holds no record to propose a stream definition from")
    return columns, n


def table_columns(data: Any, most: int = SAMPLE_RECORDS) -> tuple[list[Column], int]:
    """The columns of a mapping of columns, a pandas or an Arrow table, and how many rows were looked at.

    Raises:
        TypeError: `data` is none of these.
    """
    table = as_table(data).slice(0, most)
    return _of_table(table), table.num_rows


def _of_parquet(files: Sequence[Path], most: int) -> tuple[list[Column], int]:
    parts: list[pa.Table] = []
    left = most
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=min(left, 65_536)):
                parts.append(pa.Table.from_batches([batch]).slice(0, left))
                left -= parts[-1].num_rows
                if left == 0:
                    break
        if left == 0:
            break
    table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    return _of_table(table), most - left


def _of_csv(files: Sequence[Path], most: int) -> tuple[list[Column], int]:
    cells: dict[str, list[str | None]] = {}
    n = 0
    for file in files:
        with file.open("r", encoding="utf-8-sig", errors="replace", newline="") as text:
            rows = CsvRows(file, text)
            while n < most and (taken := rows.take(min(65_536, most - n))):
                good = [row.cells for row in taken if row.problem is None]
                for position, name in enumerate(rows.header):
                    column = cells.setdefault(name, [None] * n)
                    column.extend(row[position] or None for row in good)
                n += len(good)
                for column in cells.values():
                    column.extend([None] * (n - len(column)))
    return [_of_texts(name, column, csv_cells=True) for name, column in cells.items() if name], n


def _of_jsonl(files: Sequence[Path], most: int) -> tuple[list[Column], int]:
    values: dict[str, list[Any]] = {}
    n = 0
    for record in islice(_objects(files), most):
        for path, value in _leaves(record):
            column = values.setdefault(path, [])
            column.extend([None] * (n - len(column)))
            column.append(value)
        n += 1
    for column in values.values():
        column.extend([None] * (n - len(column)))
    return [_of_json(path, column) for path, column in values.items() if path], n


def _objects(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines; a line that is none is passed over."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                try:
                    yield decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue


def _leaves(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for key, value in record.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        elif path not in seen:
            seen.add(path)
            yield path, value


def _of_json(path: str, values: list[Any]) -> Column:
    """A column of JSON scalars; the kind that nearly all of them have, values of another kind counting as missing."""
    found = [value for value in values if value is not None]
    if not found:
        return _column(path, "empty", np.full(len(values), None, object))
    for kind, types in (("truth", (bool,)), ("number", (int, float)), ("text", (str,))):
        fits = [isinstance(value, types) and isinstance(value, bool) == (kind == "truth") for value in values]
        if sum(fits) >= _MOST * len(found):
            kept = [value if fit else None for value, fit in zip(values, fits, strict=True)]
            if kind == "text":
                return _of_texts(path, kept, csv_cells=False)
            if kind == "number":
                return _column(path, "number", np.array([_float(value) for value in kept], np.float64))
            return _column(path, "truth", np.array(kept, object))
    if all(isinstance(value, (str, int)) for value in found):
        return _of_texts(path, [None if value is None else str(value) for value in values], csv_cells=False)
    return _column(path, "other", np.array([None if value is None else "" for value in values], object))


def _float(value: float | None) -> float:
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("nan")


def _of_texts(path: str, texts: list[str | None], *, csv_cells: bool) -> Column:
    """A column of text, of times in text, or of numbers in text."""
    known = [text for text in texts if text]
    if not known:
        return _column(path, "empty", np.full(len(texts), None, object))
    first = known[: min(len(known), 1000)]
    if sum(_STARTS_LIKE_A_TIME.match(text) is not None for text in first) >= _MOST * len(first):
        times, bad = from_iso8601([text or None for text in texts], "UTC")
        if bad.sum() <= (1 - _MOST) * len(known):
            naive = all(re.search(r"[T ].*([Zz]|[-+]\d{2}:?\d{2})$", text) is None for text in first)
            return _column(path, "time", times, naive=naive)
    if csv_cells and sum(text.lower() in ("true", "false") for text in known) >= _MOST * len(known):
        truths = {"true": True, "false": False}
        return _column(path, "truth", np.array([truths.get((text or "").lower()) for text in texts], object))
    if sum(_PLAIN_NUMBER.fullmatch(text) is not None for text in known) >= _MOST * len(known):
        numbers = [float(text) if text and _PLAIN_NUMBER.fullmatch(text) else float("nan") for text in texts]
        return _column(path, "number", np.array(numbers, np.float64), in_strings=not csv_cells)
    return _column(path, "text", np.array([text or None for text in texts], object))


def _of_table(table: pa.Table) -> list[Column]:
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return [_of_arrow(name, table.column(position)) for position, name in enumerate(table.column_names) if name]


def _of_arrow(path: str, column: pa.ChunkedArray) -> Column:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind) or column.null_count == len(column):
        return _column(path, "empty", np.full(len(column), None, object))
    if pa.types.is_boolean(kind):
        return _column(path, "truth", np.array(column.to_pylist(), object))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False).to_numpy()
        return _column(path, "number", numbers.astype(np.float64))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        naive = not pa.types.is_timestamp(kind) or kind.tz is None
        times = column.cast(pa.timestamp("us", None if naive else "UTC"), safe=False).to_numpy()
        return _column(path, "time", from_naive(times, "UTC")[0], naive=naive)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _of_texts(path, column.to_pylist(), csv_cells=False)
    return _column(
        path, "other", np.array(["" if valid else None for valid in pc.is_valid(column).to_pylist()], object)
    )


def _column(path: str, kind: Kind, values: NDArray[Any], *, in_strings: bool = False, naive: bool = False) -> Column:
    if kind == "number":
        known = np.isfinite(values)
    elif kind == "time":
        known = ~np.isnat(values)
    else:
        known = np.array([value is not None for value in values], np.bool_)
    if not known.any():
        kind = "empty"  # numbers may be there and none of them finite
    found = values[known]
    different, counts = np.unique(found.astype(str) if found.dtype == object else found, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return Column(path, kind, values, known, (different[order], counts[order]), in_strings, naive)
