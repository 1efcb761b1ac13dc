"""kafka-python's records turned into a batch's columns. Knows nothing about offsets to commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from transport.messages import Batch, Partition

# Places of what we keep in kafka-python's ConsumerRecord, a named tuple.
_OFFSET, _TIMESTAMP, _KEY, _VALUE, _HEADERS = 3, 4, 6, 7, 8


def columns(polled: Mapping[Any, Sequence[Any]]) -> Batch | None:
    """Return what one poll gave as one batch, or None where it gave nothing.

    One pass: the records are named tuples, so transposing them needs no Python code per record.
    """
    polled = {partition: records for partition, records in polled.items() if records}
    if not polled:
        return None
    fields = tuple(zip(*chain.from_iterable(polled.values()), strict=True))
    counts = [len(records) for records in polled.values()]
    return Batch(
        partitions=tuple(Partition(partition.topic, partition.partition) for partition in polled),
        partition_index=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        offsets=np.array(fields[_OFFSET], dtype=np.int64),
        timestamps_ms=np.array(fields[_TIMESTAMP], dtype=np.int64),
        keys=list(fields[_KEY]),
        values=list(fields[_VALUE]),
        headers=[_with_values(headers) if headers else headers for headers in fields[_HEADERS]],
    )


def until(batch: Batch, ends: Mapping[Partition, int]) -> Batch:
    """Return the batch without what lies at or behind its partitions' ends; the same batch where nothing does."""
    limits = [ends[partition] for partition in batch.partitions]
    keep = [
        row
        for row, (index, offset) in enumerate(zip(batch.partition_index, batch.offsets, strict=True))
        if offset < limits[index]
    ]
    if len(keep) == len(batch):
        return batch
    return Batch(
        partitions=batch.partitions,
        partition_index=batch.partition_index[keep],
        offsets=batch.offsets[keep],
        timestamps_ms=batch.timestamps_ms[keep],
        keys=[batch.keys[row] for row in keep],
        values=[batch.values[row] for row in keep],
        headers=[batch.headers[row] for row in keep],
    )


def _with_values(headers: Sequence[tuple[str, bytes | None]]) -> Sequence[tuple[str, bytes]]:
    """Return headers with empty ones for those without a value: the client reads them and refuses to write them."""
    return [(name, b"" if value is None else value) for name, value in headers]
