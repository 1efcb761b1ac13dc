"""Artifacts that somebody made to do harm, hashes right: refused in little time and memory, with what is wrong."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from detector import ArtifactError, ArtifactRefusal, Detector, ModelDirectory
from tests.detector.test_artifact import rehash

MB = 1024 * 1024


@pytest.fixture
def models(tiny_detector: Detector, tmp_path: Path) -> ModelDirectory:
    """A directory of its own, with one version."""
    directory = ModelDirectory(tmp_path / "payments")
    directory.publish(tiny_detector)
    return directory


@pytest.fixture
def artifact(tiny_detector: Detector, tmp_path: Path) -> Path:
    return tiny_detector.save(tmp_path / "artifact")


def refused(directory: Path) -> ArtifactError:
    with pytest.raises(ArtifactError) as refusal:
        Detector.load(directory)
    assert str(directory) in str(refusal.value)
    return refusal.value


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest; the hashes of the files stay right."""
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def retensor(directory: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Change one tensor; all hashes are right again."""
    tensors = load_file(directory / "weights.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, directory / "weights.safetensors")
    rehash(directory)


# --- links, pipes, paths ---


def test_a_version_whose_directory_is_a_link_is_refused(models: ModelDirectory) -> None:
    (version,) = models.versions()
    models.path(version).rename(models.root.parent / "elsewhere")
    (models.root / version).symlink_to(models.root.parent / "elsewhere")

    with pytest.raises(ArtifactError, match="symbolic link") as refusal:
        models.load(version)

    assert refusal.value.reason is ArtifactRefusal.TAMPERED


def test_aliases_that_are_a_link_to_those_of_others_are_refused(models: ModelDirectory) -> None:
    aliases = models.root / "aliases.json"
    aliases.rename(models.root.parent / "theirs.json")
    aliases.symlink_to(models.root.parent / "theirs.json")

    with pytest.raises(ArtifactError, match=r"aliases\.json.*symbolic link"):
        models.current()


@pytest.mark.parametrize("target", ["../transfers/20260314T092653Z-1f3a9c2e", "/etc", "..", "", "20260314T092653Z"])
def test_an_alias_that_leads_out_of_the_directory_is_refused(target: str, models: ModelDirectory) -> None:
    (models.root / "aliases.json").write_text(json.dumps({"production": target}))

    with pytest.raises(ArtifactError, match="is no version"):
        models.current()
    with pytest.raises(ArtifactError, match="no version"):
        models.load(target)


def test_aliases_nested_without_end_are_refused(models: ModelDirectory) -> None:
    (models.root / "aliases.json").write_bytes(b'{"production": ' + b"[" * 500_000)

    with pytest.raises(ArtifactError, match=r"aliases\.json"):
        models.current()


@pytest.mark.parametrize(
    "name", ["../golden.json", "/etc/passwd", "a/b", ".hidden", "..", "", "manifest.json", "manifest.sig", "a\0b", "é"]
)
def test_a_manifest_that_lists_a_file_of_no_plain_name_is_refused(name: str, artifact: Path) -> None:
    rewrite(artifact, lambda manifest: manifest["files"].update({name: "0" * 64}))

    assert refused(artifact).reason is ArtifactRefusal.TAMPERED


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(name: str, artifact: Path) -> None:
    (artifact / name).unlink()
    os.mkfifo(artifact / name)

    assert "no regular file" in str(refused(artifact))


# --- too much ---


def test_a_file_of_terabytes_is_refused_unread(artifact: Path) -> None:
    os.truncate(artifact / "weights.safetensors", 1 << 42)  # holds nothing, and so takes no disk

    assert refused(artifact).reason is ArtifactRefusal.TAMPERED
    rewrite(artifact, lambda manifest: manifest.pop("bytes"))  # as before sizes were published
    assert refused(artifact).reason is ArtifactRefusal.TOO_LARGE


def test_a_manifest_of_hundreds_of_megabytes_is_refused_unread(artifact: Path) -> None:
    os.truncate(artifact / "manifest.json", 300 * MB)

    assert refused(artifact).reason is ArtifactRefusal.TOO_LARGE


def test_a_manifest_that_lists_files_without_end_is_refused(artifact: Path) -> None:
    rewrite(artifact, lambda manifest: manifest["files"].update({f"f{n}": "0" * 64 for n in range(5000)}))

    assert refused(artifact).reason is ArtifactRefusal.TOO_LARGE


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_manifest_nested_without_end_is_refused(opening: bytes, artifact: Path) -> None:
    (artifact / "manifest.json").write_bytes(b'{"format": 4, "facts": ' + opening * 200_000)

    assert refused(artifact).reason is ArtifactRefusal.UNREADABLE


def test_a_tensor_that_claims_terabytes_is_refused_and_takes_no_memory(artifact: Path) -> None:
    header = json.dumps({"network.weights.0": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    (artifact / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    rehash(artifact)

    assert taken_mb(lambda: refused(artifact)) < 200


@pytest.mark.parametrize("change", [
    {"width": 1 << 20, "hidden": 1 << 20}, {"width": 1 << 62, "hidden": 1 << 62}, {"hidden": 10**30}, {"hidden": 0},
    {"width": -1}, {"width": "17"}, {"noise": [0.1] * 100_000}, {"noise": []}, {"member_code": 1 << 33},
    {"kind": "convolutional"}, {"kind": ["denoising"]}, {"kind": "pca"},
])  # fmt: skip
def test_an_absurd_network_is_refused_and_takes_no_memory(change: dict[str, Any], artifact: Path) -> None:
    rewrite(artifact, lambda manifest: manifest["architecture"].update(change))

    refusals: list[ArtifactError] = []
    assert taken_mb(lambda: refusals.append(refused(artifact))) < 200
    assert refusals[0].reason is ArtifactRefusal.UNREADABLE


def taken_mb(act: Callable[[], object]) -> float:
    """By how much the most memory that the process ever had grows."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    act()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


# --- parts that do not belong together: compiled code would read beyond them ---


@pytest.mark.parametrize(("name", "change"), [
    ("encoder:encoder.0.scores", lambda a: a[:-1]),
    ("encoder:encoder.0.knots", lambda a: a[::-1]),
    ("encoder:encoder.0.knots", lambda a: a[:0]),
    ("encoder:encoder.0.knots", lambda a: a.astype(np.float16)),
    ("encoder:encoder.2.rates", lambda a: a[:-1]),
    ("scorer.column_tails", lambda a: a[:, :-1]),
    ("scorer.statistic_tails", lambda a: a[:4]),
    ("scorer.numbers", lambda a: a + 1000),
    ("scorer.numbers", lambda a: a - 1000),
    ("scorer.varying", lambda a: a * 0),
    ("scorer.whitening", lambda a: a * np.nan),
    ("scorer.codebook.grid", lambda a: np.concatenate([a, a])),
    ("scorer.codebook.starts", lambda a: a + 1),
    ("scorer.codebook.starts", lambda a: a[::-1]),
    ("scorer.codebook.columns", lambda a: a + 7),
    ("scorer.codebook.codes", lambda a: a[:, :-1]),
    ("scorer.codebook.radii", lambda a: a[:-1]),
    ("normal_scores.above", lambda a: a[:-1]),
    ("normal_scores.tails", lambda a: np.zeros((3, 3))),
    ("normal_scores.scores", lambda a: a[::-1]),
    ("reference.0.counts", lambda a: a * 0),
    ("reference.0.counts", lambda a: a - 10**6),
    ("network.weights.0", lambda a: a.astype(np.float64)),
    ("network.weights.0", lambda a: a + np.inf),
])  # fmt: skip
def test_a_tensor_that_does_not_fit_is_refused_before_it_is_used(
    name: str, change: Callable[[Any], Any], artifact: Path
) -> None:
    retensor(artifact, name, change)

    assert refused(artifact).reason is ArtifactRefusal.UNREADABLE


def test_a_codebook_of_more_columns_than_the_encoder_gives_is_refused_before_it_writes_beyond_them(
    artifact: Path,
) -> None:
    tensors = load_file(artifact / "weights.safetensors")
    book = "scorer.codebook."
    width = len(tensors[f"{book}grid"])
    tensors[f"{book}grid"] = np.concatenate([tensors[f"{book}grid"], tensors[f"{book}grid"][-1:] + 1])
    tensors[f"{book}still"] = np.append(tensors[f"{book}still"], width)
    tensors[f"{book}values"] = np.append(tensors[f"{book}values"], np.float32(0))
    save_file(tensors, artifact / "weights.safetensors")
    rehash(artifact)

    assert "the codebook knows" in str(refused(artifact))


@pytest.mark.parametrize(("part", "key", "value"), [
    ("threshold", "value", "3"), ("threshold", "value", True), ("threshold", "value", None), ("threshold", "rate", 0),
    ("threshold", "rate", 2.0), ("threshold", "n", 1.5), ("threshold", "stated", 5), ("threshold", "of_mine", 1),
    ("facts", "trained_until", "yesterday"), ("facts", "trained_until", 5), ("facts", "fitted_at", []),
    ("stream", "name", "transfers"), ("stream", "feature", []), ("stream", "name", "../payments"),
])  # fmt: skip
def test_a_value_that_would_stop_the_worker_later_is_refused_now(
    part: str, key: str, value: object, artifact: Path
) -> None:
    rewrite(artifact, lambda manifest: manifest[part].update({key: value}))

    assert refused(artifact).reason is ArtifactRefusal.UNREADABLE


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999"])
def test_a_threshold_that_is_no_number_is_refused(text: str, artifact: Path) -> None:
    rewrite(artifact, lambda manifest: manifest["threshold"].update({"value": 123456789}))
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace("123456789", text))

    assert refused(artifact).reason is ArtifactRefusal.UNREADABLE


@pytest.mark.parametrize("golden", [
    {"messages": [], "scores": []}, {"scores": [1.0]}, {"messages": [5], "scores": [1.0]}, {"base64": [], "scores": []},
    {"messages": ["{}"], "scores": [0.0]}, [],
])  # fmt: skip
def test_golden_records_that_prove_nothing_are_refused(golden: object, artifact: Path) -> None:
    (artifact / "golden.json").write_text(json.dumps(golden))
    rehash(artifact)

    assert refused(artifact).reason is ArtifactRefusal.UNREADABLE
