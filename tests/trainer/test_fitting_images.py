"""Training on images: budgets, checkpoints and shares work as they do for tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detector import ConvolutionalAutoencoder, Detector, TrainingDataError, records_of_images
from tests.images import STREAM, bars, discs
from trainer.checkpoints import Checkpoints
from trainer.errors import CheckpointError
from trainer.fitting import FitProgress, FitSettings
from trainer.fitting_images import ImageFitSettings, fit_images

RECORDS = records_of_images(STREAM, discs(120))
SETTINGS = ImageFitSettings(most_steps=20, check_every=5, batch_images=16)


def weights_of(detector: Detector) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in detector.scorer.network.state_dict().values()]


class Killed(BaseException):
    """What ends a training in the middle."""


def test_a_training_that_ended_in_the_middle_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def end_at_ten(progress: FitProgress) -> None:
        if progress.stage == "train" and progress.step == 10:
            raise Killed

    whole, _ = fit_images(RECORDS, STREAM, SETTINGS)
    checkpoints = Checkpoints(tmp_path, every_s=0)
    with pytest.raises(Killed):
        fit_images(RECORDS, STREAM, SETTINGS, end_at_ten, checkpoints=checkpoints)

    again, report = fit_images(RECORDS, STREAM, SETTINGS, checkpoints=replace(checkpoints, resume=True))

    assert report.training is not None
    assert report.training.resumed_at == 5
    assert weights_of(again) == weights_of(whole)
    odd = records_of_images(STREAM, bars(5))
    assert again.score(odd).tobytes() == whole.score(odd).tobytes()


def test_a_checkpoint_of_other_noise_is_refused(tmp_path: Path) -> None:
    fit_images(RECORDS, STREAM, SETTINGS, checkpoints=Checkpoints(tmp_path, every_s=0))

    with pytest.raises(CheckpointError, match=r"setting noise was 1\.25 and is 2\.0 now"):
        fit_images(RECORDS, STREAM, replace(SETTINGS, noise=2.0), checkpoints=Checkpoints(tmp_path, resume=True))


def test_budgets_of_time_and_of_images_hold_and_are_told() -> None:
    settings = replace(SETTINGS, most_steps=10**6, most_seconds=0.5, most_records=40)

    detector, report = fit_images(RECORDS, STREAM, settings)

    assert report.training is not None
    assert report.training.stopped == "time"
    assert report.counts["fit"] == 40
    assert report.counts["fit"] + report.counts["spared"] == 78  # 65% of all
    assert detector.facts["training"]["reproducible"] is False


def test_training_stops_when_nothing_gets_better() -> None:
    _, report = fit_images(RECORDS, STREAM, replace(SETTINGS, most_steps=10**6, patience=1, learning_rate=1.0))

    assert report.training is not None
    assert report.training.stopped == "patience"
    assert report.best_step < report.training.steps


def test_the_losses_of_shares_add_up_to_that_of_the_whole_batch() -> None:
    network = ConvolutionalAutoencoder(8, 8, 1, code_width=4, filters=2, hidden=8)
    rows = torch.from_numpy(np.random.default_rng(0).random((10, 64), np.float32))

    def loss(share: slice) -> float:
        return float(network.training_loss(rows, torch.Generator().manual_seed(7), share).detach())

    assert loss(slice(0, 4)) + loss(slice(4, 10)) == pytest.approx(loss(slice(0, 10)), rel=1e-5)
    assert loss(slice(0, 4)) != pytest.approx(loss(slice(0, 10)), rel=0.1)


def test_images_have_no_head() -> None:
    with pytest.raises(TrainingDataError, match="this stream is of images"):
        ImageFitSettings.of(FitSettings(head="evl"))


def test_a_detector_of_images_has_the_score_to_compare_and_no_feature() -> None:
    detector, _ = fit_images(records_of_images(STREAM, discs(810)), STREAM, SETTINGS)
    reference = detector.reference
    assert reference is not None

    same, other = (
        detector.judge(records_of_images(STREAM, images), explanations=False)[0].drift
        for images in (discs(1_000, seed=1), bars(1_000))
    )

    assert reference.features == ()
    assert same is not None
    assert other is not None
    assert reference.compare(same.counts)[-1] < 0.25 < 1 < reference.compare(other.counts)[-1]
