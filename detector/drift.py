"""Drift: how far later records lie from those that a detector was calibrated on, by feature and by score.

It counts records in bins and compares counts. Over which records, and when to say so, is decided by whoever counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrays import check_arrays
from detector.encode import CategoryEncoder, CycleEncoder, Encoder, Notes
from detector.image_records import ImageEncoder

LEAST_REFERENCE = 200
"""Fewer calibration records than this are no reference: their own scatter would look like drift."""

LEAST_RECORDS = 1_000
"""Fewer records than this are not worth comparing: see `DriftReference.compare` for what noise is left."""

MOST_REFERENCE = 100_000
"""More records than this teach a reference nothing: their scatter is then a hundred-thousandth a bin."""

NUMBER_BINS = 10
"""Bins of a number, each with as many calibration records as the next."""

MOST_VALUES = 20
"""Values of a category with a bin of their own; the others that are known share one."""

SCORE_LEVELS = (*(level / 10 for level in range(1, 10)), 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
"""Quantiles of calibration scores between which bins of scores lie."""

LEAST_BEYOND = 10
"""Calibration scores that lie beyond the last of those quantiles, at least."""


_MOST_COUNTED = 2**53


@dataclass(frozen=True, eq=False)
class Bins:
    """How one feature, or the score, falls into bins, and how many reference records are in each.

    Attributes:
        name: The feature's name; empty for the score.
        counts: Reference records by bin, (b,). The last bin is for what is missing, and where `has_unseen` the one
            before it for values that were never seen in training.
        edges: Of numbers, ascending, (b - 2,): bin k holds what is above edge k - 1 and not above edge k.
        of_code: Of categories and cycles: the bin of each code, (c,).
        has_unseen: Whether it is a category, which may have a value never seen.
        cycle_s: Length in seconds of the cycle that the feature is a part of, such as a day; 0 for none.
    """

    name: str
    counts: NDArray[np.int64]
    edges: NDArray[np.float64] | None = None
    of_code: NDArray[np.int64] | None = None
    has_unseen: bool = False
    cycle_s: int = 0

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Records by bin, (b,), of values or codes (n,)."""
        return np.bincount(self._places(values), minlength=len(self.counts))

    def _places(self, values: NDArray[Any]) -> NDArray[np.int64]:
        if self.of_code is not None:
            places: NDArray[np.int64] = self.of_code[values]
            return places
        assert self.edges is not None  # noqa: S101 - numbers have edges, all others codes
        return np.searchsorted(np.append(self.edges, np.inf), values, "left")  # only NaN, missing, is beyond infinity

    @property
    def missing_share(self) -> float:
        """Share of the reference records without a value."""
        return float(self.counts[-1] / self.counts.sum())

    @property
    def unseen_share(self) -> float | None:
        """Share of them with a value never seen in training; None where it is no category."""
        return float(self.counts[-2] / self.counts.sum()) if self.has_unseen else None


