"""A newer model takes over between batches; a broken one never does."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from detector import Detector, ModelDirectory
from tests.payments import fitted_detector, message, odd_message
from tests.worker.bench import Bench, BenchClock, publish_models
from worker.errors import SettingsRefused
from worker.metrics import WorkerMetrics
from worker.models import Models


def stricter() -> Detector:
    """The fitted detector with a threshold that nothing is above."""
    fitted = fitted_detector()
    threshold = dataclasses.replace(fitted.threshold, value=1e12)
    return Detector(
        fitted.stream, fitted.encoder, fitted.scorer, threshold, fitted.normal_scores, facts={"why": "stricter"}
    )


def models_of(root: Path, name: str | None = None) -> Models:
    return Models(root, name, clock=BenchClock(), metrics=WorkerMetrics(CollectorRegistry()))


def reloads(models: Models, result: str) -> float:
    value = models._metrics.registry.get_sample_value("offbeat_model_reloads_total", {"result": result})
    assert value is not None
    return value


def current_version(models: Models) -> str:
    models.swap()
    assert models.current is not None
    return models.current.version


@pytest.fixture
def root(tmp_path: Path, models: Path) -> Path:
    """A models directory of this test's own."""
    shutil.copytree(models, tmp_path / "models")
    return tmp_path / "models"


def test_a_loaded_model_is_not_in_use_before_it_is_swapped_in(root: Path) -> None:
    models = models_of(root)

    models.refresh()

    before = models.current
    assert [models.swap(), models.swap()] == [True, False]
    assert before is None
    assert models.current is not None


def test_a_promoted_version_takes_over_and_a_rollback_brings_the_old_one_back(root: Path) -> None:
    models = models_of(root)
    models.refresh()
    first = current_version(models)
    second = ModelDirectory(root / "payments").publish(stricter(), promote=True)

    models.refresh()
    assert current_version(models) == second

    ModelDirectory(root / "payments").rollback()
    models.refresh()
    assert current_version(models) == first


def test_a_version_that_is_not_promoted_does_not_take_over(root: Path) -> None:
    models = models_of(root)
    models.refresh()
    first = current_version(models)
    ModelDirectory(root / "payments").publish(stricter())

    models.refresh()

    assert current_version(models) == first


def test_a_broken_version_is_tried_once_and_the_good_one_stays(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = models_of(root)
    models.refresh()
    first = current_version(models)
    broken = ModelDirectory(root / "payments").publish(stricter(), promote=True)
    (root / "payments" / broken / "weights.safetensors").write_bytes(b"tampered")

    with caplog.at_level(logging.ERROR):
        models.refresh()
        models.refresh()

    assert current_version(models) == first
    assert reloads(models, "refused") == 1
    assert [broken in record.getMessage() for record in caplog.records] == [True]
    assert f"{first} stays in use" in caplog.text


def test_a_version_that_the_disk_does_not_give_is_tried_again(root: Path) -> None:
    models = models_of(root)
    models.refresh()
    current_version(models)
    second = ModelDirectory(root / "payments").publish(stricter(), promote=True)
    weights = root / "payments" / second / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.mkdir()  # reading it is an error of the operating system, whoever asks

    models.refresh()
    weights.rmdir()
    weights.write_bytes(content)
    models.refresh()

    assert current_version(models) == second
    assert (reloads(models, "refused"), reloads(models, "unavailable")) == (0, 1)


@pytest.mark.parametrize("late", ["manifest.json", "weights.safetensors", ""])
def test_a_version_that_is_still_being_copied_is_taken_once_it_is_all_there(root: Path, late: str) -> None:
    models = models_of(root)
    models.refresh()
    registry = ModelDirectory(root / "payments")
    version = registry.publish(stricter(), promote=True)
    part = registry.path(version) / late
    part.rename(root / "elsewhere")

    models.refresh()
    assert current_version(models) != version
    (root / "elsewhere").rename(part)
    models.refresh()

    assert current_version(models) == version
    assert reloads(models, "refused") == 0


def test_a_version_that_follows_a_broken_one_takes_over(root: Path) -> None:
    models = models_of(root)
    models.refresh()
    directory = ModelDirectory(root / "payments")
    first = current_version(models)
    broken = directory.publish(stricter(), promote=True)
    (root / "payments" / broken / "manifest.json").unlink()
    models.refresh()

    directory.promote(first)
    models.refresh()

    assert current_version(models) == first


def test_damaged_aliases_are_reported_once_and_looked_at_again(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = models_of(root)
    aliases = root / "payments" / "aliases.json"
    good = aliases.read_text()
    aliases.write_text("{")

    models.refresh()
    models.refresh()
    assert models.swap() is False
    assert len(caplog.records) == 1
    aliases.write_text(good)
    models.refresh()

    assert models.swap() is True


def test_without_a_directory_there_is_no_model_and_no_complaint(tmp_path: Path) -> None:
    models = models_of(tmp_path / "nowhere")

    models.refresh()

    assert models.swap() is False
    assert reloads(models, "unavailable") == 0


def test_several_detectors_need_a_choice(root: Path) -> None:
    shutil.copytree(root / "payments", root / "transfers")

    with pytest.raises(SettingsRefused, match=r"detector: .* payments, transfers"):
        models_of(root).refresh()

    chosen = models_of(root, "payments")
    chosen.refresh()
    assert chosen.swap()


def test_the_loader_looks_on_a_thread_of_its_own(root: Path) -> None:
    models = models_of(root)
    models.refresh()
    first = current_version(models)
    looked = models._closing
    models.start(interval_s=3600)

    models.close()

    assert looked.is_set()
    assert models._thread is not None
    assert not models._thread.is_alive()
    assert current_version(models) == first


def test_a_model_takes_over_between_two_batches_and_never_within_one(root: Path) -> None:
    bench = Bench(root, max_batch_records=2, score_topic=None)
    bench.produce(odd_message(1), odd_message(2), odd_message(3), message(4))
    models = Models(root, None, clock=bench.clock, metrics=bench.metrics)
    models.refresh()
    models.swap()
    worker = bench.worker(turns=4, models=models)
    ModelDirectory(root / "payments").publish(stricter(), promote=True)
    poll = bench.source.poll

    def poll_while_the_loader_hands_over(**_: object) -> object:
        batch = poll()
        models.refresh()
        return batch

    bench.source.poll = poll_while_the_loader_hands_over  # type: ignore[method-assign, assignment]
    worker.run()

    assert [alert.source.offset for alert in bench.alerts] == [0, 1]
    assert len({alert.model.version for alert in bench.alerts}) == 1
    assert bench.count("threshold") == 1e12
    assert bench.status.model["version"] == ModelDirectory(root / "payments").current()


def test_what_is_published_is_what_publish_models_says(tmp_path: Path) -> None:
    root = publish_models(tmp_path / "fresh")

    assert len(ModelDirectory(root / "payments").versions()) == 1
