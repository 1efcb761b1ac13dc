"""Sources of records to decoded columns, chunk by chunk and in order; it knows no network and no broker."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detector import Decoder, Messages, Records, Reject, RejectReason, StreamDefinition, decode_table
from detector.decode import Role, roles_of
from detector.stream import LabelField, NumberFeature
from trainer.errors import DataFileError
from trainer.image_files import image_chunks, is_idx

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Formats that are read, by the file's suffix."""

CHUNK_RECORDS = 32_768
"""Most records that are read before they are decoded."""

CHUNK_BYTES = 32_000_000
"""Most bytes of text that are read before they are decoded."""


class ChunkSource(Protocol):
    """What rows come from that is no file: a range of a topic's partition."""

    @property
    def name(self) -> str:
        """What people call it."""

    def chunks(self, stream: StreamDefinition, chunk_records: int) -> Iterator[Chunk]:
        """Read and decode its rows in order."""


Source = Path | ChunkSource
"""Where rows come from."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one source, decoded.

    Attributes:
        origin: Where they come from.
        lines: Line of a text file, or row of a Parquet file, of each row of the chunk, counted from 1; of a topic, its
            offset; shape (n,).
        records: Rows that are records; `records.rows` are positions in the chunk.
        rejects: Rows that are none; `reject.row` is a position in the chunk.
    """

    origin: Source
    lines: NDArray[np.int64]
    records: Records
    rejects: list[Reject]

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class RejectExample:
    """One row that is not a record, for people; the message never repeats a value of the row."""

    origin: Source
    line: int
    reason: RejectReason
    message: str


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The data files behind files and directories: in the order given, within a directory sorted by name.

    Hidden files and folders (a name that begins with a dot or underscore) are passed over, as are subdirectories.

    Raises:
        DataFileError: A path does not exist, a directory holds no data file, or the files are of several formats.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.is_file() and file.name[0] not in "._")
            if not inside:
                raise DataFileError(
                    f"{path}: the directory holds no data file: put Parquet, CSV or JSONL files into it"
                )
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise DataFileError(f"{path}: no such file or directory")
    formats = {file: format_of(file) for file in files}
    for file, form in formats.items():
        if form is None:
            raise DataFileError(
                f"{file}: {f'the suffix {file.suffix!r}' if file.suffix else 'a name without suffix'} says no format "
                f"that can be read: use one of {', '.join(FORMATS)}"
            )
        if form != formats[files[0]]:
            raise DataFileError(
                f"{file}: the data mixes {form} with {formats[files[0]]} ({files[0].name}), "
                "and a record would be read in two ways: give files of one format"
            )
    if not files:
        raise DataFileError("no data file was given")
    return files


def format_of(file: Path) -> str | None:
    """How a file is read, by its name, or None where that says nothing."""
    return "idx" if is_idx(file) else FORMATS.get(file.suffix.lower())


def read_chunks(
    sources: Sequence[Source], stream: StreamDefinition, chunk_records: int = CHUNK_RECORDS
) -> Iterator[Chunk]:
    """Read and decode files, or ranges of a topic, in order; every row of each is in exactly one chunk.

    Only the fields that the stream names are read. A JSONL line goes through the same decoder as a message's value;
    a table's row through `decode_table`, with the same outcome. In CSV an empty cell is a missing value, and
    cells of number fields are numbers.

    Raises:
        DataFileError: A file cannot be read at all.
    """
    files = [source for source in sources if isinstance(source, Path)]
    if stream.image is not None and stream.image.field is None and (rows := [f for f in files if not is_idx(f)]):
        raise DataFileError(
            f"{rows[0]}: holds rows, and values of stream {stream.name!r} are images themselves: give idx files, or "
            'say in which field of a row the image is, as in field = "image"'
        )
    for source in sources:
        if not isinstance(source, Path):
            yield from source.chunks(stream, chunk_records)
            continue
        reader = _READERS[format_of(source) or ""]
        try:
            yield from reader(source, stream, chunk_records)
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"{source}: cannot be read: {error}") from error


def _read_idx(file: Path, stream: StreamDefinition, chunk_records: int) -> Iterator[Chunk]:
    for lines, records in image_chunks(file, stream, chunk_records):
        yield Chunk(file, lines, records, [])


def _read_parquet(file: Path, stream: StreamDefinition, chunk_records: int) -> Iterator[Chunk]:
    with pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        _check_columns(file, stream, names)
        columns = [path for path in stream.paths if path in names or path.split(".")[0] in names]
        first = 0
        for batch in parquet.iter_batches(batch_size=chunk_records, columns=columns):
            records, rejects = decode_table(stream, pa.Table.from_batches([batch]), first_row=first)
            yield Chunk(file, np.arange(first + 1, first + 1 + len(batch)), records, rejects)
            first += len(batch)


