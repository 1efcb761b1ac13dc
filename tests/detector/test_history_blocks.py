from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector import (
    History,
    HistoryMismatch,
    HistoryState,
    StreamDefinition,
    count_blocks,
    entities_per_block,
    pack_block,
    unpack_block,
)
from detector.history_layout import Prior
from tests.detector.test_history import NOON, PRIORS, Row, contents, feature, history_of, records_of

FEATURES = [
    feature("count"), feature("sum", "x", "7d"), feature("robust_z", "x"), feature("excess", "x", "1d"),
    feature("distinct", "v", "1d"), feature("first_time", "v"), feature("hour_deviation"),
]  # fmt: skip
HISTORIES = {mode: history_of(FEATURES, mode=mode) for mode in ("buckets", "exact")}
MODES = pytest.mark.parametrize("mode", ["buckets", "exact"])


def fill(history: History, state: HistoryState, entities: int, t: int = NOON) -> HistoryState:
    rows = [Row(f"e{i}", t + i, float(i), None, f"v{i % 5}") for i in range(entities)]
    _, changes = history.fold(state, records_of(rows))
    state.apply(changes)
    return state


def filled(history: History, entities: int = 5) -> HistoryState:
    return fill(history, history.new_state(), entities)


# -- there and back ---------------------------------------------------------------------------------------------------


@MODES
def test_all_blocks_of_a_state_hold_every_entity_once(mode: str) -> None:
    history = HISTORIES[mode]
    state = filled(history, 3 * entities_per_block(history) + 1)

    numbers = range(count_blocks(history, state))
    blocks = [unpack_block(history, pack_block(history, state, number)) for number in numbers]

    assert len(blocks) == 4
    assert [(block.number, block.blocks) for block in blocks] == [(number, 4) for number in numbers]
    assert sorted(key for block in blocks for key in block.keys) == sorted(key for key, _ in state.items())


@MODES
def test_a_state_without_entities_has_no_blocks(mode: str) -> None:
    history = HISTORIES[mode]

    assert count_blocks(history, history.new_state()) == 0


@MODES
def test_places_that_became_free_are_left_out_of_a_block(mode: str) -> None:
    history = HISTORIES[mode]
    state = filled(history, 3)
    _, changes = history.fold(state, records_of([Row("late", NOON)]))
    undo = state.apply(changes)
    state.take_back(undo)

    block = unpack_block(history, pack_block(history, state, 0))

    assert sorted(block.keys) == ["e0", "e1", "e2"]
    assert len(block.rows) == 3


@MODES
def test_a_block_that_is_read_back_twice_changes_nothing_the_second_time(mode: str) -> None:
    history = HISTORIES[mode]
    state, read = filled(history), history.new_state()
    block = unpack_block(history, pack_block(history, state, 0))
    read.put(block.keys, block.rows, block.logs)
    fill(history, read, 5, NOON + 10**9)

    read.put(block.keys, block.rows, block.logs)

    assert contents(history, read) == contents(history, state)


@MODES
def test_a_state_that_was_read_back_can_go_on_and_its_block_stays_what_it_was(mode: str) -> None:
    history = HISTORIES[mode]
    content = pack_block(history, filled(history), 0)
    read = history.new_state()
    block = unpack_block(history, content)
    read.put(block.keys, block.rows, block.logs)

    fill(history, read, 5, NOON + 10**9)

    again = unpack_block(history, content)
    assert again.rows.tobytes() == block.rows.tobytes()


@MODES
def test_keys_of_every_script_come_back(mode: str) -> None:
    history = HISTORIES[mode]
    keys = ["ключ", "鍵", "🔑", " ", "\x00", '"', "k" * 4000]
    state = history.new_state()
    _, changes = history.fold(state, records_of([Row(key, NOON, 1.0) for key in keys]))
    state.apply(changes)

    block = unpack_block(history, pack_block(history, state, 0))

    assert block.keys == [key for key, _ in state.items()]
    assert block.keys[:6] == keys[:6]


@pytest.mark.parametrize("each", [[feature("since_last")], [feature("count")], [feature("count", None, "1d")],
                                  [feature("robust_mean", "x")], [feature("first_time", "v")]])  # fmt: skip
