"""The compacted topic that histories are written to, a block of entities a message; it keeps none of them itself.

What decides on a partition's alerts stands beside them, in one message.

The input topic is the changelog of all histories; this one only shortens its replay. A block says which offset of which
topic it stands for: everything before that offset is in it, nothing behind it. The message's key names partition, side
and block, so that compaction keeps the last of each; its partition is that of the input, so that a new owner reads no
more than it needs.

Which entity stands in which block is each owner's own affair, so blocks of two owners do not go together. Each owner
writes a lineage of its own, to the side that the lineage which it began with does not lie on: that one stays whole
until the new one is, and what a former owner still writes late falls on its own side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detector import History, HistoryState, pack_block
from transport import Batch, OutgoingMessage, Partition

SIDES = ("a", "b")

_ALERTS = "alerts"  # in the place of a block's number

_MOST_AT_ONCE = 64  # blocks, so that writing them never holds up the loop for long

_FINGERPRINT, _IDENTITY, _LINEAGE = "offbeat.fingerprint", "offbeat.topic_id", "offbeat.lineage"
_OFFSET, _BLOCKS = "offbeat.offset", "offbeat.blocks"


@dataclass(frozen=True)
class Lineage:
    """The blocks of one owner of one partition.

    Attributes:
        name: Unlike any other.
        side: Where they lie.
        identity: Which topic of that name they are of.
    """

    name: str
    side: str
    identity: str


@dataclass(frozen=True)
class StoredBlock:
    """A block as it was read.

    Attributes:
        lineage: Whose block it is.
        number: Which block of its partition.
        blocks: How many blocks the partition had.
        offset: The offset that it stands for.
        fingerprint: Which history it is of.
        content: The block itself.
    """

    lineage: Lineage
    number: int
    blocks: int
    offset: int
    fingerprint: str
    content: bytes


@dataclass(frozen=True)
class StoredAlerts:
    """What decides on alerts, as it was read.

    Attributes:
        lineage: Whose it is.
        offset: The offset that it stands for.
        content: The state itself.
    """

    lineage: Lineage
    offset: int
    content: bytes


class Rotation:
    """Which blocks of a partition to write next: those never written first, and every block once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._written = 0  # blocks that were written at least once
        self._cursor = 0  # the next of these to be written again
        self._debt = 0.0  # blocks that should have been written again by now
        self._looked_s: float | None = None

    def due(self, blocks: int, now_s: float) -> list[int]:
        """Numbers of the blocks to write now, ascending; those never written stay due until `wrote` is told."""
        new = range(self._written, blocks)[:_MOST_AT_ONCE]
        self._debt += self._written * (now_s - (now_s if self._looked_s is None else self._looked_s)) / self._seconds
        self._looked_s = now_s
        count = min(int(self._debt), _MOST_AT_ONCE - len(new), self._written)
        self._debt = min(self._debt - count, float(blocks))
        again = {(self._cursor + step) % self._written for step in range(count)}
        self._cursor = (self._cursor + count) % max(self._written, 1)
        return sorted({*new, *again})

    def wrote(self, numbers: Sequence[int]) -> None:
        """Take note of blocks that were due and are written."""
        self._written = max([self._written, *(number + 1 for number in numbers)])


def block_message(
    topic: str, history: History, state: HistoryState, partition: Partition, lineage: Lineage, number: int, *,
    offset: int, blocks: int,
) -> OutgoingMessage:  # fmt: skip
    """The message that says what a block was when all before `offset` was in it, and nothing behind."""
    headers = (
        (_FINGERPRINT, history.fingerprint), (_IDENTITY, lineage.identity), (_LINEAGE, lineage.name),
        (_OFFSET, str(offset)), (_BLOCKS, str(blocks)),
    )  # fmt: skip
    return OutgoingMessage(
        topic,
        f"{partition.topic}/{partition.number}/{lineage.side}/{number}".encode(),
        pack_block(history, state, number),
        tuple((name, value.encode()) for name, value in headers),
        partition=partition.number,
    )


def alerts_message(
    topic: str, content: bytes, partition: Partition, lineage: Lineage, *, offset: int
) -> OutgoingMessage:
    """The message that says what decided on alerts when all before `offset` was in it, and nothing behind."""
    headers = ((_IDENTITY, lineage.identity), (_LINEAGE, lineage.name), (_OFFSET, str(offset)))
    return OutgoingMessage(
        topic,
        f"{partition.topic}/{partition.number}/{lineage.side}/{_ALERTS}".encode(),
        content,
        tuple((name, value.encode()) for name, value in headers),
        partition=partition.number,
    )


def stored(batch: Batch, partition: Partition) -> Iterator[StoredBlock | StoredAlerts]:
    """What a batch of the state topic holds of one input partition, in order; all else is passed over."""
    prefix = f"{partition.topic}/{partition.number}/".encode()
    for key, value, headers in zip(batch.keys, batch.values, batch.headers, strict=True):
        side, _, number = (key or b"").removeprefix(prefix).decode("utf-8", "replace").partition("/")
        if key is None or value is None or not key.startswith(prefix) or side not in SIDES:
            continue
        said = dict(headers)
        try:
            lineage = Lineage(said[_LINEAGE].decode(), side, said[_IDENTITY].decode())
            offset = _counted(said[_OFFSET])
            if number == _ALERTS:
                yield StoredAlerts(lineage, offset, value)
                continue
            blocks = _counted(said[_BLOCKS])
            yield StoredBlock(
                lineage=lineage, number=_counted(number.encode(), blocks), blocks=blocks, offset=offset,
                fingerprint=said[_FINGERPRINT].decode(), content=value,
            )  # fmt: skip
        except (KeyError, ValueError):  # not ours, or of a version that writes otherwise: it is warmed up instead
            continue


def _counted(text: bytes, below: int = 2**63) -> int:
    """A whole number from 0 on, as offsets and blocks are counted.

    Raises:
        ValueError: It is none, or not below the limit.
    """
    number = int(text)
    if not 0 <= number < below:
        raise ValueError(f"{number} is not from 0 to below {below}")
    return number
