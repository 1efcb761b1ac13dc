"""Message values to columns in one pass: good records as columns, each bad one as a reject with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector import times
from detector.definition_parts import span_us
from detector.images import BadImageError, from_base64, read_image
from detector.records import MessageBatch, Records
from detector.stream import (
    DEEPEST,
    OF_VALUES,
    CategoryFeature,
    FieldFeature,
    ImageFeature,
    NumberFeature,
    StreamDefinition,
    TimeFeature,
    TimeField,
)

MAX_DEPTH = DEEPEST
"""Deepest nesting that is read; more brackets than this in a record cost it a closer look."""

Column = list[Any] | NDArray[Any]
"""Raw values of one field: what JSON gave, or an array of numbers or times that a table had."""

_BOM = b"\xef\xbb\xbf"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)  # never fails, so that it is linear
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_LATEST_MS = 253_402_300_799_999  # the last of the year 9999
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", re.ASCII)


class RejectReason(StrEnum):
    """Why a message value is not a record. The set is closed: it labels metrics and dead letters."""

    TOMBSTONE = "tombstone"
    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    NOT_FINITE = "not_finite"
    BAD_TIME = "bad_time"
    FUTURE_TIME = "future_time"
    BAD_IMAGE = "bad_image"


@dataclass(frozen=True)
class Reject:
    """A value that is not a record of the stream: which of the batch, why, and where in it.

    The message never repeats a value of the record.
    """

    row: int
    reason: RejectReason
    field: str | None
    message: str


class RejectedValueError(ValueError):
    """One value is not a record; carries what a `Reject` needs."""

    def __init__(self, reason: RejectReason, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


@dataclass(frozen=True)
class Role:
    """All that one field is used for, and so how it is read.

    With `checked` every value's type is checked as the column is made; a message's are, by the JSON decoder.
    """

    path: str
    number: bool = False
    from_string: bool = False
    text: bool = False
    label: bool = False
    arrival: bool = False
    raw: bool = False
    image: ImageFeature | None = None
    time: tuple[str, str] | None = None
    required: bool = False
    checked: bool = False


def roles_of(stream: StreamDefinition) -> tuple[Role, ...]:
    """How each field of the stream is read, in the order of `stream.paths`."""
    roles = []
    by_path: dict[str, list[FieldFeature]] = {}
    for feature in stream.field_features:
        by_path.setdefault(feature.field, []).append(feature)
    history, image = stream.history_features, stream.image
    for path in stream.paths:
        features = by_path.get(path, [])
        numbers = [feature for feature in features if isinstance(feature, NumberFeature)]
        statistics = {feature.statistic for feature in history if feature.of == path}
        is_event_time = stream.time is not None and path == stream.time.field
        is_arrival = stream.time is not None and path == stream.time.arrival
        roles.append(
            Role(
                path=path,
                number=bool(numbers) or bool(statistics - OF_VALUES) or path in stream.suppression_numbers,
                from_string=any(feature.from_string for feature in numbers),
                text=path in (stream.id, stream.key, *stream.suppression_values)
                or bool(statistics & OF_VALUES)
                or any(isinstance(f, CategoryFeature) for f in features),
                label=stream.label is not None and path == stream.label.field,
                arrival=is_arrival,
                image=image if image is not None and path == image.field else None,
                time=stream.time_format(path)
                if is_event_time or is_arrival or any(isinstance(f, TimeFeature) for f in features)
                else None,
                required=path == stream.id
                or is_event_time
                or any(feature.required for feature in features)
                or (image is not None and path == image.field),
            )
        )
    return tuple(roles)


class Decoder:
    """Reads the message values of one stream: JSON objects in UTF-8.

    The outcome of a value depends on nothing but the value and the stream definition. Of a key that occurs twice
    the last counts; a byte order mark is skipped; numbers inside strings are numbers only where declared.
    """

    def __init__(self, stream: StreamDefinition) -> None:
        self.stream = stream
        self._roles = roles_of(stream)
        shape = _Shape(self._roles)
        self._decode = msgspec.json.Decoder(shape.struct).decode
        self._getters = shape.getters

    def decode(self, batch: MessageBatch) -> tuple[Records, list[Reject]]:
        """Decode a batch; every value becomes either one record or one reject.

        Returns:
            The good records in the batch's order, and the rejects in the same order.
        """
        good: list[Any] = []
        rows: list[int] = []
        rejects: list[Reject] = []
        decode, most = self._decode, self.stream.max_record_bytes
        for row, value in enumerate(batch.values):
            if value and len(value) <= most and value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
                try:
                    if not value.isascii():
                        value.decode("utf-8")
                    good.append(decode(value))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    pass
                else:
                    rows.append(row)
                    continue
            try:
                good.append(self._read_carefully(value))
                rows.append(row)
            except RejectedValueError as error:
                rejects.append(Reject(row, error.reason, error.field, str(error)))
        columns = {
            role.path: [getter(record) for record in good]
            for role, getter in zip(self._roles, self._getters, strict=True)
        }
        origin = np.array(rows, np.int64)
        records, bad = assemble(self.stream, self._roles, columns, origin, batch)
        if bad:
            rejects = sorted(rejects + bad, key=lambda reject: reject.row)
        return records, rejects

    def _read_carefully(self, value: bytes | None) -> Any:
        """One value that the fast path did not take: its record after all, or the reason why it is none."""
        if value is None:
            raise RejectedValueError(RejectReason.TOMBSTONE, "the value is null: a tombstone, not a record")
        if not value.strip():
            raise RejectedValueError(RejectReason.EMPTY, "the value is empty")
        if len(value) > self.stream.max_record_bytes:
            raise RejectedValueError(
                RejectReason.TOO_LARGE,
                f"{len(value)} bytes are more than max_record_bytes ({self.stream.max_record_bytes})",
            )
        value = value.removeprefix(_BOM)
        try:
            value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RejectedValueError(
                RejectReason.NOT_UTF8, f"byte {error.start} is not UTF-8: {error.reason}"
            ) from error
        if json_depth(value) > MAX_DEPTH:
            raise RejectedValueError(RejectReason.TOO_DEEP, f"objects and lists are nested more than {MAX_DEPTH} deep")
        try:
            return self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _diagnose(error) from error


def _diagnose(error: Exception) -> RejectedValueError:
    """Why a value of acceptable size, depth and encoding is not a record of this stream."""
    if isinstance(error, msgspec.ValidationError):
        place = re.search(r"`\$\.?(.*?)`$", str(error))
        field = place[1] if place and place[1] else None
        if field is None:
            return RejectedValueError(RejectReason.NOT_AN_OBJECT, f"the value is JSON but no object: {error}")
        if "out of range" in str(error):
            return RejectedValueError(RejectReason.NOT_FINITE, f"{field} is beyond the range of a number", field)
        wanted = str(error).split(" - at ")[0].lower()
        return RejectedValueError(RejectReason.WRONG_TYPE, f"{field}: {wanted}", field)
    return RejectedValueError(RejectReason.NOT_JSON, f"the value is not JSON: {error}")


class _Shape:
    """The msgspec type that reads the declared fields of a record, skipping all others, and how to get at each."""

    def __init__(self, roles: Sequence[Role]) -> None:
        tree: dict[str, Any] = {}
        for role in roles:
            node = tree
            *parents, leaf = role.path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = role
        self._attributes: dict[str, tuple[str, ...]] = {}
        self.struct = self._build(tree, (), "")
        self.getters = [_getter(self._attributes[role.path]) for role in roles]

    def _build(self, tree: dict[str, Any], above: tuple[str, ...], prefix: str) -> type[msgspec.Struct]:
        """A struct for one level of the tree; its attributes have names of our own, whatever the fields are called."""
        fields: list[tuple[str, Any, Any]] = []
        rename = {}
        for position, (key, node) in enumerate(tree.items()):
            name = f"f{position}"
            rename[name] = key
            if isinstance(node, dict):
                fields.append((name, self._build(node, (*above, name), f"{prefix}{key}.") | None, None))
            else:
                self._attributes[prefix + key] = (*above, name)
                kind = _wire_type(node)
                fields.append((name, kind, msgspec.Raw(b"") if kind is msgspec.Raw else None))
        return msgspec.defstruct("Object", fields, rename=rename, gc=False)


def _getter(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """A function from a decoded record to one value, None where an object on the way is missing."""
    if len(names) == 1:
        return attrgetter(names[0])

    def nested(record: Any) -> Any:
        for name in names:
            if record is None:
                return None
            record = getattr(record, name)
        return record

    return nested


def _wire_type(role: Role) -> Any:
    """The JSON types that a field may have; null and absence are the same: missing."""
    if role.raw:
        return msgspec.Raw
    if role.label:
        return Any
    if role.image is not None:
        return str | None
    if role.number and not role.text and role.time is None:
        return float | str | None if role.from_string else float | None
    if role.time is not None and not role.text and not role.number:
        return str | None if role.time[0] == "iso8601" else float | None
    return str | int | float | bool | None


def assemble(
    stream: StreamDefinition,
    roles: Sequence[Role],
    columns: Mapping[str, Column],
    rows: NDArray[np.int64],
    batch: MessageBatch,
) -> tuple[Records, list[Reject]]:
    """Typed columns from raw ones; a record with a value that is not what its field is declared to be is rejected."""
    rejected: dict[int, Reject] = {}

    def reject(positions: NDArray[np.int64], reason: RejectReason, field: str, message: str) -> None:
        for position in positions.tolist():
            row = int(rows[position])
            rejected.setdefault(row, Reject(row, reason, field, f"{field} {message}"))

    numbers, categories, stamps = {}, {}, {}
    texts: dict[str, NDArray[np.object_]] = {}
    labels, images = None, None
    for role in roles:
        values = columns[role.path]
        if role.required:
            reject(
                np.flatnonzero(_is_missing(role, values)),
                RejectReason.MISSING_FIELD,
                role.path,
                "is missing, and required",
            )
        if role.number:
            numbers[role.path] = _number_column(role, values, reject)
        if role.time is not None:
            stamps[role.path] = _time_column(role, role.time, values, reject)
        if role.text:
            texts[role.path] = _text_column(role, values, reject)
        if role.image is not None:
            images = _image_column(role, role.image, values, reject)
        if role.label and stream.label is not None:
            labels = label_column(stream.label.anomalous, values)
    wanted = {feature.field for feature in stream.field_features if isinstance(feature, CategoryFeature)}
    wanted |= {feature.of for feature in stream.history_features if feature.of and feature.statistic in OF_VALUES}
    wanted |= set(stream.suppression_values)
    categories = {path: column for path, column in texts.items() if path in wanted}
    if stream.time is not None and stream.history_features:
        ahead = _is_ahead(stream.time, stamps, np.asarray(batch.timestamps_ms)[rows])
        reject(
            np.flatnonzero(ahead),
            RejectReason.FUTURE_TIME,
            stream.time.field,
            f"is more than max_ahead ({stream.time.max_ahead}) after the record arrived",
        )
    records = Records(
        rows=rows,
        partition_index=np.asarray(batch.partition_index)[rows],
        offsets=np.asarray(batch.offsets)[rows],
        timestamps_ms=np.asarray(batch.timestamps_ms)[rows],
        numbers=numbers,
        categories=categories,
        times=stamps,
        ids=texts.get(stream.id) if stream.id else None,
        keys=texts.get(stream.key) if stream.key else None,
        labels=labels,
        event_times=stamps.get(stream.time.field) if stream.time else None,
        images=images,
    )
    if rejected:
        records = records.take(~np.isin(rows, list(rejected)))
    return records, [rejected[row] for row in sorted(rejected)]


def _is_ahead(
    time: TimeField, stamps: Mapping[str, NDArray[np.datetime64]], timestamps_ms: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which records claim to be of a time long after their arrival, (n,); none where nobody knows when they arrived."""
    arrived = np.clip(timestamps_ms, 0, _LATEST_MS).astype("datetime64[ms]").astype("datetime64[us]")
    arrived[timestamps_ms < 0] = times.NOT_A_TIME
    if time.arrival is not None:
        arrived = np.where(np.isnat(arrived), stamps[time.arrival], arrived)
    ahead: NDArray[np.bool_] = stamps[time.field].astype(np.int64) - span_us(time.max_ahead) > arrived.astype(np.int64)
    ahead &= ~np.isnat(arrived) & ~np.isnat(stamps[time.field])
    return ahead


