"""Fitting a detector of images: records in, a calibrated detector out; it reads no files and publishes nothing."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detector import (
    ConvolutionalAutoencoder,
    Detector,
    ImageEncoder,
    ImageScorer,
    LinearAutoencoder,
    Records,
    StreamDefinition,
    check_resolvable,
    fit_threshold,
)
from detector.image_gradients import Gradients
from detector.image_scoring import LEVEL, evenly_bright
from trainer.evaluation import Evaluation, evaluate
from trainer.fitting import FitProgress, FitReport, Split, plain, records_per_day, split_by_time, threads_of_torch

BASELINE_COMPONENTS = 16
"""Principal components of the baseline; as many as the network's code has numbers."""

_LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "scipy", "safetensors", "pydantic")


@dataclass(frozen=True)
class ImageFitSettings:
    """How to fit; the defaults serve every stream.

    Attributes:
        seed: Of the initial weights, the noise, the split and the choice of codes: the same data and seed give the same
            detector.
        steps: Optimiser steps: so many, whatever the clock says.
        batch_images: Images in one step.
        learning_rate: Highest learning rate of the one-cycle schedule.
        noise: Largest deviation of the noise that the network has to remove, in units of an image's root mean square.
        shift: Most pixels that images are shifted by, so that the network does not learn where a stroke stands exactly.
        check_every: Steps between two looks at the held-out loss.
        threads: Threads of torch while fitting.
    """

    seed: int = 0
    steps: int = 400
    batch_images: int = 128
    learning_rate: float = 2e-3
    noise: float = 1.25
    shift: int = 1
    check_every: int = 50
    threads: int = 1


def fit_images(
    records: Records,
    stream: StreamDefinition,
    settings: ImageFitSettings | None = None,
    progress: Callable[[FitProgress], None] | None = None,
    *,
    test: Records | None = None,
) -> tuple[Detector, FitReport]:
    """Fit network, codebook and threshold on the normal images among `records`.

    Args:
        records: Decoded images; those labelled anomalous serve to evaluate alone.
        stream: A stream of images.
        settings: How to fit.
        progress: Called as the fit goes on.
        test: Images to evaluate on, where they come apart; else the newest tenth of `records`, where any is labelled.

    Raises:
        TrainingDataError: There are too few normal images to train or calibrate.
        ValueError: The stream is not of images.
    """
    if stream.image is None:
        raise ValueError(f"stream {stream.name!r} has no image: fit it with fit_detector")
    settings = settings or ImageFitSettings()
    say = progress or (lambda _: None)
    began = time.perf_counter()
    known = np.zeros(len(records), np.bool_) if records.labels is None else records.labels
    usable = records if test is None else records.take(~known)
    split = split_by_time(usable, settings.seed)
    calibration = usable.take(split.calibrate)
    tested = usable.take(split.test) if test is None else test
    check_resolvable(len(calibration), stream.threshold, records_per_day(calibration))  # before the long part
    say(FitProgress("encode", 0, 1))
    encoder = ImageEncoder(stream.image)
    fitting, validation = (encoder.encode(usable.take(rows)) for rows in (split.fit, split.validate))
    with threads_of_torch(settings.threads):
        feature = stream.image
        gradients = Gradients(feature.height, feature.width, feature.channels)
        bright, held_out = evenly_bright(gradients, fitting), evenly_bright(gradients, validation)
        network, losses = _train(stream, bright, held_out, settings, say)
        say(FitProgress("calibrate", 0, 1))
        scorer = ImageScorer.fit(network, fitting, validation, settings.seed)
        calibration_scores = scorer.score(encoder.encode(calibration))
        threshold = fit_threshold(calibration_scores, stream.threshold, records_per_day(calibration))
        detector = Detector(stream, encoder, scorer, threshold, facts=_facts(stream, usable, split, fitting, settings))
        test_scores = detector.score(tested)
        evaluation = _evaluate(tested, test_scores, LinearAutoencoder.fit(bright, _components(bright)), detector)
        errors = detector.score_features(calibration).mean(axis=0)
    counts = {name: len(getattr(split, name)) for name in ("fit", "validate", "calibrate")}
    counts |= {"test": len(tested), "spared": 0, "left_out_labelled": len(records) - sum(counts.values())}
    if test is None:
        counts["left_out_labelled"] -= len(tested)
    detector.facts.update(
        records=dict(counts),
        best_step=settings.steps,
        losses=[[step, round(training, 6), round(validating, 6)] for step, training, validating in losses],
        evaluation=plain(evaluation),
    )
    report = FitReport(
        counts={**counts, "replayed": 0},
        losses=losses,
        best_step=settings.steps,
        threshold=threshold,
        baseline=None,
        evaluation=evaluation,
        calibration_scores=calibration_scores,
        test=tested,
        test_scores=test_scores,
        feature_errors=dict(zip(encoder.names, errors.tolist(), strict=True)),
        seconds=time.perf_counter() - began,
    )
    say(FitProgress("done", 1, 1))
    return detector, report


