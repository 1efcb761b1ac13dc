"""Fitting: decoded records in, a calibrated detector out; it reads no files and publishes nothing."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
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
    DriftReference,
    Encoder,
    Head,
    History,
    LinearAutoencoder,
    NormalScores,
    Notes,
    Records,
    Scorer,
    StreamDefinition,
    Threshold,
    TrainingDataError,
    check_resolvable,
    fit_threshold,
)
from detector.codebook import MOST_CODES
from detector.networks.denoising import NOISE
from trainer.checkpoints import Checkpoints
from trainer.comparison import choose_scale
from trainer.evaluation import Evaluation, evaluate
from trainer.examination import examine
from trainer.head import LABEL_FREE, LOSSES, MOST_NORMAL, HeadReport, KnownLabels, Loss, compare, fit_head, known_labels
from trainer.processes import ALONE, Device, Processes, choose_device
from trainer.replay import remember
from trainer.training import TrainingResult, TrainingSettings, train

LEAST_NORMAL_RECORDS = 20
"""Fewer normal records than this train nothing that deserves a threshold."""

MOST_EVIDENCE_RECORDS = 100_000
"""More records than this teach the scorer nothing more about residuals."""

MOST_DRIFT_RECORDS = 20_000
"""Fitted records that are compared with those of the calibration, at most."""

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
        most_seconds: Most wall time of training, None for no limit; a result that it cut cannot be had again.
        most_records: Most records to fit on, None for no limit; of more, ones that are evenly spread over their time.
        device: Where to train: `auto` takes CUDA where there is one. The detector is always on the CPU.
        allow_leakage: Whether a feature may by itself tell the labelled anomalies from normal records.
        batch_records: Records in one step.
        check_every: Steps between two looks at the held-out loss.
        patience: Looks without a better held-out loss before training stops.
        learning_rate: Highest learning rate of the one-cycle schedule.
        noise: Deviations of the noise that the members of the network have to remove, one each.
        hidden_share: Chance of each feature to be hidden from a member in a step.
        code_share: Width of each member's code as a share of the columns that vary.
        no_history_share: Share of the rows to fit on whose history is hidden, so that an entity without any is no
            surprise.
        head: Loss of a head that learns from labelled anomalies, None for the label-free score alone.
        threads: Threads of torch while fitting; the result may differ in the last bits between numbers of threads.
    """

    seed: int = 0
    network: Literal["denoising", "pca"] = "denoising"
    most_steps: int = 600
    most_seconds: float | None = None
    most_records: int | None = None
    device: Device = "cpu"
    allow_leakage: bool = False
    batch_records: int = 256
    check_every: int = 50
    patience: int = 10
    learning_rate: float = 2e-3
    noise: tuple[float, ...] = NOISE
    hidden_share: float = 0.15
    code_share: float = 0.8
    no_history_share: float = 0.05
    head: Loss | None = None
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
        counts: Records by what they were used for: fit, validate, calibrate, test, left_out_labelled; spared, those
            beyond the most to fit on; and replayed, those that were history alone.
        losses: (step, training loss, validation loss) at each look.
        best_step: Step whose weights were kept.
        training: How the training went, None for a network without steps.
        remarks: What a person should know of the data, one line each.
        threshold: The detector's threshold.
        baseline: PCA with the same encoder, scoring and calibration; None where PCA itself was asked for.
        evaluation: By network, on the test span; None where no record is labelled anomalous there.
        calibration_scores: Scores of held-out normal records, (n,).
        test: The test span, with anomalies.
        test_scores: The detector's scores on it.
        head: Whether the head that was asked for is worth it, None where there is none.
        feature_errors: Mean squared residual of each feature on calibration records, in squared deviations.
        feature_drift: How far each feature moved from the fitted to the calibration records: see
            `DriftReference.compare`. Empty where those are too few to say so.
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
    training: TrainingResult | None = None
    head: HeadReport | None = None
    remarks: list[str] = field(default_factory=list)
    feature_errors: dict[str, float] = field(default_factory=dict)
    feature_drift: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Split:
    """Rows of the records by use, each in order of time; `span` is all before the test part, anomalies included."""

    fit: NDArray[np.int64]
    validate: NDArray[np.int64]
    calibrate: NDArray[np.int64]
    test: NDArray[np.int64]
    span: NDArray[np.int64]


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
    return Split(fit, validate, calibrate, order[start_of_test:], earlier)


