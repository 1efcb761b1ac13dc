"""Fitting: decoded records in, a calibrated detector out; it reads no files and publishes nothing."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from detector import (
    Autoencoder,
    DenoisingAutoencoder,
    Detector,
    Encoder,
    History,
    LinearAutoencoder,
    Records,
    Scorer,
    StreamDefinition,
    Threshold,
    TrainingDataError,
    check_resolvable,
    fit_threshold,
)
from detector.networks import INPUT_LIMIT
from trainer.evaluation import Evaluation, evaluate
from trainer.replay import remember

LEAST_NORMAL_RECORDS = 20
"""Fewer normal records than this train nothing that deserves a threshold."""

MOST_EVIDENCE_RECORDS = 100_000
"""More records than this teach the scorer nothing more about residuals."""

_NO_HISTORY_PER_FALSE_ALARM = 2.0
_LEAST_NO_HISTORY = 30

_LIBRARIES = ("torch", "numpy", "scipy", "msgspec", "pyarrow", "safetensors", "pydantic")


@dataclass(frozen=True)
class FitSettings:
    """How to fit; the defaults serve every stream.

    Attributes:
        seed: Of the initial weights, the noise and the split: the same data and seed give the same detector.
        network: `denoising`, or `pca` for the linear special case alone.
        most_steps: Most optimiser steps.
        batch_records: Records in one step.
        check_every: Steps between two looks at the held-out loss.
        patience: Looks without a better held-out loss before training stops.
        learning_rate: Highest learning rate of the one-cycle schedule.
        noise: Deviation of the noise that the network has to remove.
        hidden_share: Chance of each feature to be hidden from the network in a step.
        code_share: Width of the code as a share of the columns that vary.
        no_history_share: Share of the rows to fit on whose history is hidden, so that an entity without any is no
            surprise.
        threads: Threads of torch while fitting; the result may differ in the last bits between numbers of threads.
    """

    seed: int = 0
    network: Literal["denoising", "pca"] = "denoising"
    most_steps: int = 2_000
    batch_records: int = 512
    check_every: int = 50
    patience: int = 10
    learning_rate: float = 2e-3
    noise: float = 0.1
    hidden_share: float = 0.15
    code_share: float = 0.8
    no_history_share: float = 0.05
    threads: int = 1


@dataclass(frozen=True)
class FitProgress:
    """How far a fit is: losses are mean squared errors per column, None before the first look."""

    stage: str
    step: int
    steps: int
    training_loss: float | None = None
    validation_loss: float | None = None


@dataclass(frozen=True)
class FitReport:
    """What happened in a fit, for people: the artifact holds the figures, not the arrays.

    Attributes:
        counts: Records by what they were used for: fit, validate, calibrate, test, left_out_labelled; and replayed,
            those that were history alone.
        losses: (step, training loss, validation loss) at each look.
        best_step: Step whose weights were kept.
        threshold: The detector's threshold.
        baseline: PCA with the same encoder, scoring and calibration; None where PCA itself was asked for.
        evaluation: By network, on the test span; None where no record is labelled anomalous there.
        calibration_scores: Scores of held-out normal records, (n,).
        test: The test span, with anomalies.
        test_scores: The detector's scores on it.
        column_errors: Mean squared residual of each feature on calibration records, in squared deviations.
        seconds: Wall time of the fit.
    """

    counts: dict[str, int]
    losses: list[tuple[int, float, float]]
    best_step: int
    threshold: Threshold
    baseline: Detector | None
    evaluation: dict[str, Evaluation] | None
    calibration_scores: NDArray[np.float64]
    test: Records
    test_scores: NDArray[np.float64]
    feature_errors: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Split:
    """Rows of the records by use, each in order of time."""

    fit: NDArray[np.int64]
    validate: NDArray[np.int64]
    calibrate: NDArray[np.int64]
    test: NDArray[np.int64]


def split_by_time(records: Records, seed: int) -> Split:
    """Split records: the oldest fit, then validate, then calibrate, and the newest test where labels exist.

    Known anomalies are in the test part alone. Records without an event time are split at random.

    Raises:
        TrainingDataError: Fewer than `LEAST_NORMAL_RECORDS` normal records are left.
    """
    n = len(records)
    if records.event_times is None:
        order = np.random.default_rng(seed).permutation(n)
    else:
        order = np.argsort(records.event_times, kind="stable")
    labels = records.labels if records.labels is not None else np.zeros(n, np.bool_)
    tested = bool(labels.any())
    start_of_test = int(n * 0.9) if tested else n
    earlier = order[:start_of_test]
    normal = earlier[~labels[earlier]]
    if len(normal) < LEAST_NORMAL_RECORDS:
        marked = f" ({labels.sum():,} are labelled anomalous)" if tested else ""
        raise TrainingDataError(
            f"{len(normal)} normal records of {n:,} are left to fit on{marked}, fewer than {LEAST_NORMAL_RECORDS}: "
            "give more data, or look at why records were rejected or labelled anomalous"
        )
    ends = [round(len(normal) * share) for share in (0.65, 0.75)]
    fit, validate, calibrate = np.split(normal, ends)
    return Split(fit, validate, calibrate, order[start_of_test:])


def fit_detector(
    records: Records,
    stream: StreamDefinition,
    settings: FitSettings | None = None,
    progress: Callable[[FitProgress], None] | None = None,
    *,
    history: History | None = None,
) -> tuple[Detector, FitReport]:
    """Fit encoder, network, scorer and threshold on the normal records among `records`.

    Args:
        records: Decoded records in order; those labelled anomalous serve to evaluate alone. Where the stream has
            history features and they carry none, they get those that they have among themselves in order of event
            time, and those of the first longest window are history alone, unless there are no others.
        stream: What a record is.
        settings: How to fit.
        progress: Called as the fit goes on.
        history: What computed the history features that the records carry, where they do.

    Raises:
        TrainingDataError: The data cannot train or calibrate a detector; says what is missing.
        ValueError: The records carry history features, and what computed them is not given.
    """
    settings = settings or FitSettings()
    if stream.image is not None:
        from trainer.fitting_images import ImageFitSettings, fit_images  # it needs this module

        if settings.network != "denoising":
            raise TrainingDataError(
                f"stream {stream.name!r} is of images, with a network of their own: leave out {settings.network!r}"
            )
        return fit_images(records, stream, ImageFitSettings(settings.seed, threads=settings.threads), progress)
    say = progress or (lambda _: None)
    began = time.perf_counter()
    read = len(records)
    if stream.history_features:
        records, history = _with_history(records, stream, history)
    split = split_by_time(records, settings.seed)
    calibration = records.take(split.calibrate)
    rate, _ = check_resolvable(len(calibration), stream.threshold, records_per_day(calibration))  # before the long part
    say(FitProgress("encode", 0, 1))
    to_fit, to_validate = (records.take(rows) for rows in (split.fit, split.validate))
    unknown = [drawn(part, settings) for part in (to_fit, to_validate)]
    hidden = [draws < settings.no_history_share for draws in unknown]
    encoder = Encoder.fit(stream, _without_history(to_fit, hidden[0]))
    fitting = encoder.encode(_without_history(to_fit, hidden[0]))
    validation = encoder.encode(_without_history(to_validate, hidden[1]))
    varying = int((fitting.std(axis=0) > 1e-6).sum())
    if varying == 0:
        raise TrainingDataError(
            "every feature has the same value in all normal records: nothing can be learned from them; "
            "choose features that vary"
        )
    code_width = max(1, min(round(varying * settings.code_share), varying - 1, encoder.width - 1))
    loss_history: list[tuple[int, float, float]] = []
    best_step = 0
    with threads_of_torch(settings.threads):
        linear = LinearAutoencoder.fit(fitting, code_width)
        network: Autoencoder = linear
        if settings.network == "denoising":
            network, loss_history, best_step = train_denoising(encoder, fitting, validation, code_width, settings, say)
        say(FitProgress("calibrate", 0, 1))
        rows = _evidence_rows(np.concatenate(unknown), settings, rate)
        seen = np.concatenate([fitting, validation])[rows]
        facts = _facts(stream, records, split, fitting, settings)
        detectors = {
            kind: _calibrated(stream, encoder, Scorer.fit(net, seen, encoder.indicators), calibration, history, facts)
            for kind, net in {network.kind: network, linear.kind: linear}.items()
        }
        detector = detectors[network.kind]
        test = records.take(split.test)
        scores = {kind: each.score(test) for kind, each in detectors.items()}
        evaluation = _evaluate(stream, test, scores)
        feature_errors = detector.score_features(calibration).mean(axis=0)
        calibration_scores = detector.score(calibration)
    counts = {name: len(getattr(split, name)) for name in ("fit", "validate", "calibrate", "test")}
    counts["left_out_labelled"] = len(records) - sum(counts.values())
    counts["replayed"] = read - len(records)
    detector.facts.update(
        records=dict(counts),
        best_step=best_step,
        losses=[[step, round(training, 6), round(validating, 6)] for step, training, validating in loss_history],
        evaluation=_plain(evaluation),
    )
    report = FitReport(
        counts=counts,
        losses=loss_history,
        best_step=best_step,
        threshold=detector.threshold,
        baseline=detectors["pca"] if network.kind != "pca" else None,
        evaluation=evaluation,
        calibration_scores=calibration_scores,
        test=test,
        test_scores=scores[network.kind],
        feature_errors=dict(zip(encoder.names, feature_errors.tolist(), strict=True)),
        seconds=time.perf_counter() - began,
    )
    say(FitProgress("done", 1, 1))
    return detector, report


def _with_history(records: Records, stream: StreamDefinition, history: History | None) -> tuple[Records, History]:
    """Records that carry history features, and what computed them."""
    if records.history:
        if history is None:
            raise ValueError(
                f"the records carry the history features of stream {stream.name!r}, and a detector needs what computed "
                "them: give history, as `load` returns it"
            )
        return records, history
    records, history = remember(records, stream, history)
    assert records.event_times is not None  # noqa: S101 - a stream with history has a time, and every record carries it
    times_us = records.event_times.astype(np.int64)
    whole = times_us >= times_us.min(initial=np.iinfo(np.int64).max) + stream.longest_window_us
    return (records.take(whole) if whole.any() else records), history


def drawn(records: Records, settings: FitSettings) -> NDArray[np.float64]:
    """A number from 0 to 1 for each record, (n,), by the seed and by the record's own time and place alone."""
    if not records.history or records.event_times is None:
        return np.ones(len(records))
    times, places = records.event_times.astype(np.int64).view(np.uint64), records.offsets.view(np.uint64)
    return _mixed(_mixed(times + np.uint64(settings.seed)) + places) / 2.0**64


