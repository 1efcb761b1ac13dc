"""Fitting a detector of images: records in, a calibrated detector out; it reads no files and publishes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from detector import (
    ConvolutionalAutoencoder,
    Detector,
    DriftReference,
    ImageEncoder,
    ImageScorer,
    LinearAutoencoder,
    Notes,
    Records,
    StreamDefinition,
    TrainingDataError,
    check_resolvable,
)
from detector.image_gradients import Gradients
from detector.image_scoring import LEVEL, evenly_bright
from trainer.checkpoints import Checkpoints
from trainer.evaluation import Evaluation, evaluate
from trainer.fitting import (
    FitProgress,
    FitReport,
    FitSettings,
    Split,
    calibrated,
    evenly,
    facts_of,
    plain,
    records_per_day,
    span_s,
    split_by_time,
    threads_of_torch,
    told,
)
from trainer.processes import ALONE, Device, Processes, choose_device
from trainer.training import TrainingResult, TrainingSettings, train

BASELINE_COMPONENTS = 16
"""Principal components of the baseline; as many as the network's code has numbers."""

MOST_HELD_OUT = 1_024
"""More held-out images than this say nothing more about when to stop."""

_LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "scipy", "safetensors", "pydantic")


@dataclass(frozen=True)
class ImageFitSettings:
    """How to fit; the defaults serve every stream.

    Attributes:
        seed: Of the initial weights, the noise, the split and the choice of codes: the same data and seed give the same
            detector.
        most_steps: Most optimiser steps.
        most_seconds: Most wall time of training, None for no limit; a result that it cut cannot be had again.
        most_records: Most images to fit on, None for no limit; of more, ones that are evenly spread over their time.
        device: Where to train: `auto` takes CUDA where there is one. The detector is always on the CPU.
        batch_images: Images in one step.
        check_every: Steps between two looks at the held-out loss.
        patience: Looks without a better held-out loss before training stops.
        learning_rate: Highest learning rate of the one-cycle schedule.
        noise: Largest deviation of the noise that the network has to remove, in units of an image's root mean square.
        shift: Most pixels that images are shifted by, so that the network does not learn where a stroke stands exactly.
        threads: Threads of torch while fitting.
    """

    seed: int = 0
    most_steps: int = 400
    most_seconds: float | None = None
    most_records: int | None = None
    device: Device = "cpu"
    batch_images: int = 128
    check_every: int = 50
    patience: int = 10
    learning_rate: float = 2e-3
    noise: float = 1.25
    shift: int = 1
    threads: int = 1

    @classmethod
    def of(cls, settings: FitSettings, most_steps: int | None = None) -> ImageFitSettings:
        """The settings for tables that hold for images too; those of their networks do not.

        Raises:
            TrainingDataError: They ask for a head.
        """
        if settings.head is not None:
            raise TrainingDataError("a head is for records of fields, and this stream is of images: leave out the head")
        return cls(
            seed=settings.seed, most_steps=most_steps or cls.most_steps, most_seconds=settings.most_seconds,
            most_records=settings.most_records, device=settings.device, threads=settings.threads,
        )  # fmt: skip


@dataclass(frozen=True)
class _Prepared:
    """What every process of a training has before it begins: the same in all of them."""

    usable: Records
    split: Split
    spared: int
    calibration: Records
    encoder: ImageEncoder
    fitting: NDArray[np.float32]
    validation: NDArray[np.float32]
    bright: NDArray[np.float32]
    bright_validation: NDArray[np.float32]


