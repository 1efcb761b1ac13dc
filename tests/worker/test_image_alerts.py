"""A worker on a topic of images: which become alerts, what those carry, and which become dead letters."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from detector import Detector, StreamDefinition
from tests.images import SIDE, STREAM, bars, disc_detector, discs, encoded, in_json, pixels_of
from tests.worker.bench import START_MS, Bench, batch_of, publish_models
from worker.alerts import Alert, alert_message, alerts_of


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_models(tmp_path_factory.mktemp("models"), disc_detector())


def alert_on(detector: Detector, value: bytes) -> Alert:
    batch = batch_of([value])
    records, _ = detector.decode(batch)
    verdicts, _ = detector.judge(records)
    ((_, alert),) = alerts_of(batch, records, verdicts, detector, now_s=START_MS / 1000, top=3)
    return alert


def like(stream: StreamDefinition) -> Detector:
    fitted = disc_detector()
    return Detector(stream, type(fitted.encoder)(stream.image), fitted.scorer, fitted.threshold, fitted.normal_scores)


def test_odd_images_become_alerts_and_broken_ones_dead_letters(models: Path) -> None:
    bench = Bench(models)
    odd = encoded(bars(1)[0])
    bench.produce(encoded(discs(1, seed=3)[0]), odd, b"no image", None, odd[:-40])

    bench.drain()

    assert [alert.source.offset for alert in bench.alerts] == [1]
    assert [letter.value for letter in bench.dead_letters] == [b"no image", odd[:-40]]
    assert bench.count("dead_letters_total", stage="validate", reason="bad_image") == 2
    assert bench.outcomes() == {"normal": 1, "alert": 1, "suppressed": 1, "dead_letter": 2}
    assert bench.committed == 5


def test_the_alert_carries_the_reconstruction_and_an_error_map_as_png(models: Path) -> None:
    bench = Bench(models)
    bench.produce(encoded(bars(1)[0]))

    bench.drain()

    (alert,) = bench.alerts
    assert alert.image is not None
    reconstruction, error = pixels_of(alert.image.reconstruction), pixels_of(alert.image.error_map)
    assert reconstruction.shape == error.shape == (alert.image.height, alert.image.width) == (SIDE, SIDE)
    assert error.max() == 255
    bar = bars(1)[0] > 0
    assert error[bar].mean() > error[~bar].mean()
    expected = disc_detector().explain(disc_detector().records(bars(1)))[0].image
    assert expected is not None
    assert (reconstruction == expected.reconstruction[:, :, 0]).all()
    assert alert.image.largest_error == round(float(expected.error.max()), 2)
    assert len(bench.cluster.messages("payments.alerts")[0].value or b"") < 10_000


def test_an_image_in_a_field_is_scored_as_the_same_image_alone() -> None:
    stream = StreamDefinition.model_validate(
        {"name": "discs", "id": "id", "echo": ["id"], "feature": [{"kind": "image", "field": "scan.image"}]}
    )

    in_field = alert_on(like(stream), in_json(bars(1)[0], id="s1"))
    alone = alert_on(disc_detector(), encoded(bars(1)[0]))

    assert (in_field.score, in_field.image) == (alone.score, alone.image)
    assert in_field.record_id == "s1"
    assert alone.record_id is None
    assert json.loads(msgspec.json.encode(in_field))["echo"] == {"id": "s1"}


def test_an_alert_shows_nothing_of_a_sensitive_image() -> None:
    stream = STREAM.model_copy(update={"sensitive": ("image",)})

    alert = alert_on(like(stream), encoded(bars(1)[0]))

    assert alert.image is None
    assert not alert.image_left_out
    assert alert.contributions[0].sensitive


def test_an_image_that_does_not_fit_the_topic_is_left_out_and_the_alert_says_so() -> None:
    alert = alert_on(disc_detector(), encoded(bars(1)[0]))
    whole = alert_message(alert, "alerts", None, 1_000_000)

    cut = json.loads(alert_message(alert, "alerts", None, whole.size_bytes - 100).value or b"")

    assert json.loads(whole.value or b"")["image"]["height"] == SIDE
    assert cut["image"] is None
    assert cut["image_left_out"] is True
    assert cut["contributions"][0]["feature"] == "image"
