"""How far each owned partition is: which batches are open, what may be committed. Knows no broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from transport.messages import Batch, Partition


@dataclass
class _Stretch:
    """What one batch holds of one partition."""

    batch: Batch
    first: int
    next: int
    done: bool = False


@dataclass
class _PartitionProgress:
    generation: int
    stretches: deque[_Stretch] = field(default_factory=deque)
    committable: int | None = None
    committed: int | None = None  # where what is done and not committed begins


class Progress:
    """The bookkeeping of a source.

    A partition's committable offset is the end of its unbroken run of finished batches, so that a batch finished
    out of turn never carries the one before it along. What is remembered of a partition goes with the partition:
    a batch polled before it was lost cannot make it committable, even if it has come back since.
    """

    def __init__(self) -> None:
        self._partitions: dict[Partition, _PartitionProgress] = {}
        self._open: dict[int, Batch] = {}
        self._gains = 0

    def gain(self, partitions: Collection[Partition]) -> None:
        """Begin anew with partitions that were assigned."""
        self._gains += 1
        for partition in partitions:
            self._partitions[partition] = _PartitionProgress(self._gains)

    def forget(self, partitions: Collection[Partition]) -> None:
        """Drop all about partitions that were given up or lost."""
        for partition in partitions:
            self._partitions.pop(partition, None)

    def clear(self) -> None:
        """Drop everything."""
        self._partitions.clear()
        self._open.clear()

    @property
    def owned(self) -> frozenset[Partition]:
        """The partitions that are owned."""
        return frozenset(self._partitions)

    def generations(self) -> dict[Partition, int]:
        """Return for each owned partition which gain brought it."""
        return {partition: progress.generation for partition, progress in self._partitions.items()}

    def start(self, partition: Partition, offset: int) -> None:
        """Make a first position committable."""
        if partition in self._partitions:
            self._partitions[partition].committable = self._partitions[partition].committed = offset

    def open(self, batch: Batch) -> None:
        """Take note of a batch that was polled."""
        self._open[id(batch)] = batch
        next_offsets = batch.next_offsets()
        for partition, first in batch.first_offsets().items():
            if partition in self._partitions:
                stretch = _Stretch(batch, first, next_offsets[partition])
                self._partitions[partition].stretches.append(stretch)

    def done(self, batch: Batch) -> None:
        """Finish a batch.

        Raises:
            ValueError: The batch is not open.
        """
        if self._open.pop(id(batch), None) is None:
            raise ValueError(
                "the batch is not open: it was done or gone back to before, so its offsets must not be committed"
            )
        for partition in batch.partitions:
            progress = self._partitions.get(partition)
            if progress is None:
                continue
            for stretch in progress.stretches:
                if stretch.batch is batch:
                    stretch.done = True
            while progress.stretches and progress.stretches[0].done:
                stretch = progress.stretches.popleft()
                progress.committable = stretch.next
                if progress.committed is None:
                    progress.committed = stretch.first

    def give_back(self) -> dict[Partition, int]:
        """Close every open batch; return the first offset that is not done of each partition that has one."""
        first = {
            partition: offset for partition in self._partitions if (offset := self.first_open(partition)) is not None
        }
        for progress in self._partitions.values():
            progress.stretches.clear()
        self._open.clear()
        return first

    def give_back_uncommitted(self) -> dict[Partition, int]:
        """The same, and what is done and not committed is not done any more."""
        first = self.give_back()
        for partition, progress in self._partitions.items():
            if progress.committed is not None:
                first[partition] = progress.committable = progress.committed
        return first

    def first_open(self, partition: Partition) -> int | None:
        """Return a partition's first offset that was polled and is not done, or None where there is none."""
        progress = self._partitions.get(partition)
        return progress.stretches[0].first if progress and progress.stretches else None

    def committable(self) -> dict[Partition, int]:
        """Return the offsets that are done and not yet committed."""
        return {
            partition: progress.committable
            for partition, progress in self._partitions.items()
            if progress.committable is not None
        }

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Take note of a commit."""
        for partition, offset in offsets.items():
            progress = self._partitions.get(partition)
            if progress is not None and progress.committable is not None and progress.committable <= offset:
                progress.committable = progress.committed = None