def _train(
    stream: StreamDefinition,
    fitting: NDArray[np.float32],
    validation: NDArray[np.float32],
    settings: ImageFitSettings,
    say: Callable[[FitProgress], None],
) -> tuple[ConvolutionalAutoencoder, list[tuple[int, float, float]]]:
    """Train the network on evenly bright images (n, d); returns it with (step, training loss, held-out loss) by looks.

    Source: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML 2008; Smith and
        Topin, "Super-Convergence", 2018 (the one-cycle schedule).
    """
    feature = stream.image
    assert feature is not None  # noqa: S101 - asked by the caller
    draw = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = ConvolutionalAutoencoder(feature.height, feature.width, feature.channels)
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps)
    images, held_out = torch.from_numpy(fitting), torch.from_numpy(validation[:1024])
    losses: list[tuple[int, float, float]] = []
    running = 0.0
    for step in range(1, settings.steps + 1):
        rows = images[torch.randint(len(images), (settings.batch_images,), generator=draw)]
        rows = _shifted(rows, network.shape, settings.shift, draw)
        deviation = settings.noise * LEVEL * torch.rand(len(rows), 1, generator=draw)
        noisy = rows + deviation * torch.randn(rows.shape, generator=draw)
        loss = (network(noisy) - rows).square().mean() / LEVEL**2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        running += float(loss.detach())
        if step % settings.check_every == 0:
            with torch.inference_mode():
                validating = float((network(held_out) - held_out).square().mean()) / LEVEL**2
            losses.append((step, running / settings.check_every, validating))
            say(FitProgress("train", step, settings.steps, running / settings.check_every, validating))
            running = 0.0
    return network.eval(), losses


def _shifted(rows: torch.Tensor, shape: tuple[int, int, int], most: int, draw: torch.Generator) -> torch.Tensor:
    """Images (n, d) shifted together by up to `most` pixels each way; what leaves on one side comes in on the other."""
    down, across = torch.randint(-most, most + 1, (2,), generator=draw).tolist()
    return torch.roll(rows.view(-1, *shape), (down, across), (2, 3)).reshape(len(rows), -1)


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


def _facts(
    stream: StreamDefinition, records: Records, split: Split, fitting: NDArray[np.float32], settings: ImageFitSettings
) -> dict[str, Any]:
    """What the manifest tells people about a fit."""
    facts: dict[str, Any] = {
        "fitted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trained_from": None,
        "trained_until": None,
        "settings": asdict(settings),
        "data_sha256": hashlib.sha256(fitting.tobytes()).hexdigest(),
        "libraries": {name: version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
    }
    if records.event_times is not None and stream.time is not None and not stream.is_sensitive(stream.time.field):
        used = records.event_times[np.concatenate([split.fit, split.validate, split.calibrate])]
        for fact, moment in (("trained_from", used.min()), ("trained_until", used.max())):
            facts[fact] = moment.astype("datetime64[us]").astype(datetime).replace(tzinfo=UTC).isoformat()
    return facts
