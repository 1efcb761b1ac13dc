"""Ablation: a few records with the features that are rebuilt worst set to what is expected; it says nothing in words.

A score is a rarity and has no parts, so that a feature's part in it is found by trying: the feature takes the value
that the others let expect, and the score falls. To try all features would cost a pass through the scorer for each. Here
only those with the largest residuals are tried, and all of these are hidden at once to learn what is expected of them:
one that was altered beside another then does not lend it its own oddness, nor does a number to the history features
that are computed from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from detector.encode import Encoder, Possible, Values
from detector.scoring import Scorer

CANDIDATES = 4
"""Most features of a record that are tried: a number and three that are computed from it."""

LEAST_RESIDUAL = 0.02
"""Share of the largest residual below which a feature is no candidate."""

LEAST_TRIED = 0.05
"""Share of the largest residual below which a candidate is not tried alone: its fall would say nothing."""


@dataclass(frozen=True)
class Ablation:
    """What became of n records of d columns when features took their expected values.

    Attributes:
        matrix: The encoded records, float32 (n, d).
        scores: Their scores, (n,).
        residuals: How badly each of f features was rebuilt, (n, f).
        candidates: Features that may take their expected values, those with the largest residuals first, -1 for none,
            (n, c).
        values: What is expected of each feature where it is a candidate, in the record's own units, f times (n,).
        expected: The records' columns with those of each candidate encoding just that, float32 (n, d).
        put_back: Scores with one candidate alone as expected, (n, c); infinite where that was not tried.
    """

    matrix: NDArray[np.float32]
    scores: NDArray[np.float64]
    residuals: NDArray[np.float64]
    candidates: NDArray[np.int64]
    values: tuple[Values, ...]
    expected: NDArray[np.float32]
    put_back: NDArray[np.float64]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each feature's share of the score, (n, f), rows summing to 1.

        The mean of its share of the falls of the score, and of its share of the residuals: falls see how features go
        together, and residuals keep apart several that are odd, of which none alone lets the score fall. Where nothing
        falls it is the share of the residuals.
        """
        falls = np.zeros(self.residuals.shape)
        row, slot = np.nonzero(self.candidates >= 0)
        falls[row, self.candidates[row, slot]] = np.maximum(self.scores[row] - self.put_back[row, slot], 0.0)
        total = falls.sum(axis=1, keepdims=True)
        by_residual = shares_of(self.residuals)
        by_fall = falls / np.maximum(total, 1e-300)
        shares: NDArray[np.float64] = np.where(total > 0, (by_fall + by_residual) / 2, by_residual)
        return shares


def ablate(
    encoder: Encoder,
    scorer: Scorer,
    matrix: NDArray[np.float32],
    scores: NDArray[np.float64],
    residuals: NDArray[np.float64],
    most: int = CANDIDATES,
) -> Ablation:
    """Try the features with the largest residuals, at most `most` of each record.

    Args:
        encoder: What made the columns.
        scorer: Scores and rebuilds them.
        matrix: Encoded records, (n, d).
        scores: Their scores, (n,).
        residuals: `Scorer.score_features` of them, (n, f).
        most: Most features that are tried.
    """
    candidates = candidates_of(residuals, most)
    hidden = columns_of(encoder, _mask(candidates, residuals.shape[1]))  # (n, d)
    rebuilt = scorer.reconstruct(np.where(hidden, np.float32(0.0), matrix)).astype(np.float64)
    possible = possible_of(encoder, rebuilt)
    encoded = np.concatenate([each.columns for each in possible], axis=1, dtype=np.float32)
    expected = np.where(hidden, encoded, matrix)
    row, slot = np.nonzero(_are_tried(candidates, residuals))
    own = owners(encoder) == candidates[row, slot][:, None]
    put_back = np.full(candidates.shape, np.inf)
    put_back[row, slot] = scorer.score(np.where(own, expected[row], matrix[row]))
    values = tuple(each.held for each in possible)
    return Ablation(matrix, scores, residuals, candidates, values, expected, put_back)


def candidates_of(residuals: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Features with the largest residuals of each record, largest first, -1 for none, (n, at most `most`)."""
    order = np.argsort(-residuals, axis=1, kind="stable")[:, :most]
    found = np.take_along_axis(residuals, order, axis=1)
    return np.where(found >= LEAST_RESIDUAL * found[:, :1], order, -1)


def _are_tried(candidates: NDArray[np.int64], residuals: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidates (n, c) are put back alone: those with a residual that is not far below the largest."""
    own = np.where(candidates >= 0, np.take_along_axis(residuals, np.maximum(candidates, 0), axis=1), -np.inf)
    tried: NDArray[np.bool_] = own >= LEAST_TRIED * own[:, :1]
    return tried & (candidates >= 0)


def shares_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n, f) of at least 0 as shares; equal ones where all are 0."""
    raised = weights + 1e-12
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares


def owners(encoder: Encoder) -> NDArray[np.int64]:
    """The feature that each column is of, (d,)."""
    return np.repeat(np.arange(len(encoder.features)), [feature.width for feature in encoder.features])


def columns_of(encoder: Encoder, features: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The columns (n, d) of chosen features (n, f)."""
    return np.repeat(features, [feature.width for feature in encoder.features], axis=1)


def _mask(candidates: NDArray[np.int64], features: int) -> NDArray[np.bool_]:
    """Candidates (n, c) as a mask of features (n, f)."""
    mask = np.zeros((len(candidates), features), np.bool_)
    row, slot = np.nonzero(candidates >= 0)
    mask[row, candidates[row, slot]] = True
    return mask


def possible_of(encoder: Encoder, rebuilt: NDArray[np.float64]) -> list[Possible]:
    """What records could hold of each feature instead of what was rebuilt (n, d): no half indicators, for example."""
    return [
        feature.nearest(rebuilt[:, columns]) for feature, columns in zip(encoder.features, encoder.slices, strict=True)
    ]


def places_of(chosen: NDArray[np.int64], features: int) -> list[NDArray[np.int64]]:
    """Where each of f features is among those chosen (n, c), -1 for none: its places in the flat array."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[order], np.arange(-1, features), side="right").tolist()
    return [order[start:end] for start, end in pairwise(ends)]
