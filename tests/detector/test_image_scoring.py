"""Detectors of images: what they find, that their scores are bits, and that artifacts and explanations keep them."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import offbeat
from detector import (
    ArtifactError,
    ArtifactRefusal,
    Detector,
    Messages,
    StreamDefinition,
    records_of_images,
    stream_of_images,
)
from detector.image_gradients import CELLS, ORIENTATIONS, Gradients
from tests.detector.test_artifact import rehash
from tests.images import STREAM, bars, disc_detector, discs, encoded
from trainer.evaluation import auroc
from trainer.fitting_images import ImageFitSettings, fit_images


def like(detector: Detector, **stream: Any) -> Detector:
    """The same detector with another stream definition around it."""
    changed = StreamDefinition.model_validate({**detector.stream.model_dump(), **stream})
    return Detector(changed, detector.encoder, detector.scorer, detector.threshold, detector.normal_scores)


def test_images_of_another_shape_score_above_the_threshold_and_normal_ones_below() -> None:
    detector = disc_detector()

    assert (detector.score(bars(8)) > detector.threshold.value).all()
    assert (detector.score(discs(50, seed=9)) <= detector.threshold.value).mean() > 0.9


def test_a_pickled_detector_reads_messages_that_are_images_as_before() -> None:
    detector = disc_detector()

    records, rejects = pickle.loads(pickle.dumps(detector)).decode(Messages([encoded(discs(1)[0]), b"no image"]))

    assert [reject.row for reject in rejects] == [1]
    assert detector.score(records).tobytes() == detector.score(discs(1)).tobytes()


def test_an_image_gets_the_same_bits_alone_and_anywhere_in_any_batch() -> None:
    detector = disc_detector()
    images = np.concatenate([discs(90, seed=5), bars(7)])
    scores = detector.score(images)

    alone = [detector.score(images[row : row + 1])[0] for row in range(len(images))]
    backwards = detector.score(images[::-1])[::-1]
    shifted = detector.score(np.concatenate([discs(13, seed=6), images]))[13:]

    for others in (np.array(alone), backwards, shifted):
        assert (others == scores).all()


def test_an_image_gets_the_same_codes_and_reconstruction_wherever_it_stands() -> None:
    scorer, encoder = disc_detector().scorer, disc_detector().encoder
    matrix = encoder.encode(records_of_images(STREAM, discs(70, seed=3)))

    for compute in (scorer.encode, scorer.reconstruct, lambda rows: scorer.decode(scorer.encode(rows))):
        together = compute(matrix)
        assert (np.concatenate([compute(matrix[row : row + 1]) for row in range(70)]) == together).all()


def test_the_score_is_the_same_whatever_the_contrast() -> None:
    detector = disc_detector()
    image = np.clip(discs(1, seed=4).astype(int), 0, 200).astype(np.uint8) // 2 * 2

    bright, faint = detector.score(image), detector.score(image // 2)

    assert faint == pytest.approx(bright, rel=1e-3)


def test_the_same_data_and_seed_give_the_same_scores() -> None:
    def fitted(seed: int) -> NDArray[np.float64]:
        images = records_of_images(STREAM, discs(80))
        return fit_images(images, STREAM, ImageFitSettings(seed=seed, most_steps=3))[0].score(bars(3))

    assert (fitted(1) == fitted(1)).all()
    assert (fitted(1) != fitted(2)).any()


def test_a_detector_of_images_survives_saving_and_loading_bit_for_bit(tmp_path: Path) -> None:
    detector = disc_detector()
    images = np.concatenate([discs(40, seed=8), bars(4)])

    loaded = Detector.load(detector.save(tmp_path / "artifact"))

    assert (loaded.score(images) == detector.score(images)).all()
    assert loaded.stream == detector.stream
    assert loaded.feature_names == ["image"]


def test_an_artifact_of_other_scores_than_its_golden_images_must_get_is_refused(tmp_path: Path) -> None:
    path = disc_detector().save(tmp_path / "artifact")
    golden = json.loads((path / "golden.json").read_text())
    (path / "golden.json").write_text(json.dumps({**golden, "scores": [score + 1 for score in golden["scores"]]}))
    rehash(path)

    with pytest.raises(ArtifactError, match="golden records do not get their scores") as refused:
        Detector.load(path)
    assert refused.value.reason is ArtifactRefusal.GOLDEN_SCORES


@pytest.mark.parametrize(
    "feature",
    [
        {"kind": "image"},
        {"kind": "image", "field": "scan.image", "colour": True},
        {"kind": "image", "pixels": (40, 20, 3), "height": 16, "width": 32},
    ],
)
def test_golden_images_of_every_kind_of_stream_decode_and_verify(feature: dict[str, Any], tmp_path: Path) -> None:
    extra = {"id": "id", "time": {"field": "at"}} if "field" in feature else {}
    stream = StreamDefinition.model_validate({"name": "scans", "feature": [feature], **extra})
    images = records_of_images(stream, discs(60))
    detector = fit_images(images, stream, ImageFitSettings(most_steps=2))[0]

    assert Detector.load(detector.save(tmp_path / "a")).score(images) == pytest.approx(detector.score(images))


def test_an_explanation_shows_the_reconstruction_and_where_it_is_off() -> None:
    detector = disc_detector()
    images = records_of_images(STREAM, np.concatenate([discs(1, seed=7), bars(1)]))

    normal, odd = (explanation.image for explanation in detector.explain(images))

    assert normal is not None
    assert odd is not None
    assert odd.reconstruction.shape == (28, 28, 1)
    assert odd.error.shape == (28, 28)
    assert odd.error.mean() > 2 * normal.error.mean()
    bar = bars(1)[0] > 0
    assert odd.error[bar].mean() > odd.error[~bar].mean()


def test_nothing_of_a_sensitive_image_is_shown() -> None:
    detector = like(disc_detector(), sensitive=("image",))

    (explanation,) = detector.explain(records_of_images(STREAM, bars(1)))

    assert explanation.image is None
    assert explanation.contributions[0].sensitive


def test_an_array_of_images_fits_a_detector_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFitSettings.__init__, "__defaults__", (0, 5, 128, 2e-3, 1.25, 1, 50, 1))
    detector = offbeat.fit(discs(60))

    assert detector.stream.image is not None
    assert detector.score(bars(2)).shape == (2,)
    coloured = offbeat.fit(np.repeat(discs(60)[..., None], 3, axis=3)).stream.image
    assert coloured is not None
    assert coloured.colour


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((9, 28, 28)), "give uint8"),
        (np.zeros((9, 28, 28, 2), np.uint8), "1 or 3 channels"),
        (np.zeros((9, 0, 28), np.uint8), "is not that of images"),
    ],
)
def test_an_array_that_is_no_images_is_refused_with_the_reason(images: NDArray[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stream_of_images(images)


def test_a_detector_of_tables_refuses_images() -> None:
    stream = StreamDefinition.model_validate({"name": "t", "feature": [{"kind": "number", "field": "x"}]})

    with pytest.raises(ValueError, match="has no image"):
        records_of_images(stream, discs(2))


def test_an_upright_edge_votes_for_the_direction_across_it() -> None:
    image = np.zeros((1, 28 * 28), np.float32)
    image.reshape(28, 28)[:, 14:] = 1  # dark to bright from left to right: the gradient points to the right, angle 0

    found = Gradients(28, 28, 1).of_blurred(torch.from_numpy(image)).numpy().reshape(ORIENTATIONS, CELLS, CELLS)

    assert found.sum(axis=(1, 2)).argmax() == 0
    assert np.delete(found, 0, axis=0).max() == 0
    assert math.isclose(float(np.square(found).sum()), 1.0, rel_tol=1e-5)
    assert found[0].sum(axis=0).argmax() == CELLS // 2


def test_no_images_have_no_scores() -> None:
    verdicts, _ = disc_detector().judge(records_of_images(STREAM, discs(0)))

    assert verdicts.scores.shape == (0,)
    assert verdicts.explanations == ()


def test_a_black_image_has_a_score() -> None:
    assert np.isfinite(disc_detector().score(np.zeros((1, 28, 28), np.uint8))).all()


MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"


@pytest.mark.skipif(
    not (MNIST / "MNIST" / "raw").is_dir(), reason="no MNIST in ../shared/data/mnist beside the checkout"
)
def test_odd_digits_are_found_among_images_of_one() -> None:
    from torchvision import datasets

    train, test = datasets.MNIST(MNIST, train=True, download=False), datasets.MNIST(MNIST, train=False, download=False)
    normal = train.data.numpy()[train.targets.numpy() == 4][:1200]
    stream = stream_of_images(normal)
    detector = fit_images(records_of_images(stream, normal), stream, ImageFitSettings(most_steps=40))[0]
    images, odd = test.data.numpy()[:1500], test.targets.numpy()[:1500] != 4

    assert auroc(detector.score(images), odd) > 0.985
