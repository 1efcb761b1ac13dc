"""The histories at the end of a training run, as a directory beside the artifact: where a worker without any begins.

    models/transactions/20260314T092653Z-1f3a9c2e.state/
        state.json      fingerprint, entities, sha256 of the other two
        blocks.msgpack  blocks of entities, each before its length
        ends.msgpack    ids of each entity's records at its last time, so that none of them counts twice

It is as confidential as the data: it holds the keys of all entities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from detector.errors import HistoryMismatch
from detector.history import History, HistoryState
from detector.history_blocks import count_blocks, pack_block, unpack_block

SUFFIX = ".state"
_HEAD, _BLOCKS, _ENDS = "state.json", "blocks.msgpack", "ends.msgpack"
_LENGTH_BYTES = 8


def pack_state(history: History, state: HistoryState, ends: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """The files of a state by name.

    Args:
        history: What is remembered.
        state: The entities.
        ends: Ids of the records of each entity at its last time; empty where records have no id.
    """
    blocks = [pack_block(history, state, number) for number in range(count_blocks(history, state))]
    content = {
        _BLOCKS: b"".join(len(block).to_bytes(_LENGTH_BYTES, "little") + block for block in blocks),
        _ENDS: msgspec.msgpack.encode({key: list(ids) for key, ids in ends.items()}),
    }
    head = {
        "fingerprint": history.fingerprint,
        "entities": len(state),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in content.items()},
        "confidential": "holds the keys of all entities",
    }
    return {_HEAD: json.dumps(head, indent=1).encode() + b"\n", **content}


def read_state(history: History, directory: Path) -> HistoryState | None:
    """The state at the end of training, ready to be begun with; None where none was published.

    Raises:
        HistoryMismatch: It is damaged, or of another history.
        OSError: It cannot be read.
    """
    if not directory.is_dir():
        return None
    try:
        head = json.loads((directory / _HEAD).read_bytes())
        content = {name: (directory / name).read_bytes() for name in (_BLOCKS, _ENDS)}
        if head["fingerprint"] != history.fingerprint:
            raise HistoryMismatch(f"{directory} holds histories of other features, other priors or other decoding")
        if any(hashlib.sha256(data).hexdigest() != head["files"][name] for name, data in content.items()):
            raise HistoryMismatch(f"{directory} is truncated or was changed: publish it again")
        ends = msgspec.msgpack.decode(content[_ENDS], type=dict[str, list[str]])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, HistoryMismatch):
            raise
        raise HistoryMismatch(f"{directory} does not hold a whole state ({error}): publish it again") from error
    state = history.new_state(most=max(int(head["entities"]), 1))
    blocks, at = content[_BLOCKS], 0
    while at < len(blocks):
        size = int.from_bytes(blocks[at : at + _LENGTH_BYTES], "little")
        block = unpack_block(history, blocks[at + _LENGTH_BYTES : at + _LENGTH_BYTES + size])
        state.put(block.keys, block.rows, block.logs)
        at += _LENGTH_BYTES + size
    state.ends = {key: frozenset(ids) for key, ids in ends.items()}
    return state
