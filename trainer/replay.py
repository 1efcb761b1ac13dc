"""Files or partitions as one stream in order of event time, records with their history; it fits priors, nothing else.

Each file keeps its own order: a record that is older than its file's newest counts at the file's newest time. Of
records of equal time those of the file named first come first, so that the order depends on nothing but the files.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from detector import History, HistoryState, Records, StreamDefinition
from detector.history import PRIOR_RECORDS, bounded_key
from detector.history_layout import NEVER
from trainer.datasets import CHUNK_RECORDS, Chunk, Source, read_chunks
from trainer.errors import DataFileError
from trainer.topics import PartitionRange

_PEEK_RECORDS = 256


@dataclass(frozen=True)
class Part:
    """Consecutive records of one chunk; a chunk without any has one empty part.

    Attributes:
        source: Number of the file.
        chunk: The chunk that they are of.
        start: The first of them.
        stop: The one after the last of them.
    """

    source: int
    chunk: Chunk
    start: int
    stop: int

    @property
    def opens(self) -> bool:
        """Whether it is the first part of its chunk."""
        return self.start == 0

    @property
    def closes(self) -> bool:
        """Whether it is the last part of its chunk."""
        return self.stop == len(self.chunk.records)


@dataclass(frozen=True)
class Stretch:
    """Consecutive records of the merged stream, n in all, and where they come from.

    Attributes:
        records: In the order of the stream.
        parts: Where they come from.
        order: Of each record the place that it has where the parts are laid one after the other, (n,).
        times_us: Time at which each counts, ascending, (n,).
        sources: Number of the file of each, (n,).
        ended: Files of which nothing follows.
    """

    records: Records
    parts: tuple[Part, ...]
    order: NDArray[np.int64]
    times_us: NDArray[np.int64]
    sources: NDArray[np.int64]
    ended: tuple[int, ...]

    @classmethod
    def of(cls, parts: Sequence[Part], times_us: Sequence[NDArray[np.int64]], ended: Sequence[int]) -> Stretch:
        """Parts of several files, the files in order, with the times at which their records count."""
        records = Records.concat([part.chunk.records.take(np.arange(part.start, part.stop)) for part in parts])
        times = np.concatenate(times_us)
        sources = np.repeat([part.source for part in parts], [part.stop - part.start for part in parts])
        order = np.argsort(times, kind="stable")
        return cls(records.take(order), tuple(parts), order, times[order], sources[order], tuple(ended))

    def is_wanted(self, first: int) -> NDArray[np.bool_]:
        """Which records are more than history, (n,): in sources from number `first` on, and in a topic's range."""
        starts = np.zeros(int(self.sources.max(initial=-1)) + 1, np.int64)
        for part in self.parts:
            if isinstance(part.chunk.origin, PartitionRange) and part.stop > part.start:
                starts[part.source] = part.chunk.origin.start
        wanted: NDArray[np.bool_] = (self.sources >= first) & (self.records.offsets >= starts[self.sources])
        return wanted

    def histories(self) -> Iterator[tuple[Part, dict[str, NDArray[np.float64]]]]:
        """Each part with the history features of its records."""
        columns = {}
        for name, column in self.records.history.items():
            columns[name] = np.empty_like(column)
            columns[name][self.order] = column
        end = 0
        for part in self.parts:
            start, end = end, end + part.stop - part.start
            yield part, {name: column[start:end] for name, column in columns.items()}


