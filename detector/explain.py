"""Explanations: which features make a record strange, and what would have been expected; for the few that alert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detector.encode import Encoder, Notes
from detector.records import Records
from detector.scoring import Scorer

ABLATION_WORK = 20_000_000_000
"""Most multiplications that taking features away may cost in one call: about two seconds on one core of 2020.

A record of 10 features costs about 0.5 million, one of 200 about 350 million.
"""

BLOCK_NUMBERS = 1 << 20
"""Most numbers of records with a feature taken away that are held at once, at about 20 bytes each: 20 MiB."""

Method = Literal["ablation", "residual"]


@dataclass(frozen=True)
class Contribution:
    """One feature's part in a score.

    Attributes:
        feature: Name of the feature.
        share: Its share of the score, in [0, 1]; the shares of all features sum to 1.
        actual: What the record says, in its own units; None where missing, or sensitive.
        expected: What the reconstruction says, by ablation that of the record without this feature; None for missing,
            or sensitive.
        sensitive: Whether the values were left out because the field is sensitive.
        direction: How the actual number stands to the expected one.
    """

    feature: str
    share: float
    actual: str | float | None
    expected: str | float | None
    sensitive: bool = False
    direction: Literal["above", "below"] | None = None


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """What the network made of an image.

    Attributes:
        reconstruction: The blurred image as it was rebuilt, uint8 (h, w, c).
        error: How far it is off at each pixel, in grey levels (0 to 255), float32 (h, w); the mean over colours.
    """

    reconstruction: NDArray[np.uint8]
    error: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """Why one record scores as it does.

    Attributes:
        contributions: Every feature or as many as were asked for, the largest share first.
        others: The share of all features that are not among them.
        explained_by: How shares and expected values were found: by taking each feature away from the record, or,
            where that would have taken too long, by the residuals of the record as it is.
        missing_fields: Features without a value in this record.
        unseen_categories: Features with a value that no normal record had.
        out_of_range_fields: Number features beyond the range of the normal records.
        image: Where the record is an image that may be shown, what the network made of it.
    """

    contributions: tuple[Contribution, ...]
    others: float
    explained_by: Method
    missing_fields: tuple[str, ...]
    unseen_categories: tuple[str, ...]
    out_of_range_fields: tuple[str, ...]
    image: ImageExplanation | None = None


def explain(
    encoder: Encoder,
    scorer: Scorer,
    records: Records,
    *,
    listed: int | None = None,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> tuple[Explanation, ...]:
    """Explain each of a few records.

    By ablation a feature's share is by how much the score falls when this feature alone takes its expected value,
    compared with the other features. What is expected of a feature is the reconstruction of the record with that
    feature hidden, as the network met hidden features in training: the reconstruction of the full record repeats part
    of what is odd.

    That costs two passes through the network for each feature, so it is done for the records with the highest scores,
    as many as `ABLATION_WORK` pays for. The others get the shares of their residuals, and their expected values from
    one reconstruction. A record has the same explanation alone and in any batch, with that one exception: the method
    depends on how many records of the batch score higher.

    Args:
        encoder: Turns records into columns.
        scorer: Scores and reconstructs them.
        records: The records to explain, all at once. Memory beside `BLOCK_NUMBERS` grows with records times columns.
        listed: How many features to list, None for all.
        is_sensitive: Whether the value of a field must not be shown.
    """
    notes = Notes()
    matrix = encoder.encode(records, notes)  # (n, d)
    expected, shares, is_ablated = _reasons(encoder, scorer, matrix)
    order = np.argsort(-shares, axis=1, kind="stable")  # (n, features)
    shown = len(encoder.features) if listed is None else listed
    others = np.take_along_axis(shares, order[:, shown:], axis=1).sum(axis=1)
    missing, unseen, out_of_range = (
        _named(masks, len(records)) for masks in (notes.missing, notes.unseen, notes.out_of_range)
    )

    def contribution(row: int, position: int) -> Contribution:
        feature = encoder.features[position]
        hidden = is_sensitive(feature.field)
        actual = None if hidden else feature.actual(records, row)
        wanted = None if hidden else feature.expected(expected[row, encoder.slices[position]])
        comparable = isinstance(actual, float) and isinstance(wanted, float) and actual != wanted
        return Contribution(
            feature=feature.name,
            share=float(shares[row, position]),
            actual=actual,
            expected=wanted,
            sensitive=hidden,
            direction=("above" if actual > wanted else "below") if comparable else None,  # type: ignore[operator]
        )

    return tuple(
        Explanation(
            contributions=tuple(contribution(row, position) for position in order[row, :shown].tolist()),
            others=float(others[row]),
            explained_by="ablation" if is_ablated[row] else "residual",
            missing_fields=tuple(missing[row]),
            unseen_categories=tuple(unseen[row]),
            out_of_range_fields=tuple(out_of_range[row]),
        )
        for row in range(len(records))
    )


def _reasons(
    encoder: Encoder, scorer: Scorer, matrix: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Expected columns (n, d), shares (n, features), and whether they come from ablation (n,)."""
    expected = scorer.reconstruct(matrix).astype(np.float64)
    weights = scorer.score_features(matrix, encoder.slices) + 1e-12
    highest = np.argsort(-scorer.score(matrix), kind="stable")[: _affordable(encoder, scorer)]
    expected[highest], falls = _ablate(encoder, scorer, matrix[highest])
    weights[highest] = _weights(falls, weights[highest])
    is_ablated = np.zeros(len(matrix), np.bool_)
    is_ablated[highest] = True
    return expected, weights / weights.sum(axis=1, keepdims=True), is_ablated


