"""Data that cannot work is refused by the name of the feature, and what may surprise is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from detector import Decoder, Messages, Records, StreamDefinition, TrainingDataError, stream_of_matrix
from detector.tables import records_of_matrix
from trainer.examination import examine

STREAM = StreamDefinition.from_toml("""
name = "visits"
[label]
field = "odd"
[[feature]]
kind = "number"
field = "size"
[[feature]]
kind = "category"
field = "page"
[[feature]]
kind = "time"
field = "left"
format = "epoch_s"
""")
DRAW = np.random.default_rng(0)


def visits(n: int = 200, odd: int = 20) -> list[dict[str, Any]]:
    """Visits of which the last ones are odd, in nothing that is a feature."""
    return [
        {
            "size": float(DRAW.normal()),
            "page": str(DRAW.choice(["a", "b", "c"])),
            "left": 1e9 + row,
            "odd": int(row >= n - odd),
        }
        for row in range(n)
    ]


def decoded(rows: Sequence[dict[str, Any]], stream: StreamDefinition = STREAM) -> Records:
    records, rejects = Decoder(stream).decode(Messages([json.dumps(row).encode() for row in rows]))
    assert not rejects
    return records


def examined(rows: Sequence[dict[str, Any]], *, allow_leakage: bool = False) -> list[str]:
    records = decoded(rows)
    assert records.labels is not None
    return examine(records, np.flatnonzero(~records.labels), STREAM, allow_leakage=allow_leakage)


def test_data_in_which_nothing_is_wrong_gets_no_remark() -> None:
    assert examined(visits()) == []


@pytest.mark.parametrize(
    ("leak", "feature"),
    [
        (lambda row: {"size": row["size"] + 20 * row["odd"]}, "size"),
        (lambda row: {"size": row["size"] - 20 * row["odd"]}, "size"),
        (lambda row: {"size": None if row["odd"] else row["size"]}, "size"),
        (lambda row: {"size": row["size"] if row["odd"] else None}, "size"),
        (lambda row: {"size": 1.0 if row["odd"] else float(DRAW.choice([0.0, 2.0]))}, "size"),
        (lambda row: {"page": "blocked" if row["odd"] else row["page"]}, "page"),
        (lambda row: {"page": row["page"] if row["odd"] else None}, "page"),
        (lambda row: {"left": row["left"] if row["odd"] else None}, "left"),
    ],
    ids=["large", "small", "missing", "present", "one of few", "a category", "any category", "a time at all"],
)
def test_a_feature_that_gives_the_label_away_is_refused_by_name_unless_it_is_allowed(leak: Any, feature: str) -> None:
    rows = [row | leak(row) for row in visits()]
    if feature == "left" or (feature == "size" and rows[0]["size"] is None) or rows[0]["page"] is None:
        rows[0] = visits()[0]  # missing in all normal records is refused for that

    with pytest.raises(TrainingDataError) as refused:
        examined(rows)

    assert f"feature {feature!r} (AUROC" in str(refused.value)
    assert "by itself tells the labelled anomalies" in str(refused.value)
    assert "--allow-leakage" in str(refused.value)
    assert any("the quality that is measured may be its own" in line for line in examined(rows, allow_leakage=True))


def test_a_feature_that_tells_most_anomalies_apart_is_evidence_and_no_leak() -> None:
    rows = [row | {"size": row["size"] + 2.5 * row["odd"]} for row in visits(600, 60)]  # AUROC .96

    assert examined(rows) == []


def test_a_category_that_differs_in_every_record_gives_no_label_away() -> None:
    rows = [row | {"page": f"page {number}"} for number, row in enumerate(visits())]

    assert examined(rows) == []


def test_a_handful_of_anomalies_proves_no_leak() -> None:
    rows = [row | {"size": row["size"] + 20 * row["odd"]} for row in visits(200, 4)]

    assert examined(rows) == []


def test_several_leaks_are_refused_together() -> None:
    rows = [row | {"size": 50.0 * row["odd"] + row["size"], "page": "xy"[row["odd"]]} for row in visits()]

    with pytest.raises(TrainingDataError, match=r"features 'size' \(AUROC 1.0000\) and 'page' \(AUROC 1.0000\) each"):
        examined(rows)


def test_features_that_are_missing_in_all_records_are_refused_together() -> None:
    rows = [row | {"left": None, "page": None} for row in visits()]

    with pytest.raises(TrainingDataError, match="features 'page' and 'left' are missing in all 180 normal records"):
        examined(rows)


def test_a_feature_that_only_anomalies_have_is_missing_in_all_normal_records() -> None:
    rows = [row | {"page": row["page"] if row["odd"] else None} for row in visits()]

    with pytest.raises(TrainingDataError, match="feature 'page' is missing in all 180 normal records"):
        examined(rows)


def test_features_that_all_stand_still_are_refused() -> None:
    rows = [row | {"size": 1.0, "page": "a", "left": 1e9} for row in visits(odd=0)]

    with pytest.raises(TrainingDataError, match="every feature has the same value in all 200 normal records"):
        examine(decoded(rows), np.arange(200), STREAM)


@pytest.mark.parametrize(
    ("still", "feature"), [({"size": 1.0}, "size"), ({"page": "a"}, "page"), ({"left": 1}, "left")]
)
def test_a_feature_that_stands_still_is_named(still: dict[str, Any], feature: str) -> None:
    (line,) = examined([row | still for row in visits()])

    assert line.startswith(f"feature {feature!r} has one value in all normal records: ")


def test_a_feature_that_is_there_or_missing_does_not_stand_still() -> None:
    rows = [row | {"size": 1.0 if number % 2 else None} for number, row in enumerate(visits())]

    assert examined(rows) == []


def test_a_feature_that_hardly_any_record_has_is_named() -> None:
    rows = [row | {"size": row["size"] if number < 1 else None} for number, row in enumerate(visits(odd=0))]

    (line,) = examine(decoded(rows), np.arange(200), STREAM)

    assert line.startswith("feature 'size' is missing in 99.50% of normal records")


def test_features_that_are_the_same_are_named_in_pairs() -> None:
    matrix = DRAW.normal(size=(100, 4))
    matrix[:, 3] = matrix[:, 1]
    stream = stream_of_matrix(4)

    (line,) = examine(records_of_matrix(stream, matrix), np.arange(100), stream)

    assert line.startswith("features 'x1' and 'x3' are the same in all normal records")


def test_no_remark_repeats_a_value() -> None:
    rows = [row | {"page": "secret", "size": 123456.0 if row["odd"] else 1.0} for row in visits()]

    said = " ".join(examined(rows, allow_leakage=True))

    assert "secret" not in said
    assert "123456" not in said
    assert len(said) > 100