def _is_missing(role: Role, values: Column) -> NDArray[np.bool_]:
    """Which raw values of a column are missing, (n,): nulls, and empty texts where a text may stand at all."""
    if isinstance(values, np.ndarray):
        missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else np.isnat(values)
        return missing
    absent = (None,) if _wire_type(role) == (float | None) else (None, "")
    return np.array([value in absent for value in values], np.bool_)


_Rejecter = Callable[[NDArray[np.int64], RejectReason, str, str], None]


def _number_column(role: Role, values: Column, reject: _Rejecter) -> NDArray[np.float64]:
    """Numbers as float64 (n,), NaN where missing."""
    if isinstance(values, np.ndarray):
        column = values
    elif role.checked or role.from_string or role.text or role.time is not None:
        column = np.full(len(values), np.nan)
        wrong = []
        for row, value in enumerate(values):
            number = _as_number(value, from_string=role.from_string)
            if number is None:
                wrong.append(row)
            else:
                column[row] = number
        reject(np.array(wrong, np.int64), RejectReason.WRONG_TYPE, role.path, "is not a number")
    else:
        column = np.array(values, np.float64)
    infinite = np.isinf(column)
    if infinite.any():
        reject(np.flatnonzero(infinite), RejectReason.NOT_FINITE, role.path, "is infinite")
    return column