class DriftReference:
    """What the records were like that a detector was calibrated on: the counts that later ones are compared with.

    Edges of bins are values of those records. They are for the artifact alone and are shown nowhere.

    Attributes:
        features: Bins of each feature, f in all. None of an image.
        score: Bins of the score.
        span_s: Time that the calibration records cover, in seconds; None where they have no time.
    """

    def __init__(self, features: Sequence[Bins], score: Bins, span_s: float | None) -> None:
        self.features, self.score, self.span_s = tuple(features), score, span_s
        self._all = (*self.features, score)
        self._ends = np.cumsum([0, *(len(bins.counts) for bins in self._all)])
        self._expected = np.concatenate([bins.counts for bins in self._all])  # (b,)

    @classmethod
    def fit(
        cls, encoder: Encoder | ImageEncoder, notes: Notes, scores: NDArray[np.float64], span_s: float | None
    ) -> DriftReference | None:
        """Learn from held-out normal records; None where there are fewer than `LEAST_REFERENCE`.

        Args:
            encoder: What encoded them.
            notes: What it noted.
            scores: Their scores, (n,), or those of more records of the same kind.
            span_s: Time that they cover, in seconds; None where they have no time.
        """
        if len(scores) < LEAST_REFERENCE:
            return None
        features = [
            Bins(name, *_bins_of(notes, name, codes), has_unseen=has_unseen, cycle_s=cycle_s)
            for name, codes, has_unseen, cycle_s in _described(encoder)
        ]
        last = 1 - LEAST_BEYOND / len(scores)
        edges = np.unique(np.quantile(scores, [level for level in SCORE_LEVELS if level <= last]))
        return cls(features, _counted(Bins("", np.zeros(len(edges) + 2, np.int64), edges), scores), span_s)

    def count(self, notes: Notes, scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Records by bin, (b,): of each feature one after the other, then of the score. Counts of batches add up.

        Args:
            notes: What encoding the records noted.
            scores: Their scores, (n,); of one that is not finite only the features count.
        """
        found = [bins.count(_noted(notes, bins)) for bins in self.features]
        return np.concatenate([*found, self.score.count(scores[np.isfinite(scores)])])

    def compare(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Population stability index of each feature, then of the score, (f + 1,), less what chance alone makes of it.

        The index is the sum over bins of (q - p) ln(q / p), for shares p of the reference and q of the records. Of n
        records of the same law as the m of the reference it is about (b - 1) (1/n + 1/m) in the mean, with a standard
        deviation of sqrt(2 (b - 1)) (1/n + 1/m), b being the bins that hold a record. The mean is taken off, down to 0.
        With n = m = 1,000 and 24 bins the deviation left is 0.014. Records that depend on each other scatter more.

        Shares are smoothed so that an empty bin is no infinity: half a record is added to each bin of the reference,
        and half a record a bin to the others in the proportions of the reference. Bins that are empty in both count
        for nothing.

        Args:
            counts: What `count` found, summed over the records to compare, (b,).

        Sources: Siddiqi, "Credit Risk Scorecards", 2006 (the index, and its rule of thumb: below 0.1 the same, above
            0.25 another population); Yurdakul, "Statistical Properties of Population Stability Index", Western
            Michigan University, 2018 (its mean and variance).
        """
        starts, widths = self._ends[:-1], np.diff(self._ends)

        def over_bins(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.repeat(np.add.reduceat(values, starts), widths).astype(np.float64)

        half = np.repeat(widths, widths) / 2
        m, n = over_bins(self._expected), over_bins(counts)
        p = (self._expected + 0.5) / (m + half)
        q = (counts + half * p) / (n + half)
        occupied = (self._expected > 0) | (counts > 0)
        index = np.add.reduceat(np.where(occupied, (q - p) * np.log(q / p), 0.0), starts)
        chance = (np.add.reduceat(occupied.astype(np.int64), starts) - 1) * (
            1 / np.maximum(n[starts], 1) + 1 / m[starts]
        )
        beyond_chance: NDArray[np.float64] = np.maximum(index - chance, 0.0)
        return beyond_chance

    def compare_features(self, counts: NDArray[np.int64], span_s: float | None) -> dict[str, float]:
        """What `compare` says of the features by name, of those that can be compared.

        An hour or a weekday is compared only where the calibration and these records cover a whole day or week.

        Args:
            counts: What `count` found, (b,).
            span_s: Time that these records cover, in seconds; None where they have no time.
        """
        covered_s = min(np.inf if each is None else each for each in (span_s, self.span_s))
        indices = self.compare(counts)[:-1].tolist()
        return {
            bins.name: index for bins, index in zip(self.features, indices, strict=True) if bins.cycle_s <= covered_s
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned: arrays by name."""
        arrays: dict[str, NDArray[Any]] = {"span_s": np.array(np.nan if self.span_s is None else self.span_s)}
        for place, bins in enumerate(self._all):
            arrays[f"{place}.counts"] = bins.counts
            if bins.edges is not None:
                arrays[f"{place}.edges"] = bins.edges
            if bins.of_code is not None:
                arrays[f"{place}.of_code"] = bins.of_code
        return arrays

    @classmethod
    def restore(cls, encoder: Encoder | ImageEncoder, state: Mapping[str, NDArray[Any]]) -> DriftReference:
        """The reference whose `state()` this is, for the encoder that it was made with.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: Bins and counts do not fit together.
        """
        described = [*_described(encoder), ("", None, False, 0)]
        found = []
        for place, (name, codes, has_unseen, cycle_s) in enumerate(described):
            counts = state[f"{place}.counts"]
            edges = state[f"{place}.edges"] if codes is None else None
            of_code = None if codes is None else state[f"{place}.of_code"]
            where = (f"{place}.edges", np.float64) if codes is None else (f"{place}.of_code", np.int64)
            wanted = {f"{place}.counts": (np.int64, (None,)), where[0]: (where[1], (None,))}
            check_arrays("the drift reference", state, wanted)
            fits = len(edges) + 2 == len(counts) if edges is not None else _fit(of_code, codes, len(counts))
            if not fits or int(counts.min()) < 0 or not 1 <= int(counts.sum()) < _MOST_COUNTED:
                raise ValueError(f"the drift reference of {name or 'the score'} does not fit its bins")
            found.append(Bins(name, counts, edges, of_code, has_unseen, cycle_s))
        span_s = float(state["span_s"])
        return cls(found[:-1], found[-1], None if np.isnan(span_s) else span_s)


@dataclass(frozen=True, eq=False)
class DriftCounts:
    """Records by bin, and the reference whose bins they are.

    Attributes:
        reference: What they are to be compared with.
        counts: What `DriftReference.count` found, (b,).
    """

    reference: DriftReference
    counts: NDArray[np.int64]


def _described(encoder: Encoder | ImageEncoder) -> Iterator[tuple[str, int | None, bool, int]]:
    """Of each feature: name, codes (None of a number), whether one of them is for the unseen, seconds of its cycle."""
    for feature in encoder.features if isinstance(encoder, Encoder) else ():
        if isinstance(feature, CategoryEncoder):
            yield feature.name, feature.width, True, 0
        elif isinstance(feature, CycleEncoder):
            yield feature.name, feature.parts + 1, False, feature.cycle_s
        else:
            yield feature.name, None, False, 0


def _noted(notes: Notes, bins: Bins) -> NDArray[Any]:
    return notes.values[bins.name] if bins.of_code is None else notes.codes[bins.name]


def _bins_of(
    notes: Notes, name: str, codes: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None, NDArray[np.int64] | None]:
    """Counts, edges and bins of codes of one feature."""
    if codes is None:
        values = notes.values[name]
        edges = number_edges(values[~np.isnan(values)])
        return _counted(Bins(name, np.zeros(len(edges) + 2, np.int64), edges), values).counts, edges, None
    of_code = _bins_of_codes(notes, name, codes)
    empty = Bins(name, np.zeros(int(of_code.max()) + 1, np.int64), None, of_code)
    return _counted(empty, notes.codes[name]).counts, None, of_code


def _counted(bins: Bins, values: NDArray[Any]) -> Bins:
    return Bins(bins.name, bins.count(values), bins.edges, bins.of_code)


def number_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges between bins of equal counts, ascending, (e,); e is 9, or less where values repeat.

    A value that fills a bin by itself has a bin by itself, so that what comes below it is told from it: a constant has
    three bins.
    """
    if len(values) == 0:
        return np.empty(0)
    quantiles = np.quantile(values, np.arange(1, NUMBER_BINS) / NUMBER_BINS, method="inverted_cdf")
    edges, repeats = np.unique(quantiles, return_counts=True)
    return np.union1d(edges, np.nextafter(edges[repeats > 1], -np.inf))


def _bins_of_codes(notes: Notes, name: str, codes: int) -> NDArray[np.int64]:
    """The bin of each code, (c,): all have their own, but of a category the less frequent, which share one."""
    if name not in notes.unseen or codes <= MOST_VALUES + 3:
        return np.arange(codes)
    known = codes - 3  # then rare, unseen, missing
    often = np.argsort(-np.bincount(notes.codes[name], minlength=codes)[:known], kind="stable")[:MOST_VALUES]
    of_code = np.full(codes, MOST_VALUES)
    of_code[np.sort(often)] = np.arange(MOST_VALUES)
    of_code[-2:] = MOST_VALUES + 1, MOST_VALUES + 2
    return of_code


def _fit(of_code: NDArray[np.int64] | None, codes: int | None, bins: int) -> bool:
    """Whether each of the codes has a bin."""
    return of_code is not None and len(of_code) == codes and int(of_code.min()) >= 0 and int(of_code.max()) == bins - 1
