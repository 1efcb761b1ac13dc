"""Histories of entities: what their earlier records say of the next one, the same in training and on a stream.

An entity's features are a left fold over its own records, in their order: no watermark, no batch edge, no wall clock
and no other entity enters. Time is event time; a record older than its entity's newest counts at the newest time.
Windows are (t - w, t]. Every decoded record enters, whatever its label or score.

`History` says what is kept and computes it; a `HistoryState` holds it for the entities of one source (a partition, or
the files of a training run). `History.fold` changes nothing: it gives the features and the `HistoryChanges` that
`HistoryState.apply` takes over, once what was made of the records is acknowledged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrays import check_numbers
from detector.errors import TrainingDataError
from detector.history_fold import fold
from detector.history_layout import NEVER, SLOTS, Layout, Prior, layout_of
from detector.records import Records
from detector.stream import StreamDefinition
from detector.times import to_local

VERSION = 1
"""Of the fold: a change of what it computes, or of how it is remembered, is another version."""

PRIOR_RECORDS = 200_000
"""Records that priors are fitted on, the first ones."""

LARGEST = 1e16
"""Largest size of a number in a history: larger ones count as this, so that no square or sum of them is infinite."""

_DAY_MINUTES = 1440
_MINUTE_US = 60_000_000
_PRIOR_TAIL = 0.01
_LONGEST_KEY = 128
_EVICTED_SHARE = 64  # one in so many entities is forgotten at once when there are too many


@dataclass(frozen=True, eq=False)
class EntityLog:
    """In exact mode, the records of one entity's windows, the oldest first.

    Attributes:
        times_us: Times at which they count, (r,).
        numbers: Number fields, (r, v).
        excess: How far each was above the robust mean, (r, q).
        values: Hashes of values, (r, c).
    """

    times_us: NDArray[np.int64]
    numbers: NDArray[np.float64]
    excess: NDArray[np.float64]
    values: NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class HistoryChanges:
    """What some records change in a state: the new content of every entity that they are of.

    Attributes:
        keys: The entities, each once, (e,).
        places: Where the state has them, -1 for those that are new to it, (e,).
        before: What was remembered of them, (e,).
        rows: What is remembered of them from now on, (e,).
        logs: In exact mode, the records of their windows; empty otherwise.
        base: The revision of the state that they were made from.
    """

    keys: Sequence[str]
    places: NDArray[np.int64]
    before: NDArray[np.void]
    rows: NDArray[np.void]
    logs: Sequence[EntityLog]
    base: int


_Evicted = tuple[int, str, NDArray[np.void], EntityLog | None]
"""Place, key, row and log of an entity that was forgotten."""


@dataclass(frozen=True, eq=False)
class HistoryUndo:
    """What takes changes back: entities to forget again, the former content of those that changed, and the evicted.

    Attributes:
        new: Entities that were not there before.
        places: Where the others stand, (e,).
        rows: What was remembered of them, (e,).
        logs: In exact mode, the records of their windows, None where there were none.
        evicted: Place, key, row and log of each entity that had to make room.
        before: The revision of the state that it goes back to.
        after: The revision that it takes back.
    """

    new: Sequence[str]
    places: NDArray[np.int64]
    rows: NDArray[np.void]
    logs: Sequence[EntityLog | None]
    evicted: Sequence[_Evicted]
    before: int
    after: int


class HistoryState:
    """What is remembered of the entities of one source, as one array of rows and an index of keys.

    Rows stand in blocks of a fixed number, which is how a state is written away and read back. A row stays where it is
    as long as its entity is remembered, and is there again when the forgetting is taken back.

    Attributes:
        evictions: Entities that were forgotten because there were too many.
        base: A state that entities unknown here are known from, such as that at the end of training; never changed.
        ends: Of a base, the ids of each entity's records at its last time: those and older ones are in it already.
    """

    def __init__(self, layout: Layout, *, exact: bool, most: int, base: HistoryState | None = None) -> None:
        self.evictions = 0
        self.base = base
        self.ends: Mapping[str, frozenset[str]] = {}
        self._layout = layout
        self._exact = exact
        self._most = most
        self._rows = np.repeat(layout.empty_row, 64)
        self._keys: list[str | None] = []
        self._index: dict[str, int] = {}
        self._free: list[int] = []
        self._logs: dict[int, EntityLog] = {}
        self._revision = 0
        self._revisions = 0  # that there have been: a content that was taken back never shares its number

    def __len__(self) -> int:
        """Entities that are remembered."""
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return key in self._index

    @property
    def nbytes(self) -> int:
        """Bytes that rows and logs take, the index of keys left out."""
        logs = sum(
            log.times_us.nbytes + log.numbers.nbytes + log.excess.nbytes + log.values.nbytes
            for log in self._logs.values()
        )
        return len(self._keys) * self._layout.row.itemsize + logs

    @property
    def most(self) -> int:
        """Most entities that are remembered."""
        return self._most

    @most.setter
    def most(self, most: int) -> None:
        self._most = most

    @property
    def revision(self) -> int:
        """A number that changes with the content, and comes again with it when changes are taken back."""
        return self._revision

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Places of entities, -1 for those that are not known, (e,)."""
        get = self._index.get
        return np.array([get(key, -1) for key in keys], np.int64)

    def rows(self, places: NDArray[np.int64]) -> NDArray[np.void]:
        """Copies of the rows at places (e,), empty ones for -1."""
        rows = self._rows[places]
        rows[places < 0] = self._layout.empty_row
        return rows

    def logs(self, places: NDArray[np.int64]) -> list[EntityLog | None]:
        """In exact mode, the records of the windows of the entities at places, None for those that have none."""
        return [self._logs.get(place) for place in places.tolist()] if self._exact else []

    def apply(self, changes: HistoryChanges) -> HistoryUndo:
        """Take changes over, and forget the longest silent entities where there are too many.

        Those that the changes are of are forgotten last: only where they are too many by themselves.

        Returns:
            What takes the changes back, once all that was applied since is taken back.

        Raises:
            ValueError: The state changed since the changes were made.
        """
        if changes.base != self._revision:
            raise ValueError("these changes were made from another content of the state: fold the records again")
        is_new = changes.places < 0
        known = changes.places[~is_new]
        logs = self.logs(known)
        new = [changes.keys[position] for position in np.flatnonzero(is_new).tolist()]
        evicted = self._make_room(len(new), known)
        places = changes.places.copy()
        places[is_new] = [self._new_place(key) for key in new]
        self._rows[places] = changes.rows
        self._logs.update(zip(places.tolist(), changes.logs, strict=False))
        evicted += self._make_room(0, known[:0])
        before, after = self._revision, self._changed()
        return HistoryUndo(new, known, changes.before[~is_new], logs, evicted, before, after)

    def take_back(self, undo: HistoryUndo) -> None:
        """Undo the newest changes that were not taken back yet.

        Raises:
            ValueError: Something else was applied since.
        """
        if undo.after != self._revision:
            raise ValueError("changes are taken back in the reverse order of their application")
        for key in undo.new:
            if key in self._index:
                self._forget(key)
        self._bring_back(undo)
        self._rows[undo.places] = undo.rows
        for place, log in zip(undo.places.tolist(), undo.logs, strict=False):
            if log is not None:
                self._logs[place] = log
        self._revision = undo.before
        self.evictions -= len(undo.evicted)

    # -- blocks: how a state is written away and read back ------------------------------------------------------------

    def blocks(self, entities: int) -> int:
        """How many blocks of so many entities the state has."""
        return -(-len(self._keys) // entities)

    def block(self, number: int, entities: int) -> tuple[list[str | None], NDArray[np.void], list[EntityLog | None]]:
        """Keys (None where a place is free), rows and logs of one block."""
        places = range(number * entities, min((number + 1) * entities, len(self._keys)))
        rows = self._rows[places.start : places.stop].copy()
        logs = [self._logs.get(place) for place in places] if self._exact else []
        return self._keys[places.start : places.stop], rows, logs

    def put(self, keys: Sequence[str], rows: NDArray[np.void], logs: Sequence[EntityLog | None] = ()) -> None:
        """Set entities to a content that was written away before; new ones take the next places in the order given."""
        places = self.find(keys)
        self._make_room(int((places < 0).sum()), places[places >= 0])
        self._set(keys, rows, logs)
        self._make_room(0, places[:0])
        self._changed()

    def items(self) -> Iterator[tuple[str, NDArray[np.void]]]:
        """Keys and rows of all entities."""
        for key, place in self._index.items():
            yield key, self._rows[place : place + 1]

    # -- places -------------------------------------------------------------------------------------------------------

    def _set(self, keys: Sequence[str], rows: NDArray[np.void], logs: Sequence[EntityLog | None]) -> None:
        places = self.find(keys)
        for position in np.flatnonzero(places < 0).tolist():
            places[position] = self._new_place(keys[position])
        self._rows[places] = rows
        self._logs.update((place, log) for place, log in zip(places.tolist(), logs, strict=False) if log is not None)

    def _bring_back(self, undo: HistoryUndo) -> None:
        """Remember the evicted again, each at the place where it stood."""
        new = set(undo.new)
        former = [evicted for evicted in undo.evicted if evicted[1] not in new]
        taken = {place for place, *_ in former}
        self._free = [place for place in self._free if place not in taken] if taken else self._free
        for place, key, row, log in former:
            self._index[key], self._keys[place] = place, key
            self._rows[place] = row[0]
            if log is not None:
                self._logs[place] = log

    def _changed(self) -> int:
        self._revisions += 1
        self._revision = self._revisions
        return self._revision

    def _new_place(self, key: str) -> int:
        if self._free:
            place = self._free.pop()
            self._keys[place] = key
        else:
            place = len(self._keys)
            self._keys.append(key)
            if place >= len(self._rows):
                more = np.repeat(self._layout.empty_row, max(len(self._rows) // 2, 64))
                self._rows = np.concatenate([self._rows, more])
        self._index[key] = place
        return place

    def _forget(self, key: str) -> None:
        place = self._index.pop(key)
        self._keys[place] = None
        self._rows[place] = self._layout.empty_row[0]
        self._logs.pop(place, None)
        self._free.append(place)

    def _make_room(self, new: int, kept: NDArray[np.int64]) -> list[_Evicted]:
        """Forget the longest silent entities, but those at `kept`, where so many new ones would be too many."""
        excess = len(self._index) + new - self._most
        if excess <= 0:
            return []
        places = np.setdiff1d(np.fromiter(self._index.values(), np.int64, len(self._index)), kept)
        count = min(max(excess, self._most // _EVICTED_SHARE), len(places))
        oldest = places[np.argsort(self._rows["last_us"][places], kind="stable")[:count]]
        evicted: list[_Evicted] = []
        for place in oldest.tolist():
            key = self._keys[place] or ""
            evicted.append((place, key, self._rows[place : place + 1].copy(), self._logs.get(place)))
            self._forget(key)
        self.evictions += len(evicted)
        return evicted


@dataclass(frozen=True)
class History:
    """What a stream's history features are, with all that was fitted for them; computes them.

    Attributes:
        stream: The stream definition.
        priors: What is expected of each number before an entity has said anything, by path.
    """

    stream: StreamDefinition
    priors: Mapping[str, Prior] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", layout_of(self.stream, self.priors))

    layout: Layout = field(init=False, compare=False)

    @classmethod
    def fit(cls, stream: StreamDefinition, records: Records) -> History | None:
        """Fit the priors on records of any kind, in any order; None where the stream has no history features.

        Raises:
            TrainingDataError: A number that history looks at is missing in all of them.
        """
        if not stream.history_features:
            return None
        paths = {feature.of for feature in stream.history_features if feature.of in records.numbers}
        return cls(stream, {path: _prior(path, records.numbers[path]) for path in sorted(filter(None, paths))})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return self.layout.names

    @property
    def row_bytes(self) -> int:
        """Bytes that are remembered of one entity, beside its key and in exact mode its records."""
        return self.layout.row.itemsize

    @cached_property
    def fingerprint(self) -> str:
        """The same for two versions of a detector exactly if one can carry on with the state of the other."""
        stream = self.stream
        content = {
            "version": VERSION,
            "slots": SLOTS,
            "key": stream.key,
            "time": stream.time and stream.time.model_dump(mode="json"),
            "history": stream.history.model_dump(mode="json", exclude={"max_entities"}),
            "features": [f.model_dump(mode="json", exclude={"name", "log"}) for f in stream.history_features],
            "numbers": {
                path: any(f.from_string for f in stream.feature if f.kind == "number" and f.field == path)
                for path in self.layout.numbers
            },
            "max_record_bytes": stream.max_record_bytes,
            "required": sorted(f.field for f in stream.field_features if f.required),
            "priors": {path: asdict(prior) for path, prior in sorted(self.priors.items())},
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def new_state(self, *, base: HistoryState | None = None, most: int | None = None) -> HistoryState:
        """A state that knows no entity but those of `base`, of at most `most`, or `max_entities`."""
        setting = self.stream.history
        return HistoryState(self.layout, exact=setting.mode == "exact", most=most or setting.max_entities, base=base)

    def fold(
        self, state: HistoryState, records: Records, joins: NDArray[np.bool_] | None = None
    ) -> tuple[dict[str, NDArray[np.float64]], HistoryChanges]:
        """The history features of records of one source in their order, and what the records change.

        Pure: the state is not changed. The same records give the same features to the last bit, however they are cut
        into batches, as long as each batch's changes are applied before the next one is folded, and nobody is evicted.

        Args:
            state: What earlier records left behind.
            records: Decoded records.
            joins: Which of them join the history, (n,); all unless given. The others see it and leave it as it is.

        Returns:
            Feature by name, each (n,), NaN where there is no history yet or nothing to say; and the changes.
        """
        layout, exact = self.layout, self.stream.history.mode == "exact"
        keys, entities = _entities(records)
        places = state.find(keys)
        # At least two rows: of one or none, numpy calls the columns contiguous, and the fold is compiled once more.
        at_least_two = np.concatenate([places, np.full(max(2 - len(places), 0), -1)])
        rows, logs = state.rows(at_least_two), state.logs(at_least_two)
        if state.base is not None:
            _begin_with(state.base, keys, np.flatnonzero(places < 0), rows, logs)
            beyond = _beyond(state.base, records, keys, entities)
            joins = beyond if joins is None else joins & beyond
        before = rows.copy()
        n = len(records)
        joining = np.ones(n, np.bool_) if joins is None else joins
        numbers = np.empty((n, len(layout.numbers)))
        for column, path in enumerate(layout.numbers):
            numbers[:, column] = np.clip(records.numbers[path], -LARGEST, LARGEST)
        values = np.empty((n, len(layout.values)), np.uint64)
        for column, path in enumerate(layout.values):
            values[:, column] = [_hash(value) for value in records.categories[path]]
        times = records.event_times
        if times is None:
            raise ValueError(f"records of stream {self.stream.name!r} have no event time, and history needs one")
        out = np.empty((n, len(layout.names)))
        work = _Windows.of(logs, entities, layout) if exact else _Windows.none(len(rows), layout)
        fold(
            layout.priors, layout.widths, layout.channels, layout.bitmaps, layout.running, layout.robust, layout.blooms,
            layout.features, exact, self.stream.history.max_age_us, self.stream.history.clip,
            entities, joining, times.astype(np.int64), self._minutes(times), numbers, values,
            rows["last_us"], rows["running"], rows["robust"], rows["buckets"], rows["hour"], rows["bitmaps"],
            rows["blooms"], work.first, work.end, work.times_us, work.numbers, work.excess, work.values, out,
        )  # fmt: skip
        kept = np.arange(len(keys))
        if joins is not None:  # who only looked is not remembered for it
            kept = kept[rows["last_us"][: len(keys)] != NEVER]
        part: Any = slice(len(keys)) if len(kept) == len(keys) else kept
        changes = HistoryChanges(
            keys=[keys[place] for place in kept.tolist()],
            places=places[part],
            before=before[part],
            rows=rows[part],
            logs=[work.log(place) for place in kept.tolist()] if exact else [],
            base=state.revision,
        )
        return {name: np.ascontiguousarray(out[:, column]) for column, name in enumerate(layout.names)}, changes

    def fold_all(
        self, states: Sequence[HistoryState], records: Records, joins: NDArray[np.bool_] | None = None
    ) -> tuple[Records, tuple[HistoryChanges, ...]]:
        """Fold records of several sources, each with its own state.

        Args:
            states: One for each source; `records.partition_index` says which one a record is of.
            records: Decoded records, those of one source in their order.
            joins: As in `fold`.

        Returns:
            The records with their history features, and the changes to each state, in the order of `states`.
        """
        if len(states) == 1:
            found, changes = self.fold(states[0], records, joins)
            return replace(records, history=found), (changes,)
        columns = {name: np.full(len(records), np.nan) for name in self.names}
        all_changes = []
        for source, state in enumerate(states):
            rows = np.flatnonzero(records.partition_index == source)
            found, changes = self.fold(state, records.take(rows), None if joins is None else joins[rows])
            for name, column in found.items():
                columns[name][rows] = column
            all_changes.append(changes)
        return replace(records, history=columns), tuple(all_changes)

    def _minutes(self, times: NDArray[np.datetime64]) -> NDArray[np.int32]:
        zone = self.stream.time.zone if self.stream.time else "UTC"
        return (to_local(times, zone).astype(np.int64) // _MINUTE_US % _DAY_MINUTES).astype(np.int32)

    def to_json(self) -> dict[str, Any]:
        """What was fitted, as a JSON object."""
        return {path: asdict(prior) for path, prior in self.priors.items()}

    @classmethod
    def from_json(cls, stream: StreamDefinition, content: Mapping[str, Any]) -> History:
        """What `to_json` gave, for the same stream.

        Raises:
            KeyError, TypeError: A part is missing, or there is one that no history has.
            ValueError: A prior is no number.
        """
        for path, prior in content.items():
            check_numbers(f"the prior of {path}", prior)
        return cls(stream, {path: Prior(**prior) for path, prior in content.items()})


def _entities(records: Records) -> tuple[list[str], NDArray[np.int32]]:
    """The entities of records, each once, and of each record the place of its own, -1 for none, (n,)."""
    places: dict[str, int] = {}
    if records.keys is None:
        return [], np.full(len(records), -1, np.int32)
    entities = [-1 if key is None else places.setdefault(key, len(places)) for key in records.keys.tolist()]
    return [bounded_key(key) for key in places], np.array(entities, np.int32)


def _begin_with(
    base: HistoryState, keys: Sequence[str], unknown: NDArray[np.int64], rows: NDArray[np.void],
    logs: list[EntityLog | None],
) -> None:  # fmt: skip
    """Let unknown entities have what a base knows of them."""
    places = base.find([keys[position] for position in unknown.tolist()])
    rows[unknown] = base.rows(places)
    for position, log in zip(unknown.tolist(), base.logs(places), strict=False):
        logs[position] = log


def _beyond(
    base: HistoryState, records: Records, keys: Sequence[str], entities: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Which records a base does not hold yet, (n,): newer than its entity's last one there, or beside it."""
    if records.event_times is None or not keys:
        return np.ones(len(records), np.bool_)
    last_us = base.rows(base.find(keys))["last_us"][entities]
    times_us = records.event_times.astype(np.int64)
    beyond: NDArray[np.bool_] = (times_us > last_us) | (entities < 0)
    if records.ids is not None:
        for row in np.flatnonzero(times_us == last_us).tolist():
            beyond[row] |= records.ids[row] not in base.ends.get(keys[entities[row]], ())
    return beyond


def bounded_key(key: str) -> str:
    """The key that an entity is remembered by: its own, or what stands for one too long to be kept by the million."""
    if len(key) <= _LONGEST_KEY:
        return key
    return f"{key[:_LONGEST_KEY]}…{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _prior(path: str, column: NDArray[np.float64]) -> Prior:
    known = np.clip(column[~np.isnan(column)], -LARGEST, LARGEST)
    if len(known) == 0:
        raise TrainingDataError(
            f"{path!r}, which history features look at, is missing in all of the first {len(column)} records: "
            "nothing can be learned from it; remove those features from the stream definition or mend the data"
        )
    low, high = np.quantile(known, [_PRIOR_TAIL, 1 - _PRIOR_TAIL])
    drawn_in = np.clip(known, low, high)
    mean, deviation = float(drawn_in.mean()), float(drawn_in.std())
    return Prior(mean, deviation if deviation > 0 else max(abs(mean) * 0.01, 1e-9))


@lru_cache(maxsize=1 << 16)
def _hash(value: str | None) -> int:
    """64 bits that stand for a value, the same everywhere and always; 0 for a missing one."""
    if value is None:
        return 0
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


@dataclass(frozen=True, eq=False)
class _Windows:
    """The records of the windows of some entities, one after the other, with room for those that come: exact mode."""

    first: NDArray[np.int64]
    end: NDArray[np.int64]
    times_us: NDArray[np.int64]
    numbers: NDArray[np.float64]
    excess: NDArray[np.float64]
    values: NDArray[np.uint64]

    @classmethod
    def none(cls, entities: int, layout: Layout) -> _Windows:
        """No room: windows are buckets."""
        return cls._empty(np.zeros(entities, np.int64), np.zeros(entities, np.int64), 0, layout)

    @classmethod
    def of(cls, logs: Sequence[EntityLog | None], entities: NDArray[np.int32], layout: Layout) -> _Windows:
        """With what the logs hold, and room for the records of `entities`."""
        count = len(logs)
        held = np.array([0 if log is None else len(log.times_us) for log in logs], np.int64)
        room = held + np.bincount(entities[entities >= 0], minlength=count)
        first = np.concatenate([[0], np.cumsum(room)[:-1]]).astype(np.int64) if count else np.zeros(0, np.int64)
        work = cls._empty(first, first + held, int(room.sum()), layout)
        for place, log in enumerate(logs):
            if log is not None:
                rows = slice(int(work.first[place]), int(work.end[place]))
                work.times_us[rows], work.numbers[rows] = log.times_us, log.numbers
                work.excess[rows], work.values[rows] = log.excess, log.values
        return work

    @classmethod
    def _empty(cls, first: NDArray[np.int64], end: NDArray[np.int64], room: int, layout: Layout) -> _Windows:
        return cls(
            first, end, np.zeros(room, np.int64), np.zeros((room, len(layout.numbers))),
            np.zeros((room, len(layout.robust))), np.zeros((room, len(layout.values)), np.uint64),
        )  # fmt: skip

    def log(self, place: int) -> EntityLog:
        rows = slice(int(self.first[place]), int(self.end[place]))
        return EntityLog(
            self.times_us[rows].copy(), self.numbers[rows].copy(), self.excess[rows].copy(), self.values[rows].copy()
        )
