from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detector import ArtifactError, ArtifactRefusal, Detector, ModelDirectory
from detector.artifact import VERSION
from tests.payments import decoded, message, odd_message

RECORDS = decoded([message(n) for n in range(40)] + [odd_message()])


@pytest.fixture
def artifact(tiny_detector: Detector, tmp_path: Path) -> Path:
    return tiny_detector.save(tmp_path / "artifact")


def test_a_detector_read_back_gives_the_same_bits_and_reasons(tiny_detector: Detector, artifact: Path) -> None:
    loaded = Detector.load(artifact)

    assert loaded.score(RECORDS).tobytes() == tiny_detector.score(RECORDS).tobytes()
    assert loaded.threshold == tiny_detector.threshold
    assert loaded.stream == tiny_detector.stream
    assert loaded.facts == json.loads(json.dumps(tiny_detector.facts))
    assert loaded.explain(RECORDS) == tiny_detector.explain(RECORDS)
    beyond = np.linspace(0, 20, 500)
    probabilities = loaded.normal_scores.probability(beyond), tiny_detector.normal_scores.probability(beyond)
    assert probabilities[0].tobytes() == probabilities[1].tobytes()
    assert loaded.trained_until is not None


def test_an_artifact_is_never_overwritten(tiny_detector: Detector, artifact: Path) -> None:
    with pytest.raises(FileExistsError, match="never changed"):
        tiny_detector.save(artifact)


def test_an_artifact_holds_no_pickle_and_no_draft_is_left(artifact: Path) -> None:
    assert sorted(path.name for path in artifact.iterdir()) == ["golden.json", "manifest.json", "weights.safetensors"]
    assert [path.name for path in artifact.parent.iterdir()] == ["artifact"]


def test_golden_records_hold_no_value_of_a_sensitive_field_or_of_a_key(artifact: Path) -> None:
    golden = (artifact / "golden.json").read_text()

    assert "card-" not in golden
    assert all(f'"limit": {limit}' not in golden for limit in (1000.0, 1500.0, 2000.0))


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def rewrite(directory: Path) -> None:
        (directory / name).write_bytes(change((directory / name).read_bytes()))

    return rewrite


def change_manifest(**changes: object) -> Callable[[Path], None]:
    return edit("manifest.json", lambda raw: json.dumps(json.loads(raw) | changes).encode())


def rehash(directory: Path) -> None:
    """What a careful attacker, or a broken build, would do: a hash that is right on a file that is wrong."""
    import hashlib

    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"] = {
        name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in manifest["files"]
    }
    manifest["bytes"] = {name: (directory / name).stat().st_size for name in manifest["files"]}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def wrong_golden(directory: Path) -> None:
    golden = json.loads((directory / "golden.json").read_text())
    golden["scores"][3] *= 1.01
    (directory / "golden.json").write_text(json.dumps(golden))
    rehash(directory)


def broken_weights(directory: Path) -> None:
    (directory / "weights.safetensors").write_bytes(b"\x10" + b"\0" * 30)
    rehash(directory)


