"""Results of files of records, row by row, as a file of any format; it knows what a row is, not what is said of it."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detector import StreamDefinition
from trainer.datasets import FORMATS, Chunk, format_of
from trainer.errors import DataFileError, OutputError
from trainer.topics import PartitionRange

Write = Callable[[pa.Table], Any]

WRITABLE = {**FORMATS, ".npz": "npz"}
"""Formats that are written, by the file's suffix."""


@contextmanager
def writing(output: Path, schema: pa.Schema, inputs: Sequence[Path]) -> Iterator[Write]:
    """A file that takes tables of `schema`; it appears when it is complete, or not at all.

    Raises:
        OutputError: The output's suffix says no format, it is one of the inputs, or it cannot be written.
    """
    form = WRITABLE.get(output.suffix.lower())
    if form is None:
        raise OutputError(f"{output}: the suffix says no format that can be written: use one of {', '.join(WRITABLE)}")
    if any(output.resolve() == file.resolve() for file in inputs):
        raise OutputError(f"{output}: is one of the inputs: write to another file")
    with _replacing(output) as draft, _WRITERS[form](draft, schema) as write:
        yield write


# --- which record a row is ---


def origin_fields(stream: StreamDefinition, files: Sequence[Path], taken: Sequence[str]) -> dict[str, pa.Field]:
    """Columns that say which record a row is, by path: its id, key and event time, as far as they are not sensitive.

    Args:
        stream: What a record is.
        files: Where the records come from: fields that hold whole numbers there do so here; others are text.
        taken: Names of other columns; a field of such a name gets another.
    """
    whole = _integer_columns(files)
    kinds: dict[str, pa.DataType] = {}
    for path in (stream.id, stream.key):
        if path is not None:
            kinds[path] = pa.int64() if path in whole else pa.string()
    if stream.time is not None:
        kinds[stream.time.field] = pa.timestamp("us", "UTC")
    return {
        path: pa.field(f"{path}_field" if path in taken else path, kind)
        for path, kind in kinds.items()
        if not stream.is_sensitive(path)
    }


def origin_columns(stream: StreamDefinition, chunk: Chunk, fields: dict[str, pa.Field]) -> list[pa.Array]:
    """The columns of `origin_fields` for every row of a chunk, null in rows that are no records."""
    columns = []
    for path, field in fields.items():
        if stream.time is not None and path == stream.time.field:
            times = over_rows(chunk, chunk.records.event_times, np.datetime64("NaT", "us"))
            columns.append(pa.array(times, pa.timestamp("us")).cast(field.type))
        else:
            texts = over_rows(chunk, chunk.records.ids if path == stream.id else chunk.records.keys, None)
            columns.append(pa.array(texts, pa.string()).cast(field.type))
    return columns


PLACE = (pa.field("partition", pa.int32()), pa.field("offset", pa.int64()))
"""Columns that say which message of a topic a row is."""


def place_columns(chunk: Chunk) -> list[pa.Array]:
    """The columns of `PLACE` for every row of a chunk of a topic.

    Raises:
        TypeError: It is no chunk of a topic.
    """
    if not isinstance(chunk.origin, PartitionRange):
        raise TypeError(f"{chunk.origin} is no range of a topic")
    return [pa.array(np.full(len(chunk), chunk.origin.partition.number, np.int32)), pa.array(chunk.lines)]


def over_rows(chunk: Chunk, values: NDArray[Any] | None, absent: object) -> NDArray[Any]:
    """Values of a chunk's records (m,) as values of its rows (n,), `absent` in rows that are no records."""
    if values is None:
        return np.full(len(chunk), absent)
    spread = np.full(len(chunk), absent, values.dtype)
    spread[chunk.records.rows] = values
    return spread


def reasons_of(chunk: Chunk) -> NDArray[np.object_]:
    """Why each row of a chunk is no record, (n,); None where it is one."""
    reasons = np.full(len(chunk), None, object)
    for reject in chunk.rejects:
        reasons[reject.row] = reject.reason.value
    return reasons


def _integer_columns(files: Sequence[Path]) -> frozenset[str]:
    """Columns that hold whole numbers in all files; only Parquet says so."""
    found: frozenset[str] | None = None
    for file in files:
        if format_of(file) != "parquet":
            return frozenset()
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"{file}: cannot be read: {error}") from error
        # Of 64 bits without a sign, the largest would not fit: those stay text.
        here = frozenset(
            column.name for column in schema if pa.types.is_integer(column.type) and column.type != pa.uint64()
        )
        found = here if found is None else found & here
    return found or frozenset()


def hidden_fields(stream: StreamDefinition) -> frozenset[str]:
    """Which of id, key and event time are sensitive, or lie inside a sensitive object, and so are not written."""
    fields = (stream.id, stream.key, stream.time.field if stream.time else None)
    return frozenset(path for path in fields if path is not None and stream.is_sensitive(path))


# --- writers ---


@contextmanager
def _replacing(output: Path) -> Iterator[IO[bytes]]:
    """A file that takes `output`'s place when all went well, and leaves nothing behind when not."""
    draft = output.with_name(f".{output.name}.{secrets.token_hex(4)}")
    try:
        try:
            file = draft.open("xb")
        except OSError as error:
            raise OutputError(f"{output}: cannot be written: {error}") from error
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _parquet(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pq.ParquetWriter(file, schema) as writer:
        yield writer.write_table


@contextmanager
def _csv(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    with pa.csv.CSVWriter(file, _in_text(schema.empty_table()).schema) as writer:
        yield lambda table: writer.write_table(_in_text(table))


@contextmanager
def _jsonl(file: IO[bytes], _: pa.Schema) -> Iterator[Write]:
    encode = msgspec.json.Encoder().encode_lines

    def write(table: pa.Table) -> None:
        rows = _in_text(table).to_pylist()
        file.write(encode([{name: cell for name, cell in row.items() if cell is not None} for row in rows]))

    yield write


@contextmanager
def _npz(file: IO[bytes], schema: pa.Schema) -> Iterator[Write]:
    """Arrays by the column's name; NumPy reads them without pickle. All of them are in memory until the end."""
    parts: list[pa.Table] = []
    yield parts.append
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    # Not numpy.savez: to it, columns of some names are arguments.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in schema.names:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _as_array(table.column(name)), allow_pickle=False)


def _as_array(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as an array that needs no Python objects: missing text is empty, missing numbers and labels are NaN."""
    kind = column.type
    if pa.types.is_string(kind):
        return np.array([value or "" for value in column.to_pylist()], np.str_)
    if pa.types.is_fixed_size_list(kind):
        vectors = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
        matrix: NDArray[Any] = np.concatenate([np.empty(0, np.float32), *vectors]).reshape(len(column), kind.list_size)
        return matrix
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us"))
    elif (pa.types.is_boolean(kind) or pa.types.is_integer(kind)) and column.null_count:
        column = column.cast(pa.int8() if pa.types.is_boolean(kind) else kind).cast(pa.float64())
    array: NDArray[Any] = column.to_numpy()
    return array


def _in_text(table: pa.Table) -> pa.Table:
    """Times as ISO-8601 text, so that every reader of text understands them."""
    for position, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            text = pc.strftime(table.column(position), "%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(position, column.name, text)
    return table


_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], AbstractContextManager[Write]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "jsonl": _jsonl,
    "npz": _npz,
}
