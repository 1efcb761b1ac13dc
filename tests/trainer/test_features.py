"""History features as a table: every row of the input, what its entity did before, nothing that is sensitive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detector import History, StreamDefinition
from detector.stream import HistoryFeature
from tests.trainer.histories import STREAM, decoded, features_of, rows
from tests.trainer.payments import write_jsonl
from trainer.errors import DataFileError
from trainer.features import feature_files, hidden_features

NAMES = [feature.label for feature in STREAM.history_features]


def changed(**changes: Any) -> StreamDefinition:
    return StreamDefinition.model_validate({**STREAM.model_dump(), **changes})


def test_every_row_has_its_features_or_the_reason_why_not(tmp_path: Path) -> None:
    content = rows(120)
    file = write_jsonl(tmp_path / "x.jsonl", [*content[:10], "oops", *content[10:]])

    summary = feature_files(STREAM, None, [file], tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    expected = features_of(content)
    assert table.column_names == ["id", "card", "at", *NAMES, "reason"]
    assert table["id"].to_pylist() == [*(each["id"] for each in content[:10]), None, *(e["id"] for e in content[10:])]
    assert [(n, why) for n, why in enumerate(table["reason"].to_pylist()) if why] == [(10, "not_json")]
    assert (summary.rows, dict(summary.reasons)) == (121, {"not_json": 1})
    for name in NAMES:
        found = dict(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))
        for each in content:
            value = float(expected[each["id"]][name][0])
            assert found[each["id"]] == (None if np.isnan(value) else value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_every_format_holds_the_same_numbers(tmp_path: Path, suffix: str) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", rows(60))
    feature_files(STREAM, None, [file], tmp_path / "reference.parquet")

    feature_files(STREAM, None, [file], tmp_path / f"out.{suffix}")

    expected = pq.read_table(tmp_path / "reference.parquet", columns=NAMES).to_pylist()
    if suffix == "csv":
        written = pa.csv.read_csv(tmp_path / "out.csv").select(NAMES).to_pylist()
    else:
        lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        written = [{name: line.get(name) for name in NAMES} for line in lines]
    assert written == expected


def test_a_fitted_history_and_earlier_files_give_what_the_whole_stream_gives(tmp_path: Path) -> None:
    content = rows(200)
    history = History.fit(STREAM, decoded(content[:50]))
    earlier, file = write_jsonl(tmp_path / "0.jsonl", content[:150]), write_jsonl(tmp_path / "1.jsonl", content[150:])

    feature_files(STREAM, history, [file], tmp_path / "out.parquet", earlier=[earlier])

    expected = features_of(content, history)
    table = pq.read_table(tmp_path / "out.parquet")
    for name in NAMES:
        assert table[name].to_pylist() == [float(expected[each["id"]][name][0]) for each in content[150:]]


def test_what_is_sensitive_is_not_written_nor_what_was_made_of_it(tmp_path: Path) -> None:
    stream = changed(sensitive=["amount", "card"])

    feature_files(stream, None, [write_jsonl(tmp_path / "x.jsonl", rows(40))], tmp_path / "out.parquet")

    written = pq.read_table(tmp_path / "out.parquet").column_names
    assert written == ["id", "at", "count.1d", "since_last", "reason"]
    assert hidden_features(stream) == ["amount.mean.2d", "amount.robust_ratio"]


def test_a_stream_without_history_features_is_refused(tmp_path: Path) -> None:
    stream = STREAM.model_copy(update={"feature": STREAM.field_features})

    with pytest.raises(DataFileError, match="no history feature that may be shown"):
        feature_files(stream, None, [write_jsonl(tmp_path / "x.jsonl", rows(5))], tmp_path / "out.parquet")


def test_names_that_meet_are_told_apart(tmp_path: Path) -> None:
    named = [
        feature.model_copy(update={"name": {"count": "reason", "since_last": "id"}.get(feature.statistic, "")})
        if isinstance(feature, HistoryFeature)
        else feature
        for feature in STREAM.feature
    ]

    feature_files(
        STREAM.model_copy(update={"feature": tuple(named)}), None, [write_jsonl(tmp_path / "x.jsonl", rows(40))],
        tmp_path / "out.parquet",
    )  # fmt: skip

    written = pq.read_table(tmp_path / "out.parquet").column_names
    assert written == [
        "id_field",
        "card",
        "at",
        "reason_feature",
        "amount.mean.2d",
        "amount.robust_ratio",
        "id",
        "reason",
    ]
