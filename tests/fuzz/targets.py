"""What a fuzzer throws bytes at: each target takes any bytes, and fails where a promise about bad input is broken.

The promises: nothing but the documented errors; an outcome that is one of the closed set; the same outcome for a record
alone and in a batch; and what was accepted can be worked with. That it ends in time and within memory is seen to by
whoever calls: `tests/fuzz/coverage_guided.py` gives each input ten seconds and two gigabytes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector import (
    AlertStateMismatch,
    ArtifactError,
    ArtifactRefusal,
    Decoder,
    Detector,
    Echo,
    History,
    HistoryMismatch,
    ImageDecoder,
    Messages,
    Records,
    RejectReason,
    StreamDefinition,
    StreamDefinitionError,
    pack_alert_state,
    pack_block,
    unpack_alert_state,
    unpack_block,
)
from detector.artifact import pack
from detector.history_layout import Prior
from tests.payments import DEFINITION, HISTORY, HISTORY_STREAM, STREAM, message
from transport import Batch, Partition
from worker.state_topic import StoredAlerts, StoredBlock, stored

EVERYTHING = """
name = "everything"
id = "a.b.id"
key = "a.key"
echo = ["a.b.id", "note"]
sensitive = ["secret"]
max_record_bytes = 20000
[time]
field = "at"
format = "epoch_ms"
zone = "Europe/Berlin"
arrival = "arrived"
max_ahead = "1h"
[label]
field = "fraud"
anomalous = [1, "yes", true]
[[feature]]
kind = "number"
field = "n.text"
from_string = true
[[feature]]
kind = "number"
field = "n.must"
required = true
log = true
[[feature]]
kind = "category"
field = "a.key"
[[feature]]
kind = "category"
field = "n.both"
[[feature]]
kind = "number"
field = "n.both"
name = "both as number"
[[feature]]
kind = "time"
field = "local"
format = "iso8601"
zone = "America/New_York"
[[feature]]
kind = "time"
field = "seconds"
format = "epoch_s"
[[feature]]
kind = "history"
statistic = "distinct"
of = "n.both"
window = "1d"
[[suppress]]
rule = "floor"
name = "small"
field = "n.floor"
at_least = 5.0
[[suppress]]
rule = "segment"
name = "test_cards"
field = "segment"
values = ["test"]
"""

DEFINITIONS = (
    DEFINITION,
    DEFINITION.replace("payments", "remembering") + HISTORY,
    EVERYTHING,
    'name = "in_json"\nid = "id"\n[time]\nfield = "at"\n[[feature]]\nkind = "image"\nfield = "scan.image"\n',
    'name = "discs"\n[[feature]]\nkind = "image"\nmax_pixels = 10000\n',
    'name = "bare"\n[[feature]]\nkind = "image"\npixels = [20, 16, 3]\ncolour = true\n',
)
BETWEEN = b"\xfe"
"""Between the messages of a batch: a byte that no UTF-8 has."""

TOMBSTONE = b"\xfd"
_EARLIEST, _LATEST = np.datetime64("0001-01-01", "us"), np.datetime64("9999-12-31T23:59:59", "us")


class Broken(AssertionError):  # noqa: N818 - what is so, not that it is an error
    """A promise about bad input does not hold."""


def promised(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


# --- decoder ---


def decoder(data: bytes) -> None:
    """The first byte chooses the stream, the rest is a batch of message values."""
    if not data:
        return
    stream = streams()[data[0] % len(DEFINITIONS)]
    values = [None if value == TOMBSTONE else value for value in data[1:].split(BETWEEN)][:64]
    check_batch(stream, values)


@cache
def streams() -> tuple[StreamDefinition, ...]:
    return tuple(StreamDefinition.from_toml(text) for text in DEFINITIONS)


@cache
def decoder_of(stream: StreamDefinition) -> Decoder | ImageDecoder:
    is_image = stream.image is not None and stream.image.field is None
    return ImageDecoder(stream) if is_image else Decoder(stream)


def check_batch(stream: StreamDefinition, values: list[bytes | None]) -> Records:
    """Decode a batch: every value has one outcome, and the same one as alone."""
    read = decoder_of(stream).decode
    records, rejects = read(Messages(values))
    promised(
        sorted([*records.rows.tolist(), *(reject.row for reject in rejects)]) == list(range(len(values))),
        f"{len(values)} values, {len(records)} records and {len(rejects)} rejects",
    )
    promised(all(isinstance(reject.reason, RejectReason) for reject in rejects), "a reason that is not in the set")
    promised(all(len(reject.message) < 2000 for reject in rejects), "a message without end")
    for column in records.numbers.values():
        promised(not np.isinf(column).any(), "a number that is infinite")
    for stamps in records.times.values():
        known = stamps[~np.isnat(stamps)]
        promised(bool(((known >= _EARLIEST) & (known <= _LATEST)).all()), "a time out of bounds")
    by_row = {reject.row: reject for reject in rejects}
    if len(values) > 1:
        for row, value in enumerate(values):
            alone, why = read(Messages([value]))
            told = by_row.get(row)
            promised(
                [(reject.reason, reject.field) for reject in why] == ([(told.reason, told.field)] if told else []),
                f"row {row}: {told} in the batch, {why} alone",
            )
            if not why:
                place = int(np.flatnonzero(records.rows == row)[0])
                promised(_content(alone, 0) == _content(records, place), f"row {row} differs alone")
    echo = Echo(stream)
    for row in records.rows.tolist():
        if stream.echo:
            echo(values[row] or b"")
    return records


def _content(records: Records, place: int) -> list[Any]:
    parts: list[Any] = []
    for columns in (records.numbers, records.categories, records.times):
        parts += [(path, _bits(column[place])) for path, column in columns.items()]
    for column in (records.ids, records.keys, records.event_times, records.images):
        parts.append(None if column is None else _bits(column[place]))
    return [*parts, records.labels is not None and bool(records.labels[place])]


def _bits(value: Any) -> Any:
    return value.tobytes() if isinstance(value, (np.ndarray, np.generic)) else value


# --- stream definition ---


def definition(data: bytes) -> None:
    """The bytes are a stream definition in TOML."""
    try:
        stream = StreamDefinition.from_toml(data.decode("utf-8", "replace"))
    except StreamDefinitionError as error:
        promised(str(error).startswith("stream.toml: "), f"an error that does not say where: {error}")
        return
    again = StreamDefinition.from_toml(stream.to_toml())
    promised(again == stream, "written out and read back it is another")
    is_image = stream.image is not None and stream.image.field is None
    made = ImageDecoder(stream) if is_image else Decoder(stream)
    values: list[bytes | None] = [b"{}", message(1), b"[]"]
    records, rejects = made.decode(Messages(values))
    promised(len(records) + len(rejects) == len(values), "a value without an outcome")
    if stream.history_features:
        priors = {feature.of: Prior(1.0, 1.0) for feature in stream.history_features if feature.of is not None}
        history = History(stream, priors)
        history.fold(history.new_state(), records)


# --- artifact ---


@cache
def small_detector() -> Detector:
    """A detector with features from history, fitted on few records in few steps: it has to be whole, not good."""
    from trainer.fitting import FitSettings, fit_detector

    records, _ = Decoder(HISTORY_STREAM).decode(Messages([message(number) for number in range(600)]))
    return fit_detector(records, HISTORY_STREAM, FitSettings(most_steps=50))[0]


@cache
def packed() -> tuple[str, dict[str, bytes]]:
    detector = small_detector()
    version, content = pack(detector)
    return version, content


def artifact(data: bytes) -> None:
    """The first byte chooses a file or a way to change one, the rest is its content or the changes.

    Whatever is changed, the hashes are those of what is there: this is past what they can tell.
    """
    if not data:
        return
    _, content = packed()
    files, rest = dict(content), data[1:]
    way = data[0] % 6
    manifest = json.loads(files["manifest.json"])
    if way == 0:
        files["golden.json"] = rest
    elif way == 1:
        files["weights.safetensors"] = rest
    elif way == 2:  # a header of the fuzzer's own before the tensors that there are
        size = int.from_bytes(content["weights.safetensors"][:8], "little")
        files["weights.safetensors"] = (
            len(rest).to_bytes(8, "little") + rest + content["weights.safetensors"][8 + size :]
        )
    elif way == 3:
        manifest = edited(manifest, rest)
    elif way == 4:
        files["weights.safetensors"] = edited_tensors(content["weights.safetensors"], rest)
    raw = json.dumps(rehashed(manifest, files)).encode()
    check_artifact(files | {"manifest.json": rest if way == 5 else raw})


def rehashed(manifest: Any, files: dict[str, bytes]) -> Any:
    if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
        for name in manifest["files"]:
            if name in files:
                manifest["files"][name] = hashlib.sha256(files[name]).hexdigest()
        manifest["bytes"] = {name: len(files[name]) for name in files if name != "manifest.json"}
    return manifest


def check_artifact(files: dict[str, bytes]) -> Detector | None:
    """Load an artifact: it is refused for a reason of the closed set, or the detector does its work."""
    directory = Path(tempfile.mkdtemp(dir=_memory()))
    try:
        for name, content in files.items():
            (directory / name).write_bytes(content)
        try:
            detector = Detector.load(directory)
        except ArtifactError as error:
            promised(isinstance(error.reason, ArtifactRefusal), "a reason that is not in the set")
            promised(len(str(error)) < 3000, "a message without end")
            return None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    records, _ = detector.decode(Messages([message(number) for number in range(3)]))
    verdicts, _ = detector.judge(records)
    promised(len(verdicts.scores) == len(records), "records without a score")
    repr(detector.trained_until)
    return detector


@cache
def _memory() -> str | None:
    """A place for files that is no disk, where there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "x", "../../etc/passwd", "\ud800", "Europe", [],
    {}, [[[]]], ["x"], [1e9], {"kind": "pca"}, "1970-01-01", "é" * 300,
)  # fmt: skip
"""What a part of a manifest may be changed to."""