def _check_columns(file: Path, stream: StreamDefinition, names: Sequence[str]) -> None:
    """Refuse a table without a field of the stream; only the label and the time of arrival may be absent."""
    optional = (stream.label and stream.label.field, stream.time and stream.time.arrival)
    known = {*names, *(path for path in stream.paths if path.split(".")[0] in names)}
    absent = [path for path in stream.paths if path not in optional and path not in known]
    if absent:
        raise DataFileError(
            f"{file}: has no column {_few(absent)}, which stream {stream.name!r} reads: give data with it, or "
            f"remove it from the stream definition (columns here: {_few(names, 30)})"
        )


def _read_jsonl(file: Path, stream: StreamDefinition, chunk_records: int) -> Iterator[Chunk]:
    decoder = Decoder(stream)
    first = 1
    with file.open("rb") as lines:
        values: list[bytes] = []
        size = 0
        for value in _bounded_lines(lines, stream.max_record_bytes):
            values.append(value)
            size += len(value)
            if len(values) >= chunk_records or size >= CHUNK_BYTES:
                yield _decode_lines(file, decoder, Messages(values, first - 1))
                first, values, size = first + len(values), [], 0
        if values:
            yield _decode_lines(file, decoder, Messages(values, first - 1))


def _decode_lines(file: Path, decoder: Decoder, lines: Messages) -> Chunk:
    records, rejects = decoder.decode(lines)
    return Chunk(file, lines.offsets + 1, records, rejects)


