"""What is remembered of one entity, and where: history features as one row of fixed size; it computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.stream import OF_NUMBERS, OF_VALUES, HistoryFeature, StreamDefinition

_Item = TypeVar("_Item")

SLOTS = 8
"""Buckets of a window: seven of a seventh of its width, and the one that is being left. A power of two."""

BLOOM_WORDS = 4
"""64-bit words of a memory of seen values: two generations of 128 bits each."""

NEVER = np.iinfo(np.int64).min
"""The time of an entity's last record where it has none."""

COUNT, SUM, SQUARES, LOWEST, HIGHEST, EXCESS = range(6)
"""What a channel adds up in the buckets of a window."""

STATISTICS = (
    "count", "sum", "mean", "min", "max", "deviation", "ratio", "z", "distinct", "first_time", "excess",
    "robust_mean", "robust_deviation", "robust_ratio", "robust_z", "since_last", "hour_deviation",
)  # fmt: skip
"""Codes of the statistics: their places here. Never reorder: states of running workers would be read wrongly."""

_CHANNELS: dict[str, tuple[int, ...]] = {
    "count": (COUNT,), "sum": (COUNT, SUM), "mean": (COUNT, SUM), "ratio": (COUNT, SUM),
    "deviation": (COUNT, SUM, SQUARES), "z": (COUNT, SUM, SQUARES),
    "min": (LOWEST,), "max": (HIGHEST,), "excess": (EXCESS,),
}  # fmt: skip


@dataclass(frozen=True)
class Prior:
    """What is expected of a number before an entity has said anything of its own.

    Attributes:
        mean: Mean over all records, extreme ones drawn in.
        deviation: Standard deviation of the same.
    """

    mean: float
    deviation: float


@dataclass(frozen=True)
class Layout:
    """Where each thing lies. Columns are arrays, for the compiled fold.

    Attributes:
        numbers: Paths of the number fields that are looked at, v in all.
        values: Paths of the fields whose values are told apart, c in all.
        priors: Mean and deviation of each number, (v, 2).
        widths: Width of each window's buckets in microseconds (the window itself in exact mode), (w,).
        channels: Kind, number (-1 for none) and window of each channel of buckets, (k, 3).
        bitmaps: Field of values and window of each channel of bitmaps, (b, 2).
        running: Number (-1 for none) of each running sum over all records, (r,).
        robust: Number of each robust running mean, (q,).
        blooms: Field of values of each memory of seen values, (m,).
        features: Statistic, number or field, window, and places of up to three parts of each feature, (f, 7):
            the last column says whether the record itself counts.
        row: What is remembered of one entity.
    """

    names: tuple[str, ...]
    numbers: tuple[str, ...]
    values: tuple[str, ...]
    priors: NDArray[np.float64]
    widths: NDArray[np.int64]
    channels: NDArray[np.int64]
    bitmaps: NDArray[np.int64]
    running: NDArray[np.int64]
    robust: NDArray[np.int64]
    blooms: NDArray[np.int64]
    features: NDArray[np.int64]
    row: np.dtype[np.void]

    @property
    def empty_row(self) -> NDArray[np.void]:
        """A row of an entity without a record, shape (1,)."""
        row = np.zeros(1, self.row)
        row["last_us"] = NEVER
        return row


def layout_of(stream: StreamDefinition, priors: Mapping[str, Prior]) -> Layout:
    """The layout of a stream's history features; equal parts of several features are kept once."""
    features = stream.history_features
    exact = stream.history.mode == "exact"
    numbers = _distinct(feature.of for feature in features if _number_of(feature) is not None)
    values = _distinct(feature.of for feature in features if feature.statistic in OF_VALUES)
    windows = _distinct(feature.window_us for feature in features if feature.window_us is not None)
    always_there = {feature.field for feature in stream.field_features if feature.required}
    channels: list[tuple[int, int, int]] = []
    bitmaps: list[tuple[int, int]] = []
    running: list[int] = []
    robust: list[int] = []
    blooms: list[int] = []
    rows = []
    for feature in features:
        code = STATISTICS.index(feature.statistic)
        window = -1 if feature.window_us is None else windows.index(feature.window_us)
        number = -1 if (path := _number_of(feature)) is None else numbers.index(path)
        parts = [-1, -1, -1]
        if feature.statistic in OF_VALUES:
            number = values.index(str(feature.of))
            parts[0] = _place(blooms, number) if window < 0 else _place(bitmaps, (number, window))
        elif feature.statistic.startswith("robust_"):
            parts[0] = _place(robust, number)
        elif feature.statistic in _CHANNELS and window < 0:
            parts[0] = _place(running, number)
        elif feature.statistic in _CHANNELS:
            for position, kind in enumerate(_CHANNELS[feature.statistic]):
                counted = -1 if kind == COUNT and path in always_there else number
                parts[position] = _place(channels, (kind, counted, window))
            if feature.statistic == "excess":
                _place(robust, number)  # what an excess is measured by
        rows.append((code, number, window, *parts, int(feature.includes_self)))
    row = np.dtype(
        [
            ("last_us", "<i8"),
            ("running", "<f8", (len(running), 3)),
            ("robust", "<f8", (len(robust), 3)),
            ("buckets", "<f4", (0 if exact else len(channels), SLOTS)),
            ("hour", "<f4", (3 if any(feature.statistic == "hour_deviation" for feature in features) else 0,)),
            ("bitmaps", "<u8", (0 if exact else len(bitmaps), SLOTS)),
            ("blooms", "<u8", (len(blooms), BLOOM_WORDS)),
        ]
    )
    return Layout(
        names=tuple(feature.label for feature in features),
        numbers=tuple(numbers),
        values=tuple(values),
        priors=np.array([[priors[path].mean, priors[path].deviation] for path in numbers]).reshape(-1, 2),
        widths=np.array([width if exact else -(-width // (SLOTS - 1)) for width in windows], np.int64),
        channels=_table(channels, 3),
        bitmaps=_table(bitmaps, 2),
        running=np.array(running, np.int64),
        robust=np.array(robust, np.int64),
        blooms=np.array(blooms, np.int64),
        features=_table(rows, 7),
        row=row,
    )


def _number_of(feature: HistoryFeature) -> str | None:
    """The number field that a feature looks at, None where it looks at none."""
    return feature.of if feature.statistic in OF_NUMBERS or feature.statistic == "count" else None


def _distinct(items: Iterable[_Item | None]) -> list[_Item]:
    return [item for item in dict.fromkeys(items) if item is not None]


def _place(items: list[_Item], item: _Item) -> int:
    """Where an item stands in a list, at its end from now on where it was not in it."""
    if item not in items:
        items.append(item)
    return items.index(item)


def _table(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)
