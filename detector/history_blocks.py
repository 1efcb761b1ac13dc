"""A history state as bytes, a block of entities at a time: to be written away, and read back by whoever carries on."""

from __future__ import annotations

import zlib

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from detector.errors import HistoryMismatch
from detector.history import EntityLog, History, HistoryState

_CHECK_BYTES = 4
_BLOCK_BYTES = 128 * 1024
_LEAST_ENTITIES, _MOST_ENTITIES = 16, 4096


class _Log(Struct, array_like=True):
    times_us: bytes
    numbers: bytes
    excess: bytes
    values: bytes


class _Block(Struct):
    fingerprint: str
    number: int
    blocks: int
    keys: list[str | None]
    rows: bytes
    logs: list[_Log | None] | None


class Block(Struct, frozen=True):
    """Some entities of a state, as they were written away.

    Attributes:
        number: Which block of the state, from 0.
        blocks: How many blocks the state had then.
        keys: The entities.
        rows: What is remembered of them.
        logs: In exact mode, the records of their windows; empty otherwise.
    """

    number: int
    blocks: int
    keys: list[str]
    rows: NDArray[np.void]
    logs: list[EntityLog | None]


def entities_per_block(history: History) -> int:
    """How many entities a block holds; depends on nothing but what is remembered of one."""
    return int(np.clip(_BLOCK_BYTES // history.row_bytes, _LEAST_ENTITIES, _MOST_ENTITIES))


def count_blocks(history: History, state: HistoryState) -> int:
    """How many blocks a state has."""
    return state.blocks(entities_per_block(history))


def pack_block(history: History, state: HistoryState, number: int) -> bytes:
    """One block of a state."""
    entities = entities_per_block(history)
    keys, rows, logs = state.block(number, entities)
    packed = [
        None if log is None else _Log(*(part.tobytes() for part in (log.times_us, log.numbers, log.excess, log.values)))
        for log in logs
    ]
    block = _Block(
        fingerprint=history.fingerprint, number=number, blocks=state.blocks(entities), keys=keys, rows=rows.tobytes(),
        logs=packed or None,
    )  # fmt: skip
    packed_block = msgspec.msgpack.encode(block)
    return zlib.crc32(packed_block).to_bytes(_CHECK_BYTES, "big") + packed_block


def unpack_block(history: History, content: bytes) -> Block:
    """What `pack_block` gave.

    Raises:
        HistoryMismatch: It is no block, a damaged one, or one of another history than this.
    """
    check, packed_block = content[:_CHECK_BYTES], content[_CHECK_BYTES:]
    if zlib.crc32(packed_block).to_bytes(_CHECK_BYTES, "big") != check:
        raise HistoryMismatch("not a block of histories, or a damaged one: its checksum is wrong")
    try:
        block = msgspec.msgpack.decode(packed_block, type=_Block)
    except (msgspec.MsgspecError, ValueError) as error:  # text in it may be none
        raise HistoryMismatch(f"not a block of histories: {error}") from error
    if block.fingerprint != history.fingerprint:
        raise HistoryMismatch("a block of another history: other features, other priors or other decoding")
    layout = history.layout
    try:
        rows = np.frombuffer(block.rows, layout.row)
        logs = [None if log is None else _unpack_log(history, log) for log in block.logs or ()]
    except ValueError as error:
        raise HistoryMismatch(f"a damaged block of histories: {error}") from error
    is_exact = history.stream.history.mode == "exact"
    if len(rows) != len(block.keys) or len(logs) != len(rows) * is_exact:
        raise HistoryMismatch(
            f"a damaged block of histories: {len(block.keys)} entities, {len(rows)} rows and {len(logs)} logs"
        )
    kept = [position for position, key in enumerate(block.keys) if key is not None]
    keys = [key for key in block.keys if key is not None]
    if len(set(keys)) != len(keys):
        raise HistoryMismatch("a damaged block of histories: it holds an entity twice")
    return Block(
        number=block.number, blocks=block.blocks, keys=keys, rows=rows[kept],
        logs=[logs[position] for position in kept] if logs else [],
    )  # fmt: skip


def _unpack_log(history: History, log: _Log) -> EntityLog:
    layout = history.layout
    times_us = np.frombuffer(log.times_us, np.int64)
    return EntityLog(
        times_us,
        np.frombuffer(log.numbers, np.float64).reshape(len(times_us), len(layout.numbers)),
        np.frombuffer(log.excess, np.float64).reshape(len(times_us), len(layout.robust)),
        np.frombuffer(log.values, np.uint64).reshape(len(times_us), len(layout.values)),
    )
