"""From `offbeat train --sign-with` to a worker with the public key: it serves what was signed, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from detector import ModelDirectory
from detector.artifact import SIGNATURE
from offbeat import app
from tests.trainer import histories
from tests.trainer.payments import write_jsonl
from tests.worker.bench import BenchClock
from trainer.commands.signing import PASSPHRASE_VARIABLE
from worker.configuration import configure
from worker.metrics import WorkerMetrics
from worker.models import Models
from worker.service import trusted_keys

MANIFEST = "manifest.json"


def offbeat(*words: object) -> Result:
    cleared = {"OFFBEAT_MODELS": None, PASSPHRASE_VARIABLE: None, f"{PASSPHRASE_VARIABLE}_FILE": None}
    return CliRunner().invoke(app, [str(word) for word in words], env=cleared)


@dataclass(frozen=True)
class Trained:
    """Two versions of a detector that the same key signed, the first in production, and the keys of two people."""

    folder: Path

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def directory(self) -> ModelDirectory:
        return ModelDirectory(self.models / "cards")

    @property
    def versions(self) -> list[str]:
        return self.directory.versions()

    def path(self, number: int) -> Path:
        return self.directory.path(self.versions[number])

    def worker(self, key: str | None) -> Models:
        """What loads models for a worker that was started with this public key."""
        trust = () if key is None else ("--model-public-key", str(self.folder / key))
        settings = configure(["--input-topics", "payments", "--models", str(self.models), *trust], {}).settings
        return Models(
            settings.models, settings.detector, clock=BenchClock(), metrics=WorkerMetrics(CollectorRegistry()),
            trusted=trusted_keys(settings),
        )  # fmt: skip


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    data = write_jsonl(folder / "data.jsonl", histories.rows(400))
    (folder / "stream.toml").write_text(histories.STREAM.to_toml())
    train = (
        "train", data, "--stream", folder / "stream.toml", "--models", folder / "models", "--network", "pca",
        "--with-state", "--sign-with", folder / "ours",
    )  # fmt: skip
    results = [
        *(offbeat("models", "keygen", folder / key) for key in ("ours", "theirs")),
        *(offbeat(*train, "--seed", seed) for seed in (0, 1)),
    ]
    assert [result.exit_code for result in results] == [0, 0, 0, 0], results[-1].output
    return folder


@pytest.fixture
def trained(once: Path, tmp_path: Path) -> Trained:
    """A copy, to change."""
    return Trained(Path(shutil.copytree(once, tmp_path / "signed")))


def serving(worker: Models) -> str | None:
    """The version that a worker serves once its loader has looked."""
    worker.refresh()
    worker.swap()
    return None if worker.current is None else worker.current.version


def test_what_train_signed_is_served_with_its_histories(trained: Trained) -> None:
    worker = trained.worker("ours.pub")

    assert serving(worker) == trained.versions[0]
    assert worker.current is not None
    assert worker.current.begin is not None
    assert offbeat("models", "promote", trained.versions[1], "--models", trained.models).exit_code == 0
    assert serving(worker) == trained.versions[1]
    assert worker.current.begin is not None


def test_a_worker_with_another_key_serves_nothing(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    assert serving(trained.worker("theirs.pub")) is None
    assert f"model {trained.versions[0]} is refused (wrong_signature)" in caplog.text


def write_into_the_manifest(trained: Trained) -> str:
    file = trained.path(1) / MANIFEST
    manifest = json.loads(file.read_text())
    manifest["threshold"]["value"] = 1e6
    file.write_text(json.dumps(manifest))
    return trained.versions[1]


def take_manifest_and_signature_of_the_first(trained: Trained) -> str:
    for name in (MANIFEST, SIGNATURE):
        shutil.copy(trained.path(0) / name, trained.path(1))
    return trained.versions[1]


def publish_a_threshold_that_nothing_is_above_with_a_signature_of_ours(trained: Trained) -> str:
    second = trained.path(1)
    theirs = trained.directory.load(second.name)
    theirs.threshold = replace(theirs.threshold, value=1e6)
    version = trained.directory.publish(theirs)
    shutil.copy(second / SIGNATURE, trained.directory.path(version))
    return version


def sign_with_their_key(trained: Trained) -> str:
    words = ("models", "sign", trained.versions[1], "--key", trained.folder / "theirs", "--models", trained.models)
    assert offbeat(*words).exit_code == 0
    return trained.versions[1]


def remove_the_signature(trained: Trained) -> str:
    (trained.path(1) / SIGNATURE).unlink()
    return trained.versions[1]


@pytest.mark.parametrize(
    ("tamper", "reason", "only_its_signature_tells"),
    [
        (write_into_the_manifest, "wrong_signature", False),
        (take_manifest_and_signature_of_the_first, "tampered", False),
        (publish_a_threshold_that_nothing_is_above_with_a_signature_of_ours, "wrong_signature", True),
        (sign_with_their_key, "wrong_signature", True),
        (remove_the_signature, "unsigned", True),
    ],
)
def test_a_version_that_is_not_as_train_signed_it_never_takes_over(
    trained: Trained, caplog: pytest.LogCaptureFixture, tamper: Callable[[Trained], str], reason: str,
    only_its_signature_tells: bool,
) -> None:  # fmt: skip
    first, second = trained.versions
    careful, careless = trained.worker("ours.pub"), trained.worker(None)
    assert serving(careful) == serving(careless) == first
    trained.directory.promote(second)

    version = tamper(trained)
    if version != second:
        trained.directory.promote(version)

    assert serving(careful) == first
    assert f"model {version} is refused ({reason})" in caplog.text
    assert f"{first} stays in use" in caplog.text
    assert serving(careless) == (version if only_its_signature_tells else first)