def fit_images(
    records: Records,
    stream: StreamDefinition,
    settings: ImageFitSettings | None = None,
    progress: Callable[[FitProgress], None] | None = None,
    *,
    test: Records | None = None,
    processes: Processes = ALONE,
    device: torch.device | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[Detector, FitReport]:
    """Fit network, codebook and threshold on the normal images among `records`.

    Args:
        records: Decoded images; those labelled anomalous serve to evaluate alone.
        stream: A stream of images.
        settings: How to fit.
        progress: Called as the fit goes on.
        test: Images to evaluate on, where they come apart; else the newest tenth of `records`, where any is labelled.
        processes: Those that share the training; this is the first of them, and the others call `share_image_training`.
        device: Where to train, if not where the settings say.
        checkpoints: As of `fit_detector`.

    Raises:
        CheckpointError: There is a checkpoint that may not be continued or replaced.
        ProcessError: The device is not there, or another process is gone.
        TrainingDataError: There are too few normal images to train or calibrate.
        ValueError: The stream is not of images.
    """
    settings = settings or ImageFitSettings()
    say = progress or (lambda _: None)
    began = time.perf_counter()
    with threads_of_torch(settings.threads):
        ready = _prepare(records, stream, settings, say, is_tested_apart=test is not None)
        split, calibration, encoder = ready.split, ready.calibration, ready.encoder
        tested = ready.usable.take(split.test) if test is None else test
        network, training = _train(stream, ready, settings, say, processes, device, checkpoints)
        say(FitProgress("calibrate", 0, 1))
        scorer = ImageScorer.fit(network, ready.fitting, ready.validation, settings.seed)
        calibration_scores = scorer.score(encoder.encode(calibration))
        threshold, normal = calibrated(calibration_scores, stream, records_per_day(calibration))
        facts = facts_of(stream, ready.usable, split, ready.fitting, settings, _LIBRARIES)
        reference = DriftReference.fit(encoder, Notes(), calibration_scores, span_s(calibration.event_times))
        detector = Detector(stream, encoder, scorer, threshold, normal, reference=reference, facts=facts)
        test_scores = detector.score(tested)
        baseline = LinearAutoencoder.fit(ready.bright, _components(ready.bright))
        evaluation = _evaluate(tested, test_scores, baseline, detector)
        errors = detector.score_features(calibration).mean(axis=0)
    counts = {name: len(getattr(split, name)) for name in ("fit", "validate", "calibrate")}
    counts |= {"test": len(tested), "spared": ready.spared}
    counts["left_out_labelled"] = len(records) - sum(counts.values()) + (0 if test is None else len(tested))
    detector.facts.update(
        records=dict(counts),
        best_step=training.best_step,
        losses=[[step, round(fitted, 6), round(validating, 6)] for step, fitted, validating in training.losses],
        training=told(training),
        evaluation=plain(evaluation),
    )
    report = FitReport(
        counts={**counts, "replayed": 0},
        losses=training.losses,
        best_step=training.best_step,
        threshold=threshold,
        baseline=None,
        evaluation=evaluation,
        calibration_scores=calibration_scores,
        test=tested,
        test_scores=test_scores,
        training=training,
        feature_errors=dict(zip(encoder.names, errors.tolist(), strict=True)),
        seconds=time.perf_counter() - began,
    )
    say(FitProgress("done", 1, 1))
    return detector, report


def share_image_training(
    records: Records,
    stream: StreamDefinition,
    settings: ImageFitSettings,
    processes: Processes,
    *,
    is_tested_apart: bool,
    device: torch.device | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Do this process's part of a training whose first process calls `fit_images` with the same arguments.

    Raises:
        As `fit_images`.
    """
    with threads_of_torch(settings.threads):
        ready = _prepare(records, stream, settings, lambda _: None, is_tested_apart=is_tested_apart)
        _train(stream, ready, settings, lambda _: None, processes, device, checkpoints)


def _prepare(
    records: Records,
    stream: StreamDefinition,
    settings: ImageFitSettings,
    say: Callable[[FitProgress], None],
    *,
    is_tested_apart: bool,
) -> _Prepared:
    """All that comes before training: the same records and settings give the same."""
    feature = stream.image
    if feature is None:
        raise ValueError(f"stream {stream.name!r} has no image: fit it with fit_detector")
    known = np.zeros(len(records), np.bool_) if records.labels is None else records.labels
    usable = records.take(~known) if is_tested_apart else records
    split = split_by_time(usable, settings.seed)
    kept = evenly(split.fit, settings.most_records)
    split, spared = replace(split, fit=kept), len(split.fit) - len(kept)
    calibration = usable.take(split.calibrate)
    check_resolvable(len(calibration), stream.threshold, records_per_day(calibration))  # before the long part
    say(FitProgress("encode", 0, 1))
    encoder = ImageEncoder(feature)
    fitting, validation = (encoder.encode(usable.take(rows)) for rows in (split.fit, split.validate))
    gradients = Gradients(feature.height, feature.width, feature.channels)
    bright, held_out = (evenly_bright(gradients, part) for part in (fitting, validation[:MOST_HELD_OUT]))
    return _Prepared(usable, split, spared, calibration, encoder, fitting, validation, bright, held_out)


def _train(
    stream: StreamDefinition,
    ready: _Prepared,
    settings: ImageFitSettings,
    say: Callable[[FitProgress], None],
    processes: Processes,
    device: torch.device | None,
    checkpoints: Checkpoints | None,
) -> tuple[ConvolutionalAutoencoder, TrainingResult]:
    """Train the network to rebuild images that are evenly bright from noisy and shifted ones.

    Source: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008.
    """
    feature = stream.image
    assert feature is not None  # noqa: S101 - asked when it was prepared
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ConvolutionalAutoencoder(feature.height, feature.width, feature.channels)
    network.noise, network.shift, network.level = settings.noise, settings.shift, LEVEL
    known = (("setting noise", f"{settings.noise}"), ("setting shift", f"{settings.shift}"))
    result = train(
        network,
        ready.bright,
        ready.bright_validation,
        TrainingSettings(
            seed=settings.seed,
            most_steps=settings.most_steps,
            most_seconds=settings.most_seconds,
            batch_records=settings.batch_images,
            check_every=settings.check_every,
            patience=settings.patience,
            learning_rate=settings.learning_rate,
        ),
        lambda step, loss, held_out: say(FitProgress("train", step, settings.most_steps, loss, held_out)),
        device=device or choose_device(settings.device),
        processes=processes,
        checkpoints=None if checkpoints is None else replace(checkpoints, identity=known),
    )
    return network, result


def _components(matrix: NDArray[np.float32]) -> int:
    return min(BASELINE_COMPONENTS, len(matrix) - 1, int(matrix.shape[1]) - 1)


def _evaluate(
    test: Records, scores: NDArray[np.float64], linear: LinearAutoencoder, detector: Detector
) -> dict[str, Evaluation] | None:
    """The detector and the residual of PCA on labelled images; None where those are of one label or there are none."""
    if test.labels is None or not 0 < int(test.labels.sum()) < len(test):
        return None
    encoder, scorer = detector.encoder, detector.scorer
    assert isinstance(scorer, ImageScorer)  # noqa: S101 - fitted above
    bright = torch.from_numpy(evenly_bright(scorer.gradients, encoder.encode(test)))
    with torch.inference_mode():
        residuals = (linear(bright) - bright).square().mean(dim=1).numpy()
    results = {scorer.network.kind: evaluate(scores, test.labels), linear.kind: evaluate(residuals, test.labels)}
    return {kind: result for kind, result in results.items() if result is not None}
