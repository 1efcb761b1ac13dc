"""Messages as they come and go: a batch in columns, a message to publish. Knows no client library and no record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Bounds of the record format v2: batch header, and the varints and attributes of one record and of one header.
_BATCH_OVERHEAD_BYTES = 61
_RECORD_OVERHEAD_BYTES = 36
_HEADER_OVERHEAD_BYTES = 10


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, eq=False)
class Batch:
    """Messages of one poll as columns of equal length n; within a partition their order is the broker's.

    Two batches are never equal unless they are the same object: a batch is what one poll gave, and giving it
    back or finishing it is about that poll.

    Attributes:
        partitions: The partitions that occur in it.
        partition_index: Index into `partitions`, shape (n,).
        offsets: Shape (n,). Ascending within a partition, with holes where the topic is compacted or a
            transaction was aborted.
        timestamps_ms: The messages' timestamps, milliseconds since 1970 UTC; -1 where a message has none. Shape (n,).
        keys: n message keys.
        values: n message values; None is a tombstone.
        headers: n sequences of (name, value).
    """

    partitions: tuple[Partition, ...]
    partition_index: NDArray[np.int32]
    offsets: NDArray[np.int64]
    timestamps_ms: NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Sequence[tuple[str, bytes]]]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(map(len, filter(None, self.values))) + sum(map(len, filter(None, self.keys)))

    def drop_contents(self) -> None:
        """Let go of keys, values and headers, where only the places of the messages are still needed."""
        self.keys[:] = [None] * len(self)
        self.values[:] = [None] * len(self)
        self.headers[:] = [()] * len(self)

    def first_offsets(self) -> dict[Partition, int]:
        """Return each partition's first offset in this batch."""
        return {
            partition: int(self.offsets[self.partition_index == index].min())
            for index, partition in enumerate(self.partitions)
        }

    def next_offsets(self) -> dict[Partition, int]:
        """Return each partition's offset after its last message in this batch: what a commit of it would say."""
        return {
            partition: int(self.offsets[self.partition_index == index].max()) + 1
            for index, partition in enumerate(self.partitions)
        }


@dataclass(frozen=True)
class OutgoingMessage:
    """A message to publish.

    Attributes:
        topic: Where it goes.
        key: Decides the partition where `partition` does not; None for whichever suits the client.
        value: None is a tombstone.
        headers: Pairs of name and value, in this order; a name may come more than once.
        timestamp_ms: Milliseconds since 1970 UTC; None lets the client put the time of sending.
        partition: The number of the partition that it goes to, whatever its key; None leaves that to the key.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None
    partition: int | None = None

    @property
    def size_bytes(self) -> int:
        """The most bytes that it takes on the wire by itself, uncompressed: what brokers limit."""
        size = _BATCH_OVERHEAD_BYTES + _RECORD_OVERHEAD_BYTES + len(self.key or b"") + len(self.value or b"")
        for name, value in self.headers:
            size += _HEADER_OVERHEAD_BYTES + len(name.encode()) + len(value)
        return size


@dataclass(frozen=True)
class RebalanceCounts:
    """How often partitions came and went since the source was made, by kind.

    Attributes:
        assigned: Times that partitions were added.
        revoked: Times that partitions were given up in good order, their finished offsets committed first.
        lost: Times that partitions were taken away because the group had put this member out.
    """

    assigned: int = 0
    revoked: int = 0
    lost: int = 0
