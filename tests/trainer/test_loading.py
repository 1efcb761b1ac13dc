"""Records in memory: all that were read are accounted for, and a sample is one of the whole stream."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import Records, RejectReason
from tests.trainer.histories import STREAM, decoded, features_of, row, rows
from tests.trainer.payments import PAYMENTS, ROWS, write_jsonl
from trainer.errors import DataFileError
from trainer.loading import Dataset, UniformSample, bytes_per_record, load


def load_ids(path: Path, most: int, seed: int = 0) -> list[str]:
    ids = load([path], PAYMENTS, max_records=most, seed=seed).records.ids
    assert ids is not None
    return list(ids)


def test_loading_counts_what_was_read_kept_and_rejected(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [ROWS[0], "oops", {"id": "z"}, *["{}"] * 5, ROWS[2]])

    dataset: Dataset = load([path], PAYMENTS)

    assert dataset.rows_read == 9
    assert dataset.decoded == len(dataset.records) == 2
    assert dataset.rejected == {RejectReason.NOT_JSON: 1, RejectReason.MISSING_FIELD: 6}
    assert [(example.line, example.reason.value) for example in dataset.examples] == [
        (2, "not_json"),
        (3, "missing_field"),
        (4, "missing_field"),
        (5, "missing_field"),
    ]
    assert dataset.left_out_by_sampling == 0


def test_a_field_that_no_record_carries_is_reported(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"id": "a", "at": "2024-05-01", "amount": 1}])

    assert load([path], PAYMENTS).absent == ("card", "fraud", "shop.kind")


def test_data_without_one_record_of_the_stream_is_refused_with_the_first_reason(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", ["nothing", "here"])

    with pytest.raises(DataFileError, match=r"none of 2 rows is a record .*x\.jsonl:1"):
        load([path], PAYMENTS)


def test_a_sample_is_of_the_size_asked_for_in_order_and_repeatable(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{**ROWS[0], "id": f"{number:03}"} for number in range(300)])

    sample = load_ids(path, 50)

    assert len(sample) == 50
    assert sample == sorted(sample)
    assert sample == load_ids(path, 50)
    assert sample != load_ids(path, 50, seed=1)
    assert load([path], PAYMENTS, max_records=50).left_out_by_sampling == 250


def numbered(first: int, last: int) -> Records:
    n = last - first
    return Records(
        rows=np.arange(first, last),
        partition_index=np.zeros(n, np.int32),
        offsets=np.arange(first, last),
        timestamps_ms=np.zeros(n, np.int64),
        numbers={},
        categories={},
        times={},
    )


@given(st.lists(st.integers(0, 200), max_size=12), st.integers(1, 150))
def test_a_sample_does_not_depend_on_the_pieces_in_which_the_records_came(sizes: list[int], most: int) -> None:
    total = sum(sizes)
    whole, pieces = UniformSample(most, seed=3), UniformSample(most, seed=3)
    whole.add(numbered(0, total))
    ends = np.cumsum([0, *sizes])
    for first, last in itertools.pairwise(ends.tolist()):
        pieces.add(numbered(first, last))

    expected = whole.records()
    found = pieces.records()

    assert expected is not None
    assert len(expected) == min(most, total)
    assert ([] if found is None else found.rows.tolist()) == expected.rows.tolist()


def test_a_sample_is_uniform_over_the_whole_stream() -> None:
    sample = UniformSample(4_000, seed=0)
    for start in range(0, 400_000, 10_000):
        sample.add(numbered(start, start + 10_000))

    records = sample.records()

    assert records is not None
    assert len(records) == 4_000
    # Ten parts of 400 expected each; 5 standard deviations of a binomial are 95.
    counts = np.bincount(records.rows // 40_000, minlength=10)
    assert np.abs(counts - 400).max() < 95


def test_the_memory_of_a_sample_is_bounded_whatever_is_read() -> None:
    sample = UniformSample(10_000, seed=0)
    most_held = 0
    for start in range(0, 1_000_000, 20_000):
        sample.add(numbered(start, start + 20_000))
        most_held = max(most_held, sample._held)

    assert most_held <= 10_000 + 32_768 + 20_000


def test_bytes_per_record_counts_every_column() -> None:
    records = numbered(0, 10)  # rows 8, partition 4, offset 8, timestamp 8

    assert bytes_per_record(records) == 28


def ids_of(dataset: Dataset) -> list[str]:
    assert dataset.records.ids is not None
    return list(dataset.records.ids)


def test_the_first_longest_window_is_history_alone_and_counted(tmp_path: Path) -> None:
    content = rows(300)  # 72 a day

    dataset = load([write_jsonl(tmp_path / "x.jsonl", content)], STREAM)

    assert dataset.replayed == 144  # the longest window is two days
    assert ids_of(dataset) == [each["id"] for each in content[144:]]
    assert (dataset.decoded, dataset.left_out_by_sampling, dataset.is_short) == (300, 0, False)


def test_data_shorter_than_the_longest_window_are_used_whole_and_said_to_be_short(tmp_path: Path) -> None:
    content = rows(144)

    dataset = load([write_jsonl(tmp_path / "x.jsonl", content)], STREAM)

    assert ids_of(dataset) == [each["id"] for each in content]
    assert (dataset.replayed, dataset.is_short) == (0, True)


def test_earlier_files_are_history_alone_and_fill_the_first_window(tmp_path: Path) -> None:
    content = rows(300)
    earlier = [write_jsonl(tmp_path / "1.jsonl", content[:90]), write_jsonl(tmp_path / "2.jsonl", content[90:180])]

    dataset = load([write_jsonl(tmp_path / "3.jsonl", content[180:])], STREAM, earlier=earlier)

    expected = features_of(content)
    assert ids_of(dataset) == [each["id"] for each in content[180:]]
    assert dataset.replayed == 180
    for name, column in dataset.records.history.items():
        assert column.tobytes() == b"".join(expected[each["id"]][name].tobytes() for each in content[180:])


def test_what_the_sample_leaves_out_and_what_is_labelled_is_history_as_well(tmp_path: Path) -> None:
    content = [row(number, 20 * number, fraud=int(number % 9 == 0)) for number in range(400)]
    file = write_jsonl(tmp_path / "x.jsonl", content)

    dataset = load([file], STREAM, max_records=50)

    expected = features_of(content)
    assert len(dataset.records) == 50
    assert dataset.left_out_by_sampling == 400 - 144 - 50
    for name, column in dataset.records.history.items():
        assert column.tobytes() == b"".join(expected[number][name].tobytes() for number in ids_of(dataset))


def test_the_state_at_the_end_goes_on_where_the_files_ended(tmp_path: Path) -> None:
    content = rows(300)
    dataset = load([write_jsonl(tmp_path / "x.jsonl", content[:250])], STREAM)
    assert dataset.history is not None
    assert dataset.state is not None

    found, _ = dataset.history.fold(dataset.state, decoded(content[250:]))

    expected = features_of(content, dataset.history)
    for name, column in found.items():
        assert column.tobytes() == b"".join(expected[each["id"]][name].tobytes() for each in content[250:])


def test_data_whose_every_record_is_in_the_earlier_files_say_so(tmp_path: Path) -> None:
    earlier, data = write_jsonl(tmp_path / "1.jsonl", rows(50)), write_jsonl(tmp_path / "2.jsonl", ["oops"])

    with pytest.raises(DataFileError, match="all 50 records are history alone"):
        load([data], STREAM, earlier=[earlier])
