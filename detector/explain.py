"""Explanations: which features make a record strange, and what would have been expected; for the few that alert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.encode import Encoder, Notes
from detector.records import Records
from detector.scoring import Scorer

_CHUNK = 256  # explained records at once, which bounds memory when every record is an alert


@dataclass(frozen=True)
class Contribution:
    """One feature's part in a score.

    Attributes:
        feature: Name of the feature.
        share: Its share of the score, in [0, 1]; the shares of all features sum to 1.
        actual: What the record says, in its own units; None where missing, or sensitive.
        expected: What the reconstruction of the record without this feature says; None for missing, or sensitive.
        sensitive: Whether the values were left out because the field is sensitive.
    """

    feature: str
    share: float
    actual: str | float | None
    expected: str | float | None
    sensitive: bool = False


@dataclass(frozen=True)
class Explanation:
    """Why one record scores as it does.

    Attributes:
        contributions: Every feature, the largest share first.
        missing_fields: Features without a value in this record.
        unseen_categories: Features with a value that no normal record had.
        out_of_range_fields: Number features beyond the range of the normal records.
    """

    contributions: tuple[Contribution, ...]
    missing_fields: tuple[str, ...]
    unseen_categories: tuple[str, ...]
    out_of_range_fields: tuple[str, ...]


def explain(
    encoder: Encoder, scorer: Scorer, records: Records, *, is_sensitive: Callable[[str], bool] = lambda _: False
) -> tuple[Explanation, ...]:
    """Explain each of a few records.

    A feature's share is by how much the score falls when this feature alone takes its expected value, compared with
    the other features. What is expected of a feature is the reconstruction of the record with that feature hidden, as
    the network met hidden features in training: the reconstruction of the full record repeats part of what is odd.

    Args:
        encoder: Turns records into columns.
        scorer: Scores and reconstructs them.
        records: The records to explain; cost grows with records times features.
        is_sensitive: Whether the value of a field must not be shown.
    """
    starts = range(0, len(records), _CHUNK)
    chunks = [records.take(np.arange(start, min(start + _CHUNK, len(records)))) for start in starts]
    return tuple(explanation for chunk in chunks for explanation in _explain(encoder, scorer, chunk, is_sensitive))


def _explain(
    encoder: Encoder, scorer: Scorer, records: Records, is_sensitive: Callable[[str], bool]
) -> list[Explanation]:
    notes = Notes()
    matrix = encoder.encode(records, notes)  # (n, d)
    expected, falls = _ablate(encoder, scorer, matrix)
    shares = _shares(falls, scorer.score_features(matrix, encoder.slices))
    explanations = []
    for row in range(len(records)):
        contributions = []
        for position in np.argsort(-shares[row], kind="stable").tolist():
            feature = encoder.features[position]
            hidden = is_sensitive(feature.field)
            contributions.append(
                Contribution(
                    feature=feature.name,
                    share=float(shares[row, position]),
                    actual=None if hidden else feature.actual(records, row),
                    expected=None if hidden else feature.expected(expected[row, encoder.slices[position]]),
                    sensitive=hidden,
                )
            )
        explanations.append(
            Explanation(
                contributions=tuple(contributions),
                missing_fields=_named(notes.missing, row),
                unseen_categories=_named(notes.unseen, row),
                out_of_range_fields=_named(notes.out_of_range, row),
            )
        )
    return explanations


def _ablate(
    encoder: Encoder, scorer: Scorer, matrix: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected columns (n, d), and how far the score falls when each feature takes them, (n, features)."""
    n, features = len(matrix), len(encoder.features)
    hidden = np.repeat(matrix[None], features, axis=0)  # (features, n, d)
    for position, columns in enumerate(encoder.slices):
        hidden[position, :, columns] = 0.0
    rebuilt = scorer.reconstruct(hidden.reshape(features * n, -1)).reshape(hidden.shape)
    replaced = np.repeat(matrix[None], features, axis=0)
    expected = np.empty(matrix.shape)
    for position, columns in enumerate(encoder.slices):
        expected[:, columns] = rebuilt[position, :, columns]
        replaced[position, :, columns] = rebuilt[position, :, columns]
    scores = scorer.score(replaced.reshape(features * n, -1)).reshape(features, n)
    return expected, (scorer.score(matrix) - scores).T


def _shares(falls: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of each feature (n, features): by the falls of the score, or where there is none by the residuals."""
    weights = np.maximum(falls, 0.0)
    none = weights.sum(axis=1) <= 0
    weights[none] = residuals[none] + 1e-12
    shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def _named(masks: dict[str, NDArray[np.bool_]], row: int) -> tuple[str, ...]:
    return tuple(name for name, mask in masks.items() if mask[row])
