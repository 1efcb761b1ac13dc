"""Explanations: which features make a record strange, and what would have been expected; for the few that alert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.ablation import CANDIDATES, Expected, ablate, places_of, shares_of
from detector.counterfactual import LOOKS, Counterfactual, seek
from detector.encode import Encoder, Notes, Values, as_said
from detector.records import Records
from detector.scoring import Scorer

ABLATION_WORK = 20_000_000_000
"""Most multiplications that trying what else a record could hold may cost in one call: about two seconds on one core of
2020.

A record of 64 columns costs about half a million, one of 1,500 about 70 million.
"""

BLOCK_NUMBERS = 1 << 20
"""Most numbers of records with other values that are held at once, at about 20 bytes each: 20 MiB."""

Method = Literal["ablation", "residual"]
Direction = Literal["above", "below", "differs"]


class Contribution(msgspec.Struct, frozen=True, gc=False):
    """One feature's part in a score.

    Attributes:
        feature: Name of the feature.
        share: Its share of the score, in [0, 1]; the shares of all features sum to 1.
        actual: What the record says, in its own units; None where missing, or sensitive.
        expected: What the others of its features let expect: see `explain`; None for missing, or sensitive.
        direction: How the actual number stands to the expected one, or that a category or time is another one; None
            where they are equal, one of them is missing, or the field is sensitive: a direction is a bit of its value.
        sensitive: Whether the values were left out because the field is sensitive.
    """

    feature: str
    share: float
    actual: str | float | None
    expected: str | float | None
    direction: Direction | None = None
    sensitive: bool = False


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """What the network made of an image.

    Attributes:
        reconstruction: The blurred image as it was rebuilt, uint8 (h, w, c).
        error: How far it is off at each pixel, in grey levels (0 to 255), float32 (h, w); the mean over colours.
    """

    reconstruction: NDArray[np.uint8]
    error: NDArray[np.float32]


class Explanation(msgspec.Struct, frozen=True, gc=False):
    """Why one record scores as it does.

    Attributes:
        contributions: Every feature or as many as were asked for, the largest share first.
        others: The share of all features that are not among them.
        explained_by: How shares and expected values were found: by trying the features that were rebuilt worst, or,
            where that would have taken too long, by the residuals of the record as it is.
        missing_fields: Features without a value in this record.
        unseen_categories: Features with a value that no normal record had.
        out_of_range_fields: Number features beyond the range of the normal records.
        image: Where the record is an image that may be shown, what the network made of it.
        counterfactual: What else the record could have held without an alert, None where nothing was found or sought.
        is_counterfactual_sought: Whether it was sought; not where that would have taken too long.
    """

    contributions: tuple[Contribution, ...]
    others: float
    explained_by: Method
    missing_fields: tuple[str, ...]
    unseen_categories: tuple[str, ...]
    out_of_range_fields: tuple[str, ...]
    image: ImageExplanation | None = None
    counterfactual: Counterfactual | None = None
    is_counterfactual_sought: bool = False


def explain(
    encoder: Encoder,
    scorer: Scorer,
    records: Records,
    *,
    listed: int | None = None,
    thresholds: float | NDArray[np.float64] | None = None,
    scores: NDArray[np.float64] | None = None,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> tuple[Explanation, ...]:
    """Explain each of a few records.

    The features that the network rebuilt worst, at most `CANDIDATES`, are hidden from it at once, as it met hidden
    features in training. What it makes of them, as a record could hold it, is what is expected: the reconstruction of
    the full record repeats part of what is odd. Then each of them alone takes its expected value, and the record is
    scored again. A feature's share is the mean of two: its share of how far the score falls, and that of the residuals.

    That costs a pass through the scorer for each feature that is tried, so it is done for the records with the highest
    scores, as many as `ABLATION_WORK` pays for. The others get the shares of their residuals, the expected values of
    one reconstruction, and no counterfactual. A record has the same explanation alone and in any batch, with that one
    exception: the method depends on how many records of the batch score higher.

    Args:
        encoder: Turns records into columns.
        scorer: Scores and reconstructs them.
        records: The records to explain, all at once. Memory beside `BLOCK_NUMBERS` grows with records times columns.
        listed: How many features to list, None for all.
        thresholds: The threshold in force, one or (n,): counterfactuals are sought against it. None for no
            counterfactuals.
        scores: The records' scores, (n,), where they are known; they are computed unless given.
        is_sensitive: Whether the value of a field must not be shown.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014 (hiding parts of the
        input); Wachter, Mittelstadt and Russell, "Counterfactual Explanations without Opening the Black Box", Harvard
        Journal of Law and Technology 31, 2018.
    """
    notes = Notes()
    matrix = encoder.encode(records, notes)  # (n, d)
    scores = scorer.score(matrix) if scores is None else scores
    limits = None if thresholds is None else np.broadcast_to(np.asarray(thresholds, np.float64), scores.shape)
    reasons = _reasons(encoder, scorer, records, matrix, scores, limits, is_sensitive)
    order = np.argsort(-reasons.shares, axis=1, kind="stable")  # (n, features)
    shown = len(encoder.features) if listed is None else listed
    others = np.take_along_axis(reasons.shares, order[:, shown:], axis=1).sum(axis=1).tolist()
    contributions: list[tuple[Contribution, ...]] = [()] * len(records)
    for rows, expected in reasons.expected:
        made = _contributions(encoder, records, rows, expected, reasons.shares[rows], order[rows, :shown], is_sensitive)
        for row, own in zip(rows.tolist(), made, strict=True):
            contributions[row] = own
    missing, unseen, out_of_range = (_named(masks) for masks in (notes.missing, notes.unseen, notes.out_of_range))
    return tuple(
        Explanation(
            contributions=contributions[row],
            others=others[row],
            explained_by="ablation" if is_ablated else "residual",
            missing_fields=missing.get(row, ()),
            unseen_categories=unseen.get(row, ()),
            out_of_range_fields=out_of_range.get(row, ()),
            counterfactual=reasons.counterfactuals[row],
            is_counterfactual_sought=is_ablated and limits is not None,
        )
        for row, is_ablated in enumerate(reasons.is_ablated.tolist())
    )


@dataclass(frozen=True)
class _Reasons:
    """What was found out about n records: what is expected of which rows, shares (n, f), by ablation or not (n,)."""

    expected: list[tuple[NDArray[np.int64], Expected]]
    shares: NDArray[np.float64]
    is_ablated: NDArray[np.bool_]
    counterfactuals: list[Counterfactual | None]


def _reasons(
    encoder: Encoder,
    scorer: Scorer,
    records: Records,
    matrix: NDArray[np.float32],
    scores: NDArray[np.float64],
    limits: NDArray[np.float64] | None,
    is_sensitive: Callable[[str], bool],
) -> _Reasons:
    residuals = scorer.score_features(matrix, encoder.slices)
    shares = shares_of(residuals)
    expected: list[tuple[NDArray[np.int64], Expected]] = []
    counterfactuals: list[Counterfactual | None] = [None] * len(matrix)
    highest = np.argsort(-scores, kind="stable")[: most_ablated(encoder, scorer)]
    is_ablated = np.zeros(len(matrix), np.bool_)
    is_ablated[highest] = True
    rest = np.flatnonzero(~is_ablated)
    if len(rest):
        expected.append((rest, Expected(encoder, scorer.reconstruct(matrix[rest]).astype(np.float64))))
    block = max(1, BLOCK_NUMBERS // (encoder.width * CANDIDATES))
    for start in range(0, len(highest), block):
        rows = highest[start : start + block]
        ablation = ablate(encoder, scorer, matrix[rows], scores[rows], residuals[rows])
        expected.append((rows, ablation.expected))
        shares[rows] = ablation.shares
        if limits is not None:
            found = seek(encoder, scorer, records.take(rows), ablation, limits[rows], is_sensitive=is_sensitive)
            for row, counterfactual in zip(rows.tolist(), found, strict=True):
                counterfactuals[row] = counterfactual
    return _Reasons(expected, shares, is_ablated, counterfactuals)


def most_ablated(encoder: Encoder, scorer: Scorer) -> int:
    """How many records can be explained by ablation; none where a single one would cost too much."""
    network = sum(part.numel() for part in scorer.network.state_dict().values())
    codes = 0 if scorer.codebook is None else scorer.codebook.cost
    once = network + codes + scorer.whitening.numel() + scorer.number_whitening.numel() + scorer.linear.numel()
    tried = min(CANDIDATES, len(encoder.features))
    looks = tried + (tried - 1) + LOOKS  # each alone, then one after the other, then a bound
    return int(ABLATION_WORK // (once * looks + network))


def _contributions(
    encoder: Encoder,
    records: Records,
    rows: NDArray[np.int64],
    expected: Expected,
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    is_sensitive: Callable[[str], bool],
) -> list[tuple[Contribution, ...]]:
    """Of n rows of the records the contributions that `order` (n, listed) names; `shares` (n, f) are those rows'."""
    n, listed = order.shape
    names = np.array(encoder.names, object)
    hidden = np.array([is_sensitive(feature.field) for feature in encoder.features])
    said, directions = np.full((2, order.size), None, object), np.full(order.size, None, object)
    for position, places in enumerate(places_of(order, len(names))):
        if len(places) and not hidden[position]:
            at = places // listed
            actual, other = encoder.features[position].actual(records, rows[at]), expected.of(position).held[at]
            said[0, places], said[1, places] = as_said(actual), as_said(other)
            directions[places] = _directions(actual, other)
    parts = (names[order], np.take_along_axis(shares, order, axis=1), *said, directions, hidden[order])
    made = [Contribution(*each) for each in zip(*(part.ravel().tolist() for part in parts), strict=True)]
    return [tuple(made[row * listed : (row + 1) * listed]) for row in range(n)]


def _directions(actual: Values, expected: Values) -> NDArray[np.object_]:
    """The `Direction` of each of n values, or None."""
    if actual.dtype != object:
        return np.where(actual > expected, "above", np.where(actual < expected, "below", np.array(None)))
    known = (actual != None) & (expected != None)  # noqa: E711 - elementwise
    return np.where(known & (actual != expected), "differs", np.array(None))


def _named(masks: dict[str, NDArray[np.bool_]]) -> dict[int, tuple[str, ...]]:
    """By row the names of the masks (n,) that hold there, where any does."""
    if not masks:
        return {}
    rows, columns = np.nonzero(np.stack([*masks.values()], axis=1))
    names = np.array([*masks], object)[columns].tolist()
    first = np.flatnonzero(np.diff(rows, prepend=-1)).tolist()  # of each row
    return {
        row: tuple(names[start:end])
        for row, (start, end) in zip(rows[first].tolist(), pairwise([*first, len(rows)]), strict=True)
    }
