"""Decoded records as columns: one array a field, never an object a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class MessageBatch(Protocol):
    """What decoding needs of a batch of messages: values, and where each came from, as columns of one length."""

    @property
    def values(self) -> Sequence[bytes | None]:
        """Raw message values; None is a tombstone."""

    @property
    def partition_index(self) -> NDArray[np.int32]:
        """Code of each message's partition, shape (n,)."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Offset of each message in its partition, shape (n,)."""

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        """Timestamp of each message in ms since the epoch, shape (n,)."""


@dataclass(frozen=True)
class Messages:
    """Message values that come from no broker: rows of a file, or made up. One partition, offsets in order.

    Attributes:
        values: Raw message values; None is a tombstone.
        first: Offset of the first of them.
    """

    values: Sequence[bytes | None]
    first: int = 0

    @property
    def partition_index(self) -> NDArray[np.int32]:
        """Zeros, shape (n,)."""
        return np.zeros(len(self.values), np.int32)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """`first` and on, shape (n,)."""
        return np.arange(self.first, self.first + len(self.values), dtype=np.int64)

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        """-1, which stands for none, shape (n,)."""
        return np.full(len(self.values), -1, np.int64)


@dataclass(frozen=True)
class Records:
    """The records of a batch that could be decoded, as columns of one length m.

    Attributes:
        rows: Index into the batch that each record came from, ascending, shape (m,).
        partition_index: Code of the message's partition, shape (m,).
        offsets: Offset of the message, shape (m,).
        timestamps_ms: Timestamp of the message in ms since the epoch, shape (m,).
        numbers: Number fields by path, float64 (m,); NaN is missing, infinity does not occur.
        categories: Category fields by path, str or None (missing), shape (m,).
        times: Time fields by path, datetime64[us] in UTC, shape (m,); NaT is missing.
        ids: Value of the id field as text, shape (m,), or None where the stream has none.
        keys: Value of the entity key as text or None (missing), shape (m,), or None where the stream has none.
        labels: True for a known anomaly, shape (m,), or None where the stream has no label or no record carries one.
        event_times: The event time, datetime64[us] in UTC, shape (m,), or None where the stream declares none.
        history: History features by name, float64 (m,), NaN is missing; empty until they were computed.
        images: Images at the stream's size, uint8 (m, height, width, channels), or None where the stream has none.
    """

    rows: NDArray[np.int64]
    partition_index: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    numbers: dict[str, NDArray[np.float64]]
    categories: dict[str, NDArray[np.object_]]
    times: dict[str, NDArray[np.datetime64]]
    ids: NDArray[np.object_] | None = None
    keys: NDArray[np.object_] | None = None
    labels: NDArray[np.bool_] | None = None
    event_times: NDArray[np.datetime64] | None = None
    history: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    images: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Records:
        """The chosen records, by position or by mask, in the order given."""

        def pick(value: Any) -> Any:
            if isinstance(value, dict):
                return {path: column[rows] for path, column in value.items()}
            return None if value is None else value[rows]

        return Records(**{each.name: pick(getattr(self, each.name)) for each in fields(self)})

    @staticmethod
    def concat(parts: Sequence[Records]) -> Records:
        """The records of several batches of the same stream, one after the other.

        A part without labels counts as unlabelled (normal) where another part has them.
        """
        if not parts:
            raise ValueError("nothing to join: give at least one part")

        def join(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], dict):
                return {path: np.concatenate([value[path] for value in values]) for path in values[0]}
            if all(value is None for value in values):
                return None
            if name == "labels":
                values = [
                    np.zeros(len(part), np.bool_) if value is None else value
                    for part, value in zip(parts, values, strict=True)
                ]
            return np.concatenate(values)

        return Records(**{each.name: join(each.name) for each in fields(parts[0])})
