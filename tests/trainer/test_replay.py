"""Files as one stream: what precedes a record is a matter of time, not of files, chunks or the order of reading."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.histories import STREAM, decoded, features_of, row, rows
from tests.trainer.payments import write_jsonl
from trainer.errors import DataFileError
from trainer.replay import Stretch, merged, read_with_history, remember

Minutes = st.lists(st.one_of(st.none(), st.integers(0, 12)), max_size=9)


def ids_of(stretches: list[Stretch]) -> list[str]:
    return [name for stretch in stretches if stretch.records.ids is not None for name in stretch.records.ids]


@given(files=st.lists(Minutes, min_size=1, max_size=4), chunk_records=st.integers(1, 10))
def test_files_are_one_stream_in_order_of_time_and_each_keeps_its_own_order(
    files: list[list[int | None]], chunk_records: int
) -> None:
    """None is a line that is no record."""
    expected = []
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for source, minutes in enumerate(files):
            names = [f"{source}-{position}" for position in range(len(minutes))]
            content = ["oops" if m is None else row(0, m, id=i) for i, m in zip(names, minutes, strict=True)]
            paths.append(write_jsonl(Path(folder) / f"{source}.jsonl", content))
            newest = -1
            for position, minute in enumerate(minutes):
                if minute is not None:
                    newest = max(newest, minute)
                    expected.append((newest, source, position))

        stretches = list(merged(paths, STREAM, chunk_records))

    assert ids_of(stretches) == [f"{source}-{position}" for _, source, position in sorted(expected)]
    opened = [len(part.chunk) for stretch in stretches for part in stretch.parts if part.opens]
    assert sum(opened) == sum(map(len, files))
    times = np.concatenate([stretch.times_us for stretch in stretches]) if stretches else np.empty(0)
    assert (np.diff(times) >= 0).all()


def test_files_that_follow_one_another_are_not_in_memory_together(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / f"{day}.jsonl", rows(40, first=40 * day)) for day in range(6)]

    stretches = list(merged(files, STREAM, chunk_records=10))

    assert max(len({part.source for part in stretch.parts}) for stretch in stretches) == 1
    assert max(len(stretch.records) for stretch in stretches) == 10


def test_overlapping_files_come_back_one_after_the_other_with_the_history_of_all(tmp_path: Path) -> None:
    content = rows(300)
    before, parts = content[:60], [content[60 + part :: 3] for part in range(3)]
    earlier = [write_jsonl(tmp_path / "earlier.jsonl", before[1::2]), write_jsonl(tmp_path / "more.jsonl", before[::2])]
    files = [write_jsonl(tmp_path / f"{number}.jsonl", ["oops", *part]) for number, part in enumerate(parts)]

    chunks = list(read_with_history(files, STREAM, earlier=earlier))

    expected = features_of(content)
    assert [chunk.origin for chunk in chunks] == files
    for chunk, part in zip(chunks, parts, strict=True):
        assert [reject.row for reject in chunk.rejects] == [0]
        assert chunk.records.ids is not None
        assert chunk.records.ids.tolist() == [each["id"] for each in part]
        for name, column in chunk.records.history.items():
            assert column.tobytes() == b"".join(expected[each["id"]][name].tobytes() for each in part)


def test_a_record_without_a_key_has_no_history(tmp_path: Path) -> None:
    content = [*rows(50), row(50, 2000, card=None), row(51, 2001, card="c3")]

    (chunk,) = read_with_history([write_jsonl(tmp_path / "x.jsonl", content)], STREAM)

    ends = {name: column[-2:].tolist() for name, column in chunk.records.history.items()}
    assert all(np.isnan(without) and not np.isnan(known) for without, known in ends.values())


def test_earlier_files_are_refused_where_they_are_data_as_well_or_change_nothing(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "x.jsonl", rows(5))
    plain = STREAM.model_copy(update={"feature": STREAM.field_features})

    with pytest.raises(DataFileError, match=r"x\.jsonl: is among the data and among the earlier files"):
        list(read_with_history([file], STREAM, earlier=[tmp_path / "." / "x.jsonl"]))
    with pytest.raises(DataFileError, match="earlier records would change nothing"):
        list(read_with_history([file], plain, earlier=[file]))


def test_a_table_is_remembered_in_order_of_time_whatever_its_own_order() -> None:
    content = rows(200)
    shuffled = [content[position] for position in np.random.default_rng(0).permutation(200)]

    records, _ = remember(decoded(shuffled), STREAM)

    expected = features_of(content)
    for name, column in records.history.items():
        assert column.tobytes() == b"".join(expected[each["id"]][name].tobytes() for each in shuffled)


def test_files_without_a_record_are_read_to_their_end(tmp_path: Path) -> None:
    files = [write_jsonl(tmp_path / "a.jsonl", ["oops"] * 3), write_jsonl(tmp_path / "b.jsonl", [])]

    chunks = list(read_with_history(files, STREAM))

    assert [(len(chunk), len(chunk.records)) for chunk in chunks] == [(3, 0)]