def _as_number(value: Any, *, from_string: bool) -> float | None:
    """A raw value as a number, NaN where missing, None where it is none."""
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    if isinstance(value, str):
        if not from_string:
            return None
        if not value.strip():
            return float("nan")
        return float(value) if _NUMBER.fullmatch(value) else None
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _text_column(role: Role, values: Column, reject: _Rejecter) -> NDArray[np.object_]:
    """Scalars as text, shape (n,), None where missing: 5 and 5.0 are "5", true is "true"."""
    column = np.empty(len(values), np.object_)
    wrong = []
    for row, value in enumerate(values):
        if value is None or type(value) is str:
            column[row] = value or None
        elif isinstance(value, bool):
            column[row] = "true" if value else "false"
        elif isinstance(value, int):
            column[row] = str(value)
        elif isinstance(value, float) and value.is_integer():
            column[row] = str(int(value))
        else:
            wrong.append(row)
    reject(
        np.array(wrong, np.int64), RejectReason.WRONG_TYPE, role.path, "is not text, a whole number or a truth value"
    )
    return column


def _time_column(role: Role, written: tuple[str, str], values: Column, reject: _Rejecter) -> NDArray[np.datetime64]:
    """Times as datetime64[us] in UTC (n,), NaT where missing."""
    form, zone = written
    if isinstance(values, np.ndarray):
        column = values
        bad = ~np.isnat(column) & ~times.in_bounds(column)
        message = "lies outside the years 1 to 9999"
    elif form == "iso8601":
        wrong = [row for row, value in enumerate(values) if not (value is None or isinstance(value, str))]
        reject(np.array(wrong, np.int64), RejectReason.WRONG_TYPE, role.path, "is not a text with a time")
        texts = [value if isinstance(value, str) and value else None for value in values]
        column, bad = times.from_iso8601(texts, zone)
        message = "is not an ISO-8601 time between the years 1 and 9999"
    else:
        plain = Role(role.path, number=True, text=True)
        column, bad = times.from_epoch(_number_column(plain, values, reject), form)
        message = f"is not a time as {form} between the years 1 and 9999: are the units right?"
    if bad.any():
        reject(np.flatnonzero(bad), RejectReason.BAD_TIME, role.path, message)
    return column


