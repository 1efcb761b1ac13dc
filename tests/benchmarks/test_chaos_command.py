"""The fault harness's recording, and the results file that a stopped run goes on with."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import jobs_of, parser, read_rows, table, write_rows
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.recording import STREAM, key_of, kind_of, value_of
from benchmarks.chaos.runs import FIGURES, Result
from detector import Decoder, Messages, RejectReason


def result(**changes: object) -> Result:
    facts: dict[str, object] = {
        "fault": "worker_killed", "delivery": "at_least_once", "times": 2, "records": 100, "lost": 0, "duplicated": 3,
        "longest_gap_s": 1.5, "outcomes": {"normal": 100}, "moved_entities": 0, "restarts": 0, "seconds": 9.0,
        "violations": (),
    }  # fmt: skip
    return Result(**facts | changes)  # type: ignore[arg-type]


def test_a_recording_has_every_kind_of_record_and_of_poison() -> None:
    kinds = Counter(kind_of(number) for number in range(4000))

    _, rejects = Decoder(STREAM).decode(Messages([value_of(number) for number in range(4000)]))

    assert kinds["odd"] > 0.05 * 4000
    assert kinds["tombstone"] > 0
    assert len(rejects) == kinds["tombstone"] + kinds["poison"]
    assert len({each.reason for each in rejects}) == 9


def test_half_of_a_malformed_stretch_is_bytes_that_are_no_record() -> None:
    kinds = Counter(kind_of(number, malformed=True) for number in range(2000))
    malformed = [number for number in range(2000) if kind_of(number, malformed=True) == "malformed"]

    records, rejects = Decoder(STREAM).decode(Messages([value_of(number, malformed=True) for number in malformed]))

    assert 0.45 < kinds["malformed"] / 2000 < 0.55
    assert len(records) == 0
    assert all(each.reason is not RejectReason.TOMBSTONE for each in rejects)


def test_a_record_has_the_key_of_its_card() -> None:
    for number in range(200):
        if kind_of(number) in ("normal", "odd"):
            assert json.loads(value_of(number) or b"")["card"].encode() == key_of(number)


def test_a_stopped_run_goes_on_with_the_faults_that_are_missing(tmp_path: Path) -> None:
    file = tmp_path / "results" / "chaos.json"
    write_rows(file, [result().figures()])
    chosen = parser().parse_args(["--faults", "worker_killed,broker_killed", "--delivery", "at_least_once"])

    jobs = jobs_of(chosen, tmp_path, read_rows(file))

    assert [(job.fault, job.delivery) for job in jobs] == [("broker_killed", "at_least_once")]


def test_the_records_are_shared_out_among_the_faults(tmp_path: Path) -> None:
    chosen = parser().parse_args(["--records", "1000000", "--delivery", "at_least_once", "--times", "20"])

    jobs = jobs_of(chosen, tmp_path, [])

    assert [job.fault for job in jobs] == list(FAULTS)
    assert sum(job.records for job in jobs) >= 1_000_000
    assert {job.times for job in jobs} == {20}


def test_an_unknown_fault_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--faults earthquake: is no fault; there are worker_killed, "):
        jobs_of(parser().parse_args(["--faults", "earthquake"]), tmp_path, [])


def test_a_row_has_the_seven_figures_and_what_broke_where_something_did() -> None:
    assert tuple(result().figures()) == FIGURES
    assert result(violations=("lost: 1: ...",)).figures()["violations"] == ["lost: 1: ..."]


def test_the_results_file_is_a_list_of_rows(tmp_path: Path) -> None:
    rows = [result().figures(), result(fault="broker_killed").figures()]

    write_rows(tmp_path / "chaos.json", rows)

    assert json.loads((tmp_path / "chaos.json").read_text()) == rows
    assert table(rows).row_count == 2