def _without_history(records: Records, hidden: NDArray[np.bool_]) -> Records:
    """Records of which some are as those of an entity that nobody knows yet."""
    return replace(records, history={name: np.where(hidden, np.nan, c) for name, c in records.history.items()})


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers that look random, the same for the same numbers.

    Source: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (its finaliser).
    """
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def train_denoising(
    encoder: Encoder,
    fitting: NDArray[np.float32],
    validation: NDArray[np.float32],
    code_width: int,
    settings: FitSettings,
    say: Callable[[FitProgress], None],
) -> tuple[DenoisingAutoencoder, list[tuple[int, float, float]], int]:
    """Train the nonlinear network; the weights of the best held-out loss are kept.

    Returns:
        The network, the losses at each look, and the step of the kept weights.

    Source: Smith and Topin, "Super-Convergence", 2018 (the one-cycle schedule); Prechelt, "Early Stopping - But
        When?", 1998 (patience on the held-out loss).
    """
    draw = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = DenoisingAutoencoder(encoder.width, code_width)
    matrix = torch.from_numpy(fitting).clamp(-INPUT_LIMIT, INPUT_LIMIT)
    held_out = torch.from_numpy(validation).clamp(-INPUT_LIMIT, INPUT_LIMIT)
    feature_of_column = torch.cat(
        [torch.full((columns.stop - columns.start,), position) for position, columns in enumerate(encoder.slices)]
    )
    optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.most_steps)
    best, best_step, best_weights = float("inf"), 0, _copy_of_weights(network)
    history: list[tuple[int, float, float]] = []
    running = 0.0
    for step in range(1, settings.most_steps + 1):
        rows = matrix[torch.randint(len(matrix), (settings.batch_records,), generator=draw)]
        shown = torch.rand(len(rows), len(encoder.slices), generator=draw) >= settings.hidden_share
        noisy = (rows + settings.noise * torch.randn(rows.shape, generator=draw)) * shown[:, feature_of_column]
        loss = (network(noisy) - rows).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        running += float(loss.detach())
        if step % settings.check_every == 0:
            with torch.inference_mode():
                validating = float((network(held_out) - held_out).square().mean())
            history.append((step, running / settings.check_every, validating))
            say(FitProgress("train", step, settings.most_steps, running / settings.check_every, validating))
            running = 0.0
            if validating < best:
                best, best_step = validating, step
                best_weights = _copy_of_weights(network)
            elif step - best_step >= settings.patience * settings.check_every:
                break
    network.load_state_dict(best_weights)
    return network.eval(), history, best_step


def _copy_of_weights(network: DenoisingAutoencoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _evidence_rows(unknown: NDArray[np.float64], settings: FitSettings, rate: float) -> NDArray[np.int64]:
    """Rows that the scorer learns from: evenly spaced over all that was seen, the held-out part included.

    The held-out part alone is a short span of time: what it knows of residuals at other hours and on other days would
    be guessed. That fitted rows are rebuilt a little better matters less, and the threshold makes up for it.

    Of the rows without history only so many stay that having none is not as rare as a false alarm: as many as the
    network needs would be most of what the scorer takes for rare, and odd records with a history would pass unseen.

    Args:
        unknown: What `drawn` says of each row, those to fit on and then those held out, (n,).
        settings: How to fit.
        rate: False-alarm rate that is wanted.
    """
    few = max(_NO_HISTORY_PER_FALSE_ALARM * rate, _LEAST_NO_HISTORY / len(unknown))
    rows = np.flatnonzero((unknown >= settings.no_history_share) | (unknown < few))
    return rows[:: -(-len(rows) // MOST_EVIDENCE_RECORDS)]


def _calibrated(
    stream: StreamDefinition,
    encoder: Encoder,
    scorer: Scorer,
    calibration: Records,
    history: History | None,
    facts: dict[str, Any],
) -> Detector:
    """A detector with the threshold that the stream's setting asks for."""
    scores = scorer.score(encoder.encode(calibration))
    threshold = fit_threshold(scores, stream.threshold, records_per_day(calibration))
    return Detector(stream, encoder, scorer, threshold, history=history, facts=facts)