def _image_column(role: Role, feature: ImageFeature, values: Column, reject: _Rejecter) -> NDArray[np.uint8]:
    """Images in base64 at the feature's size, uint8 (n, h, w, c); black where there is none."""
    column = np.zeros((len(values), feature.height, feature.width, feature.channels), np.uint8)
    for row, value in enumerate(values):
        if value is None or value == "":
            continue  # required, and rejected as missing
        try:
            column[row] = read_image(from_base64(value), feature)
        except BadImageError as error:
            reason = RejectReason.TOO_LARGE if error.is_too_large else RejectReason.BAD_IMAGE
            reject(np.array([row], np.int64), reason, role.path, str(error))
    return column


def label_column(anomalous: Sequence[bool | int | str], values: Column) -> NDArray[np.bool_] | None:
    """Which records are known anomalies, (n,); None where no record carries a label.

    1, 1.0, true, "1" and "true" are alike only as far as the definition lists them; a number compares by value.
    """
    if all(value is None for value in values):
        return None
    return np.array([_is_anomalous(value, anomalous) for value in values], np.bool_)


def _is_anomalous(value: Any, anomalous: Sequence[bool | int | str]) -> bool:
    return any(isinstance(value, bool) == isinstance(mark, bool) and value == mark for mark in anomalous)


def json_depth(value: bytes) -> int:
    """Deepest nesting of a JSON text, brackets inside strings not counted; the text need not be valid."""
    if value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
        return 0
    brackets = _STRING.sub(b"", value).translate(None, _NO_BRACKETS)
    steps = np.frombuffer(brackets, np.uint8)
    opens = (steps == ord("{")) | (steps == ord("["))
    return int(np.cumsum(np.where(opens, np.int8(1), np.int8(-1)), dtype=np.int32).max(initial=0))


class Echo:
    """The allow-listed fields of a raw message value, for alerts."""

    def __init__(self, stream: StreamDefinition) -> None:
        self._paths = stream.echo
        shape = _Shape([Role(path, raw=True) for path in stream.echo])
        self._getters = shape.getters
        self._decode = msgspec.json.Decoder(shape.struct).decode

    def __call__(self, value: bytes) -> dict[str, msgspec.Raw]:
        """The echoed fields of one value that was decoded before, by path, each as the JSON text that it had.

        Fields that are missing are left out, and so are all where an object on the way is none.
        """
        try:
            record = self._decode(value.removeprefix(_BOM))
        except msgspec.ValidationError:
            return {}
        found = {path: getter(record) for path, getter in zip(self._paths, self._getters, strict=True)}
        return {path: content for path, content in found.items() if content}
