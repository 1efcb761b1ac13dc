"""Message values as the batch that a poll would have given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transport import Batch, Partition


def batch_of(values: Sequence[bytes | None]) -> Batch:
    n = len(values)
    return Batch(
        partitions=(Partition("payments", 0),),
        partition_index=np.zeros(n, np.int32),
        offsets=np.arange(n, dtype=np.int64),
        timestamps_ms=np.zeros(n, np.int64),
        keys=[None] * n,
        values=list(values),
        headers=[()] * n,
    )