class _Source:
    """One file while it is being merged: the records of its present chunk that are still to come."""

    def __init__(self, number: int, chunks: Iterator[Chunk]) -> None:
        self.number = number
        self._chunks = chunks
        self._newest = NEVER
        self._chunk: Chunk | None = None
        self._taken = 0
        self._times_us = np.empty(0, np.int64)

    @property
    def last(self) -> tuple[int, int]:
        """What no record after this chunk comes before: its last time, and the file's number for equal times."""
        return int(self._times_us[-1]), self.number

    def advance(self) -> tuple[list[Part], bool]:
        """Go on to the next chunk with records; those passed on the way, and whether there was one."""
        passed = []
        for chunk in self._chunks:
            if len(chunk.records) == 0:
                passed.append(Part(self.number, chunk, 0, 0))
                continue
            times = chunk.records.event_times
            assert times is not None  # noqa: S101 - a stream with history has a time, and every record carries it
            self._times_us = np.maximum(np.maximum.accumulate(times.astype(np.int64)), self._newest)
            self._newest, self._chunk, self._taken = int(self._times_us[-1]), chunk, 0
            return passed, True
        return passed, False

    def take(self, until: tuple[int, int]) -> tuple[Part, NDArray[np.int64]]:
        """The records up to a place in the merged stream, and their times."""
        assert self._chunk is not None  # noqa: S101 - advanced before
        time_us, number = until
        start = self._taken
        self._taken = int(np.searchsorted(self._times_us, time_us, "right" if self.number <= number else "left"))
        return Part(self.number, self._chunk, start, self._taken), self._times_us[start : self._taken]


def merged(files: Sequence[Source], stream: StreamDefinition, chunk_records: int = CHUNK_RECORDS) -> Iterator[Stretch]:
    """Read and decode files as one stream in order of event time; every row of every file is in exactly one part.

    A file is open from its first record's turn to its last one's, with one chunk in memory: the memory that it takes is
    that of the files that overlap in time. The first rows of each are read twice, to learn when it begins.

    Raises:
        DataFileError: A file cannot be read.
    """
    begin = [_first_time(file, stream) for file in files] if len(files) > 1 else [NEVER] * len(files)
    waiting = deque(sorted((time, number) for number, time in enumerate(begin)))
    sources: list[_Source] = []
    parts: list[Part] = []
    times: list[NDArray[np.int64]] = []
    ended: list[int] = []

    def go_on(source: _Source) -> None:
        passed, more = source.advance()
        parts.extend(passed)
        times.extend(np.empty(0, np.int64) for _ in passed)
        if not more:
            ended.append(source.number)
            if source in sources:
                sources.remove(source)
        elif source not in sources:
            sources.append(source)
            sources.sort(key=lambda each: each.number)

    while waiting or sources:
        if waiting and (not sources or waiting[0][0] <= min(source.last for source in sources)[0]):
            number = waiting.popleft()[1]
            go_on(_Source(number, read_chunks([files[number]], stream, chunk_records)))
            continue
        first_to_end = min(sources, key=lambda source: source.last)
        for source in sources:
            part, counted_at = source.take(first_to_end.last)
            if part.stop > part.start:
                parts.append(part)
                times.append(counted_at)
        yield Stretch.of(parts, times, ended)
        parts, times, ended = [], [], []
        go_on(first_to_end)
    if parts:
        yield Stretch.of(parts, times, ended)


def _first_time(file: Source, stream: StreamDefinition) -> int:
    """The time of a file's first record in microseconds since the epoch, that of no record comes first."""
    for chunk in read_chunks([file], stream, _PEEK_RECORDS):
        times = chunk.records.event_times
        if times is not None and len(times):
            return int(times[0].astype("datetime64[us]").astype(np.int64))
    return NEVER