@dataclass(frozen=True)
class _Prepared:
    """What every process of a training has before it begins: the same in all of them."""

    records: Records
    history: History | None
    read: int
    split: Split
    spared: int
    remarks: list[str]
    calibration: Records
    rate: float
    unknown: list[NDArray[np.float64]]
    known: KnownLabels | None
    to_fit: Records
    encoder: Encoder
    fitting: NDArray[np.float32]
    validation: NDArray[np.float32]
    varying: NDArray[np.bool_]
    code_width: int


def fit_detector(
    records: Records,
    stream: StreamDefinition,
    settings: FitSettings | None = None,
    progress: Callable[[FitProgress], None] | None = None,
    *,
    history: History | None = None,
    remark: Callable[[str], None] | None = None,
    processes: Processes = ALONE,
    device: torch.device | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[Detector, FitReport]:
    """Fit encoder, network, scorer and threshold on the normal records among `records`.

    Args:
        records: Decoded records in order; those labelled anomalous serve to evaluate, and to teach a head where one is
            asked for. Where the stream has history features and they carry none, they get those that they have among
            themselves in order of event time, and those of the first longest window are history alone, unless there are
            no others.
        stream: What a record is.
        settings: How to fit.
        progress: Called as the fit goes on.
        history: What computed the history features that the records carry, where they do.
        remark: Called with each line that a person should read before the long part.
        processes: Those that share the training; this is the first of them, and the others call `share_training`.
        device: Where to train, if not where the settings say.
        checkpoints: Where training keeps what a later process needs to go on; removing them is the caller's, when the
            detector is safe.

    Raises:
        CheckpointError: There is a checkpoint that may not be continued or replaced.
        ProcessError: The device is not there, or another process is gone.
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
        return fit_images(
            records, stream, ImageFitSettings.of(settings), progress,
            processes=processes, device=device, checkpoints=checkpoints,
        )  # fmt: skip
    say = progress or (lambda _: None)
    began = time.perf_counter()
    ready = _prepare(records, stream, settings, history, say, remark)
    encoder, fitting, split = ready.encoder, ready.fitting, ready.split
    training: TrainingResult | None = None
    with threads_of_torch(settings.threads):
        linear = LinearAutoencoder.fit(fitting[:, ready.varying], ready.code_width)
        network: Autoencoder = linear
        if settings.network == "denoising":
            network, training = _train_denoising(ready, settings, say, processes, device, checkpoints)
        say(FitProgress("calibrate", 0, 1))
        rows = _evidence_rows(np.concatenate(ready.unknown), settings, ready.rate)
        seen = np.concatenate([fitting, ready.validation])[rows]
        notes = Notes()
        calibrating = encoder.encode(ready.calibration, notes)
        codes = seen if len(seen) >= MOST_CODES else np.concatenate([seen, calibrating])
        facts = facts_of(stream, ready.records, split, fitting, settings, _LIBRARIES)
        scorers: dict[str, Scorer] = {}
        if training is not None:
            rescaling, facts["told_apart"] = choose_scale(stream, encoder, ready.to_fit, settings.seed)
            scorers[network.kind] = Scorer.fit(
                network, seen, encoder.indicators, codes,
                varying=ready.varying, rescaling=rescaling, seed=settings.seed,
            )  # fmt: skip
        same_width = linear.code_width == network.code_width
        scorers[linear.kind] = Scorer.fit(
            linear, seen, encoder.indicators, varying=ready.varying,
            beside=scorers.get(network.kind) if same_width else None,
        )  # fmt: skip
        heads = {} if ready.known is None else _teach(ready, scorers[network.kind], seen)
        if settings.head is not None:
            scorers[network.kind].attach(heads[settings.head])
        of_normal = {kind: scorer.score(calibrating, leave_out=True) for kind, scorer in scorers.items()}
        daily = records_per_day(ready.calibration)
        detectors = {
            kind: Detector(
                stream,
                encoder,
                scorer,
                *calibrated(of_normal[kind], stream, daily),
                history=ready.history,
                reference=DriftReference.fit(encoder, notes, of_normal[kind], span_s(ready.calibration.event_times)),
                facts=facts,
            )
            for kind, scorer in scorers.items()
        }
        detector, calibration_scores = detectors[network.kind], of_normal[network.kind]
        test = ready.records.take(split.test)
        scores = {kind: each.score(test) for kind, each in detectors.items()}
        head = None
        if settings.head is not None and ready.known is not None:
            inputs = [
                scorers[network.kind].head_inputs(matrix, leave_out=of_codes)
                for matrix, of_codes in ((encoder.encode(test), False), (calibrating, True))
            ]
            tried, of_calibration = ({LABEL_FREE: each[:, -1], **_by_head(heads, each)} for each in inputs)
            head = compare(settings.head, ready.known, tried, of_calibration, test, stream, daily)
            scores[LABEL_FREE] = tried[LABEL_FREE]
        evaluation = _evaluate(stream, test, scores)
        feature_errors = detector.scorer.score_features(calibrating, encoder.slices).mean(axis=0)
        drift = _drift_since(ready.records.take(evenly(split.fit, MOST_DRIFT_RECORDS)), detector)
    counts = {name: len(getattr(split, name)) for name in ("fit", "validate", "calibrate", "test")}
    counts["spared"] = ready.spared
    counts["left_out_labelled"] = len(ready.records) - sum(counts.values())
    counts["replayed"] = ready.read - len(ready.records)
    losses, best_step = (training.losses, training.best_step) if training is not None else ([], 0)
    detector.facts.update(
        records=dict(counts),
        best_step=best_step,
        losses=[[step, round(fitted, 6), round(validating, 6)] for step, fitted, validating in losses],
        training=None if training is None else told(training),
        head=None if head is None else head.to_json(),
        remarks=ready.remarks,
        evaluation=plain(evaluation),
    )
    report = FitReport(
        counts=counts,
        losses=losses,
        best_step=best_step,
        threshold=detector.threshold,
        baseline=detectors["pca"] if network.kind != "pca" else None,
        evaluation=evaluation,
        calibration_scores=calibration_scores,
        test=test,
        test_scores=scores[network.kind],
        training=training,
        head=head,
        remarks=ready.remarks,
        feature_errors=dict(zip(encoder.names, feature_errors.tolist(), strict=True)),
        feature_drift=drift,
        seconds=time.perf_counter() - began,
    )
    say(FitProgress("done", 1, 1))
    return detector, report


def share_training(
    records: Records,
    stream: StreamDefinition,
    settings: FitSettings,
    processes: Processes,
    *,
    history: History | None = None,
    device: torch.device | None = None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Do this process's part of a training whose first process calls `fit_detector` with the same arguments.

    Raises:
        As `fit_detector`.
    """
    ready = _prepare(records, stream, settings, history, lambda _: None, None)
    if settings.network == "denoising":
        with threads_of_torch(settings.threads):
            _train_denoising(ready, settings, lambda _: None, processes, device, checkpoints)


def _prepare(
    records: Records,
    stream: StreamDefinition,
    settings: FitSettings,
    history: History | None,
    say: Callable[[FitProgress], None],
    remark: Callable[[str], None] | None,
) -> _Prepared:
    """All that comes before training: the same records and settings give the same."""
    read = len(records)
    if stream.history_features:
        records, history = _with_history(records, stream, history)
    split = split_by_time(records, settings.seed)
    kept = evenly(split.fit, settings.most_records)
    split, spared = replace(split, fit=kept), len(split.fit) - len(kept)
    calibration = records.take(split.calibrate)
    rate, _ = check_resolvable(len(calibration), stream.threshold, records_per_day(calibration))  # before the long part
    known = None if settings.head is None else known_labels(records, split.span, stream)
    remarks = examine(
        records, np.concatenate([split.fit, split.validate]), stream, allow_leakage=settings.allow_leakage
    )
    for line in remarks:
        if remark is not None:
            remark(line)
    say(FitProgress("encode", 0, 1))
    to_fit, to_validate = (records.take(rows) for rows in (split.fit, split.validate))
    unknown = [drawn(part, settings) for part in (to_fit, to_validate)]
    hidden = [draws < settings.no_history_share for draws in unknown]
    to_fit = _without_history(to_fit, hidden[0])
    encoder = Encoder.fit(stream, to_fit)
    fitting = encoder.encode(to_fit)
    validation = encoder.encode(_without_history(to_validate, hidden[1]))
    varying = fitting.std(axis=0) > 1e-6
    if not varying.any():
        raise TrainingDataError(
            "every feature has the same value in all normal records: nothing can be learned from them; "
            "choose features that vary"
        )
    count = int(varying.sum())
    code_width = max(1, min(round(count * settings.code_share), count - 1))
    return _Prepared(
        records, history, read, split, spared, remarks, calibration, rate, unknown, known, to_fit, encoder, fitting,
        validation, varying, code_width,
    )  # fmt: skip


def evenly(rows: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """At most so many of the rows, in their order and evenly spread over it.

    Raises:
        TrainingDataError: So few teach nothing.
    """
    if most is None or len(rows) <= most:
        return rows
    if most < LEAST_NORMAL_RECORDS:
        raise TrainingDataError(
            f"{most} records to fit on are fewer than {LEAST_NORMAL_RECORDS} and teach nothing: raise --most-records"
        )
    return rows[(np.arange(most) * 2 + 1) * len(rows) // (2 * most)]


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


def _train_denoising(
    ready: _Prepared,
    settings: FitSettings,
    say: Callable[[FitProgress], None],
    processes: Processes,
    device: torch.device | None,
    checkpoints: Checkpoints | None,
) -> tuple[DenoisingAutoencoder, TrainingResult]:
    """Train the nonlinear network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = DenoisingAutoencoder(int(ready.varying.sum()), ready.code_width, noise=settings.noise)
    network.hidden_share = settings.hidden_share
    feature_of_column = np.repeat(
        np.arange(len(ready.encoder.slices)), [columns.stop - columns.start for columns in ready.encoder.slices]
    )
    network.feature_of_column = torch.from_numpy(feature_of_column[ready.varying])
    # What the trainer cannot see in the network, but what another training would differ in.
    known = (("setting noise", f"{settings.noise}"), ("setting hidden_share", f"{settings.hidden_share}"))
    result = train(
        network,
        ready.fitting[:, ready.varying],
        ready.validation[:, ready.varying],
        TrainingSettings(
            seed=settings.seed,
            most_steps=settings.most_steps,
            most_seconds=settings.most_seconds,
            batch_records=settings.batch_records,
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


def told(training: TrainingResult) -> dict[str, Any]:
    """How a training went, as the manifest tells it."""
    told = asdict(training)
    told.pop("losses")
    told["seconds"] = round(training.seconds, 1)
    told["reproducible"] = told.pop("is_reproducible")
    return told


def _teach(ready: _Prepared, scorer: Scorer, seen: NDArray[np.float32]) -> dict[Loss, Head]:
    """A head by each loss, taught by the labels that were known in time beside normal records (n, d) that were seen."""
    assert ready.known is not None  # noqa: S101 - asked by the caller
    some = seen[:: -(-len(seen) // MOST_NORMAL)]
    normal = scorer.head_inputs(some, leave_out=True)
    anomalous = scorer.head_inputs(ready.encoder.encode(ready.records.take(ready.known.rows)))
    return {loss: fit_head(normal, anomalous, loss) for loss in LOSSES}


def _by_head(heads: dict[Loss, Head], inputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Scores (n,) of inputs (n, m) by each head."""
    return {loss: head.score(inputs) for loss, head in heads.items()}


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


def calibrated(
    scores: NDArray[np.float64], stream: StreamDefinition, daily: float | None
) -> tuple[Threshold, NormalScores]:
    """The threshold that keeps what a stream's definition states, and what it was set on.

    Args:
        scores: Of held-out normal records, (n,).
        stream: States how often they may alert.
        daily: How many of them a day brings, where that is known.
    """
    normal = NormalScores.fit(scores)
    return fit_threshold(scores, stream.threshold, daily, normal), normal


def _drift_since(earlier: Records, detector: Detector) -> dict[str, float]:
    """How far each feature moved from earlier records to those of the calibration; empty where nothing can be said."""
    if detector.reference is None:
        return {}
    notes = Notes()
    detector.encoder.encode(earlier, notes)
    return detector.reference.compare_features(
        detector.reference.count(notes, np.empty(0)), span_s(earlier.event_times)
    )


def span_s(times: NDArray[np.datetime64] | None) -> float | None:
    """Time from the first record to the last in seconds; None where there is no time."""
    if times is None or len(times) == 0 or np.isnat(times).any():
        return None
    return float((times.max() - times.min()) / np.timedelta64(1, "s"))


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


def plain(evaluation: dict[str, Evaluation] | None) -> dict[str, Any] | None:
    """Evaluations by network as a JSON object."""
    if evaluation is None:
        return None
    content = {kind: asdict(result) for kind, result in evaluation.items()}
    for result in content.values():
        result["precision_at"] = {str(k): value for k, value in result["precision_at"].items()}
    return content


def facts_of(
    stream: StreamDefinition, records: Records, split: Split, fitting: NDArray[np.float32], settings: object,
    libraries: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """What the manifest tells people about a fit, with settings that are a dataclass."""
    facts: dict[str, Any] = {
        "fitted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trained_from": None,
        "trained_until": None,
        "settings": asdict(settings),  # type: ignore[call-overload]
        "data_sha256": hashlib.sha256(fitting.tobytes()).hexdigest(),
        "libraries": {name: version(name) for name in libraries} | {"python": platform.python_version()},
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
