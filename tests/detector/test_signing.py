"""Signed artifacts: nothing but what the holder of the private key published is loaded where keys are asked for."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from detector import (
    ArtifactError,
    ArtifactRefusal,
    Detector,
    HistoryMismatch,
    ModelDirectory,
    PrivateKey,
    PublicKeys,
    SigningKeyError,
    pack_state,
    read_state,
    write_key_pair,
)
from tests.detector.test_artifact import rehash
from tests.payments import decoded as decoded_payments
from tests.payments import message, remembering_detector


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the pairs `ours` and `theirs`."""
    directory = tmp_path_factory.mktemp("keys")
    write_key_pair(directory / "ours")
    write_key_pair(directory / "theirs")
    return directory


@pytest.fixture
def ours(keys: Path) -> PrivateKey:
    return PrivateKey.read(keys / "ours")


@pytest.fixture
def theirs(keys: Path) -> PrivateKey:
    return PrivateKey.read(keys / "theirs")


def variant(detector: Detector, second: int, value: float | None = None) -> Detector:
    """The same detector as another version, and with another threshold where one is given."""
    threshold = detector.threshold if value is None else dataclasses.replace(detector.threshold, value=value)
    facts = detector.facts | {"fitted_at": f"2026-03-14T09:26:{second:02d}+00:00"}
    return Detector(detector.stream, detector.encoder, detector.scorer, threshold, detector.normal_scores, facts=facts)


def refusal(directory: ModelDirectory, version: str) -> ArtifactRefusal:
    with pytest.raises(ArtifactError) as refused:
        directory.load(version)
    return refused.value.reason


def test_a_version_signed_by_one_of_the_keys_is_loaded(
    tiny_detector: Detector, ours: PrivateKey, keys: Path, tmp_path: Path
) -> None:
    version = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 1), key=ours)
    both = PublicKeys.read([keys / "theirs.pub", keys / "ours.pub"])

    assert ModelDirectory(tmp_path / "payments", both).load(version).version == version


def test_an_unsigned_version_and_one_signed_by_somebody_else_are_refused(
    tiny_detector: Detector, ours: PrivateKey, theirs: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    unsigned = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 1))
    signed = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 2), key=theirs)

    assert refusal(directory, unsigned) is ArtifactRefusal.UNSIGNED
    assert refusal(directory, signed) is ArtifactRefusal.WRONG_SIGNATURE


def test_a_manifest_rewritten_with_its_hashes_passes_without_keys_and_is_refused_with_them(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    signed = tmp_path / "signed"
    version = ModelDirectory(signed / "payments").publish(variant(tiny_detector, 1), key=ours)
    signature = (signed / "payments" / version / "manifest.sig").read_bytes()
    # Whoever can write to the directory makes a whole artifact: golden records say nothing of its threshold.
    deaf = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 1, value=1e9))
    (tmp_path / "payments" / deaf / "manifest.sig").write_bytes(signature)

    assert ModelDirectory(tmp_path / "payments").load(deaf).threshold.value == 1e9
    assert refusal(ModelDirectory(tmp_path / "payments", ours.public), deaf) is ArtifactRefusal.WRONG_SIGNATURE


def test_a_signed_version_whose_weights_were_swapped_is_refused(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    version = directory.publish(variant(tiny_detector, 1), key=ours)
    weights = directory.path(version) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")

    assert refusal(directory, version) is ArtifactRefusal.TAMPERED


def test_a_signed_version_of_another_detector_under_this_name_is_refused(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    version = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 1), key=ours)
    shutil.copytree(tmp_path / "payments", tmp_path / "transfers")

    assert refusal(ModelDirectory(tmp_path / "transfers", ours.public), version) is ArtifactRefusal.WRONG_DETECTOR