def edited(tree: Any, program: bytes) -> Any:
    """A tree of JSON with changes, two bytes of place and one of value each: set, remove, or double."""
    for at in range(0, len(program) - 2, 3):
        places = list(_places(tree))
        if not places:
            break
        holder, key = places[int.from_bytes(program[at : at + 2], "little") % len(places)]
        choice = program[at + 2]
        if choice == 255:
            del holder[key]
        elif choice == 254 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif choice >= 200:
            other, name = places[choice % len(places)]
            holder[key] = copy.deepcopy(other[name]) if name in _keys(other) else None
        else:
            holder[key] = copy.deepcopy(ODD[choice % len(ODD)])
    return tree


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))


def _places(tree: Any) -> Any:
    """Every place of a tree as its holder and key, but the hashes."""
    if isinstance(tree, (dict, list)):
        for key in list(_keys(tree)):
            if key in ("files", "bytes", "losses"):
                continue
            yield tree, key
            yield from _places(tree[key])


def edited_tensors(raw: bytes, program: bytes) -> bytes:
    """Tensors with changes, three bytes each: which, how, and with what."""
    from safetensors.numpy import load, save

    tensors = load(raw)
    for at in range(0, len(program) - 2, 3):
        names = sorted(tensors)
        if not names:
            break
        name, how, what = names[program[at] % len(names)], program[at + 1] % 8, program[at + 2]
        tensors[name] = _changed(tensors[name], how, what)
        if how == 7:
            del tensors[name]
    return bytes(save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}))


