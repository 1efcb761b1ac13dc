"""Codes as a table or a matrix: every row of the input, the codes of the detector, and nothing that is sensitive."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from detector import Detector, StreamDefinition
from tests.trainer import histories
from tests.trainer.conftest import STREAM_TOML, payments
from tests.trainer.payments import write_jsonl
from trainer.embedding import embed_files
from trainer.errors import OutputError
from trainer.fitting import FitSettings, fit_detector
from trainer.loading import load

ROWS = payments(40)


@cache
def detector(directory: Path, sensitive: str = '["pin"]') -> Detector:
    """A linear one, as its codes are known."""
    stream = StreamDefinition.from_toml(STREAM_TOML.replace('["pin"]', sensitive))
    return fit_detector(load([directory / "payments.jsonl"], stream).records, stream, FitSettings(network="pca"))[0]


def expected(judge: Detector, file: Path) -> np.ndarray:
    return judge.encode(load([file], judge.stream).records)


def test_every_row_has_its_code_or_the_reason_why_not(payments_dir: Path, tmp_path: Path) -> None:
    judge = detector(payments_dir)
    file = write_jsonl(tmp_path / "x.jsonl", [*ROWS[:10], "oops", *ROWS[10:]])

    summary = embed_files(judge, [file], tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    names = [f"code_{number}" for number in range(judge.scorer.network.code_width)]
    assert table.column_names == ["id", "card", "at", "is_fraud", *names, "reason"]
    codes = np.stack([table[name].to_numpy() for name in names], axis=1)
    assert np.isnan(codes[10]).all()
    assert np.array_equal(np.delete(codes, 10, axis=0), expected(judge, file))
    assert table["reason"].to_pylist() == [None] * 10 + ["not_json"] + [None] * 30
    assert table["is_fraud"].to_pylist() == [*(bool(r["is_fraud"]) for r in ROWS[:10]), None,
                                             *(bool(r["is_fraud"]) for r in ROWS[10:])]  # fmt: skip
    assert (summary.rows, dict(summary.reasons)) == (41, {"not_json": 1})


def test_a_matrix_of_codes_is_read_without_pickle(payments_dir: Path, tmp_path: Path) -> None:
    judge = detector(payments_dir)
    file = write_jsonl(tmp_path / "x.jsonl", [*ROWS, "oops"])

    embed_files(judge, [file], tmp_path / "out.npz")

    with np.load(tmp_path / "out.npz", allow_pickle=False) as found:
        assert sorted(found) == sorted(["id", "card", "at", "is_fraud", "codes", "reason"])
        assert found["codes"].dtype == np.float32
        assert np.array_equal(found["codes"][:-1], expected(judge, file))
        assert np.isnan(found["codes"][-1]).all()
        assert found["id"].tolist() == [*(row["id"] for row in ROWS), ""]
        assert found["at"][0] == np.datetime64("2024-05-01T00:00:00")
        assert found["is_fraud"][:-1].tolist() == [row["is_fraud"] for row in ROWS]
        assert np.isnan(found["is_fraud"][-1])


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_every_format_holds_the_same_numbers(payments_dir: Path, tmp_path: Path, suffix: str) -> None:
    judge = detector(payments_dir)
    file = write_jsonl(tmp_path / "x.jsonl", ROWS)

    embed_files(judge, [file], tmp_path / f"out.{suffix}")

    if suffix == "csv":
        table = pa.csv.read_csv(tmp_path / "out.csv")
        codes = np.stack([table[name].to_numpy() for name in table.column_names if name.startswith("code_")], axis=1)
    else:
        codes = np.load(tmp_path / "out.npz")["codes"]
    assert np.array_equal(codes.astype(np.float32), expected(judge, file))


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_what_is_sensitive_is_not_written(payments_dir: Path, tmp_path: Path, suffix: str) -> None:
    judge = detector(payments_dir, '["pin", "card", "is_fraud"]')

    embed_files(judge, [write_jsonl(tmp_path / "x.jsonl", ROWS)], tmp_path / f"out.{suffix}")

    out = tmp_path / f"out.{suffix}"
    names = pq.read_table(out).column_names if suffix == "parquet" else list(np.load(out))
    assert [name for name in names if not name.startswith("code")] == ["id", "at", "reason"]


def test_codes_of_a_stream_with_history_are_those_of_a_worker_that_read_it_all(tmp_path: Path) -> None:
    content = histories.rows(800)
    file = write_jsonl(tmp_path / "x.jsonl", content)
    dataset = load([file], histories.STREAM)
    judge = fit_detector(
        dataset.records, histories.STREAM, FitSettings(network="pca"), history=dataset.history
    )[0]  # fmt: skip
    earlier, later = write_jsonl(tmp_path / "0.jsonl", content[:500]), write_jsonl(tmp_path / "1.jsonl", content[500:])

    embed_files(judge, [later], tmp_path / "later.npz", earlier=[earlier])
    embed_files(judge, [file], tmp_path / "all.npz")

    assert np.array_equal(np.load(tmp_path / "later.npz")["codes"], np.load(tmp_path / "all.npz")["codes"][500:])


def test_a_suffix_that_says_no_format_is_refused(payments_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"use one of \.parquet, .*\.npz"):
        embed_files(detector(payments_dir), [write_jsonl(tmp_path / "x.jsonl", ROWS)], tmp_path / "out.pickle")
