"""Which blocks are written when: new ones first, each once in a rotation, never too many at once."""

from __future__ import annotations

from collections import Counter

from worker.state_topic import Rotation


def test_blocks_that_were_never_written_are_due_until_they_are() -> None:
    rotation = Rotation(300)

    assert rotation.due(3, 0.0) == [0, 1, 2]
    assert rotation.due(4, 1.0) == [0, 1, 2, 3]
    rotation.wrote([0, 1, 2, 3])
    assert rotation.due(4, 2.0) == []
    assert rotation.due(5, 3.0) == [4]


def test_every_block_is_written_once_in_a_rotation() -> None:
    rotation = Rotation(100)
    rotation.wrote(rotation.due(20, 0.0))
    written: Counter[int] = Counter()

    for second in range(1, 301):
        due = rotation.due(20, float(second))
        rotation.wrote(due)
        written.update(due)

    assert set(written.values()) == {3}
    assert len(written) == 20


def test_no_more_than_some_blocks_are_written_at_once_however_long_nobody_looked() -> None:
    rotation = Rotation(10)
    written = 0
    for turn in range(20):
        due = rotation.due(1000, 1e6 * turn)
        rotation.wrote(due)
        assert len(due) <= 64
        written = max([written, *(number + 1 for number in due)])

    assert written == 1000


def test_nothing_is_due_of_a_state_without_blocks() -> None:
    assert Rotation(10).due(0, 5.0) == []
