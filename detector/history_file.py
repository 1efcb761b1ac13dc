"""The histories at the end of a training run, as a directory beside the artifact: where a worker without any begins.

    models/transactions/20260314T092653Z-1f3a9c2e.state/
        state.json      version that it lies beside, fingerprint, entities, sha256 of the other two
        blocks.msgpack  blocks of entities, each before its length
        ends.msgpack    ids of each entity's records at its last time, so that none of them counts twice
        state.sig       where it was signed: the signature of state.json's bytes, and so of the other two

It is as confidential as the data: it holds the keys of all entities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from detector.errors import HistoryMismatch
from detector.files import UnsafeFileError, opened
from detector.history import History, HistoryState
from detector.history_blocks import count_blocks, pack_block, unpack_block
from detector.signing import SIGNATURE_BYTES, PrivateKey, PublicKeys

SUFFIX = ".state"
_HEAD, _BLOCKS, _ENDS, _SIGNATURE = "state.json", "blocks.msgpack", "ends.msgpack", "state.sig"
_MOST_HEAD_BYTES, _MOST_BYTES = 64 * 1024, 64 * 1024**3
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
    return {_HEAD: _json(head), **content}


def of_version(files: Mapping[str, bytes], version: str, key: PrivateKey | None = None) -> dict[str, bytes]:
    """The files of a state that says which version it lies beside, signed where there is a key.

    Raises:
        HistoryMismatch: They are not those of a state.
    """
    try:
        head = json.loads(files[_HEAD]) | {"version": version}
        named = {_HEAD: _json(head), _BLOCKS: files[_BLOCKS], _ENDS: files[_ENDS]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HistoryMismatch(f"the state of {version} is not whole ({error}): publish it again") from error
    return named if key is None else named | {_SIGNATURE: key.sign(named[_HEAD])}


def read_state(
    history: History, directory: Path, trusted: PublicKeys | None = None, version: str | None = None
) -> HistoryState | None:
    """The state at the end of training, ready to be begun with; None where none was published.

    Args:
        history: What is remembered.
        directory: Where it lies.
        trusted: Keys of which one must have signed it; None asks for no signature.
        version: The version that it has to lie beside; any unless given. It says none where it was published by an
            earlier offbeat, which then only a signature could prove.

    Raises:
        HistoryMismatch: It is damaged, of another history or version, or not signed by one of the keys.
        OSError: It cannot be read.
    """
    if not directory.is_dir():
        return None
    try:
        raw, content = _read(directory, trusted)
        head = json.loads(raw)
        said = head.get("version", version if trusted is None else None)
        damaged = any(hashlib.sha256(data).hexdigest() != head["files"][name] for name, data in content.items())
        fingerprint, most = head["fingerprint"], max(int(head["entities"]), 1)
        ends = {} if damaged else msgspec.msgpack.decode(content[_ENDS], type=dict[str, list[str]])
    except HistoryMismatch:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError) as error:
        raise HistoryMismatch(f"{directory} does not hold a whole state ({error}): publish it again") from error
    if fingerprint != history.fingerprint:
        raise HistoryMismatch(f"{directory} holds histories of other features, other priors or other decoding")
    if version is not None and said != version:
        raise HistoryMismatch(f"{directory} holds the histories of version {said!r:.40}, not of {version}")
    if damaged:
        raise HistoryMismatch(f"{directory} is truncated or was changed: publish it again")
    state = history.new_state(most=most)
    blocks, at = content[_BLOCKS], 0
    while at < len(blocks):
        size = int.from_bytes(blocks[at : at + _LENGTH_BYTES], "little")
        block = unpack_block(history, blocks[at + _LENGTH_BYTES : at + _LENGTH_BYTES + size])
        state.put(block.keys, block.rows, block.logs)
        at += _LENGTH_BYTES + size
    state.ends = {key: frozenset(ids) for key, ids in ends.items()}
    return state


def read_files(directory: Path) -> dict[str, bytes]:
    """The files of a state by name, each read once.

    Raises:
        HistoryMismatch: One is a link, or no regular file.
        OSError: One cannot be read.
    """
    raw, content = _read(directory, None)
    return {_HEAD: raw, **content}


def _read(directory: Path, trusted: PublicKeys | None) -> tuple[bytes, dict[str, bytes]]:
    try:
        with opened(directory) as folder:
            raw = folder.read(_HEAD, _MOST_HEAD_BYTES)
            if trusted is not None and trusted.signer_of(raw, folder.read(_SIGNATURE, SIGNATURE_BYTES)) is None:
                raise HistoryMismatch(
                    f"{directory / _SIGNATURE} is not the signature of this state by one of the keys "
                    f"{', '.join(trusted.fingerprints)}: sign the version again, if you know who made it"
                )
            return raw, {name: folder.read(name, _MOST_BYTES) for name in (_BLOCKS, _ENDS)}
    except FileNotFoundError as error:
        raise HistoryMismatch(f"{directory} is not whole, or not signed ({error.filename} is not there)") from error
    except UnsafeFileError as error:
        raise HistoryMismatch(f"{directory} was not read: {error}; publish it again") from error


def _json(head: Mapping[str, object]) -> bytes:
    return json.dumps(head, indent=1).encode() + b"\n"
