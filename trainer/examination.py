"""Looks at records before a fit: refuses what cannot work, and names what may surprise; it fits nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector import Records, StreamDefinition, TrainingDataError
from detector.stream import CategoryFeature, Feature, HistoryFeature, ImageFeature, TimeFeature
from trainer.evaluation import auroc

LEAKAGE_AUROC = 0.99
"""A feature that by itself ranks known anomalies better than this is taken for the answer rather than for evidence."""

LEAST_ANOMALIES = 5
"""Fewer known anomalies than this are told apart by some feature or other by chance."""

MOST_LOOKED_AT = 200_000
"""Normal records that are looked at; more say the same."""

_FEW_VALUES = 20
_MOSTLY_MISSING = 0.99


def examine(
    records: Records, normal: NDArray[np.int64], stream: StreamDefinition, *, allow_leakage: bool = False
) -> list[str]:
    """What a person should know of the features before a fit, one line each; never a value of a record.

    Args:
        records: All decoded records, with their history features where the stream has any.
        normal: Rows of the normal ones that are fitted on.
        stream: What a record is.
        allow_leakage: Remark on a feature that gives the label away, where it would be refused.

    Raises:
        TrainingDataError: Features are missing in all normal records, or all of them stand still, or some give the
            label away; names them and says what to do.
    """
    rows = normal[:: max(1, -(-len(normal) // MOST_LOOKED_AT))]
    known = {feature.label: _is_known(feature, records)[normal].mean() for feature in stream.feature}
    if absent := [label for label, share in known.items() if share == 0]:
        raise TrainingDataError(
            f"{_names(absent)} missing in all {len(normal)} normal records: nothing can be learned from "
            f"{'it' if len(absent) == 1 else 'them'}; mend the data, or remove {'it' if len(absent) == 1 else 'them'} "
            "from the stream definition"
        )
    still = [feature.label for feature in stream.feature if _stands_still(_column(feature, records)[normal])]
    if len(still) == len(stream.feature):
        raise TrainingDataError(
            f"every feature has the same value in all {len(normal)} normal records: nothing can be learned from them; "
            "choose features that vary, or give records of a longer time"
        )
    leaks = dict(_leaks(records, rows, stream))
    if leaks and not allow_leakage:
        told = " and ".join(f"{label!r} (AUROC {value:.4f})" for label, value in leaks.items())
        one = len(leaks) == 1
        raise TrainingDataError(
            f"feature{f' {told} by itself tells' if one else f's {told} each tell'} the labelled anomalies from normal "
            "records, as a field does that is filled in when the answer is known: on the stream it is empty then, and "
            "the quality measured here is its own; remove "
            f"{'it' if one else 'them'} from the stream definition, or where the value is known when a record is "
            "scored, allow it with --allow-leakage (from Python allow_leakage=True)"
        )
    remarks = [
        f"feature {label!r} by itself tells the labelled anomalies from normal records (AUROC {value:.4f}): the "
        "quality that is measured may be its own"
        for label, value in leaks.items()
    ]
    remarks += [
        f"feature {label!r} has one value in all normal records: it says something only where a record has another; "
        "remove it if other values are no news"
        for label in still
    ]
    remarks += [
        f"feature {label!r} is missing in {1 - share:.2%} of normal records: little is learned of its values"
        for label, share in known.items()
        if 1 - share > _MOSTLY_MISSING
    ]
    remarks += [
        f"features {first!r} and {second!r} are the same in all normal records: what they say counts twice; remove one "
        "unless it is news when they differ"
        for first, second in _duplicates(records, rows, stream, still)
    ]
    return remarks


def _names(labels: list[str]) -> str:
    """Features by name, with the verb that follows."""
    quoted = [repr(label) for label in labels]
    if len(quoted) == 1:
        return f"feature {quoted[0]} is"
    return f"features {', '.join(quoted[:-1])} and {quoted[-1]} are"


def _column(feature: Feature, records: Records) -> NDArray[Any]:
    """What the records hold of a feature, (n,)."""
    if isinstance(feature, HistoryFeature):
        return records.history[feature.label]
    if isinstance(feature, CategoryFeature):
        return records.categories[feature.field]
    if isinstance(feature, ImageFeature):
        raise TypeError("an image is no column")
    return records.times[feature.field] if isinstance(feature, TimeFeature) else records.numbers[feature.field]


def _is_known(feature: Feature, records: Records) -> NDArray[np.bool_]:
    """Which records have a value, (n,)."""
    column = _column(feature, records)
    if column.dtype == object:
        return np.array([value is not None for value in column], np.bool_)
    missing: NDArray[np.bool_] = np.isnat(column) if column.dtype.kind == "M" else np.isnan(column)
    return ~missing


def _stands_still(column: NDArray[Any]) -> bool:
    """Whether all values are one, a missing one included."""
    if column.dtype == object:
        return bool((column == column[0]).all())
    missing = np.isnat(column) if column.dtype.kind == "M" else np.isnan(column)
    return not missing.any() and bool((column == column[0]).all())


def _leaks(records: Records, normal: NDArray[np.int64], stream: StreamDefinition) -> Iterator[tuple[str, float]]:
    """Features that by themselves tell known anomalies from normal records, with how well."""
    if records.labels is None or int(records.labels.sum()) < LEAST_ANOMALIES:
        return
    anomalies = np.flatnonzero(records.labels)
    anomalies = anomalies[:: max(1, -(-len(anomalies) // MOST_LOOKED_AT))]
    rows = np.concatenate([normal, anomalies])
    anomalous = np.arange(len(rows)) >= len(normal)
    for feature in stream.feature:
        column, known = _column(feature, records)[rows], _is_known(feature, records)[rows]
        found = _best_auroc(column, known, anomalous)
        if found > LEAKAGE_AUROC:
            yield feature.label, found


def _best_auroc(column: NDArray[Any], known: NDArray[np.bool_], anomalous: NDArray[np.bool_]) -> float:
    """AUROC of the best of a few simple readings of a column: large, small, missing, or one of few values."""
    rankings: list[NDArray[np.floating]] = [known.astype(np.float64)]
    codes = None
    if column.dtype == object:
        codes = np.where(known, np.unique(np.where(known, column, "").astype(str), return_inverse=True)[1], -1)
    elif column.dtype.kind == "f":
        # Ranks, so that missing values can stand below and above all others.
        values, places = np.unique(np.where(known, column, 0.0), return_inverse=True)
        rankings += [np.where(known, places, beyond).astype(np.float64) for beyond in (-1, len(values))]
        codes = np.where(known, places, -1) if len(values) <= _FEW_VALUES else None
    found = [auroc(ranking, anomalous) for ranking in rankings]
    best = max(max(value, 1 - value) for value in found)
    return best if codes is None else max(best, _auroc_of_values(codes, anomalous))


def _auroc_of_values(codes: NDArray[np.int64], anomalous: NDArray[np.bool_]) -> float:
    """AUROC of how often a value is anomalous, learned from every second record and measured on the others.

    Measured on the same records, a value that occurs once would tell them all apart.
    """
    taught = np.zeros(len(codes), np.bool_)
    for group in (np.flatnonzero(anomalous), np.flatnonzero(~anomalous)):
        taught[group[::2]] = True
    size = int(codes.max()) + 2
    counts = np.bincount(codes[taught] + 1, minlength=size)
    odd = np.bincount(codes[taught & anomalous] + 1, minlength=size)
    base = odd.sum() / counts.sum()
    rates = np.where(counts > 0, odd / np.maximum(counts, 1), base)
    return auroc(rates[codes[~taught] + 1], anomalous[~taught])


def _duplicates(
    records: Records, rows: NDArray[np.int64], stream: StreamDefinition, still: list[str]
) -> Iterator[tuple[str, str]]:
    """Pairs of features, the first and another, of which all records hold the same."""
    first: dict[bytes, str] = {}
    for feature in stream.feature:
        if feature.label in still:
            continue
        column = _column(feature, records)[rows]
        content = repr(column.tolist()).encode() if column.dtype == object else np.ascontiguousarray(column).tobytes()
        digest = hashlib.sha256(column.dtype.kind.encode() + content).digest()
        if digest in first:
            yield first[digest], feature.label
        else:
            first[digest] = feature.label
