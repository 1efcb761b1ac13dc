"""Records to a float32 matrix and back to the record's own units; fitted on normal records, ignorant of networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from detector.arrays import check_arrays, check_numbers
from detector.compiled import compiled
from detector.errors import TrainingDataError
from detector.records import Records
from detector.stream import CategoryFeature, HistoryFeature, NumberFeature, StreamDefinition, TimeFeature
from detector.times import to_local

KNOTS = 255
"""Quantiles that a number's transform remembers."""

RANK_SHARE = 0.5
"""Share of its rank in an encoded number where nothing speaks for another."""

SOFT_LIMIT = 8.0
"""Standard deviations beyond which an encoded number grows only logarithmically."""

LEAST_VARIANCE = 0.0025
"""Variance below which an indicator is not stretched further: a flag that was never seen stands at 20 deviations."""

LARGEST = 1e100
"""Numbers beyond this are all the same to the encoder, so that no intermediate result overflows."""

RARE = "(rare)"

_LARGEST_POWER = 308
_POWERS_OF_TEN = 10.0 ** np.arange(_LARGEST_POWER + 1)

_DAY_US = 86_400_000_000
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Notes:
    """What encoding noticed in records, by the feature's name.

    Attributes:
        values: What a number is, (n,), NaN where it is missing.
        codes: Which of a category's columns has the value, or which hour or day it is, (n,); the last code is missing.
        missing: Rows without a value, (n,).
        unseen: Rows with a category that no normal record had, (n,).
        out_of_range: Rows with a number that is beyond those of normal records, (n,).
    """

    def __init__(self) -> None:
        self.values: dict[str, NDArray[np.float64]] = {}
        self.codes: dict[str, NDArray[np.int64]] = {}
        self.missing: dict[str, NDArray[np.bool_]] = {}
        self.unseen: dict[str, NDArray[np.bool_]] = {}
        self.out_of_range: dict[str, NDArray[np.bool_]] = {}


Values = NDArray[np.float64] | NDArray[np.object_]
"""What n records hold of a feature, in their own units: numbers, NaN where missing, or text, None where missing."""


class Possible(NamedTuple):
    """Values that records can hold.

    Attributes:
        held: In the record's own units, (n,).
        columns: The same encoded, (n, width): just what `encode` makes of records with these values.
    """

    held: Values
    columns: NDArray[np.float64]

    @property
    def values(self) -> list[str | float | None]:
        """As they are said, None for missing, n in all."""
        values: list[str | float | None] = as_said(self.held).tolist()
        return values


def as_said(values: Values) -> NDArray[np.object_]:
    """Values (n,) as people are told them: None for a missing number as well."""
    said = values.astype(object)
    if values.dtype != object:
        said[np.isnan(values)] = None
    return said


class FeatureEncoder(Protocol):
    """One feature's columns of the matrix."""

    name: str
    field: str
    width: int
    indicators: slice
    """Which of the columns are indicators, which stand still on most records."""

    def encode(self, records: Records, notes: Notes) -> NDArray[np.float64]:
        """The feature's columns, (n, width)."""

    def actual(self, records: Records, rows: NDArray[np.int64]) -> Values:
        """What each of some records says, in its own units."""

    def nearest(self, columns: NDArray[np.float64]) -> Possible:
        """The values that records can hold which are nearest to what reconstructed columns (n, width) say."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that was fitted: a JSON object, and arrays by name."""


