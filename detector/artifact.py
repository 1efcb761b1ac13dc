"""The artifact: a detector as an immutable directory of JSON and tensors that is verified before anyone sees it.

Loading one never runs code: tensors are in safetensors, all else is JSON. The format:

    manifest.json         stream definition, encoder, architecture, threshold, facts, and the sha256 of every other file
    weights.safetensors   tensors of network, scorer with its head, and encoder, of the scores of normal records, and of
                          the reference that later records are compared with; the last is not there in every artifact
    golden.json           made-up messages with the scores that they must get
    report.html           for people; any other file that the trainer adds is listed and hashed likewise
    manifest.sig          where it was signed: the signature of manifest.json's bytes, and so of all that it lists

The version is the time of fitting and the first eight digits of the manifest's sha256, so that it names its content.

Whoever reads one trusts none of it: each file is read once, and what was hashed is what is used; nothing is allocated
that the files do not hold; and every part is checked before compiled code looks at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from detector.decode import MAX_DEPTH, json_depth
from detector.detector import Detector
from detector.drift import DriftReference
from detector.encode import Encoder
from detector.errors import ArtifactError, ArtifactRefusal
from detector.files import Folder, UnsafeFileError, opened
from detector.golden import golden_records, make_golden
from detector.history import History
from detector.image_records import ImageEncoder
from detector.image_scoring import ImageScorer
from detector.networks import Autoencoder, ConvolutionalAutoencoder, build
from detector.normal_scores import NormalScores
from detector.scoring import Scorer
from detector.signing import SIGNATURE_BYTES, PrivateKey, PublicKeys
from detector.stream import StreamDefinition
from detector.threshold import Threshold

FORMAT = 4
"""Version of this format; a reader refuses any other."""

VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
GOLDEN_TOLERANCE = 1e-3
"""Relative difference of golden scores that another machine's arithmetic may cause."""

_NORMAL, _REFERENCE = "normal_scores.", "reference."
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
"""Names of the files that no manifest lists: the manifest itself, and the signature of it."""

_WEIGHTS, _GOLDEN = "weights.safetensors", "golden.json"
_MOST_MANIFEST_BYTES = 64 * 1024 * 1024
_MOST_BYTES = 4 * 1024**3
_MOST_FILES = 100
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def pack(
    detector: Detector, files: Mapping[str, bytes] | None = None, key: PrivateKey | None = None
) -> tuple[str, dict[str, bytes]]:
    """The artifact's version and the content of its files by name.

    Args:
        detector: What to pack; the fact `fitted_at` (ISO-8601) goes into the version.
        files: More files for people, such as report.html.
        key: Signs it, where one is given.

    Raises:
        ValueError: Its manifest would be too large to be read back.
    """
    configs, arrays = detector.encoder.state()
    scorer = detector.scorer
    tensors = {f"network.{name}": tensor for name, tensor in scorer.network.state_dict().items()}
    tensors |= {f"encoder:{name}": torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    tensors |= {f"scorer.{name}": tensor for name, tensor in scorer.state().items()}
    tensors |= {f"{_NORMAL}{name}": torch.from_numpy(array) for name, array in detector.normal_scores.state().items()}
    reference = {} if detector.reference is None else detector.reference.state()
    tensors |= {f"{_REFERENCE}{name}": torch.from_numpy(array) for name, array in reference.items()}
    content = {
        _WEIGHTS: save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}),
        _GOLDEN: _json(make_golden(detector)),
        **(files or {}),
    }
    manifest = {
        "format": FORMAT,
        "name": detector.name,
        "stream": detector.stream.model_dump(mode="json", exclude_defaults=True),
        "kind": scorer.kind,
        "encoder": configs,
        "architecture": scorer.network.architecture(),
        "threshold": detector.threshold.to_json(),
        "history": detector.history and detector.history.to_json(),
        "facts": detector.facts,
        "confidential": "as confidential as the data that it was fitted on: codes are records of it",
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(content.items())},
        "bytes": {name: len(data) for name, data in sorted(content.items())},
    }
    raw = _json(manifest)
    if len(raw) > _MOST_MANIFEST_BYTES:
        raise ValueError(
            f"the manifest of {detector.name!r} would have {len(raw)} bytes, and more than {_MOST_MANIFEST_BYTES} are "
            "not read: a category has a value of its own for nearly every record; leave that feature out"
        )
    content[MANIFEST] = raw
    if key is not None:
        content[SIGNATURE] = key.sign(raw)
    return _version(manifest, raw), content


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _version(manifest: Mapping[str, Any], raw: bytes) -> str:
    fitted_at = datetime.fromisoformat(manifest["facts"].get("fitted_at", "1970-01-01T00:00:00+00:00"))
    return f"{fitted_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(raw).hexdigest()[:8]}"


