"""All records of some files or of a topic in memory, or a uniform sample of them, with their entities' history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector import History, HistoryState, Records, RejectReason, StreamDefinition
from trainer.datasets import CHUNK_RECORDS, Chunk, RejectExample, Source, read_chunks
from trainer.errors import DataFileError
from trainer.replay import Replay, check_earlier
from trainer.topics import PartitionRange

MAX_RECORDS = 5_000_000
"""Most records that training keeps in memory unless told otherwise; more are sampled."""

_EXAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class Dataset:
    """All records of some files or of a topic, or a uniform sample of them.

    Attributes:
        records: Decoded records in the order of the sources, or in that of time where the stream has history features.
        files: Files, or ranges of partitions, that were read, in order, the earlier ones first.
        rows_read: Rows that they hold; of a topic messages, those before its range only as far as they are records.
        decoded: Rows that were records, those that the sample left out included.
        rejected: Rows that were none, by reason.
        examples: A few of them by reason, the first ones.
        absent: Fields of the stream that no record carries.
        replayed: Records that are history alone: those of earlier files, and those of the first longest window.
        is_short: The data do not fill the longest window, so that nothing was left out for it.
        history: What the history features are, None where the stream has none.
        state: What all of the records left behind.
        ends: Where they were wanted, the ids of each entity's records at its last time.
    """

    records: Records
    files: tuple[Source, ...]
    rows_read: int
    decoded: int
    rejected: dict[RejectReason, int]
    examples: tuple[RejectExample, ...]
    absent: tuple[str, ...]
    replayed: int = 0
    is_short: bool = False
    history: History | None = None
    state: HistoryState | None = None
    ends: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def read_from(self) -> str:
        """What was read, in words."""
        partitions = [source for source in self.files if isinstance(source, PartitionRange)]
        if partitions:
            return f"from {len(partitions)} partition(s) of topic {partitions[0].partition.topic}"
        return f"from {len(self.files)} file(s)"

    @property
    def left_out_by_sampling(self) -> int:
        """Records that were read, are more than history, and are not in the sample."""
        return self.decoded - self.replayed - len(self.records)


def load(
    files: Sequence[Source],
    stream: StreamDefinition,
    *,
    earlier: Sequence[Path] = (),
    max_records: int = MAX_RECORDS,
    seed: int = 0,
    ends: bool = False,
    progress: Callable[[Chunk], None] | None = None,
) -> Dataset:
    """Read all records of some sources into memory, or a uniform sample where there are more than `max_records`.

    All records are decoded in order before any is left out, and a record is kept or not by a draw that depends on
    `seed` and its position alone. Peak memory is about twice `bytes_per_record(records)` for each of `max_records`,
    whatever the size of the files. Of a topic there are beside it one fetch and one chunk at a time, or one for each
    partition where the stream has history features.

    Where the stream has history features, the files are one stream in order of time, and every record joins the history
    before any is left out. Those of the first longest window have only a part of theirs: they are history alone, unless
    there are no others.

    Args:
        files: Files whose records are wanted, or ranges of a topic's partitions; each keeps its own order.
        stream: What a record is.
        earlier: Files whose records are history alone; merged with the others by time.
        max_records: Most records that are kept.
        seed: Of the sample.
        ends: Whether to remember which records are at the end of each entity's history.
        progress: Called with each chunk that was read.

    Raises:
        DataFileError: A file cannot be read, or none of its rows is a record of the stream.
        TrainingDataError: A number that history looks at is missing in all records.
    """
    check_earlier(files, earlier, stream)
    read = (*earlier, *files)
    tally = _Tally(stream, progress)
    replay, is_short = None, False
    if stream.history_features:
        replay = Replay(read, stream, ends=ends)
        sample, is_short = _with_history(replay, len(earlier), tally, lambda: UniformSample(max_records, seed))
    else:
        sample = UniformSample(max_records, seed)
        for chunk in read_chunks(files, stream):
            tally.add(chunk)
            if not _is_history_alone(chunk):
                sample.add(chunk.records)
    records = sample.records()
    if tally.rows == 0:
        raise DataFileError(f"{', '.join(str(source) for source in read)}: no row is in it{_lost(read)}")
    if records is None or len(records) == 0:
        raise DataFileError(tally.why_nothing_is_left)
    return Dataset(
        records=records,
        files=read,
        rows_read=tally.rows,
        decoded=tally.decoded,
        rejected=dict(tally.rejected),
        examples=tuple(tally.examples),
        absent=tuple(path for path in stream.paths if path not in tally.present),
        replayed=tally.decoded - sample.seen,
        is_short=is_short,
        history=None if replay is None else replay.history,
        state=None if replay is None else replay.state,
        ends={} if replay is None else replay.ends,
    )


def _with_history(
    replay: Replay, first: int, tally: _Tally, new_sample: Callable[[], UniformSample]
) -> tuple[UniformSample, bool]:
    """A sample of the records of a replay, those of the sources from number `first` on that have all of their history.

    Returns:
        The sample, or one of the records of the first longest window where there are no others; and whether it is that.
    """
    sample, first_window = new_sample(), new_sample()
    whole_from: int | None = None
    for stretch in replay:
        for part in stretch.parts:
            if part.opens:
                tally.add(part.chunk)
        if whole_from is None and len(stretch.records):
            whole_from = int(stretch.times_us[0]) + replay.stream.longest_window_us
        wanted, is_whole = stretch.is_wanted(first), stretch.times_us >= (whole_from or 0)
        sample.add(stretch.records.take(wanted & is_whole))
        if sample.seen == 0:
            first_window.add(stretch.records.take(wanted & ~is_whole))
        else:
            first_window = new_sample()
    return (sample, False) if sample.seen or not first_window.seen else (first_window, True)


class _Tally:
    """What was read, every row accounted for."""

    def __init__(self, stream: StreamDefinition, progress: Callable[[Chunk], None] | None) -> None:
        self.rows = 0
        self.decoded = 0
        self.rejected: Counter[RejectReason] = Counter()
        self.examples: list[RejectExample] = []
        self.present: set[str] = set()
        self._stream, self._progress = stream, progress

    def add(self, chunk: Chunk) -> None:
        """Account for a chunk; what is no record before a topic's range is not counted, as it is not in the range."""
        if self._progress is not None:
            self._progress(chunk)
        if _is_history_alone(chunk):
            self.rows += len(chunk.records)
            self.decoded += len(chunk.records)
            return
        self.rows += len(chunk)
        self.decoded += len(chunk.records)
        for reject in chunk.rejects:
            if self.rejected[reject.reason] < _EXAMPLES_PER_REASON:
                line = int(chunk.lines[reject.row])
                self.examples.append(RejectExample(chunk.origin, line, reject.reason, reject.message))
            self.rejected[reject.reason] += 1
        self.present |= _present_fields(chunk.records, self._stream, set(self._stream.paths) - self.present)

    @property
    def why_nothing_is_left(self) -> str:
        """What is wrong where there is no record to work with."""
        if self.decoded:
            return (
                f"all {self.decoded:,} records are history alone: the data themselves hold none of "
                f"stream {self._stream.name!r}"
            )
        example = self.examples[0] if self.examples else None
        first = f"; the first: {example.origin.name}:{example.line}: {example.message}" if example else ""
        return (
            f"none of {self.rows:,} rows is a record of stream {self._stream.name!r}{first}: "
            "do the fields of the stream definition match the data?"
        )


def _lost(sources: Sequence[Source]) -> str:
    """Why there is nothing where there was something, and what to do."""
    skipped = sum(source.notes.skipped for source in sources if isinstance(source, PartitionRange))
    if skipped:
        return f" any more: retention removed its {skipped:,} offsets just now: give a later range"
    return ": give data with records"


def _is_history_alone(chunk: Chunk) -> bool:
    return isinstance(chunk.origin, PartitionRange) and chunk.origin.is_history_alone(chunk)


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
    for each in fields(records):
        value = getattr(records, each.name)
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
    present = {stream.image.field} if stream.image and stream.image.field and len(records) else set()
    return present | {path for path, found in columns.items() if any(_has_value(column) for column in found)}


def _has_value(column: NDArray[Any]) -> bool:
    if column.dtype == object:
        return any(value is not None for value in column)
    if column.dtype.kind == "M":
        return not bool(np.isnat(column).all())
    return not bool(np.isnan(column).all()) if column.dtype.kind == "f" else len(column) > 0