@MODES
def test_a_state_of_any_kind_of_feature_alone_comes_back(mode: str, each: list[dict[str, Any]]) -> None:
    history = history_of(each, mode=mode)
    state, read = filled(history), history.new_state()

    block = unpack_block(history, pack_block(history, state, 0))
    read.put(block.keys, block.rows, block.logs)

    assert contents(history, read) == contents(history, state)


def test_a_block_has_as_many_entities_for_a_state_of_any_size() -> None:
    history = HISTORIES["buckets"]

    assert 16 <= entities_per_block(history) <= 4096
    assert len(pack_block(history, filled(history, entities_per_block(history)), 0)) < 1_000_000


# -- refused ----------------------------------------------------------------------------------------------------------


@MODES
@given(place=st.integers(0, 10**6), mask=st.integers(1, 255))
@settings(deadline=None)
def test_a_block_with_one_damaged_byte_is_refused(mode: str, place: int, mask: int) -> None:
    history = HISTORIES[mode]
    content = bytearray(pack_block(history, filled(history), 0))
    content[place % len(content)] ^= mask

    with pytest.raises(HistoryMismatch):
        unpack_block(history, bytes(content))


@MODES
def test_a_block_that_was_cut_off_is_refused_wherever_it_was(mode: str) -> None:
    history = HISTORIES[mode]
    content = pack_block(history, filled(history, 2), 0)

    for length in range(0, len(content), 7):
        with pytest.raises(HistoryMismatch):
            unpack_block(history, content[:length])


@given(content=st.binary(max_size=200))
@settings(deadline=None)
def test_what_is_no_block_is_refused(content: bytes) -> None:
    with pytest.raises(HistoryMismatch):
        unpack_block(HISTORIES["buckets"], content)


def forged(history: History, **changes: Any) -> bytes:
    """A block with other content than its state's and a checksum that fits, as a program of another kind may write."""
    import zlib

    content = msgspec.msgpack.decode(pack_block(history, filled(history), 0)[4:])
    content.update(changes)
    packed = msgspec.msgpack.encode(content)
    return zlib.crc32(packed).to_bytes(4, "big") + packed


def test_a_forged_block_with_nothing_forged_is_a_block() -> None:
    assert len(unpack_block(HISTORIES["exact"], forged(HISTORIES["exact"])).keys) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": b"\0"}, {"rows": b""}, {"keys": ["a"]}, {"keys": [None] * 6}, {"keys": [1] * 5}, {"keys": None},
        {"number": "first"}, {"rows": 5},
    ],
)  # fmt: skip
@MODES
def test_a_block_whose_keys_and_rows_do_not_go_together_is_refused(mode: str, changes: dict[str, Any]) -> None:
    with pytest.raises(HistoryMismatch):
        unpack_block(HISTORIES[mode], forged(HISTORIES[mode], **changes))


@pytest.mark.parametrize(
    "logs",
    [
        [None], [[b"\0" * 7, b"", b"", b""]] * 5, [[b"\0" * 8, b"", b"", b""]] * 5,
        [[b"", b"\0" * 8, b"", b""]] * 5, [[b""]] * 5, [[b"", b"", b"", b""]] * 6, None,
    ],
)  # fmt: skip
def test_a_block_whose_logs_do_not_go_with_its_rows_is_refused(logs: Any) -> None:
    with pytest.raises(HistoryMismatch):
        unpack_block(HISTORIES["exact"], forged(HISTORIES["exact"], logs=logs))


def test_a_block_with_an_entity_twice_is_refused() -> None:
    with pytest.raises(HistoryMismatch):
        unpack_block(HISTORIES["buckets"], forged(HISTORIES["buckets"], keys=["a", "b", "c", "a", None]))


def test_a_block_of_another_mode_is_refused() -> None:
    with pytest.raises(HistoryMismatch, match="another history"):
        unpack_block(HISTORIES["buckets"], pack_block(HISTORIES["exact"], filled(HISTORIES["exact"]), 0))


