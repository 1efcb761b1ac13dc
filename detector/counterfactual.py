"""Counterfactuals: what would have to be otherwise in a record for it not to alert, verified by scoring it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.ablation import Ablation, owners
from detector.encode import Encoder, NumberEncoder
from detector.records import Records
from detector.scoring import Scorer

MOST_CHANGES = 4
"""Most features that a counterfactual changes: as many as are tried."""

LOOKS = 4
"""Values of a number that are scored to find how far it may go; its last one that does not alert is shown."""

_MARGIN = 0.03
_LEAST_MOVE = 0.05
_DIGITS = 2
_SMALLEST = 1e-100

Relation = Literal["equals", "at_most", "at_least"]


class Change(msgspec.Struct, frozen=True):
    """What one feature would have to be.

    Attributes:
        feature: Name of the feature.
        relation: How it would have to stand to `value`; None where sensitive, as a direction is a bit of the value.
        value: In the record's own units; None for missing, or where sensitive.
        sensitive: Whether relation and value were left out because the field is sensitive.
    """

    feature: str
    relation: Relation | None
    value: str | float | None
    sensitive: bool = False


class Counterfactual(msgspec.Struct, frozen=True):
    """A record beside the one that alerts which does not.

    It is the record with some features changed and all others as they are, those included that are computed from a
    changed field. A bound was verified at its value and at the expected one beyond; scores between them lie between in
    all that was measured, but nothing in a network makes it so.

    Attributes:
        changes: What would be otherwise, in the order in which it was found.
        score: Of the record with each change at its value; at most the threshold.
    """

    changes: tuple[Change, ...]
    score: float


def in_words(changes: Sequence[Change]) -> str:
    """Changes for people: "with amount at most 140 this would not alert"."""
    return f"with {' and '.join(_clause(change) for change in changes)} this would not alert"


def _clause(change: Change) -> str:
    if change.relation is None:
        return f"another {change.feature} (sensitive)"
    if change.value is None:
        return f"no {change.feature}"
    value = change.value if isinstance(change.value, str) else f"{change.value:,.10g}"
    return f"{change.feature} {'' if change.relation == 'equals' else change.relation.replace('_', ' ') + ' '}{value}"


def seek(
    encoder: Encoder,
    scorer: Scorer,
    records: Records,
    ablation: Ablation,
    thresholds: NDArray[np.float64],
    *,
    most: int = MOST_CHANGES,
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> list[Counterfactual | None]:
    """For each of n records a counterfactual, or None where none was found.

    Greedily: the feature whose expected value lets the score fall furthest takes it, then the next one, until the score
    is at or below the threshold. Where the last of them is a number that the record has, what is sought is not its
    expected value but how far it may go: a bound between the two. It is rounded towards the expected value, and scored
    as it is shown.

    Args:
        encoder: What made the columns.
        scorer: Scores them.
        records: The records, n.
        ablation: What became of them when single features took their expected values.
        thresholds: The threshold in force for each, (n,).
        most: Most features that are changed.
        is_sensitive: Whether the value of a field must not be shown.
    """
    path = _follow(encoder, scorer, ablation, thresholds, most)
    shown = [not is_sensitive(feature.field) for feature in encoder.features]
    bounds = _find_bounds(encoder, scorer, records, path, thresholds, shown)
    names = encoder.names
    found: list[Counterfactual | None] = [None] * len(records)
    for row in np.flatnonzero(path.scores <= thresholds).tolist():
        changes = [
            Change(names[position], "equals", value)
            if shown[position]
            else Change(names[position], None, None, sensitive=True)
            for position, value in path.steps[row]
        ]
        score = float(path.scores[row])
        if row in bounds:
            changes[-1], score = bounds[row]
        found[row] = Counterfactual(tuple(changes), score) if changes else None  # none: it does not alert anyway
    return found


class _Step(NamedTuple):
    """A feature that was changed, and to what."""

    position: int
    value: str | float | None


@dataclass(frozen=True)
class _Path:
    """Where the greedy search ended: n records as they would be.

    Attributes:
        matrix: The records with all changes, float32 (n, d).
        before: Their scores without the last change, (n,).
        scores: Their scores, (n,).
        steps: What was changed in each, in order.
    """

    matrix: NDArray[np.float32]
    before: NDArray[np.float64]
    scores: NDArray[np.float64]
    steps: list[list[_Step]]


def _follow(encoder: Encoder, scorer: Scorer, ablation: Ablation, thresholds: NDArray[np.float64], most: int) -> _Path:
    """Change one feature after the other, each time that of the lowest score, until nothing alerts or falls."""
    owner = owners(encoder)
    matrix, left = ablation.matrix.copy(), ablation.candidates.copy()
    scores, before = ablation.scores.copy(), ablation.scores.copy()
    steps: list[list[_Step]] = [[] for _ in range(len(matrix))]
    tried, rows = ablation.put_back, np.flatnonzero(scores > thresholds)
    for number in range(most):
        if number > 0:
            place, slot = np.nonzero(left[rows] >= 0)
            row = rows[place]
            own = owner == left[row, slot][:, None]
            tried = np.full(left.shape, np.inf)
            tried[row, slot] = scorer.score(np.where(own, ablation.expected[row], matrix[row]))
        best = tried[rows].argmin(axis=1)
        falls = tried[rows, best] < scores[rows]
        rows, best = rows[falls], best[falls]
        if len(rows) == 0:
            break
        chosen = left[rows, best]
        matrix[rows] = np.where(owner == chosen[:, None], ablation.expected[rows], matrix[rows])
        before[rows], scores[rows] = scores[rows], tried[rows, best]
        left[rows, best] = -1
        for row, position, value in zip(
            rows.tolist(), chosen.tolist(), ablation.values[rows, best].tolist(), strict=True
        ):
            steps[row].append(_Step(position, value))
        rows = rows[scores[rows] > thresholds[rows]]
    return _Path(matrix, before, scores, steps)


def _find_bounds(
    encoder: Encoder, scorer: Scorer, records: Records, path: _Path, thresholds: NDArray[np.float64], shown: list[bool]
) -> dict[int, tuple[Change, float]]:
    """By row, how far the last number that was changed may go, and the score that the record has there."""
    searches = [
        search
        for position, rows in _numbers_to_bound(path, thresholds).items()
        if shown[position] and (search := _search(encoder, position, rows, records, path)) is not None
    ]
    if not searches:
        return {}
    ends = np.cumsum([len(search.rows) for search in searches]).tolist()
    spans = [slice(end - len(search.rows), end) for search, end in zip(searches, ends, strict=True)]
    trial = path.matrix[np.concatenate([search.rows for search in searches])]
    for _ in range(LOOKS):
        for search, span in zip(searches, spans, strict=True):
            trial[span, search.columns] = search.next(thresholds[search.rows])
        scores = scorer.score(trial)
        for search, span in zip(searches, spans, strict=True):
            search.learn(scores[span], thresholds[search.rows])
    return {row: bound for search in searches for row, bound in search.bounds()}


def _numbers_to_bound(path: _Path, thresholds: NDArray[np.float64]) -> dict[int, list[int]]:
    """Rows by the feature that was changed last, where that was enough and it is a number."""
    rows: dict[int, list[int]] = {}
    for row in np.flatnonzero(path.scores <= thresholds).tolist():
        if path.steps[row] and isinstance(path.steps[row][-1].value, float):
            rows.setdefault(path.steps[row][-1].position, []).append(row)
    return rows


def _search(encoder: Encoder, position: int, rows: list[int], records: Records, path: _Path) -> _Search | None:
    """The search in those of the rows that have a number there, None where none has."""
    feature = encoder.features[position]
    assert isinstance(feature, NumberEncoder)  # noqa: S101 - only those expect a float
    actual = feature.values_in(records)
    kept = np.array([row for row in rows if not np.isnan(actual[row])], np.int64)
    if len(kept) == 0:
        return None
    expected = np.array([path.steps[row][-1].value for row in kept.tolist()], np.float64)
    return _Search(feature, encoder.slices[position], kept, actual[kept], expected, path)


class _Search:
    """The bounds of one number feature in m records, while they are sought: a secant that never leaves its bracket.

    It works on the scale on which the feature is encoded, where scores are nearer to straight lines, and what it finds
    are values in the record's own units.
    """

    def __init__(
        self, feature: NumberEncoder, columns: slice, rows: NDArray[np.int64], actual: NDArray[np.float64],
        expected: NDArray[np.float64], path: _Path,
    ) -> None:  # fmt: skip
        self.columns, self.rows = columns, rows
        self._feature, self._actual, self._expected = feature, actual, expected
        self._value, self._score = expected, path.scores[rows]  # the last ones that do not alert
        self._inside = feature.columns_of(expected)[:, 0]
        self._outside, self._outer_score = feature.columns_of(actual)[:, 0], path.before[rows]
        self._tried = expected
        self._hits, self._misses = np.zeros(len(rows)), np.zeros(len(rows))  # how many values in a row were so

    def next(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """The columns (m, 2) of the next values: a little inside of where a straight line meets the threshold.

        As a curve meets it always on the same side of the line, an end that stays counts half each time (Illinois).
        """
        room = (thresholds - self._score) * 0.5**self._misses
        excess = (self._outer_score - thresholds) * 0.5**self._hits
        share = np.clip(room / np.maximum(room + excess, 1e-12) - _MARGIN, _LEAST_MOVE, 1.0 - _LEAST_MOVE)
        place = self._inside + share * (self._outside - self._inside)
        values = self._feature.values_of(place)
        self._tried = _rounded(values, self._actual, self._expected, is_whole=self._feature.is_whole)
        return self._feature.columns_of(self._tried)

    def learn(self, scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> None:
        """Take the scores (m,) of the values that were tried."""
        column, is_inside = self._feature.columns_of(self._tried)[:, 0], scores <= thresholds
        self._value = np.where(is_inside, self._tried, self._value)
        self._score = np.where(is_inside, scores, self._score)
        self._hits, self._misses = np.where(is_inside, self._hits + 1, 0), np.where(is_inside, 0, self._misses + 1)
        self._inside = np.where(is_inside, column, self._inside)
        self._outside = np.where(is_inside, self._outside, column)
        self._outer_score = np.where(is_inside, self._outer_score, scores)

    def bounds(self) -> Iterator[tuple[int, tuple[Change, float]]]:
        """Of each row the change, and the score of the record with the value that it shows."""
        for row, is_above, value, score in zip(
            self.rows.tolist(), (self._actual > self._expected).tolist(), self._value.tolist(), self._score.tolist(),
            strict=True,
        ):  # fmt: skip
            yield row, (Change(self._feature.name, "at_most" if is_above else "at_least", value), score)


def _rounded(
    values: NDArray[np.float64], actual: NDArray[np.float64], expected: NDArray[np.float64], *, is_whole: bool
) -> NDArray[np.float64]:
    """Values (n,) rounded towards the expected ones, and not beyond them: three digits of it, or of the difference."""
    gap = np.abs(actual - expected)
    size = np.maximum(np.minimum(np.maximum(np.abs(values), gap * 1e-3), gap), _SMALLEST)
    places = np.floor(np.log10(size)) - _DIGITS
    if is_whole:
        places = np.maximum(places, 0.0)
    up, down = 10.0 ** np.maximum(-places, 0.0), 10.0 ** np.maximum(places, 0.0)
    steps = values / down * up
    rounded = np.where(actual > expected, np.floor(steps), np.ceil(steps)) / up * down
    low, high = np.minimum(actual, expected), np.maximum(actual, expected)
    bounded: NDArray[np.float64] = np.clip(rounded, low, high)
    return bounded