_MOST_DOUBLED = 1 << 20  # numbers: the memory that is looked at is the reader's


def _changed(tensor: NDArray[Any], how: int, what: int) -> NDArray[Any]:
    values = (0, 1, -1, 2, 2**31, -(2**31), 2**62, 1e300, -1e300, np.nan, np.inf, 1e-300, 0.5, 100)
    value = values[what % len(values)]
    with np.errstate(all="ignore"):
        if how == 0:
            changed = tensor.reshape(-1)[: what * len(tensor.reshape(-1)) // 256]
        elif how == 1:
            changed = tensor.astype(("f2", "f4", "f8", "i1", "i4", "i8", "u1", "b1")[what % 8])
        elif how == 2:
            changed = tensor[..., None] if what % 2 else tensor.reshape(-1)
        elif how == 3:
            changed = np.concatenate([tensor, tensor]) if tensor.ndim and tensor.size < _MOST_DOUBLED else tensor
        elif how == 4:
            changed = np.zeros((0, *tensor.shape[1:]), tensor.dtype)
        elif how in (5, 6):
            changed = tensor.copy()
            flat = changed.reshape(-1)
            if len(flat):
                place = slice(None) if how == 5 else what % len(flat)
                flat[place] = np.asarray(value).astype(tensor.dtype)
        else:
            changed = tensor
    return changed


# --- what is read from the state topic ---


@cache
def histories() -> tuple[History, ...]:
    """One for each way to remember."""
    priors = {"amount": Prior(30.0, 10.0)}
    exact = HISTORY_STREAM.model_copy(update={"history": HISTORY_STREAM.history.model_copy(update={"mode": "exact"})})
    return tuple(History(stream, priors) for stream in (HISTORY_STREAM, exact))


@cache
def following() -> Detector:
    """A detector whose alerts depend on what came before: an online threshold, and a cooldown."""
    before = small_detector()
    content = before.stream.model_dump()
    content["threshold"] = {"false_alarm_rate": 0.01, "mode": "online", "window": 5000}
    content["suppress"] = [{"rule": "cooldown", "name": "quiet", "period": "1h"}]
    stream = StreamDefinition.model_validate(content)
    return Detector(
        stream, before.encoder, before.scorer, before.threshold, before.normal_scores, history=before.history
    )


@cache
def some_records() -> Records:
    return Decoder(HISTORY_STREAM).decode(
        Messages([message(number % 7, amount=float(10**number)) for number in range(9)])
    )[0]


def blocks(data: bytes) -> None:
    """The first byte chooses what is read, the rest is its content; the checksum is that of what is there."""
    if not data:
        return
    rest = data[1:]
    content = zlib.crc32(rest).to_bytes(4, "big") + rest
    if data[0] % 4 < 2:
        check_block(histories()[data[0] % 4], content)
    elif data[0] % 4 == 2:
        check_alert_state(content)
    else:
        check_stored(rest)


def check_block(history: History, content: bytes) -> None:
    """Read a block: it is refused, or the history goes on with it."""
    try:
        block = unpack_block(history, content)
    except HistoryMismatch:
        return
    state = history.new_state()
    state.put(block.keys, block.rows, block.logs)
    promised(len(state) == len(block.keys), "an entity that is not there")
    found, changes = history.fold(state, some_records())
    promised(all(len(column) == len(some_records()) for column in found.values()), "records without a feature")
    state.apply(changes)
    pack_block(history, state, 0)


def check_alert_state(content: bytes) -> None:
    """Read what decides on alerts: it is refused, or the next records are judged with it."""
    try:
        state, version = unpack_alert_state(content)
    except AlertStateMismatch:
        return
    detector = following()
    verdicts, _ = detector.judge(some_records(), None, [state])
    promised(bool(np.isfinite(verdicts.thresholds).all()), "a threshold that is no number: nothing would alert")
    for before in verdicts.before:
        if before is not None:
            repr(before)
    unpack_alert_state(pack_alert_state(verdicts.states[0], version))


def check_stored(data: bytes) -> None:
    """Read messages of the state topic: key, value and headers between bytes of their own."""
    parts = [*data.split(BETWEEN), b"", b"", b"", b"", b"", b""]
    headers = [
        ("offbeat.lineage", parts[2]), ("offbeat.topic_id", parts[3]), ("offbeat.offset", parts[4]),
        ("offbeat.blocks", parts[5]), ("offbeat.fingerprint", parts[1]),
    ]  # fmt: skip
    batch = Batch(
        partitions=(Partition("payments.state", 0),), partition_index=np.zeros(1, np.int32),
        offsets=np.zeros(1, np.int64), timestamps_ms=np.zeros(1, np.int64), keys=[parts[0]], values=[parts[1]],
        headers=[headers[: 1 + len(parts[2]) % 5]] if parts[2][:1] == b"-" else [headers],
    )  # fmt: skip
    for found in stored(batch, Partition("payments", 0)):
        promised(isinstance(found, (StoredBlock, StoredAlerts)), "something else")
        promised(0 <= found.offset < 2**63, f"an offset that is none: {found.offset}")
        if isinstance(found, StoredBlock):
            promised(0 <= found.number < found.blocks, f"block {found.number} of {found.blocks}")


# --- where to begin ---


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with: sound ones, near which the interesting ones are."""
    if target == "decoder":
        return _decoder_seeds()
    if target == "definition":
        return [text.encode() for text in DEFINITIONS] + [STREAM.to_toml().encode()]
    if target == "artifact":
        _, content = packed()
        size = int.from_bytes(content["weights.safetensors"][:8], "little")
        header = content["weights.safetensors"][8 : 8 + size]
        return [
            b"\0" + content["golden.json"], b"\1" + content["weights.safetensors"][:400], b"\2" + header,
            b"\5" + content["manifest.json"], *(bytes([3, step, 0, step]) for step in range(0, 250, 7)),
            *(bytes([4, step, how, 9 * how]) for step in range(0, 60, 5) for how in range(8)),
        ]  # fmt: skip
    return _block_seeds()


def _decoder_seeds() -> list[bytes]:
    from tests.images import discs, encoded, in_json

    payments = BETWEEN.join([message(1), message(2, amount=None), b"", TOMBSTONE, b"[" * 70, b'{"amount": 1e400}'])
    everything = {
        "a": {"b": {"id": 7}, "key": "k"}, "at": 1767225600000, "arrived": 1767225600000, "fraud": "yes", "note": [1],
        "n": {"text": " 1e3 ", "must": 2, "both": 3, "floor": -1}, "local": "2026-03-29T02:30:00", "seconds": 1.5,
        "segment": "test", "secret": {"x": 1},
    }  # fmt: skip
    image = discs(1)[0]
    return [
        b"\0" + payments, b"\1" + payments, b"\2" + BETWEEN.join([json.dumps(everything).encode()] * 2),
        b"\3" + in_json(image, id="1", at="2026-01-01"), b"\4" + encoded(image), b"\4" + encoded(image, "JPEG"),
        b"\5" + bytes(960),
    ]  # fmt: skip


def _block_seeds() -> list[bytes]:
    found = []
    for way, history in enumerate(histories()):
        state = history.new_state()
        _, changes = history.fold(state, some_records())
        state.apply(changes)
        found.append(bytes([way]) + pack_block(history, state, 0)[4:])
    verdicts, _ = following().judge(some_records())
    found.append(b"\2" + pack_alert_state(verdicts.states[0], "20260101T000000Z-00000000")[4:])
    found.append(b"\3" + BETWEEN.join([b"payments/0/a/3", b"block", b"line", b"id", b"7", b"9"]))
    found.append(b"\3" + BETWEEN.join([b"payments/0/b/alerts", b"state", b"line", b"id", b"7"]))
    return found


TARGETS: dict[str, Callable[[bytes], None]] = {
    "decoder": decoder, "definition": definition, "artifact": artifact, "blocks": blocks,
}  # fmt: skip