def write_artifact(detector: Detector, directory: Path, files: Mapping[str, bytes] | None = None) -> Path:
    """Write an artifact to a directory that does not exist yet; it appears complete or not at all."""
    return write_files(pack(detector, files)[1], directory)


def write_files(content: Mapping[str, bytes], directory: Path) -> Path:
    """Write files into a new directory that is renamed into place once all of them are on the disk.

    Raises:
        FileExistsError: The directory exists; artifacts are never changed.
    """
    if directory.exists():
        raise FileExistsError(f"{directory} exists, and artifacts are never changed: give a directory of a new name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.parent / f".{directory.name}.{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        for name, data in content.items():
            with (draft / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        draft.rename(directory)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return directory


def read_artifact(directory: Path, trusted: PublicKeys | None = None, name: str | None = None) -> Detector:
    """Read an artifact and verify it: signature, hashes, format, tensors, golden scores on this machine.

    Without keys that proves that nothing was damaged, and that the detector does here what it did there. It does not
    prove who made it: whoever writes a file and the manifest with it writes a sound artifact, with a threshold of their
    own. With keys it does, before a byte of it is parsed.

    Args:
        directory: Where it is.
        trusted: Keys of which one must have signed it; None asks for no signature.
        name: The detector that it has to be of; any unless given.

    Raises:
        ArtifactError: It is refused; `reason` is one of a closed set, the message says what to do.
    """
    try:
        with opened(directory) as folder:
            raw = _read(folder, MANIFEST, _MOST_MANIFEST_BYTES)
            if trusted is not None:
                _verify(folder, raw, trusted)
            manifest = _parse(folder, raw, name)
            content = _files(folder, manifest)
    except UnsafeFileError as error:
        raise _tampered(directory, str(error)) from error
    except OSError as error:
        raise ArtifactError(ArtifactRefusal.MISSING, f"{directory} is not there: no artifact to load") from error
    try:
        return _restore(directory, raw, manifest, content)
    except (ArtifactError, OSError):
        raise
    except Exception as error:  # what the libraries and rooms say of parts that are no detector together has no end
        told = str(error) or type(error).__name__
        raise ArtifactError(
            ArtifactRefusal.UNREADABLE,
            f"{directory} does not hold a whole detector ({told[:500]}): publish the model again",
        ) from error


def read_manifest(directory: Path) -> dict[str, Any]:
    """What an artifact says of itself; nothing of it is verified.

    Raises:
        ArtifactError: There is no manifest of this format to read.
    """
    try:
        with opened(directory) as folder:
            return _parse(folder, _read(folder, MANIFEST, _MOST_MANIFEST_BYTES), None)
    except (UnsafeFileError, OSError) as error:
        raise _tampered(directory, str(error)) from error


def sign_artifact(directory: Path, key: PrivateKey, name: str | None = None) -> None:
    """Sign what an artifact holds, in the place of any signature that it had; who signs it vouches for it.

    Raises:
        ArtifactError: It is refused: nothing is signed that would not be loaded.
    """
    verified = read_artifact(directory, name=name)
    with opened(directory) as folder:
        raw = _read(folder, MANIFEST, _MOST_MANIFEST_BYTES)
    if hashlib.sha256(raw).hexdigest() != verified.sha256:
        raise _tampered(directory / MANIFEST, "it was changed while it was verified")
    replace_file(directory / SIGNATURE, key.sign(raw))


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that takes the place of the one there all at once."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _verify(folder: Folder, raw: bytes, trusted: PublicKeys) -> None:
    """See that one of the keys signed the manifest.

    Raises:
        ArtifactError: None did.
    """
    try:
        signature = folder.read(SIGNATURE, SIGNATURE_BYTES)
    except UnsafeFileError as error:
        raise ArtifactError(
            ArtifactRefusal.WRONG_SIGNATURE,
            f"{folder.path / SIGNATURE} is no signature: {error}; sign the version again, if you know who made it",
        ) from error
    except OSError as error:
        raise ArtifactError(
            ArtifactRefusal.UNSIGNED,
            f"{folder.path} is not signed ({SIGNATURE}: {error.strerror}), and only what one of the keys "
            f"{', '.join(trusted.fingerprints)} signed is loaded: `offbeat models sign` signs it, if you know who made "
            "it",
        ) from error
    if trusted.signer_of(raw, signature) is None:
        raise ArtifactError(
            ArtifactRefusal.WRONG_SIGNATURE,
            f"{folder.path / SIGNATURE} is not the signature of this manifest by one of the keys "
            f"{', '.join(trusted.fingerprints)}: the manifest was changed, or somebody else signed it; find out who "
            "wrote it before anything else",
        )


def _parse(folder: Folder, raw: bytes, name: str | None) -> dict[str, Any]:
    """The manifest, as far as it says what else there is to read.

    Raises:
        ArtifactError: It is no manifest, of another format, or belongs elsewhere.
    """
    path = folder.path / MANIFEST
    try:
        if json_depth(raw) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")  # noqa: TRY301 - told as the others are
        manifest = json.loads(raw, parse_constant=_no_number)
        form = manifest["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            ArtifactRefusal.UNREADABLE, f"{path} is not a manifest ({error}): publish the model again"
        ) from error
    if form != FORMAT:
        raise ArtifactError(
            ArtifactRefusal.FORMAT_VERSION,
            f"{folder.path} has artifact format {form!r:.40}, and this offbeat reads {FORMAT}: "
            "train again with this version, or run the version that wrote it",
        )
    wrong = [part for part, kind in _PARTS.items() if not isinstance(manifest.get(part), kind)]
    if wrong:
        raise ArtifactError(
            ArtifactRefusal.UNREADABLE,
            f"{path} is not a manifest ({', '.join(wrong)}: missing or of another kind): publish the model again",
        )
    if name is not None and manifest["name"] != name:
        raise ArtifactError(
            ArtifactRefusal.WRONG_DETECTOR,
            f"{folder.path} holds a version of {manifest['name']!r:.120}, and lies where those of {name!r} do: it was "
            "copied to the wrong place; move it to a directory of its own name",
        )
    return dict(manifest)


_PARTS: dict[str, type] = {
    "name": str, "stream": dict, "encoder": list, "architecture": dict, "threshold": dict, "facts": dict, "files": dict,
}  # fmt: skip


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _files(folder: Folder, manifest: dict[str, Any]) -> dict[str, bytes]:
    """The files that a manifest lists, each read once and as it was published.

    Raises:
        ArtifactError: One is not, is missing, or is too much.
    """
    path, sizes = folder.path / MANIFEST, manifest.get("bytes", {})
    if len(manifest["files"]) > _MOST_FILES:
        raise _too_large(path, f"it lists {len(manifest['files'])} files, more than {_MOST_FILES}")
    content: dict[str, bytes] = {}
    left = _MOST_BYTES
    for name, digest in manifest["files"].items():
        if _PLAIN.fullmatch(name) is None or name in (MANIFEST, SIGNATURE):
            raise _tampered(path, f"it lists {name!r:.120}, which is no name of a file that belongs to an artifact")
        size = sizes.get(name) if isinstance(sizes, dict) else None  # absent in artifacts from before there were sizes
        content[name] = _read(folder, name, left, size if isinstance(size, int) else None)
        left -= len(content[name])
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise _tampered(folder.path / name, "its sha256 is not the manifest's: it is truncated or was changed")
    if missing := {_WEIGHTS, _GOLDEN} - content.keys():
        raise _tampered(path, f"it does not list {' and '.join(sorted(missing))}")
    return content


def _restore(directory: Path, raw: bytes, manifest: dict[str, Any], content: Mapping[str, bytes]) -> Detector:
    """The detector that verified files hold, after it has proved itself on the golden records."""
    version = _version(manifest, raw)
    if VERSION.fullmatch(directory.name) and directory.name != version:
        raise _tampered(directory / MANIFEST, f"its content belongs to version {version}")
    tensors = load_tensors(content[_WEIGHTS])
    stream = StreamDefinition.model_validate(manifest["stream"])
    if stream.name != manifest["name"]:
        raise ValueError(f"it is named {manifest['name']!r:.120}, and its stream {stream.name!r}")
    arrays = {
        name.removeprefix("encoder:"): tensor.numpy() for name, tensor in tensors.items() if name.startswith("encoder:")
    }
    encoder: Encoder | ImageEncoder
    scorer: Scorer | ImageScorer
    network = _network(manifest["architecture"], _under("network.", tensors))
    own = _under("scorer.", tensors)
    if manifest.get("kind", Scorer.kind) == ImageScorer.kind:  # absent in artifacts from before there were images
        image = stream.image
        if not isinstance(network, ConvolutionalAutoencoder) or image is None:
            raise ValueError("stream and network are not those of a detector of images")
        if network.shape != (image.channels, image.height, image.width):
            raise ValueError(f"the network is of images {network.shape}, and the stream has others")
        encoder = ImageEncoder(image)
        scorer = ImageScorer.restore(network, own)
    else:
        encoder = Encoder.restore(manifest["encoder"], arrays)
        scorer = Scorer.restore(network, own)
        if scorer.width != encoder.width:
            raise ValueError(f"the scorer is of {scorer.width} columns, and the encoder gives {encoder.width}")
    reference = {name: part.numpy() for name, part in _under(_REFERENCE, tensors).items()}
    detector = Detector(
        stream,
        encoder,
        scorer,
        Threshold.from_json(manifest["threshold"]),
        NormalScores.restore({name: part.numpy() for name, part in _under(_NORMAL, tensors).items()}),
        history=History.from_json(stream, manifest["history"]) if stream.history_features else None,
        reference=DriftReference.restore(encoder, reference) if reference else None,
        facts=manifest["facts"],
        version=version,
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    _check_golden(directory, detector, content[_GOLDEN])
    return detector


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _network(architecture: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Autoencoder:
    """The network of an architecture with these weights; it is as large as they are, whatever the architecture says.

    Raises:
        ValueError: They are not those of the architecture.
    """
    with torch.device("meta"):  # shapes alone: no memory is taken for what the file does not hold
        wanted = {name: (tensor.dtype, tensor.shape) for name, tensor in build(architecture).state_dict().items()}
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name) or 0 in tensors[name].shape:
            raise ValueError(f"the network's {name} is {found.get(name)}, and its architecture has {wanted.get(name)}")
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"the network's {name} has a value that is not finite")
    network = build(architecture)
    network.load_state_dict(dict(tensors))  # copied, so that they lie in memory as they did when it was fitted
    return network


def _check_golden(directory: Path, detector: Detector, raw: bytes) -> None:
    """See that the golden records get their scores here, and that judging and explaining them works at all.

    The scores prove all that scores are made of. What they do not prove (threshold, normal scores, reference, names) at
    least does its work once, before records depend on it.
    """
    golden = msgspec.json.decode(raw, type=_Golden)
    kept = {"messages": golden.messages} if golden.base64 is None else {"base64": golden.base64}
    records = golden_records(detector, kept)
    verdicts, _ = detector.judge(records, explanations=False)
    wanted, found = np.array(golden.scores, np.float64), verdicts.scores
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=GOLDEN_TOLERANCE, atol=1e-6):
        off = (
            "another number of records" if found.shape != wanted.shape else f"up to {np.abs(found - wanted).max():.3g}"
        )
        raise ArtifactError(
            ArtifactRefusal.GOLDEN_SCORES,
            f"{directory}: the golden records do not get their scores on this machine (off by {off}): "
            "its scores would mean nothing against its threshold; train on this platform, or report a defect",
        )
    detector.normal_scores.probability(found)
    detector.explain(records.take(np.arange(1)), threshold=detector.threshold.value, scores=found[:1])
    _ = detector.trained_until  # a date that is none would stop whoever shows it


class _Golden(msgspec.Struct):
    scores: list[float]
    messages: list[str] = []
    base64: list[str] | None = None


def _read(folder: Folder, name: str, most_bytes: int, exactly: int | None = None) -> bytes:
    path = folder.path / name
    try:
        return folder.read(name, most_bytes, exactly)
    except UnsafeFileError as error:
        raise (_too_large if error.is_too_large else _tampered)(path, str(error)) from error
    except OSError as error:
        hint = ", or name the directory of one version: MODELS/NAME/VERSION" if name == MANIFEST else ""
        raise ArtifactError(
            ArtifactRefusal.INCOMPLETE, f"{path} cannot be read ({error.strerror}): publish the model again{hint}"
        ) from error


def _tampered(path: Path, why: str) -> ArtifactError:
    return ArtifactError(ArtifactRefusal.TAMPERED, f"{path} was not loaded: {why}; publish the model again")


def _too_large(path: Path, why: str) -> ArtifactError:
    return ArtifactError(
        ArtifactRefusal.TOO_LARGE,
        f"{path} was not loaded: {why}, and reading it could take the memory that the running model needs",
    )