def records_per_day(records: Records) -> float | None:
    """Event rate of records in order of time; None where there is no time, or no span of it."""
    if records.event_times is None or len(records) < 2:
        return None
    span_us = int((records.event_times.max() - records.event_times.min()).astype(np.int64))
    return None if span_us <= 0 else (len(records) - 1) * 86_400_000_000 / span_us


def _evaluate(
    stream: StreamDefinition, test: Records, scores: dict[str, NDArray[np.float64]]
) -> dict[str, Evaluation] | None:
    """Every network on the test span; None where it has no anomaly or nothing else."""
    if test.labels is None or not 0 < int(test.labels.sum()) < len(test):
        return None
    zone = stream.time.zone if stream.time else "UTC"
    results = {
        kind: evaluate(each, test.labels, entities=test.keys, times=test.event_times, zone=zone)
        for kind, each in scores.items()
    }
    return {kind: result for kind, result in results.items() if result is not None}


def _plain(evaluation: dict[str, Evaluation] | None) -> dict[str, Any] | None:
    """Evaluations by network as a JSON object."""
    if evaluation is None:
        return None
    content = {kind: asdict(result) for kind, result in evaluation.items()}
    for result in content.values():
        result["precision_at"] = {str(k): value for k, value in result["precision_at"].items()}
    return content


def _facts(
    stream: StreamDefinition, records: Records, split: Split, fitting: NDArray[np.float32], settings: FitSettings
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


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """Torch with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