def _affordable(encoder: Encoder, scorer: Scorer) -> int:
    """How many records can be explained by ablation; none where a single one would cost too much."""
    network = sum(part.numel() for part in scorer.network.state_dict().values())
    codes = 0 if scorer.codebook is None else scorer.codebook.cost
    passes = 2 * network + scorer.whitening.numel() + codes  # one to rebuild, one to score
    return int(ABLATION_WORK // (passes * len(encoder.features)))


def _ablate(
    encoder: Encoder, scorer: Scorer, matrix: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected columns (n, d), and how far the score falls when each feature takes them, (n, features)."""
    n, features = len(matrix), len(encoder.features)
    feature_of = np.repeat(np.arange(features), [feature.width for feature in encoder.features])  # (d,)
    expected = np.empty(matrix.shape)
    scores = np.empty((n, features))
    block = max(1, BLOCK_NUMBERS // encoder.width)
    for start in range(0, n * features, block):
        row, feature = np.divmod(np.arange(start, min(start + block, n * features)), features)  # (b,), (b,)
        rows = matrix[row]
        own = feature_of == feature[:, None]  # (b, d)
        rebuilt = scorer.reconstruct(np.where(own, np.float32(0.0), rows))
        pair, column = np.nonzero(own)
        expected[row[pair], column] = rebuilt[pair, column]
        scores[row, feature] = scorer.score(np.where(own, rebuilt, rows))
    return expected, scorer.score(matrix)[:, None] - scores


def _weights(falls: NDArray[np.float64], residuals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of each feature (n, features): the falls of the score, or where there is none the residuals."""
    weights: NDArray[np.float64] = np.maximum(falls, 0.0)
    none = weights.sum(axis=1) <= 0
    weights[none] = residuals[none]
    return weights


def _named(masks: dict[str, NDArray[np.bool_]], n: int) -> list[list[str]]:
    """For each of n rows the names of the masks that hold there."""
    names: list[list[str]] = [[] for _ in range(n)]
    for name, mask in masks.items():
        for row in np.flatnonzero(mask).tolist():
            names[row].append(name)
    return names
