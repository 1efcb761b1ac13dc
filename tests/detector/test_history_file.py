"""The histories at the end of training: written beside an artifact, read back, begun with, and counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector import History, HistoryMismatch, HistoryState, Records, pack_state, read_state
from detector.artifact import write_files
from tests.payments import HISTORY_STREAM, decoded, message


def records(start: int, stop: int) -> Records:
    return decoded([message(number) for number in range(start, stop)], HISTORY_STREAM)


def history_of(some: Records) -> History:
    history = History.fit(HISTORY_STREAM, some)
    assert history is not None
    return history


def trained(history: History, some: Records) -> tuple[HistoryState, dict[str, list[str]]]:
    """The state after some records, and the ids of each card's last ones."""
    state = history.new_state()
    state.apply(history.fold(state, some)[1])
    assert some.keys is not None
    assert some.ids is not None
    assert some.event_times is not None
    ends: dict[str, tuple[np.datetime64, list[str]]] = {}
    for key, time, number in zip(some.keys.tolist(), some.event_times, some.ids.tolist(), strict=True):
        before = ends.get(key)
        ends[key] = (time, [number]) if before is None or time > before[0] else (before[0], [*before[1], number])
    return state, {key: ids for key, (_, ids) in ends.items()}


def test_who_begins_with_a_state_that_was_written_gives_the_features_of_who_never_stopped(tmp_path: Path) -> None:
    history = history_of(records(0, 300))
    state, ends = trained(history, records(0, 300))
    wanted, _ = history.fold(state, records(300, 500))

    base = read_state(history, write_files(pack_state(history, state, ends), tmp_path / "v.state"))
    found, _ = history.fold(history.new_state(base=base), records(300, 500))

    assert base is not None
    assert len(base) == 50
    assert {name: column.tobytes() for name, column in found.items()} == {
        name: column.tobytes() for name, column in wanted.items()
    }


def test_records_that_were_in_training_do_not_count_again_when_they_come(tmp_path: Path) -> None:
    history = history_of(records(0, 300))
    state, ends = trained(history, records(0, 300))
    wanted, _ = history.fold(state, records(300, 500))
    base = read_state(history, write_files(pack_state(history, state, ends), tmp_path / "v.state"))
    live = history.new_state(base=base)

    for start, stop in ((200, 260), (260, 320), (320, 500)):
        found, changes = history.fold(live, records(start, stop))
        live.apply(changes)

    assert {name: column.tobytes() for name, column in found.items()} == {
        name: column[20:].tobytes() for name, column in wanted.items()
    }


def test_a_record_at_the_very_end_of_training_counts_if_it_was_not_in_it(tmp_path: Path) -> None:
    history = history_of(records(0, 300))
    state, ends = trained(history, records(0, 300))
    base = read_state(history, write_files(pack_state(history, state, ends), tmp_path / "v.state"))
    at = "2026-03-01T12:59:00"  # of number 299, the last of card-49
    twin, again = (decoded([message(number, at=at, card__number="card-49")], HISTORY_STREAM) for number in (999, 299))

    _, counted = history.fold(history.new_state(base=base), twin)
    _, passed_over = history.fold(history.new_state(base=base), again)

    assert counted.rows.tobytes() != state.rows(state.find(["card-49"])).tobytes()
    assert passed_over.rows.tobytes() == state.rows(state.find(["card-49"])).tobytes()


def test_there_is_no_state_where_none_was_written(tmp_path: Path) -> None:
    assert read_state(history_of(records(0, 50)), tmp_path / "v.state") is None


@pytest.mark.parametrize("name", ["state.json", "blocks.msgpack", "ends.msgpack"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 40])
def test_a_damaged_state_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    history = history_of(records(0, 50))
    directory = write_files(pack_state(history, *trained(history, records(0, 50))), tmp_path / "v.state")
    (directory / name).write_bytes(content)

    with pytest.raises(HistoryMismatch):
        read_state(history, directory)


def test_a_state_of_another_history_is_refused(tmp_path: Path) -> None:
    history = history_of(records(0, 50))
    directory = write_files(pack_state(history, *trained(history, records(0, 50))), tmp_path / "v.state")

    with pytest.raises(HistoryMismatch, match="other priors"):
        read_state(history_of(records(0, 10)), directory)
