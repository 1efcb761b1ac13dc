"""Files of records to decoded columns, chunk by chunk and in order; it knows no network and no Kafka."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from detector import Decoder, Messages, Records, Reject, RejectReason, StreamDefinition, decode_table
from detector.decode import Role, roles_of
from detector.stream import LabelField, NumberFeature
from trainer.errors import DataFileError

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
"""Formats that are read, by the file's suffix."""

CHUNK_RECORDS = 32_768
"""Most records that are read before they are decoded."""

CHUNK_BYTES = 32_000_000
"""Most bytes of text that are read before they are decoded."""

MAX_RECORDS = 5_000_000
"""Most records that training keeps in memory unless told otherwise; more are sampled."""

_EXAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one file, decoded.

    Attributes:
        file: Where they come from.
        lines: Line of a text file, or row of a Parquet file, of each row of the chunk, counted from 1, shape (n,).
        records: Rows that are records; `records.rows` are positions in the chunk.
        rejects: Rows that are none; `reject.row` is a position in the chunk.
    """

    file: Path
    lines: NDArray[np.int64]
    records: Records
    rejects: list[Reject]

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True)
class RejectExample:
    """One row that is not a record, for people; the message never repeats a value of the row."""

    file: Path
    line: int
    reason: RejectReason
    message: str


@dataclass(frozen=True)
class Dataset:
    """All records of some files, or a uniform sample of them.

    Attributes:
        records: Decoded records in the order of the files.
        files: Files that were read, in order.
        rows_read: Rows that the files hold.
        decoded: Rows that were records, those that the sample left out included.
        rejected: Rows that were none, by reason.
        examples: A few of them by reason, the first ones.
        absent: Fields of the stream that no record carries.
    """

    records: Records
    files: tuple[Path, ...]
    rows_read: int
    decoded: int
    rejected: dict[RejectReason, int]
    examples: tuple[RejectExample, ...]
    absent: tuple[str, ...]

    @property
    def left_out_by_sampling(self) -> int:
        """Records that were read and are not in the sample."""
        return self.decoded - len(self.records)


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
    formats = {file: FORMATS.get(file.suffix.lower()) for file in files}
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


def read_chunks(files: Sequence[Path], stream: StreamDefinition, chunk_records: int = CHUNK_RECORDS) -> Iterator[Chunk]:
    """Read and decode files in order; every row of every file is in exactly one chunk.

    Only the fields that the stream names are read. A JSONL line goes through the same decoder as a message's value;
    a table's row through `decode_table`, with the same outcome. In CSV an empty cell is a missing value, and
    cells of number fields are numbers.

    Raises:
        DataFileError: A file cannot be read at all.
    """
    for file in files:
        reader = {"parquet": _read_parquet, "csv": _read_csv, "jsonl": _read_jsonl}[FORMATS[file.suffix.lower()]]
        try:
            yield from reader(file, stream, chunk_records)
        except (pa.ArrowException, OSError) as error:
            raise DataFileError(f"{file}: cannot be read: {error}") from error


def load(
    files: Sequence[Path],
    stream: StreamDefinition,
    *,
    max_records: int = MAX_RECORDS,
    seed: int = 0,
    progress: Callable[[Chunk], None] | None = None,
) -> Dataset:
    """Read all records of some files into memory, or a uniform sample where there are more than `max_records`.

    All records are decoded in order before any is left out, and a record is kept or not by a draw that depends on
    `seed` and its position alone. Peak memory is about twice `bytes_per_record(records)` for each of `max_records`,
    whatever the size of the files.

    Raises:
        DataFileError: A file cannot be read, or none of its rows is a record of the stream.
    """
    sample = UniformSample(max_records, seed)
    rejected: Counter[RejectReason] = Counter()
    examples: list[RejectExample] = []
    rows_read = 0
    present: set[str] = set()
    for chunk in read_chunks(files, stream):
        rows_read += len(chunk)
        for reject in chunk.rejects:
            if rejected[reject.reason] < _EXAMPLES_PER_REASON:
                line = int(chunk.lines[reject.row])
                examples.append(RejectExample(chunk.file, line, reject.reason, reject.message))
            rejected[reject.reason] += 1
        present |= _present_fields(chunk.records, stream, set(stream.paths) - present)
        sample.add(chunk.records)
        if progress is not None:
            progress(chunk)
    records = sample.records()
    if rows_read == 0:
        raise DataFileError(f"{', '.join(str(file) for file in files)}: no row is in it: give data with records")
    if records is None or len(records) == 0:
        first = f"; the first: {examples[0].file.name}:{examples[0].line}: {examples[0].message}" if examples else ""
        raise DataFileError(
            f"none of {rows_read:,} rows is a record of stream {stream.name!r}{first}: "
            "do the fields of the stream definition match the data?"
        )
    absent = tuple(path for path in stream.paths if path not in present)
    return Dataset(records, tuple(files), rows_read, sample.seen, dict(rejected), tuple(examples), absent)


class UniformSample:
    """Keeps a uniform random sample of at most `most` records in the order in which they were added.

    Every record draws a number; those with the smallest are kept. What has been added in how many pieces
    makes no difference.
    """

    def __init__(self, most: int, seed: int) -> None:
        if most < 1:
            raise ValueError(f"a sample of {most} records is none: keep at least one")
        self.seen = 0
        self._most = most
        self._random = np.random.default_rng(seed)
        self._parts: list[Records] = []
        self._draws: list[NDArray[np.float64]] = []
        self._held = 0
        self._cut = np.inf  # a record that draws more than this cannot be in the sample any more

    def add(self, records: Records) -> None:
        """Offer the next records."""
        draws = self._random.random(len(records))
        self.seen += len(records)
        if np.isfinite(self._cut):
            kept = draws <= self._cut
            records, draws = records.take(kept), draws[kept]
        self._parts.append(records)
        self._draws.append(draws)
        self._held += len(draws)
        if self._held > self._most + max(self._most // 4, CHUNK_RECORDS):
            self._compact()

    def records(self) -> Records | None:
        """The sample, or None where nothing was added."""
        if self._held > self._most:
            self._compact()
        if len(self._parts) > 1:
            self._parts = [Records.concat(self._parts)]
            self._draws = [np.concatenate(self._draws)]
        return self._parts[0] if self._parts else None

    def _compact(self) -> None:
        draws = np.concatenate(self._draws)
        self._cut = float(np.partition(draws, self._most - 1)[self._most - 1])
        kept = draws <= self._cut
        # Each part is thinned before they are joined: joining first would hold everything twice.
        ends = np.cumsum([len(part) for part in self._draws])[:-1]
        thinned = [part.take(mask) for part, mask in zip(self._parts, np.split(kept, ends), strict=True)]
        self._parts, self._draws = [Records.concat(thinned)], [draws[kept]]
        self._held = len(self._draws[0])


def bytes_per_record(records: Records) -> float:
    """Memory that one record takes, in bytes: its columns, and for text the pointers and about 60 bytes a value."""
    total = 0
    for field in fields(records):
        value = getattr(records, field.name)
        columns = value.values() if isinstance(value, dict) else [] if value is None else [value]
        total += sum(column.nbytes + (60 * len(column) if column.dtype == object else 0) for column in columns)
    return total / max(len(records), 1)


def _present_fields(records: Records, stream: StreamDefinition, wanted: set[str]) -> set[str]:
    """Which of the wanted fields have a value in at least one of the records."""
    columns: dict[str, list[Any]] = {path: [] for path in wanted}
    for group in (records.numbers, records.categories, records.times):
        for path, column in group.items():
            if path in wanted:
                columns[path].append(column)
    for role, texts in ((stream.id, records.ids), (stream.key, records.keys)):
        if role in wanted and texts is not None:
            columns[role].append(texts)
    if stream.label is not None and stream.label.field in wanted and records.labels is not None:
        columns[stream.label.field].append(records.labels)
    return {path for path, found in columns.items() if any(_has_value(column) for column in found)}


def _has_value(column: NDArray[Any]) -> bool:
    if column.dtype == object:
        return any(value is not None for value in column)
    if column.dtype.kind == "M":
        return not bool(np.isnat(column).all())
    return not bool(np.isnan(column).all()) if column.dtype.kind == "f" else len(column) > 0


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
    """Refuse a table without a field of the stream; only the label may be absent."""
    label = stream.label.field if stream.label is not None else None
    known = {*names, *(path for path in stream.paths if path.split(".")[0] in names)}
    absent = [path for path in stream.paths if path != label and path not in known]
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
    return Chunk(
        file,
        np.array([row.line for row in rows], np.int64),
        replace(records, rows=origin[records.rows]),
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
            elif _is_number_alone(role):
                column, wrong = _numbers(column)
                message = f"{path} is not a number"
                bad += [Reject(row, RejectReason.WRONG_TYPE, path, message) for row in wrong.tolist()]
            columns[path] = column
        return pa.table(columns), bad

    def _known_anomalies(self, texts: list[str | None]) -> pa.Array:
        verdicts = {text: _marks(text, self._anomalous) for text in set(texts) if text is not None}
        return pa.array([None if text is None else verdicts[text] for text in texts], pa.bool_())


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


def _few(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, and {len(names) - most} more" if len(names) > most else shown