def test_a_signed_version_under_the_name_of_another_version_is_refused(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    first, second = (directory.publish(variant(tiny_detector, second), key=ours) for second in (1, 2))
    shutil.rmtree(directory.path(second))
    shutil.copytree(directory.path(first), directory.root / second)

    assert refusal(directory, second) is ArtifactRefusal.TAMPERED


def test_going_back_to_an_older_signed_version_is_a_rollback(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    first = directory.publish(variant(tiny_detector, 1), key=ours)
    directory.publish(variant(tiny_detector, 2), key=ours, promote=True)

    assert directory.rollback() == first


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\0" * 63, b"\xff" * 64, b"\0" * 10_000])
def test_bytes_that_are_no_signature_are_refused(
    signature: bytes, tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    version = directory.publish(variant(tiny_detector, 1), key=ours)
    (directory.path(version) / "manifest.sig").write_bytes(signature)

    assert refusal(directory, version) is ArtifactRefusal.WRONG_SIGNATURE


def test_signing_a_version_that_is_there_makes_it_loadable_and_changes_nothing_else(
    tiny_detector: Detector, ours: PrivateKey, tmp_path: Path
) -> None:
    directory = ModelDirectory(tmp_path / "payments", ours.public)
    version = ModelDirectory(tmp_path / "payments").publish(variant(tiny_detector, 1))
    before = {path.name: path.read_bytes() for path in directory.path(version).iterdir()}

    directory.sign(version, ours)

    assert directory.load(version).version == version
    after = {path.name: path.read_bytes() for path in directory.path(version).iterdir()}
    assert after.pop("manifest.sig") == ours.sign(before["manifest.json"])
    assert after == before


def test_a_broken_version_is_never_signed(tiny_detector: Detector, ours: PrivateKey, tmp_path: Path) -> None:
    directory = ModelDirectory(tmp_path / "payments")
    version = directory.publish(variant(tiny_detector, 1))
    golden = json.loads((directory.path(version) / "golden.json").read_text())
    (directory.path(version) / "golden.json").write_text(json.dumps(golden | {"scores": [9.0] * 16}))
    rehash(directory.path(version))

    with pytest.raises(ArtifactError):
        directory.sign(version, ours)

    assert not (directory.path(version) / "manifest.sig").exists()


def test_openssl_verifies_the_signature_of_a_manifest(
    tiny_detector: Detector, ours: PrivateKey, keys: Path, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    directory = ModelDirectory(tmp_path / "payments")
    version = directory.path(directory.publish(variant(tiny_detector, 1), key=ours))

    verified = subprocess.run(
        [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub", "-rawin",
         "-in", version / "manifest.json", "-sigfile", version / "manifest.sig"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "Signature Verified Successfully" in verified.stdout, verified.stderr


# --- histories beside a version ---


def published_with_state(directory: Path, key: PrivateKey | None) -> tuple[ModelDirectory, str, Detector]:
    detector = remembering_detector()
    assert detector.history is not None
    state = detector.history.new_state()
    detector.features(decoded_payments([message(number) for number in range(30)], detector.stream), state)
    models = ModelDirectory(directory / detector.name, None if key is None else key.public)
    return models, models.publish(detector, state=pack_state(detector.history, state, {}), key=key), detector


def test_histories_beside_a_signed_version_are_signed_with_it(ours: PrivateKey, tmp_path: Path) -> None:
    models, version, detector = published_with_state(tmp_path, ours)
    assert detector.history is not None

    state = read_state(detector.history, models.state_path(version), ours.public, version)

    assert state is not None
    assert len(state) == 30


def test_histories_that_somebody_else_put_beside_a_version_are_not_begun_with(
    ours: PrivateKey, theirs: PrivateKey, tmp_path: Path
) -> None:
    models, version, detector = published_with_state(tmp_path, theirs)
    assert detector.history is not None

    with pytest.raises(HistoryMismatch, match="not the signature"):
        read_state(detector.history, models.state_path(version), ours.public, version)
    (models.state_path(version) / "state.sig").unlink()
    with pytest.raises(HistoryMismatch, match="not signed"):
        read_state(detector.history, models.state_path(version), ours.public, version)


def test_signed_histories_of_another_version_are_not_begun_with(ours: PrivateKey, tmp_path: Path) -> None:
    models, version, detector = published_with_state(tmp_path, ours)
    assert detector.history is not None

    with pytest.raises(HistoryMismatch, match="of version"):
        read_state(detector.history, models.state_path(version), ours.public, "20260101T000000Z-00000000")


# --- keys ---


def test_a_private_key_is_for_its_owner_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()

    with pytest.raises(FileExistsError):
        write_key_pair(tmp_path / "key")

    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert (tmp_path / "key").read_bytes() == before


def test_an_encrypted_key_opens_with_its_passphrase_alone_and_no_message_repeats_it(tmp_path: Path) -> None:
    write_key_pair(tmp_path / "key", "correct horse")

    assert PrivateKey.read(tmp_path / "key", "correct horse").public.fingerprints
    with pytest.raises(SigningKeyError, match="does not open it") as wrong:
        PrivateKey.read(tmp_path / "key", "battery staple")
    with pytest.raises(SigningKeyError, match="no passphrase"):
        PrivateKey.read(tmp_path / "key")
    assert "staple" not in str(wrong.value)
    assert "horse" not in repr(PrivateKey.read(tmp_path / "key", "correct horse"))


def test_files_that_hold_no_such_key_are_refused_with_what_they_are(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    other = generate_private_key(SECP256R1())
    (tmp_path / "ec").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ec.pub").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    write_key_pair(tmp_path / "key")

    with pytest.raises(SigningKeyError, match="not an Ed25519 key"):
        PublicKeys.read([tmp_path / "ec.pub"])
    with pytest.raises(SigningKeyError, match="not an Ed25519 key"):
        PrivateKey.read(tmp_path / "ec")
    with pytest.raises(SigningKeyError, match="belongs to the trainer alone"):
        PublicKeys.read([tmp_path / "key"])
    with pytest.raises(SigningKeyError, match="cannot be read"):
        PublicKeys.read([tmp_path / "nowhere"])
    with pytest.raises(SigningKeyError, match="no private key"):
        PrivateKey.read(tmp_path / "key.pub")


def test_one_file_may_hold_the_old_key_and_the_new_one(
    ours: PrivateKey, theirs: PrivateKey, keys: Path, tmp_path: Path
) -> None:
    (tmp_path / "both.pem").write_bytes((keys / "ours.pub").read_bytes() + (keys / "theirs.pub").read_bytes())

    both = PublicKeys.read([tmp_path / "both.pem"])

    assert both.fingerprints == (*ours.public.fingerprints, *theirs.public.fingerprints)
    assert both.signer_of(b"x", theirs.sign(b"x")) == theirs.public.fingerprints[0]
    assert both.signer_of(b"y", theirs.sign(b"x")) is None
