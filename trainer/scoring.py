"""Scores files of records as the worker would score them as messages; rows in, rows out, in their order."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detector import Detector, Records, StreamDefinition
from trainer.datasets import CHUNK_RECORDS, FORMATS, Chunk, RejectExample, read_chunks
from trainer.errors import DataFileError, OutputError

RESULT_COLUMNS = ("score", "score_ratio", "verdict", "reason")

NON_FINITE_SCORE = "non_finite_score"
"""Reason of a record whose score is not a number: neither normal nor an alert."""

_EXAMPLES = 5


@dataclass
class ScoreSummary:
    """What became of the rows.

    Attributes:
        rows: Rows of the input, and of the output.
        verdicts: Rows by verdict; they sum to `rows`.
        reasons: Rejected rows by reason.
        examples: The first few of them.
    """

    rows: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[RejectExample] = field(default_factory=list)


def score_files(
    detector: Detector, files: Sequence[Path], output: Path, progress: Callable[[Chunk], None] | None = None
) -> ScoreSummary:
    """Score every row of some files into one file, chunk by chunk.

    The output has one row for each row of the input, in the same order: the fields that say which record it is (id,
    key and event time, as far as the stream has them and they are not sensitive), `score`, `score_ratio`,
    `verdict` (normal, alert or reject) and, of rejects, `reason`. It appears when it is complete, or not at all.

    Raises:
        DataFileError: A file cannot be read.
        OutputError: The output's suffix says no format, it is one of the inputs, or it cannot be written.
    """
    form = FORMATS.get(output.suffix.lower())
    if form is None:
        raise OutputError(f"{output}: the suffix says no format that can be written: use one of {', '.join(FORMATS)}")
    if any(output.resolve() == file.resolve() for file in files):
        raise OutputError(f"{output}: is one of the inputs: write to another file")
    schema = output_schema(detector.stream, _integer_columns(files))
    summary = ScoreSummary()
    with _replacing(output) as draft, _WRITERS[form](draft, schema) as write:
        for chunk in read_chunks(files, detector.stream, CHUNK_RECORDS):
            write(_judge(detector, chunk, schema, summary))
            if progress is not None:
                progress(chunk)
    return summary


def output_schema(stream: StreamDefinition, integers: AbstractSet[str] = frozenset()) -> pa.Schema:
    """Columns of the output: the record's id, key and event time, sensitive ones left out, and what it was judged.

    Args:
        stream: What a record is.
        integers: Fields that hold whole numbers in the input, and so do in the output; id and key are text otherwise.
    """
    fields: dict[str, pa.DataType] = {}
    for path in (stream.id, stream.key):
        if path is not None:
            fields[path] = pa.int64() if path in integers else pa.string()
    if stream.time is not None:
        fields[stream.time.field] = pa.timestamp("us", "UTC")
    shown = [
        (f"{path}_field" if path in RESULT_COLUMNS else path, kind)
        for path, kind in fields.items()
        if path not in hidden_fields(stream)
    ]
    result = [("score", pa.float64()), ("score_ratio", pa.float64()), ("verdict", pa.string()), ("reason", pa.string())]
    return pa.schema([*shown, *result])


def _integer_columns(files: Sequence[Path]) -> frozenset[str]:
    """Columns that hold whole numbers in all files; only Parquet says so."""
    found: frozenset[str] | None = None
    for file in files:
        if FORMATS[file.suffix.lower()] != "parquet":
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
    fields = {stream.id, stream.key, stream.time.field if stream.time else None} - {None}
    return frozenset(path for path in fields if path and stream.is_sensitive(path))


def _judge(detector: Detector, chunk: Chunk, schema: pa.Schema, summary: ScoreSummary) -> pa.Table:
    n = len(chunk)
    rows = chunk.records.rows
    scores = np.full(n, np.nan)
    judged, _ = detector.judge(chunk.records, explanations=False)
    scores[rows] = judged.scores
    verdicts = np.full(n, "reject", object)
    reasons = np.full(n, None, object)
    verdicts[rows] = "normal"
    verdicts[rows[judged.anomalies]] = "alert"
    for reject in chunk.rejects:
        reasons[reject.row] = reject.reason.value
        if len(summary.examples) < _EXAMPLES:
            line = int(chunk.lines[reject.row])
            summary.examples.append(RejectExample(chunk.file, line, reject.reason, reject.message))
    unscorable = rows[judged.unscorable]
    verdicts[unscorable], reasons[unscorable], scores[unscorable] = "reject", NON_FINITE_SCORE, np.nan
    summary.rows += n
    summary.verdicts.update(verdicts.tolist())
    summary.reasons.update(reason for reason in reasons.tolist() if reason is not None)
    columns = {
        "score": pa.array(scores, from_pandas=True),
        "score_ratio": pa.array(scores / detector.threshold.value, from_pandas=True),
        "verdict": pa.array(verdicts, pa.string()),
        "reason": pa.array(reasons, pa.string()),
    }
    origin = _origin(detector.stream, chunk.records)
    for name in schema.names[: -len(RESULT_COLUMNS)]:
        path = name if name in origin else name.removesuffix("_field")
        spread = np.full(n, None, object)
        spread[rows] = origin[path]
        kind = schema.field(name).type
        columns[name] = (
            pa.array(spread, pa.string()).cast(kind) if pa.types.is_integer(kind) else pa.array(spread, kind)
        )
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _origin(stream: StreamDefinition, records: Records) -> dict[str, NDArray[Any]]:
    """Values of the fields that say which record a row is, by path."""
    found: dict[str, NDArray[Any]] = {}
    if stream.id is not None and records.ids is not None:
        found[stream.id] = records.ids
    if stream.key is not None and records.keys is not None:
        found[stream.key] = records.keys
    if stream.time is not None and records.event_times is not None:
        found[stream.time.field] = records.event_times.astype(object)
    return found


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
def _parquet(file: IO[bytes], schema: pa.Schema) -> Iterator[_Write]:
    with pq.ParquetWriter(file, schema) as writer:
        yield writer.write_table


@contextmanager
def _csv(file: IO[bytes], schema: pa.Schema) -> Iterator[_Write]:
    with pa.csv.CSVWriter(file, _in_text(schema.empty_table()).schema) as writer:
        yield lambda table: writer.write_table(_in_text(table))


@contextmanager
def _jsonl(file: IO[bytes], _: pa.Schema) -> Iterator[_Write]:
    encode = msgspec.json.Encoder().encode_lines

    def write(table: pa.Table) -> None:
        rows = _in_text(table).to_pylist()
        file.write(encode([{name: cell for name, cell in row.items() if cell is not None} for row in rows]))

    yield write


def _in_text(table: pa.Table) -> pa.Table:
    """Times as ISO-8601 text, so that every reader of text understands them."""
    for position, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            text = pc.strftime(table.column(position), "%Y-%m-%dT%H:%M:%SZ")
            table = table.set_column(position, column.name, text)
    return table


_Write = Callable[[pa.Table], Any]
_WRITERS: dict[str, Callable[[IO[bytes], pa.Schema], AbstractContextManager[_Write]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "jsonl": _jsonl,
}