def _bounded_lines(file: IO[bytes], most: int) -> Iterator[bytes]:
    """Lines without their end; of one that is longer than `most` bytes so much that it is seen to be too long."""
    while line := file.readline(most + 3):
        end = line
        while not end.endswith(b"\n") and (end := file.readline(1 << 20)):
            pass
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _read_csv(file: Path, stream: StreamDefinition, chunk_records: int) -> Iterator[Chunk]:
    with file.open("r", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        table = CsvRows(file, text)
        typed = _CsvTyping(stream)
        _check_columns(file, stream, table.header)
        wanted = [(position, name) for position, name in enumerate(table.header) if name in stream.paths]
        while rows := table.take(chunk_records):
            yield _decode_csv(file, typed, rows, wanted)


def _decode_csv(file: Path, typed: _CsvTyping, rows: list[CsvRow], wanted: list[tuple[int, str]]) -> Chunk:
    """Text cells to typed columns to records; a bad cell rejects its row and no other."""
    good = [position for position, row in enumerate(rows) if row.problem is None]
    origin = np.array(good, np.int64)
    cells = {name: [rows[position].cells[at] or None for position in good] for at, name in wanted}
    table, bad = typed.table(cells)
    records, rejects = decode_table(typed.stream, table)
    records = records.take(~np.isin(records.rows, [reject.row for reject in bad]))
    found = {reject.row: reject for reject in [*rejects, *bad]}  # a cell that is no number is the better reason
    all_rejects = [replace(reject, row=int(origin[reject.row])) for reject in found.values()]
    all_rejects += [
        Reject(position, row.problem[0], None, row.problem[1])
        for position, row in enumerate(rows)
        if row.problem is not None
    ]
    lines = np.array([row.line for row in rows], np.int64)
    own = origin[records.rows]
    return Chunk(
        file,
        lines,
        replace(records, rows=own, offsets=lines[own] - 1),
        sorted(all_rejects, key=lambda reject: reject.row),
    )


@dataclass(frozen=True)
class CsvRow:
    """One row of a CSV file: its cells, or why they cannot be told apart."""

    line: int
    cells: list[str]
    problem: tuple[RejectReason, str] | None = None


class CsvRows:
    """Rows of an open CSV file, delimited by comma, semicolon or tab as its first line is; blank lines are passed over.

    A row with a wrong number of cells, with bytes that are not UTF-8, or with a cell beyond 128 KiB is one bad row and
    does not end the file.
    """

    def __init__(self, file: Path, text: io.TextIOBase | IO[str]) -> None:
        first = text.readline()
        if not first.strip():
            raise DataFileError(f"{file}: has no header line: the first line must name the columns")
        delimiter = max(",;\t", key=first.count)
        self._reader = csv.reader(itertools.chain([first], text), delimiter=delimiter)
        self.header = [name.strip() for name in next(self._reader)]
        if twice := [name for name, count in Counter(self.header).items() if count > 1]:
            raise DataFileError(f"{file}: the header names column {twice[0]!r} twice: rename one of the two")

    def take(self, most: int) -> list[CsvRow]:
        """The next rows, at most `most` of them and about CHUNK_BYTES; none at the end."""
        rows: list[CsvRow] = []
        size = 0
        while len(rows) < most and size < CHUNK_BYTES:
            try:
                cells = next(self._reader)
            except StopIteration:
                break
            except csv.Error as error:
                rows.append(CsvRow(self._reader.line_num, [], (RejectReason.NOT_AN_OBJECT, f"not a CSV row: {error}")))
                continue
            if cells:
                rows.append(self._checked(cells))
                size += sum(map(len, cells))
        return rows

    def _checked(self, cells: list[str]) -> CsvRow:
        problem = None
        if len(cells) != len(self.header):
            found = f"{len(cells)} cells where the header names {len(self.header)} columns"
            problem = (RejectReason.NOT_AN_OBJECT, found)
        elif not _is_utf8("".join(cells)):
            problem = (RejectReason.NOT_UTF8, "a cell is not UTF-8")
        return CsvRow(self._reader.line_num, cells, problem)


def _is_utf8(text: str) -> bool:
    """Whether no byte had to be smuggled in as a lone surrogate."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


class _CsvTyping:
    """Gives the text cells of a CSV file the types that the stream's fields have in JSON."""

    def __init__(self, stream: StreamDefinition) -> None:
        # A field that is category and number at once stays text here; its number is then read from the text.
        features = tuple(
            feature.model_copy(update={"from_string": True}) if isinstance(feature, NumberFeature) else feature
            for feature in stream.feature
        )
        label = None if stream.label is None else LabelField(field=stream.label.field, anomalous=(True,))
        self.stream = stream.model_copy(update={"feature": features, "label": label})
        self._roles = {role.path: role for role in roles_of(stream)}
        self._anomalous = stream.label.anomalous if stream.label is not None else ()

    def table(self, cells: dict[str, list[str | None]]) -> tuple[pa.Table, list[Reject]]:
        """Typed columns, null where a cell is empty or bad, and a reject for each bad cell's row."""
        bad: list[Reject] = []
        columns = {}
        for path, texts in cells.items():
            role = self._roles[path]
            column = pa.array(texts, pa.string())
            if role.label:
                column = self._known_anomalies(texts)
            elif role.text:
                column = _as_json_text(texts)
            elif _is_number_alone(role):
                column, wrong = _numbers(column)
                message = f"{path} is not a number"
                bad += [Reject(row, RejectReason.WRONG_TYPE, path, message) for row in wrong.tolist()]
            columns[path] = column
        return pa.table(columns), bad

    def _known_anomalies(self, texts: list[str | None]) -> pa.Array:
        verdicts = {text: _marks(text, self._anomalous) for text in set(texts) if text is not None}
        return pa.array([None if text is None else verdicts[text] for text in texts], pa.bool_())


_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+", re.ASCII)


def _as_json_text(texts: list[str | None]) -> pa.Array:
    """Text cells as the text that the same value has in JSON: `True` is "true", `5.0` is "5"."""
    same: dict[str | None, str] = {}
    for text in filter(None, set(texts)):
        whole = _WHOLE.fullmatch(text)
        if whole is not None:
            same[text] = "0" if whole[1] == "-0" else whole[1]
        elif text.lower() in ("true", "false"):
            same[text] = text.lower()
    return pa.array([same.get(text, text) for text in texts], pa.string())


def _is_number_alone(role: Role) -> bool:
    epoch = role.time is not None and role.time[0] != "iso8601"
    return (role.number or epoch) and not role.text and (role.time is None or epoch)


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf(inity)?|nan", re.ASCII | re.IGNORECASE)


def _numbers(column: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """Text as float64, null where it is empty or no number; and the positions of those that are no number."""
    column = pc.utf8_trim_whitespace(column)
    try:
        return pc.cast(column, pa.float64()), np.array([], np.int64)
    except pa.ArrowInvalid:
        pass
    texts = column.to_pylist()
    parsed = [float(text) if text and _NUMBER.fullmatch(text) else None for text in texts]
    wrong = [row for row, text in enumerate(texts) if text and parsed[row] is None]
    return pa.array(parsed, pa.float64()), np.array(wrong, np.int64)


def _marks(text: str, anomalous: Sequence[bool | int | str]) -> bool:
    """Whether a label's cell is one of the values that mark an anomaly, read as the JSON scalar that it looks like."""
    text = text.strip()
    if text in anomalous:
        return True
    if text.lower() in ("true", "false"):
        return any(mark is (text.lower() == "true") for mark in anomalous)
    number = float(text) if _NUMBER.fullmatch(text) else None
    return any(not isinstance(mark, (bool, str)) and mark == number for mark in anomalous)


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl, "idx": _read_idx}


def _few(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, and {len(names) - most} more" if len(names) > most else shown
