"""Teaching a head: losses, the fit of its weights on a few labelled anomalies, and whether it was worth it.

It knows neither files nor the encoder: a scorer's inputs go in, a head comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from detector import Head, Records, StreamDefinition, TrainingDataError, fit_threshold
from detector.head import moments, standardised

Loss = Literal["evl", "cross-entropy", "focal"]
"""What a head's weights are fitted by."""

LOSSES: tuple[Loss, ...] = get_args(Loss)
LABEL_FREE = "label-free"
"""What the score without a head is called beside the losses."""

LEAST_LABELS = 10
"""Fewer labelled anomalies than this teach no head."""

LEAST_TESTED = 10
"""Fewer labelled anomalies than this in the test span tell nothing of whether a head is worth it."""

MOST_NORMAL = 20_000
"""More normal records than this teach a head nothing more."""

WEIGHT_DECAY = 0.1
"""Weight of the squared length of the weights, divided by the number of labels: few labels hold them near zero."""

EVL_GAMMA = 2.0
"""The hyperparameter of the Extreme Value Loss; from 1 to 5 it made no difference beyond noise."""

FOCUS = 2.0
"""Focusing exponent of the focal loss, as its authors recommend."""

RESAMPLES = 400
_INTERVAL = (0.025, 0.975)
_MOST_ROUNDS = 200


def weighted_cross_entropy(logits: Tensor, anomalous: Tensor, share: float) -> Tensor:
    """Cross-entropy of each record (n,) in which either class counts by the share of the other.

    Args:
        logits: Logarithms of the odds of being anomalous, (n,).
        anomalous: 1 for an anomaly, 0 for a normal record, (n,).
        share: Share of anomalies, in (0, 1).
    """
    return _modulated(logits, anomalous, share, torch.ones_like)


