"""Counterfactuals: what would have to be otherwise in a record for it not to alert, verified by scoring it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.ablation import Ablation, owners, places_of
from detector.encode import Encoder, NumberEncoder, as_said
from detector.records import Records
from detector.scoring import Scorer

LOOKS = 4
"""Values of a number that are scored to find how far it may go; its last one that does not alert is shown."""

_NEAR_ENOUGH = 0.05  # the gap between a bound and a value that alerts, in shares of the way from the expected value
_MARGIN = 0.03
_LEAST_MOVE = 0.05
_DIGITS = 2
_SMALLEST = 1e-100
_WORST = 1e300

Relation = Literal["equals", "at_most", "at_least"]


class Change(msgspec.Struct, frozen=True, gc=False):
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


class Counterfactual(msgspec.Struct, frozen=True, gc=False):
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
    is_sensitive: Callable[[str], bool] = lambda _: False,
) -> list[Counterfactual | None]:
    """For each of n records a counterfactual, or None where none was found.

    Greedily: the feature whose expected value lets the score fall furthest takes it, then the next one, until the score
    is at or below the threshold. Where the last of them is a number that the record has, what is sought is not its
    expected value but how far it may go: a bound between the two. It is rounded towards the expected value, and scored
    as it is shown.

    Whatever is to be scored of all records is scored at once, be it a next feature of one or a next bound of another:
    there are few rounds, each of them as full as can be.

    Args:
        encoder: What made the columns.
        scorer: Scores them.
        records: The records, n.
        ablation: What became of them when single features took their expected values.
        thresholds: The threshold in force for each, (n,).
        is_sensitive: Whether the value of a field must not be shown.
    """
    shown = np.array([not is_sensitive(feature.field) for feature in encoder.features])
    descent = _Descent(encoder, ablation, thresholds)
    bounds = _Bounds(encoder, records, thresholds, shown)
    while True:
        bounds.begin(descent, descent.arrived)
        rows, slots, lower = descent.next()
        bounded, nearer = bounds.next(descent)
        if len(rows) + len(bounded) == 0:
            return _told(encoder, descent, bounds, thresholds, shown)
        scores = scorer.score(np.concatenate([lower, nearer]))
        bounds.learn(bounded, nearer, scores[len(rows) :])
        descent.learn(rows, slots, scores[: len(rows)])


def _told(
    encoder: Encoder, descent: _Descent, bounds: _Bounds, thresholds: NDArray[np.float64], shown: NDArray[np.bool_]
) -> list[Counterfactual | None]:
    """What was found, as it is shown."""
    names = np.array(encoder.names, object)
    rows = np.flatnonzero((descent.taken > 0) & (descent.scores <= thresholds))
    steps, taken, scores = descent.steps[rows], descent.taken[rows], descent.scores[rows]  # (m, c), (m,), (m,)
    values, relations = np.full(steps.shape, None, object), np.full(steps.shape, None, object)
    relations[shown[steps]] = "equals"
    for position, places in enumerate(places_of(steps, len(names))):
        if len(places) and shown[position]:
            values.flat[places] = as_said(descent.ablation.expected.of(position).held[rows[places // steps.shape[1]]])
    bounded, *bound = bounds.found(rows)
    last = bounded, taken[bounded] - 1
    relations[last], values[last], scores[bounded] = bound
    is_step = steps >= 0
    parts = (names[steps], relations, values, ~shown[steps])
    changes = [Change(*each) for each in zip(*(part[is_step].tolist() for part in parts), strict=True)]
    ends = taken.cumsum()
    found: list[Counterfactual | None] = [None] * len(descent.scores)
    for row, start, end, score in zip(
        rows.tolist(), (ends - taken).tolist(), ends.tolist(), scores.tolist(), strict=True
    ):
        found[row] = Counterfactual(tuple(changes[start:end]), score)
    return found


class _Descent:
    """n records whose candidates take their expected values one after the other, until they do not alert.

    Attributes:
        ablation: What became of the records when single candidates took their expected values.
        matrix: The records with the changes so far, float32 (n, d).
        before: Their scores without the last change, (n,).
        scores: Their scores, (n,).
        steps: The features that were changed, in order, -1 behind the last one, (n, c).
        taken: How many those are, (n,).
    """

    def __init__(self, encoder: Encoder, ablation: Ablation, thresholds: NDArray[np.float64]) -> None:
        self.ablation = ablation
        self.matrix, self.scores, self.before = ablation.matrix.copy(), ablation.scores.copy(), ablation.scores.copy()
        self.steps, self.taken = np.full(ablation.candidates.shape, -1), np.zeros(len(self.matrix), np.int64)
        self._owner, self._thresholds = owners(encoder), thresholds
        self._is_left = ablation.candidates >= 0  # (n, c)
        alerting = np.flatnonzero(self.scores > thresholds)
        self.arrived = self._take(alerting, ablation.put_back[alerting])

    def next(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Records that still alert with one change more, to be scored: rows (m,), slots (m,), the records (m, d)."""
        rows, slots = np.nonzero(self._is_left & (self.scores > self._thresholds)[:, None])
        return rows, slots, self._changed(rows, slots)

    def learn(self, rows: NDArray[np.int64], slots: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Take the scores (m,) of what `next` gave."""
        alerting, places = np.unique(rows, return_inverse=True)
        tried = np.full((len(alerting), self._is_left.shape[1]), np.inf)
        tried[places, slots] = np.where(np.isfinite(scores), scores, _WORST)  # finite: tried, and never again
        self.arrived = self._take(alerting, tried)

    def _take(self, rows: NDArray[np.int64], tried: NDArray[np.float64]) -> NDArray[np.int64]:
        """Change what lets the score of each of m rows fall furthest, of what was tried (m, c), infinite where not.

        Where none of that lets it fall, none of it will be tried again.

        Returns:
            The rows that do not alert any more.
        """
        slots = tried.argmin(axis=1)
        lowest = np.take_along_axis(tried, slots[:, None], axis=1)[:, 0]
        falls = lowest < self.scores[rows]
        self._is_left[rows[~falls]] &= np.isinf(tried[~falls])
        rows, slots, lowest = rows[falls], slots[falls], lowest[falls]
        self.matrix[rows] = self._changed(rows, slots)
        self.before[rows], self.scores[rows] = self.scores[rows], lowest
        self._is_left[rows, slots] = False
        self.steps[rows, self.taken[rows]] = self.ablation.candidates[rows, slots]
        self.taken[rows] += 1
        return rows[lowest <= self._thresholds[rows]]

    def _changed(self, rows: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.float32]:
        """Records (m, d) as they are so far with one candidate more at its expected value."""
        own = self._owner == self.ablation.candidates[rows, slots][:, None]
        return np.where(own, self.ablation.matrix_expected[rows], self.matrix[rows])


class _Bounds:
    """How far the last number that was changed may go in each of n records: a secant that never leaves its bracket.

    It works on the scale on which numbers are encoded, where scores are nearer to straight lines, and what it finds are
    values in the record's own units.
    """

    def __init__(
        self, encoder: Encoder, records: Records, thresholds: NDArray[np.float64], shown: NDArray[np.bool_]
    ) -> None:
        n = len(thresholds)
        self._encoder, self._records, self._thresholds = encoder, records, thresholds
        self._is_bounded = shown & np.array(encoder.are_numbers)
        self._is_whole = np.array([isinstance(each, NumberEncoder) and each.is_whole for each in encoder.features])
        self._starts = np.array([columns.start for columns in encoder.slices])
        self._position, self._left = np.full(n, -1), np.zeros(n, np.int64)  # the feature; looks that are left
        self._actual, self._expected = np.zeros(n), np.zeros(n)
        self._value, self._score = np.zeros(n), np.zeros(n)  # the last ones that do not alert
        self._tried, self._outer_score = np.zeros(n), np.zeros(n)
        self._start, self._inside, self._outside = np.zeros(n), np.zeros(n), np.zeros(n)  # as encoded
        self._hits, self._misses = np.zeros(n), np.zeros(n)  # how many values in a row were so

    def begin(self, descent: _Descent, rows: NDArray[np.int64]) -> None:
        """Seek a bound in those of the rows (m,) of which the last change is a number that they have."""
        positions = descent.steps[rows, descent.taken[rows] - 1]
        for position in np.unique(positions[self._is_bounded[positions]]).tolist():
            feature, own = self._number(position), rows[positions == position]
            actual = feature.values_in(self._records)[own]
            expected = descent.ablation.expected.of(position).held[own]  # not a number: expected missing
            known = ~(np.isnan(actual) | np.isnan(expected))
            own, actual, expected = own[known], actual[known], expected[known]
            self._position[own], self._left[own] = position, LOOKS
            self._actual[own], self._expected[own] = actual, expected
            self._value[own], self._score[own] = expected, descent.scores[own]
            self._outer_score[own] = descent.before[own]
            self._start[own] = self._inside[own] = feature.columns_of(expected)[:, 0]
            self._outside[own] = feature.columns_of(actual)[:, 0]

    def next(self, descent: _Descent) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows (m,) with a bound to seek, and what they are with the next value, (m, d).

        It is a little inside of where a straight line meets the threshold. As a curve meets it always on the same side
        of the line, an end that stays counts half each time (Illinois).
        """
        rows = np.flatnonzero(self._left)
        thresholds = self._thresholds[rows]
        room = (thresholds - self._score[rows]) * 0.5 ** self._misses[rows]
        excess = (self._outer_score[rows] - thresholds) * 0.5 ** self._hits[rows]
        share = np.clip(room / np.maximum(room + excess, 1e-12) - _MARGIN, _LEAST_MOVE, 1.0 - _LEAST_MOVE)
        places = self._inside[rows] + share * (self._outside[rows] - self._inside[rows])
        positions, trials = self._position[rows], descent.matrix[rows]
        features = np.unique(positions).tolist()
        values = np.empty(len(rows))
        for position in features:
            here = positions == position
            values[here] = self._number(position).values_of(places[here])
        values = _rounded(values, self._actual[rows], self._expected[rows], self._is_whole[positions])
        for position in features:
            here = positions == position
            trials[here, self._encoder.slices[position]] = self._number(position).columns_of(values[here])
        self._tried[rows] = values
        return rows, trials

    def learn(self, rows: NDArray[np.int64], trials: NDArray[np.float32], scores: NDArray[np.float64]) -> None:
        """Take the scores (m,) of what `next` gave."""
        places = trials[np.arange(len(rows)), self._starts[self._position[rows]]]
        is_inside = scores <= self._thresholds[rows]
        inside, outside = rows[is_inside], rows[~is_inside]
        self._value[inside], self._score[inside] = self._tried[inside], scores[is_inside]
        self._inside[inside], self._outside[outside] = places[is_inside], places[~is_inside]
        self._outer_score[outside] = scores[~is_inside]
        self._hits[inside], self._misses[inside] = self._hits[inside] + 1, 0
        self._hits[outside], self._misses[outside] = 0, self._misses[outside] + 1
        way, gap = self._outside[rows] - self._start[rows], self._outside[rows] - self._inside[rows]
        self._left[rows] = np.where(np.abs(gap) <= _NEAR_ENOUGH * np.abs(way), 0, self._left[rows] - 1)

    def found(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Which of the rows (m,) have a bound, with its relation, its value and the score there, (b,) each."""
        bounded = np.flatnonzero(self._position[rows] >= 0)
        rows = rows[bounded]
        relations = np.where(self._actual[rows] > self._expected[rows], "at_most", "at_least").astype(object)
        return bounded, relations, self._value[rows], self._score[rows]

    def _number(self, position: int) -> NumberEncoder:
        feature = self._encoder.features[position]
        assert isinstance(feature, NumberEncoder)  # noqa: S101 - only those are bounded
        return feature


def _rounded(
    values: NDArray[np.float64], actual: NDArray[np.float64], expected: NDArray[np.float64], is_whole: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Values (n,) rounded towards the expected ones, and not beyond them: three digits of it, or of the difference.

    Where `is_whole` (n,) they are rounded to whole numbers at least.
    """
    gap = np.abs(actual - expected)
    size = np.maximum(np.minimum(np.maximum(np.abs(values), gap * 1e-3), gap), _SMALLEST)
    places = np.floor(np.log10(size)) - _DIGITS
    places = np.where(is_whole, np.maximum(places, 0.0), places)
    up, down = 10.0 ** np.maximum(-places, 0.0), 10.0 ** np.maximum(places, 0.0)
    steps = values / down * up
    rounded = np.where(actual > expected, np.floor(steps), np.ceil(steps)) / up * down
    low, high = np.minimum(actual, expected), np.maximum(actual, expected)
    bounded: NDArray[np.float64] = np.clip(rounded, low, high)
    return bounded