# -- the fingerprint --------------------------------------------------------------------------------------------------

BASE: dict[str, Any] = {
    "name": "s", "key": "who", "time": {"field": "at"}, "history": {"mode": "buckets"},
    "feature": [
        {"kind": "number", "field": "x"},
        {"kind": "history", "statistic": "z", "of": "x", "window": "7d"},
        {"kind": "history", "statistic": "robust_mean", "of": "y"},
    ],
}  # fmt: skip


def stream(**changes: Any) -> StreamDefinition:
    return StreamDefinition.model_validate({**BASE, **changes})


def with_feature(place: int, **changes: Any) -> list[dict[str, Any]]:
    features = [dict(each) for each in BASE["feature"]]
    features[place].update(changes)
    return features


ORIGINAL = History(stream(), PRIORS)


@pytest.mark.parametrize(
    "changes",
    [
        {"feature": with_feature(1, window="8d")},
        {"feature": with_feature(1, statistic="ratio")},
        {"feature": with_feature(1, includes_self=True)},
        {"feature": with_feature(1, of="y", statistic="mean")},
        {"feature": BASE["feature"][:2]},
        {"feature": [BASE["feature"][0], *BASE["feature"][:0:-1]]},
        {"feature": with_feature(0, from_string=True)},
        {"history": {"mode": "exact"}},
        {"history": {"clip": 3.0}},
        {"history": {"max_age": "30d"}},
        {"key": "card"},
        {"time": {"field": "at", "zone": "Europe/Berlin"}},
        {"time": {"field": "at", "format": "epoch_s"}},
        {"time": {"field": "when"}},
        {"time": {"field": "at", "max_ahead": "2d"}},
    ],
    ids=str,
)
def test_a_history_that_remembers_otherwise_has_another_fingerprint(changes: dict[str, Any]) -> None:
    assert History(stream(**changes), PRIORS).fingerprint != ORIGINAL.fingerprint


@pytest.mark.parametrize(
    "prior", [Prior(12.0, 6.1), Prior(np.nextafter(12.0, 13.0), 6.0)], ids=["deviation", "last bit of the mean"]
)
def test_other_priors_have_another_fingerprint(prior: Prior) -> None:
    assert History(stream(), {**PRIORS, "x": prior}).fingerprint != ORIGINAL.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "t"},
        {"feature": with_feature(1, name="how odd", log=True)},
        {"feature": with_feature(2, log=False)},
        {"feature": with_feature(0, log=True, name="amount")},
        {"history": {"max_entities": 5}},
        {"threshold": {"false_alarm_rate": 0.5}},
        {"echo": ["x"]},
        {"sensitive": ["who"]},
        {"label": {"field": "fraud"}},
    ],
    ids=str,
)
def test_a_history_that_remembers_the_same_has_the_same_fingerprint(changes: dict[str, Any]) -> None:
    assert History(stream(**changes), PRIORS).fingerprint == ORIGINAL.fingerprint


def test_a_fingerprint_is_the_same_after_an_artifact_was_written_and_read() -> None:
    again = History.from_json(StreamDefinition.from_toml(ORIGINAL.stream.to_toml()), ORIGINAL.to_json())

    assert again.fingerprint == ORIGINAL.fingerprint


@MODES
def test_a_history_with_the_same_fingerprint_carries_on_to_the_last_bit(mode: str) -> None:
    first = HISTORIES[mode]
    renamed = first.stream.model_copy(
        update={
            "feature": tuple(each.model_copy(update={"name": f"n{i}"}) for i, each in enumerate(first.stream.feature))
        }
    )
    second = replace(first, stream=renamed)
    assert second.fingerprint == first.fingerprint
    state = filled(first)
    read = second.new_state()
    block = unpack_block(second, pack_block(first, state, 0))
    read.put(block.keys, block.rows, block.logs)
    more = records_of([Row(f"e{i}", NOON + 10**9, float(i), None, "new") for i in range(5)])

    expected, _ = first.fold(state, more)
    found, _ = second.fold(read, more)

    assert [column.tobytes() for column in found.values()] == [column.tobytes() for column in expected.values()]