def focal_loss(logits: Tensor, anomalous: Tensor, share: float, focus: float = FOCUS) -> Tensor:
    """Focal loss of each record (n,): cross-entropy times (1 - p)^focus, p being the probability of what it is.

    Classes count as in `weighted_cross_entropy`, which it is for a focus of 0, in the place of the authors' .25 and
    .75: so the losses differ in nothing but how they weigh what is told right already.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    return _modulated(logits, anomalous, share, lambda p: (1 - p) ** focus)


def extreme_value_loss(logits: Tensor, anomalous: Tensor, share: float, gamma: float = EVL_GAMMA) -> Tensor:
    """Extreme Value Loss of each record (n,): cross-entropy times (1 - p / gamma)^gamma, p as in `focal_loss`.

    With u the probability of an anomaly, v whether it is one, b0 the share of normal records and b1 that of anomalies:

        -b0 (1 - u / gamma)^gamma v log u - b1 (1 - (1 - u) / gamma)^gamma (1 - v) log(1 - u)

    For a gamma of 1 it is the focal loss with a focus of 1. As gamma grows, the factor tends to exp(-p) and not to 1:
    the loss never becomes the weighted cross-entropy. It sets no threshold, and means nothing without labels.

    Args:
        logits: Logarithms of the odds of being anomalous, (n,).
        anomalous: 1 for an anomaly, 0 for a normal record, (n,).
        share: Share of anomalies, in (0, 1).
        gamma: At least 1, or the factor has no value for probabilities above it.

    Raises:
        ValueError: `gamma` is below 1.

    Source: Ding et al., "Modeling Extreme Events in Time Series Prediction", KDD 2019, section 4. Of the paper only the
        first sections could be read here; the formula is that of a public implementation that follows it.
    """
    if gamma < 1:
        raise ValueError(f"gamma is {gamma:g}, and below 1 the loss has no value for sure records: give at least 1")
    return _modulated(logits, anomalous, share, lambda p: (1 - p / gamma) ** gamma)


def _modulated(logits: Tensor, anomalous: Tensor, share: float, factor: Callable[[Tensor], Tensor]) -> Tensor:
    """Cross-entropy (n,), weighed by class and by a factor of the probability of what each record is."""
    signed = torch.where(anomalous > 0, logits, -logits)
    weights = torch.where(anomalous > 0, 1 - share, share)
    return -weights * factor(torch.sigmoid(signed)) * functional.logsigmoid(signed)


_LOSSES: Mapping[Loss, Callable[[Tensor, Tensor, float], Tensor]] = {
    "evl": extreme_value_loss, "cross-entropy": weighted_cross_entropy, "focal": focal_loss,
}  # fmt: skip


def fit_head(normal: NDArray[np.float64], anomalous: NDArray[np.float64], loss: Loss) -> Head:
    """A head taught by labelled anomalies; the same inputs give the same head.

    The loss is summed so that both classes count one half, and weight decay is divided by the number of labels.

    Args:
        normal: Inputs of normal records, (n, m), as `Scorer.head_inputs` gives them with codes left out.
        anomalous: Inputs of labelled anomalies, (a, m).
        loss: What the weights are fitted by.

    Raises:
        TrainingDataError: There are fewer than `LEAST_LABELS` anomalies.
    """
    labels = len(anomalous)
    if labels < LEAST_LABELS:
        raise too_few(labels)
    some = normal[:: -(-len(normal) // MOST_NORMAL)]
    centre, deviation = moments(some)
    rows = torch.from_numpy(standardised(np.concatenate([some, anomalous]), centre, deviation))
    is_anomalous = (torch.arange(len(rows)) >= len(some)).double()
    share = labels / len(rows)
    weights = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=_MOST_ROUNDS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        losses = _LOSSES[loss](rows @ weights + bias, is_anomalous, share)
        total: Tensor = losses.mean() / (2 * share * (1 - share)) + WEIGHT_DECAY / labels * weights.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    return Head.calibrated(some, weights.detach().numpy(), float(bias.detach()), labels)


def too_few(labels: int) -> TrainingDataError:
    """What to say of so few labelled anomalies."""
    return TrainingDataError(
        f"{labels} labelled anomalies that were known in time are too few to teach a head: it needs at least "
        f"{LEAST_LABELS}; give more of them or of an earlier time, shorten the label's delay, or train without --head"
    )


@dataclass(frozen=True)
class KnownLabels:
    """Which labelled anomalies may teach a head.

    Attributes:
        rows: Theirs among all records, (a,).
        too_young: Labelled anomalies of the training span whose label was not known at its end.
        entities: Different entities of the rows; None where the stream has no key.
    """

    rows: NDArray[np.int64]
    too_young: int
    entities: int | None


def known_labels(records: Records, span: NDArray[np.int64], stream: StreamDefinition) -> KnownLabels:
    """The labelled anomalies of a training span that were known at its end.

    A label is known where event time + delay is at most the newest event time of the span: at that moment somebody
    trains. Those of records without an event time are known.

    Args:
        records: All records.
        span: Rows of the training span: those before the test span.
        stream: Has the label and its delay.

    Raises:
        TrainingDataError: The stream has no label, there are too few of them, or all are of one entity.
    """
    if stream.label is None or records.labels is None:
        raise TrainingDataError(
            f"stream {stream.name!r} has no label, and a head learns from labelled anomalies: "
            "say under [label] which field marks them, or train without --head"
        )
    rows = span[records.labels[span]]
    known = np.ones(len(rows), np.bool_)
    if records.event_times is not None:
        until = records.event_times[span].max()
        known = records.event_times[rows] + np.timedelta64(stream.label.delay_us, "us") <= until
    found = np.sort(rows[known])
    if len(found) < LEAST_LABELS:
        raise too_few(len(found))
    entities = None if records.keys is None else len({name for name in records.keys[found] if name is not None})
    if entities == 1:
        raise TrainingDataError(
            f"all {len(found)} labelled anomalies that were known in time are of one {stream.key}: a head would learn "
            "that entity instead of what is odd in it; give labels of several, or train without --head"
        )
    return KnownLabels(found, int((~known).sum()), entities)


@dataclass(frozen=True)
class HeadResult:
    """What one score is worth on the test span.

    Attributes:
        average_precision: Mean precision at each known anomaly, from the highest score down.
        recall: Share of the known anomalies above the threshold that keeps the stream's promise.
        gain: By how much its average precision is above that of the label-free score.
        gain_low, gain_high: 95% interval of that, by resampling entities.
    """

    average_precision: float
    recall: float
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class HeadReport:
    """Whether a head was worth it: the comparison is the same whichever loss was asked for.

    Attributes:
        loss: What the published head was fitted by.
        labels: Labelled anomalies that taught it.
        too_young: Labelled anomalies that were not known in time.
        tested: Labelled anomalies of the test span.
        results: By loss, and of the label-free score; empty where the test span tells nothing.
        recommended: Whether the published head's gain is above zero with its whole interval and it misses no more
            anomalies at the threshold.
    """

    loss: Loss
    labels: int
    too_young: int
    tested: int
    results: dict[str, HeadResult]
    recommended: bool

    @property
    def verdict(self) -> str:
        """One line for people: whether the head is recommended, and why."""
        if not self.results:
            return (
                f"the head is not recommended: {self.tested} labelled anomalies in the test span cannot tell whether "
                f"it is worth it (at least {LEAST_TESTED} can); it is published as asked"
            )
        own, free = self.results[self.loss], self.results[LABEL_FREE]
        figures = (
            f"average precision {own.average_precision:.3f} against {free.average_precision:.3f} without it "
            f"(95% interval of the gain {own.gain_low:+.3f} to {own.gain_high:+.3f}), recall at the threshold "
            f"{own.recall:.1%} against {free.recall:.1%}"
        )
        if self.recommended:
            return f"the head is worth it: {figures}; for kinds of anomaly that no label shows, it is not tested"
        return f"the head is not recommended: {figures}; it is published as asked: train without --head to leave it out"

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "loss": self.loss, "labels": self.labels, "too_young": self.too_young, "tested": self.tested,
            "recommended": self.recommended,
            "comparison": {name: dict(vars(result)) for name, result in self.results.items()},
        }  # fmt: skip


def compare(
    loss: Loss, known: KnownLabels, scores: Mapping[str, NDArray[np.float64]],
    calibration: Mapping[str, NDArray[np.float64]], test: Records, stream: StreamDefinition, daily: float | None,
) -> HeadReport:  # fmt: skip
    """Compare heads with the label-free score on the test span.

    Args:
        loss: Of the head that is published.
        known: What taught the heads.
        scores: Of the test span, (t,), by loss and of the label-free score.
        calibration: Of held-out normal records, (c,), likewise: each score gets a threshold of its own.
        test: The test span.
        stream: Says how many false alarms there may be.
        daily: Normal records a day, where that is known.
    """
    anomalous = np.zeros(len(test), np.bool_) if test.labels is None else test.labels
    tested = int(anomalous.sum())
    if tested < LEAST_TESTED or tested == len(test):
        return HeadReport(loss, len(known.rows), known.too_young, tested, {}, recommended=False)
    samples = _resampled(test)
    precision = {name: _average_precisions(each, anomalous, samples) for name, each in scores.items()}
    results = {}
    for name, found in precision.items():
        gains = found - precision[LABEL_FREE]
        low, high = np.quantile(gains[1:], _INTERVAL)
        threshold = fit_threshold(calibration[name], stream.threshold, daily)
        results[name] = HeadResult(
            average_precision=float(found[0]),
            recall=float((scores[name][anomalous] > threshold.value).mean()),
            gain=float(gains[0]), gain_low=float(low), gain_high=float(high),
        )  # fmt: skip
    own, free = results[loss], results[LABEL_FREE]
    recommended = own.gain_low > 0 and own.recall >= free.recall
    return HeadReport(loss, len(known.rows), known.too_young, tested, results, recommended)


def _resampled(test: Records) -> list[NDArray[np.float64]]:
    """How often each record counts, (t,): once, and then in samples of entities with replacement.

    Records of one entity stand or fall together: the anomalies of one incident are not independent. A record without
    an entity is one by itself.
    """
    n = len(test)
    groups = np.arange(n)
    if test.keys is not None:
        named = np.array([name is not None for name in test.keys], np.bool_)
        groups[named] = n + np.unique(test.keys[named].astype(str), return_inverse=True)[1]
        groups = np.unique(groups, return_inverse=True)[1]
    draw, count = np.random.default_rng(0), int(groups.max()) + 1
    samples = [np.bincount(draw.integers(count, size=count), minlength=count)[groups] for _ in range(RESAMPLES)]
    return [np.ones(n), *(sample.astype(np.float64) for sample in samples)]


def _average_precisions(
    scores: NDArray[np.float64], anomalous: NDArray[np.bool_], samples: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Average precision with each way to count records; 0 where none of them counts an anomaly."""
    _, place = np.unique(-np.nan_to_num(scores, nan=-np.inf), return_inverse=True)
    size = int(place.max()) + 1
    found = []
    for weights in samples:
        hits, total = np.bincount(place, weights * anomalous, size), np.bincount(place, weights, size)
        precision = np.cumsum(hits) / np.maximum(np.cumsum(total), 1e-12)
        found.append(float((precision * hits).sum() / max(hits.sum(), 1e-12)))
    return np.array(found)