class Replay:
    """The merged stream of some files, its records with the history of their entities; to be gone through once.

    Attributes:
        files: Where the records are.
        stream: What a record is.
        history: What is computed; fitted on the first `PRIOR_RECORDS` records of the stream where it was not given, and
            None before that, or where there was no record.
        state: What the records gone through so far left behind, None before the first.
        ends: Where they are wanted, the ids of each entity's records at its last time.
    """

    def __init__(
        self, files: Sequence[Source], stream: StreamDefinition, history: History | None = None, *, ends: bool = False
    ) -> None:
        self.history = history
        self.state: HistoryState | None = None
        self.ends: dict[str, list[str]] = {}
        self._wants_ends = ends
        self._last: dict[str, np.datetime64] = {}
        self.stream = stream
        self.files = files

    def __iter__(self) -> Iterator[Stretch]:
        stretches = merged(self.files, self.stream)
        if self.history is None:
            first = list(_first_records(stretches, PRIOR_RECORDS))
            stretches = chain(first, stretches)
            if any(len(stretch.records) for stretch in first):
                records = Records.concat([stretch.records for stretch in first])
                self.history = History.fit(self.stream, records.take(np.arange(min(len(records), PRIOR_RECORDS))))
        for stretch in stretches:
            if self.history is None:
                yield stretch
                continue
            self.state = self.history.new_state() if self.state is None else self.state
            records, (changes,) = self.history.fold_all([self.state], stretch.records)
            self.state.apply(changes)
            if self._wants_ends:
                self._note_ends(records)
            yield replace(stretch, records=records)

    def _note_ends(self, records: Records) -> None:
        if records.keys is None or records.ids is None or records.event_times is None:
            return
        for key, number, time in zip(records.keys.tolist(), records.ids.tolist(), records.event_times, strict=True):
            if key is None:
                continue
            entity = bounded_key(key)
            last = self._last.get(entity)
            if last is None or time > last:
                self._last[entity], self.ends[entity] = time, [number]
            elif time == last:
                self.ends[entity].append(number)


def _first_records(stretches: Iterator[Stretch], most: int) -> Iterator[Stretch]:
    """Stretches until they hold so many records."""
    seen = 0
    while seen < most and (stretch := next(stretches, None)) is not None:
        seen += len(stretch.records)
        yield stretch


def check_earlier(files: Sequence[Source], earlier: Sequence[Path], stream: StreamDefinition) -> None:
    """Refuse earlier files where nothing is made of them, or where their records would count twice.

    Raises:
        DataFileError: The stream has no history features, or a file is among both.
    """
    if earlier and not stream.history_features:
        raise DataFileError(
            f"stream {stream.name!r} has no features from history, and earlier records would change nothing: "
            "leave out --history, or add [[feature]] of kind history"
        )
    both = {file.resolve() for file in files if isinstance(file, Path)} & {file.resolve() for file in earlier}
    if both:
        raise DataFileError(
            f"{min(both)}: is among the data and among the earlier files, so that each of its records would count "
            "twice: give it once"
        )


def read_with_history(
    files: Sequence[Source],
    stream: StreamDefinition,
    history: History | None = None,
    *,
    earlier: Sequence[Path] = (),
    progress: Callable[[Chunk], None] | None = None,
) -> Iterator[Chunk]:
    """The chunks of files one after the other, as `read_chunks` gives them, their records with history features.

    What precedes a record is decided by time, over all files together. Where files overlap, the features of those whose
    turn has not come wait on disk, and the file is read again in its turn: memory is bounded as that of `merged`.

    Of a topic each partition has histories of its own, as in a worker, from what was remembered before its range on.

    Args:
        files: Files whose chunks are wanted, or ranges of a topic's partitions.
        stream: What a record is.
        history: What is computed; its priors are fitted on the first records unless given.
        earlier: Files whose records join the history and are not given back.
        progress: Called with each chunk that was read.

    Raises:
        DataFileError: A file cannot be read, or is among both.
    """
    check_earlier(files, earlier, stream)
    ranges = [source for source in files if isinstance(source, PartitionRange)]
    if ranges and history is not None:
        yield from _by_partition(ranges, stream, history, progress)
        return
    if not stream.history_features:
        for chunk in read_chunks(files, stream):
            yield chunk
            if progress is not None:
                progress(chunk)
        return
    with tempfile.TemporaryFile() as file:
        yield from _InTurn(Replay((*earlier, *files), stream, history), len(earlier), file, progress)


def _by_partition(
    ranges: Sequence[PartitionRange],
    stream: StreamDefinition,
    history: History,
    progress: Callable[[Chunk], None] | None,
) -> Iterator[Chunk]:
    """The chunks of a topic's ranges, one partition after the other, each with histories of its own."""
    for each in ranges:
        part = each.recalled()
        known = None if part.remembered is None else part.remembered.history
        state = history.new_state() if known is None else known
        for chunk in part.chunks(stream):
            records, (changes,) = history.fold_all([state], chunk.records)
            state.apply(changes)
            if not part.is_history_alone(chunk):
                yield replace(chunk, records=records)
            if progress is not None:
                progress(chunk)


