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

from detector.encode import Encoder, Possible
from detector.scoring import Scorer

CANDIDATES = 4
"""Most features of a record that are tried: a number and three that are computed from it."""

LEAST_RESIDUAL = 0.02
"""Share of the largest residual below which a feature is no candidate."""

LEAST_TRIED = 0.05
"""Share of the largest residual below which a candidate is not tried alone: its fall would say nothing."""


class Expected:
    """What n records could hold of each feature in place of what was rebuilt: no half indicators, for example.

    A feature is looked at where it is asked for, of all records at once and once.
    """

    def __init__(self, encoder: Encoder, rebuilt: NDArray[np.float64]) -> None:
        self._encoder, self._rebuilt = encoder, rebuilt  # (n, d)
        self._found: dict[int, Possible] = {}

    def of(self, position: int) -> Possible:
        """Of the feature at this position among all."""
        if position not in self._found:
            columns = self._rebuilt[:, self._encoder.slices[position]]
            self._found[position] = self._encoder.features[position].nearest(columns)
        return self._found[position]


@dataclass(frozen=True)
class Ablation:
    """What became of n records of d columns when features took their expected values.

    Attributes:
        matrix: The encoded records, float32 (n, d).
        scores: Their scores, (n,).
        residuals: How badly each of f features was rebuilt, (n, f).
        candidates: Features that may take their expected values, those with the largest residuals first, -1 for none,
            (n, c).
        expected: What is expected of the candidates, all of them hidden at once.
        matrix_expected: The encoded records with all their candidates as expected, float32 (n, d).
        put_back: Scores with one candidate alone as expected, (n, c); infinite where that was not tried.
    """

    matrix: NDArray[np.float32]
    scores: NDArray[np.float64]
    residuals: NDArray[np.float64]
    candidates: NDArray[np.int64]
    expected: Expected
    matrix_expected: NDArray[np.float32]
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
    chosen = _mask(candidates, residuals.shape[1])  # (n, f)
    rebuilt = scorer.reconstruct(np.where(columns_of(encoder, chosen), np.float32(0.0), matrix))
    expected, replaced = Expected(encoder, rebuilt.astype(np.float64)), matrix.copy()
    for position in np.flatnonzero(chosen.any(axis=0)).tolist():
        own, columns = chosen[:, position, None], expected.of(position).columns
        np.copyto(replaced[:, encoder.slices[position]], columns, where=own, casting="same_kind")
    row, slot = np.nonzero(_are_tried(candidates, residuals))
    own = owners(encoder) == candidates[row, slot][:, None]
    put_back = np.full(candidates.shape, np.inf)
    put_back[row, slot] = scorer.score(np.where(own, replaced[row], matrix[row]))
    return Ablation(matrix, scores, residuals, candidates, expected, replaced, put_back)


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


def places_of(chosen: NDArray[np.int64], features: int) -> list[NDArray[np.int64]]:
    """Where each of f features is among those chosen (n, c), -1 for none: its places in the flat array."""
    flat = chosen.ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.searchsorted(flat[order], np.arange(-1, features), side="right").tolist()
    return [order[start:end] for start, end in pairwise(ends)]