@dataclass(frozen=True)
class _Flag:
    """An indicator that a share `rate` of normal records has, centred and scaled."""

    rate: float

    def encode(self, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        deviation = max(self.rate * (1 - self.rate), LEAST_VARIANCE) ** 0.5
        scaled: NDArray[np.float64] = (mask - self.rate) / deviation
        return scaled

    def holds(self, column: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether a reconstructed column (n,) is nearer to what `encode` makes of true than of false."""
        halfway: NDArray[np.bool_] = column > self.encode(np.array([0.5]))
        return halfway


class NumberEncoder:
    """A number as a mean of its standard score and the normal quantile of its rank, in a straight line beyond them.

    A standard score keeps gaps, and crowds what is common where a few values are far off; a rank spreads what is
    common, and hides gaps. Each is the better one on some data; what share the rank has is chosen by the trainer.

    Beyond `SOFT_LIMIT` standard deviations it grows logarithmically, so that no value is too large for float32, and a
    larger value still encodes larger. Columns: the value (0 where missing), and whether it is missing.

    Source: rank-based inverse normal transform: Beasley, Erickson and Allison, "Rank-Based Inverse Normal
        Transformations are Increasingly Used, But are They Merited?", Behavior Genetics 39, 2009.
    """

    kind = "number"
    width = 2
    indicators = slice(1, 2)

    def __init__(
        self, name: str, field: str, *, log: bool, knots: NDArray[np.float64], scores: NDArray[np.float64],
        spread: float, centre: float, scale: float, missing_rate: float, low: float, high: float,
    ) -> None:  # fmt: skip
        self.name, self.field = name, field
        self._log = log
        self._knots, self._scores = knots, scores
        self._spread, self._centre, self._scale = spread, centre, scale
        self._missing = _Flag(missing_rate)
        self.low, self.high = low, high
        self.is_whole = self._is_whole()

    @staticmethod
    def check(owner: str, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse a state that no number's encoder has: compiled code looks between its knots.

        Raises:
            ValueError: It is none.
        """
        check_arrays(owner, arrays, dict.fromkeys(("knots", "scores"), (np.float64, (arrays["knots"].size,))))
        names = ("spread", "centre", "scale", "missing_rate", "low", "high")
        check_numbers(owner, {name: options[name] for name in names})
        ascends = len(arrays["knots"]) > 0 and (np.diff(arrays["knots"]) > 0).all()
        if not (ascends and options["spread"] > 0 and options["scale"] > 0 and isinstance(options["log"], bool)):
            raise ValueError(f"{owner}: its knots do not ascend, or it has no spread: it is damaged")

    def _is_whole(self) -> bool:
        """Whether normal records hold whole numbers alone, as counts do; told by range and quantiles."""
        values = np.copysign(np.expm1(np.abs(self._knots)), self._knots) if self._log else self._knots
        near = np.abs(values - np.rint(values)) <= 1e-6 * np.maximum(np.abs(values), 1.0)
        return float(self.low).is_integer() and float(self.high).is_integer() and float(near.mean()) >= 0.5

    @classmethod
    def fit(cls, feature: NumberFeature, records: Records, rank_share: float) -> NumberEncoder:
        """Fit on normal records.

        Raises:
            TrainingDataError: The field is missing in every record.
        """
        return cls._fit(feature.label, feature.field, records.numbers[feature.field], feature.log, rank_share)

    @classmethod
    def _fit(cls, label: str, field: str, column: NDArray[np.float64], log: bool, rank_share: float) -> Self:  # noqa: FBT001
        known = column[~np.isnan(column)]
        if len(known) == 0:
            raise TrainingDataError(
                f"feature {label!r} is missing in all {len(column)} normal records: "
                "nothing can be learned from it; remove it from the stream definition or mend the data"
            )
        unfolded = np.sort(_unfold(known, log=log))
        shares = (np.arange(KNOTS) + 0.5) / KNOTS
        quantiles = np.interp(shares * (len(unfolded) - 1), np.arange(len(unfolded)), unfolded)
        knots, place = np.unique(quantiles, return_inverse=True)
        scores = np.bincount(place, ndtri(shares)) / np.bincount(place)
        # A constant number has no spread of its own; a hundredth of its size is then a notable difference.
        spread = max(float(unfolded.std()), abs(float(np.median(unfolded))) * 0.01, 1e-9)
        fitted = cls(
            label, field, log=log, knots=knots, scores=scores, spread=spread, centre=0.0,
            scale=1.0, missing_rate=1 - len(known) / len(column), low=float(known.min()), high=float(known.max()),
        )  # fmt: skip
        fitted._blend(unfolded, rank_share)
        raw = fitted._raw(known)
        fitted._centre = float(raw.mean())
        fitted._scale = float(raw.std()) if raw.std() > 1e-6 else 1.0
        return fitted

    def _blend(self, unfolded: NDArray[np.float64], rank_share: float) -> None:
        """Make the normal quantiles, so far `_scores`, a mean of themselves and of standard scores."""
        deviation = float(unfolded.std())
        quantiles = np.interp(unfolded, self._knots, self._scores)
        if quantiles.std() <= 1e-6 or deviation <= 1e-9:
            return
        standard = (self._knots - unfolded.mean()) / deviation
        ranked = (self._scores - quantiles.mean()) / quantiles.std()
        self._scores = rank_share * ranked + (1 - rank_share) * standard
        rise = rank_share / (self._spread * float(quantiles.std())) + (1 - rank_share) / deviation
        self._spread = 1 / rise

    def values_in(self, records: Records) -> NDArray[np.float64]:
        """The numbers of records, (n,), NaN where missing."""
        return records.numbers[self.field]

    def _raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values on the encoded scale, before it is centred and tamed."""
        unfolded, mapped = _unfold(values, log=self._log), np.empty(len(values))
        _interpolate(unfolded, self._knots, self._scores, self._spread, mapped)
        return mapped

    def encode(self, records: Records, notes: Notes) -> NDArray[np.float64]:
        """Columns (n, 2): the value, and the flag of a missing one."""
        values = self.values_in(records)
        missing = np.isnan(values)
        notes.values[self.name] = values
        notes.missing[self.name] = missing
        notes.out_of_range[self.name] = (values < self.low) | (values > self.high)
        return self.columns_of(values)

    def columns_of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns (n, 2) of values (n,), NaN where missing."""
        columns = np.empty((len(values), 2))
        _tame(self._raw(values), self._centre, self._scale, columns[:, 0])
        columns[:, 1] = self._missing.encode(np.isnan(values))
        return columns

    def values_of(self, column: NDArray[np.float64]) -> NDArray[np.float64]:
        """The numbers (n,) that encoded ones (n,) stand for, however far out: the inverse of `columns_of`."""
        size = np.abs(column)
        deviations = np.where(size > SOFT_LIMIT, SOFT_LIMIT * np.exp(size / SOFT_LIMIT - 1.0), size)
        raw = np.copysign(deviations, column) * self._scale + self._centre
        beside = np.maximum(raw - self._scores[-1], 0.0) - np.maximum(self._scores[0] - raw, 0.0)
        unfolded = np.interp(raw, self._scores, self._knots) + beside * self._spread
        if self._log:
            unfolded = np.copysign(np.expm1(np.minimum(np.abs(unfolded), np.log1p(LARGEST))), unfolded)
        return _within(unfolded, -LARGEST, LARGEST)

    def actual(self, records: Records, rows: NDArray[np.int64]) -> Values:
        """The numbers themselves, NaN where missing."""
        return self.values_in(records)[rows]

    def nearest(self, columns: NDArray[np.float64]) -> Possible:
        """The numbers that the encoded ones stand for, within the range of normal records; six digits, or whole."""
        values = _within(self.values_of(_within(columns[:, 0], -SOFT_LIMIT, SOFT_LIMIT)), self.low, self.high)
        values = np.rint(values) if self.is_whole else significant(values, 6)
        values[self._missing.holds(columns[:, 1])] = np.nan
        return Possible(values, self.columns_of(values))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that was fitted."""
        config = {
            "kind": self.kind, "name": self.name, "field": self.field, "log": self._log, "spread": self._spread,
            "centre": self._centre, "scale": self._scale, "missing_rate": self._missing.rate, "low": self.low,
            "high": self.high,
        }  # fmt: skip
        return config, {"knots": self._knots, "scores": self._scores}


def significant(values: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """Values (n,) rounded to so many significant digits; those that decimal text of so many digits stands for."""
    sizes = np.abs(values)
    places = digits - 1 - np.floor(np.log10(np.where(sizes > 0, sizes, 1.0)))
    places = np.nan_to_num(places).astype(np.int64)  # what is no number stays so
    # Whole numbers times or over powers of ten, which are exact: no digit appears behind the last one.
    up, down = _POWERS_OF_TEN[np.clip(places, 0, _LARGEST_POWER)], _POWERS_OF_TEN[np.maximum(-places, 0)]
    rounded: NDArray[np.float64] = np.rint(values / down * up) / up * down
    return rounded


def _within(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """What `np.clip` makes of values (n,), in a third of the time for few of them."""
    bounded: NDArray[np.float64] = np.minimum(np.maximum(values, low), high)
    return bounded


@compiled
def _interpolate(
    values: NDArray[np.float64], knots: NDArray[np.float64], scores: NDArray[np.float64], spread: float,
    mapped: NDArray[np.float64],
) -> None:  # fmt: skip
    """Scores of values (n,) between ascending knots, in a straight line with slope 1 / `spread` beside them."""
    last = len(knots) - 1
    for row in range(len(values)):
        value = values[row]
        if value >= knots[last]:
            mapped[row] = scores[last] + (value - knots[last]) / spread
        elif value <= knots[0]:
            mapped[row] = scores[0] - (knots[0] - value) / spread
        else:
            low, high = 0, last  # not a number ends at the last knot, and stays one
            while high - low > 1:
                middle = (low + high) >> 1
                if value >= knots[middle]:
                    low = middle
                else:
                    high = middle
            share = (value - knots[low]) / (knots[high] - knots[low])
            mapped[row] = scores[low] + share * (scores[high] - scores[low])


@compiled
def _tame(raw: NDArray[np.float64], centre: float, scale: float, tamed: NDArray[np.float64]) -> None:
    """Deviations (n,), growing logarithmically beyond the soft limit; 0 where there is none."""
    for row in range(len(raw)):
        deviation = (raw[row] - centre) / scale
        size = abs(deviation)
        if math.isnan(deviation):
            tamed[row] = 0.0
        elif size <= SOFT_LIMIT:
            tamed[row] = deviation
        else:
            tamed[row] = math.copysign(SOFT_LIMIT * (1.0 + math.log(size / SOFT_LIMIT)), deviation)


class HistoryEncoder(NumberEncoder):
    """A number that the entity's history gives; encoded like any other."""

    kind = "history"

    @classmethod
    def fit_history(cls, feature: HistoryFeature, records: Records, rank_share: float) -> HistoryEncoder:
        """Fit on normal records.

        Raises:
            TrainingDataError: No record has a history that says anything of it.
        """
        column = records.history[feature.label]
        return cls._fit(feature.label, feature.of or "", column, feature.takes_log, rank_share)

    def values_in(self, records: Records) -> NDArray[np.float64]:
        """The numbers of records, (n,), NaN where missing."""
        return records.history[self.name]


def _unfold(values: NDArray[np.float64], *, log: bool) -> NDArray[np.float64]:
    """Values within the range that can be computed with, as signed logarithms where wanted."""
    bounded = _within(values, -LARGEST, LARGEST)
    return np.sign(bounded) * np.log1p(np.abs(bounded)) if log else bounded


class CategoryEncoder:
    """One of a set of values as indicators, each scaled by how rare it is.

    Columns: one for each value that is frequent among normal records, then rare, unseen, missing. The share of
    unseen values is taken to be that of values seen once.

    Source: Good, "The population frequencies of species and the estimation of population parameters",
        Biometrika 40, 1953 (the share of unseen values).
    """

    def __init__(
        self, name: str, field: str, *, values: list[str], rare: list[str], rates: NDArray[np.float64]
    ) -> None:
        self.name, self.field = name, field
        self.values, self.rare = values, rare
        self._rates = rates  # (width,)
        self.width = len(values) + 3
        self.indicators = slice(0, self.width)
        self._code: dict[str | None, int] = {value: code for code, value in enumerate(values)}
        self._code |= dict.fromkeys(rare, len(values)) | {None: self.width - 1}
        self._scale = np.sqrt(np.maximum(rates * (1 - rates), LEAST_VARIANCE))
        self._said = np.array([*values, RARE, None, None], object)  # by code

    @staticmethod
    def check(owner: str, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse a state that no category's encoder has.

        Raises:
            ValueError: It is none.
        """
        if not all(isinstance(value, str) for value in (*options["values"], *options["rare"])):
            raise ValueError(f"{owner}: its values are not all text: it is damaged")
        check_arrays(owner, arrays, {"rates": (np.float64, (len(options["values"]) + 3,))})

    @classmethod
    def fit(cls, feature: CategoryFeature, records: Records) -> CategoryEncoder:
        """Fit on normal records.

        Raises:
            TrainingDataError: The field is missing in every record.
        """
        column = records.categories[feature.field]
        known = column[column != None]  # noqa: E711 - elementwise
        if len(known) == 0:
            raise TrainingDataError(
                f"feature {feature.label!r} is missing in all {len(column)} normal records: "
                "nothing can be learned from it; remove it from the stream definition or mend the data"
            )
        found, counts = np.unique(known.astype(str), return_counts=True)
        order = np.lexsort((found, -counts))
        often = [i for i in order if counts[i] >= feature.min_count][: feature.max_values]
        rare = sorted(set(range(len(found))) - set(often))
        total = len(column)
        rates = [counts[i] / total for i in often]
        rates += [counts[rare].sum() / total, (counts == 1).sum() / total, 1 - len(known) / total]
        return cls(
            feature.label, feature.field, values=[str(found[i]) for i in often], rare=[str(found[i]) for i in rare],
            rates=np.array(rates),
        )  # fmt: skip

    def encode(self, records: Records, notes: Notes) -> NDArray[np.float64]:
        """Columns (n, width): indicators of each frequent value, rare, unseen, missing."""
        column = records.categories[self.field]
        unseen, missing = self.width - 2, self.width - 1
        codes = np.fromiter(map(self._code.get, column.tolist(), repeat(unseen)), np.int64, len(column))
        notes.codes[self.name] = codes
        notes.missing[self.name] = codes == missing
        notes.unseen[self.name] = codes == unseen
        return self._columns_of(codes)

    def _columns_of(self, codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Indicators (n, width) of codes (n,)."""
        encoded = np.tile(-self._rates / self._scale, (len(codes), 1))
        encoded[np.arange(len(codes)), codes] = ((1 - self._rates) / self._scale)[codes]
        return encoded

    def actual(self, records: Records, rows: NDArray[np.int64]) -> Values:
        """The values themselves, None where missing."""
        return records.categories[self.field][rows]

    def nearest(self, columns: NDArray[np.float64]) -> Possible:
        """The values whose indicators are highest; never `unseen`, and `(rare)` for any of the rare ones."""
        rates = columns * self._scale + self._rates
        rates[:, self.width - 2] = -np.inf  # what no normal record holds cannot be expected
        if not self.rare:
            rates[:, self.width - 3] = -np.inf
        codes = rates.argmax(axis=1)
        return Possible(self._said[codes], self._columns_of(codes))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that was fitted."""
        config = {"kind": "category", "name": self.name, "field": self.field, "values": self.values, "rare": self.rare}
        return config, {"rates": self._rates}


class CycleEncoder:
    """Hour of day or day of week on a circle, so that 23:59 is next to 00:00. Columns: cosine, sine, missing.

    Attributes:
        parts: Hours of a day, or days of a week.
        cycle_s: Length of the circle in seconds.
    """

    width = 3
    indicators = slice(2, 3)

    def __init__(self, name: str, field: str, *, part: str, zone: str, missing_rate: float) -> None:
        self.name, self.field = name, field
        self._part, self._zone = part, zone
        self._missing = _Flag(missing_rate)
        self.parts, self.cycle_s = (24, 86_400) if part == "hour" else (7, 604_800)
        clock = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(1440)]
        self._said = np.array(_WEEKDAYS if part == "weekday" else clock, object)  # by step

    @staticmethod
    def check(owner: str, options: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: ARG004 - has none
        """Refuse a state that no encoder of a cycle has.

        Raises:
            ValueError: It is none.
        """
        check_numbers(owner, {"missing_rate": options["missing_rate"]})
        if options["part"] not in ("hour", "weekday") or not isinstance(options["zone"], str):
            raise ValueError(f"{owner}: it is neither of an hour nor of a weekday: it is damaged")

    @classmethod
    def fit(cls, feature: TimeFeature, part: str, zone: str, records: Records) -> CycleEncoder:
        """Fit on normal records."""
        missing = np.isnat(records.times[feature.field])
        return cls(f"{feature.label}.{part}", feature.field, part=part, zone=zone, missing_rate=float(missing.mean()))

    def _turn(self, times: NDArray[np.datetime64]) -> NDArray[np.float64]:
        """Share of the cycle that has passed, (n,), in [0, 1)."""
        micros = to_local(times, self._zone).astype(np.int64)
        if self._part == "hour":
            return (micros % _DAY_US) / _DAY_US
        # 1 January 1970 was a Thursday.
        return ((micros // _DAY_US + 3) % 7) / 7.0

    def encode(self, records: Records, notes: Notes) -> NDArray[np.float64]:
        """Columns (n, 3): cosine and sine, 0 where missing, and the flag of a missing time."""
        times = records.times[self.field]
        missing = np.isnat(times)
        notes.missing[self.name] = missing
        turns = self._turn(np.where(missing, np.datetime64(0, "us"), times))
        # Rounding must not put the start of an hour into the one before; a ten-billionth of it is below a microsecond.
        notes.codes[self.name] = np.where(missing, self.parts, (turns * self.parts + 1e-10).astype(np.int64))
        return self._columns_of(turns, missing)

    def _columns_of(self, turns: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Columns (n, 3) of shares of the cycle (n,)."""
        angle = 2 * np.pi * turns
        present = np.where(missing, 0.0, np.sqrt(2.0))
        return np.stack([np.cos(angle) * present, np.sin(angle) * present, self._missing.encode(missing)], axis=1)

    def _say(self, turns: NDArray[np.float64], missing: NDArray[np.bool_]) -> Values:
        said = self._said[np.rint(turns * self._steps).astype(np.int64) % self._steps]
        said[missing] = None
        return said

    @property
    def _steps(self) -> int:
        """Days of the week, or minutes of the day."""
        return len(self._said)

    def actual(self, records: Records, rows: NDArray[np.int64]) -> Values:
        """Clock times or days of the week, None where missing."""
        times = records.times[self.field][rows]
        missing = np.isnat(times)
        turns = self._turn(np.where(missing, np.datetime64(0, "us"), times))
        return self._say(np.floor(turns * self._steps + 1e-6) / self._steps, missing)  # 23:59:45 is not yet 00:00

    def nearest(self, columns: NDArray[np.float64]) -> Possible:
        """The clock times or days that the angles point at."""
        turns = np.arctan2(columns[:, 1], columns[:, 0]) / (2 * np.pi) % 1.0
        turns = np.rint(turns * self._steps) % self._steps / self._steps
        missing = self._missing.holds(columns[:, 2])
        return Possible(self._say(turns, missing), self._columns_of(turns, missing))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """All that was fitted."""
        config = {
            "kind": "cycle", "name": self.name, "field": self.field, "part": self._part, "zone": self._zone,
            "missing_rate": self._missing.rate,
        }  # fmt: skip
        return config, {}


class Encoder:
    """All features of a stream as one matrix: columns of about zero mean and unit variance on normal records."""

    def __init__(self, features: list[FeatureEncoder]) -> None:
        self.features = features
        ends = np.cumsum([0, *(feature.width for feature in features)])
        self.slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self.width = int(ends[-1])

    @property
    def names(self) -> list[str]:
        """Names of the features, in the order of their columns."""
        return [feature.name for feature in self.features]

    @property
    def indicators(self) -> NDArray[np.bool_]:
        """Which columns are indicators, shape (d,)."""
        mask = np.zeros(self.width, np.bool_)
        for feature, columns in zip(self.features, self.slices, strict=True):
            mask[columns][feature.indicators] = True
        return mask

    @property
    def are_numbers(self) -> list[bool]:
        """Whether each feature is a number, with a rank and a standard score."""
        return [isinstance(feature, NumberEncoder) for feature in self.features]

    @classmethod
    def fit(cls, stream: StreamDefinition, records: Records, rank_share: float = RANK_SHARE) -> Encoder:
        """Fit every feature on normal records.

        Args:
            stream: What a record is.
            records: Normal records.
            rank_share: How much of an encoded number is the normal quantile of its rank, from 0 to 1; the rest is its
                standard score.

        Raises:
            TrainingDataError: There are no records, or a feature is missing in all of them.
        """
        if len(records) == 0:
            raise TrainingDataError(
                "no normal record is left to fit on: give data in which not every record is labelled anomalous"
            )
        features: list[FeatureEncoder] = []
        for feature in stream.feature:
            if isinstance(feature, NumberFeature):
                features.append(NumberEncoder.fit(feature, records, rank_share))
            elif isinstance(feature, CategoryFeature):
                features.append(CategoryEncoder.fit(feature, records))
            elif isinstance(feature, HistoryFeature):
                features.append(HistoryEncoder.fit_history(feature, records, rank_share))
            elif isinstance(feature, TimeFeature):
                written = stream.time_format(feature.field)
                zone = feature.zone or (written[1] if written else "UTC")
                features += [CycleEncoder.fit(feature, part, zone, records) for part in feature.parts]
        return cls(features)

    def encode(self, records: Records, notes: Notes | None = None) -> NDArray[np.float32]:
        """The matrix (n, d) of n records; each row depends on its record alone. `notes` takes what was noticed."""
        notes = notes or Notes()
        matrix = np.empty((len(records), self.width), np.float32)
        for feature, columns in zip(self.features, self.slices, strict=True):
            matrix[:, columns] = feature.encode(records, notes)
        return matrix

    def state(self) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """All that was fitted: a JSON list, one object a feature, and arrays by name."""
        configs: list[dict[str, Any]] = []
        arrays: dict[str, NDArray[Any]] = {}
        for position, feature in enumerate(self.features):
            config, own = feature.state()
            configs.append(config)
            arrays |= {f"encoder.{position}.{name}": array for name, array in own.items()}
        return configs, arrays

    @classmethod
    def restore(cls, configs: list[dict[str, Any]], arrays: Mapping[str, NDArray[Any]]) -> Encoder:
        """The encoder whose `state()` this is.

        Raises:
            KeyError: A part of the state is missing.
            ValueError: A part of it is not what it is used as.
        """
        kinds: dict[str, type[NumberEncoder | CategoryEncoder | CycleEncoder]] = {
            "number": NumberEncoder, "category": CategoryEncoder, "cycle": CycleEncoder, "history": HistoryEncoder,
        }  # fmt: skip
        features = []
        for position, config in enumerate(configs):
            prefix = f"encoder.{position}."
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            kind, name = kinds[config["kind"]], config["name"]
            options = {key: value for key, value in config.items() if key not in ("kind", "name", "field")}
            kind.check(f"the encoder of {name}", options, own)
            restored: Any = kind
            features.append(restored(name, config["field"], **options, **own))
        return cls(features)
