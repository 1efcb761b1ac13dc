"""A real worker on a real topic of images: its scores are those of the library, its alerts carry PNGs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector import ModelDirectory
from tests.images import SIDE, bars, disc_detector, discs, encoded, pixels_of
from tests.kafka.broker import KafkaBroker
from tests.kafka.streams import Stream


@pytest.fixture
def images(broker: KafkaBroker, tmp_path: Path) -> Stream:
    models = tmp_path / "models"
    ModelDirectory(models / "discs").publish(disc_detector())
    return Stream(broker, "images", models, tmp_path)


def test_odd_images_of_a_topic_become_alerts_with_their_error_maps(images: Stream) -> None:
    values = np.concatenate([discs(40, seed=3), bars(4)])
    expected = disc_detector().score(values)
    with images.worker(score_topic=f"{images.name}.scores") as worker:
        images.publish([*map(encoded, values), b"no image"], key=b"camera-1")
        worker.wait_until_accounted(45)
        assert worker.stop() == 0

    scores = images.scores()
    assert [scored["score"] for scored in scores] == expected.tolist()
    alerts = images.alerts()
    odd = np.flatnonzero(expected > disc_detector().threshold.value).tolist()
    assert [alert["source"]["offset"] for alert in alerts] == odd
    assert set(odd) >= {40, 41, 42, 43}
    for alert in alerts:
        assert pixels_of(alert["image"]["reconstruction"]).shape == (SIDE, SIDE)
        assert pixels_of(alert["image"]["error_map"]).max() == 255
    assert [(value, headers["dlq.reason"]) for value, headers in images.dead_letters()] == [(b"no image", b"bad_image")]
