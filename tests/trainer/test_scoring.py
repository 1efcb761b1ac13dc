"""Files scored row by row: nothing lost, nothing reordered, nothing half written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detector import Detector, StreamDefinition
from tests.trainer import histories
from tests.trainer.conftest import STREAM_TOML, payments
from tests.trainer.payments import write_jsonl
from trainer.datasets import find_files, read_chunks
from trainer.errors import DataFileError, OutputError
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load
from trainer.scoring import score_files


@pytest.fixture(scope="module")
def detector(payments_dir: Path) -> Detector:
    stream = StreamDefinition.from_toml(STREAM_TOML)
    records = load([payments_dir / "payments.jsonl"], stream).records
    return fit_detector(records, stream, FitSettings(network="pca"))[0]


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of an output file of any format, missing cells as None."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        names = dict.fromkeys(name for row in rows for name in row)
        return [{name: row.get(name) for name in names} for row in rows]
    if path.suffix == ".csv":
        options = pa.csv.ConvertOptions(strings_can_be_null=True, timestamp_parsers=[])
        return list(pa.csv.read_csv(path, convert_options=options).to_pylist())
    return list(pq.read_table(path).to_pylist())


def write(directory: Path, lines: list[Any], name: str = "in.jsonl") -> Path:
    path = directory / name
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_every_row_is_in_the_output_in_its_order_with_its_verdict(tmp_path: Path, detector: Detector) -> None:
    rows = payments(40, seed=1)
    source = write(tmp_path, [*rows[:10], "not json", *rows[10:], {"id": "x", "at": "never"}])

    summary = score_files(detector, [source], tmp_path / "out.jsonl")
    written = read(tmp_path / "out.jsonl")

    assert [row["id"] for row in written] == [
        *(row["id"] for row in rows[:10]),
        None,
        *(r["id"] for r in rows[10:]),
        None,
    ]
    assert [(number, row["reason"]) for number, row in enumerate(written) if row["verdict"] == "reject"] == [
        (10, "not_json"),
        (41, "bad_time"),
    ]
    assert summary.rows == 42
    assert sum(summary.verdicts.values()) == 42
    assert summary.reasons == {"not_json": 1, "bad_time": 1}
    assert [example.line for example in summary.examples] == [11, 42]


def test_scores_and_verdicts_are_those_of_the_detector(tmp_path: Path, detector: Detector) -> None:
    source = write(tmp_path, payments(200, seed=1))
    (chunk,) = read_chunks([source], detector.stream)
    verdicts, _ = detector.judge(chunk.records)

    score_files(detector, [source], tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")

    np.testing.assert_array_equal(table["score"].to_numpy(), verdicts.scores)
    np.testing.assert_array_equal(table["score_ratio"].to_numpy(), verdicts.ratios)
    alerts = [row for row, verdict in enumerate(table["verdict"].to_pylist()) if verdict == "alert"]
    assert alerts == verdicts.anomalies.tolist()
    assert alerts, "the frauds of the test data should alert"


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_every_format_holds_the_same_bits(tmp_path: Path, detector: Detector, suffix: str) -> None:
    source = write(tmp_path, payments(50, seed=2))
    score_files(detector, [source], tmp_path / "reference.parquet")

    score_files(detector, [source], tmp_path / f"out.{suffix}")

    expected, written = read(tmp_path / "reference.parquet"), read(tmp_path / f"out.{suffix}")
    assert [row["score"] for row in written] == [row["score"] for row in expected]
    assert [row["verdict"] for row in written] == [row["verdict"] for row in expected]
    assert [str(row["id"]) for row in written] == [str(row["id"]) for row in expected]


def test_a_score_does_not_depend_on_where_chunks_end(tmp_path: Path, detector: Detector) -> None:
    rows = payments(300, seed=3)
    whole = write(tmp_path, rows, "whole.jsonl")
    parts = [write(tmp_path, rows[start : start + 7], f"part-{start:03}.jsonl") for start in range(0, 300, 7)]

    score_files(detector, [whole], tmp_path / "a.jsonl")
    score_files(detector, parts, tmp_path / "b.jsonl")

    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_whole_number_ids_of_parquet_stay_numbers(tmp_path: Path, detector: Detector) -> None:
    rows = [{**row, "id": number + 2**60} for number, row in enumerate(payments(20))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")

    score_files(detector, [tmp_path / "in.parquet"], tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table.schema.field("at").type == pa.timestamp("us", "UTC")


def test_ids_beyond_the_whole_numbers_of_the_output_are_written_as_text(tmp_path: Path, detector: Detector) -> None:
    table = pa.Table.from_pylist([{name: v for name, v in row.items() if name != "id"} for row in payments(20)])
    ids = pa.array([2**64 - 1 - number for number in range(20)], pa.uint64())
    pq.write_table(table.append_column("id", ids), tmp_path / "in.parquet")

    score_files(detector, [tmp_path / "in.parquet"], tmp_path / "out.parquet")

    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [str(number.as_py()) for number in ids]


def test_a_score_at_the_threshold_is_normal_in_a_file_as_in_the_worker(tmp_path: Path, detector: Detector) -> None:
    source = write(tmp_path, payments(50))
    scores = detector.score(load([source], detector.stream).records)
    threshold = dataclasses.replace(detector.threshold, value=float(np.sort(scores)[-3]))
    at = Detector(detector.stream, detector.encoder, detector.scorer, threshold, detector.normal_scores)

    summary = score_files(at, [source], tmp_path / "out.csv")

    assert summary.verdicts["alert"] == 2


def test_sensitive_fields_are_not_written(tmp_path: Path, detector: Detector) -> None:
    hidden = Detector(
        detector.stream.model_copy(update={"sensitive": ("card", "pin")}), detector.encoder, detector.scorer,
        detector.threshold, detector.normal_scores,
    )  # fmt: skip
    source = write(tmp_path, payments(5))

    score_files(hidden, [source], tmp_path / "out.csv")

    assert list(read(tmp_path / "out.csv")[0]) == ["id", "at", "score", "score_ratio", "verdict", "reason"]


def test_a_failure_leaves_the_old_output_and_nothing_else(tmp_path: Path, detector: Detector) -> None:
    good = write(tmp_path, payments(5), "1.jsonl")
    output = tmp_path / "out.jsonl"
    output.write_text("old")

    with pytest.raises(DataFileError):
        score_files(detector, [good, tmp_path / "2.jsonl"], output)

    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.jsonl", "out.jsonl"]


def test_an_input_is_never_written_over(tmp_path: Path, detector: Detector) -> None:
    source = write(tmp_path, payments(5))

    with pytest.raises(OutputError, match="is one of the inputs"):
        score_files(detector, find_files([tmp_path]), source)


def test_an_output_of_unknown_format_is_refused(tmp_path: Path, detector: Detector) -> None:
    with pytest.raises(OutputError, match=r"use one of \.parquet"):
        score_files(detector, [write(tmp_path, payments(5))], tmp_path / "out.xlsx")


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, detector: Detector) -> None:
    with pytest.raises(OutputError, match=r"nowhere/out\.csv: cannot be written"):
        score_files(detector, [write(tmp_path, payments(5))], tmp_path / "nowhere" / "out.csv")


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    file = write_jsonl(tmp_path_factory.mktemp("cards") / "x.jsonl", histories.rows(600))
    dataset = load([file], histories.STREAM)
    return fit_detector(dataset.records, histories.STREAM, FitSettings(network="pca"), history=dataset.history)[0]


def test_overlapping_files_are_scored_as_a_worker_would_that_read_them_merged_by_time(
    tmp_path: Path, remembering: Detector
) -> None:
    content = histories.rows(300)
    earlier = write_jsonl(tmp_path / "0.jsonl", content[:100])
    parts = [content[100:][part::3] for part in range(3)]
    files = [write_jsonl(tmp_path / f"{number}.jsonl", part) for number, part in enumerate(parts, start=1)]
    assert remembering.history is not None
    state = remembering.history.new_state()
    expected = {}
    for each in content:  # one record a batch
        verdicts, (changes,) = remembering.judge(histories.decoded([each]), [state])
        state.apply(changes)
        expected[each["id"]] = verdicts.scores[0]

    score_files(remembering, files, tmp_path / "out.parquet", earlier=[earlier])

    written = read(tmp_path / "out.parquet")
    assert [line["id"] for line in written] == [each["id"] for part in parts for each in part]
    assert [line["score"] for line in written] == [expected[line["id"]] for line in written]


def test_earlier_files_change_the_scores_of_what_follows(tmp_path: Path, remembering: Detector) -> None:
    content = histories.rows(200)
    earlier = write_jsonl(tmp_path / "0.jsonl", content[:150])
    file = write_jsonl(tmp_path / "1.jsonl", content[150:])

    score_files(remembering, [file], tmp_path / "with.parquet", earlier=[earlier])
    score_files(remembering, [file], tmp_path / "without.parquet")

    scores = [pq.read_table(tmp_path / name)["score"].to_numpy() for name in ("with.parquet", "without.parquet")]
    assert len(scores[0]) == len(scores[1]) == 50
    assert (scores[0] != scores[1]).any()


def test_an_earlier_file_is_never_written_over(tmp_path: Path, remembering: Detector) -> None:
    earlier = write_jsonl(tmp_path / "0.jsonl", histories.rows(5))
    file = write_jsonl(tmp_path / "1.jsonl", histories.rows(5, first=5))

    with pytest.raises(OutputError, match="is one of the inputs"):
        score_files(remembering, [file], earlier, earlier=[earlier])
