"""A head over a frozen detector: how much a record looks like anomalies that somebody labelled; it fits no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrays import check_arrays
from detector.compiled import compiled
from detector.tails import beyond, fit_tails, rarity

LEAST_DEVIATION = 0.1
"""Smallest deviation of an input among normal records: below it, being off says nothing of anomalies."""

LIMIT = 8.0
"""Inputs further out than so many deviations count as at it: a record far beyond all labels is not judged by them."""

LABELS_OF_HALF_TRUST = 10
"""A head that so many labelled anomalies taught counts half."""

_LEAST_LOGIT_SPREAD = _LEAST_SCORE_SPREAD = 1e-3


class Head:
    """A logistic regression on what a scorer knows of a record, added to its score.

    Its inputs are the scorer's standardised residuals and codes, the rarities of its statistics and the score itself:
    the inverse hyperbolic sine of each, standardised on normal records. The score becomes

        rarity(score + share * beyond(logit)),    share = labels / (labels + 10)

    `beyond` is how many decades rarer than one in ten the logit is among normal records, and `rarity` brings the sum
    back to decades among normal records, so that thresholds and severities mean what they meant. The head never takes
    anything away: a record unlike the labelled anomalies keeps its label-free evidence, and is overtaken only by those
    that are like them. With a share of 0 the ranking is the label-free one.

    A record's bits are the same alone and in any batch: each is computed by itself, in one order.
    """

    STATE = ("centre", "deviation", "weights", "bias", "share", "logit_tail", "score_tail")
    """Names of the arrays that were fitted."""

    def __init__(
        self, *, centre: NDArray[Any], deviation: NDArray[Any], weights: NDArray[Any], bias: NDArray[Any],
        share: NDArray[Any], logit_tail: NDArray[Any], score_tail: NDArray[Any],
    ) -> None:  # fmt: skip
        self.centre, self.deviation = np.array(centre, np.float64), np.array(deviation, np.float64)  # (m,), (m,)
        self.weights, self.bias = np.array(weights, np.float64), np.array(bias, np.float64)  # (m,), ()
        self.share = np.array(share, np.float64)  # ()
        self.logit_tail = np.array(logit_tail, np.float64)  # (5, 1)
        self.score_tail = np.array(score_tail, np.float64)  # (5, 1)
        width = self.weights.shape
        shapes = {"weights": (width[0] if width else 0,), "centre": width, "deviation": width, "bias": (), "share": (),
                  "logit_tail": (5, 1), "score_tail": (5, 1)}  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"the head's {name} have shape {getattr(self, name).shape}, not {shape}: it is damaged"
                )

    @classmethod
    def calibrated(cls, inputs: NDArray[np.float64], weights: NDArray[np.float64], bias: float, labels: int) -> Head:
        """The head with these weights, calibrated on normal records.

        Args:
            inputs: Of normal records, (n, m), the label-free score last; what `standardise` was given for the fit.
            weights: Of the standardised inputs, (m,).
            bias: Logit of a record that is like the mean of the normal ones.
            labels: Labelled anomalies that taught the weights.
        """
        centre, deviation = moments(inputs)
        head = cls(
            centre=centre, deviation=deviation, weights=weights, bias=np.array(bias),
            share=np.array(labels / (labels + LABELS_OF_HALF_TRUST)),
            logit_tail=np.zeros((5, 1)), score_tail=np.zeros((5, 1)),
        )  # fmt: skip
        head.logit_tail = fit_tails(head.logits(inputs)[:, None], _LEAST_LOGIT_SPREAD)
        head.score_tail = fit_tails(head._raised(inputs)[:, None], _LEAST_SCORE_SPREAD)
        return head

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was fitted: arrays by the names of `STATE`, as the constructor takes them."""
        return {name: getattr(self, name) for name in self.STATE}

    @classmethod
    def restore(cls, state: Mapping[str, NDArray[Any]]) -> Head:
        """The head whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Its parts do not belong together.
        """
        one, none, tail = (None,), (), (5, 1)
        shapes = {"centre": one, "deviation": one, "weights": one, "bias": none, "share": none, "logit_tail": tail,
                  "score_tail": tail}  # fmt: skip
        check_arrays("the head", state, {name: (np.float64, shape) for name, shape in shapes.items()})
        return cls(**{name: state[name] for name in cls.STATE})

    def logits(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Logarithms of the odds of being like the labelled anomalies, (n,), of inputs (n, m)."""
        found = np.empty(len(inputs))
        _logits(standardised(inputs, self.centre, self.deviation), self.weights, float(self.bias), found)
        return found

    def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (n,) in decades of rarity from inputs (n, m); not finite where the label-free score is not."""
        scores: NDArray[np.float64] = rarity(self._raised(inputs)[None], self.score_tail)[0]
        label_free = inputs[:, -1]
        return np.where(np.isfinite(label_free), scores, label_free)

    def _raised(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Label-free scores (n,) of inputs (n, m) with what the head adds."""
        raised: NDArray[np.float64] = (
            inputs[:, -1] + float(self.share) * beyond(self.logits(inputs)[None], self.logit_tail)[0]
        )
        return raised


def moments(inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre (m,) and deviation (m,) of inputs (n, m) of normal records, on the scale that compresses large ones."""
    tamed = np.arcsinh(inputs)
    return tamed.mean(axis=0), np.maximum(tamed.std(axis=0), LEAST_DEVIATION)


def standardised(
    inputs: NDArray[np.float64], centre: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Inputs (n, m) compressed, in deviations of normal records, at most `LIMIT` of them either way."""
    found = np.empty(inputs.shape)
    _standardise(np.ascontiguousarray(inputs), centre, deviation, found)
    return found


@compiled
def _standardise(
    inputs: NDArray[np.float64], centre: NDArray[np.float64], deviation: NDArray[np.float64],
    found: NDArray[np.float64],
) -> None:  # fmt: skip
    for row in range(inputs.shape[0]):
        for column in range(inputs.shape[1]):
            value = (math.asinh(inputs[row, column]) - centre[column]) / deviation[column]
            found[row, column] = min(max(value, -LIMIT), LIMIT)


@compiled
def _logits(
    standard: NDArray[np.float64], weights: NDArray[np.float64], bias: float, found: NDArray[np.float64]
) -> None:
    for row in range(standard.shape[0]):
        total = bias
        for column in range(standard.shape[1]):
            total += weights[column] * standard[row, column]
        found[row] = total
