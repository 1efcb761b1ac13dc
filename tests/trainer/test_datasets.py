"""Files become records: every row once, in order, with the outcome that it would have as a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from detector import RejectReason, StreamDefinition
from detector.decode import Decoder
from detector.records import Records
from tests.trainer.payments import PAYMENTS, ROWS, write_jsonl
from trainer.datasets import Chunk, find_files, read_chunks
from trainer.errors import DataFileError


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def all_records(chunks: list[Chunk]) -> Records:
    return Records.concat([chunk.records for chunk in chunks])


FLAT = StreamDefinition.from_toml(PAYMENTS.to_toml().replace('"shop.kind"', '"kind"'))
CSV = """id,card,at,fraud,amount,note,kind
a,1,2024-05-01T10:00:00,0,5.5,"x, y",food
b,2,2024-05-01T11:00:00,1,,,
c,1,2024-05-01T12:00:00,0,7.25,"two
lines",fuel
"""


def test_all_formats_give_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    parts = [
        all_records(list(read_chunks([write_jsonl(tmp_path / "rows.jsonl", ROWS)], PAYMENTS))),
        all_records(list(read_chunks([write_parquet(tmp_path / "rows.parquet", ROWS)], PAYMENTS))),
        all_records(list(read_chunks([tmp_path / "rows.csv"], FLAT))),
    ]

    for records in parts:
        assert records.ids is not None
        assert records.keys is not None
        assert records.labels is not None
        assert records.event_times is not None
        assert records.rows.tolist() == [0, 1, 2]
        assert records.ids.tolist() == ["a", "b", "c"]
        assert records.keys.tolist() == ["1", "2", "1"]
        assert records.labels.tolist() == [False, True, False]
        np.testing.assert_array_equal(records.numbers["amount"], [5.5, np.nan, 7.25])
        assert next(iter(records.categories.values())).tolist() == ["food", None, "fuel"]
        assert records.event_times[2] == np.datetime64("2024-05-01T12:00:00")


def test_a_jsonl_line_has_the_outcome_of_a_message_value(tmp_path: Path) -> None:
    values = [json.dumps(ROWS[0]), "", "not json", "[1]", json.dumps({**ROWS[1], "amount": "12"}), json.dumps(ROWS[2])]
    path = write_jsonl(tmp_path / "rows.jsonl", values)

    class Batch:
        partition_index = np.zeros(6, np.int32)
        offsets = np.arange(6)
        timestamps_ms = np.zeros(6, np.int64)

        def __init__(self) -> None:
            self.values = [value.encode() for value in values]

    (chunk,) = read_chunks([path], PAYMENTS)
    records, rejects = Decoder(PAYMENTS).decode(Batch())

    assert chunk.rejects == rejects
    assert chunk.records.rows.tolist() == records.rows.tolist() == [0, 5]
    assert chunk.lines.tolist() == [1, 2, 3, 4, 5, 6]


def test_chunks_of_any_size_hold_every_row_once_and_in_order(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": str(number)} for number in range(25)]
    for path in (write_jsonl(tmp_path / "x.jsonl", rows), write_parquet(tmp_path / "x.parquet", rows)):
        chunks = list(read_chunks([path, path], PAYMENTS, chunk_records=7))

        assert [len(chunk) for chunk in chunks] == [7, 7, 7, 4] * 2
        assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [*range(1, 26)] * 2
        ids = all_records(chunks).ids
        assert ids is not None
        assert ids.tolist() == [str(number) for number in range(25)] * 2


def test_a_bad_csv_cell_rejects_its_row_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b"id,card,at,fraud,amount,kind\n"
        b"a,1,2024-05-01T10:00:00,0,5.5,food\n"
        b"b,1,2024-05-01T10:00:00,0,twelve,food\n"
        b"c,1,2024-05-01T10:00:00,0,inf,food\n"
        b"d,1,2024-05-01T10:00:00,0\n"
        b"e,1,yesterday,0,1,food\n"
        b",1,2024-05-01T10:00:00,0,1,food\n"
        b"g,1,2024-05-01T10:00:00,0,1,caf\xe9\n"
        b"h,1,2024-05-01T10:00:00,0, 1e3 ,food\n"
    )

    (chunk,) = read_chunks([path], FLAT)

    assert [(chunk.lines[reject.row], reject.reason, reject.field) for reject in chunk.rejects] == [
        (3, RejectReason.WRONG_TYPE, "amount"),
        (4, RejectReason.NOT_FINITE, "amount"),
        (5, RejectReason.NOT_AN_OBJECT, None),
        (6, RejectReason.BAD_TIME, "at"),
        (7, RejectReason.MISSING_FIELD, "id"),
        (8, RejectReason.NOT_UTF8, None),
    ]
    assert chunk.records.rows.tolist() == [0, 7]
    assert chunk.records.numbers["amount"].tolist() == [5.5, 1000.0]
    assert not any("twelve" in reject.message for reject in chunk.rejects)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("True", True), ("False", False), ("TRUE", True), ("true", True), ("5.0", 5.0), ("5", 5), ("-12.00", -12.0),
     ("-0.0", -0.0), ("5.0.0", "5.0.0"), ("007.0", "007.0"), ("v5.0", "v5.0"), ("1.50", "1.50"), ("Truely", "Truely")],
)  # fmt: skip
def test_text_in_csv_is_the_text_of_the_same_value_in_json(tmp_path: Path, cell: str, value: Any) -> None:
    row = {"id": value, "card": value, "kind": value, "at": "2024-05-01", "fraud": 0, "amount": 5.5}
    write_jsonl(tmp_path / "x.jsonl", [row])
    (tmp_path / "x.csv").write_text(f"{','.join(row)}\n{cell},{cell},{cell},2024-05-01,0,5.5\n")

    of_csv, of_json = (all_records(list(read_chunks([tmp_path / f"x.{kind}"], FLAT))) for kind in ("csv", "jsonl"))

    for found, expected in ((of_csv.ids, of_json.ids), (of_csv.keys, of_json.keys)):
        assert found is not None
        assert expected is not None
        assert found.tolist() == expected.tolist()
    assert of_csv.categories["kind"].tolist() == of_json.categories["kind"].tolist()


@pytest.mark.parametrize(
    ("cell", "anomalous", "expected"),
    [
        ("1", "[1, true]", True),
        ("1.0", "[1, true]", True),
        ("True", "[1, true]", True),
        ("0", "[1, true]", False),
        ("2", "[1, true]", False),
        ("true", "[1]", False),
        ("1", "[true]", False),
        ("fraud", '["fraud"]', True),
        ("normal", '["fraud"]', False),
        ("1", '["1"]', True),
    ],
)
def test_a_csv_label_is_read_as_the_scalar_that_it_looks_like(
    tmp_path: Path, cell: str, anomalous: str, *, expected: bool
) -> None:
    stream = StreamDefinition.from_toml(
        f'name = "x"\n[label]\nfield = "y"\nanomalous = {anomalous}\n[[feature]]\nkind = "number"\nfield = "a"\n'
    )
    (tmp_path / "x.csv").write_text(f"a,y\n1,{cell}\n")

    (chunk,) = read_chunks([tmp_path / "x.csv"], stream)

    assert chunk.records.labels is not None
    assert chunk.records.labels.tolist() == [expected]


def test_epoch_seconds_in_csv_are_times(tmp_path: Path) -> None:
    stream = StreamDefinition.from_toml(
        'name = "x"\n[time]\nfield = "t"\nformat = "epoch_s"\n[[feature]]\nkind = "number"\nfield = "a"\n'
    )
    (tmp_path / "x.csv").write_text("t;a\n1714557600;1\nsoon;1\n")

    (chunk,) = read_chunks([tmp_path / "x.csv"], stream)

    assert chunk.records.event_times is not None
    assert chunk.records.event_times.tolist() == [np.datetime64("2024-05-01T10:00:00", "us").item()]
    assert [reject.reason for reject in chunk.rejects] == [RejectReason.WRONG_TYPE]


def test_a_line_beyond_the_limit_is_rejected_without_being_read_whole(tmp_path: Path) -> None:
    stream = PAYMENTS.model_copy(update={"max_record_bytes": 200})
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0], {**ROWS[1], "blob": "x" * 5_000_000}, ROWS[2]])

    (chunk,) = read_chunks([path], stream)

    assert [(reject.row, reject.reason) for reject in chunk.rejects] == [(1, RejectReason.TOO_LARGE)]
    assert chunk.records.rows.tolist() == [0, 2]


def test_a_directory_is_read_by_name_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("2.jsonl", "1.jsonl", ".hidden.csv", "_SUCCESS"):
        write_jsonl(tmp_path / name, [])
    (tmp_path / "folder").mkdir()

    assert [file.name for file in find_files([tmp_path])] == ["1.jsonl", "2.jsonl"]


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["a.csv", "b.jsonl"], "mixes jsonl with csv"),
        (["a.csv", "b.txt"], r"b\.txt: the suffix '\.txt' says no format"),
        ([], "holds no data file"),
    ],
)
def test_a_directory_that_cannot_be_read_as_one_is_refused(tmp_path: Path, names: list[str], complaint: str) -> None:
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(DataFileError, match=complaint):
        find_files([tmp_path])


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"gone\.csv: no such file"):
        find_files([tmp_path / "gone.csv"])


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")

    with pytest.raises(DataFileError, match=r"x\.parquet: cannot be read"):
        list(read_chunks([tmp_path / "x.parquet"], PAYMENTS))


def test_a_table_without_a_field_of_the_stream_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,card,at,kind\n")

    with pytest.raises(DataFileError, match="has no column amount"):
        list(read_chunks([tmp_path / "x.csv"], FLAT))