def missing_tensor(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(directory / "weights.safetensors")
    del tensors["scorer.centre"]
    save_file(tensors, directory / "weights.safetensors")
    rehash(directory)


def symbolic_link(directory: Path) -> None:
    target = directory.parent / "elsewhere"
    shutil.move(directory / "golden.json", target)
    (directory / "golden.json").symlink_to(target)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, ArtifactRefusal.MISSING),
        (lambda d: (d / "manifest.json").unlink(), ArtifactRefusal.INCOMPLETE),
        (lambda d: (d / "weights.safetensors").unlink(), ArtifactRefusal.INCOMPLETE),
        (edit("weights.safetensors", lambda raw: raw[:-10]), ArtifactRefusal.TAMPERED),
        (edit("weights.safetensors", lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])), ArtifactRefusal.TAMPERED),
        (edit("golden.json", lambda raw: raw + b" "), ArtifactRefusal.TAMPERED),
        (symbolic_link, ArtifactRefusal.TAMPERED),
        (change_manifest(files={"../../etc/passwd": "0"}), ArtifactRefusal.TAMPERED),
        (edit("manifest.json", lambda raw: raw[: len(raw) // 2]), ArtifactRefusal.UNREADABLE),
        (edit("manifest.json", lambda _: b"[]"), ArtifactRefusal.UNREADABLE),
        (change_manifest(architecture={"kind": "pickle"}), ArtifactRefusal.UNREADABLE),
        (change_manifest(stream={"name": "x"}), ArtifactRefusal.UNREADABLE),
        (change_manifest(threshold={}), ArtifactRefusal.UNREADABLE),
        (broken_weights, ArtifactRefusal.UNREADABLE),
        (missing_tensor, ArtifactRefusal.UNREADABLE),
        (change_manifest(format=99), ArtifactRefusal.FORMAT_VERSION),
        (wrong_golden, ArtifactRefusal.GOLDEN_SCORES),
    ],
)
def test_a_damaged_artifact_is_refused_with_its_reason(
    artifact: Path, damage: Callable[[Path], None], reason: ArtifactRefusal
) -> None:
    damage(artifact)

    with pytest.raises(ArtifactError) as refusal:
        Detector.load(artifact)

    assert refusal.value.reason is reason
    assert str(artifact) in str(refusal.value)


def publish(models: ModelDirectory, detector: Detector, second: int, *, promote: bool = False) -> str:
    facts = detector.facts | {"fitted_at": f"2026-03-14T09:26:{second:02d}+00:00"}
    again = Detector(
        detector.stream, detector.encoder, detector.scorer, detector.threshold, detector.normal_scores, facts=facts
    )
    return models.publish(again, files={"report.html": b"<p>fine"}, promote=promote)


def test_the_first_version_serves_and_a_later_one_only_when_promoted(tiny_detector: Detector, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "payments")

    first = publish(models, tiny_detector, 1)
    second = publish(models, tiny_detector, 2)

    assert models.versions() == [first, second]
    assert models.current() == first
    assert VERSION.fullmatch(first)
    models.promote(second)
    assert models.current() == second
    assert (models.path(first) / "report.html").read_bytes() == b"<p>fine"


def test_a_rollback_returns_to_the_version_before_and_then_no_further(tiny_detector: Detector, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "payments")
    first = publish(models, tiny_detector, 1)
    publish(models, tiny_detector, 2, promote=True)

    assert models.rollback() == first
    assert models.current() == first
    with pytest.raises(ArtifactError, match="no version before"):
        models.rollback()


def test_a_broken_version_is_never_promoted(tiny_detector: Detector, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "payments")
    first, second = publish(models, tiny_detector, 1), publish(models, tiny_detector, 2)
    edit("weights.safetensors", lambda raw: raw[:-1])(models.path(second))

    with pytest.raises(ArtifactError):
        models.promote(second)

    assert models.current() == first


def test_a_manifest_that_was_changed_no_longer_belongs_to_its_version(tiny_detector: Detector, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "payments")
    version = publish(models, tiny_detector, 1)
    manifest = json.loads((models.path(version) / "manifest.json").read_text())
    manifest["threshold"]["value"] = 1e9  # would silence every alert
    (models.path(version) / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(ArtifactError) as refusal:
        models.load(version)

    assert refusal.value.reason is ArtifactRefusal.TAMPERED


def test_drafts_and_strangers_in_the_directory_are_no_versions(tiny_detector: Detector, tmp_path: Path) -> None:
    models = ModelDirectory(tmp_path / "payments")
    (tmp_path / "payments" / ".20260314T092653Z-1f3a9c2e.0a0b").mkdir(parents=True)
    (tmp_path / "payments" / "notes").mkdir()

    assert models.versions() == []
    assert models.current() is None
    with pytest.raises(ArtifactError, match="no version"):
        models.path("../payments")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"production": 5}', b'"x"'])
def test_a_damaged_alias_file_is_an_error_and_not_an_empty_registry(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "payments").mkdir()
    (tmp_path / "payments" / "aliases.json").write_bytes(content)

    with pytest.raises(ArtifactError, match=r"aliases\.json"):
        ModelDirectory(tmp_path / "payments").current()


def test_scores_of_a_matrix_survive_the_way_through_an_artifact(tmp_path: Path) -> None:
    from detector import records_of_matrix, stream_of_matrix
    from trainer.fitting import FitSettings, fit_detector

    matrix = np.random.default_rng(0).normal(size=(300, 4))
    stream = stream_of_matrix(4)
    detector = fit_detector(records_of_matrix(stream, matrix), stream, FitSettings(most_steps=50))[0]

    assert Detector.load(detector.save(tmp_path / "m")).score(matrix).tobytes() == detector.score(matrix).tobytes()