class _InTurn:
    """The chunks of a replay's files from number `first` on, one file after the other."""

    def __init__(self, replay: Replay, first: int, file: IO[bytes], progress: Callable[[Chunk], None] | None) -> None:
        self._replay, self._turn, self._progress = replay, first, progress
        self._shelf = _Shelf(file)
        self._pieces: dict[int, list[dict[str, NDArray[np.float64]]]] = defaultdict(list)

    def __iter__(self) -> Iterator[Chunk]:
        files, first = self._replay.files, self._turn
        over: set[int] = set()
        for stretch in self._replay:
            for part, columns in stretch.histories():
                if part.opens and self._progress is not None:
                    self._progress(part.chunk)
                if part.source >= first:
                    yield from self._go_on(part, columns)
            over.update(stretch.ended)
            while self._turn in over:
                self._turn += 1
                yield from self._waiting(self._turn)
        for source in range(self._turn + 1, len(files)):
            yield from self._waiting(source)

    def _go_on(self, part: Part, columns: dict[str, NDArray[np.float64]]) -> Iterator[Chunk]:
        """A chunk that is whole with this part, where it is its file's turn."""
        self._pieces[part.source].append(columns)
        if not part.closes:
            return
        pieces = self._pieces.pop(part.source)
        whole = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if part.source == self._turn:
            yield _with_history(part.chunk, whole)
        else:
            self._shelf.put(part.source, whole)

    def _waiting(self, source: int) -> Iterator[Chunk]:
        """The chunks of a file whose features were waiting, read again."""
        chunks = read_chunks(self._replay.files[source : source + 1], self._replay.stream)
        for columns, chunk in zip(self._shelf.take(source), chunks, strict=False):
            yield _with_history(chunk, columns)


def _with_history(chunk: Chunk, history: dict[str, NDArray[np.float64]]) -> Chunk:
    return replace(chunk, records=replace(chunk.records, history=history))


class _Shelf:
    """History features of chunks that wait on disk until it is their file's turn."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[int, list[tuple[int, int, tuple[str, ...]]]] = defaultdict(list)

    def put(self, source: int, columns: Mapping[str, NDArray[np.float64]]) -> None:
        matrix = np.array(list(columns.values()), np.float64)
        self._places[source].append((self._file.seek(0, 2), matrix.size, tuple(columns)))
        self._file.write(matrix.tobytes())

    def take(self, source: int) -> Iterator[dict[str, NDArray[np.float64]]]:
        for place, size, names in self._places.pop(source, ()):
            self._file.seek(place)
            matrix = np.frombuffer(self._file.read(size * 8), np.float64).reshape(len(names), -1)
            yield dict(zip(names, matrix, strict=True))


def remember(records: Records, stream: StreamDefinition, history: History | None = None) -> tuple[Records, History]:
    """Records with the history that they have among themselves, in order of event time.

    Args:
        records: Decoded records, in any order; of equal times the first comes first.
        stream: What a record is; it has history features.
        history: What is computed; its priors are fitted on the first records in time unless given.

    Returns:
        The records in the order given, and what was computed.

    Raises:
        TrainingDataError: A number that history looks at is missing in all of them.
    """
    assert records.event_times is not None  # noqa: S101 - a stream with history has a time, and every record carries it
    order = np.argsort(records.event_times, kind="stable")
    history = history or History.fit(stream, records.take(order[:PRIOR_RECORDS]))
    assert history is not None  # noqa: S101 - the stream has history features
    state = history.new_state()
    columns = {name: np.empty(len(records)) for name in history.names}
    for start in range(0, len(order), CHUNK_RECORDS):
        rows = order[start : start + CHUNK_RECORDS]
        found, changes = history.fold(state, records.take(rows))
        state.apply(changes)
        for name, column in found.items():
            columns[name][rows] = column
    return replace(records, history=columns), history
