"""The artifact: a detector as an immutable directory of JSON and tensors that is verified before anyone sees it.

Loading one never runs code: tensors are in safetensors, all else is JSON. The format:

    manifest.json         stream definition, encoder, architecture, threshold, facts, and the sha256 of every other file
    weights.safetensors   tensors of network, scorer with its head, and encoder, of the scores of normal records, and of
                          the reference that later records are compared with; the last is not there in every artifact
    golden.json           made-up messages with the scores that they must get
    report.html           for people; any other file that the trainer adds is listed and hashed likewise

The version is the time of fitting and the first eight digits of the manifest's sha256, so that it names its content.
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

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from detector.detector import Detector
from detector.drift import DriftReference
from detector.encode import Encoder
from detector.errors import ArtifactError, ArtifactRefusal, StreamDefinitionError
from detector.golden import golden_scores, make_golden
from detector.history import History
from detector.image_records import ImageEncoder
from detector.image_scoring import ImageScorer
from detector.networks import ConvolutionalAutoencoder, build
from detector.normal_scores import NormalScores
from detector.scoring import Scorer
from detector.stream import StreamDefinition
from detector.threshold import Threshold

FORMAT = 4
"""Version of this format; a reader refuses any other."""

VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
GOLDEN_TOLERANCE = 1e-3
"""Relative difference of golden scores that another machine's arithmetic may cause."""

_NORMAL, _REFERENCE = "normal_scores.", "reference."
_MANIFEST, _WEIGHTS, _GOLDEN = "manifest.json", "weights.safetensors", "golden.json"
_MOST_MANIFEST_BYTES = 64 * 1024 * 1024
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def pack(detector: Detector, files: Mapping[str, bytes] | None = None) -> tuple[str, dict[str, bytes]]:
    """The artifact's version and the content of its files by name.

    Args:
        detector: What to pack; the fact `fitted_at` (ISO-8601) goes into the version.
        files: More files for people, such as report.html.
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
    }
    content[_MANIFEST] = _json(manifest)
    return _version(manifest, content[_MANIFEST]), content


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


def read_artifact(directory: Path) -> Detector:
    """Read an artifact and verify it: hashes, format, tensors, golden scores on this machine.

    Raises:
        ArtifactError: It is refused; `reason` is one of a closed set, the message says what to do.
    """
    if not directory.is_dir():
        raise ArtifactError(ArtifactRefusal.MISSING, f"{directory} is not there: no artifact to load")
    raw = _read(directory, _MANIFEST)
    try:
        manifest = json.loads(raw)
        form = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            ArtifactRefusal.UNREADABLE, f"{directory / _MANIFEST} is not a manifest ({error}): publish the model again"
        ) from error
    if form != FORMAT:
        raise ArtifactError(
            ArtifactRefusal.FORMAT_VERSION,
            f"{directory} has artifact format {form!r}, and this offbeat reads {FORMAT}: "
            "train again with this version, or run the version that wrote it",
        )
    try:
        detector = _restore(directory, raw, manifest)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError, StreamDefinitionError) as error:
        raise ArtifactError(
            ArtifactRefusal.UNREADABLE, f"{directory} does not hold a whole detector ({error}): publish the model again"
        ) from error
    return detector


def _restore(directory: Path, raw: bytes, manifest: dict[str, Any]) -> Detector:
    version = _version(manifest, raw)
    if VERSION.fullmatch(directory.name) and directory.name != version:
        raise _tampered(directory / _MANIFEST, f"its content belongs to version {version}")
    content = {}
    for name, digest in manifest["files"].items():
        if _PLAIN.fullmatch(name) is None:
            raise _tampered(directory / _MANIFEST, f"it lists {name!r}, which is no plain file name")
        content[name] = _read(directory, name)
        if hashlib.sha256(content[name]).hexdigest() != digest:
            raise _tampered(directory / name, "its sha256 is not the manifest's: it is truncated or was changed")
    tensors = load_tensors(content[_WEIGHTS])
    arrays = {
        name.removeprefix("encoder:"): tensor.numpy() for name, tensor in tensors.items() if name.startswith("encoder:")
    }
    network = build(manifest["architecture"])
    # Copies into the network's own tensors, so that they lie in memory as they did when it was fitted.
    network.load_state_dict(
        {name.removeprefix("network."): tensor for name, tensor in tensors.items() if name.startswith("network.")}
    )
    stream = StreamDefinition.model_validate(manifest["stream"])
    encoder: Encoder | ImageEncoder
    scorer: Scorer | ImageScorer
    if manifest.get("kind", Scorer.kind) == ImageScorer.kind:  # absent in artifacts from before there were images
        if stream.image is None or not isinstance(network, ConvolutionalAutoencoder):
            raise ValueError("stream and network are not those of a detector of images")
        encoder = ImageEncoder(stream.image)
        scorer = ImageScorer(network, **{name: tensors[f"scorer.{name}"] for name in ImageScorer.STATE})
    else:
        encoder = Encoder.restore(manifest["encoder"], arrays)
        own = {name.removeprefix("scorer."): tensor for name, tensor in tensors.items() if name.startswith("scorer.")}
        scorer = Scorer.restore(network, own)
    reference = {
        name.removeprefix(_REFERENCE): part.numpy() for name, part in tensors.items() if name.startswith(_REFERENCE)
    }
    detector = Detector(
        stream,
        encoder,
        scorer,
        Threshold.from_json(manifest["threshold"]),
        NormalScores.restore(
            {name.removeprefix(_NORMAL): part.numpy() for name, part in tensors.items() if name.startswith(_NORMAL)}
        ),
        history=History.from_json(stream, manifest["history"]) if stream.history_features else None,
        reference=DriftReference.restore(encoder, reference) if reference else None,
        facts=manifest["facts"],
        version=version,
        sha256=hashlib.sha256(raw).hexdigest(),
    )
    _check_golden(directory, detector, json.loads(content[_GOLDEN]))
    return detector


def _check_golden(directory: Path, detector: Detector, golden: Mapping[str, Any]) -> None:
    wanted = np.array(golden["scores"], np.float64)
    found = golden_scores(detector, golden)
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=GOLDEN_TOLERANCE, atol=1e-6):
        off = (
            "another number of records" if found.shape != wanted.shape else f"up to {np.abs(found - wanted).max():.3g}"
        )
        raise ArtifactError(
            ArtifactRefusal.GOLDEN_SCORES,
            f"{directory}: the golden records do not get their scores on this machine (off by {off}): "
            "its scores would mean nothing against its threshold; train on this platform, or report a defect",
        )


def _read(directory: Path, name: str) -> bytes:
    path = directory / name
    if path.is_symlink():
        raise _tampered(path, "it is a symbolic link, which an artifact never holds")
    try:
        if name == _MANIFEST and path.stat().st_size > _MOST_MANIFEST_BYTES:
            raise _tampered(path, f"it is larger than {_MOST_MANIFEST_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        hint = ", or name the directory of one version: MODELS/NAME/VERSION" if name == _MANIFEST else ""
        raise ArtifactError(
            ArtifactRefusal.INCOMPLETE, f"{path} cannot be read ({error.strerror}): publish the model again{hint}"
        ) from error


def _tampered(path: Path, why: str) -> ArtifactError:
    return ArtifactError(ArtifactRefusal.TAMPERED, f"{path} was not loaded: {why}; publish the model again")
